//! Command-line tools: an upgrade without a master, and one beside the work of a tool. Killed at any moment, both leave a program that runs.

use crate::app::{App, Scene, is_root, put, version_in, with_words};
use crate::load::PATIENCE;
use crate::signed::{TIME, key_pair, sign, trusting};
use crate::source::Source;
use minisign::KeyPair;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, ttyname};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

/// The example.
const TOOL: &str = env!("CARGO_BIN_EXE_self_upgrading_cli");
/// The test program.
const UPGRADER: &str = env!("CARGO_BIN_EXE_upgrader");

/// A directory with a tool in it, which has never been upgraded.
struct Tool {
    scene: Scene,
    program: &'static str,
    from: String,
}

impl Tool {
    fn new(program: &'static str, from: impl Into<String>) -> Self {
        let scene = Scene::new("");
        put(&scene.program(), &with_words(program, "version=1"));
        Self { scene, program, from: from.into() }
    }

    /// One whose releases are a file.
    fn with_file(program: &'static str) -> Self {
        let mut tool = Self::new(program, "");
        tool.from = tool.scene.directory().join("source/release").display().to_string();
        tool
    }

    fn publish(&self, words: &str) {
        self.publish_bytes(&with_words(self.program, words));
    }

    /// Offers a file that was whole long ago.
    fn publish_bytes(&self, bytes: &[u8]) {
        put(Path::new(&self.from), bytes);
        let file = File::options().write(true).open(&self.from).expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("time set");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scene.directory().join(name)
    }

    fn pipe(&self) -> PathBuf {
        let path = self.path("pipe");
        mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
        path
    }

    /// Starts it with these words, if it is the test program, and with these arguments.
    fn start(&self, words: &str, arguments: &[&str]) -> App {
        App::start(self.command(Command::new(self.scene.program()), words, arguments))
    }

    /// Starts it with its standard error somewhere else.
    fn start_with_stderr(&self, stderr: &Path, arguments: &[&str]) -> App {
        let mut shell = Command::new("sh");
        shell.args(["-c", "stderr=$1; shift; exec \"$@\" 2>\"$stderr\"", "sh"]).arg(stderr).arg(self.scene.program());
        App::start(self.command(shell, "", arguments))
    }

    fn command(&self, mut command: Command, words: &str, arguments: &[&str]) -> Command {
        command.env("ACTOR", format!("fetch={} {words}", self.from)).env("TOOL_RELEASES", &self.from).env("NO_PROXY", "127.0.0.1");
        command.args(arguments);
        command
    }

    /// Runs it to its end, and answers its exit code and all that it wrote.
    fn run(&self, words: &str, arguments: &[&str]) -> (i32, String) {
        let mut app = self.start(words, arguments);
        let status = app.wait_exit();
        // What it wrote last may not have been read yet.
        app.wait_until("its lines are read", |app| app.has_said_all());
        (status.code().expect("an exit code"), app.all_lines())
    }

    /// Nothing but the program and what is remembered of it.
    fn is_tidy(&self, version: &str) {
        assert_eq!((self.scene.version_at_path().as_str(), self.scene.names_beside()), (version, vec!["app".to_owned()]));
        let mut names: Vec<String> = fs::read_dir(self.scene.state_dir())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.retain(|name| !["lock", "master.json", "previous", "state.json"].contains(&name.as_str()));
        assert_eq!(names, [""; 0]);
    }
}

fn downloaded(lines: &str) -> Vec<u64> {
    let bytes = lines.lines().filter_map(|line| line.strip_prefix("progress Downloading { bytes: ")?.split(',').next()?.parse().ok());
    bytes.collect()
}

fn release(program: &str) -> Vec<u8> {
    with_words(program, "version=2")
}

