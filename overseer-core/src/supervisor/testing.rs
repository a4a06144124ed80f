//! A master without a system: it does what `master` does with the actions, on a made-up path, with made-up processes and a made-up clock. After
//! every event it checks what must always hold, so each test of the rules is a test of that too.

use super::generations::LAST_MOMENT;
use super::signals::KEPT_MAX;
use super::{
    Action, Asker, Blame, Command, Event, Generation, NewPackage, Notice, Program, Settings, Stage, Start, Started, Supervisor, Time,
};
use crate::binary::{Identity, Packaged, Record};
use crate::fetcher::FetchError;
use crate::message::Message;
use crate::protocol::{Outcome, ReleaseName, Report, Staged, Verdict};
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const SOURCE: &str = "https://releases.test/app";
/// When the made-up masters start: seconds since 1970.
pub(super) const UNIX_START: u64 = 1_800_000_000;
/// The file of the first generation.
pub(super) const ORIGINAL: u64 = 1;
/// More actions than this after one event are taken for a loop without end; signals that were kept come all at once.
const ACTIONS_MAX: usize = 200 + 2 * KEPT_MAX;

/// A file by its number.
pub(super) fn file(number: u64) -> Identity {
    Identity { device: 1, inode: number, size_bytes: 1000 + number, modified_ns: 0 }
}

/// The release that consists of the file with this number.
pub(super) fn release(number: u64) -> ReleaseName {
    ReleaseName { id: format!("{number:040x}"), tag: format!("tag-{number}"), source: SOURCE.to_owned(), ..ReleaseName::default() }
}

pub(super) fn seconds(seconds: f64) -> Time {
    Duration::from_secs_f64(seconds)
}

pub(super) fn generation(number: u64) -> Generation {
    Generation(number)
}

/// Settings with a source and an interval of 5 min.
pub(super) fn settings() -> Settings {
    Settings { source: Some(SOURCE.to_owned()), ..Settings::default() }
}

pub(super) fn report(outcome: Outcome) -> Report {
    Report { outcome, memo: None, running_id: None, packaged: None }
}

/// What one process was told, to be compared with what it should have been.
#[derive(Debug, Clone, Default)]
struct Told {
    /// Signals that are its due: those that came while it served or was a candidate.
    due: BTreeMap<Signal, usize>,
    sent: BTreeMap<Signal, usize>,
    /// When it must be gone at the latest, once it drains.
    gone_by: Option<Time>,
    /// It was the active generation, and ready.
    has_served: bool,
    /// It cannot be talked to, was refused or never said anything: the master may end it even if it is the active one.
    is_faulty: bool,
}

/// A process manager, as far as it has been told.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcessManager {
    is_there: bool,
    pub(super) is_ready: bool,
    pub(super) is_reloading: bool,
    pub(super) is_stopping: bool,
    pub(super) status: String,
    /// All messages since somebody has last taken them, without status lines.
    heard: Vec<Vec<Notice>>,
    /// Who was asked for a sign of life and has not given one.
    pinged: Option<Generation>,
    /// Until when it waits.
    pub(super) waits_until: Option<Time>,
    /// When it has last heard a sign of life, or began to wait for one.
    last_sign: Time,
}

impl ProcessManager {
    /// Takes in one message, which must make sense.
    fn hears(&mut self, notices: &[Notice], rules: &Supervisor, now: Time) {
        assert!(self.is_there && !notices.is_empty(), "{notices:?} for nobody");
        let states = notices.iter().filter(|notice| matches!(notice, Notice::Ready | Notice::Reloading | Notice::Stopping)).count();
        assert!(states <= 1, "{notices:?} at once");
        for notice in notices {
            match notice {
                Notice::Ready => {
                    assert!(!self.is_stopping && (!self.is_ready || self.is_reloading), "ready again");
                    if !self.is_ready {
                        self.last_sign = now;
                    }
                    (self.is_ready, self.is_reloading) = (true, false);
                }
                Notice::Reloading => {
                    assert!(self.is_ready && !self.is_reloading && !self.is_stopping, "a reload without the end of the one before");
                    self.is_reloading = true;
                }
                Notice::Stopping => {
                    assert!(rules.is_leaving() && !self.is_stopping, "it stops twice, or not at all");
                    self.is_stopping = true;
                }
                Notice::Status(status) => {
                    assert!(*status != self.status && status.len() <= 512 && !status.contains('\n'), "{status}");
                    self.status.clone_from(status);
                }
                Notice::Extend(time) => {
                    assert!(*time <= Duration::from_secs(30), "{time:?}");
                    assert!(!self.is_ready || self.is_reloading || self.is_stopping, "it waits for nothing");
                    self.waits_until = Some(self.waits_until.map_or(now + *time, |until| until.max(now + *time)));
                }
                Notice::Watchdog => {
                    assert!(self.is_ready && !self.is_stopping, "nobody watches");
                    let makes_room = rules.last().is_some();
                    assert!(makes_room || self.pinged.is_none() || self.pinged != rules.active, "a sign of life of one that is silent");
                    self.last_sign = now;
                }
            }
        }
        let said: Vec<Notice> = notices.iter().filter(|notice| !matches!(notice, Notice::Status(_))).cloned().collect();
        if !said.is_empty() {
            self.heard.push(said);
        }
    }

