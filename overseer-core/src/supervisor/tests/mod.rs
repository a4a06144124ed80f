//! The rules, line by line: each test is named by the sentence that it proves.

mod commands;
mod leaving;
mod looks;
mod notify;
mod orders;
mod overlap;
mod probation;
mod restart;
mod signals;
mod signatures;
mod store;
mod upgrade;
mod upgrades;
mod verdicts;

use super::testing::{Master, generation, seconds};
use super::{Action, Program};
use crate::signal::Signal;

fn spawn(number: u64, program: Program) -> Action {
    Action::Spawn { generation: generation(number), program }
}

fn drain(number: u64) -> Action {
    Action::Drain { generation: generation(number), within: seconds(30.0) }
}

fn sends(number: u64, signal: Signal) -> Action {
    Action::Signal { generation: generation(number), signal }
}

fn kill(number: u64) -> Action {
    Action::Kill { generation: generation(number) }
}

fn accept(number: u64) -> Action {
    Action::Accept { generation: generation(number) }
}

fn trust(number: u64) -> Action {
    Action::Trust { generation: generation(number) }
}

fn commit(number: u64) -> Action {
    Action::Commit { generation: generation(number) }
}

/// Whether the master waits for nothing but what may come by itself.
fn is_at_rest(master: &Master) -> bool {
    master.rules.children.values().all(|child| child.deadline.is_none()) && master.rules.candidate.is_none()
}
