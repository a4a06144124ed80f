//! The promises under real process managers: each sees one process, under one PID, that it never has to start again.
//!
//! Every manager runs in namespaces of its own, so that nothing of it is left when a test ends. A test whose manager is not installed says so in one line.

mod init;
mod namespaces;
mod service;
mod supervisors;
mod systemd;
mod terminal;

use crate::app::{Scene, not_shown};
use nix::unistd::geteuid;
use std::env;
use std::sync::atomic::{AtomicU16, Ordering};

/// Whether a test can run. What is missing is told in one line, and fails the test in CI.
fn can_show(what: &str, tools: &[&str]) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_missing = |tool: &&&str| !env::split_paths(&path).any(|directory| directory.join(tool).is_file());
    let mut missing: Vec<&str> = tools.iter().filter(is_missing).copied().collect();
    if !geteuid().is_root() {
        missing.push("root");
    }
    let can = missing.is_empty();
    if !can {
        not_shown(&format!("{what} is not shown: it needs {}; .ci/run names the packages", missing.join(", ")));
    }
    can
}

/// A service at this address as [`namespaces::Namespaces`] show it, with these words for all its releases.
fn scene(address: &str, words: &str) -> Scene {
    // Looks would take most of the processors' time.
    Scene::with_source(&format!("address={address} fetch=/srv/releases/release interval=200 {words}"))
}

/// An address of the loopback that no other test has.
fn address() -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Below the ports that clients get.
    address_with(20_000 + TAKEN.fetch_add(1, Ordering::Relaxed))
}

/// The one with this port, for the only test that has it.
fn address_with(port: u16) -> String {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}:{port}", 64 + high % 64)
}
