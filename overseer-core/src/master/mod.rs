//! The shell around the rules: turns signals, messages, ends of processes and deadlines into events, and carries out actions.
//!
//! One thread, one loop, and no wake-up while nothing happens. Nothing in here blocks on a pipe or a socket, opens a connection, or reads a release.

mod aside;
mod commands;
mod files;
mod home;
mod listeners;
mod log;
pub(crate) mod notify;
mod pid_file;
mod poller;
mod rehearsal;
mod replace;
pub(crate) mod snapshot;
mod start;

pub(crate) use commands::SIGNAL as COMMAND_SIGNAL;
pub(crate) use home::Handed;
pub(crate) use notify::tell_without_master;
pub(crate) use replace::resume;
pub(crate) use start::{Setup, run};

use crate::FetchError;
use crate::binary::{self, Identity, Lock, Packaged, Place, Record, StateDir};
use crate::command::Live;
use crate::message::Message;
use crate::protocol::{Drain, Hello, Kept, Refused, Staged, ToChild, ToMaster, VERSIONS, Wanted, Welcome};
use crate::role::RoleName;
use crate::signal::Signal;
use crate::supervisor::{Action, Asker, Blame, Event, Generation, Program, Settings, Started, Supervisor, Time};
use crate::sys::connections::{open_connections, reachable_at, sockets_of};
use crate::sys::link::{Link, Received};
use crate::sys::poll::{Interest, Readiness, wait};
use crate::sys::process::{self, Exit};
use crate::sys::signals::{Arrived, Original, Signals, stop_self};
use crate::sys::spawn::Spawn;
use files::time_to_prove;
use listeners::{Listeners, Refusal};
use log::Log;
use nix::unistd::Pid;
use notify::Notify;
use pid_file::PidFile;
use poller::Poller;
use rehearsal::Rehearsal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Of more sockets than these, the connections of a generation are not counted for a message: that would take the master away from its duties for more than
/// some 5 ms.
const COUNTED_MAX: usize = 4096;
/// How long the first generation has served before it is looked at for sockets that it has bound itself: it has them by then. One that takes over has lived through its warm-up.
const OWN_SOCKETS_AFTER: Duration = Duration::from_secs(1);
/// So many of them are named.
const OWN_SOCKETS_NAMED_MAX: usize = 8;

/// How long whoever asks may see what was before a generation was started that is not ready yet.
const TOLD_WITHIN: Duration = Duration::from_millis(250);

/// A generation's process.
#[derive(Debug)]
struct Child {
    pid: Pid,
    /// `None` once it has closed its end, or cannot be understood.
    link: Option<Link>,
    /// The link of one that cannot be understood, open until its end: whoever sees it closed takes the master for gone, and closes the listeners
    /// for all.
    unheard: Option<Link>,
    /// The file that it runs, to look at the source with it later.
    program: File,
    /// What is known of its end beyond the exit.
    why: Option<String>,
    /// What it has asked for and not been answered.
    asks: Option<Asks>,
    /// It has got the listeners that it asked for.
    has_listeners: bool,
    /// How many pieces of work it has open, as it has said in its drain.
    open_work: Option<u64>,
}

/// What a hello asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Asks {
    protocol: u32,
    addresses: Vec<Wanted>,
}

/// Where releases are remembered; only with the lock.
#[derive(Debug)]
struct Memory {
    directory: StateDir,
    /// `None`: another master has it, and looks for releases.
    lock: Option<Lock>,
    saved: Option<Record>,
    has_said_second: bool,
    /// The file at the path that another master has installed and that has crashed here.
    shunned: Option<Identity>,
    /// The file at the path that was to be proved last, and until when it is not proved again unless somebody touches it.
    unproved: Option<(Packaged, Time)>,
    has_said_unsaved: bool,
    /// Why upgrades are impossible here, if that is so.
    why_off: Option<String>,
}

