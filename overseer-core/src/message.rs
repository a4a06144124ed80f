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

/// Why a release is only told of where a container begins anew without it.
pub(crate) const EPHEMERAL: &str = "the program lies on the writable layer of a container, and a release would be gone with that";

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
    Info "draining" Draining { generation: Generation, within: Seconds, connections: Connections }
        "generation {generation} drains; it has {within} to finish, with {connections} open"
    Warning "no-drain" NoDrain { generation: Generation }
        "generation {generation} does not follow a drain, so it gets SIGTERM; use incoming() or draining() to let it finish its open requests"
    Warning "drain-overdue" DrainOverdue { generation: Generation, pid: i32, age: Seconds, after: Seconds, connections: Connections }
        "generation {generation} has not finished after {after} and is killed, with {connections} open (pid {pid}, started {age} ago)"
    Warning "gives-way" GivesWay { generation: Generation, pid: i32, age: Seconds, within: Seconds, why: String, connections: Connections }
        "{why}, so generation {generation} has {within} left and is killed then, with {connections} open (pid {pid}, started {age} ago)"
    Info "drained" Drained { generation: Generation, exit: Exit, after: Seconds }
        "generation {generation} is gone ({exit}) after draining for {after}"
    Debug "generation-gone" GenerationGone { generation: Generation, exit: Exit }
        "generation {generation} is gone ({exit})"
    Info "program-ended" ProgramEnded { generation: Generation, exit: Exit }
        "the program ended by itself (generation {generation}, {exit}); the master ends in the same way"
    Error "program-failed" ProgramFailed { generation: Generation, why: String }
        "generation {generation} {why}; no other generation can serve, the master ends"
    Warning "misbehaved" Misbehaved { generation: Generation, why: String }
        "generation {generation} cannot be talked to: {why}; it is killed"
    Warning "own-socket" OwnSocket { generation: Generation, pid: i32, addresses: String }
        "generation {generation} has bound {addresses} by itself (pid {pid}), so clients there are cut or refused at each restart; configure it with Config::address and take it from State"
    Warning "exit-taken" ExitTaken { generation: Generation, pid: i32 }
        "generation {generation} (pid {pid}) has ended, and other code in the master's process has taken its exit status: it counts as exit code 1"

    // Restarts.
    Info "restarting" Restarting { generation: Generation, why: String }
        "restarting as generation {generation}: {why}"
    Info "restart-waits" RestartWaits { why: String }
        "the restart waits until {why}"
    Error "restart-failed" RestartFailed { candidate: Generation, serving: Serving, why: String }
        "restart failed: generation {candidate} {why}; {serving}"
    Info "waits-alone" WaitsAlone { generation: Generation, others: String }
        "generation {generation} begins when these are gone, beside which it must not run: {others}"
    Info "serves-again" ServesAgain { generation: Generation, after: Seconds }
        "generation {generation} serves, after {after} without a serving generation"
    Warning "own-file" OwnFile { generation: Generation, path: PathBuf }
        "generation {generation} runs another file than the one before, which is at {path:?}; this master has not checked it and will not take it back"
    Error "own-file-failed" OwnFileFailed { candidate: Generation, serving: Serving, why: String, path: PathBuf, previous: PathBuf }
        "the file that somebody put at {path:?} failed: generation {candidate} {why}; {serving}; the file stays, the last good one may be at {previous:?}"

    // Upgrades.
    Info "upgrading" Upgrading { generation: Generation, release: String }
        "upgrading to {release} as generation {generation}"
    Info "committed" Committed { release: String, path: PathBuf }
        "{release} is installed at {path:?}"
    Info "installed" InstalledOnly { release: String, path: PathBuf }
        "{release} is installed at {path:?}; it runs from the next start on"
    Info "not-installed" NotInstalled { release: String, source: String, why: String }
        "{release} is at {source} and is not installed: {why}"
    Info "release-waits" ReleaseWaits { release: String }
        "{release} is proved and waits for the next restart"
    Error "commit-failed" CommitFailed { release: String, active: Generation, why: String }
        "{release} could not be installed: {why}; generation {active} keeps serving"
    Error "held-back" HeldBack { release: String, why: String, serving: Serving, again: Seconds }
        "{release} {why}; {serving}; tried again in {again}"
    Error "rejected" Rejected { release: String, why: String, serving: Serving }
        "{release} {why}; {serving}; this release is rejected and not tried again"
    Warning "tried-again" TriedAgain { release: String, why: String, serving: Serving }
        "{release} {why}; that is not the release's fault; {serving}; tried again at the next look"
    Info "trusted" Trusted { release: String, after: Seconds }
        "{release} has lived through its probation of {after}"
    Error "taken-back" TakenBack { release: String, exit: Exit, generation: Generation }
        "{release} ended with {exit} in its probation: the previous binary is back at the program's path and starts as generation {generation}; the release is rejected"
    Error "taken-back-only" TakenBackOnly { release: String, exit: Exit }
        "{release} ended with {exit} in its probation: the previous binary is back at the program's path and runs from the next start on; the release is rejected"
    Error "taken-back-here" TakenBackHere { release: String, exit: Exit, generation: Generation }
        "{release} ended with {exit} in its probation: another master has installed it and decides what is at the program's path; this one goes on with the previous binary as generation {generation}"
    Error "take-back-failed" TakeBackFailed { release: String, exit: Exit, why: String }
        "{release} ended with {exit} in its probation, and the previous binary could not be put back: {why}; the master ends"
    Error "start-taken-back" StartTakenBack { release: String, starts: u32 }
        "{release} was started {starts} times and never lived through its probation: the previous binary is back at the program's path and starts instead; the release is rejected"
    Error "start-take-back-failed" StartTakeBackFailed { release: String, starts: u32, why: String }
        "{release} was started {starts} times and never lived through its probation, but the previous binary could not be put back: {why}; it is started again"

    // A binary store.
    Info "stored-runs" StoredRuns { release: String, path: PathBuf, packaged: PathBuf, took: Seconds }
        "{release}, which is {path:?}, runs in place of {packaged:?}; it took {took} to prove it"
    Warning "package-wins" PackageWins { packaged: PathBuf, aside: PathBuf }
        "{packaged:?} has changed since a release was committed in its place: it runs now; the release is {aside:?}"
    Warning "stored-again" StoredAgain { release: String, path: PathBuf }
        "{release} did not come up before and is tried again: it is {path:?} again"
    Error "stored-refused" StoredRefused { path: PathBuf, why: String, packaged: PathBuf }
        "{path:?} {why}; {packaged:?} runs instead"
    Warning "stored-stays" StoredStays { path: PathBuf, why: String }
        "{path:?} is not to run and cannot be set aside: {why}; no release is installed until it is gone"

    Warning "ephemeral" Ephemeral { directory: PathBuf }
        "new releases are told of and not installed: {directory:?} is on the writable layer of a container (overlayfs), and gone with it; put binary_store on a volume, or set upgrades"

    // The master itself.
    Info "master-replaced" MasterReplaced { what: String, took: Seconds }
        "the master runs {what} now; it was away for {took}"
    Warning "master-stays" MasterStays { generation: Generation, why: String }
        "the master is not replaced and goes on as it is: {why}; generation {generation} keeps serving"
    Warning "not-told" NotTold { address: String, why: String }
        "the process manager cannot be told how the service does ({address}): {why}; the service is not affected"
    Warning "setting-waits" SettingWaits { setting: String, why: String }
        "the new {setting} does not hold yet: {why}"

    // Signs of life, for a process manager's watchdog.
    Warning "silent" Silent { generation: Generation, after: Seconds }
        "generation {generation} has not answered for {after}; the process manager's watchdog is told nothing until it does"
    Info "answers-again" AnswersAgain { generation: Generation, after: Seconds }
        "generation {generation} answers again after {after}"
    Info "not-asked" NotAsked { generation: Generation }
        "generation {generation} cannot be asked whether it lives; the process manager's watchdog is told that it does"

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

    // What operators ask for.
    Info "command" Commanded { by: String, command: String }
        "{by} asks for {command}"
    Warning "command-ignored" CommandIgnored { path: PathBuf, why: String }
        "the command in {path:?} is ignored: {why}"
    Debug "no-commands" NoCommands { why: String }
        "commands do not reach this master: {why}"
    Info "forgotten" Forgotten { count: usize }
        "verdicts forgotten: {count}; what was held back or rejected is tried again"
    Warning "held" Held { by: String, reason: String }
        "upgrades are held by {by} ({reason}) until OVERSEER=unhold; restarts work"
    Info "unheld" Unheld {}
        "upgrades are not held any more"
    Info "rolling-back" RollingBack { generation: Generation, by: String }
        "rolling back to the previous binary as generation {generation}: {by} asked for it"
    Warning "rolled-back" RolledBack { from: String, path: PathBuf }
        "the previous binary is at {path:?} again; {from} is rejected until OVERSEER=retry"
    Error "rollback-failed" RollbackFailed { why: String }
        "nothing was rolled back: {why}"

    // Signals and the end.
    Info "leaving" Leaving { signal: Signal }
        "got {signal}: finishing what is open"
    Debug "forwarded" Forwarded { signal: Signal, generation: Generation }
        "{signal} is passed on to generation {generation}"
    Warning "signals-dropped" SignalsDropped { signal: Signal, generation: Generation, kept: usize }
        "{kept} of {signal} wait until generation {generation} is ready; further ones are dropped until then"
    Warning "killing" Killing { signal: Signal }
        "got {signal} again: killing what is left"
    Info "shutting-down" ShuttingDown {}
        "asked to restart with no_restart set: finishing what is open, then ending"
    Debug "continued" Continued { after: Seconds }
        "continued after {after}; deadlines are moved by that"
    Info "master-ended" MasterEnded { exit: Exit }
        "master ended ({exit})"

    // Sockets that the service manager passes and keeps.
    Info "socket-claimed" SocketClaimed { address: String, bound_to: String, name: String }
        "{address} is the socket on {bound_to} that the service manager has passed as {name}"
    Warning "socket-unclaimed" SocketUnclaimed { name: String, what: String }
        "the service manager has passed {what} as {name}, which no address means: closed here; to use such a socket, add the address systemd:{name}"
    Warning "store-full" StoreFull { address: String, size: usize }
        "the descriptor store takes {size} sockets (FileDescriptorStoreMax) and has no room for the one on {address}: while the service restarts, clients are refused there"
    Debug "stored-socket-dropped" StoredSocketDropped { name: String }
        "the descriptor store holds {name}, which no address means any more: closed, and removed there"

    // What the system refused.
    Warning "listener-repaired" ListenerRepaired { address: String, what: String }
        "the socket on {address} was changed by a generation: {what}"
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

