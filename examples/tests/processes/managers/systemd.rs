//! Under systemd: the units of `contrib/systemd`, as they are there.

use super::namespaces::Namespaces;
use super::service::{EXIT_CODE, Manager, Order, Service};
use super::{address, address_with, can_show, scene};
use crate::app::{not_shown, put, release, spawn};
use crate::load::{Load, PATIENCE, Request, ask};
use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/systemd");

struct Systemd {
    /// The directory of its units.
    units: &'static str,
}

impl Manager for Systemd {
    fn command(&self, order: Order) -> String {
        match order {
            Order::Restart => "systemctl reload app",
            Order::Kill => "systemctl kill --kill-who=main --signal=KILL app",
            // Whoever connects would start it.
            Order::Stop if self.units == "socket-activated" => "systemctl stop app.socket app",
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

    fn installs_at(&self) -> &str {
        if self.units == "hardened" { "state/private/app/app" } else { "app/app" }
    }
}

impl Service<Systemd> {
    /// Boots a systemd with the units of this directory and what is set on top of `app.service`, and starts that.
    fn boot(units: &'static str, on_top: &str, words: &str) -> Self {
        Self::boot_from(Path::new("/"), address(), units, on_top, words)
    }

    /// The same with the systemd of this file system, and at this address.
    fn boot_from(tree: &Path, address: String, units: &'static str, on_top: &str, words: &str) -> Self {
        let scene = scene(&address, words);
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
                // The second one is for nobody.
                "app.socket" => format!("[Socket]\nListenStream=\nListenStream={address}\nListenStream={}\n", super::address()),
                _ => of_service.clone(),
            };
            fs::write(on_top.join("test.conf"), text).expect("written");
        }
        let mut namespaces = Namespaces::start_systemd(&scene, tree);
        namespaces.run("systemctl start app");
        let mut service = Self { namespaces, scene, address, manager: Systemd { units } };
        service.wait_until_ready();
        service
    }

    fn property(&mut self, name: &str) -> String {
        self.namespaces.run(&format!("systemctl show --property={name} --value app"))
    }

    fn wait_for_property(&mut self, name: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.property(name) != wanted {
            assert!(Instant::now() < deadline, "{name} is not {wanted}; all lines:\n{}", self.namespaces.app.all_lines());
        }
    }

    /// Starts it anew, with what is installed.
    fn is_started_anew(&mut self) {
        let starts = self.starts();
        self.namespaces.run("systemctl restart app");
        self.wait_for_answer("it serves again", |answer| answer.version == "2" && answer.generation == 1);
        assert_eq!((self.installed_version(), self.starts()), ("2".to_owned(), starts + 1));
    }

