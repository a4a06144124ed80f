//! Every bad setting is found without asking anybody.

use overseer_core::{FetchErrorKind, Fetcher};
use overseer_fetcher_http::HttpFetcher;
use std::time::Duration;

const URL: &str = "https://host.invalid/app";

#[test]
fn each_bad_setting_is_an_error_that_names_it_and_its_value() {
    let of = HttpFetcher::new;
    for (fetcher, text) in [
        (of(""), "the URL \"\" cannot be read"),
        (of("host.invalid/app"), "the URL \"host.invalid/app\" cannot be read: relative URL without a base"),
        (of("ftp://host.invalid/app"), "has the scheme ftp; it must be http or https"),
        (of("https:///"), "cannot be read: empty host"),
        (of("https://host.invalid/app-{version}"), "unknown placeholder {version}; there are {os}, {arch}, {target}, {goos}, {goarch}"),
        (of("https://host.invalid/app-{os"), "a brace without its partner"),
        (of(URL).header("X Key", "1"), "header: \"X Key\" is no header name"),
        (of(URL).header("X-Key", "line\nbreak"), "the value of header X-Key has a character that no header may have"),
        (of(URL).header("range", "bytes=5-"), "header range is set by the fetcher itself"),
        (of(URL).bearer("to\nken"), "the value of bearer has a character that no header may have"),
        (of(URL).bearer("1").basic_auth("2", "3"), "bearer and basic_auth are both set; a request has one authorization"),
        (of(URL).header("Authorization", "1").bearer("2"), "header Authorization and bearer are both set"),
        (of("https://me:pw@host.invalid/app").basic_auth("2", "3"), "basic_auth and the user in the URL are both set"),
        (of(URL).check_headers(Vec::<String>::new()), "check_headers is empty"),
        (of(URL).check_headers(["E Tag"]), "check_headers: \"E Tag\" is no header name"),
        (of(URL).every(Duration::ZERO), "every is 0"),
        (of(URL).connect_timeout(Duration::ZERO), "connect_timeout is 0"),
        (of(URL).head_timeout(Duration::ZERO), "head_timeout is 0"),
        (of(URL).get_timeout(Duration::ZERO), "get_timeout is 0"),
        (of(URL).root_certificate("no PEM"), "root_certificate: no certificate in 6 bytes of PEM"),
        (of(URL).root_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "root_certificate cannot be used: "),
        (of(URL).checksum_file(""), "checksum_file \"\" is no name of a file in the directory of the release"),
        (of(URL).checksum_file("../SHA256SUMS"), "checksum_file \"../SHA256SUMS\" is no name of a file in the directory of the release"),
        (of(URL).file_name("dist/app"), "file_name \"dist/app\" is no name of a file"),
        (of(URL).file_name("app-*-*.gz"), "file_name \"app-*-*.gz\" has more than one *"),
        (of(URL).file_name("app-{version}"), "file_name \"app-{version}\" has an unknown placeholder {version}; there are {os}, "),
        (of(URL).proxy("nonsense"), "proxy \"nonsense\" cannot be read"),
        (of(URL).proxy("socks5://me:pw@host:1"), "proxy \"socks5://host:1\" has the scheme socks5; it must be http or https"),
    ] {
        let error = fetcher.check().expect_err(text);
        assert_eq!(error.kind(), FetchErrorKind::Settings);
        assert!(error.to_string().contains(text), "{error}\nshould contain\n{text}");
    }
}

#[test]
fn good_settings_pass() {
    let fetcher = HttpFetcher::new("https://host.invalid/{os}-{arch}/{target}/{goos}_{goarch}.gz?key=1")
        .checksum_file("SHA256SUMS")
        .file_name("app-{target}-*.gz")
        .header("X-Key", "1")
        .bearer("2")
        .check_headers(["ETag", "x-amz-version-id"])
        .every(Duration::from_secs(60))
        .root_certificate(include_bytes!("certificates/ca.pem"))
        .proxy("http://me:pw@host.invalid:3128")
        .sha256_file(true);
    fetcher.check().expect("nothing is wrong");
    assert_eq!(fetcher.interval(), Duration::from_secs(60));
    assert_eq!(HttpFetcher::new(URL).interval(), Duration::from_secs(300));
}
