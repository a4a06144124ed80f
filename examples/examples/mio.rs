//! HTTP in an event loop of its own, on mio: one thread, keep-alive, and what such a server has to do in a drain.
//!
//! In a drain it accepts no more, and its next answer to each client says `Connection: close`. A connection that stays silent is closed after a grace only, so that none is
//! closed while its client writes.
//!
//! To try it: `cargo run -p overseer-examples --example mio`, `curl http://127.0.0.1:3000`, and `kill -USR2 <the pid that it printed>` for a restart.

use mio::{Events, Interest, Poll, Token};
use overseer_core::mio::{Connection, Listener};
use overseer_core::{Config, File, State, run};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// For how long a silent connection is kept in a drain.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// How often a drain looks at the clock: its deadline may become an earlier one.
const LOOK: Duration = Duration::from_millis(100);
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;

const LISTENER: Token = Token(0);
const DRAINING: Token = Token(1);
/// The first client's; each has one of its own, so an event of one that is gone is nobody else's.
const FIRST_CLIENT: usize = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(program).address(arguments.next().unwrap_or_else(|| "127.0.0.1:3000".to_owned()));
    if let Some(releases) = arguments.next() {
        config = config.fetcher(File::new(releases));
    }
    run(config)
}

fn program(state: State) -> io::Result<()> {
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    let (mut listener, mut draining) = (state.listener().to_mio()?, state.draining());
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut draining, DRAINING, Interest::READABLE)?;
    let (mut clients, mut next_client) = (HashMap::new(), FIRST_CLIENT);
    let mut end_of_grace = None;
    loop {
        match poll.poll(&mut events, end_of_grace.map(|_| LOOK)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => accept_all(&mut listener, &poll, &mut next_client, &mut clients)?,
                DRAINING => end_of_grace = Some(Instant::now() + IDLE_GRACE),
                token => {
                    // A client that hung up is no reason to end.
                    if clients.get_mut(&token).is_some_and(|client| !client.go_on(&state, draining.begun()).unwrap_or(false)) {
                        clients.remove(&token);
                    }
                }
            }
        }
        if let Some(end) = end_of_grace {
            if end <= Instant::now() {
                clients.retain(|_, client| !client.is_idle());
            }
            let is_over = draining.deadline().is_some_and(|deadline| deadline <= Instant::now());
            if clients.is_empty() || is_over {
                return Ok(());
            }
        }
    }
}

/// Accepts those who wait. An event of mio comes once, so none of them is left.
fn accept_all(listener: &mut Listener, poll: &Poll, next_client: &mut usize, clients: &mut HashMap<Token, Client>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok(Some(mut connection)) => {
                let token = Token(*next_client);
                *next_client += 1;
                poll.registry().register(&mut connection, token, Interest::READABLE | Interest::WRITABLE)?;
                clients.insert(token, Client { connection, request: Vec::new(), answers: Vec::new(), is_last: false });
            }
            // The drain has begun, of which there is an event too.
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

struct Client {
    connection: Connection,
    /// What has come of the next request.
    request: Vec<u8>,
    /// What has not been sent yet.
    answers: Vec<u8>,
    /// No request is answered after these.
    is_last: bool,
}

impl Client {
    fn is_idle(&self) -> bool {
        self.request.is_empty() && self.answers.is_empty()
    }

    /// Reads and writes what can be read and written now; `false` if the connection is to be closed.
    fn go_on(&mut self, state: &State, is_leaving: bool) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            // Who does not read its answers is not read from.
            if !self.answers.is_empty() && !self.send()? {
                return Ok(true);
            }
            if self.is_last {
                return Ok(false);
            }
            match self.connection.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => self.request.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.answer(state, is_leaving);
            if self.request.len() > HEAD_BYTES_MAX {
                return Ok(false);
            }
        }
    }

    /// Answers the requests, of which none has a body, that are there to the empty line at their end.
    fn answer(&mut self, state: &State, is_leaving: bool) {
        while let Some(end) = self.request.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            && !self.is_last
        {
            self.request.drain(..end + 4);
            self.is_last = is_leaving;
            let body = format!("hello from generation {}\n", state.generation());
            let close = if is_leaving { "Connection: close\r\n" } else { "" };
            self.answers.extend(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}\r\n{body}", body.len()).as_bytes());
        }
    }

    /// Whether all was sent.
    fn send(&mut self) -> io::Result<bool> {
        while !self.answers.is_empty() {
            match self.connection.write(&self.answers) {
                Ok(count) => drop(self.answers.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
