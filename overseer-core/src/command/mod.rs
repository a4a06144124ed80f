//! Operators' commands, given by running the program itself with the variable `OVERSEER`: `OVERSEER=status ./app`.
//!
//! Such a process binds nothing and starts nothing. It finds the state directory of the program, reads what the master shows there (`live`), leaves
//! a file with what is asked for, sends the master a signal, and waits until the master shows an answer. The rights on that directory decide who may. Where no
//! master runs, `offline` does what can be done without one.

mod live;
mod offline;
mod page;
mod status;

pub(crate) use live::{Live, LiveGeneration, LiveState, Presence, Process, Told};

use crate::FetchError;
use crate::binary::{Identity, KnownId, Place, StateDir, id_of};
use crate::supervisor::Command;
use crate::sys::files::process_descriptor;
use crate::sys::poll::{Interest, wait};
use crate::sys::process;
use crate::wish::{Wish, words};
use nix::unistd::{Pid, Uid, User};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the master may take to see a command.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(10);
/// How long a look, a restart or a rollback may take. The master goes on with it afterwards.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// The pause between two looks at what the master shows.
const PAUSE: Duration = Duration::from_millis(50);
/// The exit status of a command that did what it was to do, or of a status that says that the program serves.
const DONE: i32 = 0;
/// It was not done, or failed.
const FAILED: i32 = 1;
/// Of a status: nobody serves. As of init scripts in the Linux Standard Base.
const NOT_SERVING: i32 = 3;
/// This user may not ask, or nobody can tell. As there.
const NOT_ALLOWED: i32 = 4;

/// What an operator leaves in the state directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CommandFile {
    /// A random name.
    pub(crate) token: String,
    pub(crate) command: Command,
    /// Who asks, as people call him.
    #[serde(default)]
    pub(crate) by: String,
    /// IDs of files, for which the master has no time.
    #[serde(default)]
    pub(crate) ids: Vec<KnownId>,
}

/// Why a command comes to nothing, and the exit status.
#[derive(Debug)]
struct Refused(i32, String);

impl Refused {
    fn failed(why: impl Into<String>) -> Self {
        Self(FAILED, why.into())
    }

    fn of(what: String, error: &io::Error) -> Self {
        let status = if error.kind() == io::ErrorKind::PermissionDenied { NOT_ALLOWED } else { FAILED };
        Self(status, format!("{what}: {error}"))
    }
}

/// Where the program is, and what is there of its master.
#[derive(Debug)]
struct Scene {
    place: Place,
    /// `None`: no master has ever made it.
    directory: Option<StateDir>,
    /// The binary store, if only a start of the service makes it.
    missing_store: Option<PathBuf>,
    master: Master,
}

/// What is known of a program's master.
#[derive(Debug)]
enum Master {
    /// None runs.
    Nobody,
    Here(Box<Live>),
    /// Nobody can tell from here whether one runs, for this reason; what was shown last, if that can be read.
    Unclear(String, Option<Box<Live>>),
}
impl Master {
    fn of(directory: &StateDir) -> Result<Self, Refused> {
        let live = match directory.shown() {
            Ok(None) => return Ok(Self::Nobody),
            Ok(Some(live)) => Box::new(live),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Refused::of(format!("cannot read {}", directory.path().display()), &error));
            }
            // What the last master left behind, and is no loss.
            Err(_) if directory.is_locked() == Some(false) => return Ok(Self::Nobody),
            // Of another version perhaps.
            Err(error) => {
                return Ok(Self::Unclear(format!("what the master shows in {} cannot be read: {error}", directory.path().display()), None));
            }
        };
        Ok(match directory.presence(&live) {
            Presence::Gone => Self::Nobody,
            Presence::Here => Self::Here(live),
            Presence::Unclear(why) => Self::Unclear(format!("the master has the PID {} {why}", live.process.pid), Some(live)),
        })
    }
}

/// Does what was asked for, and answers the exit status.
pub(crate) fn run(wish: Wish, binary_store: Option<&Path>, state_dir: Option<&Path>) -> i32 {
    let done = Scene::find(binary_store, state_dir).and_then(|scene| match wish {
        Wish::Off => Ok(DONE),
        Wish::Status { json } => status::show(&scene, json),
        Wish::Command(command) => scene.command(command).map(|text| {
            say(&text);
            DONE
        }),
    });
    done.unwrap_or_else(|Refused(status, why)| {
        eprintln!("[overseer] error: {why}");
        status
    })
}

/// Writes to standard output; that nobody reads it is no failure.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

impl Scene {
    fn find(binary_store: Option<&Path>, state_dir: Option<&Path>) -> Result<Self, Refused> {
        let unable = |error: io::Error| Refused::of("cannot find the program's own file".to_owned(), &error);
        let mut place = Place::called(state_dir).map_err(unable)?;
        // A look at it must not make it.
        if let Some(store) = binary_store.filter(|store| store.is_dir()) {
            place = place.with_store(store, state_dir).map_err(unable)?;
        }
        let missing_store = binary_store.filter(|store| !store.is_dir()).map(Path::to_owned);
        let directory = StateDir::find(&place).map_err(|error| Refused(NOT_ALLOWED, FetchError::chain(&error)))?;
        let master = directory.as_ref().map_or(Ok(Master::Nobody), Master::of)?;
        Ok(Self { place, directory, missing_store, master })
    }

    /// The program's name, for what is said of it.
    fn program(&self) -> String {
        self.place.invoked().display().to_string()
    }

    fn state_dir(&self) -> String {
        self.place.state_dir().display().to_string()
    }

