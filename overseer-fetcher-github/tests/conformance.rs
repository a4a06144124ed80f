//! The suite that core has for every fetcher.

mod server;

use overseer_core::conformance::{self, Source, Trouble};
use overseer_fetcher_github::GitHubFetcher;
use server::github::{GitHub, SIGNATURE, own_name};
use server::{Answer, Request};
use std::time::Duration;

const TOKEN: &str = "s3cret-t0ken";
/// Each of the five attempts at a transfer may be silent for so long.
const GET_TIMEOUT: Duration = Duration::from_secs(2);
const NIGHTLY: &str = "nightly";

/// How a publisher brings out the next version.
#[derive(Clone, Copy, PartialEq)]
enum Publishes {
    Releases,
    PreReleases,
    /// Another file in the same release.
    Nightly,
}

/// A private repository.
struct Repository {
    github: GitHub,
    how: Publishes,
}

impl Repository {
    fn start(how: Publishes) -> Self {
        let github = GitHub::start();
        github.change(|state| state.token = Some(TOKEN.to_owned()));
        Self { github, how }
    }

    fn transfers(&self, then: impl Fn(Answer) -> Answer + Send + 'static) {
        let bodies = self.github.change(|state| {
            let files = state.releases.iter().flat_map(|release| release.files.clone());
            files.map(|file| (format!("/release-asset/{}?", file.id), file.body)).collect::<Vec<_>>()
        });
        self.github.storage_instead(move |request| {
            let (_, body) = bodies.iter().find(|(path, _)| request.target.starts_with(path)).expect("a file that is there");
            Some(then(part(request, body)))
        });
    }
}

/// What a transfer brings before it is cut.
fn part(request: &Request, body: &[u8]) -> Answer {
    let from = request.header("Range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        None => Answer::new("200 OK").body(body),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            let rest: &[u8] = &body[from..];
            Answer::new("206 Partial Content").header("Content-Range", range).body(rest)
        }
    }
}

impl Source for Repository {
    type Fetcher = GitHubFetcher;

    fn fetcher(&self) -> GitHubFetcher {
        let fetcher = self.github.fetcher().token(TOKEN).get_timeout(GET_TIMEOUT);
        match self.how {
            Publishes::Releases => fetcher,
            Publishes::PreReleases => fetcher.pre_releases(true),
            Publishes::Nightly => fetcher.tag(NIGHTLY),
        }
    }

    fn publish(&mut self, release: &[u8]) {
        let count = self.github.change(|state| state.releases.len());
        match self.how {
            Publishes::Nightly if count > 0 => {
                self.github.change_last(|release| release.files.clear());
                self.github.replace(&own_name(), release);
            }
            Publishes::Nightly => drop(self.github.publish(NIGHTLY, &[(&own_name(), release)])),
            Publishes::Releases | Publishes::PreReleases => {
                self.github.publish(&format!("v{count}"), &[(&own_name(), release)]);
                self.github.change_last(|release| release.pre_release = self.how == Publishes::PreReleases);
            }
        }
    }

    fn suffer(&mut self, trouble: Trouble) -> Result<(), String> {
        match trouble {
            Trouble::Truncated { after_bytes } => self.transfers(move |answer| answer.cut(after_bytes as usize)),
            Trouble::Stalled { after_bytes } => self.transfers(move |answer| answer.stall(after_bytes as usize)),
            Trouble::Gone => self.github.api_always(|| Answer::new("404 Not Found").body(br#"{"message":"Not Found"}"#)),
            Trouble::Denied => self.github.change(|state| state.token = Some("another".to_owned())),
            Trouble::Down => self.github.api_always(Answer::hang_up),
            other => return Err(format!("nobody has taught this repository to be {other}")),
        }
        Ok(())
    }

    fn recover(&mut self) {
        self.github.api_instead(|_| None);
        self.github.storage_instead(|_| None);
        self.github.change(|state| state.token = Some(TOKEN.to_owned()));
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned(), SIGNATURE.to_owned()]
    }

    fn sign(&mut self, minisig: &str) -> Result<(), String> {
        self.github.replace(&format!("{}.minisig", own_name()), minisig.as_bytes());
        Ok(())
    }

    fn requests(&self) -> Option<u64> {
        Some((self.github.api.seen().len() + self.github.storage.seen().len()) as u64)
    }

    fn sent_bytes(&self) -> Option<u64> {
        Some(self.github.storage.sent_bytes() as u64)
    }

    fn gives_up_after(&self) -> Option<Duration> {
        Some(5 * GET_TIMEOUT)
    }

    fn denial(&self) -> String {
        "401 Unauthorized".to_owned()
    }
}

#[test]
fn the_github_fetcher_conforms_with_the_latest_release() {
    conformance::run(Repository::start(Publishes::Releases));
}

#[test]
fn the_github_fetcher_conforms_with_pre_releases() {
    conformance::run(Repository::start(Publishes::PreReleases));
}

#[test]
fn the_github_fetcher_conforms_with_a_tag_that_moves() {
    conformance::run(Repository::start(Publishes::Nightly));
}
