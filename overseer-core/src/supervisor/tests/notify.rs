use super::super::testing::{Master, SOURCE, UNIX_START, file, generation, release, seconds, settings};
use super::super::{Action, Asker, Blame, Command, Event, Installation, Notice, Settings};
use crate::fetcher::FetchError;
use crate::protocol::{Outcome, ReleaseName};
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::time::Duration;

const READY: Notice = Notice::Ready;
const RELOADING: Notice = Notice::Reloading;
const STOPPING: Notice = Notice::Stopping;
const WATCHDOG: Notice = Notice::Watchdog;
const LIMIT: Option<Duration> = Some(Duration::from_secs(20));

fn more(time: f64) -> Notice {
    Notice::Extend(seconds(time))
}

fn plain() -> Settings {
    Settings { answers_pings: true, ..Settings::default() }
}

fn with_source() -> Settings {
    Settings { answers_pings: true, ..settings() }
}

/// Serves from 0 s on, and the process manager knows it.
fn serving(settings: Settings, watchdog: Option<Duration>) -> Master {
    let mut master = Master::serving(settings).under_a_manager(watchdog);
    assert_eq!(master.heard()[0][0], READY);
    master
}

fn pings(master: &mut Master) -> usize {
    master.done().iter().filter(|action| matches!(action, Action::Ping { .. })).count()
}

#[test]
fn a_service_is_ready_when_its_first_generation_serves() {
    let mut master = Master::new(plain()).under_a_manager(None);
    assert_eq!(master.heard(), [[more(10.0)]]);
    assert_eq!(master.manager.status, "app, generation 1 is starting");
    master.welcome(1);
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
    master.ready(1);
    assert_eq!(master.heard(), [[READY]]);
    assert_eq!(master.manager.status, "app, generation 1, serving since 2027-01-15 08:00 UTC");
    master.until(10_000.0);
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
}

#[test]
fn nobody_is_told_and_nothing_waits_where_there_is_no_process_manager() {
    let mut master = Master::serving(plain());
    master.restart();
    master.comes_up(2);
    master.until(1.0);
    master.exits(1, Exit::Code(0));
    assert_eq!(master.rules.deadline(), None);
    master.answers(2);
    assert_eq!((master.heard(), pings(&mut master)), (Vec::new(), 0));
}

#[test]
fn a_restart_is_a_reload_until_its_generation_has_taken_over() {
    let mut master = serving(plain(), None);
    master.restart();
    assert_eq!(master.heard(), [[RELOADING, more(10.0)]]);
    assert_eq!(master.manager.status, "app, generation 1, serving since 2027-01-15 08:00 UTC; restarting as generation 2");
    master.comes_up(2);
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
    master.until(1.0);
    // The old generation drains, and nobody waits for that.
    assert_eq!(master.heard(), [[READY]]);
    master.until(20.0);
    master.exits(1, Exit::Code(0));
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
    assert_eq!(master.manager.status, "app, generation 2, serving since 2027-01-15 08:00 UTC");
}

#[test]
fn a_restart_that_fails_is_over_too_and_the_status_says_that_it_failed() {
    let mut master = serving(plain(), None);
    master.restart();
    master.heard();
    master.alive.remove(&generation(2));
    master.handle(Event::Exited { generation: generation(2), exit: Exit::Code(1), why: Some("PASSWORD=x".to_owned()) });
    assert_eq!(master.heard(), [[READY]]);
    let failed = "app, generation 1, serving since 2027-01-15 08:00 UTC; the restart as generation 2 failed at 08:00 UTC (see the log)";
    assert_eq!(master.manager.status, failed);
    master.spawn_fails = Some(Blame::Nobody);
    master.restart();
    assert_eq!(master.heard(), [vec![RELOADING, more(10.0)], vec![READY]]);
    assert!(master.manager.status.contains("as generation 3 failed"), "{}", master.manager.status);
    master.restart();
    master.comes_up(4);
    master.until(1.0);
    assert_eq!(master.heard(), [vec![RELOADING, more(10.0)], vec![READY]]);
    assert!(!master.manager.status.contains("failed"), "{}", master.manager.status);
}

#[test]
fn a_restart_that_has_to_wait_is_a_reload_from_the_moment_it_was_asked_for() {
    let mut master = Master::upgrading(with_source()).under_a_manager(None);
    assert_eq!(master.heard(), [[READY]]);
    assert!(master.manager.status.contains("; upgrading as generation 2"), "{}", master.manager.status);
    master.restart();
    assert_eq!(master.heard(), [[RELOADING, more(10.0)]]);
    assert!(master.manager.status.contains("; a restart waits"), "{}", master.manager.status);
    master.exits(2, Exit::Code(1));
    assert_eq!((master.candidate(), master.heard()), (Some(3), Vec::new()));
    master.comes_up(3);
    master.until(10.0);
    assert_eq!((master.active(), master.heard()), (Some(3), vec![vec![READY]]));
}

