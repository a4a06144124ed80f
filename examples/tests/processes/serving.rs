//! The servers that a user would copy, each restarted and upgraded under load, on connections that are kept.

use crate::app::{ACTOR, App, can_run, put, with_words};
use crate::load::PATIENCE;
use crate::own_sockets::WARNING as OWN_SOCKET;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio_tungstenite::tungstenite::Message;

/// How many clients there are.
const CLIENTS: u32 = 4;

/// What clients see, until they are told to end.
#[derive(Default)]
struct Notes {
    is_over: AtomicBool,
    /// Answers by generation.
    answers: Mutex<BTreeMap<u64, u64>>,
    failures: Mutex<Vec<String>>,
}

impl Notes {
    fn answered_by(&self, generation: u64) {
        *self.answers.lock().expect("no panic").entry(generation).or_default() += 1;
    }

    /// Takes the generation out of a greeting.
    fn greeted(&self, greeting: &str) -> Result<(), String> {
        let generation = greeting.trim_end().strip_prefix("hello from generation ").and_then(|number| number.parse().ok());
        self.answered_by(generation.ok_or_else(|| format!("{greeting:?} is no greeting"))?);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// The path of an example, which `cargo test` builds unless it is told to build one test alone.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = Path::new(ACTOR).with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not there: cargo build -p overseer-examples --examples", path.display());
    path
}

/// Starts the example, restarts it and upgrades it while clients come, each of which has one session after the other.
fn is_never_felt(name: &str, directory: &TempDir, arguments: &[&str], session: impl Fn(&str, &Notes) -> Result<(), String> + Sync) {
    let (program, releases) = (directory.path().join(name), directory.path().join("release"));
    let built = example(name);
    let built = built.to_str().expect("UTF-8");
    for path in [&program, &releases] {
        put(path, &with_words(built, "version=1"));
    }
    let mut command = Command::new(&program);
    command.args(arguments).arg(&releases);
    let mut app = App::start(command);
    let started = app.line_after("master started as pid ");
    let (_, address) = started.rsplit_once("; listening on ").expect("where it listens");
    app.line_after("generation 1 is ready");

    let notes = Notes::default();
    thread::scope(|clients| {
        for _ in 0..CLIENTS {
            clients.spawn(|| {
                while !notes.is_over() {
                    if let Err(why) = session(address, &notes) {
                        notes.failures.lock().expect("no panic").push(why);
                    }
                }
            });
        }
        // A test that fails ends its clients too.
        let _over = Over(&notes);
        wait_for_answers_of(1, &notes);
        app.signal(Signal::SIGUSR2);
        app.line_after("generation 2 took over");
        app.line_after("generation 1 is gone");
        wait_for_answers_of(2, &notes);
        put(&releases, &with_words(built, "version=2"));
        app.line_after("generation 3 took over");
        app.line_after("generation 2 is gone");
        wait_for_answers_of(3, &notes);
    });
    let failures = notes.failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "{failures:?}; {:?}; {}", notes.answers, app.all_lines());
    assert_eq!(app.count_lines(OWN_SOCKET), 0, "{}", app.all_lines());
    assert_eq!(app.terminate().code(), Some(0), "{}", app.all_lines());
}

struct Over<'a>(&'a Notes);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

fn wait_for_answers_of(generation: u64, notes: &Notes) {
    let deadline = Instant::now() + PATIENCE;
    while notes.answers.lock().expect("no panic").get(&generation).is_none_or(|count| *count < 20) {
        let failures = notes.failures.lock().expect("no panic");
        assert!(Instant::now() < deadline && failures.is_empty(), "generation {generation} does not answer; {failures:?}");
        drop(failures);
        thread::sleep(Duration::from_millis(2));
    }
}

