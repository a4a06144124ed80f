use super::*;
use crate::protocol::{Drain, EXEC_FAILED, Refused, ToChild, ToMaster, Wanted};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::MsgFlags;
use std::fs::File;
use std::io::{Read, Write};

/// A link that does not block, and a plain socket that speaks to it.
fn pair() -> (Link, UnixStream) {
    let (link, theirs) = Link::pair().expect("a socket pair");
    (link, UnixStream::from(theirs))
}

/// Bytes with descriptors beside them, as a peer that is not a [`Link`] would send them.
fn send_raw(peer: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) {
    let slices = [IoSlice::new(bytes)];
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &control[..0] } else { &control[..] };
    let sent = sendmsg::<UnixAddr>(peer.as_raw_fd(), &slices, control, MsgFlags::empty(), None).expect("it is sent");
    assert_eq!(sent, bytes.len());
}

fn pipe() -> (File, File) {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).expect("a pipe");
    (reader.into(), writer.into())
}

/// Whether nobody has the other end any more.
fn is_closed(reader: &mut File) -> bool {
    matches!(reader.read(&mut [0]), Ok(0))
}

/// A process that another test forks at this moment has a copy of the writer until its exec.
fn becomes_closed(reader: &mut File) {
    crate::binary::testing::until("the writer is closed", || is_closed(reader));
}

fn receive(link: &mut Link) -> Result<Received<ToMaster>, LinkError> {
    link.receive()
}

fn frame_of(message: &ToMaster, fds: usize) -> Vec<u8> {
    encode(message, fds).expect("it can be said")
}

#[test]
fn a_link_with_nothing_to_read_says_so_and_does_not_wait() {
    let (mut link, _peer) = pair();
    assert!(matches!(receive(&mut link), Ok(Received::Nothing)));
}

#[test]
fn the_end_of_the_peer_comes_after_what_it_said() {
    let (mut link, mut peer) = pair();
    peer.write_all(&frame_of(&ToMaster::Ready, 0)).expect("it is sent");
    drop(peer);
    assert!(matches!(receive(&mut link), Ok(Received::Message(ToMaster::Ready, _))));
    for _ in 0..3 {
        assert!(matches!(receive(&mut link), Ok(Received::Ended)));
    }
}

#[test]
fn a_peer_that_ends_in_the_middle_of_a_frame_is_an_error() {
    let (mut link, mut peer) = pair();
    let frame = frame_of(&ToMaster::Ready, 0);
    peer.write_all(&frame[..frame.len() - 1]).expect("it is sent");
    assert!(matches!(receive(&mut link), Ok(Received::Nothing)));
    drop(peer);
    let bytes = frame.len() - 1;
    assert!(matches!(receive(&mut link), Err(LinkError::Frame(FrameError::BrokenOff { bytes: waiting })) if waiting == bytes));
}

#[test]
fn what_is_sent_to_a_peer_that_is_gone_is_no_error_and_its_last_words_count() {
    let (mut link, mut peer) = pair();
    link.send(&ToChild::Accept, []).expect("it is sent");
    peer.write_all(&frame_of(&ToMaster::Ready, 0)).expect("it is sent");
    drop(peer);
    link.send(&ToChild::Drain(Drain { within_ms: 1 }), []).expect("its end is told elsewhere");
    assert!(!link.wants_write());
    assert!(matches!(receive(&mut link), Ok(Received::Message(ToMaster::Ready, _))));
    assert!(matches!(receive(&mut link), Ok(Received::Ended)));
}

#[test]
fn garbage_and_a_huge_length_are_errors() {
    let (mut link, mut peer) = pair();
    peer.write_all(b"\x04\0\0\0nope").expect("it is sent");
    assert!(matches!(receive(&mut link), Err(LinkError::Frame(FrameError::Garbage { .. }))));
    let (mut link, mut peer) = pair();
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is sent");
    assert!(matches!(receive(&mut link), Err(LinkError::Frame(FrameError::TooLong { .. }))));
}

