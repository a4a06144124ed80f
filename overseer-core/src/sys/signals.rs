//! Signals of the master: handlers that write to a pipe, which the loop reads.
//!
//! Handlers and not a mask, so that a thread that the program's `main` started before `run` cannot swallow a signal.

use super::handover::Passed;
use super::poll::pipe;
use super::system;
use crate::signal::{SIGNAL_MAX, Signal};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, sigprocmask};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) signal: Signal,
    /// The kernel sent it, as the terminal does on Ctrl-C, to the whole process group: the children have it already.
    pub(crate) to_the_group: bool,
}

/// What the process that started us wanted of signals; children get it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Original {
    #[serde(with = "mask")]
    pub(crate) mask: SigSet,
    pub(crate) ignored: Vec<Signal>,
}

/// The handlers and the pipe that they write to. There is one for the life of the process.
#[derive(Debug)]
pub(crate) struct Signals {
    pipe: OwnedFd,
    /// Kept open for the handlers, which know its number.
    writer: OwnedFd,
    read: Vec<u8>,
}

static WRITER: AtomicI32 = AtomicI32::new(-1);
/// Signals that the full pipe did not take, by number; those from the kernel in the second half.
static OVERFLOW: [AtomicU32; 2 * (SIGNAL_MAX as usize + 1)] = [const { AtomicU32::new(0) }; 2 * (SIGNAL_MAX as usize + 1)];

