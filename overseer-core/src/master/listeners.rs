//! The sockets that clients come to, and which generation uses which.

use super::notify::Notify;
use crate::activation::{Claim, Keeper, Offers, name_in_store};
use crate::address::{Address, Kind, Options};
use crate::message::Message;
use crate::protocol::Wanted;
use crate::supervisor::Generation;
use crate::sys::activation;
use crate::sys::handover::Passed;
use crate::sys::poll::is_hung_up;
use crate::sys::sockets::{self, FileId};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// How much of an address can be read in its name in the descriptor store.
const STORE_NAME_CHARS: usize = 100;
const STORE_DIGEST_BYTES: usize = 8;

/// What an address is known by across generations: its text, and its name or how manieth of that text it is. A name that moves to another
/// text is another socket, beside the old one: generations that have that need it still, and so do those that come after a failed move.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key {
    Name(String, String),
    Text(String, usize),
}

impl Key {
    fn text(&self) -> &str {
        let (Self::Name(_, text) | Self::Text(text, _)) = self;
        text
    }
}

#[derive(Debug)]
struct Held {
    address: Address,
    socket: OwnedFd,
    bound_to: String,
    /// The file of a Unix socket that is ours to remove.
    file: Option<(PathBuf, FileId)>,
    keeper: Keeper,
    users: BTreeSet<Generation>,
    /// What users have asked for who want a shorter backlog than the system's largest.
    backlogs: BTreeMap<Generation, u32>,
}

/// Why a generation does not get its listeners.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) address: String,
    pub(crate) error: io::Error,
    /// The address may be free once the old generation is gone.
    pub(crate) overlaps: bool,
}

impl Refusal {
    fn new(wanted: &Wanted, error: io::Error) -> Self {
        Self { address: shown(wanted.name.as_deref(), &wanted.text), error, overlaps: false }
    }

    pub(crate) fn why(&self) -> String {
        let hint = if self.overlaps { "; a generation that is still there listens there, so it needs overlap(false)" } else { "" };
        format!("{}{hint}", self.error)
    }

    /// Whether somebody else's use of the address is the reason, which is not the release's fault.
    pub(crate) fn is_in_use(&self) -> bool {
        is_in_use(&self.error)
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// A listener in the hands of no process: what goes on through an exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldState {
    key: Key,
    address: String,
    pub(crate) socket: Passed,
    bound_to: String,
    file: Option<(PathBuf, FileId)>,
    #[serde(default)]
    keeper: Keeper,
    users: BTreeSet<Generation>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    backlogs: BTreeMap<Generation, u32>,
}

impl HeldState {
    /// # Errors
    /// The address is of a kind that is unknown here.
    pub(crate) fn address(&self) -> Result<Address, String> {
        Address::parse(&self.address).map_err(|error| error.to_string())
    }
}

/// What is to be remembered of the service manager's descriptor store; it goes on through an exec.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoreState {
    /// The names of those in it that are not needed there any more, until it was told.
    dropped: Vec<String>,
    has_said_full: bool,
}

/// What came of giving listeners to the store.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// What those are bound to that are kept from now on, for each generation that uses some of them.
    pub(crate) of_users: BTreeMap<Generation, Vec<String>>,
    pub(crate) warning: Option<Message>,
}

/// All listening sockets of the master.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    held: BTreeMap<Key, Held>,
    /// What was passed to this process and is not claimed yet; `None` once the start is over.
    offers: Option<Offers>,
    store: StoreState,
}

/// A listener as a child gets it.
#[derive(Debug)]
pub(crate) struct Provided<'a> {
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) bound_to: &'a str,
    pub(crate) is_kept: bool,
}

impl Listeners {
    /// Whether the generation listens on any.
    pub(crate) fn has_user(&self, generation: Generation) -> bool {
        self.held.values().any(|held| held.users.contains(&generation))
    }

    /// The inodes of their sockets, which every process that has them sees.
    pub(crate) fn inodes(&self) -> BTreeSet<u64> {
        self.held.values().filter_map(|held| Passed::of(&held.socket).ok()).map(|passed| passed.inode).collect()
    }

    /// Those of a master that starts and may take what was passed to it.
    pub(crate) fn with_offers(offers: Offers) -> Self {
        Self { offers: Some(offers), ..Self::default() }
    }

    /// What goes on through an exec.
    pub(crate) fn state(&self) -> io::Result<Vec<HeldState>> {
        let states = self.held.iter().map(|(key, held)| {
            Ok(HeldState {
                key: key.clone(),
                address: shown(held.address.name.as_deref(), &held.address.text),
                socket: Passed::of(&held.socket)?,
                bound_to: held.bound_to.clone(),
                file: held.file.clone(),
                keeper: held.keeper.clone(),
                users: held.users.clone(),
                backlogs: held.backlogs.clone(),
            })
        });
        states.collect()
    }

    /// This goes on too.
    pub(crate) fn store_state(&self) -> &StoreState {
        &self.store
    }

