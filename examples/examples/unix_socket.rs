//! A service for the programs of one machine, on a Unix socket: it tells each client who it is, and answers line by line.
//!
//! The socket's file survives restarts and upgrades, and is removed at the end of the service. Who may connect is said by mode and owner of the file.
//!
//! To try it: `cargo run -p overseer-examples --example unix_socket`, `nc -U /tmp/overseer-example.sock`, and `kill -USR2 <the pid that it printed>` for a restart.

use overseer_core::{Config, Connection, File, State, run};
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// For how long a silent client is kept in a drain.
const IDLE_GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // `&owner=app:www-data` would give it to another user and group.
    let address = arguments.next().unwrap_or_else(|| "unix:/tmp/overseer-example.sock?mode=0660".to_owned());
    let mut config = Config::new(program).address(address);
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

fn program(state: State) -> io::Result<()> {
    for connection in state.listener().incoming() {
        let (connection, state) = (connection?, state.clone());
        // A client that hung up is no reason to end.
        thread::Builder::new().spawn(move || drop(converse(&connection, &state)))?;
    }
    Ok(())
}

/// Answers line by line. In a drain the answer to the next line is the last one, so that no line is lost on its way.
fn converse(connection: &Connection, state: &State) -> io::Result<()> {
    let draining = state.draining();
    let mut lines = BufReader::new(connection);
    while !lines.buffer().is_empty() || connection.wait_for_request(IDLE_GRACE)? {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let is_last = draining.begun();
        let end = if is_last { "goodbye\n" } else { "" };
        (&*connection).write_all(format!("{}: {line}{end}", state.generation()).as_bytes())?;
        if is_last {
            return Ok(());
        }
    }
    Ok(())
}
