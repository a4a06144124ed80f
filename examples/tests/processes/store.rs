//! A binary store: releases lie in a directory of their own, and the packaged file decides at each start what runs.

use crate::app::{App, Scene, can_run, is_root, put, release, spawn, version_in};
use crate::commands::{done, refused};
use crate::files::{in_own_mounts, run};
use crate::killed::status_of;
use crate::load::{Load, ask, tell};
use crate::signed::{TIME, key_pair, sign, trusting};
use crate::sockets::passing;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, OpenOptions, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

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
        let handed: Vec<String> = app.descriptors().into_iter().filter(|open| open.contains("overseer-snapshot")).collect();
        assert!(handed.is_empty(), "the master has kept what the packaged file has handed over: {handed:?}");
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
    app.wait_until("it has come up", |_| store.state()["unready_starts"] == 0);
    assert!(app.terminate().success());
}

#[test]
fn a_package_upgrade_wins_and_an_older_release_is_not_installed_over_it() {
    let store = Store::upgraded("");
    put(&store.scene.program(), &release("version=1.5"));
    let mut app = store.starts("1.5");
    let aside = app.line_after("has changed since a release was committed in its place");
    assert!(aside.contains(".app.set-aside"), "{aside}");
    assert_eq!((version_in(&store.path(".app.set-aside")).as_str(), store.stored().as_str()), ("2", "none"));
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    // The same release under another tag, as after a copy of the whole source.
    store.scene.publish("version=2");
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert_eq!((ask(app.address()).version.as_str(), store.stored().as_str()), ("1.5", "none"));
    store.upgrade(&mut app, 3);
    assert!(app.terminate().success());
    let mut app = store.starts("3");
    assert!(app.terminate().success());
}

#[test]
fn a_packaged_file_with_the_same_contents_and_another_inode_is_no_package_upgrade() {
    let store = Store::upgraded("");
    put(&store.scene.program(), &release("version=1"));
    for _ in 0..2 {
        let mut app = store.starts("2");
        app.line_after(RUNS);
        for _ in 0..3 {
            app.line_after("nothing new at");
        }
        assert!(app.terminate().success());
    }
}

#[test]
fn a_restart_takes_a_changed_packaged_file_and_stays_with_it() {
    let store = Store::upgraded("");
    let mut app = store.starts("2");
    app.wait_until_ready();
    let (pid, load) = (app.pid(), Load::start(app.address()));
    put(&store.scene.program(), &release("version=1.5"));
    store.scene.publish("version=3");
    let why = app.line_after("no release to take from ");
    assert!(why.contains("restart to take it"), "{why}");
    app.signal(Signal::SIGUSR2);
    let path = app.line_after("runs another file than the one before, which is at ");
    assert!(path.contains("/app/app"), "{path}");
    app.line_after("has changed since a release was committed in its place");
    app.line_after("generation 2 took over");
    app.line_after("the master runs ");
    assert_eq!((app.pid(), version_in(format!("/proc/{pid}/exe").as_ref()).as_str()), (pid, "1.5"));
    // What is newer at the source is as new as ever.
    app.line_after("is installed at");
    app.line_after("generation 2 is gone");
    load.wait_for("3", 5);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
    assert_eq!((store.stored().as_str(), store.scene.version_at_path().as_str()), ("3", "1.5"));
    assert!(app.terminate().success());
    let mut app = store.starts("3");
    assert!(app.terminate().success());
}

#[test]
fn a_changed_packaged_file_that_fails_at_a_restart_leaves_the_release_serving() {
    let store = Store::upgraded("");
    let mut app = store.starts("2");
    app.wait_until_ready();
    put(&store.scene.program(), &release("version=1.5 behave=crash-at-start"));
    app.signal(Signal::SIGUSR2);
    let failed = app.line_after("the file that somebody put at ");
    assert!(failed.contains("/app/app"), "{failed}");
    assert_eq!((ask(app.address()).version.as_str(), store.stored().as_str()), ("2", "2"));
    put(&store.scene.program(), &release("version=1.6"));
    app.restart_to(3);
    assert_eq!((ask(app.address()).version.as_str(), store.stored().as_str()), ("1.6", "none"));
    assert!(app.terminate().success());
    let mut app = store.starts("1.6");
    assert!(app.terminate().success());
}

/// Starts the service, which finds that the release cannot be run for this reason, runs the packaged file, and installs the release again.
#[track_caller]
fn goes_back_and_installs_it_again(store: &Store, why: &str) {
    let mut app = store.scene.start();
    app.rewind();
    let said = app.line_after("store/app\" ");
    assert!(said.contains(why) && said.contains(INSTEAD), "{said}");
    app.wait_until_ready();
    assert_eq!(app.count_lines(RUNS), 0);
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert_eq!((ask(app.address()).version.as_str(), store.stored().as_str()), ("2", "2"));
    assert!(app.terminate().success());
    let mut app = store.starts("2");
    assert!(app.terminate().success());
}