    /// Takes those that were handed over, each with its [`address`](HeldState::address).
    pub(crate) fn resume(states: Vec<HeldState>, addresses: Vec<Address>, store: StoreState) -> Self {
        let held = states.into_iter().zip(addresses).map(|(state, address)| {
            let HeldState { key, socket, bound_to, file, keeper, users, backlogs, .. } = state;
            // In the words of this version.
            let key = match key {
                Key::Name(name, _) => Key::Name(name, address.identity()),
                Key::Text(_, count) => Key::Text(address.identity(), count),
            };
            (key, Held { address, socket: socket.take(), bound_to, file, keeper, users, backlogs })
        });
        Self { held: held.collect(), offers: None, store }
    }

    /// Holds for `generation` the listeners that it wants; binds those that nobody has yet.
    ///
    /// # Errors
    /// An address cannot be had; what was bound for this generation before it is closed again.
    pub(crate) fn hold_all(&mut self, generation: Generation, wanted: &[Wanted]) -> Result<(), Refusal> {
        let keys = self.known_keys(wanted);
        // First whatever is there for one of them: what is not may have to give way to those that are bound.
        let held = self.claim_all(generation, &keys, wanted).and_then(|()| self.bind_all(generation, &keys, wanted));
        held.inspect_err(|_| self.release(generation))
    }

    /// Holds what others hold, and what was passed. That stays if another address cannot be had, since nobody passes it again.
    fn claim_all(&mut self, generation: Generation, keys: &[Key], wanted: &[Wanted]) -> Result<(), Refusal> {
        for (key, wanted) in keys.iter().zip(wanted) {
            if let Some(held) = self.held.get_mut(key) {
                let address = parsed(wanted)?;
                held.is_used_by(generation, address.options.backlog);
                held.mend(wanted).map_err(|error| Refusal::new(wanted, error))?;
            } else if let Some(offers) = &mut self.offers {
                let address = parsed(wanted)?;
                let claimed = offers.claim(&address, wanted, Some(&key.store_name()));
                if let Some(claim) = claimed.map_err(|error| Refusal::new(wanted, error))? {
                    self.held.insert(key.clone(), Held::new(address, claim, generation));
                }
            }
        }
        Ok(())
    }

    /// Binds what is not held.
    fn bind_all(&mut self, generation: Generation, keys: &[Key], wanted: &[Wanted]) -> Result<(), Refusal> {
        let mut bound = Vec::new();
        for (key, wanted) in keys.iter().zip(wanted) {
            if self.held.contains_key(key) {
                continue;
            }
            match parsed(wanted).and_then(|address| self.bind(address, wanted, generation)) {
                Ok(held) => drop(self.held.insert(key.clone(), held)),
                Err(refusal) => {
                    // Only what was bound for it: what others have left may be asked for again.
                    for key in bound {
                        self.held.remove(key).iter().for_each(Held::remove_file);
                    }
                    return Err(refusal);
                }
            }
            bound.push(key);
        }
        Ok(())
    }

    /// An address that has got a name, or another one, is the socket that it was.
    fn known_keys(&self, wanted: &[Wanted]) -> Vec<Key> {
        let mut keys = keys(wanted);
        for place in 0..keys.len() {
            let key = &keys[place];
            let same = self.held.keys().find(|held| held.text() == key.text() && !keys.contains(held));
            if let Some(same) = same.filter(|_| !self.held.contains_key(key)) {
                keys[place] = same.clone();
            }
        }
        keys
    }

