use super::*;
use crate::binary::testing::sign;
use crate::protocol::Verdict;
use minisign::KeyPair;

/// 2026-11-15.
const NOW: u64 = 1_794_700_800;
const DAY: u64 = 24 * 60 * 60;
const CONTENTS: &[u8] = b"a release";

/// The key in the documentation of minisign, and signatures of `test` by it, which the author of minisign has published.
const KNOWN_KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
const KNOWN_SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1556193335\tfile:test
y/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==
";
const KNOWN_LEGACY_SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=
trusted comment: timestamp:1555779966\tfile:test
QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==
";

fn key_pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key pair")
}

fn trusting(keys: &[&KeyPair]) -> Demands {
    Demands { trusted_keys: keys.iter().map(|pair| pair.pk.to_base64()).collect(), ..Demands::default() }
}

/// The whole way of a published file called `app`, which may be called so.
fn prove(demands: &Demands, minisig: &str, contents: &[u8], installed: Option<u64>) -> Result<Option<u64>, String> {
    let signed = demands.examine(Some(minisig), "app", installed, NOW).map_err(why)?.expect("there are trusted keys");
    signed.prove(contents).expect("it can be read").map_err(why)
}

/// Every refusal leaves room for another signature.
fn why(refusal: Refusal) -> String {
    assert_eq!(refusal.verdict, Verdict::Mendable);
    refusal.why
}

#[test]
fn a_signature_by_a_trusted_key_is_proved_and_its_time_read() {
    let pair = key_pair();
    let demands = trusting(&[&pair]);
    for (comment, time) in [
        ("timestamp:1790000000\tfile:app\thashed", Some(1_790_000_000)),
        ("timestamp:1790000000\tfile:app", Some(1_790_000_000)),
        ("file:app\ttimestamp:7", Some(7)),
        ("timestamp:1790000000\tfile:dist/app", Some(1_790_000_000)),
        // What a signer says who has a comment of its own. Nothing is missed, since nothing was asked for.
        ("timestamp:1790000000", Some(1_790_000_000)),
        ("file:app", None),
        ("built at night, file:other timestamp:9", None),
        ("timestamp:soon\tfile:app", None),
        ("timestamp:-5\tfile:app", None),
        ("", None),
    ] {
        let minisig = sign(&pair, CONTENTS, comment);
        assert_eq!(prove(&demands, &minisig, CONTENTS, None), Ok(time), "{comment:?}");
        assert_eq!(prove(&demands, &minisig.replace('\n', "\r\n"), CONTENTS, None), Ok(time), "{comment:?} with other line ends");
    }
}

#[test]
fn a_published_signature_of_minisign_itself_is_proved() {
    let demands = Demands { trusted_keys: vec![KNOWN_KEY.to_owned()], ..Demands::default() };
    let examine = |minisig| demands.examine(Some(minisig), "test", None, NOW);
    let signed = examine(KNOWN_SIGNATURE).expect("good").expect("it is looked at");
    assert_eq!(signed.prove(&b"test"[..]).expect("read"), Ok(Some(1_556_193_335)));
    assert!(why(signed.prove(&b"Test"[..]).expect("read").expect_err("other contents")).contains("broken"));
    let legacy = why(examine(KNOWN_LEGACY_SIGNATURE).expect_err("it is not prehashed"));
    assert!(legacy.contains("minisign 0.11 or later") && legacy.contains("-H"), "{legacy}");
}

