//! Rounds of a restart, a broken release and a good one, under load, until the time is over.

use super::{CHANGES_TO_SETTLE, Held};
use crate::linux::broken::{Ends, decision};
use crate::linux::build::{self, Build, Noise, Profile};
use crate::linux::load::Load;
use crate::linux::scene::{PATIENCE, Running, Scene};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const SETTINGS: [&str; 10] =
    ["--every", "50ms", "--warm-up", "200ms", "--ready-timeout", "2s", "--terminate-timeout", "5s", "--probation", "3s"];
/// A page with each round would be more after some minutes.
const GROWTH_KIB: u64 = 256;
/// How many rounds are told of in one line.
const ROUNDS_IN_A_LINE: usize = 10;

pub(super) fn run(minutes: u64, rate: u32) -> Result<(), String> {
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
    /// What the master had when nothing was new to it any more.
    settled: Option<Held>,
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
        let serving = running.get("/")?;
        let wrong = |wrong| format!("round {}: {wrong}", self.round);
        match &self.settled {
            Some(settled) => {
                Held::compare(self.scene, running, &serving, settled, GROWTH_KIB).map_err(wrong)?;
            }
            None if self.round >= CHANGES_TO_SETTLE as usize => {
                let now = Held::settled(self.scene, running, &serving).map_err(wrong)?;
                println!("after {} rounds the master has {now}", self.round);
                self.settled = Some(now);
            }
            None => {
                Held::once(self.scene, running, &serving, |_| true).map_err(wrong)?;
            }
        }
        Ok(())
    }
}
