//! What a look asks and answers, against a server that verifies signatures.

mod server;
mod store;

use aws_sdk_s3::types::ChecksumAlgorithm;
use overseer_core::{DigestAlgorithm, FetchErrorKind, Fetcher, Known, Look};
use server::binary;
use std::env::consts::{ARCH, OS};
use std::time::Duration;
use store::{ACCESS, BUCKET, Embedded, SECRET, read, running};

fn look(fetcher: overseer_fetcher_s3::S3Fetcher, known: &Known) -> Look {
    let mut fetcher = fetcher;
    fetcher.fetch(known).expect("a look")
}

#[test]
fn a_new_release_comes_whole_and_with_the_tag_that_settles_it() {
    let s3 = Embedded::start();
    s3.publish("app.gz", &binary(300_000));
    let mut release = look(s3.fetcher("app.gz"), &Known::nothing()).into_release().expect("a release");
    let (bytes, end) = read(&mut release);
    end.expect("the whole body");
    assert!(bytes == binary(300_000));
    assert_eq!((release.file_name(), release.starts_at()), ("app.gz", 0));
    assert!(release.tag().starts_with("etag: \""), "{}", release.tag());
    assert_eq!(s3.asked(), ["HEAD /releases/app.gz", "GET /releases/app.gz"]);

    let known = Known::nothing().with_settled(release.tag());
    assert!(look(s3.fetcher("app.gz"), &known).is_unchanged());
}

#[test]
fn a_look_with_nothing_new_is_one_head_and_so_is_one_after_a_restart() {
    let s3 = Embedded::start();
    s3.publish("app", &binary(1000));
    let tag = look(s3.fetcher("app"), &Known::nothing()).into_release().expect("a release").tag().to_owned();
    s3.asked();
    // A fetcher keeps nothing: what is settled is all that a new process is told.
    for _ in 0..3 {
        assert!(look(s3.fetcher("app"), &Known::nothing().with_settled(&tag)).is_unchanged());
        assert_eq!(s3.asked(), ["HEAD /releases/app"]);
    }
    s3.publish("app", &binary(1001));
    let changed = look(s3.fetcher("app"), &Known::nothing().with_settled(&tag)).into_release().expect("it changed");
    assert_ne!(changed.tag(), tag);
}

#[test]
fn no_time_is_too_long() {
    let s3 = Embedded::start();
    s3.publish("app", &binary(1000));
    let mut release = look(s3.fetcher("app").head_timeout(Duration::MAX).get_timeout(Duration::MAX), &Known::nothing()).into_release();
    let (bytes, end) = read(release.as_mut().expect("a release"));
    end.expect("whole");
    assert_eq!(bytes, binary(1000));
}

#[test]
fn the_key_may_name_the_system_and_need_escapes() {
    let s3 = Embedded::start();
    s3.publish(&format!("v 1+2/{OS}/{ARCH}/app"), &binary(1000));
    let mut release = look(s3.fetcher("v 1+2/{os}/{arch}/app"), &Known::nothing()).into_release().expect("a release");
    assert!(read(&mut release).0 == binary(1000));
}

#[test]
fn the_running_binary_is_not_downloaded_when_nothing_is_remembered() {
    let s3 = Embedded::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    std::fs::write(&path, binary(100_000)).expect("a binary");
    s3.publish("app", &binary(100_000));
    let known = running(&path, "0a1b");
    let first = look(s3.fetcher("app"), &known);
    assert!(first.is_unchanged());
    assert_eq!(s3.asked(), ["HEAD /releases/app"]);

    // What was found out is remembered: the binary is not read again.
    let memo = first.memo().expect("a memo").to_owned();
    let known = running(&path, "0a1b").with_memo(&memo);
    std::fs::remove_file(&path).expect("it was there");
    assert!(look(s3.fetcher("app"), &known).is_unchanged());
    // But not of another binary.
    std::fs::write(&path, binary(99_999)).expect("a binary");
    assert!(!look(s3.fetcher("app"), &running(&path, "0a1c").with_memo(memo)).is_unchanged());
}

#[test]
fn another_binary_of_the_same_size_is_downloaded() {
    let s3 = Embedded::start();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app");
    let mut other = binary(1000);
    other[999] ^= 1;
    std::fs::write(&path, other).expect("a binary");
    s3.publish("app", &binary(1000));
    assert!(look(s3.fetcher("app"), &running(&path, "0a1b")).into_release().is_some());
}

#[test]
fn each_checksum_that_an_object_carries_is_checked_or_handed_to_core() {
    let s3 = Embedded::start();
    for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Crc64Nvme] {
        s3.publish_with("app", &binary(200_000), |put| put.checksum_algorithm(algorithm.clone()));
        let (bytes, end) = read(&mut look(s3.fetcher("app"), &Known::nothing()).into_release().expect("a release"));
        end.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(bytes.len(), 200_000);
    }
    for (algorithm, told) in [(ChecksumAlgorithm::Sha1, DigestAlgorithm::Sha1), (ChecksumAlgorithm::Sha256, DigestAlgorithm::Sha256)] {
        s3.publish_with("app", &binary(1000), |put| put.checksum_algorithm(algorithm));
        let release = look(s3.fetcher("app"), &Known::nothing()).into_release().expect("a release");
        assert_eq!(release.digests().map(overseer_core::Digest::algorithm).collect::<Vec<_>>(), [told]);
    }
}

