//! Certificates for invitations, and the next ones: checks what is presented, asks the core whether it holds, issues.
//!
//! Only the key of a request is used; tenant and name come from the invitation, through the core, from the certificate
//! that the connection was made with, or from one that has ended and whose key is proven to be held. Costs are bounded
//! before anything is computed.

pub(crate) mod args;
mod rate;
mod recover;
pub(crate) mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outpost_certs::ca::Authority;
use outpost_certs::identity::AgentIdentity;
use outpost_certs::issue::{CsrKey, IssuedChain};
use outpost_certs::token::secret_hash;
use outpost_orchestrator_core::event::Denied;
use outpost_proto::ids::Conn;
use outpost_proto::name::{AgentName, TenantName};
use outpost_proto::wire::{EnrolRequest, Issued, RenewRequest};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;
use tracing::{error, info, warn};

use crate::driver::{AskError, Handle};
use crate::link::Pasts;
use rate::{Rate, Rates};
use recover::Recoveries;

/// How long a certificate may hold. Below, a clock that is a little off does harm; above, a stolen key is good for too
/// long.
const LIVES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(90 * 24 * 60 * 60);
/// The longest time after a certificate's end in which another one may be issued in its place.
const RECOVER_WITHIN_MOST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Certificates at once: each costs two signatures.
const AT_ONCE: usize = 16;
/// Of them for callers without a certificate that holds: however many of those call, there is room for renewals.
const STRANGERS_AT_ONCE: usize = AT_ONCE / 2;
/// Certificates in a second, in the long run, and in one go: a new site with all its agents. Renewals and what anybody
/// may ask for count by themselves.
const ALL: Rate = Rate {
    per_second: 50.0,
    in_one_go: 200.0,
};
/// Renewals by one agent in one go; in the long run, as many as in a twenty-fourth of a certificate's life one.
const BY_ONE_IN_ONE_GO: f64 = 10.0;

/// Issues agents' certificates.
#[derive(Debug)]
pub struct Enroller {
    handle: Handle,
    authority: Arc<Authority>,
    life: Duration,
    room: Semaphore,
    strangers: Semaphore,
    renewals: Rates<()>,
    anonymous: Rates<()>,
    by_agent: Rates<(TenantName, AgentName)>,
    recoveries: Recoveries,
    /// What was received of each agent; of one that enrols, nothing yet.
    pub(crate) pasts: Pasts,
}

impl Enroller {
    /// Issues under `authority` what the core behind `handle` allows, for `life` each.
    #[must_use]
    pub fn new(handle: Handle, authority: Arc<Authority>, life: Duration) -> Self {
        let by_one = Rate {
            per_second: 24.0 / life.as_secs_f64().max(1.0),
            in_one_go: BY_ONE_IN_ONE_GO,
        };
        Self {
            handle,
            authority,
            life,
            room: Semaphore::new(AT_ONCE),
            strangers: Semaphore::new(STRANGERS_AT_ONCE),
            renewals: Rates::new(ALL),
            anonymous: Rates::new(ALL),
            by_agent: Rates::new(by_one),
            recoveries: Recoveries::new(),
            pasts: Pasts::default(),
        }
    }

