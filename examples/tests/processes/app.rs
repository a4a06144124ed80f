//! A program under test: its directory, its process, what it writes, and its certain end.

use crate::load::{PATIENCE, ask, tell};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe, setsid};
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The test program.
pub(crate) const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

/// A program that speaks version 1 of the protocol and uses nothing of overseer.
pub(crate) const FROZEN_CHILD: &str = env!("CARGO_BIN_EXE_frozen_child");

/// A process that forks has copies of all open descriptors until it executes, and a file that somebody has open for writing cannot be
/// executed. So nobody writes a program while somebody starts one.
static WRITING_OR_STARTING: Mutex<()> = Mutex::new(());

fn neither_writing_nor_starting() -> MutexGuard<'static, ()> {
    WRITING_OR_STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fast settings. A slow machine makes nobody ready by age.
const SETTINGS: &str = "debug ready_timeout=15000 warm_up=100 probation=60000 terminate_timeout=10000 min_fetch_interval=20 interval=40";

/// The number of the signal that [`App::queue_signal`] sends.
pub(crate) fn queued_signal() -> i32 {
    libc::SIGRTMIN() + 3
}

/// The contents of a release: the test program with these words.
pub(crate) fn release(words: &str) -> Vec<u8> {
    with_words(ACTOR, words)
}

/// The program with words for it at its end.
pub(crate) fn with_words(program: &str, words: &str) -> Vec<u8> {
    let mut bytes = without_debug_information(program);
    bytes.extend_from_slice(format!("\n#script# {words}").as_bytes());
    bytes
}

/// The program as it would be shipped, which is a tenth of what is built: tests copy it a lot. Where there is no `strip`, all of it.
fn without_debug_information(program: &str) -> Vec<u8> {
    static READ: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let strip = || {
        let directory = tempfile::tempdir().ok()?;
        let stripped = directory.path().join("stripped");
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").arg(&stripped).arg(program);
        let status = {
            let _guard = neither_writing_nor_starting();
            strip.status().ok()?
        };
        status.success().then(|| fs::read(&stripped).ok())?
    };
    let contents = || strip().unwrap_or_else(|| fs::read(program).expect("the test program is built"));
    read.entry(program.to_owned()).or_insert_with(contents).clone()
}

/// Writes a program beside its place and renames it there, so that nobody sees half of it.
pub(crate) fn put(path: &Path, contents: &[u8]) {
    let _guard = neither_writing_nor_starting();
    let beside = path.with_extension("being-written");
    let mut file = File::create(&beside).expect("created");
    file.write_all(contents).expect("written");
    file.set_permissions(Permissions::from_mode(0o755)).expect("mode set");
    drop(file);
    fs::rename(&beside, path).expect("renamed");
}

/// Starts a process while nobody writes a program.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _guard = neither_writing_nor_starting();
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A directory with a program in it.
pub(crate) struct Scene {
    directory: TempDir,
    words: String,
}