#[test]
fn of_two_restarts_the_first_is_over_before_the_second_begins() {
    let mut master = serving(plain(), None);
    master.restart();
    master.handle(Event::RestartAsked { asker: Asker::Program });
    master.comes_up(2);
    assert_eq!(master.heard(), [[RELOADING, more(10.0)]]);
    master.until(1.0);
    // In two messages: both in one would mean a reload that is over.
    assert_eq!(master.heard(), [vec![READY], vec![RELOADING, more(10.0)]]);
    master.exits(3, Exit::Code(1));
    assert_eq!(master.heard(), [[READY]]);
}

#[test]
fn a_release_that_waited_for_a_restart_comes_with_a_reload_and_an_upgrade_with_none() {
    let mut master = serving(Settings { installation: Installation::AtNextRestart, ..settings() }, None);
    master.until(1.0);
    master.finds(2);
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
    master.restart();
    assert_eq!(master.heard(), [[RELOADING, more(10.0)]]);
    master.comes_up(2);
    master.until(2.0);
    assert_eq!((master.active(), master.heard()), (Some(2), vec![vec![READY]]));

    let mut master = serving(settings(), None);
    master.until(1.0);
    master.finds(2);
    master.comes_up(2);
    master.until(2.0);
    assert_eq!((master.active(), master.heard()), (Some(2), Vec::new()));
    let id = &release(2).id[..12];
    let status = format!("app {id}, generation 2, serving since 2027-01-15 08:00 UTC; last look 08:00 UTC: found release {id}");
    assert_eq!(master.manager.status, status);
}

#[test]
fn a_restart_that_a_taking_back_makes_void_is_over_when_somebody_serves() {
    let mut master = Master::upgraded(with_source()).under_a_manager(None);
    master.restart();
    master.heard();
    master.exits(2, Exit::Signal(Signal::SEGV));
    assert_eq!((master.active(), master.heard()), (Some(4), Vec::new()));
    let status = "app, generation 4 is starting; the restart as generation 3 failed at 08:00 UTC (see the log); last look ";
    assert!(master.manager.status.starts_with(status), "{}", master.manager.status);
    master.until(3.0);
    master.comes_up(4);
    assert_eq!(master.heard(), [[READY]]);
    assert!(master.manager.status.contains("; the restart as generation 3 failed at 08:00 UTC"), "{}", master.manager.status);
}

#[test]
fn a_restart_that_waited_while_a_release_was_taken_back_comes_when_the_previous_binary_serves() {
    let mut master = Master::upgraded(with_source()).under_a_manager(None);
    master.restart();
    let token = master.command(Command::Restart);
    master.heard();
    master.exits(2, Exit::Signal(Signal::SEGV));
    assert_eq!((master.active(), master.heard()), (Some(4), Vec::new()));
    assert!(master.manager.status.starts_with("app, generation 4 is starting; a restart waits"), "{}", master.manager.status);
    master.comes_up(4);
    assert_eq!((master.candidate(), master.answer(&token)), (Some(5), None));
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0], "still the same reload");
    master.comes_up(5);
    master.until(4.0);
    assert_eq!((master.active(), master.heard()), (Some(5), vec![vec![READY]]));
    assert_eq!(master.answer(&token), Some((true, "generation 5 has taken over".to_owned())));
}

#[test]
fn a_restart_that_fails_where_nobody_serves_is_over_when_somebody_does() {
    let mut master = serving(Settings { overlap: false, ..plain() }, None);
    master.restart();
    master.welcome_with(2, Settings { overlap: false, ..plain() });
    master.exits(1, Exit::Code(0));
    master.heard();
    master.exits(2, Exit::Code(1));
    assert_eq!((master.active(), master.heard()), (Some(3), Vec::new()));
    master.welcome(3);
    master.ready(3);
    assert_eq!(master.heard(), [[READY]]);
    assert!(master.manager.status.contains("; the restart as generation 2 failed"), "{}", master.manager.status);
}

#[test]
fn a_slow_start_is_granted_its_time_in_pieces_and_no_more() {
    let mut master = Master::new(plain()).under_a_manager(None);
    master.welcome_with(1, Settings { ready_timeout: Some(Duration::from_secs(60)), ..plain() });
    assert_eq!(master.heard(), [[more(10.0)], [more(30.0)]]);
    master.until(50.0);
    let pieces: Vec<Vec<Notice>> = [30.0, 30.0, 30.0, 25.0].map(|time| vec![more(time)]).into();
    assert_eq!(master.heard(), pieces);
    assert_eq!(master.manager.waits_until, Some(seconds(65.0)));
    // It is waited for, but the process manager decides for how long.
    master.until(1000.0);
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
    master.ready(1);
    assert_eq!(master.heard(), [[READY]]);
}