#[test]
fn a_tool_upgrades_itself_over_http_and_is_up_to_date_then() {
    let source = Source::new(release(TOOL));
    source.allow(usize::MAX);
    let tool = Tool::new(TOOL, source.url());
    let (code, lines) = tool.run("", &["upgrade"]);
    assert!(code == 0 && lines.contains("is installed at") && lines.contains("and runs from the next start on"), "{code}: {lines}");
    assert_eq!(version_in(&tool.scene.state_dir().join("previous")), "1");
    assert!(lines.ends_with(&format!("is kept as {}", tool.scene.state_dir().join("previous").display())), "{lines}");
    tool.is_tidy("2");
    assert!(fs::read(tool.scene.program()).expect("read") == release(TOOL));

    let before = source.asked().len();
    let (code, lines) = tool.run("", &["upgrade"]);
    assert!(code == 0 && lines.ends_with("is up to date"), "{code}: {lines}");
    assert_eq!(source.asked()[before..].iter().map(|asked| asked.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
    let (code, lines) = tool.run("", &["0"]);
    assert!(code == 0 && lines.contains("version 1: done"), "{code}: {lines}");
}

#[test]
fn a_tool_upgrades_itself_from_a_file() {
    let tool = Tool::with_file(TOOL);
    tool.publish("version=2");
    assert_eq!(tool.run("", &["upgrade"]).0, 0);
    tool.is_tidy("2");
    tool.publish("version=3");
    assert_eq!(tool.run("", &["upgrade"]).0, 0);
    tool.is_tidy("3");
    assert_eq!(version_in(&tool.scene.state_dir().join("previous")), "2");
}

#[test]
fn a_version_that_somebody_went_back_to_stays_until_there_is_another_release() {
    let tool = Tool::with_file(TOOL);
    tool.publish("version=2");
    assert_eq!(tool.run("", &["upgrade"]).0, 0);
    let beside = tool.scene.program().with_file_name("by-hand");
    fs::copy(tool.scene.state_dir().join("previous"), &beside).expect("copied");
    fs::rename(&beside, tool.scene.program()).expect("renamed");
    let (code, lines) = tool.run("", &["upgrade"]);
    assert!(code == 0 && lines.contains("which somebody has put in the place of"), "{code}: {lines}");
    assert_eq!(version_in(&tool.scene.program()), "1");
    tool.publish("version=3");
    assert_eq!(tool.run("", &["upgrade"]).0, 0);
    tool.is_tidy("3");
}

#[test]
fn a_bad_release_is_an_exit_code_and_a_reason_and_is_not_fetched_again() {
    let source = Source::new(fs::read("/bin/true").expect("read"));
    source.allow(usize::MAX);
    let tool = Tool::new(TOOL, source.url());
    let (code, lines) = tool.run("", &["upgrade"]);
    assert_eq!(code, 1, "{lines}");
    assert!(lines.contains("not an overseer program") && lines.ends_with("this release is rejected and not tried again"), "{lines}");
    tool.is_tidy("1");
    let (code, lines) = tool.run("", &["upgrade"]);
    assert_eq!(code, 0, "{lines}");
    assert!(lines.starts_with("nothing new is offered") && lines.contains("not an overseer program"), "{lines}");
    assert_eq!(source.asked().iter().filter(|asked| asked.method == "GET").count(), 1);
}

#[test]
fn a_source_that_is_not_there_is_an_exit_code_and_a_reason() {
    let tool = Tool::with_file(TOOL);
    let (code, lines) = tool.run("", &["upgrade"]);
    assert_eq!(code, 2, "{lines}");
    assert!(lines.starts_with(&format!("the look at {} failed: cannot read", tool.from)), "{lines}");
    tool.is_tidy("1");
}

#[test]
fn a_release_that_fails_its_self_check_is_held_back_and_then_rejected() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2 late argument=never");
    for pause in [600, 3600] {
        let (code, lines) = tool.run("", &[]);
        assert!(code == 1 && lines.contains("exit code 64") && lines.contains("there is no such argument"), "{code}: {lines}");
        assert!(lines.ends_with(&format!("it can be tried again in {}", if pause == 600 { "10 min" } else { "1 h" })), "{lines}");
        let state = tool.scene.state();
        let verdict = &state["verdicts"][0];
        let (at, to) = (verdict["at_unix_s"].as_u64().expect("a time"), verdict["until_unix_s"].as_u64().expect("a time"));
        assert_eq!(to - at, pause);
        let (code, lines) = tool.run("", &[]);
        assert!(code == 0 && lines.contains("nothing new is offered") && lines.contains("exit code 64"), "{code}: {lines}");
        assert_eq!(downloaded(&lines), [0; 0]);
        // Time passes.
        let path = tool.scene.state_dir().join("state.json");
        let text = fs::read_to_string(&path).expect("read").replace(&to.to_string(), &at.to_string());
        fs::write(&path, text).expect("written");
    }
    let (code, lines) = tool.run("", &[]);
    assert!(code == 1 && lines.ends_with("this release is rejected and not tried again"), "{code}: {lines}");
    tool.is_tidy("1");
}

#[test]
fn with_a_trusted_key_only_what_it_has_signed_is_installed_and_nothing_older() {
    let (pair, stranger) = (key_pair(), key_pair());
    let tool = Tool::with_file(UPGRADER);
    let words = trusting(&pair);
    let publish = |version: u64, pair: &KeyPair, time: u64| {
        let contents = with_words(UPGRADER, &format!("version={version}"));
        tool.publish_bytes(&contents);
        put(&Path::new(&tool.from).with_extension("minisig"), sign(pair, &contents, "release", time).as_bytes());
    };
    tool.publish("version=2");
    let (code, lines) = tool.run(&words, &[]);
    assert!(code == 1 && lines.contains("outcome no release to take yet: ") && lines.contains(".minisig"), "{code}: {lines}");
    publish(2, &stranger, TIME);
    let (code, lines) = tool.run(&words, &[]);
    assert!(code == 1 && lines.contains("it can be tried again in"), "{code}: {lines}");
    tool.is_tidy("1");
    publish(2, &pair, TIME);
    assert_eq!(tool.run(&words, &[]).0, 0);
    tool.is_tidy("2");
    publish(3, &pair, TIME - 1);
    let (code, lines) = tool.run(&words, &[]);
    assert!(code == 1 && lines.contains("before the installed release"), "{code}: {lines}");
    tool.is_tidy("2");
}

#[test]
fn a_hook_has_the_last_word() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2");
    let (code, lines) = tool.run("refuse", &[]);
    assert!(code == 1 && lines.contains("is not wanted by the pre-upgrade hook: it is not wanted"), "{code}: {lines}");
    tool.is_tidy("1");
}

