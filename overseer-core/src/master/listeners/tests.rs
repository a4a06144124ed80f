use super::*;
use crate::master::notify::NotifyState;
use std::net::TcpStream;

impl Listeners {
    fn provide(&mut self, generation: Generation, wanted: &[Wanted]) -> Result<Vec<Provided<'_>>, Refusal> {
        self.hold_all(generation, wanted)?;
        Ok(self.held_for(wanted))
    }
}

fn wanted(texts: &[&str]) -> Vec<Wanted> {
    texts.iter().map(|text| Address::parse(text).and_then(|address| address.wanted()).expect(text)).collect()
}

#[test]
fn a_listener_lives_as_long_as_a_generation_uses_it() {
    let mut listeners = Listeners::default();
    let both = wanted(&["web=127.0.0.1:0", "127.0.0.1:0"]);
    let first: Vec<String> =
        listeners.provide(Generation(1), &both).expect("bound").iter().map(|provided| provided.bound_to.to_owned()).collect();
    assert_ne!(first[0], first[1]);
    let second: Vec<String> =
        listeners.provide(Generation(2), &both[..1]).expect("held").iter().map(|provided| provided.bound_to.to_owned()).collect();
    assert_eq!(second[0], first[0]);
    listeners.release(Generation(1));
    TcpStream::connect(&first[1]).expect("the next generation may want it");
    listeners.close_unused();
    TcpStream::connect(&first[0]).expect("generation 2 has it");
    TcpStream::connect(&first[1]).expect_err("nobody has it");
}

#[test]
fn a_name_that_moves_leaves_the_old_listener_to_those_that_have_it() {
    let mut listeners = Listeners::default();
    let bound = listeners.provide(Generation(1), &wanted(&["web=127.0.0.1:0"])).expect("bound")[0].bound_to.to_owned();
    listeners.provide(Generation(2), &wanted(&["web=localhost:0"])).expect("bound");
    listeners.release(Generation(2));
    listeners.close_unused();
    let again = listeners.provide(Generation(3), &wanted(&["web=127.0.0.1:0"])).expect("held")[0].bound_to.to_owned();
    assert_eq!(again, bound);
    listeners.provide(Generation(4), &wanted(&["web=localhost:0", "unix:/nowhere/at/all"])).expect_err("there is no such directory");
    assert_eq!(listeners.held.len(), 1);
}

#[test]
fn an_address_that_gets_a_name_or_another_place_stays_the_socket_that_it_was() {
    let mut listeners = Listeners::default();
    let mut of = |generation: u64, texts: &[&str]| -> Vec<String> {
        let provided = listeners.provide(Generation(generation), &wanted(texts)).expect("held or bound");
        provided.into_iter().map(|provided| provided.bound_to.to_owned()).collect()
    };
    let first = of(1, &["127.0.0.1:0", "localhost:0"]);
    assert_eq!(of(2, &["api=localhost:0", "web=127.0.0.1:0"]), [first[1].clone(), first[0].clone()]);
    assert_eq!(of(3, &["front=127.0.0.1:0", "localhost:0"]), first);
    // Who asks for two such sockets gets two.
    let both = of(4, &["front=127.0.0.1:0", "127.0.0.1:0"]);
    assert_eq!(both[1], first[0]);
    assert!(!first.contains(&both[0]));
}

