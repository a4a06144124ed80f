//! Processes that this tool starts: what they say, how they end, and that none of them stays behind.
//!
//! Everything that is started is a descendant of this process for as long as it lives, since this process adopts orphans
//! ([`prepare`]). So at the end, whichever way it comes, what is left is found by looking, and ended. On SIGINT, SIGTERM and SIGHUP a
//! thread of its own does that, removes the directories and exits.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long processes have to leave when this tool ends early.
const LEAVE_TIME: Duration = Duration::from_secs(3);

/// Whether what processes write to standard error is shown as it comes.
static SHOW_ERRORS: AtomicBool = AtomicBool::new(false);

/// What must be gone when this tool ends.
static STARTED: Mutex<Started> = Mutex::new(Started { processes: Vec::new(), directories: Vec::new() });

struct Started {
    processes: Vec<Arc<Shared>>,
    directories: Vec<PathBuf>,
}

/// The signals that end this tool.
fn ending_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

/// Adopts orphans, takes the signals that end this tool, allows as many descriptors as the system does, and forbids core files.
/// Called before any thread is started.
pub(crate) fn prepare() -> Result<(), String> {
    let because = |what: &'static str| move |error: nix::Error| format!("cannot {what}: {error}");
    prctl::set_child_subreaper(true).map_err(because("adopt orphans"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(because("read the limit of descriptors"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(because("raise the limit of descriptors"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).map_err(because("read the limit of core files"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard).map_err(because("forbid core files"))?;
    ending_signals().thread_block().map_err(because("block signals"))?;
    thread::spawn(|| {
        if let Ok(signal) = ending_signals().wait() {
            // Held to the end, so that nothing new is started.
            let mut started = lock(&STARTED);
            eprintln!("xtask: {signal}, stopping what was started");
            end_all(&mut started, LEAVE_TIME);
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}

/// Shows what processes write to standard error as it comes, if `show`.
pub(crate) fn show_errors(show: bool) {
    SHOW_ERRORS.store(show, Ordering::Relaxed);
}

/// Ends what is left and removes the directories. The last thing that a task does, whatever came of it.
pub(crate) fn finish() {
    end_all(&mut lock(&STARTED), Duration::ZERO);
}

fn end_all(started: &mut Started, leave_time: Duration) {
    if leave_time > Duration::ZERO {
        for process in &started.processes {
            process.signal(Signal::SIGTERM);
        }
        let deadline = Instant::now() + leave_time;
        for process in &started.processes {
            process.wait_until(deadline, |inner| inner.exit.map(drop));
        }
    }
    // What a killed process had started becomes ours, so look again until there is nothing.
    let deadline = Instant::now() + LEAVE_TIME;
    loop {
        let left = descendants();
        if left.is_empty() || Instant::now() > deadline {
            break;
        }
        for descendant in &left {
            let _ = kill(descendant.pid, Signal::SIGKILL);
        }
        for descendant in left.iter().filter(|descendant| descendant.parent == getpid()) {
            let _ = waitpid(descendant.pid, None);
        }
    }
    for directory in started.directories.drain(..) {
        let _ = fs::remove_dir_all(directory);
    }
}

/// A process that descends from this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descendant {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) name: String,
    pub(crate) is_zombie: bool,
}

/// All processes that descend from this one.
pub(crate) fn descendants() -> Vec<Descendant> {
    descendants_of(getpid())
}

/// Those that were not started by this tool itself, and have not ended.
pub(crate) fn strays() -> Vec<Descendant> {
    let own: Vec<Pid> = lock(&STARTED).processes.iter().map(|process| process.pid).collect();
    descendants().into_iter().filter(|descendant| !descendant.is_zombie && !own.contains(&descendant.pid)).collect()
}

/// All processes that descend from the process `ancestor`, parents before their children.
pub(crate) fn descendants_of(ancestor: Pid) -> Vec<Descendant> {
    let mut children: HashMap<Pid, Vec<Descendant>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw) else { continue };
        let Some(descendant) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| parse_stat(pid, &stat)) else { continue };
        children.entry(descendant.parent).or_default().push(descendant);
    }
    let mut found = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for descendant in children.remove(&parent).unwrap_or_default() {
            parents.push(descendant.pid);
            found.push(descendant);
        }
    }
    found
}

/// `4711 (na) me) S 1 ...`: only the last parenthesis ends the name.
fn parse_stat(pid: Pid, stat: &str) -> Option<Descendant> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = Pid::from_raw(fields.next()?.parse().ok()?);
    Some(Descendant { pid, parent, name: name.to_owned(), is_zombie: state == "Z" })
}

/// A directory that is removed at the end, on the disk that the build is on: programs can be executed there.
pub(crate) fn directory(purpose: &str) -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find the path of this program: {error}"))?;
    let parent = program.parent().unwrap_or(Path::new("."));
    let mut started = lock(&STARTED);
    let directory = tempfile::Builder::new()
        .prefix(&format!("{purpose}-"))
        .tempdir_in(parent)
        .map_err(|error| format!("cannot make a directory in {}: {error}", parent.display()))?
        .keep();
    started.directories.push(directory.clone());
    Ok(directory)
}

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// A line that a process wrote.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) stream: Stream,
    pub(crate) text: String,
}

/// A process that was started by this tool. Dropping it kills it.
pub(crate) struct Process {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    pid: Pid,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    lines: Vec<Line>,
    exit: Option<WaitStatus>,
    streams_open: u32,
}

impl Process {
    /// Starts `command` in a process group of its own, so that a Ctrl-C reaches only this tool, which then ends it in order.
    /// What it writes is collected.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self, String> {
        Self::start_with(name, command.stderr(Stdio::piped()))
    }

    /// The same, but its standard error is that of this tool.
    pub(crate) fn start_showing_errors(name: &str, command: &mut Command) -> Result<Self, String> {
        Self::start_with(name, command.stderr(Stdio::inherit()))
    }

    fn start_with(name: &str, command: &mut Command) -> Result<Self, String> {
        let tool = getpid();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        // SAFETY: between fork and exec only async-signal-safe functions may be called: these are three system calls, and no
        // closure that is called here allocates.
        unsafe {
            command.pre_exec(move || {
                // If this tool is killed outright, what it started is asked to leave. The thread that starts processes is the main one,
                // which lives as long as the process does.
                prctl::set_pdeathsig(Signal::SIGTERM)?;
                if nix::unistd::getppid() != tool {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                ending_signals().thread_unblock()?;
                Ok(())
            });
        }
        let mut started = lock(&STARTED);
        let mut child = command.spawn().map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|_| "a PID beyond all bounds")?);
        let shared = Arc::new(Shared { pid, inner: Mutex::default(), changed: Condvar::new() });
        started.processes.push(Arc::clone(&shared));
        drop(started);
        if let Some(stream) = child.stdout.take() {
            collect(&shared, Stream::Out, stream);
        }
        if let Some(stream) = child.stderr.take() {
            collect(&shared, Stream::Err, stream);
        }
        let waiting = Arc::clone(&shared);
        thread::spawn(move || waiting.reap());
        Ok(Self { name: name.to_owned(), shared })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.shared.pid
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        self.shared.signal(signal);
    }

    /// What it wrote so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        lock(&self.shared.inner).lines.clone()
    }

    /// What it wrote to its standard output, once it has ended and closed it.
    pub(crate) fn output(&self, within: Duration) -> Result<String, String> {
        self.shared
            .wait_until(Instant::now() + within, |inner| (inner.streams_open == 0).then(|| join(&inner.lines, Stream::Out)))
            .ok_or_else(|| format!("{} still writes after {within:?}", self.name))
    }

    /// Waits for a line after the first `*seen` ones that `pick` has an answer for, and moves `seen` past it.
    ///
    /// # Errors
    /// There was none in this time, or the process ended. The message says what was waited for and every line that came.
    pub(crate) fn wait_for<T>(
        &self,
        seen: &mut usize,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&Line) -> Option<T>,
    ) -> Result<T, String> {
        let mut index = *seen;
        let found = self.shared.wait_until(Instant::now() + within, |inner| {
            while let Some(line) = inner.lines.get(index) {
                index += 1;
                if let Some(found) = pick(line) {
                    return Some(Some(found));
                }
            }
            (inner.exit.is_some() && inner.streams_open == 0).then_some(None)
        });
        match found {
            Some(Some(found)) => {
                *seen = index;
                Ok(found)
            }
            Some(None) => Err(format!("{} ended before it wrote {what}; {}", self.name, self.account())),
            None => Err(format!("{} did not write {what} within {within:?}; {}", self.name, self.account())),
        }
    }

    /// Waits for the end.
    pub(crate) fn wait_exit(&self, within: Duration) -> Result<WaitStatus, String> {
        self.exit_within(within).ok_or_else(|| format!("{} has not ended within {within:?}; {}", self.name, self.account()))
    }

    /// The end, if it comes in this time.
    pub(crate) fn exit_within(&self, time: Duration) -> Option<WaitStatus> {
        self.shared.wait_until(Instant::now() + time, |inner| inner.exit)
    }

    /// Everything it wrote, for a message about what went wrong.
    pub(crate) fn account(&self) -> String {
        let inner = lock(&self.shared.inner);
        let mut text = match inner.exit {
            Some(exit) => format!("it ended ({exit:?})"),
            None => format!("it runs as pid {}", self.shared.pid),
        };
        text.push_str(if inner.lines.is_empty() { " and wrote nothing" } else { " and wrote:" });
        let first = inner.lines.first().map(|line| line.at);
        for line in &inner.lines {
            let after = first.map_or(Duration::ZERO, |first| line.at - first);
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  {:8.3} {}", after.as_secs_f64(), line.text);
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shared.signal(Signal::SIGKILL);
        self.shared.wait_until(Instant::now() + LEAVE_TIME, |inner| inner.exit.map(drop));
    }
}

