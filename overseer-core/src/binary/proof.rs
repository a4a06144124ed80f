//! What a release has to prove before it is started, and why it did not.
//!
//! In this order: what its signature says; its size and its digests (while it is downloaded), its signature, unpacking, the header of an executable for this machine, the marker
//! that core puts into every program, the self-check. A file that fails one is not looked at any further, and one
//! without the marker is never executed.

use super::header::{self, Executable};
use super::{Refusal, marker};
use crate::fetcher::{Digest, DigestAlgorithm};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use std::fs::File;
use std::io;

/// Looks whether the file is an overseer program for this machine, without executing it. Of a script nobody can tell; it is one if it answers the self-check.
///
/// # Errors
/// It is not, or it cannot be read; then nobody is blamed.
pub(crate) fn prove_contents(file: &File, allow_scripts: bool) -> Result<(), Refusal> {
    if header::prove(file, allow_scripts)? == Executable::Script {
        return Ok(());
    }
    let unreadable = |error: io::Error| Refusal::blameless(format!("the staged file cannot be read: {error}"));
    if marker::is_in(file).map_err(unreadable)? {
        return Ok(());
    }
    Err(Refusal::reject("is an executable, but not an overseer program: it calls neither run nor Upgrade, or a packer has changed it"))
}

/// Hashes a published file while it comes in: once for each algorithm, however many digests its source names.
pub(crate) struct Hashes {
    said: Vec<Digest>,
    hashes: Vec<(DigestAlgorithm, Hash)>,
}

enum Hash {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hashes {
    pub(crate) fn new(digests: &[Digest]) -> Self {
        let mut hashes: Vec<(DigestAlgorithm, Hash)> = Vec::new();
        for Digest { algorithm, .. } in digests {
            if hashes.iter().any(|(known, _)| known == algorithm) {
                continue;
            }
            let hash = match algorithm {
                DigestAlgorithm::Sha1 => Hash::Sha1(Sha1::new()),
                DigestAlgorithm::Sha256 => Hash::Sha256(Sha256::new()),
                DigestAlgorithm::Sha512 => Hash::Sha512(Sha512::new()),
            };
            hashes.push((*algorithm, hash));
        }
        Self { said: digests.to_vec(), hashes }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for (_, hash) in &mut self.hashes {
            match hash {
                Hash::Sha1(hash) => hash.update(bytes),
                Hash::Sha256(hash) => hash.update(bytes),
                Hash::Sha512(hash) => hash.update(bytes),
            }
        }
    }

    /// Compares with what the source says.
    ///
    /// # Errors
    /// One of them differs: the file is damaged, or another one.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        for (algorithm, hash) in self.hashes {
            let (name, bytes) = match hash {
                Hash::Sha1(hash) => ("SHA-1", hash.finalize().to_vec()),
                Hash::Sha256(hash) => ("SHA-256", hash.finalize().to_vec()),
                Hash::Sha512(hash) => ("SHA-512", hash.finalize().to_vec()),
            };
            let of_it = |said: &&Digest| said.algorithm == algorithm;
            if let Some(said) = self.said.iter().filter(of_it).find(|said| said.bytes != bytes) {
                return Err(Refusal::reject(format!("has the {name} {}, and its source says {}", super::hex(&bytes), said.to_hex())));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::protocol::Verdict;
    use std::fs;

    #[test]
    fn every_digest_is_compared() {
        let digests = [
            Digest::from_hex(DigestAlgorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d").expect("a digest"),
            Digest::from_hex(DigestAlgorithm::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad").expect("a digest"),
            Digest::from_hex(
                DigestAlgorithm::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            )
            .expect("a digest"),
        ];
        for count in 0..=digests.len() {
            let mut hashes = Hashes::new(&digests[..count]);
            hashes.update(b"a");
            hashes.update(b"bc");
            assert_eq!(hashes.finish(), Ok(()));
        }
        for digest in &digests {
            let mut hashes = Hashes::new(&[digests[0].clone(), digest.clone()]);
            hashes.update(b"abd");
            let refusal = hashes.finish().expect_err("it is another file");
            assert_eq!(refusal.verdict, Verdict::Reject);
            assert!(refusal.why.contains(&digests[0].to_hex()), "{}", refusal.why);
        }
    }

    #[test]
    fn many_digests_of_one_algorithm_are_one_hash_and_each_is_compared() {
        let right = Digest::from_hex(DigestAlgorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d").expect("a digest");
        let wrong = Digest::new(DigestAlgorithm::Sha1, [0; 20]).expect("a digest");
        let mut many = vec![right; 4000];
        let finished = |digests: &[Digest]| {
            let mut hashes = Hashes::new(digests);
            assert_eq!(hashes.hashes.len(), 1);
            hashes.update(b"abc");
            hashes.finish()
        };
        assert_eq!(finished(&many), Ok(()));
        many.push(wrong.clone());
        assert!(finished(&many).expect_err("one is wrong").why.ends_with(&wrong.to_hex()));
    }

    #[test]
    fn this_program_is_one_and_another_is_not() {
        let own = File::open("/proc/self/exe").expect("opened");
        assert_eq!(prove_contents(&own, false), Ok(()));
        let refusal = prove_contents(&File::open("/bin/true").expect("opened"), false).expect_err("it does not call run");
        assert_eq!(refusal.verdict, Verdict::Reject);
        assert!(refusal.why.contains("not an overseer program"), "{}", refusal.why);
    }

    #[test]
    fn what_is_no_executable_is_called_by_its_name() {
        let directory = testing::directory();
        let path = directory.path().join("release");
        let random: Vec<u8> = (0..4096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect();
        for (contents, word) in [
            (&b""[..], "is empty"),
            (b"#!/bin/sh\necho hello\n", "is a script (#!/bin/sh)"),
            (b"echo hello\n", "is text"),
            (b"<!DOCTYPE html>\n<html>not found</html>", "is an HTML page"),
            (b"\x1f\x8b\x08\0\0\0\0\0", "is compressed with gzip"),
            (b"PK\x03\x04\0\0\0\0", "is a zip archive"),
            (b"MZ\x90\0\x03\0\0\0", "is a Windows program"),
            (b"\xcf\xfa\xed\xfe\x0c\0\0\x01", "is a macOS program for aarch64, not an executable for this machine"),
            (b"\x7fELF", "is cut off"),
            (&random, "is no executable"),
        ] {
            fs::write(&path, contents).expect("written");
            let refusal = prove_contents(&File::open(&path).expect("opened"), false).expect_err("it is no executable");
            assert!(refusal.why.contains(word), "{word}: {}", refusal.why);
            assert_eq!(refusal.verdict, Verdict::Reject);
        }
    }
}
