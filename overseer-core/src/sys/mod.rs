//! Every system call, and all `unsafe` code of this crate.
//!
//! A descriptor is an `OwnedFd` or a `BorrowedFd` from the moment it exists, and close-on-exec until [`spawn`] hands it to a
//! child. What differs between systems stays in here: `linux.rs`, `freebsd.rs` and `macos.rs` have the same names.

pub(crate) mod activation;
#[cfg(not(target_os = "linux"))]
mod bsd;
pub(crate) mod connections;
mod exit;
pub(crate) mod files;
pub(crate) mod handover;
pub(crate) mod last_words;
pub(crate) mod link;
pub(crate) mod notify_socket;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod spawn;
#[cfg_attr(target_os = "freebsd", path = "freebsd.rs")]
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
mod system;

pub(crate) use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
pub(crate) use std::os::unix::net::{UnixListener, UnixStream};
