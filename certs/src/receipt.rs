//! Receipts: the server's signature over how much of a session it has received, evidence for the site's ledger.
//!
//! Signed with the key of the server's certificate, so an agent can verify with what it already trusts.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use outpost_proto::ids::SessionEpoch;
use outpost_proto::message::SessionEnd;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls::sign::SigningKey;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::crypto::{p256_point, provider, verify_p256};
use crate::identity::{IdentityError, OrchestratorIdentity, Serial, parse_certificate};
use crate::issue::ServerIdentity;

/// Begins every signed message, so that a signature can never be taken for one of another kind.
const CONTEXT: &[u8] = b"outpost-receipt-v1";
/// Begins one that says whose session it is.
const NAMED_CONTEXT: &[u8] = b"outpost-receipt-v2";
/// Begins one that says, too, which sessions came before.
const LINKED_CONTEXT: &[u8] = b"outpost-receipt-v3";

/// Whose session a receipt is for, within the signer's trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The tenant's name.
    pub tenant: &'a str,
    /// The agent's name.
    pub agent: &'a str,
}

/// Which sessions of the holder came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past<'a> {
    /// The first one of which the signer knows.
    pub since: SessionEpoch,
    /// The newest ones, at most 255, ascending.
    pub before: &'a [SessionEnd],
}

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

/// Signs receipts with the key of one server certificate. Cheap to clone; loaded once, used for each receipt.
#[derive(Clone)]
pub struct Signer(Arc<dyn SigningKey>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// With the key of this identity.
    ///
    /// # Errors
    /// [`SignError`] when the key is of another kind than ECDSA P-256.
    pub fn new(identity: &ServerIdentity) -> Result<Self, SignError> {
        let key = provider()
            .key_provider
            .load_private_key(identity.key.clone_key())?;
        key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or(SignError::Key)?;
        Ok(Self(key))
    }

    /// Signs for the first `frame_count` frames of a session, whose SHA-256 chain ends in `head`. The signature is DER.
    ///
    /// # Errors
    /// [`SignError::Provider`] when the provider refuses.
    pub fn sign(
        &self,
        session_epoch: SessionEpoch,
        frame_count: u64,
        head: &[u8; 32],
    ) -> Result<Vec<u8>, SignError> {
        self.sign_bytes(&message(session_epoch, frame_count, head))
    }

    /// The same for this agent only: it cannot be presented for another.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_for(
        &self,
        holder: Holder<'_>,
        session_epoch: SessionEpoch,
        frame_count: u64,
        head: &[u8; 32],
    ) -> Result<Vec<u8>, SignError> {
        self.sign_bytes(&named_message(holder, session_epoch, frame_count, head))
    }

    /// The same, with the sessions before this one: none of them can be left out, or be another, beside it.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_linked(
        &self,
        holder: Holder<'_>,
        session: &SessionEnd,
        past: Past<'_>,
    ) -> Result<Vec<u8>, SignError> {
        self.sign_bytes(&linked_message(holder, session, past))
    }

    fn sign_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
        let signer = self
            .0
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or(SignError::Key)?;
        Ok(signer.sign(bytes)?)
    }
}

/// Why a certificate chain is not the orchestrator's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// There is no certificate.
    #[error("no certificate of the orchestrator is known")]
    Missing,
    /// The leaf is no certificate of the orchestrator's identity.
    #[error("the certificate is not the orchestrator's: {0}")]
    Identity(#[from] IdentityError),
    /// It does not lead to a trusted root.
    #[error("the certificate does not lead to a root that this site trusts: {0}")]
    Chain(String),
}

/// A server certificate that was found to be the orchestrator's: what it signed is the orchestrator's word.
#[derive(Debug, Clone)]
pub struct Witness {
    leaf: Vec<u8>,
    /// Of the certificate.
    pub serial: Serial,
}