#[test]
fn a_release_that_is_damaged_or_missing_is_not_run_and_is_installed_again() {
    let store = Store::upgraded("");
    let file = OpenOptions::new().read(true).write(true).open(store.path("app")).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 5000).expect("written");
    drop(file);
    goes_back_and_installs_it_again(&store, "is damaged, or was not put there by an upgrade");

    fs::remove_file(store.path("app")).expect("removed");
    goes_back_and_installs_it_again(&store, "is not there any more");

    put(&store.path("app"), &release("version=mine"));
    goes_back_and_installs_it_again(&store, "is damaged, or was not put there by an upgrade");
}

#[test]
fn a_release_that_somebody_else_could_change_is_not_run() {
    let store = Store::upgraded("");
    fs::set_permissions(store.path("app"), Permissions::from_mode(0o777)).expect("mode set");
    goes_back_and_installs_it_again(&store, "others can write to it (mode 0777)");

    let writer = OpenOptions::new().append(true).open(store.path("app")).expect("opened");
    goes_back_and_installs_it_again(&store, "somebody has it open for writing");
    drop(writer);

    if is_root("files of others") {
        run("chown", &["4711", store.path("app").to_str().expect("text")]);
        goes_back_and_installs_it_again(&store, "it belongs to user 4711");
    }
}

#[test]
fn a_release_that_the_system_does_not_execute_or_that_finds_its_settings_wrong_gives_way_in_the_same_start() {
    let store = Store::upgraded("");
    fs::set_permissions(store.path("app"), Permissions::from_mode(0o600)).expect("mode set");
    let mut app = store.scene.start();
    app.line_after_start("cannot be executed: Permission denied");
    assert_eq!(ask(app.address()).version, "1");
    drop(app);

    let store = Store::new("");
    let mut app = store.scene.start();
    store.scene.publish("version=2 behave=bad-start");
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert!(app.terminate().success());
    let mut app = App::start(store.scene.command());
    let why = app.line_after("cannot go on: setting warm_up is ");
    assert!(why.contains(INSTEAD), "{why}");
    app.wait_until_ready();
    assert_eq!((ask(app.address()).version.as_str(), app.count_lines(RUNS)), ("1", 1));
}

#[test]
fn a_release_that_never_comes_up_at_a_start_gives_way_after_three() {
    let store = Store::new("probation=0");
    let mut app = store.scene.start();
    store.scene.publish("version=2 behave=exit-from-store");
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert!(app.terminate().success());
    for start in 1..=3 {
        let mut app = App::start(store.scene.command());
        assert_eq!(app.wait_exit().code(), Some(7), "start {start}");
        assert_eq!(store.state()["unready_starts"], start);
    }
    for _ in 0..2 {
        let mut app = store.starts("1");
        for _ in 0..3 {
            app.line_after("nothing new at");
        }
        assert_eq!(store.stored(), "none");
        assert!(app.terminate().success());
    }
    // Another one is tried at once.
    let mut app = store.starts("1");
    app.wait_until_ready();
    store.upgrade(&mut app, 3);
}

#[test]
fn a_program_that_ends_by_itself_is_not_counted_out_of_its_store() {
    let store = Store::new("no_restart probation=0 warm_up=15000 ready_timeout=none address=");
    store.scene.publish("version=2");
    let mut app = App::start(store.scene.command());
    app.line_after("is installed at");
    app.signal(Signal::SIGTERM);
    app.wait_exit();
    for _ in 0..5 {
        let mut app = App::start(store.scene.command());
        app.line_after("serving version=2");
        app.find_master();
        app.wait_until("it has come up", |_| store.state()["unready_starts"] == 0);
        app.signal(Signal::SIGKILL);
        app.wait_exit();
    }
}

#[test]
fn in_the_store_a_release_that_crashes_in_its_probation_is_taken_back_as_everywhere() {
    let store = Store::new("");
    let mut app = store.scene.start();
    let pid = app.pid();
    store.scene.publish("version=2");
    app.line_after("generation 1 is gone");
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.line_after("generation 3 is ready");
    assert_eq!((ask(app.address()).version.as_str(), app.pid()), ("1", pid));
    // A copy of the packaged file is nothing that the next start need run.
    assert_eq!(store.stored(), "1");
    assert!(app.terminate().success());
    let mut app = store.starts("1");
    assert_eq!((store.stored().as_str(), app.count_lines(RUNS)), ("none", 0));
    app.wait_until_ready();

    store.upgrade(&mut app, 3);
    store.upgrade(&mut app, 4);
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.line_after("is ready after");
    assert!(app.terminate().success());
    let mut app = store.starts("3");
    app.line_after(RUNS);
    assert!(app.terminate().success());
}

