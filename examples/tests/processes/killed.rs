//! SIGKILL of anybody at any time, and a new start after it.

use crate::app::{App, Scene, can_run, spawn, version_in};
use crate::load::{Load, Request, ask, tell};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

#[test]
fn a_killed_poll_process_costs_a_look_and_nothing_else() {
    let scene = Scene::with_source("fetch=hang");
    let mut app = scene.start();
    let load = Load::start(app.address());
    for _ in 0..3 {
        app.line_after("looking for a release at hang");
        let mut poll = None;
        app.wait_until("a poll process runs", |app| {
            poll = app.child_in_role("poll");
            poll.is_some()
        });
        kill(poll.expect("found"), Signal::SIGKILL).expect("it lives");
        app.line_after("the look at hang failed: the poll process ended without a report (SIGKILL)");
        load.wait_for("1", 5);
    }
    assert_eq!(load.stop().failed(), 0);
    assert_eq!(ask(app.address()).generation, 1);
    assert!(app.terminate().success());
    assert!(app.processes().is_empty());
}

#[test]
fn a_fetcher_that_hangs_is_killed_after_fetch_timeout() {
    let scene = Scene::with_source("fetch=hang fetch_timeout=100");
    let mut app = scene.start();
    app.line_after("it made no progress for fetch_timeout and was killed");
    app.line_after("it made no progress for fetch_timeout and was killed");
    assert_eq!(ask(app.address()).generation, 1);
    assert!(app.terminate().success());
}

#[test]
fn an_asynchronous_source_that_stalls_is_killed_after_fetch_timeout() {
    for fetch in ["stall-in-fetch", "stall-in-body"] {
        let scene = Scene::with_source(&format!("fetch={fetch} fetch_timeout=500"));
        let mut app = scene.start();
        let load = Load::start(app.address());
        for _ in 0..2 {
            app.line_after(&format!("looking for a release at {fetch}"));
            let mut poll = None;
            app.wait_until("a poll process runs", |app| {
                poll = app.child_in_role("poll");
                poll.is_some()
            });
            app.line_after(&format!("the look at {fetch} failed: it made no progress for fetch_timeout and was killed"));
            let poll = poll.expect("found");
            app.wait_until("the poll process is gone", |_| kill(poll, None) == Err(Errno::ESRCH));
            load.wait_for("1", 5);
        }
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{tally}");
        assert_eq!((scene.version_at_path().as_str(), scene.names_beside()), ("1", vec!["app".to_owned()]));
        assert!(app.terminate().success());
        assert!(app.processes().is_empty());
    }
}

#[test]
fn a_fetcher_that_crashes_panics_or_fails_is_told_of_and_hurts_nobody() {
    for (fetch, said) in [("crash", "SIGABRT"), ("panic", "the fetcher panics"), ("fail", "the fetcher fails")] {
        let scene = Scene::with_source(&format!("fetch={fetch}"));
        let mut app = scene.start();
        let why = app.line_after(&format!("the look at {fetch} failed"));
        assert!(why.contains(said), "{why}");
        app.line_after(&format!("the look at {fetch} failed"));
        assert_eq!(ask(app.address()).generation, 1);
    }
}

#[test]
fn a_killed_candidate_leaves_the_old_generation_serving() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    scene.publish("version=2 accept_late warm_up=10000");
    let pid = app.line_after("generation 2 started as pid ");
    app.line_after("generation 2 is ready");
    kill(nix::unistd::Pid::from_raw(pid.parse().expect("a PID")), Signal::SIGKILL).expect("it lives");
    app.line_after("ended with SIGKILL in its warm-up; generation 1 keeps serving");
    load.wait_for("1", 5);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!((scene.version_at_path().as_str(), scene.names_beside()), ("1", vec!["app".to_owned()]));
}

#[test]
fn a_killed_active_generation_ends_the_master_by_the_same_signal() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let pid = ask(app.address()).pid;
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    assert_eq!(app.wait_exit().signal(), Some(Signal::SIGKILL as i32));
    assert!(app.processes().is_empty());
}

#[test]
fn an_active_generation_that_is_killed_while_a_candidate_is_ready_is_followed_by_that() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let pid = ask(app.address()).pid;
    scene.publish("version=2 warm_up=10000");
    app.line_after("generation 2 is ready");
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    app.line_after("is installed at");
    app.line_after("generation 2 took over");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("2", "2"));
}

