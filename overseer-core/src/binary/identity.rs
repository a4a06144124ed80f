//! Which file this is, and what its bytes hash to.

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::fs::File;
use std::io::{self, Read};

/// Tells one file from another without reading it. The time of the last status change is left out: a hard link changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size_bytes: u64,
    /// Nanoseconds since 1970; good until 2262.
    pub(crate) modified_ns: i64,
}

impl Identity {
    #[cfg(unix)]
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        }
    }

    /// Whether both are one inode, whatever was written to it since.
    pub(crate) fn same_inode(&self, other: &Identity) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}

/// The ID of a binary: the SHA-1 of its bytes, in hex. Reads the file from where it stands to its end.
///
/// # Errors
/// The file could not be read.
pub(crate) fn id_of(file: &mut File) -> io::Result<String> {
    let mut hash = Sha1::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(bytes) => hash.update(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
