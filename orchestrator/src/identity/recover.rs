//! Certificates for agents whose last one ended while they were out of reach: a challenge, a proof, and the core's word.
//!
//! Anybody may ask, so that each step costs little and is bounded by address; only who holds a certificate of ours is
//! given a challenge, and only who holds its key reaches the core. A challenge is good once, for a minute, for the
//! certificate that it was given for, and is forgotten when the process ends: the agent asks for another one then.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use outpost_certs::identity::AgentIdentity;
use outpost_certs::issue::CsrKey;
use outpost_certs::recover::Claim;
use outpost_certs::token::secret_hash;
use outpost_orchestrator_core::event::Denied;
use outpost_orchestrator_core::recover::NotRecovered;
use outpost_proto::name::{AgentName, TenantName};
use outpost_proto::wire::{Issued, RecoverReply, RecoverRequest};
use tonic::Status;
use tracing::{info, warn};

use super::rate::{Rate, Rates};
use super::{Enroller, busy, hex, micros, status_of};
use crate::driver::AskError;

/// How long a challenge is good for.
const CHALLENGE_LIFE: Duration = Duration::from_secs(60);
/// Challenges that wait for their answer.
const CHALLENGES: usize = 4096;
/// Bytes of a challenge.
const CHALLENGE_LEN: usize = 32;
/// Calls from one address, two for each agent: a site whose agents share one comes back at ten agents in a second.
const BY_ADDRESS: Rate = Rate {
    per_second: 20.0,
    in_one_go: 200.0,
};
/// Calls for one agent from one address: whoever has a copy of its certificate elsewhere does not use them up.
const BY_AGENT: Rate = Rate {
    per_second: 1.0 / 30.0,
    in_one_go: 20.0,
};

/// What the recoveries of one orchestrator share.
#[derive(Debug)]
pub(super) struct Recoveries {
    by_address: Rates<IpAddr>,
    by_agent: Rates<(IpAddr, TenantName, AgentName)>,
    challenges: Challenges,
}

impl Recoveries {
    pub(super) fn new() -> Self {
        Self {
            by_address: Rates::new(BY_ADDRESS),
            by_agent: Rates::new(BY_AGENT),
            challenges: Challenges::default(),
        }
    }
}

/// Challenges that were given and not answered.
#[derive(Debug, Default)]
struct Challenges(Mutex<BTreeMap<[u8; CHALLENGE_LEN], Given>>);

#[derive(Debug)]
struct Given {
    until: Instant,
    /// SHA-256 of the certificate it was given for.
    of: [u8; 32],
}

impl Challenges {
    /// Takes note of one; `false` when too many wait.
    fn give(&self, challenge: [u8; CHALLENGE_LEN], of: [u8; 32], now: Instant) -> bool {
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if given.len() >= CHALLENGES {
            given.retain(|_, given| given.until > now);
            if given.len() >= CHALLENGES {
                return false;
            }
        }
        let until = now + CHALLENGE_LIFE;
        given.insert(challenge, Given { until, of });
        true
    }

    /// Whether it was given for this certificate, not long ago; it is used up then.
    fn take(&self, challenge: &[u8], of: [u8; 32], now: Instant) -> bool {
        let Ok(challenge) = <[u8; CHALLENGE_LEN]>::try_from(challenge) else {
            return false;
        };
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let given = given.remove(&challenge);
        given.is_some_and(|given| given.until > now && given.of == of)
    }
}

