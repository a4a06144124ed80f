//! Restarts without upgrades: a server with no fetcher, whose file a package manager or a deploy script replaces.
//!
//! It shows that overseer is of use without any source of releases: after `install new-build /usr/local/bin/server`, SIGUSR2 starts
//! what lies at the path now as the next generation, and if that fails, the running one goes on. It also shows how a program is
//! tested without a master: see the test at the end.
//!
//! To try it: `cargo run -p overseer-examples --bin restart_only`, `curl telnet://127.0.0.1:3002`, `kill -USR2 <the pid that it printed>`.

use overseer_core::{Config, State, run};
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let address = std::env::args_os().nth(1).map_or_else(|| "127.0.0.1:3002".to_owned(), |address| address.to_string_lossy().into_owned());
    run(Config::new(program).address(address).wait_for_ready())
}

/// Tells every client which generation it met.
fn program(state: State) -> io::Result<()> {
    println!("generation {} runs {}; restart it with SIGUSR2", state.generation(), state.bin_path().display());
    for connection in state.listener().incoming() {
        let mut connection = connection?;
        // A client that hung up is no reason to end.
        let _ = writeln!(connection, "hello from generation {}", state.generation());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn clients_are_greeted_until_the_drain() {
        let (state, simulation) = State::simulated(["127.0.0.1:0"]).expect("a free port");
        let address = state.address().expect("an address").to_owned();
        let server = thread::spawn(move || program(state));

        let mut greeting = String::new();
        TcpStream::connect(address).expect("connected").read_to_string(&mut greeting).expect("greeted");
        assert!(greeting.starts_with("hello from generation "), "{greeting}");
        assert!(simulation.is_ready(), "accepting says ready");

        simulation.drain(Duration::from_secs(10));
        server.join().expect("no panic").expect("no error");
    }
}