    /// The listeners that are held for these addresses, in their order.
    pub(crate) fn held_for(&self, wanted: &[Wanted]) -> Vec<Provided<'_>> {
        self.known_keys(wanted).iter().filter_map(|key| self.held.get(key)).map(Held::provided).collect()
    }

    fn bind(&mut self, address: Address, wanted: &Wanted, generation: Generation) -> Result<Held, Refusal> {
        let bound = sockets::open(&address, wanted).or_else(|error| {
            // A listener that nobody has any more gives way.
            if is_in_use(&error) && self.make_way_for(&address) { sockets::open_after(&address, wanted) } else { Err(error) }
        });
        let socket = bound.map_err(|error| {
            let overlaps = is_in_use(&error) && self.held.values().any(|held| held.is_in_the_way_of(&address));
            Refusal { overlaps, ..Refusal::new(wanted, error) }
        })?;
        let file = match &address.kind {
            Kind::Unix { path } => sockets::file_of(path).map(|file| (path.clone(), file)),
            Kind::Host { .. } | Kind::AllInterfaces { .. } | Kind::Systemd { .. } => None,
        };
        Ok(Held::new(address, Claim { socket, keeper: Keeper::Nobody, file }, generation))
    }

    /// Closes listeners that may be in the way of the address and that no generation has, and those that were stored for an address that nobody asks for. Answers
    /// whether there were any.
    fn make_way_for(&mut self, address: &Address) -> bool {
        let before = self.held.len();
        let dropped = &mut self.store.dropped;
        self.held.retain(|_, held| {
            let gives_way = held.users.is_empty() && held.is_in_the_way_of(address);
            if gives_way {
                held.remove_file();
                // The service manager may have it a moment longer.
                let _ = sockets::give_way(held.socket.as_fd());
                if let Keeper::Store(name) = &held.keeper {
                    dropped.push(name.clone());
                }
            }
            !gives_way
        });
        let stored = self.offers.as_mut().map(|offers| offers.close_stored(|bound_to| address.may_clash_with(bound_to)));
        let stored = stored.unwrap_or_default();
        let gave_way = self.held.len() < before || !stored.is_empty();
        self.store.dropped.extend(stored);
        gave_way
    }

    /// The generation does not use any. What it had stays open: another one may be about to ask for it.
    pub(crate) fn release(&mut self, generation: Generation) {
        for held in self.held.values_mut() {
            held.users.remove(&generation);
            held.backlogs.remove(&generation);
        }
    }

    /// The start is over: closes what was passed and no address has claimed. Tells of it.
    pub(crate) fn refuse_offers(&mut self) -> Vec<Message> {
        let Some(mut offers) = self.offers.take() else { return Vec::new() };
        self.store.dropped.extend(offers.close_stored(|_| true));
        let dropped = self.store.dropped.iter().map(|name| Message::StoredSocketDropped { name: name.clone() });
        let mut messages: Vec<Message> = dropped.collect();
        messages.extend(offers.close().into_iter().map(|(name, what)| Message::SocketUnclaimed { name, what }));
        messages
    }

    /// Tells which listeners were passed to this master.
    pub(crate) fn describe_claimed(&self) -> Vec<Message> {
        let messages = self.held.values().filter_map(|held| {
            let name = match &held.keeper {
                Keeper::Nobody => return None,
                Keeper::SocketUnit(name) | Keeper::Store(name) => name.clone(),
            };
            Some(Message::SocketClaimed { address: held.address.to_string(), bound_to: held.bound_to.clone(), name })
        });
        messages.collect()
    }

    /// Tells the service manager what it need not keep any more.
    pub(crate) fn tell_dropped(&mut self, notify: &mut Notify) {
        self.store.dropped.retain(|name| !notify.remove_stored(name) && notify.is_wanted());
    }

    /// Gives the service manager what it is to keep for the next master, as far as its store has room, and tells it what it need not keep any more.
    pub(crate) fn keep_in_store(&mut self, notify: &mut Notify) -> Stored {
        // First, since that makes room.
        self.tell_dropped(notify);
        let mut now = Stored::default();
        let size = activation::store_size();
        let mut stored = self.held.values().filter(|held| matches!(held.keeper, Keeper::Store(_))).count();
        for (key, held) in self.held.iter_mut().filter(|(_, held)| held.keeper == Keeper::Nobody) {
            if !notify.is_wanted() || size == 0 {
                break;
            }
            if stored >= size {
                let is_first = !std::mem::replace(&mut self.store.has_said_full, true);
                now.warning = is_first.then(|| Message::StoreFull { size, address: held.bound_to.clone() });
                break;
            }
            let name = name_in_store(&key.store_name(), held.file.as_ref().map(|(_, id)| *id));
            if notify.store(&name, &[held.socket.as_fd()]) {
                held.keeper = Keeper::Store(name);
                stored += 1;
                held.users.iter().for_each(|user| now.of_users.entry(*user).or_default().push(held.bound_to.clone()));
            }
        }
        now
    }

    /// Closes what no generation uses. What a socket unit has given stays until the end: nobody gives it again, and a release that is taken back may want it.
    pub(crate) fn close_unused(&mut self) {
        self.held.retain(|_, held| {
            let stays = !held.users.is_empty() || matches!(held.keeper, Keeper::SocketUnit(_));
            if !stays {
                held.remove_file();
                if let Keeper::Store(name) = &held.keeper {
                    // The service manager may have it a moment longer, and nobody would ever accept.
                    let _ = sockets::give_way(held.socket.as_fd());
                    self.store.dropped.push(name.clone());
                }
            }
            stays
        });
    }

    /// Closes all, for the generations that have them too, and removes the files of Unix sockets: nobody accepts on them any more, so whoever
    /// connects is to be refused at once and not to wait. What the service manager keeps is left as it is: there clients wait for the next master.
    pub(crate) fn close(&mut self) {
        for held in std::mem::take(&mut self.held).into_values().filter(|held| !held.keeper.outlives_master()) {
            held.remove_file();
            let _ = sockets::give_way(held.socket.as_fd());
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
                Ok(true) => repaired.push(say("it blocked, and does not any more".to_owned())),
                Err(error) => repaired.push(say(format!("its flags cannot be set: {error}"))),
            }
            if held.is_datagram() && is_hung_up(held.socket.as_fd()) {
                let what = match held.keeper {
                    Keeper::SocketUnit(_) => "it was shut down, and only a restart of its socket unit brings another one",
                    Keeper::Nobody | Keeper::Store(_) => "it was shut down, and only the next generation gets another one",
                };
                repaired.push(say(what.to_owned()));
            } else if held.is_datagram() {
                match sockets::disconnect(held.socket.as_fd(), &held.bound_to) {
                    Ok(false) => {}
                    Ok(true) => repaired.push(say("it was connected to one peer, and is not any more; what was in it is lost".to_owned())),
                    Err(error) => repaired.push(say(format!("it was connected to one peer and cannot be freed: {error}"))),
                }
            } else if sockets::is_listening(held.socket.as_fd()) {
                // A listen(2) of its own has changed the backlog for all, which carries clients over a hand-over.
                let _ = sockets::start_listening(held.socket.as_fd(), held.backlog());
            } else {
                let again = sockets::listen_again(held.socket.as_fd(), &held.bound_to, held.backlog());
                repaired.push(say(match again {
                    Ok(()) => "it was shut down, and listens again".to_owned(),
                    Err(error) => format!("it was shut down and cannot listen again: {error}"),
                }));
            }
        }
        repaired
    }
}

