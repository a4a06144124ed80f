//! What a process manager is told over its notify socket.

use crate::app::{App, FROZEN_CHILD, Scene, put, release, with_words};
use crate::load::{PATIENCE, Request, ask, tell};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

/// The other end of a notify socket.
struct Listener {
    socket: UnixDatagram,
    /// Every message so far, as lines.
    heard: Vec<Vec<String>>,
}

impl Listener {
    /// Listens for what `command` will tell.
    fn of(scene: &Scene, command: &mut Command) -> Self {
        let path = scene.directory().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        command.env("NOTIFY_SOCKET", path);
        Self { socket, heard: Vec::new() }
    }

    /// Forgets all that was told until now.
    fn forget(&mut self) {
        self.socket.set_nonblocking(true).expect("set");
        let mut bytes = [0; 4096];
        while self.socket.recv(&mut bytes).is_ok() {}
        self.socket.set_nonblocking(false).expect("set");
        self.heard.clear();
    }

    fn receive(&mut self) -> &[String] {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{error}; so far {:?}", self.heard));
        let text = String::from_utf8(bytes[..length].to_vec()).expect("text");
        self.heard.push(text.split('\n').map(str::to_owned).collect());
        self.heard.last().expect("just heard")
    }

    /// Waits for a message with a line that begins so, and answers the rest of that line. Those before it count as heard.
    fn line_after(&mut self, beginning: &str) -> String {
        loop {
            if let Some(rest) = self.receive().iter().find_map(|line| line.strip_prefix(beginning)) {
                return rest.to_owned();
            }
        }
    }

    /// What it was told of states since the last call: not the status, not of time, no signs of life.
    fn states(&mut self) -> Vec<Vec<String>> {
        let all = std::mem::take(&mut self.heard).into_iter().map(|mut lines| {
            lines.retain(|line| !["STATUS=", "EXTEND_TIMEOUT_USEC=", "WATCHDOG="].iter().any(|beginning| line.starts_with(beginning)));
            lines
        });
        all.filter(|lines| !lines.is_empty()).collect()
    }
}

fn monotonic_us() -> i128 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) writes to `time` alone.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) }, 0);
    i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_nsec) / 1000
}

/// Starts the program and waits until it is told that it is ready.
fn start(scene: &Scene, set: impl FnOnce(&mut Command)) -> (App, Listener) {
    let mut command = scene.command();
    set(&mut command);
    let mut listener = Listener::of(scene, &mut command);
    let mut app = App::start(command);
    app.wait_until_ready();
    listener.line_after("READY=1");
    assert_eq!(listener.states(), [["READY=1"]]);
    (app, listener)
}

#[test]
fn a_start_restarts_a_failed_one_and_the_end_are_told_in_their_order() {
    let scene = Scene::new("exit=3");
    let (mut app, mut listener) = start(&scene, |_| {});
    for _ in 0..3 {
        let before = monotonic_us();
        app.signal(Signal::SIGUSR2);
        listener.line_after("READY=1");
        let states = listener.states();
        let [reloading, ready] = &states[..] else { panic!("{states:?}") };
        assert_eq!((reloading[0].as_str(), &ready[..]), ("RELOADING=1", &["READY=1".to_owned()][..]));
        let time = reloading[1].strip_prefix("MONOTONIC_USEC=").and_then(|time| time.parse::<i128>().ok()).expect("a time");
        assert!((before..=monotonic_us()).contains(&time), "{time}");
    }
    put(&scene.program(), &release("version=2 behave=exit-at-start"));
    app.signal(Signal::SIGUSR2);
    for (state, status) in [("RELOADING=1", "; restarting as generation 5"), ("READY=1", "; the restart as generation 5 failed at ")] {
        listener.line_after(state);
        let last = listener.heard.last().expect("heard").concat();
        assert!(last.contains("STATUS=app, generation 4, serving since ") && last.contains(status), "{last}");
    }
    listener.heard.clear();
    assert_eq!(app.terminate().code(), Some(3));
    listener.line_after("EXIT_STATUS=3");
    assert_eq!(listener.states(), [["STOPPING=1"], ["EXIT_STATUS=3"]]);
}

#[test]
fn whoever_hears_that_it_is_ready_is_shown_that_it_serves() {
    for _ in 0..10 {
        let scene = Scene::new("");
        let mut command = scene.command();
        let mut listener = Listener::of(&scene, &mut command);
        let mut app = App::start(command);
        listener.line_after("READY=1");
        let shown = fs::read_to_string(scene.state_dir().join("master.json")).expect("it is there");
        assert!(shown.contains("\"state\":\"serving\""), "{shown}");
        app.wait_until_ready();
        assert!(app.terminate().success());
    }
}

