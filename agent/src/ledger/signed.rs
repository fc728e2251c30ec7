//! One receipt as it is kept: what the orchestrator signed, for whom, and what that was worth when it came.
//!
//! Written beside the segments by `beside`, read by `held`; what it proves, `check` says.

use std::sync::Arc;

use outpost_certs::receipt::{self, Holder, VerifyError, Witness};
use outpost_proto::ids::SessionEpoch;
use outpost_proto::limits::RECEIPT_SESSIONS;
use outpost_proto::message::{Receipt, SessionEnd};

use super::{HEAD_BYTES, Head, Kind, number};

/// Segment, server, epoch, count, head.
const FIELDS_BYTES: usize = 8 + 4 + 8 + 8 + HEAD_BYTES;
/// Epoch, count, head of a session before.
const END_BYTES: usize = 8 + 8 + HEAD_BYTES;
/// In the place of a server's number: its certificates are not known.
pub(super) const NO_SERVER: u32 = u32::MAX;

/// Whose receipts are right here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The tenant's name.
    pub tenant: String,
    /// The agent's.
    pub agent: String,
}

impl Named {
    /// Of a SPIFFE id; `None` when it is no agent's.
    #[must_use]
    pub fn of(spiffe_id: &str) -> Option<Self> {
        let path = spiffe_id.strip_prefix("spiffe://")?.split_once('/')?.1;
        let (tenant, agent) = path.strip_prefix("tenant/")?.split_once("/agent/")?;
        Some(Self {
            tenant: tenant.to_owned(),
            agent: agent.to_owned(),
        })
    }

    fn holder(&self) -> Holder<'_> {
        Holder {
            tenant: &self.tenant,
            agent: &self.agent,
        }
    }
}

/// What a receipt was worth when it came, so that none that was worth less ever takes its place. A later check takes
/// nobody's word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Signed by the orchestrator, for exactly these frames.
    Holds,
    /// It could not be told.
    Untold,
    /// It did not hold.
    Bad,
}

impl Worth {
    fn code(self) -> u8 {
        match self {
            Self::Untold => 0,
            Self::Holds => 1,
            Self::Bad => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let mut all = [Self::Untold, Self::Holds, Self::Bad].into_iter();
        all.find(|worth| worth.code() == code)
    }
}

/// The sessions before, as a receipt names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// The first session of which the signer knew.
    pub since: u64,
    /// The newest ones, ascending.
    pub before: Vec<SessionEnd>,
}

/// One receipt as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Microseconds since 1970 by the site's clock, when it came.
    pub wall_us: u64,
    /// The agent's number of the connection it came through.
    pub conn: u64,
    /// The segment that was written then: the frames it is for are in it or before it.
    pub segment: u64,
    /// Certificates of the server that signed, DER, leaf first; empty when they are not known.
    pub chain: Arc<Vec<Vec<u8>>>,
    /// The session, as the orchestrator numbered it.
    pub session_epoch: u64,
    /// Frames it is for.
    pub frame_count: u64,
    /// The session's head after these.
    pub head: Head,
    /// For which agent; `None` from an orchestrator of an earlier version.
    pub named: Option<Named>,
    /// And which sessions were before; `None` from an orchestrator of an earlier version.
    pub past: Option<Past>,
    /// ECDSA P-256 with SHA-256, DER.
    pub signature: Vec<u8>,
    pub(super) worth: Worth,
    /// When the ledger was opened by the process that it came to, in microseconds since 1970.
    pub(super) opened_us: u64,
}

/// Through which connection of which process it came, when, and which segment was written then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came {
    pub(super) conn: u64,
    pub(super) wall_us: u64,
    pub(super) segment: u64,
    pub(super) opened_us: u64,
}

impl Signed {
    /// As it came to the agent of this name. The signature that counts is the one that says most.
    pub(super) fn new(
        receipt: &Receipt,
        came: Came,
        chain: Arc<Vec<Vec<u8>>>,
        whose: Option<&Named>,
    ) -> Self {
        let named = whose.filter(|_| !receipt.named_signature.is_empty());
        let linked = receipt.linked.as_ref().filter(|_| named.is_some());
        let signature = match (linked, named) {
            (Some(linked), _) => &linked.signature,
            (None, Some(_)) => &receipt.named_signature,
            (None, None) => &receipt.signature,
        };
        Self {
            wall_us: came.wall_us,
            conn: came.conn,
            segment: came.segment,
            chain,
            session_epoch: receipt.session_epoch.0,
            frame_count: receipt.frame_count,
            head: receipt.head,
            named: named.cloned(),
            past: linked.map(|linked| Past {
                since: linked.since.0,
                before: linked.before.clone(),
            }),
            signature: signature.clone(),
            worth: Worth::Untold,
            opened_us: came.opened_us,
        }
    }

