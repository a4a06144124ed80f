use super::super::testing::{Master, file, generation, seconds, settings};
use super::super::{Action, Asker, Blame, Event, Installation, Program, Settings};
use super::{accept, drain, is_at_rest, kill, sends, spawn, trust};
use crate::protocol::Outcome;
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::time::Duration;

fn plain() -> Settings {
    Settings::default()
}

#[test]
fn a_master_starts_with_the_file_that_it_runs_itself_and_waits_for_its_hello() {
    let mut master = Master::new(plain());
    assert_eq!(master.done(), [spawn(1, Program::Own)]);
    assert_eq!((master.active(), master.candidate()), (Some(1), None));
    assert_eq!(master.rules.deadline(), Some(seconds(5.0)));
}

#[test]
fn a_restart_starts_what_is_at_the_path_and_drains_the_old_generation_after_the_warm_up() {
    let mut master = Master::serving(plain());
    master.restart();
    assert_eq!(master.done(), [spawn(2, Program::AtPath)]);
    master.comes_up(2);
    assert_eq!(master.done(), []);
    assert_eq!(master.rules.deadline(), Some(seconds(1.0)));

    master.until(1.0);
    assert_eq!(master.done(), [accept(2), trust(2), drain(1)]);
    assert_eq!(master.active(), Some(2));

    master.exits(1, Exit::Code(0));
    assert_eq!(master.said(), ["restarting", "generation-ready", "generation-active", "draining", "drained"]);
    assert!(is_at_rest(&master));
    assert_eq!(master.rules.deadline(), None);
}

#[test]
fn an_old_generation_that_does_not_finish_is_killed_at_its_deadline() {
    let mut master = Master::serving(plain());
    master.restart();
    master.comes_up(2);
    master.until(30.9);
    master.done();
    master.until(31.0);
    assert_eq!(master.done(), [kill(1)]);
    master.exits(1, Exit::Signal(Signal::KILL));
    assert_eq!((master.active(), master.left), (Some(2), None));
}

fn last_moment(number: u64) -> Action {
    Action::Drain { generation: generation(number), within: seconds(2.0) }
}

/// Restarts at this time and lets the new generation take over without a warm-up; nobody finishes.
fn replaced_at(master: &mut Master, at: f64, number: u64) {
    master.until(at);
    master.restart();
    master.comes_up(number);
    master.until(at);
}

#[test]
fn when_more_old_generations_drain_than_may_the_oldest_has_a_last_moment_and_is_killed() {
    let mut master = Master::serving(Settings { max_draining: 2, warm_up: Duration::ZERO, ..plain() });
    replaced_at(&mut master, 1.0, 2);
    replaced_at(&mut master, 2.0, 3);
    assert!(!master.said().contains(&"gives-way"), "two may");
    master.done();

    replaced_at(&mut master, 3.0, 4);
    assert_eq!(master.done(), [spawn(4, Program::AtPath), accept(4), trust(4), drain(3), last_moment(1)]);
    let line = master.line("gives-way");
    assert!(
        line.starts_with("too many generations drain (max_draining is 2), so generation 1 has 2s left and is killed then, with an unknown"),
        "{line}"
    );
    assert!(line.ends_with("(pid 101, started 3s ago)"), "{line}");

    master.until(4.9);
    assert_eq!(master.done(), []);
    master.until(5.0);
    assert_eq!(master.done(), [kill(1)]);
    let line = master.line("drain-overdue");
    assert!(line.starts_with("generation 1 has not finished after 4s and is killed, with "), "{line}");
    master.exits(1, Exit::Signal(Signal::KILL));
    assert_eq!(master.rules.deadline(), Some(seconds(32.0)), "the others have their time");
}

#[test]
fn each_of_two_generations_that_are_too_many_has_a_last_moment_of_its_own() {
    let mut master = Master::serving(Settings { max_draining: 1, warm_up: Duration::ZERO, ..plain() });
    replaced_at(&mut master, 1.0, 2);
    replaced_at(&mut master, 2.0, 3);
    master.forget();
    replaced_at(&mut master, 3.0, 4);
    assert_eq!(master.done(), [spawn(4, Program::AtPath), accept(4), trust(4), drain(3), last_moment(2)]);
    master.until(3.9);
    assert_eq!(master.done(), []);
    master.until(4.0);
    assert_eq!(master.done(), [kill(1)]);
    master.until(4.9);
    assert_eq!(master.done(), []);
    master.until(5.0);
    assert_eq!(master.done(), [kill(2)]);
}