    /// As [`Service::a_stop_cuts_nothing`], and systemd has the exit code.
    fn a_stop_cuts_nothing_and_tells(&mut self) {
        self.a_stop_cuts_nothing();
        assert_eq!((self.property("Result"), self.property("ExecMainStatus")), ("exit-code".into(), EXIT_CODE.to_string()));
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
    service.restarts_and_upgrades_are_seen_by_nobody();
    assert_eq!((service.property("NRestarts"), service.property("ActiveState")), ("0".into(), "active".into()));
    service.a_killed_master_is_started_again();
    assert_eq!(service.property("NRestarts"), "1");
    service.a_stop_cuts_nothing_and_tells();
}

/// A file system with a systemd that knows more than the machine's, if the test can run.
fn newer_systemd(what: &str) -> Option<PathBuf> {
    if !can_show(what, &["unshare", "nsenter"]) {
        return None;
    }
    let tree = env::var_os("OVERSEER_TRIXIE").map(PathBuf::from);
    if tree.is_none() {
        not_shown(&format!("{what} is not shown: OVERSEER_TRIXIE names no file system with systemd 257, which .ci/run makes"));
    }
    tree
}

#[test]
fn a_reload_by_notify_reload_waits_and_a_killed_master_refuses_nobody_with_the_descriptor_store() {
    let Some(tree) = newer_systemd("Type=notify-reload") else { return };
    let mut service = Service::boot_from(&tree, address(), "notify-reload", "", "");
    service.restarts_and_upgrades_are_seen_by_nobody();
    assert_eq!(service.property("NRestarts"), "0");
    let load = Load::steady(&service.address, 100);
    load.wait_for("2", 10);
    service.is_started_anew();
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
    service.a_stop_cuts_nothing_and_tells();
}

#[test]
fn a_descriptor_store_that_is_preserved_refuses_nobody_while_the_service_is_stopped() {
    let Some(tree) = newer_systemd("FileDescriptorStorePreserve=") else { return };
    let mut service = Service::boot_from(&tree, address(), "notify-reload", "FileDescriptorStorePreserve=yes", "");
    let load = Load::steady(&service.address, 100);
    load.wait_for("1", 10);
    // systemd forgets a stopped service that nothing wants, and its store: this one is enabled.
    service.namespaces.run("systemctl add-wants up.target app");
    service.namespaces.run("systemctl stop app");
    let answered = load.tally().total();
    assert_eq!((service.property("ActiveState"), service.property("NFileDescriptorStore")), ("inactive".into(), "1".into()));
    service.namespaces.run("systemctl start app");
    load.wait_for("1", 10);
    let tally = load.stop();
    assert!(tally.failed() == 0 && tally.total() > answered, "{tally}; all lines:\n{}", service.namespaces.app.all_lines());
}

#[test]
fn a_start_and_a_stop_that_take_long_are_given_their_time() {
    if !can_show_systemd("EXTEND_TIMEOUT_USEC") {
        return;
    }
    // Longer than systemd gives, and shorter than the program may take.
    let time_outs = "TimeoutStartSec=3\nTimeoutStopSec=3";
    let mut service = Service::boot("plain", time_outs, "behave=late-ready delay=4000");
    let request = Request::begin(&service.address);
    let mut stop = spawn(&mut service.namespaces.inside("systemctl stop app"));
    service.namespaces.app.line_after("got SIGTERM: finishing what is open");
    thread::sleep(Duration::from_secs(4));
    assert_eq!(request.finish().expect("an answer").generation, 1);
    assert!(stop.wait().expect("its end").success());
    assert_eq!((service.property("Result"), service.starts()), ("success".into(), 1));
}

#[test]
fn systemd_is_told_that_a_reload_has_failed() {
    if !can_show_systemd("a failed reload") {
        return;
    }
    for (units, words) in [("plain", ""), ("hardened", "binary_store=/var/lib/app")] {
        let mut service = Service::boot(units, "", words);
        let status = service.property("StatusText");
        assert!(status.contains("generation 1, serving since"), "{status}");
        put(&service.scene.program(), &release("version=2 behave=exit-at-start"));
        let reload = spawn(&mut service.namespaces.inside(&service.manager.command(Order::Restart))).wait().expect("its end");
        assert!(!reload.success(), "{units}: {reload}; all lines:\n{}", service.namespaces.app.all_lines());
        let status = service.property("StatusText");
        assert!(status.contains("the restart as generation 2 failed at"), "{units}: {status}");
        assert_eq!((service.property("ActiveState"), ask(&service.address).generation), ("active".into(), 1));
        // The file that serves is the one that is mended.
        put(&service.scene.program(), &release("version=2"));
        service.order(Order::Restart);
        service.wait_for_answer("version 2 serves", |answer| answer.version == "2");
    }
}

#[test]
fn a_program_that_hangs_is_started_again_by_the_watchdog() {
    if !can_show_systemd("WatchdogSec=") {
        return;
    }
    let mut service = Service::boot("plain", "WatchdogSec=5\nRestart=on-watchdog", "");
    // Longer than that, it answers.
    thread::sleep(Duration::from_secs(6));
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
    service.restarts_and_upgrades_are_seen_by_nobody();
    assert_eq!((service.property("NRestarts"), service.property("ActiveState")), ("0".into(), "active".into()));
    assert_eq!(service.scene.version_at_path(), "1", "the packaged file is nobody's to replace");
    // From outside of what hides it, too.
    let status = format!("env ACTOR='{}' OVERSEER=status.json /opt/app/app", service.scene.words());
    let status = service.namespaces.run(&status);
    assert!(status.contains("\"state\": \"running\"") && status.contains("\"serving\": true"), "{status}");
    // The descriptor store has its listener, and the state directory the release, for the next start too.
    let load = Load::steady(&service.address, 100);
    load.wait_for("2", 10);
    service.is_started_anew();
    load.wait_for("2", 10);
    let tally = load.tally();
    assert_eq!(tally.failed(), 0, "{tally}; all lines:\n{}", service.namespaces.app.all_lines());
    service.a_killed_master_is_started_again();
    assert_eq!(service.property("NRestarts"), "1");
    assert_eq!(load.stop().refused, 0);
    service.a_stop_cuts_nothing_and_tells();
}

#[test]
fn systemd_finds_little_in_the_hardened_unit_that_it_could_do_without() {
    if !can_show("systemd-analyze security", &["systemd-analyze"]) {
        return;
    }
    // From 0 to 10.
    let exposure = |units: &str| -> f64 {
        let unit = Path::new(UNITS).join(units).join("app.service");
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--no-pager", "--offline=true"]).arg(unit).stdout(Stdio::piped());
        let output = spawn(&mut analyze).wait_with_output().expect("its end");
        let table = String::from_utf8_lossy(&output.stdout);
        let level = table.split("Overall exposure level for app.service: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        level.unwrap_or_else(|| panic!("{table}"))
    };
    // Version 257 finds 0.2 less in both.
    let (hardened, plain) = (exposure("hardened"), exposure("plain"));
    assert!(hardened <= 1.5 && plain >= 9.0, "{hardened} {plain}");
}

#[test]
fn a_stop_that_sends_term_to_every_process_cuts_nothing_either() {
    if !can_show_systemd("KillMode=control-group") {
        return;
    }
    let mut service = Service::boot("plain", "KillMode=control-group", "");
    service.upgrade();
    // Nor does the end of the master alone, after which systemd ends the others.
    let (starts, request) = (service.starts(), Request::begin(&service.address));
    service.order(Order::Kill);
    service.wait_for_property("SubState", "stop-sigterm");
    assert_eq!(request.finish().expect("an answer").version, "2");
    service.namespaces.app.wait_until("it is started again", |app| app.count_lines("master started as pid ") > starts);
    service.wait_for_answer("it serves again", |answer| answer.version == "2");
    service.a_stop_cuts_nothing_and_tells();
}

#[test]
fn with_type_exec_a_port_below_1024_and_one_writable_directory_it_restarts_and_upgrades_all_the_same() {
    if !can_show_systemd("Type=exec, AmbientCapabilities= and ReadWritePaths=") {
        return;
    }
    let set = "Type=exec\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nProtectSystem=strict\nReadWritePaths=/opt/app";
    let mut service = Service::boot_from(Path::new("/"), address_with(81), "plain", set, "");
    service.order(Order::Restart);
    service.upgrade();
    service.order(Order::Restart);
    assert_eq!((service.property("StatusText"), service.property("NRestarts")), ("".into(), "0".into()));
    service.a_stop_cuts_nothing_and_tells();
}

#[test]
fn with_a_socket_unit_a_stop_and_a_crash_refuse_nobody_either() {
    if !can_show_systemd("socket activation") {
        return;
    }
    let mut service = Service::boot("socket-activated", "", "");
    let unwanted = service.namespaces.app.line_after_start("the service manager has passed a listening socket on ");
    let is_the_other = unwanted.contains(" as app.socket, which no address means") && !unwanted.starts_with(&service.address);
    assert!(is_the_other, "{unwanted}");
    service.restarts_and_upgrades_are_seen_by_nobody();
    assert_eq!((service.property("NRestarts"), service.property("ActiveState")), ("0".into(), "active".into()));
    let load = Load::steady(&service.address, 100);
    load.wait_for("2", 10);
    for _ in 0..3 {
        service.is_started_anew();
        load.wait_for("2", 10);
    }
    // Who waits starts it.
    service.namespaces.run("systemctl stop app");
    load.wait_for("2", 10);
    let tally = load.tally();
    assert_eq!(tally.failed(), 0, "{tally}; all lines:\n{}", service.namespaces.app.all_lines());
    service.a_killed_master_is_started_again();
    assert_eq!((load.stop().refused, service.property("NRestarts")), (0, "1".to_owned()));
    service.a_stop_cuts_nothing_and_tells();
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