impl Message {
    /// The generation whose open connections the line tells, and where they are to be filled in: the rules do not know them.
    pub(crate) fn connections_to_count(&mut self) -> Option<(Generation, &mut Connections)> {
        match self {
            Self::Draining { generation, connections, .. }
            | Self::DrainOverdue { generation, connections, .. }
            | Self::GivesWay { generation, connections, .. } => Some((*generation, connections)),
            _ => None,
        }
    }
}

/// Who serves although something has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    KeepsServing(Generation),
    /// Nobody served beside the candidate, so the binary that served before it is started.
    StartsAgain(Generation),
}

impl fmt::Display for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepsServing(generation) => write!(f, "generation {generation} keeps serving"),
            Self::StartsAgain(generation) => write!(f, "the binary that served before starts again as generation {generation}"),
        }
    }
}

/// How much a generation has open: `no connection`, `1 connection`, `12 connections`, and what it says itself if that is not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Connections {
    /// That others have made to it, as the system knows them.
    pub(crate) counted: Option<u64>,
    /// Pieces of open work, by its own count, as it said last.
    pub(crate) work: Option<u64>,
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.counted {
            None => f.write_str("an unknown number of connections"),
            Some(0) => f.write_str("no connection"),
            Some(1) => f.write_str("1 connection"),
            Some(open) => write!(f, "{open} connections"),
        }?;
        match self.work.filter(|_| self.work != self.counted) {
            None => Ok(()),
            Some(1) => f.write_str(" and, as it said last, 1 piece of work"),
            Some(work) => write!(f, " and, as it said last, {work} pieces of work"),
        }
    }
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
            seconds if seconds >= 7200 || seconds == 3600 => write!(f, "{} h", seconds / 3600),
            seconds => write!(f, "{} min", seconds / 60),
        }
    }
}

