//! Programs that are not to be upgraded by core, and are to be told.

use super::super::testing::{Master, file, release, report, settings};
use super::super::{Action, Event, Installation, Settings};
use super::spawn;
use crate::config::Upgrades;
use crate::protocol::{Naming, Outcome, ReleaseName, Report};
use crate::supervisor::Program;

fn set_to(upgrades: Upgrades) -> Settings {
    Settings { upgrades: Some(upgrades), ..settings() }
}

/// What a look says that is not to download.
fn named(number: u64) -> Outcome {
    Outcome::Named { release: ReleaseName { id: String::new(), ..release(number) } }
}

#[test]
fn with_upgrades_off_nobody_looks_also_when_asked_and_restarts_work() {
    let mut master = Master::serving(set_to(Upgrades::Off));
    master.handle(Event::PollAsked);
    master.until(100_000.0);
    assert_eq!((master.done(), master.rules.next_look()), (vec![], None));
    master.restart();
    assert_eq!(master.done(), [spawn(2, Program::AtPath)]);
}

#[test]
fn a_release_that_is_not_to_be_installed_is_named_once() {
    let mut master = Master::serving(set_to(Upgrades::Notify));
    master.until(1.0);
    assert!(master.is_polling && !master.rules.may_install());
    master.forget();
    master.looked(named(2));
    let line = master.line("not-installed");
    assert_eq!(line, "release with the tag tag-2 is at https://releases.test/app and is not installed: upgrades are set to notify");
    master.forget();
    master.looked(named(2));
    assert_eq!((master.said(), master.candidate()), (vec![], None));
    assert_eq!(master.saved.named.as_ref().map(|named| named.release.tag.as_str()), Some("tag-2"));
    assert!(!master.rules.known().0.is_settled("tag-2"), "it is found again, for whoever may install it");
    master.looked(named(3));
    assert_eq!(master.said(), ["not-installed"]);
    master.looked(Outcome::Unchanged);
    assert_eq!(master.saved.named, None);
}

#[test]
fn a_look_that_only_names_knows_what_runs_and_what_was_found_to_differ() {
    let naming = |master: &Master| master.rules.naming().expect("it only names").clone();
    let mut master = Master::serving(set_to(Upgrades::Notify));
    master.until(1.0);
    assert_eq!(naming(&master), Naming::default());
    master.looked(named(2));
    assert_eq!(naming(&master), Naming { is_identified: false, differs: Some("tag-2".to_owned()) });
    master.poll_ends(Report { running_id: Some(release(1).id), ..report(Outcome::Same { release: release(1) }) });
    assert_eq!(naming(&master), Naming { is_identified: true, differs: None });
    master.looked(named(3));
    master.operator_puts(7);
    master.restart();
    master.comes_up(2);
    master.until(master.now.as_secs_f64() + 1.0);
    assert_eq!(master.active(), Some(2));
    assert_eq!(naming(&master), Naming::default(), "nobody knows what the source calls another file");
    assert_eq!(Master::serving(settings()).rules.naming(), None);
}

#[test]
fn what_was_staged_although_it_is_not_to_be_installed_is_removed() {
    let mut master = Master::serving(set_to(Upgrades::Notify));
    master.until(1.0);
    master.forget();
    master.finds(2);
    assert_eq!((master.said(), master.done()), (vec!["not-installed"], vec![Action::Discard]));
    assert_eq!((master.candidate(), master.path), (None, file(1)));
}

#[test]
fn a_rejected_release_is_not_offered_to_anybody() {
    let mut master = Master::serving(set_to(Upgrades::Notify));
    let nameless = ReleaseName { id: String::new(), ..release(2) };
    master.rules.record.judge(nameless, None, "no marker".to_owned(), 0);
    master.looked(named(2));
    assert_eq!(master.saved.named, None);
}

#[test]
fn a_restart_takes_what_waits_only_if_it_may_be_installed() {
    let waiting = |upgrades| Settings { installation: Installation::AtNextRestart, ..set_to(upgrades) };
    let mut master = Master::serving(waiting(Upgrades::Install));
    master.until(1.0);
    master.finds(2);
    master.rules.settings = waiting(Upgrades::Notify);
    master.forget();
    master.restart();
    assert_eq!(master.done(), [spawn(2, Program::AtPath)]);
    master.comes_up(2);
    master.until(3.0);
    assert_eq!((master.active(), master.path), (Some(2), file(1)));
}

#[test]
fn a_newer_release_may_ask_for_less_and_a_level_of_tomorrow_is_off() {
    let mut master = Master::upgrading(settings());
    master.welcome_with(2, set_to(Upgrades::Notify));
    master.ready(2);
    master.until(2.0);
    assert_eq!((master.path, master.rules.may_install()), (file(2), false));
    assert!(master.rules.next_look().is_some());
    let level = |text: &str| serde_json::from_str::<Settings>(text).expect("settings").upgrades();
    assert_eq!(level(r#"{"upgrades":"notify"}"#), Upgrades::Notify);
    assert_eq!(level(r#"{"upgrades":"by_moonlight"}"#), Upgrades::Off);
    assert_eq!(level("{}"), Upgrades::Install);
}
