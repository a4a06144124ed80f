//! A server that knows nothing of drains: it ends in order at SIGTERM, as servers do, and takes its listener from overseer. Nothing else is changed.
//!
//! It says neither that it is ready nor that it drains, so it counts as ready when it has lived for the warm-up, and gets SIGTERM when it is to leave.
//!
//! To try it: `cargo run -p overseer-examples --example sigterm`, `curl http://127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use overseer_core::{Config, File, State, run};
use std::io;
use std::process::ExitCode;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

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
    let listener = state.listener().to_tcp()?.ok_or_else(|| io::Error::other("the address is not one of TCP"))?;
    let listener = TcpListener::from_std(listener)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (connection, _) = accepted?;
                connections.spawn(answer(connection, state.generation()));
            }
            Some(_) = connections.join_next() => {}
            _ = terminate.recv() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// One request and one answer.
async fn answer(connection: TcpStream, generation: u64) -> io::Result<()> {
    let mut stream = BufStream::new(connection);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let body = format!("hello from generation {generation}\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
