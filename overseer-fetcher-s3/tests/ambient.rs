//! Credentials and regions that come from elsewhere than the settings. The environment belongs to a whole process, so each look is made by a copy
//! of this test program.

mod server;

use overseer_core::{Fetcher, Known};
use overseer_fetcher_s3::S3Fetcher;
use server::{Answer, Server};
use std::process::Command;
use std::time::{Duration, Instant};

/// Set for a copy of this program, which then only looks once.
const LOOK_AT: &str = "OVERSEER_TEST_LOOK_AT";

#[test]
fn a_copy_looks() {
    let Ok(endpoint) = std::env::var(LOOK_AT) else { return };
    let fetcher = S3Fetcher::new("releases", "app");
    let mut fetcher = if endpoint.is_empty() { fetcher } else { fetcher.endpoint(endpoint) };
    let found = fetcher.fetch(&Known::nothing().with_settled("etag: \"one\""));
    println!("LOOK: {}", found.map_or_else(|error| error.to_string(), |_| "fine".to_owned()));
}

/// What a look says in this environment and no other.
fn look(endpoint: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "a_copy_looks", "--nocapture"]).env_clear().env(LOOK_AT, endpoint);
    command.env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true").envs(environment.iter().copied());
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.split_once("LOOK: ").map(|(_, said)| said.to_owned())).unwrap_or(text)
}

fn bucket() -> Server {
    Server::start(|_| Answer::new("200 OK").header("ETag", "\"one\"").body(b"x"))
}

/// Who signed the only request, and for which region.
fn signed(server: &Server) -> (String, String) {
    let requests = server.seen();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let authorization = requests[0].header("Authorization").expect("it is signed").to_owned();
    let scope: Vec<_> = authorization.split_once("Credential=").expect("a scope").1.split('/').map(str::to_owned).collect();
    (scope[0].clone(), scope[2].clone())
}

#[test]
fn the_environment_is_read_in_both_spellings() {
    for (access, secret, region) in
        [("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"), ("AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_DEFAULT_REGION")]
    {
        let server = bucket();
        let said = look(&server.url(""), &[(access, "AKIDENV"), (secret, "s3cret"), (region, "eu-west-1"), ("AWS_SESSION_TOKEN", "t0ken")]);
        assert_eq!(said, "fine");
        assert_eq!(signed(&server), ("AKIDENV".to_owned(), "eu-west-1".to_owned()));
        assert_eq!(server.seen()[0].header("x-amz-security-token"), Some("t0ken"));
    }
    let said = look("http://127.0.0.1:1", &[("AWS_ACCESS_KEY", "AKIDENV")]);
    assert_eq!(said, "the environment has AWS_ACCESS_KEY_ID or AWS_ACCESS_KEY and not AWS_SECRET_ACCESS_KEY or AWS_SECRET_KEY");
}

#[test]
fn the_environment_may_name_the_endpoint_and_an_endpoint_needs_no_region() {
    let server = bucket();
    let keys = [("AWS_ACCESS_KEY_ID", "AKIDENV"), ("AWS_SECRET_ACCESS_KEY", "s3cret"), ("AWS_ENDPOINT_URL_S3", &server.url(""))];
    assert_eq!(look("", &keys), "fine");
    assert_eq!(signed(&server).1, "us-east-1");
}

#[test]
fn the_profile_gives_keys_and_region() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("credentials");
    std::fs::write(&file, "[ci]\naws_access_key_id = AKIDFILE\naws_secret_access_key = s3cret\nregion = eu-north-1\n").expect("a file");
    let server = bucket();
    let file = file.to_str().expect("text");
    assert_eq!(look(&server.url(""), &[("AWS_SHARED_CREDENTIALS_FILE", file), ("AWS_PROFILE", "ci")]), "fine");
    assert_eq!(signed(&server), ("AKIDFILE".to_owned(), "eu-north-1".to_owned()));
}

const KEYS: &str = r#"{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"AKIDMETA","SecretAccessKey":"s3cret","Token":"t0ken",
    "LastUpdated":"2020-01-01T00:00:00Z","Expiration":"2199-01-01T00:00:00Z"}"#;

#[test]
fn the_container_gives_keys() {
    let container = Server::start(|_| Answer::new("200 OK").header("Content-Type", "application/json").body(KEYS.as_bytes()));
    let server = bucket();
    assert_eq!(look(&server.url(""), &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url("/keys"))]), "fine");
    assert_eq!(signed(&server).0, "AKIDMETA");
}

#[test]
fn the_instance_gives_keys_and_region() {
    let instance = Server::start(|request| match request.target.as_str() {
        "/latest/api/token" => Answer::new("200 OK").header("x-aws-ec2-metadata-token-ttl-seconds", "21600").body(b"imds"),
        path if path.ends_with("/placement/region") => Answer::new("200 OK").body(b"ap-south-1"),
        path if path.ends_with("/role") => Answer::new("200 OK").body(KEYS.as_bytes()),
        path if path.contains("/iam/security-credentials") => Answer::new("200 OK").body(b"role"),
        _ => Answer::status("404 Not Found"),
    });
    let at = instance.url("");
    let with_instance = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", at.as_str())];
    let server = bucket();
    assert_eq!(look(&server.url(""), &with_instance), "fine");
    assert_eq!(signed(&server), ("AKIDMETA".to_owned(), "us-east-1".to_owned()));
    assert!(!instance.lines().iter().any(|line| line.contains("region")), "an endpoint asks nobody for a region: {:?}", instance.lines());

    // Without an endpoint the region is the instance's; the proxy keeps the look from reaching Amazon.
    let proxy = Server::start(|_| Answer::status("502 Bad Gateway"));
    let url = proxy.url("");
    let mut environment = with_instance.to_vec();
    environment.extend([("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "127.0.0.1"), ("SSL_CERT_FILE", CERTIFICATE)]);
    let said = look("", &environment);
    assert!(said.contains("S3 in ap-south-1"), "{said}");
    assert!(proxy.lines().iter().all(|line| line == "CONNECT releases.s3.ap-south-1.amazonaws.com:443"), "{:?}", proxy.lines());
    assert!(!proxy.lines().is_empty(), "{said}");
}

const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates/ca.pem");

#[test]
fn no_credentials_and_no_region_anywhere_are_said_soon() {
    let began = Instant::now();
    let said = look("http://127.0.0.1:1", &[]);
    assert!(said.starts_with("no credentials for s3://releases/app at 127.0.0.1:1: none in credentials, in AWS_ACCESS_KEY_ID"), "{said}");
    let said = look("", &[("SSL_CERT_FILE", CERTIFICATE)]);
    assert_eq!(
        said,
        "no region for s3://releases/app: none is set by region, AWS_REGION, AWS_DEFAULT_REGION or the profile, and there is no instance to ask"
    );
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn an_instance_that_does_not_answer_holds_a_look_up_for_seconds_only() {
    let silent = Server::start(|_| Answer::silence());
    let at = silent.url("");
    let began = Instant::now();
    let said =
        look("", &[("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &at), ("SSL_CERT_FILE", CERTIFICATE)]);
    assert!(said.starts_with("no region for s3://releases/app"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
