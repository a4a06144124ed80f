//! The master replaces itself: after an upgrade the new program is the master too, in the same process.

use crate::app::{App, Scene, put, queued_signal, release, version_in};
use crate::load::{Load, Request, ask, tell};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const REPLACED: &str = "the master runs ";
const STAYS: &str = "the master is not replaced and goes on as it is: ";

fn runs(app: &App) -> String {
    version_in(format!("/proc/{}/exe", app.pid()).as_ref())
}

#[test]
fn after_each_upgrade_the_master_is_the_release_in_the_same_process_and_no_request_fails() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let (pid, load) = (app.pid(), Load::start(app.address()));
    let mut open = Vec::new();
    for version in 2..=21 {
        scene.publish(&format!("version={version}"));
        app.wait_until("it is replaced", |app| app.count_lines(REPLACED) == version - 1);
        app.line_after(&format!("generation {} is gone", version - 1));
        assert_eq!((app.pid(), runs(&app)), (pid, version.to_string()));
        let inode = |path: &str| fs::metadata(path).expect("it is there").ino();
        assert_eq!(inode(&format!("/proc/{pid}/exe")), fs::metadata(scene.program()).expect("there").ino());
        app.wait_until("no look goes on", |app| app.children().len() == 1);
        open.push(app.descriptors().len());
    }
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    // A look may have begun while they were counted.
    assert!(open.iter().skip(2).min() == open.iter().rev().take(10).min(), "descriptors leak: {open:?}; {:?}", app.descriptors());
    assert_eq!(app.count_lines(STAYS), 0);
    let own: Vec<u64> = tell(app.address(), "descriptors").into_iter().map(|all| all.matches("overseer-snapshot").count() as u64).collect();
    assert_eq!(own, [0], "the program has inherited a snapshot");
    assert!(!app.descriptors().iter().any(|open| open.contains("overseer-snapshot")), "the master has kept a snapshot");
    assert!(app.terminate().success());
}

#[test]
fn a_draining_generation_from_before_survives_and_its_deadline_still_holds() {
    let scene = Scene::with_source("terminate_timeout=1500");
    let mut app = scene.start();
    let finished = Request::begin(app.address());
    scene.publish("version=2");
    app.line_after(REPLACED);
    assert_eq!(finished.finish().expect("an answer").version, "1");
    app.line_after("generation 1 is gone (exit code 0)");
    scene.publish("version=3 behave=never-drain");
    app.line_after(REPLACED);
    app.line_after_start("generation 2 is gone (exit code 0)");
    let cut = Request::begin(app.address());
    scene.publish("version=4");
    app.line_after("generation 4 took over");
    app.line_after(REPLACED);
    app.line_after("generation 3 has not finished after");
    app.line_after("generation 3 is gone (SIGKILL)");
    cut.finish().expect_err("it was cut");
    app.restart();
    assert!(app.terminate().success());
}

#[test]
fn signals_across_replacements_all_arrive_and_none_kills_the_master() {
    let scene = Scene::with_source("count_signals terminate_timeout=20000");
    let mut app = scene.start();
    let pid = app.pid();
    for version in 2..=11 {
        scene.publish(&format!("version={version}"));
        // From here on one generation alone is told.
        app.line_after(&format!("generation {version} took over"));
        let (mut sent, mut rounds_after) = (0, 0);
        while rounds_after < 5 {
            sent += 1;
            for signal in [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGWINCH] {
                app.signal(signal);
                // One that is pending already would not be queued twice.
                assert_eq!(app.counted_at_least(signal as i32, version, sent), sent, "{signal}");
            }
            rounds_after += usize::from(app.count_lines(REPLACED) == version - 1);
        }
        app.line_after_start(&format!("generation {} is gone", version - 1));
    }
    assert_eq!((app.pid(), runs(&app).as_str()), (pid, "11"));
    assert!(app.terminate().success());
}