#[derive(Debug)]
struct Master {
    supervisor: Supervisor,
    started: Instant,
    /// When the loop was last seen to run.
    awake: Time,
    signals: Signals,
    original: Original,
    log: Log,
    place: Place,
    own: File,
    listeners: Listeners,
    children: BTreeMap<Generation, Child>,
    /// The file of the generation that has made room for the next one, until that serves.
    last: Option<File>,
    poller: Option<Poller>,
    /// The last one counts; those before it are being ended.
    rehearsals: Vec<Rehearsal>,
    staged: Option<(Staged, OwnedFd)>,
    /// `None`: there is nowhere to remember anything, so upgrades are off and nobody can give commands.
    memory: Option<Memory>,
    /// The generation that is to be looked at for sockets of its own, and from when on: when the master is awake anyway and no other generation is there, so that nobody waits for it.
    suspect: Option<(Generation, Time)>,
    /// What was last shown of this master.
    shown: Option<Live>,
    /// Whether a generation with a fetcher has been there, so that it is known whether upgrades are possible.
    has_sought_memory: bool,
    has_unsaved: bool,
    has_unsaved_events: bool,
    /// When the events and what is shown are written at the latest, if that waits.
    tells_by: Option<Time>,
    /// It has done more than to wait since it was last [at rest](Master::rest).
    has_worked: bool,
    pid_file: Option<PidFile>,
    notify: Notify,
}

impl Master {
    fn now(&self) -> Time {
        self.started.elapsed()
    }

    /// Lives until the program has ended, and ends as it did.
    fn live(mut self) -> ! {
        self.act();
        loop {
            // With nothing in hand that the next one would not know of.
            self.replace_if_due();
            self.rest();
            let ready = self.wait();
            self.take_signals();
            self.awake = self.now();
            self.read_children(&ready);
            self.read_poller();
            self.rehearsals.iter_mut().for_each(Rehearsal::read);
            if let Some(message) = self.notify.flush() {
                self.log.write(&message);
            }
            if self.notify.take_refused() {
                self.keep_listeners();
                self.act();
            }
            let now = self.now();
            if self.supervisor.deadline().is_some_and(|deadline| deadline <= now) {
                self.handle(Event::DeadlinePassed);
            }
            if self.tells_by.is_some_and(|by| by <= now) {
                self.tell_all();
            }
            let is_alone = |generation: &Generation| self.supervisor.active() == Some(*generation) && self.children.keys().eq([generation]);
            if let Some((generation, _)) = self.suspect.take_if(|(generation, due)| *due <= now && is_alone(generation)) {
                self.look_for_own_sockets(generation);
            }
        }
    }

    /// Lets go of the memory that starting others took, once nothing is left of it but one generation that serves: then it waits, for days perhaps.
    fn rest(&mut self) {
        let is_at_rest =
            self.children.len() == 1 && self.poller.is_none() && self.rehearsals.is_empty() && !self.supervisor.is_waited_for();
        if is_at_rest && std::mem::take(&mut self.has_worked) {
            process::let_go_of_program();
        }
    }

    /// Warns of a program that binds a socket beside those that it is given: that one goes with its generation.
    fn look_for_own_sockets(&mut self, generation: Generation) {
        // A program without addresses has chosen to do without.
        let Some(child) = self.children.get(&generation).filter(|_| self.listeners.has_user(generation)) else { return };
        // What the master has too stays when the generation goes, whoever has made it.
        let Some(kept) = sockets_of(nix::unistd::getpid(), COUNTED_MAX) else { return };
        let mut addresses = reachable_at(child.pid, &kept, COUNTED_MAX);
        if addresses.is_empty() {
            return;
        }
        let more = addresses.len().saturating_sub(OWN_SOCKETS_NAMED_MAX);
        addresses.truncate(OWN_SOCKETS_NAMED_MAX);
        if more > 0 {
            addresses.push(format!("{more} more"));
        }
        self.log.write(&Message::OwnSocket { generation, pid: child.pid.as_raw(), addresses: addresses.join(", ") });
    }