#[test]
fn the_end_is_told_at_once_and_granted_the_time_of_the_drain() {
    let mut master = serving(Settings { terminate_timeout: Duration::from_secs(60), ..plain() }, LIMIT);
    master.signal(Signal::TERM);
    assert_eq!(master.heard(), [[STOPPING, more(30.0)]]);
    assert_eq!(master.manager.status, "leaving: 1 to finish until 08:01 UTC");
    master.until(59.0);
    assert_eq!(master.heard().len(), 4);
    assert_eq!(master.manager.waits_until, Some(seconds(65.0)));
    master.exits(1, Exit::Code(3));
    assert_eq!((master.left, master.heard()), (Some(Exit::Code(3)), Vec::new()));
}

#[test]
fn a_program_that_ends_by_itself_stops_the_service() {
    let mut master = serving(plain(), LIMIT);
    master.exits(1, Exit::Code(3));
    assert_eq!(master.heard(), [[STOPPING]]);
    assert_eq!(master.manager.status, "the program ended with exit code 3; leaving");
    let mut master = Master::new(plain()).under_a_manager(None);
    master.exits(1, Exit::Code(3));
    assert_eq!(master.heard(), [[more(10.0)], [STOPPING]]);
}

#[test]
fn the_watchdog_is_told_what_the_serving_generation_answers() {
    let mut master = serving(plain(), LIMIT);
    assert_eq!(pings(&mut master), 1);
    for round in 0..5 {
        let begin = f64::from(round) * 10.0;
        master.until(begin + 1.0);
        assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
        master.answers(1);
        assert_eq!(master.heard(), [[WATCHDOG]]);
        // One too many does no harm.
        master.answers(1);
        master.until(begin + 9.9);
        assert_eq!((pings(&mut master), master.heard()), (0, Vec::new()));
        master.until(begin + 10.0);
        assert_eq!(pings(&mut master), 1);
    }
}

#[test]
fn for_a_silent_generation_the_watchdog_is_told_nothing_and_the_log_says_so_once() {
    let mut master = serving(plain(), LIMIT);
    master.until(1000.0);
    assert_eq!((pings(&mut master), master.heard(), master.rules.deadline()), (1, Vec::new(), None));
    assert_eq!(master.said(), ["silent"]);
    assert!(master.manager.status.ends_with("; generation 1 has not answered since 08:00 UTC"), "{}", master.manager.status);
    master.restart();
    assert_eq!(master.heard(), [[RELOADING]], "a reload does not keep a service that hangs");
    master.exits(2, Exit::Code(1));
    master.heard();
    master.answers(1);
    assert_eq!(master.heard(), [[WATCHDOG]]);
    assert!(!master.manager.status.contains("has not answered"), "{}", master.manager.status);
    master.until(1010.0);
    assert_eq!(pings(&mut master), 1);
    assert!(master.said().contains(&"answers-again"));
}

#[test]
fn a_generation_that_was_stopped_with_the_master_is_not_silent_for_that() {
    let mut master = serving(plain(), LIMIT);
    master.until(9.0);
    master.continues_after(100.0);
    master.until(109.9);
    assert_eq!(master.said(), [] as [&str; 0]);
    master.until(110.0);
    assert_eq!(master.said(), ["silent"]);
}

#[test]
fn who_takes_over_is_asked_from_then_on() {
    let mut master = serving(plain(), LIMIT);
    master.until(50.0);
    master.restart();
    master.comes_up(2);
    assert_eq!(pings(&mut master), 1);
    master.until(51.0);
    assert_eq!((master.active(), pings(&mut master)), (Some(2), 1));
    master.answers(1);
    master.heard();
    master.answers(2);
    assert_eq!(master.heard(), [[WATCHDOG]]);
}

/// Release 2 is taken back at 2 s under a watchdog, and its predecessor comes up as generation 3 with a minute to be ready.
fn slow_after_a_taking_back(settings: Settings) -> Master {
    let mut master = Master::upgraded(with_source()).under_a_manager(LIMIT);
    master.answers(2);
    master.exits(2, Exit::Signal(Signal::SEGV));
    assert_eq!(master.active(), Some(3));
    master.welcome_with(3, Settings { ready_timeout: Some(Duration::from_secs(60)), ..settings });
    master.forget();
    master.heard();
    master
}

