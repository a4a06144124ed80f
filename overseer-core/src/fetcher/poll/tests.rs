//! Looks that end in every way, without a master.

use super::super::{Digest, DigestAlgorithm, FetchErrorKind, fetcher_fn};
use super::*;
use crate::binary::testing::{self, PATIENCE, Part};
use crate::binary::{Demands, StateDir, commit};
use crate::role::RoleName;
use crate::sys::process;
use crate::sys::spawn::Spawn;
use minisign::KeyPair;
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct Scene {
    directory: testing::Directory,
    path: PathBuf,
    state_dir: PathBuf,
    judged: Vec<String>,
    installed_signed_unix_s: Option<u64>,
    naming: Option<Naming>,
}

impl Scene {
    fn new() -> Self {
        Self::at(testing::directory())
    }

    fn at(directory: testing::Directory) -> Self {
        let path = directory.path().join("app");
        testing::program(&path, Part::Good);
        let place = crate::binary::Place::at(&path, None).expect("a place");
        let state_dir = StateDir::open(&place).expect("a state directory").path().to_owned();
        Self { directory, path, state_dir, judged: Vec::new(), installed_signed_unix_s: None, naming: None }
    }

    fn order(&self, known: Known) -> Order {
        let running = Identity::of(&fs::metadata(&self.path).expect("metadata"));
        let (path, state_dir, judged) = (self.path.clone(), self.state_dir.clone(), self.judged.clone());
        let (installed_signed_unix_s, naming) = (self.installed_signed_unix_s, self.naming.clone());
        Order { known, path, state_dir, running, judged, installed_signed_unix_s, naming, store: None }
    }

    fn look(&self, fetcher: impl Fetcher) -> (Report, Option<File>) {
        self.look_with(fetcher, |_| ())
    }

    fn look_with(&self, fetcher: impl Fetcher, change: impl FnOnce(&mut Poll)) -> (Report, Option<File>) {
        let mut poll = Poll { fetcher: Box::new(fetcher), demands: Demands::default(), check_timeout: PATIENCE, pre_upgrade: None };
        change(&mut poll);
        poll.look(self.order(Known::nothing()), &Original::capture().expect("signals"), &mut |_| ())
    }

    /// What lies beside the program and in the state directory.
    fn names(&self) -> Vec<String> {
        let entries = [self.directory.path(), &self.state_dir].map(|path| fs::read_dir(path).expect("a directory"));
        let names = entries.into_iter().flatten().map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn has_only_the_program(&self) {
        assert_eq!(self.names(), [".app.overseer", "app"]);
    }
}

fn offer(name: &'static str, bytes: Vec<u8>) -> impl Fetcher {
    fetcher_fn("here", move |_| {
        let release = Release::new("one", name, io::Cursor::new(bytes.clone())).size_bytes(bytes.len() as u64).version("v1");
        Ok(Look::release(release).remember("a memo"))
    })
}

fn refused(said: (Report, Option<File>)) -> (ReleaseName, Verdict, String) {
    assert!(said.1.is_none());
    match said.0.outcome {
        Outcome::Refused { release, verdict, why } => (release, verdict, why),
        other => panic!("it was not refused: {other:?}"),
    }
}

fn failed(said: (Report, Option<File>)) -> FetchError {
    assert!(said.1.is_none() && said.0.memo.is_none());
    match said.0.outcome {
        Outcome::Failed { error } => error,
        other => panic!("it did not fail: {other:?}"),
    }
}

fn staged(said: (Report, Option<File>)) -> (Staged, File) {
    match said.0.outcome {
        Outcome::Staged(staged) => (staged, said.1.expect("a descriptor")),
        other => panic!("it was not staged: {other:?}"),
    }
}

fn id(bytes: &[u8]) -> String {
    use sha1::{Digest, Sha1};
    crate::binary::hex(&Sha1::digest(bytes))
}

/// A release that works, and is another file than the program.
fn release() -> Vec<u8> {
    let mut bytes = testing::program_bytes(Part::Good);
    bytes.splice(bytes.len() - 70..bytes.len() - 64, *b"newer ");
    bytes
}

#[test]
fn a_release_is_staged_and_can_be_committed() {
    let scene = Scene::new();
    fs::set_permissions(&scene.path, fs::Permissions::from_mode(0o751)).expect("mode set");
    let bytes = release();
    let old = fs::read(&scene.path).expect("read");
    let said = scene.look(offer("app", bytes.clone()));
    assert_eq!((said.0.memo.as_deref(), said.0.running_id.clone()), (Some("a memo"), Some(id(&old))));
    let (staged, file) = staged(said);
    let name = ReleaseName {
        id: id(&bytes),
        tag: "one".to_owned(),
        source: "here".to_owned(),
        version: Some("v1".to_owned()),
        ..ReleaseName::default()
    };
    assert_eq!(staged.release, name);
    let metadata = fs::metadata(&staged.path).expect("metadata");
    assert_eq!((Identity::of(&metadata), metadata.mode() & 0o7777), (staged.identity, 0o751));
    assert!(staging::remove_stale(scene.directory.path(), OsStr::new("app")).is_empty(), "the descriptor holds the flock");
    assert_eq!(scene.names().len(), 4, "{:?}", scene.names());

    commit(&scene.path, &staged, file.as_fd()).expect("committed");
    assert_eq!(scene.names(), [".app.overseer", "app", "previous"]);
    assert!(fs::read(&scene.path).expect("read") == bytes);
    assert!(fs::read(scene.state_dir.join("previous")).expect("read") == old);
}

#[cfg(feature = "unpack")]
#[test]
fn a_packed_release_is_unpacked() {
    let scene = Scene::new();
    let bytes = release();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&bytes).expect("packed");
    let packed = packer.finish().expect("packed");
    let limit = |poll: &mut Poll| poll.demands.size_bytes_max = bytes.len() as u64 - 1;
    let (_, verdict, why) = refused(scene.look_with(offer("app.gz", packed.clone()), limit));
    assert!(verdict == Verdict::Reject && why.contains("when unpacked"), "{why}");
    scene.has_only_the_program();

