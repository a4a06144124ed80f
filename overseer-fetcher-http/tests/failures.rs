//! Each way a server can fail has a text of its own, and the look after it succeeds when the server does.

mod server;

use overseer_core::{FetchError, FetchErrorKind, Fetcher, Known};
use overseer_fetcher_http::HttpFetcher;
use server::{Answer, Request, Server};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

fn fetcher(url: &str) -> HttpFetcher {
    HttpFetcher::new(url).no_proxy()
}

fn file() -> Answer {
    Answer::new("200 OK").header("ETag", "\"one\"").body(b"\x7fELF and more")
}

/// The error of a look at a server that follows `script`, after which it is mended and a second look must bring the release.
fn fails_then_recovers(
    script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    set: impl Fn(HttpFetcher) -> HttpFetcher,
) -> FetchError {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let server = Server::start(move |request| if is_mended.load(Ordering::SeqCst) { file() } else { script(request) });
    let url = server.url("/app?key=s3cret");
    let error = match set(fetcher(&url)).fetch(&Known::nothing()) {
        Err(error) => error,
        Ok(look) => {
            let mut release = look.into_release().expect("a release");
            let error = release.body().read_to_end(&mut Vec::new()).expect_err("the body is broken");
            error.downcast().expect("an error of the fetcher")
        }
    };
    let text = error.to_string();
    assert!(text.contains(&server.url("/")) && !text.contains("s3cret"), "{text}");
    mended.store(true, Ordering::SeqCst);
    let mut release = fetcher(&url).fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    assert_eq!(bytes, b"\x7fELF and more");
    error
}

fn same(fetcher: HttpFetcher) -> HttpFetcher {
    fetcher
}

fn on_get(answer: impl Fn() -> Answer + Send + Sync + 'static) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    move |request| if request.is_head() { file() } else { answer() }
}

#[test]
fn a_status_that_is_no_success_is_told_with_its_number_and_the_method() {
    for (status, kind) in [
        ("400 Bad Request", FetchErrorKind::Passing),
        ("401 Unauthorized", FetchErrorKind::Settings),
        ("404 Not Found", FetchErrorKind::Passing),
        ("410 Gone", FetchErrorKind::Passing),
        ("429 Too Many Requests", FetchErrorKind::Passing),
        ("500 Internal Server Error", FetchErrorKind::Passing),
        ("502 Bad Gateway", FetchErrorKind::Passing),
        ("204 No Content", FetchErrorKind::Passing),
    ] {
        let error = fails_then_recovers(move |_| Answer::new(status).header("X", "Y"), same);
        assert!(error.to_string().contains(&format!("/app answered {status} to HEAD")), "{error}");
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.pause_asked_for(), None);

        let error = fails_then_recovers(on_get(move || Answer::new(status).header("Connection", "close").cut(0)), same);
        assert!(error.to_string().contains(&format!("/app answered {status} to GET")), "{error}");
    }
    let error = fails_then_recovers(|_| Answer::status("403 Forbidden"), same);
    assert!(error.to_string().contains("answered 403 Forbidden to GET"), "{error}");
    assert_eq!(error.kind(), FetchErrorKind::Settings);
}

#[test]
fn a_pause_that_the_server_asks_for_is_handed_to_core_in_both_forms() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let seconds = fails_then_recovers(move |_| Answer::status(status).header("Retry-After", "120"), same);
        assert_eq!(seconds.pause_asked_for(), Some(Duration::from_secs(120)));
        assert!(seconds.to_string().ends_with(&format!("answered {status} to HEAD, asks to come back in 120s")), "{seconds}");

        let dated = move |_: &Request| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let later = httpdate::fmt_http_date(now + Duration::from_secs(90));
            Answer::status(status).header("Date", httpdate::fmt_http_date(now)).header("Retry-After", later)
        };
        assert_eq!(fails_then_recovers(dated, same).pause_asked_for(), Some(Duration::from_secs(90)));

        let past = move |_: &Request| Answer::status(status).header("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(fails_then_recovers(past, same).pause_asked_for(), Some(Duration::ZERO));

        let nonsense = fails_then_recovers(move |_| Answer::status(status).header("Retry-After", "soon"), same);
        assert_eq!(nonsense.pause_asked_for(), None);
    }
}

