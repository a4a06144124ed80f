use super::super::Blame;
use super::super::testing::{Master, UNIX_START, release, settings};
use crate::protocol::{Outcome, ReleaseName, Verdict};
use crate::signal::Signal;
use crate::sys::process::Exit;

const MINUTE: f64 = 60.0;

type Happening = fn(&mut Master);

/// Until when release 2 is held back, in seconds since the master's start; `None` if it is rejected.
fn held_back_until(master: &Master) -> Option<f64> {
    let verdicts = &master.rules.record().verdicts;
    assert_eq!(verdicts.iter().map(|judged| &judged.release.id).collect::<Vec<_>>(), [&release(2).id]);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    verdicts[0].until_unix_s.map(|until| (until - UNIX_START) as f64)
}

fn is_settled(master: &Master) -> bool {
    let (known, unwanted) = master.rules.known();
    let by_id = unwanted.contains(&release(2).id);
    assert_eq!(known.is_settled("tag-2"), by_id);
    by_id
}

#[test]
fn a_release_that_fails_is_tried_again_after_ten_minutes_and_an_hour_and_is_rejected_the_third_time() {
    let mut master = Master::upgrading(settings());
    master.exits(2, Exit::Code(1));
    assert_eq!(held_back_until(&master), Some(1.0 + 10.0 * MINUTE));
    assert!(
        master.line("held-back").ends_with(
            "release 000000000000 ended with exit code 1 before it was ready; generation 1 keeps serving; tried again in 10 min"
        )
    );
    assert!(is_settled(&master));

    master.until(11.1 * MINUTE);
    assert!(!is_settled(&master));
    master.finds(2);
    let again = master.now.as_secs_f64();
    master.exits(3, Exit::Code(1));
    assert_eq!(held_back_until(&master).map(f64::round), Some((again + 60.0 * MINUTE).floor()));

    master.until(again + 61.0 * MINUTE);
    assert!(!is_settled(&master));
    master.finds(2);
    master.exits(4, Exit::Code(1));
    assert_eq!(held_back_until(&master), None);
    assert!(master.line("rejected").ends_with("rejected and not tried again"));
    master.until(100_000.0);
    assert!(is_settled(&master));
    assert!(master.is_saved());
}

#[test]
fn each_way_to_fail_blames_the_release_in_its_own_words() {
    let ways: [(Happening, &str); 7] = [
        (|master| master.exits(2, Exit::Code(3)), "ended with exit code 3 before it was ready"),
        (|master| master.until(6.0), "said nothing for 5s"),
        (|master| master.refuse(2, Blame::Release), "cannot have :80: not permitted"),
        (|master| master.misbehaves(2), "cannot be talked to: it spoke nonsense"),
        (
            |master| {
                master.comes_up(2);
                master.exits(2, Exit::Signal(Signal::SEGV));
            },
            "ended with SIGSEGV in its warm-up",
        ),
        (
            |master| {
                let patient = super::super::Settings { ready_timeout: Some(super::seconds(60.0)), ..settings() };
                master.welcome_with(2, patient);
                master.until(61.0);
            },
            "not ready after 60s, stopped",
        ),
        (
            |master| {
                master.welcome(2);
                master.exits(2, Exit::Code(0));
            },
            "ended with exit code 0 before it was ready",
        ),
    ];
    for (fail, why) in ways {
        let mut master = Master::upgrading(settings());
        fail(&mut master);
        assert!(held_back_until(&master).is_some(), "{why}");
        assert!(master.line("held-back").contains(why), "{why}: {}", master.line("held-back"));
        assert_eq!((master.active(), master.candidate(), master.staged.clone()), (Some(1), None, None));
    }
}

#[test]
fn what_is_not_the_releases_fault_holds_nothing_back() {
    let ways: [(&str, Happening); 6] = [
        ("the address is in use", |master| master.refuse(2, Blame::Nobody)),
        ("a signal that was passed on", |master| {
            master.comes_up(2);
            master.signal(Signal::HUP);
            master.exits(2, Exit::Signal(Signal::HUP));
        }),
        ("a signal that was kept for it", |master| {
            master.signal(Signal::USR1);
            master.comes_up(2);
            master.exits(2, Exit::Signal(Signal::USR1));
        }),
        ("a signal that the terminal sent to all", |master| {
            master.comes_up(2);
            master.signalled(Signal::HUP, true);
            master.exits(2, Exit::Signal(Signal::HUP));
        }),
        ("an operator's file", |master| {
            master.operator_puts(7);
            master.comes_up(2);
            master.until(3.0);
        }),
        ("a full disk", |master| {
            master.commit_fails = true;
            master.comes_up(2);
            master.until(3.0);
        }),
    ];
    for (name, end) in ways {
        let mut master = Master::upgrading(settings());
        end(&mut master);
        assert_eq!(master.rules.record().verdicts, [], "{name}");
        assert!(!is_settled(&master), "{name}");
        assert_eq!((master.active(), master.candidate()), (Some(1), None), "{name}");
    }
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.spawn_fails = Some(Blame::Nobody);
    master.finds(2);
    assert!(master.said().contains(&"tried-again"));
    assert!(!is_settled(&master));
}