#[test]
fn the_longest_frame_comes_in_many_pieces() {
    let text = "x".repeat(60_000);
    let hello = ToMaster::Hello(Box::new(crate::protocol::Hello {
        addresses: vec![Wanted { name: None, text, ..Wanted::default() }],
        ..Default::default()
    }));
    let (mut link, mut peer) = pair();
    let frame = frame_of(&hello, 0);
    for piece in frame.chunks(1000) {
        assert!(matches!(receive(&mut link), Ok(Received::Nothing)));
        peer.write_all(piece).expect("it is sent");
    }
    assert!(matches!(receive(&mut link), Ok(Received::Message(came, _)) if came == hello));
}

#[test]
fn descriptors_belong_to_the_frames_that_name_them_even_if_one_read_brings_two() {
    let (mut link, peer) = pair();
    let (mut first_reader, first) = pipe();
    let (mut second_reader, second) = pipe();
    let (mut third_reader, third) = pipe();
    send_raw(&peer, &frame_of(&ToMaster::Pong, 0), &[]);
    send_raw(&peer, &frame_of(&ToMaster::Ready, 1), &[first.as_raw_fd()]);
    send_raw(&peer, &frame_of(&ToMaster::Restart, 2), &[second.as_raw_fd(), third.as_raw_fd()]);
    drop((first, second, third));

    assert!(matches!(receive(&mut link), Ok(Received::Message(ToMaster::Pong, none)) if none.is_empty()));
    let Ok(Received::Message(ToMaster::Ready, one)) = receive(&mut link) else { panic!("no ready") };
    assert_eq!(one.len(), 1);
    let Ok(Received::Message(ToMaster::Restart, mut two)) = receive(&mut link) else { panic!("no restart") };
    assert_eq!(two.len(), 2);

    assert!(!is_closed(&mut first_reader));
    drop(one);
    becomes_closed(&mut first_reader);
    two.pop();
    becomes_closed(&mut third_reader);
    assert!(!is_closed(&mut second_reader));
}

#[test]
fn two_frames_with_descriptors_in_one_message_are_told_apart_by_their_numbers() {
    let (mut link, peer) = pair();
    let (mut reader, writer) = pipe();
    let both = [frame_of(&ToMaster::Ready, 1), frame_of(&ToMaster::Poll, 1)].concat();
    send_raw(&peer, &both, &[writer.as_raw_fd(), reader.as_raw_fd()]);
    drop(writer);
    let Ok(Received::Message(ToMaster::Ready, one)) = receive(&mut link) else { panic!("no ready") };
    assert!(link.may_hold_frame());
    let Ok(Received::Message(ToMaster::Poll, two)) = receive(&mut link) else { panic!("no poll") };
    assert_eq!((one.len(), two.len()), (1, 1));
    drop(one);
    becomes_closed(&mut reader);
}

#[test]
fn descriptors_that_are_received_are_closed_in_programs_that_are_executed() {
    let (mut link, peer) = pair();
    let (_reader, writer) = pipe();
    send_raw(&peer, &frame_of(&ToMaster::Ready, 1), &[writer.as_raw_fd()]);
    let Ok(Received::Message(_, descriptors)) = receive(&mut link) else { panic!("no message") };
    let flags = fcntl(&descriptors[0], FcntlArg::F_GETFD).expect("it is open");
    assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
}

#[test]
fn as_many_listeners_as_a_program_may_have_come_in_one_message() {
    let (mut link, peer) = pair();
    let (_reader, writer) = pipe();
    let raw = vec![writer.as_raw_fd(); ADDRESSES_MAX];
    send_raw(&peer, &frame_of(&ToMaster::Ready, raw.len()), &raw);
    assert!(matches!(receive(&mut link), Ok(Received::Message(_, descriptors)) if descriptors.len() == ADDRESSES_MAX));
}

