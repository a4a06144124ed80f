//! A directory that releases are put into, as a deployment by `scp` or on a network file system does.

use super::build::Build;
use super::source::Source;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(crate) struct Folder {
    /// Where the release lies.
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { path: directory.join("app") }
    }

    /// Puts a build and its signature at `path`. The signature comes first: nobody looks at it before the file itself is another.
    pub(crate) fn put(path: &Path, build: &Build, signature: Option<&str>) -> Result<Instant, String> {
        let failed = |error: std::io::Error| format!("cannot publish {}: {error}", build.path.display());
        let [new, minisig] = [".new", ".minisig"].map(|ending| {
            let mut beside = path.as_os_str().to_owned();
            beside.push(ending);
            PathBuf::from(beside)
        });
        if let Some(signature) = signature {
            fs::write(&new, signature).map_err(failed)?;
            fs::rename(&new, minisig).map_err(failed)?;
        }
        fs::copy(&build.path, &new).map_err(failed)?;
        fs::rename(new, path).map_err(failed)?;
        Ok(Instant::now())
    }
}

impl Source for Folder {
    fn tell(&self, command: &mut Command) {
        command.arg("--fetch").arg(&self.path);
    }

    fn publish(&self, build: &Build, signature: Option<&str>) -> Result<Instant, String> {
        Self::put(&self.path, build, signature)
    }

    fn downloads(&self, _: &Build) -> Option<usize> {
        None
    }
}
