use super::super::testing::{Master, SOURCE, UNIX_START, file, release, report, seconds, settings};
use super::super::{Action, Event, Installation, Settings, Time};
use crate::binary::Record;
use crate::fetcher::{FetchError, MEMO_BYTES_MAX};
use crate::protocol::{Outcome, Report};
use crate::sys::process::Exit;
use std::time::Duration;

const HOUR: f64 = 3600.0;

fn next_look(master: &Master) -> Time {
    master.rules.next_look().expect("a look is planned")
}

/// How far away the next look is, in seconds.
fn pause(master: &Master) -> f64 {
    (next_look(master) - master.now).as_secs_f64()
}

fn every(interval: f64) -> Settings {
    Settings { interval: seconds(interval), ..settings() }
}

/// A master whose first look is going on, at 1 s.
fn looking(settings: Settings) -> Master {
    let mut master = Master::serving(settings);
    master.until(1.0);
    assert!(master.is_polling);
    master.forget();
    master
}

fn unreachable(retry_after: Option<u64>) -> Outcome {
    let error = FetchError::passing("connection refused");
    Outcome::Failed { error: retry_after.into_iter().fold(error, |error, pause| error.retry_after(Duration::from_secs(pause))) }
}

#[test]
fn the_first_look_comes_a_second_after_the_first_ready() {
    let mut master = Master::new(settings());
    master.until(0.9);
    assert_eq!(master.rules.next_look(), None);
    master.comes_up(1);
    assert_eq!(next_look(&master), seconds(1.9));
    master.forget();
    master.until(1.9);
    assert_eq!(master.done(), [Action::Poll]);
}

/// A master of a program that ends by itself, which has begun and not said that it is ready.
fn short_lived(record: Record, unix_start: u64) -> Master {
    let settings = Settings { installation: Installation::WithoutRestart, ..settings() };
    let mut master = Master::again(settings, record, file(1), None, unix_start);
    master.forget();
    master.welcome(1);
    master
}

#[test]
fn the_first_look_at_a_program_that_ends_by_itself_comes_at_once() {
    let mut master = short_lived(Record::default(), UNIX_START);
    assert_eq!(master.done(), [Action::Poll]);
    master.looked(Outcome::Unchanged);
    let mut soon = short_lived(master.saved.clone(), UNIX_START + 60);
    assert_eq!(soon.done(), [] as [Action; 0]);
    soon.until(100.0);
    assert!((209.0..=271.0).contains(&next_look(&soon).as_secs_f64()), "the interval is over then: {:?}", next_look(&soon));
}

#[test]
fn a_look_that_ends_with_the_program_is_repeated_at_once_only_if_it_has_brought_bytes() {
    for (brings, done) in [(true, &[Action::Poll][..]), (false, &[])] {
        let mut master = short_lived(Record::default(), UNIX_START);
        if brings {
            master.handle(Event::PollProgress);
        }
        master.exits(1, Exit::Code(0));
        master.looked(Outcome::Failed { error: FetchError::passing("killed") });
        assert_eq!(master.left, Some(Exit::Code(0)));
        assert_eq!(short_lived(master.saved, UNIX_START + 1).done(), done);
    }
}

#[test]
fn what_is_installed_before_the_program_is_ready_keeps_its_probation() {
    let mut master = short_lived(Record::default(), UNIX_START);
    master.finds(2);
    master.until(5.0);
    assert_eq!(master.saved.probation.as_ref().map(|probation| probation.identity), Some(file(2)));
}

#[test]
fn the_first_look_comes_after_the_interval_if_that_is_shorter() {
    let master = Master::serving(Settings { min_fetch_interval: seconds(0.1), ..every(0.2) });
    assert_eq!(next_look(&master), seconds(0.2));
}

#[test]
fn without_a_source_nothing_is_looked_for() {
    let mut master = Master::serving(Settings::default());
    master.handle(Event::PollAsked);
    assert_eq!((master.rules.deadline(), master.done()), (None, vec![]));
}

