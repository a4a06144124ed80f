//! What a bad release does, chosen when it is built: `APP_FAULT=hang-before-ready cargo build`. A good one has no fault.
//!
//! A real server has no such file. This one has it so that `cargo xtask demo --broken` can publish builds that fail in every way
//! that a build can fail in.

use std::time::Duration;
use std::{process, thread};

const FAULT: &str = match option_env!("APP_FAULT") {
    Some(fault) => fault,
    None => "",
};

/// How long after its warm-up a build with the fault `crash-in-probation` lives.
const LIFE_IN_PROBATION: Duration = Duration::from_secs(1);

/// The faults of a build that never serves.
pub(crate) fn before_ready() {
    match FAULT {
        "exit-at-start" => {
            eprintln!("app: the configuration cannot be read");
            process::exit(3);
        }
        "hang-before-ready" => loop {
            thread::park(); // Waits for a database that never answers.
        },
        _ => {}
    }
}

/// The faults of a build that serves for a while.
pub(crate) fn while_serving(warm_up: Duration) {
    let life = match FAULT {
        "crash-in-warm-up" => warm_up / 2,
        "crash-in-probation" => warm_up + LIFE_IN_PROBATION,
        _ => return,
    };
    thread::spawn(move || {
        thread::sleep(life);
        eprintln!("app: crashing as built to");
        process::abort();
    });
}
