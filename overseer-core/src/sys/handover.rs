//! What a process hands over to the program that it executes in its own place.
//!
//! Descriptors keep their numbers through an exec. Each is named with its inode, and taken only if it still is that file.

use super::system;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{fchown, getegid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// A longer snapshot is not read: 64 messages that wait for each of a few children take a quarter of it.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;

/// An open descriptor that goes on under its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passed {
    pub(crate) descriptor: RawFd,
    pub(crate) inode: u64,
}

impl Passed {
    pub(crate) fn of(descriptor: impl AsFd) -> io::Result<Self> {
        let descriptor = descriptor.as_fd();
        Ok(Self { descriptor: descriptor.as_raw_fd(), inode: fstat(descriptor)?.st_ino })
    }

    pub(crate) fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: the number is only asked about, and a closed one answers an error.
        unsafe { BorrowedFd::borrow_raw(self.descriptor) }
    }

    /// Whether the number is open, and that file.
    pub(crate) fn is_here(&self) -> bool {
        self.descriptor > 2 && fstat(self.borrow()).is_ok_and(|status| status.st_ino == self.inode)
    }

    /// Lets it live through the next exec, or not.
    pub(crate) fn outlives_exec(&self, does: bool) -> io::Result<()> {
        let flags = if does { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        fcntl(self.borrow(), FcntlArg::F_SETFD(flags)).map(drop).map_err(io::Error::from)
    }

    /// Takes it; it does not live through another exec. To be called once for each, and only if it [`is_here`](Self::is_here).
    pub(crate) fn take(self) -> OwnedFd {
        // Nothing but a closed descriptor makes it fail.
        let _ = self.outlives_exec(false);
        // SAFETY: it was left open for this program under this number; the snapshot names each number once, and nobody else in here knows it.
        unsafe { OwnedFd::from_raw_fd(self.descriptor) }
    }

    /// Takes it if it is here.
    pub(crate) fn take_if_here(self) -> Option<OwnedFd> {
        self.is_here().then(|| self.take())
    }
}

/// A file without a name that holds these bytes and belongs to the user and group of this process: in memory, or an unlinked one in the directory for temporary
/// files where that is not to be had.
pub(crate) fn file_of(bytes: &[u8]) -> io::Result<File> {
    let file = system::memory_file().or_else(|_| tempfile::tempfile())?;
    // Some directories give a file their own group. See `maker_of`.
    let _ = fchown(&file, None, Some(getegid()));
    rewrite(&file, bytes)?;
    Ok(file)
}

/// As which user and group the process ran that made such a file; `None` if it has a name, as no such file has.
pub(crate) fn maker_of(file: &File) -> io::Result<Option<(u32, u32)>> {
    let status = fstat(file)?;
    let is_such = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG && status.st_nlink == 0;
    Ok(is_such.then_some((status.st_uid, status.st_gid)))
}

/// Puts other bytes into such a file, without another descriptor for it.
pub(crate) fn rewrite(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)
}

/// The bytes of such a file. Its offset, which several processes share, does not matter and stays.
pub(crate) fn bytes_of(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > SNAPSHOT_BYTES_MAX {
        return Err(io::Error::other(format!("it has {length} bytes, more than {SNAPSHOT_BYTES_MAX}")));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The time on the clock that [`Instant`](std::time::Instant) reads, which an exec does not touch.
pub(crate) fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(2) writes to `time` alone.
    unsafe { libc::clock_gettime(system::MONOTONIC, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Lets signals wait until [`let_signals_through`], here or in the program that this process becomes.
pub(crate) fn hold_signals() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?)
}

pub(crate) fn let_signals_through() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_taken_only_if_it_is_the_one_that_was_named() {
        let file = file_of(b"what is known").expect("a file");
        let passed = Passed::of(&file).expect("it is open");
        assert!(passed.is_here());
        assert!(!Passed { inode: passed.inode + 1, ..passed }.is_here());
        assert!(!Passed { descriptor: 9999, ..passed }.is_here());
        assert!(Passed { descriptor: 9999, ..passed }.take_if_here().is_none());
        std::mem::forget(file);
        let taken = File::from(passed.take_if_here().expect("it is the one"));
        assert_eq!(bytes_of(&taken).expect("read"), b"what is known");
        assert_eq!(bytes_of(&taken).expect("read again"), b"what is known");
        assert_eq!(maker_of(&taken).expect("known"), Some(crate::sys::process::effective_ids()));
        assert_eq!(maker_of(&File::open("/dev/null").expect("opened")).expect("known"), None);
        let named = tempfile::NamedTempFile::new().expect("a file");
        assert_eq!(maker_of(named.as_file()).expect("known"), None);
        rewrite(&taken, b"more").expect("written");
        assert_eq!(bytes_of(&taken).expect("read"), b"more");
        taken.set_len(SNAPSHOT_BYTES_MAX + 1).expect("longer");
        bytes_of(&taken).expect_err("it is too long");
    }
}
