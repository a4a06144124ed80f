//! Years of a master in seconds: a made-up machine whose processes behave in all ways, with operators, signals, stops, reboots and a source
//! that publishes good and bad releases. [`Master`] checks after every event what must always hold.
//!
//! The seed is printed, and is the same in each run of the tests, so that what has passed passes again. `OVERSEER_SIM_SEED` tries another one,
//! `OVERSEER_SIM_STEPS` makes a run longer.

use super::testing::{Master, file, generation, release, report, seconds, settings};
use super::{Action, Asker, Blame, Command, Event, Generation, Installation, Program, Settings, Time};
use crate::binary::Identity;
use crate::config::Upgrades;
use crate::fetcher::FetchError;
use crate::protocol::{Outcome, ReleaseName, Report, Verdict};
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const STEPS: usize = 150_000;
/// A process manager takes the service for hung if it has heard nothing for so long.
const WATCHDOG: Duration = Duration::from_secs(60);
const KILLED: Exit = Exit::Signal(Signal::KILL);
/// At this start of a release that has not lived through its probation the previous binary runs, as in `master::start`.
const STARTS_MAX: u32 = 3;

/// What kind of program a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Character {
    Good,
    /// Follows no drain and has no handler for any signal.
    Plain,
    Mute,
    ExitsAtStart,
    Refused,
    AddressInUse,
    NeverReady,
    ReadyLate,
    CrashesInWarmUp,
    CrashesInProbation,
    TalksNonsense,
    /// Serves, and ignores drains and signals.
    Stubborn,
}

/// Something that will happen, unless its process is gone by then.
#[derive(Debug, Clone)]
enum Happening {
    Hello(Generation),
    Drains(Generation),
    Refused(Generation, Blame),
    Ready(Generation),
    Nonsense(Generation),
    Pong(Generation),
    Exits(Generation, Exit),
    Rehearses(bool),
    PollMoves,
    PollEnds(Box<Report>),
    Outside,
}

