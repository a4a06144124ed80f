//! Signed releases: what a trusted key has signed is installed, and nothing else.

use crate::app::{App, Scene, put, release};
use crate::load::{Load, ask, tell};
use minisign::KeyPair;
use std::fs;
use std::path::PathBuf;

/// When the releases of these tests are signed: some day in November 2023, and so many seconds.
pub(crate) const TIME: u64 = 1_700_000_000;

pub(crate) fn key_pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key pair")
}

pub(crate) fn trusting(pair: &KeyPair) -> String {
    format!("trusted_key={}", pair.pk.to_base64())
}

pub(crate) fn sign(pair: &KeyPair, contents: &[u8], name: &str, time: u64) -> String {
    let comment = format!("timestamp:{time}\tfile:{name}\thashed");
    minisign::sign(None, &pair.sk, contents, Some(&comment), None).expect("signed").into_string()
}

fn beside(scene: &Scene) -> PathBuf {
    scene.source().with_extension("minisig")
}

/// Offers the file with this signature. There is no moment at which one of them lies beside what is older.
fn publish(scene: &Scene, contents: &[u8], minisig: &str) {
    let _ = fs::remove_file(beside(scene));
    scene.publish_bytes(contents);
    put(&beside(scene), minisig.as_bytes());
}

/// The same, signed as it should be, so many seconds after [`TIME`].
fn publish_signed(scene: &Scene, words: &str, pair: &KeyPair, after: u64) {
    let contents = release(words);
    publish(scene, &contents, &sign(pair, &contents, "release", TIME + after));
}

fn installed_time(scene: &Scene) -> Option<u64> {
    scene.state()["installed"]["release"]["signed_unix_s"].as_u64()
}

/// Waits until the release is installed and the one before it is gone.
fn is_installed(app: &mut App, version: &str) {
    app.line_after("is installed at");
    app.line_after("is gone");
    assert_eq!(ask(app.address()).version, version);
}

/// Waits until the release is refused for this reason.
fn is_refused(app: &mut App, why: &str, version: &str) {
    let rest = app.line_after(why);
    assert!(rest.contains("keeps serving; tried again in 10 min"), "{why}{rest}");
    assert_eq!(ask(app.address()).version, version);
}

#[test]
fn a_signed_release_is_installed_and_when_it_was_signed_is_remembered() {
    let pair = key_pair();
    let scene = Scene::with_source(&trusting(&pair));
    let mut app = scene.start();
    publish_signed(&scene, "version=2", &pair, 0);
    is_installed(&mut app, "2");
    assert_eq!(installed_time(&scene), Some(TIME));
    assert!(app.terminate().success());

    let mut app = scene.start();
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert_eq!((installed_time(&scene), app.count_lines("is proved")), (Some(TIME), 0));
}

#[test]
fn what_is_not_signed_as_it_should_be_is_refused_with_the_reason_until_it_is_mended() {
    let (pair, stranger) = (key_pair(), key_pair());
    let scene = Scene::with_source(&trusting(&pair));
    let mut app = scene.start();
    let load = Load::start(app.address());
    let contents = release("version=2");

    scene.publish_bytes(&contents);
    app.line_after("a release is taken only with its .minisig file");
    publish(&scene, &contents, &sign(&stranger, &contents, "release", TIME));
    is_refused(&mut app, "which is no trusted one", "1");
    publish(&scene, &contents, &sign(&pair, &contents, "another", TIME));
    is_refused(&mut app, "has the signature of another file: of another, and its own name is release", "1");
    let mut damaged = contents.clone();
    damaged[1000] ^= 1;
    publish(&scene, &damaged, &sign(&pair, &contents, "release", TIME));
    is_refused(&mut app, "has a broken signature", "1");
    publish(&scene, &contents, "not found");
    is_refused(&mut app, "has a signature that cannot be read", "1");
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    assert_eq!((scene.version_at_path().as_str(), scene.names_beside()), ("1", vec!["app".to_owned()]));
    assert_eq!(app.count_lines("is proved"), 0);

    put(&beside(&scene), sign(&pair, &contents, "release", TIME).as_bytes());
    is_installed(&mut app, "2");
    load.wait_for("2", 20);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{tally}");
}

