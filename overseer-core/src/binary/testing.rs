//! What the tests of this module share: directories, programs that play a part, file systems of their own.

use crate::binary::check;
use crate::protocol::{CheckOrder, Checked, VERSIONS, Versions};
use crate::role::{self, Role, RoleName};
use crate::sys::link::{Link, Received};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::time::{Duration, Instant};

/// cap_net_bind_service=ep as the kernel keeps it, version 2 (capabilities(7)).
pub(crate) const CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// How long a test waits for what is bound to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of the test's own, by its real path.
pub(crate) struct Directory {
    real: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

impl Directory {
    /// One that somebody else removes.
    pub(crate) fn at(path: &Path) -> Self {
        Self { real: path.to_owned(), _directory: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.real
    }
}

pub(crate) fn directory() -> Directory {
    let directory = tempfile::tempdir().expect("a directory");
    Directory { real: directory.path().canonicalize().expect("a real path"), _directory: Some(directory) }
}

/// The text of a `.minisig` file.
pub(crate) fn sign(pair: &minisign::KeyPair, contents: &[u8], trusted_comment: &str) -> String {
    minisign::sign(None, &pair.sk, contents, Some(trusted_comment), None).expect("signed").into_string()
}

/// The most memory that this process has had at once.
#[cfg(feature = "unpack")]
pub(crate) fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("read");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Says what a test cannot show on this machine, past the test program, which hides what passing tests print.
pub(crate) fn not_shown(what: &str) {
    let _ = writeln!(std::io::stderr(), "{NOT_SHOWN}{what}");
}

const NOT_SHOWN: &str = "not shown here, ";

/// Says again what a test in another process could not show.
fn pass_on(stderr: &[u8]) {
    String::from_utf8_lossy(stderr).lines().filter_map(|line| line.strip_prefix(NOT_SHOWN)).for_each(not_shown);
}

/// Whether the test runs as root; if not, says what it does not show.
pub(crate) fn is_root(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        not_shown(&format!("for want of root: {what}"));
    }
    is_root
}

/// Runs the test in a process with a mount namespace of its own, and in it `body` with a directory. Says so where that is impossible.
///
/// `name` is the full name of the calling test.
pub(crate) fn in_own_mounts(name: &str, body: impl FnOnce(&Path)) {
    const VARIABLE: &str = "OVERSEER_TEST_IN_OWN_MOUNTS";
    if std::env::var_os(VARIABLE).is_some_and(|value| value == name) {
        let directory = directory();
        body(directory.path());
        // What is mounted on it goes with the namespace.
        return;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        not_shown(&format!("for want of a mount namespace: {name}"));
        return;
    }
    let test = std::env::current_exe().expect("the test program");
    let output = unshare().arg(test).args(["--exact", name, "--nocapture"]).env(VARIABLE, name).output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    pass_on(&output.stderr);
    assert!(text.contains("1 passed"), "no test has the name {name}: {text}");
}

/// Runs the test as a user without rights, in a directory of that user's that `prepare` has put files into. Says so where that is impossible.
///
/// `name` is the full name of the calling test.
pub(crate) fn as_nobody(name: &str, prepare: impl FnOnce(&Path), body: impl FnOnce(&Path)) {
    use std::os::unix::process::CommandExt;
    const VARIABLE: &str = "OVERSEER_TEST_AS_NOBODY";
    const NOBODY: u32 = 65534;
    if let Some(directory) = std::env::var_os(VARIABLE) {
        return body(Path::new(&directory));
    }
    if !is_root(name) {
        return;
    }
    let (directory, tools) = (directory(), directory());
    prepare(directory.path());
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("owner set");
    std::os::unix::fs::chown(tools.path(), Some(NOBODY), Some(NOBODY)).expect("owner set");
    let test = tools.path().join("test");
    program(&test, Part::Good);
    let mut command = Command::new(test);
    command.args(["--exact", name, "--nocapture"]).env(VARIABLE, directory.path()).current_dir("/").uid(NOBODY).gid(NOBODY);
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    pass_on(&output.stderr);
    assert!(text.contains("1 passed"), "no test has the name {name}: {text}");
}

pub(crate) fn mount(arguments: &[&str]) {
    assert!(try_mount(arguments), "mount {arguments:?} failed");
}

/// For what not every system can mount.
pub(crate) fn try_mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).status().expect("mount is there").success()
}

/// Mounts an overlay with these directories, of which the last is the one to write to. Says so where that is impossible.
pub(crate) fn try_mount_overlay(directory: &Path, names: &[&str; 4]) -> bool {
    // An upper layer cannot lie on an overlay.
    let layers = directory.join("layers");
    fs::create_dir(&layers).expect("a directory");
    mount(&["-t", "tmpfs", "none", layers.to_str().expect("text")]);
    let [lower, upper, work] = [0, 1, 2].map(|place| layers.join(names[place]));
    let merged = directory.join(names[3]);
    [&lower, &upper, &work, &merged].into_iter().for_each(|path| fs::create_dir(path).expect("a directory"));
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let is_mounted = try_mount(&["-t", "overlay", "none", "-o", &options, merged.to_str().expect("text")]);
    if !is_mounted {
        not_shown("for want of overlayfs: a place on it");
    }
    is_mounted
}

