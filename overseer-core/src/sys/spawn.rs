//! Starting a process of the same program, or of its next version.
//!
//! By descriptor, not by path: what was looked at is what runs. Without a shell: `execvp` and `posix_spawnp` hand a file that the
//! kernel refuses to `/bin/sh`, so a damaged release would run as a script; here it is an error.
//!
//! A script (`#!`) is started by its interpreter, which opens it as `/dev/fd/N`. So its descriptor, and no other, is left open for the new process; the
//! kernel refuses it else (ENOENT).

use super::activation;
use super::link::Link;
use super::notify_socket;
use super::process;
use super::signals::Original;
use super::system;
use crate::binary::header;
use crate::protocol::EXEC_FAILED;
use crate::role::{RoleName, VARIABLE};
use crate::signal::Signal;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Whoever writes a file while it is executed (ETXTBSY) has copied a descriptor in a fork and closes it in its exec; so the exec is tried again.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE_MS: libc::c_int = 10;

/// A process to be started.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    /// The file to execute, open for reading or as a path (`O_PATH`).
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) role: RoleName,
    /// Where standard error goes; standard input and output are then `/dev/null`. `None`: all three are ours.
    pub(crate) quiet: Option<BorrowedFd<'a>>,
    /// The process leads a process group of its own.
    pub(crate) own_group: bool,
    /// Memory pressure takes it before the service (`oom_score_adj` + 500).
    pub(crate) expendable: bool,
    /// What it gets when we end without it.
    pub(crate) parent_death_signal: Signal,
    pub(crate) original: &'a Original,
}

impl Spawn<'_> {
    /// Starts the process with our arguments, and the environment that we were given. That its exec failed comes over the link, as
    /// [`Received::ExecFailed`](super::link::Received::ExecFailed), before the process ends with code 127.
    ///
    /// On Linux it waits until the process executes its program: for as long as the system takes to open that, and for 200 ms at most while somebody writes to it.
    ///
    /// # Errors
    /// There is no process.
    pub(crate) fn start(&self) -> io::Result<(Pid, Link)> {
        let (mut link, socket) = Link::pair()?;
        let arguments = c_strings(std::env::args_os())?;
        let environment = self.environment(&socket)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let plan = Plan {
            program: self.program.as_raw_fd(),
            is_script: is_script(self.program),
            arguments: pointers(&arguments),
            environment: pointers(&environment),
            socket: socket.as_raw_fd(),
            stdio: self.quiet.map(|stderr| [null.as_raw_fd(), null.as_raw_fd(), stderr.as_raw_fd()]),
            parent: nix::unistd::getpid(),
            spawn: self,
        };
        // From here to the exec no handler of ours may run in the new process: it would write to the pipe that is the master's.
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))?;
        // SAFETY: the new process calls async-signal-safe functions only, and reads memory that was prepared before. All signals are blocked, and when they are not, none has a
        // handler any more.
        let started = unsafe { system::start(&|| plan.execute()) };
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        let child = started?;
        link.assume_sender(child);
        Ok((child, link))
    }

    fn environment(&self, socket: &OwnedFd) -> io::Result<Vec<CString>> {
        let is_masters =
            |name: &OsStr| name == activation::STORE_SIZE || notify_socket::VARIABLES.contains(&name.to_str().unwrap_or_default());
        let role = self.role.variable_for(socket)?;
        c_strings(environment_with(Some(role), |name| !is_masters(name) && !activation::is_for_us_alone(name)))
    }
}

/// Becomes another program at the start of the service: the same process, arguments and given environment, perhaps this variable, what was passed to this process at its
/// start, and the signals as they were before handlers of ours. Returns only if it could not.
pub(crate) fn execute(program: BorrowedFd<'_>, original: &Original, variable: Option<(OsString, OsString)>) -> io::Error {
    original.restore();
    replace_program(program, variable, true)
}

/// Becomes another program: the same process, arguments and given environment, and this variable. Signals that are held stay so. Returns only if it could not.
///
/// It gets its descriptors by the variable, and none that were passed to this process at its start.
pub(crate) fn become_program(program: BorrowedFd<'_>, variable: (OsString, OsString)) -> io::Error {
    replace_program(program, Some(variable), false)
}

