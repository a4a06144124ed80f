//! Sockets that a service manager passes and keeps. The test plays the service manager: it has the sockets before the program and after it.

use crate::app::{App, Scene};
use crate::load::{Load, PATIENCE, Request, ask, tell};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::sys::stat::fstat;
use nix::{cmsg_space, libc};
use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;

/// The program, with these descriptors from 3 on, as sd_listen_fds(3) has them. The names go with colons between them.
pub(crate) fn passing(scene: &Scene, names: &str, descriptors: &[&dyn AsFd]) -> Command {
    let plain = scene.command();
    let mut command = Command::new("sh");
    // The PID is that of the shell, which becomes the program.
    command.args(["-c", "LISTEN_PID=${LISTEN_PID-$$} exec \"$0\""]).arg(scene.program());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", names);
    // Far from the numbers that they are to get.
    let copy = |descriptor: &&dyn AsFd| {
        let copy = fcntl(descriptor.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(500)).expect("a copy");
        // SAFETY: it was made just now, and nobody else knows its number.
        unsafe { OwnedFd::from_raw_fd(copy) }
    };
    let copies: Vec<OwnedFd> = descriptors.iter().map(copy).collect();
    let renumber = move || {
        for (copy, number) in copies.iter().zip(3 as RawFd..) {
            // SAFETY: dup2(2) takes two numbers. Nothing that this process needs until its exec has one of these.
            if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec this is a plain system call, which is async-signal-safe.
    unsafe { command.pre_exec(renumber) };
    command
}

fn start(scene: &Scene, names: &str, descriptors: &[&dyn AsFd]) -> App {
    let mut app = App::start(passing(scene, names, descriptors));
    app.wait_until_ready();
    app
}

/// A service manager's descriptor store, in a thread: takes what the program gives it, and passes it to the next start.
struct Store {
    directory: TempDir,
    /// Until it is read.
    socket: Option<UnixDatagram>,
    held: Arc<Mutex<Vec<(String, OwnedFd)>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    fn new() -> Self {
        let mut store = Self::idle();
        store.begin();
        store
    }

    /// One that takes nothing yet.
    fn idle() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        Self { directory, socket: Some(socket), held: Arc::default(), is_over: Arc::default(), thread: None }
    }

    /// One that takes nothing yet, and in front of which so many wait that it can be told nothing.
    fn busy() -> Self {
        let store = Self::idle();
        let others = UnixDatagram::unbound().expect("a socket");
        others.set_nonblocking(true).expect("set");
        others.connect(store.directory.path().join("notify")).expect("connected");
        while others.send(b"X_BUSY=1").is_ok() {}
        store
    }

    /// Takes what waits, and what comes from now on.
    fn begin(&mut self) {
        let socket = self.socket.take().expect("it has not begun");
        let (all, end) = (Arc::clone(&self.held), Arc::clone(&self.is_over));
        self.thread = Some(thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                Self::take_one(&socket, &all);
            }
        }));
    }

    fn take_one(socket: &UnixDatagram, held: &Mutex<Vec<(String, OwnedFd)>>) {
        let (mut bytes, mut control) = ([0; 4096], cmsg_space!([RawFd; 4]));
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
        let Ok(received) = received else { return };
        let raw: Vec<RawFd> = received
            .cmsgs()
            .expect("whole")
            .flat_map(|message| if let ControlMessageOwned::ScmRights(raw) = message { raw } else { Vec::new() })
            .collect();
        // SAFETY: the kernel has just made these descriptors for us.
        let mut came: Vec<OwnedFd> = raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }).collect();
        let length = received.bytes;
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
        let mut held = held.lock().expect("whole");
        if text.lines().any(|line| line == "FDSTORE=1") {
            assert!(text.lines().any(|line| line == "FDPOLL=0") && came.len() == 1, "{text}");
            held.push((name, came.remove(0)));
        } else if text.lines().any(|line| line == "FDSTOREREMOVE=1") {
            held.retain(|(known, _)| *known != name);
        }
    }

    fn names(&self) -> Vec<String> {
        self.held.lock().expect("whole").iter().map(|(name, _)| name.clone()).collect()
    }

    /// The program with what is held, and the store as large as this.
    fn command(&self, scene: &Scene, size: usize) -> Command {
        let held = self.held.lock().expect("whole");
        let descriptors: Vec<&dyn AsFd> = held.iter().map(|(_, descriptor)| descriptor as &dyn AsFd).collect();
        let names: Vec<&str> = held.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = passing(scene, &names.join(":"), &descriptors);
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify")).env("FDSTORE", size.to_string());
        command
    }

    fn start(&self, scene: &Scene, size: usize) -> App {
        let mut app = App::start(self.command(scene, size));
        app.wait_until_ready();
        app
    }

    /// The port of an address that the program has listened on, of which nothing but its place in the store is left.
    fn port_of(&self, scene: &mut Scene, address: &str) -> u16 {
        scene.add_words(&format!("address={address}"));
        let mut app = self.start(scene, 8);
        app.wait_until("it is stored", |_| self.names().len() == 1);
        let port = app.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        assert!(app.terminate().success());
        port
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("bound")
}

