//! Receipts for one stream: how much of it was received, and of the sessions before it, signed, so that the site can show that
//! its ledger holds it all.
//!
//! Reading adds each frame, exactly as it arrived, before anything is made of it; writing sends what is due. The chain is
//! the same as in the agent's ledger. The core knows nothing of this: a receipt changes nothing, is not numbered among the
//! commands, and is worth what its signature is.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use outpost_certs::receipt::{self, Holder, SignError, Signer};
use outpost_proto::ids::{CommandSeq, SessionEpoch};
use outpost_proto::message::{Directive, DownMessage, Linked, Receipt, SessionEnd};
use outpost_proto::name::{AgentName, TenantName};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::error;

use super::chain::Chain;
use super::limits::{RECEIPT_FIRST, RECEIPT_FRAMES, RECEIPT_LONGEST};
use super::past::{Past, Received, lock};
use crate::driver::sessions::Welcomed;

/// What is signed of one stream, and when.
#[derive(Debug)]
pub(super) struct Receipts {
    signer: Option<Signer>,
    /// Whose stream it is, as its certificate says.
    tenant: TenantName,
    agent: AgentName,
    /// The sessions before.
    past: Past,
    chain: Received,
    state: Mutex<State>,
    /// One waits: the stream's writing half.
    due: Notify,
}

#[derive(Debug)]
struct State {
    /// Once the core has accepted the stream.
    session_epoch: Option<SessionEpoch>,
    /// The newest command that was sent.
    command: CommandSeq,
    /// Frames that the last receipt was for.
    signed: u64,
    /// When the next one is due, if anything more has come by then.
    at: Instant,
    /// And how long after it the one after that.
    wait: Duration,
}

impl Receipts {
    /// For a stream of this agent that begins now. Without a signer nothing is ever due.
    pub(super) fn new(
        signer: Option<Signer>,
        (tenant, agent): (TenantName, AgentName),
        past: Past,
    ) -> Self {
        let state = State {
            session_epoch: None,
            command: CommandSeq(1),
            signed: 0,
            at: Instant::now() + RECEIPT_FIRST,
            wait: RECEIPT_FIRST,
        };
        Self {
            signer,
            tenant,
            agent,
            past,
            chain: Received::default(),
            state: Mutex::new(state),
            due: Notify::new(),
        }
    }

    /// Enters the session among those of its agent. The core counts it from there on: receipts of later ones name it, also
    /// when nothing could be sent on its stream any more.
    pub(super) fn welcomed(&self) -> Welcomed {
        let (past, chain) = (self.past.clone(), self.chain.clone());
        Welcomed::new(move |session_epoch| past.begins(session_epoch, &chain))
    }

    /// A frame as it arrived.
    pub(super) fn received(&self, frame: &[u8]) {
        self.received_at(Instant::now(), frame);
    }

    fn received_at(&self, now: Instant, frame: &[u8]) {
        let frames = {
            let mut chain = lock(&self.chain);
            chain.push(frame);
            chain.frames
        };
        let state = self.lock();
        let more = frames - state.signed;
        if more >= RECEIPT_FRAMES || now >= state.at {
            self.due.notify_one();
        }
    }

    /// Messages that are about to be sent: which session this is, and how far its commands are.
    pub(super) fn sending(&self, messages: &[DownMessage]) {
        let mut state = self.lock();
        for message in messages {
            match message {
                DownMessage::Welcome(welcome) => state.session_epoch = Some(welcome.session_epoch),
                DownMessage::Assign(assign) => state.command = assign.command_seq,
                DownMessage::Directive { command_seq, .. } => state.command = *command_seq,
                DownMessage::Granted(_) => {}
            }
        }
    }

    /// One is wanted soon, whatever the time.
    pub(super) fn ask(&self) {
        self.due.notify_one();
    }

    /// Waits until one is due. May be dropped while it waits: nothing is lost.
    pub(super) async fn due(&self) {
        self.due.notified().await;
    }

