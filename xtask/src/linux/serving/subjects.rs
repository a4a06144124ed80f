//! The servers that are measured: how each is started, restarted and stopped.

use super::answer;
use crate::linux::process::{Process, descendants, descendants_of};
use crate::linux::scene::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Who replaces the process that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Overseer,
    Ecdysis,
    Shellflip,
    Nginx,
    Haproxy,
    /// Nobody.
    Plain,
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Http1,
    /// HTTP/1.1 and HTTP/2.
    Http2,
    /// It answers datagrams.
    Datagrams,
}

/// A server that can be started.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// What the report calls it.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether it is an example, which names its generation and not its process.
    pub(super) is_example: bool,
    pub(super) speech: Speech,
    pub(super) path: PathBuf,
}

impl Subject {
    /// Starts it on a free port, with these arguments after its address, and waits until it answers. What it needs is written to the directory.
    pub(super) fn start(&self, directory: &Path, arguments: &[String]) -> Result<Served, String> {
        let address = self.speech.free_address()?;
        let mut command = Command::new(&self.path);
        match self.kind {
            Kind::Nginx => command.arg("-c").arg(self.configure(directory, &nginx(directory, address))?).arg("-p").arg(directory),
            Kind::Haproxy => command.arg("-W").arg("-f").arg(self.configure(directory, &haproxy(directory, address))?),
            Kind::Overseer | Kind::Ecdysis | Kind::Shellflip | Kind::Plain => {
                let protocol = if self.speech == Speech::Datagrams { "udp:" } else { "" };
                command.arg(format!("{protocol}{address}")).args(arguments)
            }
        };
        let process = Process::start(self.name, &mut command)?;
        let mut served = Served { kind: self.kind, speech: self.speech, address, serving: process.pid(), left: Vec::new(), process };
        let first = served.wait_until_it_answers()?;
        served.is_served_by(first);
        Ok(served)
    }

    /// Where an example looks for releases.
    pub(super) fn looks_at(&self) -> PathBuf {
        self.path.with_file_name("release")
    }

    fn configure(&self, directory: &Path, text: &str) -> Result<PathBuf, String> {
        let path = directory.join(format!("{}.conf", self.name));
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(path)
    }
}

/// A server that runs.
pub(super) struct Served {
    kind: Kind,
    speech: Speech,
    pub(super) address: SocketAddr,
    pub(super) process: Process,
    /// Who is to be told to restart, where that is not the process that was started.
    serving: Pid,
    /// Who was before.
    left: Vec<Pid>,
}

impl Served {
    /// Lets a new generation take over.
    pub(super) fn restart(&self) -> Result<Instant, String> {
        let at = Instant::now();
        match self.kind {
            Kind::Overseer | Kind::Haproxy => self.process.signal(Signal::SIGUSR2),
            Kind::Nginx => self.process.signal(Signal::SIGHUP),
            Kind::Ecdysis => self.signal_serving(Signal::SIGHUP)?,
            Kind::Shellflip => self.signal_serving(Signal::SIGUSR1)?,
            Kind::Plain => return Err("a server alone cannot be restarted".to_owned()),
        }
        Ok(at)
    }

    /// A new generation has answered.
    pub(super) fn is_served_by(&mut self, who: answer::Who) {
        if let (Kind::Ecdysis | Kind::Shellflip, Ok(pid)) = (self.kind, i32::try_from(who)) {
            self.left.push(std::mem::replace(&mut self.serving, Pid::from_raw(pid)));
        }
    }

