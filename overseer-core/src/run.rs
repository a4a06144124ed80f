//! The way in: finds out which role this process has, and plays it.

use crate::activation::Offers;
use crate::address::Address;
use crate::binary;
use crate::child::Shared;
use crate::state::{Bound, State};
use crate::sys::activation;
use crate::wish::{self, Wish};
use crate::{Config, Error};
#[cfg(unix)]
use crate::{
    child::{self, Beginning},
    command,
    fetcher::poll::{self, Poll},
    master::{self, Handed, Setup},
    protocol::{Hello, VERSIONS},
    role::{self, Role, RoleName},
    supervisor::Settings,
    sys::link::Link,
    sys::{process, signals},
};
use std::process::{ExitCode, Termination};
use std::sync::{Arc, OnceLock, Weak};

/// The running program of this process, for [`restart`].
static RUNNING: OnceLock<Weak<Shared>> = OnceLock::new();

/// Runs the program under a master, and answers the exit code for `main` to return. The first thing that `main` does after making the [`Config`].
///
/// The process that is started by hand or by a process manager becomes the master: it binds the addresses, starts the program in a child process,
/// and never returns from this call; it ends as the program ends. The same executable, started by the master, returns from here when the
/// program has returned. Code before this call runs in every process, with the environment and the arguments that the process manager gave, and in the master again after
/// each upgrade, with all signals held: what ends or hangs there ends or stops the service, and what it starts there inherits the listeners.
///
/// With the environment variable `OVERSEER` set to a command, the process does that and ends, with the exit status that docs/OPERATING.md names; it is not the
/// master then.
///
/// What prevents the start is written to standard error and answered with exit code 1; see [`try_run`] for the errors.
#[doc(alias = "Run")]
pub fn run<T: Termination>(config: Config<T>) -> ExitCode {
    match try_run(config) {
        Ok(value) => value.report(),
        Err(error) => {
            eprintln!("[overseer] error: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

/// The same as [`run`], for a `main` that wants the program's value, or the error.
///
/// # Errors
/// See [`Error`]. The program did not run, and nothing is left behind.
#[doc(alias = "RunErr")]
pub fn try_run<T>(config: Config<T>) -> Result<T, Error> {
    binary::keep_marker();
    play(config)
}

/// Without roles the program runs alone.
#[cfg(not(unix))]
fn play<T>(mut config: Config<T>) -> Result<T, Error> {
    is_switched_off()?;
    let addresses = config.validate()?;
    run_alone(config, &addresses, true)
}

#[cfg(unix)]
fn play<T>(mut config: Config<T>) -> Result<T, Error> {
    let threads = process::other_threads();
    let role = role::detect(threads.is_empty())?;
    let wish = if matches!(role, Role::Master) { wish()? } else { None };
    if let Some(wish) = wish.filter(|wish| *wish != Wish::Off) {
        // Whatever is wrong with the settings: an operator wants to know, or to mend it.
        std::process::exit(command::run(wish, config.binary_store.as_deref(), config.state_dir.as_deref()));
    }
    let valid = config.validate().and_then(|addresses| match threads.len() {
        // Not in a release build: what works for its users must not stop working by an upgrade.
        count if count > 0 && cfg!(debug_assertions) => Err(Error::Threads { count, names: threads.join(", ") }),
        _ => Ok(addresses),
    });
    match role {
        Role::Started(RoleName::Check | RoleName::Successor, link) => binary::check::answer(link, valid.err().map(|error| error.chain())),
        Role::Started(RoleName::Poll, link) => {
            valid?;
            let Some(fetcher) = config.fetcher else {
                return Err(Error::setting("fetcher", "none", "the master asks for a look, and there is nothing to look with"));
            };
            let (demands, check_timeout, pre_upgrade) = (config.demands, config.settings.check_timeout, config.pre_upgrade);
            poll::run(link, Poll { fetcher, demands, check_timeout, pre_upgrade })
        }
        Role::Successor(snapshot) => {
            let setup = valid.map(|addresses| setup(config, addresses, threads, None));
            Err(master::resume(setup, snapshot))
        }
        Role::Stored(file) => {
            let handed = Handed::read(file).map_err(Error::system("cannot read what the packaged file has handed over"))?;
            match valid {
                Err(error) if !handed.has_failed() => Err(handed.go_back(error)),
                valid => match master::run(setup(config, valid?, threads, Some(handed)))? {},
            }
        }
        Role::Started(RoleName::Stored, _) => unreachable!("no process is started as one"),
        Role::Started(RoleName::Proof, link) => {
            valid?;
            binary::candidate::run(link, &config.demands)
        }
        Role::Started(RoleName::Child, link) => run_child(link, config, &valid?),
        Role::Master => {
            let addresses = valid?;
            if is_switched_off()? {
                return run_alone(config, &addresses, threads.is_empty());
            }
            match master::run(setup(config, addresses, threads, None))? {}
        }
    }
}

#[cfg(unix)]
fn setup<T>(config: Config<T>, addresses: Vec<Address>, threads: Vec<String>, handed: Option<Handed>) -> Setup {
    Setup {
        addresses,
        settings: config.settings,
        log_format: config.log_format,
        debug: config.debug,
        no_warn: config.no_warn,
        pid_file: config.pid_file,
        state_dir: config.state_dir,
        binary_store: config.binary_store,
        demands: config.demands,
        handed,
        threads,
    }
}

/// Whether overseer can do its work on this system: on Linux, macOS and FreeBSD. Elsewhere, which is on Windows, [`run`] runs the program alone, in this
/// process and with [`State::enabled`] false, or fails if that was [`required`](Config::required).
#[doc(alias = "IsSupported")]
pub fn is_supported() -> bool {
    cfg!(unix)
}

/// Answers the self-check of a release at once, if this process is one, and does not return then. For a `main` that has much to do before it
/// can make its [`Config`], and for one that calls [`Upgrade`](crate::Upgrade): call it first. It proves less than the check in [`run`] does, which looks at the
/// settings too.
#[doc(alias = "SanityCheck")]
pub fn sanity_check() {
    #[cfg(unix)]
    answer_check(|| None);
}

/// Answers the self-check, if this process is one, with what is wrong with the settings; does not return then.
#[cfg(unix)]
pub(crate) fn answer_check(problem: impl FnOnce() -> Option<String>) {
    if role::started_in() == Some(RoleName::Check)
        && let Ok(Role::Started(RoleName::Check, link)) = role::detect(process::other_threads().is_empty())
    {
        binary::check::answer(link, problem());
    }
}

/// Asks the master to restart the program, as [`State::restart`] does, from anywhere in it. Answers whether there is a master to ask.
#[doc(alias = "Restart")]
pub fn restart() -> bool {
    let running = RUNNING.get().and_then(Weak::upgrade);
    running.is_some_and(|shared| shared.ask(&crate::protocol::ToMaster::Restart))
}

/// Whether this process runs the program for a master.
pub(crate) fn has_master() -> bool {
    RUNNING.get().and_then(Weak::upgrade).is_some_and(|shared| shared.has_master())
}

/// What the environment asks for.
fn wish() -> Result<Option<Wish>, Error> {
    let value = std::env::var_os(wish::VARIABLE).unwrap_or_default().to_string_lossy().into_owned();
    match Wish::read(&value) {
        None if !value.is_empty() => {
            Err(Error::setting(wish::VARIABLE, value, format!("the values of this environment variable are {}", wish::VALUES)))
        }
        wish => Ok(wish),
    }
}

/// Whether the environment asks for a program that is left alone.
///
/// # Errors
/// It asks for something else.
pub(crate) fn is_switched_off() -> Result<bool, Error> {
    match wish()? {
        Some(Wish::Off) => Ok(true),
        Some(Wish::Status { .. } | Wish::Command(_)) => {
            let value = std::env::var(wish::VARIABLE).unwrap_or_default();
            Err(Error::setting(wish::VARIABLE, value, "there is no master to ask here"))
        }
        None => Ok(false),
    }
}

#[cfg(unix)]
fn run_child<T>(mut link: Link, config: Config<T>, addresses: &[Address]) -> Result<T, Error> {
    let hello = Hello {
        protocol: VERSIONS,
        addresses: addresses.iter().map(Address::wanted).collect::<Result<_, Error>>()?,
        settings: Settings { answers_pings: true, ..config.settings.clone() },
    };
    let (welcome, sockets) = child::say_hello(&mut link, hello)?;
    if sockets.len() != addresses.len() {
        let why = format!("it sent {} listeners for {} addresses", sockets.len(), addresses.len());
        return Err(Error::Refused { address: None, why });
    }
    process::set_name(welcome.path.file_name().unwrap_or_default());
    // It is the master's, and `pkill -USR2 app` finds the children too.
    signals::disregard_where_default(config.settings.restart_signal);
    let beginning = Beginning {
        link: Some(link),
        is_simulated: false,
        settings: config.settings,
        generation: welcome.generation,
        id: welcome.id,
        path: welcome.path,
    };
    let shared = Shared::new(beginning).map_err(Error::system("cannot make a pair of sockets"))?;
    let bound = |(place, (socket, address))| Bound { socket, address, outlives_master: welcome.kept.contains(&place) };
    let sockets = sockets.into_iter().zip(addresses).enumerate().map(bound).collect();
    let state = State::new(Arc::clone(&shared), sockets, true);
    // Not before it has its listeners, of which the master may say more.
    if welcome.pings {
        shared.answer_pings();
    }
    Ok(run_program(config.program, state, &shared))
}

fn run_alone<T>(config: Config<T>, addresses: &[Address], is_only_thread: bool) -> Result<T, Error> {
    if config.required && !is_supported() {
        return Err(Error::Unsupported { system: std::env::consts::OS });
    }
    let offers = Offers::take().and_then(Offers::close_on_exec);
    let mut offers = offers.map_err(Error::system("cannot take the sockets that the service manager has passed"))?;
    if is_only_thread {
        activation::forget();
    }
    let (state, shared) = State::alone(addresses, config.settings, false, &mut offers)?;
    #[cfg(unix)]
    master::tell_without_master();
    Ok(run_program(config.program, state, &shared))
}

fn run_program<T>(program: Box<dyn FnOnce(State) -> T>, state: State, shared: &Arc<Shared>) -> T {
    let _ = RUNNING.set(Arc::downgrade(shared));
    let value = program(state);
    shared.finish();
    value
}