impl Key {
    /// What it is called in the descriptor store: something to read, and a digest that tells it from all others.
    fn store_name(&self) -> String {
        let (name, text, count) = match self {
            Self::Name(name, text) => (name.as_str(), text, 0),
            Self::Text(text, count) => ("", text, *count),
        };
        let readable: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(STORE_NAME_CHARS).collect();
        let digest = Sha1::digest(format!("{name}\0{text}\0{count}"));
        let digest: String = digest.iter().take(STORE_DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
        format!("{readable}-{digest}")
    }
}

impl Held {
    fn new(address: Address, claim: Claim, user: Generation) -> Self {
        let Claim { socket, keeper, file } = claim;
        let bound_to = sockets::bound_to(socket.as_fd());
        let backlogs = address.options.backlog.map(|backlog| (user, backlog)).into_iter().collect();
        Self { address, socket, bound_to, file, keeper, users: BTreeSet::from([user]), backlogs }
    }

    fn is_datagram(&self) -> bool {
        sockets::is_datagram(self.socket.as_fd())
    }

    /// The longest that a user asks for: a candidate with a short one is not to hurt the service.
    fn backlog(&self) -> Option<u32> {
        let is_limited = self.users.iter().all(|user| self.backlogs.contains_key(user));
        self.backlogs.values().copied().max().filter(|_| is_limited)
    }

    /// Binds a socket of datagrams anew that somebody has shut down, which nothing undoes. Those who have the old one go on with that.
    fn mend(&mut self, wanted: &Wanted) -> io::Result<()> {
        if self.is_datagram() && !matches!(self.keeper, Keeper::SocketUnit(_)) && is_hung_up(self.socket.as_fd()) {
            // On the port that it has, which the system may have chosen.
            let at = Address::parse(&self.bound_to).map_err(io::Error::other)?;
            let v6_only = sockets::bound_to_address(self.socket.as_fd())
                .filter(SocketAddr::is_ipv6)
                .map(|_| sockets::is_v6_only(self.socket.as_fd()));
            let at = Address { options: Options { v6_only, ..self.address.options.clone() }, ..at };
            sockets::give_way(self.socket.as_fd())?;
            self.remove_file();
            self.socket = sockets::open_after(&at, &Wanted { resolved: Vec::new(), ..wanted.clone() })?;
            self.file = self.file.take().and_then(|(path, _)| sockets::file_of(&path).map(|file| (path, file)));
        }
        Ok(())
    }

    fn is_used_by(&mut self, generation: Generation, backlog: Option<u32>) {
        let before = self.backlog();
        self.users.insert(generation);
        if let Some(backlog) = backlog {
            self.backlogs.insert(generation, backlog);
        }
        // That it does not listen any more is seen when it is checked, which knows its port.
        if self.backlog() != before && !self.is_datagram() && sockets::is_listening(self.socket.as_fd()) {
            let _ = sockets::start_listening(self.socket.as_fd(), self.backlog());
        }
    }

    /// Whether it may be in the way of the address, and would not be if it were closed.
    fn is_in_the_way_of(&self, address: &Address) -> bool {
        // What a socket unit has given is the service manager's too.
        address.may_clash_with(&self.bound_to) && !matches!(self.keeper, Keeper::SocketUnit(_))
    }

    fn provided(&self) -> Provided<'_> {
        Provided { socket: self.socket.as_fd(), bound_to: &self.bound_to, is_kept: self.keeper.outlives_master() }
    }

