//! What a new version may change: its addresses and its settings.

use crate::app::{App, Scene, process, put, release};
use crate::load::{Load, PATIENCE, Request, ask, tell};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect};
use nix::unistd::Pid;
use std::fs::{self, DirEntry};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const REPLACED: &str = "the master runs ";

/// Addresses with ports that nobody had a moment ago, and that no other test asks for: each has a part of 127.0.0.0/8 for itself.
fn addresses<const N: usize>(test: u8) -> [String; N] {
    let host = |place: usize| format!("127.{test}.{}.{}", std::process::id() % 250 + 1, place + 1);
    std::array::from_fn(|place| {
        let free = TcpListener::bind((host(place), 0)).expect("a port");
        free.local_addr().expect("an address").to_string()
    })
}

fn refuses(address: &str) -> bool {
    tell(address, "hello").is_err()
}

#[test]
fn addresses_are_added_dropped_and_reordered_under_load_and_no_request_fails() {
    let scene = Scene::with_source("");
    let [a, b, c] = addresses(81);
    let socket = scene.directory().join("app.sock");
    let mut app = App::start(scene.command_with(&format!("address={a},web={b},unix:{}", socket.display())));
    app.wait_until_ready();
    let loads = [Load::start(&a), Load::start(&b)];
    let held = Request::begin(&a);
    UnixStream::connect(&socket).expect("version 1 has it");

    scene.publish(&format!("version=2 address=web={b},{c},{a}"));
    let serving = app.line_after("serving version=2");
    assert!(serving.ends_with(&format!(" on {b},{c},{a}")), "in its own order: {serving}");
    assert_eq!(ask(&c).version, "2", "it is bound before version 2 is ready");
    app.line_after(REPLACED);
    assert!(socket.exists(), "version 1 still drains");
    assert_eq!(held.finish().expect("an answer").version, "1");
    app.line_after("generation 1 is gone");
    app.wait_until("the file of the dropped socket is gone", |_| !socket.exists());
    let more = Load::start(&c);

    // A restart keeps them all.
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 3 took over");
    app.line_after("generation 2 is gone");
    scene.publish(&format!("version=3 address={c},front={a}"));
    loads[0].wait_for("3", 20);
    more.wait_for("3", 20);
    let [of_a, of_b] = loads;
    let tallies = [of_a.stop(), more.stop()];
    assert!(tallies.iter().all(|tally| tally.failed() == 0), "{tallies:?}");
    // The one that is dropped serves as long as somebody has it.
    let tally = of_b.stop();
    assert!(tally.answered["1"] > 0 && tally.answered["2"] > 0, "{tally}");
    app.line_after("generation 3 is gone");
    app.wait_until("nobody listens there any more", |_| refuses(&b));
    assert!(app.terminate().success());
}

#[test]
fn a_binary_store_that_comes_with_an_upgrade_is_said_to_wait_for_a_start() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish(&format!("version=2 binary_store={}", scene.directory().join("store").display()));
    app.line_after(REPLACED);
    let why = app.line_after("the new binary_store does not hold yet: ");
    assert_eq!(why, format!("releases lie in {} until the service is started anew", scene.directory().join("app").display()));
    scene.publish("version=3");
    app.line_after(REPLACED);
    app.line_after_start("generation 2 is gone");
    assert_eq!((scene.version_at_path().as_str(), app.count_lines("does not hold yet")), ("3", 1));
    assert!(app.terminate().success());
}

