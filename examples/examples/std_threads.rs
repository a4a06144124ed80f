//! HTTP with threads and nothing but the standard library: what a keep-alive server of any protocol has to do in a drain.
//!
//! Between two requests it waits by `Connection::wait_for_request`, and in a drain its next answer says `Connection: close`. A connection that stays silent is closed after
//! a grace only, so that none is closed while its client writes.
//!
//! To try it: `cargo run -p overseer-examples --example std_threads`, `curl http://127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use overseer_core::{Config, Connection, File, State, run};
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// For how long a silent connection is kept in a drain.
const IDLE_GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(program).address(arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned()));
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

fn program(state: State) -> io::Result<()> {
    for connection in state.listener().incoming() {
        let (connection, state) = (connection?, state.clone());
        // A client that hung up is no reason to end.
        thread::Builder::new().spawn(move || drop(answer_all(&connection, &state)))?;
    }
    Ok(())
}

/// Answers the requests of a connection one after the other.
fn answer_all(connection: &Connection, state: &State) -> io::Result<()> {
    let draining = state.draining();
    let mut requests = BufReader::new(connection);
    while !requests.buffer().is_empty() || connection.wait_for_request(IDLE_GRACE)? {
        if !read_head(&mut requests)? {
            return Ok(());
        }
        let is_last = draining.begun();
        let body = format!("hello from generation {}\n", state.generation());
        let close = if is_last { "Connection: close\r\n" } else { "" };
        write!(&*connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}\r\n{body}", body.len())?;
        if is_last {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads a request without a body, to the empty line at its end; `false` if the client has closed instead.
fn read_head(requests: &mut impl BufRead) -> io::Result<bool> {
    for number in 0.. {
        let mut line = String::new();
        match requests.read_line(&mut line)? {
            0 if number == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if line.trim_end().is_empty() => return Ok(true),
            _ => {}
        }
    }
    Ok(true)
}