#[test]
fn a_storm_without_a_pause_across_replacements_loses_none_that_is_queued_and_kills_nobody() {
    // A line for each signal would fill the pipe, and then lines that are waited for would be lost.
    let scene = Scene::with_source("count_signals terminate_timeout=20000 quiet");
    let mut app = scene.start();
    let (pid, mut total) = (app.pid(), 0);
    for version in 2..=11 {
        scene.publish(&format!("version={version}"));
        // From here on one generation alone is told.
        app.line_after(&format!("generation {version} took over"));
        let (mut sent, mut rounds_after) = (0, 0);
        while rounds_after < 3 {
            for _ in 0..100 {
                app.queue_signal();
                [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGWINCH].into_iter().for_each(|signal| app.signal(signal));
            }
            sent += 100;
            // The system keeps some thousands.
            app.wait_until("few wait", |app| sent - app.counted(queued_signal(), version) < 2000);
            rounds_after += usize::from(app.count_lines(REPLACED) == version - 1);
        }
        assert_eq!(app.counted_at_least(queued_signal(), version, sent), sent);
        for signal in [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGWINCH] {
            let count = app.counted_at_least(signal as i32, version, 1);
            assert!((1..=sent).contains(&count), "{signal} {count} times of {sent}");
        }
        app.line_after_start(&format!("ending version={} ", version - 1));
        total += sent;
    }
    assert!(total >= 3000, "{total}");
    assert_eq!((app.pid(), runs(&app).as_str()), (pid, "11"));
    assert!(app.terminate().success());
}

#[test]
fn a_file_that_the_system_does_not_execute_leaves_the_old_master() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2 behave=forbid-in-rehearsal");
    assert!(app.line_after(STAYS).starts_with("its file is not executed by the system: "));
    assert_eq!((runs(&app).as_str(), ask(app.address()).version.as_str()), ("1", "2"));
    fs::set_permissions(scene.program(), fs::Permissions::from_mode(0o755)).expect("mode set");
    scene.publish("version=3");
    app.line_after(REPLACED);
    assert_eq!((runs(&app).as_str(), ask(app.address()).version.as_str()), ("3", "3"));
    assert!(app.terminate().success());
}

#[test]
fn a_file_that_somebody_puts_at_the_path_meanwhile_is_not_executed() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2 behave=replace-in-rehearsal");
    assert!(app.line_after(STAYS).contains("holds another file than generation 2 runs"));
    assert_eq!((runs(&app).as_str(), ask(app.address()).version.as_str()), ("1", "2"));
    assert!(app.terminate().success());
}

#[test]
fn a_master_that_cannot_go_on_executes_the_one_before() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let (pid, load) = (app.pid(), Load::start(app.address()));
    scene.publish("version=2 behave=bad-master");
    assert!(app.line_after(STAYS).starts_with("its file could not go on: setting warm_up is "));
    app.line_after_start("generation 1 is gone");
    assert_eq!((app.pid(), runs(&app).as_str()), (pid, "1"));
    load.wait_for("2", 20);
    scene.publish("version=3");
    app.line_after(REPLACED);
    app.line_after_start("generation 2 is gone");
    assert_eq!((app.pid(), runs(&app).as_str()), (pid, "3"));
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn a_master_that_finds_no_descriptor_or_no_handler_for_itself_executes_the_one_before() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let (pid, load) = (app.pid(), Load::start(app.address()));
    let faults = [
        ("no-descriptors", "its own file cannot be opened: Too many open files"),
        ("refuse-handlers", "its signal handlers cannot be installed: "),
    ];
    for (version, (fault, why)) in (2..).zip(faults) {
        scene.publish(&format!("version={version} behave={fault}-as-master"));
        let said = app.line_after(STAYS);
        assert!(said.starts_with(&format!("its file could not go on: {why}")), "{said}");
        app.line_after_start(&format!("generation {} is gone", version - 1));
        assert_eq!((app.pid(), runs(&app).as_str(), ask(app.address()).version), (pid, "1", version.to_string()));
        app.skip_lines();
    }
    scene.publish("version=4");
    app.line_after(REPLACED);
    app.line_after_start("generation 3 is gone");
    assert_eq!((app.pid(), runs(&app).as_str()), (pid, "4"));
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn a_generation_that_main_has_reaped_in_the_master_is_gone_all_the_same() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let held = Request::begin(app.address());
    scene.publish("version=2 behave=reap-as-master");
    // It waits in `main` until a child of it ends.
    app.wait_until("the new file is the master's", |app| runs(app) == "2");
    assert_eq!(held.finish().expect("an answer").version, "1");
    app.line_after("generation 1 (pid ");
    app.line_after("generation 1 is gone");
    app.line_after_start(REPLACED);
    app.restart();
    assert!(app.terminate().success());
}

