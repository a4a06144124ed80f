//! A file that holds the master's PID while it lives.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The locked file. It is whole from the moment it has its name, and locked for as long as the master lives.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Makes the file, in the place of one that a dead master left.
    ///
    /// # Errors
    /// Another process holds it ([`io::ErrorKind::WouldBlock`]), or it cannot be made; nothing is left behind.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut temporary = tempfile::Builder::new().prefix(".overseer-pid-").tempfile_in(directory)?;
        temporary.as_file().lock()?;
        writeln!(temporary, "{}", std::process::id())?;
        temporary.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        // Each turn ends with an answer unless another process has just made or removed the file.
        for _ in 0..100 {
            match File::options().read(true).write(true).open(path) {
                Ok(existing) => match existing.try_lock() {
                    // Held until the new one has taken its name, so that two masters cannot both replace it.
                    Ok(()) if is_at(&existing, path) => {
                        let file = temporary.persist(path).map_err(|error| error.error)?;
                        return Ok(Self { path: path.to_owned(), file });
                    }
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => {
                        let pid = fs::read_to_string(path).unwrap_or_default();
                        let text = format!("the process {} holds it", pid.trim());
                        return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
                    }
                    Err(TryLockError::Error(error)) => return Err(error),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => match temporary.persist_noclobber(path) {
                    Ok(file) => return Ok(Self { path: path.to_owned(), file }),
                    Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => temporary = error.file,
                    Err(error) => return Err(error.error),
                },
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "other processes keep making and removing it"))
    }

    /// The file that this process has held since before it was replaced by another program.
    pub(crate) fn resume(path: PathBuf, file: OwnedFd) -> Self {
        Self { path, file: File::from(file) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless somebody has put another one in its place.
    pub(crate) fn remove(&self) -> io::Result<()> {
        if is_at(&self.file, &self.path) { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether the open file is the one at the path.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_master_is_refused_and_a_dead_ones_file_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("app.pid");
        fs::write(&path, "99999\n").expect("a dead master's file");
        let first = PidFile::create(&path).expect("the old one is not locked");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), format!("{}\n", std::process::id()));
        let second = PidFile::create(&path).expect_err("the first one holds it");
        assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
        first.remove().expect("it is ours");
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
        let third = PidFile::create(&path).expect("the place is free");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "1").expect("somebody else's");
        third.remove().expect("nothing to do");
        assert!(path.exists());
    }
}
