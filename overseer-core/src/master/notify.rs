//! Telling the process manager how the service does, in the words of sd_notify(3). What is told and when is the rules' to say.
//!
//! Nothing in here blocks: what the manager does not take now waits for it, in its order and in bounded memory. What cannot be told at all is one
//! warning. Without `NOTIFY_SOCKET` nothing happens.
//!
//! Not the crate sd-notify (0.5): its send blocks while the manager's queue is full, it takes `@name` for a path, opens a socket for each message, and reads the
//! environment each time. What is left of it would be the names of the fields.

use crate::Error;
use crate::message::Message;
use crate::supervisor::{Notice, one_line};
use crate::sys::handover::monotonic;
use crate::sys::notify_socket::{NotifySocket, VARIABLES};
use crate::sys::poll::Interest;
use crate::sys::process::Exit;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The most messages that wait for a manager that takes none. Beyond it, the oldest that tells of no state is dropped, and else the oldest.
const WAITING_MAX: usize = 64;

/// The way to the process manager, if there is one that wants to be told.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    socket: Option<NotifySocket>,
    address: String,
    state: NotifyState,
    /// Others wait in front of the manager, who takes more when it has heard them.
    is_full: bool,
    /// A descriptor, or the removal of one, could not be told for that reason.
    has_refused: bool,
}

/// What goes on in the master that replaces this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NotifyState {
    /// Messages that the manager has not taken yet.
    pub(crate) waiting: VecDeque<String>,
    pub(crate) has_warned: bool,
}

impl Notify {
    /// The way that the environment names; the warning says that it leads nowhere.
    pub(crate) fn from_environment(state: NotifyState) -> (Self, Option<Message>) {
        let address = std::env::var_os(VARIABLES[0]).filter(|address| !address.is_empty());
        address.map(|address| Self::to(&address, state)).unwrap_or_default()
    }

    pub(super) fn to(address: &OsStr, state: NotifyState) -> (Self, Option<Message>) {
        let shown = address.to_string_lossy().into_owned();
        match NotifySocket::open(address) {
            Ok(socket) => {
                let is_full = !state.waiting.is_empty();
                (Self { socket: Some(socket), address: shown, state, is_full, has_refused: false }, None)
            }
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::Unsupported => "it is neither a path nor an @name".to_owned(),
                    _ => error.to_string(),
                };
                (Self::default(), Some(Message::NotTold { address: shown, why }))
            }
        }
    }

    pub(crate) fn state(&self) -> &NotifyState {
        &self.state
    }

    /// Whether there is a manager that wants to be told.
    pub(crate) fn is_wanted(&self) -> bool {
        self.socket.is_some()
    }

    /// What to wait for: that the manager takes what waits.
    pub(crate) fn interest(&self) -> Option<Interest<'_>> {
        let socket = self.socket.as_ref().filter(|_| self.has_refused || self.is_full)?;
        Some(Interest { descriptor: socket.as_fd(), write: true })
    }

    /// Sends what waits, as far as the manager takes it. What it cannot be told now waits for the next time: it may be back then, and in whatever state
    /// it takes the service for, what it hears last is right.
    pub(crate) fn flush(&mut self) -> Option<Message> {
        let socket = self.socket.as_ref()?;
        self.is_full = false;
        while let Some(text) = self.state.waiting.front() {
            match socket.send(text, &[]) {
                Ok(()) => drop(self.state.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    return None;
                }
                Err(error) => return self.warn(&error),
            }
        }
        None
    }

    /// Tells the manager all of this in one message, now or as soon as it takes it.
    pub(crate) fn tell(&mut self, notices: &[Notice]) -> Option<Message> {
        self.say(notices.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Tells the manager how the service ended.
    pub(crate) fn tell_end(&mut self, exit: Exit) -> Option<Message> {
        // As shells have it; the manager itself sees the signal.
        let status = match exit {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal.as_raw(),
        };
        self.say(format!("STATUS=ended with {exit}\nEXIT_STATUS={status}"))
    }

    /// Tells the manager why the service does not come up.
    pub(crate) fn tell_failure(&mut self, error: &Error) -> Option<Message> {
        let errno = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
            .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
        let status = format!("STATUS={}", one_line(&error.chain()));
        self.say(errno.map_or(status.clone(), |errno| format!("{status}\nERRNO={errno}")))
    }

    fn say(&mut self, lines: String) -> Option<Message> {
        self.socket.as_ref()?;
        let waiting = &mut self.state.waiting;
        match waiting.back_mut().filter(|last| is_passing(last) && is_passing(&lines)) {
            Some(last) => *last = newest(last, &lines),
            None => waiting.push_back(lines),
        }
        if waiting.len() > WAITING_MAX {
            let least = waiting.iter().position(|lines| is_passing(lines)).unwrap_or_default();
            waiting.remove(least);
        }
        self.flush()
    }

    /// Gives copies of the descriptors to the manager's store, which hands them to the next process of the service under this name (`FDSTORE=1`; at most
    /// 255 characters of ASCII without `:`). They stay there even if a listener among them is shut down (`FDPOLL=0`). `false`: it did not take them now.
    pub(crate) fn store(&mut self, name: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
        self.try_to_send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), descriptors)
    }

    /// Removes what the manager's store has under this name. `false`: it was not told.
    pub(crate) fn remove_stored(&mut self, name: &str) -> bool {
        self.try_to_send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    fn try_to_send(&mut self, text: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
        let Some(socket) = &self.socket else { return false };
        let sent = socket.send(text, descriptors);
        self.has_refused |= sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        sent.is_ok()
    }

    /// Whether what the store did not take is to be tried again now.
    pub(crate) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.has_refused)
    }

    fn warn(&mut self, error: &io::Error) -> Option<Message> {
        let is_first = !std::mem::replace(&mut self.state.has_warned, true);
        is_first.then(|| Message::NotTold { address: self.address.clone(), why: error.to_string() })
    }
}

