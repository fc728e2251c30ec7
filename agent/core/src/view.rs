//! What people see of the agent: the data behind `outpost-agent status`.

use std::fmt;

use outpost_driver::Micros;
use outpost_proto::ids::AttemptId;
use outpost_proto::message::{AttemptState, Flags, Reporting};
use outpost_proto::name::{EntryName, TaskName, WorkflowName};
use serde::Serialize;

use crate::Agent;
use crate::attempts::Held;
use crate::event::{Alarm, Down, NotRecovered};
use crate::recovery::RecoveryView;
use crate::renewal::CertificateView;
use crate::session::Phase;

/// The agent at one moment. Times are microseconds since boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// How far the session has come; `None` while there is no connection.
    pub session: Option<Phase>,
    /// Since when.
    pub session_since_us: u64,
    /// When the next connection is tried, while there is none.
    pub retry_at_us: Option<u64>,
    /// Until when work may be started; may be past. `None` before the first grant of this session.
    pub lease_until_us: Option<u64>,
    /// How many attempts run at once.
    pub slots: u16,
    /// Attempts starting or running, in order of id.
    pub running: Vec<AttemptView>,
    /// Attempts waiting for a slot, a lease or room under their entry's limit, in order of id.
    pub queued: Vec<AttemptView>,
    /// Outcomes that are not yet durable upstream.
    pub unacknowledged: usize,
    /// What keeps the agent from starting work.
    pub flags: Flags,
    /// How much is said upstream.
    pub reporting: Reporting,
    /// What went wrong last, until a session is ready again.
    pub trouble: Option<Trouble>,
    /// What is done about a certificate that ended; `None` while there is nothing to do.
    pub recovery: Option<RecoveryView>,
    /// The certificate and its renewal; `None` before link has told of it.
    pub certificate: Option<CertificateView>,
}

/// An attempt as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptView {
    /// Which.
    pub attempt: AttemptId,
    /// The catalogue entry.
    pub entry: EntryName,
    /// The task's name upstream.
    pub task: TaskName,
    /// The workflow's name upstream.
    pub workflow: WorkflowName,
    /// Where it stands.
    pub state: AttemptState,
    /// When it began; `None` if it did not, or under an earlier process (its keeper knows).
    pub began_us: Option<u64>,
    /// Whether it was asked to end.
    pub cancel_requested: bool,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The stream is not there.
    Down(Down),
    /// The orchestrator did what no honest one does.
    Alarm(Alarm),
    /// It said nothing for too long.
    Silent,
    /// It wants to speak this version of the protocol.
    Unsupported(u8),
    /// It assigned more attempts than an agent holds.
    TooMany,
    /// The journal could not be written.
    NotCommitted,
    /// There is no other certificate in place of the one that ended.
    NotRecovered(NotRecovered),
    /// A keeper said of this attempt what cannot be.
    Unexpected(AttemptId),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Down(Down::Unreachable) => {
                "the orchestrator could not be reached; `outpost-agent check` shows at which step"
            }
            Self::Down(Down::Ended) => "the orchestrator ended the connection; it is tried again",
            Self::Down(Down::Refused) => {
                "the orchestrator refuses this agent's identity (removed or unknown); ask its operator"
            }
            Self::Down(Down::Expired) => {
                "this agent's certificate has ended; another one is asked for in its place"
            }
            Self::NotRecovered(NotRecovered::Holds) => {
                "this agent's certificate holds by the orchestrator's clock; compare this host's clock (date -u) with it"
            }
            Self::NotRecovered(NotRecovered::Refused) => {
                "the orchestrator gives no certificate in place of the one that ended; ask its operator to invite this \
                 agent again, then outpost-agent enrol --force --token-file FILE"
            }
            Self::NotRecovered(NotRecovered::Later) => {
                "no other certificate could be had yet in place of the one that ended; it is tried again"
            }
            Self::Down(Down::Protocol) => {
                "the other side does not speak this protocol; check the address and both versions"
            }
            Self::Alarm(Alarm::OutOfOrder) => {
                "the orchestrator sent messages in an order that no honest one does; the session was ended"
            }
            Self::Alarm(Alarm::AttemptReused) => {
                "the orchestrator used an attempt's id again; the session was ended"
            }
            Self::Alarm(Alarm::WentBack) => {
                "the orchestrator's database is older than one seen before; new work is refused until its operator \
                 has run `restore`"
            }
            Self::Silent => "the orchestrator said nothing for too long; the session was ended",
            Self::Unsupported(version) => {
                return write!(
                    f,
                    "the orchestrator wants protocol version {version}; update the older side"
                );
            }
            Self::TooMany => {
                "the orchestrator assigned more attempts than an agent holds; the session was ended"
            }
            Self::NotCommitted => {
                "the journal could not be written; see the agent's log for the disk's error"
            }
            Self::Unexpected(attempt) => {
                return write!(
                    f,
                    "the keeper of attempt {attempt} said what cannot be; it was not believed"
                );
            }
        };
        f.write_str(text)
    }
}

impl Serialize for Trouble {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Agent {
    /// The agent as of the last turn.
    #[must_use]
    pub fn view(&self) -> View {
        let session = self.connector.session.as_ref();
        let of = |which: fn(AttemptState) -> bool| {
            self.attempts
                .iter()
                .filter(|held| which(held.record.state))
                .map(attempt_view)
                .collect()
        };
        View {
            session: session.map(|session| session.phase),
            session_since_us: session
                .map_or(self.connector.down_since, |session| session.since)
                .0,
            retry_at_us: session.is_none().then_some(self.connector.retry_at.0),
            lease_until_us: session
                .and_then(|session| session.lease.until())
                .map(|Micros(at)| at),
            slots: self.settings.slots,
            running: of(|state| matches!(state, AttemptState::Starting | AttemptState::Running)),
            queued: of(|state| state == AttemptState::Assigned),
            unacknowledged: self.attempts.over(),
            flags: self.flags(),
            reporting: self.settings.reporting,
            trouble: self.trouble,
            recovery: self.recovery.view(),
            certificate: self.renewal.view(),
        }
    }
}

fn attempt_view(held: &Held) -> AttemptView {
    let assign = &held.record.assign;
    AttemptView {
        attempt: assign.attempt,
        entry: assign.entry.clone(),
        task: assign.task_name.clone(),
        workflow: assign.workflow_name.clone(),
        state: held.record.state,
        began_us: held.began.map(|Micros(at)| at),
        cancel_requested: held.record.cancel_requested,
    }
}
