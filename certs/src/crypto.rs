//! The few primitives the other modules share: one provider, SHA-256, P-256 signatures, randomness.
//!
//! Everything that touches a key goes through this one provider, so that no second implementation is linked.

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use sha2::{Digest, Sha256};

/// DER of a SubjectPublicKeyInfo for an uncompressed P-256 point, up to the point: the only form that is accepted.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// 0x04 and two coordinates of 32 bytes.
const P256_POINT_BYTES: usize = 65;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct NoRandomness(getrandom::Error);

/// The provider of every TLS configuration. The order of groups is stated here rather than left to a feature of a
/// dependency, because a build that silently lost the post-quantum group would still work. Between two peers the
/// client's order decides.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
    ];
    Arc::new(CryptoProvider {
        kx_groups,
        ..default_provider()
    })
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// The point of a P-256 public key, or nothing if `spki` is any other kind or form of key.
pub(crate) fn p256_point(spki: &[u8]) -> Option<&[u8]> {
    let point = spki.strip_prefix(&P256_SPKI_PREFIX)?;
    (point.len() == P256_POINT_BYTES && point.first() == Some(&4)).then_some(point)
}

/// Whether `signature` (DER) is ECDSA with P-256 and SHA-256 by `point` over `message`.
pub(crate) fn verify_p256(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let WebPkiSupportedAlgorithms { mapping, .. } =
        default_provider().signature_verification_algorithms;
    // For one scheme the first algorithm is the one TLS 1.3 fixes: this curve with this hash.
    mapping
        .iter()
        .find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256)
        .and_then(|(_, algorithms)| algorithms.first())
        .is_some_and(|algorithm| {
            algorithm
                .verify_signature(point, message, signature)
                .is_ok()
        })
}
