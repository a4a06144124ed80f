//! Why a program could not be run.

use crate::fetcher::FetchError;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;

/// Why [`run`](crate::run()) did not get as far as the program. Nothing is left behind: no process, no socket, no file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the field names and the messages say it")]
pub enum Error {
    /// Stays until the program is changed.
    #[error("setting {name} is {value:?}: {why}")]
    Setting { name: &'static str, value: String, why: String },
    /// Stays until the program is changed.
    #[error("the fetcher's settings cannot be used")]
    Fetcher { source: FetchError },
    /// Another process has the address, or the system does not give it.
    #[error("cannot listen on {address}")]
    Bind { address: String, source: io::Error },
    /// The master did not give this child what it asked for; the master has logged it too.
    #[error("the master refused{}: {why}", address.as_ref().map(|address| format!(" {address}")).unwrap_or_default())]
    Refused { address: Option<String>, why: String },
    /// Another master runs with this PID file.
    #[error("cannot take the PID file {path}")]
    PidFile { path: PathBuf, source: io::Error },
    /// A master has one thread, since no other lives through the exec by which it becomes the next release: put what starts more into the program.
    #[error("{count} threads run already ({names}); start them in the program, not before run")]
    Threads { count: usize, names: String },
    /// [`Config::required`](crate::Config::required) was set.
    #[error("overseer is required and does not support {system}")]
    Unsupported { system: &'static str },
    /// The environment was tampered with, a descriptor that a master gave was closed before `run`, or a newer master asks for what is not known here.
    #[error("{variable}={value} names a descriptor that was given to this process and is not open, or a role that is not known here")]
    Role { variable: &'static str, value: String },
    /// Somebody who has executed a set-user-ID or set-group-ID program, or one with capabilities, made up what only a master hands over.
    #[error("{variable}={value} was not set by user {user} and group {group}, as which this program runs by the rights of its file")]
    Forged { variable: &'static str, value: String, user: u32, group: u32 },
    /// The system refused something that core cannot do without.
    #[error("{what}")]
    System { what: String, source: io::Error },
}

impl Error {
    pub(crate) fn setting(name: &'static str, value: impl Display, why: impl Into<String>) -> Self {
        Self::Setting { name, value: value.to_string(), why: why.into() }
    }

    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// Everything that went wrong, from the outside in: `cannot listen on :80: permission denied`.
    pub fn chain(&self) -> String {
        FetchError::chain(self)
    }
}
