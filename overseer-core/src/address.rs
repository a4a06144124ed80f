//! Addresses as a program writes them down.

use crate::Error;
use crate::protocol::Wanted;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Where a program listens.
///
/// | text | means |
/// | --- | --- |
/// | `:3000` | TCP, all interfaces, IPv6 and IPv4 |
/// | `host:3000`, `127.0.0.1:3000`, `[::1]:3000` | TCP, the first address that the host resolves to; port 0 is a free one |
/// | `unix:/run/app.sock`, `unix:/run/app.sock?mode=0660` | a Unix stream socket, with the file's mode (0666 less the umask unless set) |
/// | `/run/app.sock`, `./app.sock` | the same |
/// | `systemd:web` | the socket that the service manager has passed under this name (`FileDescriptorName=`, which is the name of the socket unit unless set) |
/// | `web=:3000` | any of them, with a name to find it by |
///
/// Where a socket unit gives several sockets of one name (several `ListenStream=`), the first `systemd:web` is the first of them, the second `systemd:web` the second, and so on.
/// An address of another form that one of the passed sockets is bound to means that socket: so a program with `:3000` comes up with a socket unit and without one.
/// A passed socket gets the system's largest backlog, and stays as it is otherwise; its file belongs to the service manager.
///
/// Across an upgrade, the same text is the same socket, whatever its place and its name; another text is another socket. Where a text
/// occurs more than once (`127.0.0.1:0`), its name tells which is meant, else how manieth it is. A name is made of letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) name: Option<String>,
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All interfaces, both families.
    TcpAny {
        port: u16,
    },
    Tcp {
        host: String,
        port: u16,
    },
    Unix {
        path: PathBuf,
        mode: Option<u32>,
    },
    /// A socket that the service manager has passed.
    Systemd {
        fd_name: String,
    },
}

/// The longest name of a descriptor that a service manager passes (`FDNAME_MAX` of systemd).
const FD_NAME_BYTES_MAX: usize = 255;

/// The longest path of a Unix socket, in bytes: `sun_path` less its zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

impl Address {
    /// Whether a socket that is bound to this may keep the address from being bound: it has the same port, or the same file.
    #[cfg(unix)]
    pub(crate) fn may_clash_with(&self, bound_to: &str) -> bool {
        match &self.kind {
            Kind::Tcp { port, .. } | Kind::TcpAny { port } => bound_to.parse::<SocketAddr>().is_ok_and(|bound_to| bound_to.port() == *port),
            Kind::Unix { path, .. } => bound_to == format!("unix:{}", path.display()),
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
        let kind = Self::parse_kind(rest).map_err(|why| wrong(&why))?;
        Ok(Self { name, text: rest.to_owned(), kind })
    }

    fn parse_kind(text: &str) -> Result<Kind, String> {
        if text.starts_with("udp:") {
            return Err("UDP is not supported yet".to_owned());
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            let is_good =
                (1..=FD_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':');
            let why = || format!("the name of a descriptor has 1 to {FD_NAME_BYTES_MAX} characters of printable ASCII and no colon");
            return if is_good { Ok(Kind::Systemd { fd_name: name.to_owned() }) } else { Err(why()) };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::parse_unix(path);
        }
        if text.starts_with('/') || text.starts_with("./") || text.starts_with("../") {
            return Self::parse_unix(text);
        }
        let text = text.strip_prefix("tcp:").unwrap_or(text);
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Kind::Tcp { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or("there is no port: write :PORT, HOST:PORT or unix:PATH")?;
        let port = port.parse().map_err(|_| "the port is not a number from 0 to 65535")?;
        if host.is_empty() {
            return Ok(Kind::TcpAny { port });
        }
        if host.contains([':', '/', '[', ']', ' ']) {
            return Err("the host is none: an IPv6 address stands in brackets, as in [::1]:3000".to_owned());
        }
        Ok(Kind::Tcp { host: host.to_owned(), port })
    }

    fn parse_unix(text: &str) -> Result<Kind, String> {
        let (path, mode) = match text.split_once('?') {
            None => (text, None),
            Some((path, query)) => {
                let digits = query.strip_prefix("mode=").ok_or("the only option of a Unix socket is ?mode=0660")?;
                let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777);
                (path, Some(mode.ok_or("the mode is not an octal number from 0 to 0777")?))
            }
        };
        if path.is_empty() {
            return Err("the path of the Unix socket is empty".to_owned());
        }
        if path.len() > UNIX_PATH_BYTES_MAX || path.contains('\0') {
            return Err(format!("the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes and no zero byte"));
        }
        Ok(Kind::Unix { path: PathBuf::from(path), mode })
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

    /// The name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// How a child asks for it. Looks up the name of a host, which may take as long as the system's resolver likes.
    pub(crate) fn wanted(&self) -> Result<Wanted, Error> {
        let resolved = match &self.kind {
            Kind::Tcp { host, port } if host.parse::<IpAddr>().is_err() => {
                let found = (host.as_str(), *port).to_socket_addrs();
                found.map_err(|source| Error::Bind { address: self.to_string(), source })?.collect()
            }
            Kind::Tcp { .. } | Kind::TcpAny { .. } | Kind::Unix { .. } | Kind::Systemd { .. } => Vec::new(),
        };
        Ok(Wanted { name: self.name.clone(), text: self.text.clone(), resolved })
    }
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

    fn kind(text: &str) -> Kind {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).kind
    }

    #[test]
    fn each_form_is_read() {
        assert_eq!(kind(":3000"), Kind::TcpAny { port: 3000 });
        assert_eq!(kind("localhost:80"), Kind::Tcp { host: "localhost".into(), port: 80 });
        assert_eq!(kind("127.0.0.1:0"), Kind::Tcp { host: "127.0.0.1".into(), port: 0 });
        assert_eq!(kind("[::1]:3000"), Kind::Tcp { host: "::1".into(), port: 3000 });
        assert_eq!(kind("unix:/run/a?mode=0660"), Kind::Unix { path: "/run/a".into(), mode: Some(0o660) });
        assert_eq!(kind("/run/a=b"), Kind::Unix { path: "/run/a=b".into(), mode: None });
        assert_eq!(kind("systemd:app.socket"), Kind::Systemd { fd_name: "app.socket".into() });
        assert_eq!(kind("web=systemd:a=b c"), Kind::Systemd { fd_name: "a=b c".into() });
        let named = Address::parse("web=:3000").expect("it is good");
        assert_eq!((named.name(), named.text.as_str()), (Some("web"), ":3000"));
        assert_eq!(named.to_string(), "web=:3000");
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
            "unix:/a?mode=9",
            "unix:/a?mode=01000",
            "unix:/a?x=1",
            "udp::53",
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
    fn a_name_stands_for_one_address() {
        let error = Address::parse_all(&["web=:1".into(), "web=:2".into()]).expect_err("twice the same name");
        assert!(error.to_string().contains("same name"), "{error}");
    }
}
