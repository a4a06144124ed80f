//! The program of the process tests: a server that does what its script says, and what its clients tell it.
//!
//! It writes `serving version=V generation=G pid=P on ADDRESSES` when it has its listeners, and answers each connection's one line:
//! `hello` with `V G P`; the other commands are in [`Actor::answer`].

mod script;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal as RawSignal};
use nix::sys::signalfd::SignalFd;
use overseer_core::{
    AsyncFetcher, Config, DatagramSocket, FetchError, File, Known, LogFormat, Look, Release, Signal, State, Upgrades, fetcher_fn, run,
};
use overseer_fetcher_http::HttpFetcher;
use script::Script;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, ExitCode, abort, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// What `main` found before `run` took it away.
const ROLE: &str = "OVERSEER_ROLE";

fn main() -> ExitCode {
    let role = std::env::var(ROLE).unwrap_or_default();
    if is_successor(&role) {
        // Whoever ran here before may have lowered it.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
    }
    let script = Script::read();
    if script.has("grow_path") {
        let path = std::env::var("PATH").unwrap_or_default();
        // SAFETY: no other thread runs.
        unsafe { std::env::set_var("PATH", format!("/somewhere/else:{path}")) };
    }
    match script.text("behave").unwrap_or_default() {
        "exit-in-main" => exit(7),
        "hang-in-main" => hang(),
        "exit-as-master" if role.starts_with("master,") => exit(9),
        "exit-as-successor" if is_successor(&role) => exit(9),
        "panic-as-master" if role.starts_with("master,") => panic!("no master"),
        "forbid-in-rehearsal" if is_rehearsal(&role) => {
            let own = fs::read_link("/proc/self/exe").expect("a path");
            fs::set_permissions(own, fs::Permissions::from_mode(0o644)).expect("mode set");
        }
        "replace-in-rehearsal" if is_rehearsal(&role) => {
            let own = fs::read_link("/proc/self/exe").expect("a path");
            let beside = own.with_extension("somebodys");
            fs::copy(&own, &beside).expect("copied");
            fs::rename(&beside, &own).expect("renamed");
        }
        "reap-as-master" if is_successor(&role) => {
            nix::sys::wait::wait().expect("a child of the master ends");
        }
        "refuse-handlers-as-master" if is_successor(&role) => REFUSES_HANDLERS.store(true, Ordering::Relaxed),
        "exit-from-store" if role.starts_with("stored,") => exit(7),
        "hang-before-hello" if role.starts_with("child,") => hang(),
        _ => {}
    }
    let has_no_descriptors = is_successor(&role) && script.text("behave") == Some("no-descriptors-as-master");
    let config = configure(script, role);
    if has_no_descriptors {
        take_all_descriptors();
    }
    run(config)
}

/// Leaves nobody a descriptor, until this process executes something.
fn take_all_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).expect("lowered");
    while let Ok(file) = fs::File::open("/dev/null") {
        std::mem::forget(file);
    }
}

/// Whether the system refuses a handler for SIGCHLD, when some others are installed.
static REFUSES_HANDLERS: AtomicBool = AtomicBool::new(false);

/// Stands in for the function of the C library, for all of this program, where that can be had under another program's name.
///
/// # Safety
/// As for sigaction(2).
#[cfg(target_env = "gnu")]
#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(signal: libc::c_int, action: *const libc::sigaction, old: *mut libc::sigaction) -> libc::c_int {
    type Sigaction = unsafe extern "C" fn(libc::c_int, *const libc::sigaction, *mut libc::sigaction) -> libc::c_int;
    if signal == libc::SIGCHLD && !action.is_null() && REFUSES_HANDLERS.load(Ordering::Relaxed) {
        nix::errno::Errno::EPERM.set();
        return -1;
    }
    // SAFETY: the C library has a function of this name and type, and gets what the caller has given.
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"sigaction".as_ptr());
        std::mem::transmute::<*mut libc::c_void, Sigaction>(next)(signal, action, old)
    }
}

/// The master that replaces another one, in its own process.
fn is_successor(role: &str) -> bool {
    role.starts_with("master,") && role.ends_with(&format!(",{}", std::process::id()))
}

