use super::super::testing::{Master, UNIX_START, file, release, seconds, settings};
use super::super::{Action, Blame, Command, Event, Installation, Notice, Program, Settings};
use super::{accept, drain, spawn, trust};
use crate::binary::Record;
use crate::protocol::Outcome;
use crate::signal::Signal;
use crate::sys::process::Exit;
use std::time::Duration;

const CRASH: Exit = Exit::Signal(Signal::SEGV);

fn installed(master: &Master) -> Option<String> {
    master.rules.record().installed.as_ref().map(|installed| installed.release.tag.clone())
}

#[test]
fn a_release_that_crashes_in_its_probation_is_taken_back_in_place() {
    let mut master = Master::upgraded(settings());
    master.until(200.0);
    master.forget();
    master.exits(2, CRASH);
    let back = master.done();
    assert_eq!(
        back.iter().filter(|action| **action != Action::KillPoll).collect::<Vec<_>>(),
        [&Action::TakeBack { failed: file(2) }, &spawn(3, Program::AtPath)]
    );
    assert_eq!((master.path, master.active(), master.left), (file(1), Some(3), None));
    assert!(master.line("taken-back").contains("ended with SIGSEGV in its probation"));
    assert!(master.rules.known().0.is_settled("tag-2"));
    assert_eq!((master.rules.record().probation.as_ref(), installed(&master)), (None, None));
    assert!(!master.are_listeners_closed, "connections wait in the backlog");

    master.comes_up(3);
    assert_eq!(master.done(), [accept(3), trust(3)]);
    assert!(master.is_saved());
    master.exits(3, CRASH);
    assert_eq!(master.left, Some(CRASH), "the original is on no probation");
}

#[test]
fn what_is_taken_back_to_a_release_counts_as_that_release() {
    let mut master = Master::upgraded(settings());
    master.until(400.0);
    master.finds(3);
    master.comes_up(3);
    master.until(402.0);
    assert_eq!(installed(&master), Some("tag-3".to_owned()));
    master.exits(3, CRASH);
    assert_eq!((master.path, installed(&master)), (file(2), Some("tag-2".to_owned())));
}

#[test]
fn a_release_is_trusted_after_its_probation() {
    let mut master = Master::upgraded(settings());
    master.until(301.9);
    assert!(!master.said().contains(&"trusted"));
    master.until(302.0);
    assert_eq!(master.line("trusted"), "release 000000000000 has lived through its probation of 5 min");
    assert_eq!(master.rules.record().probation, None);
    assert!(master.is_saved());
    master.exits(2, CRASH);
    assert_eq!((master.left, master.path), (None, file(2)), "the poll is still there");
    master.fails_to_look();
    assert_eq!(master.left, Some(CRASH));
}

#[test]
fn a_release_has_the_probation_that_it_asks_for_itself() {
    let with = |probation| Settings { probation: seconds(probation), ..settings() };
    for (old, new) in [(0.0, 50.0), (300.0, 0.0)] {
        let mut master = Master::upgrading(with(old));
        master.welcome_with(2, with(new));
        master.ready(2);
        master.until(10.0);
        assert_eq!((master.path, master.active()), (file(2), Some(2)));
        assert_eq!(master.rules.record().probation.is_some(), new > 0.0, "after {old} s");
        master.exits(2, CRASH);
        assert_eq!(master.path, if new > 0.0 { file(1) } else { file(2) });
    }
}

#[test]
fn a_probation_of_zero_is_off() {
    let off = Settings { probation: Duration::ZERO, ..settings() };
    let mut master = Master::upgraded(off);
    assert_eq!(master.rules.record().probation, None);
    master.exits(2, CRASH);
    assert_eq!((master.left, master.path), (Some(CRASH), file(2)));
}

#[test]
fn the_new_releases_own_probation_holds() {
    let mut master = Master::upgrading(settings());
    master.welcome_with(2, Settings { probation: Duration::from_secs(60), ..settings() });
    master.ready(2);
    master.until(61.9);
    assert!(master.rules.record().probation.is_some());
    master.until(62.0);
    assert!(master.rules.record().probation.is_none());
}