    /// Whether this server signed it, for the agent that it names.
    pub(super) fn is_by(&self, witness: &Witness) -> Result<(), VerifyError> {
        let (epoch, frames) = (SessionEpoch(self.session_epoch), self.frame_count);
        match (&self.named, &self.past) {
            (Some(named), Some(past)) => {
                let session = SessionEnd {
                    session_epoch: epoch,
                    frame_count: frames,
                    head: self.head,
                };
                let past = receipt::Past {
                    since: SessionEpoch(past.since),
                    before: &past.before,
                };
                witness.verify_linked(named.holder(), &session, past, &self.signature)
            }
            (Some(named), None) => {
                witness.verify_for(named.holder(), epoch, frames, &self.head, &self.signature)
            }
            (None, _) => witness.verify(epoch, frames, &self.head, &self.signature),
        }
    }

    /// Of the record that it is kept in.
    pub(super) fn kind(&self) -> Kind {
        match self.past {
            Some(_) => Kind::Linked,
            None => Kind::Judged,
        }
    }

    /// Which session of which process: receipts of one session cover each other.
    pub(super) fn session(&self) -> (u64, u64, u64) {
        (self.opened_us, self.conn, self.session_epoch)
    }

    /// As the payload of a record of its kind.
    pub(super) fn payload(&self, server: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIELDS_BYTES + 160);
        bytes.extend_from_slice(&self.segment.to_be_bytes());
        bytes.extend_from_slice(&server.to_be_bytes());
        bytes.extend_from_slice(&self.session_epoch.to_be_bytes());
        bytes.extend_from_slice(&self.frame_count.to_be_bytes());
        bytes.extend_from_slice(&self.head);
        bytes.extend_from_slice(&self.opened_us.to_be_bytes());
        bytes.push(self.worth.code());
        let (tenant, agent) = match &self.named {
            Some(Named { tenant, agent }) => (tenant.as_str(), agent.as_str()),
            None => ("", ""),
        };
        for name in [tenant, agent] {
            bytes.push(u8::try_from(name.len()).unwrap_or(0));
            bytes.extend_from_slice(name.as_bytes());
        }
        if let Some(past) = &self.past {
            bytes.extend_from_slice(&past.since.to_be_bytes());
            bytes.push(u8::try_from(past.before.len()).unwrap_or(0));
            for end in &past.before {
                bytes.extend_from_slice(&end.session_epoch.0.to_be_bytes());
                bytes.extend_from_slice(&end.frame_count.to_be_bytes());
                bytes.extend_from_slice(&end.head);
            }
        }
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// From the payload of one of kind `Linked`, and the number of its server.
    pub(super) fn from_linked(conn: u64, wall_us: u64, payload: &[u8]) -> Option<(Self, u32)> {
        let (mut signed, server) = Self::from_judged(conn, wall_us, payload)?;
        let rest = std::mem::take(&mut signed.signature);
        let (since, rest) = rest.split_first_chunk::<8>()?;
        let (count, rest) = rest.split_first()?;
        let count = usize::from(*count);
        let (ends, signature) = rest.split_at_checked(count * END_BYTES)?;
        (count <= RECEIPT_SESSIONS && signed.named.is_some()).then_some(())?;
        let ends = ends.chunks_exact(END_BYTES).map(|end| {
            Some(SessionEnd {
                session_epoch: SessionEpoch(number(&end[..8])),
                frame_count: number(&end[8..16]),
                head: end[16..].try_into().ok()?,
            })
        });
        signed.past = Some(Past {
            since: u64::from_be_bytes(*since),
            before: ends.collect::<Option<_>>()?,
        });
        signed.signature = signature.to_vec();
        Some((signed, server))
    }

    /// From the payload of one of kind `Judged`.
    pub(super) fn from_judged(conn: u64, wall_us: u64, payload: &[u8]) -> Option<(Self, u32)> {
        let (fields, rest) = payload.split_at_checked(FIELDS_BYTES)?;
        let (opened, rest) = rest.split_first_chunk::<8>()?;
        let (worth, rest) = rest.split_first()?;
        let (tenant, rest) = name(rest)?;
        let (agent, signature) = name(rest)?;
        let (mut signed, server) = Self::from_fields(conn, wall_us, fields, signature)?;
        signed.opened_us = u64::from_be_bytes(*opened);
        signed.worth = Worth::from_code(*worth)?;
        signed.named = (!agent.is_empty()).then_some(Named { tenant, agent });
        Some((signed, server))
    }

    /// From the payload of a record of kind `Receipt`, which an agent of an earlier version wrote.
    pub(super) fn from_plain(conn: u64, wall_us: u64, payload: &[u8]) -> Option<(Self, u32)> {
        let (fields, signature) = payload.split_at_checked(FIELDS_BYTES)?;
        Self::from_fields(conn, wall_us, fields, signature)
    }

    fn from_fields(
        conn: u64,
        wall_us: u64,
        fields: &[u8],
        signature: &[u8],
    ) -> Option<(Self, u32)> {
        let signed = Self {
            wall_us,
            conn,
            segment: number(&fields[..8]),
            chain: Arc::default(),
            session_epoch: number(&fields[12..20]),
            frame_count: number(&fields[20..28]),
            head: fields[28..].try_into().ok()?,
            named: None,
            past: None,
            signature: signature.to_vec(),
            worth: Worth::Untold,
            opened_us: 0,
        };
        Some((signed, u32::try_from(number(&fields[8..12])).ok()?))
    }
}

/// A name with its length before it, and what follows.
fn name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8(name.to_vec()).ok()?, rest))
}
