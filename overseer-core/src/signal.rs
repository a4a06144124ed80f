//! Signals by name and number.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A Unix signal.
///
/// ```
/// use overseer_core::Signal;
/// assert_eq!(Signal::USR2.to_string(), "SIGUSR2");
/// assert_eq!(Signal::from_raw(2), Some(Signal::INT));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

/// Whether the numbers are those that BSD has given them, as on macOS and FreeBSD. Elsewhere they are those of Linux.
const BSD: bool = cfg!(any(target_os = "freebsd", target_os = "macos"));

/// The highest signal number: `SIGRTMAX` where there are real-time signals.
pub(crate) const SIGNAL_MAX: i32 = match (BSD, cfg!(target_os = "freebsd")) {
    (false, _) => 64,
    (true, true) => 126,
    (true, false) => 31,
};

/// Signals that nobody is to take: `SIGSTKFLT` or `SIGEMT`, a fault, and those that the C library keeps for itself: musl one more
/// than others, and it refuses handlers for them.
const RESERVED: [i32; 4] = [if BSD { 7 } else { 16 }, 32, 33, if cfg!(target_env = "musl") { 34 } else { 33 }];

macro_rules! signals {
    ($($(#[$where:meta])? $name:ident = $number:literal / $bsd:literal, $doc:literal;)*) => {
        impl Signal {
            $($(#[$where])? #[doc = $doc] pub const $name: Signal = Signal(if BSD { $bsd } else { $number });)*
        }

        const NAMES: &[(Signal, &str)] = &[$($(#[$where])? (Signal::$name, concat!("SIG", stringify!($name))),)*];
    };
}

// The numbers of Linux on x86, ARM and RISC-V (signal(7)), and those of BSD (signal(3) of FreeBSD and macOS).
signals! {
    HUP = 1 / 1, "The terminal was closed; many servers read their settings again.";
    INT = 2 / 2, "Ctrl-C.";
    QUIT = 3 / 3, "Ctrl-\\\\.";
    ILL = 4 / 4, "A fault.";
    TRAP = 5 / 5, "A fault.";
    ABRT = 6 / 6, "The process gave up on itself.";
    BUS = 7 / 10, "A fault.";
    FPE = 8 / 8, "A fault.";
    KILL = 9 / 9, "Ends the process; cannot be caught.";
    USR1 = 10 / 30, "Free for the program.";
    SEGV = 11 / 11, "A fault.";
    USR2 = 12 / 31, "Free for the program; the default restart signal.";
    PIPE = 13 / 13, "A write to a closed pipe; ignored in Rust programs.";
    ALRM = 14 / 14, "A timer.";
    TERM = 15 / 15, "Asks the process to end.";
    #[cfg(not(any(target_os = "freebsd", target_os = "macos")))]
    STKFLT = 16 / 0, "Unused.";
    CHLD = 17 / 20, "A child ended.";
    CONT = 18 / 19, "Continues a stopped process.";
    STOP = 19 / 17, "Stops the process; cannot be caught.";
    TSTP = 20 / 18, "Ctrl-Z.";
    TTIN = 21 / 21, "A background process read from the terminal.";
    TTOU = 22 / 22, "A background process wrote to the terminal.";
    URG = 23 / 16, "Urgent data on a socket.";
    XCPU = 24 / 24, "Too much processor time.";
    XFSZ = 25 / 25, "Too large a file.";
    VTALRM = 26 / 26, "A timer.";
    PROF = 27 / 27, "A timer.";
    WINCH = 28 / 28, "The terminal changed its size.";
    IO = 29 / 23, "Input or output is possible.";
    #[cfg(not(any(target_os = "freebsd", target_os = "macos")))]
    PWR = 30 / 0, "The power fails.";
    SYS = 31 / 12, "A fault.";
}

impl Signal {
    /// The signal with this number; `None` if there is none between 1 and the highest of the system (64 on Linux).
    pub fn from_raw(number: i32) -> Option<Self> {
        (1..=SIGNAL_MAX).contains(&number).then_some(Self(number))
    }

    /// The number of the signal.
    pub fn as_raw(self) -> i32 {
        self.0
    }

    /// Whether the master takes this signal and passes it on: not what the kernel sends for a fault, what ends or stops a
    /// process without asking it, what the C library keeps for itself, SIGCHLD and SIGPIPE.
    pub(crate) fn can_be_caught(self) -> bool {
        !matches!(
            self,
            Self::ILL
                | Self::TRAP
                | Self::ABRT
                | Self::BUS
                | Self::FPE
                | Self::KILL
                | Self::SEGV
                | Self::PIPE
                | Self::CHLD
                | Self::CONT
                | Self::STOP
                | Self::TSTP
                | Self::TTIN
                | Self::TTOU
                | Self::SYS
        ) && !RESERVED.contains(&self.0)
    }

    /// Whether a program that gets it is asked to leave.
    pub(crate) fn means_leaving(self) -> bool {
        matches!(self, Self::TERM | Self::INT | Self::QUIT)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(signal, _)| signal == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}
