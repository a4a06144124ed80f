//! The program's file: where it is, what it is called, and how a release takes its place.

mod identity;
mod record;

pub(crate) use identity::{Identity, id_of};
pub(crate) use record::{Installed, Judged, KnownId, Looks, Memo, Noted, Probation, Record, VERDICTS_MAX};

/// The bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
