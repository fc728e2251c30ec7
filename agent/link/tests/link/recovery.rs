//! A certificate that ended: link says so, proves that it holds the key, and asks without a certificate.

use bytes::Bytes;
use outpost_agent_link::Timeouts;
use outpost_agent_link::ipc::{ClosedReason, FromLink, ToLink, UnaryMethod};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::default_provider;
use sha2::{Digest as _, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::ca::{AGENT, Ca, Leaf};
use crate::support::rig::Rig;
use crate::support::server::{Behaviour, Tls, start};

/// Link with a certificate that holds for so many seconds.
async fn short_lived(ca: &Ca, seconds: i64) -> Rig {
    let mut rig = Rig::enrolled(ca, Timeouts::default()).await;
    let der = rig.csr().await;
    let leaf = Leaf {
        to_h: 0,
        to_s: seconds,
        ..Leaf::default()
    };
    let (chain, _) = ca.agent_as(&der, leaf.of_agent(AGENT));
    rig.store_chain(ca, chain).await;
    rig
}

/// Opens streams until one is not accepted: why.
async fn until_refused(rig: &Rig, address: std::net::SocketAddr) -> ClosedReason {
    for conn in 1.. {
        match rig.open(conn, address).await {
            FromLink::Closed { reason, .. } => return reason,
            FromLink::Opened { .. } => {}
            other @ (FromLink::Confined(_)
            | FromLink::Ready { .. }
            | FromLink::Ends { .. }
            | FromLink::Server { .. }
            | FromLink::Frame { .. }
            | FromLink::Csr { .. }
            | FromLink::Proof { .. }
            | FromLink::Reply { .. }
            | FromLink::Stored { .. }) => panic!("{other:?}"),
        }
        // It ends by itself, by this host's clock.
        let FromLink::Closed { reason, .. } = rig.hear().await else {
            panic!("another word than the end")
        };
        assert_eq!(reason, ClosedReason::Expired);
    }
    unreachable!()
}

#[tokio::test]
async fn what_the_orchestrator_says_of_an_ended_certificate_is_told_apart() {
    let ca = Ca::new("root");
    let tls = Tls {
        client_certificate_required: true,
        ..Tls::usual(&ca)
    };
    let server = start(tls, Behaviour::Echo).await;
    let rig = short_lived(&ca, 10).await;
    let reason = until_refused(&rig, server.address).await;
    assert_eq!(reason, ClosedReason::Expired);

    // Without the certificate, under the roots that it trusts already.
    rig.tell(ToLink::Unary {
        conn: 99,
        method: UnaryMethod::Recover,
        bytes: Bytes::from_static(b"x"),
    })
    .await;
    let open = start(Tls::usual(&ca), Behaviour::Echo).await;
    rig.dial(99, open.address).await;
    let FromLink::Reply {
        conn: 99, ok: true, ..
    } = rig.hear().await
    else {
        panic!("no reply")
    };
    let path = "/outpost.identity.v1.Identity/Recover";
    assert_eq!(*open.seen.requests.lock().unwrap(), [path]);
    assert_eq!(*open.seen.client_certificates.lock().unwrap(), [0]);

    // Nobody else's server is asked.
    let other = Ca::new("other");
    let stranger = start(Tls::usual(&other), Behaviour::Echo).await;
    rig.tell(ToLink::Unary {
        conn: 100,
        method: UnaryMethod::Recover,
        bytes: Bytes::from_static(b"x"),
    })
    .await;
    rig.dial(100, stranger.address).await;
    let FromLink::Closed { conn: 100, .. } = rig.hear().await else {
        panic!("a stranger was asked")
    };
    assert_eq!(*stranger.seen.requests.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_proof_is_over_the_challenge_the_nonce_and_the_next_key() {
    let ca = Ca::new("root");
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let prove = |challenge: &'static [u8]| ToLink::Prove {
        session_nonce: 0x0102,
        challenge: Bytes::from_static(challenge),
    };
    rig.tell(prove(b"")).await;
    let FromLink::Proof {
        certificate,
        csr: first,
        proof,
    } = rig.hear().await
    else {
        panic!("no answer")
    };
    assert_eq!(proof, b"");
    let (_, leaf) = X509Certificate::from_der(&certificate).unwrap();

    rig.tell(prove(&[7; 32])).await;
    let FromLink::Proof {
        certificate: same,
        csr,
        proof,
    } = rig.hear().await
    else {
        panic!("no answer")
    };
    assert_eq!(same, certificate);
    let key_of = |csr: &[u8]| {
        let (_, csr) = X509CertificationRequest::from_der(csr).unwrap();
        csr.certification_request_info.subject_pki.raw.to_vec()
    };
    assert_eq!(key_of(&first), key_of(&csr), "one key for one recovery");
    let message = [
        b"outpost-recover-v1".as_slice(),
        &Sha256::digest(&certificate),
        &[0, 0, 0, 0, 0, 0, 1, 2],
        &Sha256::digest(key_of(&csr)),
        &[7; 32],
    ]
    .concat();
    let algorithms = default_provider().signature_verification_algorithms;
    let (_, ecdsa) = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256)
        .unwrap();
    let point = &leaf.public_key().subject_public_key.data;
    ecdsa[0].verify_signature(point, &message, &proof).unwrap();
    assert!(ecdsa[0].verify_signature(point, b"else", &proof).is_err());

    // Longer than any challenge is: nothing is signed.
    rig.tell(prove(&[7; 65])).await;
    let FromLink::Proof { proof, .. } = rig.hear().await else {
        panic!("no answer")
    };
    assert_eq!(proof, b"");
}
