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

/// The highest signal number on Linux (`SIGRTMAX`).
pub(crate) const SIGNAL_MAX: i32 = 64;

macro_rules! signals {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        impl Signal {
            $(#[doc = $doc] pub const $name: Signal = Signal($number);)*
        }

        const NAMES: &[(i32, &str)] = &[$(($number, concat!("SIG", stringify!($name))),)*];
    };
}

// The numbers of Linux on x86, ARM and RISC-V (signal(7)). BSD and macOS differ in some; overseer runs stand-alone there.
signals! {
    HUP = 1, "The terminal was closed; many servers read their settings again.";
    INT = 2, "Ctrl-C.";
    QUIT = 3, "Ctrl-\\\\.";
    ILL = 4, "A fault.";
    TRAP = 5, "A fault.";
    ABRT = 6, "The process gave up on itself.";
    BUS = 7, "A fault.";
    FPE = 8, "A fault.";
    KILL = 9, "Ends the process; cannot be caught.";
    USR1 = 10, "Free for the program.";
    SEGV = 11, "A fault.";
    USR2 = 12, "Free for the program; the default restart signal.";
    PIPE = 13, "A write to a closed pipe; ignored in Rust programs.";
    ALRM = 14, "A timer.";
    TERM = 15, "Asks the process to end.";
    STKFLT = 16, "Unused.";
    CHLD = 17, "A child ended.";
    CONT = 18, "Continues a stopped process.";
    STOP = 19, "Stops the process; cannot be caught.";
    TSTP = 20, "Ctrl-Z.";
    TTIN = 21, "A background process read from the terminal.";
    TTOU = 22, "A background process wrote to the terminal.";
    URG = 23, "Urgent data on a socket.";
    XCPU = 24, "Too much processor time.";
    XFSZ = 25, "Too large a file.";
    VTALRM = 26, "A timer.";
    PROF = 27, "A timer.";
    WINCH = 28, "The terminal changed its size.";
    IO = 29, "Input or output is possible.";
    PWR = 30, "The power fails.";
    SYS = 31, "A fault.";
}

impl Signal {
    /// The signal with this number; `None` if there is none between 1 and 64.
    pub fn from_raw(number: i32) -> Option<Self> {
        (1..=SIGNAL_MAX).contains(&number).then_some(Self(number))
    }

    /// The number of the signal.
    pub fn as_raw(self) -> i32 {
        self.0
    }

    /// Whether the master takes this signal and passes it on: not what the kernel sends for a fault, what ends or stops a
    /// process without asking it, what the C library keeps for itself (32 and 33), SIGCHLD and SIGPIPE.
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
                | Self::STKFLT
                | Self::CHLD
                | Self::CONT
                | Self::STOP
                | Self::TSTP
                | Self::TTIN
                | Self::TTOU
                | Self::SYS
        ) && !matches!(self.0, 32 | 33)
    }

    /// Whether a program that gets it is asked to leave.
    pub(crate) fn means_leaving(self) -> bool {
        matches!(self, Self::TERM | Self::INT | Self::QUIT)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}
