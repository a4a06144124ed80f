//! Where releases come from: one `--fetch` for all fetchers, each with as few settings as will do.
//!
//! A program of your own has one fetcher and none of this. The clients of S3 and of GitHub are large, so they are features of this package, off unless
//! asked for: `cargo build -p overseer-examples --features s3,github`.

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
    /// `s3://bucket/key`. Credentials, region and another endpoint come from the environment: `AWS_ACCESS_KEY_ID` and its like.
    #[cfg(feature = "s3")]
    S3 { bucket: String, key: String },
    /// `github:owner/repository`, or `github:https://host/api/v3/owner/repository` for another server. A token comes from `GITHUB_TOKEN`.
    #[cfg(feature = "github")]
    GitHub { api: Option<String>, owner: String, repository: String },
}

impl FromStr for Source {
    /// What is wrong with it.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Http(text.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return s3(rest);
        }
        if let Some(rest) = text.strip_prefix("github:") {
            return github(rest);
        }
        match text.split_once("://") {
            Some((scheme, _)) => Err(format!("{scheme}://...: this program has no fetcher for that")),
            None => Ok(Self::File(text.into())),
        }
    }
}

#[cfg(feature = "s3")]
fn s3(text: &str) -> Result<Source, String> {
    let (bucket, key) = text.split_once('/').ok_or_else(|| format!("s3://{text}: not s3://bucket/key"))?;
    Ok(Source::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
}

#[cfg(not(feature = "s3"))]
fn s3(text: &str) -> Result<Source, String> {
    Err(format!("s3://{text}: this program was built without --features s3"))
}

#[cfg(feature = "github")]
fn github(text: &str) -> Result<Source, String> {
    let mut parts = text.rsplitn(3, '/').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(repository), Some(owner), api) => Ok(Source::GitHub { api, owner, repository }),
        _ => Err(format!("github:{text}: not github:owner/repository")),
    }
}

#[cfg(not(feature = "github"))]
fn github(text: &str) -> Result<Source, String> {
    Err(format!("github:{text}: this program was built without --features github"))
}

impl Source {
    /// Lets the program look here, every so often if that is set.
    pub(crate) fn set(self, config: Config<io::Result<()>>, every: Option<Duration>) -> Config<io::Result<()>> {
        match self {
            Self::Http(url) => {
                let fetcher = HttpFetcher::new(url);
                config.fetcher(every.into_iter().fold(fetcher, HttpFetcher::every))
            }
            Self::File(path) => {
                let fetcher = File::new(path);
                config.fetcher(every.into_iter().fold(fetcher, File::every))
            }
            #[cfg(feature = "s3")]
            Self::S3 { bucket, key } => {
                let fetcher = overseer_fetcher_s3::S3Fetcher::new(bucket, key);
                config.fetcher(every.into_iter().fold(fetcher, overseer_fetcher_s3::S3Fetcher::every))
            }
            #[cfg(feature = "github")]
            Self::GitHub { api, owner, repository } => {
                let fetcher = overseer_fetcher_github::GitHubFetcher::new(owner, repository);
                let fetcher = api.into_iter().fold(fetcher, overseer_fetcher_github::GitHubFetcher::base_url);
                config.fetcher(every.into_iter().fold(fetcher, overseer_fetcher_github::GitHubFetcher::every))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_source_is_known_by_its_beginning() {
        assert_eq!("https://host/app".parse(), Ok(Source::Http("https://host/app".to_owned())));
        assert_eq!("/srv/a:b/app".parse(), Ok(Source::File("/srv/a:b/app".into())));
        assert_eq!("ftp://host/app".parse::<Source>(), Err("ftp://...: this program has no fetcher for that".to_owned()));
    }

    #[test]
    #[cfg(feature = "s3")]
    fn the_key_of_an_object_is_all_that_follows_its_bucket() {
        assert_eq!("s3://b/a/key".parse(), Ok(Source::S3 { bucket: "b".to_owned(), key: "a/key".to_owned() }));
    }

    #[test]
    #[cfg(feature = "github")]
    fn a_repository_may_be_on_another_server() {
        let parsed = |text: &str| match text.parse() {
            Ok(Source::GitHub { api, owner, repository }) => (api, owner, repository),
            other => panic!("{other:?}"),
        };
        assert_eq!(parsed("github:me/app"), (None, "me".to_owned(), "app".to_owned()));
        assert_eq!(parsed("github:http://host/me/app"), (Some("http://host".to_owned()), "me".to_owned(), "app".to_owned()));
    }
}
