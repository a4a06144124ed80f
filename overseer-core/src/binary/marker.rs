//! The bytes that tell a program built with this crate from any other.
//!
//! A release without them is never executed: not a shell, not another program that was uploaded by mistake.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;

/// In every program that calls `run` or `Upgrade`, for ever the same: older programs look for it in newer ones. Not zero-terminated text alone,
/// so that a program which merely speaks of it does not have it.
#[used]
static MARKER: [u8; 48] = *b"\xB5overseer program\0\x8f\xd3\x1b\x62\xe7\x04\x99\xac\x5d\x30\xf8\x77\xc1\x2e\x0b\x96\xda\x41\x6f\xe5\x13\xb8\x7c\x02\xf6\x89\x3d\xd0\x54\xab";

/// The bytes of the marker.
#[cfg(all(test, feature = "unpack"))]
pub(crate) fn bytes() -> &'static [u8] {
    &MARKER
}

/// Makes the linker keep the marker: `run` and `Upgrade` call this.
pub(crate) fn keep() {
    black_box(&MARKER);
}

/// Whether the marker is anywhere in the file. Reads it in pieces, from its beginning.
pub(crate) fn is_in(file: &File) -> io::Result<bool> {
    let mut buffer = vec![0; 256 * 1024];
    let mut kept = 0;
    let mut place = 0;
    loop {
        let bytes = match file.read_at(&mut buffer[kept..], place) {
            Ok(0) => return Ok(false),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        place += bytes as u64;
        let filled = kept + bytes;
        if holds(&buffer[..filled], &MARKER) {
            return Ok(true);
        }
        // It may lie across two pieces.
        kept = filled.min(MARKER.len() - 1);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    let mut rest = haystack;
    while let Some(start) = rest.iter().position(|byte| *byte == needle[0]) {
        rest = &rest[start..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use std::fs;

    #[test]
    fn it_is_found_wherever_it_lies_and_not_when_a_byte_is_missing() {
        let directory = testing::directory();
        let path = directory.path().join("file");
        let piece = 256 * 1024;
        for place in [0, 1, piece - MARKER.len(), piece - 20, piece - 1, piece, 2 * piece - 60] {
            let mut bytes = vec![MARKER[0]; place];
            bytes.extend_from_slice(&MARKER);
            fs::write(&path, &bytes).expect("written");
            assert!(is_in(&File::open(&path).expect("opened")).expect("read"), "at {place}");
            bytes.pop();
            fs::write(&path, &bytes).expect("written");
            assert!(!is_in(&File::open(&path).expect("opened")).expect("read"), "without its last byte, at {place}");
        }
        fs::write(&path, "").expect("written");
        assert!(!is_in(&File::open(&path).expect("opened")).expect("read"));
    }
}