/// The environment that a process was started with.
fn environment(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ")).expect("it lives")).replace('\0', "\n")
}

fn ask_unix(path: &std::path::Path) -> String {
    let mut stream = UnixStream::connect(path).expect("connected");
    stream.write_all(b"hello\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("received");
    answer
}

#[test]
fn passed_sockets_outlive_restarts_upgrades_and_the_end_of_the_service_and_refuse_nobody() {
    let mut scene = Scene::with_source("");
    scene.add_words("address=web=systemd:app.socket,systemd:admin");
    let path = scene.directory().join("admin.sock");
    let (web, admin) = (listener(), UnixListener::bind(&path).expect("bound"));
    let mut app = start(&scene, "app.socket:admin", &[&web, &admin]);
    let address = web.local_addr().expect("bound").to_string();
    assert_eq!(app.address(), format!("{address},unix:{}", path.display()));
    app.line_after_start(&format!("web=systemd:app.socket is the socket on {address} that the service manager has passed as app.socket"));
    let load = Load::start(&address);
    app.signal(Signal::SIGUSR2);
    app.line_after("generation 2 took over");
    scene.publish("version=2");
    app.line_after("the master runs ");
    let child = ask(&address);
    assert_eq!(child.version, "2");
    for pid in [child.pid, app.pid().as_raw()] {
        assert!(!environment(pid).contains("LISTEN_"), "{}", environment(pid));
    }
    assert!(ask_unix(&path).starts_with("2 3 "));
    let all = tell(&address, "descriptors").expect("an answer");
    for socket in [web.as_fd(), admin.as_fd()] {
        let inode = fstat(socket).expect("it is open").st_ino;
        assert_eq!(all.matches(&format!("socket:[{inode}]")).count(), 1, "{all}");
    }
    assert!(app.terminate().success());
    assert!(path.exists(), "it belongs to the socket unit");

    // Clients wait for the next start.
    let mut app = start(&scene, "app.socket:admin", &[&web, &admin]);
    load.wait_for("2", 20);
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    app.wait_until("nobody is left", |app| app.processes().is_empty());
    let mut app = start(&scene, "app.socket:admin", &[&web, &admin]);
    load.wait_for("2", 20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(ask_unix(&path).starts_with("2 1 "));
    assert!(app.terminate().success());
}

#[test]
fn an_open_request_of_a_killed_master_is_finished_while_the_next_one_has_the_passed_socket() {
    let mut scene = Scene::new("");
    scene.add_words("address=systemd:web");
    let web = listener();
    let mut app = start(&scene, "web", &[&web]);
    let request = Request::begin(app.address());
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    let mut next = start(&scene, "web", &[&web]);
    assert_eq!(ask(next.address()).generation, 1);
    request.finish().expect("an answer");
    app.wait_until("the orphans are gone", |app| app.processes().is_empty());
    assert_eq!(ask(next.address()).generation, 1);
    assert!(next.terminate().success());
}

#[test]
fn sockets_of_one_name_go_to_the_addresses_in_their_order() {
    let mut scene = Scene::new("");
    scene.add_words("address=systemd:web,b=systemd:web,systemd:other");
    let (first, other, second) = (listener(), listener(), listener());
    let mut app = start(&scene, "web:other:web", &[&first, &other, &second]);
    let bound = [&first, &second, &other].map(|listener| listener.local_addr().expect("bound").to_string());
    assert_eq!(app.address(), bound.join(","));
    assert!(app.terminate().success());
}

#[test]
fn a_passed_socket_is_taken_for_the_address_that_it_is_bound_to() {
    let any = TcpListener::bind("[::]:0").expect("bound");
    let (web, directory) = (listener(), tempfile::tempdir().expect("a directory"));
    let path = directory.path().join("app.sock");
    let unix = UnixListener::bind(&path).expect("bound");
    let mut scene = Scene::new("");
    let port = any.local_addr().expect("bound").port();
    let address = web.local_addr().expect("bound");
    scene.add_words(&format!("address=:{port},{address},unix:{}?mode=0600", path.display()));
    // In any order, and whatever they are called.
    let mut app = start(&scene, "a:b:c", &[&unix, &any, &web]);
    assert_eq!(app.address(), format!("[::]:{port},{address},unix:{}", path.display()));
    assert_eq!(app.count_lines("which no address means"), 0, "{}", app.all_lines());
    assert!(ask_unix(&path).starts_with("1 1 "));
    assert!(app.terminate().success());
    assert!(path.exists());
    drop((any, web, unix));
    // And without.
    fs::remove_file(&path).expect("removed");
    let mut app = scene.start();
    assert_eq!(app.address(), format!("[::]:{port},{address},unix:{}", path.display()));
    assert!(app.terminate().success());
    assert!(!path.exists());
}

#[test]
fn what_no_address_means_is_closed_with_a_warning() {
    let scene = Scene::new("");
    let (unwanted, datagrams) = (listener(), UdpSocket::bind("127.0.0.1:0").expect("bound"));
    let mut app = start(&scene, "web:log", &[&unwanted, &datagrams]);
    for (name, what, address) in
        [("web", "a listening socket on ", unwanted.local_addr()), ("log", "a datagram socket on udp:", datagrams.local_addr())]
    {
        let said = format!("the service manager has passed {what}{} as {name}, which no address means", address.expect("bound"));
        app.line_after_start(&said);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", app.pid())).expect("the master lives").flatten();
    let sockets =
        open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))).count();
    assert_eq!(sockets, 2, "its listener and its child");
    assert!(app.terminate().success());
}

