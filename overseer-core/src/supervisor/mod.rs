//! The rules of the master, and nothing else: it opens nothing, spawns nothing and reads no clock.
//!
//! [`Supervisor::handle`] is told what happened and when; [`Supervisor::poll_action`] then says what is to be done, in order, until it says nothing
//! more; [`Supervisor::deadline`] says when [`Event::DeadlinePassed`] is due if nothing happens before. Time is the time since the master started.
//!
//! What always holds (and is checked after every step of the simulation in `simulation.rs`):
//! - from the first ready until the master leaves, some generation serves, or one is being started;
//! - no two run at once of which one has said that they must not;
//! - at most one candidate; a rejected release is not started unless an operator asks for it by hand;
//! - every draining generation is gone by its deadline, and no more of them drain than may; nobody is left when the master leaves;
//! - no signal is lost, and none is delivered twice to a generation;
//! - after TERM, INT or QUIT nothing is promoted or committed.
//!
//! The parts: `commands` (what operators ask for), `generations` (how a process becomes a candidate, the active generation, and ends), `looks` (when to look for a
//! release), `notify` (what the process manager is told), `overlap` (who must not run beside whom), `remembered` (what follows from what is
//! known of each, also without a master), `replacement` (when the master becomes
//! another file), `signals` (who gets which, and how the master leaves).

mod commands;
mod generations;
mod looks;
mod notify;
mod overlap;
pub(crate) mod remembered;
mod replacement;
mod settings;
mod signals;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

#[cfg(unix)]
pub(crate) use commands::Answer;
pub(crate) use commands::{Asked, Command};
pub(crate) use notify::{Notice, one_line};
pub(crate) use settings::{Installation, Settings};

use crate::binary::{Identity, Packaged, Probation, Record};
use crate::message::Message;
use crate::protocol::{ReleaseName, Report};
use crate::signal::Signal;
use crate::sys::process::Exit;
use notify::Told;
use overlap::Gap;
use replacement::Replacement;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The time since the master started.
pub(crate) type Time = Duration;

/// The number of a child, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Generation(pub(crate) u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which file a generation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The file that the master itself runs; for its first generation.
    Own,
    /// Whatever is at the program's path now.
    AtPath,
    /// The staged release.
    Staged,
    /// The predecessor of a release that has crashed, where another master decides what is at the path.
    Previous,
    /// The file of the generation that served before the gap, whatever is at the path.
    Last,
}

/// Which file was found when a generation was started.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) identity: Identity,
    pub(crate) package: Option<NewPackage>,
    /// How long it may take to prove the file, before it can say hello.
    pub(crate) proof: Duration,
}

/// Releases lie in a binary store, and this is the packaged file, which somebody has changed since.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NewPackage {
    #[serde(with = "crate::protocol::path")]
    pub(crate) path: PathBuf,
    pub(crate) file: Packaged,
}

/// Whom a failure is blamed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    Release,
    /// The system or an operator: the release is tried again at the next look.
    Nobody,
}

