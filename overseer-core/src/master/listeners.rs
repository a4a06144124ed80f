//! The listening sockets, and which generation uses which.

use crate::address::{Address, Kind};
use crate::message::Message;
use crate::protocol::Wanted;
use crate::supervisor::Generation;
use crate::sys::handover::Passed;
use crate::sys::sockets;
use nix::libc;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// What an address is known by across generations: its name, or its text and how manieth of that text it is. A name that moves to another
/// text is another socket, beside the old one: generations that have that need it still, and so do those that come after a failed move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key {
    Name(String, String),
    Text(String, usize),
}

#[derive(Debug)]
struct Held {
    address: Address,
    socket: OwnedFd,
    bound_to: String,
    /// The file of a Unix socket, and its device and inode.
    file: Option<(PathBuf, (u64, u64))>,
    users: BTreeSet<Generation>,
}

/// Why a generation does not get its listeners.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) address: String,
    pub(crate) error: io::Error,
    /// The address would be free if the old generation were gone.
    pub(crate) overlaps: bool,
}

impl Refusal {
    pub(crate) fn why(&self) -> String {
        let hint = if self.overlaps { "; a generation that is still there listens on that port, so it needs overlap(false)" } else { "" };
        format!("{}{hint}", self.error)
    }

    /// Whether somebody else's use of the address is the reason, which is not the release's fault.
    pub(crate) fn is_in_use(&self) -> bool {
        is_in_use(&self.error)
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

/// Whether one may be in the way of the other: they have the same port, or the same file.
fn is_like(one: &Address, other: &Address) -> bool {
    match (&one.kind, &other.kind) {
        (Kind::Tcp { port: one, .. } | Kind::TcpAny { port: one }, Kind::Tcp { port: other, .. } | Kind::TcpAny { port: other }) => {
            one == other
        }
        (Kind::Unix { path: one, .. }, Kind::Unix { path: other, .. }) => one == other,
        (Kind::Tcp { .. } | Kind::TcpAny { .. }, Kind::Unix { .. }) | (Kind::Unix { .. }, Kind::Tcp { .. } | Kind::TcpAny { .. }) => false,
    }
}

/// A listener in the hands of no process: what goes on through an exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldState {
    key: Key,
    address: String,
    pub(crate) socket: Passed,
    bound_to: String,
    file: Option<(PathBuf, (u64, u64))>,
    users: BTreeSet<Generation>,
}

impl HeldState {
    /// # Errors
    /// The address is of a kind that is unknown here.
    pub(crate) fn check(&self) -> Result<(), String> {
        Address::parse(&self.address).map(drop).map_err(|error| error.to_string())
    }
}

/// All listening sockets of the master.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    held: BTreeMap<Key, Held>,
}

impl Listeners {
    /// What goes on through an exec.
    pub(crate) fn state(&self) -> io::Result<Vec<HeldState>> {
        let states = self.held.iter().map(|(key, held)| {
            Ok(HeldState {
                key: key.clone(),
                address: shown(held.address.name.as_deref(), &held.address.text),
                socket: Passed::of(&held.socket)?,
                bound_to: held.bound_to.clone(),
                file: held.file.clone(),
                users: held.users.clone(),
            })
        });
        states.collect()
    }

    /// # Errors
    /// A socket is not here, or an address is of a kind that is unknown here.
    pub(crate) fn resume(states: Vec<HeldState>) -> io::Result<Self> {
        let held = states.into_iter().map(|state| {
            let address = Address::parse(&state.address).map_err(io::Error::other)?;
            let held = Held { address, socket: state.socket.take()?, bound_to: state.bound_to, file: state.file, users: state.users };
            Ok((state.key, held))
        });
        Ok(Self { held: held.collect::<io::Result<_>>()? })
    }