    /// Whether it knows what the rules know.
    fn check(&self, rules: &Supervisor, now: Time) {
        if !self.is_there {
            return;
        }
        assert_eq!(self.is_stopping, rules.is_leaving());
        if rules.is_leaving() {
            return;
        }
        let active = rules.active.and_then(|active| rules.children.get(&active));
        let serves = active.is_some_and(|child| child.stage == Stage::Active);
        assert!(self.is_ready || !serves, "it does not know that the service is ready");
        let restarts = rules.restart_wanted.is_some() || (rules.candidate.is_some() && rules.candidate == rules.told.restarts_as);
        let goes_on = self.is_reloading && !serves;
        assert!(!self.is_ready || self.is_reloading == restarts || goes_on, "reloading: {}, restarting: {restarts}", self.is_reloading);
        // Until somebody hangs: one that was asked and is silent, one that was killed and is not gone, or one that is late and cannot be asked.
        let hangs = active.is_some_and(|child| {
            let is_late = child.stage == Stage::Welcomed && child.deadline.is_none();
            child.stage == Stage::Killed || (is_late && !child.settings.answers_pings && !child.drains)
        });
        if let Some(watchdog) =
            rules.watchdog().filter(|_| self.is_ready && !hangs && (self.pinged.is_none() || self.pinged != rules.active))
        {
            let silence = now - self.last_sign;
            assert!(silence < watchdog, "it takes the service for hung: no sign of life for {silence:?}");
        }
    }
}

/// The shell of the rules, and everything around it.
#[derive(Debug, Clone)]
pub(super) struct Master {
    pub(super) rules: Supervisor,
    pub(super) now: Time,
    pub(super) path: Identity,
    pub(super) previous: Option<Identity>,
    /// Releases lie in a binary store, and this is the packaged file, which somebody has changed since.
    pub(super) package: Option<Identity>,
    /// The staged release and the file that was at the path when it was fetched.
    pub(super) staged: Option<(ReleaseName, Identity, Identity)>,
    pub(super) alive: BTreeMap<Generation, Identity>,
    /// Those whose programs run, and whether they may do so beside others.
    running: BTreeMap<Generation, bool>,
    /// Those whose programs have begun since somebody asked.
    begun: Vec<Generation>,
    /// The files of all generations that there were.
    files: BTreeMap<Generation, Identity>,
    pub(super) is_polling: bool,
    pub(super) left: Option<Exit>,
    pub(super) are_listeners_closed: bool,
    pub(super) saved: Record,
    /// The last events need not have been written.
    has_late_events: bool,
    /// What the next spawn, commit or taking back is answered with instead of success.
    pub(super) spawn_fails: Option<Blame>,
    pub(super) welcome_fails: Option<Blame>,
    pub(super) commit_fails: bool,
    pub(super) take_back_fails: bool,
    /// Another master has installed what runs, and decides what is at the path.
    pub(super) is_second: bool,
    /// How many commands were given, each by its token.
    pub(super) commands: usize,
    /// Seconds since 1970 when this master started.
    unix_start: u64,
    pub(super) own: Identity,
    /// The generation whose file reads a snapshot.
    pub(super) rehearsing: Option<Generation>,
    /// How often the master has been replaced.
    pub(super) replaced: usize,
    settings: Settings,
    /// What the shell takes for the restart signal.
    restart_signal: Signal,
    pub(super) manager: ProcessManager,
    told: BTreeMap<Generation, Told>,
    done: Vec<Action>,
    said: Vec<Message>,
    /// Files that may be at the path: the original one, those of operators, those that have proved themselves.
    good: BTreeSet<u64>,
    /// IDs of releases that failed their proof or were taken back.
    rejected: BTreeSet<String>,
    /// When the first stop signal came.
    stopped_at: Option<Time>,
    pub(super) was_ready: bool,
    was_asked_to_leave: bool,
}

impl Master {
    /// A master that has just started; its first generation is spawned and silent.
    pub(super) fn new(settings: Settings) -> Self {
        Self::again(settings, Record::default(), file(ORIGINAL), None, UNIX_START)
    }

    /// A master of the file at the path, with what an earlier one has remembered.
    pub(super) fn again(settings: Settings, record: Record, path: Identity, previous: Option<Identity>, unix_start: u64) -> Self {
        let start = Start {
            settings: settings.clone(),
            record: record.clone(),
            own: path,
            path: PathBuf::from("/srv/app"),
            previous: PathBuf::from("/srv/.app.overseer/previous"),
            unix: Duration::from_secs(unix_start),
            seed: 1,
        };
        let mut master = Self {
            rules: Supervisor::new(start),
            now: Time::ZERO,
            path,
            previous,
            package: None,
            staged: None,
            alive: BTreeMap::new(),
            running: BTreeMap::new(),
            begun: Vec::new(),
            files: BTreeMap::new(),
            is_polling: false,
            left: None,
            are_listeners_closed: false,
            saved: record,
            has_late_events: false,
            spawn_fails: None,
            welcome_fails: None,
            commit_fails: false,
            take_back_fails: false,
            is_second: false,
            commands: 0,
            unix_start,
            own: path,
            rehearsing: None,
            replaced: 0,
            restart_signal: settings.restart_signal,
            settings,
            manager: ProcessManager::default(),
            told: BTreeMap::new(),
            done: Vec::new(),
            said: Vec::new(),
            good: [path].into_iter().chain(previous).map(|file| file.inode).collect(),
            rejected: BTreeSet::new(),
            stopped_at: None,
            was_ready: false,
            was_asked_to_leave: false,
        };
        master.act();
        master
    }

