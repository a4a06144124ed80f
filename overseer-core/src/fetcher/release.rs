//! What a fetcher answers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read};

/// The longest text of a `.minisig` file: 4 KiB. A release with a longer one is refused.
pub const SIGNATURE_BYTES_MAX: usize = 4096;

/// The outcome of one look that worked.
#[derive(Debug)]
pub struct Look {
    pub(crate) found: Found,
    pub(crate) memo: Option<String>,
}

#[derive(Debug)]
pub(crate) enum Found {
    Unchanged,
    Incomplete { why: String },
    Release(Box<Release>),
}

impl Look {
    /// The source offers nothing that is not settled.
    pub fn unchanged() -> Self {
        Self { found: Found::Unchanged, memo: None }
    }

    /// A release is being published and not whole yet; `why` names what is missing. Not a failure: looked at again after the
    /// usual interval.
    pub fn incomplete(why: impl Into<String>) -> Self {
        Self { found: Found::Incomplete { why: why.into() }, memo: None }
    }

    /// There is a release to try.
    pub fn release(release: Release) -> Self {
        Self { found: Found::Release(Box::new(release)), memo: None }
    }

    /// Remembers `memo` for the next look at the same source: validators of conditional requests, for example. Without it, what
    /// was remembered stays. For a release it is remembered once the body has been read to its end.
    #[must_use]
    pub fn remember(mut self, memo: impl Into<String>) -> Self {
        self.memo = Some(memo.into());
        self
    }

    /// The release, if there is one to try. For the tests of a fetcher.
    pub fn into_release(self) -> Option<Release> {
        match self.found {
            Found::Release(release) => Some(*release),
            Found::Unchanged | Found::Incomplete { .. } => None,
        }
    }

    /// Whether the source offers nothing that is not settled. For the tests of a fetcher.
    pub fn is_unchanged(&self) -> bool {
        matches!(self.found, Found::Unchanged)
    }

    /// What is missing of a release that is being published. For the tests of a fetcher.
    pub fn why_incomplete(&self) -> Option<&str> {
        match &self.found {
            Found::Incomplete { why } => Some(why),
            Found::Unchanged | Found::Release(_) => None,
        }
    }

    /// What is to be remembered for the next look. For the tests of a fetcher.
    pub fn memo(&self) -> Option<&str> {
        self.memo.as_deref()
    }
}

/// A binary that somebody published.
pub struct Release {
    pub(crate) tag: String,
    pub(crate) file_name: String,
    pub(crate) version: Option<String>,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) digests: Vec<Digest>,
    pub(crate) digests_beside: Vec<Digest>,
    pub(crate) signature: Option<String>,
    pub(crate) resumed_at: u64,
    pub(crate) body: Body,
}

/// Where the bytes of a published file come from.
pub(crate) enum Body {
    Blocking(Box<dyn Read + Send>),
    /// Needs the runtime that its fetcher ran on.
    #[cfg(feature = "tokio")]
    Async(std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>),
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Blocking(body) => body.read(buffer),
            #[cfg(feature = "tokio")]
            Self::Async(_) => Err(io::Error::other("a body made by Release::streamed can only be read for an AsyncFetcher")),
        }
    }
}

impl Release {
    /// A release with the source's `tag` for it, the `file_name` that says by its ending how to unpack it, and the bytes of the published file.
    ///
    /// `.gz` and `.zst` hold the program itself, `.tar`, `.tar.gz`, `.tgz`, `.tar.zst`, `.tzst` and `.zip` hold it among others (see
    /// [`Config::archive_entry`](crate::Config::archive_entry)); with an ending that says of a file that it is packed in another way, such as `.xz` or `.deb`, it is rejected. Any
    /// other name is that of the program as it is.
    ///
    /// A read of `body` that fails or that blocks for longer than `fetch_timeout` ends the look.
    ///
    /// To tell core that a *passing* error is not one, a reader may wrap a [`FetchError`](crate::FetchError) with [`std::io::Error::other`]: kind, text
    /// and pause are then taken from it.
    pub fn new(tag: impl Into<String>, file_name: impl Into<String>, body: impl Read + Send + 'static) -> Self {
        Self::with_body(tag.into(), file_name.into(), Body::Blocking(Box::new(body)))
    }

