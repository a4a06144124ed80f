//! The settings of a program, and what is wrong with them.

use crate::Error;
use crate::address::Address;
use crate::binary::Demands;
use crate::fetcher::Fetcher;
use crate::protocol::ADDRESSES_MAX;
use crate::signal::Signal;
use crate::state::State;
use crate::supervisor::{Installation, Settings};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest duration that a setting may have: 365 days.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The shortest interval between two looks that can be asked for.
pub(crate) const DURATION_MIN: Duration = Duration::from_millis(1);

/// How the master writes its own lines to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LogFormat {
    /// `[overseer] generation 2 (pid 4711) is ready after 0.2s`
    #[default]
    Text,
    /// One JSON object a line, with `time`, `level`, `code`, `message` and `pid`.
    Json,
}

/// What is done about a new release; see [`Config::upgrades`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Upgrades {
    /// It is fetched, proved and installed.
    #[default]
    Install,
    /// That it is there is said once and shown by `OVERSEER=status`; it is not installed.
    Notify,
    /// Nobody looks. Also what a newer build asks for that is unknown here.
    #[serde(other)]
    Off,
}

impl fmt::Display for Upgrades {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Install => "install",
            Self::Notify => "notify",
            Self::Off => "off",
        })
    }
}

/// What a program needs: itself, its addresses, where its releases come from, and how patient core is with it.
///
/// Made first thing in `main`, in every process that runs the executable, and handed to [`run`](crate::run()). Making one has no effects.
/// Wrong values are found by `run`, which names the setting and the value.
///
/// ```no_run
/// use overseer_core::{Config, State, run};
/// use std::io::Write;
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     run(Config::new(program).address(":3000"))
/// }
///
/// fn program(state: State) -> std::io::Result<()> {
///     for connection in state.listener().incoming() {
///         connection?.write_all(b"hello\n")?;
///     }
///     Ok(())
/// }
/// ```
#[must_use = "settings do nothing until they are given to run"]
pub struct Config<T> {
    pub(crate) program: Box<dyn FnOnce(State) -> T>,
    pub(crate) addresses: Vec<String>,
    pub(crate) fetcher: Option<Box<dyn Fetcher>>,
    pub(crate) settings: Settings,
    pub(crate) demands: Demands,
    pub(crate) pre_upgrade: Option<PreUpgrade>,
    pub(crate) required: bool,
    pub(crate) debug: bool,
    pub(crate) no_warn: bool,
    pub(crate) log_format: LogFormat,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) binary_store: Option<PathBuf>,
}

/// The last word on a proved release: see [`Config::pre_upgrade`].
pub(crate) type PreUpgrade = Box<dyn FnOnce(&Path) -> Result<(), String> + Send>;

impl<T> Config<T> {
    /// Settings for `program`, all at their defaults: no address, no fetcher.
    ///
    /// The program runs on the main thread of the child. When it returns, the process ends with what it returned.
    #[doc(alias = "Program")]
    pub fn new(program: impl FnOnce(State) -> T + 'static) -> Self {
        Self {
            program: Box::new(program),
            addresses: Vec::new(),
            fetcher: None,
            settings: Settings::default(),
            demands: Demands::default(),
            pre_upgrade: None,
            required: false,
            debug: false,
            no_warn: false,
            log_format: LogFormat::Text,
            pid_file: None,
            state_dir: None,
            binary_store: None,
        }
    }

    /// Adds an address to listen on; the program gets its [`Listener`](crate::Listener), or its [`DatagramSocket`](crate::DatagramSocket), from the [`State`]. See
    /// [`Address`] for the forms and options.
    #[doc(alias = "Address")]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Adds several addresses.
    #[doc(alias = "Addresses")]
    pub fn addresses<A: Into<String>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        self.addresses.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// Sets where new releases come from. Without one, the program is restarted on a signal but never upgraded by core.
    pub fn fetcher(mut self, fetcher: impl Fetcher) -> Self {
        self.fetcher = Some(Box::new(fetcher));
        self
    }

    /// The signal that makes the master restart the program; SIGUSR2 unless set.
    #[doc(alias = "RestartSignal")]
    pub fn restart_signal(mut self, signal: Signal) -> Self {
        self.settings.restart_signal = signal;
        self
    }