#[test]
fn where_standard_error_is_no_terminal_there_is_no_bar() {
    let source = Source::new(release(TOOL));
    source.allow(usize::MAX);
    let tool = Tool::new(TOOL, source.url());
    let stderr = tool.path("stderr");
    let mut app = tool.start_with_stderr(&stderr, &["upgrade"]);
    assert!(app.wait_exit().success());
    assert_eq!(fs::read_to_string(stderr).expect("read"), "");
}

#[test]
fn on_a_terminal_a_bar_shows_bytes_rate_and_the_time_left() {
    let bytes = release(TOOL);
    let half = bytes.len() / 2;
    let source = Source::new(bytes);
    source.allow(half);
    let tool = Tool::new(TOOL, source.url());
    let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).expect("a terminal");
    let mut app = tool.start_with_stderr(&ttyname(&terminal.slave).expect("its name"), &["upgrade"]);
    let (tell, told) = mpsc::channel();
    let master = terminal.master;
    thread::spawn(move || {
        let mut shown = [0; 4096];
        let mut terminal = File::from(master);
        while let Ok(bytes @ 1..) = terminal.read(&mut shown) {
            let _ = tell.send(String::from_utf8_lossy(&shown[..bytes]).into_owned());
        }
    });
    let mut shown = String::new();
    while !["downloading [=", " of ", "/s, ", " left"].iter().all(|part| shown.contains(part)) {
        shown += &told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no bar: {shown:?}"));
    }
    source.allow(usize::MAX);
    assert!(app.wait_exit().success(), "{shown:?}");
    drop(terminal.slave);
    tool.is_tidy("2");
}

#[test]
fn an_upgrade_that_is_interrupted_goes_on_where_it_was() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let bytes = release(UPGRADER);
        let size = bytes.len();
        let source = Source::new(bytes);
        let tool = Tool::new(UPGRADER, source.url());
        let mut there = Vec::new();
        for _ in 0..3 {
            source.allow(size / 4);
            let mut app = tool.start("", &[]);
            app.wait_until("a quarter is there", |app| {
                let begun = there.len().saturating_mul(size / 4);
                downloaded(&app.all_lines()).last().is_some_and(|bytes| *bytes > (begun + size / 8) as u64)
            });
            app.signal(signal);
            app.wait_exit();
            assert_eq!(tool.scene.version_at_path(), "1");
            there.push(usize::try_from(fs::metadata(tool.scene.state_dir().join("download")).expect("it is there").len()).expect("small"));
        }
        source.allow(usize::MAX);
        let (code, lines) = tool.run("", &[]);
        assert_eq!(code, 0, "{lines}");
        assert_eq!(downloaded(&lines)[0], there[2] as u64, "the first number is that of the run before");
        assert_eq!(source.ranges(), there);
        tool.is_tidy("2");
    }
}