/// Who asks for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asker {
    Signal,
    Program,
    /// Another master has installed something at the path.
    PathChanged,
    /// By a command.
    Operator,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// [`Action::Spawn`] worked.
    Spawned {
        generation: Generation,
        started: Started,
    },
    /// [`Action::Spawn`] did not work; there is no process.
    SpawnFailed {
        generation: Generation,
        why: String,
        blame: Blame,
    },
    /// It said hello and waits for its listeners.
    Hello {
        generation: Generation,
        settings: Box<Settings>,
    },
    /// The answer to [`Action::Welcome`], at once: it has got its listeners.
    Welcomed {
        generation: Generation,
    },
    /// The other answer, or what comes in place of a hello: it cannot get what it asks for.
    Refused {
        generation: Generation,
        why: String,
        blame: Blame,
    },
    /// It follows a drain.
    Drains {
        generation: Generation,
    },
    Ready {
        generation: Generation,
    },
    /// It answers [`Action::Ping`].
    Pong {
        generation: Generation,
    },
    /// What it says cannot be understood.
    Misbehaved {
        generation: Generation,
        why: String,
    },
    /// It was reaped. `why` is what is known beyond the exit: that the file could not be executed.
    Exited {
        generation: Generation,
        exit: Exit,
        why: Option<String>,
    },
    RestartAsked {
        asker: Asker,
    },
    PollAsked,
    /// An operator asks for something. `obstacle`: why the system lets nobody do it.
    Commanded {
        token: String,
        command: Command,
        by: String,
        obstacle: Option<String>,
    },
    /// The poll process has moved.
    PollProgress,
    /// The poll process is gone.
    PollEnded {
        report: Box<Report>,
    },
    /// The answer to [`Action::Commit`], at once.
    CommitDone {
        generation: Generation,
    },
    CommitFailed {
        generation: Generation,
        why: String,
    },
    /// The answer to [`Action::Install`], at once.
    InstallDone,
    InstallFailed {
        why: String,
    },
    /// The answer to [`Action::TakeBack`], at once. Not `at_path`: another master has installed the release and decides what is there.
    TakenBack {
        at_path: bool,
    },
    TakeBackFailed {
        why: String,
    },
    /// The answer to [`Action::PutBack`], at once: which file is at the path now.
    PutBackDone {
        generation: Option<Generation>,
        there: Identity,
    },
    PutBackFailed {
        generation: Option<Generation>,
        why: String,
    },
    /// What came of [`Action::Rehearse`]; an error says why the master is not replaced.
    Rehearsed {
        generation: Generation,
        result: Result<(), String>,
    },
    /// The master could not be replaced.
    NotReplaced {
        why: String,
    },
    /// This process is the master from now on, and runs this file. `why`: the one that it was replaced by could not go on.
    Replaced {
        own: Identity,
        took: Duration,
        why: Option<String>,
    },
    Signal {
        signal: Signal,
        to_the_group: bool,
    },
    /// The master was stopped for so long and goes on.
    Continued {
        stopped: Duration,
    },
    DeadlinePassed,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Spawn {
        generation: Generation,
        program: Program,
    },
    /// Answer its hello with the listeners, or with the reason why there are none; then its program runs. Whether it does is told at once.
    Welcome {
        generation: Generation,
    },
    /// Tell the generation that it may accept.
    Accept {
        generation: Generation,
    },
    /// Tell the generation to finish and leave.
    Drain {
        generation: Generation,
        within: Duration,
    },
    Signal {
        generation: Generation,
        signal: Signal,
    },
    Kill {
        generation: Generation,
    },
    /// The generation is no candidate any more: memory pressure takes it as late as the service it is.
    Trust {
        generation: Generation,
    },
    /// Put the staged release at the program's path; the answer comes at once.
    Commit {
        generation: Generation,
    },
    /// The same, without a generation that runs it.
    Install,
    /// Put `previous` at the program's path if it holds `failed`; the answer comes at once.
    TakeBack {
        failed: Identity,
    },
    /// Put `previous` at the program's path if it holds `from`, since an operator asked for it and, where there is a generation, that runs it; the answer comes
    /// at once. Then there is no `previous` any more.
    PutBack {
        generation: Option<Generation>,
        from: Identity,
    },
    /// The packaged file serves: nothing that was committed in its place may be at the path.
    SetStoredAside,
    /// Forget the staged release and remove its file.
    Discard,
    /// Look at the source.
    Poll,
    KillPoll,
    /// Let the file of the generation read a snapshot; the answer comes when it has ended.
    Rehearse {
        generation: Generation,
    },
    EndRehearsal,
    /// See that nobody has shut down a listener or made it block.
    CheckListeners,
    CloseListeners,
    /// This is the restart signal from now on.
    RestartBy {
        signal: Signal,
    },
    /// Write the record to `state.json`.
    Save,
    Say(Message),
    /// Tell the process manager, in one message.
    Notify(Vec<Notice>),
    /// Ask the generation for a sign of life.
    Ping {
        generation: Generation,
    },
    /// Nobody is left: end as the program did.
    Leave(Exit),
}

/// What a generation was started for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Origin {
    /// The first of this master, the one that replaces a release that was taken back, or the one that served before a gap.
    Start,
    Restart,
    /// A restart that found another file than the running one at the path.
    OperatorsFile,
    /// The previous binary, since an operator asked for it.
    Rollback,
    Release(ReleaseName),
}