#[test]
fn looks_come_an_interval_apart_give_or_take_a_tenth() {
    let mut pauses = Vec::new();
    let mut master = looking(settings());
    for _ in 0..50 {
        master.looked(Outcome::Unchanged);
        pauses.push(pause(&master));
        let next = next_look(&master).as_secs_f64();
        master.until(next);
    }
    assert!(pauses.iter().all(|pause| (270.0..=330.0).contains(pause)), "{pauses:?}");
    let (least, most) = (pauses.iter().copied().fold(f64::MAX, f64::min), pauses.iter().copied().fold(0.0, f64::max));
    assert!(most - least > 30.0, "they are spread: {least} to {most}");
}

#[test]
fn looks_are_never_closer_than_the_minimum() {
    let mut master = looking(Settings { min_fetch_interval: seconds(10.0), ..every(0.001) });
    for _ in 0..20 {
        master.looked(Outcome::Unchanged);
        assert!(pause(&master) >= 10.0);
        let next = next_look(&master).as_secs_f64();
        master.until(next);
    }
}

#[test]
fn failing_looks_back_off_up_to_an_hour_and_a_good_one_ends_that() {
    let mut master = looking(settings());
    for expected in [300.0, 600.0, 1200.0, 2400.0, HOUR, HOUR, HOUR] {
        master.looked(unreachable(None));
        let pause = pause(&master);
        assert!((0.9 * expected..=1.1 * expected).contains(&pause), "{pause} for {expected}");
        let next = next_look(&master).as_secs_f64();
        master.until(next);
    }
    assert_eq!(master.rules.record().looks.failures, 7);
    master.looked(Outcome::Unchanged);
    assert!(pause(&master) <= 330.0);
    assert_eq!(master.rules.record().looks.failures, 0);
}

#[test]
fn an_interval_longer_than_an_hour_is_not_shortened_by_failures() {
    let mut master = looking(every(10.0 * HOUR));
    for _ in 0..5 {
        master.looked(unreachable(None));
        assert!(pause(&master) >= 9.0 * HOUR);
        let next = next_look(&master).as_secs_f64();
        master.until(next);
    }
}

#[test]
fn any_number_of_failures_is_survived() {
    let mut master = looking(every(1.0));
    for _ in 0..100 {
        master.looked(unreachable(None));
        assert!(pause(&master) <= 1.1 * HOUR);
        let next = next_look(&master).as_secs_f64();
        master.until(next);
    }
}

#[test]
fn a_source_that_asks_for_a_pause_gets_it_up_to_a_day() {
    let mut master = looking(settings());
    master.looked(unreachable(Some(5000)));
    assert_eq!(next_look(&master), seconds(5001.0));
    master.until(5001.0);
    master.looked(unreachable(Some(1_000_000)));
    assert_eq!(pause(&master), 24.0 * HOUR);
    master.until(5001.0 + 24.0 * HOUR);
    master.looked(unreachable(Some(1)));
    assert!(pause(&master) > 600.0, "a short one does not shorten the back-off");
}

#[test]
fn the_log_tells_a_failure_that_passes_from_one_that_somebody_must_mend() {
    let mut master = looking(settings());
    master.looked(unreachable(None));
    assert!(
        master.line("look-failed").starts_with(&format!("the look at {SOURCE} failed: connection refused; the service is not affected"))
    );
    master.looked(Outcome::Failed { error: FetchError::settings("403") });
    assert!(!master.line("look-settings").is_empty());
    master.looked(Outcome::Incomplete { why: "the checksum is not there yet".to_owned() });
    assert!(master.line("look-incomplete").contains("the checksum is not there yet"));
}

