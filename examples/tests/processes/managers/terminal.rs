//! In the hands of a person: nohup, and a shell with job control.

use crate::app::{App, Scene, can_run, spawn};
use crate::killed::status_of;
use crate::load::{Request, ask};
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// The end of a terminal at which the person sits, and the path of the other one.
fn terminal() -> (PtyMaster, String) {
    // Nobody else is to have it, or it would not end when the test closes it.
    let person = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
    grantpt(&person).and_then(|()| unlockpt(&person)).expect("it can be opened");
    let path = ptsname_r(&person).expect("a name");
    (person, path)
}

#[test]
fn behind_nohup_the_end_of_the_terminal_ends_nothing() {
    let scene = Scene::new("");
    let (person, path) = terminal();
    // Who leads a session and opens a terminal gets it as its own.
    let mut app = scene.start_by(&["sh", "-c", &format!("exec nohup \"$0\" <{}", path)]);
    app.wait_until_ready();
    let request = Request::begin(app.address());
    drop(person);
    // A hang-up takes the terminal away before it signals the session.
    let stat = format!("/proc/{}/stat", app.pid());
    app.wait_until("the terminal is gone", |_| {
        let stat = fs::read_to_string(&stat).expect("it lives");
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.split(' ').nth(4) == Some("0"))
    });
    assert_eq!(request.finish().expect("an answer").generation, 1);
    app.signal(Signal::SIGHUP);
    app.restart();
    assert_eq!(ask(app.address()).generation, 2);
    assert!(app.terminate().success());
}

/// The program as a job of a shell at a terminal.
fn start_at_terminal(scene: &Scene) -> (PtyMaster, App) {
    let (mut person, path) = terminal();
    // What the program writes goes to the test, and what the shell writes to the terminal.
    let shell = format!("PROGRAM=\"$0\" exec bash --norc --noprofile -i 3>&1 <{path} >{path} 2>&1");
    let mut app = scene.start_by(&["sh", "-c", &shell]);
    person.write_all(b"\"$PROGRAM\" >&3 2>&3\n").expect("typed");
    app.wait_until_ready();
    (person, app)
}

/// The states of the master and of its generations.
fn states(app: &App) -> Vec<char> {
    app.processes().iter().filter(|process| process.name == "app").map(|process| process.state).collect()
}

#[test]
fn at_a_terminal_ctrl_z_and_fg_stop_and_continue_all_of_it_and_time_outs_wait() {
    let scene = Scene::new("terminate_timeout=5000");
    let (mut person, mut app) = start_at_terminal(&scene);
    let request = Request::begin(app.address());
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 drains");
    for _ in 0..2 {
        person.write_all(b"\x1a").expect("typed");
        app.wait_until("all are stopped", |app| states(app) == ['T'; 3]);
        // For as long as generation 1 had to finish before it was stopped.
        thread::sleep(Duration::from_secs(5));
        person.write_all(b"fg\n").expect("typed");
        app.wait_until("all go on", |app| states(app).iter().all(|state| *state != 'T'));
        assert_eq!(ask(app.address()).generation, 2);
    }
    assert_eq!(request.finish().expect("an answer").generation, 1);
    app.line_after("generation 1 is gone (exit code 0)");
    let request = Request::begin(app.address());
    person.write_all(b"\x03").expect("typed");
    app.line_after("got SIGINT: finishing what is open");
    assert_eq!(request.finish().expect("an answer").generation, 2);
    app.line_after("master ended (exit code 0)");
    person.write_all(b"exit $?\n").expect("typed");
    assert!(app.wait_exit().success());
}

#[test]
fn ctrl_z_right_after_fg_stops_what_the_master_has_not_continued_yet_all_the_same() {
    if !can_run("a master that is slow to continue its program", "strace", &["-V"]) {
        return;
    }
    let scene = Scene::new("");
    let (mut person, mut app) = start_at_terminal(&scene);
    person.write_all(b"\x1a").expect("typed");
    app.wait_until("both are stopped", |app| states(app) == ['T'; 2]);
    // What it sends comes late from here on.
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-e", "trace=kill", "-e", "inject=kill:delay_enter=1000000", "-p", &app.pid().to_string()]);
    let mut strace = spawn(&mut strace);
    app.wait_until("the master is watched", |app| !status_of(app, "TracerPid:").ends_with("\t0"));
    person.write_all(b"fg\n").expect("typed");
    app.line_after("continued after");
    person.write_all(b"\x1a").expect("typed");
    app.line_after("SIGCONT is passed on to generation 1");
    kill(Pid::from_raw(i32::try_from(strace.id()).expect("a PID")), Signal::SIGTERM).expect("it lives");
    strace.wait().expect("its end");
    app.wait_until("both are stopped", |app| states(app) == ['T'; 2]);
    person.write_all(b"fg\n").expect("typed");
    app.wait_until("both go on", |app| states(app).iter().all(|state| *state != 'T'));
    assert_eq!(ask(app.address()).generation, 1);
}
