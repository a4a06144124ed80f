//! What can be done while no master runs: the record and the file at the path are changed here, under the lock of a master.

use super::{Refused, Scene, known_ids, user};
use crate::FetchError;
use crate::binary::{self, Hold, Identity, Place, Record, StateDir, unix_s};
use crate::message::Message;
use crate::supervisor::Command;
use std::fs;
use std::os::unix::fs::MetadataExt;

pub(super) fn command(scene: &Scene, directory: Option<&StateDir>, command: Command) -> Result<String, Refused> {
    let failed = |error: binary::StateDirError| Refused::failed(FetchError::chain(&error));
    if let Some(path) = &scene.not_made {
        return Err(Refused::failed(format!("{} is not there: start the service first, which makes it", path.display())));
    }
    let made;
    let directory = match (directory, &command) {
        (Some(directory), _) => directory,
        // The first master is to find it.
        (None, Command::Hold { .. }) if is_anybodys(&scene.place) => {
            let around = scene.place.directory().display();
            return Err(Refused::failed(format!(
                "{around} can be written by several users, and nobody knows who the service is: start it first"
            )));
        }
        (None, Command::Hold { .. }) => {
            made = StateDir::open(&scene.place).map_err(failed)?;
            &made
        }
        (None, _) => {
            return Err(Refused::failed(format!("nothing is remembered of {}: there is no {}", scene.program(), scene.state_dir())));
        }
    };
    let Some(_lock) = directory.lock().map_err(failed)? else {
        let holder = directory.lock_holder().map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        return Err(Refused::failed(format!("{holder} has the lock {} and shows nothing of itself", directory.lock_path().display())));
    };
    let (mut record, damage) = directory.load();
    if let Some(why) = damage {
        eprintln!("[overseer] warning: {}", Message::StateDamaged { why });
    }
    let (by, now) = (user(), unix_s());
    let (note, text) = match command {
        Command::Retry => {
            let count = record.verdicts.len();
            record.forget_verdicts();
            record.looks.last_unix_s = None;
            (Message::Forgotten { count }, format!("{count} verdicts are forgotten; the next master looks when it starts"))
        }
        Command::Hold { reason } => {
            record.held = Some(Hold { by: by.clone(), reason: reason.clone(), at_unix_s: now });
            (Message::Held { by, reason }, "upgrades are held; no master runs".to_owned())
        }
        Command::Unhold if record.held.take().is_none() => return Err(Refused::failed("upgrades are not held")),
        Command::Unhold => (Message::Unheld {}, "upgrades are not held any more; no master runs".to_owned()),
        Command::Rollback => return roll_back(scene, directory, record, &by, now),
        Command::Poll | Command::Restart | Command::Unknown => return Err(Refused::failed("no master runs")),
    };
    record.note(now, note.to_string());
    directory.save(&record).map_err(failed)?;
    Ok(text)
}

/// Whether a state directory that is made by this process might not be the service's: who that is shows only where one user alone can make it.
fn is_anybodys(place: &Place) -> bool {
    let own = nix::unistd::geteuid();
    let is_owner = |around: &fs::Metadata| !own.is_root() && around.uid() == own.as_raw();
    fs::metadata(place.directory()).is_ok_and(|around| around.mode() & 0o022 != 0 && !is_owner(&around))
}

/// Puts `previous` back at the path. It is not started, so nothing is proved of it but that it has run before.
fn roll_back(scene: &Scene, directory: &StateDir, mut record: Record, by: &str, now: u64) -> Result<String, Refused> {
    if let Some(why) = binary::why_no_roll_back(&scene.place, directory.path(), None) {
        return Err(Refused::failed(why));
    }
    let unable = |error: std::io::Error| Refused::of(format!("cannot look at {}", scene.program()), &error);
    let path = scene.place.resolve().map_err(unable)?;
    let from = Identity::of(&fs::symlink_metadata(&path).map_err(unable)?);
    for known in known_ids(&scene.place) {
        record.remember_id(known.identity, &known.id);
    }
    let before = record.clone();
    let name = record.name_of(&from).to_string();
    record.rolled_back(&from, by, now);
    record.note(now, Message::RolledBack { from: name.clone(), path: path.clone() }.to_string());
    directory.save(&record).map_err(|error| Refused::failed(FetchError::chain(&error)))?;
    if let Err(error) = binary::roll_back(&path, directory.path(), &from) {
        let _ = directory.save(&before);
        return Err(Refused::failed(format!("nothing was rolled back: {}", FetchError::chain(&error))));
    }
    Ok(format!("the previous binary is at {} again and runs from the next start on; {name} is rejected until a retry", path.display()))
}
