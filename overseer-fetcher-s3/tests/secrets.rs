//! No error, log line or `Debug` has a secret in it, also where a server repeats one.

mod server;

use overseer_core::{FetchError, Fetcher, Known};
use overseer_fetcher_s3::S3Fetcher;
use server::{Answer, Request, Server, binary};
use std::sync::Mutex;

const ACCESS: &str = "AKIDEXAMPLE";
const SECRETS: [&str; 3] = ["s3cret-key/abc", "t0ken-of-a-session", "Signature="];

static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOGGED.lock().expect("no panic").push(format!("{} {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

fn assert_silent_about_secrets(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
}

fn fetcher(endpoint: String) -> S3Fetcher {
    S3Fetcher::new("releases", "app").region("us-east-1").endpoint(endpoint).credentials(ACCESS, SECRETS[0], Some(SECRETS[1].to_owned()))
}

/// Everything that a request has told, in each place of an error where a server can put it.
fn repeat(request: &Request, status: &'static str, code: Option<&str>) -> Answer {
    let told = format!(
        "{} {} {}",
        request.header("Authorization").expect("it is signed"),
        request.header("x-amz-security-token").expect("with a token"),
        SECRETS[0]
    );
    let code = code.unwrap_or(&told).to_owned();
    let more = format!(
        "<Message>{told}</Message><Region>{told}</Region><Token-0>{told}</Token-0><RequestTime>{told}</RequestTime><ServerTime>1</ServerTime>"
    );
    Answer::error(status, &code, &more)
        .header("Location", format!("http://{told}@host.invalid/?{told}"))
        .header("x-amz-bucket-region", &told)
}

#[test]
fn no_text_has_a_secret_in_it() {
    log::set_logger(&Log).expect("the only logger");
    log::set_max_level(log::LevelFilter::Trace);

    let debug = format!("{:?}", fetcher("http://host.invalid".to_owned()));
    assert_silent_about_secrets(&debug);
    assert!(debug.contains("credentials: true") && debug.contains("s3://releases/app at host.invalid"), "{debug}");

    let object = || Answer::new("200 OK").header("ETag", "\"one\"").body(&binary(1000));
    for status in ["301 Moved", "307 Moved", "400 Bad", "401 No", "403 No", "404 No", "412 No", "416 No", "500 No", "503 No"] {
        for code in [
            None,
            Some("RequestTimeTooSkewed"),
            Some("AuthorizationHeaderMalformed"),
            Some("Odd"),
            Some("InvalidToken"),
            Some("AccessDenied"),
        ] {
            for head_is_fine in [false, true] {
                let server = Server::start(move |request| match request.is_head() && head_is_fine {
                    true => object(),
                    false => repeat(request, status, code),
                });
                let error = fetcher(server.url("")).fetch(&Known::nothing()).expect_err("it is refused");
                assert_silent_about_secrets(&FetchError::chain(&error));
                assert_silent_about_secrets(&format!("{error:?}"));
                assert!(error.to_string().starts_with("s3://releases/app at "), "{error}");
            }
        }
    }
    let scripts: [fn(&Request) -> Answer; 3] = [
        |_| Answer::hang_up(),
        |request| Answer::garbage(request.header("Authorization").unwrap_or_default()),
        |request| {
            Answer::new("200 OK")
                .header("ETag", "\"one\"")
                .header("x-amz-checksum-crc32", request.header("Authorization").unwrap_or_default())
                .body(b"x")
        },
    ];
    for script in scripts {
        let server = Server::start(script);
        let error = fetcher(server.url("")).fetch(&Known::nothing()).expect_err("no release");
        assert_silent_about_secrets(&format!("{error:?} {error}"));
    }
    let server = Server::start(move |_| object());
    let look = fetcher(server.url("")).fetch(&Known::nothing()).expect("a look");
    assert_silent_about_secrets(&format!("{look:?}"));

    for line in LOGGED.lock().expect("no panic").iter() {
        assert_silent_about_secrets(line);
    }
}