    /// Gives `generation` the listeners that it wants, in its order; binds those that nobody has yet.
    ///
    /// # Errors
    /// An address cannot be had; what was bound for this generation before it is closed again.
    pub(crate) fn provide(&mut self, generation: Generation, wanted: &[Wanted]) -> Result<Vec<(BorrowedFd<'_>, &str)>, Refusal> {
        let keys = keys(wanted);
        let mut bound = Vec::new();
        for (key, wanted) in keys.iter().zip(wanted) {
            let result = self.hold(key, wanted, generation);
            if let Ok(true) = result {
                bound.push(key.clone());
            }
            if let Err(refusal) = result {
                self.release(generation);
                // Only what was bound for it: what others have left may be asked for again.
                for key in &bound {
                    self.held.remove(key).iter().for_each(Held::remove_file);
                }
                return Err(refusal);
            }
        }
        Ok(keys.iter().filter_map(|key| self.held.get(key)).map(|held| (held.socket.as_fd(), held.bound_to.as_str())).collect())
    }

    /// `true` if it was bound for this.
    fn hold(&mut self, key: &Key, wanted: &Wanted, generation: Generation) -> Result<bool, Refusal> {
        if let Some(held) = self.held.get_mut(key) {
            held.users.insert(generation);
            return Ok(false);
        }
        let shown = shown(wanted.name.as_deref(), &wanted.text);
        let refused = |error, overlaps| Refusal { address: shown.clone(), error, overlaps };
        let address = Address::parse(&shown).map_err(|error| refused(io::Error::other(error), false))?;
        let listened = sockets::listen(&address, &wanted.resolved).or_else(|error| {
            // A listener that nobody has any more gives way.
            if is_in_use(&error) && self.close_unused_like(&address) { sockets::listen(&address, &wanted.resolved) } else { Err(error) }
        });
        let socket = listened.map_err(|error| {
            let overlaps = is_in_use(&error) && self.held.values().any(|held| is_like(&held.address, &address));
            refused(error, overlaps)
        })?;
        let file = match &address.kind {
            Kind::Unix { path, .. } => sockets::file_of(path).map(|file| (path.clone(), file)),
            Kind::Tcp { .. } | Kind::TcpAny { .. } => None,
        };
        let bound_to = sockets::bound_to(socket.as_fd());
        let held = Held { address, socket, bound_to, file, users: BTreeSet::from([generation]) };
        self.held.insert(key.clone(), held);
        Ok(true)
    }

    /// Closes listeners that may be in the way of the address and that no generation has. Answers whether there were any.
    fn close_unused_like(&mut self, address: &Address) -> bool {
        let before = self.held.len();
        self.held.retain(|_, held| {
            let gives_way = held.users.is_empty() && is_like(&held.address, address);
            if gives_way {
                held.remove_file();
            }
            !gives_way
        });
        self.held.len() < before
    }

    /// The generation does not use any. What it had stays open: another one may be about to ask for it.
    pub(crate) fn release(&mut self, generation: Generation) {
        for held in self.held.values_mut() {
            held.users.remove(&generation);
        }
    }

    /// Closes what no generation uses.
    pub(crate) fn close_unused(&mut self) {
        self.held.retain(|_, held| {
            if held.users.is_empty() {
                held.remove_file();
            }
            !held.users.is_empty()
        });
    }

    /// Closes all, for the generations that have them too, and removes the files of Unix sockets: nobody accepts on them any more, so whoever
    /// connects is to be refused at once and not to wait.
    pub(crate) fn close(&mut self) {
        for held in std::mem::take(&mut self.held).into_values() {
            held.remove_file();
            let _ = sockets::shut_down(held.socket.as_fd());
        }
    }

    /// What is listened on, for a message.
    pub(crate) fn describe(&self) -> String {
        let all: Vec<&str> = self.held.values().map(|held| held.bound_to.as_str()).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
    }

