//! As the first process of a container, and behind one: tini and dumb-init.

use super::namespaces::Namespaces;
use super::service::{EXIT_CODE, Manager, Order, Service};
use super::{address, can_show, scene};
use crate::load::{Load, tell};
use nix::libc;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;

/// The first process, which has the signals, and the program's master, which is it or its child.
struct Init {
    main_pid: &'static str,
}

impl Manager for Init {
    fn command(&self, order: Order) -> String {
        match order {
            Order::Restart => "kill -USR2 1",
            Order::Kill => unreachable!("a container ends with it"),
            Order::Stop => "kill -TERM 1",
        }
        .to_owned()
    }

    fn main_pid(&self) -> String {
        self.main_pid.to_owned()
    }

    fn end(&self, _: u8) -> Option<String> {
        None
    }
}

fn start(command: &[&str], main_pid: &'static str, words: &str) -> Service<Init> {
    let address = address();
    let scene = scene(&address, words);
    let namespaces = Namespaces::start(&scene, Path::new("/"), command);
    let mut service = Service { namespaces, scene, address, manager: Init { main_pid } };
    service.wait_until_ready();
    service
}

fn shows_all(mut service: Service<Init>) {
    service.restarts_and_upgrades_are_seen_by_nobody();
    service.a_stop_cuts_nothing();
    assert_eq!(service.namespaces.app.wait_exit().code(), Some(i32::from(EXIT_CODE)));
}

#[test]
fn as_the_first_process_it_restarts_upgrades_and_ends_as_everywhere() {
    if can_show("PID 1", &["unshare", "nsenter"]) {
        shows_all(start(&["/opt/app/app"], "echo 1", ""));
    }
}

#[test]
fn behind_tini_it_restarts_upgrades_and_ends_as_everywhere() {
    if can_show("a service behind tini", &["tini", "unshare", "nsenter"]) {
        shows_all(start(&["tini", "--", "/opt/app/app"], "cat /proc/1/task/1/children", ""));
    }
}

#[test]
fn behind_dumb_init_which_signals_the_whole_group_too() {
    if can_show("a service behind dumb-init", &["dumb-init", "unshare", "nsenter"]) {
        shows_all(start(&["dumb-init", "--", "/opt/app/app"], "cat /proc/1/task/1/children", ""));
        shows_all(start(&["dumb-init", "--single-child", "--", "/opt/app/app"], "cat /proc/1/task/1/children", ""));
    }
}

#[test]
fn the_first_process_reaps_what_others_leave() {
    if !can_show("PID 1", &["unshare", "nsenter"]) {
        return;
    }
    let mut service = start(&["/opt/app/app"], "echo 1", "");
    let parent = "$(cut -d\" \" -f4 /proc/$$/stat)";
    let orphan = format!("sh -c 'until [ {parent} = 1 ]; do sleep 0.02; done; echo 1 >>/run/rig/parents' & ");
    service.namespaces.run(&format!("({}) & wait", orphan.repeat(20)));
    let parents = service.scene.directory().join("parents");
    let all = "1\n".repeat(20);
    service.namespaces.app.wait_until("all are orphans of PID 1", |_| fs::read_to_string(&parents).is_ok_and(|text| text == all));
    let init = service.namespaces.init();
    service.namespaces.app.wait_until("all are reaped", |_| {
        let of_init = crate::app::processes().into_iter().filter(|process| process.parent == init);
        of_init.filter(|process| process.name != "app").count() == 0
    });
    // Its own children are still its own.
    service.upgrade();
    service.a_stop_cuts_nothing();
    assert_eq!(service.namespaces.app.wait_exit().code(), Some(i32::from(EXIT_CODE)));
}

#[test]
fn the_first_process_passes_each_signal_on_once() {
    if !can_show("PID 1", &["unshare", "nsenter"]) {
        return;
    }
    let mut service = start(&["/opt/app/app"], "echo 1", "count_signals");
    let named = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGALRM, Signal::SIGWINCH, Signal::SIGIO, Signal::SIGVTALRM, Signal::SIGPROF];
    let others = [Signal::SIGURG, Signal::SIGXCPU, Signal::SIGXFSZ, Signal::SIGPWR];
    let signals: Vec<i32> =
        named.into_iter().chain(others).map(|signal| signal as i32).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()).collect();
    let list: Vec<String> = signals.iter().map(ToString::to_string).collect();
    service.namespaces.run(&format!("for signal in {}; do kill -$signal 1 || exit 1; done", list.join(" ")));
    let counts = |address: &str| -> Vec<u64> {
        let count = |signal: &i32| tell(address, &format!("counted {signal}")).expect("an answer").trim().rsplit_once(' ')?.1.parse().ok();
        signals.iter().map(|signal| count(signal).expect("a count")).collect()
    };
    let address = service.address.clone();
    service.namespaces.app.wait_until("all have arrived", |_| counts(&address).iter().all(|count| *count > 0));
    assert!(counts(&address).iter().all(|count| *count == 1), "{signals:?} {:?}", counts(&address));
}

#[test]
fn a_crash_ends_the_first_process_with_128_and_the_number_of_the_signal() {
    if !can_show("PID 1", &["unshare", "nsenter"]) {
        return;
    }
    let mut service = start(&["/opt/app/app"], "echo 1", "");
    let load = Load::steady(&service.address, 50);
    load.wait_for("1", 5);
    load.stop();
    let _ = tell(&service.address, "crash");
    assert_eq!(service.namespaces.app.wait_exit().code(), Some(128 + libc::SIGABRT));
}
