use super::*;
use crate::binary::Identity;
use crate::config::Upgrades;
use crate::signal::Signal;
use crate::supervisor::Installation;
use proptest::prelude::*;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

/// The bytes of a frame with this body.
fn frame(body: &str) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body");
    [&length.to_le_bytes()[..], body.as_bytes()].concat()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<Option<Frame<T>>, FrameError> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    decoder.next()
}

/// The message in these bytes and the number of its descriptors.
fn message<T: DeserializeOwned>(bytes: &[u8]) -> (T, usize) {
    match read(bytes).expect("a frame").expect("a whole frame") {
        Frame::Message(message, fds) => (message, fds),
        Frame::ExecFailed(errno) => panic!("error {errno}"),
    }
}

fn file(inode: u64) -> Identity {
    Identity { device: 64769, inode, size_bytes: 9_437_184, modified_ns: 1_799_999_999_123_456_789 }
}

fn release() -> ReleaseName {
    ReleaseName {
        id: "5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8".to_owned(),
        tag: "\"66f1-62a\"".to_owned(),
        source: "https://releases.example/app".to_owned(),
        version: Some("1.2.3".to_owned()),
        signed_unix_s: None,
    }
}

fn staged() -> Staged {
    Staged {
        release: release(),
        path: "/srv/.app.new-a1B2".into(),
        identity: file(12),
        started_from: file(11),
        previous: "/srv/.app.overseer/previous.new".into(),
    }
}

fn report(outcome: Outcome) -> FromPoll {
    FromPoll::Report(Box::new(Report { outcome, memo: Some("etag".to_owned()), running_id: Some(release().id), packaged: None }))
}

fn hello() -> Box<Hello> {
    Box::new(Hello {
        protocol: Versions { min: 1, max: 1 },
        addresses: vec![
            Wanted { name: None, text: ":3000".to_owned(), ..Wanted::default() },
            Wanted { name: Some("admin".to_owned()), text: "unix:/run/app.sock?mode=0660".to_owned(), ..Wanted::default() },
        ],
        settings: Settings {
            restart_signal: Signal::HUP,
            stop_signals: vec![Signal::TERM, Signal::QUIT],
            terminate_timeout: Duration::from_secs(10),
            warm_up: Duration::from_millis(1500),
            accept_in_warm_up: false,
            probation: Duration::from_secs(60),
            ready_timeout: Some(Duration::from_secs(90)),
            check_timeout: Duration::from_secs(4),
            fetch_timeout: Duration::from_secs(300),
            min_fetch_interval: Duration::from_secs(2),
            interval: Duration::from_secs(30),
            source: Some("https://releases.example/app".to_owned()),
            installation: Installation::AtNextRestart,
            overlap: true,
            max_draining: 4,
            upgrades: None,
            is_ephemeral: false,
            upgrade_master: true,
            answers_pings: false,
        },
    })
}