impl Witness {
    /// Checks a chain (DER, leaf first) up to one of `roots` (DER), its purpose and its one identity in the trust domain.
    /// It is judged as it was on its last second: a receipt says nothing about when it was signed.
    ///
    /// # Errors
    /// [`WitnessError`]
    pub fn new(
        chain: &[impl AsRef<[u8]>],
        roots: &[impl AsRef<[u8]>],
        trust_domain: &str,
    ) -> Result<Self, WitnessError> {
        let not = |error: &dyn fmt::Display| WitnessError::Chain(error.to_string());
        let (leaf, others) = chain.split_first().ok_or(WitnessError::Missing)?;
        let identity = OrchestratorIdentity::from_leaf(leaf.as_ref(), trust_domain)?;
        let mut store = RootCertStore::empty();
        for root in roots {
            let root = CertificateDer::from(root.as_ref().to_vec());
            store.add(root).map_err(|error| not(&error))?;
        }
        let others: Vec<CertificateDer<'_>> = others
            .iter()
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let der = CertificateDer::from(leaf.as_ref());
        let parsed = ParsedCertificate::try_from(&der).map_err(|error| not(&error))?;
        let since = identity.not_after.duration_since(UNIX_EPOCH);
        let last_second = UnixTime::since_unix_epoch(since.unwrap_or_default());
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &store,
            &others,
            last_second,
            algorithms,
        )
        .map_err(|error| not(&error))?;
        Ok(Self {
            leaf: leaf.as_ref().to_vec(),
            serial: identity.serial,
        })
    }

    /// Whether this server signed these values.
    ///
    /// # Errors
    /// [`VerifyError::Signature`] when it did not.
    pub fn verify(
        &self,
        session_epoch: SessionEpoch,
        frame_count: u64,
        head: &[u8; 32],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        verify(&self.leaf, session_epoch, frame_count, head, signature)
    }

    /// Whether this server signed these values for this agent.
    ///
    /// # Errors
    /// [`VerifyError::Signature`] when it did not.
    pub fn verify_for(
        &self,
        holder: Holder<'_>,
        session_epoch: SessionEpoch,
        frame_count: u64,
        head: &[u8; 32],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        let message = named_message(holder, session_epoch, frame_count, head);
        verify_bytes(&self.leaf, &message, signature)
    }

    /// Whether this server signed for this session of this agent, with these before it.
    ///
    /// # Errors
    /// [`VerifyError::Signature`] when it did not.
    pub fn verify_linked(
        &self,
        holder: Holder<'_>,
        session: &SessionEnd,
        past: Past<'_>,
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        let message = linked_message(holder, session, past);
        verify_bytes(&self.leaf, &message, signature)
    }
}

/// Verifies with the key of `server_leaf` (DER). Whether that certificate is trusted is for TLS, or a [`Witness`], to decide.
pub fn verify(
    server_leaf: &[u8],
    session_epoch: SessionEpoch,
    frame_count: u64,
    head: &[u8; 32],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let message = message(session_epoch, frame_count, head);
    verify_bytes(server_leaf, &message, signature)
}

