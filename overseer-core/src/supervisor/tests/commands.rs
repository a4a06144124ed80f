//! What operators ask for, line by line.

use super::super::testing::{Master, file, release, settings};
use super::super::{Action, Command, Installation, Program, Settings};
use super::spawn;
use crate::config::Upgrades;
use crate::protocol::{Outcome, ReleaseName};
use crate::sys::process::Exit;

fn hold() -> Command {
    Command::Hold { reason: "the fair".to_owned() }
}

fn named(number: u64) -> Outcome {
    Outcome::Named { release: ReleaseName { id: String::new(), ..release(number) } }
}

/// A master that has rolled back from release 2 to the original, as generation 3.
fn rolled_back() -> (Master, String) {
    let mut master = Master::upgraded(settings());
    let token = master.command(Command::Rollback);
    assert_eq!(master.done(), [spawn(3, Program::Previous)]);
    master.comes_up(3);
    assert_eq!((master.answer(&token), master.path), (None, file(2)), "it has not served for the warm-up");
    master.until(master.now.as_secs_f64() + 1.0);
    (master, token)
}

#[test]
fn a_rollback_serves_before_it_takes_the_path_and_what_it_leaves_is_rejected() {
    let (mut master, token) = rolled_back();
    assert_eq!((master.active(), master.path, master.previous), (Some(3), file(1), None));
    assert_eq!(master.answer(&token), Some((true, "generation 3 has taken over".to_owned())));
    let judged = &master.saved.verdicts;
    assert_eq!((judged.len(), &judged[0].release, judged[0].until_unix_s), (1, &release(2), None));
    assert!(judged[0].reason.starts_with("rolled back by alice at 2027-01-15 "), "{}", judged[0].reason);
    assert!(master.rules.known().0.is_settled("tag-2"));
    assert_eq!(master.saved.probation, None);
    let again = master.command(Command::Rollback);
    assert_eq!(master.answer(&again), Some((false, "there is no previous binary".to_owned())));
    assert!(master.is_saved());
}

#[test]
fn what_was_rolled_back_from_is_tried_again_after_a_retry() {
    let (mut master, _) = rolled_back();
    master.until(master.now.as_secs_f64() + 2.0);
    if master.is_polling {
        master.looked(Outcome::Unchanged);
    }
    let token = master.command(Command::Retry);
    assert!(master.saved.verdicts.is_empty() && master.saved.memo.is_none());
    assert_eq!(master.answer(&token), None);
    master.finds(2);
    assert_eq!(master.answer(&token), Some((true, format!("looked at {}: found {}", super::super::testing::SOURCE, release(2)))));
    assert_eq!(master.candidate(), Some(4));
}

#[test]
fn a_rollback_that_fails_leaves_all_as_it_was() {
    let mut master = Master::upgraded(settings());
    let before = master.saved.clone();
    let token = master.command(Command::Rollback);
    master.exits(3, Exit::Code(1));
    let (is_success, why) = master.answer(&token).expect("it is over");
    assert!(!is_success && why.contains("generation 3 ended with exit code 1 before it was ready"), "{why}");
    let token = master.command(Command::Rollback);
    master.take_back_fails = true;
    master.comes_up(4);
    master.until(master.now.as_secs_f64() + 1.0);
    let (is_success, why) = master.answer(&token).expect("it is over");
    assert!(!is_success && why.contains("cannot take the program's path"), "{why}");
    assert_eq!((master.active(), master.path), (Some(2), file(2)));
    assert_eq!(
        (&master.saved.installed, &master.saved.verdicts, &master.saved.probation),
        (&before.installed, &before.verdicts, &before.probation)
    );
}

#[test]
fn a_rollback_is_refused_while_a_generation_comes_up() {
    let mut master = Master::upgraded(settings());
    master.restart();
    let token = master.command(Command::Rollback);
    let (is_success, why) = master.answer(&token).expect("it is over");
    assert!(!is_success && why.contains("generation 3 is coming up"), "{why}");
}