    let (staged, _file) = staged(scene.look(offer("app.gz", packed)));
    assert_eq!(staged.release.id, id(&bytes));
    assert!(fs::read(&staged.path).expect("read") == bytes);
    assert_eq!(scene.names().len(), 4, "the download is gone: {:?}", scene.names());
}

#[test]
fn what_is_no_program_is_rejected_and_nothing_is_left() {
    let scene = Scene::new();
    let whole = release();
    for (bytes, word) in [
        (b"#!/bin/sh\n".to_vec(), "is a script"),
        (b"hello\n".to_vec(), "is text"),
        (Vec::new(), "is empty"),
        (whole[..whole.len() / 2].to_vec(), "is cut off"),
        (fs::read("/bin/true").expect("read"), "not an overseer program"),
    ] {
        let said = scene.look(offer("app", bytes.clone()));
        assert_eq!(said.0.memo.as_deref(), Some("a memo"));
        let (name, verdict, why) = refused(said);
        assert_eq!((name.id, verdict), (id(&bytes), Verdict::Reject));
        assert!(why.contains(word), "{word}: {why}");
        scene.has_only_the_program();
    }
}

#[test]
fn one_that_fails_its_check_is_held_back_and_nothing_is_left() {
    let scene = Scene::new();
    let said = scene.look(offer("app", testing::program_bytes(Part::Problem)));
    assert_eq!(said.0.memo, None, "it would hide the release from the next look");
    let (_, verdict, why) = refused(said);
    assert!(verdict == Verdict::HoldBack && why.contains("port 99999"), "{why}");
    let short = |poll: &mut Poll| poll.check_timeout = Duration::from_millis(200);
    let (_, verdict, why) = refused(scene.look_with(offer("app", testing::program_bytes(Part::Stays)), short));
    assert!(verdict == Verdict::HoldBack && why.contains("200ms"), "{why}");
    scene.has_only_the_program();
}

#[test]
fn the_running_one_is_the_same_and_a_refused_one_stays_refused() {
    let mut scene = Scene::new();
    let running = fs::read(&scene.path).expect("read");
    let (report, file) = scene.look(offer("app", running));
    assert!(matches!(&report.outcome, Outcome::Same { release } if release.tag == "one") && file.is_none(), "{report:?}");
    scene.has_only_the_program();

    let bytes = release();
    scene.judged.push(id(&bytes));
    let (report, file) = scene.look(offer("app", bytes.clone()));
    assert!(matches!(&report.outcome, Outcome::Judged { release } if release.id == id(&bytes)) && file.is_none(), "{report:?}");
    scene.has_only_the_program();
}

#[test]
fn a_script_is_staged_where_scripts_are_allowed_and_not_one_that_would_replace_what_it_starts() {
    let scene = Scene::new();
    let other = testing::directory();
    let program = other.path().join("program");
    testing::program(&program, Part::Good);
    let script = |path: &Path| format!("#!/bin/sh\nexec {} \"$@\"\n", path.display()).into_bytes();
    let allow = |poll: &mut Poll| poll.demands.allow_scripts = true;

    let (_, verdict, why) = refused(scene.look(offer("app", script(&program))));
    assert!(verdict == Verdict::Reject && why.contains("scripts are not allowed"), "{why}");
    let (_, verdict, why) = refused(scene.look_with(offer("app", script(&scene.path)), allow));
    assert!(verdict == Verdict::Reject && why.contains("which it would replace"), "{why}");
    let (_, verdict, why) = refused(scene.look_with(offer("app", b"#!/bin/sh\nexit 0\n".to_vec()), allow));
    assert!(verdict == Verdict::HoldBack && why.contains("without an answer"), "{why}");
    scene.has_only_the_program();

    let (report, file) = scene.look_with(offer("app", script(&program)), allow);
    assert!(matches!(report.outcome, Outcome::Staged(_)) && file.is_some(), "{report:?}");
}

