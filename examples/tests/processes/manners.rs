//! How a master behaves towards the system around it.

use crate::app::{App, Scene, version_in};
use crate::load::{Load, ask, tell};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

#[test]
fn a_unix_socket_keeps_file_and_mode_over_restarts_and_goes_with_the_master() {
    let mut scene = Scene::new("");
    let socket = scene.directory().join("app.sock");
    scene.add_words(&format!("address=unix:{}?mode=0640", socket.display()));
    let mut app = scene.start();
    let before = fs::metadata(&socket).expect("it is there");
    assert_eq!(before.mode() & 0o777, 0o640);
    for generation in 2..=4 {
        app.restart_to(generation);
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.write_all(b"hello\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("received");
        assert!(answer.starts_with(&format!("1 {generation} ")), "{answer}");
    }
    let after = fs::metadata(&socket).expect("it is there");
    assert_eq!((before.ino(), after.mode() & 0o777), (after.ino(), 0o640));
    assert!(app.terminate().success());
    assert!(!socket.exists());

    // A killed master leaves it, and the next one takes its place.
    let mut app = scene.start();
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    app.wait_until("the orphans are gone", |app| app.processes().is_empty());
    assert!(socket.exists());
    let mut app = scene.start();
    assert!(app.terminate().success());
    assert!(!socket.exists());
}

#[test]
fn a_pid_file_names_the_master_keeps_a_second_one_out_and_goes_with_it() {
    let mut scene = Scene::new("");
    let file = scene.directory().join("app.pid");
    scene.add_words(&format!("pid_file={}", file.display()));
    let mut app = scene.start();
    assert_eq!(fs::read_to_string(&file).expect("read").trim(), app.pid().to_string());
    app.restart_to(2);
    assert_eq!(fs::read_to_string(&file).expect("read").trim(), app.pid().to_string());
    let mut second = App::start(scene.command());
    second.line_after("cannot take the PID file");
    assert_eq!(second.wait_exit().code(), Some(1));
    assert_eq!(ask(app.address()).generation, 2);
    assert!(app.terminate().success());
    assert!(!file.exists());
}

#[test]
fn switched_off_the_program_runs_alone() {
    let scene = Scene::with_source("");
    let mut command = scene.command();
    command.env("OVERSEER", "off");
    let mut app = App::start(command);
    let serving = app.line_after("serving version=1 generation=1 ");
    let address = serving.rsplit_once(" on ").expect("an address").1;
    assert_eq!(tell(address, "enabled").expect("an answer"), "false\n");
    assert_eq!(app.processes().len(), 1);
    assert!(app.terminate().success());
    assert_eq!(app.count_lines("[overseer]"), 0);
}

#[test]
fn a_wrong_setting_is_named_and_ends_the_start_with_code_1() {
    for (words, said) in [
        ("address=nonsense", "setting address is \"nonsense\""),
        ("restart_signal=15", "SIGTERM"),
        ("address=127.0.0.1:0,web=127.0.0.1:0,web=127.0.0.1:0", "same name"),
        ("ready_timeout=0", "setting ready_timeout"),
    ] {
        let scene = Scene::new(words);
        let mut app = App::start(scene.command());
        app.line_after(said);
        assert_eq!(app.wait_exit().code(), Some(1), "{words}");
    }
}

#[test]
fn an_address_that_another_program_keeps_is_named_and_ends_the_start_with_code_1() {
    let scene = Scene::new("");
    let app = scene.start();
    let other = Scene::new(&format!("address={}", app.address()));
    let mut second = App::start(other.command());
    second.line_after(&format!("cannot listen on {}", app.address()));
    assert_eq!(second.wait_exit().code(), Some(1));
}

#[test]
fn a_log_in_json_has_one_object_a_line() {
    let scene = Scene::with_source("json");
    let mut app = App::start(scene.command());
    app.line_after("serving version=1");
    app.line_after("generation-ready");
    scene.publish("version=2");
    app.line_after("\"committed\"");
    for line in app.all_lines().lines().filter(|line| line.starts_with('{')) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(value["code"].is_string() && value["message"].is_string(), "{line}");
    }
}