#[test]
fn an_address_for_which_no_socket_to_accept_on_was_passed_is_an_error_that_says_what_was() {
    let mut scene = Scene::new("");
    scene.add_words("address=systemd:web");
    let (web, datagrams) = (listener(), UdpSocket::bind("127.0.0.1:0").expect("bound"));
    let client = TcpStream::connect(web.local_addr().expect("bound")).expect("connected");
    datagrams.connect(web.local_addr().expect("bound")).expect("connected");
    let file = fs::File::open("/dev/null").expect("opened");
    let cases: [(&str, &[&dyn AsFd], &str); 5] = [
        ("api:admin", &[&web, &web], "has passed no socket of that name that is left to take; there are: api, admin"),
        (
            "web",
            &[&datagrams],
            "descriptor 3, which the service manager has passed under this name, is a connected datagram socket on udp:127.0.0.1:",
        ),
        ("api:web", &[&web, &client], "descriptor 4, which the service manager has passed under this name, is a connection on 127.0.0.1:"),
        ("web", &[&file], "descriptor 3, which the service manager has passed under this name, is no socket"),
        (
            "web:web",
            &[&web],
            "cannot take the sockets that the service manager has passed: LISTEN_FDNAMES names 2 descriptors, and LISTEN_FDS says 1",
        ),
    ];
    for (names, descriptors, why) in cases {
        let mut app = App::start(passing(&scene, names, descriptors));
        assert_eq!(app.wait_exit().code(), Some(1));
        app.line_after(why);
    }
    let mut app = App::start(scene.command());
    assert_eq!(app.wait_exit().code(), Some(1));
    app.line_after("cannot listen on systemd:web: the service manager has passed no socket that is left to take: is the service started by its socket unit?");
}

#[test]
fn what_was_passed_to_another_process_is_left_alone() {
    let (scene, web) = (Scene::new(""), listener());
    for (name, value) in [("LISTEN_PID", "1"), ("LISTEN_PIDFDID", "1")] {
        let mut command = passing(&scene, "web", &[&web]);
        command.env(name, value);
        let mut app = App::start(command);
        app.wait_until_ready();
        let is_told = app.all_lines().contains("the service manager");
        assert!(!is_told && environment(ask(app.address()).pid).contains("LISTEN_FDNAMES=web"), "{name}: {}", app.all_lines());
        assert!(app.terminate().success());
    }
}