#[test]
fn an_address_that_was_dropped_comes_back_with_the_version_that_has_it() {
    let scene = Scene::with_source("");
    let [a, b] = addresses(82);
    let socket = scene.directory().join("app.sock");
    let mut app = App::start(scene.command_with(&format!("address={a},{b},unix:{}", socket.display())));
    app.wait_until_ready();
    let load = Load::start(&a);
    scene.publish(&format!("version=2 address={a}"));
    app.line_after(REPLACED);
    app.line_after_start("generation 1 is gone");
    app.wait_until("what was dropped is closed", |_| refuses(&b) && !socket.exists());
    let _ = tell(&a, "crash");
    app.line_after("the previous binary is back");
    app.line_after("generation 3 is ready");
    assert_eq!(ask(&b).version, "1");
    UnixStream::connect(&socket).expect("it listens again");
    load.wait_for("1", 20);
    let tally = load.stop();
    assert_eq!(tally.refused, 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn an_address_that_cannot_be_had_keeps_a_release_out_with_the_reason() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    let [taken] = addresses(83);
    let somebody = TcpListener::bind(&taken).expect("bound");
    scene.publish(&format!("version=2 address=127.0.0.1:0,{taken}"));
    // Somebody else's use of it says nothing about the release.
    app.line_after("that is not the release's fault");
    assert!(app.count_lines(&format!("cannot have {taken}: Address already in use")) > 0, "{}", app.all_lines());
    load.wait_for("1", 10);
    drop(somebody);
    app.line_after("generation 1 is gone");
    assert_eq!(ask(&taken).version, "2");

    let nowhere = scene.directory().join("no/such/directory/app.sock");
    scene.publish(&format!("version=3 address=127.0.0.1:0,unix:{}", nowhere.display()));
    app.line_after("tried again in ");
    assert!(app.count_lines(&format!("cannot have unix:{}: No such file", nowhere.display())) > 0, "{}", app.all_lines());
    assert_eq!(ask(&taken).version, "2", "what the failed candidate did not have stays open");
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

/// For how many clients that nobody accepts a Unix listener has room while the process is stopped: one more than its backlog.
fn room_at(socket: &Path, pid: Pid) -> usize {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten();
    let number = |thread: DirEntry| thread.file_name().to_str().and_then(|number| number.parse().ok()).expect("a number");
    kill(pid, Signal::SIGSTOP).expect("it runs");
    let deadline = Instant::now() + PATIENCE;
    while !threads().all(|thread| process(number(thread)).is_some_and(|thread| thread.state == 'T')) {
        assert!(Instant::now() < deadline, "a thread of {pid} runs on");
        thread::yield_now();
    }
    let waiting: Vec<OwnedFd> = std::iter::from_fn(|| {
        let client = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).expect("a socket");
        match connect(client.as_raw_fd(), &UnixAddr::new(socket).expect("an address")) {
            Ok(()) => Some(client),
            Err(errno) => {
                assert_eq!(errno, Errno::EAGAIN, "there is no room");
                None
            }
        }
    })
    .collect();
    kill(pid, Signal::SIGCONT).expect("it is there");
    waiting.len()
}

#[test]
fn a_backlog_is_that_of_the_new_version_on_the_same_socket() {
    let scene = Scene::with_source("");
    let path = scene.directory().join("app.sock");
    let address = |backlog: u32| format!("address=127.0.0.1:0,unix:{}?backlog={backlog}", path.display());
    let mut app = App::start(scene.command_with(&address(3)));
    app.wait_until_ready();
    let (at, inode) = (app.address().to_owned(), fs::metadata(&path).expect("it is bound").ino());
    assert_eq!(room_at(&path, app.child_in_role("child").expect("version 1")), 4);
    for (version, backlog) in [(2, 7), (3, 2)] {
        scene.publish(&format!("version={version} {}", address(backlog)));
        let serving = app.line_after(&format!("serving version={version}"));
        assert!(serving.ends_with(&format!(" on {at}")), "{serving}");
        app.line_after(REPLACED);
        app.line_after_start(&format!("generation {} is gone", version - 1));
        // The master sees to its listeners when it has said so.
        let room = |app: &mut App| room_at(&path, app.child_in_role("child").expect("the new version"));
        app.wait_until("the backlog is that of the new version", |app| room(app) == backlog as usize + 1);
        assert_eq!(fs::metadata(&path).expect("it is bound").ino(), inode);
    }
    assert!(app.terminate().success());
}

#[test]
fn time_outs_source_and_log_are_those_of_the_new_version() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    let elsewhere = scene.directory().join("source/elsewhere");
    let source = format!("fetch={}", elsewhere.display());
    let second = format!("version=2 {source} terminate_timeout=700 probation=300 interval=90 warm_up=150");
    put(&elsewhere, &release(&second));
    scene.publish(&second);
    app.line_after("has lived through its probation");
    app.line_after_start("generation 1 is gone");
    load.wait_for("2", 5);

    // What is published at the old place concerns nobody.
    scene.publish("version=9");
    let cut = Request::begin(app.address());
    put(&elsewhere, &release(&format!("version=3 {source} json")));
    app.line_after_start("generation 3 took over");
    let asked = Instant::now();
    app.line_after("generation 2 is gone");
    assert!(asked.elapsed() < Duration::from_secs(8), "version 1 gave ten seconds");
    cut.finish().expect_err("version 2 gave less");
    app.line_after_start("\"code\":\"master-replaced\"");
    app.signal(Signal::SIGUSR2);
    app.line_after("\"code\":\"generation-active\"");
    load.wait_for("3", 5);
    let tally = load.stop();
    assert_eq!((tally.failed(), tally.answered.contains_key("9")), (0, false), "{tally}");
    assert!(app.terminate().success());
}

