//! The program's file: where it is, what it is called, and how a release takes its place.

pub(crate) mod check;
mod commit;
pub(crate) mod header;
mod identity;
pub(crate) mod marker;
mod place;
pub(crate) mod previous;
mod proof;
mod record;
mod signature;
pub(crate) mod staging;
mod state_dir;
#[cfg(test)]
pub(crate) mod testing;
mod unpack;

pub(crate) use commit::{commit, discard, take_back};
pub(crate) use identity::{Identity, id_of};
pub(crate) use marker::keep as keep_marker;
pub(crate) use place::Place;
pub(crate) use proof::{Demands, Hashes, Refusal, prove_contents};
pub(crate) use record::{Installed, Judged, Looks, Memo, Named, Probation, Record};
pub(crate) use signature::Signed;
pub(crate) use state_dir::{Lock, StateDir};
pub(crate) use unpack::{Packing, UnpackError, Wanted, unpack};

/// The bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
