//! Minisign signatures: whose a release is, which file it is, and when it was signed.
//!
//! Two steps. [`Demands::examine`] reads the signature before the first byte of the release is asked for, and refuses what needs no proof to be
//! refused: no signature, an unknown key, the name of another file, a time that is older than that of the installed release. [`Signed::prove`]
//! then reads the published file, as it was downloaded and still packed, and only what it has proved is accepted or remembered.
//!
//! Nothing here is rejected for ever: a signature is a file of its own, which can be published anew without a change of the release, and what
//! is too old for one installed release may not be for another. So all refusals are [`Verdict::Mendable`](crate::protocol::Verdict::Mendable).

use super::{Demands, Refusal};
use crate::fetcher::SIGNATURE_BYTES_MAX;
use crate::message::{Date, cut};
use minisign_verify::{PublicKey, Signature, StreamVerifier};
use std::fmt;
use std::io::{self, Read};

/// A signature may be so far ahead of this machine's clock.
const AHEAD_S_MAX: u64 = 24 * 60 * 60;
/// A clock that shows less was never set: 2025-01-01.
const CLOCK_UNIX_S_MIN: u64 = 1_735_689_600;
/// The letters of a public key.
const KEY_LETTERS: usize = 56;
const PIECE_BYTES: usize = 128 * 1024;

/// What minisign calls a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// A key that may sign releases.
#[derive(Debug)]
struct TrustedKey {
    key: PublicKey,
    id: KeyId,
}

impl TrustedKey {
    /// Reads a key as `minisign -G` shows it (`RW...`), or the two lines of its `.pub` file.
    fn read(text: &str) -> Result<Self, &'static str> {
        let line = key_line(text)?;
        if line.len() > KEY_LETTERS {
            return Err("it is longer than the public key of minisign; a secret key must never be in a program");
        }
        let no_key = "it is not a public key of minisign (RW and 54 more letters, or the two lines of a .pub file)";
        let key = PublicKey::from_base64(line).map_err(|_| no_key)?;
        let Head { key: id, .. } = Head::read(line).ok_or(no_key)?;
        Ok(Self { key, id })
    }
}

/// The line with the key in it.
fn key_line(text: &str) -> Result<&str, &'static str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("untrusted comment:"));
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line),
        (Some(_), Some(_)) => Err("there is more than one line with a key; trusted_key takes one, and may be called for each"),
        (None, _) => Err("there is no key in it"),
    }
}

/// Finds out what is wrong with the text of a trusted key. Answers what may be shown of it, and the reason.
pub(crate) fn check_key(text: &str) -> Result<(), (String, &'static str)> {
    TrustedKey::read(text).map(drop).map_err(|why| {
        let line = key_line(text).unwrap_or(text.trim());
        // Not all of what may be a secret key.
        let shown = if line.len() > KEY_LETTERS { format!("{}...", cut(line, 8)) } else { line.to_owned() };
        (shown, why)
    })
}

/// What a key and a signature begin with: the algorithm and the key's ID.
struct Head {
    algorithm: [u8; 2],
    key: KeyId,
}

impl Head {
    fn read(base64: &str) -> Option<Self> {
        const LETTERS: usize = 14;
        let letters = base64.as_bytes().get(..LETTERS)?;
        let bits = letters.iter().try_fold(0, |bits: u128, letter| Some(bits << 6 | u128::from(value_of(*letter)?)))?;
        // Ten bytes are 80 bits, and 14 letters have 84.
        let [.., a, b, c0, c1, c2, c3, c4, c5, c6, c7] = (bits >> 4).to_be_bytes();
        Some(Self { algorithm: [a, b], key: KeyId(u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7])) })
    }
}

fn value_of(letter: u8) -> Option<u8> {
    match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// A signature that says the right things and is not proved yet.
pub(crate) struct Signed {
    signature: Signature,
    /// The trusted keys with its key ID: one, unless somebody has made two alike.
    keys: Vec<PublicKey>,
    unix_s: Option<u64>,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("trusted_comment", &self.signature.trusted_comment()).finish_non_exhaustive()
    }
}