/// Fills the file system that holds the directory.
pub(crate) fn fill(directory: &Path) {
    let mut file = File::create(directory.join("filler")).expect("created");
    for size in [65_536, 4096, 512, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Whether there is no such process, or only what is left of it for its parent.
pub(crate) fn is_gone(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z') || rest.starts_with('X'))
}

/// What a copy of the test program does in the role check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Good,
    Problem,
    OtherToken,
    NewProtocol,
    ExitsFirst,
    ExitsAfter,
    Crashes,
    Garbage,
    FromItsChild,
    Talks,
    Hangs,
    Stays,
}

const PARTS: [Part; 12] = [
    Part::Good,
    Part::Problem,
    Part::OtherToken,
    Part::NewProtocol,
    Part::ExitsFirst,
    Part::ExitsAfter,
    Part::Crashes,
    Part::Garbage,
    Part::FromItsChild,
    Part::Talks,
    Part::Hangs,
    Part::Stays,
];

/// Before the part's name at the end of the file; what lies behind the last section is of no meaning to ELF.
const TRAILER: &[u8] = b"\nplays the part ";
const TRAILER_BYTES: u64 = 64;

/// The bytes of a program that plays the part.
pub(crate) fn program_bytes(part: Part) -> Vec<u8> {
    let mut bytes = fs::read("/proc/self/exe").expect("the test program");
    let mut trailer = [TRAILER, format!("{part:?}").as_bytes()].concat();
    trailer.resize(usize::try_from(TRAILER_BYTES).expect("it is small"), b' ');
    bytes.extend_from_slice(&trailer);
    bytes
}

/// Makes a program that plays the part. It is written by another process: a test that forks at that moment would else keep the file
/// open for writing, and a program that is cannot be executed.
pub(crate) fn program(path: &Path, part: Part) {
    let mut bytes = program_bytes(part);
    let trailer = bytes.split_off(bytes.len() - usize::try_from(TRAILER_BYTES).expect("it is small"));
    let mut command = Command::new("sh");
    command.args(["-c", "cat /proc/$PPID/exe - > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(std::process::Stdio::piped());
    let mut writer = command.spawn().expect("a shell");
    writer.stdin.take().expect("a pipe").write_all(&trailer).expect("written");
    assert!(writer.wait().expect("waited").success(), "cannot write {}", path.display());
}

fn own_part() -> Part {
    let mut file = File::open("/proc/self/exe").expect("opened");
    let size = file.metadata().expect("metadata").len();
    file.seek(SeekFrom::Start(size - TRAILER_BYTES)).expect("it is longer");
    let mut trailer = Vec::new();
    file.read_to_end(&mut trailer).expect("read");
    let name = trailer.strip_prefix(TRAILER).unwrap_or(b"Good");
    let name = String::from_utf8_lossy(name);
    PARTS.into_iter().find(|part| format!("{part:?}") == name.trim()).expect("a part")
}

/// Called before `main` in every copy of the test program. Returns unless that copy has a part to play.
pub(crate) fn play_part() {
    if std::env::var_os(super::commit::tests::VARIABLE).is_some() {
        super::commit::tests::play_committer();
    }
    if std::env::var_os(role::VARIABLE).is_none() {
        return;
    }
    match role::detect(true) {
        Ok(Role::Started(RoleName::Check, link)) => play(own_part(), link),
        Ok(Role::Started(RoleName::Poll, link)) => crate::fetcher::poll::tests::play_poll(link),
        Ok(_) | Err(_) => exit(9),
    }
}

fn play(part: Part, mut link: Link) -> ! {
    match part {
        Part::Good => check::answer(link, None),
        Part::Problem => check::answer(link, Some("port 99999 is no port".to_owned())),
        Part::ExitsFirst => {
            eprintln!("no such library");
            exit(3);
        }
        Part::Crashes => std::process::abort(),
        Part::Talks => {
            for line in 0..2000 {
                eprintln!("line {line}");
            }
            eprintln!("the last line");
            exit(3);
        }
        Part::Hangs => {
            let mut child = Command::new("sleep").arg("600").spawn().expect("started");
            eprint!("child {}", child.id());
            let _ = child.wait();
            exit(9);
        }
        _ => {}
    }
    let Ok(Received::Message(order, _)) = link.receive::<CheckOrder>() else { exit(9) };
    let order: CheckOrder = order;
    let right = Checked { token: order.token.clone(), protocol: VERSIONS, ..Checked::default() };
    let said = match part {
        Part::OtherToken => link.send(&Checked { token: "0".repeat(32), ..right }, []),
        Part::NewProtocol => link.send(&Checked { protocol: Versions { min: 7, max: 9 }, ..right }, []),
        Part::Garbage => {
            let socket = std::os::fd::AsFd::as_fd(&link).try_clone_to_owned().expect("a copy");
            File::from(socket).write_all(b"\x04\0\0\0oops").expect("written");
            Ok(())
        }
        Part::FromItsChild => {
            // The child gets the frame and the socket; it is the one that sends.
            let frame = crate::protocol::encode(&right, 0).expect("a frame");
            let socket = std::os::fd::AsFd::as_fd(&link).try_clone_to_owned().expect("a copy");
            let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).stdout(socket).spawn().expect("started");
            child.stdin.take().expect("a pipe").write_all(&frame).expect("written");
            child.wait().expect("waited");
            Ok(())
        }
        _ => link.send(&right, []),
    };
    said.expect("said");
    match part {
        Part::ExitsAfter => exit(4),
        Part::Stays => loop {
            std::thread::park();
        },
        _ => exit(0),
    }
}
