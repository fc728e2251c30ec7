//! Recovery after a certificate has ended: what is signed to prove that its key is still held, and whether it was ours.
//!
//! Called for each recovery by the orchestrator; whether the agent may have another certificate is decided elsewhere.
//! Time plays no part here: an ended certificate is judged as it was on its last second.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use outpost_proto::ids::Nonce;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::ca::Authority;
use crate::crypto::{p256_point, provider, sha256, verify_p256};
use crate::identity::{AgentIdentity, IdentityError, parse_certificate};

/// Begins every signed message, so that a signature can never be taken for one of another kind.
const CONTEXT: &[u8] = b"outpost-recover-v1";

/// A certificate that was never an agent's under this authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotIssuedHere {
    /// It names no agent.
    #[error("the certificate names no agent: {0}")]
    Identity(#[from] IdentityError),
    /// It is not signed by this authority's branch for agents.
    #[error("the certificate was not issued by this orchestrator's present authority for agents")]
    Signature,
}

impl Authority {
    /// Who holds `leaf` (DER), if this authority issued it to an agent, however long ago it ended.
    pub fn issued_to(&self, leaf: &[u8]) -> Result<AgentIdentity, NotIssuedHere> {
        let identity = AgentIdentity::from_leaf(leaf, self.trust_domain())?;
        let mut roots = RootCertStore::empty();
        roots
            .add(self.agents_anchor().clone())
            .map_err(|_| NotIssuedHere::Signature)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| NotIssuedHere::Signature)?;
        let since = identity.not_after.duration_since(UNIX_EPOCH);
        let last_second = UnixTime::since_unix_epoch(since.unwrap_or_default());
        verifier
            .verify_client_cert(&CertificateDer::from(leaf), &[], last_second)
            .map_err(|_| NotIssuedHere::Signature)?;
        Ok(identity)
    }
}

/// What the holder of an ended certificate signs with its key.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The ended certificate, DER: tenant, agent and key are in it.
    pub certificate: &'a [u8],
    /// As the orchestrator gave it.
    pub challenge: &'a [u8],
    /// What the last Welcome handed out.
    pub session_nonce: Nonce,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that shall be certified.
    pub next_key_sha256: &'a [u8; 32],
}

impl Claim<'_> {
    /// Whether `proof` (ECDSA P-256 with SHA-256, DER) is over this claim by the certificate's key.
    #[must_use]
    pub fn is_proven_by(&self, proof: &[u8]) -> bool {
        parse_certificate(self.certificate)
            .as_ref()
            .and_then(|certificate| p256_point(certificate.public_key().raw))
            .is_some_and(|point| verify_p256(point, &self.message(), proof))
    }

    /// Context, SHA-256 of the certificate, nonce as big-endian u64, hash of the next key, and last the challenge, which
    /// alone has no fixed length.
    fn message(&self) -> Vec<u8> {
        [
            CONTEXT,
            &sha256(self.certificate),
            &self.session_nonce.0.to_be_bytes(),
            self.next_key_sha256,
            self.challenge,
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::SigningKey as _;

    use super::*;
    use crate::issue::IssuedChain;

    const DAY: Duration = Duration::from_secs(86_400);

    fn issued(authority: &Authority, key: &rcgen::KeyPair, at: SystemTime) -> IssuedChain {
        let csr = rcgen::CertificateParams::default().serialize_request(key);
        let (tenant, agent) = ("acme".parse().unwrap(), "bank".parse().unwrap());
        let csr = csr.unwrap().der().to_vec();
        authority
            .issue_agent(&tenant, &agent, &csr, at, DAY)
            .unwrap()
    }

    #[test]
    fn an_ended_certificate_is_known_for_what_it_was_and_nobody_elses_is() {
        let now = SystemTime::now();
        let ours = Authority::create("test.example", now - 400 * DAY).unwrap();
        let theirs = Authority::create("test.example", now - 400 * DAY).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let old = issued(&ours, &key, now - 300 * DAY);
        let identity = ours.issued_to(&old.chain[0]).unwrap();
        assert_eq!(identity.agent.to_string(), "bank");
        assert_eq!(identity.not_after, old.not_after);

        let foreign = issued(&theirs, &key, now);
        let refused = ours.issued_to(&foreign.chain[0]);
        assert_eq!(refused, Err(NotIssuedHere::Signature));
        let server = ours.issue_server(&["localhost".to_owned()], now, DAY);
        let refused = ours.issued_to(server.unwrap().leaf().unwrap());
        assert!(matches!(refused, Err(NotIssuedHere::Identity(_))));
        let mut bent = old.chain[0].clone();
        let last = bent.len() - 1;
        bent[last] ^= 1;
        assert_eq!(ours.issued_to(&bent), Err(NotIssuedHere::Signature));
    }

    #[test]
    fn a_proof_holds_for_exactly_its_claim() {
        let authority = Authority::create("test.example", SystemTime::now()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let (mine, other) = (
            issued(&authority, &key, SystemTime::now()),
            issued(&authority, &key, SystemTime::now()),
        );
        let claim = Claim {
            certificate: &mine.chain[0],
            challenge: &[1; 32],
            session_nonce: Nonce(5),
            next_key_sha256: &[2; 32],
        };
        let proof = key.sign(&claim.message()).unwrap();
        assert!(claim.is_proven_by(&proof));
        let bent = [
            Claim {
                certificate: &other.chain[0],
                ..claim
            },
            Claim {
                challenge: &[3; 32],
                ..claim
            },
            Claim {
                session_nonce: Nonce(6),
                ..claim
            },
            Claim {
                next_key_sha256: &[3; 32],
                ..claim
            },
            Claim {
                certificate: b"junk",
                ..claim
            },
        ];
        assert!(bent.iter().all(|bent| !bent.is_proven_by(&proof)));
        assert!(!claim.is_proven_by(&proof[1..]));
        let stranger = rcgen::KeyPair::generate().unwrap();
        assert!(!claim.is_proven_by(&stranger.sign(&claim.message()).unwrap()));
    }

    /// Link makes the same bytes, without this crate: its test has the same.
    #[test]
    fn the_signed_bytes_are_fixed() {
        let claim = Claim {
            certificate: b"a certificate",
            challenge: &[3; 4],
            session_nonce: Nonce(0x0102),
            next_key_sha256: &[2; 32],
        };
        let mut expected = b"outpost-recover-v1".to_vec();
        expected.extend(sha256(b"a certificate"));
        expected.extend([0, 0, 0, 0, 0, 0, 1, 2]);
        expected.extend([2; 32]);
        expected.extend([3; 4]);
        assert_eq!(claim.message(), expected);
    }
}