#[test]
fn what_a_candidate_did_to_a_shared_listener_is_set_right() {
    let mut listeners = Listeners::default();
    let (socket, bound) = {
        let provided = listeners.provide(Generation(1), &wanted(&["127.0.0.1:0"])).expect("bound");
        (provided[0].socket.try_clone_to_owned().expect("a copy"), provided[0].bound_to.to_owned())
    };
    assert_eq!(listeners.check(), []);
    let copy = std::net::TcpListener::from(socket.try_clone().expect("a copy"));
    copy.set_nonblocking(false).expect("set");
    assert_eq!(listeners.check().len(), 1);
    assert!(!sockets::make_nonblocking(socket.as_fd()).expect("read"), "it does not block any more");

    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(0).expect("a number")).expect("listens");
    assert_eq!(listeners.check(), []);
    let address = bound.parse().expect("an address");
    let waiting = [0; 5].map(|_| TcpStream::connect_timeout(&address, std::time::Duration::from_millis(500)).expect("the backlog is long"));
    drop(waiting);

    sockets::give_way(socket.as_fd()).expect("shut down");
    TcpStream::connect(&bound).expect_err("nobody listens");
    assert_eq!(listeners.check().len(), 1);
    TcpStream::connect(&bound).expect("it listens again, on the same port");
}

#[test]
fn names_in_the_store_tell_all_addresses_apart_and_are_such_as_a_service_manager_takes() {
    let all = ["127.0.0.1:0", "a=127.0.0.1:0", "b=127.0.0.1:0", "127.0.0.1:0", "unix:/run/a:b", "unix:/run/a_b", "/run/\u{e9}\t"];
    let long = format!("unix:/{}", "x".repeat(106));
    let wanted = wanted(&[&all[..], &[&long]].concat());
    let names: BTreeSet<String> = keys(&wanted).iter().map(|key| name_in_store(&key.store_name(), Some((u64::MAX, u64::MAX)))).collect();
    assert_eq!(names.len(), wanted.len(), "{names:?}");
    let is_good = |name: &String| name.len() <= 255 && name.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && byte != b':');
    assert!(names.iter().all(is_good), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("overseer-127.0.0.1_0-")), "{names:?}");
}

#[test]
fn a_passed_socket_stays_through_tries_that_fail_for_another_address_and_for_the_life_of_the_master() {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let (passed, blocker) = (bind(), bind());
    let bound_to = passed.local_addr().expect("bound").to_string();
    let texts = ["systemd:web".to_owned(), blocker.local_addr().expect("bound").to_string()];
    let wanted = wanted(&texts.each_ref().map(String::as_str));
    let mut listeners = Listeners::with_offers(Offers::of(vec![("web", passed.into()), ("other", bind().into())]));
    let refusal = listeners.provide(Generation(1), &wanted).expect_err("somebody is there");
    assert!(refusal.is_in_use());
    drop(blocker);
    assert_eq!(listeners.provide(Generation(1), &wanted).expect("free now")[0].bound_to, bound_to);
    assert!(matches!(&listeners.refuse_offers()[..], [Message::SocketUnclaimed { name, .. }] if name == "other"));
    assert_eq!(listeners.describe_claimed().len(), 1);
    listeners.release(Generation(1));
    listeners.close_unused();
    assert_eq!(listeners.provide(Generation(2), &wanted[..1]).expect("nobody passes it again")[0].bound_to, bound_to);
    listeners.close();
    let why = listeners.provide(Generation(3), &wanted[..1]).expect_err("it is not there any more").why();
    assert!(why.contains("restart the service"), "{why}");
}

#[test]
fn a_passed_socket_is_not_shut_down_at_the_end_and_one_of_ours_is() {
    let passed = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let (unit, address) = (passed.try_clone().expect("a copy"), passed.local_addr().expect("bound"));
    let mut listeners = Listeners::with_offers(Offers::of(vec![("web", passed.into())]));
    let own = listeners.provide(Generation(1), &wanted(&["systemd:web", "127.0.0.1:0"])).expect("held")[1].bound_to.to_owned();
    listeners.close();
    TcpStream::connect(address).expect("clients wait for the next master");
    TcpStream::connect(own).expect_err("nobody has it");
    drop(unit);
}

