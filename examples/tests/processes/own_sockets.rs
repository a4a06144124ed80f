//! A program that binds sockets beside those that it is given.

use crate::app::{App, Scene, put, with_words};
use crate::serving::example;
use nix::sys::signal::Signal;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

/// What that line holds, and no other one.
pub(crate) const WARNING: &str = "by itself";

/// Ports that nobody has now and that the system gives to nobody by itself.
fn free_ports() -> (u16, u16) {
    /// Tests run side by side, and none is to get what another one is about to bind.
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let mut ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take(10_000);
    let tcp = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("one is free");
    let udp = ports.find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok()).expect("one is free");
    (tcp, udp)
}

#[test]
fn a_socket_that_the_program_has_bound_itself_is_told_of_once() {
    let mut scene = Scene::with_source("");
    let (tcp, udp) = free_ports();
    scene.add_words(&format!("own=127.0.0.1:{tcp},udp:127.0.0.1:{udp},127.0.0.1:0,udp:127.0.0.1:0"));
    let mut app = App::start(scene.command());
    app.wait_until_ready();
    let pid = app.line_after_start("serving version=1 generation=1 pid=");
    let pid = pid.split(' ').next().expect("a pid").to_owned();
    let line = app.line_after("generation 1 has bound ");
    let told = format!("127.0.0.1:{tcp}, udp:127.0.0.1:{udp} by itself (pid {pid}), so clients there are cut or refused at each restart; ");
    assert!(line.starts_with(&told), "{line}");
    assert_eq!(app.terminate().code(), Some(0));
    assert_eq!(app.count_lines(WARNING), 1, "{}", app.all_lines());
}

#[test]
fn each_generation_is_looked_at_also_by_the_master_that_an_upgrade_brings() {
    let mut scene = Scene::with_source("");
    let path = scene.directory().join("socket").display().to_string();
    scene.add_words(&format!("own=unix:{path}"));
    let mut app = scene.start();
    let told = |app: &mut App, generation: u64| {
        let line = app.line_after(&format!("generation {generation} has bound "));
        assert!(line.starts_with(&format!("unix:{path} by itself")), "{line}");
    };
    told(&mut app, 1);
    app.restart_to(2);
    told(&mut app, 2);
    scene.publish("version=2");
    app.line_after("generation 3 took over");
    told(&mut app, 3);
    assert_eq!(app.terminate().code(), Some(0));
    assert_eq!(app.count_lines(WARNING), 3, "{}", app.all_lines());
}

#[test]
fn no_example_and_no_program_that_wants_no_warning_is_told_of() {
    let directory = tempfile::Builder::new().prefix("overseer-").tempdir().expect("a directory");
    // Those that need no files of their own.
    let mut apps: Vec<App> = ["axum", "hyper", "mio", "sigterm", "std_threads", "tokio_tcp", "tonic", "websocket"]
        .map(|name| {
            let (program, built) = (directory.path().join(name), example(name));
            put(&program, &with_words(built.to_str().expect("UTF-8"), "version=1"));
            let mut command = Command::new(&program);
            command.arg("127.0.0.1:0");
            App::start(command)
        })
        .into();
    let _scenes = ["no_warn", "address="].map(|words| {
        let scene = Scene::new(words);
        let command = scene.command_with(&format!("own=unix:{}", scene.directory().join("socket").display()));
        apps.push(App::start(command));
        scene
    });
    are_told_of_nothing(&mut apps);
}

fn are_told_of_nothing(apps: &mut [App]) {
    for app in &mut *apps {
        app.line_after("generation 1 is ready");
        app.signal(Signal::SIGUSR2);
    }
    for app in apps {
        app.line_after("generation 1 is gone");
        // When that was seen the second generation was looked at, before the next signal is taken in.
        app.signal(Signal::SIGUSR2);
        app.line_after("restarting as generation 3");
        assert_eq!(app.count_lines(WARNING), 0, "{}", app.all_lines());
    }
}

#[test]
fn a_socket_that_the_service_was_started_with_is_none_of_the_programs_own() {
    let scene = Scene::new("");
    let (port, _) = free_ports();
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("free");
    are_told_of_nothing(&mut [App::start_with(OwnedFd::from(listener).into(), scene.command())]);
}

#[test]
fn a_restart_that_fails_since_both_generations_bind_the_same_address_is_explained() {
    let scene = Scene::new("");
    let (port, _) = free_ports();
    let mut app = App::start(scene.command_with(&format!("own=127.0.0.1:{port}")));
    app.wait_until_ready();
    // It has served for so long that it is looked at.
    thread::sleep(Duration::from_secs(1));
    app.signal(Signal::SIGUSR2);
    app.line_after("restart failed: generation 2 ");
    app.line_after(&format!("generation 1 has bound 127.0.0.1:{port} by itself"));
}
