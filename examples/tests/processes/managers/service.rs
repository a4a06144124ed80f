//! What every manager must see of a service: one process that stays.

use super::namespaces::Namespaces;
use crate::app::{Scene, spawn, version_in};
use crate::load::{Answer, Load, Request, tell};

/// How often a service is restarted under load.
const RESTARTS: u64 = 20;
/// The exit code of version 2.
pub(crate) const EXIT_CODE: u8 = 3;

/// What an operator does to a service by means of its manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// A restart of the program.
    Restart,
    /// SIGKILL for the master.
    Kill,
    /// The end of the service, waited for.
    Stop,
}

/// A process manager, by what is typed into a shell beside it.
pub(crate) trait Manager {
    fn command(&self, order: Order) -> String;

    /// Writes the PID that the manager takes for the service's.
    fn main_pid(&self) -> String;

    /// What it writes by itself when the service has ended with this exit code, if it does.
    fn end(&self, code: u8) -> Option<String>;

    /// Where releases are installed, below the directory of the scene.
    fn installs_at(&self) -> &str {
        "app/app"
    }
}

/// A service under a manager.
pub(crate) struct Service<M> {
    pub(crate) namespaces: Namespaces,
    pub(crate) scene: Scene,
    pub(crate) address: String,
    pub(crate) manager: M,
}

impl<M: Manager> Service<M> {
    pub(crate) fn wait_until_ready(&mut self) {
        self.namespaces.app.line_after("generation 1 is ready");
    }

    pub(crate) fn order(&mut self, order: Order) {
        self.namespaces.run(&self.manager.command(order));
    }

    pub(crate) fn main_pid(&mut self) -> i32 {
        let text = self.namespaces.run(&self.manager.main_pid());
        text.parse().unwrap_or_else(|_| panic!("{text:?} is no PID"))
    }

    /// How often the manager has started it.
    pub(crate) fn starts(&self) -> usize {
        self.namespaces.app.count_lines("master started as pid ")
    }

    pub(crate) fn installed_version(&self) -> String {
        version_in(&self.scene.directory().join(self.manager.installs_at()))
    }

    /// Waits until it answers so.
    pub(crate) fn wait_for_answer(&mut self, what: &str, mut wanted: impl FnMut(&Answer) -> bool) {
        let answer = |address: &str| tell(address, "hello").ok()?.parse().ok();
        self.namespaces.app.wait_until(what, |_| answer(&self.address).is_some_and(|answer| wanted(&answer)));
    }

    /// Installs version 2, which ends with [`EXIT_CODE`].
    pub(crate) fn upgrade(&mut self) {
        self.scene.publish(&format!("version=2 exit={EXIT_CODE}"));
        self.namespaces.app.line_after("the master runs ");
        self.wait_for_answer("version 2 serves", |answer| answer.version == "2");
    }

    /// Restarts, an upgrade and a broken release: neither clients nor the manager notice anything.
    pub(crate) fn restarts_and_upgrades_are_seen_by_nobody(&mut self) {
        let (pid, load) = (self.main_pid(), Load::steady(&self.address, 100));
        load.wait_for("1", 20);
        for generation in 2..=RESTARTS + 1 {
            self.order(Order::Restart);
            self.namespaces.app.line_after(&format!("generation {generation} took over"));
            self.namespaces.app.line_after(&format!("generation {} is gone (exit code 0)", generation - 1));
        }
        self.upgrade();
        self.scene.publish("version=3 behave=exit-at-start");
        self.namespaces.app.line_after_start("keeps serving; tried again in");
        load.wait_for("2", 20);
        assert_eq!(self.installed_version(), "2");
        let tally = load.stop();
        assert_eq!(tally.failed(), 0, "{tally}; all lines:\n{}", self.namespaces.app.all_lines());
        assert_eq!((self.main_pid(), self.starts()), (pid, 1));
    }

    /// The manager starts it again, and the installed release serves.
    pub(crate) fn a_killed_master_is_started_again(&mut self) {
        let (pid, starts) = (self.main_pid(), self.starts());
        self.order(Order::Kill);
        self.namespaces.app.wait_until("it is started again", |app| app.count_lines("master started as pid ") > starts);
        self.wait_for_answer("it serves again", |answer| answer.version == "2" && answer.generation == 1);
        assert_ne!(self.main_pid(), pid);
        assert_eq!((self.installed_version(), self.starts()), ("2".to_owned(), starts + 1));
    }

    /// What is open is finished, the manager sees the program's exit code, and does not start it again.
    pub(crate) fn a_stop_cuts_nothing(&mut self) {
        let starts = self.starts();
        let request = Request::begin(&self.address);
        let mut stop = spawn(&mut self.namespaces.inside(&self.manager.command(Order::Stop)));
        self.namespaces.app.line_after("got SIGTERM: finishing what is open");
        assert_eq!(request.finish().expect("an answer").version, "2");
        assert!(stop.wait().expect("its end").success(), "all lines:\n{}", self.namespaces.app.all_lines());
        if let Some(end) = self.manager.end(EXIT_CODE) {
            self.namespaces.app.line_after_start(&end);
        }
        self.namespaces.app.wait_until("nobody listens", |_| tell(&self.address, "hello").is_err());
        assert_eq!(self.starts(), starts);
    }
}
