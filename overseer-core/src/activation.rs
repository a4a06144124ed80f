//! Sockets that the service manager has passed to this process: those of socket units (systemd.socket(5)), and those that an earlier master has put into
//! the descriptor store (`FileDescriptorStoreMax=`, systemd.service(5)). Which of them does an address mean?
//!
//! An address `systemd:NAME` means the one with that name. Any other address means a stored one that was bound for the same address before, or whichever is bound to
//! just what it asks for; so a program comes up with a socket unit and without one, and gets back what it had.

use crate::address::{Address, Kind, Transport};
use crate::protocol::Wanted;
use crate::sys::activation::{self, Given};
use crate::sys::sockets::{self, FileId};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Names in the store begin with this.
const STORED: &str = "overseer-";
/// What passes a socket of a unit goes by the unit's name unless that says otherwise, and a name in the store never ends like one.
const UNIT: &str = ".socket";

/// Whether an earlier master has put it into the store.
fn is_stored(given: &Given) -> bool {
    given.name.starts_with(STORED) && !given.name.ends_with(UNIT)
}

/// Who holds a listening socket open besides this master.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Keeper {
    #[default]
    Nobody,
    /// The service manager, for a socket unit, under this name. The socket's file and its end are that one's too.
    SocketUnit(String),
    /// The service manager, for the next master, under this name.
    Store(String),
}

impl Keeper {
    /// Whether the socket lives on without this master: then nobody may shut it down, which would hold for whoever comes next.
    pub(crate) fn outlives_master(&self) -> bool {
        *self != Self::Nobody
    }
}

/// What an address means.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) socket: OwnedFd,
    pub(crate) keeper: Keeper,
    /// The file of a Unix socket that is the master's to remove.
    pub(crate) file: Option<(PathBuf, FileId)>,
}

/// The sockets that no address has claimed yet.
#[derive(Debug, Default)]
pub(crate) struct Offers(Vec<Given>);

impl Offers {
    /// Takes what was passed to this process; see [`activation::take`]. An exec hands it on until [`Offers::close_on_exec`].
    pub(crate) fn take() -> io::Result<Self> {
        activation::take().map(Self)
    }

    /// These, as if they had been passed.
    #[cfg(test)]
    pub(crate) fn of(all: Vec<(&str, OwnedFd)>) -> Self {
        Self(all.into_iter().map(|(name, descriptor)| Given { name: name.to_owned(), descriptor }).collect())
    }

    /// Keeps it to this process.
    pub(crate) fn close_on_exec(self) -> io::Result<Self> {
        self.0.iter().try_for_each(Given::close_on_exec)?;
        Ok(self)
    }

    /// The socket that the address means, ready to be accepted on, if one is there. `store_name` is what it is called in the descriptor store, without its file.
    ///
    /// # Errors
    /// The address asks for one by a name that is not there, or that is no socket to accept on or to receive from.
    pub(crate) fn claim(&mut self, address: &Address, wanted: &Wanted, store_name: Option<&str>) -> io::Result<Option<Claim>> {
        let take_over = |given: &Given| sockets::take_over(given.descriptor.as_fd(), address.options.backlog);
        if let Kind::Systemd { fd_name } = &address.kind {
            let place = self.0.iter().position(|given| given.name == *fd_name);
            let place = place.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, self.why_not_there()))?;
            let what = sockets::describe(self.0[place].descriptor.as_fd());
            if take_over(&self.0[place]).is_err() {
                let number = self.0[place].descriptor.as_raw_fd();
                let why = format!(
                    "descriptor {number}, which the service manager has passed under this name, is {what}, not a socket to accept on or to receive from"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let Given { name, descriptor } = self.0.remove(place);
            return Ok(Some(Claim { socket: descriptor, keeper: Keeper::SocketUnit(name), file: None }));
        }
        let is_own =
            |given: &Given| store_name.is_some_and(|name| file_in(&given.name, name).is_some()) && fits(given, address, wanted, true);
        let found = self.0.iter().position(is_own).or_else(|| self.0.iter().position(|given| fits(given, address, wanted, false)));
        let Some(place) = found.filter(|place| take_over(&self.0[*place]).is_ok()) else { return Ok(None) };
        let is_stored = is_stored(&self.0[place]);
        let Given { name, descriptor } = self.0.remove(place);
        if !is_stored {
            return Ok(Some(Claim { socket: descriptor, keeper: Keeper::SocketUnit(name), file: None }));
        }
        let mut file = None;
        if let Kind::Unix { path } = &address.kind {
            file = sockets::file_of(path).map(|id| (path.clone(), id));
            sockets::give_to(path, address.options.mode, wanted.owner)?;
        }
        Ok(Some(Claim { socket: descriptor, keeper: Keeper::Store(name), file }))
    }

