//! What is done to the servers in a round, and in which order.
//!
//! Where failures are counted and nothing else, two servers run at the same time: that is harder for them, and the run takes half as long. Where times are taken, one
//! server runs alone.

use super::Plan;
use super::clients::Habit;
use super::rounds::{self, Course, LEAVES_AFTER, Seen, WINDOW};
use super::subjects::{Kind, Speech, Subject};
use crate::linux::build::Build;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How many servers run at a time while no times are taken.
const LANES: usize = 2;
/// From the first answer of a new generation to the next change. The warm-up is over by then, 1 s unless a program says otherwise, and the old one has been told to leave.
const PAUSE: Duration = Duration::from_millis(1300);
/// The same for datagrams: they go to the new generation when the old one is told to leave, so its first answer comes then.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(300);
/// About how long a new generation takes to answer: after a signal, and after a release was put to where it is looked for once a second.
const FIRST_ANSWER: Duration = Duration::from_millis(20);
const FIRST_ANSWER_OF_A_RELEASE: Duration = Duration::from_millis(800);
const WARM_UP: Duration = Duration::from_secs(1);
/// What a new version takes that reads a cache before it listens.
pub(super) const SLOW_START: Duration = Duration::from_millis(500);
/// Of how many restarts one is also made with such a version.
const RESTARTS_TO_SLOW_START: u32 = 5;
/// How many silent connections ask each so long after a restart.
pub(super) const SILENT: u32 = 10;
const SILENT_ASK_AFTER: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(700), Duration::from_secs(4)];

/// Something that is done to one server in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    /// Which of the servers.
    pub(super) subject: usize,
    pub(super) cause: Cause,
    /// Which of the rates.
    pub(super) rate: usize,
    times: u32,
    /// Whether it runs alone, as its times count, and the memory of the master.
    pub(super) is_alone: bool,
}

/// Why a new generation comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Restart,
    Upgrade,
    /// A restart of a version that takes [`SLOW_START`] before it listens.
    SlowStart,
}

/// What is done in one round.
pub(super) struct Round {
    number: u32,
    /// For each server, what is only counted. A server does one thing at a time.
    counted: Vec<Vec<Job>>,
    timed: Vec<Job>,
}

/// What all jobs need.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) plan: &'a Plan,
    pub(super) subjects: &'a [Subject],
    pub(super) directory: &'a Path,
    pub(super) http2: &'a Path,
}

/// All habits that go with connections.
fn all_habits(rate: u32) -> Vec<Habit> {
    let mut habits = vec![
        Habit::New { per_second: rate },
        Habit::Kept { connections: 100, per_second: 2000 },
        Habit::Thinking { connections: 100 },
        Habit::Slow { per_second: 20 },
    ];
    habits.extend(SILENT_ASK_AFTER.map(|ask_after| Habit::Silent { connections: SILENT, ask_after }));
    habits
}

impl Round {
    /// Round `number` of the plan, from 0.
    pub(super) fn new(number: u32, plan: &Plan, subjects: &[Subject]) -> Self {
        let share = |of: u32| of * (number + 1) / plan.rounds - of * number / plan.rounds;
        let (restarts, upgrades) = (share(plan.restarts), share(plan.upgrades));
        let mut round = Self { number, counted: Vec::new(), timed: Vec::new() };
        for (index, subject) in subjects.iter().enumerate() {
            let mut counted = Vec::new();
            let rates = if subject.speech == Speech::Datagrams { 1 } else { plan.rates.len() };
            for rate in 0..rates {
                // Times are taken at the last rate. When a datagram is answered first is known: after the warm-up.
                let is_alone = rate + 1 == plan.rates.len() && subject.speech != Speech::Datagrams;
                let upgrades = if subject.is_example { upgrades } else { 0 };
                let jobs = [(Cause::Restart, restarts), (Cause::Upgrade, upgrades)].map(|(cause, times)| Job {
                    subject: index,
                    cause,
                    rate,
                    times,
                    is_alone,
                });
                let to = if is_alone { &mut round.timed } else { &mut counted };
                to.extend(jobs.into_iter().filter(|job| job.times > 0));
            }
            if is_compared(subject) && restarts > 0 {
                let times = restarts.div_ceil(RESTARTS_TO_SLOW_START);
                round.timed.push(Job { subject: index, cause: Cause::SlowStart, rate: 0, times, is_alone: true });
            }
            if !counted.is_empty() {
                round.counted.push(counted);
            }
        }
        round
    }

