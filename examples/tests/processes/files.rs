//! What happens to the files: the program's own, the operator's, and where nothing can be written.

use crate::app::{App, Scene, can_run, is_root, put, release, spawn, version_in};
use crate::load::{Load, ask, tell};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(&mut command).wait_with_output().expect("its end");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_operators_file_is_taken_up_by_a_restart_and_never_replaced_by_core() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    put(&scene.program(), &release("version=mine"));
    app.signal(Signal::SIGUSR2);
    app.line_after("runs another file than the one before, which is at");
    app.line_after("generation 2 took over");
    app.line_after("generation 1 is gone");
    assert_eq!(ask(app.address()).version, "mine");
    // It crashes: nothing is put back, and the master ends as it did.
    let _ = tell(app.address(), "crash");
    assert!(!app.wait_exit().success());
    assert_eq!(scene.version_at_path(), "mine");
}

#[test]
fn an_operators_broken_file_stays_and_the_old_generation_keeps_serving() {
    let scene = Scene::new("");
    let mut app = scene.start();
    let load = Load::start(app.address());
    for contents in [release("version=mine behave=crash-at-start"), b"not a program".to_vec(), b"#!/bin/false\n".to_vec()] {
        put(&scene.program(), &contents);
        app.signal(Signal::SIGUSR2);
        app.line_after("failed: generation");
        assert!(fs::read(scene.program()).expect("read") == contents);
    }
    load.wait_for("1", 5);
    assert_eq!(load.stop().failed(), 0);
}

#[test]
fn a_program_whose_path_is_no_text_serves_and_is_upgraded() {
    let scene = Scene::with_source("");
    let directory = scene.directory().join(OsStr::from_bytes(b"\xff"));
    fs::rename(scene.directory().join("app"), &directory).expect("renamed");
    symlink(&directory, scene.directory().join("app")).expect("a link, which is resolved");
    let mut app = scene.start();
    for version in 2..=3 {
        scene.publish(&format!("version={version}"));
        app.line_after("is installed at");
        app.line_after(&format!("generation {} is gone", version - 1));
        assert_eq!((ask(app.address()).version, scene.version_at_path()), (version.to_string(), version.to_string()));
    }
    assert_eq!(app.count_lines("warning: "), 0, "{}", app.all_lines());
    assert!(app.terminate().success());
    assert_eq!(scene.names_beside(), ["app"]);
}

#[test]
fn an_operators_file_put_there_during_an_upgrade_is_not_replaced() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2 warm_up=500");
    app.line_after("generation 2 is ready");
    put(&scene.program(), &release("version=mine"));
    app.line_after("was replaced while the upgrade ran");
    app.line_after("generation 2 is gone");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "mine"));
    assert_eq!(scene.names_beside(), ["app"]);
    app.restart_to(3);
    assert_eq!(ask(app.address()).version, "mine");
}

#[test]
fn an_operators_file_put_there_before_an_upgrade_stops_it() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    put(&scene.program(), &release("version=mine"));
    scene.publish("version=2");
    app.line_after("look");
    app.line_after("look");
    app.line_after("look");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "mine"));
    app.restart_to(2);
    assert_eq!(ask(app.address()).version, "mine");
    // From then on it is the running one, and an upgrade replaces it as any other.
    app.line_after("is installed at");
    app.wait_until("version 2 answers", |app| ask(app.address()).version == "2");
}

#[test]
fn an_operators_file_put_there_in_the_probation_is_not_taken_back() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("generation 1 is gone");
    put(&scene.program(), &release("version=mine"));
    let _ = tell(app.address(), "crash");
    assert!(!app.wait_exit().success());
    assert_eq!(scene.version_at_path(), "mine");
}

#[test]
fn mode_and_symlink_are_kept() {
    let scene = Scene::with_source("");
    let real = scene.directory().join("app/app-real");
    fs::rename(scene.program(), &real).expect("renamed");
    symlink("app-real", scene.program()).expect("a link");
    fs::set_permissions(&real, Permissions::from_mode(0o750)).expect("mode set");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is installed at");
    assert!(fs::symlink_metadata(scene.program()).expect("there").is_symlink());
    assert_eq!((version_in(&real).as_str(), fs::metadata(&real).expect("there").mode() & 0o7777), ("2", 0o750));
    app.line_after("generation 1 is gone");

    // Whoever changes the link chooses the next binary.
    let other = scene.directory().join("app/app-other");
    put(&other, &release("version=3"));
    fs::remove_file(scene.program()).expect("removed");
    symlink("app-other", scene.program()).expect("a link");
    app.restart_to(3);
    assert_eq!(ask(app.address()).version, "3");
}

#[test]
fn owner_and_attributes_are_kept() {
    if !is_root("owner and attributes") {
        return;
    }
    let scene = Scene::with_source("");
    let path = scene.program();
    let path = path.to_str().expect("text");
    run("chown", &["4711:4712", path]);
    xattr::set(path, "user.note", b"kept").expect("set");
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is installed at");
    let metadata = fs::metadata(path).expect("there");
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (4711, 4712, 0o755));
    assert_eq!(xattr::get(path, "user.note").expect("read").as_deref(), Some(&b"kept"[..]));
}

#[test]
fn file_capabilities_are_kept_and_hurt_no_child() {
    if !is_root("file capabilities") || !can_run("file capabilities", "setcap", &["-h"]) {
        return;
    }
    let scene = Scene::with_source("");
    let path = scene.program();
    let path = path.to_str().expect("text");
    run("setcap", &["cap_net_bind_service=ep", path]);
    let mut app = scene.start();
    scene.publish("version=2");
    app.line_after("is installed at");
    assert!(run("getcap", &[path]).contains("cap_net_bind_service=ep"));
}