    /// Removes the file of a Unix socket, unless somebody has put another one there.
    fn remove_file(&self) {
        if let Some((path, file)) = &self.file
            && sockets::file_of(path) == Some(*file)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn parsed(wanted: &Wanted) -> Result<Address, Refusal> {
    let address = Address::parse(&shown(wanted.name.as_deref(), &wanted.text));
    address.map_err(|error| Refusal::new(wanted, io::Error::other(error)))
}

fn shown(name: Option<&str>, text: &str) -> String {
    name.map_or_else(|| text.to_owned(), |name| format!("{name}={text}"))
}

fn keys(wanted: &[Wanted]) -> Vec<Key> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    // What cannot be read is refused when it is to be bound.
    let identity = |wanted: &Wanted| parsed(wanted).map_or_else(|_| wanted.text.clone(), |address| address.identity());
    wanted
        .iter()
        .map(|wanted| (wanted, identity(wanted)))
        .map(|(wanted, text)| match &wanted.name {
            Some(name) => Key::Name(name.clone(), text),
            None => {
                let count = seen.entry(text.clone()).or_default();
                *count += 1;
                Key::Text(text, *count)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::notify::NotifyState;
    use std::net::TcpStream;

    impl Listeners {
        fn provide(&mut self, generation: Generation, wanted: &[Wanted]) -> Result<Vec<Provided<'_>>, Refusal> {
            self.hold_all(generation, wanted)?;
            Ok(self.held_for(wanted))
        }
    }

    fn wanted(texts: &[&str]) -> Vec<Wanted> {
        texts.iter().map(|text| Address::parse(text).and_then(|address| address.wanted()).expect(text)).collect()
    }

    #[test]
    fn a_listener_lives_as_long_as_a_generation_uses_it() {
        let mut listeners = Listeners::default();
        let both = wanted(&["web=127.0.0.1:0", "127.0.0.1:0"]);
        let first: Vec<String> =
            listeners.provide(Generation(1), &both).expect("bound").iter().map(|provided| provided.bound_to.to_owned()).collect();
        assert_ne!(first[0], first[1]);
        let second: Vec<String> =
            listeners.provide(Generation(2), &both[..1]).expect("held").iter().map(|provided| provided.bound_to.to_owned()).collect();
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
        let bound = listeners.provide(Generation(1), &wanted(&["web=127.0.0.1:0"])).expect("bound")[0].bound_to.to_owned();
        listeners.provide(Generation(2), &wanted(&["web=localhost:0"])).expect("bound");
        listeners.release(Generation(2));
        listeners.close_unused();
        let again = listeners.provide(Generation(3), &wanted(&["web=127.0.0.1:0"])).expect("held")[0].bound_to.to_owned();
        assert_eq!(again, bound);
        listeners.provide(Generation(4), &wanted(&["web=localhost:0", "unix:/nowhere/at/all"])).expect_err("there is no such directory");
        assert_eq!(listeners.held.len(), 1);
    }

    #[test]
    fn an_address_that_gets_a_name_or_another_place_stays_the_socket_that_it_was() {
        let mut listeners = Listeners::default();
        let mut of = |generation: u64, texts: &[&str]| -> Vec<String> {
            let provided = listeners.provide(Generation(generation), &wanted(texts)).expect("held or bound");
            provided.into_iter().map(|provided| provided.bound_to.to_owned()).collect()
        };
        let first = of(1, &["127.0.0.1:0", "localhost:0"]);
        assert_eq!(of(2, &["api=localhost:0", "web=127.0.0.1:0"]), [first[1].clone(), first[0].clone()]);
        assert_eq!(of(3, &["front=127.0.0.1:0", "localhost:0"]), first);
        // Who asks for two such sockets gets two.
        let both = of(4, &["front=127.0.0.1:0", "127.0.0.1:0"]);
        assert_eq!(both[1], first[0]);
        assert!(!first.contains(&both[0]));
    }

    #[test]
    fn what_a_candidate_did_to_a_shared_listener_is_set_right() {
        let mut listeners = Listeners::default();
        let (socket, bound) = {
            let provided = listeners.provide(Generation(1), &wanted(&["127.0.0.1:0"])).expect("bound");
            (provided[0].socket.try_clone_to_owned().expect("a copy"), provided[0].bound_to.to_owned())
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

        sockets::give_way(socket.as_fd()).expect("shut down");
        TcpStream::connect(&bound).expect_err("nobody listens");
        assert_eq!(listeners.check().len(), 1);
        TcpStream::connect(&bound).expect("it listens again, on the same port");
    }

    #[test]
    fn names_in_the_store_tell_all_addresses_apart_and_are_such_as_a_service_manager_takes() {
        let all = ["127.0.0.1:0", "a=127.0.0.1:0", "b=127.0.0.1:0", "127.0.0.1:0", "unix:/run/a:b", "unix:/run/a_b", "/run/\u{e9}\t"];
        let long = format!("unix:/{}", "x".repeat(106));
        let wanted = wanted(&[&all[..], &[&long]].concat());
        let names: BTreeSet<String> =
            keys(&wanted).iter().map(|key| name_in_store(&key.store_name(), Some((u64::MAX, u64::MAX)))).collect();
        assert_eq!(names.len(), wanted.len(), "{names:?}");
        let is_good = |name: &String| name.len() <= 255 && name.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b':');
        assert!(names.iter().all(is_good), "{names:?}");
        assert!(names.iter().any(|name| name.starts_with("overseer-127.0.0.1_0-")), "{names:?}");
    }

    #[test]
    fn a_passed_socket_stays_through_tries_that_fail_for_another_address_and_for_the_life_of_the_master() {
        let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let (passed, blocker) = (bind(), bind());
        let bound_to = passed.local_addr().expect("bound").to_string();
        let texts = ["systemd:web".to_owned(), blocker.local_addr().expect("bound").to_string()];
        let wanted = wanted(&texts.each_ref().map(String::as_str));
        let mut listeners = Listeners::with_offers(Offers::of(vec![("web", passed.into()), ("other", bind().into())]));
        let refusal = listeners.provide(Generation(1), &wanted).expect_err("somebody is there");
        assert!(refusal.is_in_use());
        drop(blocker);
        assert_eq!(listeners.provide(Generation(1), &wanted).expect("free now")[0].bound_to, bound_to);
        assert!(matches!(&listeners.refuse_offers()[..], [Message::SocketUnclaimed { name, .. }] if name == "other"));
        assert_eq!(listeners.describe_claimed().len(), 1);
        listeners.release(Generation(1));
        listeners.close_unused();
        assert_eq!(listeners.provide(Generation(2), &wanted[..1]).expect("nobody passes it again")[0].bound_to, bound_to);
        listeners.close();
        let why = listeners.provide(Generation(3), &wanted[..1]).expect_err("it is not there any more").why();
        assert!(why.contains("restart the service"), "{why}");
    }

    #[test]
    fn a_passed_socket_is_not_shut_down_at_the_end_and_one_of_ours_is() {
        let passed = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let (unit, address) = (passed.try_clone().expect("a copy"), passed.local_addr().expect("bound"));
        let mut listeners = Listeners::with_offers(Offers::of(vec![("web", passed.into())]));
        let own = listeners.provide(Generation(1), &wanted(&["systemd:web", "127.0.0.1:0"])).expect("held")[1].bound_to.to_owned();
        listeners.close();
        TcpStream::connect(address).expect("clients wait for the next master");
        TcpStream::connect(own).expect_err("nobody has it");
        drop(unit);
    }

    #[test]
    fn an_address_that_overlaps_a_held_port_says_what_it_needs() {
        let mut listeners = Listeners::default();
        let port = {
            let provided = listeners.provide(Generation(1), &wanted(&[":0"])).expect("bound");
            provided[0].bound_to.rsplit_once(':').expect("a port").1.to_owned()
        };
        // The held address was asked for as port 0, so ask for it by number first.
        listeners.release(Generation(1));
        listeners.close_unused();
        listeners.provide(Generation(1), &wanted(&[&format!(":{port}")])).expect("bound");
        let refusal = listeners.provide(Generation(2), &wanted(&[&format!("127.0.0.1:{port}")])).expect_err("it overlaps");
        assert!(refusal.is_in_use() && refusal.why().contains("needs overlap(false)"), "{}", refusal.why());
        assert_eq!(listeners.held.len(), 1);

        let directory = tempfile::tempdir().expect("a directory");
        let with_mode = |mode: &str| wanted(&[&format!("unix:{}?mode={mode}", directory.path().join("app.sock").display())]);
        listeners.provide(Generation(3), &with_mode("0600")).expect("bound");
        let refusal = listeners.provide(Generation(4), &with_mode("0660")).expect_err("the file is there");
        assert!(refusal.is_in_use() && refusal.why().contains("needs overlap(false)"), "{}", refusal.why());
    }

    #[test]
    fn a_udp_socket_is_held_like_a_listener_and_has_nothing_to_do_with_tcp_on_its_port() {
        let mut listeners = Listeners::default();
        let udp = listeners.provide(Generation(1), &wanted(&["udp:127.0.0.1:0"])).expect("bound")[0].bound_to.to_owned();
        let tcp = udp.strip_prefix("udp:").expect("UDP");
        let both = listeners.provide(Generation(2), &wanted(&["udp:127.0.0.1:0", tcp])).expect("bound");
        assert_eq!([both[0].bound_to, both[1].bound_to], [&udp, tcp]);
        let refusal = listeners.provide(Generation(3), &wanted(&[&format!("dns={udp}")])).expect_err("nobody else has it");
        assert!(refusal.is_in_use() && refusal.overlaps, "{}", refusal.why());
        listeners.release(Generation(1));
        listeners.release(Generation(2));
        listeners.provide(Generation(3), &wanted(&[&format!("dns={udp}")])).expect("it gives way, as nobody has it");
    }

    #[test]
    fn a_udp_socket_that_a_candidate_has_connected_hears_everybody_again() {
        let mut listeners = Listeners::default();
        for text in ["udp:127.0.0.1:0", "udp::0"] {
            let provided = listeners.provide(Generation(1), &wanted(&[text])).expect("bound");
            let (socket, bound_to) = (provided[0].socket.try_clone_to_owned().expect("a copy"), provided[0].bound_to.to_owned());
            assert_eq!(listeners.check(), []);
            let copy = std::net::UdpSocket::from(socket);
            let other = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
            copy.connect(other.local_addr().expect("bound")).expect("connected");
            assert_eq!(listeners.check().len(), 1);
            assert_eq!(listeners.check(), []);
            let port = bound_to.rsplit_once(':').expect("a port").1;
            let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
            client.send_to(b"hello", format!("127.0.0.1:{port}")).expect("sent");
            let ready = crate::sys::poll::wait(
                &[crate::sys::poll::Interest { descriptor: copy.as_fd(), write: false }],
                Some(std::time::Duration::from_secs(10)),
            );
            assert!(ready.expect("it can be waited for")[0].read);
            assert_eq!(copy.recv(&mut [0; 10]).expect("a datagram"), 5);
        }
    }

    #[test]
    fn a_backlog_is_as_long_as_the_longest_that_a_generation_asks_for_and_changes_no_socket() {
        /// How many clients are let in before the next one has to wait.
        fn room(bound_to: &str) -> usize {
            let address = bound_to.parse().expect("an address");
            let connect = || TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200));
            std::iter::repeat_with(connect).take(9).map_while(Result::ok).collect::<Vec<_>>().len()
        }
        let empty = |socket: BorrowedFd<'_>| {
            let listener = std::net::TcpListener::from(socket.try_clone_to_owned().expect("a copy"));
            while listener.accept().is_ok() {}
        };
        let mut listeners = Listeners::default();
        let (socket, bound_to) = {
            let provided = listeners.provide(Generation(1), &wanted(&["127.0.0.1:0?backlog=2"])).expect("bound");
            (provided[0].socket.try_clone_to_owned().expect("a copy"), provided[0].bound_to.to_owned())
        };
        // Linux lets one more in.
        assert_eq!(room(&bound_to), 3);
        empty(socket.as_fd());
        for (generation, text, expected) in [(2, "127.0.0.1:0?backlog=4", 5), (3, "127.0.0.1:0?nodelay", 9)] {
            assert_eq!(listeners.provide(Generation(generation), &wanted(&[text])).expect("held")[0].bound_to, bound_to);
            assert_eq!(room(&bound_to), expected);
            empty(socket.as_fd());
        }
        listeners.release(Generation(3));
        listeners.release(Generation(2));
        assert_eq!(listeners.check(), []);
        assert_eq!(room(&bound_to), 3);
    }

