//! Enrolment: a one-time token becomes a certificate.
//!
//! Link makes the key and the request and keeps the key to itself; the runner's side, here, encodes the call, puts it
//! into the ledger, and hands the bytes back. The orchestrator's root is recognised by the token's pin, before anything
//! secret is sent.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outpost_agent_core::record::{SessionRecord, Write};
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_link::ipc::{FromLink, ToLink, UnaryMethod};
use outpost_certs::token::JoinToken;
use outpost_proto::wire::{EnrolRequest, Issued};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::commands::Enrolment;
use crate::files;
use crate::journal::Journal;
use crate::ledger::{Anchor, IdentityCall, Kind, Ledger, Trust};
use crate::runner::link_process::{LinkProcess, LinkSetup, Living};
use crate::runner::wall_us;
use crate::sandbox::{Accounts, KeyDirectory};
use crate::state_dir::{Identity, StateDir};

/// The whole of it, tries to reach the orchestrator aside.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Far above the largest honest chain.
const CERTIFICATE_BYTES: u64 = 128 * 1024;
/// The one connection of an enrolment.
const CONN: u64 = 1;

/// Uses the token. The state directory is the caller's, locked.
///
/// # Errors
/// What went wrong, at which step. Until the certificate is stored nothing is remembered, and the same token can be tried
/// again with this state directory while it is good; from then on the next start does the rest.
pub(crate) async fn enrol(
    state: &StateDir,
    token: &JoinToken,
    how: Enrolment,
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
        proxy: how.proxy,
        pin: Some(pin),
        audit: how.audit,
        accounts: Accounts::find(&state.keys(), KeyDirectory::MayChange),
        least: how.sandbox.least(),
        living: Living::default(),
    };
    let link = setup.start().await?;
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
    let leaf = issued.chain.first().context("the chain is empty")?;
    let enrolling = Enrolling {
        leaf: hash(leaf),
        identity,
    };
    // Not link's word: what the token pinned is a root, and whose receipts count follows from that.
    let pinned = issued
        .roots
        .iter()
        .find(|der| Sha256::digest(der)[..] == token.pin()[..]);
    pinned.context("the root that the token names is not among those that came")?;
    let anchor = Anchor::new(&issued.spiffe_id, &issued.roots);
    let anchor = anchor.filter(|anchor| anchor.trust_domain == token.trust_domain());
    let anchor = anchor.context("the SPIFFE id that came is not of the token's trust domain")?;
    enrolling.write(state)?;
    store(&link, issued).await?;
    Trust::add(&state.ledger(), anchor)?;
    finish(state).context("the new identity is stored; run this again to complete it")?;
    Ok(enrolling.identity)
}

/// An enrolment whose certificate may be stored by now.
#[derive(Debug, Serialize, Deserialize)]
struct Enrolling {
    /// SHA-256 of the leaf, hex.
    leaf: String,
    identity: Identity,
}

impl Enrolling {
    fn path(state: &StateDir) -> PathBuf {
        state.path().join("enrolling")
    }

    fn write(&self, state: &StateDir) -> anyhow::Result<()> {
        let path = Self::path(state);
        let text = serde_json::to_vec_pretty(self)?;
        files::replace(&path, &text).with_context(|| format!("writing {}", path.display()))
    }

    fn read(state: &StateDir) -> anyhow::Result<Option<Self>> {
        let path = Self::path(state);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let enrolling = serde_json::from_slice(&text);
        enrolling.map(Some).with_context(|| {
            format!(
                "{} does not parse: remove it and enrol again",
                path.display()
            )
        })
    }

    /// Durably: what is complete is never completed a second time.
    fn remove(state: &StateDir) -> anyhow::Result<()> {
        let path = Self::path(state);
        let removed = std::fs::remove_file(&path)
            .and_then(|()| File::open(state.path()))
            .and_then(|dir| dir.sync_all());
        removed.with_context(|| format!("removing {}", path.display()))
    }
}

/// Completes an enrolment that was interrupted, or is about to be complete: if its certificate is stored, nothing of an
/// earlier identity is left. The state directory is the caller's, locked.
///
/// # Errors
/// What cannot be read or written; it is tried again next time.
pub(crate) fn finish(state: &StateDir) -> anyhow::Result<()> {
    let Some(enrolling) = Enrolling::read(state)? else {
        return Ok(());
    };
    if stored_leaf(state)?.is_some_and(|leaf| hash(&leaf) == enrolling.leaf) {
        begin_anew(anew(state)?)?;
        state.set_identity(&enrolling.identity)?;
    }
    Enrolling::remove(state)
}