/// How often the process has gone to sleep or was made to.
fn switches(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let counts = status.lines().filter(|line| line.contains("ctxt_switches:")).filter_map(|line| line.split_whitespace().last());
    counts.map(|count| count.parse::<u64>().expect("a number")).sum()
}

#[test]
fn an_idle_master_has_one_thread_and_does_not_wake_up() {
    let scene = Scene::with_source("interval=3600000");
    let mut app = scene.start();
    app.wait_until("the look is over", |_| scene.state()["looks"]["outcome"] == "the running release");
    assert_eq!(fs::read_dir(format!("/proc/{}/task", app.pid())).expect("it lives").count(), 1);
    // What the look left to do is done when it has slept once more; there is nothing that tells of a process that does nothing.
    thread::sleep(Duration::from_millis(500));
    let before = switches(app.pid());
    thread::sleep(Duration::from_secs(3));
    assert_eq!(switches(app.pid()), before);
    assert_eq!(fs::read_dir(format!("/proc/{}/task", app.pid())).expect("it lives").count(), 1);
}

#[test]
fn two_masters_of_one_file_follow_each_other_and_neither_undoes_the_others_work() {
    let scene = Scene::with_source("");
    let mut first = scene.start();
    let mut second = scene.start();
    second.line_after("another master looks for releases");
    let (load_first, load_second) = (Load::start(first.address()), Load::start(second.address()));
    scene.publish("version=2");
    first.line_after("is installed at");
    second.line_after("the file at the program's path has changed");
    load_first.wait_for("2", 10);
    load_second.wait_for("2", 10);
    assert_eq!(scene.version_at_path(), "2");
    assert_eq!((load_first.stop().failed(), load_second.stop().failed()), (0, 0));

    // A crash under the first takes the release back, and the second follows.
    first.line_after("generation 1 is gone");
    second.line_after("generation 1 is gone");
    let _ = tell(first.address(), "crash");
    first.line_after("the previous binary is back");
    first.line_after("generation 3 is ready");
    second.wait_until("the second follows", |app| ask(app.address()).version == "1");
    assert_eq!(scene.version_at_path(), "1");

    // When the first ends, the second looks by itself.
    assert!(first.terminate().success());
    scene.publish("version=3");
    second.line_after("is installed at");
    second.wait_until("version 3 answers", |app| ask(app.address()).version == "3");
    assert_eq!(version_in(&scene.state_dir().join("previous")), "1");
    assert!(second.terminate().success());
}

#[test]
fn a_crash_under_the_second_of_two_masters_goes_back_there_and_changes_nothing_at_the_path() {
    let scene = Scene::with_source("");
    let mut first = scene.start();
    let mut second = scene.start();
    second.line_after("another master looks for releases");
    scene.publish("version=2");
    second.line_after("generation 1 is gone");
    let _ = tell(second.address(), "crash");
    second.line_after("this one goes on with the previous binary as generation 3");
    second.line_after("generation 3 is ready");
    assert_eq!(ask(second.address()).version, "1");
    assert_eq!((scene.version_at_path().as_str(), ask(first.address()).version.as_str()), ("2", "2"));

    // What crashed here is not taken up again, and what comes after it is.
    scene.publish("version=3");
    second.wait_until("the second follows", |app| ask(app.address()).version == "3");
    assert!(!second.all_lines().contains("generation 5 started"), "{}", second.all_lines());
    assert!(first.terminate().success() && second.terminate().success());
}

#[test]
fn a_standard_error_that_nobody_reads_stops_nothing() {
    let scene = Scene::new("");
    // A shell fills the pipe first, so that no line of the master has room.
    let wrapper = "exec 2> >(exec sleep 1000); dd if=/dev/zero bs=65536 count=1 >&2 2>/dev/null; exec \"$0\"";
    let mut app = scene.start_by(&["bash", "-c", wrapper]);
    let serving = app.line_after("serving version=1 ");
    let address = serving.rsplit_once(" on ").expect("an address").1.to_owned();
    for _ in 0..3 {
        let before = ask(&address);
        app.signal(Signal::SIGUSR2);
        app.wait_until("it is restarted", |_| ask(&address).generation > before.generation);
    }
    assert_eq!(app.count_lines("[overseer]"), 0);
    app.signal(Signal::SIGTERM);
    assert!(app.wait_exit().success());
}