#[test]
fn a_poll_that_makes_no_progress_is_killed_once_and_its_end_is_waited_for() {
    let mut master = looking(settings());
    master.until(600.9);
    assert_eq!(master.done(), []);
    master.until(601.0);
    assert_eq!(master.done(), [Action::KillPoll]);
    assert!(master.rules.is_poll_overdue());
    master.until(100_000.0);
    assert_eq!(master.done(), []);
    master.looked(unreachable(None));
    assert_eq!(master.rules.record().looks.failures, 1);
}

#[test]
fn progress_starts_the_time_limit_of_a_poll_anew() {
    let mut master = looking(settings());
    for at in [500.0, 1000.0, 1500.0] {
        master.until(at);
        master.handle(Event::PollProgress);
    }
    assert_eq!(master.done(), []);
    assert_eq!(master.rules.deadline(), Some(seconds(2100.0)));
}

#[test]
fn a_look_that_the_program_asks_for_comes_at_once() {
    let mut master = looking(settings());
    master.looked(Outcome::Unchanged);
    master.until(10.0);
    master.handle(Event::PollAsked);
    assert_eq!(master.done(), [Action::Poll]);
}

#[test]
fn looks_that_the_program_asks_for_keep_the_minimum_apart_too() {
    let mut master = looking(settings());
    master.looked(Outcome::Unchanged);
    for _ in 0..3 {
        master.handle(Event::PollAsked);
    }
    assert_eq!((master.done(), next_look(&master)), (vec![], seconds(2.0)));
    master.until(2.0);
    assert_eq!(master.done(), [Action::Poll]);
}

#[test]
fn a_look_asked_for_during_a_look_comes_after_it() {
    let mut master = looking(settings());
    master.handle(Event::PollAsked);
    master.handle(Event::PollAsked);
    assert_eq!(master.done(), []);
    master.looked(Outcome::Unchanged);
    assert_eq!(next_look(&master), seconds(2.0));
    master.until(2.0);
    master.looked(Outcome::Unchanged);
    assert!(pause(&master) > 200.0, "one, not two");
}

#[test]
fn a_look_asked_for_before_the_program_is_ready_comes_when_it_is() {
    let mut record = Record::default();
    record.looks.source = SOURCE.to_owned();
    record.looks.last_unix_s = Some(UNIX_START);
    let mut master = Master::again(settings(), record, file(1), None, UNIX_START);
    master.handle(Event::PollAsked);
    assert!(!master.is_polling);
    master.comes_up(1);
    master.until(1.0);
    assert!(master.is_polling);
}

#[test]
fn nothing_is_looked_for_while_a_candidate_is_tried() {
    let mut master = Master::upgrading(settings());
    master.handle(Event::PollAsked);
    master.until(1.5);
    assert!(!master.is_polling);
    master.comes_up(2);
    master.until(4.0);
    assert!(master.is_polling, "but right after it");
}

#[test]
fn a_master_started_again_looks_an_interval_after_the_last_look() {
    let mut master = looking(settings());
    master.looked(Outcome::Unchanged);
    let mut next = master.after_reboot();
    next.comes_up(1);
    assert_eq!(next_look(&next), seconds(300.0));
    let mut hours_later = Master::again(settings(), master.saved.clone(), file(1), None, UNIX_START + 10_000);
    hours_later.comes_up(1);
    assert_eq!(next_look(&hours_later), seconds(1.0));
}

#[test]
fn a_master_started_again_keeps_the_back_off() {
    let mut master = looking(settings());
    master.looked(unreachable(Some(5000)));
    let mut next = master.after_reboot();
    next.comes_up(1);
    assert_eq!(next_look(&next), seconds(5000.0));
}

