//! Identity requests and replies: what goes in comes out, within limits, and in one spelling only.

use super::*;
use super::{field, number};
use crate::ids::Nonce;
use crate::limits::{
    CERTIFICATE_BYTES, CHAIN_CERTIFICATES, CHALLENGE_BYTES, CSR_BYTES, ROOT_CERTIFICATES,
    SIGNATURE_BYTES,
};

fn issued() -> Issued {
    Issued {
        chain: vec![vec![1; CERTIFICATE_BYTES]; CHAIN_CERTIFICATES],
        roots: vec![vec![2; CERTIFICATE_BYTES]; ROOT_CERTIFICATES],
        spiffe_id: "spiffe://example.org/tenant/acme/agent/db-1".into(),
    }
}

fn recover() -> RecoverRequest {
    RecoverRequest {
        certificate: vec![3; CERTIFICATE_BYTES],
        session_nonce: Nonce(u64::MAX),
        csr: vec![4; CSR_BYTES],
        answer: Some(ChallengeAnswer {
            challenge: vec![5; CHALLENGE_BYTES],
            proof: vec![6; SIGNATURE_BYTES],
        }),
    }
}

#[test]
fn the_largest_of_each_comes_back_as_it_was() {
    let enrol = EnrolRequest {
        token: [9; 32],
        csr: vec![1; CSR_BYTES],
    };
    assert_eq!(EnrolRequest::decode(&enrol.encode().unwrap()), Ok(enrol));
    let renew = RenewRequest {
        csr: vec![1; CSR_BYTES],
    };
    assert_eq!(RenewRequest::decode(&renew.encode().unwrap()), Ok(renew));
    let first = RecoverRequest {
        answer: None,
        ..recover()
    };
    for request in [first, recover()] {
        let bytes = request.encode().unwrap();
        assert_eq!(RecoverRequest::decode(&bytes), Ok(request));
    }
    assert_eq!(Issued::decode(&issued().encode().unwrap()), Ok(issued()));
    let challenge = RecoverReply::Challenge(vec![1; CHALLENGE_BYTES]);
    for reply in [challenge, RecoverReply::Issued(issued())] {
        assert_eq!(RecoverReply::decode(&reply.encode().unwrap()), Ok(reply));
    }
}

#[test]
fn what_is_empty_or_too_long_is_refused_on_both_sides() {
    for length in [0, CSR_BYTES + 1] {
        let csr = vec![1; length];
        assert!(RenewRequest { csr: csr.clone() }.encode().is_err());
        let bytes = if length == 0 {
            Vec::new()
        } else {
            field(1, &csr)
        };
        let error = RenewRequest::decode(&bytes).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("RenewRequest.csr is empty or"),
            "{error}"
        );
    }
    for token in [31, 33] {
        let bytes = [field(1, &vec![1; token]), field(2, &[1])].concat();
        let error = EnrolRequest::decode(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "EnrolRequest.token is not 32 bytes long");
    }
    let refused = |edit: fn(&mut RecoverRequest)| {
        let mut request = recover();
        edit(&mut request);
        assert!(request.encode().is_err(), "{request:?}");
    };
    refused(|r| r.certificate.clear());
    refused(|r| r.certificate.push(0));
    refused(|r| r.csr.push(0));
    refused(|r| r.answer.as_mut().unwrap().challenge.push(0));
    refused(|r| r.answer.as_mut().unwrap().challenge.clear());
    refused(|r| r.answer.as_mut().unwrap().proof.push(0));
    refused(|r| r.answer.as_mut().unwrap().proof.clear());
}

#[test]
fn an_issued_certificate_is_complete() {
    let refused = |edit: fn(&mut Issued)| {
        let mut issued = issued();
        edit(&mut issued);
        assert!(issued.encode().is_err(), "{issued:?}");
        assert!(RecoverReply::Issued(issued).encode().is_err());
    };
    refused(|i| i.chain.clear());
    refused(|i| i.chain.push(vec![1]));
    refused(|i| i.chain[0].push(1));
    refused(|i| i.roots.clear());
    refused(|i| i.roots.push(vec![1]));
    refused(|i| i.roots[0].clear());
    assert!(Issued::decode(&[]).is_err());
    assert!(RecoverReply::decode(&[]).is_err());
}

#[test]
fn only_an_agents_spiffe_id_is_taken() {
    let with = |id: &str| {
        let spiffe_id = id.to_owned();
        Issued {
            spiffe_id,
            ..issued()
        }
        .encode()
    };
    with("spiffe://outpost.local/tenant/a/agent/b").unwrap();
    for id in [
        "",
        "https://outpost.local/tenant/a/agent/b",
        "spiffe:///tenant/a/agent/b",
        "spiffe://d/tenant/a/agent/",
        "spiffe://d/tenant/a/agent/b/c",
        "spiffe://d/tenant/../agent/b",
        "spiffe://d/agent/b",
        "spiffe://D/tenant/a/agent/b",
        "spiffe://d/tenant/a/agent/b\n",
        &format!("spiffe://{}/tenant/a/agent/b", "d".repeat(256)),
    ] {
        assert!(with(id).is_err(), "{id:?}");
    }
}

#[test]
fn requests_have_one_spelling() {
    let honest = field(1, &[1, 2, 3]);
    RenewRequest::decode(&honest).unwrap();
    for extra in [number(9, 1), field(2, b"notes"), field(1, &[1, 2, 3])] {
        let bytes = [honest.clone(), extra].concat();
        let error = RenewRequest::decode(&bytes).unwrap_err();
        let message = "RenewRequest";
        assert_eq!(error, DecodeError::NotCanonical { message });
    }
    let long = vec![0x0a; crate::limits::IDENTITY_REQUEST_BYTES + 1];
    let error = EnrolRequest::decode(&long).unwrap_err();
    assert!(matches!(error, DecodeError::TooLong { .. }), "{error}");
}

#[test]
fn a_token_is_not_shown() {
    let request = EnrolRequest {
        token: [213; 32],
        csr: vec![1],
    };
    assert!(!format!("{request:?}").contains("213"));
}
