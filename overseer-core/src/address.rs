//! Addresses as a program writes them down.

use crate::Error;
use crate::protocol::{Owner, Wanted};
use crate::sys::files::owner_of;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Where a program listens.
///
/// | text | means |
/// | --- | --- |
/// | `:3000` | TCP, all interfaces, IPv6 and IPv4 |
/// | `host:3000`, `127.0.0.1:3000`, `[::1]:3000` | TCP, the first address that the host resolves to; port 0 is a free one |
/// | `unix:/run/app.sock`, `/run/app.sock`, `./app.sock` | a Unix stream socket |
/// | `udp::3000`, `udp:host:3000` | UDP, where TCP would be without `udp:` |
/// | `unixgram:/run/app.sock` | a Unix datagram socket |
/// | `systemd:web` | the socket that the service manager has passed under this name (`FileDescriptorName=`, which is the name of the socket unit unless set) |
/// | `web=:3000` | any of them, with a name to find it by |
///
/// Options come after a `?` and are joined by `&`: `:3000?nodelay&keep_alive=60s`, `unix:/run/app.sock?mode=0660&owner=:www-data`.
///
/// | option | of | means | unless set |
/// | --- | --- | --- | --- |
/// | `backlog=1024` | TCP, Unix stream | how many connections wait to be accepted, at most what the system allows (`net.core.somaxconn`). They wait through a hand-over too, so a short backlog may refuse some then | what the system allows |
/// | `nodelay` | TCP | small writes leave at once (`TCP_NODELAY`), on each connection that core accepts | the system delays them |
/// | `keep_alive=60s`, `keep_alive=off` | TCP | how long a silent client is waited for before it is probed, and between two probes, on each connection that core accepts | 180 s |
/// | `reuse_port` | TCP, UDP | sockets of the same user that say so too may have the address as well (`SO_REUSEPORT`), those of a second master for example. Linux spreads clients over them; who waits for one that is closed is lost | nobody else may |
/// | `v6_only`, `v6_only=false` | TCP, UDP | whether an IPv6 socket leaves IPv4 to others | of a host: yes; of all interfaces: no |
/// | `mode=0660` | Unix | the mode of the file | 0777 less the umask |
/// | `owner=app`, `owner=app:www-data`, `owner=:www-data` | Unix | user and group of the file, by name or number; others than one's own need the rights of root | those of the master |
///
/// Where a socket unit gives several sockets of one name (several `ListenStream=`), the first `systemd:web` is the first of them, the second `systemd:web` the second, and so on.
/// An address of another form that one of the passed sockets is bound to means that socket: so a program with `:3000` comes up with a socket unit and without one.
/// A passed socket gets the backlog, and stays as it is otherwise; its file belongs to the service manager.
///
/// Across an upgrade, the same address is the same socket, whatever its place, its name and the order of its options; another address is another socket. `backlog`, `nodelay` and
/// `keep_alive` do not count: a new version may change them. Where an address
/// occurs more than once (`127.0.0.1:0`), its name tells which is meant, else how manieth it is. A name is made of letters, digits, `-` and `_`.
///
/// The file of a Unix socket survives restarts, and the master removes it at its end. One that a dead process has left is taken over; one that somebody listens on is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) name: Option<String>,
    pub(crate) text: String,
    pub(crate) kind: Kind,
    pub(crate) transport: Transport,
    pub(crate) options: Options,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All interfaces, both families.
    AllInterfaces {
        port: u16,
    },
    Host {
        host: String,
        port: u16,
    },
    Unix {
        path: PathBuf,
    },
    /// A socket that the service manager has passed.
    Systemd {
        fd_name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Stream,
    Datagram,
    /// That of whatever is passed.
    Passed,
}

/// What is set on a socket, or on the connections that are accepted on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) backlog: Option<u32>,
    pub(crate) nodelay: bool,
    /// `None`: silent peers are not probed.
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) reuse_port: bool,
    pub(crate) v6_only: Option<bool>,
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { backlog: None, nodelay: false, keep_alive: Some(KEEP_ALIVE), reuse_port: false, v6_only: None, mode: None, owner: None }
    }
}