#[test]
fn a_clock_that_was_set_back_does_not_stop_the_looks() {
    let mut record = Record::default();
    record.looks.source = SOURCE.to_owned();
    record.looks.last_unix_s = Some(UNIX_START + 1_000_000);
    let mut master = Master::again(settings(), record.clone(), file(1), None, UNIX_START);
    master.comes_up(1);
    assert_eq!(next_look(&master), seconds(1.0));
    record.looks.failures = 1;
    record.looks.next_unix_s = Some(UNIX_START + 1_000_000);
    let mut master = Master::again(settings(), record, file(1), None, UNIX_START);
    master.comes_up(1);
    assert!(pause(&master) <= 24.0 * HOUR);
}

#[test]
fn another_source_is_looked_at_soon_and_knows_nothing_of_the_old_one() {
    let mut master = Master::upgrading(settings());
    let moved = Settings { source: Some("https://elsewhere.test/app".to_owned()), ..settings() };
    master.rules.record.memo = Some(crate::binary::Memo { source: SOURCE.to_owned(), text: "etag".to_owned() });
    master.welcome_with(2, moved);
    master.ready(2);
    master.until(2.0);
    let (known, _) = master.rules.known();
    assert!(!known.is_settled("tag-2"), "the tags of another source mean nothing here");
    assert_eq!(known.memo, None);
    assert_eq!(next_look(&master), seconds(3.0));
}

#[test]
fn a_restart_without_a_fetcher_ends_the_looks() {
    let mut master = looking(settings());
    master.restart();
    master.fails_to_look();
    master.welcome_with(2, Settings::default());
    master.ready(2);
    master.until(50_000.0);
    assert!(!master.is_polling);
    assert_eq!(master.rules.next_look(), None);
}

#[test]
fn the_memo_of_the_fetcher_is_kept_until_it_gives_another() {
    let mut master = looking(settings());
    master.poll_ends(Report { memo: Some("etag 1".to_owned()), ..report(unreachable(None)) });
    assert_eq!(master.rules.known().0.memo.as_deref(), Some("etag 1"));
    master.poll_ends(report(Outcome::Unchanged));
    assert_eq!(master.rules.known().0.memo.as_deref(), Some("etag 1"));
    assert!(master.is_saved());
    master.poll_ends(Report { memo: Some("m".repeat(MEMO_BYTES_MAX)), ..report(Outcome::Unchanged) });
    assert_eq!(master.rules.known().0.memo.map(|memo| memo.len()), Some(MEMO_BYTES_MAX));
    master.forget();
    master.poll_ends(Report { memo: Some("m".repeat(MEMO_BYTES_MAX + 1)), ..report(Outcome::Unchanged) });
    assert_eq!((master.rules.known().0.memo, master.said()), (None, vec!["memo-dropped"]));
}

#[test]
fn the_tag_of_the_installed_release_is_settled() {
    let mut master = Master::upgraded(settings());
    let (known, unwanted) = master.rules.known();
    assert!(known.is_settled("tag-2") && !known.is_settled("tag-1"));
    assert!(unwanted.is_empty(), "{unwanted:?}");
    master.looked(Outcome::Same { release: crate::protocol::ReleaseName { tag: "other-name".to_owned(), ..release(2) } });
    assert!(master.rules.known().0.is_settled("other-name"));
    assert!(master.is_saved());
}

#[test]
fn the_fetcher_is_told_id_size_and_path_of_the_binary() {
    let mut master = looking(settings());
    assert_eq!(master.rules.known().0.id, None);
    master.poll_ends(Report { running_id: Some(release(1).id), ..report(Outcome::Unchanged) });
    let (known, _) = master.rules.known();
    assert_eq!((known.id, known.size_bytes), (Some(release(1).id), file(1).size_bytes));
    assert_eq!(known.path, std::path::Path::new("/srv/app"));
}

#[test]
fn a_failing_look_never_touches_the_service() {
    let mut master = looking(settings());
    for _ in 0..10 {
        master.looked(unreachable(None));
        master.until(master.now.as_secs_f64() + 2.0);
    }
    assert!(master.done().iter().all(|action| matches!(action, Action::Poll)));
    assert_eq!(master.active(), Some(1));
}