#[test]
fn a_signature_of_any_size_is_read_in_pieces() {
    let pair = key_pair();
    let contents = vec![7; 3 * PIECE_BYTES + 5];
    let minisig = sign(&pair, &contents, "timestamp:1790000000\tfile:app");
    assert_eq!(prove(&trusting(&[&pair]), &minisig, &contents, None), Ok(Some(1_790_000_000)));
    assert!(prove(&trusting(&[&pair]), &minisig, &contents[..contents.len() - 1], None).is_err());

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let signed = trusting(&[&pair]).examine(Some(&minisig), "app", None, NOW).expect("good").expect("there is a key");
    assert_eq!(signed.prove(Broken).expect_err("nobody is to blame").kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn without_a_trusted_key_nothing_is_looked_at() {
    for minisig in [None, Some("nonsense")] {
        assert!(Demands::default().examine(minisig, "app", Some(NOW), NOW).expect("nothing is asked for").is_none());
    }
}

#[test]
fn with_a_trusted_key_what_is_unsigned_is_refused_and_the_key_named() {
    let demands = Demands { trusted_keys: vec![KNOWN_KEY.to_owned()], allow_downgrade: true, ..Demands::default() };
    let why = why(demands.examine(None, "app", None, NOW).expect_err("it is not signed"));
    assert!(why.starts_with("is not signed") && why.ends_with("(E7620F1842B4E81F)"), "{why}");
}

#[test]
fn each_of_several_keys_is_trusted_and_no_other() {
    let (old, new, stranger) = (key_pair(), key_pair(), key_pair());
    let demands = trusting(&[&old, &new]);
    for pair in [&old, &new] {
        assert!(prove(&demands, &sign(pair, CONTENTS, ""), CONTENTS, None).is_ok());
    }
    let why = prove(&demands, &sign(&stranger, CONTENTS, "timestamp:1\tfile:other"), CONTENTS, None).expect_err("an unknown key");
    for pair in [&old, &new, &stranger] {
        let id = format!("{:016X}", u64::from_le_bytes(pair.pk.keynum().try_into().expect("eight bytes")));
        assert!(why.contains(&id), "{id}: {why}");
    }
    assert!(why.contains("is no trusted one"), "{why}");
}

#[test]
fn of_two_keys_with_one_id_the_one_that_fits_counts() {
    let (pair, other) = (key_pair(), key_pair());
    let [mut own, alien] = [&pair, &other].map(|pair| pair.pk.to_bytes());
    let minisig = sign(&pair, CONTENTS, "");
    let as_text = |bytes: &[u8]| minisign::PublicKey::from_bytes(bytes).expect("a key").to_base64();
    let demands = |keys: Vec<String>| Demands { trusted_keys: keys, ..Demands::default() };
    // The stranger's key under our ID.
    own[10..].copy_from_slice(&alien[10..]);
    let (impostor, own) = (as_text(&own), pair.pk.to_base64());
    assert!(prove(&demands(vec![impostor.clone(), own]), &minisig, CONTENTS, None).is_ok());
    assert!(prove(&demands(vec![impostor]), &minisig, CONTENTS, None).expect_err("it is not its signature").contains("broken"));
}

#[test]
fn the_signature_of_another_file_is_refused_with_both_names() {
    let pair = key_pair();
    let minisig = sign(&pair, CONTENTS, "timestamp:1790000000\tfile:app-arm64\thashed");
    let why = prove(&trusting(&[&pair]), &minisig, CONTENTS, None).expect_err("it is of another file");
    assert_eq!(why, "has the signature of another file: of app-arm64, and its own name is app");
}

#[test]
fn whatever_is_changed_in_file_or_signature_is_found() {
    let pair = key_pair();
    let demands = trusting(&[&pair]);
    let minisig = sign(&pair, CONTENTS, "timestamp:1790000000\tfile:app\thashed");
    assert!(prove(&demands, &minisig, b"a releasf", None).expect_err("another file").contains("broken"));
    // All but the first line, which nobody signs.
    let start = minisig.find('\n').expect("lines") + 1;
    for at in start..minisig.trim_end().len() {
        let mut bytes = minisig.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("letters");
        prove(&demands, &changed, CONTENTS, None).expect_err("it was changed");
    }
    let newer = minisig.replace("timestamp:1790000000", "timestamp:1790000001");
    assert!(prove(&demands, &newer, CONTENTS, None).expect_err("its time was changed").contains("broken"));
}

#[test]
fn what_is_no_signature_is_refused_however_long_it_is() {
    let pair = key_pair();
    let demands = trusting(&[&pair]);
    let minisig = sign(&pair, CONTENTS, "timestamp:1790000000\tfile:app");
    let lines: Vec<&str> = minisig.lines().collect();
    for wrong in [
        String::new(),
        "<!DOCTYPE html>\n<html>\nnot found\n</html>\n".to_owned(),
        lines[..3].join("\n"),
        lines[1..].join("\n"),
        [lines[0], lines[1], "comment: none", lines[3]].join("\n"),
        [lines[0], &lines[1][4..], lines[2], lines[3]].join("\n"),
        [lines[0], &lines[1].replacen("RU", "RV", 1), lines[2], lines[3]].join("\n"),
        "é\né\né\né\n".to_owned(),
    ] {
        let why = prove(&demands, &wrong, CONTENTS, None).expect_err("it is no signature");
        assert!(why.contains("cannot be read"), "{why}: {wrong}");
    }
    let room = SIGNATURE_BYTES_MAX - minisig.len();
    assert!(prove(&demands, &format!("{minisig}{}", "\n".repeat(room)), CONTENTS, None).is_ok());
    let why = prove(&demands, &format!("{minisig}{}", "\n".repeat(room + 1)), CONTENTS, None).expect_err("it is too long");
    assert!(why.contains("4097 bytes, more than 4096"), "{why}");
}

#[test]
fn an_older_release_than_the_installed_one_is_refused_unless_allowed() {
    let pair = key_pair();
    let (strict, lax) = (trusting(&[&pair]), Demands { allow_downgrade: true, ..trusting(&[&pair]) });
    let minisig = sign(&pair, CONTENTS, "timestamp:1790000000\tfile:app");
    for installed in [None, Some(0), Some(1_789_999_999), Some(1_790_000_000)] {
        assert_eq!(prove(&strict, &minisig, CONTENTS, installed), Ok(Some(1_790_000_000)));
    }
    let why = prove(&strict, &minisig, CONTENTS, Some(1_790_000_001)).expect_err("it is older");
    assert_eq!(
        why,
        "was signed 2026-09-21 14:13:20 UTC, before the installed release (2026-09-21 14:13:21 UTC); allow_downgrade would take it"
    );
    assert_eq!(prove(&lax, &minisig, CONTENTS, Some(1_790_000_001)), Ok(Some(1_790_000_000)));

    let without_time = sign(&pair, CONTENTS, "file:app");
    assert_eq!(prove(&strict, &without_time, CONTENTS, None), Ok(None));
    let why = prove(&strict, &without_time, CONTENTS, Some(1)).expect_err("nobody knows how old it is");
    assert!(why.contains("without a timestamp") && why.contains("1970-01-01 00:00:01 UTC") && why.contains("allow_downgrade"), "{why}");
    assert_eq!(prove(&lax, &without_time, CONTENTS, Some(1)), Ok(None));
}

#[test]
fn a_release_signed_far_ahead_of_a_clock_that_is_set_waits() {
    let pair = key_pair();
    let demands = trusting(&[&pair]);
    let examine = |demands: &Demands, time: u64, installed, now| {
        let minisig = sign(&pair, CONTENTS, &format!("timestamp:{time}\tfile:app"));
        demands.examine(Some(&minisig), "app", installed, now).map(drop).map_err(why)
    };
    assert_eq!(examine(&demands, NOW + DAY, None, NOW), Ok(()));
    let why = examine(&demands, NOW + DAY + 1, None, NOW).expect_err("its signer lives in the future");
    assert!(why.contains("2026-11-16 00:00:01 UTC") && why.contains("clock (2026-11-15 00:00:00 UTC)"), "{why}");
    assert!(examine(&demands, u64::MAX, None, NOW).is_err(), "a date of any size can be shown");
    assert_eq!(examine(&Demands { allow_downgrade: true, ..trusting(&[&pair]) }, NOW + 9 * DAY, None, NOW), Ok(()));
    for (installed, clock) in [(None, 0), (None, CLOCK_UNIX_S_MIN - 1), (Some(NOW), NOW - 1)] {
        assert_eq!(examine(&demands, NOW + 9 * DAY, installed, clock), Ok(()), "the clock is wrong, not the release");
    }
}

#[test]
fn a_key_is_read_as_a_line_and_as_a_file() {
    for text in [
        KNOWN_KEY.to_owned(),
        format!("  {KNOWN_KEY}\n"),
        format!("untrusted comment: minisign public key E7620F1842B4E81F\n{KNOWN_KEY}\n"),
        format!("untrusted comment: minisign public key E7620F1842B4E81F\r\n{KNOWN_KEY}\r\n"),
    ] {
        assert_eq!(TrustedKey::read(&text).expect("a key").id.to_string(), "E7620F1842B4E81F");
    }
    for (text, shown, reason) in [
        ("", "", "there is no key"),
        ("untrusted comment: none\n", "untrusted comment: none", "there is no key"),
        (&format!("{KNOWN_KEY}\n{KNOWN_KEY}"), &format!("{}...", &KNOWN_KEY[..8]), "more than one line"),
        (&KNOWN_KEY[..55], &KNOWN_KEY[..55], "is not a public key"),
        (&KNOWN_KEY.replacen("RW", "AA", 1), &KNOWN_KEY.replacen("RW", "AA", 1), "is not a public key"),
        ("minisign.pub", "minisign.pub", "is not a public key"),
        (&format!("untrusted comment: a secret\n{}", "RWRTY0Iy".repeat(26)), "RWRTY0Iy...", "a secret key must never"),
    ] {
        let (said, why) = check_key(text).expect_err("it is no key");
        assert_eq!(said, shown);
        assert!(why.contains(reason), "{reason}: {why}");
    }
}