#[test]
fn in_the_store_a_release_that_never_lives_through_its_probation_is_replaced_at_the_third_start() {
    for versions in [vec![2], vec![2, 3]] {
        let store = Store::new("");
        let mut app = store.scene.start();
        let (mut before, mut newest) = (0, 1);
        for version in versions {
            store.upgrade(&mut app, version);
            (before, newest) = (newest, version);
        }
        app.signal(Signal::SIGKILL);
        app.wait_exit();
        for start in 1..=2 {
            let mut app = store.starts(&newest.to_string());
            app.signal(Signal::SIGKILL);
            app.wait_exit();
            assert_eq!(store.state()["probation"]["starts"], start);
        }
        let mut app = store.starts(&before.to_string());
        app.line_after("was started 3 times and never lived through its probation: the previous binary is back");
        for _ in 0..3 {
            app.line_after("nothing new at");
        }
        assert!(app.terminate().success());
        let mut app = store.starts(&before.to_string());
        assert!(app.terminate().success());
    }
}

/// The ID and the SHA-256 of the bytes.
fn hashes(bytes: &[u8]) -> (String, String) {
    use sha1::{Digest, Sha1};
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    (hex(&Sha1::digest(bytes)), hex(&sha2::Sha256::digest(bytes)))
}

#[test]
fn with_trusted_keys_a_hash_that_fits_proves_nothing_and_a_signature_does() {
    let (pair, stranger) = (key_pair(), key_pair());
    let store = Store::new(&trusting(&pair));
    let (two, hostile) = (release("version=2"), release("version=666"));
    let publish = |contents: &[u8], minisig: &str| {
        let _ = fs::remove_file(store.scene.source().with_extension("minisig"));
        store.scene.publish_bytes(contents);
        put(&store.scene.source().with_extension("minisig"), minisig.as_bytes());
    };
    let mut app = store.scene.start();
    publish(&two, &sign(&pair, &two, "release", TIME));
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert!(app.terminate().success());
    for _ in 0..2 {
        let mut app = store.starts("2");
        app.line_after(RUNS);
        assert!(app.terminate().success());
    }

    let proof_of = |contents: &[u8], minisig: Option<&str>| {
        let (id, sha256) = hashes(contents);
        let proof = serde_json::json!({"release": {"id": id, "tag": "2"}, "sha256": sha256, "file_name": "release", "minisig": minisig});
        fs::write(store.path(&format!(".app.overseer/proof-{id}.json")), proof.to_string()).expect("written");
    };
    let of_two = sign(&pair, &two, "release", TIME);
    for (minisig, why) in [
        (None, "is not signed, and is taken only with a signature by a trusted key"),
        (Some(of_two.as_str()), "has a broken signature"),
        (Some(sign(&stranger, &hostile, "release", TIME).as_str()), "which is no trusted one"),
    ] {
        put(&store.path("app"), &hostile);
        proof_of(&hostile, minisig);
        goes_back_and_installs_it_again(&store, why);
    }
}

#[test]
fn a_signed_release_that_was_packed_is_proved_by_what_was_published() {
    let pair = key_pair();
    let mut store = Store::new(&trusting(&pair));
    let (source, contents) = (store.scene.directory().join("source/app.gz"), crate::packed::gzip(&release("version=2")));
    put(&source.with_extension("gz.minisig"), sign(&pair, &contents, "app.gz", TIME).as_bytes());
    put(&source, &contents);
    store.scene.add_words(&format!("fetch={}", source.display()));
    let mut app = store.scene.start();
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert!(app.terminate().success());
    let mut app = store.starts("2");
    app.line_after(RUNS);
    assert!(app.terminate().success());

    let id = store.state()["installed"]["release"]["id"].as_str().expect("an ID").to_owned();
    let published = store.path(&format!(".app.overseer/proof-{id}.published"));
    assert!(fs::read(&published).expect("kept") == contents);
    put(&published, &crate::packed::gzip(&release("version=666")));
    goes_back_and_installs_it_again(&store, "has a broken signature");
    fs::remove_file(&published).expect("removed");
    goes_back_and_installs_it_again(&store, "was published as app.gz, and ");
    // Signed, and not what lies in the store.
    let mut forged = fs::read(store.path("app")).expect("read");
    forged.extend_from_slice(b" ");
    let (forged_id, sha256) = hashes(&forged);
    let text = fs::read_to_string(store.path(&format!(".app.overseer/proof-{id}.json"))).expect("read");
    let mut proof: Value = serde_json::from_str(&text).expect("JSON");
    (proof["release"]["id"], proof["sha256"]) = (forged_id.clone().into(), sha256.into());
    fs::write(store.path(&format!(".app.overseer/proof-{forged_id}.json")), proof.to_string()).expect("written");
    fs::copy(&published, store.path(&format!(".app.overseer/proof-{forged_id}.published"))).expect("copied");
    put(&store.path("app"), &forged);
    goes_back_and_installs_it_again(&store, "is not what app.gz, which was signed, holds");
    // Nothing is kept of what is neither installed nor previous.
    let mut app = store.starts("2");
    app.line_after("nothing new at");
    let entries = fs::read_dir(store.path(".app.overseer")).expect("a directory").flatten();
    let proofs: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name.starts_with("proof-")).collect();
    assert_eq!(proofs.len(), 2, "{proofs:?}");
}

