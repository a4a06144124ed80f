//! Commands from the outside: a file in the state directory says what is asked for, a signal that there is one, and another file shows what became of it.
//!
//! Whoever may write the state directory may give commands; there is no socket. The signal alone does nothing.

use super::Master;
use crate::FetchError;
use crate::binary::{self, Identity, KnownId};
use crate::command::{CommandFile, Process};
use crate::message::Message;
use crate::signal::Signal;
use crate::supervisor::{Command, Event};

/// Comes with a command. A process that knows nothing of it ignores it (signal(7)), so a PID that is somebody else's by now does no harm.
pub(crate) const SIGNAL: Signal = Signal::URG;

impl Master {
    /// Takes in the commands that lie in the state directory. `false` if there are none; then the signal that came is one like all others.
    pub(super) fn take_commands(&mut self) -> bool {
        let Some(memory) = self.memory.as_ref().filter(|memory| memory.lock.is_some()) else { return false };
        let commands = memory.directory.take_commands();
        let were_some = !commands.is_empty();
        for (path, command) in commands {
            match command {
                Ok(file) => self.command(file),
                Err(why) => self.log.write(&Message::CommandIgnored { path, why }),
            }
        }
        were_some
    }

    fn command(&mut self, file: CommandFile) {
        let CommandFile { token, command, by, ids } = file;
        for KnownId { identity, id } in ids {
            self.supervisor.learn(identity, &id);
        }
        let obstacle = if command == Command::Rollback { self.why_no_rollback() } else { None };
        self.handle(Event::Commanded { token, command, by, obstacle });
    }

    /// Why nobody can go back to the previous binary, as far as files are concerned.
    fn why_no_rollback(&self) -> Option<String> {
        let running = self.supervisor.running();
        let Some(memory) = &self.memory else { return Some("there is no state directory".to_owned()) };
        binary::why_no_roll_back(&self.place, memory.directory.path(), Some(&running))
    }

    /// Puts the previous binary back at the path for good.
    pub(super) fn put_back(&mut self, from: &Identity) -> Result<Identity, String> {
        // What is remembered of it must be there before it is.
        self.save();
        let path = self.place.resolve().map_err(|error| format!("the program's path cannot be followed: {error}"))?;
        let Some(memory) = &self.memory else { return Err("there is no state directory".to_owned()) };
        binary::roll_back(&path, memory.directory.path(), from).map_err(|error| FetchError::chain(&error))
    }

    /// Shows what has changed, to whoever may read the state directory.
    pub(super) fn show(&mut self) {
        let Some(memory) = self.memory.as_ref().filter(|memory| memory.lock.is_some()) else { return };
        let mut live = self.supervisor.live();
        live.process = self.shown.as_ref().map_or_else(Process::own, |shown| shown.process.clone());
        live.overseer = env!("CARGO_PKG_VERSION").to_owned();
        live.why_off = memory.why_off.clone();
        for generation in &mut live.generations {
            generation.open_work = self.children.get(&generation.generation).and_then(|child| child.open_work);
        }
        if self.shown.as_ref() == Some(&live) {
            return;
        }
        // On a full disk whoever asks sees what was; the next turn tries again.
        if memory.directory.show(&live).is_ok() {
            self.shown = Some(live);
        }
    }
}