#[test]
fn an_address_that_overlaps_a_held_port_says_what_it_needs() {
    let mut listeners = Listeners::default();
    let port = {
        let provided = listeners.provide(Generation(1), &wanted(&[":0"])).expect("bound");
        provided[0].bound_to.rsplit_once(':').expect("a port").1.to_owned()
    };
    // The held address was asked for as port 0, so ask for it by number first.
    listeners.release(Generation(1));
    listeners.close_unused();
    listeners.provide(Generation(1), &wanted(&[&format!(":{port}")])).expect("bound");
    let refusal = listeners.provide(Generation(2), &wanted(&[&format!("127.0.0.1:{port}")])).expect_err("it overlaps");
    assert!(refusal.is_in_use() && refusal.why().contains("needs overlap(false)"), "{}", refusal.why());
    assert_eq!(listeners.held.len(), 1);

    let directory = tempfile::tempdir().expect("a directory");
    let with_mode = |mode: &str| wanted(&[&format!("unix:{}?mode={mode}", directory.path().join("app.sock").display())]);
    listeners.provide(Generation(3), &with_mode("0600")).expect("bound");
    let refusal = listeners.provide(Generation(4), &with_mode("0660")).expect_err("the file is there");
    assert!(refusal.is_in_use() && refusal.why().contains("needs overlap(false)"), "{}", refusal.why());
}

#[test]
fn a_udp_socket_is_held_like_a_listener_and_has_nothing_to_do_with_tcp_on_its_port() {
    let mut listeners = Listeners::default();
    let udp = listeners.provide(Generation(1), &wanted(&["udp:127.0.0.1:0"])).expect("bound")[0].bound_to.to_owned();
    let tcp = udp.strip_prefix("udp:").expect("UDP");
    let both = listeners.provide(Generation(2), &wanted(&["udp:127.0.0.1:0", tcp])).expect("bound");
    assert_eq!([both[0].bound_to, both[1].bound_to], [&udp, tcp]);
    let refusal = listeners.provide(Generation(3), &wanted(&[&format!("dns={udp}")])).expect_err("nobody else has it");
    assert!(refusal.is_in_use() && refusal.overlaps, "{}", refusal.why());
    listeners.release(Generation(1));
    listeners.release(Generation(2));
    listeners.provide(Generation(3), &wanted(&[&format!("dns={udp}")])).expect("it gives way, as nobody has it");
}

#[test]
fn a_udp_socket_that_a_candidate_has_connected_hears_everybody_again() {
    let mut listeners = Listeners::default();
    for text in ["udp:127.0.0.1:0", "udp::0"] {
        let provided = listeners.provide(Generation(1), &wanted(&[text])).expect("bound");
        let (socket, bound_to) = (provided[0].socket.try_clone_to_owned().expect("a copy"), provided[0].bound_to.to_owned());
        assert_eq!(listeners.check(), []);
        let copy = std::net::UdpSocket::from(socket);
        let other = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        copy.connect(other.local_addr().expect("bound")).expect("connected");
        assert_eq!(listeners.check().len(), 1);
        assert_eq!(listeners.check(), []);
        let port = bound_to.rsplit_once(':').expect("a port").1;
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        client.send_to(b"hello", format!("127.0.0.1:{port}")).expect("sent");
        let ready = crate::sys::poll::wait(
            &[crate::sys::poll::Interest { descriptor: copy.as_fd(), write: false }],
            Some(std::time::Duration::from_secs(10)),
        );
        assert!(ready.expect("it can be waited for")[0].read);
        assert_eq!(copy.recv(&mut [0; 10]).expect("a datagram"), 5);
    }
}