impl Scene {
    /// Version 1, with these words for all releases beside the usual settings.
    pub(crate) fn new(words: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("overseer-").tempdir().expect("a directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("mode set");
        fs::create_dir(directory.path().join("app")).expect("made");
        fs::create_dir(directory.path().join("source")).expect("made");
        let scene = Self { directory, words: format!("{SETTINGS} {words}") };
        put(&scene.program(), &release("version=1"));
        scene
    }

    /// One that takes its releases from [`Scene::publish`].
    pub(crate) fn with_source(words: &str) -> Self {
        let mut scene = Self::new("");
        scene.words = format!("{SETTINGS} fetch={} {words}", scene.source().display());
        put(&scene.source(), &release("version=1"));
        scene
    }

    pub(crate) fn add_words(&mut self, words: &str) {
        self.words = format!("{} {words}", self.words);
    }

    /// What all its releases are told.
    pub(crate) fn words(&self) -> &str {
        &self.words
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The program's path.
    pub(crate) fn program(&self) -> PathBuf {
        self.directory().join("app/app")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.directory().join("app/.app.overseer")
    }

    /// The path of the published file.
    pub(crate) fn source(&self) -> PathBuf {
        self.directory().join("source/release")
    }

    /// Offers the test program with these words as a release.
    pub(crate) fn publish(&self, words: &str) {
        self.publish_bytes(&release(words));
    }

    pub(crate) fn publish_bytes(&self, bytes: &[u8]) {
        put(&self.source(), bytes);
    }

    /// What is remembered, if anything.
    pub(crate) fn state(&self) -> Value {
        fs::read(self.state_dir().join("state.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// The words at the end of the file at the program's path.
    pub(crate) fn version_at_path(&self) -> String {
        version_in(&self.program())
    }

    /// What lies beside the program, without its state directory.
    pub(crate) fn names_beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory().join("app")).expect("a directory");
        let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != ".app.overseer");
        names.sort();
        names
    }

    pub(crate) fn command(&self) -> Command {
        self.command_with("")
    }

    /// The command of a program with more words for all its releases.
    pub(crate) fn command_with(&self, words: &str) -> Command {
        let mut command = Command::new(self.program());
        command.env("ACTOR", format!("{} {words}", self.words));
        command
    }

    /// The program with this in the variable for operators, started by `wrapper` if there is one.
    pub(crate) fn operator(&self, wrapper: &[&str], wish: &str, arguments: &[&str]) -> Command {
        let program = self.program();
        let words = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]).chain(arguments.iter().map(OsStr::new));
        let words: Vec<&OsStr> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("ACTOR", &self.words).env("OVERSEER", wish).env_remove("MAINPID");
        command
    }

    /// Starts the program and waits until its first generation is ready.
    pub(crate) fn start(&self) -> App {
        let mut app = App::start(self.command());
        app.wait_until_ready();
        app
    }

    /// Starts the program by another one, as in `strace PROGRAM`.
    pub(crate) fn start_by(&self, wrapper: &[&str]) -> App {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(self.program()).env("ACTOR", &self.words);
        App::start(command)
    }
}

/// What version the file says it is.
pub(crate) fn version_in(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let end = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(1000)..]).into_owned();
    let words = end.rsplit_once("#script# ").map(|(_, words)| words.to_owned()).unwrap_or_default();
    words.split_whitespace().find_map(|word| word.strip_prefix("version=").map(str::to_owned)).unwrap_or_else(|| "none".to_owned())
}

#[derive(Default)]
struct Lines {
    seen: Mutex<Vec<String>>,
    came: Condvar,
    /// Nobody is left who could write one.
    is_over: AtomicBool,
}

impl Lines {
    /// A test that fails while it looks at the lines leaves them whole.
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running program. All processes of its session end when it is dropped.
pub(crate) struct App {
    process: Child,
    session: Pid,
    /// The PID of the master, which a wrapper may hide.
    master: Option<Pid>,
    address: String,
    lines: Arc<Lines>,
    /// How many lines the test has gone through.
    cursor: usize,
}

impl App {
    pub(crate) fn start(command: Command) -> Self {
        Self::start_with(Stdio::null(), command)
    }