    /// Waits until something happens. Answers which generations can be read or written.
    fn wait(&self) -> BTreeMap<Generation, Readiness> {
        let links = self.children.iter().filter_map(|(generation, child)| child.link.as_ref().map(|link| (*generation, link)));
        let (generations, links): (Vec<Generation>, Vec<&Link>) = links.unzip();
        let mut interests = vec![Interest { descriptor: self.signals.as_fd(), write: false }];
        interests.extend(links.iter().map(|link| Interest { descriptor: link.as_fd(), write: link.wants_write() }));
        interests.extend(self.poller.iter().flat_map(Poller::interests));
        interests.extend(self.rehearsals.iter().flat_map(Rehearsal::interests));
        interests.extend(self.notify.interest());
        let has_frame = links.iter().any(|link| link.may_hold_frame());
        let deadline = self.supervisor.deadline().into_iter().chain(self.tells_by).min();
        let rest = deadline.map(|deadline| deadline.saturating_sub(self.now()));
        let ready = wait(&interests, if has_frame { Some(Duration::ZERO) } else { rest }).unwrap_or_default();
        let of_links = generations.iter().zip(&links).zip(ready.iter().skip(1).copied().chain(std::iter::repeat(Readiness::default())));
        of_links
            .map(|((generation, link), ready)| (*generation, Readiness { read: ready.read || link.may_hold_frame(), ..ready }))
            .collect()
    }

    /// Tells the rules what happened and does what they say.
    fn handle(&mut self, event: Event) {
        let now = self.now();
        self.supervisor.handle(now, event);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.supervisor.poll_action() {
            if let Some(answer) = self.carry_out(action) {
                let now = self.now();
                self.supervisor.handle(now, answer);
            }
        }
        self.save();
        self.tell_all();
    }

    /// Writes what is there for whoever asks, and for nobody else: the events, and what is shown. That takes some milliseconds on a disk, and a generation that has
    /// been started is about to ask for its listeners, so it waits until that is ready, or for [`TOLD_WITHIN`].
    ///
    /// A master that is killed meanwhile has not told that it had started somebody. What the next one goes by is never among this: that is written by
    /// [`Action::Save`], and by those who put a file to the program's path.
    fn tell_all(&mut self) {
        let now = self.now();
        // Whoever looks for a master finds it from the beginning.
        if self.shown.is_some() && self.supervisor.is_waited_for() && now < *self.tells_by.get_or_insert(now + TOLD_WITHIN) {
            return;
        }
        self.tells_by = None;
        self.has_unsaved |= std::mem::take(&mut self.has_unsaved_events);
        self.save();
        self.show();
    }

