//! What master and child say to each other, and the frames it travels in.
//!
//! A frame is a length (u32, little endian, at most [`FRAME_BYTES_MAX`]) and a JSON object. `type` says which message it is and
//! `fds`, if there, how many descriptors came with it (`SCM_RIGHTS`). Both sides are built at different times, so: an unknown
//! message and an unknown field are ignored, a missing field has a default, and `Hello` names the range of protocol versions
//! that the child speaks. The frames of `tests/golden` are kept for ever: what they say must go on being understood.
//!
//! This module moves no bytes; `sys::link` does. It holds for poll and check processes too, which say other things in the same frames.

use crate::binary::{Identity, Packaged};
use crate::fetcher::{FetchError, Known};
use crate::supervisor::Settings;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

pub(crate) mod path;

/// The longest frame, without its length.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024;

/// The most addresses of one program: Linux passes at most 253 descriptors in one message (`SCM_MAX_FD`, unix(7)).
pub(crate) const ADDRESSES_MAX: usize = 253;

/// In the place of a length: the new process could not execute the file; the low 16 bits are the error number. It is all that
/// a process before its exec can write without allocating.
pub(crate) const EXEC_FAILED: u32 = 0xEEEE_0000;

/// The protocol versions that this build speaks.
pub(crate) const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Versions {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl Versions {
    /// The newest version that both speak.
    pub(crate) fn common(self, other: Versions) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl Default for Versions {
    /// What a side speaks that does not say: the first version.
    fn default() -> Self {
        Self { min: 1, max: 1 }
    }
}

/// Child to master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToMaster {
    /// The first message: what the program needs.
    Hello(Box<Hello>),
    /// The program follows `Drain`, so it needs no SIGTERM.
    Drains,
    /// The program serves.
    Ready,
    /// The program asks to be restarted.
    Restart,
    /// The program asks for a look at the source now.
    Poll,
    /// The answer to `Ping`.
    Pong,
    /// How many pieces of work a generation that drains has open: connections of core's types, and guards. Sent once a second at most, and when it has changed.
    Open {
        #[serde(default)]
        count: u64,
    },
    /// The answer to [`ProofOrder`] of a process that does not become the file; the text goes on from its path.
    Unproved {
        #[serde(default)]
        why: String,
    },
    /// From a newer build.
    #[serde(other)]
    Unknown,
}

/// What a child says of itself and asks for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Hello {
    pub(crate) protocol: Versions,
    /// The addresses that the program wants to listen on, in its order.
    pub(crate) addresses: Vec<Wanted>,
    pub(crate) settings: Settings,
}

/// An address as a program writes it down.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Wanted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) text: String,
    /// What the host's name stands for, as the child has found out: the master waits for no resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resolved: Vec<SocketAddr>,
    /// Whose the file of a Unix socket is to be, in numbers for the same reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
}

/// Whose a file is to be; `None` leaves that as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Owner {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

/// Master to child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToChild {
    /// The answer to `Hello`; the listeners come with it, in the order asked for.
    Welcome(Welcome),
    /// The answer to `Hello` when it cannot be fulfilled; the child ends.
    Refused(Refused),
    /// The generation is committed: it may accept, if it asked to wait until then, and datagrams are its own.
    Accept,
    /// Finish what is open and leave.
    Drain(Drain),
    /// Asks for a `Pong`.
    Ping,
    /// Somebody who outlives the master keeps more of its listeners than `Welcome` has said.
    Kept(Kept),
    /// From a newer build.
    #[serde(other)]
    Unknown,
}

/// What a child is told of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Welcome {
    pub(crate) protocol: u32,
    pub(crate) generation: u64,
    /// The SHA-1 of the binary, where the master knows it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(with = "path")]
    pub(crate) path: PathBuf,
    /// What each listener is bound to, in the order asked for.
    pub(crate) addresses: Vec<String>,
    /// Which of them somebody keeps who outlives the master, as the service manager does: an orphan does not shut these down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) kept: Vec<usize>,
    /// [`ToChild::Ping`] will come, and wants an answer whatever the program does.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) pings: bool,
}

/// Why a child gets no listeners.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Refused {
    /// The address that could not be had; none if it is not about an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    pub(crate) why: String,
}

/// Until when a child may finish what is open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Drain {
    /// Milliseconds from now; then it is killed.
    pub(crate) within_ms: u64,
}

/// Listeners that an orphan does not shut down.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// What they are bound to.
    pub(crate) addresses: Vec<String>,
}