impl Shared {
    /// Holds the lock that the reaper takes, so that the PID cannot be another process's by now.
    fn signal(&self, signal: Signal) {
        let inner = lock(&self.inner);
        if inner.exit.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits for the end without taking it, then takes it under the lock.
    fn reap(&self) {
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(self.pid), ended) == Err(nix::Error::EINTR) {}
        let mut inner = lock(&self.inner);
        // Somebody else can have taken it only when this tool is ending.
        inner.exit = Some(waitpid(self.pid, None).unwrap_or(WaitStatus::StillAlive));
        drop(inner);
        self.changed.notify_all();
    }

    fn wait_until<T>(&self, deadline: Instant, mut ready: impl FnMut(&Inner) -> Option<T>) -> Option<T> {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(answer) = ready(&inner) {
                return Some(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Collects the lines of a stream until nobody can write to it any more.
fn collect(shared: &Arc<Shared>, stream: Stream, source: impl Read + Send + 'static) {
    lock(&shared.inner).streams_open += 1;
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut bytes = Vec::new();
        while source.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            bytes.clear();
            if stream == Stream::Err && SHOW_ERRORS.load(Ordering::Relaxed) {
                eprintln!("{text}");
            }
            lock(&shared.inner).lines.push(Line { at: Instant::now(), stream, text });
            shared.changed.notify_all();
        }
        lock(&shared.inner).streams_open -= 1;
        shared.changed.notify_all();
    });
}

fn join(lines: &[Line], stream: Stream) -> String {
    lines.iter().filter(|line| line.stream == stream).fold(String::new(), |text, line| text + &line.text + "\n")
}

/// A thread that panicked while it held a lock left nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::start("the shell", Command::new("/bin/sh").args(["-c", script])).expect("started")
    }

    #[test]
    fn lines_are_found_in_order_and_the_end_is_told() {
        let process = shell("echo one; echo two >&2; echo three; read never; exit 7");
        let mut seen = 0;
        let number = |wanted: &'static str| move |line: &Line| (line.text == wanted).then_some(line.stream);
        assert_eq!(process.wait_for(&mut seen, "one", LEAVE_TIME, number("one")), Ok(Stream::Out));
        assert_eq!(process.wait_exit(LEAVE_TIME), Ok(WaitStatus::Exited(process.pid(), 7)));
        let mut from_the_start = 0;
        assert_eq!(process.wait_for(&mut from_the_start, "two", LEAVE_TIME, number("two")), Ok(Stream::Err));
        let wrong = process.wait_for(&mut seen, "four", LEAVE_TIME, number("four")).expect_err("nobody wrote it");
        assert!(wrong.contains("ended before it wrote four") && wrong.contains("three"), "{wrong}");
        assert_eq!(process.output(LEAVE_TIME), Ok("one\nthree\n".to_owned()));
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let process = shell("echo ready; exec sleep 1000");
        process.wait_for(&mut 0, "ready", LEAVE_TIME, |line| (line.text == "ready").then_some(())).expect("ready");
        let pid = process.pid();
        assert!(descendants().iter().any(|descendant| descendant.pid == pid && descendant.parent == getpid()));
        drop(process);
        assert_eq!(kill(pid, None), Err(nix::Error::ESRCH));
    }

    #[test]
    fn a_name_with_a_parenthesis_does_not_hide_the_parent() {
        let descendant = parse_stat(Pid::from_raw(5), "5 (a) b) Z 4 5 5 0").expect("a process");
        assert_eq!(descendant, Descendant { pid: Pid::from_raw(5), parent: Pid::from_raw(4), name: "a) b".to_owned(), is_zombie: true });
    }
}
