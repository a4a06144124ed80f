//! Restarts: what clients notice of them (nothing), and what they leave behind (nothing).

use crate::app::Scene;
use crate::load::{Load, Request, ask, tell};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;

#[test]
fn twenty_restarts_under_load_fail_no_request() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    let master = app.pid();
    for _ in 0..20 {
        load.wait_for("1", 20);
        app.restart();
    }
    load.wait_for("1", 20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!(ask(app.address()).generation, 21);
    assert_eq!(app.pid(), master);
    assert!(app.terminate().success());
}

#[test]
fn a_request_that_was_open_before_a_restart_is_answered_after_it() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let request = Request::begin(app.address());
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 2 took over");
    // The old generation accepts until it has heard of it.
    app.wait_until("generation 2 answers", |app| ask(app.address()).generation == 2);
    let answer = request.finish().expect("an answer");
    assert_eq!(answer.generation, 1);
    app.line_after("generation 1 is gone (exit code 0)");
}

#[test]
fn a_request_that_outlives_terminate_timeout_is_cut_and_the_log_says_so() {
    let scene = Scene::new("terminate_timeout=300");
    let mut app = scene.start();
    let request = Request::begin(app.address());
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 drains; it has 0.3s to finish");
    app.line_after("generation 1 is gone");
    request.finish().expect_err("it was cut");
    assert_eq!(ask(app.address()).generation, 2);
}

#[test]
fn the_oldest_of_too_many_draining_generations_gives_way_and_the_log_says_what_it_had_open() {
    let scene = Scene::new("max_draining=1 terminate_timeout=60000");
    let mut app = scene.start();
    let oldest = [Request::begin(app.address()), Request::begin(app.address())];
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 drains; it has 60s to finish, with 2 connections open");
    app.line_after_start("ending version=1 generation=1");
    let older = Request::begin(app.address());
    app.signal(Signal::SIGUSR2);
    let line = app.line_after(
        "too many generations drain (max_draining is 1), so generation 1 has 2s left and is killed then, with 2 connections open (pid ",
    );
    assert!(line.contains(", started "), "{line}");
    app.line_after("generation 1 is gone");
    for request in oldest {
        request.finish().expect_err("it was cut");
    }
    assert_eq!(older.finish().expect("an answer").generation, 2);
    app.line_after("generation 2 is gone (exit code 0) after draining for");
}

#[test]
fn a_program_that_asks_for_a_restart_is_restarted() {
    let scene = Scene::new("");
    let mut app = scene.start();
    assert_eq!(tell(app.address(), "restart").expect("an answer"), "true\n");
    app.line_after("restarting as generation 2: the program asked for it");
    app.line_after("generation 1 is gone");
    assert_eq!(ask(app.address()).generation, 2);
}

#[test]
fn a_server_that_knows_only_term_finishes_its_open_requests() {
    let scene = Scene::new("serve=term");
    let mut app = scene.start();
    let load = Load::start(app.address());
    for generation in 1..=5 {
        let request = Request::begin(app.address());
        app.signal(Signal::SIGUSR2);
        app.line_after(&format!("generation {generation} does not follow a drain, so it gets SIGTERM"));
        assert_eq!(request.finish().expect("an answer").generation, generation);
        app.line_after(&format!("generation {generation} is gone (exit code 0)"));
    }
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn a_program_that_says_nothing_is_ready_when_it_has_lived_for_the_warm_up() {
    let scene = Scene::new("ready_timeout=none behave=late-ready delay=500");
    let mut app = scene.start();
    app.line_after("generation 1 said that it is ready after");
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 2 took over");
    app.line_after("generation 2 said that it is ready after");
    assert_eq!(ask(app.address()).generation, 2);
}

#[test]
fn a_program_that_never_drains_is_killed_at_its_deadline() {
    let scene = Scene::new("behave=never-drain terminate_timeout=200");
    let mut app = scene.start();
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 has not finished after");
    app.line_after("generation 1 is gone (SIGKILL)");
    assert_eq!(ask(app.address()).generation, 2);
}

#[test]
fn descriptors_after_ten_restarts_are_exactly_the_expected_ones() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let before = tell(app.address(), "descriptors").expect("an answer");
    for _ in 0..10 {
        app.restart();
    }
    let after = tell(app.address(), "descriptors").expect("an answer");
    assert_eq!(what_they_are(&after), EXPECTED, "{after}");
    assert_eq!(what_they_are(&before), EXPECTED, "{before}");
}

/// The three standard ones, the listener, the connection that asks, the link to the master in its two uses, the pair of the drain and the pipe of the signals.
const EXPECTED: [(&str, usize); 3] = [("/dev/null", 1), ("pipe", 2 + 2), ("socket", 1 + 1 + 2 + 2)];

fn what_they_are(listing: &str) -> Vec<(&str, usize)> {
    let mut counts = BTreeMap::new();
    for line in listing.lines() {
        let (_, target) = line.split_once(' ').expect("a number and a target");
        *counts.entry(target.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    counts.into_iter().collect()
}

#[test]
fn no_zombie_is_left_after_restarts() {
    let scene = Scene::new("");
    let mut app = scene.start();
    for _ in 0..3 {
        app.restart();
    }
    let children = app.children();
    assert_eq!(children.len(), 1, "{children:?}");
    assert_eq!(children[0].name, "app");
    let status = app.terminate();
    assert!(status.success());
    assert!(app.processes().is_empty(), "{:?}", app.processes());
}
