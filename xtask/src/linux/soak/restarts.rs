//! Restarts that follow each other without a pause, by the thousand.

use super::InARow;
use crate::linux::build::{self, Profile};
use crate::linux::scene::Scene;
use nix::sys::signal::Signal;

const SETTINGS: [&str; 4] = ["--warm-up", "50ms", "--terminate-timeout", "20s"];

/// By then the master has as many events to remember as it keeps.
const RESTARTS_TO_SETTLE: u32 = 100;
/// 150 bytes with each restart would be more after a thousand: a master that only restarts its program is never replaced, so what it loses stays lost.
const GROWTH_KIB: u64 = 128;

/// One after the other: each is a generation of its own, and nothing is left of any of them.
pub(super) fn in_a_row(count: u32) -> Result<(), String> {
    let scene = Scene::new("restarts")?;
    let app = build::app(&scene.releases, Profile::Release, 1, None, &[])?;
    app.install(&scene.path)?;
    scene.server.publish(&app)?;
    let mut running = scene.start(&SETTINGS)?;
    let mut row = InARow::new("restarts", count, RESTARTS_TO_SETTLE, GROWTH_KIB);
    for number in 1..=count {
        running.process.signal(Signal::SIGUSR2);
        running.process_leaves()?;
        if !row.is_told_of(number) {
            continue;
        }
        let serving = running.get("/")?;
        if serving.generation != u64::from(number) + 1 {
            return Err(format!("after {number} restarts {} serves; {}", serving.text, running.process.account()));
        }
        row.tell(&scene, &running, &serving, number)?;
    }
    running.stop()
}
