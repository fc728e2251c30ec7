//! Receipts: the server's signature over how much of a session it has received, evidence for the site's ledger.
//!
//! Signed with the key of the server's certificate, so an agent can verify with what it already trusts.

use outpost_proto::ids::SessionEpoch;
use rustls::SignatureScheme;

use crate::crypto::{p256_point, provider, verify_p256};
use crate::identity::parse_certificate;
use crate::issue::ServerIdentity;

/// Begins every signed message, so that a signature can never be taken for one of another kind.
const CONTEXT: &[u8] = b"outpost-receipt-v1";

/// Why no receipt was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A server certificate that was brought along with another kind of key.
    #[error("the server's key cannot sign receipts: it must be ECDSA P-256")]
    Key,
    /// The provider refused.
    #[error("the receipt could not be signed: {0}")]
    Provider(#[from] rustls::Error),
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The certificate is damaged or its key of another kind.
    #[error("the server's certificate is damaged or its key is not ECDSA P-256")]
    Certificate,
    /// The signature is not by that key over these values.
    #[error("the receipt's signature does not match its values and the server's certificate")]
    Signature,
}

/// Signs for the first `frame_count` frames of a session, whose SHA-256 chain ends in `head`. The signature is DER.
pub fn sign(
    identity: &ServerIdentity,
    session_epoch: SessionEpoch,
    frame_count: u64,
    head: &[u8; 32],
) -> Result<Vec<u8>, SignError> {
    let key = provider()
        .key_provider
        .load_private_key(identity.key.clone_key())?;
    let signer = key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
        .ok_or(SignError::Key)?;
    Ok(signer.sign(&message(session_epoch, frame_count, head))?)
}

/// Verifies with the key of `server_leaf` (DER). Whether that certificate is trusted is for TLS to decide.
pub fn verify(
    server_leaf: &[u8],
    session_epoch: SessionEpoch,
    frame_count: u64,
    head: &[u8; 32],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let certificate = parse_certificate(server_leaf).ok_or(VerifyError::Certificate)?;
    let point = p256_point(certificate.public_key().raw).ok_or(VerifyError::Certificate)?;
    if verify_p256(point, &message(session_epoch, frame_count, head), signature) {
        Ok(())
    } else {
        Err(VerifyError::Signature)
    }
}

/// Context, session epoch and frame count as big-endian u64, head.
fn message(session_epoch: SessionEpoch, frame_count: u64, head: &[u8; 32]) -> Vec<u8> {
    [
        CONTEXT,
        &session_epoch.0.to_be_bytes(),
        &frame_count.to_be_bytes(),
        head,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::ca::Authority;

    #[test]
    fn a_receipt_holds_for_exactly_its_values_and_its_server() {
        let now = SystemTime::now();
        let authority = Authority::create("test.example", now).unwrap();
        let server = || {
            authority
                .issue_server(&["localhost".to_owned()], now, Duration::from_secs(60))
                .unwrap()
        };
        let (mine, other) = (server(), server());
        let (epoch, head) = (SessionEpoch(7), [3; 32]);
        let signature = sign(&mine, epoch, 9, &head).unwrap();
        assert!(
            signature.len() <= 80,
            "{} bytes do not fit the wire",
            signature.len()
        );
        let leaf = mine.leaf().unwrap();
        assert_eq!(verify(leaf, epoch, 9, &head, &signature), Ok(()));
        assert_eq!(
            verify(leaf, SessionEpoch(8), 9, &head, &signature),
            Err(VerifyError::Signature)
        );
        assert_eq!(
            verify(leaf, epoch, 10, &head, &signature),
            Err(VerifyError::Signature)
        );
        assert_eq!(
            verify(leaf, epoch, 9, &[4; 32], &signature),
            Err(VerifyError::Signature)
        );
        assert_eq!(
            verify(leaf, epoch, 9, &head, &signature[1..]),
            Err(VerifyError::Signature)
        );
        let stranger = other.leaf().unwrap();
        assert_eq!(
            verify(stranger, epoch, 9, &head, &signature),
            Err(VerifyError::Signature)
        );
        assert_eq!(
            verify(b"junk", epoch, 9, &head, &signature),
            Err(VerifyError::Certificate)
        );
    }

    #[test]
    fn the_signed_bytes_are_fixed() {
        let bytes = message(SessionEpoch(1), 2, &[0xaa; 32]);
        let mut expected = b"outpost-receipt-v1\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02".to_vec();
        expected.extend([0xaa; 32]);
        assert_eq!(bytes, expected);
    }
}