    /// Does one thing; some have an answer.
    fn carry_out(&mut self, action: Action) -> Option<Event> {
        self.has_worked |= matches!(action, Action::Spawn { .. } | Action::Poll | Action::Rehearse { .. });
        match action {
            Action::Spawn { generation, program } => return Some(self.spawn(generation, program)),
            Action::Welcome { generation } => return self.welcome(generation),
            Action::Accept { generation } => {
                self.tell(generation, &ToChild::Accept, Vec::new());
                if self.log.takes_warnings() {
                    let takes_over = self.children.len() > 1;
                    self.suspect = Some((generation, self.now() + if takes_over { Duration::ZERO } else { OWN_SOCKETS_AFTER }));
                }
                self.last = None;
                self.close_unused_listeners();
            }
            Action::Drain { generation, within } => {
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                self.tell(generation, &ToChild::Drain(Drain { within_ms }), Vec::new());
            }
            Action::Signal { generation, signal } => self.signal(generation, signal),
            Action::Kill { generation } => self.signal(generation, Signal::KILL),
            Action::Trust { generation } => {
                if let Some(child) = self.children.get(&generation) {
                    process::trust(child.pid);
                }
            }
            Action::Commit { generation } => {
                return Some(match self.commit() {
                    Ok(()) => Event::CommitDone { generation },
                    Err(why) => Event::CommitFailed { generation, why },
                });
            }
            Action::Install => {
                return Some(match self.commit() {
                    Ok(()) => Event::InstallDone,
                    Err(why) => Event::InstallFailed { why },
                });
            }
            Action::TakeBack { failed } => {
                return Some(match self.take_back(&failed) {
                    Ok(at_path) => Event::TakenBack { at_path },
                    Err(why) => Event::TakeBackFailed { why },
                });
            }
            Action::PutBack { generation, from } => {
                return Some(match self.put_back(&from) {
                    Ok(there) => Event::PutBackDone { generation, there },
                    Err(why) => Event::PutBackFailed { generation, why },
                });
            }
            Action::SetStoredAside => self.set_stored_aside(),
            Action::Discard => {
                if let Some((staged, _file)) = self.staged.take() {
                    binary::discard(&staged);
                }
            }
            Action::Rehearse { generation } => {
                self.rehearsals.iter_mut().for_each(Rehearsal::kill);
                return self.rehearse(generation);
            }
            Action::EndRehearsal => self.rehearsals.iter_mut().for_each(Rehearsal::kill),
            Action::Poll => return self.poll(),
            Action::KillPoll => {
                let is_overdue = self.supervisor.is_poll_overdue();
                if let Some(poller) = &mut self.poller {
                    poller.kill(is_overdue);
                }
            }
            Action::CheckListeners => {
                for message in self.listeners.check() {
                    self.log.write(&message);
                }
            }
            Action::CloseListeners => self.listeners.close(),
            Action::RestartBy { signal } => {
                if let Err(error) = self.signals.change(&self.original, signal) {
                    let why = format!("its handler cannot be installed: {error}");
                    self.log.write(&Message::SettingWaits { setting: "restart_signal".to_owned(), why });
                }
            }
            Action::Save => self.has_unsaved = true,
            Action::SaveEvents => self.has_unsaved_events = true,
            Action::Say(message) => self.say(message),
            Action::Notify(notices) => {
                // Whoever asks because of what the process manager is told is to see it.
                self.show();
                if let Some(message) = self.notify.tell(&notices) {
                    self.log.write(&message);
                }
            }
            Action::Ping { generation } => self.tell(generation, &ToChild::Ping, Vec::new()),
            Action::Leave(exit) => self.leave(exit),
        }
        None
    }

    fn say(&mut self, mut message: Message) {
        if let Some((generation, connections)) = message.connections_to_count() {
            let child = self.children.get(&generation);
            connections.counted = child.and_then(|child| open_connections(child.pid, COUNTED_MAX));
            connections.work = child.and_then(|child| child.open_work);
        }
        self.log.write(&message);
    }

    fn spawn(&mut self, generation: Generation, program: Program) -> Event {
        let failed = |why: String, blame| Event::SpawnFailed { generation, why, blame };
        let (file, package) = match self.open_program(program, self.supervisor.active() != Some(generation)) {
            Ok(opened) => opened,
            Err(error) => return failed(format!("its file cannot be opened: {error}"), Blame::Nobody),
        };
        let found = match file.metadata() {
            Ok(metadata) => Packaged::of(&metadata),
            Err(error) => return failed(format!("its file cannot be looked at: {error}"), Blame::Nobody),
        };
        let identity = found.identity;
        let order = if program == Program::AtPath && package.is_none() { self.proof_order(generation, identity) } else { None };
        if order.is_some() {
            self.is_being_proved(found);
        }
        let prover = order.is_some().then(|| self.supervisor.active().and_then(|active| self.children.get(&active)));
        let prover = prover.map(|active| active.map_or(&self.own, |active| &active.program));
        let role = if prover.is_some() { RoleName::Proof } else { RoleName::Child };
        let spawn = Spawn {
            program: prover.unwrap_or(&file).as_fd(),
            role,
            quiet: None,
            own_group: false,
            expendable: self.supervisor.active() != Some(generation),
            parent_death_signal: Signal::TERM,
            original: &self.original,
        };
        match spawn.start() {
            Ok((pid, mut link)) => {
                let proof = order.as_ref().map_or(Duration::ZERO, |_| time_to_prove(&identity));
                if let Some(order) = &order
                    && let Err(error) = link.send(order, [])
                {
                    self.log.write(&Message::Misbehaved { generation, why: FetchError::chain(&error) });
                }
                self.children.insert(
                    generation,
                    Child {
                        pid,
                        link: Some(link),
                        unheard: None,
                        program: file,
                        why: None,
                        asks: None,
                        has_listeners: false,
                        open_work: None,
                    },
                );
                Event::Spawned { generation, started: Started { pid: pid.as_raw(), identity, package, proof } }
            }
            Err(error) => failed(format!("could not be started: {error}"), Blame::Nobody),
        }
    }

