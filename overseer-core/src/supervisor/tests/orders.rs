//! Every event in every state: from several beginnings, all orders of events up to a depth. States that differ in nothing that matters are
//! looked at once. After each event [`Master`] checks what must always hold; from each state the master must be able to leave.

use super::super::testing::{Master, file, release, seconds, settings};
use super::super::{Blame, Command, Event, Installation, Settings};
use crate::protocol::{Outcome, Verdict};
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::any::Any;
use std::collections::HashSet;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many events follow a beginning. The states grow about tenfold with each.
const DEPTH: usize = 4;
const CRASH: Exit = Exit::Signal(Signal::SEGV);

/// One thing that can happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    Hello(u64),
    Drains(u64),
    Ready(u64),
    Refused(u64, Blame),
    Nonsense(u64),
    Exits(u64, Exit),
    Restart,
    AskForLook,
    Finds(u64),
    LookFails,
    Rejects(u64),
    Signal(Signal, bool),
    Deadline,
    Second,
    Stopped,
    OperatorPuts(u64),
    SpawnWillFail,
    WelcomeWillFail,
    CommitWillFail,
    TakeBackWillFail,
    Rehearses(bool),
    Rollback,
    Hold,
    Unhold,
}

/// What can happen to this master next.
fn steps(master: &Master) -> Vec<Step> {
    let mut steps = vec![
        Step::Restart,
        Step::AskForLook,
        Step::Signal(Signal::TERM, false),
        Step::Signal(Signal::INT, true),
        Step::Signal(Signal::QUIT, false),
        Step::Signal(Signal::HUP, false),
        Step::Deadline,
        Step::Second,
        Step::Stopped,
    ];
    for generation in master.alive.keys().map(|generation| generation.0) {
        steps.extend([Step::Hello(generation), Step::Drains(generation), Step::Ready(generation), Step::Nonsense(generation)]);
        steps.extend([Blame::Release, Blame::Nobody].map(|blame| Step::Refused(generation, blame)));
        steps.extend([Exit::Code(0), CRASH, Exit::Signal(Signal::HUP)].map(|exit| Step::Exits(generation, exit)));
    }
    if master.is_polling {
        steps.push(Step::LookFails);
        let (known, _) = master.rules.known();
        for number in [2, 3].into_iter().filter(|number| !known.is_settled(&release(*number).tag)) {
            steps.extend([Step::Finds(number), Step::Rejects(number)]);
        }
    }
    if master.rehearsing.is_some() {
        steps.extend([true, false].map(Step::Rehearses));
    }
    if master.previous.is_some() {
        steps.push(Step::Rollback);
    }
    steps.push(if master.rules.record().held.is_some() { Step::Unhold } else { Step::Hold });
    if master.path != file(7) {
        steps.push(Step::OperatorPuts(7));
    }
    if master.spawn_fails.is_none() && master.welcome_fails.is_none() && !master.commit_fails && !master.take_back_fails {
        steps.extend([Step::SpawnWillFail, Step::WelcomeWillFail, Step::CommitWillFail, Step::TakeBackWillFail]);
    }
    steps
}

fn take(master: &mut Master, step: Step) {
    match step {
        Step::Hello(generation) => master.welcome(generation),
        Step::Drains(generation) => master.drains(generation),
        Step::Ready(generation) => master.ready(generation),
        Step::Refused(generation, blame) => master.refuse(generation, blame),
        Step::Nonsense(generation) => master.misbehaves(generation),
        Step::Exits(generation, exit) => master.exits(generation, exit),
        Step::Restart => master.restart(),
        Step::AskForLook => master.handle(Event::PollAsked),
        Step::Finds(number) => master.finds(number),
        Step::LookFails => master.fails_to_look(),
        Step::Rejects(number) => {
            master.looked(Outcome::Refused { release: release(number), verdict: Verdict::Reject, why: "no marker".to_owned() });
        }
        Step::Signal(signal, to_the_group) => master.signalled(signal, to_the_group),
        Step::Deadline => {
            if let Some(deadline) = master.rules.deadline().filter(|deadline| *deadline < seconds(1e9)) {
                master.until(deadline.as_secs_f64());
            }
        }
        Step::Second => master.until(master.now.as_secs_f64() + 1.0),
        Step::Stopped => master.continues_after(1.5),
        Step::OperatorPuts(number) => master.operator_puts(number),
        Step::SpawnWillFail => master.spawn_fails = Some(Blame::Nobody),
        Step::WelcomeWillFail => master.welcome_fails = Some(Blame::Release),
        Step::CommitWillFail => master.commit_fails = true,
        Step::TakeBackWillFail => master.take_back_fails = true,
        Step::Rehearses(can) => master.rehearses(can),
        Step::Rollback => drop(master.command(Command::Rollback)),
        Step::Hold => drop(master.command(Command::Hold { reason: "the fair".to_owned() })),
        Step::Unhold => drop(master.command(Command::Unhold)),
    }
    master.replaces_itself_if_due();
}