    /// A master whose first generation has become ready at 0 s.
    pub(super) fn serving(settings: Settings) -> Self {
        let mut master = Self::new(settings);
        master.welcome(1);
        master.drains(1);
        master.ready(1);
        master.forget();
        master
    }

    /// A master that has found release 2 and tries it as generation 2 from 1 s on.
    pub(super) fn upgrading(settings: Settings) -> Self {
        let mut master = Self::serving(settings);
        master.until(1.0);
        master.finds(2);
        master.forget();
        master
    }

    /// A master that has committed release 2 as generation 2 at 2 s; generation 1 is gone.
    pub(super) fn upgraded(settings: Settings) -> Self {
        let mut master = Self::upgrading(settings);
        master.welcome(2);
        master.drains(2);
        master.ready(2);
        master.until(2.0);
        master.exits(1, Exit::Code(0));
        master.forget();
        assert_eq!((master.path, master.previous), (file(2), Some(file(ORIGINAL))));
        master
    }

    /// The same master, with a process manager that wants to be told, and watches with this watchdog.
    pub(super) fn under_a_manager(mut self, watchdog: Option<Duration>) -> Self {
        self.manager.is_there = true;
        self.rules.has_process_manager(true, watchdog);
        // Any event will do.
        self.handle(Event::Drains { generation: generation(0) });
        self
    }

    /// What the process manager was told since the last call, a list for each message, without status lines.
    pub(super) fn heard(&mut self) -> Vec<Vec<Notice>> {
        std::mem::take(&mut self.manager.heard)
    }

    /// The generation gives a sign of life.
    pub(super) fn answers(&mut self, number: u64) {
        self.manager.pinged.take_if(|pinged| *pinged == generation(number));
        self.handle(Event::Pong { generation: generation(number) });
    }

    /// Lets time pass; deadlines on the way pass in their order.
    pub(super) fn until(&mut self, at: f64) {
        let at = seconds(at);
        let mut passed = 0;
        while let Some(deadline) = self.rules.deadline().filter(|deadline| *deadline <= at && self.left.is_none()) {
            self.now = self.now.max(deadline);
            self.handle(Event::DeadlinePassed);
            passed += 1;
            assert!(passed < 10_000, "deadlines without end at {:?}", self.now);
        }
        self.now = self.now.max(at);
        if self.left.is_none() {
            // One too many does no harm.
            self.handle(Event::DeadlinePassed);
        }
    }