    fn signal(&mut self, generation: Generation, signal: Signal) {
        // Once other code in this process has reaped it, its number may be anybody's.
        if let Some(child) = self.children.get(&generation).filter(|child| process::is_child(child.pid))
            && let Err(error) = process::kill(child.pid, signal)
        {
            let why = format!("it cannot be sent {signal}: {error}");
            self.log.write(&Message::Misbehaved { generation, why });
        }
    }

    /// Sends a message. A child that does not take it is told of as misbehaving.
    fn tell(&mut self, generation: Generation, message: &ToChild, descriptors: Vec<OwnedFd>) {
        let Some(child) = self.children.get_mut(&generation) else { return };
        let Some(link) = &mut child.link else { return };
        if let Err(error) = link.send(message, descriptors) {
            let why = FetchError::chain(&error);
            child.unheard = child.link.take();
            let now = self.now();
            self.supervisor.handle(now, Event::Misbehaved { generation, why });
        }
    }

    /// Takes in the signals that came while the loop slept. What comes meanwhile wakes it again.
    fn take_signals(&mut self) {
        let all: Vec<Arrived> = std::iter::from_fn(|| self.signals.next()).collect();
        // First, since it moves what was waited for while the master was stopped, and not what the other signals begin: process managers
        // send SIGCONT right after SIGTERM, whether somebody was stopped or not. Nor is a stop of our own counted twice: the loop has been awake since.
        if all.iter().any(|arrived| arrived.signal == Signal::CONT) {
            let now = self.now();
            // Only one that was slept through tells of a stop; anybody can send SIGCONT.
            if self.supervisor.deadline().is_some_and(|deadline| deadline < now) {
                // Stopped by SIGSTOP, nobody knows since when: at most since the loop was awake.
                self.handle(Event::Continued { stopped: now.saturating_sub(self.awake) });
            }
        }
        for arrived in all {
            match arrived.signal {
                Signal::CHLD => self.reap(),
                Signal::TSTP => {
                    self.handle(Event::Signal { signal: Signal::TSTP, to_the_group: arrived.to_the_group });
                    let before = self.now();
                    stop_self();
                    let stopped = self.now().saturating_sub(before);
                    self.handle(Event::Continued { stopped });
                }
                // It says that there is a command, or is one like all others.
                commands::SIGNAL if self.take_commands() => {}
                signal => self.handle(Event::Signal { signal, to_the_group: arrived.to_the_group }),
            }
        }
    }

