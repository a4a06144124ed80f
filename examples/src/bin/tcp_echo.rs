//! An echo server: any protocol on TCP, not only HTTP, with a thread for each connection.
//!
//! It shows that the accept loop ends by itself when this generation is to leave, and that connections which are still open then
//! go on: core waits for them, `terminate_timeout` at the longest, before the process ends.
//!
//! To try it: `cargo run -p overseer-examples --bin tcp_echo`, then `nc 127.0.0.1 3001` in a second terminal and
//! `kill -USR2 <the pid that it printed>` in a third. The open `nc` is answered by the old generation, a new one by the new.

use overseer_core::{Config, State, run};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

fn main() -> ExitCode {
    let address = std::env::args_os().nth(1).map_or_else(|| "127.0.0.1:3001".to_owned(), |address| address.to_string_lossy().into_owned());
    run(Config::new(program).address(address).terminate_timeout(Duration::from_secs(60)))
}

fn program(state: State) -> io::Result<()> {
    println!("generation {} echoes on {}; restart it with SIGUSR2", state.generation(), state.address().unwrap_or("no address"));
    for connection in state.listener().incoming() {
        let connection = connection?;
        thread::Builder::new().spawn(move || echo(connection))?;
    }
    Ok(())
}

/// Gives back what comes until the client hangs up.
fn echo(mut connection: impl Read + Write) {
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = connection.read(&mut buffer) {
        if connection.write_all(&buffer[..bytes]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpStream};

    #[test]
    fn an_open_connection_is_echoed_after_the_drain_began() {
        let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a free port");
        let address = state.address().expect("an address").to_owned();
        let server = thread::spawn(move || program(state));
        let mut client = TcpStream::connect(address).expect("connected");
        client.write_all(b"before").expect("sent");
        client.read_exact(&mut [0; 6]).expect("echoed");

        simulation.drain(Duration::from_secs(10));
        server.join().expect("no panic").expect("no error");

        client.write_all(b" and after").expect("sent");
        client.shutdown(Shutdown::Write).expect("shut down");
        let mut rest = String::new();
        client.read_to_string(&mut rest).expect("echoed");
        assert_eq!(rest, " and after");
    }
}