#[test]
fn a_candidate_that_failed_gives_way_and_cuts_nothing_of_those_that_have_served() {
    let patient = Settings { max_draining: 2, ready_timeout: Some(Duration::from_secs(5)), ..plain() };
    let mut master = Master::serving(Settings { warm_up: Duration::ZERO, ..patient.clone() });
    replaced_at(&mut master, 1.0, 2);
    replaced_at(&mut master, 2.0, 3);
    let deadlines = |master: &Master| [1, 2].map(|number| master.rules.children[&generation(number)].deadline);
    let before = deadlines(&master);
    for number in [4, 5] {
        master.restart();
        master.welcome_with(number, patient.clone());
        master.drains(number);
        master.forget();
        master.until(master.now.as_secs_f64() + 5.0);
        assert_eq!(master.done(), [drain(number), last_moment(number)]);
        master.until(master.now.as_secs_f64() + 2.0);
        assert_eq!(master.done(), [kill(number)]);
        master.exits(number, Exit::Signal(Signal::KILL));
        assert_eq!(deadlines(&master), before);
    }
}

#[test]
fn an_old_generation_that_follows_no_drain_is_not_told_again_that_it_is_to_leave() {
    let mut master = Master::new(Settings { max_draining: 1, warm_up: Duration::ZERO, ..plain() });
    master.welcome(1);
    master.ready(1);
    replaced_at(&mut master, 1.0, 2);
    master.forget();
    replaced_at(&mut master, 2.0, 3);
    assert_eq!(master.done(), [spawn(3, Program::AtPath), accept(3), trust(3), drain(2)]);
    master.until(4.0);
    assert_eq!(master.done(), [kill(1)]);
}

#[test]
fn a_generation_that_would_be_gone_sooner_anyway_keeps_its_deadline() {
    let mut master = Master::serving(Settings { max_draining: 1, warm_up: Duration::ZERO, ..plain() });
    replaced_at(&mut master, 1.0, 2);
    master.until(29.5);
    master.forget();
    replaced_at(&mut master, 29.5, 3);
    assert!(!master.said().contains(&"gives-way"));
    master.until(31.0);
    assert!(master.done().contains(&kill(1)));
}

#[test]
fn an_old_generation_that_follows_no_drain_gets_sigterm_once() {
    let mut master = Master::new(plain());
    master.welcome(1);
    master.ready(1);
    master.restart();
    master.comes_up(2);
    master.forget();
    master.until(1.0);
    assert_eq!(master.done(), [accept(2), trust(2), drain(1), sends(1, Signal::TERM)]);
    assert_eq!(master.said(), ["generation-active", "draining", "no-drain"]);
}

#[test]
fn a_program_that_says_nothing_is_ready_when_it_has_lived_for_the_warm_up_and_not_twice_as_long() {
    let mut master = Master::new(plain());
    master.welcome(1);
    master.until(0.99);
    assert_eq!(master.said(), [] as [&str; 0]);
    master.until(1.0);
    assert_eq!(master.said(), ["generation-ready"]);

    master.restart();
    master.welcome(2);
    master.forget();
    master.until(2.0);
    assert_eq!(master.active(), Some(2));
}

#[test]
fn a_ready_that_comes_after_it_was_counted_by_age_is_a_warning_that_names_the_seconds_and_the_setting() {
    let mut master = Master::new(plain());
    master.welcome(1);
    master.until(4.0);
    master.ready(1);
    let line = master.line("ready-late");
    assert!(line.contains("after 4s") && line.contains("after 1s") && line.contains("ready_timeout"), "{line}");
    master.forget();
    master.ready(1);
    assert_eq!(master.said(), [] as [&str; 0], "it is said once");
}

#[test]
fn a_second_ready_changes_nothing() {
    let mut master = Master::serving(plain());
    master.ready(1);
    assert_eq!((master.done(), master.said()), (vec![], vec![]));
}

#[test]
fn a_candidate_that_never_becomes_ready_goes_and_the_old_generation_keeps_serving() {
    let patient = Settings { ready_timeout: Some(Duration::from_secs(60)), ..plain() };
    let mut master = Master::serving(patient);
    master.restart();
    master.welcome(2);
    master.drains(2);
    master.forget();
    assert_eq!(master.rules.deadline(), Some(seconds(60.0)));

    master.until(60.0);
    assert_eq!(master.done(), [drain(2)]);
    let line = master.line("restart-failed");
    assert_eq!(line, "restart failed: generation 2 not ready after 60s, stopped; generation 1 keeps serving");
    assert_eq!((master.active(), master.candidate()), (Some(1), None));

    master.until(90.0);
    assert_eq!(master.done(), [kill(2)]);
    master.exits(2, Exit::Signal(Signal::KILL));
    assert!(is_at_rest(&master));
}

