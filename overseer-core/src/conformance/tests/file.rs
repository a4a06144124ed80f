//! [`File`] against a directory, as root and as somebody who may not read everything.

use super::super::{Source, Trouble, run};
use crate::File;
use crate::binary::testing;
use nix::unistd::geteuid;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Longer than a test waits for a file that is not whole.
const SETTLE: Duration = Duration::from_secs(600);

/// A directory that somebody copies releases into.
struct Copies {
    directory: PathBuf,
    release: Vec<u8>,
    trouble: Option<Trouble>,
}

impl Copies {
    fn below(directory: &Path) -> Self {
        let directory = directory.join("releases");
        fs::create_dir_all(&directory).expect("made");
        Self { directory, release: Vec::new(), trouble: None }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("app")
    }

    fn elsewhere(&self) -> PathBuf {
        self.directory.with_extension("elsewhere")
    }

    fn signature(&self) -> PathBuf {
        self.path().with_extension("minisig")
    }

    fn put(&self, path: &Path, bytes: &[u8], age: Duration) {
        let beside = self.directory.join("being-copied");
        fs::write(&beside, bytes).expect("written");
        let file = fs::File::options().write(true).open(&beside).expect("opened");
        file.set_modified(SystemTime::now() - age).expect("time set");
        fs::rename(beside, path).expect("renamed");
    }
}

impl Source for Copies {
    type Fetcher = File;

    fn fetcher(&self) -> File {
        File::new(self.path()).settle(SETTLE)
    }

    fn publish(&mut self, release: &[u8]) {
        let _ = fs::remove_file(self.signature());
        self.put(&self.path(), release, 2 * SETTLE);
        self.release = release.to_vec();
    }

    fn suffer(&mut self, trouble: Trouble) -> Result<(), String> {
        match trouble {
            // The copy is not finished.
            Trouble::Truncated { after_bytes } => self.put(&self.path(), &self.release[..after_bytes as usize], Duration::ZERO),
            Trouble::Stalled { .. } => return Err("a file does not stand still".to_owned()),
            Trouble::Gone => fs::rename(self.path(), self.elsewhere()).expect("renamed"),
            Trouble::Denied if geteuid().is_root() => return Err("root may read every file".to_owned()),
            Trouble::Denied => fs::set_permissions(self.path(), Permissions::from_mode(0o0)).expect("mode set"),
            // What is mounted there is away.
            Trouble::Down => fs::rename(&self.directory, self.elsewhere()).expect("renamed"),
        }
        self.trouble = Some(trouble);
        Ok(())
    }

    fn recover(&mut self) {
        match self.trouble.take() {
            None | Some(Trouble::Stalled { .. }) => {}
            Some(Trouble::Truncated { .. }) => self.put(&self.path(), &self.release, 2 * SETTLE),
            Some(Trouble::Gone) => fs::rename(self.elsewhere(), self.path()).expect("renamed"),
            Some(Trouble::Denied) => fs::set_permissions(self.path(), Permissions::from_mode(0o644)).expect("mode set"),
            Some(Trouble::Down) => fs::rename(self.elsewhere(), &self.directory).expect("renamed"),
        }
    }

    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    fn sign(&mut self, minisig: &str) -> Result<(), String> {
        self.put(&self.signature(), minisig.as_bytes(), 2 * SETTLE);
        Ok(())
    }

    fn denial(&self) -> String {
        "Permission denied".to_owned()
    }
}

#[test]
fn the_file_fetcher_conforms() {
    let directory = testing::directory();
    run(Copies::below(directory.path()));
}

#[test]
fn the_file_fetcher_conforms_for_who_may_not_read_everything() {
    let name = "conformance::tests::file::the_file_fetcher_conforms_for_who_may_not_read_everything";
    testing::as_nobody(name, |_| (), |directory| run(Copies::below(directory)));
}