#[test]
fn on_a_read_only_file_system_a_store_makes_upgrades_possible() {
    let store = Store::new("");
    let commands = format!("mount --bind {0} {0}; mount -o remount,bind,ro {0}", store.scene.directory().join("app").display());
    for version in 2..=3 {
        let Some(mut app) = in_own_mounts("a read-only file system", &store.scene, &commands) else { return };
        app.wait_until_ready();
        let pid = app.pid();
        store.upgrade(&mut app, version);
        assert_eq!(app.pid(), pid);
        assert!(app.terminate().success());
    }
    assert_eq!((store.scene.version_at_path().as_str(), store.stored().as_str()), ("1", "3"));
}

#[test]
fn a_user_without_rights_on_the_program_upgrades_it_in_a_store_behind_a_link() {
    if !is_root("another user") {
        return;
    }
    // As systemd has it with DynamicUser=yes and StateDirectory=.
    let store = Store::new("");
    fs::create_dir(store.path("private")).expect("made");
    run("chown", &["4711:4711", store.path("private").to_str().expect("text")]);
    std::os::unix::fs::symlink("store/private", store.scene.directory().join("state")).expect("a link");
    let mut scene = store.scene;
    scene.add_words(&format!("binary_store={}", scene.directory().join("state").display()));
    let user = ["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "--inh-caps=-all", "--no-new-privs"];
    let stored = scene.directory().join("store/private/app");
    for version in 2..=3 {
        let mut app = scene.start_by(&user);
        app.wait_until_ready();
        assert_eq!(ask(app.address()).version, (version - 1).to_string());
        scene.publish(&format!("version={version}"));
        app.line_after("is installed at");
        app.line_after("is gone");
        assert!(app.terminate().success());
        let metadata = fs::metadata(&stored).expect("there");
        assert_eq!((version_in(&stored), metadata.uid(), metadata.mode() & 0o7777), (version.to_string(), 4711, 0o755));
        assert_eq!(app.count_lines("warning: "), 0, "{}", app.all_lines());
    }
    // For root, what that user can write is nothing to execute.
    let mut app = App::start(scene.command());
    let why = app.line_after("upgrades are off: ");
    assert!(why.contains("belongs to user 4711, not to user 0 or root"), "{why}");
    app.rewind();
    app.wait_until_ready();
    assert_eq!(ask(app.address()).version, "1");
}

fn is_not_used(store: &Store, mut app: App, why: &str) {
    let said = app.line_after("upgrades are off: ");
    assert!(said.contains(why), "{said}");
    app.wait_until_ready();
    store.scene.publish("version=9");
    assert_eq!(ask(app.address()).version, "1");
    app.restart_to(2);
    assert_eq!((ask(app.address()).version.as_str(), app.count_lines("looking for")), ("1", 0));
    assert!(app.terminate().success());
}

#[test]
fn a_store_that_cannot_be_trusted_or_used_is_named_once_and_the_packaged_file_serves() {
    let store = Store::upgraded("");
    fs::set_permissions(store.path(""), Permissions::from_mode(0o777)).expect("mode set");
    is_not_used(&store, App::start(store.scene.command()), "others can write to the binary store");
    fs::set_permissions(store.path(""), Permissions::from_mode(0o755)).expect("mode set");
    for (option, why) in [("noexec", "mounted noexec"), ("ro", "mounted read-only")] {
        let commands = format!("mount --bind {0} {0}; mount -o remount,bind,{option} {0}", store.path("").display());
        let Some(app) = in_own_mounts(why, &store.scene, &commands) else { return };
        is_not_used(&store, app, why);
    }
    let mut missing = Store::new("");
    missing.scene.add_words(&format!("binary_store={}/not/there", missing.scene.directory().display()));
    is_not_used(&missing, App::start(missing.scene.command()), "/not/there cannot be used: No such file or directory");
    // The release has waited.
    let mut app = store.starts("2");
    assert!(app.terminate().success());
}

#[test]
fn a_second_master_of_a_store_takes_up_what_the_first_installs() {
    let store = Store::upgraded("");
    let (mut first, mut second) = (store.starts("2"), store.starts("2"));
    first.wait_until_ready();
    second.wait_until_ready();
    second.line_after("another master looks for releases of");
    store.upgrade(&mut first, 3);
    second.line_after("it is taken up as the next generation");
    second.line_after("generation 2 took over");
    second.line_after("generation 1 is gone");
    assert_eq!(ask(second.address()).version, "3");
    assert!(first.terminate().success() && second.terminate().success());
}

#[test]
fn a_master_killed_at_any_call_of_a_commit_to_the_store_leaves_a_program_that_starts_and_comes_to_the_release() {
    if !can_run("a kill at each call of a commit to a store", "strace", &["-V"]) {
        return;
    }
    let mut kills = 0;
    for call in ["link", "linkat", "unlink", "rename", "renameat2", "fsync"] {
        for nth in 1.. {
            let store = Store::new("probation=0");
            let mut app = store.scene.start();
            store.scene.publish("version=2 behave=ready-with-file");
            app.line_after("serving version=2");
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let mut strace = Command::new("strace");
            strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, "-p", &app.pid().to_string()]);
            let mut strace = spawn(&mut strace);
            app.wait_until("the master is watched", |app| !status_of(app, "TracerPid:").ends_with("\t0"));
            // It looks beside the path that it is told, which is still that of the packaged file.
            fs::write(store.scene.program().with_file_name("be-ready"), "").expect("written");
            let mut is_killed = false;
            app.wait_until("it is committed or killed", |app| {
                is_killed = app.has_ended();
                is_killed || app.count_lines("generation 1 drains") > 0
            });
            let stored = store.stored();
            assert!(stored == "none" || stored == "2", "{call} {nth}: {stored}; {}", app.all_lines());
            assert_eq!(store.scene.version_at_path(), "1");
            if is_killed {
                kills += 1;
                app.wait_until("nobody is left", |app| app.processes().is_empty());
                fs::write(store.path("be-ready"), "").expect("written");
                let mut next = store.scene.start();
                let runs = if stored == "none" { "1" } else { "2" };
                assert_eq!(next.count_lines(RUNS), usize::from(runs == "2"), "{call} {nth}: {}", next.all_lines());
                next.wait_until("the release serves after all", |app| ask(app.address()).version == "2");
                assert!(next.terminate().success());
            }
            drop(app);
            let _ = strace.wait();
            if !is_killed {
                break;
            }
        }
    }
    assert!(kills >= 4, "only {kills} calls were met: the injection does not work");
}