#[test]
fn an_old_release_that_is_offered_again_is_refused_also_after_a_restart_of_the_service() {
    let pair = key_pair();
    let mut scene = Scene::with_source(&trusting(&pair));
    let mut app = scene.start();
    publish_signed(&scene, "version=3", &pair, 100);
    is_installed(&mut app, "3");
    let refused = "before the installed release (2023-11-14 22:15:00 UTC); allow_downgrade would take it";
    publish_signed(&scene, "version=2", &pair, 99);
    is_refused(&mut app, refused, "3");
    assert!(app.terminate().success());

    let mut app = scene.start();
    for _ in 0..3 {
        app.line_after("nothing new at");
    }
    publish_signed(&scene, "version=2", &pair, 99);
    is_refused(&mut app, refused, "3");
    assert!(app.terminate().success());
    assert_eq!((installed_time(&scene), scene.version_at_path().as_str()), (Some(TIME + 100), "3"));

    scene.add_words("allow_downgrade");
    let mut app = scene.start();
    publish_signed(&scene, "version=2", &pair, 99);
    is_installed(&mut app, "2");
    assert_eq!(installed_time(&scene), Some(TIME + 99));
}

#[test]
fn a_release_that_is_taken_back_takes_its_time_with_it() {
    let pair = key_pair();
    let scene = Scene::with_source(&trusting(&pair));
    let mut app = scene.start();
    publish_signed(&scene, "version=2", &pair, 100);
    is_installed(&mut app, "2");
    publish_signed(&scene, "version=3", &pair, 200);
    is_installed(&mut app, "3");
    assert_eq!(installed_time(&scene), Some(TIME + 200));
    let _ = tell(app.address(), "crash");
    app.line_after("the previous binary is back at the program's path");
    app.line_after("serving version=2");
    app.line_after("is ready");
    assert_eq!(installed_time(&scene), Some(TIME + 100));

    publish_signed(&scene, "version=1", &pair, 99);
    is_refused(&mut app, "before the installed release", "2");
    // Newer than what runs, older than what was taken back.
    publish_signed(&scene, "version=4", &pair, 150);
    is_installed(&mut app, "4");
    assert_eq!(installed_time(&scene), Some(TIME + 150));
}

#[test]
fn the_keys_of_the_version_that_runs_decide() {
    let (old, new) = (key_pair(), key_pair());
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish(&format!("version=2 {}", trusting(&old)));
    is_installed(&mut app, "2");
    scene.publish("version=3");
    app.line_after("a release is taken only with its .minisig file");

    // Rotation: the new key comes with a release that the old one has signed.
    publish_signed(&scene, &format!("version=3 {}", trusting(&new)), &old, 0);
    is_installed(&mut app, "3");
    publish_signed(&scene, "version=4", &old, 1);
    is_refused(&mut app, "which is no trusted one", "3");
    publish_signed(&scene, &format!("version=4 {},{}", trusting(&old), new.pk.to_base64()), &new, 2);
    is_installed(&mut app, "4");
    assert_eq!(installed_time(&scene), Some(TIME + 2));

    // Both are trusted now; and back to none.
    publish_signed(&scene, "version=5 trusted_key=none", &old, 3);
    is_installed(&mut app, "5");
    fs::remove_file(beside(&scene)).expect("removed");
    scene.publish("version=6");
    is_installed(&mut app, "6");
    assert_eq!(installed_time(&scene), None, "nobody has proved when it was signed");
}

#[test]
fn the_time_of_a_release_that_was_put_there_by_hand_is_learnt_from_its_source() {
    let pair = key_pair();
    let scene = Scene::with_source(&trusting(&pair));
    publish(&scene, &release("version=1"), &sign(&pair, &release("version=1"), "release", TIME));
    let mut app = scene.start();
    app.wait_until("it is looked at", |_| installed_time(&scene) == Some(TIME));
    // An older one, from before; and one of the same second, which is none.
    publish(&scene, &release("version=0"), &sign(&pair, &release("version=0"), "release", TIME - 1));
    is_refused(&mut app, "before the installed release", "1");
    publish_signed(&scene, "version=2", &pair, 0);
    is_installed(&mut app, "2");
}

#[test]
fn a_wrong_key_is_an_error_at_the_start_and_keeps_a_release_from_being_installed() {
    let scene = Scene::with_source("");
    let mut app = scene.start();
    scene.publish("version=2 trusted_key=RWnonsense");
    let rest = app.line_after("setting trusted_key is \"RWnonsense\": it is not a public key of minisign");
    assert!(rest.contains("generation 1 keeps serving"), "{rest}");
    assert!(app.terminate().success());
    put(&scene.program(), &release("version=2 trusted_key=RWnonsense"));
    let mut app = App::start(scene.command());
    app.line_after("error: setting trusted_key is \"RWnonsense\"");
    assert_eq!(app.wait_exit().code(), Some(1));
}
