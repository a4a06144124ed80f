//! What the master does with files: opens what it starts, commits a release, puts a binary back, has the source looked at, and writes down what is remembered.

use super::poller::Poller;
use super::{Master, Memory};
use crate::FetchError;
use crate::binary::{self, Identity, Packaged, Record};
use crate::message::Message;
use crate::protocol::{Order, Outcome, ProofOrder, Report, StoreOrder};
use crate::supervisor::{Asker, Blame, Event, Generation, NewPackage, Program};
use crate::sys::files;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

/// A second master that could not prove the file at the path tries it again after this, or when somebody has touched the file.
const PROVED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long a process may take to read a file and to prove it: on a slow machine, a hundred times what it takes on others.
pub(super) fn time_to_prove(file: &Identity) -> Duration {
    Duration::from_micros(file.size_bytes / 2)
}

impl Master {
    /// Opens the file to be executed, without reading it: `O_PATH` needs no right to read. With it comes what it is, if it is the packaged one and somebody has
    /// changed that: only a candidate runs that, since nobody knows whether it can serve.
    pub(super) fn open_program(&self, program: Program, is_candidate: bool) -> io::Result<(File, Option<NewPackage>)> {
        let file = match program {
            Program::Own => self.own.try_clone(),
            Program::Last => {
                let last = self.supervisor.last().and_then(|last| self.children.get(&last)).map(|child| &child.program);
                last.or(self.last.as_ref()).ok_or_else(|| io::Error::other("nobody served before"))?.try_clone()
            }
            Program::AtPath => {
                let changed = self.changed_package().filter(|_| is_candidate);
                let path = changed.clone().map_or_else(|| self.place.resolve(), Ok)?;
                let file = files::open_to_execute(&path)?;
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::other(format!("{} is not a file", path.display())));
                }
                return Ok((file, changed.map(|path| NewPackage { path, file: Packaged::of(&metadata) })));
            }
            Program::Previous => match &self.memory {
                Some(memory) => binary::previous::open(memory.directory.path()).map(|(file, _)| file),
                None => Err(io::Error::other("there is no state directory")),
            },
            Program::Staged => match &self.staged {
                Some((_, file)) => file.try_clone().map(File::from),
                None => Err(io::Error::other("no release is staged")),
            },
        };
        file.map(|file| (file, None))
    }

    /// What has to be proved of a file that is to be a candidate, if anything: one in the binary store that is not the one that serves, which nobody can write to.
    pub(super) fn proof_order(&self, generation: Generation, identity: Identity) -> Option<ProofOrder> {
        let path = self.place.target().ok().filter(|path| self.place.has_store() && fs::symlink_metadata(path).is_ok())?;
        let is_candidate = self.supervisor.active() != Some(generation);
        let state_dir = self.place.state_dir().to_owned();
        let packaged = self.supervisor.record().packaged.clone().unwrap_or_default();
        (is_candidate && !identity.same_inode(&self.supervisor.running())).then(|| ProofOrder {
            path,
            identity,
            state_dir,
            packaged_path: self.place.invoked().to_owned(),
            packaged,
        })
    }

    /// Remembers which file is being proved, as it was before anybody read it: what is changed meanwhile is another one.
    pub(super) fn is_being_proved(&mut self, file: Packaged) {
        let until = self.now() + PROVED_AGAIN_AFTER;
        if let Some(memory) = &mut self.memory {
            memory.unproved = Some((file, until));
        }
    }

    /// The process has told that the file is not to be run, and why; the text goes on from the path.
    pub(super) fn unproved(&mut self, generation: Generation, why: &str) {
        if !self.supervisor.is_starting(generation) {
            return;
        }
        let path = self.place.target().unwrap_or_default();
        let why = format!("is not run: {} {why}", path.display());
        self.handle(Event::Refused { generation, why, blame: Blame::Nobody });
    }

    pub(super) fn commit(&mut self) -> Result<(), String> {
        // What is remembered of the release must be there before it is.
        self.save();
        let Some((staged, file)) = &self.staged else { return Err("no release is staged".to_owned()) };
        let unable = |error| format!("the program's path cannot be followed: {error}");
        let (path, target) = (self.place.resolve().map_err(unable)?, self.place.target().map_err(unable)?);
        if let Some(packaged) = self.changed_package() {
            return Err(format!("{} was replaced while the upgrade ran", packaged.display()));
        }
        binary::commit_to(&target, &path, staged, file.as_fd()).map_err(|error| FetchError::chain(&error))?;
        self.staged = None;
        Ok(())
    }

    /// The packaged file, if somebody has changed it since releases were committed in its place.
    pub(super) fn changed_package(&self) -> Option<PathBuf> {
        let before = self.supervisor.record().packaged.as_ref()?.identity;
        self.place.packaged().filter(|path| Packaged::at(path).is_ok_and(|now| now.identity != before))
    }

    /// Lets the packaged file be the one that is at the program's path.
    pub(super) fn set_stored_aside(&mut self) {
        if let Some(Memory { directory, lock: None, .. }) = &self.memory {
            // The other master may run it. Until that takes the packaged file too, this one prefers that.
            let before = directory.peek().unwrap_or_default().packaged;
            return self.supervisor.knows_package(before);
        }
        let path = self.place.target().unwrap_or_default();
        match self.place.set_stored_aside() {
            Ok(Some(aside)) => self.log.write(&Message::PackageWins { packaged: self.place.packaged().unwrap_or_default(), aside }),
            Ok(None) => {}
            Err(error) => self.log.write(&Message::StoredStays { path, why: error.to_string() }),
        }
    }

    /// Puts the previous binary back; `false` if what is at the path is for another master to decide.
    pub(super) fn take_back(&mut self, failed: &Identity) -> Result<bool, String> {
        let path = self.place.resolve().map_err(|error| format!("the program's path cannot be followed: {error}"))?;
        let Some(memory) = &mut self.memory else { return Err("there is no state directory".to_owned()) };
        if memory.lock.is_none() {
            memory.shunned = Some(*failed);
            return Ok(false);
        }
        binary::take_back(&path, memory.directory.path(), failed).map(|_| true).map_err(|error| FetchError::chain(&error))
    }

    /// Starts a look at the source; or, where another master looks, sees whether it has installed something.
    pub(super) fn poll(&mut self) -> Option<Event> {
        let done = |outcome| Some(Event::PollEnded { report: Box::new(Report { outcome, memo: None, running_id: None, packaged: None }) });
        let failed = |why: String| done(Outcome::Failed { error: FetchError::passing(why) });
        let running = self.supervisor.running();
        let path = match self.place.resolve() {
            Ok(path) => path,
            Err(error) => return failed(format!("the program's path cannot be followed: {error}")),
        };
        let Some(memory) = &mut self.memory else { return failed("there is no state directory".to_owned()) };
        if memory.lock.is_none() {
            memory.lock = memory.directory.lock().unwrap_or_default();
            if memory.lock.is_some() {
                let (record, _) = memory.directory.load();
                self.supervisor.adopt(record);
            }
        }
        if memory.lock.is_none() {
            if !std::mem::replace(&mut memory.has_said_second, true) {
                self.log.write(&Message::SecondMaster { path: path.clone() });
            }
            let (shunned, unproved) = (memory.shunned, memory.unproved.clone());
            let first = memory.directory.peek().unwrap_or_default().for_second_master();
            let packaged = self.place.packaged().and_then(|path| Packaged::at(&path).ok()).map(|packaged| packaged.identity);
            if first.packaged.as_ref().is_some_and(|first| Some(first.identity) == packaged) {
                self.supervisor.knows_package(first.packaged.clone());
            }
            let path = self.changed_package().unwrap_or(path);
            let now = self.now();
            let is_unproved = |there: &Packaged| unproved.as_ref().is_some_and(|(unproved, until)| unproved == there && now < *until);
            let is_new = Packaged::at(&path)
                .is_ok_and(|there| !there.identity.same_inode(&running) && Some(there.identity) != shunned && !is_unproved(&there));
            if is_new && self.supervisor.takes_up_changes() {
                self.log.write(&Message::PathChanged { path });
                // If it is a release on probation, a crash of it takes it back here too. The packaged file may have other numbers there.
                let packaged = self.supervisor.record().packaged.clone();
                self.supervisor.adopt(Record { packaged, ..first });
                let now = self.now();
                self.supervisor.handle(now, Event::RestartAsked { asker: Asker::PathChanged });
            }
            return done(Outcome::Unchanged);
        }
        let (known, judged) = self.supervisor.known();
        let (state_dir, installed_signed_unix_s) = (memory.directory.path().to_owned(), self.supervisor.installed_signed_unix_s());
        if self.place.has_store() {
            let staged = self.staged.iter().map(|(staged, _)| staged.release.id.clone());
            let ids: Vec<String> = self.supervisor.record().stored_ids().into_iter().chain(staged).collect();
            binary::store::forget_all_but(memory.directory.path(), &ids);
        }
        let store = self.place.has_store().then(|| StoreOrder {
            target: self.place.target().unwrap_or_default(),
            packaged_path: self.place.invoked().to_owned(),
            packaged: self.supervisor.record().packaged.clone().unwrap_or_default(),
        });
        let naming = self.supervisor.naming();
        let order = Order { known, path, state_dir, running, judged, installed_signed_unix_s, naming, store };
        let program = self.supervisor.active().and_then(|active| self.children.get(&active)).map(|child| &child.program);
        let Some(program) = program else { return failed("no generation serves".to_owned()) };
        match Poller::start(program.as_fd(), &order, &self.original) {
            Ok(poller) => {
                self.poller = Some(poller);
                None
            }
            Err(error) => failed(format!("the poll process could not be started: {error}")),
        }
    }

    /// Writes the record if it has changed. Only the holder of the lock may.
    pub(super) fn save(&mut self) {
        if !std::mem::take(&mut self.has_unsaved) {
            return;
        }
        let Some(memory) = &mut self.memory else { return };
        if memory.lock.is_none() || memory.saved.as_ref() == Some(self.supervisor.record()) {
            return;
        }
        match memory.directory.save(self.supervisor.record()) {
            Ok(()) => {
                memory.saved = Some(self.supervisor.record().clone());
                memory.has_said_unsaved = false;
            }
            Err(error) if !memory.has_said_unsaved => {
                memory.has_said_unsaved = true;
                let (path, why) = (memory.directory.path().to_owned(), FetchError::chain(&error));
                self.log.write(&Message::StateNotSaved { path, why });
            }
            Err(_) => {}
        }
    }
}
