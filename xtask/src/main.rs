//! `cargo xtask`: the demo, the checks that CI runs, the benchmark and the soak.
//!
//! Everything here looks at the built programs from outside, as an operator and a client do. No crate of overseer is linked.

mod ci;
#[cfg(target_os = "linux")]
mod linux;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The demo, the checks and the benchmark of overseer")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Upgrades a server from version 1 to 2 to 3 under load, and checks that nothing is lost
    Demo {
        /// Where releases come from
        #[cfg(target_os = "linux")]
        #[arg(long, value_enum, default_value = "http")]
        fetcher: linux::Fetcher,
        /// Publish releases that are broken in eleven ways before version 3, over HTTP
        #[arg(long, conflicts_with = "fetcher")]
        broken: bool,
        /// Show what the server and its master write to standard error
        #[arg(long)]
        verbose: bool,
    },
    /// Runs all that CI runs: formatting, clippy, documentation, tests and the demo
    Ci,
    /// Measures failed requests, latency, starts, memory, wake-ups and polls, and writes target/bench.json
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(subcommand)]
        part: Option<Part>,
        /// Requests a second, each on a new connection
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Restarts under load
        #[arg(long, default_value_t = 20)]
        restarts: u32,
        /// Upgrades under load
        #[arg(long, default_value_t = 5)]
        upgrades: u32,
        /// For how many seconds the idle master is watched
        #[arg(long, default_value_t = 30)]
        idle_seconds: u64,
    },
    /// Restarts and upgrades by the thousand, upgrades that change everything under load, kills of the master, and restarts, upgrades and broken releases for a long time
    Soak {
        /// Restarts in a row, after which nothing may have leaked
        #[arg(long, default_value_t = 1000)]
        restarts: u32,
        /// Upgrades in a row, after which nothing may have leaked
        #[arg(long, default_value_t = 1000)]
        upgrades: u32,
        /// Upgrades under load that replace the master, change an address, or both
        #[arg(long, default_value_t = 100)]
        changes: u32,
        /// Kills of the master at random moments of upgrades, under systemd (as root)
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// For how long restarts, upgrades and broken releases take turns under load
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Requests a second, each on a new connection
        #[arg(long, default_value_t = 1000)]
        rate: u32,
    },
}

#[derive(Subcommand)]
enum Part {
    /// Measures what clients of every habit see of restarts and upgrades, beside other servers, and writes target/serving.json, .svg and .md
    Serving {
        /// Restarts of each server, at each rate
        #[arg(long, default_value_t = 100)]
        restarts: u32,
        /// Upgrades of each example
        #[arg(long, default_value_t = 20)]
        upgrades: u32,
        /// Rounds in which the servers take turns
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// New connections a second; all other clients come at the first rate, times are taken at the last one
        #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
        rates: Vec<u32>,
        /// What overseer is compared with; nothing, if none is named
        #[cfg(target_os = "linux")]
        #[arg(long, value_enum, value_delimiter = ',', num_args = 0.., default_value = "ecdysis,shellflip,nginx,haproxy")]
        peers: Vec<linux::Peer>,
        /// One round of four restarts and two upgrades
        #[arg(long, conflicts_with_all = ["restarts", "upgrades", "rounds"])]
        quick: bool,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Ci => ci::run(),
        #[cfg(target_os = "linux")]
        task => linux::run(task),
        #[cfg(not(target_os = "linux"))]
        _ => Err("this needs Linux: it reads /proc and drives epoll".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("xtask: {wrong}");
            ExitCode::FAILURE
        }
    }
}
