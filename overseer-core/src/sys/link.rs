//! Frames over a socket pair, with descriptors beside them.
//!
//! The master's end does not block: what the socket does not take waits in a bounded queue. The other end blocks.

use super::handover::Passed;
use super::poll::NO_SIGNAL;
use super::system;
use crate::protocol::{ADDRESSES_MAX, Decoder, Frame, FrameError, encode};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The most frames that wait for a peer that does not read; one more ends the link.
const QUEUE_FRAMES_MAX: usize = 64;
/// The most frames of a peer in a second; one more ends the link.
const FRAMES_PER_SECOND_MAX: u32 = 1000;

/// Why a link cannot be used any more. The peer may be alive; the process behind it is to be killed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LinkError {
    #[error("it spoke nonsense")]
    Frame(#[from] FrameError),
    #[error("it does not read what it is told ({QUEUE_FRAMES_MAX} messages wait)")]
    QueueFull,
    #[error("its socket failed")]
    Socket(#[from] io::Error),
}

/// What came from the peer.
#[derive(Debug)]
pub(crate) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    /// The new process could not execute the file.
    ExecFailed(io::Error),
    /// Nothing now; only from a link that does not block.
    Nothing,
    /// The peer closed its end.
    Ended,
}

/// The socket that another process left open for us under this number, if it is the one with this inode. It is close-on-exec from now on.
pub(crate) fn adopt_socket(descriptor: RawFd, inode: u64) -> Option<OwnedFd> {
    if !is_socket(descriptor, inode) {
        return None;
    }
    // SAFETY: it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: it is the socket that was made for this process under this number; nobody else in it knows it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether the descriptor is open, and the socket with this inode.
pub(crate) fn is_socket(descriptor: RawFd, inode: u64) -> bool {
    // SAFETY: the number is only asked about until fcntl(2) has said that it is an open descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let status = fcntl(borrowed, FcntlArg::F_GETFD).and_then(|_| fstat(borrowed));
    status.is_ok_and(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK && status.st_ino == inode)
}

/// As which user and group the process ran that made this pair of sockets.
pub(crate) fn maker_of(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    Ok(system::maker_of(socket)?)
}

/// One end of a socket pair.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    decoder: Decoder,
    /// Descriptors that came, in their order, until the frame that names them is whole.
    descriptors: VecDeque<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
    sender: Option<Pid>,
    second: Option<(Instant, u32)>,
    is_ended: bool,
}

/// A link in the hands of no process: what goes on through an exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LinkState {
    socket: Passed,
    /// What came and is not a whole frame yet.
    read: Vec<u8>,
    descriptors: Vec<Passed>,
    outgoing: Vec<(Vec<u8>, Vec<Passed>)>,
    is_ended: bool,
}

impl LinkState {
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = Passed> {
        let beside = self.descriptors.iter().chain(self.outgoing.iter().flat_map(|(_, descriptors)| descriptors));
        std::iter::once(&self.socket).chain(beside).copied()
    }

