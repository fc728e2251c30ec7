//! Certificates for invitations: checks what is presented, asks the core whether it holds, issues.
//!
//! Only the key of a request is used; tenant and name come from the invitation, through the core. Costs are bounded
//! before anything is computed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use outpost_certs::ca::Authority;
use outpost_certs::issue::CsrKey;
use outpost_certs::token::secret_hash;
use outpost_orchestrator_core::event::Denied;
use outpost_proto::wire::{EnrolRequest, Issued};
use tokio::sync::Semaphore;
use tonic::Status;
use tracing::{error, info};

use crate::driver::{AskError, Handle};

/// How long an agent's certificate holds.
pub const AGENT_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Enrolments at once: each costs two signatures.
const AT_ONCE: usize = 16;
/// Enrolments in a second, in the long run.
const PER_SECOND: f64 = 50.0;
/// And in one go: a new site with all its agents.
const IN_ONE_GO: f64 = 200.0;

/// Issues agents' certificates.
#[derive(Debug)]
pub struct Enroller {
    handle: Handle,
    authority: Arc<Authority>,
    room: Semaphore,
    rate: Mutex<Rate>,
}

#[derive(Debug)]
struct Rate {
    left: f64,
    at: Instant,
}

impl Enroller {
    /// Issues under `authority` what the core behind `handle` allows.
    #[must_use]
    pub fn new(handle: Handle, authority: Arc<Authority>) -> Self {
        let rate = Mutex::new(Rate {
            left: IN_ONE_GO,
            at: Instant::now(),
        });
        Self {
            handle,
            authority,
            room: Semaphore::new(AT_ONCE),
            rate,
        }
    }

    /// Answers one Enrol call: a request and the certificate it gets, both as they stand on the wire.
    ///
    /// # Errors
    /// As a gRPC status: `invalid_argument` for a request that is not of the fixed form, `permission_denied` for a
    /// token that does not hold, `resource_exhausted` and `unavailable` for "try again".
    pub async fn enrol(&self, request: &[u8]) -> Result<Bytes, Status> {
        self.pass()?;
        let Ok(_room) = self.room.try_acquire() else {
            return Err(busy());
        };
        let request = EnrolRequest::decode(request).map_err(|error| {
            Status::invalid_argument(format!("the request cannot be accepted: {error}"))
        })?;
        let key = CsrKey::from_csr(&request.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let token_hash = hex(&secret_hash(&request.token));
        let enrolled = self.handle.enrol(token_hash, hex(&key.sha256)).await;
        let (tenant, agent) = enrolled.map_err(|error| status_of(&error))?;
        let issued = self.authority.issue_agent(
            &tenant,
            &agent,
            &request.csr,
            SystemTime::now(),
            AGENT_LIFE,
        );
        let issued = issued.map_err(|error| {
            error!(%tenant, %agent, %error, "an invitation was taken, but no certificate could be issued");
            Status::unavailable(format!("no certificate could be issued: {error}; the same token may be tried again"))
        })?;
        info!(%tenant, %agent, serial = %issued.serial, "an agent enrolled");
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

    fn pass(&self) -> Result<(), Status> {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let refilled = now
            .duration_since(rate.at)
            .as_secs_f64()
            .mul_add(PER_SECOND, rate.left)
            .min(IN_ONE_GO);
        let passes = refilled >= 1.0;
        *rate = Rate {
            left: if passes { refilled - 1.0 } else { refilled },
            at: now,
        };
        if passes { Ok(()) } else { Err(busy()) }
    }
}

fn busy() -> Status {
    Status::resource_exhausted("too many enrolments at once; try again shortly")
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
            | Denied::Limit(_),
        ) => Status::failed_precondition(error.to_string()),
        AskError::Unavailable => Status::unavailable(error.to_string()),
        AskError::Overloaded => Status::resource_exhausted(error.to_string()),
    }
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