fn replace_program(program: BorrowedFd<'_>, variable: Option<(OsString, OsString)>, is_start: bool) -> io::Error {
    let environment = environment_with(variable, |name| is_start || !activation::is_for_us_alone(name));
    let strings = c_strings(std::env::args_os()).and_then(|arguments| Ok((arguments, c_strings(environment)?)));
    let (arguments, environment) = match strings {
        Ok(strings) => strings,
        Err(error) => return error,
    };
    let keep_open = |keep: bool| {
        let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        is_script(program) && fcntl(program, FcntlArg::F_SETFD(flags)).is_ok()
    };
    keep_open(true);
    let (arguments, environment) = (pointers(&arguments), pointers(&environment));
    // SAFETY: both lists end in a null pointer and, like the strings that they point to, live through the call.
    unsafe { system::execute(program.as_raw_fd(), arguments.as_ptr(), environment.as_ptr()) };
    let error = io::Error::last_os_error();
    keep_open(false);
    error
}

/// Whether an exec fails so because the file is none to be executed.
pub(crate) fn is_not_executable(errno: Errno) -> bool {
    system::NOT_EXECUTABLE.contains(&errno)
}

/// Whether the kernel will hand the file to an interpreter. One that cannot be read is no script for anybody.
pub(crate) fn is_script(program: BorrowedFd<'_>) -> bool {
    system::readable(program).is_ok_and(|file| header::is_script(&file).unwrap_or(false))
}

/// What is kept of the environment as the process manager gave it, with the variable of a role.
fn environment_with(role: Option<(OsString, OsString)>, is_kept: impl Fn(&OsStr) -> bool) -> impl Iterator<Item = OsString> {
    let name =
        |variable: &OsString| OsStr::from_bytes(variable.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()).to_owned();
    let role = role.map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    let given = process::given_environment().iter().filter(move |variable| name(variable) != VARIABLE && is_kept(&name(variable)));
    given.cloned().chain(role)
}

fn c_strings(strings: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    // An argument or a variable of a running process has no zero byte inside.
    strings.map(|string| CString::new(string.into_vec()).map_err(io::Error::from)).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// All that the new process needs until its exec, prepared before it is started.
struct Plan<'a> {
    program: RawFd,
    is_script: bool,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    socket: RawFd,
    stdio: Option<[RawFd; 3]>,
    parent: Pid,
    spawn: &'a Spawn<'a>,
}

impl Plan<'_> {
    /// Runs in the new process. Returns if that could not execute its program, with its exit code.
    fn execute(&self) -> libc::c_int {
        let errno = self.try_execute();
        let report = (EXEC_FAILED | (errno as u32 & 0xFFFF)).to_le_bytes();
        // SAFETY: write(2) reads the four bytes of `report`.
        unsafe { libc::write(self.socket, report.as_ptr().cast(), report.len()) };
        127
    }

    fn try_execute(&self) -> Errno {
        // SAFETY: each call takes numbers, or pointers to memory that was prepared before and outlives the process; all are
        // async-signal-safe (signal-safety(7)) or plain system calls.
        unsafe {
            if self.spawn.own_group {
                libc::setpgid(0, 0);
            }
            system::die_with_parent(self.spawn.parent_death_signal);
            if libc::getppid() != self.parent.as_raw() {
                libc::_exit(0);
            }
            if self.spawn.expendable {
                system::be_expendable();
            }
            if let Some(stdio) = self.stdio {
                for (place, descriptor) in [0, 1, 2].into_iter().zip(stdio) {
                    if libc::dup2(descriptor, place) < 0 {
                        return Errno::last();
                    }
                }
            }
            // Whatever else is open, ours or inherited, ends with the exec; the socket is the one exception.
            let socket = self.socket.unsigned_abs();
            system::end_with_exec(3, socket - 1);
            system::end_with_exec(socket + 1, libc::c_uint::MAX);
            if libc::fcntl(self.socket, libc::F_SETFD, 0) < 0 || (self.is_script && libc::fcntl(self.program, libc::F_SETFD, 0) < 0) {
                return Errno::last();
            }
            self.spawn.original.restore_actions();
            for _ in 0..BUSY_TRIES {
                // Ctrl-Z is for all processes of the terminal: one that stopped before its exec would keep the one that waits for it from stopping too.
                self.spawn.original.unblock_but_stops();
                system::execute(self.program, self.arguments.as_ptr(), self.environment.as_ptr());
                if Errno::last() != Errno::ETXTBSY {
                    break;
                }
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
                libc::poll(std::ptr::null_mut(), 0, BUSY_PAUSE_MS);
            }
            Errno::last()
        }
    }
}