    /// Starts it with this standard input.
    pub(crate) fn start_with(stdin: Stdio, mut command: Command) -> Self {
        // What the program leaves behind becomes ours to end.
        prctl::set_child_subreaper(true).expect("set");
        let (reader, writer) = pipe().expect("a pipe");
        command.stdin(stdin).stdout(writer.try_clone().expect("a copy")).stderr(writer);
        let make_session = || {
            setsid()?;
            // Whoever runs the tests in the background may have made them ignore some.
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: the default action runs no code of ours.
                unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
            }
            Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
        };
        // SAFETY: between fork and exec these are plain system calls, which are async-signal-safe.
        unsafe { command.pre_exec(make_session) };
        let process = spawn(&mut command);
        drop(command);
        let lines = Arc::new(Lines::default());
        let collector = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(File::from(reader)).split(b'\n').map_while(Result::ok) {
                collector.lock().push(String::from_utf8_lossy(&line).into_owned());
                collector.came.notify_all();
            }
            collector.is_over.store(true, Ordering::Release);
        });
        let session = Pid::from_raw(i32::try_from(process.id()).expect("a PID"));
        Self { process, session, master: None, address: String::new(), lines, cursor: 0 }
    }

    pub(crate) fn wait_until_ready(&mut self) {
        let started = self.line_after("master started as pid ");
        let pid = started.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a PID");
        // In a namespace of its own it is not the PID that it has here.
        let here = || processes().iter().find(|process| process.parent == self.session).expect("it lives").pid;
        self.master = Some(if pid == 1 { here() } else { Pid::from_raw(pid) });
        let serving = self.line_after("serving ");
        self.address = serving.rsplit_once(" on ").map(|(_, addresses)| addresses.to_owned()).unwrap_or_default();
        self.line_after("generation 1 is ready");
    }

    /// Finds the master's PID where the test does not wait for the first generation.
    pub(crate) fn find_master(&mut self) {
        let seen = self.lines.lock().join(" ");
        let pid = seen.split("master started as pid ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|pid| pid.parse().ok());
        self.master = Some(Pid::from_raw(pid.expect("the master has started")));
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The master's PID.
    pub(crate) fn pid(&self) -> Pid {
        self.master.unwrap_or(self.session)
    }

    /// Waits for the next line that holds `part`, and answers what comes after that.
    #[track_caller]
    pub(crate) fn line_after(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.lines.lock();
        loop {
            while let Some(line) = seen.get(self.cursor) {
                self.cursor += 1;
                if let Some((_, after)) = line.split_once(part) {
                    return after.to_owned();
                }
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            assert!(
                !rest.is_zero(),
                "no line with {part:?} after line {} within {PATIENCE:?}; all lines:\n{}",
                self.cursor,
                seen.join("\n")
            );
            seen = self.lines.came.wait_timeout(seen, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many lines so far hold `part`.
    pub(crate) fn count_lines(&self, part: &str) -> usize {
        self.lines.lock().iter().filter(|line| line.contains(part)).count()
    }

    /// Whether all processes that could write a line have ended, and all lines are read.
    pub(crate) fn has_said_all(&self) -> bool {
        self.lines.is_over.load(Ordering::Acquire)
    }

    pub(crate) fn all_lines(&self) -> String {
        self.lines.lock().join("\n")
    }

    /// As [`App::line_after`], from the first line on.
    #[track_caller]
    pub(crate) fn line_after_start(&mut self, part: &str) -> String {
        self.rewind();
        self.line_after(part)
    }

    /// Lets [`App::line_after`] find none of the lines so far.
    pub(crate) fn skip_lines(&mut self) {
        self.cursor = self.lines.lock().len();
    }

    /// Lets [`App::line_after`] find lines that it has gone past.
    pub(crate) fn rewind(&mut self) {
        self.cursor = 0;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the master lives");
    }

    /// Sends a real-time signal, of which each is kept for itself, however many wait.
    pub(crate) fn queue_signal(&self) {
        // SAFETY: kill(2) touches no memory of ours. nix knows no real-time signals.
        let sent = unsafe { libc::kill(self.pid().as_raw(), queued_signal()) };
        assert_eq!(sent, 0, "the master lives");
    }

    /// How many of a signal this generation says that it has counted; none while another one answers.
    pub(crate) fn counted(&self, signal: i32, generation: usize) -> usize {
        let text = tell(&self.address, &format!("counted {signal}")).unwrap_or_else(|error| panic!("{}: {error}", self.address));
        let (by, count) = text.trim().split_once(' ').unwrap_or_else(|| panic!("{text:?}"));
        if by == generation.to_string() { count.parse().expect("a number") } else { 0 }
    }

    /// Waits until this generation has counted so many, and answers how many it says then: the one before may still answer a request that waits.
    #[track_caller]
    pub(crate) fn counted_at_least(&mut self, signal: i32, generation: usize, wanted: usize) -> usize {
        let mut count = 0;
        self.wait_until("the program has got it", |app| {
            count = app.counted(signal, generation);
            count >= wanted
        });
        count
    }

    /// Restarts it and waits until the new generation has taken over and the old one is gone.
    pub(crate) fn restart(&mut self) {
        let before = ask(&self.address).generation;
        self.signal(Signal::SIGUSR2);
        self.line_after(&format!("generation {} took over", before + 1));
        self.line_after(&format!("generation {before} is gone"));
    }

    /// Restarts it and waits until this generation has taken over and the one before it is gone.
    pub(crate) fn restart_to(&mut self, generation: u64) {
        self.signal(Signal::SIGUSR2);
        self.line_after(&format!("generation {generation} took over"));
        self.line_after("is gone");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("it is ours").is_some()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        self.wait_until("the program ends", |app| {
            status = app.process.try_wait().expect("it is ours");
            status.is_some()
        });
        status.expect("it has ended")
    }

    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }

    /// Waits for something that nobody tells of.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; all lines:\n{}", self.all_lines());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The processes of its session that live, the master among them.
    pub(crate) fn processes(&self) -> Vec<Process> {
        processes().into_iter().filter(|process| process.session == self.session && process.state != 'Z').collect()
    }

    /// The master's children, dead ones that it has not reaped too.
    pub(crate) fn children(&self) -> Vec<Process> {
        processes().into_iter().filter(|process| process.parent == self.pid()).collect()
    }

    /// What the master has open, each with its number.
    pub(crate) fn descriptors(&self) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the master lives").flatten();
        let target = |path: &Path| fs::read_link(path).unwrap_or_default().display().to_string();
        let mut all: Vec<String> = entries.map(|entry| format!("{} {}", entry.file_name().display(), target(&entry.path()))).collect();
        all.sort();
        all
    }

    /// The only child of the master that runs this role: the third field of its variable.
    pub(crate) fn child_in_role(&self, role: &str) -> Option<Pid> {
        let wanted = format!("OVERSEER_ROLE={role},");
        let has_role = |process: &&Process| {
            let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(wanted.as_bytes()))
        };
        self.children().iter().find(has_role).map(|process| process.pid)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // A process that is being forked is not in the first list, so until there is none.
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for process in left {
                let _ = kill(process.pid, Signal::SIGKILL);
                // Only what has become ours can be reaped by us, and only that.
                if process.pid != self.session {
                    let _ = waitpid(process.pid, Some(WaitPidFlag::WNOHANG));
                }
            }
            let _ = self.process.try_wait();
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.process.wait();
        if thread::panicking() {
            println!("all lines of the program:\n{}", self.all_lines());
        }
    }
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) session: Pid,
    pub(crate) state: char,
    pub(crate) name: String,
}

/// All processes of the system.
pub(crate) fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    pids.filter_map(process).collect()
}