    /// Reaps what has ended. As PID 1 that includes processes that we never started.
    fn reap(&mut self) {
        let ended: Vec<Generation> =
            self.children.iter().filter(|(_, child)| process::has_ended(child.pid)).map(|(generation, _)| *generation).collect();
        for generation in ended {
            // What it said before it ended counts. Until it is reaped its number is nobody else's, whatever is sent to it because of that.
            while self.read_child(generation) {}
            let Some(child) = self.children.get(&generation) else { continue };
            let exit = process::reap(Some(child.pid)).map(|(_, exit)| exit);
            let Some(child) = self.children.remove(&generation) else { continue };
            self.listeners.release(generation);
            if self.supervisor.last() == Some(generation) {
                self.last = Some(child.program);
            }
            let exit = exit.unwrap_or_else(|| {
                self.log.write(&Message::ExitTaken { generation, pid: child.pid.as_raw() });
                Exit::Code(1)
            });
            self.handle(Event::Exited { generation, exit, why: child.why });
            self.close_unused_listeners();
        }
        if let Some(ended) = self.poller.as_mut().and_then(Poller::take_end) {
            self.poller = None;
            self.poll_ended(ended);
        }
        let ended: Vec<_> =
            self.rehearsals.iter_mut().map(|rehearsal| (rehearsal.generation, rehearsal.pid(), rehearsal.take_end())).collect();
        for (generation, pid, result) in ended {
            if let Some(result) = result {
                self.rehearsals.retain(|rehearsal| rehearsal.pid() != pid);
                self.handle(Event::Rehearsed { generation, result });
            }
        }
        if std::process::id() == 1 {
            let children = self.children.values().map(|child| child.pid).chain(self.rehearsals.iter().map(Rehearsal::pid));
            let ours: Vec<Pid> = children.chain(self.poller.as_ref().map(Poller::pid)).collect();
            process::reap_others(&ours);
        }
    }

    /// Closes the listeners that no generation has any more. Not before the active one has got its own: after its predecessor was taken
    /// back or has died, they wait for it, and the clients in their backlogs with them.
    fn close_unused_listeners(&mut self) {
        let active = self.supervisor.active().and_then(|active| self.children.get(&active));
        if active.is_some_and(|active| active.has_listeners) {
            self.listeners.close_unused();
            self.keep_listeners();
        }
    }

    /// Lets the process manager's store have what is listened on.
    fn keep_listeners(&mut self) {
        let stored = self.listeners.keep_in_store(&mut self.notify);
        stored.warning.iter().for_each(|warning| self.log.write(warning));
        for (generation, addresses) in stored.of_users {
            // Who has no listeners yet hears of it with them.
            if self.children.get(&generation).is_some_and(|child| child.has_listeners) {
                self.tell(generation, &ToChild::Kept(Kept { addresses }), Vec::new());
            }
        }
    }

    fn poll_ended(&mut self, (report, staged): poller::Looked) {
        if staged.is_some() {
            if let Some((old, _file)) = self.staged.take() {
                binary::discard(&old);
            }
            self.staged = staged;
        }
        self.handle(Event::PollEnded { report: Box::new(report) });
    }

    fn read_poller(&mut self) {
        if self.poller.as_mut().is_some_and(Poller::read) {
            self.handle(Event::PollProgress);
        }
    }

    fn read_children(&mut self, ready: &BTreeMap<Generation, Readiness>) {
        for (generation, ready) in ready {
            if ready.write
                && let Some(link) = self.children.get_mut(generation).and_then(|child| child.link.as_mut())
                && let Err(error) = link.flush()
            {
                self.misbehaved(*generation, FetchError::chain(&error));
            }
            // One message a turn, so that a child that talks without end keeps us from nothing.
            if ready.read {
                self.read_child(*generation);
            }
        }
    }

    fn misbehaved(&mut self, generation: Generation, why: String) {
        if let Some(child) = self.children.get_mut(&generation) {
            child.unheard = child.link.take();
        }
        self.handle(Event::Misbehaved { generation, why });
    }

