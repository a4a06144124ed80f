//! Programs of which two must not run at once.

use super::super::testing::{Master, file, generation, seconds, settings};
use super::super::{Action, Blame, Command, Program, Settings, Stage};
use super::{accept, commit, drain, kill, sends, spawn, trust};
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::time::Duration;

const CRASH: Exit = Exit::Signal(Signal::SEGV);

fn alone() -> Settings {
    Settings { overlap: false, ..settings() }
}

fn patient() -> Settings {
    Settings { ready_timeout: Some(Duration::from_secs(60)), ..alone() }
}

fn last_moment(number: u64) -> Action {
    Action::Drain { generation: generation(number), within: seconds(2.0) }
}

fn stage(master: &Master, number: u64) -> Option<Stage> {
    master.stage_of(generation(number))
}

/// A master that tries release 2 as generation 2 from 1 s on; generation 1 has made room at 2 s.
fn in_the_gap(settings: Settings) -> Master {
    let mut master = Master::upgrading(settings);
    master.welcome(2);
    master.until(2.0);
    master.exits(1, Exit::Code(0));
    assert_eq!(stage(&master, 2), Some(Stage::Welcomed));
    master.forget();
    master
}

/// A master that has committed release 2 as generation 2 at 3 s.
fn upgraded() -> Master {
    let mut master = in_the_gap(alone());
    master.drains(2);
    master.ready(2);
    master.until(3.0);
    assert_eq!(master.path, file(2));
    master.forget();
    master
}

#[test]
fn a_program_begins_when_the_one_before_it_is_gone_and_the_log_says_how_long_nobody_served() {
    let mut master = Master::serving(alone());
    master.until(0.5);
    master.restart();
    assert_eq!(master.done(), [spawn(2, Program::AtPath)], "it may start");
    master.welcome(2);
    assert_eq!((master.done(), stage(&master, 2)), (vec![drain(1)], Some(Stage::Waiting)));
    assert_eq!(master.line("waits-alone"), "generation 2 begins when these are gone, beside which it must not run: 1");
    master.until(2.0);
    master.exits(1, Exit::Code(0));
    assert_eq!(stage(&master, 2), Some(Stage::Welcomed));
    master.until(2.5);
    master.drains(2);
    master.ready(2);
    assert_eq!(master.line("serves-again"), "generation 2 serves, after 2s without a serving generation");
    assert_eq!(master.done(), []);
    master.until(3.5);
    assert_eq!(master.done(), [accept(2), trust(2)]);
    assert_eq!((master.active(), master.candidate()), (Some(2), None));
    let said = ["restarting", "waits-alone", "draining", "drained", "generation-ready", "serves-again", "generation-active"];
    assert_eq!(master.said(), said);
}

#[test]
fn one_version_that_must_run_alone_is_enough() {
    for (old, new) in [(alone(), settings()), (settings(), alone())] {
        let mut master = Master::serving(old);
        master.restart();
        master.welcome_with(2, new);
        assert_eq!(stage(&master, 2), Some(Stage::Waiting));
        assert_eq!(stage(&master, 1), Some(Stage::Draining));
    }
}

#[test]
fn what_cannot_even_start_takes_no_service_down() {
    for fails in [
        (|master: &mut Master| master.exits(2, Exit::Code(1))) as fn(&mut Master),
        |master| master.refuse(2, Blame::Release),
        |master| master.misbehaves(2),
        |master| master.until(6.0),
    ] {
        let mut master = Master::upgrading(alone());
        fails(&mut master);
        assert!(!master.done().contains(&drain(1)));
        assert!(master.line("held-back").contains("generation 1 keeps serving"));
        assert_eq!((stage(&master, 1), master.active()), (Some(Stage::Active), Some(1)));
    }
}

#[test]
fn a_release_that_runs_alone_lives_through_its_warm_up_before_it_is_committed() {
    let mut master = in_the_gap(alone());
    master.drains(2);
    master.ready(2);
    master.until(2.9);
    assert_eq!((master.done(), master.path), (vec![], file(1)));
    master.until(3.0);
    assert_eq!(master.done(), [commit(2), accept(2), trust(2)]);
    assert_eq!((master.path, master.active()), (file(2), Some(2)));
}