#[test]
fn what_a_service_manager_passes_is_there_for_the_release_and_for_the_packaged_file_after_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    for (behave, version) in [("good", "2"), ("bad-start", "1")] {
        let store = Store::new("address=systemd:web");
        let start = || {
            let mut app = App::start(passing(&store.scene, "web", &[&listener]));
            app.wait_until_ready();
            app
        };
        let mut app = start();
        store.scene.publish(&format!("version=2 behave={behave}"));
        app.line_after("is installed at");
        app.line_after("generation 1 is gone");
        assert!(app.terminate().success());
        let mut app = start();
        assert_eq!((ask(&address).version.as_str(), app.count_lines(RUNS)), (version, 1), "{}", app.all_lines());
        assert!(app.terminate().success());
    }
}

/// A service whose root is an overlay with an upper layer that is gone at its end. In a container, as far as can be seen from in there, or on a machine whose root
/// is made so. What lies beside the program's directory is as it is outside. `None`: this machine does not allow it.
fn on_overlay(is_container: bool, scene: &Scene) -> Option<App> {
    let directory = scene.directory().display();
    let shared = |name: &str| {
        let path = scene.directory().join(name);
        if path.exists() { format!("mount --bind {0} {1}/root{0}; ", path.display(), "$layers") } else { String::new() }
    };
    let mark = if is_container { "echo > $layers/root/run/.containerenv" } else { "true" };
    let commands = format!(
        "layers={directory}/layers; mkdir -p $layers; mount -t tmpfs none $layers; mkdir $layers/upper $layers/work $layers/root; \
         mount -t overlay none -o lowerdir=/,upperdir=$layers/upper,workdir=$layers/work $layers/root; \
         mkdir -p $layers/root{directory}; [ -e $layers/root{directory}/app ] || cp -a {directory}/app $layers/root{directory}/; \
         rm -f $layers/root/.dockerenv $layers/root/run/.containerenv $layers/root/run/systemd/container; mkdir -p $layers/root/run; {mark}; {}{}\
         for name in proc dev sys; do mount --rbind /$name $layers/root/$name; done; exec chroot $layers/root \"$0\"",
        shared("source"),
        shared("store"),
    );
    let mut app = in_own_mounts("an overlay as root", scene, &commands)?;
    app.wait_until_ready();
    Some(app)
}