#[test]
fn a_main_that_ends_where_it_would_be_the_master_is_served_and_not_the_master() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    for (version, behaviour, code) in [(2, "exit-as-master", 9), (3, "panic-as-master", 101)] {
        scene.publish(&format!("version={version} behave={behaviour}"));
        let stays = format!("{STAYS}its check of the snapshot ended with exit code {code}");
        app.wait_until("the master stays", |app| app.count_lines(&stays) == 1);
        assert_eq!((runs(&app).as_str(), ask(app.address()).version), ("1", version.to_string()));
        assert_eq!(scene.version_at_path(), version.to_string());
        app.line_after_start(&format!("generation {} is gone", version - 1));
    }
    assert!(app.terminate().success());
}

#[test]
fn a_file_that_an_operator_has_put_at_the_path_is_the_master_once_it_serves_and_not_before() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let pid = app.pid();
    put(&scene.program(), &release("version=2 behave=exit-at-start"));
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 keeps serving");
    assert_eq!((runs(&app).as_str(), app.count_lines(REPLACED), app.count_lines(STAYS)), ("1", 0, 0));
    put(&scene.program(), &release("version=3"));
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 3 took over");
    app.line_after(REPLACED);
    assert_eq!((app.pid(), runs(&app).as_str(), ask(app.address()).version.as_str()), (pid, "3", "3"));
    assert!(app.terminate().success());
}

#[test]
fn a_second_master_that_wants_the_lock_does_not_get_it_across_twenty_replacements() {
    let scene = Scene::with_source("");
    let mut first = scene.start();
    let mut second = scene.start();
    second.line_after("another master looks for releases");
    let (lock, is_over) = (scene.state_dir().join("lock"), Arc::new(AtomicBool::new(false)));
    let tries = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            let mut tries = 0_u64;
            while !is_over.load(Ordering::Acquire) {
                assert!(fs::File::open(&lock).expect("it is there").try_lock().is_err(), "the lock was free after {tries} tries");
                tries += 1;
            }
            tries
        })
    };
    for version in 2..=21 {
        scene.publish(&format!("version={version}"));
        first.wait_until("it is replaced", |app| app.count_lines(REPLACED) == version - 1);
    }
    is_over.store(true, Ordering::Release);
    let tries = tries.join().expect("nobody else got it");
    assert!(tries > 1000, "{tries}");
    second.wait_until("the second has followed", |app| ask(app.address()).version == "21");
    assert_eq!((first.count_lines("is installed at"), second.count_lines("is installed at")), (20, 0));
    // It has wanted it all the time.
    assert!(first.terminate().success());
    scene.publish("version=22");
    second.line_after("is installed at");
    assert!(second.terminate().success());
}

#[test]
fn a_release_that_is_taken_back_takes_the_old_master_back() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let pid = app.pid();
    scene.publish("version=2");
    app.line_after(REPLACED);
    assert_eq!(runs(&app), "2");
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.line_after(REPLACED);
    assert_eq!((app.pid(), runs(&app).as_str(), ask(app.address()).version.as_str()), (pid, "1", "1"));
    assert!(app.terminate().success());
}

#[test]
fn without_upgrade_master_the_master_stays_what_it_was() {
    let scene = Scene::with_source("keep_master");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("generation 1 is gone");
    app.restart();
    assert_eq!((runs(&app).as_str(), app.count_lines(REPLACED), app.count_lines(STAYS)), ("1", 0, 0));
    assert!(app.terminate().success());
}

#[test]
fn pid_file_and_locks_are_held_throughout() {
    let mut scene = Scene::with_source("");
    let pid_file = scene.directory().join("app.pid");
    scene.add_words(&format!("pid_file={}", pid_file.display()));
    let mut app = scene.start();
    let is_locked = |path: &std::path::Path| fs::File::open(path).expect("it is there").try_lock().is_err();
    for version in 2..=4 {
        scene.publish(&format!("version={version}"));
        let before = app.count_lines(REPLACED);
        app.wait_until("it is replaced, and both are locked all the time", |app| {
            assert!(is_locked(&pid_file) && is_locked(&scene.state_dir().join("lock")));
            app.count_lines(REPLACED) > before
        });
        assert_eq!(fs::read_to_string(&pid_file).expect("read").trim(), app.pid().to_string());
    }
    let moved = scene.directory().join("moved.pid");
    scene.publish(&format!("version=5 pid_file={}", moved.display()));
    app.line_after("the master runs release");
    app.wait_until("the new PID file is there and the old one gone", |_| moved.exists() && !pid_file.exists());
    assert!(is_locked(&moved));
    assert!(app.terminate().success());
    assert!(!moved.exists());
}
