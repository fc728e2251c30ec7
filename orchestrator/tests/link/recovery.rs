//! A certificate that ended is replaced on the agents' port: a challenge, a proof, and nobody else's.

use outpost_proto::wire::{ChallengeAnswer, RecoverReply, RecoverRequest};
use rcgen::{KeyPair, SigningKey as _};

use super::*;

const RECOVER: &str = "/outpost.identity.v1.Identity/Recover";
const HOUR: Duration = Duration::from_secs(3600);

/// An agent whose certificate ended two hours ago, and the key that it wants next.
struct Away {
    certificate: Vec<u8>,
    key: KeyPair,
    next: KeyPair,
    nonce: Nonce,
}

fn csr(key: &KeyPair) -> Vec<u8> {
    let params = rcgen::CertificateParams::default();
    params.serialize_request(key).unwrap().der().to_vec()
}

impl Away {
    /// Enrols it and lets its only session end.
    async fn new(fixture: &Fixture, agent: &str) -> Self {
        let secret = rand(agent);
        fixture.invite(agent, secret).await;
        let key = KeyPair::generate().unwrap();
        let issued = fixture.enrol(secret, &key).await.unwrap();
        let credentials = Credentials {
            chain: issued.chain,
            key: key.serialize_der(),
        };
        let mut client = fixture.client(Some(&credentials)).await;
        let (_call, welcome) = welcomed(&mut client, Nonce(0)).await;
        Self {
            certificate: Self::ended(fixture, "default", agent, &key),
            key,
            next: KeyPair::generate().unwrap(),
            nonce: welcome.next_nonce,
        }
    }

    fn ended(fixture: &Fixture, tenant: &str, agent: &str, key: &KeyPair) -> Vec<u8> {
        let (tenant, agent) = (tenant.parse().unwrap(), agent.parse().unwrap());
        let at = SystemTime::now() - 3 * HOUR;
        let authority = &fixture.authority;
        let issued = authority.issue_agent(&tenant, &agent, &csr(key), at, HOUR);
        issued.unwrap().chain.remove(0)
    }

    fn request(&self, answer: Option<ChallengeAnswer>) -> RecoverRequest {
        RecoverRequest {
            certificate: self.certificate.clone(),
            session_nonce: self.nonce,
            csr: csr(&self.next),
            answer,
        }
    }

    async fn challenge(&self, client: &mut Client) -> Result<Vec<u8>, Ended> {
        let request = self.request(None).encode().unwrap();
        let reply = client.unary(RECOVER, &request).await?;
        match RecoverReply::decode(&reply).unwrap() {
            RecoverReply::Challenge(challenge) => Ok(challenge),
            RecoverReply::Issued(_) => panic!("a certificate without a proof"),
        }
    }

    /// Signed as link does it, said here once more.
    fn answer(&self, challenge: &[u8]) -> RecoverRequest {
        let message = [
            b"outpost-recover-v1".as_slice(),
            &Sha256::digest(&self.certificate),
            &self.nonce.0.to_be_bytes(),
            &Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&self.next)),
            challenge,
        ]
        .concat();
        let proof = self.key.sign(&message).unwrap();
        self.request(Some(ChallengeAnswer {
            challenge: challenge.to_vec(),
            proof,
        }))
    }

    async fn recover(&self, client: &mut Client) -> Result<Issued, Ended> {
        let challenge = self.challenge(client).await?;
        asked(client, &self.answer(&challenge)).await
    }
}

async fn asked(client: &mut Client, request: &RecoverRequest) -> Result<Issued, Ended> {
    let reply = client.unary(RECOVER, &request.encode().unwrap()).await?;
    match RecoverReply::decode(&reply).unwrap() {
        RecoverReply::Issued(issued) => Ok(issued),
        RecoverReply::Challenge(_) => panic!("another challenge"),
    }
}

fn counted(fixture: &Fixture) -> (u64, u64) {
    let counters = fixture.handle.counters();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    (
        count(&counters.recoveries),
        count(&counters.recoveries_refused),
    )
}

#[tokio::test]
async fn an_agent_whose_certificate_ended_proves_its_key_and_connects_again() {
    let fixture = Fixture::new().await;
    let mut away = Away::new(&fixture, "site-1").await;
    let mut client = fixture.client(None).await;
    let lost = away.recover(&mut client).await.unwrap();
    // The answer may be lost: the same key is asked for again, with another challenge.
    let issued = away.recover(&mut client).await.unwrap();
    assert_ne!(lost.chain, issued.chain);
    assert_eq!(
        issued.spiffe_id,
        "spiffe://test.internal/tenant/default/agent/site-1"
    );
    let credentials = Credentials {
        chain: issued.chain,
        key: away.next.serialize_der(),
    };
    let mut renewed = fixture.client(Some(&credentials)).await;
    let (_call, welcome) = welcomed(&mut renewed, away.nonce).await;
    assert_eq!(counted(&fixture), (2, 0));

    // Used: the one before is good for nothing, and whoever still has it is a copy.
    away.nonce = welcome.next_nonce;
    away.next = KeyPair::generate().unwrap();
    let refused = away.recover(&mut client).await.unwrap_err();
    assert_eq!(refused.code, PERMISSION_DENIED);
    assert!(refused.message.contains("two%20holders") || refused.message.contains("two holders"));
    assert_eq!(fixture.alarms(), 1);
}

