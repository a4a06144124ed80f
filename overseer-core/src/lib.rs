//! Lets a server upgrade itself and restart without losing a connection.

mod binary;
mod fetcher;

pub use fetcher::{
    DEFAULT_INTERVAL, Digest, DigestAlgorithm, FetchError, FetchErrorKind, Fetcher, FetcherFn, File, Known, Look, MEMO_BYTES_MAX, Partial,
    Release, fetcher_fn,
};
