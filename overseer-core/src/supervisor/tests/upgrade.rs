use super::super::testing::{Master, file, generation, release, seconds, settings};
use super::super::{Action, Blame, Installation, Program, Settings};
use super::{accept, commit, drain, kill, sends, spawn, trust};
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::time::Duration;

#[test]
fn a_proved_release_is_started_committed_after_its_warm_up_and_the_old_generation_drains() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.forget();
    master.finds(2);
    assert_eq!(master.done(), [spawn(2, Program::Staged)]);
    assert_eq!(master.path, file(1));
    master.comes_up(2);
    master.until(1.99);
    assert_eq!((master.done(), master.active()), (vec![], Some(1)));

    master.until(2.0);
    assert_eq!(master.done(), [commit(2), accept(2), trust(2), drain(1)]);
    assert_eq!((master.path, master.previous), (file(2), Some(file(1))));
    assert_eq!(master.said(), ["staged", "upgrading", "generation-ready", "committed", "generation-active", "draining"]);
    let record = master.rules.record();
    assert_eq!(record.installed.as_ref().map(|installed| installed.release.clone()), Some(release(2)));
    assert_eq!(record.probation.as_ref().map(|probation| probation.identity), Some(file(2)));
    assert!(master.is_saved());
}

#[test]
fn a_candidate_that_says_nothing_is_committed_when_it_has_lived_for_the_warm_up() {
    let mut master = Master::upgrading(settings());
    master.welcome(2);
    master.until(2.0);
    assert_eq!((master.active(), master.path), (Some(2), file(2)));
}

#[test]
fn a_candidate_that_is_asked_for_its_ready_is_committed_a_warm_up_after_it() {
    let patient = Settings { ready_timeout: Some(Duration::from_secs(60)), ..settings() };
    let mut master = Master::upgrading(patient);
    master.welcome(2);
    master.until(41.0);
    master.ready(2);
    assert_eq!(master.rules.deadline(), Some(seconds(42.0)));
    master.until(42.0);
    assert_eq!(master.active(), Some(2));
}

#[test]
fn a_release_that_cannot_be_committed_drains_and_the_old_generation_keeps_serving() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.commit_fails = true;
    master.until(2.0);
    assert_eq!(master.done(), [commit(2), Action::Discard, drain(2)]);
    assert!(master.line("commit-failed").ends_with("the disk is full; generation 1 keeps serving"));
    assert_eq!((master.active(), master.path), (Some(1), file(1)));
    assert_eq!(master.rules.record().verdicts, [], "it is not the release's fault");
}

#[test]
fn a_file_that_an_operator_put_at_the_path_during_the_upgrade_is_not_replaced() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.operator_puts(7);
    master.until(2.0);
    assert_eq!((master.active(), master.path), (Some(1), file(7)));
}

#[test]
fn a_candidate_gets_no_drain_before_it_can_follow_one() {
    let mut master = Master::upgrading(settings());
    master.refuse(2, Blame::Release);
    assert_eq!(master.done(), [Action::Discard, kill(2)]);
}

#[test]
fn the_old_generation_that_crashes_in_the_warm_up_is_replaced_by_the_candidate() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.forget();
    master.exits(1, Exit::Signal(Signal::SEGV));
    assert_eq!(master.done(), [commit(2), accept(2), trust(2)]);
    assert_eq!((master.active(), master.path, master.left), (Some(2), file(2), None));
}

#[test]
fn the_candidate_that_replaces_a_crashed_generation_serves_even_if_it_cannot_be_committed() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.commit_fails = true;
    master.exits(1, Exit::Signal(Signal::SEGV));
    assert_eq!((master.active(), master.path, master.left), (Some(2), file(1), None));
}

#[test]
fn with_no_restart_a_proved_release_is_installed_and_nothing_is_started() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.until(1.0);
    master.forget();
    master.finds(2);
    assert_eq!(master.done(), [Action::Install]);
    assert_eq!(master.said(), ["staged", "installed"]);
    assert_eq!((master.active(), master.candidate(), master.path), (Some(1), None, file(2)));
    assert_eq!(master.rules.record().probation.as_ref().map(|probation| probation.identity), Some(file(2)));
}

#[test]
fn with_no_restart_a_release_that_cannot_be_installed_is_looked_for_again() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.until(1.0);
    master.commit_fails = true;
    master.forget();
    master.finds(2);
    assert_eq!(master.done(), [Action::Install, Action::Discard]);
    assert!(!master.rules.known().0.is_settled("tag-2"));
    assert_eq!(master.path, file(1));
}

