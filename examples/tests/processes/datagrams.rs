//! Sockets of datagrams: one generation at a time receives, and none is lost between two.

use crate::app::{App, Scene};
use crate::load::PATIENCE;
use nix::sys::signal::Signal;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// A client of the program at the first UDP address.
struct Client(UdpSocket);

impl Client {
    fn of(app: &App) -> Self {
        let address = app.address().split(',').find_map(|address| address.strip_prefix("udp:")).expect("a UDP address").to_owned();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        socket.connect(address).expect("an address");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Self(socket)
    }

    fn send(&self, text: &str) {
        // What an earlier one was answered by the system, since nobody had the port, is not about this one.
        let _ = self.0.take_error();
        self.0.send(text.as_bytes()).expect("sent");
    }

    fn answer(&self) -> String {
        let mut bytes = [0; 100];
        let length = self.0.recv(&mut bytes).expect("an answer");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// The generation that answers now.
    fn generation(&self) -> u64 {
        self.send("hello");
        self.answer().split(' ').nth(1).expect("three words").parse().expect("a number")
    }
}

#[test]
fn until_it_is_committed_a_new_generation_receives_no_datagram_and_from_then_on_all() {
    the_committed_generation_receives("");
}

#[test]
fn until_it_is_committed_a_new_generation_on_tokio_receives_no_datagram_and_from_then_on_all() {
    the_committed_generation_receives("tokio");
}

fn the_committed_generation_receives(words: &str) {
    const WARM_UP: Duration = Duration::from_millis(1500);
    let mut scene = Scene::new(words);
    scene.add_words(&format!("address=udp:127.0.0.1:0,127.0.0.1:0 warm_up={}", WARM_UP.as_millis()));
    let mut app = scene.start();
    let client = Client::of(&app);
    assert_eq!(client.generation(), 1);
    // Two of them, the second one also by the other way into a warm-up.
    for generation in [2, 3] {
        let begun = Instant::now();
        app.signal(Signal::SIGUSR2);
        app.line_after(&format!("generation {generation} is ready"));
        let mut count = 0;
        loop {
            let answered_by = client.generation();
            if begun.elapsed() >= WARM_UP {
                break;
            }
            // No earlier than this could the warm-up be over.
            assert_eq!(answered_by, generation - 1);
            count += 1;
        }
        assert!(count > 10, "only {count} datagrams came in the warm-up");
        app.line_after(&format!("generation {} is gone", generation - 1));
        for _ in 0..100 {
            assert_eq!(client.generation(), generation);
        }
    }
    assert!(app.terminate().success());
}

#[test]
fn datagrams_that_come_while_no_generation_runs_wait_for_the_next_one() {
    datagrams_wait_for_the_next_generation("");
}

#[test]
fn datagrams_that_come_while_no_generation_runs_wait_for_the_next_one_on_tokio() {
    datagrams_wait_for_the_next_generation("tokio");
}

fn datagrams_wait_for_the_next_generation(words: &str) {
    let mut scene = Scene::new(words);
    scene.add_words("address=udp:127.0.0.1:0 alone");
    let mut app = scene.start();
    let client = Client::of(&app);
    for generation in [2, 3, 4] {
        app.signal(Signal::SIGUSR2);
        app.line_after("is gone");
        // Fewer than fit into the socket's buffer.
        for _ in 0..50 {
            client.send("hello");
        }
        app.line_after(&format!("generation {generation} is ready"));
        for _ in 0..50 {
            assert!(client.answer().starts_with(&format!("1 {generation} ")));
        }
    }
    assert!(app.terminate().success());
}

#[test]
fn a_release_that_crashes_in_its_probation_gives_the_socket_back_with_what_waits_in_it() {
    let mut scene = Scene::with_source("probation=600000");
    scene.add_words("address=udp:127.0.0.1:0");
    let mut app = scene.start();
    let client = Client::of(&app);
    scene.publish("version=2");
    app.line_after("the master runs ");
    app.line_after_start("generation 1 is gone");
    assert_eq!(client.generation(), 2);
    client.send("crash");
    // The crash may find some of them in its own hands; those after it wait.
    app.line_after("ended with SIGABRT in its probation");
    client.send("hello");
    assert!(client.answer().starts_with("1 3 "), "{}", app.all_lines());
    assert_eq!(scene.version_at_path(), "1");
    assert!(app.terminate().success());
}

#[test]
fn the_next_master_has_the_port_again_when_the_children_of_a_killed_one_have_let_go() {
    let mut scene = Scene::new("");
    scene.add_words("address=udp:127.0.0.1:0");
    let mut app = scene.start();
    let address = app.address().to_owned();
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    let mut next = App::start(scene.command_with(&format!("address={address}")));
    next.wait_until_ready();
    assert_eq!(next.address(), address);
    assert_eq!(Client::of(&next).generation(), 1);
    assert!(next.terminate().success());
}

#[test]
fn what_was_received_before_the_end_of_the_service_is_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let mut scene = Scene::new("");
    scene.add_words(&format!("address=udp:127.0.0.1:0,unixgram:{}", path.display()));
    let mut app = scene.start();
    let client = Client::of(&app);
    let unix = UnixDatagram::bind(directory.path().join("client")).expect("bound");
    unix.set_read_timeout(Some(PATIENCE)).expect("set");
    // Each is in the hands of a thread, which the main one does not wait for when the drain has begun.
    client.send("slow 700");
    unix.send_to(b"slow 700", &path).expect("sent");
    app.line_after("takes 700 ms");
    app.line_after("takes 700 ms");
    app.signal(Signal::SIGTERM);
    assert!(client.answer().starts_with("slow 700 is no command"));
    assert!(unix.recv(&mut [0; 100]).expect("an answer") > 10);
    assert!(app.wait_exit().success(), "{}", app.all_lines());
}

#[test]
fn a_socket_that_was_shut_down_is_replaced_by_a_restart_that_core_asks_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let mut scene = Scene::new("");
    scene.add_words(&format!("address=udp:127.0.0.1:0,unixgram:{} warm_up=200", path.display()));
    let mut app = scene.start();
    let (client, address) = (Client::of(&app), app.address().to_owned());
    client.send("shut");
    app.line_after("generation 2 took over");
    app.line_after("generation 1 is gone");
    assert_eq!(client.generation(), 2);
    app.rewind();
    assert!(app.line_after("serving version=1 generation=2").ends_with(&address), "{}", app.all_lines());
    UnixDatagram::unbound().expect("a socket").send_to(b"shut", &path).expect("sent");
    app.line_after("generation 3 took over");
    app.line_after("generation 2 is gone");
    let unix = UnixDatagram::bind(directory.path().join("client")).expect("bound");
    unix.set_read_timeout(Some(PATIENCE)).expect("set");
    unix.send_to(b"hello", &path).expect("sent");
    unix.recv(&mut [0; 100]).expect("an answer");
    assert_eq!(client.generation(), 3);
    assert!(app.terminate().success());
    assert!(!path.exists());
}