#[test]
fn an_upgrade_and_a_new_master_change_the_status_alone_and_the_new_master_goes_on() {
    let scene = Scene::with_source("");
    let (mut app, mut listener) = start(&scene, |_| {});
    for version in 2..=4 {
        scene.publish(&format!("version={version}"));
        app.line_after("the master runs ");
        let generation = version * 2 - 2;
        let status = format!(", generation {generation}, serving since ");
        while !listener.receive().concat().contains(&status) {}
        assert_eq!(listener.states(), [] as [Vec<String>; 0]);
        app.signal(Signal::SIGUSR2);
        listener.line_after("READY=1");
        assert_eq!(listener.states().iter().map(|lines| lines[0].as_str()).collect::<Vec<_>>(), ["RELOADING=1", "READY=1"]);
        app.line_after_start(&format!("generation {generation} is gone"));
    }
    assert!(app.terminate().success());
    listener.line_after("EXIT_STATUS=0");
    assert_eq!(listener.states(), [["STOPPING=1"], ["EXIT_STATUS=0"]]);
}

#[test]
fn only_the_master_has_the_variables() {
    let scene = Scene::with_source("fetch=hang");
    let (mut app, _listener) = start(&scene, |command| {
        command.env("WATCHDOG_USEC", "10000000").env("WATCHDOG_PID", "1");
    });
    app.wait_until("a look begins", |app| app.children().len() == 2);
    let names = |pid: Pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("it lives");
        let text = String::from_utf8_lossy(&environment).into_owned();
        ["NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID="].into_iter().filter(|name| text.contains(name)).count()
    };
    // The kernel shows what a process was started with.
    app.wait_until("all were executed", |app| app.children().iter().all(|child| names(child.pid) == 0));
    assert_eq!(names(app.pid()), 3);
}

#[test]
fn what_prevents_a_start_is_told() {
    let scene = Scene::new("address=192.0.2.1:1");
    let mut command = scene.command();
    let mut listener = Listener::of(&scene, &mut command);
    let mut app = App::start(command);
    assert_eq!(app.wait_exit().code(), Some(1));
    let told = listener.receive();
    assert!(
        told[0].starts_with("STATUS=cannot listen on 192.0.2.1:1: ") && told[1] == format!("ERRNO={}", libc::EADDRNOTAVAIL),
        "{told:?}"
    );
}

#[test]
fn a_start_and_an_end_that_take_long_are_granted_their_time() {
    let scene = Scene::new("behave=ready-with-file ready_timeout=60000 terminate_timeout=60000");
    let mut command = scene.command();
    let mut listener = Listener::of(&scene, &mut command);
    let mut app = App::start(command);
    // The time for its hello, and then that for its readiness.
    for _ in 0..2 {
        let time: u64 = listener.line_after("EXTEND_TIMEOUT_USEC=").parse().expect("a number");
        assert!((1..=30_000_000).contains(&time), "{time}");
    }
    fs::write(scene.directory().join("app/be-ready"), "").expect("written");
    app.wait_until_ready();
    listener.line_after("READY=1");
    let request = Request::begin(app.address());
    app.signal(Signal::SIGTERM);
    listener.line_after("STOPPING=1");
    assert!(listener.heard.last().is_some_and(|lines| lines.contains(&"EXTEND_TIMEOUT_USEC=30000000".to_owned())), "{:?}", listener.heard);
    request.finish().expect("an answer");
    assert!(app.wait_exit().success());
}

#[test]
fn the_watchdog_is_told_only_while_the_serving_generation_answers() {
    let scene = Scene::with_source("");
    let (mut app, mut listener) = start(&scene, |command| {
        command.env("WATCHDOG_USEC", "3000000");
    });
    (0..2).for_each(|_| drop(listener.line_after("WATCHDOG=1")));
    scene.publish("version=2");
    app.line_after("the master runs ");
    app.line_after_start("generation 1 is gone");
    (0..2).for_each(|_| drop(listener.line_after("WATCHDOG=1")));
    let child = Pid::from_raw(ask(app.address()).pid);
    kill(child, Signal::SIGSTOP).expect("it lives");
    app.line_after("generation 2 has not answered for ");
    while !listener.receive().concat().contains("; generation 2 has not answered since ") {}
    listener.heard.clear();
    listener.socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).expect("set");
    let mut bytes = [0; 4096];
    while let Ok(length) = listener.socket.recv(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(!text.contains("WATCHDOG="), "{text}");
    }
    listener.socket.set_read_timeout(Some(PATIENCE)).expect("set");
    kill(child, Signal::SIGCONT).expect("it lives");
    app.line_after("generation 2 answers again after ");
    (0..2).for_each(|_| drop(listener.line_after("WATCHDOG=1")));
    assert!(app.terminate().success());
}

/// A start under a watchdog that takes the service for hung after a second.
fn start_watched(scene: &Scene) -> (App, Listener) {
    start(scene, |command| {
        command.env("WATCHDOG_USEC", "1000000");
    })
}

/// Waits for so many signs of life from now on that the service has lived for more than the second of the watchdog.
fn outlives_the_watchdog(listener: &mut Listener) {
    listener.forget();
    (0..4).for_each(|_| drop(listener.line_after("WATCHDOG=1")));
}