    /// Takes in one message of a generation; `false` if there is none.
    fn read_child(&mut self, generation: Generation) -> bool {
        let Some(child) = self.children.get_mut(&generation) else { return false };
        let Some(link) = &mut child.link else { return false };
        match link.receive::<ToMaster>() {
            Ok(Received::Message(message, _)) => {
                self.heard(generation, message);
                true
            }
            Ok(Received::ExecFailed(error)) => {
                child.why = Some(format!("could not be executed: {error}"));
                child.link = None;
                false
            }
            Ok(Received::Nothing) => false,
            Ok(Received::Ended) => {
                child.link = None;
                false
            }
            Err(error) => {
                self.misbehaved(generation, FetchError::chain(&error));
                false
            }
        }
    }

    fn heard(&mut self, generation: Generation, message: ToMaster) {
        match message {
            ToMaster::Hello(hello) => self.hello(generation, *hello),
            ToMaster::Drains => self.handle(Event::Drains { generation }),
            ToMaster::Ready => {
                // Whoever says so is about to accept, perhaps on this processor. What follows here is in no such hurry.
                std::thread::yield_now();
                self.handle(Event::Ready { generation });
            }
            ToMaster::Restart => self.handle(Event::RestartAsked { asker: Asker::Program }),
            ToMaster::Poll => self.handle(Event::PollAsked),
            ToMaster::Unproved { why } => self.unproved(generation, &why),
            ToMaster::Pong => self.handle(Event::Pong { generation }),
            ToMaster::Open { count } => {
                if let Some(child) = self.children.get_mut(&generation) {
                    child.open_work = Some(count);
                }
                // Soon, and not at once: many may say so, and somebody may be waiting for the master.
                let by = self.now() + TOLD_WITHIN;
                self.tells_by.get_or_insert(by);
            }
            ToMaster::Unknown => {}
        }
    }

    /// Takes in a hello. It is answered when the rules say so.
    fn hello(&mut self, generation: Generation, hello: Hello) {
        if !self.supervisor.is_starting(generation) {
            let why = "it is to leave, or has said hello before".to_owned();
            self.tell(generation, &ToChild::Refused(Refused { address: None, why }), Vec::new());
            return self.act();
        }
        let Some(protocol) = VERSIONS.common(hello.protocol) else {
            let why = format!(
                "speaks the protocol versions {} to {}, and this master {} to {}",
                hello.protocol.min, hello.protocol.max, VERSIONS.min, VERSIONS.max
            );
            let refused = self.refuse(generation, None, why, Blame::Release);
            return self.handle(refused);
        };
        let settings = self.with_possible_source(hello.settings);
        let asks = Asks { protocol, addresses: hello.addresses };
        // What cannot be had is told at once; but if somebody is in the way that leaves first, it is tried then.
        if let Err(refusal) = self.listeners.hold_all(generation, &asks.addresses)
            && !(refusal.overlaps && self.supervisor.has_to_wait(generation, &settings))
        {
            let refused = self.refuse_address(generation, refusal);
            return self.handle(refused);
        }
        if let Some(child) = self.children.get_mut(&generation) {
            child.asks = Some(asks);
        }
        self.handle(Event::Hello { generation, settings: Box::new(settings) });
        self.close_unused_listeners();
    }

    /// Answers a hello with the listeners, or with the reason why there are none.
    fn welcome(&mut self, generation: Generation) -> Option<Event> {
        let Asks { protocol, addresses: wanted } = self.children.get_mut(&generation)?.asks.take()?;
        let held = self.listeners.hold_all(generation, &wanted);
        // Before the child is told who keeps them.
        self.keep_listeners();
        let provided = held.map(|()| {
            let provided = self.listeners.held_for(&wanted);
            let copies: io::Result<Vec<OwnedFd>> = provided.iter().map(|listener| listener.socket.try_clone_to_owned()).collect();
            let addresses: Vec<String> = provided.iter().map(|listener| listener.bound_to.to_owned()).collect();
            let kept: Vec<usize> = provided.iter().enumerate().filter(|(_, listener)| listener.is_kept).map(|(place, _)| place).collect();
            (copies, addresses, kept)
        });
        match provided {
            Ok((Ok(sockets), addresses, kept)) => {
                let id = self.children.get(&generation).and_then(|child| child.program.metadata().ok());
                let id = id.and_then(|metadata| self.supervisor.record().id_of(&Identity::of(&metadata)).map(str::to_owned));
                let path = self.place.resolve().unwrap_or_else(|_| self.place.invoked().to_owned());
                let pings = self.supervisor.watchdog().is_some();
                let welcome = Welcome { protocol, generation: generation.0, id, path, addresses, kept, pings };
                self.tell(generation, &ToChild::Welcome(welcome), sockets);
                if let Some(child) = self.children.get_mut(&generation) {
                    child.has_listeners = true;
                }
                Some(Event::Welcomed { generation })
            }
            Ok((Err(error), ..)) => {
                let why = format!("no descriptor is left for its listeners: {error}");
                Some(self.refuse(generation, None, why, Blame::Nobody))
            }
            Err(refusal) => Some(self.refuse_address(generation, refusal)),
        }
    }