    /// A receipt for everything that was received so far; `None` when the last one was for as much, or when this is no
    /// session.
    pub(super) fn take(&self) -> Option<DownMessage> {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> Option<DownMessage> {
        let signer = self.signer.as_ref()?;
        let mut state = self.lock();
        let session_epoch = state.session_epoch?;
        let Chain { head, frames } = self.chain();
        if frames == state.signed {
            return None;
        }
        state.signed = frames;
        state.wait = (state.wait * 2).min(RECEIPT_LONGEST);
        state.at = now + state.wait;
        let command_seq = state.command;
        drop(state);
        let received = SessionEnd {
            session_epoch,
            frame_count: frames,
            head,
        };
        let receipt = match self.signed(signer, received) {
            Ok(receipt) => receipt,
            Err(error) => {
                error!(%error, "no receipt: the site cannot show what was received");
                return None;
            }
        };
        Some(DownMessage::Directive {
            command_seq,
            directive: Directive::Receipt(receipt),
        })
    }

    /// In all forms: an agent of an earlier version reads the first one, or the first two.
    fn signed(&self, signer: &Signer, received: SessionEnd) -> Result<Receipt, SignError> {
        let SessionEnd {
            session_epoch,
            frame_count,
            head,
        } = received;
        let holder = Holder {
            tenant: self.tenant.as_str(),
            agent: self.agent.as_str(),
        };
        let (since, before) = self.past.before(session_epoch);
        let past = receipt::Past {
            since,
            before: &before,
        };
        let signature = signer.sign_linked(holder, &received, past)?;
        Ok(Receipt {
            session_epoch,
            frame_count,
            head,
            signature: signer.sign(session_epoch, frame_count, &head)?,
            named_signature: signer.sign_for(holder, session_epoch, frame_count, &head)?,
            linked: Some(Linked {
                since,
                before,
                signature,
            }),
        })
    }

    /// What was received so far.
    pub(super) fn chain(&self) -> Chain {
        *lock(&self.chain)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt as _;
    use outpost_certs::ca::Authority;
    use outpost_certs::issue::ServerIdentity;
    use outpost_certs::receipt::{Witness, verify};
    use outpost_proto::ids::{EventSeq, Nonce, RecoveryEpoch};
    use outpost_proto::message::Welcome;

    use super::*;

    fn welcome(epoch: u64) -> DownMessage {
        DownMessage::Welcome(Welcome {
            protocol: 1,
            session_epoch: SessionEpoch(epoch),
            recovery: RecoveryEpoch {
                counter: 1,
                database: 2,
            },
            next_nonce: Nonce(3),
            highest_event_seq: EventSeq(0),
            heartbeat_interval_ms: 1,
            lease_ms: 1,
            server_time_us: 1,
        })
    }

    fn of_bank(signer: Option<Signer>) -> Receipts {
        after(signer, Past::default())
    }

    fn after(signer: Option<Signer>, past: Past) -> Receipts {
        let bank = ("acme".parse().unwrap(), "bank".parse().unwrap());
        Receipts::new(signer, bank, past)
    }

    fn signed(message: Option<DownMessage>) -> Receipt {
        match message {
            Some(DownMessage::Directive {
                directive: Directive::Receipt(receipt),
                ..
            }) => receipt,
            other => panic!("{other:?}"),
        }
    }

    fn is_due(receipts: &Receipts) -> bool {
        receipts.due().now_or_never().is_some()
    }

    fn authority() -> Authority {
        Authority::create("test.example", SystemTime::now()).unwrap()
    }

    fn server(authority: &Authority) -> ServerIdentity {
        let (now, life) = (SystemTime::now(), Duration::from_secs(60));
        authority
            .issue_server(&["localhost".to_owned()], now, life)
            .unwrap()
    }

    #[test]
    fn one_is_due_after_so_many_frames_and_is_for_exactly_what_was_received() {
        let authority = authority();
        let server = server(&authority);
        // At one moment: none is due for the time that has passed.
        let now = Instant::now();
        let receipts = of_bank(Some(Signer::new(&server).unwrap()));
        receipts.received_at(now, b"hello");
        assert!(receipts.take().is_none(), "no session yet");
        receipts.sending(&[welcome(7)]);
        for n in 1..RECEIPT_FRAMES {
            assert!(!is_due(&receipts), "after {n} frames");
            receipts.received_at(now, b"more");
        }
        assert!(is_due(&receipts));
        let Chain { head, frames } = receipts.chain();
        let receipt = signed(receipts.take());
        assert_eq!((receipt.frame_count, receipt.head), (frames, head));
        assert_eq!(frames, RECEIPT_FRAMES);
        let leaf = server.leaf().unwrap();
        verify(leaf, SessionEpoch(7), frames, &head, &receipt.signature).unwrap();
        let root = [authority.root().to_vec()];
        let witness = Witness::new(&server.chain, &root, "test.example").unwrap();
        let names = |tenant, agent| {
            let holder = Holder { tenant, agent };
            let signature = &receipt.named_signature;
            let verified = witness.verify_for(holder, SessionEpoch(7), frames, &head, signature);
            verified.is_ok()
        };
        assert!(names("acme", "bank") && !names("acme", "other") && !names("other", "bank"));
        assert!(receipts.take().is_none(), "nothing new");
        receipts.received(b"last");
        receipts.ask();
        assert!(is_due(&receipts));
        assert_eq!(signed(receipts.take()).frame_count, frames + 1);
    }

    #[test]
    fn one_is_due_soon_and_then_after_twice_as_long_each_time() {
        let receipts = of_bank(Some(Signer::new(&server(&authority())).unwrap()));
        receipts.sending(&[welcome(7)]);
        let (mut now, mut wait) = (receipts.lock().at, RECEIPT_FIRST);
        for _ in 0..12 {
            receipts.received_at(now - Duration::from_millis(1), b"heartbeat");
            assert!(!is_due(&receipts), "{wait:?}");
            receipts.received_at(now, b"heartbeat");
            assert!(is_due(&receipts), "{wait:?}");
            assert!(receipts.take_at(now).is_some());
            wait = (wait * 2).min(RECEIPT_LONGEST);
            now += wait;
        }
        assert_eq!(wait, RECEIPT_LONGEST);
    }

    #[test]
    fn a_receipt_names_the_sessions_before_it_and_what_was_received_of_them() {
        let authority = authority();
        let server = server(&authority);
        let signer = || Some(Signer::new(&server).unwrap());
        let past = Past::default();
        let first = after(signer(), past.clone());
        first.welcomed().tell(SessionEpoch(7));
        first.sending(&[welcome(7)]);
        first.received(b"hello");
        let linked = |receipts: &Receipts| signed(receipts.take()).linked.unwrap();
        assert_eq!(linked(&first).before, []);
        let second = after(signer(), past);
        second.welcomed().tell(SessionEpoch(8));
        second.sending(&[welcome(8)]);
        second.received(b"hello");
        // Of this one the first session had no receipt.
        first.received(b"the last word");
        let receipt = signed(second.take());
        let linked = receipt.linked.unwrap();
        let Chain { head, frames } = first.chain();
        assert_eq!((linked.since, frames), (SessionEpoch(7), 2));
        let end = SessionEnd {
            session_epoch: SessionEpoch(7),
            frame_count: 2,
            head,
        };
        assert_eq!(linked.before, [end]);
        let root = [authority.root().to_vec()];
        let witness = Witness::new(&server.chain, &root, "test.example").unwrap();
        let holder = Holder {
            tenant: "acme",
            agent: "bank",
        };
        let of = SessionEnd {
            session_epoch: receipt.session_epoch,
            frame_count: receipt.frame_count,
            head: receipt.head,
        };
        let past = receipt::Past {
            since: linked.since,
            before: &linked.before,
        };
        let verified = witness.verify_linked(holder, &of, past, &linked.signature);
        assert_eq!(verified, Ok(()));
    }

    #[test]
    fn without_a_key_that_signs_there_is_none() {
        let receipts = of_bank(None);
        receipts.sending(&[welcome(7)]);
        receipts.received(b"hello");
        assert!(receipts.take().is_none());
    }
}
