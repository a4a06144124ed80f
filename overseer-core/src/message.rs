//! Every line that the master writes. `docs/MESSAGES.md` says of each what it means and what to do; a test holds the two together.

use crate::signal::Signal;
use crate::supervisor::Generation;
use crate::sys::process::Exit;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Written only with [`Config::debug`](crate::Config::debug).
    Debug,
    Info,
    /// Not written with [`Config::no_warn`](crate::Config::no_warn).
    Warning,
    Error,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! messages {
    ($($level:ident $code:literal $name:ident { $($field:ident: $type:ty),* } $text:literal)*) => {
        /// Something that the master has to say.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) enum Message {
            $($name { $($field: $type),* },)*
        }

        impl Message {
            /// A name for the line that stays when its words change.
            pub(crate) fn code(&self) -> &'static str {
                match self { $(Self::$name { .. } => $code,)* }
            }

            pub(crate) fn level(&self) -> Level {
                match self { $(Self::$name { .. } => Level::$level,)* }
            }

            /// Code, level and text of every message.
            #[cfg(test)]
            pub(crate) const ALL: &[(&'static str, Level, &'static str)] = &[$(($code, Level::$level, $text)),*];
        }

        impl fmt::Display for Message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$name { $($field),* } => write!(f, $text),)* }
            }
        }
    };
}