/// Whatever has happened: asked to leave, a master whose children end leaves.
fn must_be_able_to_leave(mut master: Master) {
    master.signal(Signal::TERM);
    master.until(master.now.as_secs_f64() + 2.0);
    master.signal(Signal::TERM);
    if master.is_polling {
        master.fails_to_look();
    }
    while let Some(generation) = master.alive.keys().next_back().map(|generation| generation.0) {
        master.exits(generation, Exit::Signal(Signal::KILL));
    }
    assert!(master.left.is_some(), "the master does not leave");
}

/// Names a state by all that decides what comes next; times count from now.
fn name(master: &Master) -> u64 {
    struct Hashing(DefaultHasher);
    impl Write for Hashing {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut name = Hashing(DefaultHasher::new());
    let rules = &master.rules;
    let rest = |time: Option<std::time::Duration>| time.map(|time| (time >= master.now, time.abs_diff(master.now).as_millis()));
    for (generation, child) in &rules.children {
        let times = (rest(child.deadline), rest(child.counted_by_age), child.drains, child.runs, child.has_served, child.settings.overlap);
        let parts = (generation, child.stage, &child.origin, child.identity.inode, times, child.is_blameless, &child.kept, &child.sent);
        let _ = write!(name, "{parts:?}");
    }
    let looking = &rules.looking;
    let looks = (rest(looking.next), rest(looking.running_until), looking.is_overdue, looking.is_cut_short, looking.again);
    let leaving = rules.leaving.as_ref().map(|leaving| (rest(leaving.asked_at), leaving.exit));
    let parts = (rules.active, rules.candidate, rules.restart_wanted, &rules.waiting, leaving, looks, rest(rules.probation_until));
    let gap = rules.gap.as_ref().map(|gap| (gap.last, gap.exit, gap.since.is_some()));
    let record = (&rules.record.installed, &rules.record.probation, &rules.record.verdicts);
    let waiting: Vec<_> = rules.commands().filter(|asked| asked.answer.is_none()).map(|asked| (&asked.command, &asked.waits_for)).collect();
    let _ = write!(name, "{waiting:?}{:?}{:?}", rules.rollback.is_some(), rules.record.held.is_some());
    let outside = (
        master.path,
        master.previous,
        &master.staged,
        master.spawn_fails,
        master.welcome_fails,
        master.commit_fails,
        master.take_back_fails,
    );
    let _ = write!(name, "{parts:?}{gap:?}{record:?}{outside:?}");
    name.0.finish()
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?")
}

/// Goes through all orders of events after `beginning`. Answers how many states there are.
fn explore(beginning: &str, master: Master) -> usize {
    let mut known = HashSet::from([name(&master)]);
    let mut states = vec![(master, Vec::new())];
    for depth in 1..=DEPTH {
        let mut next_states = Vec::new();
        for (master, path) in states {
            for step in steps(&master) {
                let mut next = master.clone();
                let mut path = path.clone();
                path.push(step);
                let went = catch_unwind(AssertUnwindSafe(|| {
                    take(&mut next, step);
                    next.forget();
                    let is_new = next.left.is_none() && known.insert(name(&next));
                    if is_new {
                        must_be_able_to_leave(next.clone());
                    }
                    is_new.then_some(next)
                }));
                match went {
                    Ok(Some(next)) if depth < DEPTH => next_states.push((next, path)),
                    Ok(_) => {}
                    Err(panic) => panic!("{beginning}, then {path:?}: {}", words(&*panic)),
                }
            }
        }
        states = next_states;
    }
    println!("{beginning}: {} states", known.len());
    known.len()
}

#[test]
fn whatever_happens_in_the_first_moments_of_a_master_it_keeps_its_promises() {
    assert!(explore("started", Master::new(settings())) > 1000);
}

#[test]
fn whatever_happens_while_a_generation_serves_the_master_keeps_its_promises() {
    let mut looking = Master::serving(settings());
    looking.until(1.0);
    assert!(explore("looking", looking) > 1000);
}

#[test]
fn whatever_happens_during_an_upgrade_the_master_keeps_its_promises() {
    let mut warming_up = Master::upgrading(settings()).under_a_manager(None);
    warming_up.comes_up(2);
    warming_up.forget();
    assert!(explore("warming up", warming_up) > 1000);
}

#[test]
fn whatever_happens_while_one_generation_makes_room_for_the_next_the_master_keeps_its_promises() {
    let mut making_room = Master::upgrading(Settings { overlap: false, ..settings() });
    making_room.welcome(2);
    making_room.forget();
    assert!(explore("making room", making_room.clone()) > 1000);
    making_room.exits(1, Exit::Code(0));
    making_room.comes_up(2);
    assert!(explore("warming up alone", making_room) > 1000);
}

#[test]
fn whatever_happens_in_a_probation_the_master_keeps_its_promises() {
    assert!(explore("on probation", Master::upgraded(settings())) > 1000);
}

#[test]
fn whatever_happens_while_a_release_waits_for_a_restart_the_master_keeps_its_promises() {
    let mut waiting = Master::serving(Settings { installation: Installation::AtNextRestart, ..settings() }).under_a_manager(None);
    waiting.until(1.0);
    waiting.finds(2);
    assert!(explore("a release waits", waiting) > 1000);
}

#[test]
fn whatever_happens_to_a_program_that_is_not_restarted_the_master_keeps_its_promises() {
    let mut installing = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    installing.until(1.0);
    assert!(explore("no restart", installing) > 500);
}