/// The certificate that link has, DER.
fn stored_leaf(state: &StateDir) -> anyhow::Result<Option<Vec<u8>>> {
    let path = state.keys().join("agent.crt");
    let text = match files::read_plain(&path, CERTIFICATE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let body: String = text
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "-----BEGIN CERTIFICATE-----")
        .skip(1)
        .take_while(|line| *line != "-----END CERTIFICATE-----")
        .collect();
    let leaf = STANDARD.decode(body);
    leaf.map(Some)
        .with_context(|| format!("{} does not parse", path.display()))
}

fn hash(leaf: &[u8]) -> String {
    let hash = Sha256::digest(leaf);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
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
            | FromLink::Server { .. }
            | FromLink::Confined(_)
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
    // No ledger, no send. How much of it stays is said to the runner only.
    let mut ledger = Ledger::open(&state.ledger(), u64::MAX, wall_us())?;
    let call = IdentityCall::enrol(&request, &bytes).context("encoding the request")?;
    ledger.append(Kind::Identity, CONN, wall_us(), &call.encode());
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
            FromLink::Ready { .. }
            | FromLink::Opened { .. }
            | FromLink::Server { .. }
            | FromLink::Ends { .. } => {}
            other @ (FromLink::Frame { .. }
            | FromLink::Csr { .. }
            | FromLink::Proof { .. }
            | FromLink::Confined(_)
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
            FromLink::Ready { .. }
            | FromLink::Server { .. }
            | FromLink::Closed { .. }
            | FromLink::Ends { .. } => {}
            other @ (FromLink::Opened { .. }
            | FromLink::Frame { .. }
            | FromLink::Csr { .. }
            | FromLink::Proof { .. }
            | FromLink::Confined(_)
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
        let dir = crate::testing::tempdir().unwrap();
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

    #[test]
    fn an_enrolment_that_was_interrupted_is_completed_if_its_certificate_is_stored() {
        let identity = |agent: &str| Identity {
            orchestrator: "localhost:1".into(),
            tenant: "acme".into(),
            agent: agent.into(),
            spiffe_id: format!("spiffe://test/tenant/acme/agent/{agent}"),
        };
        for stored in [true, false] {
            let dir = crate::testing::tempdir().unwrap();
            let state = StateDir::create(dir.path()).unwrap();
            state.set_identity(&identity("former")).unwrap();
            let left = SessionRecord {
                nonce: Nonce(7),
                event_seq_reserved: EventSeq(900),
                ..SessionRecord::default()
            };
            let mut journal = Journal::open(state.path()).unwrap();
            journal.commit(&[Write::Session(left)]).unwrap();
            drop(journal);
            let chain = |leaf: &[u8]| {
                let mut text = String::new();
                for der in [leaf, b"the intermediate's"] {
                    let body = STANDARD.encode(der);
                    text += "-----BEGIN CERTIFICATE-----\n";
                    for line in body.as_bytes().chunks(8) {
                        text += std::str::from_utf8(line).unwrap();
                        text += "\n";
                    }
                    text += "-----END CERTIFICATE-----\n";
                }
                std::fs::write(state.keys().join("agent.crt"), text).unwrap();
            };
            chain(b"the former certificate");
            let enrolling = Enrolling {
                leaf: hash(b"the new certificate"),
                identity: identity("new"),
            };
            enrolling.write(&state).unwrap();
            if stored {
                chain(b"the new certificate");
            }
            finish(&state).unwrap();
            let session = crate::journal::peek(state.path()).unwrap().session;
            let (nonce, name) = if stored { (0, "new") } else { (7, "former") };
            assert_eq!(session.nonce, Nonce(nonce));
            assert_eq!(session.event_seq_reserved, EventSeq(900));
            assert_eq!(state.identity().unwrap(), Some(identity(name)));

            // Complete: what a session leaves from then on stays.
            let mut journal = Journal::open(state.path()).unwrap();
            journal.commit(&[Write::Session(left)]).unwrap();
            drop(journal);
            finish(&state).unwrap();
            let session = crate::journal::peek(state.path()).unwrap().session;
            assert_eq!(session.nonce, Nonce(7));
        }
    }
}
