//! Operators' commands: the program itself, run with `OVERSEER=..`.

use crate::app::{App, Scene, can_run, is_root, release, spawn};
use crate::load::{PATIENCE, Request, ask};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

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

fn status(scene: &Scene) -> Value {
    read(&operator(scene, "status.json"))
}

fn read(said: &Said) -> Value {
    serde_json::from_str(&said.text).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The sentence that says why this is not the newest.
fn summary(scene: &Scene) -> String {
    status(scene)["summary"].as_str().expect("a sentence").to_owned()
}

/// Waits until the master shows that it serves, which it does after the line that its generation is ready.
fn wait_until_it_is_shown(scene: &Scene, app: &mut App) {
    app.wait_until("it is shown to serve", |_| operator(scene, "status").status == Some(0));
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
fn what_a_draining_generation_has_open_by_its_own_count_is_shown_and_told_when_it_is_killed() {
    let scene = Scene::new("terminate_timeout=4000 guard behave=never-drain");
    let mut app = scene.start();
    let requests = [Request::begin(app.address()), Request::begin(app.address())];
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 1 drains; it has 4s to finish");
    let shown = |count: u64| {
        let scene = &scene;
        move |_: &mut App| status(scene)["generations"][1]["open_work"] == json!(count)
    };
    app.wait_until("the connections and the guard are shown", shown(3));
    let page = done(&scene, "status");
    assert!(page.contains(" left, 2 connections, 3 pieces of open work"), "{page}");
    for request in requests {
        request.finish().expect("an answer");
    }
    app.wait_until("the guard alone is shown", shown(1));
    let line = app.line_after("generation 1 has not finished after ");
    // On a machine with very many sockets those of one process are not counted.
    assert!(line.contains(" and is killed, with ") && line.contains(" and, as it said last, 1 piece of work open (pid "), "{line}");
    app.line_after("generation 1 is gone");
    assert_eq!(status(&scene)["generations"][0]["open_work"], Value::Null);
}

#[test]
fn what_is_open_is_known_to_the_master_that_an_upgrade_brings() {
    let scene = Scene::with_source("guard");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("generation 2 took over");
    app.line_after("the master runs ");
    app.wait_until("the guard is shown", |_| status(&scene)["generations"][1]["open_work"] == json!(1));
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
    assert!(page.contains(&format!("state dir    {}", scene.state_dir().display())), "{page}");
    let request = Request::begin(app.address());
    assert_eq!(status(&scene)["generations"][0]["connections"], json!(1));
    assert!(done(&scene, "status").contains(" old, 1 connection"));
    assert_eq!(status(&scene)["generations"][0]["open_work"], Value::Null, "that is told in a drain");
    request.finish().expect("an answer");
    app.wait_until("it is closed", |_| status(&scene)["generations"][0]["connections"] == json!(0));

    app.terminate();
    let said = operator(&scene, "status");
    assert_eq!(said.status, Some(3), "{said:?}");
    assert!(
        said.text.contains("does not serve")
            && said.text.contains(&format!("in short     no master runs (by {})", scene.state_dir().display())),
        "{}",
        said.text
    );
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
fn the_last_look_and_the_last_that_worked_are_kept_apart() {
    let (scene, mut app) = rarely_looking("");
    fs::remove_file(scene.source()).expect("it is there");
    // Both are shown in whole seconds.
    app.wait_until("a look fails in another second", |_| {
        assert!(refused(&scene, "poll").contains(": failed: cannot read "));
        let source = &status(&scene)["source"];
        source["last_look"] != source["last_success"]
    });
    let said = status(&scene);
    assert!(said["source"]["last_success"].as_str() < said["source"]["last_look"].as_str(), "{said:#}");
    assert!(said["source"]["failures"].as_u64() > Some(0), "{said:#}");
    let summary = said["summary"].as_str().expect("a sentence");
    assert!(summary.starts_with("no look has worked since 2") && summary.contains("; the last one failed: cannot read "), "{summary}");
    let page = done(&scene, "status");
    assert!(page.contains("\nlast look    2") && page.contains("\nlast success 2"), "{page}");
}

#[test]
fn what_is_installed_is_shown_by_the_names_that_its_source_has_for_it() {
    let scene = Scene::with_source("interval=3600000 release_version=2.0");
    scene.publish("version=2");
    let mut app = scene.start();
    app.line_after("generation 2 took over");
    app.wait_until("it is shown", |_| status(&scene)["installed"]["version"] == json!("2.0"));
    let said = status(&scene);
    let id = said["installed"]["id"].as_str().expect("an ID");
    assert_eq!(said["installed"]["tag"], json!("v2.0"), "{said:#}");
    let serving = said["generations"].as_array().and_then(|all| all.iter().find(|one| one["state"] == json!("serving")));
    assert_eq!(serving.expect("one serves")["release"], json!({ "id": id, "version": "2.0", "tag": "v2.0" }), "{said:#}");
    let page = done(&scene, "status");
    assert!(page.contains(&format!("\ninstalled    release 2.0 ({}), tag v2.0, since ", &id[..12])), "{page}");
}

#[test]
fn a_release_that_is_held_back_is_shown_with_the_reason() {
    let (scene, mut app) = rarely_looking("");
    scene.publish("version=2 behave=exit-at-start");
    done(&scene, "poll");
    app.line_after("keeps serving; tried again in");
    app.wait_until("it is shown", |_| status(&scene)["verdicts"][0].is_object());
    let said = status(&scene);
    let verdict = &said["verdicts"][0];
    assert_eq!((&verdict["verdict"], &verdict["failures"]), (&json!("held_back"), &json!(1)), "{said:#}");
    assert!(verdict["until"].as_str() > said["at"].as_str(), "{said:#}");
    assert!(verdict["reason"].as_str().is_some_and(|reason| reason.contains("ended with exit code 7")), "{said:#}");
    let summary = summary(&scene);
    assert!(summary.contains(" is held back until 2") && summary.contains("it ended with exit code 7"), "{summary}");
    let page = done(&scene, "status");
    assert!(page.contains("\nnot tried    release ") && page.contains(": held back until 2"), "{page}");
}

#[test]
fn a_program_that_is_only_to_tell_shows_what_is_there() {
    let (scene, _app) = rarely_looking("upgrades=notify");
    scene.publish("version=2");
    assert!(done(&scene, "poll").ends_with("which is not to be installed"));
    let said = status(&scene);
    assert_eq!(said["upgrades"], json!({ "level": "notify", "impossible": null, "held": null }));
    assert!(said["available"]["tag"].is_string() && said["available"]["since"].is_string(), "{said:#}");
    let summary = summary(&scene);
    assert!(
        summary.starts_with("upgrades are set to notify; release ") && summary.ends_with(" is there and is not installed"),
        "{summary}"
    );
    assert!(done(&scene, "status").contains("\nupgrades     notify\n"));
    assert_eq!(scene.version_at_path(), "1");
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
fn a_release_that_waits_for_a_restart_goes_on_waiting_while_upgrades_are_held() {
    let (scene, mut app) = rarely_looking("at_next_restart");
    scene.publish("version=2");
    done(&scene, "poll");
    app.wait_until("it waits", |_| status(&scene)["waiting"]["id"].is_string());
    assert!(summary(&scene).ends_with(" is proved and waits for the next restart"), "{}", summary(&scene));
    done(&scene, "hold:not today");
    assert_eq!(done(&scene, "restart"), "generation 2 has taken over");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "1"));
    let page = done(&scene, "status");
    assert!(page.contains("\nwaiting      release ") && page.contains(": not today"), "{page}");
    done(&scene, "unhold");
    assert_eq!(done(&scene, "restart"), "generation 3 has taken over");
    app.wait_until("version 2 answers", |app| ask(app.address()).version == "2");
    assert_eq!((scene.version_at_path().as_str(), &status(&scene)["waiting"]), ("2", &Value::Null));
}

#[test]
fn who_has_no_rights_on_the_state_directory_is_refused() {
    if !is_root("another user") || !can_run("another user", "setpriv", &["--reuid=65534", "--clear-groups", "true"]) {
        return;
    }
    let scene = Scene::new("");
    let mut app = scene.start();
    wait_until_it_is_shown(&scene, &mut app);
    let nobody = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for wish in ["status", "status.json", "restart", "rollback", "hold"] {
        let said = finish(scene.operator(nobody, wish, &[]));
        assert_eq!((said.status, said.text.as_str()), (Some(4), ""), "{wish}: {said:?}");
        assert!(said.error.contains("Permission denied"), "{wish}: {said:?}");
    }
    // Who may only read it sees, and can ask for nothing.
    fs::set_permissions(scene.state_dir(), Permissions::from_mode(0o755)).expect("mode set");
    // Nothing changes any more that a master would show anew.
    fs::set_permissions(scene.state_dir().join("master.json"), Permissions::from_mode(0o644)).expect("mode set");
    let _ = fs::set_permissions(scene.state_dir().join("state.json"), Permissions::from_mode(0o644));
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
    let nobody = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut app = scene.start_by(nobody);
    app.wait_until_ready();
    app.terminate();
    let said = done(&scene, "hold:before the next start");
    assert_eq!(said, format!("upgrades are held; no master runs (by {})", scene.state_dir().display()));
    let mut app = scene.start_by(nobody);
    app.wait_until_ready();
    assert_eq!(done(&scene, "restart"), "generation 2 has taken over");
    assert_eq!(status(&scene)["upgrades"]["held"]["reason"], json!("before the next start"));
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
    let text = File::create(&path).expect("made");
    text.lock().expect("locked");
    (&text).write_all(b"restart!").expect("written");
    app.signal(Signal::SIGURG);
    app.line_after("is ignored: it is no command");
    // As if whoever left it had been killed, and then somebody asked for something else.
    fs::write(&path, r#"{"token":"x","command":{"name":"restart"},"by":"root"}"#).expect("written");
    assert!(refused(&scene, "unhold").contains("upgrades are not held"));
    app.line_after("is ignored: nobody waits for it");
    assert!(!path.exists());
    app.signal(Signal::SIGURG);
    app.line_after("SIGURG is passed on to generation 1");
    assert_eq!(ask(app.address()).generation, 1);
}

#[test]
fn commands_of_which_one_signal_tells_are_all_taken_in_their_order() {
    let scene = Scene::new("");
    let app = scene.start();
    let tokens: Vec<String> = (0..25).map(|number| format!("token-{}", number * 7 % 25)).collect();
    let leave = |(at, token): (u64, &String)| {
        let beside = scene.state_dir().join("being-written");
        let mut file = File::create(&beside).expect("made");
        write!(file, r#"{{"token":"{token}","command":{{"name":"unhold"}},"by":"root"}}"#).expect("written");
        file.lock().expect("locked");
        file.set_modified(UNIX_EPOCH + Duration::from_secs(at)).expect("set");
        fs::rename(&beside, scene.state_dir().join(format!("command-{token}.json"))).expect("renamed");
        file
    };
    let _left: Vec<File> = (1..).zip(&tokens).map(leave).collect();
    app.signal(Signal::SIGURG);
    let taken = || {
        let shown = fs::read(scene.state_dir().join("master.json")).unwrap_or_default();
        let shown: Value = serde_json::from_slice(&shown).unwrap_or_default();
        let tokens = shown["commands"].as_array().into_iter().flatten().filter_map(|told| told["token"].as_str().map(str::to_owned));
        tokens.collect::<Vec<_>>()
    };
    let mut app = app;
    app.wait_until("all are answered", |_| taken().len() >= tokens.len());
    assert_eq!(taken(), tokens);
}

#[test]
fn a_master_in_another_pid_namespace_is_not_said_to_serve_and_one_that_is_gone_is_in_nobodys_way() {
    const ELSEWHERE: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let what = "a master in another PID namespace";
    if !can_run(what, "unshare", &[&ELSEWHERE[1..], &["true"]].concat()) || !can_run(what, "nsenter", &["--version"]) {
        return;
    }
    let scene = Scene::with_source("interval=3600000");
    scene.publish("version=2");
    let mut app = scene.start_by(&ELSEWHERE);
    app.wait_until_ready();
    app.line_after("generation 2 took over");
    app.line_after("generation 1 is gone");
    let pid = app.pid().to_string();
    let inside = ["nsenter", "--target", &pid, "--pid", "--mount", "--"];
    app.wait_until("it is shown to serve", |_| finish(scene.operator(&inside, "status", &[])).status == Some(0));
    // From the machine, and from another container.
    for from in [&[][..], &ELSEWHERE] {
        let said = finish(scene.operator(from, "status.json", &[]));
        let shown = read(&said);
        assert_eq!((said.status, &shown["serving"]), (Some(4), &Value::Null), "{shown:#}");
        assert_eq!((&shown["master"]["pid"], &shown["master"]["state"]), (&json!(1), &json!("unknown")));
        assert_eq!(shown["generations"][0]["connections"], Value::Null);
        let page = finish(scene.operator(from, "status", &[]));
        assert_eq!(page.status, Some(4));
        assert!(page.text.contains("app may serve\n\nin short     nobody can tell from here whether it serves: "), "{page:?}");
        for wish in ["restart", "poll", "retry", "rollback", "hold", "unhold"] {
            let said = finish(scene.operator(from, wish, &[]));
            assert_eq!((said.status, said.text.as_str()), (Some(4), ""), "{wish}: {said:?}");
            assert!(said.error.contains("the master has the PID 1 in another PID namespace"), "{said:?}");
        }
    }
    assert_eq!(finish(scene.operator(&inside, "restart", &[])).text, "generation 3 has taken over");
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    for from in [&[][..], &ELSEWHERE] {
        let said = finish(scene.operator(from, "status", &[]));
        assert_eq!(said.status, Some(3), "{said:?}");
        assert!(said.text.contains("in short     no master runs"), "{said:?}");
        for wish in ["hold:it crashes", "unhold"] {
            assert_eq!(finish(scene.operator(from, wish, &[])).status, Some(0), "{wish}");
        }
    }
    // As for a container that crashes whenever it is started.
    let said = finish(scene.operator(&ELSEWHERE, "rollback", &[]));
    assert!(said.status == Some(0) && said.text.contains("runs from the next start on"), "{said:?}");
    let mut app = scene.start_by(&ELSEWHERE);
    app.wait_until_ready();
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "1"));
}

#[test]
fn a_master_that_shows_what_cannot_be_read_is_not_said_to_be_gone() {
    let scene = Scene::new("");
    let mut app = scene.start();
    wait_until_it_is_shown(&scene, &mut app);
    let path = scene.state_dir().join("master.json");
    let mut live: Value = serde_json::from_slice(&fs::read(&path).expect("shown")).expect("JSON");
    // As a newer one would.
    live["commands"] = json!([{ "token": "x", "waits_for": { "the_moon": {} }, "command": 7 }]);
    live["weather"] = json!("fine");
    let mut dreaming = live["generations"][0].clone();
    dreaming["state"] = json!("dreaming");
    live["generations"].as_array_mut().expect("some").push(dreaming);
    fs::write(&path, live.to_string()).expect("written");
    let said = operator(&scene, "status");
    assert!(said.status == Some(0) && said.text.contains("generations  1 in another state, pid "), "{said:?}");
    live["generations"][0]["started_unix_s"] = json!("this morning");
    fs::write(&path, live.to_string()).expect("written");
    let said = operator(&scene, "status.json");
    assert_eq!((said.status, &read(&said)["serving"]), (Some(4), &Value::Null), "{said:?}");
    let page = operator(&scene, "status").text;
    assert!(page.contains("whether it serves: what the master shows in ") && page.contains("\nmaster       not known\n"), "{page}");
    for wish in ["restart", "hold"] {
        let said = operator(&scene, wish);
        assert!(said.status == Some(4) && said.error.contains("cannot be read: "), "{said:?}");
    }
    app.terminate();
    assert_eq!(operator(&scene, "status").status, Some(3));
}

#[test]
fn without_the_environment_of_the_service_a_command_says_where_it_has_looked_and_holds_nothing() {
    let scene = Scene::with_source("interval=3600000");
    let store = scene.directory().join("store");
    let words = format!("binary_store={}", store.display());
    let mut app = App::start(scene.command_with(&words));
    app.wait_until_ready();
    let said = operator(&scene, "status");
    assert_eq!(said.status, Some(3), "{said:?}");
    assert!(said.text.contains(&format!("no master runs (by {})", scene.state_dir().display())), "{said:?}");
    let why = refused(&scene, "hold");
    assert!(why.contains(&format!("there is no {}; start the service first, or give", scene.state_dir().display())), "{why}");
    assert!(!scene.state_dir().exists(), "nothing was made");
    let with_environment = |wish: &str| {
        let mut command = scene.operator(&[], wish, &[]);
        command.env("ACTOR", format!("{} {words}", scene.words()));
        finish(command)
    };
    app.wait_until("it is shown to serve", |_| with_environment("status").status == Some(0));
    assert_eq!(with_environment("hold").status, Some(0));
    let page = with_environment("status").text;
    assert!(page.contains(&format!("state dir    {}", store.join(".app.overseer").display())) && page.contains("held by"), "{page}");
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
    // As if the number had been given to another process, which would tell of the signal.
    let script = "trap 'exit 9' URG; echo up; read line; exit 0";
    let mut other = spawn(Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()));
    BufReader::new(other.stdout.take().expect("a pipe")).read_line(&mut String::new()).expect("it is up");
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
    other.stdin.take().expect("a pipe").write_all(b"the end\n").expect("it lives");
    assert_eq!(other.wait().expect("its end").code(), Some(0), "it has got no signal");
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
    assert!(done(&scene, "retry").starts_with("verdicts forgotten: 1; "));
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
    for wish in ["poll", "restart", "retry", "rollback", "hold", "unhold"] {
        refused(&scene, wish);
    }
    assert_eq!(operator(&scene, "status").status, Some(3));
    assert!(!scene.state_dir().exists(), "nothing was made");
}

#[test]
fn commands_during_upgrades_and_while_the_master_is_replaced_are_all_answered() {
    let scene = Scene::with_source("warm_up=200");
    let mut app = scene.start();
    wait_until_it_is_shown(&scene, &mut app);
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
