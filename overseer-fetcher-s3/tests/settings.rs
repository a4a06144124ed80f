//! Every bad setting is found without asking anybody.

use overseer_core::{FetchErrorKind, Fetcher};
use overseer_fetcher_s3::S3Fetcher;
use std::time::Duration;

fn of(bucket: &str, key: &str) -> S3Fetcher {
    S3Fetcher::new(bucket, key)
}

#[test]
fn each_bad_setting_is_an_error_that_names_it_and_its_value() {
    let app = || of("releases", "app");
    for (fetcher, text) in [
        (of("", "app"), "the bucket \"\" cannot be the name of one"),
        (of("s3://releases", "app"), "the bucket \"s3://releases\" is a URL; it must be the name alone"),
        (of("releases/v1", "app"), "the bucket \"releases/v1\" cannot be the name of one"),
        (of("releases", ""), "the key \"\" names no object"),
        (of("releases", "v1/"), "the key \"v1/\" names no object"),
        (of("releases", "/v1/app"), "the key \"/v1/app\" begins with a slash; a key is no path"),
        (of("releases", &"k".repeat(1025)), "is longer than any of S3"),
        (
            of("releases", "app-{version}"),
            "the key \"app-{version}\" has an unknown placeholder {version}; there are {os}, {arch}, {target}",
        ),
        (of("releases", "app-{os"), "has a brace without its partner"),
        (of("releases", "app-os}"), "has a brace without its partner"),
        (app().version_id(""), "version_id \"\" is empty or has a space in it"),
        (app().region("eu west 1"), "region \"eu west 1\" is empty or has a space in it"),
        (app().endpoint("minio.example.org"), "endpoint cannot be read as a URL: relative URL without a base"),
        (app().endpoint("ftp://minio.example.org"), "endpoint ftp://minio.example.org must be http or https"),
        (
            app().endpoint("https://me:pw@host:9"),
            "endpoint https://host:9 has a user or password in it; credentials are set with credentials",
        ),
        (app().endpoint("https://host/?key=pw"), "endpoint https://host has something after its path"),
        (app().credentials("", "pw", None), "credentials: the access key is empty or has a character that none can have"),
        (app().credentials("A", "p\nw", None), "credentials: the secret key is empty"),
        (app().credentials("A", "pw", Some("pw ".to_owned())), "credentials: the session token is empty"),
        (app().every(Duration::ZERO), "every is 0"),
        (app().head_timeout(Duration::ZERO), "head_timeout is 0"),
        (app().get_timeout(Duration::ZERO), "get_timeout is 0"),
        (app().root_certificate("no PEM"), "root_certificate: no certificate in 6 bytes of PEM"),
        (app().root_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "root_certificate cannot be used: "),
        (app().root_certificate("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "root_certificate cannot be read: "),
    ] {
        let error = fetcher.check().expect_err(text);
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        assert!(error.to_string().contains(text), "{error}\nshould contain\n{text}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
}

#[test]
fn good_settings_pass_and_the_defaults_are_those_of_the_documentation() {
    let fetcher = of("releases", "v1/{os}-{arch}/{target}/app.gz")
        .version_id("3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY")
        .region("eu-west-1")
        .endpoint("https://minio.example.org:9000/s3")
        .path_style(true)
        .credentials("A", "s3cret", Some("t0ken".to_owned()))
        .every(Duration::from_secs(60))
        .root_certificate(include_bytes!("certificates/ca.pem"))
        .sha256_file(true);
    fetcher.check().expect("nothing is wrong");
    assert_eq!(fetcher.interval(), Duration::from_secs(60));
    of("arn:aws:s3:eu-west-1:123456789012:accesspoint/releases", "app").check().expect("an access point");

    let plain = of("releases", "app");
    assert_eq!(plain.interval(), Duration::from_secs(300));
    assert_eq!(plain.source(), "s3://releases/app");
    let debug = format!("{plain:?}");
    assert!(debug.contains("head_timeout: 5s, get_timeout: 300s"), "{debug}");
}