    fn why_not_there(&self) -> String {
        let names: Vec<&str> = self.0.iter().filter(|given| !is_stored(given)).map(|given| given.name.as_str()).collect();
        match names[..] {
            [] => "the service manager has passed no socket that is left to take: is the service started by its socket unit?".to_owned(),
            _ => format!("the service manager has passed no socket of that name that is left to take; there are: {}", names.join(", ")),
        }
    }

    /// The names of those that were stored for an address that is not asked for any more, as far as `is_meant` by what they are bound to. They are closed for the
    /// service manager too, which may have them a moment longer: nobody would ever accept, and they would be in the way of who binds their address.
    pub(crate) fn close_stored(&mut self, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
        let closed = self.0.extract_if(.., |given| is_stored(given) && is_meant(&sockets::bound_to(given.descriptor.as_fd())));
        let shut_down = closed.map(|Given { name, descriptor }| {
            let _ = sockets::give_way(descriptor.as_fd());
            name
        });
        shut_down.collect()
    }

    /// Name and nature of those that are left; they are closed.
    pub(crate) fn close(self) -> Vec<(String, String)> {
        self.0.into_iter().map(|given| (sockets::describe(given.descriptor.as_fd()), given.name)).map(|(what, name)| (name, what)).collect()
    }
}

/// Whether the socket is bound to what the address asks for. One that was bound for it before may have a port that the system chose, and IPv4 alone.
fn fits(given: &Given, address: &Address, wanted: &Wanted, is_own: bool) -> bool {
    let is_datagram = sockets::is_datagram(given.descriptor.as_fd());
    if is_datagram != (address.transport == Transport::Datagram) {
        return false;
    }
    let bound_to = || sockets::bound_to_address(given.descriptor.as_fd());
    let has_port = |bound: &SocketAddr, port: u16| bound.port() == port || (port == 0 && is_own);
    match &address.kind {
        Kind::AllInterfaces { port } => bound_to().is_some_and(|bound| {
            let is_both = bound.is_ipv6() && !sockets::is_v6_only(given.descriptor.as_fd());
            let fits = if address.options.v6_only == Some(true) { bound.is_ipv6() && !is_both } else { is_both };
            bound.ip().is_unspecified() && has_port(&bound, *port) && (fits || is_own)
        }),
        Kind::Host { host, port } => bound_to().is_some_and(|bound| {
            let is_number = host.parse::<IpAddr>().is_ok_and(|ip| ip == bound.ip());
            has_port(&bound, *port) && (is_number || wanted.resolved.iter().any(|address| address.ip() == bound.ip()))
        }),
        Kind::Unix { path } => {
            let bound = sockets::path_of(given.descriptor.as_fd());
            let is_same = bound.is_some_and(|bound| absolute(&bound) == absolute(path));
            // Where another file is at the path, nobody can connect to this socket any more.
            is_same && (!is_stored(given) || sockets::file_of(path).is_some_and(|file| given.name.ends_with(&suffix(Some(file)))))
        }
        Kind::Systemd { .. } => false,
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What the socket is called in the descriptor store: how its address is known there, and its file if it is a Unix one. `FDNAME=` takes at most 255
/// characters of ASCII, without colons and control characters (sd_notify(3)).
pub(crate) fn name_in_store(store_name: &str, file: Option<FileId>) -> String {
    format!("{STORED}{store_name}{}", suffix(file))
}

fn suffix(file: Option<FileId>) -> String {
    file.map(|(device, inode)| format!("-{device:x}.{inode:x}")).unwrap_or_default()
}

/// Whether the name in the store is that of `store_name`; with its file's part, if it has one.
fn file_in<'a>(name: &'a str, store_name: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(STORED)?.strip_prefix(store_name)?;
    (rest.is_empty() || rest.starts_with('-')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn offer(name: &str, socket: impl Into<OwnedFd>) -> Given {
        Given { name: name.to_owned(), descriptor: socket.into() }
    }

    /// Whether the address gets the socket that was passed under this name, and what keeps it then.
    fn keeper(address: &str, store_name: &str, name: &str, socket: impl Into<OwnedFd>) -> Option<Keeper> {
        let address = Address::parse(address).expect(address);
        let wanted = address.wanted().expect("resolved");
        Offers(vec![offer(name, socket)]).claim(&address, &wanted, Some(store_name)).expect("no error").map(|claim| claim.keeper)
    }

    #[test]
    fn an_address_means_the_socket_that_is_bound_to_what_it_asks_for() {
        let unit = || Some(Keeper::SocketUnit("x".to_owned()));
        for (bound, asked, means) in [
            ("127.0.0.1:0", "127.0.0.1:PORT", true),
            ("127.0.0.1:0", "localhost:PORT", true),
            ("127.0.0.1:0", "127.0.0.2:PORT", false),
            ("127.0.0.1:0", ":PORT", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:0", "127.0.0.1:1", false),
            ("[::]:0", ":PORT", true),
            ("[::]:0", "[::]:PORT", true),
            ("[::]:0", ":0", false),
            // It would leave out what comes by IPv6.
            ("0.0.0.0:0", ":PORT", false),
            ("0.0.0.0:0", "0.0.0.0:PORT", true),
        ] {
            let socket = TcpListener::bind(bound).expect(bound);
            let asked = asked.replace("PORT", &socket.local_addr().expect("bound").port().to_string());
            assert_eq!(keeper(&asked, "", "x", socket), unit().filter(|_| means), "{bound} for {asked}");
        }
        let v6_only = sockets::open(&Address::parse("[::]:0").expect("it is good"), &Wanted::default()).expect("bound");
        let port = sockets::bound_to_address(v6_only.as_fd()).expect("bound").port();
        assert_eq!(keeper(&format!(":{port}"), "", "x", v6_only), None);
    }

    #[test]
    fn what_an_earlier_master_has_stored_for_an_address_keeps_the_port_that_the_system_chose() {
        let stored = name_in_store("127.0.0.1_0-ab", None);
        let socket = || TcpListener::bind("127.0.0.1:0").expect("bound");
        assert_eq!(keeper("127.0.0.1:0", "127.0.0.1_0-ab", &stored, socket()), Some(Keeper::Store(stored.clone())));
        assert_eq!(keeper("127.0.0.1:0", "127.0.0.1_0-abc", &stored, socket()), None);
        assert_eq!(keeper("127.0.0.2:0", "127.0.0.1_0-ab", &stored, socket()), None, "its name alone proves nothing");
        let v4 = TcpListener::bind("0.0.0.0:0").expect("bound");
        assert!(keeper(":0", "127.0.0.1_0-ab", &stored, v4).is_some());
        // Stored under another name, but the same address.
        let moved = socket();
        let asked = format!("web={}", moved.local_addr().expect("bound"));
        assert_eq!(keeper(&asked, "other", &stored, moved), Some(Keeper::Store(stored)));
    }

    #[test]
    fn a_stored_unix_socket_whose_file_is_another_one_now_means_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app.sock");
        let socket = UnixListener::bind(&path).expect("bound");
        let stored = name_in_store("app", sockets::file_of(&path));
        let asked = format!("unix:{}?mode=0600", path.display());
        let claim = |given: Given| {
            Offers(vec![given]).claim(&Address::parse(&asked).expect("it is good"), &Wanted::default(), Some("app")).expect("no error")
        };
        let copy = || socket.try_clone().expect("a copy");
        let claimed = claim(offer(&stored, copy())).expect("it is the one");
        assert_eq!(claimed.keeper, Keeper::Store(stored.clone()));
        assert_eq!(claimed.file.expect("it is ours to remove").0, path);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("set");
        let of_unit = claim(offer("app.socket", copy())).expect("it is bound to the path");
        assert!(of_unit.keeper == Keeper::SocketUnit("app.socket".to_owned()) && of_unit.file.is_none());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o666, "that is the unit's to say");
        fs::rename(&path, directory.path().join("moved")).expect("renamed");
        assert!(claim(offer(&stored, copy())).is_none());
        let _other = UnixListener::bind(&path).expect("bound");
        assert!(claim(offer(&stored, copy())).is_none());
    }

    #[test]
    fn a_socket_of_a_unit_that_is_named_like_those_in_the_store_is_the_units() {
        let web = TcpListener::bind("127.0.0.1:0").expect("bound");
        let (address, name) = (web.local_addr().expect("bound").to_string(), "overseer-web.socket");
        let mut offers = Offers(vec![offer(name, web.try_clone().expect("a copy"))]);
        assert_eq!(offers.close_stored(|_| true), [""; 0]);
        assert_eq!(keeper(&address, "", name, web), Some(Keeper::SocketUnit(name.to_owned())));
    }

    #[test]
    fn what_nobody_claims_is_told_by_what_it_is() {
        let listening = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listening.local_addr().expect("bound");
        let file = OwnedFd::from(fs::File::open("/dev/null").expect("opened"));
        let mut offers = Offers(vec![
            offer("web", listening),
            offer(&name_in_store("old", None), fs::File::open("/dev/null").expect("opened")),
            offer("x", file),
        ]);
        assert_eq!(offers.close_stored(|bound_to| bound_to.contains(':')), [""; 0]);
        assert_eq!(offers.close_stored(|_| true), ["overseer-old"]);
        let left = offers.close();
        assert_eq!(left, [("web".to_owned(), format!("a listening socket on {address}")), ("x".to_owned(), "no socket".to_owned())]);
    }
}