#[test]
fn a_release_waits_for_the_sha256_file_and_gets_its_digest() {
    let s3 = Embedded::start();
    s3.publish("v1/app", &binary(1000));
    let fetcher = || s3.fetcher("v1/app").sha256_file(true);
    let waiting = look(fetcher(), &Known::nothing());
    let at = s3.endpoint().trim_start_matches("http://");
    let text = format!("s3://{BUCKET}/v1/app.sha256 at {at} is not there; a release is taken only with its .sha256 file");
    assert_eq!(waiting.why_incomplete(), Some(text.as_str()));
    assert_eq!(s3.asked(), ["HEAD /releases/v1/app", "GET /releases/v1/app.sha256"]);

    s3.publish("v1/app.sha256", b"nonsense");
    let error = fetcher().fetch(&Known::nothing()).expect_err("no digest is in it");
    assert!(error.to_string().ends_with("has no SHA-256 of app in it"), "{error}");
    s3.publish("v1/app.sha256", &binary(100_000));
    let error = fetcher().fetch(&Known::nothing()).expect_err("it is too long");
    assert_eq!(error.to_string(), format!("s3://{BUCKET}/v1/app.sha256 at {at} has more than 65536 bytes"));

    let hex = "ab".repeat(32);
    s3.publish("v1/app.sha256", format!("{hex}  app\n").as_bytes());
    let release = look(fetcher(), &Known::nothing()).into_release().expect("a release");
    assert!(release.digests().any(|digest| digest.to_hex() == hex));
}

#[test]
fn a_release_waits_for_its_signature_where_one_is_wanted() {
    let s3 = Embedded::start();
    s3.publish("app", &binary(1000));
    let known = Known::nothing().with_wanted_signature();
    let waiting = look(s3.fetcher("app"), &known);
    assert!(waiting.why_incomplete().is_some_and(|why| why.ends_with("a release is taken only with its .minisig file")));
    s3.publish("app.minisig", b"untrusted comment: x\n");
    let release = look(s3.fetcher("app"), &known).into_release().expect("a release");
    assert_eq!(release.minisig(), Some("untrusted comment: x\n"));
    s3.asked();
    assert!(look(s3.fetcher("app"), &Known::nothing()).into_release().expect("a release").minisig().is_none());
    assert_eq!(s3.asked(), ["HEAD /releases/app", "GET /releases/app"]);
}

#[test]
fn an_object_stored_as_gzip_is_unpacked_by_its_name() {
    let s3 = Embedded::start();
    s3.publish_with("app", &binary(1000), |put| put.content_encoding("gzip"));
    assert_eq!(look(s3.fetcher("app"), &Known::nothing()).into_release().expect("a release").file_name(), "app.gz");
    s3.publish_with("app", &binary(1000), |put| put.content_encoding("br"));
    let error = s3.fetcher("app").fetch(&Known::nothing()).expect_err("it cannot be unpacked");
    assert!(error.to_string().ends_with("is stored with Content-Encoding br; only gzip can be unpacked"), "{error}");
    assert_eq!(error.kind(), FetchErrorKind::Settings);
}

#[test]
fn wrong_credentials_and_a_missing_key_are_told_apart() {
    let s3 = Embedded::start();
    s3.publish("app", &binary(1000));
    let source = format!("s3://{BUCKET}/app at {}", s3.endpoint().trim_start_matches("http://"));
    let error = |fetcher: overseer_fetcher_s3::S3Fetcher| {
        let mut fetcher = fetcher;
        fetcher.fetch(&Known::nothing()).expect_err("it is refused")
    };

    let wrong_secret = error(s3.fetcher("app").credentials(ACCESS, "another-secret", None));
    assert_eq!(
        wrong_secret.to_string(),
        format!(
            "{source} answered 403 to GET (SignatureDoesNotMatch): the secret key given with credentials does not belong to its access key"
        )
    );
    assert_eq!(wrong_secret.kind(), FetchErrorKind::Settings);

    let unknown = error(s3.fetcher("app").credentials("AKIDUNKNOWN", SECRET, None));
    let text = format!("{source} answered 403 to GET (NotSignedUp): Your account is not signed up");
    assert_eq!((unknown.to_string(), unknown.kind()), (text, FetchErrorKind::Settings));

    let missing = error(s3.fetcher("other"));
    let source = source.replace("/app", "/other");
    assert_eq!(missing.to_string(), format!("{source} answered 404 to GET (NoSuchKey): there is no such key in the bucket"));
    assert_eq!(missing.kind(), FetchErrorKind::Passing);

    s3.publish("empty", b"");
    assert!(error(s3.fetcher("empty")).to_string().ends_with("is empty"));
}