    /// The same, for an [`AsyncFetcher`](crate::AsyncFetcher): a body that is read on the runtime that the fetcher runs on.
    #[cfg(feature = "tokio")]
    pub fn streamed(tag: impl Into<String>, file_name: impl Into<String>, body: impl tokio::io::AsyncRead + Send + 'static) -> Self {
        Self::with_body(tag.into(), file_name.into(), Body::Async(Box::pin(body)))
    }

    fn with_body(tag: String, file_name: String, body: Body) -> Self {
        Self {
            tag,
            file_name,
            version: None,
            size_bytes: None,
            digests: Vec::new(),
            digests_beside: Vec::new(),
            signature: None,
            resumed_at: 0,
            body,
        }
    }

    /// What people call it: `v1.2.3`. For logs and the status only.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// The size of the whole published file in bytes, also when the body is resumed. A body that ends before or goes on after it
    /// fails the look, and a size above the limit fails it before the first read.
    #[must_use]
    pub fn size_bytes(mut self, size_bytes: u64) -> Self {
        self.size_bytes = Some(size_bytes);
        self
    }

    /// A digest of the whole published file, before unpacking, from the same answer as the file. May be given several times; each is checked, and a
    /// release that differs is rejected.
    #[must_use]
    pub fn digest(mut self, digest: Digest) -> Self {
        self.digests.push(digest);
        self
    }

    /// A digest of the whole published file that comes from a file of its own, such as `NAME.sha256`. One that differs need not mean a bad release: of
    /// two files that are published one after the other, one is older for a while. So it fails the look, and the release is looked at again.
    #[must_use]
    pub fn digest_beside(mut self, digest: Digest) -> Self {
        self.digests_beside.push(digest);
        self
    }

    /// The minisign signature of the whole published file, before unpacking: the text of its `.minisig` file. Asked for when
    /// [`Known::wants_signature`](crate::Known::wants_signature) says so; core checks it against the trusted keys of the program.
    #[must_use]
    pub fn signature(mut self, minisig: impl Into<String>) -> Self {
        self.signature = Some(minisig.into());
        self
    }

    /// The body starts at this byte of the published file; what lies before it are the bytes of [`Known::partial`](crate::Known::partial). Core refuses any
    /// other number than 0 or the size of that.
    #[must_use]
    pub fn resumed_at(mut self, byte: u64) -> Self {
        self.resumed_at = byte;
        self
    }

    /// What its source calls this version of it.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Reads from the body, as core does. For the tests of a fetcher.
    pub fn body(&mut self) -> &mut (dyn Read + Send) {
        &mut self.body
    }

    /// The digests of the whole published file, those that come from a file of their own at the end. For the tests of a fetcher.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.digests.iter().chain(&self.digests_beside)
    }

    /// The text of the signature. For the tests of a fetcher.
    pub fn minisig(&self) -> Option<&str> {
        self.signature.as_deref()
    }

    /// What people call it, if the source says. For the tests of a fetcher.
    pub fn version_name(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The name of the published file. For the tests of a fetcher.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The byte of the published file that the body starts at. For the tests of a fetcher.
    pub fn starts_at(&self) -> u64 {
        self.resumed_at
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Release")
            .field("tag", &self.tag)
            .field("file_name", &self.file_name)
            .field("version", &self.version)
            .field("size_bytes", &self.size_bytes)
            .field("digests", &self.digests)
            .field("digests_beside", &self.digests_beside)
            .field("is_signed", &self.signature.is_some())
            .field("resumed_at", &self.resumed_at)
            .finish_non_exhaustive()
    }
}

