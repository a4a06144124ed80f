//! Operators' commands: the program itself, run with `OVERSEER=..`.

use crate::app::{App, Scene, can_run, is_root, release, spawn};
use crate::load::{PATIENCE, ask};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What came of a command.
#[derive(Debug)]
struct Said {
    status: Option<i32>,
    text: String,
    error: String,
}

/// Runs the program with this in the variable, and waits for its end.
fn operator(scene: &Scene, wish: &str) -> Said {
    finish(scene.operator(&[], wish, &[]))
}

fn finish(mut command: Command) -> Said {
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("it is ours").is_none() {
        if Instant::now() >= deadline {
            child.kill().expect("killed");
            let output = child.wait_with_output().expect("its end");
            panic!("{command:?} has not ended: {}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its end");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
    Said { status: output.status.code(), text: text(output.stdout), error: text(output.stderr) }
}

/// A command that does what it was to do.
#[track_caller]
pub(crate) fn done(scene: &Scene, wish: &str) -> String {
    let said = operator(scene, wish);
    assert_eq!((said.status, said.error.as_str()), (Some(0), ""), "{wish}: {said:?}");
    said.text
}

/// A command that does not.
#[track_caller]
pub(crate) fn refused(scene: &Scene, wish: &str) -> String {
    let said = operator(scene, wish);
    assert_eq!((said.status, said.text.as_str()), (Some(1), ""), "{wish}: {said:?}");
    said.error
}

pub(crate) fn status(scene: &Scene) -> Value {
    let said = operator(scene, "status.json");
    serde_json::from_str(&said.text).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Looks only when it is asked to, once it has looked for the first time.
fn rarely_looking(words: &str) -> (Scene, App) {
    let scene = Scene::with_source(&format!("interval=3600000 {words}"));
    let mut app = scene.start();
    app.line_after("looking for a release");
    app.wait_until("the first look is over", |_| status(&scene)["source"]["last_success"].is_string());
    (scene, app)
}

#[test]
fn status_shows_a_serving_program_to_people_and_to_programs() {
    let (scene, mut app) = rarely_looking("");
    let said = status(&scene);
    assert_eq!((&said["schema"], &said["serving"]), (&json!(1), &json!(true)), "{said:#}");
    assert_eq!(said["master"]["pid"], json!(app.pid().as_raw()));
    let generation = &said["generations"][0];
    assert_eq!((&generation["generation"], &generation["state"]), (&json!(1), &json!("serving")), "{said:#}");
    assert_eq!(generation["pid"], json!(ask(app.address()).pid));
    assert_eq!(generation["connections"], json!(0));
    assert!(said["summary"].as_str().is_some_and(|summary| summary.starts_with("up to date as of the look at ")), "{said:#}");
    let is_time = |value: &Value| value.as_str().is_some_and(|time| time.len() == 20 && time.ends_with('Z') && time.contains('T'));
    assert!(is_time(&said["source"]["last_look"]) && is_time(&said["source"]["next_look"]) && is_time(&said["at"]), "{said:#}");

    let page = done(&scene, "status");
    assert!(page.starts_with(&format!("{} serves\n\nin short     up to date", scene.program().display())), "{page}");
    assert!(page.contains(&format!("master       pid {}, since ", app.pid())), "{page}");
    assert!(page.contains("generations  1 serving, pid "), "{page}");

    app.terminate();
    let said = operator(&scene, "status");
    assert_eq!(said.status, Some(3), "{said:?}");
    assert!(said.text.contains("does not serve") && said.text.contains("in short     no master runs"), "{}", said.text);
    assert!(said.text.contains("got SIGTERM: finishing what is open"), "the record tells: {}", said.text);
}

#[test]
fn a_restart_by_command_ends_when_the_new_generation_serves_and_fails_when_that_fails() {
    let scene = Scene::new("");
    let mut app = scene.start();
    assert_eq!(done(&scene, "restart"), "generation 2 has taken over");
    app.wait_until("generation 2 answers", |app| ask(app.address()).generation == 2);
    crate::app::put(&scene.program(), &release("version=2 behave=exit-at-start"));
    let why = refused(&scene, "restart");
    assert!(why.contains("generation 3 ended with exit code 7"), "{why}");
    assert_eq!(ask(app.address()).generation, 2);
    // A unit that asks for its own master, and finds the one of another.
    let mut others = scene.operator(&[], "restart", &[]);
    others.env("MAINPID", "1");
    let said = finish(others);
    assert!(said.status == Some(1) && said.error.contains("give each service a state_dir of its own"), "{said:?}");
}

#[test]
fn a_look_by_command_ends_with_what_it_found() {
    let (scene, mut app) = rarely_looking("");
    assert!(done(&scene, "poll").ends_with("nothing new"));
    scene.publish("version=2");
    let said = done(&scene, "poll");
    assert!(said.contains(": found release "), "{said}");
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    let said = status(&scene);
    assert!(said["summary"].as_str().is_some_and(|summary| summary.contains("and on probation until")), "{said:#}");
    assert_eq!(said["installed"]["id"], said["generations"][0]["release"]["id"], "{said:#}");
}

#[test]
fn a_look_that_cannot_be_had_is_refused_with_the_reason() {
    for (words, why) in [("", "the program has no fetcher"), ("fetch=nothing upgrades=off", "the program has set upgrades to off")] {
        let scene = Scene::new(words);
        let _app = scene.start();
        let said = refused(&scene, "poll");
        assert!(said.contains(why), "{said}");
        assert!(status(&scene)["summary"].as_str().is_some_and(|summary| summary.starts_with("upgrades are off: ")));
    }
    let scene = Scene::new("fetch=fail interval=3600000");
    let _app = scene.start();
    let said = refused(&scene, "poll");
    assert!(said.contains("failed: the fetcher fails"), "{said}");
}

#[test]
fn a_rollback_goes_back_in_service_and_the_release_is_not_taken_again_before_a_retry() {
    let (scene, mut app) = rarely_looking("");
    assert!(refused(&scene, "rollback").contains("there is no previous binary"));
    scene.publish("version=2");
    done(&scene, "poll");
    app.line_after("generation 2 took over");
    app.line_after("generation 1 is gone");
    assert_eq!(done(&scene, "rollback"), "generation 3 has taken over");
    assert_eq!(scene.version_at_path(), "1");
    // The old generation accepts until it has heard that it is to leave.
    app.wait_until("version 1 answers", |app| ask(app.address()).version == "1");
    app.line_after("the previous binary is at");
    app.line_after("the master runs");
    assert!(done(&scene, "poll").ends_with("nothing new"));
    let said = status(&scene);
    let verdict = &said["verdicts"][0];
    assert!(verdict["reason"].as_str().is_some_and(|reason| reason.starts_with("rolled back by ")), "{said:#}");
    assert_eq!((&verdict["verdict"], &verdict["until"]), (&json!("rejected"), &Value::Null));
    assert!(refused(&scene, "rollback").contains("there is no previous binary"));
    let said = done(&scene, "retry");
    assert!(said.contains(": found release "), "{said}");
    app.line_after("generation 4 took over");
    assert_eq!(scene.version_at_path(), "2");
}

#[test]
fn a_previous_binary_that_does_not_come_up_is_not_rolled_back_to() {
    let (scene, mut app) = rarely_looking("");
    scene.publish("version=2");
    done(&scene, "poll");
    app.line_after("generation 2 took over");
    app.line_after("generation 1 is gone");
    crate::app::put(&scene.state_dir().join("previous"), &release("version=0 behave=exit-at-start"));
    let why = refused(&scene, "rollback");
    assert!(why.contains("generation 3 ended with exit code 7"), "{why}");
    assert_eq!((ask(app.address()).generation, scene.version_at_path().as_str()), (2, "2"));
    assert_eq!(status(&scene)["verdicts"], json!([]));
}

#[test]
fn held_upgrades_wait_also_for_the_next_master_and_restarts_work() {
    let (scene, mut app) = rarely_looking("");
    done(&scene, "hold:the fair is on");
    scene.publish("version=2");
    assert!(done(&scene, "poll").contains("which is not to be installed"));
    let line = app.line_after("is not installed: upgrades are held by ");
    assert!(line.ends_with(": the fair is on"), "{line}");
    done(&scene, "restart");
    app.terminate();
    let mut app = scene.start();
    assert_eq!(ask(app.address()).version, "1");
    let said = status(&scene);
    assert_eq!(said["upgrades"]["held"]["reason"], json!("the fair is on"), "{said:#}");
    assert!(
        said["summary"].as_str().is_some_and(|summary| summary.contains("the fair is on") && summary.ends_with("is there")),
        "{said:#}"
    );
    done(&scene, "unhold");
    app.line_after("generation 2 took over");
    assert_eq!(scene.version_at_path(), "2");
    assert!(refused(&scene, "unhold").contains("upgrades are not held"));
}

#[test]
fn who_has_no_rights_on_the_state_directory_is_refused() {
    if !is_root("another user") || !can_run("another user", "setpriv", &["--reuid=65534", "--clear-groups", "true"]) {
        return;
    }
    let scene = Scene::new("");
    let app = scene.start();
    let nobody = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for wish in ["status", "status.json", "restart", "rollback", "hold"] {
        let said = finish(scene.operator(nobody, wish, &[]));
        assert_eq!((said.status, said.text.as_str()), (Some(4), ""), "{wish}: {said:?}");
        assert!(said.error.contains("Permission denied"), "{wish}: {said:?}");
    }
    // Who may only read it sees, and can ask for nothing.
    fs::set_permissions(scene.state_dir(), Permissions::from_mode(0o755)).expect("mode set");
    for name in ["state.json", "master.json"] {
        let _ = fs::set_permissions(scene.state_dir().join(name), Permissions::from_mode(0o644));
    }
    let said = finish(scene.operator(nobody, "status", &[]));
    assert_eq!(said.status, Some(0), "{said:?}");
    let said = finish(scene.operator(nobody, "restart", &[]));
    assert_eq!(said.status, Some(4), "{said:?}");
    assert_eq!(ask(app.address()).generation, 1);
}

#[test]
fn root_gives_commands_to_a_master_of_another_user_and_shuts_nothing_up() {
    if !is_root("another user") || !can_run("another user", "setpriv", &["--reuid=65534", "--clear-groups", "true"]) {
        return;
    }
    let scene = Scene::with_source("interval=3600000");
    chown(scene.directory().join("app"), Some(65534), Some(65534)).expect("given");
    chown(scene.program(), Some(65534), Some(65534)).expect("given");
    assert_eq!(done(&scene, "hold:before the first start"), "upgrades are held; no master runs");
    let nobody = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut app = scene.start_by(nobody);
    app.wait_until_ready();
    assert_eq!(done(&scene, "restart"), "generation 2 has taken over");
    assert_eq!(status(&scene)["upgrades"]["held"]["reason"], json!("before the first start"));
    done(&scene, "unhold");
    assert_eq!(finish(scene.operator(nobody, "restart", &[])).text, "generation 3 has taken over");
    assert_eq!((app.count_lines("cannot save"), app.count_lines("what was remembered is lost")), (0, 0));
}

#[test]
fn a_command_of_somebody_else_is_ignored_and_a_signal_without_a_command_is_passed_on() {
    if !is_root("a file of another user") {
        return;
    }
    let scene = Scene::new("");
    let mut app = scene.start();
    let path = scene.state_dir().join("command-x.json");
    fs::write(&path, r#"{"token":"x","command":{"name":"restart"},"by":"mallory"}"#).expect("written");
    chown(&path, Some(4711), None).expect("given");
    app.signal(Signal::SIGURG);
    let line = app.line_after("is ignored: ");
    assert!(line.contains("belongs to user 4711"), "{line}");
    assert!(!path.exists());
    fs::write(&path, "restart!").expect("written");
    app.signal(Signal::SIGURG);
    app.line_after("is ignored: it is no command");
    app.signal(Signal::SIGURG);
    app.line_after("SIGURG is passed on to generation 1");
    assert_eq!(ask(app.address()).generation, 1);
}

#[test]
fn a_master_that_was_killed_is_not_asked_nor_whoever_has_its_number() {
    let scene = Scene::with_source("interval=3600000");
    let mut app = scene.start();
    let shown = fs::read(scene.state_dir().join("master.json")).expect("shown");
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    assert_eq!(operator(&scene, "status").status, Some(3));
    assert!(refused(&scene, "restart").contains("no master of "));
    // As if the number had been given to another process, for which the signal would be the end.
    let mut other = spawn(Command::new("sleep").arg("60").stdin(Stdio::null()));
    let mut live: Value = serde_json::from_slice(&shown).expect("JSON");
    live["process"]["pid"] = json!(other.id());
    fs::write(scene.state_dir().join("master.json"), live.to_string()).expect("written");
    assert!(refused(&scene, "poll").contains("no master of "));
    assert_eq!(operator(&scene, "status").status, Some(3));
    assert!(
        fs::read_dir(scene.state_dir())
            .expect("a directory")
            .flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with("command-"))
    );
    other.kill().expect("it lives");
    other.wait().expect("its end");
    let _app = scene.start();
    assert_eq!(done(&scene, "restart"), "generation 2 has taken over");
}

#[test]
fn without_a_master_the_record_and_the_file_are_changed() {
    let (scene, mut app) = rarely_looking("");
    scene.publish("version=2");
    done(&scene, "poll");
    app.line_after("generation 1 is gone");
    app.terminate();
    let said = done(&scene, "rollback");
    assert!(said.contains("runs from the next start on"), "{said}");
    assert_eq!(scene.version_at_path(), "1");
    assert!(refused(&scene, "rollback").contains("there is no previous binary"));
    done(&scene, "hold");
    assert_eq!(scene.state()["held"]["reason"], json!("no reason given"));
    done(&scene, "unhold");
    let mut app = scene.start();
    assert!(done(&scene, "poll").ends_with("nothing new"));
    assert_eq!(ask(app.address()).version, "1");
    app.terminate();
    assert!(done(&scene, "retry").starts_with("1 verdicts are forgotten"));
    let mut app = scene.start();
    app.line_after("generation 2 took over");
    assert_eq!(scene.version_at_path(), "2");
}

#[test]
fn a_damaged_record_is_told_and_harms_no_command() {
    let scene = Scene::new("");
    let mut app = scene.start();
    fs::write(scene.state_dir().join("state.json"), "{").expect("written");
    let said = operator(&scene, "status");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.text.contains("state.json is damaged: "), "{}", said.text);
    done(&scene, "restart");
    app.terminate();
    fs::write(scene.state_dir().join("state.json"), "{").expect("written");
    fs::write(scene.state_dir().join("master.json"), "{").expect("written");
    assert_eq!(operator(&scene, "status").status, Some(3));
    assert!(scene.state_dir().join("state.json").exists(), "who only looks changes nothing");
    let said = operator(&scene, "hold:damage");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.error.contains("what was remembered is lost"), "{said:?}");
    assert_eq!(scene.state()["held"]["reason"], json!("damage"));
}

#[test]
fn a_command_that_nobody_knows_is_an_error_that_names_all() {
    let scene = Scene::new("");
    let said = refused(&scene, "statsu");
    assert!(said.contains("OVERSEER is \"statsu\"") && said.contains("off, status, status.json, poll, retry, rollback, hold"), "{said}");
    for wish in ["poll", "restart", "retry", "rollback", "unhold"] {
        refused(&scene, wish);
    }
    assert_eq!(operator(&scene, "status").status, Some(3));
    assert!(!scene.state_dir().exists(), "nothing was made");
}

#[test]
fn commands_during_upgrades_and_while_the_master_is_replaced_are_all_answered() {
    let scene = Scene::with_source("warm_up=200");
    let mut app = scene.start();
    // The line that it is ready comes before the master shows it.
    app.wait_until("it is shown to serve", |_| operator(&scene, "status").status == Some(0));
    thread::scope(|scope| {
        let asking: Vec<_> = (0..20)
            .map(|number| {
                let wish = ["poll", "restart", "status.json", "poll"][number % 4];
                let scene = &scene;
                scope.spawn(move || (0..3).map(|_| operator(scene, wish)).collect::<Vec<_>>())
            })
            .collect();
        for version in 2..5 {
            scene.publish(&format!("version={version}"));
            app.wait_until("it is installed", |_| scene.version_at_path() == version.to_string());
        }
        for asked in asking {
            for said in asked.join().expect("it is answered") {
                assert_eq!(said.status, Some(0), "{said:?}");
            }
        }
    });
    app.line_after_start("the master runs");
    // The commit comes before the old generation stops accepting.
    app.wait_until("version 4 answers", |app| ask(app.address()).version == "4");
    let master: Pid = app.pid();
    assert_eq!(status(&scene)["master"]["pid"], json!(master.as_raw()));
}

#[test]
fn a_hold_stops_a_release_that_comes_up() {
    let (scene, mut app) = rarely_looking("warm_up=60000");
    scene.publish("version=2");
    done(&scene, "poll");
    app.line_after("generation 2 is ready");
    done(&scene, "hold:not today");
    app.line_after("is not installed: upgrades are held by ");
    app.line_after("generation 2 is gone");
    assert_eq!((ask(app.address()).version.as_str(), scene.names_beside()), ("1", vec!["app".to_owned()]));
}