/// What a shell would run, and the kernel does not.
#[cfg(feature = "unpack")]
#[test]
fn text_in_an_archive_goes_to_no_shell_allowed_scripts_or_not() {
    let scene = Scene::new();
    let elsewhere = testing::directory();
    let trace = elsewhere.path().join("trace");
    let text = format!("touch {}\n", trace.display()).into_bytes();
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "app", &text[..]).expect("packed");
    let tar = archive.into_inner().expect("packed");
    let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    archive.start_file("bin/app", zip::write::SimpleFileOptions::default().unix_permissions(0o755)).expect("packed");
    archive.write_all(&text).expect("packed");
    let zip = archive.finish().expect("packed").into_inner();
    for allowed in [false, true] {
        for (name, bytes) in [("app", &text), ("app.tar", &tar), ("app.zip", &zip)] {
            let (_, verdict, why) = refused(scene.look_with(offer(name, bytes.clone()), |poll| poll.demands.allow_scripts = allowed));
            assert!(verdict == Verdict::Reject && why.contains("is text"), "{name}: {why}");
        }
    }
    assert!(!trace.exists(), "a shell ran it");
    scene.has_only_the_program();
}

struct Unread;

impl Read for Unread {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("it was read");
    }
}

#[test]
fn a_settled_tag_is_not_read_even_if_the_fetcher_does_not_ask() {
    let scene = Scene::new();
    let fetcher = fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", Unread))));
    let poll = Poll {
        fetcher: Box::new(fetcher),
        demands: Demands { size_bytes_max: 1, ..Demands::default() },
        check_timeout: PATIENCE,
        pre_upgrade: None,
    };
    let order = scene.order(Known::nothing().with_settled("one"));
    let (report, _) = poll.look(order, &Original::capture().expect("signals"), &mut |_| ());
    assert!(matches!(report.outcome, Outcome::Unchanged), "{report:?}");

    let fetcher = fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app.tar.xz", Unread))));
    let (_, verdict, why) = refused(scene.look(fetcher));
    assert!(verdict == Verdict::Reject && why.contains(".tar.xz cannot be unpacked"), "{why}");
    let fetcher = fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", Unread))));
    let error = failed(scene.look(fetcher));
    assert!(error.to_string().contains("panicked: it was read"), "{error}");
    scene_has_no_staged_file(&scene);
}

/// Trusts one key and demands nothing else.
fn trusting(pair: &KeyPair) -> impl Fn(&mut Poll) + use<> {
    let key = pair.pk.to_base64();
    move |poll| poll.demands.trusted_keys = vec![key.clone()]
}

fn key_pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key pair")
}

/// Offers the bytes with this signature.
fn offer_signed(name: &'static str, bytes: Vec<u8>, minisig: String) -> impl Fetcher {
    fetcher_fn("here", move |known| {
        assert!(known.wants_signature());
        let release = Release::new("one", name, io::Cursor::new(bytes.clone())).signature(minisig.clone());
        Ok(Look::release(release).remember("a memo"))
    })
}

#[test]
fn a_signed_release_is_staged_with_the_time_of_its_signature() {
    let (mut scene, pair, bytes) = (Scene::new(), key_pair(), release());
    scene.installed_signed_unix_s = Some(1_699_999_999);
    let minisig = testing::sign(&pair, &bytes, "timestamp:1700000000\tfile:app\thashed");
    let (staged, _file) = staged(scene.look_with(offer_signed("app", bytes, minisig), trusting(&pair)));
    assert_eq!(staged.release.signed_unix_s, Some(1_700_000_000));
}

