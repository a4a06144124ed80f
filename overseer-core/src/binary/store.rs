//! The binary store: committed releases in a directory of their own, where the program's is read-only.
//!
//! The *packaged* file at the program's path is what the process manager starts, and nobody here touches it. At each start it looks at the release in the store
//! ([`prove`]) and decides what to run ([`choose`]). Who runs as the service's user can write there, so what lies beside the release proves nothing
//! but that the disk is whole: with trusted keys the file itself is proved by its signature, at each start, and nobody may write to it from then until it is executed.
//!
//! A signature is over the file as it was published. So what proves a release is kept beside it, by its ID: `proof-ID.json` with the signature, and
//! `proof-ID.published` with the published file if that is packed, which is unpacked again and compared.

use super::state_dir::create;
use super::{Demands, Identity, Packaged, Packing, UnpackError, Wanted, hex, unpack};
use crate::protocol::ReleaseName;
use crate::sys::{files, handover};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The start of a release at which another binary runs instead, if it has not lived through its probation before; and how many of its starts in a row may end before
/// a generation is ready.
pub(crate) const STARTS_MAX: u32 = 3;

const PROOF: &str = "proof-";
/// A signature has at most a few KiB.
const PROOF_BYTES_MAX: u64 = 256 * 1024;

/// What is known at a start of the service. Nothing is asked here whose answer changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    /// `None`: there is no release in the store.
    pub(crate) stored: Option<Stored>,
    /// The packaged file is not the one over which releases were committed.
    pub(crate) package_has_changed: bool,
    /// The release in this start of the service could not go on.
    pub(crate) failed: Option<String>,
    /// How often the release was started before, if it has not lived through its probation.
    pub(crate) probation_starts: Option<u32>,
    pub(crate) unready_starts: u32,
}

/// What lies in the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stored {
    /// What was committed, and proved as far as it can be.
    Whole,
    /// A copy of the packaged file, which a release that failed was taken back to.
    CopyOfPackaged,
    /// It was to be moved away before.
    SetAside,
    /// Nothing, since the installed release is the packaged file, or rests beside its place.
    Nothing,
    /// A release was committed, and is not there.
    Missing,
    Bad(String),
}

/// What a start of the service runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Choice {
    /// The packaged file; there is nothing else.
    Packaged,
    /// The packaged file, since somebody has changed it. The release is not wanted any more.
    NewPackaged,
    /// The packaged file itself in place of its copy.
    PackagedForCopy,
    /// The packaged file, since the release cannot be run.
    NotStored(String),
    /// The packaged file, since no generation of the release, which is on probation, ever became ready.
    NeverReady { starts: u32 },
    /// The packaged file for now, since no generation of the release became ready lately. It has lived before, so it may be for want of something that it needs, and
    /// the packaged file as well.
    Rest { starts: u32 },
    /// The release failed too often: the previous binary is put back, and then it is chosen again.
    TakeBack { starts: u32 },
    /// The release.
    Stored,
}

/// Decides what runs.
pub(crate) fn choose(facts: Facts) -> Choice {
    match facts.stored {
        None => return Choice::Packaged,
        Some(Stored::SetAside) => return Choice::NewPackaged,
        Some(_) if facts.package_has_changed => return Choice::NewPackaged,
        Some(Stored::CopyOfPackaged) => return Choice::PackagedForCopy,
        Some(Stored::Nothing) => return Choice::Packaged,
        Some(Stored::Missing) => return Choice::NotStored("is not there any more".to_owned()),
        Some(Stored::Bad(why)) => return Choice::NotStored(why),
        Some(Stored::Whole) => {}
    }
    if let Some(why) = facts.failed {
        return Choice::NotStored(why);
    }
    match facts.probation_starts.map(|before| before + 1) {
        Some(starts) if starts >= STARTS_MAX => Choice::TakeBack { starts },
        Some(_) if facts.unready_starts >= STARTS_MAX => Choice::NeverReady { starts: facts.unready_starts },
        None if facts.unready_starts >= STARTS_MAX => Choice::Rest { starts: facts.unready_starts },
        Some(_) | None => Choice::Stored,
    }
}

