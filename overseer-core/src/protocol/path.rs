//! A path in a message, for `#[serde(with)]`: its text, or its bytes where it is none. A Unix path need not be UTF-8, and a program at such a path is to run too.

use crate::sys::files::path_of;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::{Path, PathBuf};

pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => text.serialize(serializer),
        None => path.as_os_str().as_encoded_bytes().serialize(serializer),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bytes(Vec<u8>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Text(text) => text.into(),
        Either::Bytes(bytes) => path_of(bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_path_is_text_where_it_can_be_and_comes_back_in_any_case() {
        #[derive(Serialize, Deserialize)]
        struct Message(#[serde(with = "super")] PathBuf);
        let there_and_back = |bytes: &[u8]| {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let json = serde_json::to_string(&Message(path.clone())).expect("JSON");
            let Message(back) = serde_json::from_str(&json).expect("a message");
            assert_eq!(back, path);
            json
        };
        assert_eq!(there_and_back("/opt/äpp".as_bytes()), "\"/opt/äpp\"");
        assert_eq!(there_and_back(b""), "\"\"");
        assert_eq!(there_and_back(b"/\xff"), "[47,255]");
    }
}