    /// Lets the master do it, or does what can be done without one. Answers what came of it.
    fn command(&self, command: Command) -> Result<String, Refused> {
        match (&self.directory, &self.master) {
            (Some(directory), Master::Here(live)) => self.ask(directory, live, command),
            (_, Master::Unclear(why, _)) => {
                Err(Refused(NOT_ALLOWED, format!("nobody can ask the master of {} from here: {why}", self.program())))
            }
            (directory, _) => offline::command(self, directory.as_ref(), command),
        }
    }

    fn ask(&self, directory: &StateDir, live: &Live, command: Command) -> Result<String, Refused> {
        let pid = live.process.pid;
        self.is_the_one(pid)?;
        let unable = |what: String| move |error: io::Error| Refused::of(what, &error);
        let master = process_descriptor(Pid::from_raw(pid)).map_err(unable(format!("cannot watch the master (pid {pid})")))?;
        // Now that it is held, its PID cannot be another one's.
        if directory.presence(live) != Presence::Here {
            return Err(Refused::failed(format!("the master of {} (pid {pid}) has just ended", self.program())));
        }
        let ids = if command == Command::Rollback { known_ids(&self.place) } else { Vec::new() };
        let file = CommandFile { token: token(), command, by: user(), ids };
        // Gone when this returns, so nobody takes it later.
        let _left = directory.leave(&file).map_err(unable(format!("cannot leave a command in {}", directory.path().display())))?;
        let signalled = process::signal_by_descriptor(master.as_fd(), Pid::from_raw(pid), crate::master::COMMAND_SIGNAL);
        match signalled {
            Ok(()) => wait_for_answer(directory, &master, &file.token, pid),
            Err(error) => Err(Refused::of(format!("cannot signal the master (pid {pid})"), &error)),
        }
    }

    /// A process manager that asks by a command of its unit means its own master, and not another one that has the same state directory.
    fn is_the_one(&self, pid: i32) -> Result<(), Refused> {
        let meant = std::env::var("MAINPID").ok().and_then(|text| text.parse::<i32>().ok());
        match meant.filter(|meant| *meant != pid) {
            Some(meant) => Err(Refused::failed(format!(
                "the master of the state directory {} has the pid {pid}, and MAINPID is {meant}: give each service a state_dir of its own",
                self.state_dir()
            ))),
            None => Ok(()),
        }
    }
}

fn wait_for_answer(directory: &StateDir, master: &OwnedFd, token: &str, pid: i32) -> Result<String, Refused> {
    let begun = Instant::now();
    let mut is_accepted = false;
    loop {
        let ended = wait(&[Interest { descriptor: master.as_fd(), write: false }], Some(PAUSE))
            .is_ok_and(|ready| ready.iter().any(|ready| ready.read));
        let asked = directory.shown().ok().flatten().and_then(|live| live.commands.into_iter().find(|told| told.token == token));
        if let Some(Told { answer: Some(answer), .. }) = asked {
            return if answer.is_success { Ok(answer.text) } else { Err(Refused::failed(answer.text)) };
        }
        is_accepted |= asked.is_some();
        if ended {
            return Err(Refused::failed(format!("the master (pid {pid}) has ended without an answer")));
        }
        let within = if is_accepted { ANSWERED_WITHIN } else { ACCEPTED_WITHIN };
        if begun.elapsed() >= within {
            let what = if is_accepted { "goes on with it, and has not come to an end" } else { "did not answer" };
            return Err(Refused::failed(format!("the master (pid {pid}) {what} within {}", crate::message::Seconds(within))));
        }
    }
}

/// A name that no other command has.
fn token() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(16).collect()
}

/// Who asks.
fn user() -> String {
    let uid = Uid::current();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| format!("user {uid}"), |user| user.name);
    match std::env::var("SUDO_USER") {
        Ok(before) if !before.is_empty() && before != name => words(&format!("{before} (as {name})")),
        _ => words(&name),
    }
}

/// The ID of the file at the program's path, if it can be read.
fn known_ids(place: &Place) -> Vec<KnownId> {
    let hash = || {
        let mut file = File::open(place.resolve()?)?;
        let identity = Identity::of(&file.metadata()?);
        Ok::<_, io::Error>(KnownId { identity, id: id_of(&mut file)? })
    };
    hash().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of whom the system tells everything.
    fn seen(process: &Process) -> Presence {
        process.presence(|| unreachable!("it can be seen"))
    }

    #[test]
    fn a_process_is_told_from_another_one_that_has_its_number() {
        let own = Process::own();
        assert_eq!(seen(&own), Presence::Here);
        assert_eq!(seen(&Process { start: own.start + 1, ..own.clone() }), Presence::Gone);
        assert_eq!(seen(&Process { boot: "another".to_owned(), ..own.clone() }), Presence::Gone);
        let elsewhere = Process { namespace: 1, ..own };
        for (is_locked, is_gone) in [(Some(true), false), (None, false), (Some(false), true)] {
            assert_eq!(elsewhere.presence(|| is_locked) == Presence::Gone, is_gone, "one lock is for all namespaces");
            assert_ne!(elsewhere.presence(|| is_locked), Presence::Here);
        }
        assert_eq!(seen(&Process::default()), Presence::Gone);
    }

    #[test]
    fn what_the_system_hides_from_a_master_or_a_command_does_not_make_it_gone() {
        let own = Process::own();
        assert_eq!(seen(&Process { boot: String::new(), namespace: 0, ..own.clone() }), Presence::Here);
        let without_start = Process { start: 0, ..own };
        assert_eq!(without_start.presence(|| Some(true)), Presence::Here);
        assert_eq!(without_start.presence(|| Some(false)), Presence::Gone, "its number is another one's by now");
        assert!(matches!(without_start.presence(|| None), Presence::Unclear(_)));
    }
}