/// Idle time before the first keep-alive probe of a connection, and between two: 3 min, as the Go original has it.
const KEEP_ALIVE: Duration = Duration::from_secs(180);
/// The longest that Linux takes (`MAX_TCP_KEEPIDLE`).
const KEEP_ALIVE_S_MAX: u64 = 32_767;
/// The longest name of a descriptor that a service manager passes (`FDNAME_MAX` of systemd).
const FD_NAME_BYTES_MAX: usize = 255;
/// The longest path of a Unix socket, in bytes: `sun_path` less its zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

const TCP_OPTIONS: &[&str] = &["backlog", "nodelay", "keep_alive", "reuse_port", "v6_only"];
const UDP_OPTIONS: &[&str] = &["reuse_port", "v6_only"];
const UNIX_OPTIONS: &[&str] = &["backlog", "mode", "owner"];
const UNIX_DATAGRAM_OPTIONS: &[&str] = &["mode", "owner"];
impl Address {
    /// Whether a socket that is bound to this may keep the address from being bound: it has the same port, or the same file.
    #[cfg(unix)]
    pub(crate) fn may_clash_with(&self, bound_to: &str) -> bool {
        let of_datagrams = bound_to.strip_prefix("udp:");
        match &self.kind {
            Kind::Host { port, .. } | Kind::AllInterfaces { port } => {
                let is_same_transport = of_datagrams.is_some() == (self.transport == Transport::Datagram);
                let bound = of_datagrams.unwrap_or(bound_to).parse::<SocketAddr>();
                is_same_transport && bound.is_ok_and(|bound| bound.port() == *port)
            }
            Kind::Unix { path } => bound_to.split_once(':').is_some_and(|(_, bound)| path.as_os_str() == bound),
            Kind::Systemd { .. } => false,
        }
    }

    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Setting`], with the setting `address` and the text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::setting("address", text, why);
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !name.contains(['/', ':', '?']) => {
                let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                if name.is_empty() || !name.chars().all(good) {
                    return Err(wrong("a name is made of letters, digits, - and _"));
                }
                (Some(name.to_owned()), rest)
            }
            _ => (None, text),
        };
        let (kind, transport, options) = Self::parse_unnamed(rest).map_err(|why| wrong(&why))?;
        Ok(Self { name, text: rest.to_owned(), kind, transport, options })
    }

    fn parse_unnamed(text: &str) -> Result<(Kind, Transport, Options), String> {
        if let Some(name) = text.strip_prefix("systemd:") {
            let is_good =
                (1..=FD_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':');
            let why = || format!("the name of a descriptor has 1 to {FD_NAME_BYTES_MAX} characters of printable ASCII and no colon");
            let kind = is_good.then(|| Kind::Systemd { fd_name: name.to_owned() }).ok_or_else(why)?;
            return Ok((kind, Transport::Passed, Options::default()));
        }
        let (place, query) = text.split_once('?').map_or((text, None), |(place, query)| (place, Some(query)));
        let is_path = place.starts_with('/') || place.starts_with("./") || place.starts_with("../");
        let (kind, transport, of, known) = if let Some(path) = place.strip_prefix("unixgram:") {
            (parse_path(path)?, Transport::Datagram, "Unix datagram", UNIX_DATAGRAM_OPTIONS)
        } else if let Some(path) = place.strip_prefix("unix:").or(is_path.then_some(place)) {
            (parse_path(path)?, Transport::Stream, "Unix", UNIX_OPTIONS)
        } else if let Some(place) = place.strip_prefix("udp:") {
            (parse_port(place)?, Transport::Datagram, "UDP", UDP_OPTIONS)
        } else {
            (parse_port(place.strip_prefix("tcp:").unwrap_or(place))?, Transport::Stream, "TCP", TCP_OPTIONS)
        };
        let mut options = Options::default();
        for option in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            if !known.contains(&name) {
                return Err(format!("{name:?} is no option of a {of} address; there are {}", known.join(", ")));
            }
            options.set(name, value).map_err(|why| format!("the option {name} is {why}"))?;
        }
        if options.v6_only.is_some() && matches!(&kind, Kind::Host { host, .. } if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4())) {
            return Err("v6_only is an option of IPv6 addresses".to_owned());
        }
        Ok((kind, transport, options))
    }

    /// Reads all addresses of a program; no name may occur twice.
    pub(crate) fn parse_all(texts: &[String]) -> Result<Vec<Self>, Error> {
        let addresses = texts.iter().map(|text| Self::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let mut names = HashSet::new();
        for (address, text) in addresses.iter().zip(texts) {
            if address.name.as_ref().is_some_and(|name| !names.insert(name)) {
                return Err(Error::setting("address", text, "another address has the same name"));
            }
        }
        Ok(addresses)
    }

    /// What it is known by across generations: what it says of the socket, in one way, and without what can change while the socket is open.
    #[cfg(unix)]
    pub(crate) fn identity(&self) -> String {
        let place = match &self.kind {
            Kind::AllInterfaces { port } => format!(":{port}"),
            Kind::Host { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Kind::Host { host, port } => format!("{host}:{port}"),
            Kind::Unix { path } => path.display().to_string(),
            Kind::Systemd { fd_name } => format!("systemd:{fd_name}"),
        };
        let transport = match (&self.kind, self.transport) {
            (Kind::Unix { .. }, Transport::Datagram) => "unixgram:",
            (Kind::Unix { .. }, _) => "unix:",
            (_, Transport::Datagram) => "udp:",
            (_, Transport::Stream | Transport::Passed) => "",
        };
        let Options { backlog: _, nodelay: _, keep_alive: _, reuse_port, v6_only, mode, owner } = &self.options;
        let is_default = *v6_only == Some(matches!(self.kind, Kind::Host { .. }));
        let options = [
            mode.map(|mode| format!("mode=0{mode:03o}")),
            owner.as_ref().map(|owner| format!("owner={owner}")),
            reuse_port.then(|| "reuse_port".to_owned()),
            v6_only.filter(|_| !is_default).map(|v6_only| format!("v6_only={v6_only}")),
        ];
        let options: Vec<String> = options.into_iter().flatten().collect();
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        format!("{transport}{place}{query}")
    }

    /// The name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// How a child asks for it. Looks up the names of a host, a user and a group, which may take as long as the system's resolver likes.
    pub(crate) fn wanted(&self) -> Result<Wanted, Error> {
        let resolved = match &self.kind {
            Kind::Host { host, port } if host.parse::<IpAddr>().is_err() => {
                let found = (host.as_str(), *port).to_socket_addrs();
                found.map_err(|source| Error::Bind { address: self.to_string(), source })?.collect()
            }
            Kind::Host { .. } | Kind::AllInterfaces { .. } | Kind::Unix { .. } | Kind::Systemd { .. } => Vec::new(),
        };
        let owner = self.options.owner.as_deref().map(owner_of).transpose();
        let owner: Option<Owner> = owner.map_err(|source| Error::Bind { address: self.to_string(), source })?;
        Ok(Wanted { name: self.name.clone(), text: self.text.clone(), resolved, owner })
    }
}

impl Options {
    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), &'static str> {
        match name {
            "backlog" => {
                let number = value.and_then(|value| value.parse().ok()).filter(|number| (1..=i32::MAX.unsigned_abs()).contains(number));
                self.backlog = Some(number.ok_or("not a number from 1 to 2147483647")?);
            }
            "nodelay" => self.nodelay = parse_switch(value)?,
            "keep_alive" if value == Some("off") => self.keep_alive = None,
            "keep_alive" => {
                let seconds = value.and_then(|value| value.strip_suffix('s')?.parse().ok());
                let seconds = seconds.filter(|seconds| (1..=KEEP_ALIVE_S_MAX).contains(seconds));
                self.keep_alive = Some(Duration::from_secs(seconds.ok_or("neither 1s to 32767s nor off")?));
            }
            "reuse_port" => self.reuse_port = parse_switch(value)?,
            "v6_only" => self.v6_only = Some(parse_switch(value)?),
            "mode" => {
                let mode = value.and_then(|value| u32::from_str_radix(value, 8).ok()).filter(|mode| *mode <= 0o777);
                self.mode = Some(mode.ok_or("not an octal number from 0 to 0777")?);
            }
            "owner" => {
                let owner = value.filter(|value| !matches!(*value, "" | ":")).ok_or("neither USER, USER:GROUP nor :GROUP")?;
                self.owner = Some(owner.to_owned());
            }
            _ => return Err("unknown"),
        }
        Ok(())
    }
}

fn parse_switch(value: Option<&str>) -> Result<bool, &'static str> {
    match value {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err("neither true nor false"),
    }
}

fn parse_port(text: &str) -> Result<Kind, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Kind::Host { host: address.ip().to_string(), port: address.port() });
    }
    let (host, port) = text.rsplit_once(':').ok_or("there is no port: write :PORT, HOST:PORT, udp:HOST:PORT or unix:PATH")?;
    let port = port.parse().map_err(|_| "the port is not a number from 0 to 65535")?;
    if host.is_empty() {
        return Ok(Kind::AllInterfaces { port });
    }
    if host.contains([':', '/', '[', ']', ' ']) {
        return Err("the host is none: an IPv6 address stands in brackets, as in [::1]:3000".to_owned());
    }
    Ok(Kind::Host { host: host.to_owned(), port })
}

fn parse_path(path: &str) -> Result<Kind, String> {
    if path.is_empty() {
        return Err("the path of the Unix socket is empty".to_owned());
    }
    if path.len() > UNIX_PATH_BYTES_MAX || path.contains('\0') {
        return Err(format!("the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes and no zero byte"));
    }
    Ok(Kind::Unix { path: PathBuf::from(path) })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}={}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn kind(text: &str) -> Kind {
        parsed(text).kind
    }

    #[test]
    fn each_form_is_read() {
        assert_eq!(kind(":3000"), Kind::AllInterfaces { port: 3000 });
        assert_eq!(kind("localhost:80"), Kind::Host { host: "localhost".into(), port: 80 });
        assert_eq!(kind("127.0.0.1:0"), Kind::Host { host: "127.0.0.1".into(), port: 0 });
        assert_eq!(kind("[::1]:3000"), Kind::Host { host: "::1".into(), port: 3000 });
        assert_eq!(kind("unix:/run/a?mode=0660"), Kind::Unix { path: "/run/a".into() });
        assert_eq!(kind("/run/a=b"), Kind::Unix { path: "/run/a=b".into() });
        assert_eq!(kind("systemd:app.socket"), Kind::Systemd { fd_name: "app.socket".into() });
        assert_eq!(kind("web=systemd:a=b c?d"), Kind::Systemd { fd_name: "a=b c?d".into() });
        let named = parsed("web=:3000");
        assert_eq!((named.name(), named.text.as_str()), (Some("web"), ":3000"));
        assert_eq!(named.to_string(), "web=:3000");
        assert_eq!(kind("udp::53"), Kind::AllInterfaces { port: 53 });
        assert_eq!(kind("dns=udp:[::1]:53"), Kind::Host { host: "::1".into(), port: 53 });
        assert_eq!(kind("unixgram:/run/a"), Kind::Unix { path: "/run/a".into() });
        for (text, transport) in [
            (":1", Transport::Stream),
            ("unix:/a", Transport::Stream),
            ("udp::1", Transport::Datagram),
            ("unixgram:/a", Transport::Datagram),
            ("systemd:a", Transport::Passed),
        ] {
            assert_eq!(parsed(text).transport, transport, "{text}");
        }
    }

    #[test]
    fn options_are_read_and_those_that_can_change_are_no_part_of_what_an_address_is_known_by() {
        assert_eq!(parsed(":1").options, Options::default());
        let tcp = parsed(":1?backlog=7&nodelay&keep_alive=60s&reuse_port=true&v6_only=false").options;
        let expected = Options {
            backlog: Some(7),
            nodelay: true,
            keep_alive: Some(Duration::from_secs(60)),
            reuse_port: true,
            v6_only: Some(false),
            ..Options::default()
        };
        assert_eq!(tcp, expected);
        assert_eq!(parsed(":1?keep_alive=off").options.keep_alive, None);
        let unix = parsed("/run/a?mode=0660&owner=:www-data&backlog=1").options;
        assert_eq!((unix.mode, unix.owner.as_deref(), unix.backlog), (Some(0o660), Some(":www-data"), Some(1)));
        assert_eq!(parsed("unixgram:/run/a?mode=0600").options.mode, Some(0o600));
        for (text, known_by) in [
            (":1?backlog=7&nodelay", ":1"),
            ("tcp::1?reuse_port=false", ":1"),
            (":1?v6_only&keep_alive=off&reuse_port", ":1?reuse_port&v6_only=true"),
            ("[::1]:1?v6_only=false", "[::1]:1?v6_only=false"),
            ("[::1]:1?v6_only", "[::1]:1"),
            ("unix:/a?mode=0660&backlog=1", "unix:/a?mode=0660"),
            ("/a?owner=app&mode=660", "unix:/a?mode=0660&owner=app"),
            ("unixgram:./a", "unixgram:./a"),
            ("udp:localhost:1?reuse_port", "udp:localhost:1?reuse_port"),
            ("systemd:a?backlog=1", "systemd:a?backlog=1"),
            ("web=127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert_eq!(parsed(text).identity(), known_by);
        }
    }

    #[test]
    fn a_wrong_form_is_named_with_its_text() {
        for text in [
            "",
            "3000",
            "host",
            ":65536",
            ":-1",
            "::1:3000",
            "=:3000",
            "a b=:3000",
            "unix:",
            "unixgram:",
            "unix:/a?mode=9",
            "unix:/a?mode=01000",
            "unix:/a?x=1",
            "unix:/a?",
            "unix:/a?owner=",
            "unix:/a?nodelay",
            "unixgram:/a?backlog=1",
            "udp:53",
            "udp:",
            "udp::53?nodelay",
            ":1?backlog",
            ":1?backlog=0",
            ":1?keep_alive=60",
            ":1?keep_alive=0s",
            ":1?nodelay=1",
            "127.0.0.1:1?v6_only",
            "systemd:",
            "systemd:a:b",
            "systemd:caf\u{e9}",
            "systemd:a\tb",
            "a/b:1",
            "host:",
        ] {
            let error = Address::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(&format!("setting address is {text:?}: ")), "{error}");
        }
        assert!(Address::parse(&format!("/{}", "x".repeat(107))).is_err());
        assert!(Address::parse(&format!("systemd:{}", "x".repeat(256))).is_err());
    }

    #[test]
    fn addresses_of_one_port_clash_if_both_are_of_one_transport() {
        for (text, bound_to, clashes) in [
            (":1", "[::]:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            (":1", "[::]:2", false),
            (":1", "udp:[::]:1", false),
            ("udp::1", "udp:127.0.0.1:1", true),
            ("udp::1", "127.0.0.1:1", false),
            ("unix:/a", "unix:/a", true),
            ("unixgram:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("systemd:a", "unix:/a", false),
        ] {
            assert_eq!(parsed(text).may_clash_with(bound_to), clashes, "{text} and {bound_to}");
        }
    }

    #[test]
    fn a_name_stands_for_one_address() {
        let error = Address::parse_all(&["web=:1".into(), "web=:2".into()]).expect_err("twice the same name");
        assert!(error.to_string().contains("same name"), "{error}");
    }
}
