//! Lets a server upgrade itself and restart without losing a connection.

mod address;
mod binary;
mod child;
mod config;
mod error;
mod fetcher;
mod listener;
mod master;
mod message;
mod protocol;
mod role;
mod run;
mod signal;
mod state;
mod supervisor;
mod sys;

pub use address::Address;
pub use child::Guard;
pub use config::{Config, LogFormat};
pub use error::Error;
pub use fetcher::{
    DEFAULT_INTERVAL, Digest, DigestAlgorithm, FetchError, FetchErrorKind, Fetcher, FetcherFn, File, Known, Look, MEMO_BYTES_MAX, Partial,
    Release, fetcher_fn,
};
pub use listener::{Connection, Incoming, Listener};
pub use run::{is_supported, restart, run, sanity_check, try_run};
pub use signal::Signal;
pub use state::{Draining, Simulation, State};
