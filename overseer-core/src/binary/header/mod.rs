//! What the first bytes of a file say: whether it is an executable for this machine, and whether all of it is there.

mod elf;
mod macho;

use super::Refusal;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

const ELF: &[u8] = b"\x7fELF";
const SCRIPT: &[u8] = b"#!";
/// The longest first line of a script that Linux reads.
const SCRIPT_LINE_BYTES_MAX: usize = 255;

/// Beginnings of what is uploaded by mistake.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\x1f\x8b", "is compressed with gzip, which its name does not say (.gz)"),
    (b"PK\x03\x04", "is a zip archive, which its name does not say (.zip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd, which its name does not say (.zst)"),
    (b"\xfd7zXZ\0", "is compressed with xz"),
    (b"BZh", "is compressed with bzip2"),
    (b"MZ", "is a Windows program"),
    (b"!<arch>\n", "is a library archive"),
];

/// What a file is that can be executed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Executable {
    Program,
    Script,
}

/// Whether a file that begins so is an executable of some system.
#[cfg(feature = "unpack")]
pub(super) fn begins_executable(start: &[u8], scripts: bool) -> bool {
    start.starts_with(ELF) || macho::begins(start) || (scripts && start.starts_with(SCRIPT))
}

/// Whether the file is a script, as the kernel sees it.
pub(crate) fn is_script(file: &File) -> io::Result<bool> {
    let mut start = [0; SCRIPT.len()];
    let read = read_up_to(file, &mut start, 0)?;
    Ok(start[..read] == *SCRIPT)
}

/// Looks whether the file is a whole executable for this machine, or a script where these are allowed.
///
/// # Errors
/// It is not: rejected. It cannot be read: nobody is blamed.
pub(super) fn prove(file: &File, scripts: bool) -> Result<Executable, Refusal> {
    let unreadable = |error: io::Error| Refusal::blameless(format!("the staged file cannot be read: {error}"));
    let size_bytes = file.metadata().map_err(unreadable)?.len();
    let mut start = [0; 512];
    let read = read_up_to(file, &mut start, 0).map_err(unreadable)?;
    let start = &start[..read];
    let loaders = Loaders { root: Path::new("/") };
    if scripts && start.starts_with(SCRIPT) {
        return prove_script(start, &loaders).map(|()| Executable::Script);
    }
    let is_macos = cfg!(target_os = "macos");
    if start.starts_with(ELF) && !is_macos {
        elf::prove(file, start, size_bytes, &loaders)?;
    } else if macho::begins(start) && is_macos {
        macho::prove(file, start, size_bytes, macho::CPU, &loaders)?;
    } else {
        return Err(Refusal::reject(what_it_is(start)));
    }
    Ok(Executable::Program)
}

fn prove_script(start: &[u8], loaders: &Loaders<'_>) -> Result<(), Refusal> {
    let line = &start[SCRIPT.len()..start.len().min(SCRIPT_LINE_BYTES_MAX)];
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or(line).trim_ascii();
    let interpreter = line.split(u8::is_ascii_whitespace).next().unwrap_or(line);
    let interpreter = Path::new(std::ffi::OsStr::from_bytes(interpreter));
    if interpreter.is_absolute() && loaders.has(interpreter) {
        return Ok(());
    }
    Err(Refusal::reject(format!("is a script for {:?}, which is not here", interpreter.display().to_string())))
}

/// Where the programs lie that make others run.
#[derive(Debug)]
struct Loaders<'a> {
    root: &'a Path,
}

/// The C libraries of Linux, by what the names of their dynamic loaders begin with.
const LIBRARIES: [(&str, &str); 3] = [("ld-musl-", "musl"), ("ld-linux", "glibc"), ("ld64.so", "glibc")];