#[tokio::test]
async fn a_challenge_is_answered_once_by_the_key_that_it_was_given_to() {
    let fixture = Fixture::new().await;
    let away = Away::new(&fixture, "site-1").await;
    let mut client = fixture.client(None).await;
    let mut code = async |request: &RecoverRequest| {
        let refused = asked(&mut client, request).await;
        refused.map(drop).map_err(|ended| ended.code)
    };
    let mut other = fixture.client(None).await;

    let made_up = away.answer(&[7; 32]);
    assert_eq!(code(&made_up).await, Err(ABORTED), "never given");

    let challenge = away.challenge(&mut other).await.unwrap();
    let mut wrong_key = away.answer(&challenge);
    let thief = KeyPair::generate().unwrap();
    wrong_key.answer.as_mut().unwrap().proof = thief.sign(b"anything").unwrap();
    assert_eq!(code(&wrong_key).await, Err(PERMISSION_DENIED), "wrong key");
    let used_up = away.answer(&challenge);
    assert_eq!(code(&used_up).await, Err(ABORTED), "used up by that");

    // What is signed is all of it: another nonce or another next key needs another signature.
    for bend in [
        (|request| request.session_nonce.0 ^= 1) as fn(&mut RecoverRequest),
        |request| request.csr = csr(&KeyPair::generate().unwrap()),
    ] {
        let challenge = away.challenge(&mut other).await.unwrap();
        let mut request = away.answer(&challenge);
        bend(&mut request);
        assert_eq!(code(&request).await, Err(PERMISSION_DENIED));
    }

    // One that was given for another agent's certificate.
    let neighbour = Away::new(&fixture, "site-2").await;
    let challenge = neighbour.challenge(&mut other).await.unwrap();
    assert_eq!(code(&away.answer(&challenge)).await, Err(ABORTED));

    let challenge = away.challenge(&mut other).await.unwrap();
    let good = away.answer(&challenge);
    assert_eq!(code(&good).await, Ok(()));
    assert_eq!(code(&good).await, Err(ABORTED), "replayed");
    assert_eq!(fixture.alarms(), 0);
    assert_eq!(counted(&fixture).0, 1);
}

#[tokio::test]
async fn certificates_that_hold_or_are_not_ours_and_former_agents_get_nothing() {
    let fixture = Fixture::new().await;
    let mut away = Away::new(&fixture, "site-1").await;
    let mut client = fixture.client(None).await;
    let ended = away.certificate.clone();

    let holds = fixture.enrolled("site-2").await;
    away.certificate = holds.chain[0].clone();
    let refused = away.challenge(&mut client).await.unwrap_err();
    assert_eq!(refused.code, FAILED_PRECONDITION, "it holds");

    let foreign = Authority::create("test.internal", SystemTime::now()).unwrap();
    let (tenant, agent) = (tenant(), "site-1".parse().unwrap());
    let at = SystemTime::now() - 3 * HOUR;
    let forged = foreign.issue_agent(&tenant, &agent, &csr(&away.key), at, HOUR);
    away.certificate = forged.unwrap().chain.remove(0);
    let refused = away.challenge(&mut client).await.unwrap_err();
    assert_eq!(refused.code, PERMISSION_DENIED, "another authority's");

    // A certificate of ours for another tenant, under the same name and key.
    away.certificate = Away::ended(&fixture, "other", "site-1", &away.key);
    let refused = away.recover(&mut client).await.unwrap_err();
    assert_eq!(refused.code, PERMISSION_DENIED, "another tenant");

    away.certificate = ended;
    let next = std::mem::replace(&mut away.next, KeyPair::generate().unwrap());
    let own = KeyPair::try_from(away.key.serialize_der()).unwrap();
    away.next = own;
    let refused = away.challenge(&mut client).await.unwrap_err();
    assert_eq!(refused.code, INVALID_ARGUMENT, "the old key again");
    away.next = next;

    let remove = Ask::RemoveAgent {
        agent: "site-1".parse().unwrap(),
    };
    let removed = fixture.handle.ask(tenant.clone(), remove).await;
    assert_eq!(removed, Ok(Answer::Removed));
    let refused = away.recover(&mut client).await.unwrap_err();
    assert_eq!(refused.code, PERMISSION_DENIED, "removed");
    assert_eq!(counted(&fixture).0, 0);
    assert_eq!(fixture.alarms(), 0);
}

#[tokio::test]
async fn an_earlier_nonce_is_a_copys() {
    let fixture = Fixture::new().await;
    let mut away = Away::new(&fixture, "site-1").await;
    let mut client = fixture.client(None).await;
    let nonce = away.nonce;
    away.nonce = Nonce(nonce.0 ^ 1);
    let refused = away.recover(&mut client).await.unwrap_err();
    assert_eq!(refused.code, PERMISSION_DENIED);
    assert_eq!(fixture.alarms(), 1);
    // Both are set aside, also the one that has all of it.
    away.nonce = nonce;
    let refused = away.recover(&mut client).await.unwrap_err();
    assert_eq!(refused.code, PERMISSION_DENIED);
    assert_eq!(fixture.alarms(), 1, "told once");
}

#[tokio::test]
async fn too_many_for_one_agent_are_slowed_down_and_nobody_else() {
    let fixture = Fixture::new().await;
    let busy = Away::new(&fixture, "site-1").await;
    let other = Away::new(&fixture, "site-2").await;
    let mut client = fixture.client(None).await;
    let mut given = 0;
    let refused = loop {
        match busy.challenge(&mut client).await {
            Ok(_) => given += 1,
            Err(ended) => break ended,
        }
        assert!(given < 100, "never refused");
    };
    assert_eq!(refused.code, RESOURCE_EXHAUSTED);
    let _ = other.recover(&mut client).await.unwrap();
}