#[test]
fn a_backlog_is_as_long_as_the_longest_that_a_generation_asks_for_and_changes_no_socket() {
    /// How many clients are let in before the next one has to wait.
    fn room(bound_to: &str) -> usize {
        let address = bound_to.parse().expect("an address");
        let connect = || TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200));
        std::iter::repeat_with(connect).take(9).map_while(Result::ok).collect::<Vec<_>>().len()
    }
    let empty = |socket: BorrowedFd<'_>| {
        let listener = std::net::TcpListener::from(socket.try_clone_to_owned().expect("a copy"));
        while listener.accept().is_ok() {}
    };
    let mut listeners = Listeners::default();
    let (socket, bound_to) = {
        let provided = listeners.provide(Generation(1), &wanted(&["127.0.0.1:0?backlog=2"])).expect("bound");
        (provided[0].socket.try_clone_to_owned().expect("a copy"), provided[0].bound_to.to_owned())
    };
    // Linux lets one more in.
    assert_eq!(room(&bound_to), 3);
    empty(socket.as_fd());
    for (generation, text, expected) in [(2, "127.0.0.1:0?backlog=4", 5), (3, "127.0.0.1:0?nodelay", 9)] {
        assert_eq!(listeners.provide(Generation(generation), &wanted(&[text])).expect("held")[0].bound_to, bound_to);
        assert_eq!(room(&bound_to), expected);
        empty(socket.as_fd());
    }
    listeners.release(Generation(3));
    listeners.release(Generation(2));
    assert_eq!(listeners.check(), []);
    assert_eq!(room(&bound_to), 3);
}

#[test]
fn a_port_that_is_shared_can_be_bound_twice_and_another_one_cannot() {
    let bind = |text: &str| Listeners::default().provide(Generation(1), &wanted(&[text])).map(|provided| provided[0].bound_to.to_owned());
    for transport in ["", "udp:"] {
        let mut first = Listeners::default();
        let bound_to =
            first.provide(Generation(1), &wanted(&[&format!("{transport}127.0.0.1:0?reuse_port")])).expect("bound")[0].bound_to.to_owned();
        assert_eq!(bind(&format!("{bound_to}?reuse_port")).expect("both share it"), bound_to);
        assert!(bind(&bound_to).expect_err("this one does not share").is_in_use());
    }
}

#[test]
fn the_file_of_a_unix_socket_gets_its_owner_and_a_living_one_is_told_of_by_pid() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = std::fs::metadata(directory.path()).expect("there");
    let (user, group) = (std::os::unix::fs::MetadataExt::uid(&own), std::os::unix::fs::MetadataExt::gid(&own));
    for transport in ["unix", "unixgram"] {
        let path = directory.path().join(transport);
        let text = format!("{transport}:{}?mode=0600&owner={user}:{group}", path.display());
        let mut listeners = Listeners::default();
        listeners.provide(Generation(1), &wanted(&[&text])).expect("bound");
        let made = std::fs::metadata(&path).expect("there");
        let rights = (std::os::unix::fs::MetadataExt::mode(&made) & 0o777, std::os::unix::fs::MetadataExt::uid(&made));
        assert_eq!(rights, (0o600, user));
        let refusal = Listeners::default().provide(Generation(1), &wanted(&[&text])).expect_err("it is alive");
        assert!(refusal.is_in_use(), "{}", refusal.why());
        if transport == "unix" && cfg!(target_os = "linux") {
            assert!(refusal.why().contains(&format!("pid {}", std::process::id())), "{}", refusal.why());
        }
    }
    let nobody = Address::parse("unix:/a?owner=nobody-is-called-that").and_then(|address| address.wanted());
    assert!(nobody.expect_err("there is none").chain().contains("there is no user nobody-is-called-that"));
}

#[test]
fn a_listener_that_nobody_has_gives_way_to_one_that_overlaps_it_and_back() {
    let mut listeners = Listeners::default();
    let port = listeners.provide(Generation(1), &wanted(&["127.0.0.1:0"])).expect("bound")[0]
        .bound_to
        .rsplit_once(':')
        .expect("a port")
        .1
        .to_owned();
    listeners.release(Generation(1));
    listeners.close_unused();
    let (all, one) = (wanted(&[&format!(":{port}")]), wanted(&[&format!("127.0.0.1:{port}")]));
    for (before, after) in [(&all, &one), (&one, &all)] {
        listeners.provide(Generation(1), before).expect("bound");
        assert!(listeners.provide(Generation(2), after).expect_err("it overlaps").overlaps);
        listeners.release(Generation(1));
        listeners.provide(Generation(2), after).expect("bound when the other is gone");
        assert_eq!(listeners.held.len(), 1);
        listeners.release(Generation(2));
    }
}