impl Packaged {
    /// # Errors
    /// It cannot be looked at.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::of(&metadata))
    }

    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { identity: Identity::of(metadata), changed_ns: changed_ns(metadata), ..Self::default() }
    }

    /// The same, with its hash.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn hashed(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let before = Self::of(&file.metadata()?);
        let Hashed { id, sha256 } = Hashed::of(&mut file)?;
        Ok(Self { id, sha256, ..before })
    }

    /// What the file there is now; with its hash, if it has not been touched since that was known.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(crate) fn again(&self, path: &Path) -> io::Result<Self> {
        let now = Self::at(path)?;
        Ok(if (now.identity, now.changed_ns) == (self.identity, self.changed_ns) { self.clone() } else { now })
    }

    /// Whether the file there is still this one. Read only if it may be another: a new container or a new boot has other numbers for the same bytes. Answers what it is now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn is_still(&self, path: &Path) -> io::Result<(bool, Self)> {
        let now = self.again(path)?;
        if now == *self {
            return Ok((true, now));
        }
        if self.sha256.is_empty() {
            return Ok((false, now));
        }
        let now = Self::hashed(path)?;
        Ok((now.sha256 == self.sha256, now))
    }
}

fn changed_ns(metadata: &Metadata) -> i64 {
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}

/// What the bytes of a file hash to.
#[derive(Debug, PartialEq)]
struct Hashed {
    id: String,
    sha256: String,
}

impl Hashed {
    /// Reads the file from where it stands to its end.
    fn of(file: &mut File) -> io::Result<Self> {
        let (mut sha1, mut sha256) = (Sha1::new(), Sha256::new());
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => {
                    sha1.update(&buffer[..bytes]);
                    sha256.update(&buffer[..bytes]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { id: hex(&sha1.finalize()), sha256: hex(&sha256.finalize()) })
    }
}

/// What is kept of a release that was staged for the store, so that it can be proved again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Proof {
    pub(crate) release: ReleaseName,
    /// Of the file in the store, in hex.
    sha256: String,
    /// As it was published.
    file_name: String,
    minisig: Option<String>,
}

impl Proof {
    /// Keeps what proves the staged file, all on the disk. `published` is the file that was signed.
    ///
    /// # Errors
    /// There is no room, or the files cannot be read; nothing of use is left.
    pub(crate) fn keep(
        release: &ReleaseName,
        staged: &Path,
        file_name: &str,
        signed: Option<(String, &Path)>,
        state_dir: &Path,
    ) -> io::Result<()> {
        let Hashed { sha256, .. } = Hashed::of(&mut File::open(staged)?)?;
        if let Some((_, published)) = signed.as_ref().filter(|_| !matches!(Packing::of(file_name), Ok(Packing::Plain))) {
            let kept = published_path(state_dir, &release.id);
            let _ = fs::remove_file(&kept);
            if fs::hard_link(published, &kept).is_err() {
                io::copy(&mut File::open(published)?, &mut create(&kept)?)?;
            }
            File::open(&kept)?.sync_all()?;
        }
        let minisig = signed.map(|(minisig, _)| minisig);
        let proof = Self { release: release.clone(), sha256, file_name: file_name.to_owned(), minisig };
        let mut file = create(&proof_path(state_dir, &release.id))?;
        file.write_all(&serde_json::to_vec_pretty(&proof)?)?;
        file.sync_all()?;
        files::sync_directory(state_dir)
    }