/// Poll process to master.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum FromPoll {
    /// Bytes came; the time-out starts anew. At most one a second.
    Progress {
        #[serde(default)]
        bytes: u64,
    },
    /// The last message. With [`Outcome::Staged`] comes one descriptor: the staged file, opened for reading and flocked.
    Report(Box<Report>),
    #[serde(other)]
    Unknown,
}

/// Master to poll process: the only message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Order {
    pub(crate) known: Known,
    /// The program's file, symlinks resolved.
    #[serde(with = "path")]
    pub(crate) path: PathBuf,
    #[serde(with = "path")]
    pub(crate) state_dir: PathBuf,
    /// The file that the active generation runs. If the path holds another one, nothing is fetched.
    pub(crate) running: Identity,
    /// Releases that are rejected or held back, by ID: they are not staged under another tag either.
    pub(crate) judged: Vec<String>,
    /// When the installed release was signed, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) installed_signed_unix_s: Option<u64>,
    /// What is new is to be named, and not to be staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) naming: Option<Naming>,
    /// Where the release goes, if not to `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<StoreOrder>,
}

/// What is known of the running file, for a look that is only to name what is new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Naming {
    /// The source has a tag for it, so a release with another one is another file.
    pub(crate) is_identified: bool,
    /// The tag of a release that is known to be another file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) differs: Option<String>,
}

/// What a poll process has to know of a binary store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoreOrder {
    /// Where releases are committed to.
    #[serde(with = "path")]
    pub(crate) target: PathBuf,
    #[serde(with = "path")]
    pub(crate) packaged_path: PathBuf,
    /// If the file at that path is another one, nothing is fetched.
    pub(crate) packaged: Packaged,
}

/// How a look ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// What the fetcher wants remembered; `None` keeps the old one.
    #[serde(default)]
    pub(crate) memo: Option<String>,
    /// The SHA-1 of the running binary, for which nobody else has the time.
    #[serde(default)]
    pub(crate) running_id: Option<String>,
    /// The packaged file with its hash, where that was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packaged: Option<Packaged>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    Unchanged,
    /// The release has the ID of the running binary: its tag is settled.
    Same {
        release: ReleaseName,
    },
    /// The release has an ID that is rejected or held back, under another tag.
    Judged {
        release: ReleaseName,
    },
    Incomplete {
        why: String,
    },
    Failed {
        error: FetchError,
    },
    /// The release could not be proved, or could not be proved here and now.
    Refused {
        release: ReleaseName,
        verdict: Verdict,
        why: String,
    },
    Staged(Staged),
    /// There is a release, which was only to be named.
    Named {
        release: ReleaseName,
    },
    /// From a newer build.
    #[serde(other)]
    Unknown,
}

/// What is to happen with a release that was not proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Reject,
    /// The system is to blame (disk full, no right): the next look tries again.
    Blameless,
    /// Held back, and never rejected: its signature or the settings can be mended, and the release stays the same.
    Mendable,
    /// Also what a newer build says that is unknown here.
    #[serde(other)]
    HoldBack,
}

/// What a release is called. Displayed, it reads `release v1.2 (3f2a9c01d4e7)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseName {
    /// The SHA-1 in hex; empty where the release never became a whole file.
    pub(crate) id: String,
    pub(crate) tag: String,
    pub(crate) source: String,
    pub(crate) version: Option<String>,
    /// When it was signed, in seconds since 1970; none if that was not proved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signed_unix_s: Option<u64>,
}

impl ReleaseName {
    /// The SHA-1 of the binary, in hex; `None` where the release never became a whole file.
    pub fn id(&self) -> Option<&str> {
        Some(self.id.as_str()).filter(|id| !id.is_empty())
    }

    /// What its source calls it; `None` of a binary that core did not fetch.
    pub fn tag(&self) -> Option<&str> {
        Some(self.tag.as_str()).filter(|tag| !tag.is_empty())
    }

    /// What people call it, if its source says.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether both are what a source calls by one tag.
    pub(crate) fn is_called_as(&self, other: &Self) -> bool {
        (&self.source, &self.tag) == (&other.source, &other.tag)
    }

    /// Whether both are one release: by ID, or by source and tag where it never became a whole file.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        if self.id.is_empty() || other.id.is_empty() {
            return self.id == other.id && self.source == other.source && self.tag == other.tag;
        }
        self.id == other.id
    }
}