    /// The signals that ask a program which drains to leave; SIGTERM and SIGINT unless set. Other signals, and these in a program that
    /// does not drain, reach the program as they are.
    pub fn stop_signals(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {
        self.settings.stop_signals = signals.into_iter().collect();
        self
    }

    /// For how long a draining generation may finish its open requests; 30 s unless set. Then it is killed.
    #[doc(alias = "TerminateTimeout")]
    pub fn terminate_timeout(mut self, time: Duration) -> Self {
        self.settings.terminate_timeout = time;
        self
    }

    /// For how long a candidate and the old generation both serve before the candidate is committed; 1 s unless set.
    pub fn warm_up(mut self, time: Duration) -> Self {
        self.settings.warm_up = time;
        self
    }

    /// Whether a candidate accepts connections in its warm-up; yes unless set. With `false`, [`Listener::incoming`](crate::Listener::incoming) waits until the
    /// candidate is committed, so that a candidate that crashes cannot take a connection with it; and the warm-up proves less.
    pub fn warm_up_accept(mut self, accept: bool) -> Self {
        self.settings.accept_in_warm_up = accept;
        self
    }

    /// For how long after a commit an abnormal end of the program is blamed on the release; 5 min unless set, zero for never.
    pub fn probation(mut self, time: Duration) -> Self {
        self.settings.probation = time;
        self
    }

    /// Makes a candidate wait for [`State::ready`] (or the first accept of `incoming`), and gives it this long; then it is held back.
    ///
    /// Unless set, a candidate that says nothing counts as ready when it has lived for the warm-up.
    pub fn ready_timeout(mut self, time: Duration) -> Self {
        self.settings.ready_timeout = Some(time);
        self
    }

    /// Makes a candidate wait for [`State::ready`], for 60 s. The same as [`Config::ready_timeout`] with that time.
    pub fn wait_for_ready(self) -> Self {
        self.ready_timeout(Duration::from_secs(60))
    }

    /// How long the self-check of a staged release, and a new generation's first message, may take; 5 s unless set.
    pub fn check_timeout(mut self, time: Duration) -> Self {
        self.settings.check_timeout = time;
        self
    }

    /// For how long a look may make no progress; 10 min unless set. Then the poll process is killed.
    pub fn fetch_timeout(mut self, time: Duration) -> Self {
        self.settings.fetch_timeout = time;
        self
    }

    /// The shortest pause between two looks, whatever the fetcher asks for; 1 s unless set.
    #[doc(alias = "MinFetchInterval")]
    pub fn min_fetch_interval(mut self, time: Duration) -> Self {
        self.settings.min_fetch_interval = time;
        self
    }

    /// The largest release in bytes, before and after unpacking; 1 GiB unless set. For a `.tar` in any packing, it holds for everything in the archive together.
    pub fn size_bytes_max(mut self, bytes: u64) -> Self {
        self.demands.size_bytes_max = bytes;
        self
    }

    /// Trusts a minisign key: the letters `RW...` that `minisign -G` shows, or the text of its `.pub` file. May be called several times, so that
    /// a key can be replaced by another: a release signed with any of them is taken. No key unless set, and then releases need no signature.
    ///
    /// With a key, a release is installed only with its `.minisig` file, made by minisign 0.11 or later over the file as it is published. One that is not
    /// signed, signed with another key, changed, or signed under another file name is held back; so is one that was signed before the installed one, see
    /// [`Config::allow_downgrade`]. It is tried again after 10 min and then every hour, since the signature can be mended.
    ///
    /// A release that is held back already waits for its time, also after a start with other keys. The keys of the version that runs decide, so a new key must be in a release that is signed with an old one. They are not asked about a file
    /// that an operator puts at the program's path.
    pub fn trusted_key(mut self, key: impl Into<String>) -> Self {
        self.demands.trusted_keys.push(key.into());
        self
    }

    /// Trusts several minisign keys; see [`Config::trusted_key`].
    pub fn trusted_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.demands.trusted_keys.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Whether a release may be installed whose signed `timestamp:` is older than that of the installed one, or missing where that has one. Not unless
    /// set, so that who controls the source cannot bring back an old release with a known fault. What was signed more than a day ahead of this
    /// machine's clock waits too, since once installed it would keep out its successors. Matters only with a [`Config::trusted_key`].
    pub fn allow_downgrade(mut self, allow: bool) -> Self {
        self.demands.allow_downgrade = allow;
        self
    }

    /// Which entry of an archive (`.tar.gz`, `.zip`, ...) is the program: the end of its path, such as `app` or `bin/app`. Whatever lies before that, such as a
    /// directory with a version in its name, may be anything.
    ///
    /// Unless set, it is the entry named like the program's file; of several, the one that is an executable; if there is none, the only executable in the archive.
    /// An executable is known by its first bytes: modes in an archive do not count. If that does not find one, the release is rejected, with
    /// what is inside.
    pub fn archive_entry(mut self, path: impl Into<String>) -> Self {
        self.demands.archive_entry = Some(path.into());
        self
    }

    /// Whether a release may be a script (`#!`) that ends in the `exec` of a program built with overseer; not unless set.
    ///
    /// The script takes the place of the file at the program's path, and for each generation from then on the kernel starts it with the interpreter that it
    /// names. Of what it starts nothing is proved but that it answers the self-check, in the process that was started: not its signature, and not that
    /// it is the same tomorrow. What this does and does not do:
    ///
    /// - The interpreter reads the script from a descriptor: `$0` is `/dev/fd/N`, so the script must name what it starts by its whole path. The program that it
    ///   becomes inherits that descriptor.
    /// - A script that starts the program at the program's path is rejected: installed there, it would start itself for ever.
    /// - A service that is *started* by the script's path has the program that the script becomes as its master, and the master takes its path from that. Upgrades then
    ///   replace that program, with a memory of their own beside it, and not the script; this script is rejected there by the rule above.
    /// - What the kernel does not execute is never handed to a shell, with this setting or without.
    pub fn allow_scripts(mut self, allow: bool) -> Self {
        self.demands.allow_scripts = allow;
        self
    }

    /// Has the last word on a release that is proved and not yet started, with the path of its file. It runs in the poll process; an
    /// error or a panic holds the release back and is the reason in the log. It must be done within `fetch_timeout`, for which it counts as no progress.
    #[doc(alias = "PreUpgrade")]
    pub fn pre_upgrade(mut self, hook: impl FnOnce(&Path) -> Result<(), String> + Send + 'static) -> Self {
        self.pre_upgrade = Some(Box::new(hook));
        self
    }

    /// Installs a release after proof and check without starting it: for a program that ends by itself, such as a command-line
    /// tool. The restart signal then means a graceful shutdown. In the probation only an end by a signal counts as abnormal, since the exit code of such a
    /// program is an answer; the previous binary is put back then and not started.
    ///
    /// The first look begins with the program, if the last one was an interval ago. When the program ends, the look ends too, at once; what it has
    /// downloaded stays, and the next run goes on with it, so runs that are shorter than the download get there together. A program that has ended
    /// before any byte of a release came has had its look for this interval. One that is always shorter than a request to its source takes is never
    /// upgraded in this way: [`Upgrade`](crate::Upgrade) is for that.
    #[doc(alias = "NoRestart")]
    pub fn no_restart(mut self) -> Self {
        self.settings.installation = Installation::WithoutRestart;
        self
    }

    /// Lets a proved release wait until the next restart, which takes it as candidate.
    #[doc(alias = "NoRestartAfterFetch")]
    pub fn no_restart_after_fetch(mut self) -> Self {
        self.settings.installation = Installation::AtNextRestart;
        self
    }

    /// Whether the program may run in two generations at once; yes unless set. With `false`, on a restart and on an upgrade the serving generation drains and ends before
    /// the program of the next one begins: for programs with a lock, or with a database that only one process may open.
    ///
    /// The next generation is started before, up to [`run`](crate::run()): a file that cannot be started, wrong settings, and addresses that cannot be had are found while the old
    /// one serves. Then connections wait in the backlog until the next generation accepts; none is refused. How long that takes is how long the old one drains
    /// (`terminate_timeout` at most, so set that to what clients may wait), and how long the next one needs to be ready. If it fails before its commit, the
    /// file that served before is started again. If it is taken back later, old generations of it have 2 s to finish, since nobody serves meanwhile. The setting holds for both sides of a hand-over: if either version says `false`, the two do not overlap.
    ///
    /// An address that overlaps one of the old version, such as `127.0.0.1:3000` in place of `:3000`, can be had only in this way. Who waits in the backlog of the old one is cut.
    pub fn overlap(mut self, overlap: bool) -> Self {
        self.settings.overlap = overlap;
        self
    }

    /// How many old generations may drain at once; 4 unless set, and at least 1. Where there is one more, the oldest has 2 s left and is killed then; what it has told
    /// by [`Draining::deadline`](crate::Draining::deadline) becomes as much earlier. A candidate that failed before it served gives way before all others. For programs that are replaced often and drain for long: each old generation has memory of its own.
    pub fn max_draining(mut self, generations: usize) -> Self {
        self.settings.max_draining = generations;
        self
    }

    /// What is done about a new release: it is installed, unless set. With [`Upgrades::Notify`] the source is looked at as often, and what is new there is told
    /// once, in the log, and shown by `OVERSEER=status`. With [`Upgrades::Off`] it is not looked at. Restarts work with each.
    ///
    /// With `Notify`, a release is downloaded only where nothing else tells whether it is the file that runs: a binary that core has not installed, and a source that
    /// names no digest of the plain file. It is compared once, and nothing of it is executed or kept.
    pub fn upgrades(mut self, upgrades: Upgrades) -> Self {
        self.settings.upgrades = Some(upgrades);
        self
    }

    /// Whether the master becomes the new file too, under its PID, once that is at the program's path and serves; yes unless set. That file is a release, its
    /// predecessor if it was taken back, or what somebody put there before a restart. With `false` the master goes on with the code that the service was started with,
    /// and with its [`Config::debug`], [`Config::no_warn`], [`Config::log_format`] and [`Config::pid_file`]; all other settings are those of the generation that serves.
    pub fn upgrade_master(mut self, upgrade: bool) -> Self {
        self.settings.upgrade_master = upgrade;
        self
    }

    /// Makes it an error to run on a system that overseer does not support. Otherwise the program then runs alone.
    #[doc(alias = "Required")]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    /// Makes the master tell more.
    #[doc(alias = "Debug")]
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = debug;
        self
    }