#[test]
fn a_page_instead_of_a_binary_is_known_by_its_type_and_by_its_beginning() {
    let typed = || Answer::new("200 OK").header("ETag", "\"one\"").header("Content-Type", "Text/HTML; charset=utf-8").body(b"Sign in");
    let untyped = || Answer::new("200 OK").header("ETag", "\"one\"").body(b"\r\n<!DOCTYPE html><title>Sign in</title>");
    let by_type = fails_then_recovers(move |_| typed(), same);
    assert!(
        by_type.to_string().ends_with("sent an HTML page instead of a release: its Content-Type is Text/HTML; charset=utf-8"),
        "{by_type}"
    );
    let by_beginning = fails_then_recovers(move |_| untyped(), same);
    assert!(by_beginning.to_string().ends_with("sent an HTML page instead of a release: its body begins as one"), "{by_beginning}");
    for error in [by_type, by_beginning] {
        assert_eq!(error.kind(), FetchErrorKind::Passing);
    }
    let behind_refused_head = |request: &Request| match request.is_head() {
        true => Answer::status("405 Method Not Allowed"),
        false => Answer::new("200 OK").header("Content-Type", "text/html").body(b"Sign in"),
    };
    assert!(fails_then_recovers(behind_refused_head, same).to_string().contains("an HTML page"));
}

#[test]
fn an_empty_body_is_no_release() {
    let error = fails_then_recovers(on_get(|| Answer::status("200 OK")), same);
    assert!(error.to_string().ends_with("/app is empty"), "{error}");
}

#[test]
fn a_short_body_is_told_with_both_numbers() {
    let error = fails_then_recovers(on_get(|| Answer::new("200 OK").body(b"\x7fELF and more").cut(5)), same);
    assert!(error.to_string().contains("ended after 5 of 13 bytes"), "{error}");
    let chunked = || Answer::new("200 OK").header("Transfer-Encoding", "chunked").bytes(b"5\r\n\x7fELF \r\n").cut(10);
    let error = fails_then_recovers(on_get(chunked), same);
    assert!(error.to_string().contains("ended after 5 "), "{error}");
}

#[test]
fn redirects_that_never_end_are_told_from_those_that_are_too_many() {
    let circle =
        |request: &Request| Answer::redirect(if request.target.starts_with("/app") { "/other?key=s3cret" } else { "/app?key=s3cret" });
    let error = fails_then_recovers(circle, same);
    assert!(error.to_string().contains("/app redirects in a loop: ") && error.to_string().ends_with("/app comes twice"), "{error}");

    let endless = |request: &Request| Answer::redirect(&format!("{}x", request.target));
    let error = fails_then_recovers(endless, same);
    assert!(error.to_string().ends_with("/app redirects more than 10 times"), "{error}");

    let nowhere = fails_then_recovers(|_| Answer::status("302 Found"), same);
    assert!(nowhere.to_string().ends_with("/app answered 302 Found without a Location"), "{nowhere}");
    let strange = fails_then_recovers(|_| Answer::redirect("file:///etc/passwd"), same);
    assert!(strange.to_string().ends_with("/app answered 302 Found with a Location of the scheme file"), "{strange}");
}

#[test]
fn a_silent_server_ends_the_look_after_the_time_of_its_method() {
    let started = Instant::now();
    let head = fails_then_recovers(|_| Answer::silence(), |fetcher| fetcher.head_timeout(Duration::from_millis(300)));
    assert!(head.to_string().ends_with("/app was silent: no answer to HEAD within 300ms"), "{head}");
    let get = fails_then_recovers(on_get(Answer::silence), |fetcher| fetcher.get_timeout(Duration::from_millis(300)));
    assert!(get.to_string().ends_with("/app was silent: no answer to GET within 300ms"), "{get}");
    assert!(started.elapsed() < Duration::from_secs(15), "neither waited for a default");
}