/// What the bytes of a published file must hash to, as its source says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub(crate) algorithm: DigestAlgorithm,
    pub(crate) bytes: Vec<u8>,
}

/// The hash functions that core can check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// SHA-1: finds damage, stops no attacker.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl DigestAlgorithm {
    /// The number of bytes of a digest.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl Digest {
    /// A digest from its raw bytes; `None` if the number of bytes does not fit the algorithm.
    pub fn new(algorithm: DigestAlgorithm, bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        (bytes.len() == algorithm.size_bytes()).then_some(Self { algorithm, bytes })
    }

    /// A digest from hexadecimal digits; `None` if they are none or too few or too many.
    pub fn from_hex(algorithm: DigestAlgorithm, digits: &str) -> Option<Self> {
        let digits = digits.as_bytes();
        if digits.len() != 2 * algorithm.size_bytes() {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let bytes = digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect::<Option<Vec<u8>>>()?;
        Self::new(algorithm, bytes)
    }

    /// Finds the SHA-256 of a release in a file as `sha256sum` writes it, `NAME.sha256` or `SHA256SUMS`: lines of `HEX`, `HEX  name` or
    /// `HEX *name`. Of several lines the one that names the release counts; a lone line needs no name. `None` if there is none.
    pub fn in_checksum_file(text: &str, file_name: &str) -> Option<Self> {
        let lines = || text.lines().map(|line| line.trim().trim_start_matches('\u{feff}')).filter(|line| !line.is_empty());
        let named = |line: &str| line.split_once(char::is_whitespace).is_some_and(|(_, name)| base_name(name) == file_name);
        let only = || lines().next().filter(|_| lines().count() == 1);
        let line = lines().find(|line| named(line)).or_else(only)?;
        Self::from_hex(DigestAlgorithm::Sha256, line.split_whitespace().next()?)
    }

    /// The hash function.
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// The digest in lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        crate::binary::hex(&self.bytes)
    }
}

fn base_name(name: &str) -> &str {
    let name = name.trim().trim_start_matches('*');
    name.rsplit('/').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The digest of nothing.
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn found(text: &str, file_name: &str) -> Option<String> {
        Digest::in_checksum_file(text, file_name).map(|digest| digest.to_hex())
    }

    #[test]
    fn each_form_of_a_checksum_file_is_read() {
        for text in [HEX.to_owned(), format!("{HEX}\n"), format!("{HEX}  app\n"), format!("{HEX} *app\r\n"), format!("{HEX}  dist/app\n")] {
            assert_eq!(found(&text, "app").as_deref(), Some(HEX), "{text:?}");
        }
        assert_eq!(found(&HEX.to_uppercase(), "app").as_deref(), Some(HEX));
        assert!(found(&format!("{HEX}  other-name\n"), "app").is_some(), "a lone line needs no name");
    }

    #[test]
    fn of_several_lines_the_one_that_names_the_release_counts() {
        let other = "0".repeat(64);
        let text = format!("{other}  app-arm\n{HEX}  app\n");
        assert_eq!(found(&text, "app").as_deref(), Some(HEX));
        assert_eq!(found(&text, "elsewhere"), None);
        assert_eq!(found("<html>", "app"), None);
        assert_eq!(found("", "app"), None);
    }

    #[test]
    fn a_digest_is_read_from_hex_and_only_from_hex_of_its_length() {
        let digits = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        let digest = Digest::from_hex(DigestAlgorithm::Sha1, digits).expect("it is a SHA-1");
        assert_eq!(digest.to_hex(), digits);
        assert_eq!(Digest::from_hex(DigestAlgorithm::Sha256, digits), None);
        assert_eq!(Digest::from_hex(DigestAlgorithm::Sha1, &digits.replace('d', "+")), None);
        assert_eq!(Digest::from_hex(DigestAlgorithm::Sha1, &digits.replace('d', "é")[..40]), None);
    }
}
