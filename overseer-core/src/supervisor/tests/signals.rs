use super::super::signals::KEPT_MAX;
use super::super::testing::{Master, seconds, settings};
use super::super::{Event, Settings};
use super::{kill, sends};
use crate::signal::Signal;
use crate::sys::process::Exit;

const JOB_CONTROL: [Signal; 2] = [Signal::TSTP, Signal::CONT];

#[test]
fn a_signal_goes_to_the_active_generation() {
    let mut master = Master::serving(Settings::default());
    for signal in [Signal::HUP, Signal::USR1, Signal::WINCH, Signal::ALRM] {
        master.signal(signal);
        assert_eq!(master.done(), [sends(1, signal)]);
    }
}

#[test]
fn signals_that_come_before_the_program_is_ready_are_kept_in_their_order_and_delivered_once() {
    let mut master = Master::new(Settings::default());
    master.forget();
    master.signal(Signal::HUP);
    master.welcome(1);
    master.signal(Signal::USR1);
    master.signal(Signal::HUP);
    assert_eq!(master.done(), []);
    master.ready(1);
    let sent: Vec<_> = master.done().into_iter().filter(|action| matches!(action, super::Action::Signal { .. })).collect();
    assert_eq!(sent, [sends(1, Signal::HUP), sends(1, Signal::USR1), sends(1, Signal::HUP)]);
    master.ready(1);
    assert_eq!(master.done(), []);
}

#[test]
fn no_more_of_a_signal_are_kept_than_may_and_the_log_says_once_that_more_are_dropped() {
    let mut master = Master::new(Settings::default());
    master.welcome(1);
    for _ in 0..KEPT_MAX {
        master.signal(Signal::HUP);
    }
    assert_eq!(master.said(), ["signals-dropped"]);
    master.signal(Signal::HUP);
    master.signal(Signal::USR1);
    master.forget();
    master.ready(1);
    let done = master.done();
    assert_eq!([Signal::HUP, Signal::USR1].map(|signal| done.iter().filter(|action| **action == sends(1, signal)).count()), [KEPT_MAX, 1]);
}

#[test]
fn signals_that_were_kept_are_delivered_too_when_it_counts_as_ready_by_age() {
    let mut master = Master::new(Settings::default());
    master.signal(Signal::HUP);
    master.welcome(1);
    master.forget();
    master.until(1.0);
    assert!(master.done().contains(&sends(1, Signal::HUP)));
}

#[test]
fn what_the_kernel_sent_to_the_whole_group_is_not_passed_on_but_for_a_stop() {
    let mut master = Master::serving(Settings::default());
    for signal in [Signal::HUP, Signal::WINCH] {
        master.signalled(signal, true);
        assert_eq!(master.done(), []);
    }
    // A SIGCONT that was on its way may have undone it.
    master.signalled(Signal::TSTP, true);
    assert_eq!(master.done(), [sends(1, Signal::TSTP)]);
}

#[test]
fn stopping_and_continuing_reaches_every_process_at_once() {
    let mut master = Master::upgrading(settings());
    for signal in JOB_CONTROL {
        master.signal(signal);
        assert_eq!(master.done(), [sends(1, signal), sends(2, signal)]);
    }
    master.comes_up(2);
    master.until(3.0);
    master.forget();
    master.signal(Signal::CONT);
    assert_eq!(master.done(), [sends(1, Signal::CONT), sends(2, Signal::CONT)], "draining ones too");
}

#[test]
fn deadlines_move_by_the_time_that_the_master_was_stopped() {
    let mut master = Master::serving(Settings::default());
    master.restart();
    master.comes_up(2);
    master.until(11.0);
    master.forget();
    assert_eq!(master.rules.deadline(), Some(seconds(31.0)));
    master.continues_after(1000.0);
    assert_eq!(master.rules.deadline(), Some(seconds(1031.0)));
    master.until(1030.9);
    assert_eq!(master.done(), []);
    master.until(1031.0);
    assert_eq!(master.done(), [kill(1)]);
}

#[test]
fn the_probation_and_the_time_limit_of_a_poll_move_with_a_stop() {
    let mut master = Master::upgraded(settings());
    master.handle(Event::PollAsked);
    master.until(100.0);
    assert!(master.is_polling);
    let (probation, poll) = (master.rules.probation_until, master.rules.looking.running_until);
    master.continues_after(1000.0);
    assert_eq!(master.rules.probation_until, probation.map(|until| until + seconds(1000.0)));
    assert_eq!(master.rules.looking.running_until, poll.map(|until| until + seconds(1000.0)));
}

#[test]
fn a_stop_does_not_bring_back_a_poll_that_is_being_killed() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.until(601.0);
    assert!(master.rules.is_poll_overdue());
    master.continues_after(10.0);
    master.handle(Event::PollProgress);
    assert!(master.rules.is_poll_overdue());
}

#[test]
fn a_killed_generation_is_sent_nothing_more() {
    let mut master = Master::serving(Settings::default());
    master.misbehaves(1);
    master.forget();
    master.signal(Signal::HUP);
    master.signal(Signal::TSTP);
    assert_eq!(master.done(), []);
    master.exits(1, Exit::Signal(Signal::KILL));
    assert_eq!(master.left, Some(Exit::Signal(Signal::KILL)));
}

#[test]
fn a_signal_that_is_both_restart_signal_and_kept_nowhere_waits_as_a_restart() {
    let mut master = Master::new(Settings::default());
    master.forget();
    master.signal(Signal::USR2);
    assert_eq!(master.done(), []);
    master.comes_up(1);
    assert_eq!(master.candidate(), Some(2));
}