/// That today's code writes exactly the committed bytes, and reads them as this message.
fn is_golden<T: Serialize + DeserializeOwned + Debug>(name: &str, value: &T, fds: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let now = encode(value, fds).expect("it can be said");
    if !path.exists() && std::env::var_os("OVERSEER_NEW_GOLDEN").is_some() {
        std::fs::write(&path, &now).expect("the directory can be written");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; see the README there", path.display()));
    assert_eq!(String::from_utf8_lossy(&now), String::from_utf8_lossy(&golden), "{name} is written in another way");
    let (understood, named) = message::<T>(&golden);
    assert_eq!(format!("{understood:?}"), format!("{value:?}"), "{name} is understood in another way");
    assert_eq!(named, fds, "{name}");
}

#[test]
fn what_a_child_says_in_version_1_is_written_and_read_as_ever() {
    is_golden("v1-child-hello.bin", &ToMaster::Hello(hello()), 0);
    let notify = Settings { upgrades: Some(Upgrades::Notify), ..hello().settings };
    is_golden("v1-child-hello-notify.bin", &ToMaster::Hello(Box::new(Hello { settings: notify, ..*hello() })), 0);
    let watched = Hello { settings: Settings { answers_pings: true, ..hello().settings }, ..*hello() };
    is_golden("v1-child-hello-watched.bin", &ToMaster::Hello(Box::new(watched)), 0);
    let owner = Some(Owner { user: Some(33), group: None });
    let owned = Wanted { text: "unix:/run/app.sock?mode=0660".to_owned(), owner, ..Wanted::default() };
    is_golden("v1-child-hello-owner.bin", &ToMaster::Hello(Box::new(Hello { addresses: vec![owned], ..*hello() })), 0);
    is_golden("v1-child-hello-plain.bin", &ToMaster::Hello(Box::default()), 0);
    is_golden("v1-child-drains.bin", &ToMaster::Drains, 0);
    is_golden("v1-child-ready.bin", &ToMaster::Ready, 0);
    is_golden("v1-child-restart.bin", &ToMaster::Restart, 0);
    is_golden("v1-child-poll.bin", &ToMaster::Poll, 0);
    is_golden("v1-child-pong.bin", &ToMaster::Pong, 0);
    is_golden("v1-child-open.bin", &ToMaster::Open { count: 3 }, 0);
    is_golden("v1-child-unproved.bin", &ToMaster::Unproved { why: "is not signed".to_owned() }, 0);
}

#[test]
fn what_a_master_says_in_version_1_is_written_and_read_as_ever() {
    let welcome = Welcome {
        protocol: 1,
        generation: 7,
        id: Some(release().id),
        path: "/srv/app".into(),
        addresses: vec!["[::]:3000".to_owned(), "/run/app.sock".to_owned()],
        kept: Vec::new(),
        pings: false,
    };
    is_golden("v1-master-welcome.bin", &ToChild::Welcome(welcome.clone()), 2);
    is_golden("v1-master-welcome-kept.bin", &ToChild::Welcome(Welcome { kept: vec![1], ..welcome.clone() }), 2);
    is_golden("v1-master-welcome-watched.bin", &ToChild::Welcome(Welcome { pings: true, ..welcome.clone() }), 2);
    is_golden("v1-master-welcome-plain.bin", &ToChild::Welcome(Welcome { id: None, addresses: Vec::new(), ..welcome }), 0);
    let refused = Refused { address: Some(":80".to_owned()), why: "not permitted".to_owned() };
    is_golden("v1-master-refused.bin", &ToChild::Refused(refused), 0);
    is_golden("v1-master-accept.bin", &ToChild::Accept, 0);
    is_golden("v1-master-drain.bin", &ToChild::Drain(Drain { within_ms: 30_000 }), 0);
    is_golden("v1-master-ping.bin", &ToChild::Ping, 0);
    let identity = Identity { device: 64769, inode: 12, size_bytes: 9_437_184, modified_ns: 1_799_999_999_123_456_789 };
    let proof = ProofOrder {
        path: "/var/lib/app/app".into(),
        identity,
        state_dir: "/var/lib/app/.app.overseer".into(),
        packaged_path: "/usr/bin/app".into(),
        packaged: Packaged { identity, changed_ns: 1_799_999_999_123_456_790, sha256: "ab".repeat(32), id: "ab".repeat(20) },
    };
    is_golden("v1-master-proof-order.bin", &proof, 0);
    is_golden("v1-master-kept.bin", &ToChild::Kept(Kept { addresses: vec!["[::]:3000".to_owned()] }), 0);
}

#[test]
fn what_is_said_to_and_by_a_poll_in_version_1_is_written_and_read_as_ever() {
    let known = Known {
        settled: vec![release().tag],
        id: Some(release().id),
        size_bytes: 9_437_184,
        path: "/srv/app".into(),
        memo: Some("etag".to_owned()),
        partial: None,
        wants_signature: false,
    };
    let order = Order {
        known,
        path: "/srv/app".into(),
        state_dir: "/srv/.app.overseer".into(),
        running: file(11),
        judged: vec!["00".repeat(20)],
        installed_signed_unix_s: None,
        naming: None,
        store: None,
    };
    is_golden("v1-master-order.bin", &order, 0);
    let naming = Naming { is_identified: true, differs: Some("\"66f1-c\"".to_owned()) };
    is_golden("v1-master-order-name.bin", &Order { naming: Some(naming), ..order.clone() }, 0);
    is_golden("v1-master-order-signed.bin", &Order { installed_signed_unix_s: Some(1_800_000_000), ..order }, 0);
    is_golden("v1-poll-progress.bin", &FromPoll::Progress { bytes: 65_536 }, 0);
    let signed = ReleaseName { signed_unix_s: Some(1_799_999_999), ..release() };
    let error = FetchError::settings("403 Forbidden").retry_after(Duration::from_secs(60));
    for (name, outcome, fds) in [
        ("v1-poll-unchanged.bin", Outcome::Unchanged, 0),
        ("v1-poll-same.bin", Outcome::Same { release: release() }, 0),
        ("v1-poll-judged.bin", Outcome::Judged { release: release() }, 0),
        ("v1-poll-incomplete.bin", Outcome::Incomplete { why: "no checksum yet".to_owned() }, 0),
        ("v1-poll-failed.bin", Outcome::Failed { error }, 0),
        ("v1-poll-rejected.bin", Outcome::Refused { release: release(), verdict: Verdict::Reject, why: "no marker".to_owned() }, 0),
        ("v1-poll-held-back.bin", Outcome::Refused { release: release(), verdict: Verdict::HoldBack, why: "hangs".to_owned() }, 0),
        ("v1-poll-blameless.bin", Outcome::Refused { release: release(), verdict: Verdict::Blameless, why: "disk full".to_owned() }, 0),
        ("v1-poll-mendable.bin", Outcome::Refused { release: release(), verdict: Verdict::Mendable, why: "not signed".to_owned() }, 0),
        ("v1-poll-named.bin", Outcome::Named { release: ReleaseName { id: String::new(), ..release() } }, 0),
        ("v1-poll-staged.bin", Outcome::Staged(staged()), 1),
        ("v1-poll-staged-signed.bin", Outcome::Staged(Staged { release: signed, ..staged() }), 1),
    ] {
        is_golden(name, &report(outcome), fds);
    }
}

#[test]
fn what_is_said_to_and_by_a_check_in_version_1_is_written_and_read_as_ever() {
    let token = "6c9f".to_owned();
    is_golden("v1-check-order.bin", &CheckOrder { token: token.clone(), snapshot: false }, 0);
    is_golden("v1-check-fine.bin", &Checked { token: token.clone(), protocol: Versions { min: 1, max: 1 }, ..Checked::default() }, 0);
    let problem = Some("interval is 0".to_owned());
    is_golden("v1-check-problem.bin", &Checked { token, protocol: Versions { min: 1, max: 1 }, problem, ..Checked::default() }, 0);
}

#[test]
fn every_golden_frame_belongs_to_a_test() {
    let source = include_str!("tests.rs");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for entry in std::fs::read_dir(directory).expect("it is committed") {
        let name = entry.expect("it can be listed").file_name().into_string().expect("plain names");
        // What is no frame is read beside what makes it, in `master/snapshot.rs` and `command/status.rs`.
        assert!(
            ["README.md", "v1-snapshot.json", "v1-status.json"].contains(&name.as_str()) || source.contains(&format!("{name:?}")),
            "{name} is read by nobody"
        );
    }
}

#[test]
fn unknown_messages_are_ignored_and_their_descriptors_counted() {
    assert_eq!(message::<ToMaster>(&frame(r#"{"type":"sing","song":[1,{"a":null}],"fds":2}"#)), (ToMaster::Unknown, 2));
    assert_eq!(message::<ToChild>(&frame(r#"{"type":"sing"}"#)), (ToChild::Unknown, 0));
    assert!(matches!(message::<FromPoll>(&frame(r#"{"type":"sing","bytes":"x"}"#)), (FromPoll::Unknown, 0)));
}

#[test]
fn unknown_fields_are_ignored_everywhere() {
    assert_eq!(message::<ToMaster>(&frame(r#"{"type":"ready","mood":"good"}"#)), (ToMaster::Ready, 0));
    let newer = r#"{"type":"hello","protocol":{"min":1,"max":9,"odd":3},"addresses":[{"text":":1","backlog":5}],
        "settings":{"warm_up_ms":7,"colour":"red"},"wish":{}}"#;
    let (ToMaster::Hello(hello), 0) = message(&frame(newer)) else { panic!("no hello") };
    assert_eq!(hello.protocol, Versions { min: 1, max: 9 });
    assert_eq!(hello.addresses, [Wanted { name: None, text: ":1".to_owned(), ..Wanted::default() }]);
    assert_eq!(hello.settings, Settings { warm_up: Duration::from_millis(7), ..Settings::default() });
    let newer = r#"{"type":"drain","within_ms":5,"gently":true}"#;
    assert_eq!(message::<ToChild>(&frame(newer)), (ToChild::Drain(Drain { within_ms: 5 }), 0));
}

#[test]
fn missing_fields_have_defaults() {
    assert_eq!(message::<ToMaster>(&frame(r#"{"type":"hello"}"#)), (ToMaster::Hello(Box::default()), 0));
    let (ToMaster::Hello(hello), 0) = message(&frame(r#"{"type":"hello","protocol":{"max":4}}"#)) else { panic!("no hello") };
    assert_eq!(hello.protocol, Versions { min: 1, max: 4 });
    assert_eq!(message::<ToChild>(&frame(r#"{"type":"welcome"}"#)), (ToChild::Welcome(Welcome::default()), 0));
    assert_eq!(message::<ToChild>(&frame(r#"{"type":"refused"}"#)), (ToChild::Refused(Refused::default()), 0));
    assert_eq!(message::<ToChild>(&frame(r#"{"type":"drain"}"#)), (ToChild::Drain(Drain::default()), 0));
    assert!(matches!(message::<FromPoll>(&frame(r#"{"type":"progress"}"#)), (FromPoll::Progress { bytes: 0 }, 0)));
    let (FromPoll::Report(report), 0) = message(&frame(r#"{"type":"report","outcome":{"outcome":"unchanged"}}"#)) else {
        panic!("no report")
    };
    assert!(report.memo.is_none() && report.running_id.is_none());
    assert!(message::<Order>(&frame("{}")).0.judged.is_empty());
    assert_eq!(message::<Checked>(&frame(r#"{"token":"6c9f"}"#)).0.protocol, Versions { min: 1, max: 1 });
}

#[test]
fn two_ranges_of_versions_agree_on_the_newest_that_both_speak() {
    let range = |min, max| Versions { min, max };
    for (ours, theirs, common) in [
        (range(1, 1), range(1, 1), Some(1)),
        (range(1, 3), range(2, 5), Some(3)),
        (range(2, 5), range(1, 3), Some(3)),
        (range(1, 9), range(4, 4), Some(4)),
        (range(1, 1), range(2, 3), None),
        (range(4, 5), range(1, 3), None),
        (range(1, 5), range(4, 2), None),
        (range(1, u32::MAX), range(0, u32::MAX), Some(u32::MAX)),
    ] {
        assert_eq!(ours.common(theirs), common, "{ours:?} and {theirs:?}");
    }
    assert!(VERSIONS.common(Versions::default()).is_some(), "a child that names no version speaks the first");
}

#[test]
fn garbage_in_a_frame_is_an_error() {
    let deep = "[".repeat(60_000);
    let bodies = ["", "x", "null", "[]", "{", "{}", "7", "\u{0}", r#"{"type":"hello","addresses":7}"#, &deep];
    for body in bodies {
        assert!(matches!(read::<ToMaster>(&frame(body)), Err(FrameError::Garbage { .. })), "{:.20}", body);
    }
    let not_text = [&4_u32.to_le_bytes()[..], &[0xFF, 0xFE, 0xFD, 0xFC]].concat();
    assert!(matches!(read::<ToMaster>(&not_text), Err(FrameError::Garbage { .. })));
    for fds in ["-1", "1.5", "\"1\"", "99999999999999999999"] {
        assert!(read::<ToMaster>(&frame(&format!(r#"{{"type":"ready","fds":{fds}}}"#))).is_err(), "{fds}");
    }
}

#[test]
fn a_frame_that_is_not_whole_waits_for_its_rest() {
    let whole = encode(&ToMaster::Hello(hello()), 0).expect("it can be said");
    for end in 0..whole.len() {
        let mut decoder = Decoder::default();
        decoder.push(&whole[..end]);
        assert!(!decoder.holds_frame());
        assert!(matches!(decoder.next::<ToMaster>(), Ok(None)));
        assert_eq!(decoder.waiting_bytes(), end);
    }
}

#[test]
fn a_length_beyond_the_limit_is_an_error_before_a_byte_of_it_came() {
    for length in [65_537_u32, 0x0100_0000, 0xEEED_FFFF, 0xEEEF_0000, u32::MAX] {
        let mut decoder = Decoder::default();
        decoder.push(&length.to_le_bytes());
        assert!(decoder.holds_frame(), "there is something to say about it");
        assert!(matches!(decoder.next::<ToMaster>(), Err(FrameError::TooLong { bytes }) if bytes == length as usize));
    }
    let longest = format!(r#"{{"type":"ready"{}}}"#, " ".repeat(FRAME_BYTES_MAX - 16));
    assert_eq!(longest.len(), FRAME_BYTES_MAX);
    assert_eq!(message::<ToMaster>(&frame(&longest)), (ToMaster::Ready, 0));
}

#[test]
fn what_is_too_long_for_a_frame_is_not_said() {
    let refused = Refused { address: None, why: "x".repeat(FRAME_BYTES_MAX) };
    assert!(matches!(encode(&ToChild::Refused(refused), 0), Err(FrameError::TooLong { .. })));
}

#[test]
fn the_error_number_of_a_failed_exec_needs_four_bytes() {
    for errno in [0, 8, 13, 0xFFFF] {
        assert_eq!(read::<ToMaster>(&(EXEC_FAILED | errno).to_le_bytes()).expect("a frame"), Some(Frame::ExecFailed(errno.cast_signed())));
    }
}

/// Takes out all frames; an error ends the stream.
fn drained<T: DeserializeOwned>(decoder: &mut Decoder) -> Result<Vec<Frame<T>>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn messages() -> impl Strategy<Value = ToMaster> {
    prop_oneof![
        Just(ToMaster::Ready),
        Just(ToMaster::Drains),
        Just(ToMaster::Pong),
        Just(ToMaster::Restart),
        Just(ToMaster::Poll),
        proptest::collection::vec((proptest::option::of(".{0,9}"), ".{0,99}"), 0..5).prop_map(|addresses| {
            let addresses = addresses.into_iter().map(|(name, text)| Wanted { name, text, ..Wanted::default() }).collect();
            ToMaster::Hello(Box::new(Hello { addresses, ..*hello() }))
        }),
    ]
}

/// JSON that is nearly a message.
fn near_messages() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        "[a-z]{0,6}".prop_map(|text| format!("{text:?}")),
        Just("{}".to_owned()),
        Just("[[]]".to_owned()),
    ];
    let field = prop_oneof!["type", "fds", "protocol", "addresses", "settings", "within_ms", "outcome", "[a-z]{1,9}"];
    let kind = prop_oneof!["hello", "ready", "welcome", "drain", "report", "progress", "[a-z]{1,9}"];
    (kind, proptest::collection::vec((field, value), 0..5)).prop_map(|(kind, fields)| {
        let fields: String = fields.into_iter().map(|(name, value)| format!(",{name:?}:{value}")).collect();
        format!(r#"{{"type":{kind:?}{fields}}}"#)
    })
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut(
        messages in proptest::collection::vec((messages(), 0_usize..254), 0..8),
        cuts in proptest::collection::vec(1_usize..200, 1..40),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(message, fds)| encode(message, *fds).expect("it can be said")).collect();
        let mut decoder = Decoder::default();
        let (mut rest, mut came, mut cuts) = (&bytes[..], Vec::new(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(rest.len().min(*cuts.next().expect("a cycle")));
            decoder.push(chunk);
            prop_assert!(decoder.waiting_bytes() <= FRAME_BYTES_MAX + 4);
            came.extend(drained::<ToMaster>(&mut decoder).expect("whole frames"));
            prop_assert!(!decoder.holds_frame());
            rest = later;
        }
        let went: Vec<_> = messages.into_iter().map(|(message, fds)| Frame::Message(message, fds)).collect();
        prop_assert_eq!(came, went);
        prop_assert_eq!(decoder.waiting_bytes(), 0);
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_pile_up(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..50)) {
        let mut decoder = Decoder::default();
        for chunk in chunks {
            decoder.push(&chunk);
            let holds = decoder.holds_frame();
            match drained::<ToMaster>(&mut decoder) {
                Ok(frames) => prop_assert_eq!(holds, !frames.is_empty()),
                Err(_) => break,
            }
            prop_assert!(decoder.waiting_bytes() <= FRAME_BYTES_MAX + 4);
        }
    }

    #[test]
    fn arbitrary_bodies_of_the_right_length_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let length = u32::try_from(body.len()).expect("short");
        let bytes = [&length.to_le_bytes()[..], &body].concat();
        let _ = read::<ToMaster>(&bytes);
        let _ = read::<FromPoll>(&bytes);
    }

    #[test]
    fn messages_that_are_nearly_right_do_not_panic(body in near_messages()) {
        let bytes = frame(&body);
        let _ = read::<ToMaster>(&bytes);
        let _ = read::<ToChild>(&bytes);
        let _ = read::<FromPoll>(&bytes);
        let _ = read::<Order>(&bytes);
        let _ = read::<Checked>(&bytes);
    }
}
