//! What a release has to show before it is installed, and how one that cannot is refused.

use super::signature::check_key;
use crate::Error;
use crate::protocol::Verdict;

/// What a release has to show before it is installed, as the program's settings have it.
#[derive(Debug, Clone)]
pub(crate) struct Demands {
    /// Before and after unpacking.
    pub(crate) size_bytes_max: u64,
    /// Keys as minisign writes them (`RW...`). With any, a release must be signed with one of them.
    pub(crate) trusted_keys: Vec<String>,
    /// Whether a release may have been signed before the installed one.
    pub(crate) allow_downgrade: bool,
    /// The program in an archive, in place of the entry that is named like the program's file.
    pub(crate) archive_entry: Option<String>,
    /// Whether a release may be a script that starts an overseer program.
    pub(crate) allow_scripts: bool,
}

impl Default for Demands {
    fn default() -> Self {
        Self { size_bytes_max: 1 << 30, trusted_keys: Vec::new(), allow_downgrade: false, archive_entry: None, allow_scripts: false }
    }
}

impl Demands {
    /// Finds what no release could fulfil.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.size_bytes_max == 0 {
            return Err(Error::setting("size_bytes_max", 0, "no release could ever be that small"));
        }
        for key in &self.trusted_keys {
            check_key(key).map_err(|(shown, why)| Error::setting("trusted_key", shown, why))?;
        }
        let names_no_file = |entry: &&String| entry.trim_start_matches("./").is_empty() || entry.ends_with('/');
        if let Some(entry) = self.archive_entry.as_ref().filter(names_no_file) {
            return Err(Error::setting("archive_entry", entry, "it must end with the name of a file"));
        }
        Ok(())
    }
}

/// Why a release is not to be started, and what is to become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) verdict: Verdict,
    pub(crate) why: String,
}

impl Refusal {
    /// It is not tried again.
    pub(crate) fn reject(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Reject, why: why.into() }
    }

    /// It is tried again later, however often it fails: what is wrong can be mended without another release.
    pub(crate) fn mendable(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Mendable, why: why.into() }
    }

    /// It is tried again later.
    pub(crate) fn hold_back(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::HoldBack, why: why.into() }
    }

    /// The system is to blame.
    pub(crate) fn blameless(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Blameless, why: why.into() }
    }
}
