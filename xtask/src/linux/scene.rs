//! What every task needs: a directory with the installed program, the server of releases, and the running master.

use super::build::{Build, id_of};
use super::client::{self, Answer};
use super::process::{self, Line, Process, Stream};
use super::server::Server;
use super::signing::Key;
use super::source::{Fetcher, Source};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long anything may take that takes a moment. Generous, since it is only waited for when something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program as it is installed, and where its releases come from.
pub(crate) struct Scene<S = Server> {
    /// Where builds are kept.
    pub(crate) releases: PathBuf,
    /// The program's path.
    pub(crate) path: PathBuf,
    pub(crate) server: S,
    /// What releases are signed with.
    pub(crate) key: Key,
}

impl Scene {
    /// An empty one with a server of its own, in a directory that is removed at the end.
    pub(crate) fn new(purpose: &str) -> Result<Self, String> {
        Self::with(purpose, |_| Server::start())
    }
}

impl Scene<Box<dyn Source>> {
    /// An empty one, with what this fetcher looks at.
    pub(crate) fn of(purpose: &str, fetcher: Fetcher) -> Result<Self, String> {
        Self::with(purpose, |directory| fetcher.open(directory))
    }
}

impl<S: Source> Scene<S> {
    fn with(purpose: &str, open: impl FnOnce(&Path) -> Result<S, String>) -> Result<Self, String> {
        let directory = process::directory(purpose)?;
        let make = |name: &str| {
            let path = directory.join(name);
            fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display())).map(|()| path)
        };
        let (releases, installed, published) = (make("releases")?, make("installed")?, make("published")?);
        Ok(Self { releases, path: installed.join("app"), server: open(&published)?, key: Key::new()? })
    }

    /// Signs and publishes a build.
    pub(crate) fn publish_signed(&self, build: &Build) -> Result<Instant, String> {
        let signature = self.key.sign(&build.path, self.server.file_name())?;
        self.server.publish(build, Some(&signature))
    }

    /// Starts the installed program, which takes only what is signed with the key, and waits until it serves.
    pub(crate) fn start_trusting(&self, settings: &[&str]) -> Result<Running, String> {
        self.start(&[&["--trusted-key", &self.key.public()], settings].concat())
    }

    /// Starts the installed program and waits until it serves.
    pub(crate) fn start(&self, settings: &[&str]) -> Result<Running, String> {
        let mut command = Command::new(&self.path);
        command.args(["--listen", "127.0.0.1:0"]).args(settings);
        self.server.tell(&mut command);
        Running::start(&mut command)
    }

    /// The ID of the file at the program's path.
    pub(crate) fn installed_id(&self) -> Result<String, String> {
        id_of(&self.path)
    }

    /// Files beside the program that should not be there: releases that were staged and neither committed nor removed.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "app" && name != ".app.overseer").collect()
    }
}

/// A master and what it says.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) started: Instant,
    /// How many of its lines have been taken from standard output, and looked at for anything else.
    seen_out: usize,
    seen_err: usize,
}

impl Running {
    /// Starts the program, and waits until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        let started = Instant::now();
        let process = Process::start("the program", command)?;
        let mut seen_err = 0;
        let address =
            process.wait_for(&mut seen_err, "its address", PATIENCE, |line| line.text.strip_prefix("listening on ").map(str::to_owned))?;
        let address = address.parse().map_err(|error| format!("the program listens on {address:?}: {error}"))?;
        Ok(Self { process, address, started, seen_out: 0, seen_err: 0 })
    }

    /// The next line on standard output.
    pub(crate) fn next_line(&mut self, what: &str) -> Result<Line, String> {
        self.process.wait_for(&mut self.seen_out, what, PATIENCE, |line| (line.stream == Stream::Out).then(|| line.clone()))
    }

    /// Waits for the next line of the master's that `pick` has an answer for.
    pub(crate) fn master_says<T>(&mut self, what: &str, within: Duration, mut pick: impl FnMut(&str) -> Option<T>) -> Result<T, String> {
        self.process.wait_for(&mut self.seen_err, what, within, |line| pick(line.text.strip_prefix("[overseer] ")?))
    }

    /// Skips what the master has said so far.
    pub(crate) fn skip_what_was_said(&mut self) {
        self.seen_err = self.process.lines().len();
    }

    /// What the master has said since then.
    pub(crate) fn said_since(&self, since: Instant) -> Vec<String> {
        let lines = self.process.lines();
        lines.iter().filter(|line| line.at >= since).filter_map(|line| line.text.strip_prefix("[overseer] ").map(str::to_owned)).collect()
    }

    /// Sends one request.
    pub(crate) fn get(&self, target: &str) -> Result<Answer, String> {
        client::get(self.address, target, PATIENCE).map_err(|wrong| format!("{wrong}; {}", self.process.account()))
    }

    /// Sends requests until one is answered as wanted.
    pub(crate) fn get_until(&self, what: &str, mut wanted: impl FnMut(&Answer) -> bool) -> Result<Answer, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get("/")?;
            if wanted(&answer) {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                return Err(format!("{what} did not answer within {PATIENCE:?}, but {}; {}", answer.text, self.process.account()));
            }
        }
    }

    /// That the process which answered is a child of the master that was started.
    pub(crate) fn check_parent(&self, answer: &Answer) -> Result<(), String> {
        let pid = Pid::from_raw(answer.pid);
        match process::descendants_of(self.process.pid()).iter().find(|descendant| descendant.pid == pid) {
            Some(child) if child.parent == self.process.pid() => Ok(()),
            _ => Err(format!("{} came from pid {pid}, which is no child of the master (pid {})", answer.text, self.process.pid())),
        }
    }

    /// The processes of the master that do not serve: a poll, a check, a candidate.
    pub(crate) fn others_than(&self, serving: i32) -> Vec<process::Descendant> {
        let all = process::descendants_of(self.process.pid());
        all.into_iter().filter(|descendant| descendant.pid.as_raw() != serving).collect()
    }

    /// Waits until the old generation says that it exits.
    pub(crate) fn process_leaves(&mut self) -> Result<(), String> {
        let leaves = |line: &Line| (line.stream == Stream::Out && line.text.ends_with(" exiting...")).then_some(());
        self.process.wait_for(&mut self.seen_out, "that the old generation exits", PATIENCE, leaves)
    }

    /// Waits until the master has no other process than the serving one.
    pub(crate) fn wait_until_alone(&self, serving: i32) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let others = self.others_than(serving);
            if others.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the master still has other processes than the serving one: {others:?}"));
            }
            if let Some(exit) = self.process.exit_within(Duration::from_millis(10)) {
                return Err(format!("the master ended: {exit:?}"));
            }
        }
    }

    /// Asks the master to leave, and waits until it has done so with exit code 0 and nothing of it is left.
    pub(crate) fn stop(&self) -> Result<(), String> {
        self.process.signal(Signal::SIGTERM);
        match self.process.wait_exit(PATIENCE)? {
            WaitStatus::Exited(_, 0) => {}
            exit => return Err(format!("the master ended with {exit:?} after SIGTERM; {}", self.process.account())),
        }
        let left = process::strays();
        if left.is_empty() { Ok(()) } else { Err(format!("the master left processes behind: {left:?}")) }
    }
}
