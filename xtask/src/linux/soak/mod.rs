//! `cargo xtask soak`: upgrades in a row, upgrades that change everything, kills of the master, and long rounds of restarts, upgrades and broken releases.
//!
//! What a few restarts do not show: a descriptor, a process or a page that is lost with each. The master must become the newest release under the
//! PID that it was started with, and have as many descriptors as after the first upgrades and no process but the serving one, and its memory must
//! have stopped growing.

mod kills;
mod rounds;
mod upgrades;

use super::client::Answer;
use super::proc;
use super::scene::{PATIENCE, Running, Scene};
use nix::unistd::Pid;
use std::fmt;
use std::time::Instant;

/// What is done how often.
pub(crate) struct Plan {
    pub(crate) upgrades: u32,
    pub(crate) changes: u32,
    pub(crate) kills: u32,
    pub(crate) minutes: u64,
    pub(crate) rate: u32,
}

pub(crate) fn run(plan: &Plan) -> Result<(), String> {
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

/// After so many upgrades, what the master has is taken as what it needs.
const UPGRADES_TO_SETTLE: u32 = 10;
/// By how much its memory may grow after that, in percent: verdicts and events are kept up to a number.
const GROWTH_PERCENT_MAX: u64 = 10;

/// What the master has between two looks.
#[derive(Clone, Copy)]
struct Held {
    pid: Pid,
    descriptors: usize,
    pss_kib: u64,
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
            let now = Self { pid, descriptors: proc::descriptors(pid)?, pss_kib: proc::pss_kib(pid)? };
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

    fn is_within(&self, settled: &Self) -> bool {
        self.descriptors <= settled.descriptors && self.pss_kib * 100 <= settled.pss_kib * (100 + GROWTH_PERCENT_MAX)
    }

    /// What it has after some upgrades, and after the first ones; an error if that is more.
    fn compare(scene: &Scene, running: &Running, serving: &Answer, settled: &Self) -> Result<Self, String> {
        let compared = Self::once(scene, running, serving, |now| now.is_within(settled));
        compared.map_err(|wrong| format!("after {UPGRADES_TO_SETTLE} upgrades the master had {settled}; now {wrong}"))
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PID {}, {} descriptors and {} KiB", self.pid, self.descriptors, self.pss_kib)
    }
}
