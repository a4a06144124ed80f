//! Shows that the fetcher keeps the contract.

use crate::versions::Versions;
use overseer_core::conformance::{self, Source, Trouble};
use overseer_core::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A directory that every release is copied to under a version of its own.
struct Share {
    directory: TempDir,
    versions: u64,
    trouble: Option<Trouble>,
    release: Vec<u8>,
}

impl Share {
    fn path(&self) -> PathBuf {
        self.directory.path().join("releases")
    }

    fn file(&self) -> PathBuf {
        self.path().join(format!("server-1.{}.0", self.versions))
    }

    fn away(&self) -> PathBuf {
        self.directory.path().join("away")
    }
}

impl Source for Share {
    type Fetcher = Versions;

    fn fetcher(&self) -> Versions {
        Versions::new(self.path(), "server").newer_than("1.0.0")
    }

    fn publish(&mut self, release: &[u8]) {
        self.versions += 1;
        self.release = release.to_vec();
        let digest = Digest::new(DigestAlgorithm::Sha256, Sha256::digest(release).to_vec()).expect("a SHA-256");
        // In place of the one that is there: else that would be taken when this one is gone.
        let _ = fs::remove_dir_all(self.path());
        fs::create_dir(self.path()).expect("made");
        fs::write(self.file(), release).expect("written");
        fs::write(self.file().with_extension("0.sha256"), digest.to_hex()).expect("written");
    }

    fn sign(&mut self, minisig: &str) -> Result<(), String> {
        fs::write(self.file().with_extension("0.minisig"), minisig).map_err(|error| error.to_string())
    }

    fn suffer(&mut self, trouble: Trouble) -> Result<(), String> {
        match trouble {
            Trouble::Truncated { after_bytes } => {
                let cut = usize::try_from(after_bytes).expect("a size in memory");
                fs::write(self.file(), &self.release[..cut]).expect("written");
            }
            Trouble::Gone => fs::remove_file(self.file()).expect("removed"),
            Trouble::Down => fs::rename(self.path(), self.away()).expect("renamed"),
            Trouble::Denied => {
                fs::set_permissions(self.file(), Permissions::from_mode(0o000)).expect("mode set");
                if fs::File::open(self.file()).is_ok() {
                    fs::set_permissions(self.file(), Permissions::from_mode(0o644)).expect("mode set");
                    return Err("who runs this test may read every file".to_owned());
                }
            }
            other => return Err(format!("a directory is never {other}")),
        }
        self.trouble = Some(trouble);
        Ok(())
    }

    fn recover(&mut self) {
        match self.trouble.take() {
            Some(Trouble::Down) => fs::rename(self.away(), self.path()).expect("renamed"),
            Some(Trouble::Denied) => fs::set_permissions(self.file(), Permissions::from_mode(0o644)).expect("mode set"),
            Some(_) => fs::write(self.file(), &self.release).expect("written"),
            None => {}
        }
    }

    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    fn denial(&self) -> String {
        "Permission denied".to_owned()
    }
}

#[test]
fn it_conforms() {
    let directory = tempfile::tempdir().expect("a directory");
    conformance::run(Share { directory, versions: 0, trouble: None, release: Vec::new() });
}

#[test]
fn a_version_that_is_not_newer_is_left_alone() {
    use overseer_core::{Fetcher, Known};
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("server-1.9.2"), "a release").expect("written");
    let mut fetcher = Versions::new(directory.path(), "server").newer_than("1.10.0");
    assert!(fetcher.fetch(&Known::nothing()).expect("a look").is_unchanged());
}
