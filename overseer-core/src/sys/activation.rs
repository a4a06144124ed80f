//! Descriptors that a service manager has opened for this process, and the environment variables that tell of them: sd_listen_fds(3).
//!
//! They are from 3 on, without gaps, and hold for the one process whose PID `LISTEN_PID` is.

use super::system;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";
/// The inode of the process's pidfd, which no other process has, before or after it. New in systemd 258.
const PIDFD_ID: &str = "LISTEN_PIDFDID";
const VARIABLES: [&str; 4] = [PID, COUNT, NAMES, PIDFD_ID];

/// How many descriptors the service manager keeps for the service (`FileDescriptorStoreMax=`). Set by systemd from 254 on.
pub(crate) const STORE_SIZE: &str = "FDSTORE";

/// The first of them (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// What the manual calls a descriptor without a name.
const UNNAMED: &str = "unknown";

/// A descriptor that was passed. It goes through an exec until [`Given::close_on_exec`].
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) descriptor: OwnedFd,
}

impl Given {
    pub(crate) fn close_on_exec(&self) -> io::Result<()> {
        fcntl(&self.descriptor, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).map(drop).map_err(io::Error::from)
    }
}

/// Whether the variable is one of those, and this process the one that they are for. Nobody else is to believe it.
pub(crate) fn is_for_us_alone(variable: &OsStr) -> bool {
    VARIABLES.iter().any(|name| variable == *name) && is_for_us()
}

fn is_for_us() -> bool {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let is_other_process = || matches!((number(PIDFD_ID), system::own_pidfd_id()), (Some(named), Some(own)) if named != own);
    number(PID) == Some(u64::from(std::process::id())) && !is_other_process()
}

/// Takes what was passed to this process, in its order; nothing, if nothing was. To be called once, before this process opens anything: a number that is not open
/// would be somebody's else.
///
/// # Errors
/// The variables are damaged, or one of the descriptors is not open. None is taken.
pub(crate) fn take() -> io::Result<Vec<Given>> {
    let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let Some(count) = env::var_os(COUNT).filter(|_| is_for_us()) else { return Ok(Vec::new()) };
    let count = count.to_str().and_then(|count| count.parse::<RawFd>().ok()).filter(|count| (0..RawFd::MAX - FIRST).contains(count));
    let count = count.ok_or_else(|| damaged(format!("{COUNT} is not a number of descriptors")))?;
    let names = match env::var(NAMES) {
        Ok(names) => names.split(':').map(str::to_owned).collect(),
        Err(_) => vec![UNNAMED.to_owned(); usize::try_from(count).unwrap_or_default()],
    };
    let numbers = FIRST..FIRST + count;
    if count > 0 && names.len() != numbers.len() {
        return Err(damaged(format!("{NAMES} names {} descriptors, and {COUNT} says {count}", names.len())));
    }
    if let Some(closed) = numbers.clone().find(|number| !is_open(*number)) {
        return Err(damaged(format!("descriptor {closed} of {COUNT}={count} is not open")));
    }
    // SAFETY: whoever started this process has opened these numbers for it and says so; all of them are open, and this is called once.
    let give = |(number, name)| Given { name, descriptor: unsafe { OwnedFd::from_raw_fd(number) } };
    Ok(numbers.zip(names).map(give).collect())
}

/// How many descriptors the service manager keeps for the next process of the service; 0 if it does not say so. Nobody tries without: it would
/// log a warning for each.
pub(crate) fn store_size() -> usize {
    env::var(STORE_SIZE).ok().and_then(|size| size.parse().ok()).unwrap_or_default()
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: the number is only asked about, and a closed one answers an error.
    let asked = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(asked, FcntlArg::F_GETFD) != Err(Errno::EBADF)
}

/// Takes the variables out of the environment, for a process that goes on as the program. Only while no other thread runs.
pub(crate) fn forget() {
    if is_for_us() {
        VARIABLES.iter().for_each(|name| super::process::remove_variable(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_pidfd_id_where_the_kernel_has_them() {
        assert_eq!(system::own_pidfd_id(), system::own_pidfd_id());
        assert!(!is_for_us_alone("LISTEN_FDS".as_ref()), "nothing was passed to the process of a test");
        assert!(take().expect("nothing was passed").is_empty());
    }
}