    #[test]
    fn a_port_that_is_shared_can_be_bound_twice_and_another_one_cannot() {
        let bind =
            |text: &str| Listeners::default().provide(Generation(1), &wanted(&[text])).map(|provided| provided[0].bound_to.to_owned());
        for transport in ["", "udp:"] {
            let mut first = Listeners::default();
            let bound_to = first.provide(Generation(1), &wanted(&[&format!("{transport}127.0.0.1:0?reuse_port")])).expect("bound")[0]
                .bound_to
                .to_owned();
            assert_eq!(bind(&format!("{bound_to}?reuse_port")).expect("both share it"), bound_to);
            assert!(bind(&bound_to).expect_err("this one does not share").is_in_use());
        }
    }

    #[test]
    fn the_file_of_a_unix_socket_gets_its_owner_and_a_living_one_is_told_of_by_pid() {
        let directory = tempfile::tempdir().expect("a directory");
        let own = std::fs::metadata(directory.path()).expect("there");
        let (user, group) = (std::os::unix::fs::MetadataExt::uid(&own), std::os::unix::fs::MetadataExt::gid(&own));
        for transport in ["unix", "unixgram"] {
            let path = directory.path().join(transport);
            let text = format!("{transport}:{}?mode=0600&owner={user}:{group}", path.display());
            let mut listeners = Listeners::default();
            listeners.provide(Generation(1), &wanted(&[&text])).expect("bound");
            let made = std::fs::metadata(&path).expect("there");
            let rights = (std::os::unix::fs::MetadataExt::mode(&made) & 0o777, std::os::unix::fs::MetadataExt::uid(&made));
            assert_eq!(rights, (0o600, user));
            let refusal = Listeners::default().provide(Generation(1), &wanted(&[&text])).expect_err("it is alive");
            assert!(refusal.is_in_use(), "{}", refusal.why());
            if transport == "unix" && cfg!(target_os = "linux") {
                assert!(refusal.why().contains(&format!("pid {}", std::process::id())), "{}", refusal.why());
            }
        }
        let nobody = Address::parse("unix:/a?owner=nobody-is-called-that").and_then(|address| address.wanted());
        assert!(nobody.expect_err("there is none").chain().contains("there is no user nobody-is-called-that"));
    }

