//! Shows that a fetcher keeps the contract of [`Fetcher`], against its real source or a server that plays it.
//!
//! The author of a fetcher writes a [`Source`]: how to publish a release there, and how to bring the troubles about that a source can be in.
//! [`run`] does the rest, as one test of the fetcher's crate:
//!
//! ```
//! use overseer_core::conformance::{self, Source, Trouble};
//! use overseer_core::{FetchError, File};
//! use std::path::PathBuf;
//! use std::time::{Duration, SystemTime};
//!
//! /// A directory that releases are copied to.
//! struct Directory {
//!     path: PathBuf,
//!     release: Vec<u8>,
//! }
//!
//! impl Source for Directory {
//!     type Fetcher = File;
//!
//!     fn fetcher(&self) -> File {
//!         File::new(self.path.join("app"))
//!     }
//!
//!     fn publish(&mut self, release: &[u8]) {
//!         let beside = self.path.join("being-copied");
//!         std::fs::write(&beside, release).expect("written");
//!         // The fetcher takes a file that has not changed for a second.
//!         let file = std::fs::File::options().write(true).open(&beside).expect("opened");
//!         file.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("time set");
//!         std::fs::rename(&beside, self.path.join("app")).expect("renamed");
//!         self.release = release.to_vec();
//!     }
//!
//!     fn suffer(&mut self, trouble: Trouble) -> Result<(), String> {
//!         match trouble {
//!             Trouble::Gone => std::fs::remove_file(self.path.join("app")).map_err(|error| error.to_string()),
//!             other => Err(format!("nobody has taught this directory to be {other}")),
//!         }
//!     }
//!
//!     fn recover(&mut self) {
//!         if !self.path.join("app").exists() {
//!             self.publish(&self.release.clone());
//!         }
//!     }
//!
//!     fn secrets(&self) -> Vec<String> {
//!         Vec::new()
//!     }
//! }
//!
//! let directory = tempfile::tempdir().expect("a directory");
//! conformance::run(Directory { path: directory.path().to_owned(), release: Vec::new() });
//! ```
//!
//! Each look goes the way that it goes in the poll process: the same limit, digests, memo, settled tags and beginnings of broken downloads; only
//! the proof at the end is left out, as the releases of the suite are random bytes. Each look is made by a new value of the fetcher.
//!
//! # The cases
//!
//! | case | what has to come |
//! | --- | --- |
//! | settings | `source` is the same each time, `check` passes and asks nobody, also while the source is down, `interval` is between 1 s and a day |
//! | new | the release, byte for byte |
//! | nothing new | [`Look::unchanged`](crate::Look::unchanged) once the release is installed |
//! | nothing new in one request | at most one request, and nothing of the release |
//! | remembered | the same after restarts, also if the memo was lost |
//! | changed | the new release, under another tag; of the same size, to make it hard |
//! | one tag for one release | two services that know nothing see the same tag |
//! | published again | the same bytes put up once more: nothing new or the release, then nothing new |
//! | an earlier one again | the release before last, put up again: the release |
//! | held back | nothing new while a release is held back, and the release once its time has come, whatever the memo says |
//! | resumed | the release, if the beginning that core has of it is a byte, a half, all, or one of another release |
//! | truncated | a [passing](crate::FetchErrorKind::Passing) error (or incomplete, or the release if the fetcher can go on by itself), and the release in the next look |
//! | truncated, then changed | the new release, and never a mix |
//! | stalled | a passing error when the fetcher's own time is up, if it has one; else it waits, and core would kill it. Then the release |
//! | handed over as it comes | bytes reach core while the rest is not there: a fetcher keeps no release in memory |
//! | too large | refused by core, rejected, and a smaller one is taken |
//! | too large is not sent | the source sends at most three quarters of it, where half is allowed |
//! | gone | incomplete, nothing new or an error, but no [bad release](crate::FetchErrorKind::BadRelease); then the next release |
//! | denied | a [settings](crate::FetchErrorKind::Settings) error with the word of the source; then the release |
//! | down and back | a passing error, then nothing new, then the next release |
//! | signed | where signatures are wanted: incomplete without one, then the release with it; see [`Source::sign`] |
//! | secrets | none in an error, the source's name, a tag, a file's name, a memo or `Debug` |
//!
//! A fetcher need not have time-outs: core kills a poll process that makes no progress for
//! [`fetch_timeout`](crate::Config::fetch_timeout). But one that names the server that was silent tells more than a kill does.
//!
//! The suite does not see what a fetcher keeps in a `static` (all looks are made in one process here), what it writes to a log, and what it costs
//! beyond requests and bytes.
//!
//! What a source cannot be brought to do is *not applicable*, which the printed table shows with the reason. A panic of the
//! fetcher fails the case, although core survives it.

