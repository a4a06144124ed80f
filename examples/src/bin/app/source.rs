//! Where releases come from: one `--fetch` for all fetchers, each with as few settings as will do.
//!
//! A program of your own has one fetcher and none of this. S3 and GitHub bring a client each, so they are features of this package, off unless
//! asked for: `cargo build -p overseer-examples --features s3`.

use overseer_core::{Config, File};
use overseer_fetcher_http::HttpFetcher;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `https://host/app`
    Http(String),
    /// `/path/of/app`
    File(PathBuf),
}

impl FromStr for Source {
    /// What is wrong with it.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            Some(("http" | "https", _)) => Ok(Self::Http(text.to_owned())),
            Some((scheme, _)) => Err(format!("{scheme}://...: this program has no fetcher for that, or was built without it")),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl Source {
    /// Lets the program look here, `every` so often if that is set.
    pub(crate) fn set(self, config: Config<io::Result<()>>, every: Option<Duration>) -> Config<io::Result<()>> {
        match self {
            Self::Http(url) => {
                let fetcher = HttpFetcher::new(url);
                config.fetcher(match every {
                    Some(interval) => fetcher.every(interval),
                    None => fetcher,
                })
            }
            Self::File(path) => {
                let fetcher = File::new(path);
                config.fetcher(match every {
                    Some(interval) => fetcher.every(interval),
                    None => fetcher,
                })
            }
        }
    }
}
