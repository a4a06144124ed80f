//! x
mod api;
mod asset;
mod body;
mod choose;
mod error;
mod fetcher;
mod look;
mod memo;
mod settings;
mod system;
mod url;

pub use asset::Asset;
pub use fetcher::GitHubFetcher;