#[test]
fn a_program_with_capabilities_does_not_outlive_its_master() {
    if !is_root("file capabilities") || !can_run("file capabilities", "setcap", &["-h"]) {
        return;
    }
    // The kernel forgets the parent-death signal of a process that gains capabilities (prctl(2)).
    for serve in ["incoming", "term"] {
        let scene = Scene::new(&format!("serve={serve}"));
        let path = scene.program();
        run("setcap", &["cap_net_bind_service=ep", path.to_str().expect("text")]);
        let mut app = scene.start_by(&["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups"]);
        app.wait_until_ready();
        app.signal(Signal::SIGKILL);
        app.wait_exit();
        app.wait_until("nobody is left", |app| app.processes().is_empty());
    }
}

/// Starts the program in a mount namespace of its own, after these commands of a shell. `None`: this machine does not allow it.
pub(crate) fn in_own_mounts(what: &str, scene: &Scene, commands: &str) -> Option<App> {
    let probe = ["-m", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"];
    if !can_run(what, "unshare", &probe) {
        return None;
    }
    let script = format!("set -e; {commands}; exec \"$0\"");
    Some(scene.start_by(&["unshare", "-m", "--propagation", "private", "sh", "-c", &script]))
}

fn upgrades_are_off(scene: &Scene, app: &mut App, why: &str) {
    let said = app.line_after("upgrades are off: ");
    assert!(said.contains(why), "{said}");
    app.rewind();
    app.wait_until_ready();
    scene.publish("version=2");
    app.restart_to(2);
    assert_eq!(ask(app.address()).version, "1");
    assert_eq!(app.count_lines("looking for a release"), 0);
    assert_eq!(app.count_lines("upgrades are off"), 1);
    assert!(app.terminate().success());
}

#[test]
fn on_a_read_only_file_system_upgrades_are_off_and_restarts_work() {
    let scene = Scene::with_source("");
    let app = scene.directory().join("app");
    let commands = format!("mount --bind {0} {0}; mount -o remount,bind,ro {0}", app.display());
    let Some(mut app) = in_own_mounts("a read-only file system", &scene, &commands) else { return };
    upgrades_are_off(&scene, &mut app, "read-only");
}

#[test]
fn with_a_bind_mounted_program_upgrades_are_off_and_restarts_work() {
    let scene = Scene::with_source("");
    let commands = format!("mount --bind {0} {0}", scene.program().display());
    let Some(mut app) = in_own_mounts("a bind-mounted program", &scene, &commands) else { return };
    upgrades_are_off(&scene, &mut app, "mount point");
}

#[test]
fn in_a_directory_that_cannot_be_written_upgrades_are_off_and_restarts_work() {
    if !can_run("another user", "setpriv", &["--reuid=4711", "--clear-groups", "true"]) {
        return;
    }
    let scene = Scene::with_source("");
    let mut app = scene.start_by(&["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups"]);
    upgrades_are_off(&scene, &mut app, "cannot");
}

#[test]
fn where_nothing_can_be_executed_any_more_the_running_generation_stays() {
    let scene = Scene::with_source("");
    let directory = scene.directory().join("app");
    let commands = format!("mount --bind {0} {0}", directory.display());
    let Some(mut app) = in_own_mounts("a file system without exec", &scene, &commands) else { return };
    app.wait_until_ready();
    let pid = app.pid().to_string();
    run("nsenter", &["-t", &pid, "-m", "mount", "-o", "remount,bind,noexec", directory.to_str().expect("text")]);
    scene.publish("version=2");
    app.line_after("the look at");
    app.signal(Signal::SIGUSR2);
    app.line_after("restart failed");
    assert_eq!((ask(app.address()).version.as_str(), scene.version_at_path().as_str()), ("1", "1"));
    // And when it is mended, all works.
    run("nsenter", &["-t", &pid, "-m", "mount", "-o", "remount,bind,exec", directory.to_str().expect("text")]);
    let generation = ask(app.address()).generation;
    app.signal(Signal::SIGUSR2);
    app.wait_until("it is restarted", |app| ask(app.address()).generation > generation);
    assert!(app.terminate().success());
}

#[test]
fn a_full_disk_costs_an_upgrade_and_nothing_else_and_room_mends_it() {
    let scene = Scene::with_source("");
    let directory = scene.directory().join("app");
    let size_kib = fs::metadata(scene.program()).expect("there").len() * 5 / 2 / 1024;
    let keep = scene.directory().join("kept");
    let commands = format!(
        "cp {program} {keep}; mount -t tmpfs -o size={size_kib}k none {directory}; cp {keep} {program}; chmod 755 {program}; \
         dd if=/dev/zero of={directory}/filler bs=1k 2>/dev/null || true",
        program = scene.program().display(),
        keep = keep.display(),
        directory = directory.display()
    );
    let Some(mut app) = in_own_mounts("a full disk", &scene, &commands) else { return };
    app.wait_until_ready();
    let load = Load::start(app.address());
    scene.publish("version=2");
    let why = app.line_after("the look at ");
    assert!(why.contains("are free; the service is not affected"), "{why}");
    load.wait_for("1", 5);
    app.restart();
    // The directory as the program sees it.
    let inside = format!("/proc/{}/root{}", app.pid(), directory.display());
    fs::remove_file(format!("{inside}/filler")).expect("removed");
    app.line_after("is installed at");
    load.wait_for("2", 5);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!(version_in(format!("{inside}/app").as_ref()), "2");
}