/// Bytes of a signal in the pipe: number, and 1 if the kernel sent it.
const RECORD_BYTES: usize = 2;

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // Nothing here may allocate, lock or change errno: see signal-safety(7).
    // SAFETY: the kernel hands a valid siginfo_t to a handler installed with SA_SIGINFO.
    let to_the_group = system::is_from_kernel(unsafe { (*info).si_code }) && signal != libc::SIGCHLD;
    let number = u8::try_from(signal).unwrap_or(0);
    let record = [number, u8::from(to_the_group)];
    let errno = Errno::last_raw();
    // SAFETY: write(2) reads RECORD_BYTES bytes of `record`. The descriptor is the pipe's, kept open by `Signals`.
    let written = unsafe { libc::write(WRITER.load(Ordering::Relaxed), record.as_ptr().cast(), RECORD_BYTES) };
    if written != RECORD_BYTES as isize {
        let half = if to_the_group { SIGNAL_MAX as usize + 1 } else { 0 };
        if let Some(count) = OVERFLOW.get(half + usize::from(number)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    Errno::set_raw(errno);
}

fn set(signal: Signal, action: &SigAction) -> io::Result<()> {
    // nix's own `sigaction` takes no real-time signals.
    let raw: libc::sigaction = (*action).into();
    // SAFETY: it points to a valid structure; the handlers installed by this module are async-signal-safe.
    let result = unsafe { libc::sigaction(signal.as_raw(), &raw const raw, std::ptr::null_mut()) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// What is done about the signal now; `None` if there is no such signal.
fn action_of(signal: Signal) -> Option<libc::sigaction> {
    // SAFETY: all zeros are a valid structure, and with no new action sigaction(2) only writes to it.
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        (libc::sigaction(signal.as_raw(), std::ptr::null(), &raw mut action) == 0).then_some(action)
    }
}

fn is_ignored(signal: Signal) -> bool {
    action_of(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

fn is_default(signal: Signal) -> bool {
    action_of(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_DFL)
}

/// Every signal there is.
fn all() -> impl Iterator<Item = Signal> {
    (1..=SIGNAL_MAX).filter_map(Signal::from_raw)
}

/// Gives a signal its default action again.
pub(crate) fn reset_to_default(signal: Signal) {
    handle_plainly(signal, SigHandler::SigDfl);
}

/// Sets what is done about a signal, without flags. Async-signal-safe.
fn handle_plainly(signal: Signal, handler: SigHandler) {
    let _ = set(signal, &SigAction::new(handler, SaFlags::empty(), SigSet::empty()));
}

/// While it lives, the children of this process stay to be reaped when they end, also where it ignores SIGCHLD.
#[derive(Debug)]
pub(crate) struct ChildrenStay(Option<libc::sigaction>);

impl ChildrenStay {
    pub(crate) fn begin() -> Self {
        let Some(mut before) = action_of(Signal::CHLD) else { return Self(None) };
        if before.sa_sigaction != libc::SIG_IGN && before.sa_flags & libc::SA_NOCLDWAIT == 0 {
            return Self(None);
        }
        let restore = before;
        before.sa_flags &= !libc::SA_NOCLDWAIT;
        if before.sa_sigaction == libc::SIG_IGN {
            before.sa_sigaction = libc::SIG_DFL;
        }
        // SAFETY: it is the action that was in force, or the default one, and runs no code of ours.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const before, std::ptr::null_mut()) };
        Self(Some(restore))
    }
}

impl Drop for ChildrenStay {
    fn drop(&mut self) {
        let Some(before) = self.0 else { return };
        // SAFETY: it is the action that was in force before.
        unsafe { libc::sigaction(libc::SIGCHLD, &raw const before, std::ptr::null_mut()) };
        // What ended meanwhile stays; nobody waits for it, and the kernel would have removed it.
        super::process::reap_others(&[]);
    }
}

/// A mask as the numbers of the signals in it.
mod mask {
    use super::{Signal, all, libc};
    use nix::sys::signal::SigSet;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(mask: &SigSet, serializer: S) -> Result<S::Ok, S::Error> {
        // SAFETY: sigismember(3) reads the set alone. nix knows no real-time signals.
        let is_in = |signal: &Signal| unsafe { libc::sigismember(mask.as_ref(), signal.as_raw()) } == 1;
        all().filter(is_in).collect::<Vec<Signal>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SigSet, D::Error> {
        let signals = Vec::<Signal>::deserialize(deserializer)?;
        // SAFETY: all zeros are a valid set. (sigemptyset(3) may leave the rest of it as it was, and then two sets with the same signals differ.)
        let mut raw = unsafe { std::mem::zeroed::<libc::sigset_t>() };
        for signal in signals {
            // SAFETY: sigaddset(3) writes to the set alone, and refuses a number that is none.
            unsafe { libc::sigaddset(&raw mut raw, signal.as_raw()) };
        }
        // SAFETY: it was initialised above.
        Ok(unsafe { SigSet::from_sigset_t_unchecked(raw) })
    }
}

impl Original {
    /// What is in force now; to be called before any handler is installed. Rust's runtime ignores SIGPIPE in every program, so
    /// what it was before cannot be known, and children get its default.
    pub(crate) fn capture() -> io::Result<Self> {
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, None, Some(&mut mask))?;
        let ignored = all().filter(|signal| *signal != Signal::PIPE && is_ignored(*signal)).collect();
        Ok(Self { mask, ignored })
    }

    /// Gives the process what we were given. Async-signal-safe; all signals are blocked until the last line.
    pub(super) fn restore(&self) {
        self.restore_actions();
        self.restore_mask();
    }

    /// Lets each signal do what it did when we were given it. Async-signal-safe.
    pub(super) fn restore_actions(&self) {
        all().for_each(|signal| self.restore_action(signal));
    }

    fn restore_action(&self, signal: Signal) {
        handle_plainly(signal, if self.ignored.contains(&signal) { SigHandler::SigIgn } else { SigHandler::SigDfl });
    }

    fn restore_mask(&self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }

    /// Lets the signals through that we were given unblocked, but for a stop by the terminal that waits among them, which is forgotten. Async-signal-safe.
    pub(super) fn unblock_but_stops(&self) {
        for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
            // One that is ignored waits no longer (sigaction(2)).
            handle_plainly(signal, SigHandler::SigIgn);
            self.restore_action(signal);
        }
        self.restore_mask();
    }
}

/// Signals that have arrived and were not taken in, and the pipe, for the program that this process becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignalsState {
    pub(crate) reader: Passed,
    pub(crate) writer: Passed,
    read: Vec<u8>,
    /// Place and count.
    overflow: Vec<(usize, u32)>,
}

impl Signals {
    /// What goes on through an exec; to be called while all signals are held.
    pub(crate) fn state(&self) -> io::Result<SignalsState> {
        let overflow = OVERFLOW.iter().map(|count| count.load(Ordering::Relaxed)).enumerate().filter(|(_, count)| *count > 0).collect();
        Ok(SignalsState { reader: Passed::of(&self.pipe)?, writer: Passed::of(&self.writer)?, read: self.read.clone(), overflow })
    }

    /// Goes on with the pipe of the master before, once [`handle`] has been called. Signals are still held afterwards.
    pub(crate) fn resume(state: SignalsState) -> Self {
        let this = Self { pipe: state.reader.take(), writer: state.writer.take(), read: state.read };
        WRITER.store(this.writer.as_raw_fd(), Ordering::Relaxed);
        for (place, count) in state.overflow {
            if let Some(known) = OVERFLOW.get(place) {
                known.fetch_add(count, Ordering::Relaxed);
            }
        }
        this
    }

    /// Installs handlers for all signals that the master takes, and lets them through. A signal that was ignored stays so (nohup),
    /// unless it is `always`, or SIGURG, which commands come with.
    pub(crate) fn install(original: &Original, always: Signal) -> io::Result<Self> {
        let this = Self::open()?;
        handle(original, always)?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        Ok(this)
    }

    /// Another signal is `always` taken from now on; the one before is ignored again, if it was.
    pub(crate) fn change(&self, original: &Original, always: Signal) -> io::Result<()> {
        handle(original, always)
    }

    /// No signal is taken yet: for a child, where [`take_where_default`] says when.
    pub(crate) fn open() -> io::Result<Self> {
        let (pipe, writer) = pipe()?;
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_WRONLY | OFlag::O_NONBLOCK))?;
        WRITER.store(writer.as_raw_fd(), Ordering::Relaxed);
        Ok(Self { pipe, writer, read: Vec::new() })
    }

    /// The next signal that arrived, in their order; `None` when there is no more.
    pub(crate) fn next(&mut self) -> Option<Arrived> {
        if self.read.is_empty() {
            let mut buffer = [0; 64 * RECORD_BYTES];
            match nix::unistd::read(&self.pipe, &mut buffer) {
                // Writes of a record are atomic (pipe(7)), so whole ones are read.
                Ok(bytes) => self.read.extend_from_slice(&buffer[..bytes]),
                Err(_) => return Self::take_overflow(),
            }
        }
        let record: Vec<u8> = self.read.drain(..RECORD_BYTES.min(self.read.len())).collect();
        let [number, to_the_group] = record[..] else { return None };
        Some(Arrived { signal: Signal::from_raw(i32::from(number))?, to_the_group: to_the_group == 1 })
    }

    fn take_overflow() -> Option<Arrived> {
        let place = OVERFLOW
            .iter()
            .position(|count| count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok())?;
        let half = SIGNAL_MAX as usize + 1;
        Some(Arrived { signal: Signal::from_raw(i32::try_from(place % half).ok()?)?, to_the_group: place >= half })
    }
}