#[test]
fn a_stored_socket_gives_way_to_an_address_that_overlaps_it() {
    let stored = sockets::open(&Address::parse(":0").expect("it is good"), &Wanted::default()).expect("bound");
    let (port, store) =
        (sockets::bound_to_address(stored.as_fd()).expect("bound").port(), stored.try_clone().expect("the service manager's"));
    let mut listeners = Listeners::with_offers(Offers::of(vec![("overseer-x", stored)]));
    listeners.provide(Generation(1), &wanted(&[&format!("127.0.0.1:{port}")])).expect("nobody else listens there");
    assert!(!sockets::is_listening(store.as_fd()), "nobody would ever accept");
    let told = listeners.refuse_offers();
    assert!(matches!(&told[..], [Message::StoredSocketDropped { name }] if name == "overseer-x"), "{told:?}");
}

#[test]
fn what_the_store_is_not_told_yet_is_told_by_the_master_that_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
    let stored = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut listeners = Listeners::with_offers(Offers::of(vec![("overseer-x", stored.into())]));
    listeners.refuse_offers();
    let (mut nowhere, _) = Notify::to(directory.path().join("nobody").as_ref(), NotifyState::default());
    listeners.tell_dropped(&mut nowhere);
    let text = serde_json::to_string(listeners.store_state()).expect("it can be written down");
    let mut next = Listeners::resume(Vec::new(), Vec::new(), serde_json::from_str(&text).expect("it can be read"));
    let (mut notify, _) = Notify::to(path.as_ref(), NotifyState::default());
    next.tell_dropped(&mut notify);
    let mut bytes = [0; 100];
    let length = manager.recv(&mut bytes).expect("a message");
    assert_eq!(&bytes[..length], b"FDSTOREREMOVE=1\nFDNAME=overseer-x");
    assert_eq!(*next.store_state(), StoreState::default(), "it is told once");
}

#[test]
fn a_stored_udp_socket_gives_way_while_the_store_still_has_it() {
    let stored = sockets::open(&Address::parse("udp::0").expect("it is good"), &Wanted::default()).expect("bound");
    let (port, store) =
        (sockets::bound_to_address(stored.as_fd()).expect("bound").port(), stored.try_clone().expect("the service manager's"));
    let text = format!("udp:127.0.0.1:{port}");
    Listeners::default().provide(Generation(1), &wanted(&[&text])).expect_err("somebody has it");
    let mut listeners = Listeners::with_offers(Offers::of(vec![("overseer-x", stored)]));
    let socket = listeners.provide(Generation(1), &wanted(&[&text])).expect("nobody else receives there")[0].socket.try_clone_to_owned();
    std::net::UdpSocket::bind("127.0.0.1:0").expect("bound").send_to(b"hello", format!("127.0.0.1:{port}")).expect("sent");
    let socket = std::net::UdpSocket::from(socket.expect("a copy"));
    assert_eq!(socket.recv(&mut [0; 10]).expect("the new one has it"), 5);
    Listeners::default().provide(Generation(1), &wanted(&[&text])).expect_err("and has it alone");
    drop(store);
}

