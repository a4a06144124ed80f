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
mod tests;
