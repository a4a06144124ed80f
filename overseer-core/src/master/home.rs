//! Which file a start of the service runs, where releases lie in a binary store: the packaged one, or what was committed since.
//!
//! The packaged file decides, before anything is bound or counted on: it executes the release in its own place, with PID, arguments, environment and what the
//! process manager handed over, or runs itself. A release that finds its settings wrong executes the packaged file in the same way.

use super::Memory;
use super::log::Log;
use super::start::{Setup, count_start, remember};
use crate::binary::store::{Choice, Facts, Found, NotProved, Stored, choose, forget_all_but, prove};
use crate::binary::{self, Packaged, Place, Record, unix_s};
use crate::message::{Message, Seconds};
use crate::role::variable_for_stored;
use crate::sys::handover::{Passed, bytes_of, file_of};
use crate::sys::signals::Original;
use crate::sys::{process, spawn};
use crate::{Error, FetchError};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

/// What the packaged file and the release tell each other, when one executes the other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Handed {
    place: Place,
    /// To be executed again if the release cannot go on.
    packaged: Passed,
    is_counted: bool,
    /// Why the release could not go on; `None` on the way there.
    #[serde(default)]
    failed: Option<String>,
}

impl Handed {
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(file: File) -> io::Result<Self> {
        Ok(serde_json::from_slice(&bytes_of(&file)?)?)
    }

    /// Whether this process runs the packaged file again.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Executes the packaged file, since the release cannot go on. Returns only if it could not.
    pub(crate) fn go_back(self, why: Error) -> Error {
        let text = format!("cannot go on: {}", why.chain());
        let packaged = self.packaged;
        if packaged.is_here() {
            let original = Original::capture();
            let back = Self { failed: Some(text), ..self };
            let _ = original.map(|original| back.execute(packaged.borrow(), &original));
        }
        why
    }

    /// Becomes the file and hands this over. Returns only if it could not.
    fn execute(&self, program: BorrowedFd<'_>, original: &Original) -> io::Error {
        let passed = serde_json::to_vec(self).map_err(io::Error::from).and_then(|bytes| file_of(&bytes)).and_then(|file| {
            let passed = Passed::of(&file)?;
            passed.outlives_exec(true)?;
            self.packaged.outlives_exec(true)?;
            Ok((passed, file))
        });
        let error = match passed {
            Ok((passed, _file)) => spawn::execute(program, original, Some(variable_for_stored(passed))),
            Err(error) => error,
        };
        let _ = self.packaged.outlives_exec(false);
        error
    }
}

/// Where the program is, what is remembered of it, and whether this start of a release was counted.
pub(super) struct Home {
    pub(super) place: Place,
    pub(super) memory: Option<Memory>,
    pub(super) record: Record,
    pub(super) is_counted: bool,
}

/// Finds out what this start runs. Does not return if that is another file than the one that asks.
///
/// # Errors
/// The system does not say which file this is.
pub(super) fn find(setup: &mut Setup, own: &File, original: &Original, log: &mut Log) -> Result<Home, Error> {
    let failed = match setup.handed.take() {
        Some(Handed { failed: Some(why), packaged, .. }) => {
            drop(packaged.take_if_here());
            Some(why)
        }
        Some(handed) => return Ok(of_stored(handed, setup, log)),
        None => None,
    };
    let place = Place::find(setup.state_dir.as_deref()).map_err(Error::system("cannot find the program's own file"))?;
    let Some(store) = &setup.binary_store else { return Ok(without_store(place, setup, own, original, log)) };
    match place.with_store(store, setup.state_dir.as_deref()) {
        Ok(with_store) if with_store.has_store() => Ok(with(place, with_store, failed, setup, own, original, log)),
        Ok(place) => Ok(without_store(place, setup, own, original, log)),
        Err(error) => {
            log.write(&Message::UpgradesOff { why: format!("the binary store {} cannot be used: {error}", store.display()) });
            Ok(off(place))
        }
    }
}

