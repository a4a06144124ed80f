//! A real nginx, with a folder of its own.
//!
//! It runs as one process in the foreground, so that a kill ends all of it, and tells by its output what it was asked.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A test that waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not every user has the second one's directory in PATH.
const PROGRAMS: [&str; 2] = ["nginx", "/usr/sbin/nginx"];

/// Lives as long as the value.
pub(crate) struct Nginx {
    program: &'static str,
    folder: TempDir,
    ports: Ports,
    running: Option<Running>,
    /// Connections to it are taken by the system, and nobody ever answers.
    silence: TcpListener,
}

#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
    expired: u16,
}

struct Running {
    child: Child,
    requests: Receiver<String>,
}

impl Nginx {
    /// Serves the file `app` with these bytes. `None` where nginx is not installed, which fails the test in CI.
    pub(crate) fn start(app: &[u8]) -> Option<Self> {
        let runs = |program: &&str| Command::new(program).arg("-v").stderr(Stdio::null()).status().is_ok();
        let Some(program) = PROGRAMS.into_iter().find(runs) else {
            let text = "not shown here, for want of nginx (sudo apt-get install nginx): how the fetcher gets on with it";
            assert!(std::env::var_os("OVERSEER_CI").is_none(), "{text}");
            // Not `eprintln`, whose lines only a failed test shows.
            let _ = writeln!(std::io::stderr(), "{text}");
            return None;
        };
        let folder = TempDir::new().expect("a folder");
        let silence = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut nginx = Self { program, folder, ports: Ports { plain: 0, tls: 0, expired: 0 }, running: None, silence };
        let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
        for name in ["server.pem", "server.key", "expired.pem"] {
            fs::copy(certificates.join(name), nginx.path(name)).expect("a copy");
        }
        // apr1 of "pass".
        fs::write(nginx.path("htpasswd"), "user:$apr1$overseer$jw3KFqDDV6AUM/SR5CATJ/\n").expect("written");
        fs::create_dir(nginx.path("root")).expect("a folder");
        nginx.publish("app", app);
        // A port that was free may be taken by now.
        let since = Instant::now();
        loop {
            nginx.ports = Ports::free();
            if nginx.try_start() {
                return Some(nginx);
            }
            assert!(since.elapsed() < PATIENCE, "nginx does not start");
        }
    }

    /// Puts a file into the root, in one step.
    pub(crate) fn publish(&self, name: &str, bytes: &[u8]) {
        let new = self.path("new");
        fs::write(&new, bytes).expect("written");
        fs::rename(new, self.path("root").join(name)).expect("renamed");
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.plain)
    }

    pub(crate) fn https_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.ports.tls)
    }

    /// With a certificate that has expired.
    pub(crate) fn expired_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.ports.expired)
    }

    /// Ends it at once; its connections break.
    pub(crate) fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.child.kill().expect("killed");
        running.child.wait().expect("gone");
    }

    /// Freezes it, or lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.running.as_ref().expect("it runs").child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    /// Starts it again, at the same ports.
    pub(crate) fn start_again(&mut self) {
        let since = Instant::now();
        while !self.try_start() {
            assert!(since.elapsed() < PATIENCE, "nginx does not start again");
        }
    }

    /// The requests that were finished since this was asked last, as `GET /app 206 bytes 5-9/10`, with `-` for the whole.
    pub(crate) fn requests(&self) -> Vec<String> {
        let mut mark = TcpStream::connect(("127.0.0.1", self.ports.plain)).expect("a connection");
        mark.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        mark.write_all(b"GET /mark HTTP/1.0\r\n\r\n").expect("asked");
        mark.read_to_end(&mut Vec::new()).expect("answered");
        let requests = &self.running.as_ref().expect("it runs").requests;
        let line = || requests.recv_timeout(PATIENCE).expect("the mark is logged");
        std::iter::repeat_with(line).take_while(|line| !line.contains(" /mark ")).collect()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// `false` if it ended instead.
    fn try_start(&mut self) -> bool {
        let folder = self.folder.path().display();
        fs::write(self.path("nginx.conf"), self.configuration()).expect("written");
        let mut command = Command::new(self.program);
        command.args(["-e", "stderr", "-p", &folder.to_string(), "-c", "nginx.conf"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let requests = lines(child.stdout.take().expect("a pipe"));
        let messages = lines(child.stderr.take().expect("a pipe"));
        let mut seen = Vec::new();
        loop {
            match messages.recv_timeout(PATIENCE) {
                // It says its version when it has all sockets.
                Ok(line) if line.contains(" nginx/") => {
                    self.running = Some(Running { child, requests });
                    return true;
                }
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Disconnected) => {
                    child.wait().expect("gone");
                    assert!(seen.iter().any(|line| line.contains("Address already in use")), "nginx says {seen:#?}");
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = child.kill();
                    panic!("nginx says only {seen:#?}");
                }
            }
        }
    }

    fn configuration(&self) -> String {
        let folder = self.folder.path().display();
        let Ports { plain, tls, expired } = self.ports;
        let key = "ssl_certificate_key server.key; include paths;";
        let paths = "
            root root; default_type application/octet-stream;
            location = /mark { return 204; }
            location /gzip/ { alias root/; gzip on; gzip_min_length 1; gzip_types *; }
            location /packed/ { alias root/; gzip_static always; }
            location /slow/ { alias root/; limit_rate 256k; }
            location /silent/ { proxy_pass http://SILENCE; }
            location /silent-body/ { alias root/; if ($request_method = GET) { proxy_pass http://SILENCE; } }
            location /untagged/ { alias root/; etag off; add_header Last-Modified ''; }
            location /whole/ { alias root/; max_ranges 0; }
            location = /latest { return 302 /app; }
            location /loop/ { return 302 /loop/; }
            location /deeper/ { rewrite ^(.*)$ $1x redirect; }
            location /auth/ { alias root/; auth_basic tests; auth_basic_user_file htpasswd; }
            location /busy/ { add_header Retry-After 7 always; return 503; }
            location /limited/ { alias root/; limit_req zone=one; limit_req_status 429; add_header Retry-After 60 always; }
        ";
        let silence = self.silence.local_addr().expect("its address").to_string();
        let paths = paths.replace("root/;", &format!("{folder}/root/;")).replace("SILENCE", &silence);
        fs::write(self.path("paths"), paths).expect("written");
        format!(
            "daemon off; master_process off; pid {folder}/pid; error_log stderr notice;
            events {{ worker_connections 64; }}
            http {{
                log_format request '$request_method $request_uri $status $sent_http_content_range';
                access_log /dev/stdout request;
                client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
                uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
                limit_req_zone $server_port zone=one:1m rate=1r/m;
                server {{ listen 127.0.0.1:{plain}; include paths; }}
                server {{ listen 127.0.0.1:{tls} ssl http2; ssl_certificate server.pem; {key} }}
                server {{ listen 127.0.0.1:{expired} ssl; ssl_certificate expired.pem; {key} }}
            }}"
        )
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

impl Ports {
    fn free() -> Self {
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [plain, tls, expired] = listeners.map(|listener| listener.local_addr().expect("its address").port());
        Self { plain, tls, expired }
    }
}

/// What comes from a pipe, until its end.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}