    fn read(state_dir: &Path, id: &str) -> io::Result<Self> {
        let mut bytes = Vec::new();
        open(&proof_path(state_dir, id))?.take(PROOF_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Whether a trusted key has signed what the file in the store was made of. `name` is that of the program.
    fn prove_signature(&self, stored: &mut File, state_dir: &Path, name: &OsStr, demands: &Demands) -> Result<(), String> {
        // When it was signed was looked at before it was installed.
        let demands = Demands { allow_downgrade: true, ..demands.clone() };
        let signed = demands.examine(self.minisig.as_deref(), &self.file_name, None, 0).map_err(|refusal| refusal.why)?;
        let Some(signed) = signed else { return Ok(()) };
        let unreadable = |error: io::Error| format!("cannot be read: {error}");
        let packing = Packing::of(&self.file_name).map_err(|refusal| refusal.why)?;
        if packing == Packing::Plain {
            stored.seek(SeekFrom::Start(0)).map_err(unreadable)?;
            return signed.prove(stored).map_err(unreadable)?.map(drop).map_err(|refusal| refusal.why);
        }
        let path = published_path(state_dir, &self.release.id);
        let missing = |error: io::Error| format!("was published as {}, and {} cannot be read: {error}", self.file_name, path.display());
        let mut published = Unwritten::open(&path).map_err(missing)?;
        signed.prove(&mut published.file).map_err(missing)?.map_err(|refusal| refusal.why)?;
        published.file.seek(SeekFrom::Start(0)).map_err(missing)?;
        let mut unpacked = handover::file_of(b"").map_err(unreadable)?;
        let size_bytes_max = stored.metadata().map_err(unreadable)?.len();
        let wanted = Wanted { program: &name.to_string_lossy(), entry: demands.archive_entry.as_deref(), scripts: false, size_bytes_max };
        unpack(packing, &published.file, &mut unpacked, &wanted, &mut |_| ()).map_err(|error| match error {
            UnpackError::Refused(refusal) => refusal.why,
            UnpackError::Read(error) | UnpackError::Write(error, _) => missing(error),
        })?;
        unpacked.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let is_it = Hashed::of(&mut unpacked).map_err(unreadable)?.sha256 == self.sha256;
        if !published.is_unwritten() {
            return Err(format!("cannot be proved: somebody writes to {}", path.display()));
        }
        is_it.then_some(()).ok_or_else(|| format!("is not what {}, which was signed, holds", self.file_name))
    }
}

fn proof_path(state_dir: &Path, id: &str) -> PathBuf {
    state_dir.join(format!("{PROOF}{id}.json"))
}

fn published_path(state_dir: &Path, id: &str) -> PathBuf {
    state_dir.join(format!("{PROOF}{id}.published"))
}

/// Removes what proves releases with other IDs, which are not in the store any more.
pub(crate) fn forget_all_but(state_dir: &Path, ids: &[String]) {
    let is_of_use = |name: &OsStr| ids.iter().any(|id| !id.is_empty() && name.as_bytes().starts_with(format!("{PROOF}{id}.").as_bytes()));
    let Ok(entries) = fs::read_dir(state_dir) else { return };
    let ours = entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(PROOF.as_bytes()));
    ours.filter(|entry| !is_of_use(&entry.file_name())).for_each(|entry| drop(fs::remove_file(entry.path())));
}

/// A file that nobody writes to while this lives.
#[derive(Debug)]
pub(crate) struct Unwritten {
    file: File,
    /// Where the file system cannot promise it: what it was when it was opened.
    before: Option<(Identity, i64)>,
}

impl Unwritten {
    /// # Errors
    /// It cannot be read, or somebody has it open for writing.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let user = nix::unistd::geteuid().as_raw();
        if ![0, user].contains(&metadata.uid()) {
            return Err(io::Error::other(format!("it belongs to user {}, not to user {user} or root", metadata.uid())));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other(format!("others can write to it (mode {:04o})", metadata.mode() & 0o7777)));
        }
        let is_kept = files::keep_unwritten(&file).map_err(|_| io::Error::other("somebody has it open for writing"))?;
        let before = (!is_kept).then(|| (Identity::of(&metadata), changed_ns(&metadata)));
        Ok(Self { file, before })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What it hashes to, in hex. Reads all of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn sha256(&mut self) -> io::Result<String> {
        self.file.seek(SeekFrom::Start(0))?;
        Hashed::of(&mut self.file).map(|hashed| hashed.sha256)
    }

