//! Enrolment: a one-time token becomes a certificate.
//!
//! Link makes the key and the request and keeps the key to itself; the runner's side, here, encodes the call, puts it
//! into the ledger, and hands the bytes back. The orchestrator's root is recognised by the token's pin, before anything
//! secret is sent.

use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_agent_core::record::{SessionRecord, Write};
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_link::ipc::{FromLink, ToLink, UnaryMethod};
use outpost_certs::token::JoinToken;
use outpost_proto::wire::{EnrolRequest, Issued};

use crate::journal::Journal;
use crate::ledger::{DEFAULT_LIMIT_BYTES, Kind, Ledger};
use crate::runner::link_process::{LinkProcess, LinkSetup};
use crate::runner::wall_us;
use crate::state_dir::{Identity, StateDir};

/// The whole of it, tries to reach the orchestrator aside.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The one connection of an enrolment.
const CONN: u64 = 1;

/// Uses the token. The state directory is the caller's, locked.
///
/// # Errors
/// What went wrong, at which step; nothing is remembered then, and the same token can be tried again with this state
/// directory while it is good.
pub async fn enrol(
    state: &StateDir,
    token: &JoinToken,
    proxy: Option<String>,
    exec: SelfExec,
) -> anyhow::Result<Identity> {
    let pin = token
        .pin()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let setup = LinkSetup {
        exec,
        leash: None,
        key_dir: state.keys(),
        address: token.url().to_owned(),
        proxy,
        pin: Some(pin),
    };
    let link = setup.start()?;
    let issued = tokio::time::timeout(TIMEOUT, call(state, token, &setup, &link))
        .await
        .with_context(|| {
            format!(
                "{} did not answer within {} s",
                token.url(),
                TIMEOUT.as_secs()
            )
        })??;
    let identity = Identity {
        orchestrator: token.url().to_owned(),
        tenant: token.tenant().to_string(),
        agent: token.agent().to_string(),
        spiffe_id: issued.spiffe_id.clone(),
    };
    let anew = anew(state)?;
    store(&link, issued).await?;
    begin_anew(anew).context("the new identity is stored and cannot be used; enrol again")?;
    state.set_identity(&identity)?;
    Ok(identity)
}

async fn call(
    state: &StateDir,
    token: &JoinToken,
    setup: &LinkSetup,
    link: &LinkProcess,
) -> anyhow::Result<Issued> {
    link.socket.send(&ToLink::MakeCsr { conn: CONN }).await?;
    let csr = loop {
        match said(link).await? {
            FromLink::Csr { der } if !der.is_empty() => break der,
            FromLink::Csr { .. } => bail!("link could not make a key; its log says why"),
            FromLink::Ready { .. } => {}
            other @ (FromLink::Opened { .. }
            | FromLink::Frame { .. }
            | FromLink::Closed { .. }
            | FromLink::Reply { .. }
            | FromLink::Proof { .. }
            | FromLink::Stored { .. }
            | FromLink::Ends { .. }) => {
                bail!("link said {other:?} when it was asked for a certificate request")
            }
        }
    };
    let request = EnrolRequest {
        token: *token.secret(),
        csr,
    };
    let bytes = request.encode().context("encoding the request")?;
    let mut ledger = Ledger::open(&state.ledger(), DEFAULT_LIMIT_BYTES, wall_us())?;
    ledger.append(Kind::Identity, CONN, wall_us(), &bytes);
    ledger.sync()?;

    link.socket
        .send(&ToLink::Unary {
            conn: CONN,
            method: UnaryMethod::Enrol,
            bytes: bytes.into(),
        })
        .await?;
    setup
        .dial(&link.dial_end()?, CONN)
        .await
        .map_err(|why| anyhow::anyhow!("{} cannot be reached: {why}", setup.address))?;
    loop {
        match said(link).await? {
            FromLink::Reply {
                ok: true, bytes, ..
            } => {
                return Issued::decode(&bytes)
                    .context("the orchestrator's answer cannot be accepted");
            }
            FromLink::Reply { text, .. } => bail!("the orchestrator refused: {text}"),
            FromLink::Closed { reason, text, .. } => bail!("{}: {reason}: {text}", setup.address),
            FromLink::Ready { .. } | FromLink::Opened { .. } | FromLink::Ends { .. } => {}
            other @ (FromLink::Frame { .. }
            | FromLink::Csr { .. }
            | FromLink::Proof { .. }
            | FromLink::Stored { .. }) => {
                bail!("link said {other:?} in the middle of an enrolment")
            }
        }
    }
}

/// The orchestrator knows the new identity from now on and nothing of an earlier one's sessions: what that left here would
/// look like a copy's. Numbers of events go on, so that none is used twice. Nothing is written yet: until the new identity
/// is stored the earlier one goes on with what it left. `None` if it left nothing.
fn anew(state: &StateDir) -> anyhow::Result<Option<(Journal, SessionRecord)>> {
    let left = crate::journal::peek(state.path())?.session;
    let anew = SessionRecord {
        event_seq_reserved: left.event_seq_reserved,
        ..SessionRecord::default()
    };
    if left == anew {
        return Ok(None);
    }
    Ok(Some((Journal::open(state.path())?, anew)))
}

fn begin_anew(anew: Option<(Journal, SessionRecord)>) -> anyhow::Result<()> {
    if let Some((mut journal, anew)) = anew {
        journal.commit(&[Write::Session(anew)])?;
    }
    Ok(())
}

async fn store(link: &LinkProcess, issued: Issued) -> anyhow::Result<()> {
    link.socket
        .send(&ToLink::StoreIdentity {
            chain: issued.chain,
            roots: issued.roots,
        })
        .await?;
    loop {
        match said(link).await? {
            FromLink::Stored { ok: true, .. } => return Ok(()),
            FromLink::Stored { text, .. } => bail!("the certificate could not be stored: {text}"),
            FromLink::Ready { .. } | FromLink::Closed { .. } | FromLink::Ends { .. } => {}
            other @ (FromLink::Opened { .. }
            | FromLink::Frame { .. }
            | FromLink::Csr { .. }
            | FromLink::Proof { .. }
            | FromLink::Reply { .. }) => {
                bail!("link said {other:?} when it was asked to store a certificate")
            }
        }
    }
}

async fn said(link: &LinkProcess) -> anyhow::Result<FromLink> {
    link.socket
        .recv()
        .await?
        .context("the link process ended; its log says why")
}

#[cfg(test)]
mod tests {
    use outpost_proto::ids::{EventSeq, Nonce};

    use super::*;

    #[test]
    fn what_an_earlier_identity_left_goes_once_the_new_one_is_stored_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path()).unwrap();
        let session = || crate::journal::peek(state.path()).unwrap().session;
        assert!(anew(&state).unwrap().is_none(), "nothing was left");
        let left = SessionRecord {
            nonce: Nonce(7),
            event_seq_reserved: EventSeq(900),
            ..SessionRecord::default()
        };
        let mut journal = Journal::open(state.path()).unwrap();
        journal.commit(&[Write::Session(left)]).unwrap();
        drop(journal);
        drop(anew(&state).unwrap());
        assert_eq!(session(), left, "not stored");
        begin_anew(anew(&state).unwrap()).unwrap();
        let begun = session();
        assert_eq!(
            (begun.nonce, begun.event_seq_reserved),
            (Nonce(0), left.event_seq_reserved)
        );
        assert!(anew(&state).unwrap().is_none());
    }
}