messages! {
    // The life of a generation.
    Info "master-started" MasterStarted { pid: u32, path: PathBuf, addresses: String }
        "master started as pid {pid} for {path:?}; listening on {addresses}"
    Debug "generation-started" GenerationStarted { generation: Generation, pid: i32 }
        "generation {generation} started as pid {pid}"
    Info "generation-ready" GenerationReady { generation: Generation, after: Seconds }
        "generation {generation} is ready after {after}"
    Warning "ready-late" ReadyLate { generation: Generation, after: Seconds, counted: Seconds }
        "generation {generation} said that it is ready after {after}, but was counted ready after {counted}; set ready_timeout so that it is waited for"
    Warning "not-ready-yet" NotReadyYet { generation: Generation, after: Seconds }
        "generation {generation} is not ready after {after}; no other generation could serve instead, so it is waited for"
    Info "generation-active" GenerationActive { generation: Generation, after: Seconds }
        "generation {generation} took over after {after}"
    Info "draining" Draining { generation: Generation, within: Seconds }
        "generation {generation} drains; it has {within} to finish"
    Warning "no-drain" NoDrain { generation: Generation }
        "generation {generation} does not follow a drain, so it gets SIGTERM; use incoming() or draining() to let it finish its open requests"
    Warning "drain-overdue" DrainOverdue { generation: Generation, after: Seconds }
        "generation {generation} has not finished after {after} and is killed; what it had open is cut"
    Debug "generation-gone" GenerationGone { generation: Generation, exit: Exit }
        "generation {generation} is gone ({exit})"
    Info "program-ended" ProgramEnded { generation: Generation, exit: Exit }
        "the program ended by itself (generation {generation}, {exit}); the master ends in the same way"
    Error "program-failed" ProgramFailed { generation: Generation, why: String }
        "generation {generation} {why}; no other generation can serve, the master ends"
    Warning "misbehaved" Misbehaved { generation: Generation, why: String }
        "generation {generation} cannot be talked to: {why}; it is killed"

    // Restarts.
    Info "restarting" Restarting { generation: Generation, why: String }
        "restarting as generation {generation}: {why}"
    Info "restart-waits" RestartWaits { why: String }
        "the restart waits until {why}"
    Error "restart-failed" RestartFailed { candidate: Generation, active: Generation, why: String }
        "restart failed: generation {candidate} {why}; generation {active} keeps serving"
    Warning "own-file" OwnFile { generation: Generation, path: PathBuf }
        "generation {generation} runs the file that somebody put at {path:?}; core did not check it and will not take it back"
    Error "own-file-failed" OwnFileFailed { candidate: Generation, active: Generation, why: String, path: PathBuf, previous: PathBuf }
        "the file that somebody put at {path:?} failed: generation {candidate} {why}; generation {active} keeps serving; the file stays, the last good one may be at {previous:?}"

    // Upgrades.
    Info "upgrading" Upgrading { generation: Generation, release: String }
        "upgrading to {release} as generation {generation}"
    Info "committed" Committed { release: String, path: PathBuf }
        "{release} is installed at {path:?}"
    Info "installed" InstalledOnly { release: String, path: PathBuf }
        "{release} is installed at {path:?}; it runs from the next start on"
    Info "release-waits" ReleaseWaits { release: String }
        "{release} is proved and waits for the next restart"
    Error "commit-failed" CommitFailed { release: String, active: Generation, why: String }
        "{release} could not be installed: {why}; generation {active} keeps serving"
    Error "held-back" HeldBack { release: String, why: String, active: Generation, again: Seconds }
        "{release} {why}; generation {active} keeps serving; tried again in {again}"
    Error "rejected" Rejected { release: String, why: String, active: Generation }
        "{release} {why}; generation {active} keeps serving; this release is rejected and not tried again"
    Warning "tried-again" TriedAgain { release: String, why: String, active: Generation }
        "{release} {why}; that is not the release's fault; generation {active} keeps serving; tried again at the next look"
    Info "trusted" Trusted { release: String, after: Seconds }
        "{release} has lived through its probation of {after}"
    Error "taken-back" TakenBack { release: String, exit: Exit, generation: Generation }
        "{release} ended with {exit} in its probation: the previous binary is back at the program's path and starts as generation {generation}; the release is rejected"
    Error "take-back-failed" TakeBackFailed { release: String, exit: Exit, why: String }
        "{release} ended with {exit} in its probation, and the previous binary could not be put back: {why}; the master ends"
    Error "start-taken-back" StartTakenBack { release: String, starts: u32 }
        "{release} was started {starts} times and never lived through its probation: the previous binary is back at the program's path and starts instead; the release is rejected"
    Error "start-take-back-failed" StartTakeBackFailed { release: String, starts: u32, why: String }
        "{release} was started {starts} times and never lived through its probation, but the previous binary could not be put back: {why}; it is started again"

    // Looks at the source.
    Debug "look" Look { source: String }
        "looking for a release at {source}"
    Debug "look-unchanged" LookUnchanged { source: String }
        "nothing new at {source}"
    Info "look-incomplete" LookIncomplete { source: String, why: String }
        "no release to take from {source} yet: {why}"
    Warning "look-failed" LookFailed { source: String, why: String, again: Seconds }
        "the look at {source} failed: {why}; the service is not affected; next look in {again}"
    Error "look-settings" LookSettings { source: String, why: String, again: Seconds }
        "the look at {source} failed and somebody must mend it: {why}; the service is not affected; next look in {again}"
    Info "staged" StagedRelease { release: String }
        "{release} is proved"
    Warning "upgrades-off" UpgradesOff { why: String }
        "upgrades are off: {why}; restarts work"
    Warning "path-changed" PathChanged { path: PathBuf }
        "{path:?} holds another file than the one that runs; it is taken up as the next generation"
    Info "second-master" SecondMaster { path: PathBuf }
        "another master looks for releases of {path:?}; this one takes up what it installs"

    // Signals and the end.
    Info "leaving" Leaving { signal: Signal }
        "got {signal}: finishing what is open"
    Debug "forwarded" Forwarded { signal: Signal, generation: Generation }
        "{signal} is passed on to generation {generation}"
    Warning "killing" Killing { signal: Signal }
        "got {signal} again: killing what is left"
    Info "shutting-down" ShuttingDown {}
        "asked to restart with no_restart set: finishing what is open, then ending"
    Debug "continued" Continued { after: Seconds }
        "continued after {after}; deadlines are moved by that"
    Info "master-ended" MasterEnded { exit: Exit }
        "master ended ({exit})"

    // What the system refused.
    Warning "listener-repaired" ListenerRepaired { address: String, what: String }
        "the listener on {address} was changed by a generation ({what}); set right again"
    Warning "address-refused" AddressRefused { generation: Generation, address: String, why: String }
        "generation {generation} cannot have {address}: {why}"
    Warning "state-not-saved" StateNotSaved { path: PathBuf, why: String }
        "cannot save {path:?}: {why}; what happened since would be forgotten by a restart of the master"
    Warning "state-damaged" StateDamaged { why: String }
        "what was remembered is lost: {why}"
    Warning "threads" Threads { count: usize, names: String }
        "{count} threads ran before run was called ({names}); put it into the program: what starts them belongs there"
    Warning "lines-lost" LinesLost { count: u64 }
        "{count} lines before this one were lost: standard error did not take them"
    Warning "pid-file" PidFileLost { path: PathBuf, why: String }
        "cannot remove the PID file {path:?}: {why}"
    Warning "memo-dropped" MemoDropped { bytes: usize }
        "the fetcher's memo of {bytes} bytes is longer than 4 KiB and was dropped"
}

/// A duration as people read it: `0.2s`, `45s`, `10 min`, `2 h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0;
        match time.as_secs() {
            0 if time.subsec_millis() == 0 => write!(f, "{:.2}ms", time.as_secs_f64() * 1000.0),
            0..10 => write!(f, "{}s", (time.as_secs_f64() * 1000.0).round() / 1000.0),
            seconds @ 10..120 => write!(f, "{seconds}s"),
            seconds @ 120..7200 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{} h", seconds / 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_as_people_say_it() {
        for (milliseconds, text) in
            [(0, "0.00ms"), (200, "0.2s"), (1234, "1.234s"), (60_000, "60s"), (600_000, "10 min"), (7_200_000, "2 h")]
        {
            assert_eq!(Seconds(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }

    #[test]
    fn every_message_has_a_code_of_its_own_and_one_line() {
        let mut codes: Vec<_> = Message::ALL.iter().map(|(code, _, _)| code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Message::ALL.len());
        assert!(Message::ALL.iter().all(|(_, _, text)| !text.contains('\n') && !text.ends_with('.')));
    }
}