#[test]
fn a_program_that_is_not_restarted_is_rolled_back_at_its_path() {
    let settings = Settings { installation: Installation::WithoutRestart, ..settings() };
    let mut master = Master::serving(settings);
    master.finds(2);
    master.forget();
    assert_eq!(master.path, file(2));
    let token = master.command(Command::Rollback);
    assert_eq!(master.answer(&token).map(|answer| answer.0), Some(false), "what runs is not what is at the path");
}

#[test]
fn a_held_service_installs_nothing_and_goes_on_when_it_is_not_held_any_more() {
    let mut master = Master::upgrading(settings());
    let token = master.command(hold());
    assert_eq!(master.answer(&token).map(|answer| answer.0), Some(true));
    assert_eq!(master.candidate(), None, "the release gives way");
    assert!(master.done().contains(&Action::Discard));
    master.exits(2, Exit::Code(0));
    master.looked(named(2));
    let line = master.line("not-installed");
    assert!(line.ends_with("is not installed: upgrades are held by alice: the fair"), "{line}");
    let mut next = master.after_reboot();
    next.comes_up(1);
    assert!(!next.rules.may_install(), "it outlives the master");
    master.restart();
    master.comes_up(3);
    master.until(master.now.as_secs_f64() + 1.0);
    assert_eq!((master.active(), master.path), (Some(3), file(1)));

    let token = master.command(Command::Unhold);
    assert_eq!(master.answer(&token).map(|answer| answer.0), Some(true));
    master.finds(2);
    assert_eq!(master.candidate(), Some(4));
    let token = master.command(Command::Unhold);
    assert_eq!(master.answer(&token), Some((false, "upgrades are not held".to_owned())));
}

#[test]
fn what_waits_for_a_restart_waits_longer_while_upgrades_are_held() {
    let mut master = Master::serving(Settings { installation: Installation::AtNextRestart, ..settings() });
    master.finds(2);
    master.command(hold());
    master.forget();
    master.restart();
    assert_eq!(master.done(), [spawn(2, Program::AtPath)]);
}

#[test]
fn a_restart_is_answered_when_the_new_generation_serves_or_has_failed() {
    let mut master = Master::serving(settings());
    let (first, second) = (master.command(Command::Restart), master.command(Command::Restart));
    master.comes_up(2);
    assert_eq!((master.answer(&first), master.answer(&second)), (None, None));
    master.until(1.0);
    assert_eq!(master.answer(&first), Some((true, "generation 2 has taken over".to_owned())));
    assert_eq!(master.answer(&second), None, "one that is asked for during a restart comes after it");
    master.exits(3, Exit::Code(101));
    let (is_success, why) = master.answer(&second).expect("it is over");
    assert!(!is_success && why.contains("generation 3 ended with exit code 101"), "{why}");
}

#[test]
fn a_look_is_answered_when_it_is_over_also_if_it_is_repeated() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    assert!(master.is_polling);
    let token = master.command(Command::Poll);
    master.looked(Outcome::Unchanged);
    assert_eq!(master.answer(&token), None, "that one began before");
    master.until(2.0);
    assert!(master.is_polling);
    master.restart();
    master.fails_to_look();
    assert_eq!(master.answer(&token), None, "it was cut short");
    master.comes_up(2);
    master.until(master.now.as_secs_f64() + 1.0);
    master.fails_to_look();
    let (is_success, why) = master.answer(&token).expect("it is over");
    assert!(!is_success && why.ends_with("failed: connection refused"), "{why}");
}

#[test]
fn whoever_waits_for_what_cannot_come_is_told() {
    let off = Settings { upgrades: Some(Upgrades::Off), ..settings() };
    for (settings, why) in [(Settings::default(), "there is no source of releases"), (off, "the program has set upgrades to off")] {
        let mut master = Master::serving(settings);
        let token = master.command(Command::Poll);
        let (is_success, text) = master.answer(&token).expect("it is over");
        assert!(!is_success && text.contains(why), "{text}");
    }
    let mut master = Master::serving(settings());
    let tokens = [Command::Restart, Command::Poll].map(|command| master.command(command));
    master.signal(crate::signal::Signal::TERM);
    let late = master.command(Command::Restart);
    for token in tokens.iter().chain([&late]) {
        assert_eq!(master.answer(token), Some((false, "the service ends".to_owned())));
    }
}
