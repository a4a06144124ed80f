//! The tasks that start the built programs. They need Linux.

mod bench;
mod broken;
mod bucket;
mod build;
mod client;
mod demo;
mod folder;
mod github;
mod http;
mod load;
mod packing;
mod proc;
mod process;
mod report;
mod scene;
mod server;
mod serving;
mod signing;
mod soak;
mod source;

pub(crate) use serving::Peer;
pub(crate) use source::Fetcher;

use crate::{Part, Task};

/// Runs the task with a hand on everything that it starts and writes: see [`process`].
pub(crate) fn run(task: Task) -> Result<(), String> {
    process::prepare()?;
    let outcome = match task {
        Task::Demo { broken: false, fetcher, verbose } => demo::run(fetcher, verbose),
        Task::Demo { broken: true, verbose, .. } => broken::run(verbose),
        Task::Bench { part: Some(Part::Serving { restarts, upgrades, rounds, rates, peers, quick }), .. } => {
            let plan = match quick {
                false => serving::Plan { restarts, upgrades, rounds, rates, peers },
                true => serving::Plan { restarts: 4, upgrades: 2, rounds: 1, rates, peers },
            };
            serving::run(&plan)
        }
        Task::Bench { part: None, rate, restarts, upgrades, idle_seconds } => {
            bench::run(&bench::Plan { rate, restarts, upgrades, idle_seconds })
        }
        Task::Soak { restarts, upgrades, changes, kills, minutes, rate } => {
            soak::run(&soak::Plan { restarts, upgrades, changes, kills, minutes, rate })
        }
        Task::Ci => unreachable!("the checks run everywhere"),
    };
    process::finish();
    outcome
}