#[test]
fn a_release_that_asks_for_a_socket_that_is_not_held_is_held_back_and_the_rest_serve_on() {
    let mut scene = Scene::with_source("");
    scene.add_words("address=systemd:web");
    let web = listener();
    let mut app = start(&scene, "web", &[&web]);
    let load = Load::start(app.address());
    scene.publish("version=2 address=systemd:web,systemd:admin");
    let why = app.line_after("generation 2 cannot have systemd:admin: ");
    assert!(why.contains("none of that name is held") && why.contains("restart the service"), "{why}");
    app.line_after("generation 1 keeps serving");
    scene.publish("version=3");
    app.line_after("generation 3 took over");
    load.wait_for("3", 5);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn a_release_that_drops_a_passed_socket_and_is_taken_back_leaves_it_to_the_one_before() {
    let mut scene = Scene::with_source("");
    scene.add_words("address=systemd:web,systemd:admin");
    let (web, admin) = (listener(), listener());
    let mut app = start(&scene, "web:admin", &[&web, &admin]);
    let address = web.local_addr().expect("bound").to_string();
    scene.publish("version=2 address=systemd:web");
    app.line_after("the master runs ");
    app.line_after_start("generation 1 is gone");
    let _ = tell(&address, "crash");
    app.line_after("the previous binary is back");
    app.line_after("generation 3 is ready");
    assert_eq!(ask(&admin.local_addr().expect("bound").to_string()).version, "1");
    assert!(app.terminate().success());
}

#[test]
fn the_previous_binary_that_runs_at_the_third_start_has_the_passed_sockets() {
    let mut scene = Scene::with_source("");
    scene.add_words("address=systemd:web");
    let web = listener();
    let address = web.local_addr().expect("bound").to_string();
    let mut app = start(&scene, "web", &[&web]);
    scene.publish("version=2");
    app.line_after("generation 1 is gone");
    let load = Load::start(&address);
    for _ in 1..=2 {
        app.signal(Signal::SIGKILL);
        app.wait_exit();
        app = start(&scene, "web", &[&web]);
        load.wait_for("2", 1);
    }
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    let mut app = App::start(passing(&scene, "web", &[&web]));
    app.line_after("was started 3 times and never lived through its probation: the previous binary is back");
    app.wait_until_ready();
    load.wait_for("1", 5);
    assert_eq!(load.stop().refused, 0);
    assert!(app.terminate().success());
}

#[test]
fn a_program_that_is_left_alone_has_the_passed_sockets_too() {
    let mut scene = Scene::new("");
    scene.add_words("address=systemd:web");
    let web = listener();
    let mut command = passing(&scene, "web", &[&web]);
    command.env("OVERSEER", "off");
    let mut app = App::start(command);
    app.line_after("serving version=1");
    let address = web.local_addr().expect("bound").to_string();
    assert_eq!(ask(&address).pid, app.pid().as_raw());
    assert!(app.terminate().success());
}

#[test]
fn passed_and_stored_sockets_of_datagrams_keep_what_waits_in_them_for_the_next_master() {
    let (store, mut scene) = (Store::new(), Scene::new(""));
    let unit = UdpSocket::bind("127.0.0.1:0").expect("bound");
    let of_unit = unit.local_addr().expect("bound").to_string();
    scene.add_words("address=systemd:log,udp:127.0.0.1:0,127.0.0.1:0");
    store.held.lock().expect("whole").push(("log".to_owned(), unit.into()));
    let mut app = store.start(&scene, 8);
    let addresses: Vec<String> = app.address().split(',').map(str::to_owned).collect();
    assert_eq!(addresses[0], format!("udp:{of_unit}"));
    app.wait_until("both others are stored", |_| store.names().len() == 3);
    let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    for end in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        app.signal(end);
        app.wait_exit();
        // A child whose master was killed may take one before it hears of it; then it answers that one.
        for address in &addresses[..2] {
            client.send_to(b"hello", address.strip_prefix("udp:").expect("UDP")).expect("sent");
        }
        app = store.start(&scene, 8);
        assert_eq!(app.address(), addresses.join(","));
        for _ in 0..2 {
            client.recv(&mut [0; 100]).expect("an answer");
        }
    }
    assert!(app.terminate().success());
}