/// For a program that runs without a master: nobody else tells a manager that waits until it is ready, and nobody asks it for signs of life.
pub(crate) fn tell_without_master() {
    let (mut notify, _) = Notify::from_environment(NotifyState::default());
    let unwatched = if watchdog().is_some() { "\nWATCHDOG_USEC=0" } else { "" };
    notify.say(format!("READY=1\nSTATUS=runs without a master: nothing restarts or upgrades it{unwatched}"));
}

/// Whether a later message makes this one void: it tells of no state.
fn is_passing(lines: &str) -> bool {
    lines.lines().all(|line| ["STATUS=", "EXTEND_TIMEOUT_USEC=", "WATCHDOG="].iter().any(|name| line.starts_with(name)))
}

/// What is left of two such messages, the second of which is newer.
fn newest(old: &str, new: &str) -> String {
    let name = |line: &str| line.split('=').next().map(str::to_owned);
    let is_in_new = |line: &&str| new.lines().any(|other| name(other) == name(line));
    old.lines().filter(|line| !is_in_new(line)).chain(new.lines()).collect::<Vec<_>>().join("\n")
}

fn line(notice: &Notice) -> String {
    match notice {
        Notice::Ready => "READY=1".to_owned(),
        // Without the time, a manager that waits for the reload cannot know that it is the one that it has asked for.
        Notice::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().as_micros()),
        Notice::Stopping => "STOPPING=1".to_owned(),
        Notice::Status(text) => format!("STATUS={text}"),
        Notice::Extend(time) => format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()),
        Notice::Watchdog => "WATCHDOG=1".to_owned(),
    }
}