impl Loaders<'_> {
    fn has(&self, path: &Path) -> bool {
        self.root.join(path.strip_prefix("/").unwrap_or(path)).exists()
    }

    fn prove(&self, loader: &Path) -> Result<(), Refusal> {
        if self.has(loader) {
            return Ok(());
        }
        let file_name = loader.file_name().unwrap_or_default().as_bytes();
        let library = LIBRARIES.iter().find(|(beginning, _)| file_name.starts_with(beginning.as_bytes()));
        let why = match (library.map(|(_, library)| *library), self.library()) {
            (Some(theirs), Some(ours)) if theirs != ours => format!(": it is built for {theirs}, and this is a {ours} system"),
            _ => String::new(),
        };
        Err(Refusal::reject(format!("needs the dynamic loader {}, which is not here{why}", loader.display())))
    }

    /// The C library of this system; `None` if it has none or several.
    fn library(&self) -> Option<&'static str> {
        let places = ["lib", "lib64", "usr/lib", "usr/lib64"].map(|place| fs::read_dir(self.root.join(place)));
        let mut found = None;
        for entry in places.into_iter().flatten().flatten().flatten() {
            let name = entry.file_name();
            let Some((_, library)) = LIBRARIES.iter().find(|(beginning, _)| name.as_bytes().starts_with(beginning.as_bytes())) else {
                continue;
            };
            if found.is_some_and(|found| found != *library) {
                return None;
            }
            found = Some(*library);
        }
        found
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], place: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], place + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn what_it_is(start: &[u8]) -> String {
    if start.is_empty() {
        return "is empty".to_owned();
    }
    if start.starts_with(b"#!") {
        let line = start.split(|byte| *byte == b'\n').next().unwrap_or(start);
        let line: String = String::from_utf8_lossy(line).chars().filter(|letter| !letter.is_control()).take(80).collect();
        return format!("is a script ({line}), not an executable, and scripts are not allowed (allow_scripts)");
    }
    if let Some(what) = macho::describe(start) {
        return format!("is {what}, not an executable for this machine");
    }
    if start.starts_with(ELF) {
        return "is a program for Linux or another Unix, not an executable for this machine".to_owned();
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
        return format!("{what}, not an executable for this machine");
    }
    let text = start.trim_ascii_start().to_ascii_lowercase();
    if text.starts_with(b"<!doctype") || text.starts_with(b"<html") {
        return "is an HTML page, not an executable".to_owned();
    }
    if start.iter().all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace()) && start.is_ascii() {
        return "is text, not an executable".to_owned();
    }
    format!("is no executable of any kind known here (it starts with {})", super::hex(&start[..start.len().min(8)]))
}

fn cut_off(size_bytes: u64, what: &str) -> Refusal {
    Refusal::reject(format!("is cut off: {what} ends after the {size_bytes} bytes that are there"))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::protocol::Verdict;

    fn judged(bytes: &[u8], scripts: bool) -> Result<Executable, Refusal> {
        let directory = testing::directory();
        let path = directory.path().join("release");
        fs::write(&path, bytes).expect("written");
        prove(&File::open(&path).expect("opened"), scripts)
    }

    #[test]
    fn a_script_is_one_only_where_scripts_are_allowed() {
        let script = b"#! /bin/sh -e\nexec /opt/app/program\n";
        assert_eq!(judged(script, true), Ok(Executable::Script));
        let refusal = judged(script, false).expect_err("it is a script");
        assert!(refusal.why.starts_with("is a script (#! /bin/sh -e)") && refusal.why.contains("allow_scripts"), "{}", refusal.why);
        for (script, word) in [(&b"#!/no/where\n"[..], "\"/no/where\""), (b"#!sh\n", "\"sh\""), (b"#!", "\"\""), (b"#!\n/bin/sh", "\"\"")] {
            let refusal = judged(script, true).expect_err("there is no such interpreter");
            assert_eq!(refusal.verdict, Verdict::Reject);
            assert!(refusal.why.contains(word) && refusal.why.ends_with("which is not here"), "{}", refusal.why);
        }
        // What is no script is none, allowed or not.
        assert!(judged(b"echo hello\n", true).expect_err("it is text").why.contains("is text"));
    }

    #[test]
    fn a_program_for_the_other_c_library_is_told_so() {
        let (musl, glibc) = ("/lib/ld-musl-x86_64.so.1", "/lib64/ld-linux-x86-64.so.2");
        for (there, wanted, words) in [
            (&[musl][..], glibc, "which is not here: it is built for glibc, and this is a musl system"),
            (&[glibc], musl, "which is not here: it is built for musl, and this is a glibc system"),
            (&["/lib/ld-linux-aarch64.so.1"], musl, "this is a glibc system"),
            (&[glibc], "/lib/ld-linux.so.2", "/lib/ld-linux.so.2, which is not here"),
            (&[glibc, musl], "/opt/ld-musl-x86_64.so.1", "/opt/ld-musl-x86_64.so.1, which is not here"),
            (&[], glibc, "which is not here"),
        ] {
            let root = testing::directory();
            for path in there {
                let path = root.path().join(&path[1..]);
                fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                fs::write(path, "").expect("written");
            }
            let loaders = Loaders { root: root.path() };
            for path in there {
                assert_eq!(loaders.prove(Path::new(path)), Ok(()));
            }
            let refusal = loaders.prove(Path::new(wanted)).expect_err("it is not there");
            assert!(refusal.why.ends_with(words), "{}", refusal.why);
        }
    }
}