fn connect(address: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|error| format!("connecting: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.set_nodelay(true).expect("an option");
    Ok(stream)
}

/// Asks on one connection until the server says that it closes it.
fn keep_asking(stream: impl Read + Write, notes: &Notes) -> Result<(), String> {
    let mut stream = BufReader::new(stream);
    while !notes.is_over() {
        stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").map_err(|error| format!("asking: {error}"))?;
        let (mut length, mut is_last) = (0, false);
        loop {
            let mut line = String::new();
            let count = stream.read_line(&mut line).map_err(|error| format!("reading: {error}"))?;
            match line.trim_end().to_lowercase().split_once(": ") {
                _ if count == 0 => return Err("closed without an answer".to_owned()),
                Some(("content-length", text)) => length = text.parse().map_err(|_| line)?,
                Some(("connection", "close")) => is_last = true,
                _ if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).map_err(|error| format!("reading the body: {error}"))?;
        notes.greeted(&String::from_utf8_lossy(&body))?;
        if is_last {
            return Ok(());
        }
        // Idle in between, so that a drain meets such connections.
        thread::sleep(Duration::from_millis(3));
    }
    Ok(())
}

fn directory() -> TempDir {
    tempfile::Builder::new().prefix("overseer-").tempdir().expect("a directory")
}

fn kept_connections_notice_nothing(name: &str) {
    is_never_felt(name, &directory(), &["127.0.0.1:0"], |address, notes| keep_asking(connect(address)?, notes));
}

#[test]
fn nobody_notices_that_an_axum_server_is_restarted_and_upgraded() {
    kept_connections_notice_nothing("axum");
}

#[test]
fn nobody_notices_that_a_hyper_server_is_restarted_and_upgraded() {
    kept_connections_notice_nothing("hyper");
}

#[test]
fn nobody_notices_that_a_server_with_threads_is_restarted_and_upgraded() {
    kept_connections_notice_nothing("std_threads");
}

#[test]
fn nobody_notices_that_a_server_with_an_event_loop_is_restarted_and_upgraded() {
    kept_connections_notice_nothing("mio");
}

#[test]
fn nobody_notices_that_a_server_which_knows_sigterm_alone_is_restarted_and_upgraded() {
    kept_connections_notice_nothing("sigterm");
}

#[test]
fn nobody_notices_that_a_server_on_a_unix_socket_is_restarted_and_upgraded() {
    let directory = directory();
    let socket = format!("unix:{}?mode=0600", directory.path().join("socket").display());
    is_never_felt("axum", &directory, &[&socket], |address, notes| {
        let path = address.strip_prefix("unix:").ok_or("no Unix socket")?;
        let stream = UnixStream::connect(path).map_err(|error| format!("connecting: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        keep_asking(stream, notes)
    });
}

#[test]
fn nobody_notices_that_a_server_behind_tls_is_restarted_and_upgraded() {
    if !can_run("a server behind TLS", "openssl", &["version"]) {
        return;
    }
    let directory = directory();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name).display().to_string());
    let new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    let options = ["-addext", "basicConstraints=critical,CA:FALSE", "-out", &certificate, "-keyout", &key];
    assert!(can_run("a certificate", "openssl", &[&new[..], &options[..]].concat()));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).expect("a certificate")).expect("it is one");
    let settings = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());

    is_never_felt("axum_tls", &directory, &[&certificate, &key, "127.0.0.1:0"], |address, notes| {
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::clone(&settings), name).map_err(|error| error.to_string())?;
        keep_asking(StreamOwned::new(session, connect(address)?), notes)
    });
}