#[test]
fn what_a_signature_does_not_allow_is_refused_before_it_is_read() {
    let (mut scene, pair, stranger) = (Scene::new(), key_pair(), key_pair());
    scene.installed_signed_unix_s = Some(1_700_000_001);
    let sign = |pair, comment| Some(testing::sign(pair, b"", comment));
    for (minisig, word) in [
        (None, "is not signed"),
        (Some("nonsense".to_owned()), "cannot be read"),
        (sign(&stranger, "timestamp:1700000001\tfile:app"), "is no trusted one"),
        (sign(&pair, "timestamp:1700000001\tfile:other"), "signature of another file"),
        (sign(&pair, "timestamp:1700000000\tfile:app"), "before the installed release"),
        (sign(&pair, "file:app"), "without a timestamp"),
        (sign(&pair, "timestamp:99000000000\tfile:app"), "ahead of this machine's clock"),
    ] {
        let fetcher = fetcher_fn("here", move |_| {
            let release = Release::new("one", "app", Unread);
            Ok(Look::release(minisig.iter().cloned().fold(release, Release::signature)).remember("a memo"))
        });
        let said = scene.look_with(fetcher, trusting(&pair));
        assert_eq!(said.0.memo, None, "it would hide the release from the next look");
        let (name, verdict, why) = refused(said);
        assert!(verdict == Verdict::Mendable && why.contains(word), "{word}: {why}");
        assert_eq!((name.id.as_str(), name.signed_unix_s), ("", None), "the file behind a wrong signature may be a good one");
        scene.has_only_the_program();
    }
}

#[test]
fn a_downgrade_that_is_allowed_is_staged_with_its_own_time() {
    let (mut scene, pair, bytes) = (Scene::new(), key_pair(), release());
    scene.installed_signed_unix_s = Some(1_700_000_001);
    let minisig = testing::sign(&pair, &bytes, "timestamp:1700000000\tfile:app");
    let lax = |poll: &mut Poll| {
        trusting(&pair)(poll);
        poll.demands.allow_downgrade = true;
    };
    let (staged, _file) = staged(scene.look_with(offer_signed("app", bytes, minisig), lax));
    assert_eq!(staged.release.signed_unix_s, Some(1_700_000_000));
}

#[test]
fn a_broken_signature_is_found_before_the_file_is_looked_at_and_nothing_is_left() {
    let (scene, pair, bytes) = (Scene::new(), key_pair(), release());
    let minisig = testing::sign(&pair, &bytes, "timestamp:1700000000\tfile:app");
    let mut changed = bytes.clone();
    changed[1000] ^= 1;
    for other in [changed, bytes[..bytes.len() - 1].to_vec(), b"#!/bin/sh\n".to_vec()] {
        let (name, verdict, why) = refused(scene.look_with(offer_signed("app", other, minisig.clone()), trusting(&pair)));
        assert!(verdict == Verdict::Mendable && why.contains("broken signature"), "{why}");
        assert_eq!((name.id.as_str(), name.signed_unix_s), ("", None));
        scene.has_only_the_program();
    }
    // The running one too: a time is learnt from a proved signature only.
    let running = fs::read(&scene.path).expect("read");
    refused(scene.look_with(offer_signed("app", running.clone(), minisig), trusting(&pair)));
    let minisig = testing::sign(&pair, &running, "timestamp:1700000000\tfile:app");
    let (report, _) = scene.look_with(offer_signed("app", running, minisig), trusting(&pair));
    assert!(matches!(&report.outcome, Outcome::Same { release } if release.signed_unix_s == Some(1_700_000_000)), "{report:?}");
}

#[cfg(feature = "unpack")]
#[test]
fn the_signature_is_one_of_the_file_as_it_was_published() {
    let (scene, pair, bytes) = (Scene::new(), key_pair(), release());
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&bytes).expect("packed");
    let packed = packer.finish().expect("packed");
    let unpacked = testing::sign(&pair, &bytes, "file:app.gz");
    let (_, _, why) = refused(scene.look_with(offer_signed("app.gz", packed.clone(), unpacked), trusting(&pair)));
    assert!(why.contains("broken signature"), "{why}");
    let minisig = testing::sign(&pair, &packed, "file:app.gz");
    let (staged, _file) = staged(scene.look_with(offer_signed("app.gz", packed, minisig), trusting(&pair)));
    assert_eq!((staged.release.id, staged.release.signed_unix_s), (id(&bytes), None));
}

#[test]
fn a_release_put_together_of_two_is_not_blamed_on_its_signature() {
    let (scene, pair) = (Scene::new(), key_pair());
    let minisig = testing::sign(&pair, b"abcd", "file:app");
    let first = fetcher_fn("here", {
        let minisig = minisig.clone();
        move |_| Ok(Look::release(Release::new("one", "app", &b"xx"[..]).size_bytes(4).signature(minisig.clone())))
    });
    failed(scene.look_with(first, trusting(&pair)));
    let rest = fetcher_fn("here", move |_| {
        Ok(Look::release(Release::new("one", "app", &b"cd"[..]).size_bytes(4).resumed_at(2).signature(minisig.clone())))
    });
    let error = failed(scene.look_with(rest, trusting(&pair)));
    assert!(error.to_string().contains("broken signature") && error.to_string().contains("fetched anew"), "{error}");
    scene.has_only_the_program();
}