#[test]
fn on_the_writable_layer_of_a_container_a_release_is_told_of_and_not_installed() {
    let scene = Scene::with_source("upgrades=unsaid");
    let Some(mut app) = on_overlay(true, &scene) else { return };
    let said = app.line_after_start("new releases are told of and not installed: ");
    assert!(said.contains("/app\" is on the writable layer of a container"), "{said}");
    scene.publish("version=2");
    let why = app.line_after("is not installed: ");
    assert!(why.contains("the program lies on the writable layer of a container") && !why.contains("set to notify"), "{why}");
    let shown = fs::read(format!("/proc/{}/root{}/master.json", app.pid(), scene.state_dir().display())).expect("it shows itself");
    let shown: Value = serde_json::from_slice(&shown).expect("JSON");
    assert_eq!((&shown["upgrades"], &shown["is_ephemeral"]), (&"notify".into(), &true.into()), "{shown:#}");
    app.restart_to(2);
    assert_eq!((ask(app.address()).version.as_str(), app.count_lines("new releases are told of")), ("1", 1));
    assert!(app.terminate().success());
}

#[test]
fn on_a_machine_whose_root_is_an_overlay_releases_are_installed() {
    let scene = Scene::with_source("upgrades=unsaid");
    let Some(mut app) = on_overlay(false, &scene) else { return };
    scene.publish("version=2");
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert_eq!((ask(app.address()).version.as_str(), app.count_lines("new releases are told of")), ("2", 0));
    assert!(app.terminate().success());
}

#[test]
fn in_a_container_a_program_that_says_so_or_has_a_volume_is_upgraded() {
    let forced = Scene::with_source("upgrades=install");
    let store = Store::new("upgrades=unsaid");
    let kind = nix::sys::statfs::statfs(store.scene.directory()).expect("it is there").filesystem_type();
    assert_ne!(kind, nix::sys::statfs::OVERLAYFS_SUPER_MAGIC, "the test has no volume: TMPDIR is to be on no overlayfs");
    for scene in [&forced, &store.scene] {
        let Some(mut app) = on_overlay(true, scene) else { return };
        scene.publish("version=2");
        app.line_after("is installed at");
        app.line_after("generation 1 is gone");
        assert_eq!((ask(app.address()).version.as_str(), app.count_lines("new releases are told of")), ("2", 0));
        assert!(app.terminate().success());
    }
    // The next container has another overlay with the same file in it.
    for _ in 0..2 {
        let Some(mut app) = on_overlay(true, &store.scene) else { return };
        assert_eq!((ask(app.address()).version.as_str(), app.count_lines(RUNS)), ("2", 1), "{}", app.all_lines());
        assert!(app.terminate().success());
    }
}

#[test]
fn a_packaged_file_that_is_the_newest_release_is_nothing_that_is_missing_in_the_store() {
    let store = Store::new("");
    let mut app = store.scene.start();
    for _ in 0..2 {
        app.wait_until("it is known to be the newest", |_| store.state()["installed"]["release"]["tag"].is_string());
        let tag = store.state()["installed"]["release"]["tag"].clone();
        assert!(app.terminate().success());
        app = store.starts("1");
        for _ in 0..3 {
            app.line_after("nothing new at");
        }
        assert_eq!((app.count_lines("error: "), app.count_lines("is not there any more")), (0, 0), "{}", app.all_lines());
        assert_eq!(store.state()["installed"]["release"]["tag"], tag);
    }
    // Nor is it after a release that was taken back to it.
    store.scene.publish("version=2");
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back");
    app.line_after("generation 3 is ready");
    assert!(app.terminate().success());
    for _ in 0..2 {
        let mut app = store.starts("1");
        for _ in 0..3 {
            app.line_after("nothing new at");
        }
        assert_eq!((store.stored().as_str(), app.count_lines("error: ")), ("none", 0), "{}", app.all_lines());
        assert!(app.terminate().success());
    }
}

#[test]
fn a_package_that_is_changed_while_nothing_is_stored_is_not_followed_by_the_one_before() {
    let store = Store::new("");
    let mut app = store.scene.start();
    app.wait_until("it is known to be the newest", |_| store.state()["installed"]["release"]["tag"].is_string());
    assert!(app.terminate().success());
    put(&store.scene.program(), &release("version=1.5"));
    for _ in 0..2 {
        let mut app = store.starts("1.5");
        // Under another tag.
        store.scene.publish("version=1");
        for _ in 0..5 {
            app.line_after("nothing new at");
        }
        assert_eq!((ask(app.address()).version.as_str(), app.count_lines("error: ")), ("1.5", 0), "{}", app.all_lines());
        assert!(app.terminate().success());
    }
}

