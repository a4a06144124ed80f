//! A child as it was built for version 1 of the protocol, kept as it is: it uses nothing of overseer, so that a change of the frames is noticed.
//!
//! By its script it can also be a child that no sane program is: see [`misbehave`].

#[expect(dead_code, reason = "the other program needs more of it")]
mod script;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, send};
use nix::unistd::close;
use script::Script;
use serde_json::Value;
use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, RawFd};
use std::thread;

/// The first frame that a child of version 1 sent.
const HELLO: &str = r#"{"type":"hello","protocol":{"min":1,"max":1},"addresses":[{"text":"127.0.0.1:0"}],"settings":{"restart_signal":12,"stop_signals":[15,2],"terminate_timeout_ms":10000,"warm_up_ms":100,"accept_in_warm_up":true,"probation_ms":300000,"ready_timeout_ms":5000,"check_timeout_ms":5000,"fetch_timeout_ms":600000,"min_fetch_interval_ms":1000,"interval_ms":300000,"source":null,"installation":"proved"}}"#;
const DRAINS: &str = r#"{"type":"drains"}"#;
const READY: &str = r#"{"type":"ready"}"#;
const PONG: &str = r#"{"type":"pong"}"#;

fn main() {
    let variable = std::env::var("OVERSEER_ROLE").expect("a master has started this");
    let fields: Vec<&str> = variable.split(',').collect();
    assert_eq!((fields.len(), fields[0]), (4, "child"), "{variable}");
    let link: RawFd = fields[1].parse().expect("a number");
    let mode = Script::read().text("mode").unwrap_or_default().to_owned();
    misbehave(link, &mode);

    if mode == "unknown" {
        say(link, r#"{"type":"tea","with":["milk",1],"fds":0}"#);
        say(link, &HELLO.replace(r#""addresses""#, r#""colour":"blue","addresses""#));
    } else {
        say(link, HELLO);
    }
    let mut frames = Frames { link, bytes: Vec::new(), descriptors: Vec::new() };
    let welcome = frames.next();
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    assert_eq!((&welcome["protocol"], &welcome["fds"]), (&Value::from(1), &Value::from(1)), "{welcome}");
    let generation = welcome["generation"].as_u64().expect("a number");
    let address = welcome["addresses"][0].as_str().expect("text").to_owned();
    assert_eq!(frames.descriptors.len(), 1);
    // SAFETY: the kernel has made it for this process, and nobody else in it knows the number.
    let listener = unsafe { TcpListener::from_raw_fd(frames.descriptors[0]) };
    say(link, DRAINS);
    say(link, READY);
    println!("serving version=frozen generation={generation} pid={} on {address}", std::process::id());
    serve(&listener, &mut frames, generation);
    println!("ending version=frozen generation={generation} pid={}", std::process::id());
}

fn serve(listener: &TcpListener, frames: &mut Frames, generation: u64) {
    // SAFETY: the link is open for the life of the process.
    let link = unsafe { BorrowedFd::borrow_raw(frames.link) };
    loop {
        let mut wanted = [PollFd::new(link, PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::NONE).expect("polled");
        if wanted[0].any() == Some(true) {
            let message = frames.next();
            match message["type"].as_str() {
                Some("drain") => {
                    assert!(message["within_ms"].as_u64().is_some_and(|within| within > 0), "{message}");
                    return;
                }
                Some("ping") => say(frames.link, PONG),
                _ => {}
            }
        }
        if let Ok((mut stream, _)) = listener.accept() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let _ = writeln!(stream, "frozen {generation} {}", std::process::id());
        }
    }
}

fn say(link: RawFd, message: &str) {
    let length = u32::try_from(message.len()).expect("it is short");
    let frame = [&length.to_le_bytes()[..], message.as_bytes()].concat();
    send_all(link, &frame);
}

fn send_all(link: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match send(link, bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            // The master has had enough; it will say so by a signal.
            Err(_) => hang(),
        }
    }
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

/// What a child must not do; does not return if `mode` names something.
fn misbehave(link: RawFd, mode: &str) {
    match mode {
        "never-hello" => hang(),
        "closes" => {
            close(link).expect("closed");
            hang()
        }
        "closes-after-ready" => {
            say(link, HELLO);
            say(link, READY);
            close(link).expect("closed");
            hang()
        }
        "never-reads" => {
            say(link, HELLO);
            say(link, READY);
            hang()
        }
        "asks-on-and-on" => loop {
            say(link, HELLO);
        },
        "floods" => loop {
            say(link, PONG);
        },
        "garbage" => loop {
            send_all(link, b"\x10\0\0\0this is no JSON!");
        },
        "huge" => {
            send_all(link, &[0xFF, 0xFF, 0xFF, 0x7F, b'{']);
            hang()
        }
        "half" => {
            send_all(link, b"\x10\0\0\0{");
            close(link).expect("closed");
            hang()
        }
        "half-and-waits" => {
            send_all(link, b"\x10\0");
            hang()
        }
        "future" => {
            say(link, &HELLO.replace(r#"{"min":1,"max":1}"#, r#"{"min":98,"max":99}"#));
            hang()
        }
        "cannot-have" => {
            say(link, &HELLO.replace("127.0.0.1:0", "192.0.2.1:1"));
            hang()
        }
        "" | "unknown" => {}
        _ => panic!("mode={mode} is nothing known"),
    }
}

/// What the master says.
struct Frames {
    link: RawFd,
    bytes: Vec<u8>,
    descriptors: Vec<RawFd>,
}

impl Frames {
    fn next(&mut self) -> Value {
        loop {
            if let Some((length, rest)) = self.bytes.split_first_chunk::<4>() {
                let length = u32::from_le_bytes(*length) as usize;
                if let Some(body) = rest.get(..length) {
                    let message = serde_json::from_slice(body).expect("the master speaks JSON");
                    self.bytes.drain(..4 + length);
                    return message;
                }
            }
            let mut buffer = [0; 4096];
            let mut control = nix::cmsg_space!([RawFd; 8]);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let received = recvmsg::<UnixAddr>(self.link, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).expect("received");
            for control in received.cmsgs().expect("all fits") {
                if let ControlMessageOwned::ScmRights(descriptors) = control {
                    self.descriptors.extend(descriptors);
                }
            }
            let bytes = received.bytes;
            if bytes == 0 {
                std::process::exit(0);
            }
            self.bytes.extend_from_slice(&buffer[..bytes]);
        }
    }
}