#[test]
fn an_upgrade_that_is_killed_during_the_proof_downloads_nothing_again() {
    let bytes = release(UPGRADER);
    let size = bytes.len() as u64;
    let source = Source::new(bytes);
    source.allow(usize::MAX);
    let tool = Tool::new(UPGRADER, source.url());
    let hold = format!("hold={}", tool.pipe().display());
    for _ in 0..2 {
        let mut app = tool.start(&hold, &[]);
        app.line_after("holding");
        app.signal(Signal::SIGKILL);
        app.wait_exit();
        assert_eq!((tool.scene.version_at_path().as_str(), tool.scene.names_beside().len()), ("1", 2));
    }
    let (code, lines) = tool.run("", &[]);
    assert_eq!((code, downloaded(&lines)), (0, vec![size]), "{lines}");
    tool.is_tidy("2");
}

#[test]
fn an_upgrade_that_is_killed_at_any_moment_leaves_a_program_that_runs() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2");
    for moment in 0..40 {
        let mut app = tool.start("", &[]);
        // The moment is what is tried out here.
        thread::sleep(Duration::from_millis(moment * 5));
        app.signal(Signal::SIGKILL);
        app.wait_exit();
        let at_path = fs::read(tool.scene.program()).expect("there is a program");
        let is_new = at_path == release(UPGRADER);
        assert!(is_new || at_path == with_words(UPGRADER, "version=1"));
        if is_new {
            put(&tool.scene.program(), &with_words(UPGRADER, "version=1"));
            fs::remove_dir_all(tool.scene.state_dir()).expect("removed");
        }
    }
    let (code, lines) = tool.run("", &[]);
    assert_eq!(code, 0, "{lines}");
    tool.is_tidy("2");
}

#[test]
fn a_tool_whose_runs_are_shorter_than_the_download_is_upgraded_all_the_same() {
    let bytes = release(TOOL);
    let size = bytes.len();
    let source = Source::new(bytes);
    let tool = Tool::new(TOOL, source.url());
    let mut there = Vec::new();
    let left_there =
        || fs::metadata(tool.scene.state_dir().join("download")).map_or(0, |there| usize::try_from(there.len()).expect("small"));
    source.allow(size / 4);
    let (code, lines) = tool.run("", &["6"]);
    assert!(code == 0 && lines.contains("version 1: done"), "{code}: {lines}");
    there.push(left_there());
    for _ in 0..2 {
        source.allow(size / 4);
        let mut app = tool.start("", &["60"]);
        app.wait_until("more is there", |_| left_there() > there.last().copied().unwrap_or_default() + size / 8);
        app.signal(Signal::SIGTERM);
        app.wait_exit();
        there.push(left_there());
    }
    assert!(there[0] > size / 8, "{there:?} of {size}");
    source.allow(usize::MAX);
    let mut app = tool.start("", &["60"]);
    app.line_after("it runs from the next start on");
    app.signal(Signal::SIGTERM);
    app.wait_exit();
    assert_eq!(source.ranges(), there);
    assert_eq!(tool.scene.version_at_path(), "2");
    let before = source.asked().len();
    assert_eq!(tool.run("", &["1"]).0, 0);
    assert_eq!(source.asked().len(), before, "the interval is not over");
}

#[test]
fn a_tool_does_its_work_once_whatever_another_run_of_it_installs() {
    let tool = Tool::with_file(TOOL);
    let mut runs = [tool.start("", &["60"]), tool.start("", &["60"])];
    runs.iter_mut().for_each(|run| drop(run.line_after("version 1: 60")));
    tool.publish("version=2");
    let installed = |tool: &Tool| tool.scene.version_at_path() == "2";
    runs[0].wait_until("one of them has installed it", |_| installed(&tool));
    // The other one looks at the path every second.
    for run in &mut runs {
        let before = run.count_lines("version 1: ");
        run.wait_until("it goes on", |run| run.count_lines("version 1: ") >= before + 3);
        assert_eq!((run.count_lines("version 1: 60"), run.count_lines("generation 2")), (1, 0), "{}", run.all_lines());
        run.signal(Signal::SIGTERM);
        run.wait_exit();
    }
    tool.is_tidy("2");
}

#[test]
fn while_another_process_upgrades_the_program_nothing_is_done_and_that_one_is_named() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2");
    let pipe = tool.pipe();
    let mut first = tool.start(&format!("hold={}", pipe.display()), &[]);
    first.line_after("holding");
    let (code, lines) = tool.run("", &[]);
    assert_eq!((code, lines), (2, format!("error process {} has the lock {}", first.pid(), tool.scene.state_dir().join("lock").display())));
    fs::write(pipe, "").expect("written");
    assert!(first.wait_exit().success());
    tool.is_tidy("2");
}