#[test]
fn without_trusted_keys_a_signature_proves_nothing_and_is_not_asked_for() {
    let (scene, bytes) = (Scene::new(), release());
    let fetcher = fetcher_fn("here", move |known| {
        assert!(!known.wants_signature());
        Ok(Look::release(Release::new("one", "app", io::Cursor::new(bytes.clone())).signature("nonsense")))
    });
    let (staged, _file) = staged(scene.look(fetcher));
    assert_eq!(staged.release.signed_unix_s, None);
}

fn scene_has_no_staged_file(scene: &Scene) {
    assert!(scene.names().iter().all(|name| !name.contains(".new-")), "{:?}", scene.names());
}

#[test]
fn a_fetcher_that_panics_or_fails_is_a_failed_look() {
    let scene = Scene::new();
    let error = failed(scene.look(fetcher_fn("here", |_| panic!("no such {}", "bucket"))));
    assert!(error.to_string().contains("panicked: no such bucket"), "{error}");
    let own = FetchError::settings("wrong\u{1b}[31m password").retry_after(Duration::from_secs(7));
    let error = failed(scene.look(fetcher_fn("here", move |_| Err(own.clone()))));
    assert_eq!(error, FetchError::settings("wrong [31m password").retry_after(Duration::from_secs(7)));
    let error = failed(scene.look(fetcher_fn("here", |_| Err(FetchError::passing("é".repeat(20_000))))));
    assert!(error.to_string().len() <= TEXT_BYTES_MAX + 3);
    let error = failed(scene.look(fetcher_fn("here", |_| Ok(Look::release(Release::new("x".repeat(2000), "app", io::empty()))))));
    assert_eq!(error.kind(), FetchErrorKind::BadRelease);
    scene.has_only_the_program();
}

#[test]
fn what_the_source_says_of_itself_is_passed_on() {
    let scene = Scene::new();
    let (report, _) = scene.look(fetcher_fn("here", |known| {
        assert!(known.size_bytes() > 0 && known.path().ends_with("app") && known.id().is_some());
        Ok(Look::incomplete("no asset yet").remember("m"))
    }));
    assert_eq!(report.memo.as_deref(), Some("m"));
    assert!(matches!(&report.outcome, Outcome::Incomplete { why } if why == "no asset yet"), "{report:?}");
    let (report, _) = scene.look(fetcher_fn("here", |_| Ok(Look::unchanged().remember("x".repeat(MEMO_BYTES_MAX + 1)))));
    let is_still_too_long = report.memo.as_ref().is_some_and(|memo| memo.len() == MEMO_BYTES_MAX + 1);
    assert!(matches!(report.outcome, Outcome::Unchanged) && is_still_too_long, "the master says so");
}

#[test]
fn nothing_is_fetched_for_another_file_than_the_running_one() {
    let scene = Scene::new();
    let unasked = || fetcher_fn("here", |_| panic!("it was asked"));
    let mut order = scene.order(Known::nothing());
    order.running.inode += 1;
    for (word, is_there) in [("holds another file", true), ("is gone", false)] {
        if !is_there {
            fs::remove_file(&scene.path).expect("removed");
        }
        let poll = Poll {
            fetcher: Box::new(unasked()),
            demands: Demands { size_bytes_max: 1, ..Demands::default() },
            check_timeout: PATIENCE,
            pre_upgrade: None,
        };
        let (report, _) = poll.look(order.clone(), &Original::capture().expect("signals"), &mut |_| ());
        assert!(matches!(&report.outcome, Outcome::Incomplete { why } if why.contains(word)), "{report:?}");
    }
}

#[test]
fn the_hook_has_the_last_word() {
    let scene = Scene::new();
    let is_called = Arc::new(AtomicBool::new(false));
    let called = Arc::clone(&is_called);
    let directory = scene.directory.path().to_owned();
    let bytes = release();
    let agree = move |poll: &mut Poll| {
        poll.pre_upgrade = Some(Box::new(move |path| {
            assert!(path.starts_with(&directory));
            called.store(true, Ordering::Relaxed);
            Ok(())
        }));
    };
    let (staged, _) = staged(scene.look_with(offer("app", bytes.clone()), agree));
    assert!(is_called.load(Ordering::Relaxed));
    crate::binary::discard(&staged);
    scene.has_only_the_program();

    type Hook = fn(&Path) -> Result<(), String>;
    let hooks: [(Hook, &str); 3] = [
        (|_| Err("not on a Friday".to_owned()), "hook: not on a Friday"),
        (|_| panic!("oops"), "hook panicked: oops"),
        (|path| fs::write(path, "mine").map_err(|error| error.to_string()), "was changed"),
    ];
    for (hook, word) in hooks {
        let said = scene.look_with(offer("app", bytes.clone()), |poll| poll.pre_upgrade = Some(Box::new(hook)));
        let (_, verdict, why) = refused(said);
        assert!(verdict == Verdict::HoldBack && why.contains(word), "{word}: {why}");
        scene.has_only_the_program();
    }
}

