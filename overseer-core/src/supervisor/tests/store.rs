//! A binary store: the packaged file, in whose place releases are committed, changes.

use super::super::testing::{Master, UNIX_START, file, release, settings};
use super::super::{Action, Command, Event, Program};
use super::spawn;
use crate::binary::{Packaged, Record};
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
fn what_was_set_aside_for_a_changed_package_stays_so_after_a_retry() {
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
    assert_eq!(master.answer(&token), None);
    assert!(master.saved.set_aside.is_some() && master.rules.known().1.contains(&release(2).id));
    master.finds(2);
    assert!(master.answer(&token).is_some_and(|(is_success, _)| is_success));
    assert_eq!(master.candidate(), None, "a package is no failure of the release before");
    master.finds(3);
    assert_eq!(master.candidate(), Some(4));
}

/// The record of a start that runs the packaged file in place of release 2, for ten minutes.
fn resting() -> Record {
    let mut record = Record { unready_starts: 3, ..Record::default() };
    record.was_installed(release(2), file(2), UNIX_START);
    record.rests(&release(2), UNIX_START + 600, "did not come up".to_owned(), UNIX_START);
    record
}

#[test]
fn a_release_that_rests_is_tried_again_at_the_next_start_until_the_packaged_file_comes_up_and_then_when_its_time_has_come() {
    let record = resting();
    assert_eq!((&record.installed, record.unready_starts), (&None, 0));
    assert!(record.is_rested(UNIX_START + 1), "nothing has come up in its place");
    assert_eq!(record.stored_ids(), [release(2).id], "what proves it is kept");
    let mut master = Master::new(settings());
    master.rules.record = record;
    master.welcome(1);
    assert!(master.rules.record().is_rested(UNIX_START + 1));
    master.handle(Event::Ready { generation: super::generation(1) });
    assert!(master.is_saved() && !master.saved.is_rested(UNIX_START + 599) && master.saved.is_rested(UNIX_START + 601));
    assert!(master.rules.known().0.is_settled(&release(2).tag), "it is held back for a service that goes on, too");

    let mut record = master.saved.clone();
    record.forget_verdicts();
    assert!(record.is_rested(UNIX_START + 1), "an operator wants it tried again");
    record.has_rested();
    assert!(record.is_installed(&release(2)) && !record.is_unwanted(&release(2), UNIX_START));
    assert_eq!((&record.resting, record.unready_starts), (&None, 0));

    let mut record = master.saved.clone();
    record.package_wins(Packaged::default());
    assert_eq!(
        record.set_aside.map(|aside| aside.release),
        Some(release(2)),
        "a changed package wins over it as over all that was committed"
    );
    assert_eq!(record.resting, None);
}

#[test]
fn a_release_that_rests_is_never_rejected_for_not_coming_up() {
    let mut master = Master::new(settings());
    master.rules.record = resting();
    master.comes_up(1);
    for until in [700.0, 4400.0, 8100.0, 11800.0] {
        master.until(until);
        master.finds(2);
        let candidate = master.candidate().expect("it is tried again");
        master.exits(candidate, Exit::Code(3));
        assert!(master.rules.record().verdicts[0].until_unix_s.is_some(), "{:?}", master.rules.record().verdicts);
    }
    // One that comes up has rested.
    master.until(15500.0);
    master.finds(2);
    let candidate = master.candidate().expect("it is tried again");
    master.comes_up(candidate);
    master.until(15502.0);
    let record = master.rules.record();
    assert!(record.is_installed(&release(2)) && record.resting.is_none() && record.verdicts.is_empty(), "{record:?}");
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