#[test]
fn where_a_candidate_fails_in_the_gap_the_binary_that_served_before_starts_again() {
    let mut master = in_the_gap(alone());
    master.operator_puts(7);
    master.drains(2);
    master.ready(2);
    master.until(2.5);
    master.exits(2, CRASH);
    assert_eq!(master.done(), [spawn(3, Program::Last), Action::Discard]);
    assert_eq!(
        master.line("held-back"),
        "release 000000000000 ended with SIGSEGV in its warm-up; the binary that served before starts again as generation 3; tried again in 10 min"
    );
    assert_eq!(master.alive[&generation(3)], file(1), "whatever is at the path");
    assert_eq!((master.active(), master.candidate()), (Some(3), None));
    master.until(3.0);
    master.comes_up(3);
    assert_eq!(master.done(), [accept(3), trust(3)]);
    assert_eq!(master.line("serves-again"), "generation 3 serves, after 0.5s without a serving generation", "since the crash");
    master.until(600.0);
    assert_eq!(stage(&master, 3), Some(Stage::Active));
}

#[test]
fn a_candidate_that_is_not_ready_in_the_gap_has_a_last_moment_and_only_then_the_old_program_begins() {
    let mut master = in_the_gap(patient());
    master.drains(2);
    master.until(62.0);
    assert_eq!(master.done(), [spawn(3, Program::Last), Action::Discard, drain(2)]);
    master.until(62.5);
    master.welcome(3);
    assert_eq!((master.done(), stage(&master, 3)), (vec![last_moment(2)], Some(Stage::Waiting)));
    master.until(64.4);
    assert_eq!(master.done(), []);
    master.until(64.5);
    assert_eq!(master.done(), [kill(2)]);
    assert_eq!(stage(&master, 3), Some(Stage::Waiting));
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!(stage(&master, 3), Some(Stage::Welcomed));
}

#[test]
fn a_candidate_that_cannot_have_its_listeners_when_it_is_let_in_fails() {
    let mut master = Master::upgrading(alone());
    master.welcome(2);
    master.welcome_fails = Some(Blame::Release);
    master.done();
    master.exits(1, Exit::Code(0));
    assert_eq!(master.done(), [spawn(3, Program::Last), Action::Discard, kill(2)]);
    assert!(master.line("held-back").contains("cannot have :80"));
}

#[test]
fn a_candidate_that_fails_while_the_old_generation_finishes_is_followed_by_the_old_program() {
    let mut master = Master::upgrading(alone());
    master.welcome(2);
    master.done();
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!(master.done(), [spawn(3, Program::Last), Action::Discard]);
    master.welcome(3);
    assert_eq!(stage(&master, 3), Some(Stage::Waiting), "generation 1 has not left");
    master.until(31.0);
    assert_eq!(master.done(), [kill(1)]);
    master.exits(1, Exit::Signal(Signal::KILL));
    master.drains(3);
    master.ready(3);
    assert_eq!(master.active(), Some(3));
    assert_eq!(master.line("serves-again"), "generation 3 serves, after 30s without a serving generation");
}

#[test]
fn how_an_old_generation_ends_that_makes_room_is_nobodys_fault() {
    let mut master = upgraded();
    master.until(100.0);
    master.finds(3);
    master.welcome(3);
    master.exits(2, CRASH);
    assert_eq!((master.left, master.path, stage(&master, 3)), (None, file(2), Some(Stage::Welcomed)));
    master.drains(3);
    master.ready(3);
    master.until(101.0);
    assert_eq!(master.path, file(3));
}

#[test]
fn a_release_that_cannot_be_installed_serves_on_where_nobody_serves_beside_it() {
    let mut master = in_the_gap(alone());
    master.commit_fails = true;
    master.drains(2);
    master.ready(2);
    master.until(3.0);
    assert_eq!((master.active(), master.path), (Some(2), file(1)));
    assert!(master.line("commit-failed").ends_with("the disk is full; generation 2 keeps serving"));
}

#[test]
fn asked_to_leave_in_the_gap_the_master_ends_as_the_old_generation_did() {
    let mut master = in_the_gap(alone());
    master.drains(2);
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [Action::Discard, drain(2), Action::CloseListeners]);
    assert_eq!(master.left, None);
    master.exits(2, CRASH);
    assert_eq!(master.left, Some(Exit::Code(0)));
}