#[test]
fn a_clean_end_in_the_probation_that_nobody_asked_for_ends_the_master_and_proves_nothing() {
    let mut master = Master::upgraded(settings());
    master.rules.record.probation.as_mut().unwrap().starts = 1;
    master.exits(2, Exit::Code(0));
    assert_eq!((master.left, master.path), (Some(Exit::Code(0)), file(2)));
    assert_eq!(master.saved.probation.as_ref().expect("it has not lived through it").starts, 1, "its starts add up");
}

#[test]
fn an_end_that_was_asked_for_in_the_probation_resets_the_count_of_starts() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut master = Master::upgraded(settings());
        master.rules.record.probation.as_mut().unwrap().starts = 2;
        master.signal(signal);
        master.exits(2, Exit::Signal(signal));
        assert_eq!(master.left, Some(Exit::Signal(signal)));
        let probation = master.saved.probation.as_ref().expect("it has not lived through it yet");
        assert_eq!(probation.starts, 0);
    }
}

#[test]
fn an_end_by_a_signal_that_was_passed_on_takes_nothing_back() {
    let mut master = Master::upgraded(settings());
    master.signal(Signal::HUP);
    master.exits(2, Exit::Signal(Signal::HUP));
    assert_eq!((master.left, master.path), (Some(Exit::Signal(Signal::HUP)), file(2)));
}

#[test]
fn an_end_by_a_signal_of_the_terminal_to_all_takes_nothing_back() {
    let mut master = Master::upgraded(settings());
    master.signalled(Signal::HUP, true);
    master.exits(2, Exit::Signal(Signal::HUP));
    assert_eq!((master.left, master.path), (Some(Exit::Signal(Signal::HUP)), file(2)));
}

#[test]
fn a_signal_that_the_operator_sent_past_the_master_counts_as_a_crash() {
    let mut master = Master::upgraded(settings());
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!((master.path, master.active()), (file(1), Some(3)));
}

#[test]
fn an_active_generation_that_cannot_be_talked_to_in_its_probation_is_taken_back() {
    let mut master = Master::upgraded(settings());
    master.misbehaves(2);
    master.exits(2, Exit::Signal(Signal::KILL));
    assert_eq!((master.path, master.active()), (file(1), Some(3)));
}

#[test]
fn a_restart_does_not_shorten_or_lengthen_the_probation() {
    let mut master = Master::upgraded(settings());
    master.until(100.0);
    master.restart();
    master.comes_up(3);
    master.until(101.0);
    assert_eq!((master.active(), master.rules.probation_until), (Some(3), Some(seconds(302.0))));
    master.exits(2, Exit::Code(0));
    master.exits(3, CRASH);
    assert_eq!((master.path, master.active()), (file(1), Some(4)));
}

#[test]
fn a_crash_in_the_probation_ends_a_restart_into_the_same_file() {
    let mut master = Master::upgraded(settings());
    master.restart();
    master.comes_up(3);
    master.forget();
    master.exits(2, CRASH);
    assert_eq!(master.done(), [Action::TakeBack { failed: file(2) }, drain(3), spawn(4, Program::AtPath)]);
    assert_eq!((master.active(), master.candidate()), (Some(4), None));
}

#[test]
fn a_restart_that_waits_in_a_crash_of_the_probation_comes_when_the_previous_binary_serves() {
    let mut master = Master::upgraded(settings());
    master.restart();
    master.restart();
    master.exits(2, CRASH);
    master.exits(3, Exit::Signal(Signal::KILL));
    assert_eq!((master.active(), master.candidate()), (Some(4), None));
    master.comes_up(4);
    assert_eq!((master.active(), master.candidate(), master.alive[&super::generation(5)]), (Some(4), Some(5), file(1)));
}