#[test]
fn stored_sockets_outlive_a_killed_master_a_restart_of_the_service_and_upgrades_and_refuse_nobody() {
    let (store, mut scene) = (Store::new(), Scene::with_source(""));
    let path = scene.directory().join("app.sock");
    scene.add_words(&format!("address=127.0.0.1:0,unix:{}?mode=0600", path.display()));
    let mut app = store.start(&scene, 8);
    let address = app.address().split(',').next().expect("an address").to_owned();
    app.wait_until("both are stored", |_| store.names().len() == 2);
    let names = store.names();
    assert!(!environment(ask(&address).pid).contains("FDSTORE"));
    let load = Load::start(&address);
    scene.publish("version=2");
    app.line_after("the master runs ");
    app.line_after_start("generation 1 is gone");
    let inode = fs::metadata(&path).expect("it is there").ino();
    for round in 0..6 {
        // By turns, as `kill -9` and `systemctl restart` end it.
        app.signal(if round % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM });
        app.wait_exit();
        let waiting = (TcpStream::connect(&address).expect("not refused"), UnixStream::connect(&path).expect("not refused"));
        // An upgrade may be counted a third start, and be taken back.
        app = store.start(&scene, 8);
        assert_eq!(app.count_lines("that the service manager has passed as overseer-"), 2, "{}", app.all_lines());
        assert_eq!(app.address(), format!("{address},unix:{}", path.display()));
        drop(waiting);
        assert!(!ask_unix(&path).is_empty());
        app.restart_to(2);
    }
    assert_eq!((store.names(), fs::metadata(&path).expect("it is there").ino()), (names, inode), "nothing was stored twice");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert!(app.terminate().success());
}

#[test]
fn what_a_release_does_not_listen_on_any_more_leaves_the_store_and_what_it_adds_goes_there() {
    let (store, mut scene) = (Store::new(), Scene::with_source(""));
    scene.add_words("address=127.0.0.1:0,a=127.0.0.2:0,b=127.0.0.1:0");
    let mut app = store.start(&scene, 8);
    app.wait_until("all are stored", |_| store.names().len() == 3);
    let before = store.names();
    let addresses: Vec<String> = app.address().split(',').map(str::to_owned).collect();
    scene.publish("version=2 address=127.0.0.1:0,b=127.0.0.1:0,c=127.0.0.3:0");
    app.line_after("generation 1 is gone");
    app.wait_until("one has gone and one has come", |_| {
        let now = store.names();
        now.len() == 3 && now.iter().filter(|name| before.contains(name)).count() == 2
    });
    // A test beside this one that starts a process has copies of what the store had, for a moment.
    app.wait_until("nobody keeps it", |_| TcpStream::connect(&addresses[1]).is_err());
    app.line_after_start("the master runs ");
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    // Somebody has put another file there, which wants one of the three.
    scene.add_words("address=b=127.0.0.1:0");
    fs::remove_dir_all(scene.state_dir()).expect("removed");
    crate::app::put(&scene.program(), &crate::app::release("version=3 address=b=127.0.0.1:0"));
    let mut app = store.start(&scene, 8);
    assert_eq!(app.address(), addresses[2]);
    app.line_after_start("the descriptor store holds overseer-127.0.0.");
    app.wait_until("the others are gone", |_| store.names().len() == 1);
    app.wait_until("nobody keeps it", |_| TcpStream::connect(&addresses[0]).is_err());
    assert!(app.terminate().success());
}

#[test]
fn a_stored_socket_gives_way_to_a_changed_address_that_overlaps_it_and_back() {
    let (store, mut scene) = (Store::new(), Scene::new(""));
    let port = store.port_of(&mut scene, ":0");
    for address in [format!("127.0.0.1:{port}"), format!(":{port}")] {
        let before = store.names();
        scene.add_words(&format!("address={address}"));
        let mut app = store.start(&scene, 8);
        assert_eq!(ask(&format!("127.0.0.1:{port}")).generation, 1);
        app.wait_until("it has taken its place", |_| store.names().len() == 1 && store.names() != before);
        assert!(app.terminate().success());
    }
}