/// A process, or a thread by its own number.
pub(crate) fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split(' ').collect();
    let number = |place: usize| fields.get(place).and_then(|field| field.parse().ok()).map(Pid::from_raw);
    Some(Process {
        pid: Pid::from_raw(pid),
        parent: number(1)?,
        session: number(3)?,
        state: fields[0].chars().next()?,
        name: before.split_once('(')?.1.to_owned(),
    })
}

/// Says what a test cannot show here, which in CI is a failure.
pub(crate) fn not_shown(what: &str) {
    assert!(env::var_os("OVERSEER_CI").is_none(), "{what}");
    println!("{what}");
}

/// Whether a tool is there; if not, the test says what it cannot show.
pub(crate) fn can_run(what: &str, tool: &str, arguments: &[&str]) -> bool {
    let output = {
        let _guard = neither_writing_nor_starting();
        Command::new(tool).args(arguments).stdin(Stdio::null()).output()
    };
    let can = output.is_ok_and(|output| output.status.success());
    if !can {
        not_shown(&format!("{what} is not shown: it needs {tool} {}; .ci/run names the packages", arguments.join(" ")));
    }
    can
}

/// Whether the test may do what only root may; if not, it says what it cannot show.
pub(crate) fn is_root(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        not_shown(&format!("{what} is not shown: it needs root"));
    }
    is_root
}