#[test]
fn a_candidate_that_never_says_hello_is_killed_after_the_check_timeout() {
    let mut master = Master::serving(plain());
    master.restart();
    master.forget();
    master.until(5.0);
    assert_eq!(master.done(), [kill(2)]);
    assert!(master.line("restart-failed").contains("said nothing for 5s"));
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!(master.active(), Some(1));
}

#[test]
fn a_candidate_that_is_refused_its_address_or_speaks_nonsense_or_cannot_be_started_leaves_the_old_one_serving() {
    let failures: [fn(&mut Master); 3] =
        [|master| master.refuse(2, Blame::Release), |master| master.misbehaves(2), |master| master.exits(2, Exit::Code(1))];
    for fail in failures {
        let mut master = Master::serving(plain());
        master.restart();
        fail(&mut master);
        assert!(master.said().contains(&"restart-failed"));
        assert_eq!((master.active(), master.candidate()), (Some(1), None));
    }
    let mut master = Master::serving(plain());
    master.spawn_fails = Some(Blame::Nobody);
    master.restart();
    assert!(master.said().contains(&"restart-failed"));
    assert!(is_at_rest(&master));
}

#[test]
fn the_only_generation_is_waited_for_beyond_its_ready_timeout() {
    let patient = Settings { ready_timeout: Some(Duration::from_secs(60)), ..plain() };
    let mut master = Master::new(patient.clone());
    master.welcome_with(1, patient);
    master.until(3600.0);
    assert_eq!(master.said(), ["not-ready-yet"]);
    master.ready(1);
    assert_eq!(master.said(), ["generation-ready"]);
    assert_eq!(master.rules.deadline(), None);
}

#[test]
fn a_first_generation_that_cannot_come_up_ends_the_master_in_the_same_way() {
    let mut master = Master::new(plain());
    master.spawn_fails = Some(Blame::Nobody);
    let mut silent = Master::new(plain());
    silent.until(5.0);
    assert_eq!(silent.done(), [spawn(1, Program::Own), kill(1)]);
    silent.exits(1, Exit::Signal(Signal::KILL));
    assert_eq!(silent.left, Some(Exit::Signal(Signal::KILL)));

    master.refuse(1, Blame::Release);
    master.exits(1, Exit::Code(1));
    assert_eq!(master.left, Some(Exit::Code(1)));
    assert!(master.are_listeners_closed);
}

#[test]
fn a_refused_first_generation_that_does_not_end_by_itself_is_killed() {
    let mut master = Master::new(plain());
    master.refuse(1, Blame::Nobody);
    master.forget();
    master.until(5.0);
    assert_eq!(master.done(), [kill(1)]);
}

#[test]
fn a_restart_asked_for_while_the_first_generation_starts_comes_when_it_is_ready() {
    let mut master = Master::new(plain());
    master.forget();
    master.restart();
    master.restart();
    assert_eq!((master.done(), master.said()), (vec![], vec!["restart-waits", "restart-waits"]));
    master.comes_up(1);
    assert_eq!(master.done(), [accept(1), trust(1), spawn(2, Program::AtPath)]);
}

#[test]
fn restarts_asked_for_during_a_restart_or_an_upgrade_mean_one_restart_after_it() {
    let mut master = Master::upgrading(settings());
    for _ in 0..3 {
        master.restart();
    }
    assert_eq!(master.done(), []);
    master.comes_up(2);
    master.until(2.0);
    assert_eq!((master.active(), master.candidate()), (Some(2), Some(3)));
    master.comes_up(3);
    master.until(3.0);
    assert_eq!((master.active(), master.candidate()), (Some(3), None));
}

#[test]
fn a_restart_asked_for_during_one_that_fails_comes_after_it() {
    let mut master = Master::serving(plain());
    master.restart();
    master.restart();
    master.exits(2, Exit::Code(1));
    assert_eq!((master.active(), master.candidate()), (Some(1), Some(3)));
}

#[test]
fn the_log_says_who_asked_for_the_restart() {
    for (asker, why) in [
        (Asker::Signal, "got SIGUSR2"),
        (Asker::Program, "the program asked"),
        (Asker::PathChanged, "the file at the program's path has changed"),
    ] {
        let mut master = Master::serving(plain());
        master.handle(Event::RestartAsked { asker });
        assert!(master.line("restarting").contains(why));
    }
}

#[test]
fn the_restart_signal_is_a_restart_and_is_passed_on_to_nobody() {
    let mut master = Master::serving(Settings { restart_signal: Signal::HUP, ..plain() });
    master.signal(Signal::HUP);
    assert_eq!(master.done(), [spawn(2, Program::AtPath)]);
}