    /// How long it takes.
    pub(super) fn expected(&self, scene: Scene<'_>) -> Duration {
        let of = |jobs: &[Job]| jobs.iter().map(|job| job.expected(scene)).sum::<Duration>();
        let mut lanes = [Duration::ZERO; LANES];
        for jobs in &self.counted {
            if let Some(shortest) = lanes.iter_mut().min() {
                *shortest += of(jobs);
            }
        }
        lanes.into_iter().max().unwrap_or_default() + of(&self.timed)
    }

    /// Does it all. What was seen is told one job after the other.
    pub(super) fn run(&self, scene: Scene<'_>, mut tell: impl FnMut(Job, Seen)) -> Result<(), String> {
        for (job, seen) in self.run_counted(scene)? {
            tell(job, seen);
        }
        for job in &self.timed {
            tell(*job, self.run_job(job, scene)?);
        }
        Ok(())
    }

    fn run_counted(&self, scene: Scene<'_>) -> Result<Vec<(Job, Seen)>, String> {
        let next = AtomicUsize::new(0);
        let lane = || {
            let mut seen = Vec::new();
            while let Some(jobs) = self.counted.get(next.fetch_add(1, Ordering::Relaxed)) {
                for job in jobs {
                    let result = self.run_job(job, scene);
                    if result.is_err() {
                        // Nobody needs the rest.
                        next.store(self.counted.len(), Ordering::Relaxed);
                    }
                    seen.push((*job, result?));
                }
            }
            Ok(seen)
        };
        let lanes: Vec<Result<_, String>> = thread::scope(|scope| {
            let lanes = [(); LANES].map(|()| scope.spawn(lane));
            lanes.map(|lane| lane.join().unwrap_or_else(|_| Err("a thread that runs servers panicked".to_owned()))).into_iter().collect()
        });
        Ok(lanes.into_iter().collect::<Result<Vec<Vec<_>>, _>>()?.into_iter().flatten().collect())
    }

    fn run_job(&self, job: &Job, scene: Scene<'_>) -> Result<Seen, String> {
        let (subject, course) = (&scene.subjects[job.subject], job.course(scene));
        eprintln!("round {} of {}: {} {}s of {}", self.number + 1, scene.plan.rounds, job.times, job.cause.word(), subject.name);
        match job.cause {
            Cause::Restart | Cause::SlowStart => rounds::restarts(subject, scene.directory, &course),
            Cause::Upgrade => self.upgrade(job, subject, scene, &course),
        }
    }

    fn upgrade(&self, job: &Job, subject: &Subject, scene: Scene<'_>, course: &Course<'_>) -> Result<Seen, String> {
        let build = Build::of(subject.name, subject.path.clone())?;
        let looks_at = subject.looks_at();
        let mut releases = Vec::new();
        for number in 0..job.times {
            // The same program, and a release of its own: a few bytes longer each.
            let name = format!("release-{}-{}-{number}", self.number, job.rate);
            let path = looks_at.with_file_name(&name);
            releases.push(build.padded(&name, path, build.size_bytes()? + 1 + u64::from(number))?.path);
        }
        let seen = rounds::upgrades(subject, scene.directory, course, &looks_at, &releases)?;
        // The next one begins without a release.
        fs::remove_file(&looks_at).map_err(|error| format!("cannot remove {}: {error}", looks_at.display()))?;
        Ok(seen)
    }
}

impl Job {
    fn course<'a>(&self, scene: Scene<'a>) -> Course<'a> {
        let (subject, rate) = (&scene.subjects[self.subject], scene.plan.rates[self.rate]);
        let comes_with_all = self.rate == 0 && self.cause != Cause::SlowStart;
        let habits = match subject.speech {
            Speech::Datagrams => vec![Habit::Datagrams { sockets: 50, per_second: 1000 }],
            Speech::Http1 | Speech::Http2 if comes_with_all => all_habits(rate),
            Speech::Http1 | Speech::Http2 => vec![Habit::New { per_second: rate }],
        };
        let is_timed_restart = self.cause == Cause::Restart && self.is_alone;
        let compare = is_compared(subject) && (is_timed_restart || self.cause == Cause::SlowStart);
        let pause = match subject.speech {
            Speech::Datagrams => DATAGRAM_PAUSE,
            // The second in which the old one leaves is looked at, too.
            _ if compare && is_timed_restart && subject.kind == Kind::Overseer => LEAVES_AFTER + WINDOW,
            _ => PAUSE,
        };
        Course {
            habits,
            http2: (comes_with_all && subject.speech == Speech::Http2).then_some(scene.http2),
            changes: self.times,
            pause,
            compare,
            arguments: match self.cause {
                Cause::Restart => Vec::new(),
                Cause::Upgrade => vec![subject.looks_at().to_string_lossy().into_owned()],
                Cause::SlowStart => vec![SLOW_START.as_millis().to_string()],
            },
        }
    }

    fn expected(&self, scene: Scene<'_>) -> Duration {
        let first_answer = match self.cause {
            Cause::Restart => FIRST_ANSWER,
            Cause::Upgrade => FIRST_ANSWER_OF_A_RELEASE,
            Cause::SlowStart => SLOW_START,
        };
        let waits_for_commit = scene.subjects[self.subject].speech == Speech::Datagrams;
        self.course(scene).expected(first_answer + if waits_for_commit { WARM_UP } else { Duration::ZERO })
    }
}

