//! Signals: the process manager sees one process, which takes every signal and ends as the program ended.

use crate::app::{App, Scene};
use crate::load::{Request, ask, tell};
use nix::pty::openpty;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn term_finishes_what_is_open_and_ends_with_the_programs_exit_code() {
    let scene = Scene::new("exit=3");
    let mut app = scene.start();
    let request = Request::begin(app.address());
    app.signal(Signal::SIGTERM);
    app.line_after("got SIGTERM: finishing what is open");
    let address = app.address().to_owned();
    assert_eq!(request.finish().expect("an answer").generation, 1);
    assert_eq!(app.wait_exit().code(), Some(3));
    assert!(tell(&address, "hello").is_err(), "nobody listens");
    assert_eq!(app.processes().len(), 0);
}

#[test]
fn an_exit_of_the_program_ends_the_master_with_the_same_code() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let _ = tell(app.address(), "exit 42");
    assert_eq!(app.wait_exit().code(), Some(42));
}

#[test]
fn a_crash_of_the_program_ends_the_master_by_the_same_signal() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let _ = tell(app.address(), "crash");
    assert_eq!(app.wait_exit().signal(), Some(Signal::SIGABRT as i32));
}

#[test]
fn a_signal_that_the_program_does_not_know_ends_both() {
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGQUIT, Signal::SIGALRM] {
        let scene = Scene::new("");
        let mut app = scene.start();
        app.signal(signal);
        assert_eq!(app.wait_exit().signal(), Some(signal as i32), "{signal}");
        assert_eq!(app.processes().len(), 0, "{signal}");
    }
}

#[test]
fn a_second_term_kills_what_the_first_could_not_end() {
    let scene = Scene::new("behave=never-drain");
    let mut app = scene.start();
    app.signal(Signal::SIGTERM);
    app.line_after("got SIGTERM: finishing what is open");
    // Within a second it does not count as another request, so until it does.
    app.wait_until("a later one counts", |app| {
        app.signal(Signal::SIGTERM);
        app.count_lines("got SIGTERM again: killing what is left") >= 1
    });
    assert_eq!(app.wait_exit().signal(), Some(Signal::SIGKILL as i32));
}

#[test]
fn a_stopped_master_stops_its_program_and_both_go_on_when_continued() {
    let scene = Scene::new("");
    // The kernel stops only what somebody in the same session could continue, so a shell with job control stands behind it.
    let mut app = scene.start_by(&["bash", "-c", "set -m; \"$0\" & wait -f $!"]);
    app.wait_until_ready();
    let child = ask(app.address()).pid;
    for round in 1..=3 {
        let states = |app: &App| -> Vec<char> { app.processes().iter().filter(|process| process.name == "app").map(|p| p.state).collect() };
        app.signal(Signal::SIGTSTP);
        app.wait_until("both are stopped", |app| states(app) == ['T', 'T']);
        app.signal(Signal::SIGCONT);
        app.wait_until("both go on", |app| states(app).iter().all(|state| *state != 'T'));
        assert_eq!(ask(app.address()).pid, child, "round {round}");
    }
    app.restart();
    assert!(app.terminate().success());
}

#[test]
fn a_sigtstp_that_stops_nobody_takes_no_time_from_whoever_waits_when_the_master_is_stopped_later() {
    let scene = Scene::new("behave=never-drain terminate_timeout=2000");
    // Nobody in its session could continue it, so the kernel does not stop it: its process group is orphaned, as POSIX calls that.
    let mut app = scene.start();
    app.signal(Signal::SIGTSTP);
    app.line_after("continued after");
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 drains");
    app.signal(Signal::SIGSTOP);
    // For longer than what generation 1 has to finish.
    thread::sleep(Duration::from_secs(3));
    app.signal(Signal::SIGCONT);
    app.line_after("continued after");
    app.line_after("generation 1 has not finished after");
}

#[test]
fn a_sigcont_beside_a_sigterm_gives_nobody_more_time() {
    let scene = Scene::new("behave=never-drain terminate_timeout=300");
    let mut app = scene.start();
    // So that the master has slept for much longer than the time-out.
    thread::sleep(Duration::from_secs(5));
    let asked = Instant::now();
    app.signal(Signal::SIGTERM);
    app.signal(Signal::SIGCONT);
    app.wait_exit();
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}

