//! Under supervisord, runit, s6 and daemontools, with the files of `contrib`.

use super::namespaces::Namespaces;
use super::service::{Manager, Order, Service};
use super::{address, can_show, scene};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const CONTRIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib");

fn contributed(name: &str) -> String {
    fs::read_to_string(Path::new(CONTRIB).join(name)).expect("it is there")
}

/// Starts the manager with a directory `manager` of files, which are seen in `/run/rig/manager`.
fn start<M: Manager>(manager: M, command: &[&str], files: &[(&str, &str)], words: &str) -> Service<M> {
    let address = address();
    let scene = scene(&address, words);
    for (name, text) in files {
        let path = scene.directory().join("manager").join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("mode set");
    }
    let namespaces = Namespaces::start(&scene, Path::new("/"), command);
    let mut service = Service { namespaces, scene, address, manager };
    service.wait_until_ready();
    service
}

fn shows_all<M: Manager>(mut service: Service<M>) {
    service.restarts_and_upgrades_are_seen_by_nobody();
    service.a_killed_master_is_started_again();
    service.a_stop_cuts_nothing();
}

struct Supervisord;

impl Manager for Supervisord {
    fn command(&self, order: Order) -> String {
        let order = match order {
            Order::Restart => "signal USR2 app",
            Order::Kill => "signal KILL app",
            Order::Stop => "stop app",
        };
        format!("supervisorctl -c /run/rig/manager/supervisord.conf {order}")
    }

    fn main_pid(&self) -> String {
        "supervisorctl -c /run/rig/manager/supervisord.conf pid app".to_owned()
    }

    fn end(&self, code: u8) -> Option<String> {
        Some(format!("stopped: app (exit status {code})"))
    }
}

const SUPERVISORD: &str = "[supervisord]
nodaemon=true
user=root
logfile=/dev/null
logfile_maxbytes=0
pidfile=/run/rig/manager/pid
[unix_http_server]
file=/run/rig/manager/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix:///run/rig/manager/socket
";

#[test]
fn supervisord_sees_one_process_through_restarts_upgrades_and_broken_releases() {
    if !can_show("a service under supervisord", &["supervisord", "unshare", "nsenter"]) {
        return;
    }
    // Its log is where supervisord itself writes.
    let program = contributed("supervisord/app.conf").replace("=/var/log/app.log", "=/dev/fd/1\nstdout_logfile_maxbytes=0");
    let files = [("supervisord.conf", &*format!("{SUPERVISORD}{program}"))];
    shows_all(start(Supervisord, &["supervisord", "-c", "/run/rig/manager/supervisord.conf"], &files, ""));
}

struct Runit;

impl Manager for Runit {
    fn command(&self, order: Order) -> String {
        let order = match order {
            Order::Restart => "2",
            Order::Kill => "kill",
            Order::Stop => "-w 40 down",
        };
        format!("sv {order} /run/rig/manager/app")
    }

    fn main_pid(&self) -> String {
        "cat /run/rig/manager/app/supervise/pid".to_owned()
    }

    fn end(&self, code: u8) -> Option<String> {
        Some(format!("the service has ended: {code} 0"))
    }
}

/// Says what the manager knows of the end: runit the exit code, or -1, and a wait status; s6 the exit code, or 256, and a signal.
const FINISH: &str = "#!/bin/sh\necho \"the service has ended: $1 $2\"\n";

#[test]
fn runit_sees_one_process_through_restarts_upgrades_and_broken_releases() {
    if !can_show("a service under runit", &["runsvdir", "sv", "chpst", "unshare", "nsenter"]) {
        return;
    }
    let files = [("app/run", &*contributed("runit/run")), ("app/finish", FINISH)];
    shows_all(start(Runit, &["runsvdir", "/run/rig/manager"], &files, ""));
}

struct S6;

impl Manager for S6 {
    fn command(&self, order: Order) -> String {
        let order = match order {
            Order::Restart => "-2",
            Order::Kill => "-k",
            Order::Stop => "-wD -T 40000 -d",
        };
        format!("s6-svc {order} /run/rig/manager/app")
    }

    fn main_pid(&self) -> String {
        "s6-svstat -o pid /run/rig/manager/app".to_owned()
    }

    fn end(&self, code: u8) -> Option<String> {
        Some(format!("the service has ended: {code} 0"))
    }
}

#[test]
fn s6_sees_one_process_through_restarts_upgrades_and_broken_releases() {
    if !can_show("a service under s6", &["s6-svscan", "s6-svc", "s6-setuidgid", "unshare", "nsenter"]) {
        return;
    }
    let files = [("app/run", &*contributed("s6/run")), ("app/finish", FINISH)];
    shows_all(start(S6, &["s6-svscan", "/run/rig/manager"], &files, ""));
}

struct Daemontools;

impl Manager for Daemontools {
    fn command(&self, order: Order) -> String {
        match order {
            Order::Restart => "svc -h /run/rig/manager/app",
            Order::Kill => "svc -k /run/rig/manager/app",
            // There is nothing that waits.
            Order::Stop => "svc -d /run/rig/manager/app; until svstat /run/rig/manager/app | grep -q ': down'; do sleep 0.02; done",
        }
        .to_owned()
    }

    fn main_pid(&self) -> String {
        "svstat /run/rig/manager/app | sed 's/.*(pid \\([0-9]*\\)).*/\\1/'".to_owned()
    }

    /// Nobody is told: svstat says that a service is down and for how long, and there is no file `finish`.
    fn end(&self, _: u8) -> Option<String> {
        None
    }
}

#[test]
fn daemontools_see_one_process_through_restarts_upgrades_and_broken_releases() {
    if !can_show("a service under daemontools", &["svscan", "svc", "setuidgid", "unshare", "nsenter"]) {
        return;
    }
    let words = format!("restart_signal={}", nix::libc::SIGHUP);
    shows_all(start(Daemontools, &["svscan", "/run/rig/manager"], &[("app/run", &*contributed("daemontools/run"))], &words));
}
