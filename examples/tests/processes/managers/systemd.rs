//! Under systemd: the units of `contrib/systemd`, as they are there.

use super::namespaces::Namespaces;
use super::service::{Manager, Order, Service};
use super::{address, can_show};
use crate::app::{Scene, put, release, spawn};
use crate::load::{Load, Request, ask};
use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/systemd");

struct Systemd;

impl Manager for Systemd {
    fn command(&self, order: Order) -> String {
        match order {
            Order::Restart => "systemctl reload app",
            Order::Kill => "systemctl kill --kill-who=main --signal=KILL app",
            Order::Stop => "systemctl stop app",
        }
        .to_owned()
    }

    fn main_pid(&self) -> String {
        "systemctl show --property=MainPID --value app".to_owned()
    }

    fn end(&self, _: u8) -> Option<String> {
        None
    }
}

impl Service<Systemd> {
    /// Boots a systemd with the units of this directory and what is set on top of `app.service`, and starts that.
    fn boot(units: &str, on_top: &str, words: &str) -> Self {
        Self::boot_from(Path::new("/"), units, on_top, words)
    }

    /// The same with the systemd of another file system.
    fn boot_from(tree: &Path, units: &str, on_top: &str, words: &str) -> Self {
        let address = address();
        let scene = Scene::with_source(&format!("address={address} fetch=/srv/releases/release {words}"));
        let own = scene.directory().join("units");
        fs::create_dir(&own).expect("made");
        let output = "StandardOutput=append:/run/rig/lines\nStandardError=append:/run/rig/lines";
        let of_service = format!("[Service]\nEnvironment=\"ACTOR={}\"\n{output}\n{on_top}\n", scene.words());
        for unit in fs::read_dir(Path::new(UNITS).join(units)).expect("a directory").flatten() {
            let name = unit.file_name().into_string().expect("a name");
            fs::copy(unit.path(), own.join(&name)).expect("copied");
            let on_top = own.join(format!("{name}.d"));
            fs::create_dir(&on_top).expect("made");
            let text = match &*name {
                "app.socket" => format!("[Socket]\nListenStream=\nListenStream={address}\n"),
                _ => of_service.clone(),
            };
            fs::write(on_top.join("test.conf"), text).expect("written");
        }
        let mut namespaces = Namespaces::start_systemd(&scene, tree);
        namespaces.run("systemctl start app");
        let mut service = Self { namespaces, scene, address, manager: Systemd };
        service.wait_until_ready();
        service
    }

    fn property(&mut self, name: &str) -> String {
        self.namespaces.run(&format!("systemctl show --property={name} --value app"))
    }
}

fn can_show_systemd(what: &str) -> bool {
    can_show(what, &["/usr/lib/systemd/systemd", "systemctl", "unshare", "nsenter"])
}

#[test]
fn systemd_sees_one_process_through_restarts_upgrades_and_broken_releases() {
    if !can_show_systemd("a service under systemd") {
        return;
    }
    let mut service = Service::boot("plain", "", "");
    service.restarts_and_upgrades_are_seen_by_nobody(20);
    assert_eq!((service.property("NRestarts"), service.property("ActiveState")), ("0".into(), "active".into()));
    service.a_killed_master_is_started_again();
    assert_eq!(service.property("NRestarts"), "1");
    service.a_stop_cuts_nothing();
    assert_eq!((service.property("Result"), service.property("ExecMainStatus")), ("exit-code".into(), "3".into()));
}

/// A file system with a systemd that knows more than the machine's, if the test can run.
fn newer_systemd(what: &str) -> Option<PathBuf> {
    if !can_show(what, &["unshare", "nsenter"]) {
        return None;
    }
    let tree = env::var_os("OVERSEER_TRIXIE").map(PathBuf::from);
    if tree.is_none() {
        let line = format!("{what} is not shown: OVERSEER_TRIXIE names no file system with systemd 257, which .ci/run makes");
        assert!(env::var_os("OVERSEER_CI").is_none(), "{line}");
        println!("{line}");
    }
    tree
}

#[test]
fn a_reload_by_notify_reload_waits_and_a_killed_master_refuses_nobody_with_the_descriptor_store() {
    let Some(tree) = newer_systemd("Type=notify-reload") else { return };
    let mut service = Service::boot_from(&tree, "notify-reload", "", "");
    service.restarts_and_upgrades_are_seen_by_nobody(20);
    let load = Load::steady(&service.address, 100);
    load.wait_for("2", 10);
    service.namespaces.run("systemctl restart app");
    for generation in 2..=3 {
        service.order(Order::Restart);
        // The order has waited for it.
        let status = service.property("StatusText");
        assert!(status.contains(&format!("generation {generation}, serving since")), "{status}");
    }
    load.wait_for("2", 10);
    let tally = load.tally();
    assert_eq!(tally.failed(), 0, "{tally}; all lines:\n{}", service.namespaces.app.all_lines());
    service.a_killed_master_is_started_again();
    assert_eq!(load.stop().refused, 0);
    service.a_stop_cuts_nothing();
    assert_eq!((service.property("Result"), service.property("ExecMainStatus")), ("exit-code".into(), "3".into()));
}

