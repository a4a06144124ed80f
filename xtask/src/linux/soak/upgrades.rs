//! Upgrades that follow each other without a pause: by the thousand, and under load with all that an upgrade may change.

use super::{CHANGES_TO_SETTLE, InARow};
use crate::linux::bench::time_away;
use crate::linux::build::{self, Build, Profile};
use crate::linux::client;
use crate::linux::load::Load;
use crate::linux::proc;
use crate::linux::report::{median_ms, spread};
use crate::linux::scene::{PATIENCE, Running, Scene};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SETTINGS: [&str; 6] = ["--every", "50ms", "--warm-up", "50ms", "--terminate-timeout", "20s"];
/// Each master is a new one, with as much of what the one before knew as is kept.
const GROWTH_KIB: u64 = 256;

/// One after the other: the PID stays, and nothing is left of any of them.
pub(super) fn in_a_row(count: u32) -> Result<(), String> {
    let scene = Scene::new("upgrades")?;
    let app = build::app(&scene.releases, Profile::Release, 1, None, &[])?;
    app.install(&scene.path)?;
    scene.server.publish(&app)?;
    let mut running = scene.start(&SETTINGS)?;
    let (mut row, mut away) = (InARow::new("upgrades", count, CHANGES_TO_SETTLE, GROWTH_KIB), Vec::new());
    for number in 1..=count {
        let release = publish(&scene, &app, number)?;
        away.push(running.master_says("that the master was replaced", PATIENCE, time_away)?);
        running.process_leaves()?;
        if !row.is_told_of(number) {
            continue;
        }
        let serving = running.get("/")?;
        if serving.id != release.id {
            return Err(format!("upgrade {number}: {} serves and not {}; {}", serving.text, release.id, running.process.account()));
        }
        row.tell(&scene, &running, &serving, number)?;
    }
    running.stop()?;
    println!("the master was away for {:.1} ms (median), {}", median_ms(&away), spread(&away));
    Ok(())
}

/// What an upgrade changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Master,
    Address,
    Both,
}

/// Under load: each replaces the master, changes an address, or does both, and no request fails.
pub(super) fn that_change_everything(count: u32, rate: u32) -> Result<(), String> {
    let scene = Scene::new("changes")?;
    let app = build::app(&scene.releases, Profile::Release, 1, None, &[])?;
    app.install(&scene.path)?;
    scene.server.publish(&app)?;
    let mut moving = Moving { file: scene.releases.join("settings"), other: free_address()?, next: free_address()? };
    moving.write(Change::Master)?;
    let file = moving.file.to_string_lossy().into_owned();
    let mut running = scene.start(&[&SETTINGS[..], &["--settings", &file]].concat())?;
    let load = Load::start(running.address, rate)?;
    let (mut away, begun) = (Vec::new(), Instant::now());
    for number in 1..=count {
        let change = [Change::Master, Change::Address, Change::Both][number as usize % 3];
        if change != Change::Master {
            std::mem::swap(&mut moving.other, &mut moving.next);
        }
        moving.write(change)?;
        let release = publish(&scene, &app, number)?;
        if change != Change::Address {
            away.push(running.master_says("that the master was replaced", PATIENCE, time_away)?);
        }
        running.process_leaves()?;
        let told = |wrong| format!("upgrade {number}, {change:?}: {wrong}; {}", running.process.account());
        moving.check(&scene, &running, &release, change).map_err(told)?;
    }
    let tally = load.stop()?;
    running.stop()?;
    println!(
        "{count} upgrades in {} s that replace the master, change an address, or both: {} requests ({rate} a second), {} failed; \
         the master was away for {:.1} ms (median), {}",
        begun.elapsed().as_secs(),
        tally.samples.len(),
        tally.failures_in_words(),
        median_ms(&away),
        spread(&away)
    );
    if tally.failed() == 0 { Ok(()) } else { Err("requests failed".to_owned()) }
}

/// A release with an ID of its own, beside the one before, which is still published while this one is written.
fn publish(scene: &Scene, app: &Build, number: u32) -> Result<Build, String> {
    let path = scene.releases.join(format!("next-{}", number % 2));
    let release = app.padded(&format!("upgrade-{number}"), path, app.size_bytes()? + 64)?;
    scene.server.publish(&release)?;
    Ok(release)
}

/// One that is free, and that no client's port can be in the way of.
fn free_address() -> Result<SocketAddr, String> {
    let free = TcpListener::bind("127.0.77.1:0").and_then(|listener| listener.local_addr());
    free.map_err(|error| format!("no port is free: {error}"))
}

/// The second address of the program, which moves to and fro.
struct Moving {
    file: PathBuf,
    /// What the newest version has.
    other: SocketAddr,
    /// What it does not have.
    next: SocketAddr,
}

impl Moving {
    /// What the next version reads.
    fn write(&self, change: Change) -> Result<(), String> {
        let text = format!("--listen\n{}\n--upgrade-master\n{}\n", self.other, change != Change::Address);
        let beside = self.file.with_extension("next");
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &self.file));
        written.map_err(|error| format!("cannot write {}: {error}", self.file.display()))
    }

    /// The new version serves at its addresses, nobody at the old one, and the master is what it should be.
    fn check(&self, scene: &Scene, running: &Running, release: &Build, change: Change) -> Result<(), String> {
        let answers = [running.get("/")?, client::get(self.other, "/", PATIENCE)?];
        if let Some(wrong) = answers.iter().find(|answer| answer.id != release.id) {
            return Err(format!("{} serves and not {}", wrong.text, release.id));
        }
        let deadline = Instant::now() + PATIENCE;
        while client::get(self.next, "/", Duration::from_secs(1)).is_ok() {
            if Instant::now() > deadline {
                return Err(format!("somebody still listens on {}", self.next));
            }
        }
        let is_replaced = proc::executes(running.process.pid(), &scene.path)?;
        if is_replaced == (change == Change::Address) {
            return Err(format!("the master is replaced: {is_replaced}"));
        }
        Ok(())
    }
}