/// How far a generation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Nothing was heard of it.
    Starting,
    /// It has said hello, and others are to be gone before it gets its listeners.
    Waiting,
    /// It has its listeners and is not ready.
    Welcomed,
    /// It is ready and serves beside the old generation.
    WarmingUp,
    Active,
    Draining,
    /// It has been killed and not been reaped.
    Killed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Child {
    stage: Stage,
    origin: Origin,
    identity: Identity,
    #[serde(default)]
    package: Option<NewPackage>,
    /// 0 until it is spawned.
    #[serde(default)]
    pid: i32,
    settings: Settings,
    spawned_at: Time,
    ready_at: Option<Time>,
    /// Since when it drains.
    #[serde(default)]
    drains_since: Option<Time>,
    /// It became ready by age, not by saying so.
    counted_by_age: Option<Duration>,
    drains: bool,
    /// Its hello was answered, so its program runs.
    #[serde(default)]
    runs: bool,
    /// When the stage must be over.
    deadline: Option<Time>,
    /// Signals that wait until it is ready.
    kept: Vec<Signal>,
    /// Signals that it was sent; an end by one of them is not its fault.
    sent: Vec<Signal>,
    /// It could not have what it needs, which is not its fault either.
    is_blameless: bool,
    /// It was the active generation, so what it has open is what a working generation has accepted.
    #[serde(default)]
    has_served: bool,
}

impl Child {
    /// Remembers that it was sent the signal; once, however often that happens in a long life.
    fn has_got(&mut self, signal: Signal) {
        if !self.sent.contains(&signal) {
            self.sent.push(signal);
        }
    }
}

/// The master is on its way out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Leaving {
    /// When a stop signal asked for it first; a second one counts from a second later on.
    asked_at: Option<Time>,
    /// How the active generation ended.
    exit: Option<Exit>,
}

/// What is known of looks at the source in this run of the master.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Looking {
    /// When to look next.
    next: Option<Time>,
    /// A poll process runs, and this is when it must have moved; [`Time::MAX`] once it has been killed.
    running_until: Option<Time>,
    /// Bytes of a release have come since it began.
    has_moved: bool,
    /// It was killed because it had not moved.
    is_overdue: bool,
    /// It was killed for something that cannot wait for it, so its end says nothing about the source.
    is_cut_short: bool,
    /// Looks that somebody asks for keep the minimum interval too.
    not_before: Time,
    /// Somebody asked for a look while none could begin.
    again: bool,
    /// How many releases in a row could not be tried or installed, for no fault of their own.
    setbacks: u32,
}

/// The rules, and all that they need to know. As JSON they travel from a master to the one that replaces it.
///
/// What is added later needs a default, or another [`FORMAT`](crate::master::snapshot::FORMAT).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Supervisor {
    now: Time,
    /// The time since 1970 when the master started; for what outlives it.
    unix_at_start: Duration,
    settings: Settings,
    #[serde(with = "crate::protocol::path")]
    path: PathBuf,
    #[serde(with = "crate::protocol::path")]
    previous: PathBuf,
    children: BTreeMap<Generation, Child>,
    newest: Generation,
    /// The generation that serves, or is being started with no other to serve instead. In a gap, the one that served last, until another one is started in its place.
    active: Option<Generation>,
    candidate: Option<Generation>,
    /// Over whenever the rules are handed over.
    #[serde(skip)]
    gap: Option<Gap>,
    /// A restart was asked for and has to wait.
    restart_wanted: Option<Asker>,
    /// A proved release that waits for the next restart.
    waiting: Option<ReleaseName>,
    leaving: Option<Leaving>,
    has_closed_listeners: bool,
    looking: Looking,
    /// The probation that holds on if the commit that is under way fails.
    probation_before: Option<Probation>,
    /// When the active release is trusted.
    probation_until: Option<Time>,
    /// How the release that is being taken back ended.
    failed_exit: Option<Exit>,
    /// The file that is being installed without a generation that runs it.
    staged_identity: Identity,
    record: Record,
    /// What operators asked for.
    #[serde(default)]
    commands: VecDeque<Asked>,
    #[serde(default)]
    rollback: Option<commands::Rollback>,
    /// What holds on if the rollback that is under way fails; only between an action and its answer.
    #[serde(skip)]
    before_rollback: Option<Box<Record>>,
    /// The file that the master itself runs.
    own: Identity,
    replacement: Replacement,
    #[serde(default)]
    told: Told,
    #[serde(with = "replacement::random")]
    random: fastrand::Rng,
    /// Empty whenever the rules are handed over.
    #[serde(skip)]
    actions: VecDeque<Action>,
}