#[test]
fn where_another_master_decides_what_is_at_the_path_a_restart_that_waits_does_not_bring_back_what_has_crashed() {
    let mut master = Master::upgraded(settings()).under_a_manager(None);
    master.restart();
    let token = master.command(Command::Restart);
    master.is_second = true;
    master.exits(2, CRASH);
    master.exits(3, Exit::Signal(Signal::KILL));
    assert_eq!(master.answer(&token).map(|answer| answer.0), Some(false));
    master.heard();
    master.comes_up(4);
    assert_eq!((master.active(), master.candidate(), master.heard()), (Some(4), None, vec![vec![Notice::Ready]]));
}

#[test]
fn another_release_that_is_ready_gives_way_to_the_previous_binary_and_is_tried_again() {
    let mut master = Master::upgraded(settings());
    master.until(10.0);
    master.finds(3);
    master.comes_up(3);
    master.exits(2, CRASH);
    assert_eq!((master.active(), master.path), (Some(4), file(1)));
    let (known, _) = master.rules.known();
    assert!(known.is_settled("tag-2") && !known.is_settled("tag-3"));
}

#[test]
fn a_candidate_that_is_ready_takes_over_where_the_previous_binary_cannot_be_put_back() {
    let mut master = Master::upgraded(settings());
    master.operator_puts(7);
    master.restart();
    master.comes_up(3);
    master.forget();
    master.exits(2, CRASH);
    assert_eq!(master.said(), ["rejected", "generation-active"]);
    assert_eq!((master.active(), master.path, master.left), (Some(3), file(7), None));
    assert!(master.rules.known().0.is_settled("tag-2"), "the one that crashed is rejected all the same");
    assert_eq!(installed(&master), None);
}

#[test]
fn another_file_that_serves_ends_the_probation() {
    let mut master = Master::upgraded(settings());
    master.operator_puts(7);
    master.restart();
    master.comes_up(3);
    master.until(4.0);
    assert_eq!((master.rules.record().probation.as_ref(), master.rules.probation_until), (None, None));
    assert!(master.is_saved());
}

#[test]
fn where_the_previous_binary_cannot_be_put_back_the_master_ends_as_the_program_did() {
    let mut master = Master::upgraded(settings());
    master.take_back_fails = true;
    master.exits(2, CRASH);
    assert_eq!((master.left, master.path), (Some(CRASH), file(2)));
    assert!(master.line("take-back-failed").contains("there is no previous binary; the master ends"));
    assert_eq!(master.saved.probation, None, "the next start does not try it again");
}

#[test]
fn the_file_of_an_operator_at_the_path_is_not_replaced_by_the_previous_one() {
    let mut master = Master::upgraded(settings());
    master.operator_puts(7);
    master.exits(2, CRASH);
    assert_eq!((master.left, master.path), (Some(CRASH), file(7)));
}

#[test]
fn the_drained_old_generation_is_not_cut_when_a_release_is_taken_back() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.until(3.0);
    master.forget();
    master.exits(2, CRASH);
    assert_eq!(master.done(), [Action::TakeBack { failed: file(2) }, spawn(3, Program::AtPath)]);
    assert_eq!(master.rules.children[&super::generation(1)].deadline, Some(seconds(32.0)));
}

#[test]
fn a_release_on_probation_goes_on_with_it_after_a_reboot() {
    let master = Master::upgraded(settings());
    let mut next = master.after_reboot();
    next.comes_up(1);
    assert_eq!(next.rules.probation_until, Some(seconds(300.0)));
    next.exits(1, CRASH);
    assert_eq!((next.path, next.active()), (file(1), Some(2)));
}

#[test]
fn an_exit_code_of_a_program_without_restarts_is_an_answer_and_takes_nothing_back() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.until(1.0);
    master.finds(2);
    if master.is_polling {
        master.looked(Outcome::Unchanged);
    }
    master.exits(1, Exit::Code(0));
    let mut next = master.after_reboot();
    next.comes_up(1);
    next.exits(1, Exit::Code(2));
    assert_eq!((next.path, next.left), (file(2), Some(Exit::Code(2))));
}