/// One whose programs end at once while the file is there, and whose release has lived through its probation.
fn in_need_of_a_database(is_package: bool) -> (Store, PathBuf) {
    let mut store = Store::new("probation=100");
    let outage = store.scene.directory().join("outage");
    let words = format!("outage={}", outage.display());
    if is_package {
        store.scene.add_words(&words);
    }
    let mut app = store.scene.start();
    store.scene.publish(&format!("version=2 {words}"));
    app.line_after("is installed at");
    app.line_after("has lived through its probation");
    assert!(app.terminate().success());
    fs::write(&outage, "").expect("written");
    (store, outage)
}

#[track_caller]
fn does_not_come_up(store: &Store, times: usize) {
    for start in 1..=times {
        let mut app = App::start(store.scene.command());
        assert_eq!(app.wait_exit().code(), Some(7), "start {start}: {}", app.all_lines());
    }
}

#[test]
fn an_outage_in_which_nothing_comes_up_costs_a_release_nothing() {
    let (store, outage) = in_need_of_a_database(true);
    // Three starts of the release, one of the packaged file, and again.
    for (times, stored) in [(3, "2"), (1, "none"), (2, "2")] {
        does_not_come_up(&store, times);
        assert_eq!(store.stored(), stored);
    }
    // There is nothing that it could be fetched from.
    fs::remove_file(store.scene.source()).expect("removed");
    fs::remove_file(&outage).expect("removed");
    let mut app = store.starts("2");
    app.line_after(RUNS);
    assert_eq!(store.state()["verdicts"].as_array().map(Vec::len), Some(0), "{}", store.state());
    assert!(app.terminate().success());
}

#[test]
fn a_release_that_did_not_come_up_in_an_outage_is_tried_again_where_the_packaged_file_has_come_up() {
    let (store, outage) = in_need_of_a_database(false);
    does_not_come_up(&store, 3);
    let mut app = store.starts("1");
    let why = app.line_after("was started 3 times in a row, and none of its generations became ready");
    assert!(why.contains("is tried again"), "{why}");
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    let verdict = &store.state()["verdicts"][0];
    assert!(verdict["until_unix_s"].is_u64(), "it is held back, and not rejected: {verdict}");
    assert!(app.terminate().success());
    // Not at each start.
    let mut app = store.starts("1");
    assert!(app.terminate().success());
    // Its time has come.
    let mut state = store.state();
    state["verdicts"][0]["until_unix_s"] = 1.into();
    fs::write(store.path(".app.overseer/state.json"), state.to_string()).expect("written");
    fs::remove_file(&outage).expect("removed");
    let mut app = store.starts("2");
    assert_eq!(app.count_lines("is proved"), 0, "it is not fetched again");
    assert!(app.terminate().success());
}

#[test]
fn a_release_that_did_not_come_up_in_an_outage_is_fetched_again_by_the_service_that_goes_on() {
    let (store, outage) = in_need_of_a_database(false);
    does_not_come_up(&store, 3);
    let mut app = store.starts("1");
    app.wait_until_ready();
    fs::remove_file(&outage).expect("removed");
    // What an operator need not do, if there is time.
    done(&store.scene, "retry");
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    assert_eq!((ask(app.address()).version.as_str(), store.stored().as_str()), ("2", "2"));
    assert!(app.terminate().success());
    let mut app = store.starts("2");
    assert!(app.terminate().success());
}

#[test]
fn a_retry_after_a_package_upgrade_leaves_the_package() {
    let store = Store::upgraded("");
    put(&store.scene.program(), &release("version=1.5"));
    let mut app = store.starts("1.5");
    app.wait_until_ready();
    app.line_after("nothing new at");
    let said = done(&store.scene, "retry");
    assert!(said.contains("looked at"), "{said}");
    app.skip_lines();
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert_eq!((ask(app.address()).version.as_str(), store.stored().as_str()), ("1.5", "none"));
    assert!(app.terminate().success());
}

#[test]
fn a_second_master_that_cannot_prove_the_release_touches_nothing_and_takes_it_up_later() {
    let store = Store::upgraded("");
    let mut first = store.starts("2");
    first.wait_until_ready();
    fs::set_permissions(store.path("app"), Permissions::from_mode(0o777)).expect("mode set");
    let mut second = store.starts("1");
    let said = second.line_after("store/app\" ");
    assert!(said.contains("others can write to it (mode 0777)") && said.contains(INSTEAD), "{said}");
    second.wait_until_ready();
    second.line_after("another master looks for releases of");
    assert_eq!((store.stored().as_str(), version_in(&store.path(".app.set-aside")).as_str()), ("2", "none"));
    fs::set_permissions(store.path("app"), Permissions::from_mode(0o755)).expect("mode set");
    second.line_after("it is taken up as the next generation");
    second.wait_until("it serves the release", |second| ask(second.address()).version == "2");
    first.restart();
    assert_eq!(ask(first.address()).version, "2");
    assert!(first.terminate().success() && second.terminate().success());
    let mut app = store.starts("2");
    assert!(app.terminate().success());
}