#[test]
fn a_release_put_together_of_two_is_not_blamed_on_the_source() {
    let scene = Scene::new();
    let digest = Digest::from_hex(DigestAlgorithm::Sha1, &id(b"abcd")).expect("a digest");
    let error = failed(scene.look(fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", &b"xx"[..]).size_bytes(4))))));
    assert!(error.to_string().contains("ended after 2 of 4 bytes"), "{error}");
    let error = failed(scene.look(fetcher_fn("here", move |known| {
        let partial = known.partial().expect("a beginning");
        assert_eq!((partial.tag.as_str(), partial.size_bytes), ("one", 2));
        Ok(Look::release(Release::new("one", "app", &b"cd"[..]).size_bytes(4).resumed_at(2).digest(digest.clone())))
    })));
    assert!(error.to_string().contains("fetched anew"), "{error}");
    let error = failed(scene.look(fetcher_fn("here", |known| {
        assert_eq!(known.partial(), None);
        Err(FetchError::passing("enough"))
    })));
    assert_eq!(error.to_string(), "enough");
    scene.has_only_the_program();
}

#[test]
fn a_disk_that_is_full_at_any_point_is_said_and_nothing_is_left() {
    testing::in_own_mounts("fetcher::poll::tests::a_disk_that_is_full_at_any_point_is_said_and_nothing_is_left", |directory| {
        let bytes = release();
        let mebibytes = bytes.len() / (1 << 20) + 2;
        // Room for the program, and for less than the release.
        let size = format!("size={}m", mebibytes + mebibytes / 2);
        testing::mount(&["-t", "tmpfs", "-o", &size, "none", directory.to_str().expect("text")]);
        let scene = Scene::at(testing::Directory::at(directory));
        let error = failed(scene.look(offer("app", bytes.clone())));
        assert!(error.kind() == FetchErrorKind::Passing && error.to_string().contains("are free"), "{error}");
        scene.has_only_the_program();

        let of_unknown_size = bytes.clone();
        let error =
            failed(scene.look(fetcher_fn("here", move |_| {
                Ok(Look::release(Release::new("one", "app", io::Cursor::new(of_unknown_size.clone()))))
            })));
        assert_eq!(error.kind(), FetchErrorKind::Passing);
        assert!(error.to_string().contains("/download: No space left on device"), "{error}");
        scene.has_only_the_program();

        #[cfg(feature = "unpack")]
        {
            // Small enough while it is packed.
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(&vec![0; bytes.len()]).expect("packed");
            let error = failed(scene.look(offer("app.gz", packer.finish().expect("packed"))));
            assert_eq!(error.kind(), FetchErrorKind::Passing);
            assert!(error.to_string().contains("/.app.new-") && error.to_string().contains("No space left"), "{error}");
            scene.has_only_the_program();
        }
    });
}

#[cfg(feature = "unpack")]
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("packed");
    packer.finish().expect("packed")
}

/// What a look says that is only to name what is new: whether it is the running file, and with which ID.
fn named(scene: &Scene, fetcher: impl Fetcher) -> (bool, String) {
    let (report, file) = scene.look(fetcher);
    assert!(file.is_none());
    scene.has_only_the_program();
    match report.outcome {
        Outcome::Same { release } => (true, release.id),
        Outcome::Named { release } => {
            assert!(report.memo.is_none(), "it would hide the release from the look that installs it");
            assert_eq!(release.tag, "one");
            (false, release.id)
        }
        other => panic!("it was not named: {other:?}"),
    }
}

#[test]
fn what_is_only_to_be_named_is_not_downloaded_if_its_source_says_enough() {
    use sha2::Digest as _;
    let mut scene = Scene { naming: Some(Naming::default()), ..Scene::new() };
    let running = fs::read(&scene.path).expect("read");
    let bytes = running.len() as u64;
    let digest = |of: &[u8]| Digest::new(DigestAlgorithm::Sha256, sha2::Sha256::digest(of).to_vec()).expect("a digest");
    let unread = |name: &'static str, change: fn(Release, Digest) -> Release, digest: Digest, size_bytes: u64| {
        fetcher_fn("here", move |_| {
            let release = Release::new("one", name, Unread).size_bytes(size_bytes);
            Ok(Look::release(change(release, digest.clone())).remember("a memo"))
        })
    };
    let (own, other) = (digest(&running), digest(b"another one"));
    assert_eq!(named(&scene, unread("app", Release::digest, own.clone(), bytes)), (true, id(&running)));
    assert_eq!(named(&scene, unread("app", Release::digest, other, bytes)), (false, String::new()));
    assert_eq!(named(&scene, unread("app", Release::digest, own.clone(), bytes + 1)), (false, String::new()));
    for naming in [Naming { is_identified: true, differs: None }, Naming { is_identified: false, differs: Some("one".to_owned()) }] {
        scene.naming = Some(naming);
        assert_eq!(named(&scene, unread("app", Release::digest_beside, own.clone(), bytes)), (false, String::new()));
        assert_eq!(named(&scene, unread("app.gz", Release::digest, own.clone(), bytes)), (false, String::new()));
    }
}