impl Enroller {
    /// Answers one Recover call from this address: with a challenge first, then with a certificate for the name in the
    /// ended one.
    ///
    /// # Errors
    /// As a gRPC status: `failed_precondition` for a certificate that has not ended, `permission_denied` for what will not
    /// be different next time, with what helps; `aborted`, `resource_exhausted` and `unavailable` for "begin again".
    pub async fn recover(&self, from: IpAddr, request: &[u8]) -> Result<Bytes, Status> {
        let answered = self.try_recover(from, request).await;
        let counters = self.handle.counters();
        match &answered {
            Ok(RecoverReply::Challenge(_)) => {}
            Ok(RecoverReply::Issued(_)) => {
                counters.recoveries.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                warn!(
                    target: "audit", address = %from, code = ?status.code(), why = status.message(),
                    "a certificate was not recovered"
                );
                counters.recoveries_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        let bytes = answered?
            .encode()
            .map_err(|error| Status::internal(format!("the answer has no wire form: {error}")))?;
        Ok(bytes.into())
    }

    async fn try_recover(&self, from: IpAddr, request: &[u8]) -> Result<RecoverReply, Status> {
        // The address's own bound first: one place that asks too often uses up nobody else's.
        let from = site_of(from);
        if !self.recoveries.by_address.pass(&from) {
            return Err(busy());
        }
        let _room = self.admit_stranger()?;
        let request = RecoverRequest::decode(request).map_err(|error| {
            Status::invalid_argument(format!("the request cannot be accepted: {error}"))
        })?;
        let ended = self
            .authority
            .issued_to(&request.certificate)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        let of = (from, ended.tenant.clone(), ended.agent.clone());
        if !self.recoveries.by_agent.pass(&of) {
            return Err(busy());
        }
        let next = CsrKey::from_csr(&request.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if next.sha256 == ended.public_key_sha256 {
            return Err(Status::invalid_argument(
                "the request is for the key of the certificate that ended; a new one is needed",
            ));
        }
        if !self.is_proven(&request, &next)? {
            return self.challenge(&ended, &request);
        }
        self.replace(&ended, &request, &next).await
    }

    /// Whether the key is proven to be held; `false` when a challenge is wanted first.
    fn is_proven(&self, request: &RecoverRequest, next: &CsrKey) -> Result<bool, Status> {
        let Some(answer) = &request.answer else {
            return Ok(false);
        };
        let of = secret_hash(&request.certificate);
        let challenges = &self.recoveries.challenges;
        if !challenges.take(&answer.challenge, of, Instant::now()) {
            return Err(Status::aborted(
                "the challenge is not known, was answered already or is too old; ask for another one",
            ));
        }
        let claim = Claim {
            certificate: &request.certificate,
            challenge: &answer.challenge,
            session_nonce: request.session_nonce,
            next_key_sha256: &next.sha256,
        };
        if claim.is_proven_by(&answer.proof) {
            return Ok(true);
        }
        Err(Status::permission_denied(
            "the proof is not by the key of the certificate that ended",
        ))
    }

    fn challenge(
        &self,
        ended: &AgentIdentity,
        request: &RecoverRequest,
    ) -> Result<RecoverReply, Status> {
        if ended_ms_ago(ended).is_none() {
            return Err(Status::failed_precondition(
                NotRecovered::NotExpired.to_string(),
            ));
        }
        let mut challenge = [0; CHALLENGE_LEN];
        getrandom::fill(&mut challenge)
            .map_err(|error| Status::unavailable(format!("no random bytes: {error}")))?;
        let of = secret_hash(&request.certificate);
        if !self
            .recoveries
            .challenges
            .give(challenge, of, Instant::now())
        {
            return Err(busy());
        }
        Ok(RecoverReply::Challenge(challenge.to_vec()))
    }

    async fn replace(
        &self,
        ended: &AgentIdentity,
        request: &RecoverRequest,
        next: &CsrKey,
    ) -> Result<RecoverReply, Status> {
        let (tenant, agent) = (ended.tenant.clone(), ended.agent.clone());
        let keys = (hex(&ended.public_key_sha256), hex(&next.sha256));
        let allowed = self.handle.recover(
            (tenant.clone(), agent.clone()),
            keys,
            request.session_nonce,
            (ended_ms_ago(ended), micros(ended.not_after)),
        );
        allowed.await.map_err(|error| refusal_of(&error))?;
        let issued = self.issue(&tenant, &agent, &request.csr)?;
        info!(
            target: "audit", %tenant, %agent, serial = %issued.serial, replaces = %ended.serial,
            not_after = micros(issued.not_after) / 1_000_000,
            "a certificate was issued in place of one that had ended"
        );
        Ok(RecoverReply::Issued(Issued {
            chain: issued.chain,
            roots: issued.roots,
            spiffe_id: issued.spiffe_id,
        }))
    }
}

/// What counts as one address: one host has as many of version 6 as it likes, all with the same first half.
fn site_of(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// By the wall clock, as certificates count.
fn ended_ms_ago(ended: &AgentIdentity) -> Option<u64> {
    let ago = SystemTime::now().duration_since(ended.not_after).ok()?;
    Some(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
}

fn refusal_of(error: &AskError) -> Status {
    match error {
        AskError::Denied(Denied::NotRecovered { why, .. }) => match why {
            NotRecovered::NotExpired => Status::failed_precondition(why.to_string()),
            NotRecovered::Unknown
            | NotRecovered::Quarantined
            | NotRecovered::TurnedAway
            | NotRecovered::OtherKey
            | NotRecovered::TooLate
            | NotRecovered::TooOften => Status::permission_denied(why.to_string()),
        },
        AskError::Denied(_) | AskError::Unavailable | AskError::Overloaded => status_of(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_good_once_for_a_minute_for_what_it_was_given_for() {
        let challenges = Challenges::default();
        let now = Instant::now();
        let (mine, other) = ([1; 32], [2; 32]);
        assert!(challenges.give([7; 32], mine, now));
        assert!(!challenges.take(&[7; 32], other, now), "another's");
        assert!(!challenges.take(&[7; 32], mine, now), "used up by that");
        assert!(challenges.give([8; 32], mine, now));
        assert!(challenges.take(&[8; 32], mine, now + CHALLENGE_LIFE / 2));
        assert!(!challenges.take(&[8; 32], mine, now), "twice");
        assert!(challenges.give([9; 32], mine, now));
        assert!(!challenges.take(&[9; 32], mine, now + CHALLENGE_LIFE));
        assert!(!challenges.take(&[9; 31], mine, now));
    }

    #[test]
    fn addresses_of_version_6_count_by_their_first_half() {
        let site = |text: &str| site_of(text.parse().unwrap()).to_string();
        assert_eq!(site("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(site("2001:db8:1:2:ffff::1"), "2001:db8:1:2::");
        assert_eq!(site("2001:db8:1:3::1"), "2001:db8:1:3::");
        assert_eq!(site("192.0.2.7"), "192.0.2.7");
        assert_eq!(site("::ffff:192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn those_that_wait_are_bounded_and_old_ones_make_room() {
        let challenges = Challenges::default();
        let now = Instant::now();
        let numbered = |number: usize| {
            let mut challenge = [0; CHALLENGE_LEN];
            challenge[..8].copy_from_slice(&number.to_be_bytes());
            challenge
        };
        for number in 0..CHALLENGES {
            assert!(challenges.give(numbered(number), [1; 32], now));
        }
        assert!(!challenges.give(numbered(CHALLENGES), [1; 32], now));
        let later = now + CHALLENGE_LIFE;
        assert!(challenges.give(numbered(CHALLENGES), [1; 32], later));
    }
}