#[test]
fn a_start_and_a_stop_that_take_long_are_given_their_time() {
    if !can_show_systemd("EXTEND_TIMEOUT_USEC") {
        return;
    }
    // Longer than systemd gives, and shorter than the program may take.
    let time_outs = "TimeoutStartSec=1\nTimeoutStopSec=1";
    let mut service = Service::boot("plain", time_outs, "behave=late-ready delay=3000");
    let request = Request::begin(&service.address);
    let mut stop = spawn(&mut service.namespaces.inside("systemctl stop app"));
    service.namespaces.app.line_after("got SIGTERM: finishing what is open");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(request.finish().expect("an answer").generation, 1);
    assert!(stop.wait().expect("its end").success());
    assert_eq!((service.property("Result"), service.starts()), ("success".into(), 1));
}

#[test]
fn systemd_is_told_that_a_reload_has_failed() {
    if !can_show_systemd("a failed reload") {
        return;
    }
    let mut service = Service::boot("plain", "", "");
    let status = service.property("StatusText");
    assert!(status.contains("generation 1, serving since"), "{status}");
    put(&service.scene.program(), &release("version=2 behave=exit-at-start"));
    let reload = spawn(&mut service.namespaces.inside(&service.manager.command(Order::Restart))).wait().expect("its end");
    assert!(!reload.success(), "{reload}; all lines:\n{}", service.namespaces.app.all_lines());
    let status = service.property("StatusText");
    assert!(status.contains("the restart as generation 2 failed at"), "{status}");
    assert_eq!((service.property("ActiveState"), ask(&service.address).generation), ("active".into(), 1));
    // The file that serves is the one that is mended.
    put(&service.scene.program(), &release("version=2"));
    service.order(Order::Restart);
    service.wait_for_answer("version 2 serves", |answer| answer.version == "2");
}

#[test]
fn a_program_that_hangs_is_started_again_by_the_watchdog() {
    if !can_show_systemd("WatchdogSec=") {
        return;
    }
    let mut service = Service::boot("plain", "WatchdogSec=2\nRestart=on-watchdog", "");
    // Longer than that, it answers.
    thread::sleep(Duration::from_secs(4));
    assert_eq!((service.starts(), service.property("NRestarts")), (1, "0".into()));
    let serving = ask(&service.address).pid;
    service.namespaces.run(&format!("kill -STOP {serving}"));
    service.namespaces.app.wait_until("it is started again", |app| app.count_lines("generation 1 is ready") == 2);
    assert_eq!(service.property("NRestarts"), "1");
}

#[test]
fn a_service_that_may_write_to_its_state_alone_restarts_and_upgrades_all_the_same() {
    if !can_show_systemd("DynamicUser=, ProtectSystem= and their like") {
        return;
    }
    let mut service = Service::boot("hardened", "", "binary_store=/var/lib/app");
    let (pid, load) = (service.main_pid(), Load::steady(&service.address, 100));
    for generation in 2..=4 {
        service.order(Order::Restart);
        service.namespaces.app.line_after(&format!("generation {} is gone (exit code 0)", generation - 1));
    }
    // From outside of what hides it, too.
    let status = format!("env ACTOR='{}' OVERSEER=status.json /opt/app/app", service.scene.words());
    let status = service.namespaces.run(&status);
    assert!(status.contains("\"state\": \"running\"") && status.contains("\"serving\": true"), "{status}");
    service.upgrade();
    service.scene.publish("version=3 behave=exit-at-start");
    service.namespaces.app.line_after_start("keeps serving; tried again in");
    load.wait_for("2", 20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}; all lines:\n{}", service.namespaces.app.all_lines());
    assert_eq!((service.main_pid(), service.starts()), (pid, 1));
    assert_eq!(service.scene.version_at_path(), "1", "the packaged file is nobody's to replace");
    // The release is there for the next start too.
    service.namespaces.run("systemctl restart app");
    service.wait_for_answer("version 2 serves", |answer| answer.version == "2");
    service.a_stop_cuts_nothing();
}

#[test]
fn a_stop_that_sends_term_to_every_process_cuts_nothing_either() {
    if !can_show_systemd("KillMode=control-group") {
        return;
    }
    let mut service = Service::boot("plain", "KillMode=control-group", "");
    service.upgrade();
    service.a_stop_cuts_nothing();
    assert_eq!((service.property("Result"), service.property("ExecMainStatus")), ("exit-code".into(), "3".into()));
}