#[test]
fn with_no_restart_the_clean_end_of_the_old_program_leaves_the_probation_to_the_new_one() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.until(1.0);
    master.finds(2);
    master.exits(1, Exit::Code(0));
    assert_eq!(master.left, Some(Exit::Code(0)));
    assert_eq!(master.saved.probation.as_ref().map(|probation| probation.identity), Some(file(2)));
}

#[test]
fn with_no_restart_a_crash_of_the_old_program_takes_nothing_back() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.until(1.0);
    master.finds(2);
    master.exits(1, Exit::Signal(Signal::SEGV));
    assert_eq!((master.left, master.path), (Some(Exit::Signal(Signal::SEGV)), file(2)));
}

#[test]
fn with_no_restart_after_fetch_a_proved_release_waits_for_the_next_restart() {
    let mut master = Master::serving(Settings { installation: Installation::AtNextRestart, ..settings() });
    master.until(1.0);
    master.forget();
    master.finds(2);
    assert_eq!((master.done(), master.said()), (vec![], vec!["staged", "release-waits"]));
    assert!(master.rules.known().0.is_settled("tag-2"), "it is not fetched again");

    master.restart();
    assert_eq!(master.done(), [spawn(2, Program::Staged)]);
    master.comes_up(2);
    master.until(2.0);
    assert_eq!((master.active(), master.path), (Some(2), file(2)));
}

#[test]
fn with_no_restart_after_fetch_a_newer_release_takes_the_place_of_the_one_that_waits() {
    let mut master = Master::serving(Settings { installation: Installation::AtNextRestart, ..settings() });
    master.until(1.0);
    master.finds(2);
    master.finds(3);
    master.restart();
    master.comes_up(2);
    master.until(5.0);
    assert_eq!(master.path, file(3));
    assert!(!master.rules.known().0.is_settled("tag-2"));
}

#[test]
fn a_release_that_waits_goes_when_the_master_leaves() {
    let mut master = Master::serving(Settings { installation: Installation::AtNextRestart, ..settings() });
    master.until(1.0);
    master.finds(2);
    master.forget();
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [Action::Discard, drain(1), Action::CloseListeners]);
}

#[test]
fn a_restart_during_a_look_ends_it_first_and_looks_again_afterwards() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    assert!(master.is_polling);
    master.forget();
    master.restart();
    assert_eq!(master.done(), [Action::KillPoll]);
    master.restart();
    assert_eq!(master.done(), [], "it is killed once");
    master.fails_to_look();
    assert_eq!(master.done(), [spawn(2, Program::AtPath)]);
    assert!(!master.said().contains(&"look-failed"), "it did not fail by itself");
    master.comes_up(2);
    master.until(2.0);
    assert_eq!(master.rules.record().looks.failures, 0);
    master.until(4.0);
    assert!(master.is_polling, "the look is repeated");
}

#[test]
fn a_release_that_a_look_still_finds_when_a_restart_ends_it_is_tried_before_the_restart() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.restart();
    master.forget();
    master.finds(2);
    assert_eq!(master.done(), [spawn(2, Program::Staged)]);
    master.comes_up(2);
    master.until(2.0);
    assert_eq!((master.active(), master.path), (Some(2), file(2)));
    assert_eq!(master.candidate(), Some(3), "and the restart comes after it");
}

#[test]
fn a_candidate_is_sent_the_signals_that_it_missed_once_it_is_ready() {
    let mut master = Master::upgrading(settings());
    master.signal(Signal::HUP);
    master.signal(Signal::USR1);
    master.signal(Signal::HUP);
    assert_eq!(master.done(), [sends(1, Signal::HUP), sends(1, Signal::USR1), sends(1, Signal::HUP)]);
    master.welcome(2);
    assert_eq!(master.done(), []);
    master.ready(2);
    assert_eq!(master.done(), [sends(2, Signal::HUP), sends(2, Signal::USR1), sends(2, Signal::HUP)]);
    master.signal(Signal::HUP);
    assert_eq!(master.done(), [sends(1, Signal::HUP), sends(2, Signal::HUP)]);
}

#[test]
fn a_draining_generation_is_given_no_signal_that_does_not_mean_leaving() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.until(2.0);
    master.forget();
    master.signal(Signal::HUP);
    assert_eq!(master.done(), [sends(2, Signal::HUP)]);
    assert!(master.alive.contains_key(&generation(1)));
}

#[test]
fn a_candidate_that_waits_for_its_commit_is_told_to_accept_only_then() {
    let shy = Settings { accept_in_warm_up: false, ..settings() };
    let mut master = Master::upgrading(shy);
    master.comes_up(2);
    assert!(!master.done().contains(&accept(2)));
    master.until(2.0);
    assert!(master.done().contains(&accept(2)));
}