#[test]
fn descriptors_that_are_named_and_did_not_come_are_an_error() {
    let (mut link, peer) = pair();
    let (_reader, writer) = pipe();
    send_raw(&peer, &frame_of(&ToMaster::Ready, 2), &[writer.as_raw_fd()]);
    let error = receive(&mut link).expect_err("one is missing");
    assert!(matches!(error, LinkError::Frame(FrameError::Descriptors { named: 2, came: 1 })), "{error}");
}

#[test]
fn descriptors_that_came_and_are_not_named_are_an_error_and_are_closed() {
    let (mut link, peer) = pair();
    let (mut reader, writer) = pipe();
    send_raw(&peer, &frame_of(&ToMaster::Ready, 0), &[writer.as_raw_fd()]);
    drop(writer);
    let error = receive(&mut link).expect_err("one too many");
    assert!(matches!(error, LinkError::Frame(FrameError::Descriptors { named: 0, came: 1 })), "{error}");
    drop(link);
    becomes_closed(&mut reader);
}

#[test]
fn descriptors_do_not_pile_up_behind_a_frame_that_never_ends() {
    let (mut link, peer) = pair();
    let (mut reader, writer) = pipe();
    let raw = vec![writer.as_raw_fd(); 250];
    send_raw(&peer, &60_000_u32.to_le_bytes(), &raw);
    let mut result = receive(&mut link).map(drop);
    for _ in 0..2 {
        assert!(result.is_ok());
        send_raw(&peer, b"x", &raw);
        result = receive(&mut link).map(drop);
    }
    assert!(matches!(result, Err(LinkError::Frame(FrameError::Descriptors { .. }))));
    drop((link, writer));
    becomes_closed(&mut reader);
}

#[test]
fn descriptors_of_unknown_messages_are_closed() {
    let (mut link, peer) = pair();
    let (mut reader, writer) = pipe();
    let body = br#"{"type":"sing","fds":1}"#;
    let frame = [&u32::try_from(body.len()).expect("short").to_le_bytes()[..], body].concat();
    send_raw(&peer, &frame, &[writer.as_raw_fd()]);
    drop(writer);
    assert!(matches!(receive(&mut link), Ok(Received::Message(ToMaster::Unknown, _))));
    becomes_closed(&mut reader);
}

/// The limit on open files holds for a whole process, so a test that lowers it runs again in one of its own. Whether this is that one.
fn is_alone(name: &str) -> bool {
    const ALONE: &str = "OVERSEER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let test = std::env::current_exe().expect("this test");
    let name = format!("sys::link::tests::{name}");
    let ran = std::process::Command::new(test).args(["--exact", &name]).env(ALONE, "1").output().expect("it runs");
    let words = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && words.contains("1 passed"), "{words}");
    false
}

/// Does it while no descriptor from this number on can be opened.
fn without_descriptors_from<T>(number: RawFd, action: impl FnOnce() -> T) -> T {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(number).expect("not negative"), hard).expect("a lower limit");
    let done = action();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("the old limit");
    done
}

#[test]
fn what_is_given_to_be_sent_is_sent_where_no_descriptor_is_left() {
    if !is_alone("what_is_given_to_be_sent_is_sent_where_no_descriptor_is_left") {
        return;
    }
    let (mut link, theirs) = Link::pair().expect("a socket pair");
    let (_reader, writer) = pipe();
    let given = OwnedFd::from(writer);
    let next = File::open("/dev/null").expect("it is there").as_raw_fd();
    let sent = without_descriptors_from(next, || {
        File::open("/dev/null").expect_err("there is no room for a copy");
        link.send(&ToChild::Accept, [given])
    });
    sent.expect("it needs none");
    let received = Link::new(theirs).receive::<ToChild>();
    assert!(matches!(received, Ok(Received::Message(ToChild::Accept, descriptors)) if descriptors.len() == 1));
}

