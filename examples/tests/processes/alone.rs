//! Programs of which two cannot run at once: `overlap(false)`.

use crate::app::{App, Scene, put, release};
use crate::load::{Load, Request, ask, tell};
use nix::sys::signal::Signal;
use std::net::{SocketAddr, TcpStream};

/// A program that takes a lock, which the next one gets when it is gone.
const LOCKED: &str = "lock alone";

/// How many connections wait until somebody accepts them: what the system shows as the receive queue of a TCP socket that listens (proc_pid_net(5)).
fn backlog(address: &str) -> u64 {
    let address: SocketAddr = address.parse().expect("an address");
    let local = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words[1] == local && words[3] == "0A").expect("the listener is open");
    u64::from_str_radix(line[4].split_once(':').expect("two queues").1, 16).expect("a number")
}

/// Waits until this generation serves. The log says for how long nobody did.
fn served_again(app: &mut App, generation: u64) {
    let line = app.line_after(&format!("generation {generation} serves, after "));
    assert!(line.ends_with("s without a serving generation"), "{line}");
}

#[test]
fn twenty_restarts_of_a_program_with_a_lock_refuse_and_fail_no_request() {
    let scene = Scene::new(LOCKED);
    let mut app = scene.start();
    let load = Load::start(app.address());
    for generation in 2..=21 {
        load.wait_for("1", 20);
        app.signal(Signal::SIGUSR2);
        served_again(&mut app, generation);
        app.line_after(&format!("generation {generation} took over"));
    }
    load.wait_for("1", 20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!(ask(app.address()).generation, 21);
    assert_eq!(app.count_lines("somebody else has the lock"), 0);
    assert!(app.terminate().success());
}

#[test]
fn twenty_upgrades_of_a_program_with_a_lock_refuse_and_fail_no_request() {
    let scene = Scene::with_source(LOCKED);
    let mut app = scene.start();
    let load = Load::start(app.address());
    for version in 2..=21 {
        load.wait_for(&(version - 1).to_string(), 5);
        scene.publish(&format!("version={version}"));
        served_again(&mut app, version);
        app.line_after(&format!("generation {version} took over"));
        assert_eq!(scene.version_at_path(), version.to_string());
        app.line_after("the master runs ");
    }
    load.wait_for("21", 20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!(app.count_lines("somebody else has the lock"), 0);
    assert!(app.terminate().success());
}

#[test]
fn without_overlap_false_the_second_holder_of_a_lock_does_not_come_up() {
    let scene = Scene::new("lock");
    let mut app = scene.start();
    app.signal(Signal::SIGUSR2);
    app.line_after("restart failed: generation 2 ended with exit code 5 before it was ready; generation 1 keeps serving");
}

#[test]
fn who_connects_while_nobody_serves_waits_and_is_answered() {
    let scene = Scene::new(LOCKED);
    let mut app = scene.start();
    let open = Request::begin(app.address());
    app.signal(Signal::SIGUSR2);
    app.line_after("ending version=1 generation=1");
    let address = app.address().to_owned();
    let waiting = std::thread::spawn(move || ask(&address));
    app.wait_until("the connection is in the backlog", |app| backlog(app.address()) == 1);
    assert_eq!(open.finish().expect("an answer").generation, 1, "what was open is finished first");
    assert_eq!(waiting.join().expect("no panic").generation, 2);
    app.line_after("generation 1 is gone (exit code 0) after draining for");
    served_again(&mut app, 2);
}

#[test]
fn an_old_generation_that_does_not_finish_is_killed_and_the_next_one_begins() {
    let scene = Scene::new(&format!("{LOCKED} behave=never-drain terminate_timeout=300"));
    let mut app = scene.start();
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 has not finished after ");
    app.line_after("generation 1 is gone (SIGKILL)");
    served_again(&mut app, 2);
    assert_eq!(ask(app.address()).generation, 2);
}

#[test]
fn broken_upgrades_of_a_program_with_a_lock_bring_the_old_one_back() {
    let mut generation = 1;
    let scene = Scene::with_source(LOCKED);
    let mut app = scene.start();
    let load = Load::start(app.address());
    for (number, behave) in ["exit-at-start", "crash-at-start", "hang-before-ready", "crash-in-warm-up"].iter().enumerate() {
        load.wait_for("1", 5);
        let timeouts = "ready_timeout=500 warm_up=400";
        scene.publish(&format!("version={} {timeouts} behave={behave}", number + 2));
        let line = app.line_after("the binary that served before starts again as generation ");
        assert!(line.starts_with(&(generation + 2).to_string()), "{behave}: {line}");
        generation += 2;
        served_again(&mut app, generation);
        assert_eq!(scene.version_at_path(), "1", "{behave}");
    }
    load.wait_for("1", 20);
    let tally = load.stop();
    // What a bad candidate had accepted is lost with it; nobody is refused.
    assert_eq!(tally.refused, 0, "{tally}");
    assert_eq!(ask(app.address()).version, "1");
    assert!(app.terminate().success());
}

#[test]
fn a_release_that_cannot_even_start_does_not_interrupt_a_program_with_a_lock() {
    let scene = Scene::with_source(&format!("{LOCKED} check_timeout=500"));
    let mut app = scene.start();
    scene.publish("version=2 behave=hang-before-hello");
    app.line_after("generation 1 keeps serving");
    assert_eq!(app.count_lines("generation 1 drains"), 0);
    assert_eq!(ask(app.address()).generation, 1);
}

#[test]
fn a_crash_in_the_probation_of_a_program_with_a_lock_brings_the_previous_one_back() {
    let scene = Scene::with_source(LOCKED);
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("generation 2 took over");
    app.wait_until("version 2 answers", |app| ask(app.address()).version == "2");
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.wait_until("version 1 answers", |app| ask(app.address()).version == "1");
    assert_eq!(scene.version_at_path(), "1");
}

#[test]
fn after_a_bad_release_the_previous_one_that_must_run_alone_waits_for_no_hour() {
    let scene = Scene::with_source("");
    let alone = release("version=1 alone");
    put(&scene.program(), &alone);
    scene.publish_bytes(&alone);
    let mut app = scene.start();
    scene.publish("version=2 terminate_timeout=3600000");
    app.line_after("the master runs ");
    let open = Request::begin(app.address());
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 3 took over");
    app.line_after_start("ending version=2 generation=2");
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.line_after(
        "nobody serves, and generation 4 must not run beside it, so generation 2 has 2s left and is killed then, with 1 connection open",
    );
    app.line_after("generation 4 is ready after ");
    assert_eq!(ask(app.address()).version, "1");
    open.finish().expect_err("it was cut");
    assert!(app.terminate().success());
}

#[test]
fn a_version_that_must_run_alone_may_have_an_address_that_overlaps_the_old_one_and_back() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound").port();
    let scene = Scene::with_source(&format!("address=:{port}"));
    let mut app = scene.start();
    let address = format!("127.0.0.1:{port}");
    assert_eq!(ask(&address).version, "1");

    scene.publish(&format!("version=2 address={address}"));
    app.line_after("so it needs overlap(false)");
    app.line_after("keeps serving");
    scene.publish(&format!("version=3 alone address={address} behave=crash-at-start"));
    app.line_after("the binary that served before starts again");
    app.line_after("serves, after");
    assert_eq!(ask(&address).version, "1");
    assert!(TcpStream::connect(("127.0.0.2", port)).is_ok(), "it is bound to all again");

    scene.publish(&format!("version=4 alone address={address}"));
    app.line_after("the master runs ");
    assert_eq!(ask(&address).version, "4");
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err(), "it is bound to one");
}

#[test]
fn the_service_ends_as_the_program_did_when_it_is_stopped_between_two_generations() {
    let scene = Scene::new(&format!("{LOCKED} behave=ready-with-file ready_timeout=60000"));
    std::fs::write(scene.directory().join("app/be-ready"), "").expect("written");
    let mut app = scene.start();
    std::fs::remove_file(scene.directory().join("app/be-ready")).expect("removed");
    app.signal(Signal::SIGUSR2);
    app.line_after("serving version=1 generation=2");
    assert!(app.terminate().success());
    assert!(app.processes().is_empty(), "{:?}", app.processes());
}