    /// Answers one Enrol call: a request and the certificate it gets, both as they stand on the wire.
    ///
    /// # Errors
    /// As a gRPC status: `invalid_argument` for a request that is not of the fixed form, `permission_denied` for a
    /// token that does not hold, `resource_exhausted` and `unavailable` for "try again".
    pub async fn enrol(&self, request: &[u8]) -> Result<Bytes, Status> {
        let _room = self.admit_stranger()?;
        let request = EnrolRequest::decode(request).map_err(|error| {
            Status::invalid_argument(format!("the request cannot be accepted: {error}"))
        })?;
        let key = CsrKey::from_csr(&request.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let token_hash = hex(&secret_hash(&request.token));
        let enrolled = self.handle.enrol(token_hash, hex(&key.sha256)).await;
        let (tenant, agent) = enrolled.map_err(|error| status_of(&error))?;
        let issued = self.issue(&tenant, &agent, &request.csr)?;
        self.pasts.begins_anew(&tenant, &agent);
        info!(
            target: "audit", %tenant, %agent, serial = %issued.serial,
            not_after = micros(issued.not_after) / 1_000_000, "an agent enrolled"
        );
        reply(issued)
    }

    /// Answers one Renew call of the agent that presented this certificate: the next one, for the same name. `beside`:
    /// the stream on the same connection, if it has one.
    ///
    /// # Errors
    /// As a gRPC status: `unauthenticated` for a certificate that has ended, `permission_denied` for an agent that was
    /// removed, is known by another key or has its session elsewhere, otherwise as [`Self::enrol`].
    pub async fn renew(
        &self,
        presented: &AgentIdentity,
        beside: Option<Conn>,
        request: &[u8],
    ) -> Result<Bytes, Status> {
        let renewed = self.try_renew(presented, beside, request).await;
        let counters = self.handle.counters();
        match &renewed {
            Ok(_) => counters.renewals.fetch_add(1, Ordering::Relaxed),
            Err(status) => {
                let (tenant, agent) = (&presented.tenant, &presented.agent);
                warn!(
                    target: "audit", %tenant, %agent, serial = %presented.serial, code = ?status.code(),
                    why = status.message(), "a certificate was not renewed"
                );
                counters.renewals_refused.fetch_add(1, Ordering::Relaxed)
            }
        };
        renewed
    }

    async fn try_renew(
        &self,
        presented: &AgentIdentity,
        beside: Option<Conn>,
        request: &[u8],
    ) -> Result<Bytes, Status> {
        if presented.not_after <= SystemTime::now() {
            return Err(Status::unauthenticated("the agent's certificate has ended"));
        }
        let (tenant, agent) = (presented.tenant.clone(), presented.agent.clone());
        // The agent's own bound first: one that asks too often uses up nobody else's.
        if !self.by_agent.pass(&(tenant.clone(), agent.clone())) || !self.renewals.pass(&()) {
            return Err(busy());
        }
        let Ok(_room) = self.room.try_acquire() else {
            return Err(busy());
        };
        let request = RenewRequest::decode(request).map_err(|error| {
            Status::invalid_argument(format!("the request cannot be accepted: {error}"))
        })?;
        let key = CsrKey::from_csr(&request.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if key.sha256 == presented.public_key_sha256 {
            return Err(Status::invalid_argument(
                "the request is for the key that is to be replaced; a renewal needs a new one",
            ));
        }
        let (present, next) = (hex(&presented.public_key_sha256), hex(&key.sha256));
        let allowed = self
            .handle
            .renew(tenant.clone(), agent.clone(), present, next, beside);
        allowed.await.map_err(|error| refusal_of(&error))?;
        let issued = self.issue(&tenant, &agent, &request.csr)?;
        info!(
            target: "audit", %tenant, %agent, serial = %issued.serial, replaces = %presented.serial,
            not_after = micros(issued.not_after) / 1_000_000, "a certificate was renewed"
        );
        reply(issued)
    }

    /// Lets a call in that anybody may make, for as long as the answer is kept.
    fn admit_stranger(&self) -> Result<[SemaphorePermit<'_>; 2], Status> {
        if !self.anonymous.pass(&()) {
            return Err(busy());
        }
        let stranger = self.strangers.try_acquire().map_err(|_| busy())?;
        let room = self.room.try_acquire().map_err(|_| busy())?;
        Ok([stranger, room])
    }

    fn issue(
        &self,
        tenant: &TenantName,
        agent: &AgentName,
        csr: &[u8],
    ) -> Result<IssuedChain, Status> {
        let now = SystemTime::now();
        let issued = self
            .authority
            .issue_agent(tenant, agent, csr, now, self.life);
        issued.map_err(|error| {
            error!(%tenant, %agent, %error, "allowed, but no certificate could be issued");
            Status::unavailable(format!(
                "no certificate could be issued: {error}; the same request may be tried again"
            ))
        })
    }
}

fn reply(issued: IssuedChain) -> Result<Bytes, Status> {
    let reply = Issued {
        chain: issued.chain,
        roots: issued.roots,
        spiffe_id: issued.spiffe_id,
    };
    let bytes = reply
        .encode()
        .map_err(|error| Status::internal(format!("the answer has no wire form: {error}")))?;
    Ok(bytes.into())
}

fn busy() -> Status {
    Status::resource_exhausted("too many requests for certificates at once; try again shortly")
}

/// Of a renewal.
fn refusal_of(error: &AskError) -> Status {
    match error {
        AskError::Denied(Denied::NotTheHolder(_)) => Status::permission_denied(error.to_string()),
        AskError::Denied(_) => Status::permission_denied(
            "this agent was removed, or its certificate was renewed under another key",
        ),
        AskError::Unavailable | AskError::Overloaded => status_of(error),
    }
}

fn status_of(error: &AskError) -> Status {
    match error {
        AskError::Denied(Denied::BadToken) => Status::permission_denied(error.to_string()),
        AskError::Denied(Denied::AgentExists(_)) => Status::already_exists(error.to_string()),
        AskError::Denied(
            Denied::UnknownWorkflow(_)
            | Denied::UnknownRun(_)
            | Denied::RunOver { .. }
            | Denied::UnknownEntry { .. }
            | Denied::BadParam { .. }
            | Denied::UnknownAgent(_)
            | Denied::KeyReused
            | Denied::VersionMismatch { .. }
            | Denied::WorkflowBusy { .. }
            | Denied::BadSchedule(_)
            | Denied::NoSchedule(_)
            | Denied::UnknownTask { .. }
            | Denied::CannotRerun { .. }
            | Denied::NotTheHolder(_)
            | Denied::NotRecovered { .. }
            | Denied::NotQuarantined(_)
            | Denied::NothingAwaited
            | Denied::NotFrozen
            | Denied::UnknownAttempt(_)
            | Denied::InTouch { .. }
            | Denied::Limit(_),
        ) => Status::failed_precondition(error.to_string()),
        AskError::Unavailable => Status::unavailable(error.to_string()),
        AskError::Overloaded => Status::resource_exhausted(error.to_string()),
    }
}

fn life_text(life: Duration) -> String {
    match life.as_secs() {
        seconds if seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        seconds => format!("{seconds} s"),
    }
}

/// Microseconds since 1970.
pub(crate) fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
