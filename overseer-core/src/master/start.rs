//! How a master comes up: what it remembers, what it binds, and whether it is the right binary at all.

use super::home::{self, Handed, Home};
use super::listeners::Listeners;
use super::log::Log;
use super::notify::{self, Notify, NotifyState};
use super::pid_file::PidFile;
use super::{Master, Memory};
use crate::activation::Offers;
use crate::address::Address;
use crate::binary::store::STARTS_MAX;
use crate::binary::{self, Demands, Identity, Place, Record, StateDir};
use crate::config::Upgrades;
use crate::message::Message;
use crate::protocol::Wanted;
use crate::supervisor::{Generation, Settings, Start, Supervisor};
use crate::sys::signals::{Original, Signals};
use crate::sys::{files, poll, spawn};
use crate::{Error, FetchError, LogFormat};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For how long an address that is in use is tried again: the children of a killed master may be leaving.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// What a master is made of.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) addresses: Vec<Address>,
    pub(crate) settings: Settings,
    pub(crate) log_format: LogFormat,
    pub(crate) debug: bool,
    pub(crate) no_warn: bool,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) binary_store: Option<PathBuf>,
    pub(crate) demands: Demands,
    /// From the packaged file, where this is the release in the binary store.
    pub(crate) handed: Option<Handed>,
    /// The threads that run already.
    pub(crate) threads: Vec<String>,
}

/// Becomes the master. Returns only if it could not; the process manager has been told why.
pub(crate) fn run(setup: Setup) -> Result<Infallible, Error> {
    // First of all: no descriptor that this process opens may be taken for one of those.
    let offers = Offers::take();
    let mut log = Log::new(setup.log_format, setup.debug, setup.no_warn);
    let (mut notify, warning) = Notify::from_environment(NotifyState::default());
    warning.iter().for_each(|warning| log.write(warning));
    let Err(error) = offers.map_err(cannot_take).and_then(|offers| come_up(setup, offers, log, &mut notify));
    notify.tell_failure(&error);
    Err(error)
}

fn come_up(mut setup: Setup, offers: Offers, mut log: Log, notify: &mut Notify) -> Result<Infallible, Error> {
    if !setup.threads.is_empty() {
        log.write(&Message::Threads { count: setup.threads.len(), names: setup.threads.join(", ") });
    }
    let original = Original::capture().map_err(Error::system("cannot read the signal mask"))?;
    let own =
        files::own_file().and_then(|path| files::open_to_execute(&path)).map_err(Error::system("cannot open the program's own file"))?;
    let has_sought_memory = setup.settings.looks();
    let Home { place, memory, mut record, is_counted } = home::find(&mut setup, &own, &original, &mut log)?;
    // That somebody else has what this master needs says nothing about the release.
    let blame_nobody = |record: &mut Record| {
        if let (true, Some(memory)) = (is_counted, &memory) {
            record.unready_starts = record.unready_starts.saturating_sub(1);
            if let Some(probation) = &mut record.probation {
                probation.starts = probation.starts.saturating_sub(1);
            }
            let _ = memory.directory.save(record);
        }
    };
    let pid_file = match setup.pid_file.as_ref().map(|path| (path, PidFile::create(path))) {
        Some((_, Ok(file))) => Some(file),
        Some((path, Err(source))) => {
            if source.kind() == ErrorKind::WouldBlock {
                blame_nobody(&mut record);
            }
            return Err(Error::PidFile { path: path.clone(), source });
        }
        None => None,
    };
    let signals = Signals::install(&original, setup.settings.restart_signal).map_err(Error::system("cannot install signal handlers"))?;
    // From here on this process is the one that goes on, and not another file that it executes.
    let offers = offers.close_on_exec().map_err(cannot_take)?;
    let mut listeners = Listeners::with_offers(offers);
    let bound = bind(&mut listeners, &setup.addresses);
    let unclaimed = listeners.refuse_offers();
    unclaimed.iter().chain(&listeners.describe_claimed()).for_each(|message| log.write(message));
    match bound {
        Ok(()) => {}
        Err(error) => {
            // Else the next start would get it again.
            listeners.tell_dropped(notify);
            if let Some(file) = &pid_file {
                let _ = file.remove();
            }
            if matches!(&error, Error::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse) {
                blame_nobody(&mut record);
            }
            return Err(error);
        }
    }
    let path = place.target().unwrap_or_else(|_| place.invoked().to_owned());
    let running = place.resolve().unwrap_or_else(|_| path.clone());
    log.write(&Message::MasterStarted { pid: std::process::id(), path: running, addresses: listeners.describe() });
    let mut settings = in_place(&setup.settings, &place);
    if has_sought_memory && settings.upgrades() != setup.settings.upgrades() {
        log.write(&Message::Ephemeral { directory: place.directory().to_owned() });
    }
    if memory.as_ref().is_none_or(|memory| memory.why_off.is_some()) {
        settings.source = None;
    }
    let previous = binary::previous::path_in(place.state_dir());
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let identity = own.metadata().map(|metadata| Identity::of(&metadata)).unwrap_or_default();
    let mut supervisor = Supervisor::new(Start { settings, record, own: identity, path, previous, unix, seed: fastrand::u64(..) });
    supervisor.has_process_manager(notify.is_wanted(), notify::watchdog());
    let mut master = Master {
        supervisor,
        started: Instant::now(),
        awake: Duration::ZERO,
        signals,
        original,
        log,
        place,
        own,
        listeners,
        children: BTreeMap::new(),
        last: None,
        poller: None,
        rehearsals: Vec::new(),
        staged: None,
        memory,
        suspect: None,
        shown: None,
        has_sought_memory,
        has_unsaved: false,
        has_unsaved_events: false,
        tells_by: None,
        has_worked: true,
        pid_file,
        notify: std::mem::take(notify),
    };
    master.keep_listeners();
    master.live()
}