    /// To be called once, if all its [`descriptors`](Self::descriptors) are here.
    pub(crate) fn take(self) -> Link {
        let mut link = Link::new(self.socket.take());
        link.decoder.push(&self.read);
        let take_all = |descriptors: Vec<Passed>| descriptors.into_iter().map(Passed::take);
        link.descriptors = take_all(self.descriptors).collect();
        let outgoing = self.outgoing.into_iter();
        link.outgoing =
            outgoing.map(|(bytes, descriptors)| Outgoing { bytes, sent: 0, descriptors: take_all(descriptors).collect() }).collect();
        link.is_ended = self.is_ended;
        link
    }
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

impl Link {
    /// A pair of sockets: our end, which does not block and is told who sends, and the other process's.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        let (ours, theirs) = (OwnedFd::from(ours), OwnedFd::from(theirs));
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        system::name_senders(&ours)?;
        Ok((Self::new(ours), theirs))
    }

    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            decoder: Decoder::default(),
            descriptors: VecDeque::new(),
            outgoing: VecDeque::new(),
            sender: None,
            second: None,
            is_ended: false,
        }
    }

    /// What goes on through an exec; the count of frames in this second begins anew.
    pub(crate) fn state(&self) -> io::Result<LinkState> {
        let passed = |descriptors: &mut dyn Iterator<Item = &OwnedFd>| descriptors.map(Passed::of).collect::<io::Result<Vec<Passed>>>();
        let outgoing = self.outgoing.iter().map(|frame| Ok((frame.bytes[frame.sent..].to_vec(), passed(&mut frame.descriptors.iter())?)));
        Ok(LinkState {
            socket: Passed::of(&self.socket)?,
            read: self.decoder.waiting().to_vec(),
            descriptors: passed(&mut self.descriptors.iter())?,
            outgoing: outgoing.collect::<io::Result<_>>()?,
            is_ended: self.is_ended,
        })
    }

    /// Whether frames wait for the socket to take them.
    pub(crate) fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether bytes are here that may hold a frame, so that the next [`Link::receive`] need not wait for the socket.
    pub(crate) fn may_hold_frame(&self) -> bool {
        self.decoder.holds_frame()
    }

    /// Which process sent the last bytes that came, as the kernel vouches for it; only at the end made by [`Link::pair`].
    pub(crate) fn sender(&self) -> Option<Pid> {
        self.sender
    }

    /// Where the system vouches for nobody, it is the process that was given the other end.
    pub(super) fn assume_sender(&mut self, process: Pid) {
        if !system::NAMES_SENDERS {
            self.sender = Some(process);
        }
    }

    /// Sends a message, or queues it where the link does not block and the socket is full. Makes no copies of the descriptors, for which there might be no room.
    ///
    /// # Errors
    /// The link cannot be used any more. A closed peer is none: its end is told by [`Link::receive`].
    pub(crate) fn send<T: Serialize>(&mut self, message: &T, descriptors: impl IntoIterator<Item = OwnedFd>) -> Result<(), LinkError> {
        if self.outgoing.len() >= QUEUE_FRAMES_MAX {
            return Err(LinkError::QueueFull);
        }
        let descriptors: Vec<OwnedFd> = descriptors.into_iter().collect();
        let bytes = encode(message, descriptors.len())?;
        self.outgoing.push_back(Outgoing { bytes, sent: 0, descriptors });
        self.flush()
    }

    /// Sends what waits, as far as the socket takes it.
    ///
    /// # Errors
    /// See [`Link::send`].
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        while let Some(frame) = self.outgoing.front_mut() {
            let rest = [IoSlice::new(&frame.bytes[frame.sent..])];
            let raw: Vec<RawFd> = frame.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
            // Descriptors travel with the first byte; once that is sent they are the peer's.
            let control = [ControlMessage::ScmRights(&raw)];
            let control = if raw.is_empty() { &control[..0] } else { &control[..] };
            match sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &rest, control, NO_SIGNAL, None) {
                Ok(bytes) => {
                    frame.sent += bytes;
                    frame.descriptors.clear();
                    if frame.sent == frame.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.outgoing.clear(),
                Err(errno) => return Err(LinkError::Socket(errno.into())),
            }
        }
        Ok(())
    }

    /// The next message. Waits for it unless the link does not block.
    ///
    /// # Errors
    /// The link cannot be used any more.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<Received<T>, LinkError> {
        loop {
            match self.decoder.next()? {
                Some(Frame::Message(message, named)) => {
                    self.count_frame()?;
                    let came = self.descriptors.len();
                    // Descriptors come with the first byte of their frame, so without a next frame what is left belongs to nothing.
                    let has_surplus = came > named && self.decoder.waiting_bytes() == 0;
                    if named > came || has_surplus {
                        return Err(FrameError::Descriptors { named, came }.into());
                    }
                    return Ok(Received::Message(message, self.descriptors.drain(..named).collect()));
                }
                Some(Frame::ExecFailed(errno)) => {
                    self.count_frame()?;
                    return Ok(Received::ExecFailed(io::Error::from_raw_os_error(errno)));
                }
                None if self.is_ended => {
                    return match self.decoder.waiting_bytes() {
                        0 => Ok(Received::Ended),
                        bytes => Err(FrameError::BrokenOff { bytes }.into()),
                    };
                }
                None => {}
            }
            if !self.read()? {
                return Ok(Received::Nothing);
            }
        }
    }

    /// Reads once; `false` when nothing is there.
    fn read(&mut self) -> Result<bool, LinkError> {
        let mut buffer = [0; 8192];
        let came = match receive_once(self.socket.as_fd(), &mut buffer) {
            Ok(came) => came,
            Err(Errno::EINTR) => return Ok(true),
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::ECONNRESET) => {
                self.is_ended = true;
                return Ok(true);
            }
            Err(errno) => return Err(LinkError::Socket(errno.into())),
        };
        if came.is_truncated {
            return Err(FrameError::Truncated.into());
        }
        self.descriptors.extend(came.descriptors);
        self.sender = came.sender.or(self.sender);
        self.decoder.push(&buffer[..came.bytes]);
        self.is_ended = came.bytes == 0;
        if self.descriptors.len() > 2 * ADDRESSES_MAX {
            return Err(FrameError::Descriptors { named: 0, came: self.descriptors.len() }.into());
        }
        Ok(true)
    }

    fn count_frame(&mut self) -> Result<(), FrameError> {
        let now = Instant::now();
        let (since, frames) = self.second.get_or_insert((now, 0));
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *frames) = (now, 0);
        }
        *frames += 1;
        if *frames > FRAMES_PER_SECOND_MAX { Err(FrameError::Flood { per_second: FRAMES_PER_SECOND_MAX }) } else { Ok(()) }
    }
}

