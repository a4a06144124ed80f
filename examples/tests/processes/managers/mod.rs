//! The promises under real process managers: each sees one process, under one PID, that it never has to start again.
//!
//! Every manager runs in namespaces of its own, so that nothing of it is left when a test ends. A test whose manager is not installed says so in one line.

mod init;
mod namespaces;
mod service;
mod supervisors;
mod systemd;
mod terminal;

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
        let line = format!("{what} is not shown: it needs {}; .ci/run names the packages", missing.join(", "));
        assert!(env::var_os("OVERSEER_CI").is_none(), "{line}");
        println!("{line}");
    }
    can
}

/// An address of the loopback that no other test has.
fn address() -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // Below the ports that clients get.
    format!("127.{}.{middle}.{low}:{}", 64 + high % 64, 20_000 + TAKEN.fetch_add(1, Ordering::Relaxed))
}
