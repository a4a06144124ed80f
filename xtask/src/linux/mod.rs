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
mod signing;
mod soak;
mod source;

pub(crate) use source::Fetcher;

use crate::Task;

/// Runs the task with a hand on everything that it starts and writes: see [`process`].
pub(crate) fn run(task: Task) -> Result<(), String> {
    process::prepare()?;
    let outcome = match task {
        Task::Demo { broken: false, fetcher, verbose } => demo::run(fetcher, verbose),
        Task::Demo { broken: true, verbose, .. } => broken::run(verbose),
        Task::Bench { rate, restarts, upgrades, idle_seconds } => bench::run(&bench::Plan { rate, restarts, upgrades, idle_seconds }),
        Task::Soak { upgrades, changes, kills, minutes, rate } => soak::run(&soak::Plan { upgrades, changes, kills, minutes, rate }),
        Task::Ci => unreachable!("the checks run everywhere"),
    };
    process::finish();
    outcome
}
