//! What a server says that the bytes of a release must hash to. Core does the hashing.

use crate::tag::text;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use overseer_core::{Digest, DigestAlgorithm};
use reqwest::header::{HeaderMap, HeaderName};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const DIGEST: HeaderName = HeaderName::from_static("digest");

/// Reads `Repr-Digest` (RFC 9530: `sha-256=:base64:`) and `Digest` (RFC 3230: `SHA-256=base64`). Both are about the
/// whole file as it is sent, content coding included, also in an answer that brings a part. Other algorithms than SHA-256 and SHA-512
/// are passed over.
///
/// # Errors
/// The header that cannot be read, and its value. Passing it over would install a release that its server meant to be checked.
pub(crate) fn in_headers(headers: &HeaderMap) -> Result<Vec<Digest>, String> {
    let mut digests = Vec::new();
    for name in [REPR_DIGEST, DIGEST] {
        let Some(value) = text(headers, &name) else { continue };
        for member in value.split(',') {
            let Some((algorithm, encoded)) = member.trim().split_once('=') else { continue };
            let algorithm = match algorithm.to_ascii_lowercase().as_str() {
                "sha-256" => DigestAlgorithm::Sha256,
                "sha-512" => DigestAlgorithm::Sha512,
                _ => continue,
            };
            let encoded = encoded.split(';').next().unwrap_or_default().trim().trim_matches(':');
            let digest = STANDARD.decode(encoded).ok().and_then(|bytes| Digest::new(algorithm, bytes));
            digests.push(digest.ok_or_else(|| format!("a {name} header that cannot be read: {value}"))?);
        }
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The digests of nothing.
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const BASE64: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    const LONG: &str = "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().expect("a value"))].into_iter().collect()
    }

    #[test]
    fn both_digest_headers_are_read_and_unknown_algorithms_passed_over() {
        let repr = in_headers(&headers(REPR_DIGEST, &format!("md5=:abc:, sha-256=:{BASE64}:, sha-512=:{LONG}:"))).expect("readable");
        assert_eq!(repr.len(), 2);
        assert_eq!(repr[0].to_hex(), HEX);
        assert_eq!(repr[1].algorithm(), DigestAlgorithm::Sha512);
        let old = in_headers(&headers(DIGEST, &format!("SHA-256={BASE64},unixsum=1"))).expect("readable");
        assert_eq!(old[0].to_hex(), HEX);
    }

    #[test]
    fn a_damaged_digest_header_is_an_error_that_shows_it() {
        let error = in_headers(&headers(REPR_DIGEST, "sha-256=:47DE:")).expect_err("too short");
        assert!(error.contains("repr-digest") && error.contains("47DE"), "{error}");
    }
}