#[test]
fn while_a_master_looks_for_releases_an_upgrade_leaves_it_to_that() {
    let tool = Tool::with_file(TOOL);
    let mut app = tool.start("", &["60"]);
    app.line_after("version 1: 60");
    let (code, lines) = tool.run("", &["upgrade"]);
    assert!(code == 2 && lines.starts_with(&format!("process {} has the lock", app.pid())), "{code}: {lines}");
    app.signal(Signal::SIGTERM);
    app.wait_exit();
}

#[test]
fn what_replaced_the_program_meanwhile_is_left_alone() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2");
    let (code, lines) = tool.run("twice", &[]);
    assert!(code == 2 && lines.ends_with(&format!("error {} is not the running file any more", tool.scene.program().display())), "{lines}");
    tool.is_tidy("2");
}

#[test]
fn a_program_under_a_master_leaves_it_to_the_master() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2");
    let (code, lines) = tool.run("under_master", &[]);
    assert!(code == 2 && lines.contains("error the master of this process upgrades the program"), "{code}: {lines}");
}

#[test]
fn a_look_that_stalls_is_given_up_and_keeps_the_lock() {
    let mut tool = Tool::new(UPGRADER, "hang");
    let (code, lines) = tool.run("twice fetch_timeout=200", &[]);
    assert_eq!(code, 2, "{lines}");
    assert!(lines.contains("error the look at hang failed: it made no progress for 0.2s (fetch_timeout)"), "{lines}");
    assert!(lines.lines().last().is_some_and(|line| line.contains("has the lock")), "{lines}");
    tool.from = tool.path("source/release").display().to_string();
    tool.publish("version=2");
    assert_eq!(tool.run("", &[]).0, 0, "with the process the lock is gone");
    tool.is_tidy("2");
}

#[test]
fn where_the_program_cannot_be_replaced_that_is_said() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2");
    let mut command = tool.command(Command::new(tool.scene.program()), "", &[]);
    command.env("OVERSEER", "off");
    let mut app = App::start(command);
    app.line_after("error this program cannot be upgraded here: OVERSEER=off is set");
    assert_eq!(app.wait_exit().code(), Some(2));
    assert!(!tool.scene.state_dir().exists());
    if is_root("a directory that cannot be written") {
        use std::os::unix::process::CommandExt;
        let mut command = tool.command(Command::new(tool.scene.program()), "", &[]);
        command.uid(65534).gid(65534);
        let mut app = App::start(command);
        app.line_after("error this program cannot be upgraded here: user 65534 cannot write the directory");
        assert_eq!(app.wait_exit().code(), Some(2));
        assert!(!tool.scene.state_dir().exists());
    }
}

#[test]
fn what_comes_before_the_upgrade_is_not_done_by_a_release_that_is_checked() {
    let tool = Tool::with_file(UPGRADER);
    let work = tool.path("work");
    // Its arguments mean something else, too.
    tool.publish("version=2 argument=update");
    let (code, lines) = tool.run(&format!("argument=upgrade work={}", work.display()), &["upgrade"]);
    assert_eq!(code, 0, "{lines}");
    assert_eq!(fs::read_to_string(work).expect("read"), "work\n");
    tool.is_tidy("2");
}

#[test]
fn a_release_that_calls_nothing_but_upgrade_answers_its_check_there() {
    let tool = Tool::with_file(UPGRADER);
    tool.publish("version=2 late");
    let (code, lines) = tool.run("late", &[]);
    assert_eq!(code, 0, "{lines}");
    tool.is_tidy("2");
}

#[test]
fn it_works_with_threads_in_a_runtime_and_where_sigchld_is_ignored() {
    for words in ["threads", "ignore_sigchld", "runtime", "runtime async", "threads async ignore_sigchld late"] {
        let tool = Tool::with_file(UPGRADER);
        tool.publish("version=2");
        let (code, lines) = tool.run(words, &[]);
        assert_eq!(code, 0, "{words}: {lines}");
        assert_eq!(lines.contains("its own children: No child processes"), words.contains("ignore_sigchld"), "{words}: {lines}");
        tool.is_tidy("2");
    }
}

#[test]
fn over_http_it_works_in_a_runtime() {
    let source = Source::new(release(UPGRADER));
    source.allow(usize::MAX);
    let tool = Tool::new(UPGRADER, source.url());
    let (code, lines) = tool.run("runtime", &[]);
    assert_eq!(code, 0, "{lines}");
    tool.is_tidy("2");
}