    /// All of its processes.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let below = descendants_of(self.process.pid()).into_iter().map(|descendant| descendant.pid);
        below.chain([self.process.pid()]).collect()
    }

    /// Waits for some time, in which it must not end.
    pub(super) fn watch(&self, until: Instant) -> Result<(), String> {
        let left = until.saturating_duration_since(Instant::now());
        // These end with the first restart, and live on in their successors.
        if matches!(self.kind, Kind::Ecdysis | Kind::Shellflip) {
            std::thread::sleep(left);
            return Ok(());
        }
        self.process.exit_within(left).map_or(Ok(()), |_| Err(format!("the server ended; {}", self.process.account())))
    }

    /// Stops it, and waits until it is gone.
    pub(super) fn stop(self) -> Result<(), String> {
        match self.kind {
            Kind::Ecdysis | Kind::Shellflip => {
                self.signal_serving(Signal::SIGTERM)?;
                self.wait_until_gone();
            }
            Kind::Overseer => {
                self.process.signal(Signal::SIGTERM);
                match self.process.wait_exit(PATIENCE * 2)? {
                    WaitStatus::Exited(_, 0) => {}
                    exit => return Err(format!("the master ended with {exit:?} after SIGTERM; {}", self.process.account())),
                }
            }
            Kind::Nginx | Kind::Haproxy | Kind::Plain => {
                self.process.signal(Signal::SIGTERM);
                self.process.wait_exit(PATIENCE)?;
            }
        }
        Ok(())
    }

    fn signal_serving(&self, signal: Signal) -> Result<(), String> {
        kill(self.serving, signal)
            .map_err(|error| format!("cannot send {signal} to pid {}: {error}; {}", self.serving, self.process.account()))
    }

    /// Orphans became children of this tool: it reaps them. Who has not left in time is killed.
    fn wait_until_gone(&self) {
        let all: Vec<Pid> = self.left.iter().copied().filter(|pid| *pid != self.process.pid()).chain([self.serving]).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            for pid in &all {
                let _ = waitpid(*pid, Some(WaitPidFlag::WNOHANG));
            }
            let running: Vec<Pid> = descendants().iter().map(|descendant| descendant.pid).filter(|pid| all.contains(pid)).collect();
            if running.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                for pid in running {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            self.process.exit_within(Duration::from_millis(20));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks until somebody answers.
    fn wait_until_it_answers(&self) -> Result<answer::Who, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.speech.ask(self.address) {
                Ok(who) => return Ok(who),
                Err(wrong) if Instant::now() > deadline => return Err(format!("{wrong}; {}", self.process.account())),
                Err(_) => {}
            }
            if self.process.exit_within(Duration::from_millis(20)).is_some() {
                return Err(format!("the server ended before it answered; {}", self.process.account()));
            }
        }
    }
}

impl Speech {
    /// One request.
    fn ask(self, address: SocketAddr) -> Result<answer::Who, String> {
        match self {
            Self::Http1 | Self::Http2 => ask_by_http(address),
            Self::Datagrams => ask_by_datagram(address),
        }
    }

    /// An address on loopback that nobody has, and that no other server is told of: each gets one of its own, so two may be started at a time.
    fn free_address(self) -> Result<SocketAddr, String> {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let last = 1 + u8::try_from(SERVERS.fetch_add(1, Ordering::Relaxed) % 250).unwrap_or_default();
        let any_port = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
        let found = match self {
            Self::Http1 | Self::Http2 => TcpListener::bind(any_port).and_then(|listener| listener.local_addr()),
            Self::Datagrams => UdpSocket::bind(any_port).and_then(|socket| socket.local_addr()),
        };
        found.map_err(|error| format!("cannot find a free port of {}: {error}", any_port.ip()))
    }
}

/// A datagram that is not answered is not waited for for long: the next one is.
const DATAGRAM_PATIENCE: Duration = Duration::from_millis(50);

fn ask_by_datagram(address: SocketAddr) -> Result<answer::Who, String> {
    let failed = |error: std::io::Error| format!("{address} was not asked: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
    socket.set_read_timeout(Some(DATAGRAM_PATIENCE)).map_err(failed)?;
    socket.connect(address).map_err(failed)?;
    socket.send(b"who is there?").map_err(failed)?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).map_err(failed)?;
    let answered = &buffer[..length];
    answer::read_datagram(b"who is there?", answered)
        .ok_or_else(|| format!("{address} answered a datagram with {:?}", String::from_utf8_lossy(answered)))
}

fn ask_by_http(address: SocketAddr) -> Result<answer::Who, String> {
    let failed = |error: std::io::Error| format!("{address} was not asked: {error}");
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    connection.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut bytes = Vec::new();
    loop {
        let mut block = [0; 4096];
        match connection.read(&mut block).map_err(failed)? {
            0 => return Err(format!("{address} closed the connection before it had answered")),
            count => bytes.extend_from_slice(&block[..count]),
        }
        if let Some(answer) = answer::read(&bytes)? {
            return Ok(answer.who);
        }
    }
}

fn nginx(directory: &Path, address: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    keepalive_timeout 75s;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-fastcgi;
    uwsgi_temp_path {directory}/nginx-uwsgi;
    scgi_temp_path {directory}/nginx-scgi;
    server {{
        listen {address} backlog=4096;
        location / {{
            add_header X-Pid $pid;
            return 200 \"hello\\n\";
        }}
    }}
}}
"
    )
}

fn haproxy(directory: &Path, address: SocketAddr) -> String {
    format!(
        "global
    maxconn 8000
    stats socket {}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 10s
    timeout client 75s
    timeout server 75s
    timeout http-keep-alive 75s
frontend bench
    bind {address} backlog 4096
    http-request return status 200 content-type text/plain hdr X-Pid %pid lf-string hello\\n
",
        directory.display()
    )
}