/// A made-up machine.
struct World {
    master: Master,
    random: fastrand::Rng,
    coming: BTreeMap<(Time, u64), Happening>,
    number: u64,
    characters: BTreeMap<u64, Character>,
    /// Generations that the master started from its own file.
    originals: BTreeSet<Generation>,
    /// What lies beside the path, to be tried again at a later start.
    resting: Option<Identity>,
    /// What the source offers.
    published: u64,
    newest_file: u64,
    /// How often each line was said.
    said: BTreeMap<&'static str, usize>,
    masters: usize,
    /// How many deadlines in a row have passed at this time.
    deadlines: (Time, usize),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            master: Master::new(settings()).under_a_manager(Some(WATCHDOG)),
            random: fastrand::Rng::with_seed(seed),
            coming: BTreeMap::new(),
            number: 0,
            characters: BTreeMap::from([(1, Character::Good)]),
            originals: BTreeSet::new(),
            resting: None,
            published: 1,
            newest_file: 100,
            said: BTreeMap::new(),
            masters: 1,
            deadlines: (Time::ZERO, 0),
        };
        world.after(60.0, Happening::Outside);
        world.react();
        world
    }

    fn after(&mut self, pause: f64, happening: Happening) {
        self.number += 1;
        self.coming.insert((self.master.now + seconds(pause), self.number), happening);
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.random.u32(..times) == 0
    }

    fn pause(&mut self, longest: f64) -> f64 {
        (self.random.f64() * longest * 1000.0).round() / 1000.0
    }

    /// A file with a character of its own.
    fn new_file(&mut self) -> u64 {
        use Character::*;
        const BAD: [Character; 10] =
            [Plain, Mute, ExitsAtStart, Refused, AddressInUse, NeverReady, ReadyLate, CrashesInWarmUp, CrashesInProbation, TalksNonsense];
        self.newest_file += 1;
        let character = match self.random.u32(..10) {
            0..4 => Good,
            4 => Stubborn,
            _ => BAD[self.random.usize(..BAD.len())],
        };
        self.characters.insert(self.newest_file, character);
        self.newest_file
    }

    fn settings(&mut self) -> Settings {
        let mut settings = settings();
        settings.terminate_timeout = Duration::from_secs(if self.one_in(3) { 5 } else { 30 });
        settings.ready_timeout = if self.one_in(2) { Some(Duration::from_secs(60)) } else { None };
        settings.overlap = !self.one_in(3);
        settings.max_draining = self.random.usize(1..4);
        if self.one_in(6) {
            settings.probation = Duration::ZERO;
        }
        if self.one_in(4) {
            settings.restart_signal = Signal::HUP;
        }
        if self.one_in(8) {
            settings.source = None;
        }
        settings.upgrades = match self.random.u32(..12) {
            0 => Some(Upgrades::Off),
            1 => Some(Upgrades::Notify),
            _ => None,
        };
        settings.answers_pings = !self.one_in(5);
        settings.installation = match self.random.u32(..10) {
            0 => Installation::WithoutRestart,
            1 => Installation::AtNextRestart,
            _ => Installation::Proved,
        };
        settings
    }

    /// One event, or one deadline.
    fn step(&mut self) {
        let deadline = self.master.rules.deadline();
        let (at, number) = *self.coming.keys().next().expect("something always comes from outside");
        match deadline {
            Some(deadline) if deadline < at => {
                self.master.now = self.master.now.max(deadline);
                self.master.handle(Event::DeadlinePassed);
                let (at, times) = self.deadlines;
                self.deadlines = (self.master.now, if at == self.master.now { times + 1 } else { 1 });
                assert!(self.deadlines.1 < 20, "a deadline at {deadline:?} does not pass");
            }
            _ => {
                let happening = self.coming.remove(&(at, number)).expect("it was there");
                self.master.now = self.master.now.max(at);
                self.happens(happening);
            }
        }
        self.master.replaces_itself_if_due();
        self.react();
    }

    fn happens(&mut self, happening: Happening) {
        let is_alive = |generation: &Generation| self.master.alive.contains_key(generation);
        match happening {
            Happening::Hello(generation) if is_alive(&generation) => {
                let settings = self.settings();
                self.master.welcome_with(generation.0, settings);
            }
            Happening::Drains(generation) if is_alive(&generation) => self.master.drains(generation.0),
            Happening::Refused(generation, blame) if is_alive(&generation) => self.master.refuse(generation.0, blame),
            Happening::Ready(generation) if is_alive(&generation) => self.master.ready(generation.0),
            Happening::Nonsense(generation) if is_alive(&generation) => self.master.misbehaves(generation.0),
            Happening::Pong(generation) if is_alive(&generation) => self.master.answers(generation.0),
            Happening::Exits(generation, exit) if is_alive(&generation) => self.master.exits(generation.0, exit),
            Happening::Rehearses(can) => self.master.rehearses(can),
            Happening::PollMoves if self.master.is_polling => self.master.handle(Event::PollProgress),
            Happening::PollEnds(report) if self.master.is_polling => self.master.poll_ends(*report),
            Happening::Outside => {
                self.outside();
                let pause = if self.one_in(4) { 2.0 } else { 400.0 };
                let pause = self.pause(pause);
                self.after(pause, Happening::Outside);
            }
            _ => {}
        }
    }

    /// What operators, the source and the machine do.
    fn outside(&mut self) {
        match self.random.u32(..39) {
            0..8 => self.master.restart(),
            8..10 => self.master.handle(Event::RestartAsked { asker: Asker::Program }),
            10..13 => self.master.handle(Event::PollAsked),
            13..20 => self.published = self.new_file(),
            20..24 => {
                let signal = [Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH][self.random.usize(..4)];
                let to_the_group = self.one_in(4);
                self.master.signalled(signal, to_the_group);
                if to_the_group {
                    self.all_get(signal);
                }
            }
            24..27 => {
                let signal = [Signal::TERM, Signal::INT, Signal::QUIT][self.random.usize(..3)];
                let to_the_group = self.one_in(3);
                self.master.signalled(signal, to_the_group);
                if to_the_group {
                    self.all_get(signal);
                }
            }
            27..29 => {
                let operators = if self.one_in(3) { 1 } else { self.new_file() };
                if self.one_in(3) { self.master.package_changes(operators) } else { self.master.operator_puts(operators) }
            }
            29..31 => self.is_stopped(),
            31..33 => self.some_child_is_killed(),
            33 => self.master.commit_fails = true,
            34 => self.master.take_back_fails = true,
            35 => self.master.spawn_fails = Some(if self.one_in(2) { Blame::Nobody } else { Blame::Release }),
            38 => {
                let hold = Command::Hold { reason: "the fair".to_owned() };
                let all = [
                    Command::Poll,
                    Command::Retry,
                    Command::Rollback,
                    Command::Rollback,
                    hold,
                    Command::Unhold,
                    Command::Unhold,
                    Command::Restart,
                ];
                let command = all[self.random.usize(..all.len())].clone();
                self.master.command(command);
            }
            36 => self.master.welcome_fails = Some(if self.one_in(2) { Blame::Nobody } else { Blame::Release }),
            37 => (0..self.random.u32(1..5)).for_each(|_| self.reboots()),
            _ => {}
        }
    }

    fn is_stopped(&mut self) {
        let stopped = self.pause(100.0);
        self.master.signal(Signal::TSTP);
        self.master.continues_after(stopped);
        let coming = std::mem::take(&mut self.coming);
        self.coming = coming.into_iter().map(|((at, number), happening)| ((at + seconds(stopped), number), happening)).collect();
    }

    fn some_child_is_killed(&mut self) {
        let alive: Vec<Generation> = self.master.alive.keys().copied().collect();
        if let Some(generation) = self.random.choice(alive) {
            self.master.exits(generation.0, KILLED);
        }
    }

    /// The kernel sends it to every process of the group.
    fn all_get(&mut self, signal: Signal) {
        let alive: Vec<Generation> = self.master.alive.keys().copied().collect();
        alive.into_iter().for_each(|generation| self.gets(generation, signal));
    }

    /// All processes are gone, and the machine starts the master again.
    fn reboots(&mut self) {
        assert!(self.master.is_saved(), "something would be forgotten");
        if !self.master.was_ready && self.one_in(3) {
            // Somebody is woken up.
            self.master.operator_puts(1);
        }
        let mut next = self.master.after_reboot().under_a_manager(Some(WATCHDOG));
        if let Some(probation) = next.rules.record.probation.as_mut().filter(|probation| probation.identity == next.path) {
            probation.starts += 1;
            if probation.starts >= STARTS_MAX
                && let Some(previous) = next.previous.take()
            {
                let mut record = next.rules.record.clone();
                record.taken_back("started too often".to_owned(), 0);
                next.path = previous;
                next.saved = record;
                next = next.after_reboot().under_a_manager(Some(WATCHDOG));
                *self.said.entry("start-taken-back").or_default() += 1;
            }
        }
        next = self.rests_or_has_rested(next);
        next.saved = next.rules.record.clone();
        self.master = next;
        self.masters += 1;
        // Its time begins anew, and with it the count.
        self.deadlines = (Time::ZERO, 0);
        self.coming.clear();
        self.originals.clear();
        self.after(30.0, Happening::Outside);
        self.react();
    }

    /// A start with a binary store: a release that has not come up lately makes way for the packaged file, or is put back in its place, as in `master::home`.
    fn rests_or_has_rested(&mut self, mut next: Master) -> Master {
        let (mut record, now) = (next.rules.record.clone(), next.rules.unix_s());
        match (&record.resting, self.resting) {
            (Some(_), Some(file)) if record.is_rested(now) => {
                record.has_rested();
                next.path = file;
                *self.said.entry("stored-again").or_default() += 1;
            }
            (None, _) if record.probation.is_none() && self.one_in(3) => {
                let Some(installed) = record.installed.clone() else { return next };
                record.rests(&installed.release, now + 600, "did not come up".to_owned(), now);
                self.resting = Some(std::mem::replace(&mut next.path, file(1)));
            }
            (Some(_) | None, _) => return next,
        }
        (next.previous, next.saved) = (None, record);
        next.after_reboot().under_a_manager(Some(WATCHDOG))
    }

    /// The processes do what they do when they are told.
    fn react(&mut self) {
        for code in self.master.said() {
            *self.said.entry(code).or_default() += 1;
        }
        for action in self.master.done() {
            if let Action::Spawn { program: Program::Last, .. } = action {
                *self.said.entry("started-again").or_default() += 1;
            }
            match action {
                Action::Spawn { generation, program } if self.master.alive.contains_key(&generation) => self.starts(generation, program),
                Action::Drain { generation, within } => self.is_drained(generation, within),
                Action::Signal { generation, signal } => self.gets(generation, signal),
                Action::Kill { generation } => self.after(0.003, Happening::Exits(generation, KILLED)),
                // Some answer late, and some never.
                Action::Ping { generation } if !self.one_in(50) => {
                    let pause = if self.one_in(20) { self.pause(200.0) } else { 0.001 };
                    self.after(pause, Happening::Pong(generation));
                }
                Action::Poll => self.polls(),
                Action::KillPoll => {
                    let outcome = Outcome::Failed { error: FetchError::passing("killed") };
                    self.after(0.003, Happening::PollEnds(Box::new(report(outcome))));
                }
                Action::Leave(_) => return self.reboots(),
                _ => {}
            }
        }
        for generation in self.master.begun() {
            self.begins(generation);
        }
        if let Some(generation) =
            self.master.rehearsing.filter(|_| !self.coming.values().any(|coming| matches!(coming, Happening::Rehearses(_))))
        {
            let can = !self.one_in(6) && self.master.alive.contains_key(&generation);
            let pause = if self.one_in(8) { 6.0 } else { 0.02 };
            self.after(pause, Happening::Rehearses(can));
        }
    }

    fn character(&self, generation: Generation) -> Character {
        let inode = self.master.alive.get(&generation).map_or(0, |file| file.inode);
        self.characters.get(&inode).copied().unwrap_or(Character::Good)
    }

    fn starts(&mut self, generation: Generation, program: Program) {
        let character = self.character(generation);
        let hello = 0.01 + self.pause(0.5);
        match character {
            Character::Mute => {}
            Character::ExitsAtStart => self.after(hello, Happening::Exits(generation, Exit::Code(1))),
            Character::Refused | Character::AddressInUse => {
                // The first generation of a master had these addresses before.
                let blame = if character == Character::Refused { Blame::Release } else { Blame::Nobody };
                self.after(hello, Happening::Refused(generation, blame));
                self.after(hello + 0.1, Happening::Exits(generation, Exit::Code(1)));
            }
            _ => self.after(hello, Happening::Hello(generation)),
        }
        if program == Program::Own {
            self.originals.insert(generation);
        }
    }

    /// Its program runs from now on.
    fn begins(&mut self, generation: Generation) {
        let character = self.character(generation);
        let ready = self.pause(1.5);
        if character != Character::Plain {
            self.after(0.01, Happening::Drains(generation));
        }
        match character {
            Character::NeverReady => {}
            Character::ReadyLate => self.after(ready + 20.0, Happening::Ready(generation)),
            _ => self.after(ready, Happening::Ready(generation)),
        }
        let later = self.pause(290.0);
        match character {
            Character::CrashesInWarmUp if !self.originals.contains(&generation) => {
                self.after(ready + 0.5, Happening::Exits(generation, Exit::Code(101)))
            }
            Character::CrashesInProbation => self.after(ready + 1.0 + later, Happening::Exits(generation, Exit::Signal(Signal::SEGV))),
            Character::TalksNonsense => self.after(ready + later, Happening::Nonsense(generation)),
            _ => {}
        }
        if self.one_in(40) {
            let exit = if self.one_in(2) { Exit::Code(0) } else { Exit::Code(1) };
            self.after(ready + later * 10.0, Happening::Exits(generation, exit));
        }
    }

    fn is_drained(&mut self, generation: Generation, within: Duration) {
        if self.character(generation) == Character::Stubborn {
            return;
        }
        let pause = self.pause(within.as_secs_f64() * 1.2);
        let exit = if self.one_in(10) { Exit::Code(1) } else { Exit::Code(0) };
        self.after(pause, Happening::Exits(generation, exit));
    }

    fn gets(&mut self, generation: Generation, signal: Signal) {
        let dies = match (self.character(generation), signal) {
            (_, Signal::TSTP | Signal::CONT | Signal::WINCH) | (Character::Stubborn, _) => false,
            (Character::Plain, _) => true,
            (_, Signal::TERM | Signal::INT | Signal::QUIT) => !self.one_in(4),
            _ => self.one_in(8),
        };
        if dies {
            let pause = self.pause(3.0);
            self.after(pause, Happening::Exits(generation, Exit::Signal(signal)));
        }
    }

    /// A look begins: what the source offers now is what it finds, if it comes to that.
    fn polls(&mut self) {
        let (known, unwanted) = self.master.rules.known();
        let offered = release(self.published);
        let running = self.master.rules.running();
        let outcome = match self.random.u32(..20) {
            0..2 => {
                let error = FetchError::passing("timed out");
                Outcome::Failed { error: if self.one_in(2) { error } else { error.retry_after(Duration::from_secs(1000)) } }
            }
            2 => Outcome::Incomplete { why: "no checksum yet".to_owned() },
            3 => return self.after(0.2, Happening::PollMoves),
            _ if known.is_settled(&offered.tag) => Outcome::Unchanged,
            _ if running == file(self.published) => Outcome::Same { release: offered },
            _ if unwanted.contains(&offered.id) => Outcome::Unchanged,
            4 => Outcome::Refused { release: offered, verdict: Verdict::Reject, why: "no marker".to_owned() },
            5 => Outcome::Refused { release: offered, verdict: Verdict::HoldBack, why: "timed out".to_owned() },
            6 if self.one_in(2) => {
                // Its signature is looked at before it is a file.
                let release = ReleaseName { id: String::new(), ..offered };
                Outcome::Refused { release, verdict: Verdict::Mendable, why: "not signed".to_owned() }
            }
            6 => Outcome::Refused { release: offered, verdict: Verdict::Blameless, why: "disk full".to_owned() },
            _ if !self.master.rules.may_install() && !self.one_in(8) => {
                // The others began to look before that was so, or are of a build that does not know of it.
                Outcome::Named { release: ReleaseName { id: String::new(), ..offered } }
            }
            _ if self.master.path != running => Outcome::Incomplete { why: "another file is at the path".to_owned() },
            _ => self.master.staging(self.published),
        };
        let pause = self.pause(20.0);
        self.after(pause / 2.0, Happening::PollMoves);
        let memo = self.one_in(3).then(|| "m".repeat(self.random.usize(..5000)));
        self.after(pause, Happening::PollEnds(Box::new(Report { memo, ..report(outcome) })));
    }
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// One that has found something.
const SEED: u64 = 153;