/// After how long without a sign of life the process manager takes the service for hung. `None`: it does not watch this process.
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = std::env::var_os(VARIABLES[2]).is_none() || number(VARIABLES[2]) == Some(std::process::id().into());
    number(VARIABLES[1]).filter(|microseconds| is_ours && *microseconds > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::cmsg_space;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
    use std::fs::{self, File};
    use std::io::IoSliceMut;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    fn next(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let name = format!("overseer-test-{}", directory.path().display());
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("an address");
        for (manager, address) in [
            (UnixDatagram::bind(&path).expect("bound"), path.display().to_string()),
            (UnixDatagram::bind_addr(&abstract_address).expect("bound"), format!("@{name}")),
        ] {
            let (mut notify, warning) = Notify::to(address.as_ref(), NotifyState::default());
            assert_eq!((warning, notify.is_wanted()), (None, true));
            assert_eq!(notify.say("READY=1".to_owned()), None);
            assert_eq!(next(&manager), "READY=1");
        }
    }

    #[test]
    fn an_address_of_another_kind_is_one_warning_and_nothing_else() {
        for address in ["vsock:2:1234", "notify"] {
            let (mut notify, warning) = Notify::to(address.as_ref(), NotifyState::default());
            let warning = warning.expect("a warning").to_string();
            assert!(warning.contains(&format!("({address}): it is neither a path nor an @name")), "{warning}");
            assert_eq!((notify.say("READY=1".to_owned()), notify.is_wanted()), (None, false));
        }
    }

    #[test]
    fn what_a_full_manager_does_not_take_waits_for_it_in_its_order_and_the_newest_status_with_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        manager.set_nonblocking(true).expect("set");
        let (mut notify, _) = Notify::to(path.as_ref(), NotifyState::default());
        let mut told = 0;
        while notify.interest().is_none() {
            assert_eq!(notify.say(format!("READY=1\nSTATUS={told}")), None);
            told += 1;
        }
        for text in ["WATCHDOG=1\nSTATUS=old", "STATUS=new", "EXTEND_TIMEOUT_USEC=1", "RELOADING=1", "STATUS=newest", "READY=1"] {
            notify.say(text.to_owned());
        }
        let mut expected: Vec<String> = (0..told).map(|number| format!("READY=1\nSTATUS={number}")).collect();
        expected.extend(["WATCHDOG=1\nSTATUS=new\nEXTEND_TIMEOUT_USEC=1", "RELOADING=1", "STATUS=newest", "READY=1"].map(str::to_owned));
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            let before = heard.len();
            heard.extend(std::iter::from_fn(|| {
                let mut bytes = [0; 64];
                manager.recv(&mut bytes).ok().map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned())
            }));
            assert!(heard.len() > before, "it takes no more: {heard:?}");
            assert_eq!(notify.flush(), None);
        }
        assert_eq!(heard, expected);
        assert!(notify.interest().is_none());
        (0..10_000).for_each(|_| drop(notify.say("READY=1".to_owned())));
        assert_eq!(notify.state().waiting.len(), WAITING_MAX);
    }

    #[test]
    fn a_manager_that_is_gone_is_one_warning_and_one_that_comes_back_is_told_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let (mut notify, _) = Notify::to(path.as_ref(), NotifyState::default());
        drop(manager);
        let warning = notify.say("READY=1".to_owned()).expect("a warning").to_string();
        assert!(warning.contains(&path.display().to_string()), "{warning}");
        assert_eq!(notify.say("STATUS=1".to_owned()), None);
        fs::remove_file(&path).expect("removed");
        assert_eq!(notify.say("STATUS=2".to_owned()), None);
        let manager = UnixDatagram::bind(&path).expect("bound");
        assert_eq!(notify.say("STATUS=3".to_owned()), None);
        assert_eq!((next(&manager), next(&manager)), ("READY=1".to_owned(), "STATUS=3".to_owned()));
    }

    /// All that was told and not heard yet.
    fn heard(manager: &UnixDatagram, notify: &mut Notify) -> Vec<String> {
        manager.set_nonblocking(true).expect("set");
        let mut heard = Vec::new();
        loop {
            let mut bytes = [0; 64];
            match manager.recv(&mut bytes) {
                Ok(length) => heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned()),
                Err(_) if notify.state().waiting.is_empty() => return heard,
                Err(_) => assert_eq!(notify.flush(), None),
            }
        }
    }

    #[test]
    fn what_is_dropped_of_what_waits_is_what_tells_of_no_state_and_then_the_oldest() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let (mut notify, _) = Notify::to(path.as_ref(), NotifyState::default());
        while notify.state().waiting.is_empty() {
            notify.say("READY=0".to_owned());
        }
        notify.say("STATUS=0".to_owned());
        for number in 1..WAITING_MAX {
            notify.say(format!("READY={number}"));
        }
        notify.say("READY=last".to_owned());
        assert_eq!(notify.state().waiting.len(), WAITING_MAX);
        let told = heard(&manager, &mut notify);
        let expected: Vec<String> = (1..WAITING_MAX).map(|number| format!("READY={number}")).chain(["READY=last".to_owned()]).collect();
        assert!(told.ends_with(&expected), "{told:?}");
    }

    #[test]
    fn states_that_a_manager_does_not_hear_of_for_the_moment_are_told_when_it_is_there_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let (mut notify, _) = Notify::to(path.as_ref(), NotifyState::default());
        drop(manager);
        fs::remove_file(&path).expect("removed");
        notify.say("RELOADING=1".to_owned()).expect("a warning");
        assert_eq!(notify.say("READY=1".to_owned()), None);
        assert!(notify.interest().is_none(), "nothing tells when it is there again, and who polls would never sleep");
        let manager = UnixDatagram::bind(&path).expect("bound");
        assert_eq!(notify.flush(), None);
        assert_eq!(heard(&manager, &mut notify), ["RELOADING=1", "READY=1"]);
    }

    #[test]
    fn descriptors_go_into_the_store_under_a_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        let (mut notify, _) = Notify::to(path.as_ref(), NotifyState::default());
        let file = File::open(directory.path()).expect("open");
        assert!(notify.store("web", &[file.as_fd()]));

        let (mut bytes, mut control) = ([0; 256], cmsg_space!([RawFd; 1]));
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received =
            recvmsg::<UnixAddr>(manager.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).expect("a message");
        let length = received.bytes;
        let ControlMessageOwned::ScmRights(raw) = received.cmsgs().expect("whole").next().expect("descriptors") else {
            panic!("no descriptors")
        };
        // SAFETY: the kernel has just made this descriptor for us.
        let came = File::from(unsafe { OwnedFd::from_raw_fd(raw[0]) });
        assert_eq!(String::from_utf8_lossy(&bytes[..length]), "FDSTORE=1\nFDNAME=web\nFDPOLL=0");
        assert_eq!(came.metadata().expect("open").ino(), file.metadata().expect("open").ino());

        assert!(notify.remove_stored("web"));
        assert_eq!(next(&manager), "FDSTOREREMOVE=1\nFDNAME=web");
        assert!(!notify.take_refused());
        while notify.store("web", &[file.as_fd()]) {}
        assert!(notify.interest().is_some() && notify.take_refused(), "it is full, and not for ever");
        drop(manager);
        assert!(!notify.store("web", &[file.as_fd()]));
        assert!(!Notify::default().store("web", &[file.as_fd()]));
    }
}