fn off(place: Place) -> Home {
    Home { place, memory: None, record: Record::default(), is_counted: false }
}

fn without_store(place: Place, setup: &Setup, own: &File, original: &Original, log: &mut Log) -> Home {
    let (mut memory, mut record) = remember(&place, &setup.settings, log);
    let is_counted = memory.as_mut().is_some_and(|memory| count_start(memory, &mut record, own, &place, original, log));
    Home { place, memory, record, is_counted }
}

/// The release goes on where the packaged file has executed it.
fn of_stored(handed: Handed, setup: &Setup, log: &mut Log) -> Home {
    let Handed { place, packaged, is_counted, .. } = handed;
    drop(packaged.take_if_here());
    process::set_name(place.name());
    if let Some(why) = place.why_not_in(setup.binary_store.as_deref()) {
        log.write(&Message::SettingWaits { setting: "binary_store".to_owned(), why });
    }
    let (memory, record) = remember(&place, &setup.settings, log);
    Home { place, memory, record, is_counted }
}

fn with(without: Place, place: Place, failed: Option<String>, setup: &Setup, own: &File, original: &Original, log: &mut Log) -> Home {
    let (memory, record) = remember(&place, &setup.settings, log);
    let Ok(target) = place.target() else { return off(without) };
    let packaged = place.packaged().unwrap_or_else(|| place.invoked().to_owned());
    let Some(memory) = memory else {
        if fs::symlink_metadata(&target).is_err() {
            return Home { place, memory: None, record, is_counted: false };
        }
        let why = "is not looked at, since upgrades are off".to_owned();
        log.write(&Message::StoredRefused { path: target, why, packaged });
        return off(without);
    };
    let mut start = Start { place, memory, record, target, packaged, setup, own, original };
    match start.choose(failed, log) {
        Ok(is_counted) => {
            start.forget_old_proofs();
            Home { place: start.place, memory: Some(start.memory), record: start.record, is_counted }
        }
        Err(error) => {
            log.write(&Message::StoredStays { path: start.target, why: error.to_string() });
            off(without)
        }
    }
}

/// A start of the service with a binary store.
struct Start<'a> {
    place: Place,
    memory: Memory,
    record: Record,
    target: PathBuf,
    packaged: PathBuf,
    setup: &'a Setup,
    own: &'a File,
    original: &'a Original,
}

