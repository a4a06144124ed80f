//! A protocol of one's own on tokio: each line that comes is given back with the generation before it.
//!
//! It shows how a server of long-lived connections leaves: it stops accepting, and tells each client at the end of its line that it goes. The clients come back to the
//! next generation.
//!
//! To try it: `cargo run -p overseer-examples --example tokio_tcp`, `nc 127.0.0.1 3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use overseer_core::tokio::Connection;
use overseer_core::{Config, File, State, run};
use std::io;
use std::process::ExitCode;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(program).address(arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned()));
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

#[tokio::main]
async fn program(state: State) -> io::Result<()> {
    let mut listener = state.listener().to_tokio()?;
    while let Some(connection) = listener.accept().await? {
        tokio::spawn(converse(connection, state.clone()));
    }
    // The tasks end with the runtime, so it lives until they are done.
    state.draining().finished().await;
    Ok(())
}

/// Answers line by line. In a drain the answer to the next line is the last one, so that no line is lost on its way.
async fn converse(connection: Connection, state: State) -> io::Result<()> {
    let draining = state.draining();
    let mut stream = BufStream::new(connection);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let is_last = draining.begun();
        let end = if is_last { "goodbye\n" } else { "" };
        stream.write_all(format!("{}: {line}{end}", state.generation()).as_bytes()).await?;
        stream.flush().await?;
        if is_last {
            break;
        }
        line.clear();
    }
    Ok(())
}