/// What one recvmsg(2) brought.
struct Came {
    bytes: usize,
    descriptors: Vec<OwnedFd>,
    sender: Option<Pid>,
    is_truncated: bool,
}

/// Room for the descriptors of one message and for who sent it.
// SAFETY: CMSG_SPACE(3) only calculates.
const CONTROL_BYTES: usize =
    unsafe { libc::CMSG_SPACE((ADDRESSES_MAX * size_of::<RawFd>()) as u32) + libc::CMSG_SPACE(system::SENDER_BYTES as u32) } as usize;

/// Receives once, without nix: it hides the descriptors of a message that was cut off, and they would stay open for ever.
fn receive_once(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<Came> {
    // As `u64` it is aligned for the headers in it (cmsg(3)).
    let mut control = [0_u64; CONTROL_BYTES.div_ceil(8)];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros are a valid msghdr: no name, no slices, no control messages.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: the header points to one slice and to the control buffer, with their lengths, and both outlive the call.
    let bytes = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, system::RECEIVE_FLAGS) })?;
    let is_truncated = header.msg_flags & libc::MSG_CTRUNC != 0;
    let mut came = Came { bytes: bytes.unsigned_abs(), descriptors: Vec::new(), sender: None, is_truncated };
    // SAFETY: the kernel has filled in the header and the control messages that it describes.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR answer null or a header inside the control buffer.
    while let Some(control) = unsafe { next.as_ref() } {
        // SAFETY: CMSG_LEN(3) only calculates, and CMSG_DATA(3) answers where the data of this header begins.
        let (data, header_bytes) = unsafe { (libc::CMSG_DATA(next), libc::CMSG_LEN(0) as usize) };
        #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
        let data_bytes = (control.cmsg_len as usize).saturating_sub(header_bytes);
        match (control.cmsg_level, control.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for place in 0..data_bytes / size_of::<RawFd>() {
                    // SAFETY: the place is inside the data of this header, and the kernel has just made the descriptor for us.
                    came.descriptors.push(unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(place).read_unaligned()) });
                }
                if system::RECEIVE_FLAGS == 0 {
                    came.descriptors
                        .iter()
                        .try_for_each(|descriptor| fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop))?;
                }
            }
            (libc::SOL_SOCKET, kind) => {
                // SAFETY: the data of this header has this length, and nobody writes to it meanwhile.
                came.sender = system::sender(kind, unsafe { std::slice::from_raw_parts(data, data_bytes) }).or(came.sender);
            }
            _ => {}
        }
        // SAFETY: both headers are the ones above, unchanged.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(came)
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
