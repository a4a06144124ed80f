//! UDP: each datagram is given back with the generation behind it.
//!
//! A socket of datagrams is not shared by two generations, it moves: the old one receives until the new one is committed, and answers what it has. What comes in
//! between waits in the socket.
//!
//! To try it: `cargo run -p overseer-examples --example udp_echo`, `nc -u 127.0.0.1 3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use overseer_core::{Config, File, State, run};
use std::io;
use std::process::ExitCode;

/// The longest datagram that UDP can carry.
const DATAGRAM_BYTES_MAX: usize = 65_507;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(program).address(arguments.next().unwrap_or_else(|| "udp:127.0.0.1:3000".to_owned()));
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

fn program(state: State) -> io::Result<()> {
    let socket = state.datagram_socket();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    // Ends when the next generation has the socket.
    while let Some(datagram) = socket.recv_from(&mut buffer)? {
        let answer = [&buffer[..datagram.length], format!(" generation {}", state.generation()).as_bytes()].concat();
        if let Err(error) = socket.send_to(&answer, &datagram.from) {
            // Nobody has to be there to hear it.
            eprintln!("cannot answer {}: {error}", datagram.from);
        }
    }
    Ok(())
}
