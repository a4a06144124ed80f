//! Broken releases: the service answers all the time, the good file is at the path in the end, and a fresh start serves the good version.

use crate::app::{ACTOR, App, Scene, release};
use crate::load::{Load, Tally, ask, tell};
use std::fs;

/// Publishes the release beside a running version 1, waits for what is said of it, and shows that nothing came of it.
fn is_refused(words: &str, bytes: &[u8], said: &str, verdict: &str) -> Tally {
    let scene = Scene::with_source(words);
    let mut app = scene.start();
    let load = Load::start(app.address());
    load.wait_for("1", 20);
    scene.publish_bytes(bytes);
    let rest = app.line_after(said);
    assert!(rest.contains(verdict), "{said}{rest}");
    load.wait_for("1", 20);
    let tally = load.stop();
    assert_eq!(tally.refused, 0, "{tally}");
    has_come_to_nothing(&scene, &mut app, said);
    tally
}

/// Version 1 is at the path and serves, the record says why, the release is not staged again, and a fresh start serves version 1.
fn has_come_to_nothing(scene: &Scene, app: &mut App, reason: &str) {
    let staged = app.count_lines("is proved");
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert_eq!(app.count_lines("is proved"), staged, "it was staged again: {}", app.all_lines());
    assert_eq!(ask(app.address()).version, "1");
    assert_eq!((scene.version_at_path().as_str(), scene.names_beside()), ("1", vec!["app".to_owned()]));
    let state = scene.state();
    let judged = state["verdicts"][0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(judged.contains(reason), "{state:#}");
    assert!(app.terminate().success());

    let mut app = scene.start();
    assert_eq!(ask(app.address()).version, "1");
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert_eq!(app.count_lines("is proved"), 0, "it was staged again: {}", app.all_lines());
    assert!(app.terminate().success());
}

fn loses_nothing(tally: &Tally) {
    assert_eq!(tally.lost, 0, "{tally}");
}

#[test]
fn a_release_that_exits_before_run_is_held_back() {
    let tally = is_refused("", &release("version=2 behave=exit-in-main"), "exit code 7", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_that_hangs_in_its_self_check_is_held_back() {
    let tally = is_refused("check_timeout=500", &release("version=2 behave=hang-in-main"), "self-check", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_that_exits_at_start_is_held_back() {
    let tally =
        is_refused("", &release("version=2 behave=exit-at-start"), "ended with exit code 7 before it was ready", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_that_crashes_at_start_is_held_back() {
    let tally =
        is_refused("", &release("version=2 behave=crash-at-start"), "ended with SIGABRT before it was ready", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_that_never_says_hello_is_held_back() {
    let tally =
        is_refused("check_timeout=3000", &release("version=2 behave=hang-before-hello"), "said nothing for", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_that_is_never_ready_is_held_back() {
    let bytes = release("version=2 behave=hang-before-ready ready_timeout=300");
    let tally = is_refused("", &bytes, "not ready after 0.3s", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_that_crashes_in_its_warm_up_is_held_back() {
    // What the crashing candidate had accepted is lost with it.
    is_refused(
        "",
        &release("version=2 behave=crash-in-warm-up warm_up=10000"),
        "ended with SIGABRT in its warm-up",
        "tried again in 10 min",
    );
}

#[test]
fn a_release_that_crashes_in_its_warm_up_loses_nothing_if_it_is_to_accept_late() {
    let bytes = release("version=2 behave=crash-in-warm-up warm_up=10000 accept_late");
    let tally = is_refused("", &bytes, "ended with SIGABRT in its warm-up", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_with_a_wrong_setting_is_held_back() {
    let tally = is_refused("", &release("version=2 address=nonsense"), "setting address", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn random_bytes_are_rejected() {
    // A fixed pattern without any of the beginnings that something else could have.
    let bytes: Vec<u8> = (0..100_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    loses_nothing(&is_refused("", &bytes, "is no executable of any kind", "this release is rejected"));
}

#[test]
fn a_shell_script_is_never_run() {
    for (beginning, reason) in [("#!/bin/sh\n", "script"), ("", "is text, not an executable")] {
        let scene = Scene::with_source("");
        let trace = scene.directory().join("it-ran");
        let script = format!("{beginning}touch {}\n{}", trace.display(), "# padding\n".repeat(100));
        let mut app = scene.start();
        scene.publish_bytes(script.as_bytes());
        app.line_after("this release is rejected");
        has_come_to_nothing(&scene, &mut app, reason);
        assert!(!trace.exists());
    }
}

#[test]
fn another_program_is_rejected() {
    let bytes = fs::read("/bin/true").expect("read");
    loses_nothing(&is_refused("", &bytes, "not an overseer program", "this release is rejected"));
}

#[test]
fn a_truncated_build_is_rejected() {
    let whole = fs::read(ACTOR).expect("read");
    loses_nothing(&is_refused("", &whole[..whole.len() / 2], "is cut off", "this release is rejected"));
}

#[test]
fn a_release_that_the_hook_refuses_is_held_back() {
    // The hook of the running version decides.
    let tally = is_refused("behave=refuse-upgrade", &release("version=2 behave="), "the hook does not like", "tried again in 10 min");
    loses_nothing(&tally);
}

#[test]
fn a_release_that_crashes_in_its_probation_is_taken_back_in_place_and_nobody_is_refused() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let master = app.pid();
    let load = Load::start(app.address());
    scene.publish("version=2");
    app.line_after("is installed at");
    load.wait_for("2", 20);
    app.line_after("generation 1 is gone");
    // It cannot answer that.
    let _ = tell(app.address(), "crash");
    app.line_after("ended with SIGABRT in its probation: the previous binary is back at the program's path and starts as generation 3");
    app.line_after("generation 3 is ready");
    load.wait_for("1", 20);
    let tally = load.stop();
    // What the crashing generation had accepted is lost with it: at most what each client and the one that said so had open.
    assert!(tally.refused == 0 && tally.lost <= 2, "{tally}");
    assert_eq!(app.pid(), master);
    has_come_to_nothing(&scene, &mut app, "ended with SIGABRT in its probation");
}

#[test]
fn version_3_comes_through_after_a_broken_version_2() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    for words in ["version=2 behave=exit-at-start", "version=2 behave=crash-at-start", "version=2 behave=exit-in-main"] {
        scene.publish(words);
        app.line_after("keeps serving");
    }
    scene.publish("version=3");
    load.wait_for("3", 20);
    app.line_after("generation 1 is gone");
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!(scene.version_at_path(), "3");
}

#[test]
fn what_a_candidate_does_to_a_shared_listener_hurts_nobody() {
    for (behaviour, said) in [("block-listener", Some("it blocked")), ("unblock-listener", None), ("shut-listener", None)] {
        let scene = Scene::with_source("ready_timeout=5000");
        let mut app = scene.start();
        let load = Load::start(app.address());
        load.wait_for("1", 5);
        scene.publish(&format!("version=2 behave={behaviour} warm_up=300"));
        app.line_after("generation 2 is ready");
        if let Some(said) = said {
            app.line_after(said);
        }
        app.line_after("generation 1 is gone");
        load.wait_for("2", 20);
        let tally = load.stop();
        // While a listener is shut down the kernel refuses; nobody else can answer then.
        assert!(behaviour == "shut-listener" || tally.failed() == 0, "{behaviour}: {tally}");
        assert!(app.terminate().success(), "{behaviour}: {}", app.all_lines());
    }
}
