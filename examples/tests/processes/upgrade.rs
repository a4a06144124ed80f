//! Upgrades: a release is proved, started beside the running one, and installed once it has served.

use crate::app::{Scene, release};
use crate::load::{Load, Request, ask, tell};
use crate::source::Source;
use std::fs;

#[test]
fn five_upgrades_under_load_fail_no_request() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    let master = app.pid();
    for version in 2..=6 {
        let request = Request::begin(app.address());
        scene.publish(&format!("version={version}"));
        app.line_after("is installed at");
        load.wait_for(&version.to_string(), 20);
        assert_eq!(request.finish().expect("an answer").version, (version - 1).to_string());
        app.line_after(&format!("generation {} is gone (exit code 0)", version - 1));
        assert_eq!(scene.version_at_path(), version.to_string());
    }
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!(app.pid(), master);
    app.wait_until("the program is the master's only child between two looks", |app| app.children().len() == 1);
    assert!(app.terminate().success());
    assert_eq!(scene.names_beside(), ["app"]);
}

#[test]
fn the_previous_binary_is_kept_and_the_record_names_both() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    let state = scene.state();
    let id = tell(app.address(), "id").expect("an answer");
    assert_eq!(state["installed"]["release"]["id"], id.trim());
    assert_eq!(state["probation"]["release"]["id"], id.trim());
    assert_eq!(crate::app::version_in(&scene.state_dir().join("previous")), "1");
    assert!(app.terminate().success());
    let mut app = scene.start();
    assert_eq!(ask(app.address()).version, "2");
    assert!(app.terminate().success());
}

#[test]
fn an_installed_release_is_not_staged_again_by_the_next_master() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is installed at");
    assert!(app.terminate().success());
    let mut app = scene.start();
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert_eq!(app.count_lines("is proved"), 0);
}

#[test]
fn a_restart_of_the_whole_service_downloads_nothing() {
    let source = Source::new(release("version=2"));
    source.allow(usize::MAX);
    let mut scene = Scene::new("");
    scene.add_words(&format!("fetch={}", source.url()));
    let mut app = scene.start();
    app.line_after("is installed at");
    assert!(app.terminate().success());
    let before = source.asked().len();
    let mut app = scene.start();
    app.wait_until("it has looked three times", |_| source.asked().len() >= before + 3);
    assert!(app.terminate().success());
    let methods: Vec<String> = source.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods.iter().filter(|method| *method != "HEAD").collect::<Vec<_>>(), ["GET"], "{methods:?}");
    assert!(methods[before..].iter().all(|method| method == "HEAD"), "{methods:?}");
}

#[test]
fn a_release_that_has_lived_through_its_probation_is_trusted() {
    let scene = Scene::with_source("probation=200");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("has lived through its probation of 0.2s");
    app.wait_until("the record says so", |_| scene.state()["probation"].is_null());
    assert_eq!(ask(app.address()).version, "2");
}

#[test]
fn a_candidate_finds_the_files_beside_the_program() {
    let scene = Scene::with_source("");
    fs::write(scene.program().with_file_name("colour"), "blue").expect("written");
    let mut app = scene.start();
    scene.publish("version=2 warm_up=10000");
    app.line_after("serving version=2");
    // Old and new both accept, so ask until the candidate is the one that answers.
    app.wait_until("the candidate answers", |app| ask(app.address()).version == "2");
    assert_eq!(tell(app.address(), "beside colour").expect("an answer"), "blue");
    assert!(scene.names_beside().iter().any(|name| name.starts_with(".app.new-")), "{:?}", scene.names_beside());
}

#[test]
fn a_second_copy_that_the_program_starts_is_a_fresh_one() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    for how in ["copy", "copy dirty"] {
        let pid = tell(app.address(), how).expect("an answer");
        app.line_after(&format!("master started as pid {}", pid.trim()));
        app.line_after("serving version=1 generation=1");
    }
    assert_eq!(ask(app.address()).generation, 1);
    app.restart();
}

#[test]
fn a_release_with_another_address_gets_it_and_the_old_one_is_closed() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let old = app.address().to_owned();
    scene.publish("version=2 address=web=127.0.0.1:0,127.0.0.1:0");
    let serving = app.line_after("serving version=2");
    let addresses: Vec<&str> = serving.rsplit_once(" on ").expect("addresses").1.split(',').collect();
    app.line_after("generation 1 is gone");
    assert_eq!(addresses[1], old, "the same text is the same address");
    assert_eq!(ask(addresses[0]).version, "2");
    assert_eq!(ask(addresses[1]).version, "2");

    let web = addresses[0].to_owned();
    scene.publish("version=3 address=web=127.0.0.1:0");
    app.line_after("serving version=3");
    app.line_after("generation 2 is gone");
    assert_eq!(ask(&web).version, "3");
    assert!(tell(&old, "hello").is_err(), "nobody listens there any more");
}

#[test]
fn a_candidate_that_is_to_accept_late_serves_nobody_before_it_is_committed() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    scene.publish("version=2 accept_late warm_up=300");
    app.line_after("generation 2 is ready");
    load.wait_for("1", 20);
    app.line_after("is installed at");
    load.wait_for("2", 20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    let before_commit = app.count_lines("generation 2 took over");
    assert_eq!(before_commit, 1);
}

#[test]
fn with_no_restart_a_release_is_installed_and_runs_from_the_next_start_on() {
    let scene = Scene::with_source("no_restart");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is installed at");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "2"));
    app.signal(nix::sys::signal::Signal::SIGUSR2);
    assert!(app.wait_exit().success());
    let app = scene.start();
    assert_eq!(ask(app.address()).version, "2");
}

#[test]
fn with_no_restart_after_fetch_a_release_waits_for_the_next_restart() {
    let scene = Scene::with_source("at_next_restart");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is proved and waits for the next restart");
    app.line_after("nothing new at");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "1"));
    app.signal(nix::sys::signal::Signal::SIGUSR2);
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("2", "2"));
}

#[test]
fn a_release_is_the_same_bytes_at_the_path() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is installed at");
    assert!(fs::read(scene.program()).expect("read") == release("version=2"));
}

#[test]
fn with_upgrades_set_to_notify_a_release_is_told_of_once_and_not_installed() {
    let scene = Scene::with_source("upgrades=notify");
    let mut app = scene.start();
    // The first look finds that the release is the running file.
    app.line_after("looking for a release");
    app.line_after("nothing new at");
    scene.publish("version=2");
    let line = app.line_after("[overseer] release ");
    assert!(line.ends_with("and is not installed: upgrades are set to notify"), "{line}");
    app.line_after("looking for a release");
    app.line_after("looking for a release");
    assert_eq!((app.count_lines("is not installed"), ask(app.address()).version.as_str()), (1, "1"));
    assert_eq!((scene.version_at_path().as_str(), scene.names_beside()), ("1", vec!["app".to_owned()]));
    assert!(!scene.state_dir().join("download").exists());
    app.restart();
    scene.publish("version=3");
    app.line_after("and is not installed: upgrades are set to notify");
}

#[test]
fn with_upgrades_off_nobody_looks_and_restarts_work() {
    let scene = Scene::with_source("upgrades=off");
    let mut app = scene.start();
    scene.publish("version=2");
    app.restart();
    assert_eq!((app.count_lines("looking for a release"), app.count_lines("upgrades are off")), (0, 0));
    assert_eq!(scene.version_at_path(), "1");
}
