//! Which of the four roles this process has.
//!
//! One environment variable names role, descriptor, inode of the socket behind it, and the process that set it. It holds only if the
//! descriptor *is* that socket. A master that replaces another one in its own process finds a snapshot there in place of a socket. So neither
//! an orphan nor a second copy that the program starts takes itself for a child, nor a child for a master.

use crate::Error;
use crate::signal::Signal;
use crate::sys::handover::{self, Passed};
use crate::sys::link::{self, Link, adopt_socket, is_socket};
use crate::sys::process;
use nix::sys::stat::fstat;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::str::FromStr;

/// `ROLE,DESCRIPTOR,INODE,PID`.
pub(crate) const VARIABLE: &str = "OVERSEER_ROLE";

/// The roles that a process is started in; what is started in none is a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoleName {
    Child,
    /// The program that serves, on its way to become a child with another file, once it has proved that.
    Proof,
    Poll,
    Check,
    /// A master that replaces another one in its own process. What is started in this role, as another process, is the check of a file that is to be the
    /// master: what `main` does with the name is seen beforehand.
    Successor,
    /// The master that a packaged file has executed from the binary store, or the packaged file again after that could not go on: in its own process.
    Stored,
}

/// What this process is.
#[derive(Debug)]
pub(crate) enum Role {
    Master,
    /// A master that replaces another one in its own process, and what that has handed over.
    Successor(File),
    /// A master that another one at the start of the service has become, and what that has handed over.
    Stored(File),
    /// One of the others, and its socket to the process that started it.
    Started(RoleName, Link),
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Child => "child",
            Self::Proof => "proof",
            Self::Poll => "poll",
            Self::Check => "check",
            Self::Successor => "master",
            Self::Stored => "stored",
        })
    }
}

impl FromStr for RoleName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "child" => Ok(Self::Child),
            "proof" => Ok(Self::Proof),
            "poll" => Ok(Self::Poll),
            "check" => Ok(Self::Check),
            "master" => Ok(Self::Successor),
            "stored" => Ok(Self::Stored),
            _ => Err(()),
        }
    }
}

impl RoleName {
    /// What the process gets when the one that started it ends without it: a child finishes what is open.
    pub(crate) fn parent_death_signal(self) -> Signal {
        match self {
            Self::Child => Signal::TERM,
            Self::Proof | Self::Poll | Self::Check | Self::Successor | Self::Stored => Signal::KILL,
        }
    }

    /// The variable for a process that will have `socket` under the same number.
    pub(crate) fn variable_for(self, socket: &OwnedFd) -> io::Result<(OsString, OsString)> {
        Ok((VARIABLE.into(), self.value_for(socket.as_fd(), std::process::id())?))
    }

    /// The variable for the program that this process becomes, in place of the one that its parent has started: with the same socket.
    pub(crate) fn variable_from_parent(self, socket: impl AsFd) -> io::Result<(OsString, OsString)> {
        Ok((VARIABLE.into(), self.value_for(socket.as_fd(), std::os::unix::process::parent_id())?))
    }

    fn value_for(self, socket: BorrowedFd<'_>, parent: u32) -> io::Result<OsString> {
        Ok(format!("{self},{},{},{parent}", socket.as_raw_fd(), fstat(socket)?.st_ino).into())
    }
}

/// The variable for the program that this process becomes.
pub(crate) fn variable_for_successor(snapshot: Passed) -> (OsString, OsString) {
    variable_for_own_process(RoleName::Successor, snapshot)
}

/// The variable for the file from or before the binary store, which this process becomes.
pub(crate) fn variable_for_stored(handed: Passed) -> (OsString, OsString) {
    variable_for_own_process(RoleName::Stored, handed)
}

fn variable_for_own_process(role: RoleName, file: Passed) -> (OsString, OsString) {
    let value = format!("{role},{},{},{}", file.descriptor, file.inode, std::process::id());
    (VARIABLE.into(), value.into())
}

struct Claim {
    /// `None`: one that a newer master knows.
    role: Option<RoleName>,
    descriptor: RawFd,
    inode: u64,
    parent: u32,
}

impl Claim {
    /// What a newer master adds at its end is ignored.
    fn read(value: &str) -> Option<Self> {
        let mut parts = value.split(',');
        Some(Self {
            role: parts.next()?.parse().ok(),
            descriptor: parts.next()?.parse().ok().filter(|descriptor| *descriptor > 2)?,
            inode: parts.next()?.parse().ok()?,
            parent: parts.next()?.parse().ok()?,
        })
    }

    /// An exec keeps the PID: whoever set the variable was this process.
    fn is_of_own_process(&self) -> bool {
        matches!(self.role, Some(RoleName::Successor | RoleName::Stored)) && self.parent == std::process::id()
    }
}

/// The role that this process was started in, without forgetting what told it: for what may be called before [`detect`], or long after it.
pub(crate) fn started_in() -> Option<RoleName> {
    let value = std::env::var(VARIABLE).ok()?;
    let claim = Claim::read(&value)?;
    (claim.is_of_own_process() || is_socket(claim.descriptor, claim.inode)).then_some(claim.role).flatten()
}