#[test]
fn a_signal_that_was_passed_on_does_not_excuse_another_end() {
    let mut master = Master::upgrading(settings());
    master.comes_up(2);
    master.signal(Signal::HUP);
    master.exits(2, Exit::Signal(Signal::SEGV));
    assert!(held_back_until(&master).is_some());
}

#[test]
fn what_fails_proof_is_rejected_at_once() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.forget();
    master.looked(Outcome::Refused { release: release(2), verdict: Verdict::Reject, why: "is a shell script".to_owned() });
    assert_eq!(held_back_until(&master), None);
    assert_eq!(master.said(), ["rejected"]);
    assert!(is_settled(&master));
}

#[test]
fn what_fails_its_self_check_is_held_back_and_what_the_system_stopped_is_not() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.looked(Outcome::Refused { release: release(2), verdict: Verdict::Blameless, why: "no space left".to_owned() });
    assert_eq!(master.rules.record().verdicts, []);
    master.looked(Outcome::Refused { release: release(2), verdict: Verdict::HoldBack, why: "self-check timed out".to_owned() });
    assert!(held_back_until(&master).is_some());
}

#[test]
fn failures_in_proof_and_as_candidate_add_up() {
    let mut master = Master::upgrading(settings());
    master.exits(2, Exit::Code(1));
    for _ in 0..2 {
        master.looked(Outcome::Refused { release: release(2), verdict: Verdict::HoldBack, why: "timed out".to_owned() });
    }
    assert_eq!(held_back_until(&master), None);
}

#[test]
fn a_release_that_never_became_a_file_is_known_by_its_tag() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    let nameless = ReleaseName { id: String::new(), ..release(2) };
    master.looked(Outcome::Refused { release: nameless, verdict: Verdict::Reject, why: "is 2 GiB long".to_owned() });
    let (known, unwanted) = master.rules.known();
    assert!(known.is_settled("tag-2") && !known.is_settled("tag-3"));
    assert!(unwanted.is_empty(), "it has no ID to refuse by");
}

#[test]
fn a_release_with_another_id_is_tried_at_once() {
    let mut master = Master::upgrading(settings());
    master.exits(2, Exit::Code(1));
    master.finds(3);
    assert_eq!(master.candidate(), Some(3));
    master.comes_up(3);
    master.until(5.0);
    assert_eq!(master.active(), Some(3));
}

#[test]
fn a_release_that_comes_up_at_last_is_forgiven() {
    let mut master = Master::upgrading(settings());
    master.exits(2, Exit::Code(1));
    master.until(700.0);
    master.finds(2);
    master.comes_up(3);
    master.until(710.0);
    assert_eq!(master.active(), Some(3));
    assert_eq!(master.rules.record().verdicts, []);
}

#[test]
fn a_release_that_was_rejected_meanwhile_is_not_started() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.looked(Outcome::Refused { release: release(2), verdict: Verdict::Reject, why: "has no marker".to_owned() });
    master.forget();
    master.finds(2);
    assert_eq!(master.done(), [super::Action::Poll, super::Action::Discard]);
    assert_eq!(master.candidate(), None);
}

#[test]
fn a_release_that_waits_and_is_rejected_meanwhile_is_dropped() {
    let waits = super::super::Settings { installation: super::super::Installation::AtNextRestart, ..settings() };
    let mut master = Master::serving(waits);
    master.until(1.0);
    master.finds(2);
    master.looked(Outcome::Refused { release: release(2), verdict: Verdict::Reject, why: "is not signed any more".to_owned() });
    assert_eq!(master.staged, None);
    master.forget();
    master.restart();
    assert_eq!(master.done(), [super::spawn(2, super::Program::AtPath)]);
}

#[test]
fn verdicts_hold_across_a_restart_of_the_service() {
    let mut master = Master::upgrading(settings());
    master.exits(2, Exit::Code(1));
    let next = master.after_reboot();
    let (known, unwanted) = next.rules.known();
    assert!(known.is_settled("tag-2"));
    assert_eq!(unwanted, [release(2).id]);
    assert_eq!(next.rules.record().verdicts[0].reason, "ended with exit code 1 before it was ready");
}

#[test]
fn long_tags_of_many_rejected_releases_fit_into_one_order_and_the_newest_count() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    for number in 2..300 {
        let release = ReleaseName { tag: format!("{}{number}", "é".repeat(500)), ..release(number) };
        master.looked(Outcome::Refused { release, verdict: Verdict::Reject, why: "é".repeat(3000) });
        master.until(master.now.as_secs_f64() + 2.0);
    }
    let (known, judged) = master.rules.known();
    assert!(judged.len() >= 100);
    assert!(known.is_settled(&format!("{}299", "é".repeat(500))));
    let order = crate::protocol::Order { known, judged, ..Default::default() };
    assert!(crate::protocol::encode(&order, 0).is_ok());
}
