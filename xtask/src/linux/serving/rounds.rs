//! One run of a server under load: it is restarted or upgraded again and again, and everything that its clients saw is kept.

use super::answer::Who;
use super::clients::{Clients, GRACE, Habit, Heard};
use super::http2::{Http2, Streams};
use super::subjects::{Served, Subject};
use crate::linux::load::{Sample, Tally};
use crate::linux::proc;
use crate::linux::process::Process;
use crate::linux::scene::PATIENCE;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the load runs before anything happens.
const SETTLING: Duration = Duration::from_millis(500);
/// How long the last streams of HTTP/2 may take.
const LAST_STREAMS: Duration = Duration::from_millis(1500);
/// For how long it is seen what a restart does to its neighbours.
pub(super) const WINDOW: Duration = Duration::from_secs(1);
/// From the first answer of a new generation to the window in which the old one is told to leave, after a warm-up of 1 s.
pub(super) const LEAVES_AFTER: Duration = Duration::from_millis(900);
/// How long before a restart the silent connections are opened.
const SILENCE: Duration = Duration::from_millis(20);
/// They come at every fifth restart. The last ones are answered only after the next three.
const RESTARTS_TO_SILENCE: usize = 5;

/// What is done to a server.
pub(super) struct Course<'a> {
    pub(super) habits: Vec<Habit>,
    /// The program of the clients that speak HTTP/2, if there are to be any.
    pub(super) http2: Option<&'a Path>,
    /// How often it is restarted or upgraded.
    pub(super) changes: u32,
    /// From the first answer of a new generation to the next change.
    pub(super) pause: Duration,
    /// Executes a program after each restart that has nothing to do with the server, to compare with.
    pub(super) compare: bool,
    /// What the server is started with.
    pub(super) arguments: Vec<String>,
}

impl Course<'_> {
    /// How long it takes, if a new generation answers so long after its cause.
    pub(super) fn expected(&self, first_answer: Duration) -> Duration {
        let compared = if self.compare { WINDOW } else { Duration::ZERO };
        // The server is started and stopped, and the last requests are waited for.
        let around = SETTLING * 2 + self.grace() + if self.http2.is_some() { LAST_STREAMS } else { Duration::ZERO };
        around + (first_answer + self.pause + compared) * self.changes
    }

    /// The clients that think come back to what was closed meanwhile.
    fn grace(&self) -> Duration {
        if self.habits.iter().any(|habit| matches!(habit, Habit::Thinking { .. })) { GRACE } else { Duration::ZERO }
    }

    fn has_silent_clients(&self) -> bool {
        self.habits.iter().any(|habit| matches!(habit, Habit::Silent { .. }))
    }
}

/// A restart or an upgrade.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) at: Instant,
    /// The first answer of the new generation.
    pub(super) answered: Instant,
    pub(super) who: Who,
}

/// What was seen in one run.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) heard: Vec<Heard>,
    pub(super) streams: Streams,
    pub(super) changes: Vec<Change>,
    /// How often the silent clients came.
    pub(super) silences: u32,
    /// When the server was left alone, and something else was executed.
    pub(super) undisturbed: Vec<Instant>,
    pub(super) master_pss_kib: u64,
}

/// Restarts the server.
pub(super) fn restarts(subject: &Subject, directory: &Path, course: &Course<'_>) -> Result<Seen, String> {
    changes(subject, directory, course, |served, _| served.restart())
}

/// Upgrades the server to these releases, by putting each to where it looks for one.
pub(super) fn upgrades(
    subject: &Subject,
    directory: &Path,
    course: &Course<'_>,
    looks_at: &Path,
    releases: &[PathBuf],
) -> Result<Seen, String> {
    changes(subject, directory, course, |_, number| {
        let release = &releases[number];
        std::fs::rename(release, looks_at)
            .map_err(|error| format!("cannot put {} to {}: {error}", release.display(), looks_at.display()))?;
        Ok(Instant::now())
    })
}

fn changes(
    subject: &Subject,
    directory: &Path,
    course: &Course<'_>,
    mut cause: impl FnMut(&Served, usize) -> Result<Instant, String>,
) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let mut served = subject.start(directory, &course.arguments)?;
    let http2 = course.http2.map(|path| Http2::start(path, served.address)).transpose()?;
    let mut clients = Clients::start(served.address, &course.habits)?;
    served.watch(Instant::now() + SETTLING)?;
    for number in 0..course.changes as usize {
        if course.has_silent_clients() && number.is_multiple_of(RESTARTS_TO_SILENCE) {
            let restart_at = Instant::now() + SILENCE;
            clients.connect_silently(restart_at);
            seen.silences += 1;
            served.watch(restart_at)?;
        }
        clients.skip_newcomers();
        let at = cause(&served, number)?;
        let newcomer =
            clients.next_newcomer(PATIENCE).map_err(|wrong| format!("{}: {wrong}; {}", subject.name, served.process.account()))?;
        served.is_served_by(newcomer.who);
        seen.changes.push(Change { at, answered: newcomer.at, who: newcomer.who });
        served.watch(newcomer.at + course.pause)?;
        if course.compare {
            seen.undisturbed.push(Instant::now());
            let neighbour = Process::start("the neighbour", Command::new(&subject.path).arg("127.0.0.1:0").env("OVERSEER", "off"))?;
            served.watch(Instant::now() + WINDOW)?;
            neighbour.signal(Signal::SIGKILL);
            neighbour.wait_exit(PATIENCE)?;
        }
    }
    served.watch(Instant::now() + course.grace())?;
    seen.heard = clients.stop()?;
    seen.streams = http2.map(Http2::stop).transpose()?.unwrap_or_default();
    seen.master_pss_kib = proc::pss_kib(served.process.pid()).unwrap_or_default();
    served.stop()?;
    Ok(seen)
}

impl Seen {
    /// What was due on new connections in the windows that begin at these times.
    pub(super) fn in_windows(&self, begins: impl IntoIterator<Item = Instant>) -> Tally<Who> {
        let mut samples: Vec<Sample<Who>> = Vec::new();
        for from in begins {
            let new = self.heard.iter().filter(|heard| matches!(heard.habit, Habit::New { .. }));
            samples.extend(new.flat_map(|heard| heard.tally.due_between(from, from + WINDOW).samples));
        }
        Tally { samples }
    }

    /// The longest pauses between two answers, each in one of the windows.
    pub(super) fn pauses(&self, begins: impl IntoIterator<Item = Instant>) -> Vec<Duration> {
        begins.into_iter().map(|begin| self.in_windows([begin]).longest_pause()).collect()
    }
}