#[test]
fn while_one_generation_makes_room_for_another_the_watchdog_hears_of_the_service_although_a_bad_release_dies_meanwhile() {
    let scene = Scene::with_source("alone terminate_timeout=600000");
    let (mut app, mut listener) = start_watched(&scene);
    let open = Request::begin(app.address());
    scene.publish("version=2");
    app.line_after("ending version=1 generation=1");
    outlives_the_watchdog(&mut listener);
    let candidate = app.line_after_start("generation 2 started as pid ").parse().expect("a PID");
    kill(Pid::from_raw(candidate), Signal::SIGKILL).expect("it lives");
    app.line_after("the binary that served before starts again as generation 3");
    app.line_after("generation 3 begins when these are gone, beside which it must not run: 1");
    outlives_the_watchdog(&mut listener);
    assert_eq!(open.finish().expect("it was not cut").generation, 1);
    app.line_after("generation 3 serves, after ");
    assert_eq!(ask(app.address()).version, "1");
    outlives_the_watchdog(&mut listener);
    assert!(app.terminate().success());
}

#[test]
fn a_previous_binary_that_is_slow_to_be_ready_after_a_bad_release_answers_the_watchdog_itself() {
    let scene = Scene::with_source("behave=ready-with-file");
    let hasty = release("version=1 ready_timeout=500");
    put(&scene.program(), &hasty);
    scene.publish_bytes(&hasty);
    let be_ready = scene.directory().join("app/be-ready");
    fs::write(&be_ready, "").expect("written");
    let (mut app, mut listener) = start_watched(&scene);
    scene.publish("version=2");
    app.line_after("the master runs ");
    app.line_after_start("generation 1 is gone");
    fs::remove_file(&be_ready).expect("removed");
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.line_after("generation 3 is not ready after ");
    outlives_the_watchdog(&mut listener);
    let address = app.address().to_owned();
    let waiting = std::thread::spawn(move || ask(&address));
    fs::write(&be_ready, "").expect("written");
    assert_eq!(waiting.join().expect("no panic").generation, 3);
    outlives_the_watchdog(&mut listener);
    assert!(app.terminate().success());
}

#[test]
fn a_server_that_knows_only_term_answers_too_and_still_gets_its_term() {
    let scene = Scene::new("serve=term");
    let (mut app, mut listener) = start(&scene, |command| {
        command.env("WATCHDOG_USEC", "2000000");
    });
    for generation in 1..=3 {
        (0..2).for_each(|_| drop(listener.line_after("WATCHDOG=1")));
        app.signal(Signal::SIGUSR2);
        app.line_after(&format!("generation {generation} does not follow a drain, so it gets SIGTERM"));
        app.line_after(&format!("generation {generation} is gone (exit code 0)"));
    }
    assert_eq!(app.count_lines("cannot be asked"), 0);
    assert!(app.terminate().success());
}

#[test]
fn a_child_of_version_1_answers_the_watchdog_if_it_follows_drains() {
    let scene = Scene::new("");
    let (mut app, mut listener) = start(&scene, |command| {
        command.env("WATCHDOG_USEC", "2000000");
    });
    put(&scene.program(), &with_words(FROZEN_CHILD, "version=frozen"));
    app.restart_to(2);
    listener.line_after("READY=1");
    (0..3).for_each(|_| drop(listener.line_after("WATCHDOG=1")));
    assert_eq!(app.count_lines("cannot be asked"), 0);
    assert!(app.terminate().success());
}

#[test]
fn a_watchdog_for_another_process_is_none_of_ours() {
    let scene = Scene::new("");
    let (mut app, mut listener) = start(&scene, |command| {
        command.env("WATCHDOG_USEC", "200000").env("WATCHDOG_PID", "1");
    });
    assert_eq!(tell(app.address(), "hello").expect("an answer").split(' ').count(), 3);
    app.restart();
    assert!(app.terminate().success());
    listener.line_after("EXIT_STATUS=0");
    assert!(!listener.heard.iter().flatten().any(|line| line.starts_with("WATCHDOG=")), "{:?}", listener.heard);
}

#[test]
fn a_program_without_a_master_is_ready_at_once_and_not_watched() {
    let scene = Scene::new("");
    let mut command = scene.command();
    command.env("OVERSEER", "off").env("WATCHDOG_USEC", "1000000");
    let mut listener = Listener::of(&scene, &mut command);
    let mut app = App::start(command);
    let told = listener.receive();
    assert_eq!((told[0].as_str(), told[2].as_str()), ("READY=1", "WATCHDOG_USEC=0"), "{told:?}");
    app.line_after("serving version=1 generation=1 ");
}

#[test]
fn a_manager_that_is_gone_or_takes_nothing_stops_nobody() {
    let scene = Scene::new("");
    let (mut app, listener) = start(&scene, |_| {});
    // Its queue fills up, and then some.
    for _ in 0..10 {
        app.restart();
    }
    drop(listener);
    for _ in 0..3 {
        app.restart();
    }
    assert_eq!(app.count_lines("the process manager cannot be told how the service does"), 1);
    assert!(app.terminate().success());
}