#[test]
fn what_a_start_that_fails_does_not_mean_leaves_the_store_all_the_same() {
    let (store, mut scene) = (Store::new(), Scene::new(""));
    let port = store.port_of(&mut scene, ":0");
    scene.add_words("address=192.0.2.1:1");
    let mut app = App::start(store.command(&scene, 8));
    assert_eq!(app.wait_exit().code(), Some(1));
    app.wait_until("nothing is stored", |_| store.names().is_empty());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody would ever accept");
}

#[test]
fn the_previous_binary_that_runs_at_the_third_start_has_its_address_though_the_release_has_stored_one_that_overlaps_it() {
    let (store, mut scene) = (Store::new(), Scene::with_source(""));
    let port = store.port_of(&mut scene, "127.0.0.1:0");
    let (address, before) = (format!("127.0.0.1:{port}"), store.names());
    scene.add_words(&format!("address={address}"));
    let mut app = store.start(&scene, 8);
    scene.publish(&format!("version=2 alone address=:{port}"));
    app.line_after("the master runs ");
    app.wait_until("its socket has taken the place of the other", |_| store.names().len() == 1 && store.names() != before);
    for _ in 1..=2 {
        app.signal(Signal::SIGKILL);
        app.wait_exit();
        app = store.start(&scene, 8);
        assert_eq!(ask(&address).version, "2");
    }
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    let mut app = App::start(store.command(&scene, 8));
    app.line_after("was started 3 times and never lived through its probation: the previous binary is back");
    app.wait_until_ready();
    assert_eq!((app.address(), ask(&address).version.as_str()), (address.as_str(), "1"));
    assert!(app.terminate().success());
}

#[test]
fn a_socket_that_is_stored_after_a_generation_has_got_it_is_not_shut_down_by_an_orphan() {
    let (mut store, scene) = (Store::busy(), Scene::new(""));
    let mut app = store.start(&scene, 8);
    let address = app.address().to_owned();
    let request = Request::begin(&address);
    store.begin();
    app.wait_until("it is stored", |_| store.names().len() == 1);
    app.wait_until("the master has nothing left to do", |app| {
        app.processes().iter().any(|process| process.pid == app.pid() && process.state == 'S')
    });
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    request.finish().expect("an answer");
    app.wait_until("the orphan is gone", |app| app.processes().is_empty());
    drop(TcpStream::connect(&address).expect("clients wait for the next master"));
    let mut app = store.start(&scene, 8);
    assert_eq!(ask(&address).generation, 1);
    assert!(app.terminate().success());
}

#[test]
fn a_stored_unix_socket_whose_file_is_gone_is_bound_anew() {
    let (store, mut scene) = (Store::new(), Scene::new(""));
    let path = scene.directory().join("app.sock");
    scene.add_words(&format!("address=unix:{}", path.display()));
    let mut app = store.start(&scene, 8);
    app.wait_until("it is stored", |_| store.names().len() == 1);
    let before = store.names();
    assert!(app.terminate().success());
    // As RuntimeDirectory= does.
    fs::remove_file(&path).expect("it has stayed");
    let mut app = store.start(&scene, 8);
    assert!(ask_unix(&path).starts_with("1 1 "));
    app.wait_until("it is stored in place of the old one", |_| store.names().len() == 1 && store.names() != before);
    assert!(app.terminate().success());
}

#[test]
fn a_store_that_is_too_small_is_told_of_and_without_one_nothing_is_stored() {
    let (store, mut scene) = (Store::new(), Scene::new(""));
    scene.add_words("address=a=127.0.0.1:0,b=127.0.0.1:0,c=127.0.0.1:0");
    let mut app = store.start(&scene, 2);
    app.wait_until("it is full", |_| store.names().len() == 2);
    app.line_after_start("the descriptor store takes 2 sockets (FileDescriptorStoreMax) and has no room for the one on ");
    let addresses: Vec<String> = app.address().split(',').map(str::to_owned).collect();
    app.signal(Signal::SIGKILL);
    app.wait_exit();
    app.wait_until("the orphan is gone", |app| app.processes().is_empty());
    let refused = addresses.iter().filter(|address| TcpStream::connect(address.as_str()).is_err()).count();
    assert_eq!(refused, 1);
    let none = Store::new();
    let mut app = none.start(&scene, 0);
    app.restart_to(2);
    assert!(app.terminate().success());
    assert_eq!(none.names(), [""; 0]);
}