#[test]
fn a_udp_socket_that_was_shut_down_is_bound_anew_for_the_next_generation_for_both_families() {
    let mut listeners = Listeners::default();
    for text in ["udp::0", "udp:localhost:0"] {
        let bound_to = {
            let provided = listeners.provide(Generation(1), &wanted(&[text])).expect("bound");
            let _ = nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&provided[0].socket), nix::sys::socket::Shutdown::Both);
            provided[0].bound_to.to_owned()
        };
        assert_eq!(listeners.check().len(), 1);
        let provided = listeners.provide(Generation(2), &wanted(&[text])).expect("bound anew");
        assert_eq!(provided[0].bound_to, bound_to);
        let socket = std::net::UdpSocket::from(provided[0].socket.try_clone_to_owned().expect("a copy"));
        let port = bound_to.rsplit_once(':').expect("a port").1;
        let hosts: &[&str] = if text == "udp::0" { &["127.0.0.1", "[::1]"] } else { &["localhost"] };
        for host in hosts {
            let client = std::net::UdpSocket::bind(if *host == "[::1]" { "[::1]:0" } else { "127.0.0.1:0" }).expect("bound");
            client.send_to(b"hello", format!("{host}:{port}")).expect("sent");
            assert_eq!(socket.recv(&mut [0; 10]).expect("it comes"), 5, "{host}");
        }
        assert_eq!(listeners.check(), []);
    }
}

#[test]
fn an_address_in_other_words_is_the_socket_that_it_was() {
    let mut listeners = Listeners::default();
    for (before, after) in [
        ("127.0.0.1:0?reuse_port&backlog=9", "tcp:127.0.0.1:0?reuse_port=true"),
        ("udp:[::1]:0?v6_only&reuse_port", "udp:[::1]:0?reuse_port"),
    ] {
        let mut of = |generation, text| listeners.provide(Generation(generation), &wanted(&[text])).expect("bound")[0].bound_to.to_owned();
        assert_eq!(of(1, before), of(2, after));
    }
}

#[test]
fn a_stored_socket_that_another_address_means_does_not_give_way() {
    let listen = |text: &str| sockets::open(&Address::parse(text).expect("it is good"), &Wanted::default()).expect("bound");
    let v4 = listen("0.0.0.0:0");
    let port = sockets::bound_to_address(v4.as_fd()).expect("bound").port();
    let v6 = listen(&format!("[::1]:{port}"));
    let waiting = TcpStream::connect(("::1", port)).expect("it listens");
    let offers = vec![("overseer-v4", v4), ("overseer-v6", v6)];
    let mut listeners = Listeners::with_offers(Offers::of(offers));
    let both = wanted(&[&format!("127.0.0.1:{port}"), &format!("[::1]:{port}")]);
    let v6 = listeners.provide(Generation(1), &both).expect("one gives way, one is there")[1].socket.try_clone_to_owned();
    std::net::TcpListener::from(v6.expect("a copy")).accept().expect("who waits is served");
    drop(waiting);
    assert!(matches!(&listeners.refuse_offers()[..], [Message::StoredSocketDropped { name }] if name == "overseer-v4"));
}

#[test]
fn a_unix_socket_whose_backlog_is_full_is_in_use() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let stuck = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    nix::sys::socket::listen(&stuck, nix::sys::socket::Backlog::new(0).expect("a number")).expect("listens");
    let _first = std::os::unix::net::UnixStream::connect(&path).expect("the backlog takes one");
    let refusal = Listeners::default().provide(Generation(1), &wanted(&[&format!("unix:{}", path.display())])).expect_err("it is in use");
    assert!(refusal.is_in_use(), "{}", refusal.why());
}

#[test]
fn the_file_of_a_unix_socket_goes_with_its_last_generation() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("app.sock");
    let text = format!("unix:{}?mode=0600", path.display());
    let mut listeners = Listeners::default();
    listeners.provide(Generation(1), &wanted(&[&text])).expect("bound");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).expect("it is there"));
    assert_eq!(mode & 0o777, 0o600);
    listeners.provide(Generation(2), &wanted(&[&text])).expect("held");
    listeners.release(Generation(1));
    std::os::unix::net::UnixStream::connect(&path).expect("it listens");
    let mut other = Listeners::default();
    other.provide(Generation(1), &wanted(&[&text])).expect_err("somebody listens there");
    listeners.close();
    assert!(!path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a process that dies without removing it"));
    other.provide(Generation(1), &wanted(&[&text])).expect("the file of a dead process is in nobody's way");
}
