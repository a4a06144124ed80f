//! The master replaces itself wherever it runs: as PID 1, with capabilities, with signals that were blocked or ignored from the beginning, stopped and
//! continued, without files in memory. And where it cannot be known beforehand that it fails.

use crate::app::{App, Scene, can_run, is_root, put, release, spawn, version_in};
use crate::load::{Load, Request, ask, tell};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

const REPLACED: &str = "the master runs ";

fn runs(app: &App) -> String {
    version_in(format!("/proc/{}/exe", app.pid()).as_ref())
}

/// What /proc says of the process in this line of its status.
fn status(pid: Pid, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    text.lines().find_map(|line| line.strip_prefix(name)).expect("it is there").trim().to_owned()
}

fn upgrade(scene: &Scene, app: &mut App, version: usize) {
    scene.publish(&format!("version={version}"));
    app.wait_until("it is replaced", |app| app.count_lines(REPLACED) == version - 1);
    app.line_after_start(&format!("generation {} is gone", version - 1));
}

#[test]
fn as_pid_1_it_is_replaced_and_still_reaps_and_takes_signals() {
    if !can_run("a master with PID 1", "unshare", &["--pid", "--fork", "--mount-proc", "true"]) {
        return;
    }
    let scene = Scene::with_source("count_signals terminate_timeout=20000");
    let mut app = scene.start_by(&["unshare", "--pid", "--fork", "--mount-proc"]);
    app.wait_until_ready();
    let load = Load::start(app.address());
    upgrade(&scene, &mut app, 2);
    // When generation 2 leaves, what it has started becomes a child of the master.
    let before: Vec<Pid> = app.processes().iter().map(|process| process.pid).collect();
    tell(app.address(), "copy").expect("told");
    app.wait_until("the copy serves", |app| app.count_lines("serving version=2 generation=1 ") == 1);
    let copies: Vec<Pid> = app.processes().iter().map(|process| process.pid).filter(|pid| !before.contains(pid)).collect();
    scene.publish("version=3");
    app.line_after("generation 3 took over");
    for sent in 1..=20 {
        app.signal(Signal::SIGUSR1);
        assert_eq!(app.counted_at_least(Signal::SIGUSR1 as i32, 3, sent), sent);
    }
    app.wait_until("it is replaced", |app| runs(app) == "3");
    app.line_after_start("ending version=2 generation=2 ");
    // Who looks for releases here starts processes that may have gone by now.
    for copy in copies {
        let _ = kill(copy, Signal::SIGKILL);
    }
    app.wait_until("all orphans are reaped", |app| app.children().iter().all(|child| child.state != 'Z') && app.children().len() == 1);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn signals_blocked_or_ignored_from_the_beginning_are_so_for_the_program_after_any_number_of_replacements() {
    let what = "signals that are blocked from the beginning";
    let wrapper = ["env", "--block-signal=WINCH,URG", "--ignore-signal=HUP,USR1"];
    if !can_run(what, "env", &[wrapper[1], wrapper[2], "true"]) {
        return;
    }
    let scene = Scene::with_source("");
    let mut app = scene.start_by(&wrapper);
    app.wait_until_ready();
    let of_program = |app: &App| {
        let pid = Pid::from_raw(ask(app.address()).pid);
        (status(pid, "SigBlk:"), status(pid, "SigIgn:"))
    };
    let (first, master) = (of_program(&app), ["SigBlk:", "SigIgn:", "SigCgt:"].map(|name| status(app.pid(), name)));
    let has = |mask: &str, signal: Signal| u64::from_str_radix(mask, 16).expect("a mask") & (1 << (signal as i32 - 1)) != 0;
    assert!(has(&first.0, Signal::SIGWINCH) && has(&first.0, Signal::SIGURG) && !has(&first.0, Signal::SIGTERM), "{first:?}");
    assert!(has(&first.1, Signal::SIGHUP) && has(&first.1, Signal::SIGUSR1) && !has(&first.1, Signal::SIGTERM), "{first:?}");
    for version in 2..=6 {
        upgrade(&scene, &mut app, version);
        assert_eq!(of_program(&app), first, "version {version}");
        // While it starts a process, it blocks them all.
        app.wait_until("its own are as before", |app| ["SigBlk:", "SigIgn:", "SigCgt:"].map(|name| status(app.pid(), name)) == master);
    }
    app.signal(Signal::SIGHUP);
    app.restart();
    assert_eq!(of_program(&app), first);
    assert!(app.terminate().success());
}

#[test]
fn stopped_and_continued_all_the_time_it_is_replaced_all_the_same() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let (pid, load) = (app.pid(), Load::start(app.address()));
    for version in 2..=6 {
        scene.publish(&format!("version={version}"));
        app.wait_until("it is replaced", |app| {
            app.signal(Signal::SIGSTOP);
            app.signal(Signal::SIGCONT);
            app.count_lines(REPLACED) == version - 1
        });
        app.line_after_start(&format!("generation {} is gone", version - 1));
    }
    assert_eq!((app.pid(), runs(&app).as_str()), (pid, "6"));
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn with_the_rights_of_its_file_it_is_replaced_and_has_those_of_the_next() {
    if !is_root("file capabilities") || !can_run("file capabilities", "setcap", &["-h"]) {
        return;
    }
    for (tool, argument) in [("setcap", "cap_net_bind_service=ep"), ("chmod", "4755")] {
        let give = |path: &std::path::Path| {
            let status = spawn(Command::new(tool).arg(argument).arg(path)).wait().expect("its end");
            assert!(status.success(), "{tool}");
        };
        let scene = Scene::new("");
        give(&scene.program());
        let mut app = scene.start_by(&["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups"]);
        app.wait_until_ready();
        let rights = |pid: Pid| (status(pid, "CapEff:"), status(pid, "Uid:"));
        let first = rights(app.pid());
        for version in 2..=4 {
            let beside = scene.program().with_extension("next");
            put(&beside, &release(&format!("version={version}")));
            give(&beside);
            fs::rename(&beside, scene.program()).expect("renamed");
            app.signal(Signal::SIGUSR2);
            app.wait_until("it is replaced", |app| app.count_lines(REPLACED) == version - 1);
            assert_eq!((runs(&app), rights(app.pid())), (version.to_string(), first.clone()));
            assert_eq!(rights(Pid::from_raw(ask(app.address()).pid)), first);
            app.line_after_start(&format!("generation {} is gone", version - 1));
        }
        // And without them, where the operator has taken them away.
        put(&scene.program(), &release("version=5"));
        app.signal(Signal::SIGUSR2);
        app.wait_until("it is replaced", |app| app.count_lines(REPLACED) == 4);
        assert_eq!(runs(&app), "5");
        // Who is root has become it for good.
        assert_eq!(rights(app.pid()) == first, tool == "chmod", "{tool}");
        assert!(app.terminate().success());
    }
}

#[test]
fn who_executes_a_set_user_id_program_cannot_have_it_execute_something_else() {
    if !is_root("a set-user-ID program") || !can_run("a set-user-ID program", "setpriv", &["--version"]) {
        return;
    }
    let scene = Scene::new("");
    fs::set_permissions(scene.program(), fs::Permissions::from_mode(0o4755)).expect("mode set");
    let (touch, theirs, loot) = (Path::new("/usr/bin/touch"), scene.directory().join("theirs"), scene.directory().join("loot"));
    fs::create_dir(&theirs).expect("made");
    chown(&theirs, Some(4711), Some(4711)).expect("given away");
    let forged = theirs.join("forged");
    let passed = json!({"descriptor": 8, "inode": fs::metadata(touch).expect("it is there").ino()});
    let place = json!({"directory": "/", "invoked": "/app", "name": "app", "state_dir": "/"});
    let handed = [
        ("master", json!({"header": {"format": 0, "predecessor": passed}})),
        ("stored", json!({"place": place, "packaged": passed, "is_counted": false})),
    ];
    for (role, contents) in handed {
        fs::write(&forged, contents.to_string()).expect("written");
        chown(&forged, Some(4711), Some(4711)).expect("given away");
        let mut app = App::start({
            let mut command = Command::new("setpriv");
            command.args(["--reuid=4711", "--regid=4711", "--clear-groups", "sh", "-c"]);
            // What a master hands over has no name.
            command.arg("exec 8<\"$2\" 9<\"$3\"; rm \"$3\"; OVERSEER_ROLE=$4,9,$5,$$ exec \"$0\" \"$1\"");
            command.args([scene.program(), loot.clone(), touch.to_owned(), forged.clone()]);
            command.args([role.to_owned(), fs::metadata(&forged).expect("it is there").ino().to_string()]);
            // With settings that are wrong, a stored release goes back to the packaged file.
            command.env("ACTOR", "address=nonsense");
            command
        });
        assert_eq!(app.wait_exit().code(), Some(1), "{role}");
        app.wait_until("all is said", |app| app.has_said_all());
        assert!(!loot.exists(), "{role}: it was executed with the rights of the file");
        app.line_after(&format!("error: OVERSEER_ROLE={role},9,"));
        app.rewind();
        app.line_after("was not set by user 0");
    }
}

#[test]
fn without_files_in_memory_what_it_knows_travels_in_an_unlinked_one() {
    let strace =
        ["strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=memfd_create", "-e", "inject=memfd_create:error=EPERM"];
    if !can_run("a system without memfd_create", "strace", &["-V"]) {
        return;
    }
    let scene = Scene::with_source("");
    let directory = scene.directory().join("temporary");
    fs::create_dir(&directory).expect("made");
    let variable = format!("TMPDIR={}", directory.display());
    let mut app = scene.start_by(&[&strace[..], &["env", &variable]].concat());
    app.wait_until_ready();
    let load = Load::start(app.address());
    for version in 2..=4 {
        upgrade(&scene, &mut app, version);
    }
    assert_eq!((runs(&app).as_str(), fs::read_dir(&directory).expect("there").count()), ("4", 0));
    // Where that cannot be had either, the master stays.
    fs::remove_dir(&directory).expect("removed");
    scene.publish("version=5");
    app.line_after("the master is not replaced and goes on as it is: ");
    app.line_after_start("generation 4 is gone");
    assert_eq!((runs(&app).as_str(), ask(app.address()).version.as_str()), ("4", "5"));
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn a_main_that_ends_only_in_the_master_itself_ends_the_service_and_what_is_open_is_finished() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    let held = Request::begin(app.address());
    scene.publish("version=2 behave=exit-as-successor");
    assert_eq!(app.wait_exit().code(), Some(9));
    assert_eq!(held.finish().expect("an answer").version, "1");
    app.wait_until("nobody is left", |app| app.processes().is_empty());
    // A process manager starts it anew, as version 2, which works as long as it is not replaced.
    let mut again = scene.start();
    assert_eq!(ask(again.address()).version, "2");
    assert!(again.terminate().success());
}

#[test]
fn a_master_that_only_waits_lets_go_of_what_it_does_not_use_of_its_program() {
    let kib = |pid: Pid| status(pid, "RssFile:").trim_end_matches(" kB").parse::<u64>().expect("a number");
    // The child has come up in the same file, and is as large as that makes it.
    let has_let_go = |app: &mut App| kib(app.pid()) * 4 < kib(app.children()[0].pid) * 3;
    let scene = Scene::new("");
    let mut app = scene.start();
    app.wait_until("most of it is gone", has_let_go);
    app.restart();
    app.wait_until("it is gone again", has_let_go);
    assert_eq!(ask(app.address()).generation, 2);
    assert!(app.terminate().success());
}