#[test]
fn a_release_on_probation_that_dies_before_it_is_ready_after_a_reboot_is_taken_back_too() {
    let ends: [fn(&mut Master); 3] = [
        |next| next.exits(1, CRASH),
        |next| {
            next.refuse(1, Blame::Release);
            next.exits(1, Exit::Code(1));
        },
        |next| {
            next.until(5.0);
            next.exits(1, Exit::Signal(Signal::KILL));
        },
    ];
    for end in ends {
        let mut next = Master::upgraded(settings()).after_reboot();
        end(&mut next);
        assert_eq!((next.path, next.active()), (file(1), Some(2)));
    }
}

#[test]
fn an_address_in_use_after_a_reboot_is_not_the_fault_of_the_release_on_probation() {
    let mut next = Master::upgraded(settings()).after_reboot();
    next.refuse(1, Blame::Nobody);
    next.exits(1, Exit::Code(1));
    assert_eq!((next.left, next.path), (Some(Exit::Code(1)), file(2)));
}

#[test]
fn a_look_that_is_under_way_while_a_release_is_taken_back_is_ended_and_repeated() {
    let mut master = Master::upgraded(settings());
    master.handle(Event::PollAsked);
    master.until(20.0);
    assert!(master.is_polling);
    master.forget();
    master.exits(2, CRASH);
    assert!(master.done().contains(&Action::KillPoll));
    master.fails_to_look();
    master.comes_up(3);
    assert_eq!(master.rules.record().looks.failures, 0);
    master.until(30.0);
    assert!(master.is_polling);
}

#[test]
fn a_look_of_the_release_that_was_taken_back_does_not_say_what_is_installed() {
    let mut master = Master::upgraded(settings());
    master.handle(Event::PollAsked);
    master.until(20.0);
    master.exits(2, CRASH);
    master.looked(Outcome::Same { release: release(2) });
    assert_eq!(installed(&master), None);
}

#[test]
fn a_master_that_takes_over_the_record_of_another_one_counts_the_probation_from_then() {
    let record = Master::upgraded(settings()).saved;
    let mut second = Master::again(settings(), Record::default(), file(2), Some(file(1)), UNIX_START);
    second.comes_up(1);
    second.until(50.0);
    second.handle(Event::PollProgress);
    second.rules.adopt(record);
    second.until(349.9);
    assert!(second.rules.record().probation.is_some());
    second.until(350.0);
    assert!(second.rules.record().probation.is_none());
}

#[test]
fn a_release_installed_without_a_restart_is_on_probation_from_its_first_start() {
    let mut master = Master::serving(Settings { installation: Installation::WithoutRestart, ..settings() });
    master.until(1.0);
    master.finds(2);
    master.until(1000.0);
    assert!(master.rules.record().probation.is_some(), "it does not run yet");
    if master.is_polling {
        master.looked(Outcome::Unchanged);
    }
    master.exits(1, Exit::Code(0));
    let mut next = master.after_reboot();
    next.comes_up(1);
    next.exits(1, CRASH);
    assert_eq!((next.path, next.active(), next.left), (file(1), None, Some(CRASH)), "what it was called for does not happen twice");
    assert!(next.rules.record().verdicts.iter().any(|judged| judged.release.is_same(&release(2)) && judged.until_unix_s.is_none()));
}

#[test]
fn what_another_master_has_installed_stays_at_the_path_and_its_predecessor_serves_here() {
    let mut rules = Master::upgraded(settings()).rules;
    while rules.poll_action().is_some() {}
    let now = rules.now;
    rules.handle(now, Event::Exited { generation: super::generation(2), exit: CRASH, why: None });
    rules.handle(now, Event::TakenBack { at_path: false });
    let actions: Vec<super::Action> = std::iter::from_fn(|| rules.poll_action()).collect();
    assert!(actions.contains(&super::spawn(3, super::Program::Previous)), "{actions:?}");
}
