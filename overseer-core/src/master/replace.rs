//! How the master replaces itself: the file of the serving generation is executed in this very process, and goes on where this one has stopped.
//!
//! Whoever cannot go on executes the file that the master ran before, with the same snapshot: all that can fail is done before the first of its descriptors
//! is taken. Signals are held from before the snapshot is made until its reader has installed handlers, so none is lost and none has its default effect.

use super::listeners::{HeldState, Listeners};
use super::log::Log;
use super::notify::{self, Notify};
use super::pid_file::PidFile;
use super::rehearsal::Rehearsal;
use super::snapshot::{ATTEMPTS_MAX, ChildState, FORMAT, Header, MemoryState, Snapshot};
use super::{Child, Master, Memory, Setup};
use crate::Error;
use crate::address::Address;
use crate::binary::{Identity, Lock, StateDir};
use crate::message::Message;
use crate::role::variable_for_successor;
use crate::supervisor::{Event, Generation};
use crate::sys::handover::{Passed, bytes_of, file_of, hold_signals, let_signals_through, monotonic, rewrite};
use crate::sys::link::{Link, LinkState};
use crate::sys::signals::{self, Signals};
use crate::sys::{files, process, spawn};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

impl Master {
    /// Lets the file of the generation read what it would be handed. Answers at once if that cannot even begin.
    pub(super) fn rehearse(&mut self, generation: Generation) -> Option<Event> {
        let begun = self.may_become(generation).and_then(|program| {
            let bytes = self.snapshot()?.to_bytes()?;
            let cannot = |error: io::Error| format!("its rehearsal could not be started: {error}");
            let file = file_of(&bytes).map_err(cannot)?;
            Rehearsal::start(program.as_fd(), generation, file, &self.original).map_err(cannot)
        });
        match begun {
            Ok(rehearsal) => {
                self.rehearsals.push(rehearsal);
                None
            }
            Err(why) => Some(Event::Rehearsed { generation, result: Err(why) }),
        }
    }

    /// Executes the file that the master is to become, if the rules say so. Returns if there is nothing to do, or if it could not.
    pub(super) fn replace_if_due(&mut self) {
        if !self.rehearsals.is_empty() {
            // One that is still being ended would have nobody who knows of it.
            return;
        }
        let Some(generation) = self.supervisor.due_replacement() else { return };
        self.has_unsaved = true;
        self.save();
        let why = match self.may_become(generation) {
            Ok(program) => self.become_program(&program),
            Err(why) => why,
        };
        self.handle(Event::NotReplaced { why });
    }

    /// The file that the generation runs, if it is still the one at the program's path.
    fn may_become(&self, generation: Generation) -> Result<File, String> {
        let program = self.children.get(&generation).map(|child| &child.program).ok_or("its generation is gone")?;
        let path = self.place.resolve().map_err(|error| format!("the program's path cannot be followed: {error}"))?;
        let running = program.metadata().map(|metadata| Identity::of(&metadata)).map_err(|error| error.to_string())?;
        let there = std::fs::metadata(&path).map(|metadata| Identity::of(&metadata));
        if !there.is_ok_and(|there| there.same_inode(&running)) {
            return Err(format!("{} holds another file than generation {generation} runs", path.display()));
        }
        if spawn::is_script(program.as_fd()) {
            return Err("its file is a script".to_owned());
        }
        program.try_clone().map_err(|error| error.to_string())
    }

    /// Returns only if it could not; why.
    fn become_program(&mut self, program: &File) -> String {
        if let Err(error) = hold_signals() {
            return format!("signals cannot be held: {error}");
        }
        let why = self.hand_over(program);
        let_signals_through();
        why
    }

    fn hand_over(&self, program: &File) -> String {
        let made = self.snapshot().and_then(|mut snapshot| {
            snapshot.header.away_since = monotonic();
            let file = file_of(&snapshot.to_bytes()?).map_err(|error| format!("the snapshot cannot be written: {error}"))?;
            Ok((snapshot.descriptors(), file))
        });
        let (mut descriptors, file) = match made {
            Ok(made) => made,
            Err(why) => return why,
        };
        let passed = match Passed::of(&file) {
            Ok(passed) => passed,
            Err(error) => return error.to_string(),
        };
        descriptors.push(passed);
        let opened = descriptors.iter().try_for_each(|descriptor| descriptor.outlives_exec(true));
        let error = match opened {
            Ok(()) => spawn::become_program(program.as_fd(), variable_for_successor(passed)),
            Err(error) => error,
        };
        for descriptor in descriptors {
            let _ = descriptor.outlives_exec(false);
        }
        format!("its file is not executed by the system: {error}")
    }

    /// What this master knows and has open.
    fn snapshot(&self) -> Result<Snapshot, String> {
        self.try_snapshot().map_err(|error| format!("a descriptor cannot be handed over: {error}"))
    }