/// Where a signal can find a master; each ends with a service that answers or an end that was asked for.
fn in_each_state(mut check: impl FnMut(&str, &Scene, &mut App)) {
    let at = |words: &str, lines: &[&str], publish: Option<&str>, check: &mut dyn FnMut(&str, &Scene, &mut App)| {
        let scene = Scene::with_source(words);
        let mut app = App::start(scene.command());
        if publish.is_some() {
            app.wait_until_ready();
        }
        if let Some(publish) = publish {
            scene.publish(publish);
        }
        for line in lines {
            app.line_after(line);
        }
        if publish.is_none() {
            app.find_master();
        }
        check(&format!("after {lines:?} of {words} {publish:?}"), &scene, &mut app);
    };
    let started = "generation 1 started as pid";
    at("", &["master started as pid"], None, &mut check);
    at("", &[started], None, &mut check);
    at("behave=late-ready delay=200 ready_timeout=9000", &[started, "serving"], None, &mut check);
    at("", &[started, "generation 1 is ready"], None, &mut check);
    at("fetch=hang", &[started, "looking for a release"], None, &mut check);
    at("fetch=hang fetch_timeout=100", &[started, "the look at hang failed"], None, &mut check);
    at("", &["is proved"], Some("version=2"), &mut check);
    at("", &["generation 2 started as pid"], Some("version=2"), &mut check);
    at("", &["serving version=2"], Some("version=2 behave=late-ready delay=300 ready_timeout=9000"), &mut check);
    at("", &["generation 2 is ready"], Some("version=2 warm_up=300"), &mut check);
    at("", &["is installed at"], Some("version=2"), &mut check);
    at("", &["generation 1 is gone"], Some("version=2"), &mut check);
}

#[test]
fn term_in_each_state_ends_master_and_program_cleanly() {
    in_each_state(|state, scene, app| {
        app.signal(Signal::SIGTERM);
        let status = app.wait_exit();
        // A program that has no handler yet, or is not started yet, dies of it.
        let is_clean = status.success() || status.signal() == Some(Signal::SIGTERM as i32);
        assert!(is_clean, "{state}: {status}; {}", app.all_lines());
        app.wait_until("nobody is left", |app| app.processes().is_empty());
        assert_eq!(scene.names_beside(), ["app"], "{state}: {}", app.all_lines());
        let serves = if app.count_lines("is installed at") > 0 { "2" } else { "1" };
        assert_eq!(scene.version_at_path(), serves, "{state}: {}", app.all_lines());
    });
}

#[test]
fn a_restart_signal_in_each_state_is_followed_by_one_restart() {
    in_each_state(|state, _scene, app| {
        app.signal(Signal::SIGUSR2);
        app.line_after("restarting as generation");
        app.line_after("took over");
        app.line_after("is gone");
        app.rewind();
        let serving = app.line_after("serving version=");
        let address = serving.rsplit_once(" on ").expect("an address").1.to_owned();
        let answer = ask(&address);
        let last = app.count_lines("started as pid") - 1;
        assert_eq!(answer.generation, u64::try_from(last).expect("a number"), "{state}: {}", app.all_lines());
        assert_eq!(app.count_lines("restarting as generation"), 1, "{state}: {}", app.all_lines());
        app.signal(Signal::SIGTERM);
        assert!(app.wait_exit().success(), "{state}: {}", app.all_lines());
    });
}

#[test]
fn ctrl_c_at_the_terminal_counts_once() {
    let scene = Scene::new("");
    let terminal = openpty(None, None).expect("a terminal");
    let name = nix::unistd::ttyname(&terminal.slave).expect("a name");
    // Who leads a session and opens a terminal gets it as its own.
    let mut app = scene.start_by(&["sh", "-c", &format!("exec \"$0\" <{}", name.display())]);
    app.wait_until_ready();
    let request = Request::begin(app.address());
    File::from(terminal.master).write_all(b"\x03").expect("typed");
    app.line_after("got SIGINT: finishing what is open");
    // Nobody got it twice: the open request is finished.
    assert_eq!(request.finish().expect("an answer").generation, 1);
    assert!(app.wait_exit().success());
    assert_eq!(app.count_lines("is passed on to"), 0, "{}", app.all_lines());
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let scene = Scene::new("");
    let mut app = scene.start_by(&["sh", "-c", "trap '' HUP; exec \"$0\""]);
    app.wait_until_ready();
    let before = ask(app.address());
    app.signal(Signal::SIGHUP);
    app.restart();
    assert_eq!(ask(app.address()).generation, before.generation + 1);
    assert!(app.terminate().success());
}
