//! A binary store: the packaged file, in whose place releases are committed, changes.

use super::super::testing::{Master, file, release, settings};
use super::super::{Action, Command, Event, Program};
use super::spawn;
use crate::protocol::Outcome;
use crate::sys::process::Exit;

#[test]
fn a_changed_package_is_the_candidate_of_a_restart_and_what_was_committed_is_set_aside_when_it_serves() {
    let mut master = Master::upgraded(settings());
    master.package_changes(7);
    master.restart();
    assert!(master.done().contains(&spawn(3, Program::AtPath)));
    assert!(master.line("own-file").contains("/opt/app"), "it is named by its own path");
    assert!(master.rules.record().installed.is_some(), "it has not proved itself");
    master.comes_up(3);
    master.until(4.0);
    assert!(master.done().contains(&Action::SetStoredAside));
    let record = master.rules.record();
    assert_eq!((&record.installed, &record.probation, &record.previous), (&None, &None, &None));
    assert_eq!(record.set_aside.as_ref().map(|aside| &aside.release), Some(&release(2)));
    assert_eq!((master.active(), master.path), (Some(3), file(7)));
    assert!(master.rules.known().0.is_settled(&release(2).tag), "an older release is not installed over it");
    assert!(master.rules.known().1.contains(&release(2).id), "under no other tag either");
    assert!(master.is_saved());
}

#[test]
fn what_was_set_aside_for_a_changed_package_is_tried_again_after_a_retry() {
    let mut master = Master::upgraded(settings());
    master.package_changes(7);
    master.restart();
    master.comes_up(3);
    master.until(4.0);
    assert!(master.saved.set_aside.is_some());
    if master.is_polling {
        master.looked(Outcome::Unchanged);
    }
    let token = master.command(Command::Retry);
    assert_eq!((&master.saved.set_aside, master.answer(&token)), (&None, None));
    master.finds(2);
    assert!(master.answer(&token).is_some_and(|(is_success, _)| is_success));
    assert_eq!(master.candidate(), Some(4));
}

#[test]
fn a_changed_package_that_fails_leaves_all_as_it_is() {
    let mut master = Master::upgraded(settings());
    master.package_changes(7);
    master.restart();
    master.exits(3, Exit::Code(3));
    assert!(master.line("own-file-failed").contains("/opt/app"));
    assert!(!master.done().contains(&Action::SetStoredAside));
    assert_eq!((master.active(), master.path, master.rules.record().set_aside.clone()), (Some(2), file(2), None));
    assert!(master.rules.record().installed.is_some());
}

#[test]
fn a_release_that_crashes_in_its_probation_is_followed_by_its_predecessor_and_not_by_a_package_that_nobody_has_tried() {
    let mut master = Master::upgraded(settings());
    master.package_changes(7);
    master.exits(2, Exit::Code(3));
    assert_eq!((master.alive.values().next(), master.path), (Some(&file(1)), file(1)));
}

#[test]
fn starts_of_which_nothing_became_ready_are_forgotten_when_one_does() {
    let mut master = Master::new(settings());
    master.rules.record.unready_starts = 2;
    master.welcome(1);
    assert_eq!(master.rules.record().unready_starts, 2);
    master.handle(Event::Ready { generation: super::generation(1) });
    assert_eq!((master.rules.record().unready_starts, master.saved.unready_starts), (0, 0));
}