/// Installs the master's handlers. A signal that was ignored stays so, also where another program in this process had a handler for it.
///
/// # Errors
/// The system refuses one; those before it are installed. Whatever this process executes has none of them.
pub(crate) fn handle(original: &Original, always: Signal) -> io::Result<()> {
    for signal in all() {
        let ours = matches!(signal, Signal::CHLD | Signal::CONT | Signal::TSTP);
        let was_ignored = original.ignored.contains(&signal);
        if [always, Signal::CHLD, Signal::URG].contains(&signal) || ((ours || signal.can_be_caught()) && !was_ignored) {
            take(signal)?;
        } else if was_ignored {
            set(signal, &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()))?;
        }
    }
    Ok(())
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Installs the handler for one signal.
pub(crate) fn take(signal: Signal) -> io::Result<()> {
    let handler = SigHandler::SigAction(handler);
    // One at a time: a few handlers inside each other do not fit the stack that Rust's runtime has made for them.
    set(signal, &SigAction::new(handler, SaFlags::SA_RESTART | SaFlags::SA_ONSTACK, SigSet::all()))
}

/// Takes those of `signals` for which nobody has installed a handler; for a child, whose program comes first, and which has its [`Signals`] already.
pub(crate) fn take_where_default(signals: &[Signal]) -> io::Result<()> {
    signals.iter().filter(|signal| is_default(**signal)).try_for_each(|signal| take(*signal))
}

/// Does something while this thread takes no signals. A thread that it starts takes none all its life.
pub(crate) fn with_signals_blocked<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let done = act();
    before.thread_set_mask()?;
    Ok(done)
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// Makes a signal without a handler have no effect. Unlike an ignored one it has its default again in whatever this process executes.
pub(crate) fn disregard_where_default(signal: Signal) {
    if is_default(signal) {
        let _ = set(signal, &SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty()));
    }
}

/// Stops this process as SIGTSTP does by default, and comes back when it is continued.
pub(crate) fn stop_self() {
    reset_to_default(Signal::TSTP);
    let _ = super::process::kill(nix::unistd::getpid(), Signal::TSTP);
    let _ = take(Signal::TSTP);
}