#[test]
fn children_of_a_killed_master_finish_what_is_open_and_a_new_master_gets_the_address() {
    // One that follows drains, and one that knows only TERM.
    for serve in ["incoming", "term"] {
        let scene = Scene::new(&format!("serve={serve}"));
        let mut app = scene.start();
        let address = app.address().to_owned();
        let request = Request::begin(&address);
        app.signal(Signal::SIGKILL);
        assert_eq!(app.wait_exit().signal(), Some(Signal::SIGKILL as i32));
        // At the same address, while the orphan may still be leaving.
        let mut command = scene.command();
        let words = command.get_envs().find_map(|(_, words)| words).expect("set").to_string_lossy().into_owned();
        command.env("ACTOR", format!("{words} address={address}"));
        assert_eq!(request.finish().expect("an answer").generation, 1, "{serve}");
        let mut next = App::start(command);
        next.wait_until_ready();
        assert_eq!(ask(&address).generation, 1);
        app.wait_until("the orphans are gone", |app| app.processes().is_empty());
        assert!(next.terminate().success());
    }
}

#[test]
fn an_orphan_that_never_finishes_is_gone_after_terminate_timeout() {
    let scene = Scene::new("terminate_timeout=300");
    let mut app = scene.start();
    let _open = Request::begin(app.address());
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    app.wait_until("the orphans are gone", |app| app.processes().is_empty());
}

#[test]
fn poll_processes_and_candidates_of_a_killed_master_are_gone_too() {
    for (words, line) in [("fetch=hang", "looking for a release"), ("", "generation 2 is ready")] {
        let scene = Scene::with_source(words);
        let mut app = scene.start();
        scene.publish("version=2 warm_up=10000");
        app.line_after(line);
        app.signal(Signal::SIGKILL);
        app.wait_exit();
        app.wait_until("nobody is left", |app| app.processes().is_empty());
        // What was staged is removed by the next master.
        let mut app = scene.start();
        app.wait_until("nothing is left beside the program", |_| scene.names_beside() == ["app"] || words.is_empty());
        assert!(app.terminate().success());
    }
}

#[test]
fn a_release_whose_master_is_killed_in_its_probation_is_replaced_by_the_previous_at_the_third_start() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("generation 1 is gone");
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    for start in 1..=2 {
        let mut app = scene.start();
        assert_eq!(ask(app.address()).version, "2", "start {start}");
        app.signal(Signal::SIGKILL);
        app.wait_exit();
    }
    let mut app = App::start(scene.command());
    app.line_after("was started 3 times and never lived through its probation: the previous binary is back");
    app.wait_until_ready();
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "1"));
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert!(app.terminate().success());
    let app = scene.start();
    assert_eq!(ask(app.address()).version, "1");
}

#[test]
fn a_master_killed_at_any_call_of_a_commit_leaves_a_whole_program_at_the_path() {
    if !can_run("a kill at each call of a commit", "strace", &["-V"]) {
        return;
    }
    let mut kills = 0;
    for call in ["renameat2", "rename", "linkat", "link", "fsync", "fdatasync", "unlink", "openat", "close"] {
        for nth in 1.. {
            let scene = Scene::with_source("");
            let mut app = scene.start();
            scene.publish("version=2 behave=ready-with-file");
            app.line_after("serving version=2");
            // Only the calls between staged and committed: the release waits until they are watched.
            let pid = app.pid().to_string();
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let mut strace = Command::new("strace");
            strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, "-p", &pid]);
            let mut strace = spawn(&mut strace);
            app.wait_until("the master is watched", |app| !status_of(app, "TracerPid:").ends_with("\t0"));
            fs::write(scene.program().with_file_name("be-ready"), "").expect("written");
            let mut is_killed = false;
            app.wait_until("it is committed or killed", |app| {
                is_killed = app.has_ended();
                is_killed || app.count_lines("generation 1 drains") > 0
            });
            let version = scene.version_at_path();
            assert!(version == "1" || version == "2", "{call} {nth}: {version}; {}", app.all_lines());
            if is_killed {
                kills += 1;
                app.wait_until("nobody is left", |app| app.processes().is_empty());
                let mut next = scene.start();
                assert_eq!(ask(next.address()).version, version, "{call} {nth}");
                // It may take up the release again, and so must come to version 2 in the end.
                next.wait_until("the release is installed after all", |_| scene.version_at_path() == "2");
                next.wait_until("nothing is left beside", |_| scene.names_beside() == ["app", "be-ready"]);
                next.terminate();
            }
            drop(app);
            let _ = strace.wait();
            if !is_killed {
                break;
            }
        }
    }
    println!("{kills} kills");
    assert!(kills >= 5, "only {kills} calls were met: the injection does not work");
}

/// A line of what the kernel says of the master.
pub(crate) fn status_of(app: &App, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", app.pid())).unwrap_or_default();
    status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

#[test]
fn the_previous_file_is_whole_after_a_kill_in_probation_and_a_crash() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("generation 1 is gone");
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    assert_eq!(version_in(&scene.state_dir().join("previous")), "1");
    // The next master knows of the probation, so a crash there takes the release back.
    let mut app = scene.start();
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.line_after("generation 2 is ready");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "1"));
}