#[test]
fn descriptors_that_were_cut_off_are_fatal_and_none_stays_open() {
    if !is_alone("descriptors_that_were_cut_off_are_fatal_and_none_stays_open") {
        return;
    }
    let (mut link, peer) = pair();
    let (mut reader, writer) = pipe();
    send_raw(&peer, &frame_of(&ToMaster::Ready, 9), &[writer.as_raw_fd(); 9]);
    drop(writer);
    let next = File::open("/dev/null").expect("it is there").as_raw_fd();
    let received = without_descriptors_from(next + 2, || receive(&mut link));
    assert!(matches!(received, Err(LinkError::Frame(FrameError::Truncated))), "{received:?}");
    becomes_closed(&mut reader);
}

#[test]
fn a_flood_ends_the_link() {
    let (mut link, mut peer) = pair();
    let frame = frame_of(&ToMaster::Pong, 0);
    let enough = FRAMES_PER_SECOND_MAX * 20;
    let flooded = (0..enough).find_map(|_| {
        peer.write_all(&frame).expect("it is sent");
        receive(&mut link).err()
    });
    assert!(matches!(flooded, Some(LinkError::Frame(FrameError::Flood { .. }))));
}

#[test]
fn a_flood_of_failed_executions_ends_the_link_too() {
    let (mut link, mut peer) = pair();
    let enough = FRAMES_PER_SECOND_MAX * 20;
    let flooded = (0..enough).find_map(|_| {
        peer.write_all(&(EXEC_FAILED | 8).to_le_bytes()).expect("it is sent");
        receive(&mut link).err()
    });
    assert!(matches!(flooded, Some(LinkError::Frame(FrameError::Flood { .. }))));
}

#[test]
fn a_failed_execution_is_told_with_its_reason() {
    let (mut link, mut peer) = pair();
    peer.write_all(&(EXEC_FAILED | Errno::ENOEXEC as u32).to_le_bytes()).expect("it is sent");
    let Ok(Received::ExecFailed(error)) = receive(&mut link) else { panic!("it is told") };
    assert_eq!(error.raw_os_error(), Some(Errno::ENOEXEC as i32));
}

#[test]
fn a_peer_that_never_reads_ends_the_link_when_the_queue_is_full_and_blocks_nobody() {
    let (mut link, peer) = pair();
    let mut sent = 0;
    let error = loop {
        match link.send(&ToChild::Drain(Drain { within_ms: 30_000 }), []) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1_000_000, "the queue has no end");
    };
    assert!(matches!(error, LinkError::QueueFull));
    assert_eq!(link.outgoing.len(), QUEUE_FRAMES_MAX);
    drop(peer);
}

#[test]
fn what_waits_in_the_queue_arrives_whole_and_in_order_once_the_peer_reads() {
    let (mut link, theirs) = Link::pair().expect("a socket pair");
    let mut peer = Link::new(theirs);
    let (mut reader, writer) = pipe();
    let mut sent = 0;
    while link.outgoing.len() < 10 {
        let beside = (sent % 50 == 0).then(|| writer.as_fd().try_clone_to_owned().expect("a copy"));
        link.send(&ToChild::Drain(Drain { within_ms: sent }), beside).expect("there is room");
        sent += 1;
    }
    drop(writer);
    assert!(link.wants_write());
    for number in 0..sent {
        link.flush().expect("the peer is there");
        // The peer's end blocks, so a frame that is lost would hang here; the flood limit is the reader's own.
        peer.second = None;
        let Ok(Received::Message(message, descriptors)) = peer.receive::<ToChild>() else { panic!("frame {number}") };
        assert_eq!(message, ToChild::Drain(Drain { within_ms: number }));
        assert_eq!(descriptors.len(), usize::from(number % 50 == 0));
    }
    assert!(!link.wants_write());
    drop(link);
    becomes_closed(&mut reader);
}

