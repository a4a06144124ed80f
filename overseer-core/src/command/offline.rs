//! What can be done while no master runs: the record and the file at the path are changed here, under the lock of a master.

use super::{Refused, Scene, known_ids, user};
use crate::FetchError;
use crate::binary::{self, Hold, Identity, Record, StateDir, unix_s};
use crate::message::Message;
use crate::supervisor::Command;
use std::fs;

pub(super) fn command(scene: &Scene, directory: Option<&StateDir>, command: Command) -> Result<String, Refused> {
    if matches!(command, Command::Poll | Command::Restart | Command::Unknown) {
        return Err(Refused::failed(format!("no master of {} runs (by {})", scene.program(), scene.state_dir())));
    }
    let failed = |error: binary::StateDirError| Refused::failed(FetchError::chain(&error));
    if let Some(store) = &scene.missing_store {
        return Err(Refused::failed(format!("there is no {}: start the service first, which makes it", store.display())));
    }
    let Some(directory) = directory else {
        // Nobody knows whether the first master will look there: the environment of the service may name another place.
        return Err(Refused::failed(format!(
            "nothing is remembered of {}: there is no {}; start the service first, or give the arguments and the environment by which it finds another one",
            scene.program(),
            scene.state_dir()
        )));
    };
    let Some(_lock) = directory.lock_from_command().map_err(failed)? else {
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
            (Message::Forgotten { count }, format!("verdicts forgotten: {count}; the next master looks when it starts"))
        }
        Command::Hold { reason } => {
            record.held = Some(Hold { by: by.clone(), reason: reason.clone(), at_unix_s: now });
            (Message::Held { by, reason }, format!("upgrades are held; no master runs (by {})", scene.state_dir()))
        }
        Command::Unhold if record.held.take().is_none() => return Err(Refused::failed("upgrades are not held")),
        Command::Unhold => (Message::Unheld {}, format!("upgrades are not held any more; no master runs (by {})", scene.state_dir())),
        Command::Rollback => return roll_back(scene, directory, record, &by, now),
        Command::Poll | Command::Restart | Command::Unknown => unreachable!("they were refused above"),
    };
    record.note(now, note.to_string());
    directory.save(&record).map_err(failed)?;
    Ok(text)
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