    #[test]
    fn a_listener_that_nobody_has_gives_way_to_one_that_overlaps_it_and_back() {
        let mut listeners = Listeners::default();
        let port = listeners.provide(Generation(1), &wanted(&["127.0.0.1:0"])).expect("bound")[0]
            .bound_to
            .rsplit_once(':')
            .expect("a port")
            .1
            .to_owned();
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
    fn a_stored_socket_gives_way_to_an_address_that_overlaps_it() {
        let stored = sockets::open(&Address::parse(":0").expect("it is good"), &Wanted::default()).expect("bound");
        let (port, store) =
            (sockets::bound_to_address(stored.as_fd()).expect("bound").port(), stored.try_clone().expect("the service manager's"));
        let mut listeners = Listeners::with_offers(Offers::of(vec![("overseer-x", stored)]));
        listeners.provide(Generation(1), &wanted(&[&format!("127.0.0.1:{port}")])).expect("nobody else listens there");
        assert!(!sockets::is_listening(store.as_fd()), "nobody would ever accept");
        let told = listeners.refuse_offers();
        assert!(matches!(&told[..], [Message::StoredSocketDropped { name }] if name == "overseer-x"), "{told:?}");
    }

    #[test]
    fn what_the_store_is_not_told_yet_is_told_by_the_master_that_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
        let stored = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut listeners = Listeners::with_offers(Offers::of(vec![("overseer-x", stored.into())]));
        listeners.refuse_offers();
        let (mut nowhere, _) = Notify::to(directory.path().join("nobody").as_ref(), NotifyState::default());
        listeners.tell_dropped(&mut nowhere);
        let text = serde_json::to_string(listeners.store_state()).expect("it can be written down");
        let mut next = Listeners::resume(Vec::new(), Vec::new(), serde_json::from_str(&text).expect("it can be read"));
        let (mut notify, _) = Notify::to(path.as_ref(), NotifyState::default());
        next.tell_dropped(&mut notify);
        let mut bytes = [0; 100];
        let length = manager.recv(&mut bytes).expect("a message");
        assert_eq!(&bytes[..length], b"FDSTOREREMOVE=1\nFDNAME=overseer-x");
        assert_eq!(*next.store_state(), StoreState::default(), "it is told once");
    }