    fn refuse_address(&mut self, generation: Generation, refusal: Refusal) -> Event {
        let why = refusal.why();
        self.log.write(&Message::AddressRefused { generation, address: refusal.address.clone(), why: why.clone() });
        let blame = if refusal.is_in_use() { Blame::Nobody } else { Blame::Release };
        self.refuse(generation, Some(refusal.address), why, blame)
    }

    /// The settings of a generation, without a source of releases where upgrades are impossible. The first generation that brings a fetcher finds that out.
    fn with_possible_source(&mut self, said: Settings) -> Settings {
        let settings = start::in_place(&said, &self.place);
        if settings.looks() && !std::mem::replace(&mut self.has_sought_memory, true) {
            if settings.upgrades() != said.upgrades() {
                self.log.write(&Message::Ephemeral { directory: self.place.directory().to_owned() });
            }
            if let Some(memory) = &mut self.memory {
                // Until now it was for commands alone.
                memory.why_off = start::obstacle(&self.place, &settings);
                if let Some(why) = memory.why_off.clone() {
                    self.log.write(&Message::UpgradesOff { why });
                }
            } else {
                let (memory, record) = start::remember(&self.place, &settings, &mut self.log);
                self.memory = memory;
                let packaged = record.packaged.clone().or_else(|| self.place.packaged().and_then(|path| Packaged::at(&path).ok()));
                self.supervisor.adopt(Record { packaged, ..record });
            }
        }
        let may_upgrade = self.memory.as_ref().is_some_and(|memory| memory.why_off.is_none());
        Settings { source: settings.source.filter(|_| may_upgrade), ..settings }
    }

    /// Tells it that it cannot have what it asks for; then the rules are to be told.
    fn refuse(&mut self, generation: Generation, address: Option<String>, why: String, blame: Blame) -> Event {
        let shown = address.as_ref().map_or_else(|| why.clone(), |address| format!("cannot have {address}: {why}"));
        self.tell(generation, &ToChild::Refused(Refused { address, why }), Vec::new());
        Event::Refused { generation, why: shown, blame }
    }

    fn leave(&mut self, exit: Exit) -> ! {
        self.has_unsaved = true;
        self.save();
        self.rehearsals.iter_mut().for_each(Rehearsal::kill);
        self.listeners.close();
        if let Some((staged, _file)) = self.staged.take() {
            binary::discard(&staged);
        }
        // What a look that was killed has left: there may be no next master to do it.
        if let Some(Memory { directory, lock: Some(lock), .. }) = &self.memory {
            directory.clean(lock, &self.place);
        }
        if let Some(file) = self.pid_file.take()
            && let Err(error) = file.remove()
        {
            self.log.write(&Message::PidFileLost { path: file.path().to_owned(), why: error.to_string() });
        }
        if let Some(message) = self.notify.tell_end(exit) {
            self.log.write(&message);
        }
        self.log.write(&Message::MasterEnded { exit });
        process::end_as(exit)
    }
}