#[test]
fn a_master_keeps_its_promises_through_years_of_faults() {
    let seed = number_from_environment("OVERSEER_SIM_SEED").unwrap_or(SEED);
    let steps = number_from_environment("OVERSEER_SIM_STEPS").map_or(STEPS, |steps| usize::try_from(steps).unwrap_or(usize::MAX));
    println!("OVERSEER_SIM_SEED={seed} OVERSEER_SIM_STEPS={steps}");
    let mut world = World::new(seed);
    let mut time = Duration::ZERO;
    for step in 0..steps {
        let before = (world.masters, world.master.now);
        let went = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step()));
        if let Err(panic) = went {
            eprintln!("in step {step} of OVERSEER_SIM_SEED={seed}, at {:?} of master {}", world.master.now, world.masters);
            std::panic::resume_unwind(panic);
        }
        if world.masters == before.0 {
            time += world.master.now - before.1;
        }
    }
    println!("{} days, {} masters, {:?}", time.as_secs() / 86_400, world.masters, world.said);
    if steps >= STEPS {
        for code in REACHED {
            assert!(world.said.contains_key(code), "no run of {steps} steps should miss {code:?}: {:?}", world.said);
        }
    }
}

/// A simulation that does not come by these lines tests less than it seems to.
const REACHED: &[&str] = &[
    "answers-again",
    "command",
    "committed",
    "commit-failed",
    "drain-overdue",
    "drained",
    "forgotten",
    "gives-way",
    "held",
    "held-back",
    "installed",
    "killing",
    "look-failed",
    "master-replaced",
    "master-stays",
    "memo-dropped",
    "misbehaved",
    "no-drain",
    "not-installed",
    "not-asked",
    "not-ready-yet",
    "own-file",
    "own-file-failed",
    "program-ended",
    "program-failed",
    "ready-late",
    "rejected",
    "release-waits",
    "restart-failed",
    "rollback-failed",
    "rolled-back",
    "rolling-back",
    "restart-waits",
    "serves-again",
    "shutting-down",
    "silent",
    "start-taken-back",
    "started-again",
    "stored-again",
    "take-back-failed",
    "taken-back",
    "tried-again",
    "trusted",
    "unheld",
    "waits-alone",
];

#[test]
fn the_first_generation_of_the_simulation_is_the_original() {
    let world = World::new(1);
    assert_eq!(world.master.alive.get(&generation(1)), Some(&file(1)));
}