mod cases;
mod machine;
mod report;
#[cfg(test)]
mod tests;

use crate::Fetcher;
use std::fmt;
use std::time::Duration;

pub use report::{Case, Outcome, Report};

/// A place where releases are published, in the hands of the suite.
///
/// A method that cannot do its work for a reason that has nothing to do with the fetcher may panic: the case fails with the panic's text.
pub trait Source {
    /// The fetcher under test. The suite looks into its `Debug` for secrets.
    type Fetcher: Fetcher + fmt::Debug;

    /// A new fetcher of this source, as the `main` of a program makes it; each with the same settings, which should hold a secret if there can be one.
    fn fetcher(&self) -> Self::Fetcher;

    /// Makes these bytes the release, in place of the one that is there. A fetcher has to see it in its next look, so one that waits
    /// for something (a file that rests, a minute) needs a short wait set or a time of change in the past.
    ///
    /// It is a plain file: its name must not end like a packed one (`.gz`). Called only while there is no trouble.
    fn publish(&mut self, release: &[u8]);

    /// Brings the trouble about, with the release that is there, until [`Source::recover`]. There is one trouble at a time.
    ///
    /// # Errors
    /// Why this source cannot do so. The case is then not applicable, and nothing may have changed.
    fn suffer(&mut self, trouble: Trouble) -> Result<(), String>;

    /// Ends the trouble: the release is there again as it was, and connections that stall are closed, or go on. Called after
    /// each case, so there may be no trouble to end.
    fn recover(&mut self);

    /// Passwords, tokens and keys in the fetcher's settings, in each spelling that must not be seen; empty if such a fetcher has none.
    fn secrets(&self) -> Vec<String>;

    /// Publishes the text of a signature beside the release (`NAME.minisig`), which a later [`Source::publish`] removes.
    ///
    /// # Errors
    /// As with [`Source::suffer`]; the default says that there is no place for signatures.
    fn sign(&mut self, minisig: &str) -> Result<(), String> {
        let _ = minisig;
        Err("this source has no place for signatures".to_owned())
    }

    /// How many requests the source has seen so far; `None` (the default) if it does not count them.
    fn requests(&self) -> Option<u64> {
        None
    }

    /// How many bytes of releases the source has sent so far; `None` (the default) if it does not count them.
    fn sent_bytes(&self) -> Option<u64> {
        None
    }

    /// The time after which a look at a silent source has certainly ended by the fetcher's own time-outs, attempts to go on
    /// included; `None` (the default) if it waits until core kills it.
    fn gives_up_after(&self) -> Option<Duration> {
        None
    }

    /// What the source says when it denies, and the error has to repeat for whoever reads the log: `403`, `AccessDenied`. Empty unless said.
    fn denial(&self) -> String {
        String::new()
    }
}

/// What can be wrong with a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// Each transfer ends after so many bytes of the release, as if the connection broke.
    Truncated {
        /// Less than the size of the release.
        after_bytes: u64,
    },
    /// Each transfer stands still after so many bytes of the release; the connection stays open.
    Stalled {
        /// Less than the size of the release.
        after_bytes: u64,
    },
    /// The release was taken away: 404, no such file.
    Gone,
    /// The source does not let this fetcher see the release: 403, a wrong password, no permission.
    Denied,
    /// Nobody answers, or only to say that nobody can: connection refused, 503.
    Down,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated { .. } => "truncated",
            Self::Stalled { .. } => "stalled",
            Self::Gone => "gone",
            Self::Denied => "denied",
            Self::Down => "down",
        })
    }
}

/// Runs all cases and prints the table of them to standard output (`cargo test -- --nocapture` shows it). Takes some seconds, and
/// twice [`Source::gives_up_after`] where that is set.
///
/// # Panics
/// A case has failed; the text is the table, with the reason and what the fetcher answered.
pub fn run(source: impl Source) {
    let report = try_run(source);
    println!("{report}");
    assert!(report.failed().next().is_none(), "the fetcher does not conform\n{report}");
}

/// Runs all cases, prints nothing, and answers what came of each.
pub fn try_run(mut source: impl Source) -> Report {
    cases::run(&mut source)
}
