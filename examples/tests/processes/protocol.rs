//! What a child may say to its master: version 1 for ever, and anything else without hurting anybody.

use crate::app::{FROZEN_CHILD, Scene, put, release, with_words};
use crate::load::{Load, ask};
use nix::sys::signal::Signal;

#[test]
fn a_child_of_version_1_is_served_by_todays_master() {
    for words in ["version=frozen", "version=frozen mode=unknown"] {
        let scene = Scene::new("");
        let mut app = scene.start();
        let load = Load::start(app.address());
        put(&scene.program(), &with_words(FROZEN_CHILD, words));
        app.restart_to(2);
        load.wait_for("frozen", 20);
        app.restart_to(3);
        put(&scene.program(), &release("version=1"));
        app.restart_to(4);
        app.line_after_start("ending version=frozen generation=3");
        load.wait_for("1", 20);
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{words}: {tally}");
        assert!(app.terminate().success());
    }
}

#[test]
fn a_hostile_child_hurts_neither_master_nor_service() {
    for (mode, said) in [
        ("never-hello", "said nothing for"),
        ("half-and-waits", "said nothing for"),
        ("closes", "said nothing for"),
        ("floods", "cannot be talked to"),
        ("garbage", "cannot be talked to"),
        ("huge", "cannot be talked to"),
        ("half", "cannot be talked to"),
        ("asks-on-and-on", "cannot be talked to"),
        ("future", "speaks the protocol versions 98 to 99"),
        ("cannot-have", "cannot have 192.0.2.1:1"),
    ] {
        let scene = Scene::new("check_timeout=300 terminate_timeout=300");
        let mut app = scene.start();
        let load = Load::start(app.address());
        load.wait_for("1", 5);
        put(&scene.program(), &with_words(FROZEN_CHILD, &format!("mode={mode}")));
        app.signal(Signal::SIGUSR2);
        app.line_after(said);
        app.line_after("generation 2 is gone");
        load.wait_for("1", 5);
        put(&scene.program(), &release("version=1"));
        app.restart_to(3);
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{mode}: {tally}");
        assert_eq!(ask(app.address()).generation, 3, "{mode}");
        assert!(app.terminate().success(), "{mode}: {}", app.all_lines());
    }
}

#[test]
fn a_child_that_reads_nothing_or_hangs_up_after_ready_is_replaced_all_the_same() {
    for mode in ["never-reads", "closes-after-ready"] {
        let scene = Scene::new("");
        let mut app = scene.start();
        let address = app.address().to_owned();
        put(&scene.program(), &with_words(FROZEN_CHILD, &format!("mode={mode}")));
        app.restart_to(2);
        put(&scene.program(), &release("version=1"));
        app.signal(Signal::SIGUSR2);
        app.line_after("generation 3 took over");
        assert_eq!(ask(&address).generation, 3, "{mode}");
        app.line_after("generation 2 is gone");
        assert!(app.terminate().success(), "{mode}: {}", app.all_lines());
    }
}