    fn try_snapshot(&self) -> io::Result<Snapshot> {
        let state = |link: &Option<Link>| link.as_ref().map(Link::state).transpose();
        let children = self.children.iter().map(|(generation, child)| {
            Ok(ChildState {
                generation: *generation,
                pid: child.pid.as_raw(),
                link: state(&child.link)?,
                unheard: state(&child.unheard)?,
                program: Passed::of(&child.program)?,
                why: child.why.clone(),
                asks: child.asks.clone(),
                has_listeners: child.has_listeners,
                open_work: child.open_work,
            })
        });
        let memory = self.memory.as_ref().map(|memory| {
            Ok::<_, io::Error>(MemoryState {
                directory: memory.directory.path().to_owned(),
                lock: memory.lock.as_ref().map(Passed::of).transpose()?,
                has_said_second: memory.has_said_second,
                shunned: memory.shunned,
                has_said_unsaved: memory.has_said_unsaved,
                why_off: memory.why_off.clone(),
            })
        });
        Ok(Snapshot {
            header: Header { format: FORMAT, predecessor: Passed::of(&self.own)?, attempts: 0, why: None, away_since: Duration::ZERO },
            started: monotonic().saturating_sub(self.started.elapsed()),
            rules: self.supervisor.clone(),
            children: children.collect::<io::Result<_>>()?,
            listeners: self.listeners.state()?,
            store: self.listeners.store_state().clone(),
            signals: self.signals.state()?,
            original: self.original.clone(),
            place: self.place.clone(),
            staged: self.staged.as_ref().map(|(staged, file)| Ok::<_, io::Error>((staged.clone(), Passed::of(file)?))).transpose()?,
            memory: memory.transpose()?,
            has_sought_memory: self.has_sought_memory,
            pid_file: self.pid_file.as_ref().map(|file| Ok::<_, io::Error>((file.path().to_owned(), Passed::of(file)?))).transpose()?,
            lost_lines: self.log.lost,
            notify: self.notify.state().clone(),
            suspect: self.suspect,
        })
    }

    /// Goes on with what the master before has handed over. `LISTEN_FDS` and its like were for that one and are not looked at.
    fn resume(setup: Setup, Inherited { snapshot, addresses, own }: Inherited) -> Self {
        let mut log = Log::new(setup.log_format, setup.debug, setup.no_warn);
        log.lost = snapshot.lost_lines;
        if !setup.threads.is_empty() {
            log.write(&Message::Threads { count: setup.threads.len(), names: setup.threads.join(", ") });
        }
        process::set_name(snapshot.place.name());
        let (notify, warning) = Notify::from_environment(snapshot.notify);
        warning.iter().for_each(|warning| log.write(warning));
        let mut supervisor = snapshot.rules;
        supervisor.has_process_manager(notify.is_wanted(), notify::watchdog());
        let children = snapshot.children.into_iter().map(|child| {
            let resumed = Child {
                pid: Pid::from_raw(child.pid),
                link: child.link.map(LinkState::take),
                unheard: child.unheard.map(LinkState::take),
                program: File::from(child.program.take()),
                why: child.why,
                asks: child.asks,
                has_listeners: child.has_listeners,
                open_work: child.open_work,
            };
            (child.generation, resumed)
        });
        let memory = snapshot.memory.map(|memory| Memory {
            directory: StateDir::resume(memory.directory),
            lock: memory.lock.map(Passed::take).map(Lock::resume),
            saved: None,
            has_said_second: memory.has_said_second,
            shunned: memory.shunned,
            unproved: None,
            has_said_unsaved: memory.has_said_unsaved,
            why_off: memory.why_off,
        });
        // It was for the way back.
        drop(snapshot.header.predecessor.take());
        Self {
            supervisor,
            started: Instant::now().checked_sub(monotonic().saturating_sub(snapshot.started)).unwrap_or_else(Instant::now),
            // Who is stopped while nobody is the master is stopped since then.
            awake: snapshot.header.away_since.saturating_sub(snapshot.started),
            signals: Signals::resume(snapshot.signals),
            original: snapshot.original,
            log,
            place: snapshot.place,
            own,
            listeners: Listeners::resume(snapshot.listeners, addresses, snapshot.store),
            children: children.collect(),
            // In a gap the master is not replaced.
            last: None,
            poller: None,
            rehearsals: Vec::new(),
            staged: snapshot.staged.map(|(staged, file)| (staged, file.take())),
            memory,
            suspect: snapshot.suspect,
            shown: None,
            has_sought_memory: snapshot.has_sought_memory,
            has_unsaved: true,
            has_unsaved_events: false,
            tells_by: None,
            has_worked: true,
            pid_file: snapshot.pid_file.map(|(path, file)| PidFile::resume(path, file.take())),
            notify,
        }
    }

