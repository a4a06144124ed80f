//! What tells one version of an object from another.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ServerSideEncryption;
use md5::{Digest, Md5};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The tag of an object: its ETag and, in a bucket with versions, its version.
pub(crate) fn tag(etag: &str, version_id: Option<&str>) -> String {
    match version_id {
        Some(version_id) => format!("etag: {etag}, version-id: {version_id}"),
        None => format!("etag: {etag}"),
    }
}

/// Whether an ETag stands for exactly these bytes, so that a request may be bound to it.
pub(crate) fn is_strong(etag: &str) -> bool {
    !etag.starts_with("W/")
}

/// The MD5 of an object, in lower-case digits, if its ETag is that: not for one made of parts (`...-3`), nor for one encrypted with
/// a key of one's own or of the key service.
pub(crate) fn plain_md5(head: &HeadObjectOutput) -> Option<String> {
    let is_encrypted = !matches!(head.server_side_encryption(), None | Some(ServerSideEncryption::Aes256))
        || head.sse_customer_algorithm().is_some()
        || head.ssekms_key_id().is_some();
    let etag = head.e_tag()?.trim_matches('"');
    let is_md5 = etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_md5 && !is_encrypted).then(|| etag.to_ascii_lowercase())
}

/// The MD5 of a file, in lower-case digits.
pub(crate) fn md5_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut md5 = Md5::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => md5.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "0123456789ABCDEF0123456789abcdef";

    fn head(etag: &str) -> aws_sdk_s3::operation::head_object::builders::HeadObjectOutputBuilder {
        HeadObjectOutput::builder().e_tag(etag)
    }

    #[test]
    fn only_the_etag_of_an_object_in_one_part_and_without_a_key_is_taken_for_an_md5() {
        let quoted = format!("\"{MD5}\"");
        let plain = Some(MD5.to_lowercase());
        assert_eq!(plain_md5(&head(&quoted).build()), plain);
        assert_eq!(plain_md5(&head(MD5).build()), plain);
        assert_eq!(plain_md5(&head(&quoted).server_side_encryption(ServerSideEncryption::Aes256).build()), plain);
        assert_eq!(plain_md5(&head(&quoted).server_side_encryption(ServerSideEncryption::AwsKms).build()), None);
        assert_eq!(plain_md5(&head(&quoted).server_side_encryption(ServerSideEncryption::AwsKmsDsse).build()), None);
        assert_eq!(plain_md5(&head(&quoted).sse_customer_algorithm("AES256").build()), None);
        assert_eq!(plain_md5(&head(&format!("\"{MD5}-3\"")).build()), None);
        assert_eq!(plain_md5(&head(&format!("W/{quoted}")).build()), None);
        assert_eq!(plain_md5(&head("\"x\"").build()), None);
        assert_eq!(plain_md5(&HeadObjectOutput::builder().build()), None);
    }

    #[test]
    fn the_md5_of_a_file_is_that_of_its_bytes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app");
        std::fs::write(&path, "abc").expect("a file");
        assert_eq!(md5_of(&path).expect("readable"), "900150983cd24fb0d6963f7d28e17f72");
    }
}
