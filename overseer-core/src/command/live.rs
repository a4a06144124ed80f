//! What a running master shows of itself: the file `master.json` in the state directory.
//!
//! It is for whoever reads it while the master lives, so it is replaced in one step and never synced; `state.json` has what is to last. It stays when
//! the master has ended, with its last answers, and whoever reads it then sees by [`Process`] that nobody is there.

use crate::config::Upgrades;
use crate::protocol::ReleaseName;
use crate::supervisor::{Answer, Asked, Generation};
use crate::sys::process;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A process, told from every other one that ever had its number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// When it started, in ticks since the machine did; 0 where the system did not tell.
    pub(crate) start: u64,
    /// Which start of the machine that was; empty where the system did not tell.
    pub(crate) boot: String,
    /// The namespace in which it has this number; 0 where the system did not tell.
    pub(crate) namespace: u64,
}

/// Whether a process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Here,
    Gone,
    /// Nobody can tell from here, for this reason.
    Unclear(&'static str),
}

impl Process {
    /// This process.
    pub(crate) fn own() -> Self {
        let pid = Pid::this();
        let (start, boot) = (process::start_of(pid).unwrap_or_default(), process::boot().unwrap_or_default());
        Self { pid: pid.as_raw(), start, boot, namespace: process::namespace().unwrap_or_default() }
    }

    /// Whether it is there, as far as the system lets this process see. Where that is not far enough, `is_locked` helps: whether somebody has the lock that
    /// this process had, which is one lock for all namespaces.
    pub(crate) fn presence(&self, is_locked: impl FnOnce() -> Option<bool>) -> Presence {
        if self.pid <= 0 || process::boot().is_some_and(|boot| !self.boot.is_empty() && boot != self.boot) {
            return Presence::Gone;
        }
        // In a container, or outside of this one.
        if process::namespace().is_some_and(|namespace| self.namespace != 0 && namespace != self.namespace) {
            return match is_locked() {
                Some(false) => Presence::Gone,
                Some(true) | None => Presence::Unclear("in another PID namespace"),
            };
        }
        match process::start_of(Pid::from_raw(self.pid)) {
            None => Presence::Gone,
            Some(start) if start == 0 || self.start == 0 => match is_locked() {
                Some(true) => Presence::Here,
                Some(false) => Presence::Gone,
                None => Presence::Unclear("which may be another process by now"),
            },
            Some(start) if start == self.start => Presence::Here,
            Some(_) => Presence::Gone,
        }
    }
}

/// What a master shows of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Live {
    pub(crate) process: Process,
    pub(crate) since_unix_s: u64,
    /// The version of overseer in it.
    pub(crate) overseer: String,
    /// The program's path.
    #[serde(with = "crate::protocol::path")]
    pub(crate) path: PathBuf,
    /// What it runs itself.
    pub(crate) release: ReleaseName,
    pub(crate) generations: Vec<LiveGeneration>,
    pub(crate) is_leaving: bool,
    /// A restart was asked for and has to wait.
    pub(crate) is_restart_wanted: bool,
    /// `None` without a fetcher, or where upgrades are impossible.
    pub(crate) source: Option<String>,
    pub(crate) upgrades: Upgrades,
    /// Nobody has set that: a release would be gone with the container.
    pub(crate) is_ephemeral: bool,
    /// Why upgrades are impossible here.
    pub(crate) why_off: Option<String>,
    pub(crate) probation_until_unix_s: Option<u64>,
    /// A look goes on.
    pub(crate) is_looking: bool,
    pub(crate) next_look_unix_s: Option<u64>,
    /// A proved release that waits for the next restart.
    pub(crate) waiting: Option<ReleaseName>,
    pub(crate) commands: Vec<Told>,
}

/// A command that the master has taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Told {
    pub(crate) token: String,
    /// `None` while it goes on.
    pub(crate) answer: Option<Answer>,
}

impl Told {
    pub(crate) fn of(asked: &Asked) -> Self {
        Self { token: asked.token.clone(), answer: asked.answer.clone() }
    }
}

/// A generation that lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LiveGeneration {
    pub(crate) generation: Generation,
    #[serde(default)]
    pub(crate) pid: i32,
    pub(crate) state: LiveState,
    #[serde(default)]
    pub(crate) release: ReleaseName,
    pub(crate) started_unix_s: u64,
    #[serde(default)]
    pub(crate) ready_unix_s: Option<u64>,
    /// When this state ends at the latest.
    #[serde(default)]
    pub(crate) until_unix_s: Option<u64>,
    /// How many pieces of work it has open, as it has said in its drain.
    #[serde(default)]
    pub(crate) open_work: Option<u64>,
}

/// What a generation is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LiveState {
    Starting,
    /// A candidate that serves beside the old generation.
    WarmingUp,
    Serving,
    Draining,
    /// It has been killed and is not gone yet.
    Killed,
    /// From a newer build.
    #[serde(other)]
    Unknown,
}