    /// Whether it is what it was when it was opened.
    pub(crate) fn is_unwritten(&self) -> bool {
        match &self.before {
            None => files::is_kept_unwritten(&self.file),
            Some(before) => self.file.metadata().is_ok_and(|now| (Identity::of(&now), changed_ns(&now)) == *before),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)
}

/// The release in the store.
#[derive(Debug)]
pub(crate) struct Found {
    /// To be executed by its descriptor.
    pub(crate) file: Unwritten,
    pub(crate) identity: Identity,
    pub(crate) release: ReleaseName,
}

/// Why the file in the store is not run.
#[derive(Debug, PartialEq)]
pub(crate) enum NotProved {
    CopyOfPackaged,
    Bad(String),
}

/// Looks whether the file at `path` in the store is what was committed there; with trusted keys, whether one of them has signed it. Reads all of it.
///
/// # Errors
/// See [`NotProved`]; the text goes on from the file's path.
pub(crate) fn prove(path: &Path, state_dir: &Path, packaged: &Packaged, demands: &Demands) -> Result<Found, NotProved> {
    let bad = |why: String| NotProved::Bad(why);
    let unreadable = |error: io::Error| bad(format!("cannot be used: {error}"));
    let mut file = Unwritten::open(path).map_err(unreadable)?;
    let identity = Identity::of(&file.file.metadata().map_err(unreadable)?);
    let hashed = Hashed::of(&mut file.file).map_err(unreadable)?;
    if hashed.sha256 == packaged.sha256 {
        return Err(NotProved::CopyOfPackaged);
    }
    let proof = match Proof::read(state_dir, &hashed.id) {
        Ok(proof) if proof.sha256 == hashed.sha256 && proof.release.id == hashed.id => proof,
        Ok(_) | Err(_) => return Err(bad("is damaged, or was not put there by an upgrade".to_owned())),
    };
    let name = path.file_name().unwrap_or_default();
    proof.prove_signature(&mut file.file, state_dir, name, demands).map_err(bad)?;
    if !file.is_unwritten() {
        return Err(bad("cannot be proved: somebody writes to it".to_owned()));
    }
    Ok(Found { file, identity, release: proof.release })
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn facts(stored: Stored) -> Facts {
        Facts { stored: Some(stored), package_has_changed: false, failed: None, probation_starts: None, unready_starts: 0 }
    }

    #[test]
    fn what_was_committed_runs_if_nothing_speaks_against_it() {
        assert_eq!(choose(facts(Stored::Whole)), Choice::Stored);
        assert_eq!(choose(Facts { stored: None, ..facts(Stored::Whole) }), Choice::Packaged);
        for (probation_starts, unready_starts) in [(Some(0), 0), (Some(1), 2), (None, 2)] {
            assert_eq!(choose(Facts { probation_starts, unready_starts, ..facts(Stored::Whole) }), Choice::Stored);
        }
    }

    #[test]
    fn a_changed_package_wins_over_all_that_was_committed() {
        let bad = Stored::Bad("is damaged".to_owned());
        let all = [Stored::Whole, Stored::CopyOfPackaged, Stored::SetAside, Stored::Nothing, Stored::Missing, bad];
        for stored in all {
            let facts = Facts {
                package_has_changed: true,
                failed: Some("cannot go on".to_owned()),
                probation_starts: Some(9),
                unready_starts: 9,
                ..facts(stored)
            };
            assert_eq!(choose(facts), Choice::NewPackaged);
        }
        // One that could not be moved away at the restart that took the new package.
        assert_eq!(choose(facts(Stored::SetAside)), Choice::NewPackaged);
        let nothing = Facts { stored: None, package_has_changed: true, ..facts(Stored::Whole) };
        assert_eq!(choose(nothing), Choice::Packaged);
    }

    #[test]
    fn the_packaged_file_runs_where_the_release_cannot() {
        let not_stored = |why: &str| Choice::NotStored(why.to_owned());
        assert_eq!(choose(facts(Stored::CopyOfPackaged)), Choice::PackagedForCopy);
        assert_eq!(choose(facts(Stored::Nothing)), Choice::Packaged);
        assert_eq!(choose(facts(Stored::Missing)), not_stored("is not there any more"));
        assert_eq!(choose(facts(Stored::Bad("is damaged".to_owned()))), not_stored("is damaged"));
        let failed = Facts { failed: Some("cannot be executed".to_owned()), probation_starts: Some(2), ..facts(Stored::Whole) };
        assert_eq!(choose(failed), not_stored("cannot be executed"));
        assert_eq!(choose(Facts { unready_starts: 3, ..facts(Stored::Whole) }), Choice::Rest { starts: 3 }, "it has lived before");
        assert_eq!(
            choose(Facts { unready_starts: 3, probation_starts: Some(1), ..facts(Stored::Whole) }),
            Choice::NeverReady { starts: 3 }
        );
        assert_eq!(choose(Facts { unready_starts: 3, probation_starts: Some(2), ..facts(Stored::Whole) }), Choice::TakeBack { starts: 3 });
    }

    fn write(path: &Path, contents: &[u8]) {
        fs::write(path, contents).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode set");
    }

    #[test]
    fn a_packaged_file_is_known_by_its_contents_where_its_numbers_differ() {
        let directory = testing::directory();
        let path = directory.path().join("app");
        write(&path, b"one");
        let known = Packaged::hashed(&path).expect("read");
        assert_eq!(known.sha256, "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
        assert_eq!(known.is_still(&path).expect("read"), (true, known.clone()));
        let numbers = Packaged::at(&path).expect("there");
        assert_eq!(known.again(&path).expect("there"), known, "its hash is kept");

        let beside = directory.path().join("beside");
        write(&beside, b"one");
        fs::rename(&beside, &path).expect("renamed");
        let (is_still, now) = known.is_still(&path).expect("read");
        assert!(is_still && now.identity != known.identity && (&now.sha256, &now.id) == (&known.sha256, &known.id));
        assert_eq!(known.again(&path).expect("there").sha256, "");
        // Nobody has had the time to hash the one before.
        assert!(!numbers.is_still(&path).expect("read").0);

        // The same size, and the time of its last change is set back.
        let modified = fs::metadata(&path).expect("there").modified().expect("a time");
        fs::write(&path, b"two").expect("written");
        File::options().write(true).open(&path).expect("opened").set_modified(modified).expect("set");
        let (is_still, other) = now.is_still(&path).expect("read");
        assert!(!is_still && other.identity == now.identity);
        fs::remove_file(&path).expect("removed");
        now.is_still(&path).expect_err("it is gone");
    }

    struct Scene {
        directory: testing::Directory,
        demands: Demands,
    }

    impl Scene {
        /// A release that lies in the store, and what proves it.
        fn new(contents: &[u8]) -> (Self, ReleaseName) {
            let scene = Self { directory: testing::directory(), demands: Demands::default() };
            write(&scene.path(), contents);
            let id = Hashed::of(&mut File::open(scene.path()).expect("opened")).expect("read").id;
            (scene, ReleaseName { id, tag: "2".to_owned(), ..ReleaseName::default() })
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("app")
        }

        fn keep(&self, release: &ReleaseName, file_name: &str, signed: Option<(String, &Path)>) {
            Proof::keep(release, &self.path(), file_name, signed, self.directory.path()).expect("kept");
        }

        fn prove(&self) -> Result<Found, NotProved> {
            prove(&self.path(), self.directory.path(), &Packaged::default(), &self.demands)
        }

        #[track_caller]
        fn is_bad(&self, why: &str) {
            let Err(NotProved::Bad(found)) = self.prove() else { panic!("it is proved") };
            assert!(found.contains(why), "{found}");
        }
    }

    #[test]
    fn a_release_is_what_was_kept_of_it_and_nothing_else() {
        let (scene, release) = Scene::new(b"a program");
        scene.is_bad("is damaged, or was not put there by an upgrade");
        scene.keep(&release, "app", None);
        let found = scene.prove().expect("it is proved");
        assert_eq!((found.release, found.identity), (release.clone(), Identity::of(&fs::metadata(scene.path()).expect("there"))));
        let packaged = Packaged::hashed(&scene.path()).expect("read");
        let copy = prove(&scene.path(), scene.directory.path(), &packaged, &scene.demands).expect_err("it is the packaged one");
        assert_eq!(copy, NotProved::CopyOfPackaged);

        let link = scene.directory.path().join("link");
        std::os::unix::fs::symlink(scene.path(), &link).expect("a link");
        let through = prove(&link, scene.directory.path(), &Packaged::default(), &scene.demands).expect_err("a link is not followed");
        assert!(matches!(through, NotProved::Bad(why) if why.contains("cannot be used: ")));

        forget_all_but(scene.directory.path(), std::slice::from_ref(&release.id));
        scene.prove().expect("it is still proved");
        forget_all_but(scene.directory.path(), &["0".repeat(40), String::new()]);
        scene.is_bad("is damaged");
    }

    #[test]
    fn nobody_writes_to_a_release_from_its_proof_to_its_execution() {
        let (scene, release) = Scene::new(b"a program");
        scene.keep(&release, "app", None);
        let writer = File::options().append(true).open(scene.path()).expect("opened");
        if !files::keep_unwritten(&File::open(scene.path()).expect("opened")).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            testing::not_shown("for want of leases on this file system: that nobody writes to a release");
            return;
        }
        scene.is_bad("somebody has it open for writing");
        drop(writer);
        let found = scene.prove().expect("it is proved");
        assert!(found.file.is_unwritten());
        // Who wants to write waits, and it shows.
        let blocked = File::options().append(true).custom_flags(nix::libc::O_NONBLOCK).open(scene.path()).expect_err("it would block");
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        assert!(!found.file.is_unwritten());
        drop(found);
        File::options().append(true).open(scene.path()).expect("nobody is in the way any more");
    }

    #[test]
    fn with_a_trusted_key_the_release_itself_must_be_signed_and_so_must_what_it_was_packed_in() {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key pair");
        let (mut scene, release) = Scene::new(b"\x7fELF a program");
        let sign = |contents: &[u8], name: &str| testing::sign(&pair, contents, &format!("timestamp:1700000000\tfile:{name}"));
        scene.demands.trusted_keys = vec![pair.pk.to_base64()];
        scene.keep(&release, "app", None);
        scene.is_bad("is not signed");
        let path = scene.path();
        scene.keep(&release, "app", Some((sign(b"another", "app"), &path)));
        scene.is_bad("has a broken signature");
        scene.keep(&release, "app", Some((sign(b"\x7fELF a program", "app"), &path)));
        scene.prove().expect("it is proved");
        #[cfg(feature = "unpack")]
        {
            let pack = |contents: &[u8]| {
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(contents).expect("packed");
                packer.finish().expect("packed")
            };
            let published = scene.directory.path().join("download");
            for (contents, why) in [(&b"\x7fELF another"[..], "is not what app.gz, which was signed, holds"), (b"\x7fELF a program", "")] {
                let packed = pack(contents);
                write(&published, &packed);
                scene.keep(&release, "app.gz", Some((sign(&packed, "app.gz"), &published)));
                // As the download is removed when it is proved.
                fs::remove_file(&published).expect("removed");
                if why.is_empty() { drop(scene.prove().expect("it is proved")) } else { scene.is_bad(why) }
            }
            fs::remove_file(published_path(scene.directory.path(), &release.id)).expect("removed");
            scene.is_bad("was published as app.gz, and ");
        }
    }
}
