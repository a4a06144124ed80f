//! Where new releases come from: the contract between core and a fetcher crate.
//!
//! A fetcher finds a release and hands over its bytes. Everything around that belongs to core: when to look, what is
//! settled, hashing, unpacking, proving, installing, backing off after a failure.
//!
//! A fetcher runs in the *poll* process, a short-lived second run of the same executable, one look each. So it keeps no
//! memory between looks, makes its client inside [`Fetcher::fetch`] and may block: when nothing has moved for
//! `fetch_timeout`, the process is killed and the look counts as failed. A fetcher that panics, leaks or hangs hurts
//! nobody but itself.

#[cfg(feature = "tokio")]
mod asynchronous;
#[cfg(unix)]
mod download;
mod file;
mod known;
#[cfg(unix)]
pub(crate) mod poll;
mod progress;
mod release;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncFetcher;
#[cfg(all(unix, feature = "conformance"))]
pub(crate) use download::leave_beginning;
pub use file::File;
pub use known::{Known, MEMO_BYTES_MAX, Partial};
pub use progress::Progress;
pub use release::{Digest, DigestAlgorithm, Look, Release, SIGNATURE_BYTES_MAX};

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The pause between two looks of a fetcher that does not name one of its own: 5 min.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Looks for releases at one source.
///
/// The value is made by the program's `main` in every process that runs the executable, and used in the poll process
/// only. It is plain data: making one opens nothing and starts no thread.
#[doc(alias = "Interface")]
pub trait Fetcher: Send + 'static {
    /// Names the source in logs and scopes what is remembered of it: `https://host/path`, `s3://bucket/key`. Never a
    /// secret: no user, password, token or query. A changed name forgets the tags and the memo of the old one.
    fn source(&self) -> String;

    /// Finds out what is wrong with the settings, without any input or output. Called at the start of the master and in
    /// the self-check of a new release, so that a release with unusable fetcher settings never replaces one with usable ones.
    ///
    /// # Errors
    /// [`FetchError::settings`], with the name of the setting and its value.
    fn check(&self) -> Result<(), FetchError> {
        Ok(())
    }

    /// The pause between two looks: 5 min unless overridden. Core adds up to 10 % of jitter, backs off up to an hour while
    /// looks fail, and never goes below `min_fetch_interval`.
    fn interval(&self) -> Duration {
        DEFAULT_INTERVAL
    }

    /// Looks once. Blocks as long as it needs; see the module's documentation for the time limit.
    ///
    /// Finds the tag of what the source offers now and answers [`Look::unchanged`] if [`Known::is_settled`] says so,
    /// ideally without asking for the release itself. Otherwise answers a [`Release`] whose body core then reads to its
    /// end. Core compares the number of bytes and the digests; the fetcher need not.
    ///
    /// # Errors
    /// See [`FetchError`] for the three kinds and what core does after each.
    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError>;
}

/// Why a look failed. Crosses from the poll process to the master, so it is text, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct FetchError {
    kind: FetchErrorKind,
    text: String,
    retry_after: Option<Duration>,
}

/// What can be done about a failed look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FetchErrorKind {
    /// Stays until somebody changes a setting or a right: wrong credentials, no such bucket. Looked at again as often, since a
    /// right can be given at the source, and logged as an error.
    Settings,
    /// The source offers something that cannot be a release of this program. Nothing is installed.
    BadRelease,
    /// Passes by itself, as far as is known: the server is down, the disk full, the answer broken. Looked at again, with a growing pause.
    #[serde(other)]
    Passing,
}

impl FetchError {
    /// A failure that passes by itself.
    pub fn passing(text: impl Into<String>) -> Self {
        Self { kind: FetchErrorKind::Passing, text: text.into(), retry_after: None }
    }

    /// A failure that somebody must mend: a setting, a credential, a right.
    pub fn settings(text: impl Into<String>) -> Self {
        Self { kind: FetchErrorKind::Settings, text: text.into(), retry_after: None }
    }

    /// What the source offers cannot be a release.
    pub fn bad_release(text: impl Into<String>) -> Self {
        Self { kind: FetchErrorKind::BadRelease, text: text.into(), retry_after: None }
    }

    /// The source asked not to be looked at for so long. Core waits at least that, and at most a day.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// What can be done about it.
    pub fn kind(&self) -> FetchErrorKind {
        self.kind
    }

    /// The pause that the source asked for, if it did.
    pub fn pause_asked_for(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The text of `error` and of everything that caused it, each said once: `cannot reach host: connection refused`.
    pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

/// A fetcher made of a name and a function, for a source that needs no settings of its own.
///
/// ```
/// use overseer_core::{Look, Release, fetcher_fn};
/// let fetcher = fetcher_fn("mirror", |known| {
///     let tag = std::fs::read_to_string("/mnt/mirror/VERSION")
///         .map_err(|error| overseer_core::FetchError::passing(format!("cannot read the mirror's VERSION: {error}")))?;
///     if known.is_settled(&tag) {
///         return Ok(Look::unchanged());
///     }
///     let file = std::fs::File::open("/mnt/mirror/app")
///         .map_err(|error| overseer_core::FetchError::passing(format!("cannot open the mirror's app: {error}")))?;
///     Ok(Look::release(Release::new(tag, "app", file)))
/// });
/// ```
#[doc(alias = "Func")]
pub fn fetcher_fn<F>(source: impl Into<String>, fetch: F) -> FetcherFn<F>
where
    F: FnMut(&Known) -> Result<Look, FetchError> + Send + 'static,
{
    FetcherFn { source: source.into(), fetch, interval: DEFAULT_INTERVAL }
}

/// What [`fetcher_fn`] makes.
pub struct FetcherFn<F> {
    source: String,
    fetch: F,
    interval: Duration,
}

impl<F> FetcherFn<F> {
    /// Sets the pause between two looks; 5 min unless set.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

impl<F> Fetcher for FetcherFn<F>
where
    F: FnMut(&Known) -> Result<Look, FetchError> + Send + 'static,
{
    fn source(&self) -> String {
        self.source.clone()
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn fetch(&mut self, known: &Known) -> Result<Look, FetchError> {
        (self.fetch)(known)
    }
}