    /// What the settings of the file that this master runs now ask for, beyond what it was handed.
    fn move_files(&mut self, pid_file: Option<PathBuf>, state_dir: Option<PathBuf>, binary_store: Option<PathBuf>) {
        if self.pid_file.as_ref().map(|file| file.path().to_owned()) != pid_file {
            let made = pid_file.map(|path| PidFile::create(&path).map_err(|error| format!("cannot make {}: {error}", path.display())));
            match made.transpose() {
                Ok(new) => {
                    if let Some(old) = std::mem::replace(&mut self.pid_file, new)
                        && let Err(error) = old.remove()
                    {
                        self.log.write(&Message::PidFileLost { path: old.path().to_owned(), why: error.to_string() });
                    }
                }
                Err(why) => self.log.write(&Message::SettingWaits { setting: "pid_file".to_owned(), why }),
            }
        }
        let wanted = state_dir.map_or_else(|| self.place.default_state_dir(), |path| std::path::absolute(&path).unwrap_or(path));
        if wanted != self.place.state_dir() {
            let why = format!("what is remembered stays in {} until the service is started anew", self.place.state_dir().display());
            self.log.write(&Message::SettingWaits { setting: "state_dir".to_owned(), why });
        }
        if let Some(why) = self.place.why_not_in(binary_store.as_deref()) {
            self.log.write(&Message::SettingWaits { setting: "binary_store".to_owned(), why });
        }
    }
}

/// A snapshot that this build can go on with. Nothing of it was taken.
struct Inherited {
    snapshot: Snapshot,
    /// Those of its listeners.
    addresses: Vec<Address>,
    own: File,
}

impl Inherited {
    /// Does all that can fail.
    ///
    /// # Errors
    /// What keeps this build from going on with it. All of it is there for another one.
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let snapshot = Snapshot::read(bytes)?;
        let addresses = snapshot.listeners.iter().map(HeldState::address).collect::<Result<_, _>>()?;
        let all = snapshot.descriptors();
        let is_each_once = all.iter().map(|passed| passed.descriptor).collect::<BTreeSet<_>>().len() == all.len();
        if let Some(gone) = all.iter().find(|passed| !passed.is_here()).or(all.first().filter(|_| !is_each_once)) {
            return Err(format!("descriptor {} is not the one that was handed over", gone.descriptor));
        }
        let own = files::own_file().and_then(|path| files::open_to_execute(&path));
        let own = own.map_err(|error| format!("its own file cannot be opened: {error}"))?;
        // What holds is what the serving generation has said, as for all of its settings.
        signals::handle(&snapshot.original, snapshot.rules.restart_signal())
            .map_err(|error| format!("its signal handlers cannot be installed: {error}"))?;
        Ok(Self { snapshot, addresses, own })
    }
}

/// Goes on as the master that has executed this file in its place. Returns only if neither this one nor its predecessor can.
pub(crate) fn resume(setup: Result<Setup, Error>, handed: File) -> Error {
    let cannot = Error::system("cannot go on as the master");
    let bytes = match bytes_of(&handed) {
        Ok(bytes) => bytes,
        Err(error) => return cannot(error),
    };
    let ready = setup.map_err(|error| error.chain()).and_then(|setup| Ok((setup, Inherited::read(&bytes)?)));
    let (mut setup, inherited) = match ready {
        Ok(ready) => ready,
        Err(why) => return cannot(go_back(&handed, &bytes, &why)),
    };
    // This one lives for long.
    drop((handed, bytes));
    let header = inherited.snapshot.header.clone();
    let (pid_file, state_dir, binary_store) = (setup.pid_file.take(), setup.state_dir.take(), setup.binary_store.take());
    let mut master = Master::resume(setup, inherited);
    let_signals_through();
    let own = master.own.metadata().map(|metadata| Identity::of(&metadata)).unwrap_or_default();
    let took = monotonic().saturating_sub(header.away_since);
    let why = header.why.map(|why| format!("its file could not go on: {why}"));
    master.handle(Event::Replaced { own, took, why });
    master.move_files(pid_file, state_dir, binary_store);
    // A command may have come whose signal came to the one before.
    master.take_commands();
    // What has ended before the snapshot was made, and what ended since.
    master.reap();
    master.close_unused_listeners();
    // What the one before could not, or did not know how to.
    master.keep_listeners();
    master.live()
}

/// Executes the file that the master ran before, with the same snapshot. Returns only if it could not; why this one could not go on, and why that one is not
/// executed.
fn go_back(handed: &File, bytes: &[u8], why: &str) -> io::Error {
    let unable = |then: &str| io::Error::other(format!("{why}; and the one before cannot be executed: {then}"));
    let Some((header, bytes)) = Header::handed_back(bytes, why) else { return unable("the snapshot does not name it") };
    if header.attempts >= ATTEMPTS_MAX {
        return unable("it was tried often enough");
    }
    if !header.predecessor.is_here() {
        return unable("its descriptor is gone");
    }
    // Into the file that is there: it may be a shortage of descriptors that is the way back's reason.
    let opened = rewrite(handed, &bytes).and_then(|()| Passed::of(handed)).and_then(|passed| passed.outlives_exec(true).map(|()| passed));
    match opened {
        Ok(passed) => unable(&spawn::become_program(header.predecessor.borrow(), variable_for_successor(passed)).to_string()),
        Err(error) => unable(&error.to_string()),
    }
}