/// Seconds since 1970, as people read them: `2026-12-31 23:59:59 UTC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date(pub(crate) u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Years that begin in March have their leap day at the end. Day 0 is then 0000-03-01.
        let days = self.0 / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let second = self.0 % 86_400;
        write!(f, "{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
    }
}

/// The beginning of the text, at most so many bytes.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_as_people_say_it() {
        for (milliseconds, text) in
            [(0, "0.00ms"), (200, "0.2s"), (1234, "1.234s"), (60_000, "60s"), (600_000, "10 min"), (3_600_000, "1 h"), (7_200_000, "2 h")]
        {
            assert_eq!(Seconds(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }

    #[test]
    fn a_date_reads_as_people_write_it() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59:59 UTC"),
            (1_798_761_600, "2027-01-01 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(Date(unix_s).to_string(), text);
        }
    }

    #[test]
    fn connections_read_as_people_say_it() {
        for (counted, work, text) in [
            (None, None, "an unknown number of connections"),
            (Some(0), None, "no connection"),
            (Some(1), Some(1), "1 connection"),
            (Some(12), Some(12), "12 connections"),
            (Some(0), Some(1), "no connection and, as it said last, 1 piece of work"),
            (Some(12), Some(0), "12 connections and, as it said last, 0 pieces of work"),
            (None, Some(3), "an unknown number of connections and, as it said last, 3 pieces of work"),
        ] {
            assert_eq!(Connections { counted, work }.to_string(), text);
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

    /// An entry of `docs/MESSAGES.md`: a heading, the text in a block of its own, and prose.
    #[derive(Debug, PartialEq)]
    struct Entry {
        heading: String,
        text: String,
        prose: String,
    }

    impl Entry {
        fn read_all(section: &str) -> Vec<Self> {
            let entries = section.split("\n### ").skip(1);
            entries
                .map(|entry| {
                    let (heading, rest) = entry.split_once('\n').expect("an entry has lines");
                    let (_, rest) = rest.split_once("```text\n").unwrap_or_else(|| panic!("no ```text block under {heading}"));
                    let (text, prose) = rest.split_once("\n```\n").unwrap_or_else(|| panic!("the block under {heading} does not end"));
                    let prose = prose.split("\n## ").next().unwrap_or_default();
                    Self { heading: heading.to_owned(), text: text.to_owned(), prose: prose.trim().to_owned() }
                })
                .collect()
        }

        /// As it stands in the file, to be copied from a failed test.
        fn written(&self) -> String {
            format!("### {}\n\n```text\n{}\n```", self.heading, self.text)
        }
    }

    /// The text between a heading of the second level and the next one. `None` where only this package is there, without the repository.
    fn section(name: &str) -> Option<String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/MESSAGES.md");
        if !path.exists() && !path.with_file_name("").exists() {
            return None;
        }
        let document = std::fs::read_to_string(&path).expect("docs/MESSAGES.md can be read");
        let (_, rest) = document.split_once(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("no section {name}"));
        // The newline is kept, so that the first entry is found as the others are.
        Some(format!("\n{}", rest.split("\n## ").next().unwrap_or_default()))
    }

    /// Compares the entries of a section with those that the code has, each with whether it must say what to do.
    fn compare(name: &str, wanted: Vec<(Entry, bool)>) {
        let Some(section) = section(name) else { return };
        let documented = Entry::read_all(&section);
        let mut wrong = Vec::new();
        for (entry, must_say_what_to_do) in &wanted {
            match documented.iter().find(|found| found.heading == entry.heading && found.text == entry.text) {
                None => wrong.push(format!("missing or different; the code has\n{}", entry.written())),
                Some(found) if *must_say_what_to_do && !found.prose.contains("**Do:**") => {
                    wrong.push(format!("does not say what to do (**Do:** ..): {}", found.heading));
                }
                Some(found) if found.prose.is_empty() => wrong.push(format!("does not say what it means: {}", found.heading)),
                Some(_) => {}
            }
        }
        let unknown = documented
            .iter()
            .filter(|found| wanted.iter().all(|(entry, _)| (&entry.heading, &entry.text) != (&found.heading, &found.text)));
        wrong.extend(unknown.map(|found| format!("not in the code any more:\n{}", found.written())));
        assert!(wrong.is_empty(), "docs/MESSAGES.md, section {name}:\n\n{}\n", wrong.join("\n\n"));
        assert_eq!(documented.len(), wanted.len(), "an entry of section {name} is there twice");
    }

    #[test]
    fn every_line_of_the_master_is_documented() {
        let entry = |(code, level, text): &(&str, Level, &str)| {
            let heading = format!("`{code}` · {}", level.as_str());
            (Entry { heading, text: (*text).to_owned(), prose: String::new() }, matches!(level, Level::Warning | Level::Error))
        };
        compare("Lines of the master", Message::ALL.iter().map(entry).collect());
    }

    #[test]
    fn every_error_that_ends_the_start_is_documented() {
        use crate::{Error, FetchError};
        let io = || std::io::Error::other("CAUSE");
        let errors = [
            Error::Setting { name: "NAME", value: "VALUE".into(), why: "WHY".into() },
            Error::Fetcher { source: FetchError::settings("CAUSE") },
            Error::Bind { address: "ADDRESS".into(), source: io() },
            Error::Refused { address: Some("ADDRESS".into()), why: "WHY".into() },
            Error::PidFile { path: "PATH".into(), source: io() },
            Error::Threads { count: 2, names: "NAMES".into() },
            Error::Unsupported { system: "SYSTEM" },
            Error::Role { variable: "OVERSEER_ROLE", value: "VALUE".into() },
            Error::Forged { variable: "OVERSEER_ROLE", value: "VALUE".into(), user: 0, group: 0 },
            Error::System { what: "WHAT".into(), source: io() },
        ];
        let heading = |error: &Error| match error {
            Error::Setting { .. } => "Setting",
            Error::Fetcher { .. } => "Fetcher",
            Error::Bind { .. } => "Bind",
            Error::Refused { .. } => "Refused",
            Error::PidFile { .. } => "PidFile",
            Error::Threads { .. } => "Threads",
            Error::Unsupported { .. } => "Unsupported",
            Error::Role { .. } => "Role",
            Error::Forged { .. } => "Forged",
            Error::System { .. } => "System",
        };
        let entry = |error: &Error| (Entry { heading: format!("`{}`", heading(error)), text: error.chain(), prose: String::new() }, true);
        compare("Errors that end the start", errors.iter().map(entry).collect());
    }

    #[test]
    fn every_reason_that_is_explained_occurs_in_the_code() {
        fn read(directory: &std::path::Path, all: &mut String) {
            for entry in std::fs::read_dir(directory).expect("a directory of sources") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    read(&path, all);
                } else {
                    all.push_str(&std::fs::read_to_string(&path).expect("a source"));
                }
            }
        }
        let Some(section) = section("Reasons") else { return };
        let mut sources = String::new();
        read(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
        let rows: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(text, _)| text).collect();
        assert!(!rows.is_empty());
        for text in rows {
            // What is filled in stands as `..` in the document.
            assert!(text.split("..").all(|part| sources.contains(part.trim())), "no source says {text:?}");
        }
    }
}
