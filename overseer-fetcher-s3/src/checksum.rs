//! What an object carries to be checked by. Core compares the digests; CRCs are compared here, while the body comes.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ChecksumType;
use aws_smithy_types::base64;
use crc_fast::CrcAlgorithm;
use overseer_core::{Digest, DigestAlgorithm};

/// The checksums of a whole object.
#[derive(Default)]
pub(crate) struct Checksums {
    pub(crate) digests: Vec<Digest>,
    pub(crate) crc: Option<Crc>,
}

impl Checksums {
    /// Reads what HEAD tells. The checksum of a checksum of parts (COMPOSITE, or `...-3`) says nothing of the whole and is passed over.
    ///
    /// # Errors
    /// What cannot be read, with its value. Passing it over would install a release that was meant to be checked.
    pub(crate) fn of(head: &HeadObjectOutput) -> Result<Self, String> {
        let mut checksums = Self::default();
        if head.checksum_type() == Some(&ChecksumType::Composite) {
            return Ok(checksums);
        }
        for (algorithm, name, value) in [
            (DigestAlgorithm::Sha1, "sha1", head.checksum_sha1()),
            (DigestAlgorithm::Sha256, "sha256", head.checksum_sha256()),
            (DigestAlgorithm::Sha512, "sha512", head.checksum_sha512()),
        ] {
            let Some(value) = whole(value) else { continue };
            let digest = base64::decode(value).ok().and_then(|bytes| Digest::new(algorithm, bytes));
            checksums.digests.push(digest.ok_or_else(|| unreadable(name, value))?);
        }
        for (algorithm, name, value) in [
            (CrcAlgorithm::Crc64Nvme, "crc64nvme", head.checksum_crc64_nvme()),
            (CrcAlgorithm::Crc32Iscsi, "crc32c", head.checksum_crc32_c()),
            (CrcAlgorithm::Crc32IsoHdlc, "crc32", head.checksum_crc32()),
        ] {
            let Some(value) = whole(value) else { continue };
            let bytes = base64::decode(value).ok().filter(|bytes| bytes.len() == if name == "crc64nvme" { 8 } else { 4 });
            let bytes = bytes.ok_or_else(|| unreadable(name, value))?;
            let expected = bytes.into_iter().fold(0, |number, byte| number << 8 | u64::from(byte));
            checksums.crc.get_or_insert_with(|| Crc { name, expected, digest: crc_fast::Digest::new(algorithm) });
        }
        Ok(checksums)
    }
}

fn whole(value: Option<&str>) -> Option<&str> {
    let counts_parts = |value: &str| value.rsplit_once('-').is_some_and(|(_, parts)| parts.parse::<u32>().is_ok());
    value.filter(|value| !counts_parts(value))
}

fn unreadable(name: &str, value: &str) -> String {
    let shown: String = value.chars().filter(|letter| !letter.is_control()).take(100).collect();
    format!("a {name} checksum that cannot be read: {shown}")
}

/// A CRC that is being computed.
pub(crate) struct Crc {
    name: &'static str,
    expected: u64,
    digest: crc_fast::Digest,
}

impl Crc {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.digest.update(piece);
    }

    /// What is wrong, if something is.
    pub(crate) fn finish(self) -> Result<(), String> {
        let (name, expected, found) = (self.name, self.expected, self.digest.finalize());
        if found == expected {
            return Ok(());
        }
        Err(format!("its {name} is {found:x} instead of {expected:x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> aws_sdk_s3::operation::head_object::builders::HeadObjectOutputBuilder {
        HeadObjectOutput::builder()
    }

    fn crc_of_digits(head: HeadObjectOutput) -> Result<(), String> {
        let mut crc = Checksums::of(&head).expect("readable").crc.expect("a CRC");
        crc.update(b"1234");
        crc.update(b"56789");
        crc.finish()
    }

    #[test]
    fn each_crc_is_that_of_its_standard() {
        // The check values of the three, for the digits from 1 to 9.
        let base64 = |bytes: &[u8]| base64::encode(bytes);
        let [crc32, crc32c] = [0xcbf4_3926_u32, 0xe306_9283].map(|check| base64(&check.to_be_bytes()));
        let crc64 = base64(&0xae8b_1486_0a79_9888_u64.to_be_bytes());
        crc_of_digits(head().checksum_crc32(&crc32).build()).expect("it is right");
        crc_of_digits(head().checksum_crc32_c(&crc32c).build()).expect("it is right");
        crc_of_digits(head().checksum_crc64_nvme(&crc64).build()).expect("it is right");
        let wrong = crc_of_digits(head().checksum_crc32(&crc32c).build()).expect_err("it is wrong");
        assert_eq!(wrong, "its crc32 is cbf43926 instead of e3069283");
    }

    #[test]
    fn checksums_of_parts_are_not_taken_for_those_of_the_whole() {
        let composite = head().checksum_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").checksum_crc32("AAAAAA==");
        let none = |head| {
            let found = Checksums::of(&head).expect("readable");
            found.digests.is_empty() && found.crc.is_none()
        };
        assert!(none(composite.checksum_type(ChecksumType::Composite).build()));
        assert!(none(head().checksum_crc32("AAAAAA==-3").checksum_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-3").build()));
        assert!(none(head().build()));
    }

    #[test]
    fn digests_become_those_of_the_release_and_damaged_ones_are_errors() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let found = Checksums::of(&head().checksum_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").build()).expect("readable");
        assert_eq!(found.digests[0].to_hex(), hex);
        for damaged in [head().checksum_sha256("47DE"), head().checksum_crc32("AAAA"), head().checksum_crc64_nvme("!")] {
            assert!(Checksums::of(&damaged.build()).err().expect("damaged").contains("cannot be read"));
        }
    }
}