/// What a supervisor starts from.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) settings: Settings,
    pub(crate) record: Record,
    /// The file that the master itself runs.
    pub(crate) own: Identity,
    /// The program's path, and where its predecessor is kept; for messages.
    pub(crate) path: PathBuf,
    pub(crate) previous: PathBuf,
    /// The time since 1970.
    pub(crate) unix: Duration,
    pub(crate) seed: u64,
}

impl Supervisor {
    /// The rules at the start of a master. The first action starts the first generation.
    pub(crate) fn new(start: Start) -> Self {
        let mut this = Self {
            now: Time::ZERO,
            unix_at_start: start.unix,
            settings: start.settings,
            path: start.path,
            previous: start.previous,
            children: BTreeMap::new(),
            newest: Generation(0),
            active: None,
            candidate: None,
            gap: None,
            restart_wanted: None,
            waiting: None,
            leaving: None,
            has_closed_listeners: false,
            looking: Looking::default(),
            probation_before: None,
            probation_until: None,
            failed_exit: None,
            staged_identity: Identity::default(),
            record: start.record,
            commands: VecDeque::new(),
            rollback: None,
            before_rollback: None,
            own: start.own,
            replacement: Replacement::None,
            told: Told::default(),
            random: fastrand::Rng::with_seed(start.seed),
            actions: VecDeque::new(),
        };
        let first = this.spawn(Program::Own, Origin::Start);
        this.active = Some(first);
        this
    }

