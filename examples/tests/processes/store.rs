//! A binary store: releases lie in a directory of their own, and the packaged file decides at each start what runs.

use crate::app::{App, Scene, is_root, put, release, version_in};
use crate::files::{in_own_mounts, run};
use crate::load::{Load, ask, tell};
use crate::signed::{TIME, key_pair, sign, trusting};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

const RUNS: &str = "runs in place of";
const INSTEAD: &str = " runs instead";

struct Store {
    scene: Scene,
}

impl Store {
    fn new(words: &str) -> Self {
        let mut scene = Scene::with_source(words);
        fs::create_dir(scene.directory().join("store")).expect("made");
        scene.add_words(&format!("binary_store={}", scene.directory().join("store").display()));
        Self { scene }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scene.directory().join("store").join(name)
    }

    /// The release that is committed there.
    fn stored(&self) -> String {
        version_in(&self.path("app"))
    }

    fn state(&self) -> Value {
        let bytes = fs::read(self.path(".app.overseer/state.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Installs this version of a good program.
    fn upgrade(&self, app: &mut App, version: u32) {
        let generation = ask(app.address()).generation;
        self.scene.publish(&format!("version={version}"));
        app.line_after("is installed at");
        app.line_after(&format!("generation {generation} is gone"));
        assert_eq!(ask(app.address()).version, version.to_string());
    }

    /// One that runs version 1, has been upgraded to version 2, and was stopped.
    fn upgraded(words: &str) -> Self {
        let store = Self::new(words);
        let mut app = store.scene.start();
        store.upgrade(&mut app, 2);
        assert!(app.terminate().success());
        assert_eq!((store.scene.version_at_path().as_str(), store.stored().as_str()), ("1", "2"));
        store
    }

    /// Starts the service, and looks whether this version serves, in the process that was started.
    #[track_caller]
    fn starts(&self, version: &str) -> App {
        let mut app = self.scene.start();
        assert_eq!(ask(app.address()).version, version, "{}", app.all_lines());
        assert_eq!(version_in(format!("/proc/{}/exe", app.pid()).as_ref()), version);
        app.rewind();
        app
    }
}

#[test]
fn a_release_is_committed_to_the_store_and_the_next_start_runs_it_in_the_process_that_was_started() {
    let store = Store::new("");
    let mut app = store.scene.start();
    let (pid, inode) = (app.pid(), fs::metadata(store.scene.program()).expect("there").ino());
    store.upgrade(&mut app, 2);
    app.line_after_start("the master runs release");
    assert_eq!((app.pid(), version_in(format!("/proc/{pid}/exe").as_ref()).as_str()), (pid, "2"));
    store.upgrade(&mut app, 3);
    assert!(app.terminate().success());
    assert_eq!(fs::metadata(store.scene.program()).expect("there").ino(), inode, "the packaged file stays");
    assert_eq!((store.scene.names_beside(), store.stored()), (vec!["app".to_owned()], "3".to_owned()));
    assert_eq!(version_in(&store.path(".app.overseer/previous")), "2");

    let mut app = store.starts("3");
    let pid = app.pid();
    app.line_after(RUNS);
    let started = app.line_after("master started as pid ");
    assert!(started.starts_with(&pid.to_string()) && started.contains("/store/app"), "{started}");
    app.rewind();
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    app.restart();
    store.upgrade(&mut app, 4);
    assert_eq!((app.pid(), app.count_lines("warning: "), app.count_lines("error: ")), (pid, 0, 0), "{}", app.all_lines());
    assert!(app.terminate().success());
    let mut app = store.starts("4");
    assert_eq!(store.state()["unready_starts"], 0);
    assert!(app.terminate().success());
}
