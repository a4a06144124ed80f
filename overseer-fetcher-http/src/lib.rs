//! Fetches releases for overseer from an HTTP or HTTPS server.

mod body;
mod connect;
mod digest;
mod error;
mod fetcher;
mod look;
mod settings;
mod tag;
mod url;

pub use fetcher::HttpFetcher;