/// In the first and in the last version SIGUSR2 restarts, in between SIGHUP; `ignored` from the beginning or not.
fn the_restart_signal_changes(words: &str, ignored: bool) {
    let scene = Scene::with_source(words);
    let mut app = if ignored { scene.start_by(&["env", "--ignore-signal=HUP,USR2"]) } else { App::start(scene.command()) };
    app.wait_until_ready();
    let load = Load::start(app.address());
    app.restart();
    scene.publish(&format!("version=2 count_signals restart_signal={}", Signal::SIGHUP as i32));
    app.line_after("generation 3 took over");
    app.line_after_start("generation 2 is gone");
    if !words.contains("keep_master") {
        app.line_after_start(REPLACED);
    }
    // The old one is one of many now: ignored, or the program's own, which has no handler for it.
    if ignored {
        app.signal(Signal::SIGUSR2);
        app.signal(Signal::SIGUSR1);
        app.wait_until("the program has got what came later", |app| app.counted(Signal::SIGUSR1 as i32, 3) == 1);
        assert_eq!(app.count_lines("SIGUSR2 is passed on"), 0);
    }
    app.signal(Signal::SIGHUP);
    app.line_after("generation 4 took over");
    app.line_after("generation 3 is gone");
    scene.publish("version=3");
    app.line_after("generation 5 took over");
    app.line_after("generation 4 is gone");
    if !words.contains("keep_master") {
        app.wait_until("it is replaced again", |app| app.count_lines(REPLACED) == 2);
    }
    app.restart_to(6);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    if ignored {
        app.signal(Signal::SIGHUP);
        app.restart_to(7);
        assert!(app.terminate().success());
    } else {
        // Nobody takes it any more, so it ends the program.
        app.signal(Signal::SIGHUP);
        assert_eq!(app.wait_exit().signal(), Some(Signal::SIGHUP as i32));
    }
}

#[test]
fn the_restart_signal_is_that_of_the_new_version() {
    the_restart_signal_changes("", false);
}

#[test]
fn the_restart_signal_is_that_of_the_new_version_also_where_the_master_stays() {
    the_restart_signal_changes("keep_master", false);
}

#[test]
fn a_restart_signal_that_was_ignored_is_taken_for_as_long_as_it_is_one() {
    the_restart_signal_changes("", true);
    the_restart_signal_changes("keep_master", true);
}

#[test]
fn the_stop_signals_are_those_of_the_new_version() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish(&format!("version=2 stop_signals={}", Signal::SIGHUP as i32));
    app.line_after(REPLACED);
    app.line_after_start("generation 1 is gone");
    app.signal(Signal::SIGHUP);
    app.line_after("got SIGHUP");
    assert!(app.wait_exit().success(), "it has drained");
}

#[test]
fn environment_and_arguments_stay_as_the_process_manager_gave_them() {
    let scene = Scene::with_source("grow_path");
    let mut command = scene.command();
    command.args(["one", "two words"]).env("GIVEN", "by=the manager").env("LISTEN_FDS", "2").env("LISTEN_PID", "1");
    let mut app = App::start(command);
    app.wait_until_ready();
    let of = |pid: i32| {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).expect("it lives");
        let environment = read("environ");
        let variables = environment.split(|byte| *byte == 0).map(|variable| String::from_utf8_lossy(variable).into_owned());
        (variables.filter(|variable| !variable.starts_with("OVERSEER_ROLE=")).collect::<Vec<_>>(), read("cmdline"))
    };
    let (master, child) = (of(app.pid().as_raw()), of(ask(app.address()).pid));
    assert_eq!(master, child);
    assert!(child.0.contains(&"GIVEN=by=the manager".to_owned()) && child.1.ends_with(b"\0one\0two words\0"), "{child:?}");
    for version in 2..=6 {
        scene.publish(&format!("version={version}"));
        app.wait_until("it is replaced", |app| app.count_lines(REPLACED) == version - 1);
    }
    app.line_after("generation 5 is gone");
    app.restart();
    assert_eq!(of(app.pid().as_raw()), master);
    assert_eq!(of(ask(app.address()).pid), child);
    assert!(app.terminate().success());
}
