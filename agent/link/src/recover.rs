//! What proves that this agent holds the key of its certificate that has ended.
//!
//! Called by link's event loop. The runner passes the orchestrator's challenge and the session's nonce; what is signed
//! is put together here and begins with its own context, so that neither of the two can choose it.

use sha2::{Digest as _, Sha256};

use crate::identity::{Identity, IdentityError, KeyDir};
use crate::ipc::{FromLink, MAX_CHALLENGE_BYTES};
use crate::tls::{self, TlsError};

/// Begins every signed message, so that a signature can never be taken for one of another kind.
const CONTEXT: &[u8] = b"outpost-recover-v1";

/// Why nothing was proven.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProveError {
    #[error("the key for the next certificate cannot be made or read")]
    Key(#[from] IdentityError),
    #[error("the key of the certificate that ended cannot sign")]
    Sign(#[from] TlsError),
    #[error("the orchestrator's challenge has {0} bytes, more than any has")]
    Challenge(usize),
    #[error("there is no certificate")]
    NoCertificate,
}

/// The present certificate, a request for the pending key, and the proof over both if there is a challenge.
pub(crate) fn prove(
    identity: &Identity,
    keys: &KeyDir,
    session_nonce: u64,
    challenge: &[u8],
) -> Result<FromLink, ProveError> {
    if challenge.len() > MAX_CHALLENGE_BYTES {
        return Err(ProveError::Challenge(challenge.len()));
    }
    let certificate = identity.chain.first().ok_or(ProveError::NoCertificate)?;
    let (csr, next_key) = keys.request_and_key()?;
    let proof = if challenge.is_empty() {
        Vec::new()
    } else {
        let message = message(certificate, session_nonce, &next_key, challenge);
        tls::sign(identity, &message)?
    };
    Ok(FromLink::Proof {
        certificate: certificate.to_vec(),
        csr,
        proof,
    })
}

/// Context, SHA-256 of the certificate, nonce as big-endian u64, SHA-256 of the next key, and last the challenge, which
/// alone has no fixed length.
fn message(certificate: &[u8], session_nonce: u64, next_key: &[u8], challenge: &[u8]) -> Vec<u8> {
    let (certificate, next_key) = (Sha256::digest(certificate), Sha256::digest(next_key));
    [
        CONTEXT,
        &certificate,
        &session_nonce.to_be_bytes(),
        &next_key,
        challenge,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The orchestrator's side makes the same bytes, with other code: its test has the same.
    #[test]
    fn the_signed_bytes_are_fixed() {
        let mut expected = b"outpost-recover-v1".to_vec();
        expected.extend(Sha256::digest(b"a certificate"));
        expected.extend([0, 0, 0, 0, 0, 0, 1, 2]);
        expected.extend(Sha256::digest(b"a key"));
        expected.extend([3; 4]);
        let message = message(b"a certificate", 0x0102, b"a key", &[3; 4]);
        assert_eq!(message, expected);
    }
}