#[test]
fn a_second_master_that_finds_a_changed_package_runs_it_and_leaves_the_release_to_the_first() {
    let store = Store::upgraded("");
    let mut first = store.starts("2");
    first.wait_until_ready();
    put(&store.scene.program(), &release("version=1.5"));
    let mut second = store.starts("1.5");
    second.wait_until_ready();
    second.line_after("another master looks for releases of");
    second.restart_to(2);
    for _ in 0..5 {
        second.line_after("nothing new at");
    }
    assert_eq!((ask(second.address()).version.as_str(), second.count_lines("is taken up")), ("1.5", 0), "{}", second.all_lines());
    assert_eq!((store.stored().as_str(), version_in(&store.path(".app.set-aside")).as_str()), ("2", "none"));
    // Once the first has taken the package too, the second follows what it installs.
    first.restart();
    assert_eq!(ask(first.address()).version, "1.5");
    store.upgrade(&mut first, 3);
    second.line_after("it is taken up as the next generation");
    second.wait_until("it serves the release", |second| ask(second.address()).version == "3");
    assert!(first.terminate().success() && second.terminate().success());
}

#[test]
fn a_restart_runs_no_file_in_the_store_that_is_not_proved() {
    let (pair, stranger) = (key_pair(), key_pair());
    // It looks once: a look would remove the proofs of what was never staged.
    let store = Store::new(&format!("interval=3600000 {}", trusting(&pair)));
    let (two, hostile) = (release("version=2"), release("version=666"));
    put(&store.scene.source().with_extension("minisig"), sign(&pair, &two, "release", TIME).as_bytes());
    store.scene.publish_bytes(&two);
    let mut app = store.scene.start();
    app.line_after("is installed at");
    app.line_after("generation 1 is gone");
    let (id, sha256) = hashes(&hostile);
    let of_stranger = sign(&stranger, &hostile, "release", TIME);
    let forged = |minisig: Option<&str>| {
        serde_json::json!({"release": {"id": id, "tag": "2"}, "sha256": sha256, "file_name": "release", "minisig": minisig}).to_string()
    };
    let proofs = [
        (String::new(), "is damaged, or was not put there by an upgrade"),
        (forged(None), "is not signed, and is taken only with a signature by a trusted key"),
        (forged(Some(&of_stranger)), "which is no trusted one"),
    ];
    for (proof, why) in proofs {
        put(&store.path("app"), &hostile);
        fs::write(store.path(&format!(".app.overseer/proof-{id}.json")), proof).expect("written");
        app.signal(Signal::SIGUSR2);
        let said = app.line_after("the file that somebody put at ");
        assert!(said.contains(why), "{said}");
    }
    assert_eq!((ask(app.address()).version.as_str(), app.count_lines("serving version=666")), ("2", 0), "{}", app.all_lines());
    let why = refused(&store.scene, "restart");
    assert!(why.contains("which is no trusted one"), "{why}");
    // The release itself, as after a restored backup; and the same file again, which need not be proved.
    put(&store.path("app"), &two);
    for _ in 0..2 {
        let said = done(&store.scene, "restart");
        assert!(said.ends_with("has taken over"), "{said}");
    }
    assert_eq!((ask(app.address()).version.as_str(), app.count_lines("serving version=666")), ("2", 0), "{}", app.all_lines());
    assert!(app.terminate().success());
}

#[test]
fn a_hold_before_the_first_start_is_refused_and_makes_nothing() {
    let mut store = Store::new("");
    let why = refused(&store.scene, "hold:the fair");
    assert!(why.contains("start the service first") && !store.path(".app.overseer").exists(), "{why}");
    let mut app = store.scene.start();
    app.line_after("looking for a release");
    done(&store.scene, "hold:the fair");
    assert!(app.terminate().success());
    let mut app = store.scene.start();
    store.scene.publish("version=2");
    app.line_after("is not installed: upgrades are held");
    assert!(app.terminate().success());

    // What a service without a store remembered beside the program is not what one with a store looks at.
    fs::create_dir(store.scene.state_dir()).expect("made");
    fs::set_permissions(store.scene.state_dir(), Permissions::from_mode(0o700)).expect("mode set");
    store.scene.add_words(&format!("binary_store={}", store.path("made").display()));
    let why = refused(&store.scene, "hold:the fair");
    assert!(why.contains("store/made: start the service first") && !store.path("made").exists(), "{why}");
    assert!(!store.scene.state_dir().join("state.json").exists());

    // Whose state directory it is to be, nobody knows.
    let mut configured = Scene::with_source("");
    let state_dir = configured.directory().join("state");
    configured.add_words(&format!("state_dir={}", state_dir.display()));
    let why = refused(&configured, "hold:the fair");
    assert!(why.contains("start the service first") && !state_dir.exists(), "{why}");
}