/// The check of a file that is to be the master: it has the same name, and another process has set it.
fn is_rehearsal(role: &str) -> bool {
    role.starts_with("master,") && !is_successor(role)
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

fn configure(script: Script, role: String) -> Config<ExitCode> {
    let words = Script::read();
    let is_successor = is_successor(&role);
    let role_of_start = role.starts_with("stored,");
    let mut config = Config::new(move |state| Actor { script, state, role }.play()).debug(words.has("debug") && !words.has("quiet"));
    let address = words.text("address").unwrap_or("127.0.0.1:0");
    config = config.addresses(address.split(',').filter(|address| !address.is_empty()));
    type Set = fn(Config<ExitCode>, Duration) -> Config<ExitCode>;
    let durations: [(&str, Set); 7] = [
        ("warm_up", Config::warm_up),
        ("probation", Config::probation),
        ("ready_timeout", Config::ready_timeout),
        ("terminate_timeout", Config::terminate_timeout),
        ("check_timeout", Config::check_timeout),
        ("fetch_timeout", Config::fetch_timeout),
        ("min_fetch_interval", Config::min_fetch_interval),
    ];
    for (name, set) in durations {
        if let Some(time) = words.milliseconds(name) {
            config = set(config, time);
        }
    }
    let interval = words.milliseconds("interval").unwrap_or(Duration::from_millis(50));
    config = match words.text("fetch") {
        Some("hang") => config.fetcher(fetcher_fn("hang", |_| hang()).every(interval)),
        Some("stall-in-fetch") => config.fetcher(Stalls { in_body: false, interval }),
        Some("stall-in-body") => config.fetcher(Stalls { in_body: true, interval }),
        Some("crash") => config.fetcher(fetcher_fn("crash", |_| abort()).every(interval)),
        Some("panic") => config.fetcher(fetcher_fn("panic", |_| panic!("the fetcher panics")).every(interval)),
        Some("fail") => config.fetcher(fetcher_fn("fail", |_| Err(FetchError::passing("the fetcher fails"))).every(interval)),
        Some("nothing") => config.fetcher(fetcher_fn("nothing", |_| Ok(Look::unchanged())).every(interval)),
        Some(url) if url.starts_with("http://") => config.fetcher(HttpFetcher::new(url).every(interval).no_proxy()),
        Some(path) if words.has("release_version") => {
            let (path, version) = (path.to_owned(), words.text("release_version").unwrap_or_default().to_owned());
            config.fetcher(fetcher_fn(path.clone(), move |known| versioned(&path, &version, known)).every(interval))
        }
        Some(path) => config.fetcher(File::new(path).every(interval).settle(Duration::ZERO)),
        None => config,
    };
    if let Some(path) = words.text("pid_file") {
        config = config.pid_file(path);
    }
    if let Some(path) = words.text("state_dir") {
        config = config.state_dir(path);
    }
    if let Some(path) = words.text("binary_store") {
        config = config.binary_store(path);
    }
    if let Some(number) = words.number("restart_signal") {
        config = config.restart_signal(Signal::from_raw(number).expect("a signal"));
    }
    if let Some(numbers) = words.text("stop_signals") {
        let signal = |number: &str| number.parse().ok().and_then(Signal::from_raw).expect("a signal");
        config = config.stop_signals(numbers.split(',').map(signal));
    }
    let keys = words.text("trusted_key").filter(|keys| *keys != "none");
    config = config.trusted_keys(keys.iter().flat_map(|keys| keys.split(',')));
    config = config.allow_downgrade(words.has("allow_downgrade")).allow_scripts(words.has("allow_scripts"));
    if let Some(count) = words.number("max_draining") {
        config = config.max_draining(count);
    }
    if words.has("alone") {
        config = config.overlap(false);
    }
    config = config.no_warn(words.has("no_warn"));
    if words.has("accept_late") {
        config = config.warm_up_accept(false);
    }
    match words.text("upgrades") {
        Some("off") => config = config.upgrades(Upgrades::Off),
        Some("notify") => config = config.upgrades(Upgrades::Notify),
        Some("unsaid") => {}
        // So that the tests of upgrades run in a container too.
        _ => config = config.upgrades(Upgrades::Install),
    }
    if words.has("no_restart") {
        config = config.no_restart();
    }
    if words.has("at_next_restart") {
        config = config.no_restart_after_fetch();
    }
    if words.has("keep_master") {
        config = config.upgrade_master(false);
    }
    if words.text("behave") == Some("bad-start") && role_of_start {
        config = config.warm_up(Duration::MAX);
    }
    if words.text("behave") == Some("bad-master") && is_successor {
        config = config.warm_up(Duration::MAX);
    }
    if words.has("json") {
        config = config.log_format(LogFormat::Json);
    }
    if words.text("behave") == Some("refuse-upgrade") {
        config = config.pre_upgrade(|path| Err(format!("the hook does not like {}", path.display())));
    }
    config
}

/// A source that has a name for the file, and a version.
fn versioned(path: &str, version: &str, known: &Known) -> Result<Look, FetchError> {
    let tag = format!("v{version}");
    if known.is_settled(&tag) {
        return Ok(Look::unchanged());
    }
    let file = fs::File::open(path).map_err(|error| FetchError::passing(error.to_string()))?;
    Ok(Look::release(Release::new(tag, "app", file).version(version)))
}

/// An asynchronous source that answers nothing, or the beginning of a release and then nothing.
struct Stalls {
    in_body: bool,
    interval: Duration,
}

impl AsyncFetcher for Stalls {
    fn source(&self) -> String {
        if self.in_body { "stall-in-body" } else { "stall-in-fetch" }.to_owned()
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    async fn fetch(&mut self, _: &Known) -> Result<Look, FetchError> {
        if !self.in_body {
            std::future::pending::<()>().await;
        }
        let (mut writer, body) = tokio::io::duplex(16);
        tokio::spawn(async move {
            writer.write_all(b"\x7fELF and so on").await.expect("somebody reads");
            // The writer stays open.
            std::future::pending::<()>().await;
        });
        Ok(Look::release(Release::streamed("one", "app", body)))
    }
}

struct Actor {
    script: Script,
    state: State,
    role: String,
}

impl Actor {
    fn play(self) -> ExitCode {
        let pid = std::process::id();
        let (version, generation) = (self.version().to_owned(), self.state.generation());
        let _lock = self.script.has("lock").then(|| self.lock());
        // Before the line, so that whoever has read it may count on it.
        let terms = (self.script.text("serve") == Some("term")).then(block_term);
        if self.script.has("count_signals") {
            count_signals();
        }
        self.script.text("own").into_iter().flat_map(|own| own.split(',')).for_each(bind_own);
        println!("serving version={version} generation={generation} pid={pid} on {}", self.state.addresses().join(","));
        if self.script.has("guard") {
            // Open until the process ends.
            std::mem::forget(self.state.guard());
        }
        let code = self.script.number("exit").unwrap_or(0);
        self.misbehave();
        let actor = Arc::new(self);
        match terms {
            Some(terms) => actor.serve_until_term(&terms),
            None => actor.serve(),
        }
        println!("ending version={version} generation={generation} pid={pid}");
        ExitCode::from(code)
    }

    /// What only one process can have, for as long as this one lives.
    fn lock(&self) -> fs::File {
        let file = fs::File::create(self.state.bin_path().with_file_name("the-lock")).expect("a file");
        if let Err(error) = file.try_lock() {
            println!("somebody else has the lock: {error}");
            exit(5);
        }
        file
    }

    fn version(&self) -> &str {
        self.script.text("version").unwrap_or("0")
    }

    /// What goes wrong at the beginning.
    fn misbehave(&self) {
        let listener = self.state.listeners().first().and_then(|listener| listener.to_tcp().expect("a copy"));
        // As if its database could not be reached.
        if self.script.text("outage").is_some_and(|path| fs::exists(path).unwrap_or(true)) {
            exit(7);
        }
        match self.script.text("behave").unwrap_or_default() {
            "exit-at-start" => exit(7),
            "crash-at-start" => abort(),
            "hang-before-ready" => hang(),
            "crash-in-warm-up" => {
                thread::spawn(|| {
                    thread::sleep(Duration::from_millis(100));
                    abort()
                });
            }
            "block-listener" => listener.expect("TCP").set_nonblocking(false).expect("set"),
            "unblock-listener" => listener.expect("TCP").set_nonblocking(true).expect("set"),
            "shut-listener" => {
                nix::sys::socket::shutdown(listener.expect("TCP").as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("shut down");
            }
            "ready-with-file" => {
                let file = self.state.bin_path().with_file_name("be-ready");
                while !file.exists() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            "late-ready" => {
                let delay = self.script.milliseconds("delay").unwrap_or_default();
                thread::sleep(delay);
            }
            _ => {}
        }
    }

    fn serve(self: Arc<Self>) {
        let threads: Vec<_> = self
            .state
            .listeners()
            .iter()
            .map(|listener| {
                let (actor, listener) = (Arc::clone(&self), listener.clone());
                thread::spawn(move || {
                    for connection in listener.incoming() {
                        let (actor, connection) = (Arc::clone(&actor), connection.expect("the listener can be used"));
                        thread::spawn(move || actor.converse(&connection, &connection));
                    }
                })
            })
            .chain(self.state.datagram_sockets().iter().map(|socket| {
                let (actor, socket) = (Arc::clone(&self), socket.clone());
                thread::spawn(move || actor.answer_datagrams(&socket))
            }))
            .collect();
        if threads.is_empty() {
            self.state.ready();
            self.state.draining().wait();
        }
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        if self.script.text("behave") == Some("never-drain") {
            hang();
        }
    }

    /// A server that knows nothing of drains: it accepts by itself, and TERM means finish and leave.
    fn serve_until_term(self: Arc<Self>, terms: &SignalFd) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let listener: TcpListener = self.state.listener().to_tcp().expect("a copy").expect("TCP");
        self.state.ready();
        let mut open = Vec::new();
        loop {
            let mut wanted = [PollFd::new(terms.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            poll(&mut wanted, PollTimeout::NONE).expect("polled");
            if wanted[0].any() == Some(true) {
                break;
            }
            if let Ok((stream, _)) = listener.accept() {
                let actor = Arc::clone(&self);
                open.push(thread::spawn(move || actor.converse(&stream, &stream)));
            }
        }
        for thread in open {
            let _ = thread.join();
        }
    }

    fn answer_datagrams(&self, socket: &DatagramSocket) {
        let mut buffer = [0; 1000];
        if self.script.has("tokio") {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            return runtime.block_on(async {
                let socket = socket.to_tokio().expect("a copy");
                while let Some(datagram) = socket.recv_from(&mut buffer).await.expect("the socket can be used") {
                    let text = String::from_utf8_lossy(&buffer[..datagram.length]).into_owned();
                    // A client that has gone is none of ours.
                    let _ = socket.send_to(self.answer(&text).as_bytes(), &datagram.from).await;
                }
            });
        }
        while let Some(datagram) = socket.recv_from(&mut buffer).expect("the socket can be used") {
            let text = String::from_utf8_lossy(&buffer[..datagram.length]).into_owned();
            let mut words = text.split(' ');
            match (words.next(), words.next().and_then(|milliseconds| milliseconds.parse().ok())) {
                (Some("slow"), Some(milliseconds)) => {
                    println!("what {} asks for takes {milliseconds} ms", datagram.from);
                    thread::sleep(Duration::from_millis(milliseconds));
                }
                (Some("shut"), None) => {
                    // Of a UDP socket without a peer the system says ENOTCONN, and does it all the same.
                    let _ = nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), nix::sys::socket::Shutdown::Both);
                }
                _ => {}
            }
            // A client that has gone is none of ours.
            let _ = socket.send_to(self.answer(&text).as_bytes(), &datagram.from);
        }
    }

    /// Answers one line. After `hold` it says at once who has accepted the connection, and answers a second line.
    fn converse(&self, from: impl Read, mut to: impl Write) {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let is_held = line == "hold";
            let answer = self.answer(if is_held { "hello" } else { &line });
            // A client that has gone is none of ours.
            if to.write_all(answer.as_bytes()).is_err() || !is_held {
                return;
            }
        }
    }

    fn answer(&self, line: &str) -> String {
        let mut words = line.split(' ');
        match (words.next().unwrap_or_default(), words.next()) {
            ("hello", None) => format!("{} {} {}\n", self.version(), self.state.generation(), std::process::id()),
            ("crash", None) => abort(),
            ("exit", Some(code)) => exit(code.parse().expect("a number")),
            ("restart", None) => format!("{}\n", self.state.restart()),
            ("poll", None) => format!("{}\n", self.state.poll_now()),
            ("id", None) => format!("{}\n", self.state.id()),
            ("enabled", None) => format!("{}\n", self.state.enabled()),
            ("counted", Some(signal)) => {
                let count = COUNTED[signal.parse::<usize>().expect("a number")].load(Ordering::Relaxed);
                format!("{} {count}\n", self.state.generation())
            }
            ("descriptors", None) => descriptors().unwrap_or_else(|error| format!("{error}\n")),
            // A file that lies beside the program, as `$ORIGIN` finds it.
            ("beside", Some(name)) => beside(name).unwrap_or_else(|error| format!("{error}\n")),
            // A second copy of the program; `dirty` with the variable that this one was started with.
            ("copy", how) => {
                let mut command = Command::new(self.state.bin_path());
                let words = std::env::var(script::VARIABLE).unwrap_or_default();
                command.env(script::VARIABLE, format!("{words} copy fetch=nothing"));
                if how == Some("dirty") {
                    command.env(ROLE, &self.role);
                }
                // It lives on; whoever ends this program's session ends it.
                command.spawn().map_or_else(|error| format!("{error}\n"), |copy| format!("{}\n", copy.id()))
            }
            _ => format!("{line} is no command\n"),
        }
    }
}

/// How many of each signal this process has got.
static COUNTED: [AtomicU64; 65] = [const { AtomicU64::new(0) }; 65];

/// Counts the signals that this process gets: all that mean nothing to overseer and can be waited for.
fn count_signals() {
    let mut mask = SigSet::empty();
    let of_programs = [RawSignal::SIGHUP, RawSignal::SIGUSR1, RawSignal::SIGALRM, RawSignal::SIGWINCH, RawSignal::SIGIO, RawSignal::SIGURG];
    let of_the_system = [RawSignal::SIGVTALRM, RawSignal::SIGPROF, RawSignal::SIGXCPU, RawSignal::SIGXFSZ, RawSignal::SIGPWR];
    of_programs.into_iter().chain(of_the_system).for_each(|signal| mask.add(signal));
    let mut raw: libc::sigset_t = *mask.as_ref();
    // SAFETY: sigaddset(3) writes to this initialised set alone, which stays valid. nix knows no real-time signals.
    let mask = unsafe {
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).for_each(|signal| {
            libc::sigaddset(&raw mut raw, signal);
        });
        SigSet::from_sigset_t_unchecked(raw)
    };
    // Before any thread is started, so that all have it.
    mask.thread_block().expect("blocked");
    let signals = SignalFd::new(&mask).expect("a descriptor");
    thread::spawn(move || {
        while let Ok(Some(info)) = signals.read_signal() {
            COUNTED[info.ssi_signo as usize].fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Binds a socket beside those that the program is given, for as long as it lives.
fn bind_own(address: &str) {
    if let Some(path) = address.strip_prefix("unix:") {
        // The one of the generation before.
        let _ = fs::remove_file(path);
        std::mem::forget(UnixListener::bind(path).expect("bound"));
    } else if let Some(address) = address.strip_prefix("udp:") {
        std::mem::forget(UdpSocket::bind(address).expect("bound"));
    } else {
        std::mem::forget(TcpListener::bind(address).expect("bound"));
    }
}

fn block_term() -> SignalFd {
    let mut mask = SigSet::empty();
    mask.add(RawSignal::SIGTERM);
    mask.thread_block().expect("blocked");
    SignalFd::new(&mask).expect("a descriptor")
}

/// What each open descriptor is, one a line. The one that the listing itself needs is left out.
fn descriptors() -> io::Result<String> {
    let mut lines = String::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if !target.starts_with(format!("/proc/{}/fd", std::process::id())) {
            let _ = writeln!(lines, "{} {}", entry.file_name().display(), target.display());
        }
    }
    Ok(lines)
}

fn beside(name: &str) -> io::Result<String> {
    let own = fs::read_link("/proc/self/exe")?;
    fs::read_to_string(own.parent().unwrap_or(Path::new("/")).join(name))
}