/// Sends lines and reads their answers until the server says goodbye.
fn keep_talking<S: Read + Write>(
    stream: S,
    set_nonblocking: impl Fn(&S, bool) -> std::io::Result<()>,
    notes: &Notes,
) -> Result<(), String> {
    let mut stream = BufReader::new(stream);
    while !notes.is_over() {
        stream.get_mut().write_all(b"line\n").map_err(|error| format!("asking: {error}"))?;
        let mut line = String::new();
        stream.read_line(&mut line).map_err(|error| format!("reading: {error}"))?;
        let generation = line.strip_suffix(": line\n").and_then(|number| number.parse().ok());
        notes.answered_by(generation.ok_or_else(|| format!("{line:?} is no answer"))?);
        thread::sleep(Duration::from_millis(3));
        set_nonblocking(stream.get_ref(), true).expect("an option");
        let is_last = stream.fill_buf().is_ok_and(|bytes| bytes == b"goodbye\n");
        set_nonblocking(stream.get_ref(), false).expect("an option");
        if is_last {
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn each_line_to_a_tcp_server_is_answered_while_it_is_restarted_and_upgraded() {
    is_never_felt("tokio_tcp", &directory(), &["127.0.0.1:0"], |address, notes| {
        keep_talking(connect(address)?, TcpStream::set_nonblocking, notes)
    });
}

#[test]
fn each_line_to_a_server_on_a_unix_socket_is_answered_while_it_is_restarted_and_upgraded() {
    let directory = directory();
    let path = directory.path().join("socket");
    is_never_felt("unix_socket", &directory, &[&format!("unix:{}?mode=0600", path.display())], |address, notes| {
        let path = address.strip_prefix("unix:").ok_or("no Unix socket")?;
        let stream = UnixStream::connect(path).map_err(|error| format!("connecting: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        keep_talking(stream, UnixStream::set_nonblocking, notes)
    });
    assert!(!path.exists(), "the file goes with the service");
}

/// Sends one datagram after the other, each with a number of its own, and waits for its answer. Nothing is sent twice.
fn keep_sending(
    notes: &Notes,
    send: impl Fn(&[u8]) -> std::io::Result<usize>,
    receive: impl Fn(&mut [u8]) -> std::io::Result<usize>,
) -> Result<(), String> {
    let mut answer = [0; 100];
    for number in 0.. {
        if notes.is_over() {
            break;
        }
        let text = format!("datagram {number}");
        send(text.as_bytes()).map_err(|error| format!("sending {text}: {error}"))?;
        let length = receive(&mut answer).map_err(|error| format!("waiting for the answer to {text}: {error}"))?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        let generation = answer.strip_prefix(&text).and_then(|rest| rest.strip_prefix(" generation ")?.parse().ok());
        notes.answered_by(generation.ok_or_else(|| format!("{answer:?} is no answer to {text}"))?);
    }
    Ok(())
}

#[test]
fn each_datagram_to_a_udp_server_is_answered_once_while_it_is_restarted_and_upgraded() {
    is_never_felt("udp_echo", &directory(), &["udp:127.0.0.1:0"], |address, notes| {
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        client.connect(address.strip_prefix("udp:").ok_or("no UDP")?).expect("an address");
        client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        keep_sending(notes, |bytes| client.send(bytes), |buffer| client.recv(buffer))
    });
}

#[test]
fn each_datagram_to_a_unix_socket_is_answered_once_while_its_server_is_restarted_and_upgraded() {
    let directory = directory();
    let (path, number) = (directory.path().join("socket"), AtomicU32::new(0));
    is_never_felt("udp_echo", &directory, &[&format!("unixgram:{}?mode=0600", path.display())], |address, notes| {
        let own = directory.path().join(format!("client-{}", number.fetch_add(1, Ordering::Relaxed)));
        let client = UnixDatagram::bind(own).expect("bound");
        client.connect(address.strip_prefix("unixgram:").ok_or("no Unix socket")?).map_err(|error| format!("connecting: {error}"))?;
        client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        keep_sending(notes, |bytes| client.send(bytes), |buffer| client.recv(buffer))
    });
    assert!(!path.exists(), "the file goes with the service");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

#[test]
fn a_client_of_a_websocket_server_gets_a_close_frame_and_comes_back() {
    use futures_util::{SinkExt, StreamExt};
    is_never_felt("websocket", &directory(), &["127.0.0.1:0"], |address, notes| {
        block_on(async {
            let opened = tokio_tungstenite::connect_async(format!("ws://{address}")).await;
            let (mut socket, _) = opened.map_err(|error| format!("connecting: {error}"))?;
            while !notes.is_over() {
                // The server may have said goodbye meanwhile; that is seen below.
                let sent = socket.send(Message::text("hello")).await;
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => notes.greeted(&text)?,
                    Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1012 => {
                        return match socket.next().await {
                            None => Ok(()),
                            other => Err(format!("after the close: {other:?}")),
                        };
                    }
                    other => return Err(format!("{other:?} after {sent:?}")),
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            socket.close(None).await.map_err(|error| format!("closing: {error}"))
        })
    });
}

fn has_not_left(status: &tonic::Status) -> bool {
    let mut error: Option<&dyn Error> = status.source();
    while let Some(cause) = error {
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        error = cause.source();
    }
    false
}

#[test]
fn nobody_notices_that_a_grpc_server_is_restarted_and_upgraded() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    is_never_felt("tonic", &directory(), &["127.0.0.1:0"], |address, notes| {
        block_on(async {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
            let mut client = HealthClient::new(endpoint.connect().await.map_err(|error| format!("connecting: {error}"))?);
            for generation in (1..=3).cycle() {
                let request = HealthCheckRequest { service: format!("generation-{generation}") };
                match client.check(request).await {
                    Ok(_) => notes.answered_by(generation),
                    // Another one has answered.
                    Err(status) if status.code() == tonic::Code::NotFound => {}
                    // The connection has ended before the request left the client: gRPC's libraries repeat those by themselves, tonic leaves it to its user.
                    Err(status) if has_not_left(&status) => {}
                    Err(status) => return Err(format!("{status:?}")),
                }
                if notes.is_over() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            Ok(())
        })
    });
}