    #[test]
    fn a_stored_udp_socket_gives_way_while_the_store_still_has_it() {
        let stored = sockets::open(&Address::parse("udp::0").expect("it is good"), &Wanted::default()).expect("bound");
        let (port, store) =
            (sockets::bound_to_address(stored.as_fd()).expect("bound").port(), stored.try_clone().expect("the service manager's"));
        let text = format!("udp:127.0.0.1:{port}");
        Listeners::default().provide(Generation(1), &wanted(&[&text])).expect_err("somebody has it");
        let mut listeners = Listeners::with_offers(Offers::of(vec![("overseer-x", stored)]));
        let socket =
            listeners.provide(Generation(1), &wanted(&[&text])).expect("nobody else receives there")[0].socket.try_clone_to_owned();
        std::net::UdpSocket::bind("127.0.0.1:0").expect("bound").send_to(b"hello", format!("127.0.0.1:{port}")).expect("sent");
        let socket = std::net::UdpSocket::from(socket.expect("a copy"));
        assert_eq!(socket.recv(&mut [0; 10]).expect("the new one has it"), 5);
        Listeners::default().provide(Generation(1), &wanted(&[&text])).expect_err("and has it alone");
        drop(store);
    }

    #[test]
    fn a_udp_socket_that_was_shut_down_is_bound_anew_for_the_next_generation_for_both_families() {
        let mut listeners = Listeners::default();
        for text in ["udp::0", "udp:localhost:0"] {
            let bound_to = {
                let provided = listeners.provide(Generation(1), &wanted(&[text])).expect("bound");
                let _ = nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&provided[0].socket), nix::sys::socket::Shutdown::Both);
                provided[0].bound_to.to_owned()
            };
            assert_eq!(listeners.check().len(), 1);
            let provided = listeners.provide(Generation(2), &wanted(&[text])).expect("bound anew");
            assert_eq!(provided[0].bound_to, bound_to);
            let socket = std::net::UdpSocket::from(provided[0].socket.try_clone_to_owned().expect("a copy"));
            let port = bound_to.rsplit_once(':').expect("a port").1;
            let hosts: &[&str] = if text == "udp::0" { &["127.0.0.1", "[::1]"] } else { &["localhost"] };
            for host in hosts {
                let client = std::net::UdpSocket::bind(if *host == "[::1]" { "[::1]:0" } else { "127.0.0.1:0" }).expect("bound");
                client.send_to(b"hello", format!("{host}:{port}")).expect("sent");
                assert_eq!(socket.recv(&mut [0; 10]).expect("it comes"), 5, "{host}");
            }
            assert_eq!(listeners.check(), []);
        }
    }

    #[test]
    fn an_address_in_other_words_is_the_socket_that_it_was() {
        let mut listeners = Listeners::default();
        for (before, after) in [
            ("127.0.0.1:0?reuse_port&backlog=9", "tcp:127.0.0.1:0?reuse_port=true"),
            ("udp:[::1]:0?v6_only&reuse_port", "udp:[::1]:0?reuse_port"),
        ] {
            let mut of =
                |generation, text| listeners.provide(Generation(generation), &wanted(&[text])).expect("bound")[0].bound_to.to_owned();
            assert_eq!(of(1, before), of(2, after));
        }
    }

    #[test]
    fn a_stored_socket_that_another_address_means_does_not_give_way() {
        let listen = |text: &str| sockets::open(&Address::parse(text).expect("it is good"), &Wanted::default()).expect("bound");
        let v4 = listen("0.0.0.0:0");
        let port = sockets::bound_to_address(v4.as_fd()).expect("bound").port();
        let v6 = listen(&format!("[::1]:{port}"));
        let waiting = TcpStream::connect(("::1", port)).expect("it listens");
        let offers = vec![("overseer-v4", v4), ("overseer-v6", v6)];
        let mut listeners = Listeners::with_offers(Offers::of(offers));
        let both = wanted(&[&format!("127.0.0.1:{port}"), &format!("[::1]:{port}")]);
        let v6 = listeners.provide(Generation(1), &both).expect("one gives way, one is there")[1].socket.try_clone_to_owned();
        std::net::TcpListener::from(v6.expect("a copy")).accept().expect("who waits is served");
        drop(waiting);
        assert!(matches!(&listeners.refuse_offers()[..], [Message::StoredSocketDropped { name }] if name == "overseer-v4"));
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