/// The settings for releases that go to this place: where they would be gone with the container, they are only named, unless the program has said what it wants.
pub(super) fn in_place(settings: &Settings, place: &Place) -> Settings {
    let is_ephemeral = settings.upgrades.is_none() && settings.source.is_some() && place.is_ephemeral();
    let upgrades = if is_ephemeral { Some(Upgrades::Notify) } else { settings.upgrades };
    Settings { upgrades, is_ephemeral, ..settings.clone() }
}

/// Why upgrades are impossible here, if that is plain beforehand.
pub(super) fn obstacle(place: &Place, settings: &Settings) -> Option<String> {
    // Who only names what is new replaces nothing; but what lies in a store is executed.
    place.obstacle().filter(|_| settings.upgrades() == Upgrades::Install || place.has_store())
}

/// What earlier masters have remembered; `None` where there is nowhere to. Without a fetcher it is for commands alone, which a service can be without.
pub(super) fn remember(place: &Place, settings: &Settings, log: &mut Log) -> (Option<Memory>, Record) {
    let obstacle = obstacle(place, settings);
    let is_store_out_of_use = place.has_store() && (obstacle.is_some() || (!settings.looks() && !place.state_dir().exists()));
    let opened = match &obstacle {
        Some(why) if is_store_out_of_use => Err(why.clone()),
        None if is_store_out_of_use => Err("nothing is in the binary store, and nobody looks for releases".to_owned()),
        Some(_) | None => open_memory(place, log),
    };
    match opened {
        Ok((memory, record)) => {
            let why_off = obstacle.filter(|_| settings.looks());
            if let Some(why) = why_off.clone() {
                log.write(&Message::UpgradesOff { why });
            }
            (Some(Memory { why_off, ..memory }), record)
        }
        Err(why) => {
            log.write(&if settings.looks() { Message::UpgradesOff { why: obstacle.unwrap_or(why) } } else { Message::NoCommands { why } });
            (None, Record::default())
        }
    }
}

fn open_memory(place: &Place, log: &mut Log) -> Result<(Memory, Record), String> {
    let directory = StateDir::open(place).map_err(|error| FetchError::chain(&error))?;
    let lock = directory.lock_from_command().map_err(|error| FetchError::chain(&error))?;
    let (record, warning) = directory.load();
    // What another master remembers is its own to change.
    let record = if lock.is_some() { record } else { record.for_second_master() };
    if let Some(why) = warning {
        log.write(&Message::StateDamaged { why });
    }
    if let Some(lock) = &lock {
        directory.clean(lock, place);
    }
    let (saved, shunned, why_off) = (None, None, None);
    Ok((Memory { directory, lock, saved, has_said_second: false, shunned, unproved: None, has_said_unsaved: false, why_off }, record))
}

/// Counts the starts of a release that has not lived through its probation: neither a reboot nor a killed master lets it off. At
/// the third, the previous binary is put back and executed instead; then this does not return. `true` if there is one, and it was counted.
pub(super) fn count_start(memory: &mut Memory, record: &mut Record, own: &File, place: &Place, original: &Original, log: &mut Log) -> bool {
    if memory.lock.is_none() {
        return false;
    }
    let identity = own.metadata().map(|metadata| Identity::of(&metadata)).unwrap_or_default();
    let Some(probation) = record.probation.as_mut().filter(|probation| probation.identity == identity) else { return false };
    probation.starts += 1;
    let (starts, release) = (probation.starts, probation.release.clone());
    let name = crate::supervisor::describe(&release);
    if starts < STARTS_MAX {
        // If this cannot be saved, the count starts anew: a full disk must not put back a good release.
        let _ = memory.directory.save(record);
        return true;
    }
    let now = binary::unix_s();
    let back = place.resolve().map_err(|error| error.to_string()).and_then(|path| {
        binary::take_back(&path, memory.directory.path(), &identity).map_err(|error| FetchError::chain(&error))?;
        let file = files::open_to_execute(&path).map_err(|error| error.to_string())?;
        record.taken_back(format!("started {starts} times without living through its probation"), now);
        let message = Message::StartTakenBack { release: name.clone(), starts };
        record.note(now, message.to_string());
        let _ = memory.directory.save(record);
        log.write(&message);
        let error = spawn::execute(file.as_fd(), original, None);
        Err(format!("{} is back but cannot be executed: {error}", path.display()))
    });
    let Err::<Infallible, String>(why) = back;
    log.write(&Message::StartTakeBackFailed { release: name, starts, why });
    record.probation.is_some()
}

fn cannot_take(source: std::io::Error) -> Error {
    Error::system("cannot take the sockets that the service manager has passed")(source)
}

/// Takes or binds all addresses. One that is in use is tried again for 3 s.
fn bind(listeners: &mut Listeners, addresses: &[Address]) -> Result<(), Error> {
    let wanted = addresses.iter().map(Address::wanted).collect::<Result<Vec<Wanted>, Error>>()?;
    let patience = Instant::now() + BIND_PATIENCE;
    loop {
        match listeners.hold_all(Generation(1), &wanted) {
            Ok(()) => return Ok(()),
            // There is nothing to wait for that would tell when the address is free.
            Err(refusal) if refusal.is_in_use() && Instant::now() < patience => {
                let _ = poll::wait(&[], Some(BIND_PAUSE));
            }
            Err(refusal) => return Err(Error::Bind { address: refusal.address, source: refusal.error }),
        }
    }
}
