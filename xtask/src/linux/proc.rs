//! What /proc says of a process: memory, threads, wake-ups, descriptors, processor time.

use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The memory of a process in KiB, with what it shares divided among those that share it.
pub(crate) fn pss_kib(pid: Pid) -> Result<u64, String> {
    number_in(pid, "smaps_rollup", "Pss:")
}

/// That part of it which no file backs, in KiB.
pub(crate) fn own_kib(pid: Pid) -> Result<u64, String> {
    number_in(pid, "smaps_rollup", "Pss_Anon:")
}

/// The most memory that a process has had resident, in KiB.
pub(crate) fn peak_kib(pid: Pid) -> Result<u64, String> {
    number_in(pid, "status", "VmHWM:")
}

pub(crate) fn threads(pid: Pid) -> Result<u64, String> {
    number_in(pid, "status", "Threads:")
}

/// How often the threads of a process have gone to sleep: each time, something woke them before.
pub(crate) fn sleeps(pid: Pid) -> Result<u64, String> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    tasks.flatten().map(|task| number(&task.path().join("status").to_string_lossy(), "voluntary_ctxt_switches:")).sum()
}

/// The descriptors that a process has open.
pub(crate) fn descriptors(pid: Pid) -> Result<usize, String> {
    let path = format!("/proc/{pid}/fd");
    fs::read_dir(&path).map(Iterator::count).map_err(|error| format!("cannot read {path}: {error}"))
}

/// Whether a process executes the file that is at the path.
pub(crate) fn executes(pid: Pid, path: &Path) -> Result<bool, String> {
    let inode = |path: &Path| {
        let metadata = fs::metadata(path).map_err(|error| format!("cannot look at {}: {error}", path.display()))?;
        Ok::<_, String>((metadata.dev(), metadata.ino()))
    };
    Ok(inode(Path::new(&format!("/proc/{pid}/exe")))? == inode(path)?)
}

/// The processor time that those threads of a process have used that it has now; to the nanosecond, where `/proc/PID/stat` counts hundredths of a second.
pub(crate) fn time_of(pid: Pid) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let time = |task: fs::DirEntry| {
        let path = task.path().join("schedstat");
        let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let time = text.split(' ').next().and_then(|number| number.parse().ok());
        time.map(Duration::from_nanos).ok_or_else(|| format!("cannot understand {}", path.display()))
    };
    tasks.flatten().map(time).sum()
}

/// The processor time of those children of a process that it has reaped.
pub(crate) fn time_of_reaped_children(pid: Pid) -> Result<Duration, String> {
    // Fields 16 and 17, cutime and cstime.
    ticks(pid, [13, 14])
}

/// The sum of two times in `/proc/PID/stat`, by their places after the name.
fn ticks(pid: Pid, [user, system]: [usize; 2]) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let field = |index: usize| stat.rsplit_once(") ")?.1.split(' ').nth(index)?.parse::<u32>().ok();
    let ticks = field(user).zip(field(system)).map(|(user, system)| user + system).ok_or_else(|| format!("cannot understand {path}"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u32::try_from(ticks).ok()).unwrap_or(100);
    Ok(Duration::from_secs(1) * ticks / per_second)
}

fn number_in(pid: Pid, file: &str, name: &str) -> Result<u64, String> {
    number(&format!("/proc/{pid}/{file}"), name)
}

/// A file that was opened just before the process executes another program tells of memory that is gone when it is read: then once more.
const READS_MAX: usize = 10;

fn number(path: &str, name: &str) -> Result<u64, String> {
    let is_replaced = |error: &io::Error| error.raw_os_error() == Some(nix::libc::ESRCH);
    let mut read = fs::read_to_string(path);
    for _ in 1..READS_MAX {
        if read.as_ref().is_err_and(is_replaced) {
            read = fs::read_to_string(path);
        }
    }
    let text = read.map_err(|error| format!("cannot read {path}: {error}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("{path} has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::getpid;

    #[test]
    fn this_process_can_be_measured() {
        let pid = getpid();
        assert!(pss_kib(pid).is_ok_and(|kib| kib > 100));
        assert!(peak_kib(pid).is_ok_and(|kib| kib > 100));
        assert!(threads(pid).is_ok_and(|count| count >= 1));
        assert!(sleeps(pid).is_ok());
        assert!(descriptors(pid).is_ok_and(|count| count >= 3));
        assert_eq!(executes(pid, &std::env::current_exe().expect("a path")), Ok(true));
        assert_eq!(executes(pid, Path::new("/")), Ok(false));
        assert!(time_of_reaped_children(pid).is_ok());
        assert!(time_of(pid).is_ok_and(|time| time < Duration::from_secs(3600)));
    }
}