/// Finds out what this process is, and forgets what told it.
///
/// A variable that names a socket which is not here is somebody else's: a fresh start. Unless our parent is the process that
/// set it: then `main` closed the socket, and a second master must not come of that. (PID 1 adopts orphans, so having it as
/// parent proves nothing.) A socket whose other end is gone ends this process at once, with exit code 0: nobody waits for it. Nor does a second
/// master come of a role that is not known here.
///
/// # Errors
/// - [`Error::Role`]: see above.
/// - [`Error::Forged`]: the file gives this process rights, and the variable was set by somebody who may not have them.
pub(crate) fn detect(is_only_thread: bool) -> Result<Role, Error> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(Role::Master) };
    let value = value.to_string_lossy().into_owned();
    if is_only_thread {
        // With more threads it stays, which is harmless: no other process has the socket.
        process::remove_variable(VARIABLE);
    }
    let Some(claim) = Claim::read(&value) else { return Ok(Role::Master) };
    if claim.is_of_own_process() {
        let handed = Passed { descriptor: claim.descriptor, inode: claim.inode };
        let role = if claim.role == Some(RoleName::Stored) { Role::Stored } else { Role::Successor };
        // Without it nobody knows what this process has open and which children it has, or which file is the packaged one.
        let Some(file) = handed.take_if_here().map(File::from) else { return Err(Error::Role { variable: VARIABLE, value }) };
        return if is_forged(|| handover::maker_of(&file)) { Err(forged(value)) } else { Ok(role(file)) };
    }
    let is_our_parents = claim.parent != 1 && claim.parent == std::os::unix::process::parent_id();
    match (claim.role, adopt_socket(claim.descriptor, claim.inode)) {
        // Nobody is started as one of these; another process than the one that it names has inherited the text alone.
        (Some(RoleName::Stored), _) => Ok(Role::Master),
        (_, Some(socket)) if is_forged(|| link::maker_of(&socket).map(Some)) => Err(forged(value)),
        (Some(role), Some(socket)) => {
            // It was set before the exec too, but the kernel forgets it when the file has capabilities (prctl(2)). Set before the peer is
            // looked at: whoever ends in between is noticed by the one or the other.
            process::set_parent_death_signal(role.parent_death_signal());
            if crate::sys::poll::is_peer_gone(&socket) {
                std::process::exit(0);
            }
            Ok(Role::Started(role, Link::new(socket)))
        }
        (None, Some(_)) => Err(Error::Role { variable: VARIABLE, value }),
        (_, None) if is_our_parents => Err(Error::Role { variable: VARIABLE, value }),
        (_, None) => Ok(Role::Master),
    }
}

/// Whether what was found may be from whoever has executed this file, whose rights that one is not to have: a process that had them made it if it belongs to our
/// own effective user and group, or to root, whom `main` may have been. What the file has by capabilities alone leaves no such trace.
fn is_forged(maker: impl FnOnce() -> io::Result<Option<(u32, u32)>>) -> bool {
    let is_believed = |(user, group)| user == 0 || (user, group) == process::effective_ids();
    process::has_rights_of_its_file() && !maker().is_ok_and(|maker| maker.is_some_and(is_believed))
}

fn forged(value: String) -> Error {
    let (user, group) = process::effective_ids();
    Error::Forged { variable: VARIABLE, value, user, group }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_variable_holds_only_for_the_socket_that_it_names() {
        let (_ours, theirs) = Link::pair().expect("a socket pair");
        let (name, value) = RoleName::Child.variable_for(&theirs).expect("a variable");
        assert_eq!(name, VARIABLE);
        let value = value.into_string().expect("it is text");
        let claim = Claim::read(&value).expect("it is a claim");
        assert_eq!((claim.role, claim.parent), (Some(RoleName::Child), std::process::id()));

        let descriptor = theirs.into_raw_fd();
        assert_eq!(descriptor, claim.descriptor);
        assert!(is_socket(descriptor, claim.inode) && !is_socket(descriptor, claim.inode + 1) && !is_socket(9999, claim.inode));
        assert!(adopt_socket(descriptor, claim.inode + 1).is_none());
        assert!(adopt_socket(9999, claim.inode).is_none());
        assert!(adopt_socket(descriptor, claim.inode).is_some());
    }

    #[test]
    fn only_the_process_that_set_it_succeeds_itself_and_its_rehearsal_goes_by_the_same_name() {
        let (_, own) = variable_for_successor(Passed { descriptor: 7, inode: 42 });
        let own = own.into_string().expect("it is text");
        assert!(own.starts_with("master,7,42,"));
        assert!(Claim::read(&own).expect("a claim").is_of_own_process());
        let (_ours, theirs) = Link::pair().expect("a socket pair");
        let (_, rehearsal) = RoleName::Successor.variable_for(&theirs).expect("a variable");
        assert!(rehearsal.into_string().expect("it is text").starts_with("master,"));
        assert!(!Claim::read("master,7,42,1").expect("a claim").is_of_own_process());
        let child = own.replacen("master", "child", 1);
        assert!(!Claim::read(&child).expect("a claim").is_of_own_process());
    }

    #[test]
    fn what_a_newer_master_writes_is_a_claim_too() {
        assert_eq!(Claim::read("king,3,5,7").map(|claim| claim.role), Some(None));
        assert_eq!(Claim::read("child,3,5,7,9").map(|claim| (claim.role, claim.parent)), Some((Some(RoleName::Child), 7)));
    }

    #[test]
    fn nonsense_is_no_claim() {
        for value in ["", "child", "child,3", "child,3,5", "child,3,5,x", "child,-3,5,7", "child,1,5,7"] {
            assert!(Claim::read(value).is_none(), "{value}");
        }
    }
}
