//! The program's file: where it is, what it is called, and how a release takes its place.

pub(crate) mod candidate;
pub(crate) mod check;
mod commit;
mod demands;
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
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod testing;
mod unpack;

pub(crate) use commit::{commit, commit_to, discard, roll_back, take_back, why_no_roll_back};
pub(crate) use demands::{Demands, Refusal};
pub(crate) use identity::{Identity, hex, id_of};
pub(crate) use marker::keep as keep_marker;
pub(crate) use place::Place;
pub(crate) use proof::{Hashes, prove_contents};
#[cfg(test)]
pub(crate) use record::Noted;
pub(crate) use record::{Hold, Installed, Judged, KnownId, Looks, Memo, Named, Packaged, Probation, Record, unix_s};
pub(crate) use signature::Signed;
pub(crate) use state_dir::{Lock, StateDir, StateDirError};
pub(crate) use unpack::{Packing, UnpackError, Wanted, unpack};
