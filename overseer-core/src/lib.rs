//! Lets a server upgrade itself and restart without losing a connection.
//!
//! The program is handed to [`run`](run()), first thing in `main`. The process that was started becomes the *master*: it binds the listeners and keeps its
//! PID. The program runs in a *child* of it. For a restart or an upgrade the master starts the next *generation* beside the serving one, on the same
//! listeners; once that one serves, the old one finishes what is open and leaves. A release that cannot do so is given up, and the old
//! generation serves on.
//!
//! ```no_run
//! use overseer_core::{Config, File, State, run};
//! use std::io::Write;
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     run(Config::new(program).address(":3000").fetcher(File::new("/srv/releases/app")))
//! }
//!
//! /// Runs in a child, and returns when this generation is to leave.
//! fn program(state: State) -> std::io::Result<()> {
//!     for connection in state.listener().incoming() {
//!         // A client that hung up is no reason to end.
//!         let _ = writeln!(connection?, "hello from generation {}", state.generation());
//!     }
//!     Ok(())
//! }
//! ```
//!
//! SIGUSR2 to the master restarts that program; a new file at `/srv/releases/app` upgrades it.
//!
//! # What to read next
//!
//! - [`Config`]: every setting and its default. [`Address`]: what can be listened on.
//! - [`State`]: what the program gets. A server with threads uses [`Listener::incoming`]; a web server `hyper::serve`, one on tokio `Listener::to_tokio`, and one
//!   with an event loop `Listener::to_mio`, by the features of these names; one that accepts by itself takes [`Listener::to_tcp`], says [`State::ready`], and follows [`State::draining`].
//! - [`DatagramSocket`]: UDP and Unix datagrams, which two generations do not share: one follows the other.
//! - [`State::simulated`]: a program in a unit test, without a master.
//! - [`Fetcher`]: where releases come from. [`File`] and [`fetcher_fn`] are here; `overseer-fetcher-http` is a crate of its own.
//! - [`Upgrade`]: one look, proof and installation in the calling process, without a master: for command-line tools.
//! - [`Error`]: what keeps [`run`](run()) from running the program.
//!
//! # What a program should know
//!
//! - **`main` runs in every process**: in the master, in each child, in each look for a release and in each check of one. What comes before
//!   [`run`](run()) should have no effects, and must start no thread: that is an error in debug builds and a warning in release builds.
//! - **The program runs on the main thread** of its process and may start what it likes: threads, a runtime, a logger.
//! - **One thread of overseer**, called like that, runs beside the program from its first [`Listener::incoming`] or [`State::draining`] on; from the beginning where the
//!   process manager watches the service (`WatchdogSec=` of systemd), to answer for the process.
//! - **A program that follows a drain** returns from its accept loop by itself. One that uses neither [`Listener::incoming`] nor [`State::draining`]
//!   gets SIGTERM when it is to leave.
//! - **The environment variable `OVERSEER=off`** makes [`run`](run()) bind the addresses and call the program in this very process: for debuggers,
//!   profilers and `cargo run`. [`State::enabled`] is then false. Other values are commands for operators: `status`, `restart`, `rollback` and more. The process that runs
//!   with one of them gives it to the master, says what came of it, and ends.
//! - Lines of the master begin with `[overseer]`, on standard error. What core has to say in the program's own process goes to the `log` crate, with the target
//!   `overseer::child`, or `overseer::poll` in a look for a release.
//!
//! Linux is supported; FreeBSD and macOS by design, as our checks compile it for them and do not run it; on Windows the program runs alone. See [`is_supported`].
//!
//! # Features
//!
//! - `unpack` (default): releases published as `.gz`, `.zst`, `.tar`, `.tar.gz` (`.tgz`), `.tar.zst` or `.zip` are unpacked, in a few MiB of memory whatever their
//!   size. Without it they are rejected.
//! - `tokio`: `Listener::to_tokio`, for programs that accept on tokio; and `AsyncFetcher`, for fetchers written with `async`, whose runtime belongs to core and
//!   lives for one look.
//! - `hyper`: `hyper::serve`, an HTTP/1.1 and HTTP/2 server for any tower service, which drains without failing a request.
//! - `mio`: `Listener::to_mio`, and [`Draining`] as a source of events, for programs with an event loop of their own.
//! - `conformance`: the test suite for fetchers. For `[dev-dependencies]`.

// On Windows a program runs alone, and most of what is here has nothing to do.
#![cfg_attr(not(unix), allow(dead_code, unreachable_code, unused_imports))]

#[cfg(all(unix, not(any(target_os = "freebsd", target_os = "linux", target_os = "macos"))))]
compile_error!("overseer-core does not know this system: of the Unix ones it knows Linux, FreeBSD and macOS");

#[cfg(unix)]
mod activation;
mod address;
#[cfg_attr(not(unix), path = "binary/alone.rs")]
mod binary;
mod child;
#[cfg(unix)]
mod command;
mod config;
#[cfg(all(unix, feature = "conformance"))]
pub mod conformance;
mod datagram;
mod error;
mod fetcher;
#[cfg(feature = "hyper")]
pub mod hyper;
mod listener;
#[cfg(unix)]
mod master;
mod message;
#[cfg(feature = "mio")]
pub mod mio;
mod protocol;
#[cfg(unix)]
mod role;
mod run;
mod signal;
mod state;
mod supervisor;
#[cfg_attr(not(unix), path = "sys/windows.rs")]
mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(unix)]
mod upgrade;
mod wish;

#[cfg(not(unix))]
use sys::activation;

pub use address::Address;
pub use child::Guard;
pub use config::{Config, LogFormat, Upgrades};
pub use datagram::{Datagram, DatagramSocket, PeerAddress};
pub use error::Error;
#[cfg(feature = "tokio")]
pub use fetcher::AsyncFetcher;
pub use fetcher::{
    DEFAULT_INTERVAL, Digest, DigestAlgorithm, FetchError, FetchErrorKind, Fetcher, FetcherFn, File, Known, Look, MEMO_BYTES_MAX, Partial,
    Progress, Release, SIGNATURE_BYTES_MAX, fetcher_fn,
};
pub use listener::{Connection, Incoming, Listener};
pub use protocol::ReleaseName;
pub use run::{is_supported, restart, run, sanity_check, try_run};
pub use signal::Signal;
pub use state::{Draining, Simulation, State};
#[cfg(unix)]
pub use upgrade::{Declined, Upgrade, UpgradeError, UpgradeOutcome, Upgraded};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
