//! Under systemd: the units of `contrib/systemd`, as they are there.

use super::namespaces::Namespaces;
use super::service::{Manager, Order, Service};
use super::{address, can_show};
use crate::app::Scene;
use std::fs;
use std::path::Path;

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
    /// Boots a systemd with this unit as `app.service` and what is set on top of it, and starts that.
    fn boot(unit: &str, on_top: &str, words: &str) -> Self {
        Self::boot_from(Path::new("/"), unit, on_top, words)
    }

    /// The same with the systemd of another file system.
    fn boot_from(tree: &Path, unit: &str, on_top: &str, words: &str) -> Self {
        let address = address();
        let scene = Scene::with_source(&format!("address={address} fetch=/srv/releases/release {words}"));
        let units = scene.directory().join("units");
        fs::create_dir_all(units.join("app.service.d")).expect("made");
        fs::copy(Path::new(UNITS).join(unit), units.join("app.service")).expect("copied");
        let output = "StandardOutput=append:/run/rig/lines\nStandardError=append:/run/rig/lines";
        let on_top = format!("[Service]\nEnvironment=\"ACTOR={}\"\n{output}\n{on_top}\n", scene.words());
        fs::write(units.join("app.service.d/test.conf"), on_top).expect("written");
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
    let mut service = Service::boot("app.service", "", "");
    service.restarts_and_upgrades_are_seen_by_nobody(20);
    assert_eq!((service.property("NRestarts"), service.property("ActiveState")), ("0".into(), "active".into()));
    service.a_killed_master_is_started_again();
    assert_eq!(service.property("NRestarts"), "1");
    service.a_stop_cuts_nothing();
    assert_eq!((service.property("Result"), service.property("ExecMainStatus")), ("exit-code".into(), "3".into()));
}

#[test]
fn a_stop_that_sends_term_to_every_process_cuts_nothing_either() {
    if !can_show_systemd("KillMode=control-group") {
        return;
    }
    let mut service = Service::boot("app.service", "KillMode=control-group", "");
    service.upgrade();
    service.a_stop_cuts_nothing();
    assert_eq!((service.property("Result"), service.property("ExecMainStatus")), ("exit-code".into(), "3".into()));
}
