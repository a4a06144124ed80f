//! In the hands of a person: nohup, and a shell with job control.

use crate::app::{App, Scene};
use crate::load::{Request, ask};
use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
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

#[test]
fn at_a_terminal_ctrl_z_and_fg_stop_and_continue_all_of_it_and_time_outs_wait() {
    let scene = Scene::new("terminate_timeout=5000");
    let (mut person, path) = terminal();
    // What the program writes goes to the test, and what the shell writes to the terminal.
    let shell = format!("PROGRAM=\"$0\" exec bash --norc --noprofile -i 3>&1 <{0} >{0} 2>&1", path);
    let mut app = scene.start_by(&["sh", "-c", &shell]);
    person.write_all(b"\"$PROGRAM\" >&3 2>&3\n").expect("typed");
    app.wait_until_ready();
    let request = Request::begin(app.address());
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 drains");
    for _ in 0..2 {
        person.write_all(b"\x1a").expect("typed");
        let states = |app: &App| -> Vec<char> {
            app.processes().iter().filter(|process| process.name == "app").map(|process| process.state).collect()
        };
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