#[test]
fn a_file_that_an_operator_put_at_the_path_is_the_candidate_and_takes_over() {
    let mut master = Master::serving(plain());
    master.operator_puts(7);
    master.restart();
    assert_eq!(master.said(), ["restarting", "own-file"]);
    master.comes_up(2);
    master.until(1.0);
    assert_eq!((master.active(), master.path), (Some(2), file(7)));
}

#[test]
fn an_operators_file_that_fails_stays_and_the_log_says_so_and_where_the_previous_one_is() {
    let mut master = Master::serving(plain());
    master.operator_puts(7);
    master.restart();
    master.exits(2, Exit::Code(3));
    let line = master.line("own-file-failed");
    assert!(line.contains("ended with exit code 3 before it was ready") && line.contains("generation 1 keeps serving"), "{line}");
    assert!(line.contains("/srv/.app.overseer/previous"), "{line}");
    assert_eq!((master.active(), master.path), (Some(1), file(7)));
    assert_eq!(master.rules.record().verdicts, []);
}

#[test]
fn an_operators_file_that_crashes_later_is_not_taken_back() {
    let mut master = Master::upgraded(settings());
    master.operator_puts(7);
    master.restart();
    master.comes_up(3);
    master.until(3.0);
    master.exits(2, Exit::Code(0));
    master.exits(3, Exit::Signal(Signal::SEGV));
    assert_eq!((master.left, master.path), (Some(Exit::Signal(Signal::SEGV)), file(7)));
}

#[test]
fn the_old_generation_that_crashes_while_a_candidate_is_ready_is_replaced_by_it() {
    let mut master = Master::serving(plain());
    master.restart();
    master.comes_up(2);
    master.exits(1, Exit::Signal(Signal::SEGV));
    assert_eq!((master.active(), master.left), (Some(2), None));
}

#[test]
fn the_old_generation_that_ends_before_the_candidate_is_ready_ends_the_master() {
    for exit in [Exit::Code(0), Exit::Code(7), Exit::Signal(Signal::SEGV)] {
        let mut master = Master::serving(plain());
        master.restart();
        master.exits(1, exit);
        assert_eq!(master.left, None, "the candidate is there");
        master.exits(2, Exit::Signal(Signal::KILL));
        assert_eq!(master.left, Some(exit));
    }
}

#[test]
fn the_settings_of_the_generation_that_serves_hold() {
    let mut master = Master::serving(plain());
    master.restart();
    let hasty = Settings { terminate_timeout: Duration::from_secs(2), restart_signal: Signal::HUP, ..plain() };
    master.welcome_with(2, hasty);
    assert_eq!(master.rules.settings.restart_signal, Signal::USR2, "not yet");
    master.ready(2);
    master.forget();
    master.until(1.0);
    assert_eq!(master.rules.settings.restart_signal, Signal::HUP);
    assert!(master.done().contains(&Action::RestartBy { signal: Signal::HUP }), "the shell needs a handler for it");
    master.forget();
    master.signal(Signal::HUP);
    assert_eq!(master.done(), [spawn(3, Program::AtPath)]);
    assert_eq!(master.rules.children[&super::generation(1)].deadline, Some(seconds(31.0)), "the old one has its own time");
}

#[test]
fn with_no_restart_the_restart_signal_is_a_graceful_end() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.looked(Outcome::Unchanged);
    master.restart();
    assert_eq!(master.done(), [drain(1), Action::CloseListeners]);
    assert_eq!(master.said(), ["shutting-down", "draining"]);
    master.exits(1, Exit::Code(0));
    assert_eq!(master.left, Some(Exit::Code(0)));
}

#[test]
fn with_no_restart_a_signal_while_the_program_starts_lets_it_end_by_sigterm() {
    let mut master = Master::new(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.forget();
    master.restart();
    assert_eq!(master.done(), [sends(1, Signal::TERM)]);
    master.until(30.0);
    assert_eq!(master.done(), [kill(1)]);
}

#[test]
fn with_no_restart_a_file_that_another_master_installed_is_left_for_the_next_start() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.looked(Outcome::Unchanged);
    assert!(!master.rules.takes_up_changes());
    master.handle(Event::RestartAsked { asker: Asker::PathChanged });
    assert_eq!((master.done(), master.active()), (vec![], Some(1)));
}

#[test]
fn what_a_generation_says_on_its_way_out_changes_nothing() {
    let mut master = Master::serving(plain());
    master.restart();
    master.comes_up(2);
    master.until(1.0);
    master.forget();
    master.ready(1);
    master.welcome(1);
    master.refuse(1, Blame::Release);
    assert_eq!(master.done(), [] as [Action; 0]);
    master.misbehaves(1);
    assert_eq!(master.done(), [kill(1)]);
    assert_eq!(master.active(), Some(2));
}
