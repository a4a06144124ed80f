//! What core tells a fetcher about the past.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The longest memo that is kept: 4 KiB. A longer one is dropped with a warning, and the next look has none.
pub const MEMO_BYTES_MAX: usize = 4096;

/// What is known of a source when a fetcher looks at it. [`Known::nothing`] makes an empty one for tests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    pub(crate) settled: Vec<String>,
    pub(crate) id: Option<String>,
    pub(crate) size_bytes: u64,
    #[serde(with = "crate::protocol::path")]
    pub(crate) path: PathBuf,
    pub(crate) memo: Option<String>,
    pub(crate) partial: Option<Partial>,
    /// Said by the poll process, whose settings are those of the running version.
    #[serde(skip)]
    pub(crate) wants_signature: bool,
}

/// The beginning of a release whose download broke off. Core keeps its bytes; see [`Release::resumed_at`](crate::Release::resumed_at).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The tag of the release that it is the beginning of.
    pub tag: String,
    /// How many bytes of the published file are there.
    pub size_bytes: u64,
}

impl Known {
    /// A source of which nothing is known yet.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// The same, with one more settled tag. For the tests of a fetcher.
    #[must_use]
    pub fn with_settled(mut self, tag: impl Into<String>) -> Self {
        self.settled.push(tag.into());
        self
    }

    /// The same, with a memo from an earlier look. For the tests of a fetcher.
    #[must_use]
    pub fn with_memo(mut self, memo: impl Into<String>) -> Self {
        self.memo = Some(memo.into());
        self
    }

    /// The same, with the first `size_bytes` of the release called `tag`. For the tests of a fetcher.
    #[must_use]
    pub fn with_partial(mut self, tag: impl Into<String>, size_bytes: u64) -> Self {
        self.partial = Some(Partial { tag: tag.into(), size_bytes });
        self
    }

    /// The same, for a program that trusts only signed releases. For the tests of a fetcher.
    #[must_use]
    pub fn with_wanted_signature(mut self) -> Self {
        self.wants_signature = true;
        self
    }

    /// Whether nothing is to be done about the release with this tag: it is installed, or was rejected, or is held back and
    /// its time has not come.
    pub fn is_settled(&self, tag: &str) -> bool {
        self.settled.iter().any(|settled| settled == tag)
    }

    /// The ID (SHA-1 in hex) of the running binary, where it is known already.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The size of the running binary, in bytes; 0 if it could not be read.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The path of the running binary.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What this fetcher asked to remember in its last successful look at the same source.
    pub fn memo(&self) -> Option<&str> {
        self.memo.as_deref()
    }

    /// Whether the program has trusted keys, so that a release without a signature is of no use to it. A fetcher then gets the
    /// `.minisig` file beside the release for [`Release::signature`](crate::Release::signature), and answers
    /// [`Look::incomplete`](crate::Look::incomplete) while that is not there yet. It reads no more of it than
    /// [`SIGNATURE_BYTES_MAX`](crate::SIGNATURE_BYTES_MAX) and one byte, which is enough for core to refuse it.
    ///
    /// A release whose signature is not accepted is held back by its tag: for 10 min, then for an hour each time. Where the source tells the version of the
    /// signature without one more request, it belongs into the tag, so that a release that is signed anew is tried at once.
    pub fn wants_signature(&self) -> bool {
        self.wants_signature
    }

    /// The beginning of a release whose download broke off in an earlier look. Only of use to a fetcher that can ask its
    /// source for the rest; others answer the whole release, and core starts over.
    pub fn partial(&self) -> Option<&Partial> {
        self.partial.as_ref()
    }
}