#[test]
fn what_is_only_to_be_named_is_compared_by_its_bytes_if_nothing_else_tells() {
    let scene = Scene { naming: Some(Naming { is_identified: false, differs: Some("zero".to_owned()) }), ..Scene::new() };
    let (running, other) = (fs::read(&scene.path).expect("read"), release());
    assert_eq!(named(&scene, offer("app", running.clone())), (true, id(&running)));
    // Of the same size, and nothing of it is executed.
    assert_eq!(named(&scene, offer("app", other.clone())), (false, id(&other)));
    #[cfg(feature = "unpack")]
    assert_eq!(named(&scene, offer("app.gz", gzip(&running))), (true, id(&running)));
}

#[test]
fn nothing_is_downloaded_where_nothing_can_be_staged() {
    testing::in_own_mounts("fetcher::poll::tests::nothing_is_downloaded_where_nothing_can_be_staged", |directory| {
        let mut scene = Scene::at(testing::Directory::at(directory));
        let elsewhere = testing::directory();
        scene.state_dir = elsewhere.path().to_owned();
        testing::mount(&["--bind", directory.to_str().expect("text"), directory.to_str().expect("text")]);
        testing::mount(&["-o", "remount,bind,ro", directory.to_str().expect("text")]);
        let error = failed(scene.look(fetcher_fn("here", |_| Ok(Look::release(Release::new("one", "app", Unread))))));
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        assert!(error.to_string().contains("cannot make a file in") && error.to_string().contains("Read-only"), "{error}");
    });
}

#[test]
fn a_state_directory_on_another_file_system_works_too() {
    testing::in_own_mounts("fetcher::poll::tests::a_state_directory_on_another_file_system_works_too", |directory| {
        let mut scene = Scene::at(testing::Directory::at(directory));
        let state_dir = directory.join("state");
        fs::create_dir(&state_dir).expect("a directory");
        testing::mount(&["-t", "tmpfs", "-o", "size=1g", "none", state_dir.to_str().expect("text")]);
        scene.state_dir = state_dir;
        let (bytes, old) = (release(), fs::read(&scene.path).expect("read"));
        let (staged, file) = staged(scene.look(offer("app", bytes.clone())));
        assert!(fs::read(&staged.path).expect("read") == bytes);
        commit(&scene.path, &staged, file.as_fd()).expect("committed");
        assert!(fs::read(scene.state_dir.join("previous")).expect("read") == old);
        assert_eq!(scene.names(), [".app.overseer", "app", "previous", "state"]);
    });
}

/// What a copy of the test program does in the role poll: offers the file `release` beside it, followed by what comes out of the
/// pipe `more` if there is one; or, if there is a file `huge`, 256 MiB.
pub(crate) fn play_poll(link: Link) -> ! {
    let beside = std::env::current_exe().expect("a path").parent().expect("a directory").to_owned();
    let fetcher = fetcher_fn("beside", move |known| {
        if beside.join("huge").exists() {
            return Ok(Look::release(Release::new("huge", "app", Huge { left: 256 << 20, note: beside.join("huge") })));
        }
        let mut file = File::open(beside.join("release")).expect("opened");
        let start = known.partial().map_or(0, |partial| partial.size_bytes);
        fs::write(beside.join("start"), start.to_string()).expect("written");
        io::Seek::seek(&mut file, io::SeekFrom::Start(start)).expect("sought");
        let more = Later(beside.join("more"), None);
        Ok(Look::release(Release::new("one", "app", file.chain(more)).resumed_at(start)))
    });
    run(link, Poll { fetcher: Box::new(fetcher), demands: Demands::default(), check_timeout: PATIENCE, pre_upgrade: None })
}

/// A pipe that is opened when it is read.
struct Later(PathBuf, Option<File>);