    /// Makes the master keep its warnings to itself.
    #[doc(alias = "NoWarn")]
    pub fn no_warn(mut self, no_warn: bool) -> Self {
        self.no_warn = no_warn;
        self
    }

    /// How the master writes its lines; as text unless set.
    pub fn log_format(mut self, format: LogFormat) -> Self {
        self.log_format = format;
        self
    }

    /// A file that holds the master's PID while it lives. It is locked, so that a second master with the same file is an error.
    #[doc(alias = "Pidfile")]
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pid_file = Some(path.into());
        self
    }

    /// Keeps committed releases in this directory, where the program's own is read-only: in a hardened unit, a distribution package, a container's image.
    ///
    /// The *packaged* file, at the path that the service is started by, is left alone. The directory gets what else lies beside the program: the committed release
    /// under the program's name, `previous` and `state.json`. It must belong to the service's user or root, be writable by nobody else, and allow execution (no `noexec`). It is made
    /// if only its last part is missing.
    ///
    /// ```no_run
    /// # use overseer_core::{Config, File, run};
    /// # fn main() -> std::process::ExitCode {
    /// let mut config = Config::new(|_state| ()).fetcher(File::new("/srv/releases/app"));
    /// // A unit with `StateDirectory=app`, for example together with `DynamicUser=yes` and `ProtectSystem=strict`.
    /// if let Some(store) = std::env::var_os("STATE_DIRECTORY") {
    ///     config = config.binary_store(store);
    /// }
    /// run(config)
    /// # }
    /// ```
    ///
    /// An operator's shell has no such variable, so a command needs it too: `STATE_DIRECTORY=/var/lib/app OVERSEER=status /opt/app/app`.
    ///
    /// **At each start** the packaged file decides, and executes the release in its own place if that is to run: same PID, arguments and environment. It runs itself
    /// - when somebody has changed it since the release was committed: a package upgrade wins, and the release is moved to `.NAME.set-aside` and not installed again. What counts is
    ///   its contents, so a new container of the same image changes nothing. A restart of the running service takes a changed packaged file too;
    /// - when the release is missing, damaged (SHA-256), cannot be executed or finds its settings wrong. One on probation is taken back as everywhere;
    /// - when it was started three times in a row without becoming ready. It may be for want of something that the packaged file needs as well, so it is held back for ten minutes and not rejected: the next
    ///   start takes it again if the packaged file does not come up either, else the first start after that time does, or a look of the running service;
    /// - with a [`trusted_key`](Config::trusted_key) of the packaged file: when no such key has signed the release. The service's user can write to the directory, so
    ///   a hash that lies there proves nothing, and the signature is proved again at each start, over what is executed. A restart proves a file there in the same way unless it is the one
    ///   that serves, with the keys of the program that does.
    ///
    /// That reads all of the release, and costs about 5 ms for each MiB on one core, once for each start of the service.
    ///
    /// # What it does not do
    ///
    /// - A release with a new key must be signed with one that the *packaged* file trusts, or the next start goes back to that. So a change of keys needs a new package.
    /// - What a crash in the probation or a rollback goes back to is not proved before the next start.
    /// - Who can write to the directory can put an older release there that a trusted key has signed, or none.
    /// - What an operator puts there is run neither by the next start nor by a restart. The place for that is the path that the service is started by.
    /// - A script cannot be a release, and a mount of the packaged file's own path is no obstacle.
    /// - The packaged file decides where the directory is: a release that names another one is heard by its own children alone.
    pub fn binary_store(mut self, directory: impl Into<PathBuf>) -> Self {
        self.binary_store = Some(directory.into());
        self
    }

    /// Where `state.json`, `previous` and the lock lie; `.NAME.overseer` beside the program, or in the [`binary_store`](Config::binary_store), unless set.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Finds what is wrong with the settings, without any input or output, and answers the addresses.
    pub(crate) fn validate(&mut self) -> Result<Vec<Address>, Error> {
        let settings = &self.settings;
        for (name, value, min) in [
            ("terminate_timeout", Some(settings.terminate_timeout), Duration::ZERO),
            ("warm_up", Some(settings.warm_up), Duration::ZERO),
            ("probation", Some(settings.probation), Duration::ZERO),
            ("ready_timeout", settings.ready_timeout, DURATION_MIN),
            ("check_timeout", Some(settings.check_timeout), DURATION_MIN),
            ("fetch_timeout", Some(settings.fetch_timeout), DURATION_MIN),
            ("min_fetch_interval", Some(settings.min_fetch_interval), DURATION_MIN),
        ] {
            value.map_or(Ok(()), |value| check_duration(name, value, min))?;
        }
        if settings.max_draining == 0 {
            return Err(Error::setting(
                "max_draining",
                0,
                "it must be at least 1: the one that was just replaced has to finish what it has open",
            ));
        }
        if !settings.restart_signal.can_be_caught() {
            return Err(Error::setting("restart_signal", settings.restart_signal, "this signal cannot be caught or has another use"));
        }
        for signal in &settings.stop_signals {
            if !signal.can_be_caught() {
                return Err(Error::setting("stop_signals", signal, "this signal cannot be caught or has another use"));
            }
            if *signal == settings.restart_signal {
                return Err(Error::setting("stop_signals", signal, "it is the restart_signal too"));
            }
        }
        self.demands.validate()?;
        for (name, path) in [("pid_file", &self.pid_file), ("state_dir", &self.state_dir), ("binary_store", &self.binary_store)] {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                return Err(Error::setting(name, "", "the path is empty"));
            }
        }
        if let Some(store) = self.binary_store.as_ref().filter(|_| self.demands.allow_scripts) {
            return Err(Error::setting("binary_store", store.display(), "a script cannot be kept there, and allow_scripts is set"));
        }
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(Error::setting("addresses", self.addresses.len(), format!("at most {ADDRESSES_MAX} can be handed to a process")));
        }
        let addresses = Address::parse_all(&self.addresses)?;
        if let Some(fetcher) = &self.fetcher {
            fetcher.check().map_err(|source| Error::Fetcher { source })?;
            self.settings.source = Some(fetcher.source());
            self.settings.interval = fetcher.interval();
            check_duration("interval", self.settings.interval, DURATION_MIN)?;
        }
        Ok(addresses)
    }
}