impl Cause {
    /// What it is called in the report.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::SlowStart => "slow start",
        }
    }
}

/// Whether it has the handler that all of the compared have, so its times are compared with those beside a neighbour.
fn is_compared(subject: &Subject) -> bool {
    !subject.is_example && matches!(subject.kind, Kind::Overseer | Kind::Ecdysis | Kind::Shellflip)
}

#[cfg(test)]
mod tests {
    use super::super::Peer;
    use super::*;
    use std::path::PathBuf;

    fn subject(name: &'static str, kind: Kind, is_example: bool, speech: Speech) -> Subject {
        Subject { name, kind, is_example, speech, path: PathBuf::from("/programs").join(name) }
    }

    fn subjects() -> Vec<Subject> {
        let mut subjects = vec![subject("overseer", Kind::Overseer, false, Speech::Http2)];
        subjects.extend(["hyper", "axum"].map(|name| subject(name, Kind::Overseer, true, Speech::Http2)));
        subjects.push(subject("std_threads", Kind::Overseer, true, Speech::Http1));
        subjects.push(subject("udp_echo", Kind::Overseer, true, Speech::Datagrams));
        subjects.push(subject("ecdysis", Kind::Ecdysis, false, Speech::Http2));
        subjects.push(subject("shellflip", Kind::Shellflip, false, Speech::Http2));
        subjects.push(subject("nginx", Kind::Nginx, false, Speech::Http1));
        subjects.push(subject("haproxy", Kind::Haproxy, false, Speech::Http1));
        subjects
    }

    fn plan() -> Plan {
        let peers = vec![Peer::Ecdysis, Peer::Shellflip, Peer::Nginx, Peer::Haproxy];
        Plan { restarts: 100, upgrades: 20, rounds: 5, rates: vec![1000, 5000], peers }
    }

    #[test]
    fn every_server_is_restarted_at_every_rate_and_every_example_upgraded_at_every_rate() {
        let (plan, subjects) = (plan(), subjects());
        let rounds: Vec<Round> = (0..5).map(|number| Round::new(number, &plan, &subjects)).collect();
        let all: Vec<&Job> = rounds.iter().flat_map(|round| round.counted.iter().flatten().chain(&round.timed)).collect();
        let count = |subject, cause, rate| {
            all.iter().filter(|job| (job.subject, job.cause, job.rate) == (subject, cause, rate)).map(|job| job.times).sum::<u32>()
        };
        for (index, subject) in subjects.iter().enumerate() {
            for rate in 0..2 {
                let is_asked = rate == 0 || subject.speech != Speech::Datagrams;
                assert_eq!(count(index, Cause::Restart, rate), if is_asked { 100 } else { 0 }, "{} {rate}", subject.name);
                let upgrades = if is_asked && subject.is_example { 20 } else { 0 };
                assert_eq!(count(index, Cause::Upgrade, rate), upgrades, "{} {rate}", subject.name);
            }
        }
        assert_eq!(count(0, Cause::SlowStart, 0), 20);
    }

    #[test]
    fn the_whole_run_takes_less_than_fifty_minutes() {
        let (plan, subjects) = (plan(), subjects());
        let scene = Scene { plan: &plan, subjects: &subjects, directory: Path::new("/"), http2: Path::new("/") };
        let takes: Duration = (0..5).map(|number| Round::new(number, &plan, &subjects).expected(scene)).sum();
        assert!((35 * 60..50 * 60).contains(&takes.as_secs()), "{takes:?}");
    }

    #[test]
    fn all_clients_come_at_the_first_rate_and_new_connections_alone_at_the_last_one() {
        let (plan, subjects) = (plan(), subjects());
        let scene = Scene { plan: &plan, subjects: &subjects, directory: Path::new("/"), http2: Path::new("/") };
        let round = Round::new(0, &plan, &subjects);
        assert!(round.counted.iter().flatten().all(|job| job.rate == 0 && !job.is_alone));
        for job in &round.timed {
            assert_eq!(job.course(scene).habits, [Habit::New { per_second: [1000, 5000][job.rate] }]);
        }
        let first = round.counted[0][0].course(scene);
        assert!(first.habits.len() == 7 && first.http2.is_some(), "{:?}", first.habits);
    }
}