/// The link as the program has it that this process becomes: through text, and under the same numbers, which nobody owns in between.
fn carried_over(link: Link) -> Link {
    let state = link.state().expect("its descriptors are open");
    std::mem::forget(link);
    let text = serde_json::to_string(&state).expect("it can be written down");
    let read: LinkState = serde_json::from_str(&text).expect("it can be read");
    assert_eq!(read, state);
    read.take()
}

#[test]
fn a_frame_of_which_half_has_come_goes_on_through_an_exec_with_its_descriptor() {
    let (mut link, peer) = pair();
    let (mut reader, writer) = pipe();
    let frame = frame_of(&ToMaster::Ready, 1);
    send_raw(&peer, &frame[..5], &[writer.as_raw_fd()]);
    drop(writer);
    assert!(matches!(receive(&mut link), Ok(Received::Nothing)));
    let mut link = carried_over(link);
    assert!(matches!(receive(&mut link), Ok(Received::Nothing)));
    send_raw(&peer, &frame[5..], &[]);
    drop(peer);
    let Ok(Received::Message(ToMaster::Ready, descriptors)) = receive(&mut link) else { panic!("the frame is lost") };
    assert_eq!(descriptors.len(), 1);
    assert!(!is_closed(&mut reader));
    drop(descriptors);
    becomes_closed(&mut reader);
    assert!(matches!(receive(&mut link), Ok(Received::Ended)));
    assert!(matches!(receive(&mut carried_over(link)), Ok(Received::Ended)));
}

#[test]
fn frames_that_were_not_sent_or_not_whole_go_on_through_an_exec_with_their_descriptors() {
    let (mut link, theirs) = Link::pair().expect("a socket pair");
    fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).expect("set");
    let mut peer = Link::new(theirs);
    let (mut reader, writer) = pipe();
    let refused = |number: usize| ToChild::Refused(Refused { address: Some(number.to_string()), why: "x".repeat(60_000) });
    let mut sent = 0;
    while link.outgoing.len() < 4 {
        link.send(&refused(sent), [writer.as_fd().try_clone_to_owned().expect("a copy")]).expect("there is room");
        sent += 1;
    }
    drop(writer);
    assert!(link.outgoing.front().is_some_and(|frame| frame.sent > 0), "the first that waits is on its way");
    let mut link = carried_over(link);
    let mut number = 0;
    while number < sent {
        link.flush().expect("the peer is there");
        match peer.receive::<ToChild>().expect("whole frames") {
            Received::Message(message, descriptors) => {
                assert_eq!((message, descriptors.len()), (refused(number), 1));
                number += 1;
            }
            Received::Nothing => {}
            other => panic!("{other:?} after frame {number}"),
        }
    }
    assert!(!link.wants_write());
    becomes_closed(&mut reader);
}

#[test]
fn the_master_is_told_by_the_kernel_who_sent_a_message() {
    let (mut link, mut peer) = pair();
    assert_eq!(link.sender(), None);
    peer.write_all(&frame_of(&ToMaster::Ready, 0)).expect("it is sent");
    assert!(matches!(receive(&mut link), Ok(Received::Message(ToMaster::Ready, _))));
    assert_eq!(link.sender(), Some(nix::unistd::getpid()));
}

#[test]
fn only_the_socket_that_was_meant_is_adopted() {
    let (link, peer) = pair();
    let inode = fstat(&peer).expect("it is open").st_ino;
    assert!(adopt_socket(peer.as_raw_fd(), inode + 1).is_none());
    let (reader, _writer) = pipe();
    assert!(adopt_socket(reader.as_raw_fd(), fstat(&reader).expect("it is open").st_ino).is_none());
    assert!(adopt_socket(1_000_000, inode).is_none());
    let raw = std::os::fd::IntoRawFd::into_raw_fd(peer);
    assert!(adopt_socket(raw, inode).is_some());
    drop(link);
}