    /// Sets right what a generation may have done to the sockets that all share.
    pub(crate) fn check(&self) -> Vec<Message> {
        let mut repaired = Vec::new();
        for held in self.held.values() {
            let say = |what: String| Message::ListenerRepaired { address: held.bound_to.clone(), what };
            match sockets::make_nonblocking(held.socket.as_fd()) {
                Ok(false) => {}
                Ok(true) => repaired.push(say("it blocked".to_owned())),
                Err(error) => repaired.push(say(format!("its flags cannot be set: {error}"))),
            }
            if sockets::is_listening(held.socket.as_fd()) {
                // A listen(2) of its own has changed the backlog for all, which carries clients over a hand-over.
                let _ = sockets::start_listening(held.socket.as_fd());
            } else {
                let again = sockets::listen_again(held.socket.as_fd(), &held.bound_to);
                repaired.push(say(match again {
                    Ok(()) => "it was shut down".to_owned(),
                    Err(error) => format!("it was shut down and cannot listen again: {error}"),
                }));
            }
        }
        repaired
    }
}

impl Held {
    /// Removes the file of a Unix socket, unless somebody has put another one there.
    fn remove_file(&self) {
        if let Some((path, file)) = &self.file
            && sockets::file_of(path) == Some(*file)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn shown(name: Option<&str>, text: &str) -> String {
    name.map_or_else(|| text.to_owned(), |name| format!("{name}={text}"))
}

fn keys(wanted: &[Wanted]) -> Vec<Key> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    wanted
        .iter()
        .map(|wanted| match &wanted.name {
            Some(name) => Key::Name(name.clone(), wanted.text.clone()),
            None => {
                let count = seen.entry(&wanted.text).or_default();
                *count += 1;
                Key::Text(wanted.text.clone(), *count)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn wanted(texts: &[&str]) -> Vec<Wanted> {
        texts.iter().map(|text| Address::parse(text).and_then(|address| address.wanted()).expect(text)).collect()
    }

    #[test]
    fn a_listener_lives_as_long_as_a_generation_uses_it() {
        let mut listeners = Listeners::default();
        let both = wanted(&["web=127.0.0.1:0", "127.0.0.1:0"]);
        let first: Vec<String> =
            listeners.provide(Generation(1), &both).expect("bound").into_iter().map(|(_, bound)| bound.to_owned()).collect();
        assert_ne!(first[0], first[1]);
        let second: Vec<String> =
            listeners.provide(Generation(2), &both[..1]).expect("held").into_iter().map(|(_, bound)| bound.to_owned()).collect();
        assert_eq!(second[0], first[0]);
        listeners.release(Generation(1));
        TcpStream::connect(&first[1]).expect("the next generation may want it");
        listeners.close_unused();
        TcpStream::connect(&first[0]).expect("generation 2 has it");
        TcpStream::connect(&first[1]).expect_err("nobody has it");
    }

    #[test]
    fn a_name_that_moves_leaves_the_old_listener_to_those_that_have_it() {
        let mut listeners = Listeners::default();
        let bound = listeners.provide(Generation(1), &wanted(&["web=127.0.0.1:0"])).expect("bound")[0].1.to_owned();
        listeners.provide(Generation(2), &wanted(&["web=localhost:0"])).expect("bound");
        listeners.release(Generation(2));
        listeners.close_unused();
        let again = listeners.provide(Generation(3), &wanted(&["web=127.0.0.1:0"])).expect("held")[0].1.to_owned();
        assert_eq!(again, bound);
        listeners.provide(Generation(4), &wanted(&["web=localhost:0", "unix:/nowhere/at/all"])).expect_err("there is no such directory");
        assert_eq!(listeners.held.len(), 1);
    }

    #[test]
    fn what_a_candidate_did_to_a_shared_listener_is_set_right() {
        let mut listeners = Listeners::default();
        let (socket, bound) = {
            let provided = listeners.provide(Generation(1), &wanted(&["127.0.0.1:0"])).expect("bound");
            (provided[0].0.try_clone_to_owned().expect("a copy"), provided[0].1.to_owned())
        };
        assert_eq!(listeners.check(), []);
        let copy = std::net::TcpListener::from(socket.try_clone().expect("a copy"));
        copy.set_nonblocking(false).expect("set");
        assert_eq!(listeners.check().len(), 1);
        assert!(!sockets::make_nonblocking(socket.as_fd()).expect("read"), "it does not block any more");

        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(0).expect("a number")).expect("listens");
        assert_eq!(listeners.check(), []);
        let address = bound.parse().expect("an address");
        let waiting =
            [0; 5].map(|_| TcpStream::connect_timeout(&address, std::time::Duration::from_millis(500)).expect("the backlog is long"));
        drop(waiting);

        sockets::shut_down(socket.as_fd()).expect("shut down");
        TcpStream::connect(&bound).expect_err("nobody listens");
        assert_eq!(listeners.check().len(), 1);
        TcpStream::connect(&bound).expect("it listens again, on the same port");
    }

    #[test]
    fn an_address_that_overlaps_a_held_port_says_what_it_needs() {
        let mut listeners = Listeners::default();
        let port = {
            let provided = listeners.provide(Generation(1), &wanted(&[":0"])).expect("bound");
            provided[0].1.rsplit_once(':').expect("a port").1.to_owned()
        };
        // The held address was asked for as port 0, so ask for it by number first.
        listeners.release(Generation(1));
        listeners.close_unused();
        listeners.provide(Generation(1), &wanted(&[&format!(":{port}")])).expect("bound");
        let refusal = listeners.provide(Generation(2), &wanted(&[&format!("127.0.0.1:{port}")])).expect_err("it overlaps");
        assert!(refusal.is_in_use() && refusal.why().contains("needs overlap(false)"), "{}", refusal.why());
        assert_eq!(listeners.held.len(), 1);
    }

    #[test]
    fn a_listener_that_nobody_has_gives_way_to_one_that_overlaps_it_and_back() {
        let mut listeners = Listeners::default();
        let port =
            listeners.provide(Generation(1), &wanted(&["127.0.0.1:0"])).expect("bound")[0].1.rsplit_once(':').expect("a port").1.to_owned();
        listeners.release(Generation(1));
        listeners.close_unused();
        let (all, one) = (wanted(&[&format!(":{port}")]), wanted(&[&format!("127.0.0.1:{port}")]));
        for (before, after) in [(&all, &one), (&one, &all)] {
            listeners.provide(Generation(1), before).expect("bound");
            assert!(listeners.provide(Generation(2), after).expect_err("it overlaps").overlaps);
            listeners.release(Generation(1));
            listeners.provide(Generation(2), after).expect("bound when the other is gone");
            assert_eq!(listeners.held.len(), 1);
            listeners.release(Generation(2));
        }
    }

    #[test]
    fn a_unix_socket_whose_backlog_is_full_is_in_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app.sock");
        let stuck = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        nix::sys::socket::listen(&stuck, nix::sys::socket::Backlog::new(0).expect("a number")).expect("listens");
        let _first = std::os::unix::net::UnixStream::connect(&path).expect("the backlog takes one");
        let refusal =
            Listeners::default().provide(Generation(1), &wanted(&[&format!("unix:{}", path.display())])).expect_err("it is in use");
        assert!(refusal.is_in_use(), "{}", refusal.why());
    }

    #[test]
    fn the_file_of_a_unix_socket_goes_with_its_last_generation() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app.sock");
        let text = format!("unix:{}?mode=0600", path.display());
        let mut listeners = Listeners::default();
        listeners.provide(Generation(1), &wanted(&[&text])).expect("bound");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("it is there"));
        assert_eq!(mode & 0o777, 0o600);
        listeners.provide(Generation(2), &wanted(&[&text])).expect("held");
        listeners.release(Generation(1));
        std::os::unix::net::UnixStream::connect(&path).expect("it listens");
        let mut other = Listeners::default();
        other.provide(Generation(1), &wanted(&[&text])).expect_err("somebody listens there");
        listeners.close();
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a process that dies without removing it"));
        other.provide(Generation(1), &wanted(&[&text])).expect("the file of a dead process is in nobody's way");
    }
}
