//! Builds versions of the example program, and makes what is no version of it.

use super::process::Process;
use crate::ci;
use nix::sys::wait::WaitStatus;
use sha1::{Digest, Sha1};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long one build may take: the first one, on a slow machine, compiles every dependency.
const BUILD_TIME: Duration = Duration::from_secs(30 * 60);

/// How the program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build.
    Dev,
    /// What is measured.
    Release,
}

/// A file that can be published.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    /// `2`, or `2 (hang-before-ready)`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The SHA-1 of the file, in hex.
    pub(crate) id: String,
}

impl Build {
    /// What lies at `path`, under the name `name`.
    pub(crate) fn of(name: impl Into<String>, path: PathBuf) -> Result<Self, String> {
        let id = id_of(&path)?;
        Ok(Self { name: name.into(), path, id })
    }

    /// The first half of it: what a broken upload leaves.
    pub(crate) fn truncated(&self, name: &str, path: PathBuf) -> Result<Self, String> {
        let bytes = fs::read(&self.path).map_err(|error| format!("cannot read {}: {error}", self.path.display()))?;
        Self::written(name, path, &bytes[..bytes.len() / 2])
    }

    /// The same program with bytes after its end, so that the file is `size_bytes` long and has an ID of its own.
    pub(crate) fn padded(&self, name: &str, path: PathBuf, size_bytes: u64) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        let length = fs::copy(&self.path, &path).map_err(failed)?;
        let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(failed)?;
        let mut noise = Noise::new(name);
        let mut left =
            size_bytes.checked_sub(length).ok_or_else(|| format!("{} is longer than {size_bytes} bytes", self.path.display()))?;
        let mut block = [0; 64 * 1024];
        while left > 0 {
            noise.fill(&mut block);
            let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            file.write_all(&block[..bytes]).map_err(failed)?;
            left -= bytes as u64;
        }
        Self::of(name, path)
    }

    /// A file with these bytes that can be executed.
    pub(crate) fn written(name: &str, path: PathBuf, bytes: &[u8]) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        fs::write(&path, bytes).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Self::of(name, path)
    }

    pub(crate) fn size_bytes(&self) -> Result<u64, String> {
        fs::metadata(&self.path).map(|metadata| metadata.len()).map_err(|error| format!("cannot read {}: {error}", self.path.display()))
    }

    /// Puts a copy at `path`, and forgets what a master remembered of the releases before.
    pub(crate) fn install_anew(&self, path: &Path) -> Result<(), String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for gone in [fs::remove_dir_all(path.with_file_name(format!(".{name}.overseer"))), fs::remove_file(path)] {
            match gone {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(format!("cannot clear {}: {error}", path.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.install(path)
    }

    /// Puts a copy at `path`, as an installation does.
    pub(crate) fn install(&self, path: &Path) -> Result<(), String> {
        fs::copy(&self.path, path).map(drop).map_err(|error| format!("cannot copy {} to {}: {error}", self.path.display(), path.display()))
    }
}

/// Builds version `version` of the example `app`, with these features and with a fault if one is named, and keeps a copy in `directory`. Cargo's
/// progress is shown on standard error.
pub(crate) fn app(directory: &Path, profile: Profile, version: u32, fault: Option<&str>, features: &[&str]) -> Result<Build, String> {
    let name = fault.map_or_else(|| version.to_string(), |fault| format!("{version} ({fault})"));
    eprintln!("building app {name}");
    let mut command =
        ci::cargo(&["rustc", "--package", "overseer-examples", "--bin", "app", "--message-format", "json-render-diagnostics"]);
    command.args(["--features", &features.join(",")]);
    match profile {
        // Three quarters of a build for debugging are nothing that runs, and each release is copied, hashed and sent several times.
        Profile::Dev => command.args(["--", "-C", "strip=debuginfo"]),
        Profile::Release => command.arg("--release"),
    };
    command.env("APP_VERSION", version.to_string()).env_remove("APP_FAULT");
    if let Some(fault) = fault {
        command.env("APP_FAULT", fault);
    }
    let built = executable(&mut command, "app", &format!("app {name}"))?;
    let path = directory.join(format!("app-{}", name.replace([' ', '(', ')'], "")));
    fs::copy(&built, &path).map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Build::of(name, path)
}

/// Builds the server of buckets.
pub(crate) fn local_s3() -> Result<PathBuf, String> {
    eprintln!("building a local S3");
    let arguments = ["build", "--package", "xtask", "--features", "s3", "--bin", "local_s3", "--message-format", "json-render-diagnostics"];
    executable(&mut ci::cargo(&arguments), "local_s3", "a local S3")
}

/// Builds an example as it is measured.
pub(crate) fn example(name: &str) -> Result<PathBuf, String> {
    eprintln!("building the example {name}");
    let arguments =
        ["build", "--release", "--package", "overseer-examples", "--example", name, "--message-format", "json-render-diagnostics"];
    executable(&mut ci::cargo(&arguments), name, name)
}

/// Builds a peer, which no other task needs.
pub(crate) fn peer(name: &str) -> Result<PathBuf, String> {
    eprintln!("building the peer {name}");
    let arguments =
        ["build", "--release", "--locked", "--manifest-path", "xtask/peers/Cargo.toml", "--target-dir", "target/peers", "--bin", name];
    executable(ci::cargo(&arguments).args(["--message-format", "json-render-diagnostics"]), name, name)
}

/// Builds the clients that speak HTTP/2.
pub(crate) fn http2_clients() -> Result<PathBuf, String> {
    eprintln!("building the clients of HTTP/2");
    let arguments = ["build", "--package", "xtask", "--features", "http2", "--bin", "http2_clients"];
    executable(ci::cargo(&arguments).args(["--message-format", "json-render-diagnostics"]), "http2_clients", "the clients of HTTP/2")
}

/// Runs cargo. Answers the executable of that name that it has built; `what` is for a message.
fn executable(command: &mut Command, name: &str, what: &str) -> Result<PathBuf, String> {
    let cargo = Process::start_showing_errors("cargo build", command)?;
    match cargo.wait_exit(BUILD_TIME)? {
        WaitStatus::Exited(_, 0) => {}
        exit => return Err(format!("{what} could not be built: cargo ended with {exit:?}")),
    }
    let output = cargo.output(Duration::from_secs(10))?;
    output.lines().rev().find_map(|line| artifact(line, name)).ok_or_else(|| format!("cargo names no executable {name}"))
}

/// The executable of that name in a line of cargo's that reports an artifact.
fn artifact(line: &str, name: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    (message.get("reason")? == "compiler-artifact" && message.get("target")?.get("name")? == name)
        .then(|| message.get("executable")?.as_str().map(PathBuf::from))
        .flatten()
}

/// The SHA-1 of a file, in hex.
pub(crate) fn id_of(path: &Path) -> Result<String, String> {
    let mut hash = Sha1::new();
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut file = fs::File::open(path).map_err(failed)?;
    let mut block = vec![0; 128 * 1024];
    loop {
        match std::io::Read::read(&mut file, &mut block).map_err(failed)? {
            0 => break,
            bytes => hash.update(&block[..bytes]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes that no compression makes shorter, the same for the same seed (xorshift64).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: &str) -> Self {
        Self(seed.bytes().fold(0x9E37_79B9_7F4A_7C15, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)) | 1)
    }

    pub(crate) fn fill(&mut self, block: &mut [u8]) {
        for bytes in block.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.copy_from_slice(&self.0.to_le_bytes()[..bytes.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_padded_build_begins_with_the_program_and_is_another_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = Build::written("1", directory.path().join("1"), b"program").expect("written");
        assert_eq!(program.id, "81d9aeea0e1a408d65b6660a176c5de83dc98e7b", "printf program | sha1sum");
        let padded = program.padded("2", directory.path().join("2"), 100_000).expect("padded");
        let other = program.padded("3", directory.path().join("3"), 100_000).expect("padded");
        assert_eq!(padded.size_bytes(), Ok(100_000));
        assert!(fs::read(&padded.path).expect("read").starts_with(b"program"));
        assert_ne!(padded.id, other.id);
    }

    #[test]
    fn the_executable_is_found_in_what_cargo_says() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"app","kind":["bin"]},"executable":"/t/debug/app","fresh":true}"#;
        assert_eq!(artifact(line, "app"), Some(PathBuf::from("/t/debug/app")));
        assert_eq!(artifact(line, "other"), None);
        assert_eq!(artifact(r#"{"reason":"build-finished","success":true}"#, "app"), None);
        assert_eq!(artifact("not JSON", "app"), None);
    }
}
