use super::super::testing::{Master, seconds, settings};
use super::super::{Action, Installation, Settings, Stage};
use super::{drain, generation, kill, sends};
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::time::Duration;

#[test]
fn a_program_that_follows_a_drain_drains_at_term_and_int() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut master = Master::serving(Settings::default());
        master.signal(signal);
        assert_eq!(master.done(), [drain(1), Action::CloseListeners]);
        assert_eq!(master.said(), ["leaving", "draining"]);
        master.exits(1, Exit::Code(0));
        assert_eq!(master.left, Some(Exit::Code(0)));
    }
}

#[test]
fn a_program_that_follows_no_drain_is_sent_the_signal_as_it_is() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut master = Master::new(Settings::default());
        master.welcome(1);
        master.ready(1);
        master.forget();
        master.signal(signal);
        assert_eq!(master.done(), [sends(1, signal)]);
        assert_eq!(master.rules.deadline(), None, "it takes the time that it takes");
        master.exits(1, Exit::Signal(signal));
        assert_eq!(master.left, Some(Exit::Signal(signal)));
    }
}

#[test]
fn quit_is_passed_on_as_it_is_even_to_a_program_that_follows_drains() {
    let mut master = Master::serving(Settings::default());
    master.signal(Signal::QUIT);
    assert_eq!(master.done(), [sends(1, Signal::QUIT)]);
}

#[test]
fn the_stop_signals_can_be_set() {
    let mut master = Master::serving(Settings { stop_signals: vec![Signal::HUP], ..Settings::default() });
    master.signal(Signal::HUP);
    assert_eq!(master.done(), [drain(1), Action::CloseListeners]);
    let mut master = Master::serving(Settings { stop_signals: vec![Signal::HUP], ..Settings::default() });
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [sends(1, Signal::TERM)]);
}

#[test]
fn a_drain_that_is_not_over_at_its_deadline_is_a_kill() {
    let mut master = Master::serving(Settings::default());
    master.signal(Signal::TERM);
    master.until(29.9);
    master.forget();
    master.until(30.0);
    assert_eq!(master.done(), [kill(1)]);
    master.exits(1, Exit::Signal(Signal::KILL));
    assert_eq!(master.left, Some(Exit::Signal(Signal::KILL)));
}

#[test]
fn a_second_term_or_int_kills_from_one_second_on_and_does_nothing_before() {
    for second in [Signal::TERM, Signal::INT] {
        let mut master = Master::serving(Settings::default());
        master.signal(Signal::TERM);
        master.forget();
        master.until(0.999);
        master.signal(second);
        assert_eq!(master.done(), []);
        master.until(1.0);
        master.signal(second);
        assert_eq!(master.done(), [kill(1)]);
    }
}

#[test]
fn a_second_term_kills_candidates_and_draining_generations_too() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [Action::Discard, drain(2), drain(1), Action::CloseListeners]);
    master.until(3.0);
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [kill(1), kill(2)]);
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!(master.left, None);
    master.exits(1, Exit::Signal(Signal::KILL));
    assert_eq!(master.left, Some(Exit::Signal(Signal::KILL)));
}

#[test]
fn a_first_term_after_something_else_made_the_master_leave_does_not_kill() {
    // The program has ended by itself, and an old generation still drains.
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.until(2.0);
    master.exits(2, Exit::Code(0));
    master.until(5.0);
    master.forget();
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [], "it drains already");
    master.until(6.0);
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [kill(1)]);

    // The restart signal meant a graceful end.
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.restart();
    master.forget();
    master.until(5.0);
    master.signal(Signal::TERM);
    assert_eq!(master.done(), []);
    assert_eq!(master.stage_of(generation(1)), Some(Stage::Draining));

    // SIGQUIT, which the program has a use for.
    let mut master = Master::serving(Settings::default());
    master.signal(Signal::QUIT);
    master.forget();
    master.until(5.0);
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [drain(1), Action::CloseListeners]);
}

#[test]
fn a_ctrl_c_at_the_terminal_counts_once_and_is_not_passed_on() {
    let mut master = Master::new(Settings::default());
    master.welcome(1);
    master.ready(1);
    master.forget();
    master.signalled(Signal::INT, true);
    assert_eq!(master.done(), [], "the program has it from the terminal");
    master.exits(1, Exit::Signal(Signal::INT));
    assert_eq!(master.left, Some(Exit::Signal(Signal::INT)));
}

#[test]
fn a_ctrl_c_starts_the_drain_of_a_program_that_follows_one() {
    let mut master = Master::serving(Settings::default());
    master.signalled(Signal::INT, true);
    assert_eq!(master.done(), [drain(1), Action::CloseListeners]);
}

#[test]
fn a_draining_generation_is_sent_term_once_even_if_the_master_gets_it_too() {
    let mut master = Master::new(Settings::default());
    master.welcome(1);
    master.ready(1);
    master.restart();
    master.comes_up(2);
    master.until(1.0);
    assert!(master.done().contains(&sends(1, Signal::TERM)));
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [drain(2)]);
}

#[test]
fn a_signal_that_means_leaving_reaches_draining_generations() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.until(2.0);
    master.forget();
    master.signal(Signal::QUIT);
    assert_eq!(master.done(), [sends(1, Signal::QUIT), sends(2, Signal::QUIT)]);
}