    /// What was done since the last call, without what is only said or saved.
    pub(super) fn done(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.done)
    }

    /// The codes of the lines since the last call, without those for debugging.
    pub(super) fn said(&mut self) -> Vec<&'static str> {
        let said = std::mem::take(&mut self.said);
        said.iter().filter(|message| message.level() != crate::message::Level::Debug).map(Message::code).collect()
    }

    /// The text of the last line with this code.
    pub(super) fn line(&self, code: &str) -> String {
        self.said.iter().rev().find(|message| message.code() == code).map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn forget(&mut self) {
        self.done.clear();
        self.said.clear();
    }

    pub(super) fn active(&self) -> Option<u64> {
        self.rules.active().map(|generation| generation.0)
    }

    pub(super) fn candidate(&self) -> Option<u64> {
        self.rules.candidate.map(|generation| generation.0)
    }

    pub(super) fn welcome(&mut self, number: u64) {
        let settings = self.settings.clone();
        self.welcome_with(number, settings);
    }

    pub(super) fn welcome_with(&mut self, number: u64, settings: Settings) {
        self.handle(Event::Hello { generation: generation(number), settings: Box::new(settings) });
    }

    pub(super) fn refuse(&mut self, number: u64, blame: Blame) {
        self.told(number).is_faulty = true;
        self.handle(Event::Refused { generation: generation(number), why: "cannot have :80: not permitted".to_owned(), blame });
    }

    pub(super) fn drains(&mut self, number: u64) {
        self.handle(Event::Drains { generation: generation(number) });
    }

    pub(super) fn ready(&mut self, number: u64) {
        self.handle(Event::Ready { generation: generation(number) });
    }

    /// Welcomed, following drains, and ready.
    pub(super) fn comes_up(&mut self, number: u64) {
        self.welcome(number);
        self.drains(number);
        self.ready(number);
    }

    pub(super) fn misbehaves(&mut self, number: u64) {
        self.told(number).is_faulty = true;
        self.handle(Event::Misbehaved { generation: generation(number), why: "it spoke nonsense".to_owned() });
    }

    pub(super) fn exits(&mut self, number: u64, exit: Exit) {
        self.alive.remove(&generation(number));
        self.running.remove(&generation(number));
        self.handle(Event::Exited { generation: generation(number), exit, why: None });
    }

    pub(super) fn restart(&mut self) {
        self.handle(Event::RestartAsked { asker: Asker::Signal });
    }

    /// An operator gives a command. Answers its token.
    pub(super) fn command(&mut self, command: Command) -> String {
        self.commands += 1;
        let token = format!("token-{}", self.commands);
        if command == Command::Retry && !self.rules.is_leaving() {
            self.rejected.clear();
        }
        let is_none = self.previous.is_none_or(|previous| previous == self.rules.running()) || self.path != self.rules.running();
        let obstacle = (command == Command::Rollback && is_none).then(|| "there is no previous binary".to_owned());
        self.handle(Event::Commanded { token: token.clone(), command, by: "alice".to_owned(), obstacle });
        token
    }

    /// What came of a command, if it is over.
    pub(super) fn answer(&self, token: &str) -> Option<(bool, String)> {
        let asked = self.rules.commands().find(|asked| asked.token == token).expect("it is remembered");
        asked.answer.as_ref().map(|answer| (answer.is_success, answer.text.clone()))
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        self.signalled(signal, false);
    }

    pub(super) fn signalled(&mut self, signal: Signal, to_the_group: bool) {
        let is_restart = signal == self.rules.settings.restart_signal;
        let is_stop = self.rules.settings.stop_signals.contains(&signal);
        if is_stop || signal.means_leaving() {
            self.was_asked_to_leave = true;
        } else if !is_restart && !to_the_group && !matches!(signal, Signal::TSTP | Signal::CONT) {
            let mut serving: Vec<Generation> = [self.rules.active, self.rules.candidate].into_iter().flatten().collect();
            serving.retain(|generation| self.stage_of(*generation).is_some_and(|stage| stage != Stage::Killed));
            for generation in serving {
                if self.kept(generation, signal) == KEPT_MAX {
                    continue;
                }
                *self.told(generation.0).due.entry(signal).or_default() += 1;
            }
        }
        let is_too_soon = is_stop && self.stopped_at.is_some_and(|first| self.now - first < Duration::from_secs(1));
        if is_stop {
            self.stopped_at = self.stopped_at.or(Some(self.now));
        }
        let kills = |master: &Self| master.done.iter().filter(|action| matches!(action, Action::Kill { .. })).count();
        let before = kills(self);
        self.handle(Event::Signal { signal, to_the_group });
        assert!(!is_too_soon || kills(self) == before, "a second {signal} kills too soon");
    }

    pub(super) fn continues_after(&mut self, stopped: f64) {
        let stopped = seconds(stopped);
        self.now += stopped;
        for told in self.told.values_mut() {
            told.gone_by = told.gone_by.map(|by| by + stopped);
        }
        self.manager.last_sign += stopped;
        let deadlines = |master: &Self| master.rules.children.values().map(|child| child.deadline).collect::<Vec<_>>();
        let moved: Vec<Option<Time>> = deadlines(self).into_iter().map(|deadline| deadline.map(|deadline| deadline + stopped)).collect();
        self.handle(Event::Continued { stopped });
        assert_eq!(deadlines(self), moved, "deadlines do not move by the time stopped");
    }

    /// The poll that runs, or one that is asked for, ends with this.
    pub(super) fn looked(&mut self, outcome: Outcome) {
        self.poll_ends(report(outcome));
    }

    pub(super) fn poll_ends(&mut self, report: Report) {
        if !self.is_polling {
            self.handle(Event::PollAsked);
            self.until(self.rules.next_look().unwrap_or(self.now).as_secs_f64());
        }
        assert!(std::mem::take(&mut self.is_polling), "no poll runs");
        if let Outcome::Staged(staged) = &report.outcome {
            self.staged = Some((staged.release.clone(), staged.identity, staged.started_from));
        }
        if let Outcome::Refused { release, verdict: Verdict::Reject, .. } = &report.outcome
            && !self.rules.is_leaving()
        {
            self.rejected.insert(release.id.clone());
        }
        self.handle(Event::PollEnded { report: Box::new(report) });
    }

    /// A look finds and proves the release that consists of the file with this number.
    pub(super) fn finds(&mut self, number: u64) {
        self.looked(self.staging(number));
    }

    pub(super) fn staging(&self, number: u64) -> Outcome {
        Outcome::Staged(Staged {
            release: release(number),
            path: PathBuf::from("/srv/.app.new-1"),
            identity: file(number),
            started_from: self.path,
            previous: PathBuf::from("/srv/.app.overseer/previous.new"),
        })
    }

    pub(super) fn fails_to_look(&mut self) {
        self.looked(Outcome::Failed { error: FetchError::passing("connection refused") });
    }

    /// An operator puts a file at the path.
    pub(super) fn operator_puts(&mut self, number: u64) {
        self.path = file(number);
        self.good.insert(number);
    }

    /// An operator changes the packaged file, in whose place releases are committed to a binary store.
    pub(super) fn package_changes(&mut self, number: u64) {
        self.package = Some(file(number));
    }

    pub(super) fn stage_of(&self, generation: Generation) -> Option<Stage> {
        self.rules.children.get(&generation).map(|child| child.stage)
    }

    /// How many of the signal wait for the generation.
    fn kept(&self, generation: Generation, signal: Signal) -> usize {
        self.rules.children.get(&generation).map_or(0, |child| child.kept.iter().filter(|kept| **kept == signal).count())
    }

    fn told(&mut self, number: u64) -> &mut Told {
        self.told.entry(generation(number)).or_default()
    }

    /// Tells the rules what happened, does what they say, and checks what must always hold.
    pub(super) fn handle(&mut self, event: Event) {
        let must_end_as = self.end_that_must_follow(&event);
        if let Event::DeadlinePassed = event {
            let now = self.now;
            let overdue = self.rules.children.iter().filter(|(_, child)| child.deadline.is_some_and(|deadline| deadline <= now));
            let silent: Vec<Generation> =
                overdue.filter(|(_, child)| child.stage == Stage::Starting).map(|(generation, _)| *generation).collect();
            silent.into_iter().for_each(|generation| self.told(generation.0).is_faulty = true);
        }
        self.rules.handle(self.now, event);
        self.act();
        if let Some(exit) = must_end_as {
            let planned = self.rules.leaving.as_ref().and_then(|leaving| leaving.exit);
            assert_eq!(planned, Some(exit), "the program's own end is not the master's");
        }
        self.check();
    }

    /// The file of the serving generation has read a snapshot, or could not.
    pub(super) fn rehearses(&mut self, can: bool) {
        let Some(generation) = self.rehearsing.take() else { return };
        let result = if can { Ok(()) } else { Err("it is too old".to_owned()) };
        self.handle(Event::Rehearsed { generation, result });
    }

    /// The master executes the file that it is to become, if the path holds it: what it knows becomes text and is read by the next one.
    pub(super) fn replaces_itself_if_due(&mut self) {
        let Some(generation) = self.rules.due_replacement() else { return };
        let program = self.alive[&generation];
        if program != self.path {
            return self.handle(Event::NotReplaced { why: "the path holds another file".to_owned() });
        }
        let text = serde_json::to_string(&self.rules).expect("the rules can be written down");
        let mut next: Supervisor = serde_json::from_str(&text).expect("they can be read");
        assert_eq!(next, self.rules, "something was lost on the way");
        next.has_process_manager(self.manager.is_there, self.rules.watchdog());
        self.rules = next;
        self.own = program;
        self.replaced += 1;
        self.handle(Event::Replaced { own: program, took: Duration::from_millis(5), why: None });
        assert_eq!(self.rules.due_replacement(), None, "it is replaced once");
    }

    /// How the master must end if this is the program's own end outside a probation, and nobody can take over.
    fn end_that_must_follow(&self, event: &Event) -> Option<Exit> {
        let Event::Exited { generation, exit, .. } = event else { return None };
        let makes_room = self.rules.last() == Some(*generation);
        let child = self.rules.children.get(generation).filter(|_| self.rules.active == Some(*generation) && !makes_room)?;
        let is_on_probation = self.rules.record.probation.as_ref().is_some_and(|probation| probation.identity == child.identity);
        let takes_over = self.rules.candidate.and_then(|candidate| self.stage_of(candidate)) == Some(Stage::WarmingUp);
        let is_tame = exit.is_success() || self.rules.is_leaving();
        (is_tame || (!is_on_probation && !takes_over)).then_some(*exit)
    }

    fn act(&mut self) {
        let mut actions = 0;
        while let Some(action) = self.rules.poll_action() {
            actions += 1;
            assert!(actions <= ACTIONS_MAX, "actions without end: {action:?}");
            if let Some(answer) = self.carry_out(&action) {
                self.rules.handle(self.now, answer);
            }
            match action {
                Action::Say(message) => {
                    match message {
                        // The shell counts its connections for this, which takes a moment.
                        Message::Draining { generation, .. } => {
                            assert!(self.told(generation.0).gone_by.is_some(), "generation {generation} is counted before it is told");
                        }
                        Message::GivesWay { generation, within, .. } => {
                            let by = self.now + within.0;
                            let told = self.told(generation.0);
                            told.gone_by = told.gone_by.map(|before| before.min(by));
                        }
                        _ => {}
                    }
                    self.said.push(message);
                }
                Action::Save
                | Action::SaveEvents
                | Action::CheckListeners
                | Action::Rehearse { .. }
                | Action::EndRehearsal
                | Action::Welcome { .. }
                | Action::Notify(_) => {}
                other => self.done.push(other),
            }
        }
    }

    fn carry_out(&mut self, action: &Action) -> Option<Event> {
        let changes_something = matches!(
            action,
            Action::Spawn { .. }
                | Action::Commit { .. }
                | Action::Install
                | Action::TakeBack { .. }
                | Action::PutBack { .. }
                | Action::Poll
        );
        assert!(!(changes_something && self.was_asked_to_leave), "{action:?} after the master was asked to leave");
        assert!(self.left.is_none(), "{action:?} after the master has left");
        match action {
            Action::Spawn { generation, program } => return Some(self.spawn(*generation, *program)),
            Action::Welcome { generation } => return Some(self.let_in(*generation)),
            Action::Drain { generation, within } => {
                let by = self.now + *within;
                let told = self.told(generation.0);
                assert!(told.gone_by.is_none_or(|before| before >= by), "generation {generation} gets a later deadline");
                told.gone_by = Some(by);
            }
            Action::Signal { generation, signal } => {
                assert!(self.alive.contains_key(generation), "{signal} for generation {generation}, which is gone");
                *self.told(generation.0).sent.entry(*signal).or_default() += 1;
            }
            Action::Kill { generation } => {
                assert!(self.alive.contains_key(generation), "generation {generation} is killed and was gone");
                let (now, is_leaving) = (self.now, self.rules.is_leaving());
                let told = self.told(generation.0);
                let has_had_its_time = told.gone_by.is_none_or(|by| by <= now);
                assert!(has_had_its_time || told.is_faulty || is_leaving, "generation {generation} is killed before its time");
            }
            Action::Commit { generation } => {
                assert!(self.rules.may_install(), "generation {generation} is committed, and upgrades are not to be installed");
                return Some(self.commit(*generation));
            }
            Action::Install => {
                assert!(self.rules.may_install(), "something is installed that is not to be");
                let identity = self.staged.as_ref().map(|(_, identity, _)| *identity);
                let installed = self.put_staged_at_path();
                self.good.extend(identity.filter(|_| installed.is_ok()).map(|identity| identity.inode));
                return Some(installed.map_or_else(|why| Event::InstallFailed { why }, |()| Event::InstallDone));
            }
            Action::TakeBack { failed } => return Some(self.take_back(failed)),
            Action::PutBack { generation, from } => return Some(self.put_back(*generation, from)),
            Action::Discard => self.staged = None,
            Action::Poll => {
                assert!(!self.is_polling, "two polls at once");
                self.is_polling = true;
            }
            Action::KillPoll => {}
            Action::Rehearse { generation } => self.rehearsing = Some(*generation),
            Action::EndRehearsal => {}
            Action::CloseListeners => self.are_listeners_closed = true,
            Action::Save => {
                self.saved = self.rules.record().clone();
                self.has_late_events = false;
            }
            // A master that is killed now has not written them.
            Action::SaveEvents => self.has_late_events = true,
            Action::SetStoredAside => {
                let active = self.rules.active.and_then(|active| self.alive.get(&active)).copied();
                assert!(active.is_some_and(|active| self.rules.record.packaged.as_ref().is_some_and(|file| file.identity == active)));
                let record = &self.rules.record;
                assert!(record.installed.is_none() && record.previous.is_none() && record.probation.is_none(), "{record:?}");
                // It may have changed again meanwhile.
                self.path = self.package.take().or(active).expect("somebody serves");
                self.good.insert(self.path.inode);
            }
            Action::Leave(exit) => {
                assert!(self.alive.is_empty(), "the master leaves {:?} behind", self.alive);
                assert!(!self.is_polling, "the master leaves its poll behind");
                self.left = Some(*exit);
            }
            Action::RestartBy { signal } => self.restart_signal = *signal,
            Action::Notify(notices) => self.manager.hears(notices, &self.rules, self.now),
            Action::Ping { generation } => {
                assert!(self.alive.contains_key(generation) && self.rules.active == Some(*generation), "generation {generation} is asked");
                // A second one might be one too many for a queue that it does not read.
                assert!(self.manager.pinged != Some(*generation), "generation {generation} is asked again before it has answered");
                self.manager.pinged = Some(*generation);
            }
            Action::Accept { .. } | Action::Trust { .. } | Action::CheckListeners | Action::Say(_) => {}
        }
        None
    }

    fn spawn(&mut self, generation: Generation, program: Program) -> Event {
        let is_candidate = self.rules.active != Some(generation);
        let package = self.package.filter(|_| is_candidate && program == Program::AtPath);
        let identity = match program {
            Program::Own => Some(self.own),
            Program::AtPath => Some(package.unwrap_or(self.path)),
            Program::Previous => self.previous,
            Program::Last => {
                for signal in &self.rules.children[&generation].kept {
                    *self.told.entry(generation).or_default().due.entry(*signal).or_default() += 1;
                }
                self.rules.last().map(|last| self.files[&last])
            }
            Program::Staged => self.staged.as_ref().map(|(release, identity, _)| {
                let verdict = self.rules.record.verdicts.iter().find(|judged| judged.release.is_same(release));
                let is_rejected = verdict.is_some_and(|judged| judged.until_unix_s.is_none()) || self.rejected.contains(&release.id);
                assert!(!is_rejected, "a rejected release is started: {release:?}");
                *identity
            }),
        };
        match (identity, self.spawn_fails.take()) {
            (Some(identity), None) => {
                self.alive.insert(generation, identity);
                self.files.insert(generation, identity);
                Event::Spawned {
                    generation,
                    started: Started {
                        pid: 100 + i32::try_from(generation.0).unwrap_or_default(),
                        identity,
                        proof: Duration::ZERO,
                        package: package.map(|identity| NewPackage {
                            path: PathBuf::from("/opt/app"),
                            file: Packaged { identity, ..Packaged::default() },
                        }),
                    },
                }
            }
            (_, blame) => {
                let why = "could not be started".to_owned();
                Event::SpawnFailed { generation, why, blame: blame.unwrap_or(Blame::Nobody) }
            }
        }
    }

    fn let_in(&mut self, generation: Generation) -> Event {
        if let Some(blame) = self.welcome_fails.take() {
            self.told(generation.0).is_faulty = true;
            return Event::Refused { generation, why: "cannot have :80: in use".to_owned(), blame };
        }
        let overlaps = self.rules.children[&generation].settings.overlap;
        let others = &self.running;
        assert!(others.is_empty() || (overlaps && others.values().all(|overlaps| *overlaps)), "{generation} begins beside {others:?}");
        self.running.insert(generation, overlaps);
        self.begun.push(generation);
        Event::Welcomed { generation }
    }

    /// The programs that have begun since the last call.
    pub(super) fn begun(&mut self) -> Vec<Generation> {
        std::mem::take(&mut self.begun)
    }

    fn commit(&mut self, generation: Generation) -> Event {
        let child = &self.rules.children[&generation];
        // Where nobody runs beside it, it has time to prove itself all the same.
        let is_alone = self.rules.active.is_none_or(|active| !self.alive.contains_key(&active)) && self.rules.gap.is_none();
        let served_since = if child.counted_by_age.is_some() { Some(child.spawned_at) } else { child.ready_at };
        assert!(served_since.is_some(), "generation {generation} was never ready and is committed");
        let has_warmed_up = served_since.is_some_and(|since| since + child.settings.warm_up <= self.now);
        assert!(has_warmed_up || is_alone, "generation {generation} is committed in its warm-up");
        let identity = child.identity;
        let staged = self.staged.as_ref().map(|(_, identity, _)| *identity);
        assert!(staged.is_none_or(|staged| staged == identity), "another release than generation {generation}'s is committed");
        match self.put_staged_at_path() {
            Ok(()) => {
                self.good.insert(identity.inode);
                Event::CommitDone { generation }
            }
            Err(why) => Event::CommitFailed { generation, why },
        }
    }

    fn put_staged_at_path(&mut self) -> Result<(), String> {
        if std::mem::take(&mut self.commit_fails) {
            return Err("the disk is full".to_owned());
        }
        let (_, identity, started_from) = self.staged.as_ref().ok_or("no release is staged")?;
        if *started_from != self.path || self.package.is_some() {
            return Err("/srv/app was replaced while the upgrade ran".to_owned());
        }
        self.previous = Some(self.path);
        self.path = *identity;
        self.staged = None;
        Ok(())
    }

    fn take_back(&mut self, failed: &Identity) -> Event {
        if self.is_second {
            return Event::TakenBack { at_path: false };
        }
        let previous = self.previous.filter(|_| self.path == *failed && !self.take_back_fails);
        self.take_back_fails = false;
        match previous {
            Some(previous) => {
                self.previous = None;
                self.path = previous;
                self.rejected.insert(release(failed.inode).id);
                Event::TakenBack { at_path: true }
            }
            None => Event::TakeBackFailed { why: "there is no previous binary".to_owned() },
        }
    }

    fn put_back(&mut self, generation: Option<Generation>, from: &Identity) -> Event {
        if let Some(generation) = generation {
            let child = &self.rules.children[&generation];
            let is_alone = self.rules.active.is_none_or(|active| !self.alive.contains_key(&active));
            let served_since = if child.counted_by_age.is_some() { Some(child.spawned_at) } else { child.ready_at };
            let has_warmed_up = served_since.is_some_and(|since| since + child.settings.warm_up <= self.now);
            assert!(has_warmed_up || is_alone, "generation {generation} is rolled back to in its warm-up");
        }
        let previous = self.previous.filter(|_| self.path == *from && !self.take_back_fails);
        self.take_back_fails = false;
        match previous {
            Some(previous) => {
                assert!(self.is_saved(), "what is rolled back from would be fetched again");
                self.previous = None;
                self.path = previous;
                // The same file may have come from an operator too, and has no ID then.
                if self.rules.record.id_of(from).is_some() {
                    self.rejected.insert(release(from.inode).id);
                }
                Event::PutBackDone { generation, there: previous }
            }
            None => Event::PutBackFailed { generation, why: "there is no previous binary".to_owned() },
        }
    }

    /// What must always hold, whatever happened.
    fn check(&mut self) {
        let rules = &self.rules;
        let ids: Vec<Generation> = rules.children.keys().copied().collect();
        assert!(ids.iter().all(|id| self.alive.contains_key(id)), "{ids:?} are known and {:?} alive", self.alive.keys());
        assert!(self.left.is_some() || ids.len() == self.alive.len(), "nobody waits for one of {:?}", self.alive.keys());
        assert!(self.good.contains(&self.path.inode), "a file that has not proved itself is at the path: {:?}", self.path);
        assert_eq!(rules.looking.running_until.is_some(), self.is_polling, "the rules are wrong about the poll");
        assert_eq!(rules.settings.restart_signal, self.restart_signal, "the shell has handlers for another restart signal");
        let up = |stage: Stage| matches!(stage, Stage::Starting | Stage::Waiting | Stage::Welcomed | Stage::WarmingUp | Stage::Active);
        let running: BTreeSet<Generation> = rules.children.iter().filter(|(_, child)| child.runs).map(|(id, _)| *id).collect();
        assert!(self.left.is_some() || self.running.keys().eq(&running), "the rules are wrong about who runs: {running:?}");
        for (id, child) in &rules.children {
            let has_a_part = rules.active == Some(*id) || rules.candidate == Some(*id);
            assert!(
                has_a_part || !up(child.stage),
                "generation {id} is {:?} beside {:?} and {:?}",
                child.stage,
                rules.active,
                rules.candidate
            );
            assert!(child.stage != Stage::Draining || child.deadline.is_some(), "generation {id} may drain for ever");
            assert!(child.stage != Stage::Active || rules.active == Some(*id), "two active generations");
        }
        let last_moment = Some(self.now + LAST_MOMENT);
        let draining = rules.draining();
        let surplus = draining.len().saturating_sub(rules.settings.max_draining);
        for id in draining[..surplus].iter().filter(|_| !rules.is_leaving()) {
            assert!(rules.children[id].deadline <= last_moment, "generation {id} does not give way");
        }
        let order: Vec<bool> = draining.iter().map(|id| self.told.get(id).is_some_and(|told| told.has_served)).collect();
        assert!(order.is_sorted(), "one that has served gives way before one that has not: {draining:?}");
        if let Some(candidate) = rules.candidate {
            assert!(rules.active.is_some() && rules.active != Some(candidate), "a candidate with nobody to replace");
            assert!(!self.is_polling, "a poll runs beside a candidate");
        }
        let active = rules.active.and_then(|active| rules.children.get(&active).map(|child| (active, child)));
        if let Some((active, child)) = active {
            self.was_ready |= child.stage == Stage::Active;
            if child.stage == Stage::Waiting && !rules.is_leaving() {
                for other in rules.in_the_way_of(active, &child.settings) {
                    let (stage, by) = (rules.children[&other].stage, rules.children[&other].deadline);
                    let is_on_its_way = stage == Stage::Killed || (by.is_some() && (by <= last_moment || rules.last() == Some(other)));
                    assert!(is_on_its_way, "generation {other} is {stage:?} until {by:?}, and nobody serves until it is gone");
                }
            }
            let told = self.told.get(&active);
            let was_ended = matches!(child.stage, Stage::Draining | Stage::Killed);
            assert!(
                rules.is_leaving() || !was_ended || rules.last() == Some(active) || told.is_some_and(|told| told.is_faulty),
                "the active generation {active} was ended without a reason"
            );
        }
        let comes_up = rules.gap.is_some() && rules.candidate.and_then(|candidate| self.stage_of(candidate)).is_some_and(up);
        assert!(rules.is_leaving() || active.is_some() || comes_up, "nobody serves and nobody is being started");
        let serves = active.is_some_and(|(_, child)| child.stage == Stage::Active);
        assert!(rules.gap.is_none() || !serves, "a gap in which somebody serves");
        let rejected = rules.record.verdicts.iter().filter(|judged| judged.until_unix_s.is_none());
        let installed = rules.record.installed.as_ref().map(|installed| &installed.release);
        for judged in rejected {
            assert!(installed.is_none_or(|installed| !judged.release.is_same(installed)), "a rejected release counts as installed");
        }
        for asked in rules.commands() {
            let is_over = asked.answer.is_some() || !(rules.is_leaving() && rules.active.is_none());
            assert!(is_over, "nobody will ever answer {asked:?}");
        }
        if let Some(next) = rules.next_look() {
            assert!(next > self.now, "a look is due and nobody looks");
        }
        self.manager.check(rules, self.now);
        self.check_children();
        for id in ids {
            self.told(id.0).has_served |= self.stage_of(id) == Some(Stage::Active);
        }
    }

    /// Signals and deadlines of each process.
    fn check_children(&self) {
        for (id, told) in &self.told {
            for (signal, sent) in &told.sent {
                let is_once = matches!(*signal, Signal::TERM | Signal::INT) && *sent <= 1;
                let is_due = *sent <= told.due.get(signal).copied().unwrap_or_default();
                let is_free = matches!(*signal, Signal::QUIT | Signal::TSTP | Signal::CONT);
                assert!(is_once || is_due || is_free, "generation {id} got {signal} {sent} times");
            }
            let Some(stage) = self.stage_of(*id) else { continue };
            if matches!(stage, Stage::Active | Stage::WarmingUp) {
                assert_eq!(passed_on(&told.due), passed_on(&told.sent), "a signal for generation {id} was lost");
            }
            if let Some(by) = told.gone_by.filter(|_| stage == Stage::Draining) {
                let next = self.rules.deadline();
                assert!(by > self.now || next.is_some_and(|next| next <= self.now), "generation {id} drains beyond its deadline");
            }
        }
    }

    /// Whether everything that outlives the master says what is true.
    pub(super) fn is_saved(&self) -> bool {
        let mut saved = self.saved.clone();
        if self.has_late_events {
            saved.events.clone_from(&self.rules.record().events);
        }
        saved == *self.rules.record()
    }

    /// The next master of the same file, after a reboot: nothing but the files and the record is left.
    pub(super) fn after_reboot(&self) -> Self {
        let unix = self.unix_start + self.now.as_secs();
        let mut record = self.saved.clone();
        if let Some(identity) = self.package {
            record.package_wins(Packaged { identity, ..Packaged::default() });
        }
        Self {
            good: self.good.iter().copied().chain(self.package.map(|file| file.inode)).collect(),
            rejected: self.rejected.clone(),
            ..Self::again(self.settings.clone(), record, self.package.unwrap_or(self.path), self.previous, unix)
        }
    }
}

/// Of signals, those that a generation gets once for each that came: not those that mean leaving or stop a process.
fn passed_on(signals: &BTreeMap<Signal, usize>) -> BTreeMap<Signal, usize> {
    let is_passed_on = |signal: Signal| !signal.means_leaving() && !matches!(signal, Signal::TSTP | Signal::CONT);
    signals.iter().filter(|(signal, _)| is_passed_on(**signal)).map(|(signal, times)| (*signal, *times)).collect()
}