/// Its tag, which people did not choose, is shown only if it has no other name.
impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.version(), self.id.get(..12), self.tag()) {
            (Some(version), Some(id), _) => write!(f, "release {version} ({id})"),
            (Some(version), None, _) => write!(f, "release {version}"),
            (None, Some(id), _) => write!(f, "release {id}"),
            (None, None, Some(tag)) => write!(f, "release with the tag {tag}"),
            (None, None, None) => f.write_str("a release without a name"),
        }
    }
}

/// A proved release that lies beside the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) release: ReleaseName,
    /// `.NAME.new-XXXX` in the program's directory.
    #[serde(with = "path")]
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// The file at the program's path when the upgrade began.
    pub(crate) started_from: Identity,
    /// A link to or a copy of that file in the state directory, to become `previous`.
    #[serde(with = "path")]
    pub(crate) previous: PathBuf,
}

/// Master to a process that is to prove a file in the binary store and to become it, as a child: the first message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProofOrder {
    #[serde(with = "path")]
    pub(crate) path: PathBuf,
    /// The file that the master has found there.
    pub(crate) identity: Identity,
    #[serde(with = "path")]
    pub(crate) state_dir: PathBuf,
    #[serde(with = "path")]
    pub(crate) packaged_path: PathBuf,
    pub(crate) packaged: Packaged,
}

/// Master (or poll process) to check process: the only message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CheckOrder {
    pub(crate) token: String,
    /// A descriptor came with it: what a master hands over to the one that replaces it, to be read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) snapshot: bool,
}

/// Check process to the one that started it: the only message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Checked {
    pub(crate) token: String,
    pub(crate) protocol: Versions,
    /// What is wrong with the settings on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// The file that the check process executes: another one than the staged file, if that is a script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) executable: Option<Identity>,
    /// This build can be a master that replaces another one.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) reads_snapshots: bool,
    /// Why it could not go on with this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot_problem: Option<String>,
}

/// Why the other side is no longer listened to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FrameError {
    #[error("a frame of {bytes} bytes, more than {FRAME_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("a frame that is not a message")]
    Garbage { source: serde_json::Error },
    #[error("a frame names {named} descriptors and {came} came")]
    Descriptors { named: usize, came: usize },
    #[error("descriptors were cut off on their way (MSG_CTRUNC)")]
    Truncated,
    #[error("the frame broke off after {bytes} bytes")]
    BrokenOff { bytes: usize },
    #[error("more than {per_second} messages in a second")]
    Flood { per_second: u32 },
}

/// A message on its way, with the number of descriptors beside it.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    #[serde(flatten)]
    message: T,
    #[serde(default, skip_serializing_if = "is_zero")]
    fds: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The bytes of a frame that carries `message` and names `fds` descriptors.
///
/// # Errors
/// [`FrameError::TooLong`] and [`FrameError::Garbage`], if the message cannot be said.
pub(crate) fn encode<T: Serialize>(message: &T, fds: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, &Envelope { message, fds }).map_err(|source| FrameError::Garbage { source })?;
    let bytes = frame.len() - 4;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= FRAME_BYTES_MAX).ok_or(FrameError::TooLong { bytes })?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// What came out of the stream of bytes.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame<T> {
    /// A message and the number of descriptors that belong to it.
    Message(T, usize),
    /// The file could not be executed; the error number.
    ExecFailed(i32),
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The number of bytes that wait for the rest of their frame.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Those bytes.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether [`Decoder::next`] would answer something else than `None`.
    pub(crate) fn holds_frame(&self) -> bool {
        self.bytes.split_first_chunk::<4>().is_some_and(|(length, rest)| {
            let length = u32::from_le_bytes(*length);
            length as usize > FRAME_BYTES_MAX || rest.len() >= length as usize
        })
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// The stream cannot be followed any further.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<Frame<T>>, FrameError> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length);
        if length & 0xFFFF_0000 == EXEC_FAILED {
            let errno = i32::from(u16::try_from(length & 0xFFFF).unwrap_or_default());
            self.bytes.drain(..4);
            return Ok(Some(Frame::ExecFailed(errno)));
        }
        let length = length as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { bytes: length });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let envelope: Envelope<T> = serde_json::from_slice(body).map_err(|source| FrameError::Garbage { source })?;
        self.bytes.drain(..4 + length);
        Ok(Some(Frame::Message(envelope.message, envelope.fds)))
    }
}

#[cfg(test)]
mod tests;
