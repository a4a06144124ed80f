//! A program with a fetcher of one's own: releases lie in a directory as `server-1.2.3`, each with a `.sha256` file, and the highest version is taken.
//!
//! `docs/FETCHERS.md` leads to it step by step: `versions.rs` is the fetcher as its crate has it, and `conformance.rs` is the test of it.
//!
//! To try it:
//!
//! ```sh
//! cargo build -p overseer-examples --bin custom_fetcher && install target/debug/custom_fetcher /tmp/server
//! mkdir -p /tmp/releases && RELEASES=/tmp/releases /tmp/server &
//! curl telnet://127.0.0.1:3003
//! SERVER_VERSION=1.10.0 cargo build -p overseer-examples --bin custom_fetcher
//! cd target/debug && cp custom_fetcher /tmp/releases/server-1.10.0 && sha256sum custom_fetcher > /tmp/releases/server-1.10.0.sha256
//! ```

#[cfg(test)]
mod conformance;
#[expect(unreachable_pub, reason = "it is public in a crate of its own")]
mod versions;

use crate::versions::Versions;
use overseer_core::{Config, State, run};
use std::io::{self, Write};
use std::process::ExitCode;

const VERSION: &str = match option_env!("SERVER_VERSION") {
    Some(version) => version,
    None => "1.0.0",
};

fn main() -> ExitCode {
    let directory = std::env::var("RELEASES").unwrap_or_else(|_| "/tmp/releases".to_owned());
    let fetcher = Versions::new(directory, "server").newer_than(VERSION);
    run(Config::new(program).address("127.0.0.1:3003").fetcher(fetcher))
}

fn program(state: State) -> io::Result<()> {
    for connection in state.listener().incoming() {
        // A client that hung up is no reason to end.
        let _ = writeln!(connection?, "hello from version {VERSION}");
    }
    Ok(())
}
