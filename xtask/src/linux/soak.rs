//! `cargo xtask soak`: restarts and upgrades under load for a long time, broken releases among them.
//!
//! What a few restarts do not show: a descriptor, a process or a page that is lost with each. After every round the master must have become
//! the newest release under the PID that it was started with, and have as many descriptors as after the first rounds and no process but the
//! serving one, and its memory must have stopped growing.

use super::broken::{Ends, decision};
use super::build::{self, Build, Noise, Profile};
use super::load::Load;
use super::proc;
use super::scene::{PATIENCE, Running, Scene};
use nix::sys::signal::Signal;
use std::fmt;
use std::time::{Duration, Instant};

const SETTINGS: [&str; 10] =
    ["--every", "50ms", "--warm-up", "200ms", "--ready-timeout", "2s", "--terminate-timeout", "5s", "--probation", "3s"];
/// The rounds after which what the master has is taken as what it needs.
const ROUNDS_TO_SETTLE: usize = 10;
/// By how much its memory may grow after that, in percent: verdicts and events are kept up to a number.
const GROWTH_PERCENT_MAX: u64 = 10;
/// How many rounds are told of in one line.
const ROUNDS_IN_A_LINE: usize = 10;

pub(crate) fn run(minutes: u64, rate: u32) -> Result<(), String> {
    let scene = Scene::new("soak")?;
    let mut soak = Soak::new(&scene)?;
    soak.good.install(&scene.path)?;
    scene.server.publish(&soak.good)?;
    let mut running = scene.start(&SETTINGS)?;
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let (mut requests, mut lost) = (0, 0);
    while Instant::now() < end {
        soak.round += 1;
        // One load for each round, so that what it remembers does not grow either.
        let load = Load::start(running.address, rate)?;
        let ends = soak.play(&mut running)?;
        let tally = load.stop()?;
        requests += tally.samples.len();
        let lost_now = if ends == Ends::Unseen { 0 } else { tally.broken_off() };
        lost += lost_now;
        if tally.failed() > lost_now {
            let failures = tally.failures_in_words();
            return Err(format!("round {}: requests failed: {failures}; {}", soak.round, running.process.account()));
        }
        soak.measure(&running)?;
        if soak.round.is_multiple_of(ROUNDS_IN_A_LINE) {
            println!("after {} rounds: {requests} requests, 0 failed, {lost} lost with a release that crashed", soak.round);
        }
    }
    running.stop()?;
    println!("{0} restarts, {0} upgrades and {0} broken releases: nothing is left behind", soak.round);
    Ok(())
}

struct Soak<'a> {
    scene: &'a Scene,
    good: Build,
    /// Broken releases, and how far each gets. They take turns.
    broken: Vec<(Build, Ends)>,
    round: usize,
    settled: Option<Settled>,
}

/// What the master had when nothing was new to it any more.
struct Settled {
    descriptors: usize,
    pss_kib: u64,
}

impl<'a> Soak<'a> {
    fn new(scene: &'a Scene) -> Result<Self, String> {
        let app = |version, fault| build::app(&scene.releases, Profile::Release, version, fault, &[]);
        let good = app(1, None)?;
        let mut noise = vec![0; 1 << 20];
        Noise::new("random bytes").fill(&mut noise);
        let broken = vec![
            (app(2, Some("exit-at-start"))?, Ends::Unseen),
            (Build::written("random bytes", scene.releases.join("random"), &noise)?, Ends::Unseen),
            (app(2, Some("crash-in-warm-up"))?, Ends::Serving),
            (good.truncated("a truncated build", scene.releases.join("truncated"))?, Ends::Unseen),
            (app(2, Some("crash-in-probation"))?, Ends::Installed),
        ];
        Ok(Self { scene, good, broken, round: 0, settled: None })
    }

    /// A restart, a broken release, and a good one. Answers how far the broken one got.
    fn play(&self, running: &mut Running) -> Result<Ends, String> {
        let old = running.get("/")?.pid;
        running.process.signal(Signal::SIGUSR2);
        running.process_leaves()?;
        running.get_until("the restarted program", |answer| answer.pid != old)?;

        let (broken, ends) = &self.broken[self.round % self.broken.len()];
        let broken = self.release(broken, "broken")?;
        running.skip_what_was_said();
        self.scene.server.publish(&broken)?;
        running.master_says("a decision about the broken release", PATIENCE, decision)?;
        if *ends == Ends::Installed {
            // The one before had left when the broken one was installed.
            running.process_leaves()?;
        }

        let good = self.release(&self.good, "good")?;
        self.scene.server.publish(&good)?;
        running.get_until("the new release", |answer| answer.id == good.id)?;
        running.process_leaves()?;
        match self.scene.installed_id()? {
            id if id == good.id => Ok(*ends),
            id => Err(format!("round {}: the file at the program's path has the ID {id}, not that of the new release", self.round)),
        }
    }

    /// A release with an ID of its own, in the place of the one of the round before.
    fn release(&self, build: &Build, name: &str) -> Result<Build, String> {
        build.padded(&format!("{name}-{}", self.round), self.scene.releases.join(name), build.size_bytes()? + 64)
    }

    /// What the master has between two looks must not be more than after the first rounds.
    fn measure(&mut self, running: &Running) -> Result<(), String> {
        let answer = running.get("/")?;
        // The master is the process that was started, whatever it executes by now.
        running.check_parent(&answer)?;
        let (serving, master) = (answer.pid, running.process.pid());
        let deadline = Instant::now() + PATIENCE;
        loop {
            running.wait_until_alone(serving)?;
            if !proc::executes(master, &self.scene.path)? {
                if Instant::now() > deadline {
                    return Err(format!("round {}: the master has not become the new release; {}", self.round, running.process.account()));
                }
                continue;
            }
            let now = Settled { descriptors: proc::descriptors(master)?, pss_kib: proc::pss_kib(master)? };
            match &self.settled {
                None if self.round < ROUNDS_TO_SETTLE => return Ok(()),
                None => {
                    // A look may have begun meanwhile, which has descriptors of its own.
                    if running.others_than(serving).is_empty() {
                        println!("after {} rounds the master has {now}", self.round);
                        self.settled = Some(now);
                        return Ok(());
                    }
                }
                Some(settled) if now.is_within(settled) => return Ok(()),
                Some(settled) if Instant::now() > deadline => {
                    return Err(format!("after {} rounds the master has {now}; after {ROUNDS_TO_SETTLE} it had {settled}", self.round));
                }
                Some(_) => {}
            }
        }
    }
}

impl Settled {
    fn is_within(&self, settled: &Settled) -> bool {
        self.descriptors <= settled.descriptors && self.pss_kib * 100 <= settled.pss_kib * (100 + GROWTH_PERCENT_MAX)
    }
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} descriptors and {} KiB", self.descriptors, self.pss_kib)
    }
}