    /// Takes in what happened. `now` never goes back.
    pub(crate) fn handle(&mut self, now: Time, event: Event) {
        debug_assert!(now >= self.now, "time went back from {:?} to {now:?}", self.now);
        self.now = now.max(self.now);
        match event {
            Event::Spawned { generation, started } => self.spawned(generation, started),
            Event::SpawnFailed { generation, why, blame } => self.spawn_failed(generation, why, blame),
            Event::Hello { generation, settings } => self.said_hello(generation, *settings),
            Event::Welcomed { generation } => self.welcomed(generation),
            Event::Refused { generation, why, blame } => self.failed(generation, why, blame),
            Event::Drains { generation } => self.drains(generation),
            Event::Ready { generation } => self.ready(generation),
            Event::Pong { generation } => self.pong(generation),
            Event::Misbehaved { generation, why } => self.misbehaved(generation, why),
            Event::Exited { generation, exit, why } => self.exited(generation, exit, why),
            Event::RestartAsked { asker } => self.restart_asked(asker),
            Event::PollAsked => self.poll_asked(),
            Event::Commanded { token, command, by, obstacle } => self.commanded(token, command, by, obstacle),
            Event::PollProgress => self.poll_progress(),
            Event::PollEnded { report } => self.poll_ended(*report),
            Event::CommitDone { generation } => self.commit_done(generation),
            Event::CommitFailed { generation, why } => self.commit_failed(generation, why),
            Event::InstallDone => self.install_done(),
            Event::InstallFailed { why } => self.install_failed(why),
            Event::TakenBack { at_path } => self.taken_back(at_path),
            Event::TakeBackFailed { why } => self.take_back_failed(why),
            Event::PutBackDone { generation, there } => self.put_back_done(generation, there),
            Event::PutBackFailed { generation, why } => self.put_back_failed(generation, why),
            Event::Rehearsed { generation, result } => self.rehearsed(generation, result),
            Event::NotReplaced { why } => self.not_replaced(why),
            Event::Replaced { own, took, why } => self.replaced(own, took, why),
            Event::Signal { signal, to_the_group } => self.signal(signal, to_the_group),
            Event::Continued { stopped } => self.continued(stopped),
            Event::DeadlinePassed => self.deadline_passed(),
        }
        self.settle();
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::DeadlinePassed`] is due; `None` if nothing is waited for.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let children = self.children.values().filter_map(|child| child.deadline);
        let looking = self.looking.running_until.or(self.next_look());
        children.chain(looking).chain(self.probation_until).chain(self.rehearsal_deadline()).chain(self.notify_deadline()).min()
    }

    /// The generation that serves, or is being started with no other to serve instead.
    pub(crate) fn active(&self) -> Option<Generation> {
        self.active
    }

    /// Whether a file that another master puts at the path is to be taken up while the program runs.
    pub(crate) fn takes_up_changes(&self) -> bool {
        self.settings.installation != Installation::WithoutRestart
    }

    /// Whether nothing has been heard of the generation yet; only then its hello is answered.
    pub(crate) fn is_starting(&self, generation: Generation) -> bool {
        self.children.get(&generation).is_some_and(|child| child.stage == Stage::Starting)
    }

    /// What is to be remembered across restarts of the master.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Remembers the ID of a file, for which the master has no time.
    pub(crate) fn learn(&mut self, file: Identity, id: &str) {
        self.record.remember_id(file, id);
    }

    /// Releases are committed over this packaged file.
    pub(crate) fn knows_package(&mut self, packaged: Option<Packaged>) {
        self.record.packaged = packaged;
    }

    /// Goes on with what another master has remembered, which has ended. A probation of the running file begins anew.
    pub(crate) fn adopt(&mut self, record: Record) {
        self.record = record;
        let running = self.running();
        let is_on_probation = self.record.probation.as_ref().is_some_and(|probation| probation.identity == running);
        self.probation_until = is_on_probation.then(|| self.now + self.settings.probation);
    }

    /// What holds beyond the rules is told to the shell.
    fn go_by(&mut self, settings: Settings) {
        if settings.restart_signal != self.settings.restart_signal {
            self.act(Action::RestartBy { signal: settings.restart_signal });
        }
        self.settings = settings;
    }

    /// The signal that restarts the program.
    pub(crate) fn restart_signal(&self) -> Signal {
        self.settings.restart_signal
    }

    fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    fn unix_s(&self) -> u64 {
        (self.unix_at_start + self.now).as_secs()
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn say(&mut self, message: Message) {
        self.actions.push_back(Action::Say(message));
    }

    /// Says it, and remembers it for whoever asks later.
    fn note(&mut self, message: Message) {
        let at = self.unix_s();
        self.record.note(at, message.to_string());
        self.say(message);
        self.act(Action::Save);
    }

    /// Does what has become possible: the restart that had to wait, the look that was asked for, the end.
    fn settle(&mut self) {
        if let Some(leaving) = &self.leaving
            && let Some(exit) = leaving.exit
            && self.children.is_empty()
            && self.looking.running_until.is_none()
        {
            self.tell_process_manager();
            if self.actions.iter().all(|action| !matches!(action, Action::Leave(_))) {
                self.act(Action::Leave(exit));
            }
            return;
        }
        self.let_in();
        self.limit_draining();
        self.roll_back_if_possible();
        self.restart_if_possible();
        self.look_if_due();
        self.tell_process_manager();
    }

    fn deadline_passed(&mut self) {
        let now = self.now;
        if self.probation_until.is_some_and(|until| until <= now) {
            self.trusted();
        }
        if self.looking.running_until.is_some_and(|until| until <= now) {
            self.poll_overdue();
        }
        self.rehearsal_overdue();
        let due: Vec<Generation> =
            self.children.iter().filter(|(_, child)| child.deadline.is_some_and(|deadline| deadline <= now)).map(|(g, _)| *g).collect();
        for generation in due {
            self.overdue(generation);
        }
    }

    /// Nothing ages while the master is stopped, since its children may have been stopped with it.
    fn continued(&mut self, stopped: Duration) {
        for child in self.children.values_mut() {
            child.deadline = child.deadline.map(|deadline| deadline + stopped);
        }
        for deadline in [&mut self.looking.running_until, &mut self.probation_until] {
            *deadline = deadline.map(|deadline| deadline.saturating_add(stopped));
        }
        self.rehearsal_is_moved(stopped);
        self.watch_is_moved(stopped);
        self.say(Message::Continued { after: crate::message::Seconds(stopped) });
    }
}

/// How an operator reads of a release.
pub(crate) fn describe(release: &ReleaseName) -> String {
    release.to_string()
}