#[test]
fn a_stalled_server_ends_the_look_and_is_told_with_the_bytes_that_came() {
    let stalled = || Answer::new("200 OK").body(b"\x7fELF and more").stall(5);
    let error = fails_then_recovers(on_get(stalled), |fetcher| fetcher.get_timeout(Duration::from_secs(1)));
    assert!(error.to_string().contains("stalled, with nothing for 1s, after 5 of 13 bytes"), "{error}");
}

#[test]
fn a_slow_release_may_take_longer_than_the_time_between_two_pieces() {
    let (piece, last) = (Arc::new(std::sync::Barrier::new(2)), Duration::from_secs(1));
    let paced = Arc::clone(&piece);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        let answer = || {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream);
            let mut request = String::new();
            while reader.read_line(&mut request).expect("a request") > 2 {}
            let mut stream = reader.into_inner();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").expect("sent");
            stream
        };
        drop(answer());
        let mut get = answer();
        for byte in [b'a', b'b', b'c'] {
            paced.wait();
            get.write_all(&[byte]).expect("sent");
        }
    });
    // The client lets a piece be sent only when most of the time has passed: three pieces take longer than one time-out.
    let started = Instant::now();
    let pace = std::thread::spawn(move || {
        for count in 1..=3 {
            while started.elapsed() < last * count {
                std::thread::park_timeout(last);
            }
            piece.wait();
        }
    });
    let mut fetcher = fetcher(&format!("http://{address}/app")).get_timeout(Duration::from_millis(2500));
    let mut release = fetcher.fetch(&Known::nothing()).expect("a look").into_release().expect("a release");
    let mut bytes = Vec::new();
    release.body().read_to_end(&mut bytes).expect("the whole body");
    assert_eq!(bytes, b"abc");
    assert!(started.elapsed() > Duration::from_millis(2500));
    server.join().expect("no panic");
    pace.join().expect("no panic");
}

#[test]
fn a_server_that_hangs_up_or_speaks_something_else_is_told_of() {
    let error = fails_then_recovers(|_| Answer::hang_up(), same);
    assert!(error.to_string().contains("/app gave no usable answer to HEAD: connection closed"), "{error}");
    let error = fails_then_recovers(|_| Answer::garbage("SSH-2.0-OpenSSH_9.6\r\n\r\n"), same);
    assert!(error.to_string().contains("/app gave no usable answer to HEAD: "), "{error}");
}

#[test]
fn nobody_listening_and_an_unknown_host_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let url = format!("http://{free}/app");
    let refused = fetcher(&url).fetch(&Known::nothing()).expect_err("nobody listens").to_string();
    assert!(refused.starts_with(&format!("nothing listens at {url}: ")) && refused.contains("onnection refused"), "{refused}");

    let unknown = fetcher("http://no-such-host.invalid/app").fetch(&Known::nothing()).expect_err("no such host").to_string();
    assert!(unknown.starts_with("the host of http://no-such-host.invalid/app cannot be found: "), "{unknown}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_host_that_takes_no_connection_ends_the_look_after_the_connect_time_out() {
    // A listener with a full backlog drops what comes.
    let full = FullBacklog::new();
    let url = format!("http://{}/app", full.address);
    let error = fetcher(&url).connect_timeout(Duration::from_millis(300)).fetch(&Known::nothing()).expect_err("no connection");
    assert_eq!(error.to_string(), format!("cannot connect to {url} within 300ms"));
}

/// Nobody accepts, and no further connection fits.
#[cfg(target_os = "linux")]
struct FullBacklog {
    address: std::net::SocketAddr,
    _listener: TcpListener,
    _clients: Vec<std::net::TcpStream>,
}

#[cfg(target_os = "linux")]
impl FullBacklog {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut clients = Vec::new();
        while let Ok(client) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
            clients.push(client);
            assert!(clients.len() < 10_000, "the backlog has an end");
        }
        Self { address, _listener: listener, _clients: clients }
    }
}