/// Whether a duration can be counted with.
pub(crate) fn check_duration(name: &'static str, value: Duration, min: Duration) -> Result<(), Error> {
    if value >= min && value <= DURATION_MAX {
        return Ok(());
    }
    Err(Error::setting(name, format!("{value:?}"), format!("must be between {min:?} and 365 days")))
}

impl<T> fmt::Debug for Config<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("addresses", &self.addresses)
            .field("source", &self.fetcher.as_ref().map(|fetcher| fetcher.source()))
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetcher::{FetchError, File, Known, Look};

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn config() -> Config<()> {
        Config::new(|_state| ())
    }

    fn wrong(mut config: Config<()>) -> String {
        config.validate().expect_err("a setting is wrong").chain()
    }

    #[test]
    fn the_defaults_are_good_and_those_of_the_documentation() {
        let mut config = config();
        assert!(config.validate().expect("nothing is wrong").is_empty());
        let settings = &config.settings;
        assert_eq!((settings.restart_signal, &settings.stop_signals[..]), (Signal::USR2, &[Signal::TERM, Signal::INT][..]));
        let seconds = [settings.terminate_timeout, settings.warm_up, settings.probation, settings.check_timeout, settings.fetch_timeout];
        assert_eq!(seconds.map(|time| time.as_secs()), [30, 1, 300, 5, 600]);
        assert_eq!((settings.ready_timeout, settings.min_fetch_interval), (None, Duration::from_secs(1)));
        assert!(settings.accept_in_warm_up && settings.overlap);
        assert_eq!(settings.max_draining, 4);
        assert_eq!((config.demands.size_bytes_max, config.demands.allow_scripts, &config.demands.archive_entry), (1 << 30, false, &None));
        assert_eq!(config.wait_for_ready().settings.ready_timeout, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_value() {
        let year = Duration::from_secs(366 * 24 * 60 * 60);
        for (config, begins) in [
            (config().warm_up(year), "setting warm_up is \"31622400s\": "),
            (config().terminate_timeout(Duration::MAX), "setting terminate_timeout is "),
            (config().probation(year), "setting probation is "),
            (config().ready_timeout(Duration::ZERO), "setting ready_timeout is \"0ns\": "),
            (config().check_timeout(Duration::ZERO), "setting check_timeout is "),
            (config().fetch_timeout(Duration::ZERO), "setting fetch_timeout is "),
            (config().min_fetch_interval(Duration::ZERO), "setting min_fetch_interval is "),
            (config().max_draining(0), "setting max_draining is \"0\": it must be at least 1"),
            (config().restart_signal(Signal::KILL), "setting restart_signal is \"SIGKILL\": "),
            (config().restart_signal(Signal::TERM), "setting stop_signals is \"SIGTERM\": it is the restart_signal too"),
            (config().stop_signals([Signal::CHLD]), "setting stop_signals is \"SIGCHLD\": "),
            (config().size_bytes_max(0), "setting size_bytes_max is \"0\": "),
            (config().archive_entry(""), "setting archive_entry is \"\": "),
            (config().archive_entry("bin/"), "setting archive_entry is \"bin/\": it must end with the name of a file"),
            (config().trusted_key("RW"), "setting trusted_key is \"RW\": it is not a public key of minisign"),
            (config().trusted_keys([KEY, "RWRTY0Iy".repeat(26).as_str()]), "setting trusted_key is \"RWRTY0Iy...\": it is longer"),
            (config().pid_file(""), "setting pid_file is \"\": "),
            (config().state_dir(""), "setting state_dir is \"\": "),
            (config().binary_store(""), "setting binary_store is \"\": "),
            (config().binary_store("/srv").allow_scripts(true), "setting binary_store is \"/srv\": a script cannot be kept there"),
            (config().address("nowhere"), "setting address is \"nowhere\": there is no port"),
            (config().addresses((0..254).map(|port| format!(":{port}"))), "setting addresses is \"254\": at most 253"),
            (config().fetcher(File::new("/app").every(Duration::ZERO)), "setting interval is \"0ns\": "),
        ] {
            let text = wrong(config);
            assert!(text.starts_with(begins), "{text}\nis not\n{begins}");
        }
    }

    #[test]
    fn keys_add_up_and_a_downgrade_is_not_allowed_unless_asked_for() {
        let mut config = config().trusted_key(KEY).trusted_keys([format!("untrusted comment: a file\n{KEY}\n")]);
        config.validate().expect("both are keys");
        assert_eq!((config.demands.trusted_keys.len(), config.demands.allow_downgrade), (2, false));
        assert!(config.allow_downgrade(true).demands.allow_downgrade);
    }

    #[test]
    fn what_is_wrong_with_the_fetcher_is_told() {
        struct Wrong;
        impl Fetcher for Wrong {
            fn source(&self) -> String {
                "nowhere".to_owned()
            }
            fn check(&self) -> Result<(), FetchError> {
                Err(FetchError::settings("the bucket has no name"))
            }
            fn fetch(&mut self, _known: &Known) -> Result<Look, FetchError> {
                Ok(Look::unchanged())
            }
        }
        assert_eq!(wrong(config().fetcher(Wrong)), "the fetcher's settings cannot be used: the bucket has no name");
    }
}