#[test]
fn while_one_is_started_in_the_place_of_another_the_master_answers_until_its_deadline_and_then_it_does_itself() {
    let mut master = slow_after_a_taking_back(plain());
    master.until(61.9);
    assert_eq!((master.heard(), pings(&mut master)), (vec![vec![WATCHDOG]; 5], 0));
    for round in 0..10 {
        let begin = 62.0 + f64::from(round) * 10.0;
        master.until(begin);
        assert_eq!((pings(&mut master), master.heard()), (1, Vec::new()), "in round {round}");
        master.answers(3);
        assert_eq!(master.heard(), [[WATCHDOG]]);
    }
    assert!(master.said().contains(&"not-ready-yet"));
    master.ready(3);
    master.until(162.0);
    assert_eq!(pings(&mut master), 1, "it goes on");
    master.until(1000.0);
    assert_eq!((master.heard(), master.said().contains(&"silent")), (Vec::new(), true));
}

#[test]
fn one_that_is_late_and_cannot_be_asked_is_not_answered_for() {
    let mut master = slow_after_a_taking_back(Settings::default());
    master.until(1000.0);
    assert_eq!((master.heard(), pings(&mut master), master.rules.deadline()), (vec![vec![WATCHDOG]; 5], 0, None));
    master.ready(3);
    assert_eq!(master.heard(), [[WATCHDOG]], "at once");
}

#[test]
fn while_nobody_serves_because_one_waits_for_another_the_master_answers() {
    let alone = Settings { overlap: false, terminate_timeout: Duration::from_secs(600), ..with_source() };
    let mut master = serving(alone.clone(), LIMIT);
    master.answers(1);
    master.until(1.0);
    master.finds(2);
    master.welcome_with(2, alone.clone());
    master.heard();
    master.until(300.0);
    assert_eq!(master.heard(), vec![vec![WATCHDOG]; 30], "generation 1 makes room");
    master.exits(2, Exit::Signal(Signal::SEGV));
    master.until(301.0);
    master.welcome_with(3, alone);
    master.forget();
    master.heard();
    master.until(600.0);
    assert_eq!((master.heard(), pings(&mut master)), (vec![vec![WATCHDOG]; 30], 0), "generation 3 waits for that");
    master.exits(1, Exit::Code(0));
    master.ready(3);
    master.until(610.0);
    assert_eq!(pings(&mut master), 1);
}

#[test]
fn the_sign_of_life_that_was_due_while_one_was_killed_comes_with_the_next_one() {
    let mut master = Master::upgraded(with_source()).under_a_manager(LIMIT);
    master.answers(2);
    master.until(11.0);
    master.misbehaves(2);
    master.heard();
    master.until(15.0);
    assert_eq!(master.heard(), [] as [Vec<Notice>; 0]);
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!((master.active(), master.heard()), (Some(3), vec![vec![WATCHDOG]]));
}

#[test]
fn one_that_cannot_be_asked_is_answered_for_unless_it_follows_drains() {
    let mut master = Master::new(Settings { answers_pings: false, ..plain() }).under_a_manager(LIMIT);
    master.welcome(1);
    master.ready(1);
    master.heard();
    master.until(25.0);
    assert_eq!(master.heard(), [[WATCHDOG], [WATCHDOG]]);
    assert_eq!((pings(&mut master), master.said().iter().filter(|code| **code == "not-asked").count()), (0, 1));
    master.drains(1);
    master.until(35.0);
    assert_eq!((pings(&mut master), master.heard()), (1, Vec::new()));
}

#[test]
fn the_status_is_one_short_line_without_reasons() {
    let mut master = serving(settings(), None);
    master.until(1.0);
    master.looked(Outcome::Failed { error: FetchError::passing("token=SECRET was refused") });
    assert!(master.manager.status.ends_with("; last look 08:00 UTC: failed (see the log)"), "{}", master.manager.status);
    let name = ReleaseName { version: Some(format!("1\nMAINPID=1{}", "ä".repeat(1000))), ..release(2) };
    master.looked(Outcome::Refused { release: name.clone(), verdict: crate::protocol::Verdict::Blameless, why: "SECRET".to_owned() });
    assert!(master.manager.status.ends_with(": refused"), "{}", master.manager.status);
    master.rules.record.was_installed(name, file(1), UNIX_START);
    master.rules.record.remember_id(file(1), &release(2).id);
    master.restart();
    let status = &master.manager.status;
    assert!(
        status.starts_with("app 1?MAINPID=1ää") && status.len() < 300 && !status.contains("SECRET") && !status.contains(SOURCE),
        "{status}"
    );
}
