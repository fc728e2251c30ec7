//! The agent's one transaction: the ledger gets the exact bytes of what is about to be sent, the journal gets what must
//! not be forgotten, and only then is anything said. What is said to others waits until all of it is on the disk.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outpost_agent_core::Agent;
use outpost_agent_core::event::Speech;
use outpost_agent_core::record::{Snapshot, Write};
use outpost_agent_keeper::failpoint;
use outpost_driver::{CommitError, Effects, LoadError, Store};
use outpost_proto::message::{DownMessage, Receipt};
use outpost_proto::wire;

use super::durable::{Mark, Syncs};
use crate::journal::{self, Journal};
use crate::ledger::{self, Kind, Ledger};
use crate::metrics::Shared;

/// Frames that are in the ledger and wait to be handed to link, in the order of the speech that named them.
pub(super) type Encoded = Rc<RefCell<VecDeque<Bytes>>>;

/// Journal and ledger as the driver sees them.
pub(super) struct AgentStore {
    journal: Journal,
    ledger: Ledger,
    encoded: Encoded,
    syncs: Syncs,
    mark: Mark,
    /// What was given to be synced, and how far it was written then.
    given: VecDeque<Given>,
    numbers: Shared,
}

/// Journal and ledger as they were given to be synced, each if it was.
struct Given {
    mark: Mark,
    journal: Option<journal::Written>,
    ledger: Option<ledger::Written>,
}

impl AgentStore {
    pub(super) fn new(journal: Journal, ledger: Ledger, syncs: Syncs, numbers: Shared) -> Self {
        Self {
            journal,
            ledger,
            encoded: Encoded::default(),
            syncs,
            mark: Mark::default(),
            given: VecDeque::new(),
            numbers,
        }
    }

    /// Everything committed so far is durable once this mark is.
    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// Everything up to this mark is on the disk now.
    pub(super) fn synced(&mut self, mark: Mark) {
        while let Some(given) = self.given.pop_front_if(|given| given.mark <= mark) {
            if let Some(so_far) = given.journal {
                self.journal.synced(so_far);
            }
            if let Some(so_far) = given.ledger {
                self.ledger.synced(so_far);
            }
        }
    }

    /// The queue that [`Store::commit`] fills.
    pub(super) fn encoded(&self) -> Encoded {
        Rc::clone(&self.encoded)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.journal.snapshot()
    }

    pub(super) fn ledger_percent(&self) -> u8 {
        self.ledger.percent()
    }

    /// Bytes of the ledger, and how many there can be.
    pub(super) fn ledger_bytes(&self) -> (u64, u64) {
        (self.ledger.bytes(), self.ledger.limits().bytes)
    }

    /// Whether there is space for what is to be recorded of everything that is held.
    pub(super) fn has_room(&self) -> bool {
        self.journal.has_room() && self.ledger.has_room()
    }

    pub(super) fn journal_bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// Notes in the ledger what the orchestrator said about the session; durable with the next frame.
    pub(super) fn note(&mut self, conn: u64, message: &DownMessage) {
        use outpost_proto::message::Directive;
        match message {
            DownMessage::Welcome(welcome) => {
                let epoch = welcome.session_epoch.0.to_be_bytes();
                self.ledger.append(Kind::Session, conn, wall_us(), &epoch);
            }
            DownMessage::Directive {
                directive: Directive::Receipt(receipt),
                ..
            } => {
                self.ledger
                    .append(Kind::Receipt, conn, wall_us(), &receipt_bytes(receipt));
            }
            DownMessage::Assign(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => {}
        }
    }

    fn append(&mut self, speech: &[Speech]) -> Result<(), CommitError> {
        self.encoded.borrow_mut().clear();
        for said in speech {
            let refused = |error: wire::EncodeError| {
                CommitError::Fatal(format!("a frame that must not be sent: {error}"))
            };
            let (kind, conn, bytes) = match said {
                Speech::Send { conn, messages } => {
                    let frame = wire::encode_up(messages).map_err(refused)?;
                    (Kind::Frame, conn, frame)
                }
                Speech::Renew { conn, csr } => {
                    let csr = csr.clone();
                    let request = wire::RenewRequest { csr }.encode().map_err(refused)?;
                    (Kind::Identity, conn, request)
                }
                Speech::Recover { conn, request } => {
                    (Kind::Identity, conn, request.encode().map_err(refused)?)
                }
                Speech::Dial { .. }
                | Speech::Hangup { .. }
                | Speech::MakeCsr
                | Speech::Prove { .. }
                | Speech::Start { .. }
                | Speech::TakeBack { .. }
                | Speech::Cancel { .. }
                | Speech::InTouch
                | Speech::Discard { .. }
                | Speech::Refused { .. }
                | Speech::Alarm(_)
                | Speech::Done => continue,
            };
            self.ledger.append(kind, conn.0, wall_us(), &bytes);
            self.encoded.borrow_mut().push_back(bytes.into());
        }
        Ok(())
    }
}

/// A failed write may have left half a record, and after a failed sync the kernel's copy cannot be trusted: the process
/// ends, and the next one begins from what is surely there.
///
/// A commit is written, and survives the end of this process, when it is answered; a task may start then, because after
/// a power cut the boot id already answers that it may have. What leaves this host waits for [`AgentStore::mark`].
impl Store<Agent> for AgentStore {
    async fn commit(&mut self, effects: &Effects<Write, Speech>) -> Result<(), CommitError> {
        let fatal = |error: &dyn std::error::Error| CommitError::Fatal(chain(error));
        failpoint::reach("runner-decided");
        self.append(&effects.speech)?;
        let mut files = Vec::new();
        let (mut journal, mut ledger) = (None, None);
        if self
            .journal
            .append(&effects.writes)
            .map_err(|error| fatal(&error))?
        {
            // What the site decided holds from the moment at which it is answered.
            if effects
                .writes
                .iter()
                .any(|write| matches!(write, Write::Site(_)))
            {
                self.journal.sync().map_err(|error| fatal(&error))?;
            } else {
                files.push(self.journal.file());
                journal = Some(self.journal.written());
            }
        }
        failpoint::reach("runner-journalled");
        if self.ledger.write().map_err(|error| fatal(&error))? {
            files.push(self.ledger.file());
            ledger = Some(self.ledger.written());
        }
        failpoint::reach("runner-recorded");
        if !files.is_empty() {
            self.mark = self.syncs.sync(files).map_err(|error| fatal(&error))?;
            self.given.push_back(Given {
                mark: self.mark,
                journal,
                ledger,
            });
        }
        self.numbers.borrow_mut().committed(&effects.writes);
        Ok(())
    }

    async fn load(&mut self) -> Result<Snapshot, LoadError> {
        Ok(self.journal.snapshot())
    }
}

fn receipt_bytes(receipt: &Receipt) -> Vec<u8> {
    let mut bytes = receipt.session_epoch.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&receipt.frame_count.to_be_bytes());
    bytes.extend_from_slice(&receipt.head);
    bytes.extend_from_slice(&receipt.signature);
    bytes
}

/// Microseconds since 1970 by the site's clock: for people who read the ledger.
pub(crate) fn wall_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
