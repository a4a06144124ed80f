//! A command-line tool that keeps itself up to date.
//!
//! It shows `no_restart`: while the tool does its work, its releases are looked for, proved and installed, and the *next* run is
//! the new version. The work is never interrupted, and it ends with its own exit code.
//!
//! To try it:
//!
//! ```sh
//! cargo build -p overseer-examples --bin self_upgrading_cli && install target/debug/self_upgrading_cli /tmp/tool
//! TOOL_VERSION=2 cargo build -p overseer-examples --bin self_upgrading_cli
//! TOOL_RELEASE=target/debug/self_upgrading_cli /tmp/tool 5    # counts down as version 1, and installs version 2 meanwhile
//! /tmp/tool 1                                                  # counts down as version 2
//! ```

use overseer_core::{Config, File, State, run};
use std::process::ExitCode;
use std::time::Duration;

const VERSION: &str = match option_env!("TOOL_VERSION") {
    Some(version) => version,
    None => "1",
};

fn main() -> ExitCode {
    let mut config = Config::new(program).no_restart();
    // A real tool has the URL of its releases here, and overseer-fetcher-http.
    if let Some(path) = std::env::var_os("TOOL_RELEASE") {
        config = config.fetcher(File::new(path).every(Duration::from_secs(1)));
    }
    run(config)
}

fn program(state: State) -> ExitCode {
    let seconds = match std::env::args().nth(1).map(|argument| argument.parse::<u32>()) {
        Some(Ok(seconds)) => seconds,
        None => 3,
        Some(Err(wrong)) => {
            eprintln!("the argument is not a number of seconds: {wrong}");
            return ExitCode::from(2);
        }
    };
    for left in (1..=seconds).rev() {
        println!("version {VERSION}: {left}");
        // The work of this tool is to wait. It stops early when it is asked to leave.
        if state.draining().wait_timeout(Duration::from_secs(1)) {
            return ExitCode::FAILURE;
        }
    }
    println!("version {VERSION}: done");
    ExitCode::SUCCESS
}