impl Demands {
    /// Looks at the signature of a release with this file name. `installed_unix_s` is the signed time of the installed release. `None`
    /// if the program trusts no key, and so takes every release.
    ///
    /// # Errors
    /// What is wrong with it, or that there is none.
    pub(crate) fn examine(
        &self,
        minisig: Option<&str>,
        file_name: &str,
        installed_unix_s: Option<u64>,
        now_unix_s: u64,
    ) -> Result<Option<Signed>, Refusal> {
        if self.trusted_keys.is_empty() {
            return Ok(None);
        }
        // They were checked with the other settings.
        let trusted: Vec<TrustedKey> = self.trusted_keys.iter().filter_map(|text| TrustedKey::read(text).ok()).collect();
        let ids = || trusted.iter().map(|key| key.id.to_string()).collect::<Vec<_>>().join(", ");
        let Some(minisig) = minisig else {
            return Err(Refusal::mendable(format!("is not signed, and is taken only with a signature by a trusted key ({})", ids())));
        };
        let (signature, head) = read(minisig)?;
        if head.algorithm == *b"Ed" {
            let why = "has a signature of minisign's old kind, which is not prehashed: sign it with minisign 0.11 or later, or with -H";
            return Err(Refusal::mendable(why));
        }
        let keys: Vec<PublicKey> = trusted.iter().filter(|key| key.id == head.key).map(|key| key.key.clone()).collect();
        if keys.is_empty() {
            return Err(Refusal::mendable(format!("is signed with the key {}, which is no trusted one ({})", head.key, ids())));
        }
        let said = Said::of(&signature);
        if let Some(name) = said.file_name.filter(|name| base_name(name) != base_name(file_name)) {
            let why = format!("has the signature of another file: of {}, and its own name is {}", base_name(name), base_name(file_name));
            return Err(Refusal::mendable(why));
        }
        if !self.allow_downgrade {
            refuse_downgrade(said.unix_s, installed_unix_s)?;
            refuse_ahead(said.unix_s, installed_unix_s, now_unix_s)?;
        }
        let unix_s = said.unix_s;
        Ok(Some(Signed { signature, keys, unix_s }))
    }
}

fn read(minisig: &str) -> Result<(Signature, Head), Refusal> {
    if minisig.len() > SIGNATURE_BYTES_MAX {
        let why = format!("has a signature of {} bytes, more than {SIGNATURE_BYTES_MAX}", minisig.len());
        return Err(Refusal::mendable(why));
    }
    let signature = Signature::decode(minisig).ok();
    let head = minisig.lines().nth(1).and_then(Head::read);
    signature.zip(head).ok_or_else(|| Refusal::mendable("has a signature that cannot be read: it is not what minisign writes"))
}

/// A release that was signed before the installed one is an old one that somebody offers again. The same time passes: one release may be
/// published in several forms.
fn refuse_downgrade(signed_unix_s: Option<u64>, installed_unix_s: Option<u64>) -> Result<(), Refusal> {
    let Some(installed) = installed_unix_s else { return Ok(()) };
    let why = match signed_unix_s {
        Some(signed) if signed >= installed => return Ok(()),
        Some(signed) => {
            format!("was signed {}, before the installed release ({}); allow_downgrade would take it", Date(signed), Date(installed))
        }
        None => format!(
            "has a signature without a timestamp, and that of the installed release has one ({}); allow_downgrade would take it",
            Date(installed)
        ),
    };
    Err(Refusal::mendable(why))
}

/// Once installed, a release that was signed by a machine whose clock was ahead would keep out all that are signed until then. A clock of our own
/// that was never set, or that shows less than what was signed already, tells nothing.
fn refuse_ahead(signed_unix_s: Option<u64>, installed_unix_s: Option<u64>, now_unix_s: u64) -> Result<(), Refusal> {
    let is_clock_set = now_unix_s >= installed_unix_s.unwrap_or(0).max(CLOCK_UNIX_S_MIN);
    match signed_unix_s {
        Some(signed) if is_clock_set && signed > now_unix_s.saturating_add(AHEAD_S_MAX) => {
            let why = format!("was signed {}, more than a day ahead of this machine's clock ({})", Date(signed), Date(now_unix_s));
            Err(Refusal::mendable(why))
        }
        _ => Ok(()),
    }
}

impl Signed {
    /// Reads the published file and compares. Answers the signed time, if the signature has one.
    ///
    /// # Errors
    /// The file could not be read; or, inside, the signature is not of this file.
    pub(crate) fn prove(&self, mut published: impl Read) -> io::Result<Result<Option<u64>, Refusal>> {
        let started = self.keys.iter().filter_map(|key| key.verify_stream(&self.signature).ok());
        let mut verifiers: Vec<StreamVerifier<'_>> = started.collect();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match published.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => verifiers.iter_mut().for_each(|verifier| verifier.update(&buffer[..bytes])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if verifiers.iter_mut().any(|verifier| verifier.finalize().is_ok()) {
            return Ok(Ok(self.unix_s));
        }
        let why = "has a broken signature: the file or its signature was changed, or they are of two versions";
        Ok(Err(Refusal::mendable(why)))
    }
}

/// What the trusted comment says. A comment of the signer's own may say neither.
struct Said<'a> {
    file_name: Option<&'a str>,
    unix_s: Option<u64>,
}

impl<'a> Said<'a> {
    fn of(signature: &'a Signature) -> Self {
        let field = |name| signature.trusted_comment().split('\t').find_map(move |field| field.strip_prefix(name));
        Self { file_name: field("file:"), unix_s: field("timestamp:").and_then(|seconds| seconds.parse().ok()) }
    }
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests;