impl Read for Later {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_none() && !self.0.exists() {
            return Ok(0);
        }
        let file = match &mut self.1 {
            Some(file) => file,
            none => none.insert(File::open(&self.0)?),
        };
        file.read(buffer)
    }
}

/// Zeros. Notes by how much the process grew while they were read.
struct Huge {
    left: usize,
    note: PathBuf,
}

impl Read for Huge {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = buffer.len().min(self.left);
        if self.left == 256 << 20 || bytes == 0 {
            let status = fs::read_to_string("/proc/self/status")?;
            let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
            writeln!(File::options().append(true).open(&self.note)?, "{peak}")?;
        }
        buffer[..bytes].fill(0);
        self.left -= bytes;
        Ok(bytes)
    }
}

/// A poll process, which is killed when dropped.
struct Process(Pid, Link);

impl Process {
    fn start(scene: &Scene) -> Self {
        let program = File::open(&scene.path).expect("opened");
        let null = File::options().write(true).open("/dev/null").expect("opened");
        let original = Original::capture().expect("signals");
        let spawn = Spawn {
            program: program.as_fd(),
            role: RoleName::Poll,
            quiet: Some(null.as_fd()),
            own_group: true,
            expendable: true,
            parent_death_signal: Signal::KILL,
            original: &original,
        };
        let (pid, mut link) = spawn.start().expect("started");
        link.send(&scene.order(Known::nothing()), []).expect("sent");
        Self(pid, link)
    }

    fn message(&mut self) -> (FromPoll, Option<File>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.1.receive::<FromPoll>().expect("a link") {
                Received::Message(message, descriptors) => return (message, descriptors.into_iter().next().map(File::from)),
                Received::Nothing => {
                    let left = deadline.checked_duration_since(Instant::now()).expect("a message in time");
                    let mut waiting = [nix::poll::PollFd::new(self.1.as_fd(), nix::poll::PollFlags::POLLIN)];
                    let timeout = nix::poll::PollTimeout::try_from(left).unwrap_or(nix::poll::PollTimeout::MAX);
                    let _ = nix::poll::poll(&mut waiting, timeout);
                }
                other => panic!("no message: {other:?}"),
            }
        }
    }

    fn report(&mut self) -> (Report, Option<File>) {
        loop {
            if let (FromPoll::Report(report), file) = self.message() {
                return (*report, file);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        process::kill_group(self.0);
        let _ = nix::sys::wait::waitpid(self.0, None);
    }
}

#[test]
fn a_poll_process_that_is_killed_is_gone_on_with() {
    let scene = Scene::new();
    let beside = |name: &str| scene.directory.path().join(name);
    let bytes = release();
    let half = bytes.len() / 2;
    fs::write(beside("release"), &bytes[..half]).expect("written");
    nix::unistd::mkfifo(&beside("more"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut process = Process::start(&scene);
    assert!(matches!(process.message(), (FromPoll::Progress { bytes }, None) if bytes > 0));
    let download = scene.state_dir.join("download");
    testing::until("half of it is there", || fs::metadata(&download).is_ok_and(|metadata| metadata.len() == half as u64));
    drop(process);
    scene_has_no_staged_file(&scene);

    fs::remove_file(beside("more")).expect("removed");
    fs::write(beside("release"), &bytes).expect("written");
    let mut process = Process::start(&scene);
    let (staged, file) = staged(process.report());
    assert_eq!(fs::read_to_string(beside("start")).expect("read"), half.to_string());
    assert_eq!(staged.release.id, id(&bytes));
    drop(process);
    assert!(staging::remove_stale(scene.directory.path(), OsStr::new("app")).is_empty(), "the flock came with the descriptor");
    commit(&scene.path, &staged, file.as_fd()).expect("committed");
}

#[test]
fn its_memory_does_not_grow_with_the_release_and_its_messages_are_few() {
    let scene = Scene::new();
    let huge = scene.directory.path().join("huge");
    File::create(&huge).expect("created");
    let before = Instant::now();
    let mut process = Process::start(&scene);
    let mut messages = 0;
    let said = loop {
        match process.message() {
            (FromPoll::Report(report), file) => break (*report, file),
            _ => messages += 1,
        }
    };
    assert!((1..=before.elapsed().as_secs() + 1).contains(&messages), "{messages} messages in {:?}", before.elapsed());
    let (_, verdict, why) = refused(said);
    assert!(verdict == Verdict::Reject && why.contains("is no executable"), "{why}");
    let peaks = fs::read_to_string(&huge).expect("read");
    let peaks: Vec<u64> = peaks.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect();
    assert!(peaks.len() >= 2 && peaks[peaks.len() - 1] < peaks[0] + 2048, "KiB at first and in the end: {peaks:?}");
    fs::remove_file(huge).expect("removed");
    scene.has_only_the_program();
}