#[test]
fn asked_to_leave_while_the_old_generation_makes_room_the_master_waits_for_it_and_starts_nobody() {
    let mut master = Master::upgrading(alone());
    master.welcome(2);
    master.done();
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [Action::Discard, kill(2), Action::CloseListeners]);
    master.exits(2, Exit::Signal(Signal::KILL));
    master.exits(1, Exit::Code(3));
    assert_eq!((master.left, master.done()), (Some(Exit::Code(3)), vec![Action::Leave(Exit::Code(3))]));
}

#[test]
fn asked_to_leave_while_the_old_program_starts_again_the_master_ends_as_that_does() {
    let mut master = in_the_gap(alone());
    master.exits(2, Exit::Code(1));
    master.done();
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [sends(3, Signal::TERM)]);
    master.exits(3, Exit::Signal(Signal::TERM));
    assert_eq!(master.left, Some(Exit::Signal(Signal::TERM)));
}

#[test]
fn where_the_old_program_cannot_start_again_the_master_ends() {
    let mut master = in_the_gap(alone());
    master.spawn_fails = Some(Blame::Nobody);
    master.exits(2, Exit::Code(1));
    assert_eq!(master.left, Some(Exit::Code(1)));
    assert!(master.said().contains(&"program-failed"));

    let mut master = in_the_gap(alone());
    master.exits(2, Exit::Code(1));
    master.exits(3, Exit::Code(4));
    assert_eq!(master.left, Some(Exit::Code(4)));
}

#[test]
fn all_that_drain_are_gone_before_the_serving_generation_makes_room_for_a_program_that_must_run_alone() {
    let mut master = Master::serving(settings());
    master.restart();
    master.comes_up(2);
    master.until(1.0);
    master.forget();
    master.restart();
    master.welcome_with(3, alone());
    assert_eq!(master.line("waits-alone"), "generation 3 begins when these are gone, beside which it must not run: 1, 2");
    master.until(20.0);
    assert_eq!(master.done(), [spawn(3, Program::AtPath)]);
    assert_eq!(stage(&master, 2), Some(Stage::Active), "it serves meanwhile");
    master.exits(1, Exit::Code(0));
    assert_eq!(master.done(), [drain(2)]);
    master.exits(2, Exit::Code(0));
    assert_eq!(stage(&master, 3), Some(Stage::Welcomed));
}

#[test]
fn a_crash_in_the_probation_of_a_program_that_runs_alone_brings_its_predecessor_back() {
    let mut master = in_the_gap(alone());
    master.drains(2);
    master.ready(2);
    master.until(3.0);
    master.exits(2, CRASH);
    assert_eq!((master.path, master.active()), (file(1), Some(3)));
    master.comes_up(3);
    assert_eq!(stage(&master, 3), Some(Stage::Active));
}

/// A release that may overlap and drains for an hour follows a program that must run alone.
fn slow_to_drain() -> Settings {
    Settings { terminate_timeout: Duration::from_secs(3600), ..settings() }
}

/// A master that has committed such a release as generation 2 at 3 s.
fn upgraded_to_slow_to_drain() -> Master {
    let mut master = Master::upgrading(alone());
    master.welcome_with(2, slow_to_drain());
    master.until(2.0);
    master.exits(1, Exit::Code(0));
    master.drains(2);
    master.ready(2);
    master.until(3.0);
    assert_eq!(master.path, file(2));
    master.forget();
    master
}

#[test]
fn old_generations_that_would_drain_for_an_hour_have_a_last_moment_where_the_previous_program_must_run_alone() {
    let mut master = upgraded_to_slow_to_drain();
    master.restart();
    master.welcome_with(3, slow_to_drain());
    master.drains(3);
    master.ready(3);
    master.until(4.0);
    master.until(50.0);
    master.forget();
    master.exits(3, CRASH);
    assert_eq!((master.path, master.active()), (file(1), Some(4)));
    assert_eq!(master.rules.children[&generation(2)].deadline, Some(seconds(3604.0)), "nobody is in its way who may never come up");
    master.forget();
    master.until(50.5);
    master.welcome_with(4, alone());
    assert_eq!((master.done(), stage(&master, 4)), (vec![last_moment(2)], Some(Stage::Waiting)));
    let line = master.line("gives-way");
    assert!(
        line.starts_with("nobody serves, and generation 4 must not run beside it, so generation 2 has 2s left and is killed then"),
        "{line}"
    );
    master.until(52.5);
    assert_eq!(master.done(), [kill(2)]);
    master.exits(2, Exit::Signal(Signal::KILL));
    master.drains(4);
    master.ready(4);
    assert_eq!(stage(&master, 4), Some(Stage::Active));
}