#[test]
fn a_candidate_goes_at_once_when_the_master_is_asked_to_leave() {
    let mut silent = Master::upgrading(settings());
    silent.signal(Signal::TERM);
    assert_eq!(silent.done(), [Action::Discard, kill(2), drain(1), Action::CloseListeners]);
    let mut welcomed = Master::upgrading(settings());
    welcomed.welcome(2);
    welcomed.drains(2);
    welcomed.signal(Signal::TERM);
    assert_eq!(welcomed.done(), [Action::Discard, drain(2), drain(1), Action::CloseListeners]);
    let mut restarting = Master::serving(Settings::default());
    restarting.restart();
    restarting.forget();
    restarting.signal(Signal::QUIT);
    assert_eq!(restarting.done(), [kill(2), sends(1, Signal::QUIT)]);
}

#[test]
fn nothing_is_promoted_or_committed_after_term_int_or_quit() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut master = Master::upgrading(settings());
        master.comes_up(2);
        master.signal(signal);
        master.forget();
        master.ready(2);
        master.restart();
        master.exits(1, Exit::Signal(Signal::SEGV));
        assert!(!master.done().iter().any(|action| matches!(action, Action::Commit { .. } | Action::Spawn { .. } | Action::Accept { .. })));
        master.exits(2, Exit::Code(0));
        assert_eq!(master.left, Some(Exit::Signal(Signal::SEGV)));
    }
}

#[test]
fn nothing_is_taken_back_while_the_master_leaves() {
    let mut master = Master::upgraded(settings());
    master.signal(Signal::TERM);
    master.exits(2, Exit::Signal(Signal::SEGV));
    assert_eq!((master.left, master.path), (Some(Exit::Signal(Signal::SEGV)), super::super::testing::file(2)));
}

#[test]
fn a_program_that_starts_gets_the_signal_at_once_and_has_its_time_to_end() {
    let mut master = Master::new(Settings::default());
    master.forget();
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [sends(1, Signal::TERM)]);
    master.until(2.0);
    master.welcome(1);
    master.until(29.9);
    assert_eq!(master.done(), [], "a hello does not change its deadline");
    master.until(30.0);
    assert_eq!(master.done(), [kill(1)]);
}

#[test]
fn a_program_that_becomes_ready_on_its_way_out_is_still_to_go() {
    let mut master = Master::new(Settings::default());
    master.welcome(1);
    master.signal(Signal::TERM);
    master.ready(1);
    master.forget();
    master.until(30.0);
    assert_eq!(master.done(), [kill(1)]);
    master.exits(1, Exit::Signal(Signal::KILL));
    assert_eq!(master.left, Some(Exit::Signal(Signal::KILL)));
}

#[test]
fn listeners_close_when_the_program_ends_and_draining_generations_have_until_their_deadline() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.until(2.0);
    master.until(10.0);
    master.forget();
    master.exits(2, Exit::Code(0));
    assert_eq!(master.done(), [Action::CloseListeners]);
    assert_eq!(master.rules.deadline(), Some(seconds(32.0)));
    master.exits(1, Exit::Code(0));
    assert_eq!(master.done(), [Action::Leave(Exit::Code(0))]);
}

#[test]
fn draining_generations_have_two_seconds_after_an_abnormal_end() {
    let mut master = Master::upgraded(settings());
    master.until(400.0);
    if master.is_polling {
        master.fails_to_look();
    }
    master.restart();
    master.comes_up(3);
    master.until(401.0);
    master.exits(3, Exit::Code(9));
    master.forget();
    master.until(402.9);
    assert_eq!(master.done(), []);
    master.until(403.0);
    assert_eq!(master.done(), [kill(2)]);
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!(master.left, Some(Exit::Code(9)));
}

#[test]
fn an_end_by_the_signal_that_was_passed_on_is_not_abnormal_and_leaves_draining_generations_their_time() {
    let mut master = Master::new(Settings::default());
    master.comes_up(1);
    master.restart();
    master.welcome(2);
    master.ready(2);
    master.until(1.0);
    master.signal(Signal::TERM);
    master.exits(2, Exit::Signal(Signal::TERM));
    assert_eq!(master.rules.deadline(), Some(seconds(31.0)));
    master.exits(1, Exit::Code(0));
    assert_eq!(master.left, Some(Exit::Signal(Signal::TERM)));
}

#[test]
fn an_abnormal_end_does_not_lengthen_a_drain_that_is_nearly_over() {
    let mut master = Master::serving(Settings::default());
    master.restart();
    master.comes_up(2);
    master.until(30.0);
    master.exits(2, Exit::Code(9));
    assert_eq!(master.rules.deadline(), Some(seconds(31.0)));
}

#[test]
fn the_master_waits_for_its_poll_to_be_reaped() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.forget();
    master.signal(Signal::TERM);
    assert_eq!(master.done(), [Action::KillPoll, drain(1), Action::CloseListeners]);
    master.exits(1, Exit::Code(0));
    assert_eq!(master.left, None);
    master.fails_to_look();
    assert_eq!(master.left, Some(Exit::Code(0)));
}

#[test]
fn a_release_that_a_look_finds_while_the_master_leaves_is_discarded() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.signal(Signal::TERM);
    master.forget();
    master.finds(2);
    assert_eq!(master.done(), [Action::Discard]);
    assert_eq!(master.candidate(), None);
}

#[test]
fn the_master_leaves_last() {
    let mut master = Master::serving(Settings { terminate_timeout: Duration::from_secs(5), ..Settings::default() });
    for number in 2..6 {
        master.restart();
        master.comes_up(number);
        master.until(master.now.as_secs_f64() + 1.0);
    }
    master.signal(Signal::TERM);
    for number in [5, 1, 2, 3] {
        master.exits(number, Exit::Code(0));
        assert_eq!(master.left, None);
    }
    master.exits(4, Exit::Code(0));
    assert_eq!(master.left, Some(Exit::Code(0)));
}
