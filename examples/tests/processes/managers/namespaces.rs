//! A manager as the first process of namespaces of its own.

use crate::app::{App, Process, Scene, processes, spawn};
use crate::load::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, chown, mkfifo};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/processes/managers/boot.sh");
/// The user `app`, as `boot.sh` makes it.
const USER: u32 = 61001;

/// Namespaces in which the scene's program lies at `/opt/app/app` and belongs to the user `app`, its releases at `/srv/releases/release`, and the directory
/// of the scene at `/run/rig`. Nothing else that is written there is seen outside, but for the network, which is the machine's.
pub(crate) struct Namespaces {
    /// `unshare`, and the lines of all that runs in there.
    pub(crate) app: App,
    init: Option<Pid>,
    _cgroup: Cgroup,
}

impl Namespaces {
    /// Starts what `boot.sh` is told to in the file system `tree`.
    pub(crate) fn start(scene: &Scene, tree: &Path, command: &[&str]) -> Self {
        let directory = scene.directory();
        for own in [scene.program(), directory.join("app")] {
            chown(&own, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).expect("given away");
        }
        fs::create_dir(directory.join("state")).expect("made");
        let cgroup = Cgroup::new(directory);
        // They end with the session of the test, the first process with `unshare`, and everything in there with the first process.
        let script = "echo $$ >\"$1\"/cgroup.procs; shift; \
             exec unshare --mount --uts --ipc --cgroup --pid --fork --kill-child sh \"$0\" \"$@\"";
        let mut started = Command::new("sh");
        started.args(["-c", script, BOOT]).arg(&cgroup.0).arg(directory).arg(tree).args(command).env("ACTOR", scene.words());
        Self { app: App::start(started), init: None, _cgroup: cgroup }
    }

    /// Starts systemd and waits until it is up.
    pub(crate) fn start_systemd(scene: &Scene, tree: &Path) -> Self {
        mkfifo(&scene.directory().join("lines"), Mode::from_bits_truncate(0o600)).expect("made");
        let up = UnixDatagram::bind(scene.directory().join("up")).expect("a socket");
        up.set_read_timeout(Some(PATIENCE)).expect("set");
        let namespaces = Self::start(scene, tree, &[]);
        let mut message = [0; 4096];
        loop {
            let count = up.recv(&mut message);
            let count = count.unwrap_or_else(|error| panic!("systemd is not up: {error}; all lines:\n{}", namespaces.app.all_lines()));
            if message[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return namespaces;
            }
        }
    }

    /// The first process, as seen from outside.
    pub(crate) fn init(&mut self) -> Pid {
        *self.init.get_or_insert_with(|| {
            let first = self.app.children().into_iter().next();
            first.unwrap_or_else(|| panic!("it is gone; all lines:\n{}", self.app.all_lines())).pid
        })
    }

    /// Kills the only child of the first process that has this name.
    pub(crate) fn kill_child_of_init(&mut self, name: &str) {
        let init = self.init();
        let children: Vec<Process> = processes().into_iter().filter(|process| process.parent == init && process.name == name).collect();
        assert_eq!(children.len(), 1, "{children:?}");
        kill(children[0].pid, Signal::SIGKILL).expect("it lives");
    }

    /// A command that runs in there.
    pub(crate) fn inside(&mut self, command: &str) -> Command {
        let init = self.init();
        let mut entered = Command::new("nsenter");
        entered.args(["--all", "--target", &init.to_string(), "sh", "-c", command]).stdin(Stdio::null()).stdout(Stdio::null());
        entered
    }

    /// Runs it, and answers what it wrote.
    #[track_caller]
    pub(crate) fn run(&mut self, command: &str) -> String {
        let output = spawn(self.inside(command).stdout(Stdio::piped()).stderr(Stdio::piped())).wait_with_output().expect("its end");
        assert!(output.status.success(), "{command}: {output:?}; all lines:\n{}", self.app.all_lines());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// A control group of the second version, for all that a systemd starts.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(directory: &Path) -> Self {
        let path = hierarchy().expect("it was looked for").join(directory.file_name().expect("a name"));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel is done with processes that were killed some moments later.
        let deadline = Instant::now() + PATIENCE;
        while remove(&self.0).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Removes the group and those below it, which are the only directories.
fn remove(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields.get(2) == Some(&"cgroup2")).map(|f| f[1].into())
}