#[test]
fn a_candidate_that_would_drain_for_an_hour_has_a_last_moment_too() {
    let mut master = upgraded_to_slow_to_drain();
    master.restart();
    master.welcome_with(3, slow_to_drain());
    master.drains(3);
    master.ready(3);
    master.exits(2, CRASH);
    assert_eq!((stage(&master, 3), master.active()), (Some(Stage::Draining), Some(4)));
    master.forget();
    master.welcome_with(4, alone());
    assert_eq!(master.done(), [last_moment(3)]);
}

#[test]
fn a_release_that_comes_up_in_the_gap_serves_although_upgrades_are_held_meanwhile_and_is_not_installed() {
    for is_gone in [false, true] {
        let mut master = Master::upgrading(alone());
        master.welcome(2);
        if is_gone {
            master.exits(1, Exit::Code(0));
        }
        let token = master.command(Command::Hold { reason: "the fair".to_owned() });
        assert_eq!(master.answer(&token).map(|answer| answer.0), Some(true));
        assert_eq!(master.candidate(), Some(2), "nobody else would serve");
        if !is_gone {
            master.exits(1, Exit::Code(0));
        }
        master.drains(2);
        master.ready(2);
        master.until(2.0);
        assert_eq!((master.active(), stage(&master, 2), master.path), (Some(2), Some(Stage::Active), file(1)));
        assert!(master.staged.is_none());
        let line = master.line("commit-failed");
        assert!(line.ends_with("could not be installed: upgrades are held by alice: the fair; generation 2 keeps serving"), "{line}");
        master.until(10.0);
        master.restart();
        assert_eq!(master.alive[&generation(3)], file(1), "a restart brings the installed binary back");
    }
}

#[test]
fn a_release_that_fails_in_the_gap_after_upgrades_were_held_is_followed_by_the_old_program() {
    let mut master = in_the_gap(alone());
    master.command(Command::Hold { reason: "the fair".to_owned() });
    master.exits(2, CRASH);
    master.comes_up(3);
    assert_eq!((stage(&master, 3), master.alive[&generation(3)], master.path), (Some(Stage::Active), file(1), file(1)));
}

#[test]
fn a_release_on_probation_that_is_started_again_is_still_on_it() {
    let mut master = upgraded();
    master.until(100.0);
    master.finds(3);
    master.welcome(3);
    master.exits(2, Exit::Code(0));
    master.exits(3, Exit::Code(1));
    master.comes_up(4);
    assert_eq!((master.active(), master.alive[&generation(4)]), (Some(4), file(2)));
    master.exits(4, CRASH);
    assert_eq!((master.path, master.active()), (file(1), Some(5)));
}

#[test]
fn a_signal_that_comes_in_the_gap_reaches_whoever_serves_next() {
    let mut master = in_the_gap(alone());
    master.signal(Signal::HUP);
    assert_eq!(master.done(), [], "nobody serves");
    let mut good = master.clone();
    good.ready(2);
    assert_eq!(good.done(), [sends(2, Signal::HUP)]);

    master.exits(2, Exit::Code(1));
    master.welcome(3);
    master.drains(3);
    master.done();
    master.ready(3);
    assert_eq!(master.done(), [sends(3, Signal::HUP), accept(3), trust(3)]);
}

#[test]
fn a_restart_that_is_asked_for_in_the_gap_comes_after_it() {
    let mut master = in_the_gap(alone());
    master.restart();
    assert_eq!(master.line("restart-waits"), "the restart waits until generation 2 has taken over or failed");
    master.drains(2);
    master.ready(2);
    master.until(3.0);
    assert!(master.done().ends_with(&[spawn(3, Program::AtPath)]));
}

#[test]
fn a_candidate_that_may_not_accept_in_its_warm_up_serves_from_its_commit_on() {
    let mut master = in_the_gap(Settings { accept_in_warm_up: false, ..alone() });
    master.drains(2);
    master.ready(2);
    assert!(!master.said().contains(&"serves-again"));
    master.until(3.0);
    assert_eq!(master.line("serves-again"), "generation 2 serves, after 2s without a serving generation");
}