#[test]
fn with_a_socket_unit_a_stop_and_a_crash_refuse_nobody_either() {
    if !can_show_systemd("socket activation") {
        return;
    }
    let mut service = Service::boot("socket-activated", "", "");
    service.restarts_and_upgrades_are_seen_by_nobody(5);
    let load = Load::steady(&service.address, 100);
    load.wait_for("2", 10);
    for start in 2..=4 {
        service.namespaces.run("systemctl restart app");
        service.namespaces.app.wait_until("it is started again", |app| app.count_lines("generation 1 is ready") == start);
        load.wait_for("2", 10);
    }
    // Who waits starts it.
    service.namespaces.run("systemctl stop app");
    load.wait_for("2", 10);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}; all lines:\n{}", service.namespaces.app.all_lines());
}

#[test]
fn an_address_that_overlaps_one_in_the_descriptor_store_takes_its_place_there() {
    if !can_show_systemd("the descriptor store") {
        return;
    }
    // Before systemd 254, the program has to be told how large it is.
    let mut service = Service::boot("plain", "FileDescriptorStoreMax=16\nEnvironment=FDSTORE=16", "");
    let port = TcpListener::bind("[::1]:0").expect("bound").local_addr().expect("bound").port();
    for changed in ["[::1]", "[::]", "[::1]"] {
        let words = format!("{} address={},{changed}:{port}", service.scene.words(), service.address);
        // It is read after what every test sets.
        let on_top = service.scene.directory().join("units/app.service.d/words.conf");
        fs::write(on_top, format!("[Service]\nEnvironment=\"ACTOR={words}\"\n")).expect("written");
        service.namespaces.run("systemctl daemon-reload && systemctl restart app");
        assert_eq!((ask(&format!("[::1]:{port}")).generation, ask(&service.address).generation), (1, 1));
        assert_eq!((service.property("NFileDescriptorStore"), service.property("NRestarts")), ("2".into(), "0".into()), "{changed}");
    }
    assert_eq!(service.starts(), 4);
}

/// How many kills, unless `OVERSEER_KILLS` says so.
const KILLS: u64 = 10;
/// What is seen of an upgrade, from its beginning on. Each kill comes at random after one of them.
const MOMENTS: [&str; 7] =
    ["looking for a release", "is proved", "started as pid", "is ready after", "is installed at", "took over after", "the master runs "];
/// How long after it at most. Between the first two more happens than between the others.
const AFTER_A_MOMENT: Duration = Duration::from_millis(120);

#[test]
fn a_master_killed_at_random_moments_of_upgrades_is_started_again_and_refuses_nobody() {
    if !can_show_systemd("kill -9 of a master under systemd") {
        return;
    }
    let number = |name: &str| env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")));
    let kills: u64 = number("OVERSEER_KILLS").unwrap_or(KILLS);
    let seed: u64 = number("OVERSEER_KILLS_SEED").unwrap_or_else(|| UNIX_EPOCH.elapsed().expect("a date").as_secs());
    println!("OVERSEER_KILLS_SEED={seed}");
    // With a probation, the third start would take the release back.
    let mut service = Service::boot("socket-activated", "", "probation=0");
    let release = |version: u64| release(&format!("version={version}"));
    let load = Load::steady(&service.address, 100);
    let (mut random, mut committed, mut at) = (Rng(seed), 0, [0; MOMENTS.len()]);
    for (kill, version) in (1..=kills).zip(2..) {
        let (pid, starts) = (service.main_pid(), service.starts());
        let moment = random.below(MOMENTS.len() as u64) as usize;
        service.namespaces.app.skip_lines();
        service.scene.publish_bytes(&release(version));
        service.namespaces.app.line_after(MOMENTS[moment]);
        thread::sleep(AFTER_A_MOMENT.mul_f64(random.below(1000) as f64 / 1000.0));
        service.namespaces.kill_child_of_init("app");
        let installed = fs::read(service.scene.program()).expect("there is a file");
        let is_new = installed == release(version);
        assert!(is_new || installed == release(version - 1), "kill {kill}: the file is neither the old nor the new one");
        (at[moment], committed) = (at[moment] + 1, committed + u64::from(is_new));
        service.namespaces.app.wait_until("systemd starts it again", |app| app.count_lines("master started as pid ") > starts);
        service.wait_for_answer("the release is installed in the end", |answer| answer.version == version.to_string());
        service
            .namespaces
            .app
            .wait_until("it is at the path", |_| fs::read(service.scene.program()).is_ok_and(|file| file == release(version)));
        assert_ne!(service.main_pid(), pid);
        assert_eq!(service.starts(), starts + 1, "kill {kill}: it could not be started at first");
    }
    assert_eq!(service.property("NRestarts"), kills.to_string());
    let tally = load.stop();
    println!(
        "{kills} kills of the master, within {AFTER_A_MOMENT:?} after {}: {kills} starts by systemd; \
         a whole program at the path each time, {committed} times the new one; {} connections answered, {} refused, {} cut with the processes that had accepted them",
        MOMENTS.iter().zip(at).map(|(moment, count)| format!("{:?} {count}", moment.trim())).collect::<Vec<_>>().join(", "),
        tally.total(),
        tally.refused,
        tally.lost
    );
    assert_eq!(tally.refused, 0, "{tally}");
}

/// Random enough: a linear congruential generator.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