fn verify_bytes(server_leaf: &[u8], message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
    let certificate = parse_certificate(server_leaf).ok_or(VerifyError::Certificate)?;
    let point = p256_point(certificate.public_key().raw).ok_or(VerifyError::Certificate)?;
    if verify_p256(point, message, signature) {
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

/// Context, both names with their lengths before them, and the values as in [`message`]. Names are at most 63 bytes long.
fn named_message(
    holder: Holder<'_>,
    session_epoch: SessionEpoch,
    frame_count: u64,
    head: &[u8; 32],
) -> Vec<u8> {
    let mut bytes = NAMED_CONTEXT.to_vec();
    add_names(&mut bytes, holder);
    add_values(&mut bytes, session_epoch, frame_count, head);
    bytes
}

/// Context, names and values as in [`named_message`], the first session that is known, how many are named (1 byte), and the
/// values of each.
fn linked_message(holder: Holder<'_>, session: &SessionEnd, past: Past<'_>) -> Vec<u8> {
    let mut bytes = LINKED_CONTEXT.to_vec();
    add_names(&mut bytes, holder);
    add_values(
        &mut bytes,
        session.session_epoch,
        session.frame_count,
        &session.head,
    );
    bytes.extend_from_slice(&past.since.0.to_be_bytes());
    bytes.push(u8::try_from(past.before.len()).unwrap_or(u8::MAX));
    for end in past.before {
        add_values(&mut bytes, end.session_epoch, end.frame_count, &end.head);
    }
    bytes
}

fn add_names(bytes: &mut Vec<u8>, Holder { tenant, agent }: Holder<'_>) {
    for name in [tenant, agent] {
        bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(name.as_bytes());
    }
}

fn add_values(bytes: &mut Vec<u8>, session_epoch: SessionEpoch, frames: u64, head: &[u8; 32]) {
    bytes.extend_from_slice(&session_epoch.0.to_be_bytes());
    bytes.extend_from_slice(&frames.to_be_bytes());
    bytes.extend_from_slice(head);
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
        let signer = Signer::new(&mine).unwrap();
        let signature = signer.sign(epoch, 9, &head).unwrap();
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
    fn a_witness_is_the_orchestrator_under_a_trusted_root_and_nobody_else() {
        let now = SystemTime::now();
        let long = Duration::from_secs(86_400);
        let ours = Authority::create("test.example", now).unwrap();
        let theirs = Authority::create("test.example", now).unwrap();
        let server = |of: &Authority| of.issue_server(&["localhost".to_owned()], now, long);
        let mine = server(&ours).unwrap();
        let roots = [ours.root().to_vec()];
        let witness = Witness::new(&mine.chain, &roots, "test.example").unwrap();
        let signature = Signer::new(&mine)
            .unwrap()
            .sign(SessionEpoch(7), 9, &[3; 32]);
        let signature = signature.unwrap();
        assert_eq!(
            witness.verify(SessionEpoch(7), 9, &[3; 32], &signature),
            Ok(())
        );
        assert_eq!(
            witness.verify(SessionEpoch(7), 8, &[3; 32], &signature),
            Err(VerifyError::Signature)
        );
        // For one agent, and for no other, nor for nobody in particular.
        let bank = Holder {
            tenant: "acme",
            agent: "bank",
        };
        let named = Signer::new(&mine).unwrap();
        let named = named.sign_for(bank, SessionEpoch(7), 9, &[3; 32]).unwrap();
        let holds = |holder| witness.verify_for(holder, SessionEpoch(7), 9, &[3; 32], &named);
        assert_eq!(holds(bank), Ok(()));
        for (tenant, agent) in [("acme", "bank2"), ("acme2", "bank"), ("acmeb", "ank")] {
            assert_eq!(holds(Holder { tenant, agent }), Err(VerifyError::Signature));
        }
        for signature in [&named, &signature] {
            let plain = witness.verify(SessionEpoch(7), 9, &[3; 32], signature);
            let for_bank = witness.verify_for(bank, SessionEpoch(7), 9, &[3; 32], signature);
            assert_ne!(plain.is_ok(), for_bank.is_ok(), "of one kind only");
        }
        let stranger = server(&theirs).unwrap();
        let refused = Witness::new(&stranger.chain, &roots, "test.example");
        assert!(
            matches!(refused, Err(WitnessError::Chain(_))),
            "{refused:?}"
        );
        let refused = Witness::new(&mine.chain, &roots, "other.example");
        assert!(matches!(refused, Err(WitnessError::Identity(_))));
        // An agent of the same authority is no witness.
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key);
        let agent = ours.issue_agent(
            &"acme".parse().unwrap(),
            &"bank".parse().unwrap(),
            csr.unwrap().der(),
            now,
            long,
        );
        let refused = Witness::new(&agent.unwrap().chain, &roots, "test.example");
        assert!(matches!(refused, Err(WitnessError::Identity(_))));
        let none: [Vec<u8>; 0] = [];
        assert!(Witness::new(&none, &roots, "test.example").is_err());
    }

    #[test]
    fn the_signed_bytes_are_fixed() {
        let bytes = message(SessionEpoch(1), 2, &[0xaa; 32]);
        let mut expected = b"outpost-receipt-v1\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02".to_vec();
        expected.extend([0xaa; 32]);
        assert_eq!(bytes, expected);
        let bank = Holder {
            tenant: "acme",
            agent: "bank",
        };
        let mut named = b"outpost-receipt-v2\x04acme\x04bank".to_vec();
        named.extend(&expected[CONTEXT.len()..]);
        assert_eq!(named_message(bank, SessionEpoch(1), 2, &[0xaa; 32]), named);
        let end = |epoch, frame_count, byte| SessionEnd {
            session_epoch: SessionEpoch(epoch),
            frame_count,
            head: [byte; 32],
        };
        let before = [end(8, 3, 0xbb), end(9, 4, 0xcc)];
        let past = Past {
            since: SessionEpoch(7),
            before: &before,
        };
        let mut linked = b"outpost-receipt-v3".to_vec();
        linked.extend(&named[NAMED_CONTEXT.len()..]);
        linked.extend(b"\0\0\0\0\0\0\0\x07\x02");
        linked.extend(b"\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x03");
        linked.extend([0xbb; 32]);
        linked.extend(b"\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x04");
        linked.extend([0xcc; 32]);
        assert_eq!(linked_message(bank, &end(1, 2, 0xaa), past), linked);
    }

    #[test]
    fn a_linked_receipt_holds_with_exactly_the_sessions_before_it() {
        let now = SystemTime::now();
        let authority = Authority::create("test.example", now).unwrap();
        let life = Duration::from_secs(60);
        let server = authority.issue_server(&["localhost".to_owned()], now, life);
        let server = server.unwrap();
        let roots = [authority.root().to_vec()];
        let witness = Witness::new(&server.chain, &roots, "test.example").unwrap();
        let end = |epoch, frame_count| SessionEnd {
            session_epoch: SessionEpoch(epoch),
            frame_count,
            head: [3; 32],
        };
        let holder = Holder {
            tenant: "acme",
            agent: "bank",
        };
        let past = |since, before| Past {
            since: SessionEpoch(since),
            before,
        };
        let signer = Signer::new(&server).unwrap();
        let both = [end(7, 2), end(8, 5)];
        let signature = signer.sign_linked(holder, &end(9, 4), past(6, &both));
        let signature = signature.unwrap();
        let holds = |holder, session: SessionEnd, past| {
            let verified = witness.verify_linked(holder, &session, past, &signature);
            verified.is_ok()
        };
        assert!(holds(holder, end(9, 4), past(6, &both)));
        let other = Holder {
            agent: "bank2",
            ..holder
        };
        assert!(!holds(other, end(9, 4), past(6, &both)));
        assert!(!holds(holder, end(9, 5), past(6, &both)));
        assert!(!holds(holder, end(9, 4), past(7, &both)));
        assert!(!holds(holder, end(9, 4), past(6, &both[1..])));
        assert!(!holds(holder, end(9, 4), past(6, &[])));
        assert!(!holds(holder, end(9, 4), past(6, &[end(7, 3), end(8, 5)])));
    }
}
