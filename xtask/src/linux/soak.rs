//! `cargo xtask soak`: restarts and upgrades under load for a long time, broken releases among them.
//!
//! What a few restarts do not show: a descriptor, a process or a page that is lost with each. After every round the master must have as
//! many descriptors and processes as after the first, and its memory must have stopped growing.

use super::build::{self, Build, Profile};
use super::load::{Failure, Load};
use super::proc;
use super::process;
use super::scene::{PATIENCE, Running, Scene};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const SETTINGS: [&str; 10] =
    ["--every", "50ms", "--warm-up", "200ms", "--ready-timeout", "2s", "--terminate-timeout", "5s", "--probation", "1s"];
/// The rounds after which the memory of the master is taken as what it needs.
const ROUNDS_TO_SETTLE: u32 = 10;
/// By how much it may grow after that, in KiB: what `state.json` and the last events take.
const GROWTH_KIB_MAX: u64 = 512;

pub(crate) fn run(minutes: u64, rate: u32) -> Result<(), String> {
    let scene = Scene::new("soak")?;
    let good = build::app(&scene.releases, Profile::Release, 1, None)?;
    let broken = build::app(&scene.releases, Profile::Release, 2, Some("exit-at-start"))?;
    good.install(&scene.path)?;
    scene.server.publish(&good)?;

    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut running = scene.start(&SETTINGS)?;
    let mut soak = Soak { scene: &scene, good, broken, round: 0, settled: None };
    let mut requests = 0;
    while Instant::now() < end {
        // One load for each round, so that what it remembers does not grow either.
        let load = Load::start(running.address, rate)?;
        soak.round(&mut running)?;
        let tally = load.stop()?;
        requests += tally.samples.len();
        if tally.failed() > 0 {
            let asked = !tally.failures().contains_key(&Failure::NotAsked);
            let whose = if asked { "the service" } else { "this tool" };
            return Err(format!(
                "round {}: requests failed by {whose}: {}; {}",
                soak.round,
                tally.failures_in_words(),
                running.process.account()
            ));
        }
        soak.measure(&running)?;
        println!("round {}: {requests} requests, 0 failed", soak.round);
    }
    running.stop()?;
    println!("{} restarts, {} upgrades and {} broken releases: nothing lost and nothing left", soak.round, soak.round, soak.round);
    Ok(())
}

struct Soak<'a> {
    scene: &'a Scene,
    good: Build,
    broken: Build,
    round: u32,
    settled: Option<Settled>,
}

/// What the master had when nothing was new to it any more.
struct Settled {
    descriptors: usize,
    pss_kib: u64,
}

impl Soak<'_> {
    /// A restart, a broken release, and a good one.
    fn round(&mut self, running: &mut Running) -> Result<(), String> {
        self.round += 1;
        let old = running.get("/")?.pid;
        running.process.signal(Signal::SIGUSR2);
        running.process_leaves()?;
        running.get_until("the restarted program", |answer| answer.pid != old)?;

        let broken = self.release(&self.broken, "broken")?;
        running.skip_what_was_said();
        self.scene.server.publish(&broken)?;
        running.master_says("that it holds the broken release back", PATIENCE, |line| line.contains("tried again in").then_some(()))?;

        let good = self.release(&self.good, "good")?;
        self.scene.server.publish(&good)?;
        running.get_until("the new release", |answer| answer.id == good.id)?;
        running.process_leaves()?;
        if self.scene.installed_id()? != good.id {
            return Err(format!("round {}: the new release is not at the program's path", self.round));
        }
        Ok(())
    }

    /// A release with an ID of its own, in the place of the one of the round before.
    fn release(&self, build: &Build, name: &str) -> Result<Build, String> {
        build.padded(&format!("{name}-{}", self.round), self.scene.releases.join(name), build.size_bytes()? + 64)
    }

    fn measure(&mut self, running: &Running) -> Result<(), String> {
        let serving = running.get("/")?.pid;
        running.wait_until_alone(serving)?;
        let zombies: Vec<_> =
            process::descendants_of(running.process.pid()).into_iter().filter(|descendant| descendant.is_zombie).collect();
        if !zombies.is_empty() {
            return Err(format!("round {}: the master left zombies: {zombies:?}", self.round));
        }
        let (descriptors, pss_kib) = (proc::descriptors(running.process.pid())?, proc::pss_kib(running.process.pid())?);
        match &self.settled {
            None if self.round >= ROUNDS_TO_SETTLE => self.settled = Some(Settled { descriptors, pss_kib }),
            Some(settled) if descriptors > settled.descriptors => {
                Err(format!(
                    "round {}: the master has {descriptors} descriptors; after {ROUNDS_TO_SETTLE} rounds it had {}",
                    self.round, settled.descriptors
                ))?;
            }
            Some(settled) if pss_kib > settled.pss_kib + GROWTH_KIB_MAX => {
                Err(format!(
                    "round {}: the master takes {pss_kib} KiB; after {ROUNDS_TO_SETTLE} rounds it took {}",
                    self.round, settled.pss_kib
                ))?;
            }
            None | Some(_) => {}
        }
        Ok(())
    }
}