impl Start<'_> {
    /// Runs the release in the store, or makes the packaged file the one that is to run. Returns only in the second case.
    ///
    /// # Errors
    /// What is in the store cannot be moved out of the way.
    fn choose(&mut self, mut failed: Option<String>, log: &mut Log) -> io::Result<bool> {
        let is_first = self.record.packaged.is_none();
        self.try_again(log);
        loop {
            let began = Instant::now();
            let (facts, now, found) = self.look(failed.take(), is_first);
            let has_changed = facts.package_has_changed;
            match (choose(facts), found) {
                (choice, _) if choice != Choice::Stored && self.memory.lock.is_none() => {
                    self.leave_to_other(choice, log);
                    if !has_changed {
                        self.record.packaged = Some(now);
                    }
                    return Ok(false);
                }
                (Choice::Stored, Some(found)) => {
                    // With other numbers perhaps.
                    self.record.packaged = Some(now);
                    let error = self.execute(&found, Seconds(began.elapsed()), log);
                    failed = Some(format!("cannot be executed: {error}"));
                    continue;
                }
                (Choice::TakeBack { starts }, Some(found)) => {
                    self.take_back(&found, starts, log)?;
                    continue;
                }
                (Choice::Packaged, _) => {}
                (Choice::NewPackaged, _) => {
                    if let Some(aside) = self.place.set_stored_aside()? {
                        log.write(&Message::PackageWins { packaged: self.packaged.clone(), aside });
                    }
                    self.record.package_wins(now.clone());
                }
                (Choice::PackagedForCopy, _) => fs::remove_file(&self.target)?,
                (Choice::NotStored(why), _) => self.refuse(why, None, log)?,
                (Choice::NeverReady { starts }, found) => {
                    let why = format!("was started {starts} times in a row, and none of its generations became ready");
                    self.refuse(why, found.as_ref(), log)?;
                }
                (Choice::Rest { starts }, Some(found)) => self.rest(&found, starts, log)?,
                (Choice::Stored | Choice::Rest { .. } | Choice::TakeBack { .. }, None) => unreachable!("it is chosen only if it was found"),
            }
            self.record.packaged = Some(now);
            self.save();
            return Ok(false);
        }
    }

    /// What is known, what the packaged file is now, and the release if it can be run.
    fn look(&self, failed: Option<String>, is_first: bool) -> (Facts, Packaged, Option<Found>) {
        let before = self.record.packaged.clone().unwrap_or_default();
        let is_there = fs::symlink_metadata(&self.target).is_ok();
        let has_been = !is_first && (self.record.installed.is_some() || self.record.resting.is_some());
        let is_missing = !is_there && has_been && self.record.installed.is_some() && !self.record.is_package_installed();
        let (is_still, now) = match is_there || has_been {
            true => before.is_still(&self.packaged).unwrap_or((true, before)),
            false => (true, before.again(&self.packaged).unwrap_or(before)),
        };
        let mut facts = Facts {
            stored: match (is_there, has_been) {
                (true, _) => Some(Stored::Whole),
                (false, true) if is_missing => Some(Stored::Missing),
                (false, true) => Some(Stored::Nothing),
                (false, false) => None,
            },
            package_has_changed: !is_still,
            failed,
            probation_starts: None,
            unready_starts: self.record.unready_starts,
        };
        if !is_there || !is_still {
            return (facts, now, None);
        }
        let found = match prove(&self.target, self.memory.directory.path(), &now, &self.setup.demands) {
            Ok(found) => found,
            Err(NotProved::CopyOfPackaged) => {
                facts.stored = Some(Stored::CopyOfPackaged);
                return (facts, now, None);
            }
            Err(NotProved::Bad(why)) => {
                facts.stored = Some(Stored::Bad(why));
                return (facts, now, None);
            }
        };
        if self.record.set_aside.as_ref().is_some_and(|aside| aside.release.is_same(&found.release)) {
            facts.stored = Some(Stored::SetAside);
        }
        // Whoever has the lock counts.
        let has_lock = self.memory.lock.is_some();
        let probation = self.record.probation.as_ref().filter(|probation| has_lock && probation.identity == found.identity);
        facts.probation_starts = probation.map(|probation| probation.starts);
        (facts, now, Some(found))
    }

    /// Becomes the release. Returns only if the system does not execute it.
    fn execute(&mut self, found: &Found, took: Seconds, log: &mut Log) -> io::Error {
        let before = self.record.clone();
        let is_counted = self.memory.lock.is_some();
        if is_counted {
            if !self.record.is_installed(&found.release) {
                // The master was killed before it could remember.
                self.record.was_installed(found.release.clone(), found.identity, unix_s());
            }
            self.record.unready_starts += 1;
            if let Some(probation) = self.record.probation.as_mut().filter(|probation| probation.identity == found.identity) {
                probation.starts += 1;
            }
            // If this cannot be saved, the count starts anew: a full disk must not keep out a good release.
            self.save();
        }
        let (release, path, packaged) = (crate::supervisor::describe(&found.release), self.target.clone(), self.packaged.clone());
        log.write(&Message::StoredRuns { release, path, packaged, took });
        let handed = Passed::of(self.own).map(|packaged| Handed { place: self.place.clone(), packaged, is_counted, failed: None });
        let error = match handed {
            Ok(handed) if found.file.is_unwritten() => handed.execute(found.file.file().as_fd(), self.original),
            Ok(_) => io::Error::other("somebody writes to it"),
            Err(error) => error,
        };
        self.record = before;
        error
    }

    /// Puts the previous binary into the place of a release that does not live through its probation.
    fn take_back(&mut self, found: &Found, starts: u32, log: &mut Log) -> io::Result<()> {
        let release = crate::supervisor::describe(&found.release);
        match binary::take_back(&self.target, self.memory.directory.path(), &found.identity) {
            Ok(_) => {
                self.record.taken_back(format!("started {starts} times without living through its probation"), unix_s());
                self.record.unready_starts = 0;
                self.say(Message::StartTakenBack { release, starts }, log);
            }
            Err(error) => {
                let error = FetchError::chain(&error);
                let why = format!(
                    "was started {starts} times and never lived through its probation, and the previous binary could not be put back: {error}"
                );
                self.refuse(why, Some(found), log)?;
            }
        }
        self.save();
        Ok(())
    }

    /// Puts a release that makes way for a while back into its place, if its time has come. Whether it is sound is found out as ever.
    fn try_again(&mut self, log: &mut Log) {
        let is_due = self.memory.lock.is_some() && self.record.is_rested(unix_s()) && fs::symlink_metadata(&self.target).is_err();
        let Some(resting) = self.record.resting.as_ref().filter(|_| is_due) else { return };
        let release = crate::supervisor::describe(&resting.installed.release);
        match self.place.put_stored_back() {
            Ok(()) => {
                self.record.has_rested();
                self.say(Message::StoredAgain { release, path: self.target.clone() }, log);
            }
            // It is fetched again when it is not held back any more.
            Err(_) => self.record.resting = None,
        }
        self.save();
    }

    /// Lets the packaged file run in place of a release that does not come up, for a while.
    fn rest(&mut self, found: &Found, starts: u32, log: &mut Log) -> io::Result<()> {
        self.place.set_stored_aside()?;
        let now = unix_s();
        let pause = self.record.hold_back_until_mended(&found.release);
        let why = format!("was started {starts} times in a row, and none of its generations became ready");
        self.record.rests(&found.release, now + pause.as_secs(), why.clone(), now);
        let why = format!("{why} (it is tried again in {}, or at the next start if this one does not come up either)", Seconds(pause));
        self.say(Message::StoredRefused { path: self.target.clone(), why, packaged: self.packaged.clone() }, log);
        Ok(())
    }

    /// The packaged file runs, and what becomes of the release is for the master that has the lock to decide.
    fn leave_to_other(&self, choice: Choice, log: &mut Log) {
        let why = match choice {
            Choice::NotStored(why) => why,
            Choice::NewPackaged => "was committed before the packaged file was changed".to_owned(),
            Choice::Packaged | Choice::PackagedForCopy => return,
            // Who does not have the lock knows of no starts.
            Choice::NeverReady { .. } | Choice::Rest { .. } | Choice::TakeBack { .. } | Choice::Stored => return,
        };
        let why = format!("{why}, and is left to the master that has the lock");
        log.write(&Message::StoredRefused { path: self.target.clone(), why, packaged: self.packaged.clone() });
    }

    fn forget_old_proofs(&self) {
        if self.memory.lock.is_some() {
            forget_all_but(self.memory.directory.path(), &self.record.stored_ids());
        }
    }

    /// Moves the release away. One that is to be rejected was whole and does not come up; it would be installed again.
    fn refuse(&mut self, why: String, rejected: Option<&Found>, log: &mut Log) -> io::Result<()> {
        self.place.set_stored_aside()?;
        self.record.lost_stored();
        if let Some(found) = rejected {
            self.record.judge(found.release.clone(), None, why.clone(), unix_s());
        }
        self.say(Message::StoredRefused { path: self.target.clone(), why, packaged: self.packaged.clone() }, log);
        Ok(())
    }

    /// Says it, and remembers that it happened.
    fn say(&mut self, message: Message, log: &mut Log) {
        self.record.note(unix_s(), message.to_string());
        log.write(&message);
    }

    fn save(&self) {
        if self.memory.lock.is_some() {
            let _ = self.memory.directory.save(&self.record);
        }
    }
}
