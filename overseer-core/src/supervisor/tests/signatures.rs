use super::super::testing::{Master, UNIX_START, file, release, settings};
use crate::binary::{Packaged, Record};
use crate::protocol::{Outcome, ReleaseName, Staged, Verdict};
use crate::signal::Signal;
use crate::sys::process::Exit;

const MINUTE: f64 = 60.0;
const CRASH: Exit = Exit::Signal(Signal::SEGV);

fn signed(number: u64, unix_s: u64) -> ReleaseName {
    ReleaseName { signed_unix_s: Some(unix_s), ..release(number) }
}

/// A release comes whose signature was proved, and is installed.
fn install(master: &mut Master, generation: u64, release: ReleaseName, number: u64) {
    let Outcome::Staged(staged) = master.staging(number) else { unreachable!("it is staged") };
    master.looked(Outcome::Staged(Staged { release, ..staged }));
    master.comes_up(generation);
    master.until(master.now.as_secs_f64() + 2.0);
}

/// Before its signature was proved, a release has no ID that could be held against it.
fn refuse(master: &mut Master) {
    let nameless = ReleaseName { id: String::new(), ..release(2) };
    let why = "is not signed".to_owned();
    master.looked(Outcome::Refused { release: nameless, verdict: Verdict::Mendable, why });
}

#[test]
fn what_can_be_mended_is_held_back_again_and_again_and_never_rejected() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    for minutes in [10.0, 60.0, 60.0, 60.0] {
        master.forget();
        refuse(&mut master);
        let now = master.now.as_secs_f64();
        assert!(master.line("held-back").contains("is not signed; generation 1 keeps serving; tried again in "));
        let (known, by_id) = master.rules.known();
        assert!(known.is_settled("tag-2") && by_id.is_empty(), "another file with this signature is not judged");
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let until = master.rules.record().verdicts[0].until_unix_s.map(|until| (until - UNIX_START) as f64).expect("it is tried again");
        assert!((until - now - minutes * MINUTE).abs() <= 1.0, "{until} is not {minutes} min after {now}");
        master.until(until - 1.0);
        assert!(master.rules.known().0.is_settled("tag-2"));
        master.until(until + 1.0);
        assert!(!master.rules.known().0.is_settled("tag-2"));
    }
    // Mended, it is a release like any other.
    install(&mut master, 2, signed(2, 5), 2);
    assert_eq!(master.rules.installed_signed_unix_s(), Some(5));
    assert_eq!(master.rules.record().verdicts, []);
}

#[test]
fn the_signed_time_of_the_installed_release_is_remembered_across_a_reboot() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    assert_eq!(master.rules.installed_signed_unix_s(), None);
    install(&mut master, 2, signed(2, 700), 2);
    assert_eq!(master.rules.installed_signed_unix_s(), Some(700));
    let record = serde_json::to_string(master.rules.record()).expect("it can be written");
    let read: crate::binary::Record = serde_json::from_str(&record).expect("it can be read");
    assert_eq!(&read, master.rules.record());
    assert_eq!(master.after_reboot().rules.installed_signed_unix_s(), Some(700));
}

#[test]
fn what_is_taken_back_brings_its_own_signed_time_with_it() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    install(&mut master, 2, signed(2, 700), 2);
    master.until(400.0);
    install(&mut master, 3, signed(3, 900), 3);
    assert_eq!(master.rules.installed_signed_unix_s(), Some(900));
    master.exits(3, CRASH);
    assert_eq!(master.rules.installed_signed_unix_s(), Some(700));

    let mut first = Master::serving(settings());
    first.until(1.0);
    install(&mut first, 2, signed(2, 700), 2);
    first.exits(2, CRASH);
    assert_eq!(
        first.rules.installed_signed_unix_s(),
        Some(700),
        "nobody knows when the original was signed, so the newest that is known holds"
    );
}

#[test]
fn an_installed_release_that_was_not_signed_leaves_the_time_that_is_known() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    install(&mut master, 2, signed(2, 700), 2);
    master.until(400.0);
    install(&mut master, 3, release(3), 3);
    assert_eq!(master.rules.installed_signed_unix_s(), Some(700));
}

#[test]
fn what_is_lost_or_set_aside_is_followed_by_nothing_that_was_signed_before() {
    let mut master = Master::upgraded(settings());
    master.rules.record.was_installed(signed(2, 700), file(2), UNIX_START);
    for forget in [Record::lost_stored, Record::forget_verdicts, |record: &mut Record| record.package_wins(Packaged::default())] {
        forget(&mut master.rules.record);
        assert_eq!(master.rules.installed_signed_unix_s(), Some(700));
    }
    // Which was allowed.
    master.rules.record.was_installed(signed(3, 600), file(3), UNIX_START);
    master.rules.record.lost_stored();
    assert_eq!(master.rules.installed_signed_unix_s(), Some(600));
}

#[test]
fn a_file_that_an_operator_puts_there_leaves_the_time_as_it_was() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    install(&mut master, 2, signed(2, 700), 2);
    master.operator_puts(7);
    master.restart();
    master.comes_up(3);
    master.until(410.0);
    assert_eq!((master.active(), master.rules.installed_signed_unix_s()), (Some(3), Some(700)));
}

#[test]
fn the_installed_release_found_again_tells_its_time_and_does_not_lose_it() {
    let mut master = Master::serving(settings());
    master.until(1.0);
    master.looked(Outcome::Same { release: signed(1, 700) });
    assert_eq!(master.rules.installed_signed_unix_s(), Some(700));
    // By a version without trusted keys, which proves no signature.
    master.looked(Outcome::Same { release: ReleaseName { tag: "other-name".to_owned(), ..release(1) } });
    assert_eq!(master.rules.installed_signed_unix_s(), Some(700));
    assert!(master.rules.known().0.is_settled("other-name"));
    master.looked(Outcome::Same { release: signed(1, 800) });
    assert_eq!(master.rules.installed_signed_unix_s(), Some(800));
    master.looked(Outcome::Same { release: release(7) });
    assert_eq!(master.rules.installed_signed_unix_s(), Some(800), "whoever offers it without a signature does not turn the time back");
}

#[test]
fn only_the_master_that_looks_for_releases_needs_the_time_and_the_next_one_takes_it_over() {
    let mut first = Master::serving(settings());
    first.until(1.0);
    install(&mut first, 2, signed(2, 700), 2);
    let record = first.rules.record().clone();
    let mut second = Master::serving(settings());
    second.rules.adopt(record.clone().for_second_master());
    assert_eq!(second.rules.installed_signed_unix_s(), None);
    second.rules.adopt(record);
    assert_eq!(second.rules.installed_signed_unix_s(), Some(700));
}
