//! `cargo xtask soak`: restarts in a row, upgrades in a row, upgrades that change everything, kills of the master, and long rounds of restarts, upgrades and broken releases.
//!
//! What a few restarts do not show: a descriptor, a process or a page that is lost with each. The master must become the newest release under the
//! PID that it was started with, and have as many descriptors as after the first upgrades and no process but the serving one, and its memory must
//! have stopped growing.

mod kills;
mod restarts;
mod rounds;
mod upgrades;

use super::client::Answer;
use super::proc;
use super::scene::{PATIENCE, Running, Scene};
use nix::unistd::Pid;
use std::fmt;
use std::time::{Duration, Instant};

/// What is done how often.
pub(crate) struct Plan {
    pub(crate) restarts: u32,
    pub(crate) upgrades: u32,
    pub(crate) changes: u32,
    pub(crate) kills: u32,
    pub(crate) minutes: u64,
    pub(crate) rate: u32,
}

pub(crate) fn run(plan: &Plan) -> Result<(), String> {
    if plan.restarts > 0 {
        restarts::in_a_row(plan.restarts)?;
    }
    if plan.upgrades > 0 {
        upgrades::in_a_row(plan.upgrades)?;
    }
    if plan.changes > 0 {
        upgrades::that_change_everything(plan.changes, plan.rate)?;
    }
    if plan.kills > 0 {
        kills::under_systemd(plan.kills)?;
    }
    if plan.minutes > 0 {
        rounds::run(plan.minutes, plan.rate)?;
    }
    Ok(())
}

/// After so many restarts or upgrades, what the master has is taken as what it needs.
const CHANGES_TO_SETTLE: u32 = 10;
/// How many restarts or upgrades in a row are told of in one line.
const CHANGES_IN_A_LINE: u32 = 100;
/// For so long it is looked at then, and the most counts: a master that has just been replaced has touched little of its memory.
const SETTLING: Duration = Duration::from_millis(500);

/// What the master has between two looks.
#[derive(Clone, Copy)]
struct Held {
    pid: Pid,
    descriptors: usize,
    /// Its part of what it shares counts, and so does how much of the program's file is mapped, which varies from look to look.
    pss_kib: u64,
    /// What no file backs: nobody shares that, and what is lost is lost there.
    own_kib: u64,
}

impl Held {
    /// Looks until the master is the program at the path, its only child serves, and it has what `fits`. A look that has begun meanwhile has descriptors
    /// of its own, so nobody is believed at once.
    fn once(scene: &Scene, running: &Running, serving: &Answer, mut fits: impl FnMut(&Self) -> bool) -> Result<Self, String> {
        // The master is the process that was started, whatever it executes by now.
        running.check_parent(serving)?;
        let pid = running.process.pid();
        let deadline = Instant::now() + PATIENCE;
        loop {
            running.wait_until_alone(serving.pid)?;
            let (pss_kib, own_kib) = (proc::pss_kib(pid)?, proc::own_kib(pid)?);
            let now = Self { pid, descriptors: proc::descriptors(pid)?, pss_kib, own_kib };
            let is_replaced = proc::executes(pid, &scene.path)?;
            if is_replaced && running.others_than(serving.pid).is_empty() && fits(&now) {
                return Ok(now);
            }
            if Instant::now() > deadline {
                let what = if is_replaced { "has" } else { "has not become the new release, and has" };
                return Err(format!("the master {what} {now}; {}", running.process.account()));
            }
        }
    }

    /// What it has after the first changes.
    fn settled(scene: &Scene, running: &Running, serving: &Answer) -> Result<Self, String> {
        let end = Instant::now() + SETTLING;
        let mut most = Self::once(scene, running, serving, |_| true)?;
        while Instant::now() < end {
            let now = Self::once(scene, running, serving, |_| true)?;
            // A look that was about to begin has one of its own.
            most.descriptors = most.descriptors.min(now.descriptors);
            most.pss_kib = most.pss_kib.max(now.pss_kib);
            most.own_kib = most.own_kib.max(now.own_kib);
        }
        Ok(most)
    }

    /// By how much its memory has grown: `+5.7 %, its own by 16 KiB`.
    fn growth_since(&self, settled: &Self) -> String {
        let percent = (self.pss_kib as f64 / settled.pss_kib as f64 - 1.0) * 100.0;
        format!("{percent:+.1} %, its own by {} KiB", self.own_kib.cast_signed() - settled.own_kib.cast_signed())
    }

    fn is_within(&self, settled: &Self, growth_kib: u64) -> bool {
        self.descriptors <= settled.descriptors && self.own_kib <= settled.own_kib + growth_kib
    }

    /// What it has after some changes; an error if that is more than after the first ones.
    fn compare(scene: &Scene, running: &Running, serving: &Answer, settled: &Self, growth_kib: u64) -> Result<Self, String> {
        let compared = Self::once(scene, running, serving, |now| now.is_within(settled, growth_kib));
        compared.map_err(|wrong| format!("when it had settled the master had {settled}; now {wrong}"))
    }
}

/// Restarts or upgrades that follow each other without a pause, and what the master has meanwhile.
struct InARow {
    /// What follows each other.
    what: &'static str,
    count: u32,
    /// After so many, what the master has is taken as what it needs.
    to_settle: u32,
    /// By how much its own memory may grow then: verdicts and events are kept up to a number.
    growth_kib: u64,
    begun: Instant,
    settled: Option<Held>,
}

impl InARow {
    fn new(what: &'static str, count: u32, to_settle: u32, growth_kib: u64) -> Self {
        Self { what, count, to_settle, growth_kib, begun: Instant::now(), settled: None }
    }

    /// Whether it is time to look at the master.
    fn is_told_of(&self, number: u32) -> bool {
        number == self.to_settle || number.is_multiple_of(CHANGES_IN_A_LINE) || number == self.count
    }

    /// Tells what the master has after so many; an error if that is more than after the first ones.
    fn tell(&mut self, scene: &Scene, running: &Running, serving: &Answer, number: u32) -> Result<(), String> {
        let now = match &self.settled {
            Some(settled) => Held::compare(scene, running, serving, settled, self.growth_kib)?,
            None => Held::settled(scene, running, serving)?,
        };
        let growth = match &self.settled {
            Some(settled) => format!(": {} since the first {}", now.growth_since(settled), self.to_settle),
            None => String::new(),
        };
        println!("after {number} {} in {} s the master has {now}{growth}", self.what, self.begun.elapsed().as_secs());
        if number >= self.to_settle {
            self.settled.get_or_insert(now);
        }
        Ok(())
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PID {}, {} descriptors and {} KiB, {} of them its own", self.pid, self.descriptors, self.pss_kib, self.own_kib)
    }
}
