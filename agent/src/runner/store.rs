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
use outpost_agent_keeper::process::boot_time_us;
use outpost_driver::{CommitError, Effects, LoadError, Store};
use outpost_proto::message::{DownMessage, Receipt};
use outpost_proto::wire;

use super::durable::{Mark, Syncs};
use crate::causes::with_causes;
use crate::journal::{self, Journal};
use crate::ledger::{self, IdentityCall, Judged, Kind, Ledger, Notice};
use crate::metrics::Shared;

/// Receipts that do not hold, or of which nothing can be said, that the log tells of one by one.
const DOUBTFUL_TOLD: u64 = 64;

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
    /// Nothing runs here: nobody is kept waiting by a sync.
    alone: bool,
    numbers: Shared,
    /// Receipts that did not hold, or of which nothing could be said.
    doubtful: u64,
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
            alone: false,
            numbers,
            doubtful: 0,
        }
    }

    /// Everything committed so far is durable once this mark is.
    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// Whether anything runs here besides what is committed next.
    pub(super) fn alone(&mut self, alone: bool) {
        self.alone = alone;
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
                let (wall, boot) = (wall_us(), boot_time_us());
                if let Err(error) = self.ledger.hear(welcome.server_time_us, wall, boot) {
                    tracing::warn!(
                        "what is old of the ledger stays for now: {}",
                        with_causes(&error)
                    );
                }
            }
            DownMessage::Directive {
                directive: Directive::Receipt(receipt),
                ..
            } => self.receipt(conn, receipt),
            DownMessage::Assign(_) | DownMessage::Directive { .. } | DownMessage::Granted(_) => {}
        }
        self.tell();
    }

    /// What this site's people must hear of the evidence itself.
    fn tell(&mut self) {
        for notice in self.ledger.notices() {
            let mut numbers = self.numbers.borrow_mut();
            numbers.alarms += 1;
            match notice {
                Notice::Receipts(what) => tracing::error!("receipts: {what}"),
                Notice::Early(what) => {
                    numbers.ledger_early += 1;
                    numbers.trouble(wall_us(), &what);
                    tracing::error!("{what}");
                }
            }
        }
    }

    /// What the server of a connection presented, as link says.
    pub(super) fn server(&mut self, conn: u64, chain: Vec<Vec<u8>>) {
        self.ledger.server(conn, chain);
    }

    /// A receipt that does not hold is an alarm for this site, and changes nothing else: it may be that somebody upstream
    /// lies about what was received, or that the ledger was touched while the agent ran.
    fn receipt(&mut self, conn: u64, receipt: &Receipt) {
        match self.ledger.receipt(conn, wall_us(), receipt) {
            Judged::Holds { frames } => {
                tracing::debug!(conn, frames, "the orchestrator signed what it received");
            }
            Judged::Unknown(why) => {
                if self.is_worth_a_line() {
                    tracing::warn!(conn, "a receipt of which nothing can be said: {why}");
                }
            }
            Judged::Alarm(kind, why) => {
                self.numbers.borrow_mut().alarms += 1;
                if self.is_worth_a_line() {
                    tracing::error!(conn, %kind, "a receipt that does not hold: {why}");
                }
            }
        }
    }

    /// Whoever sends very many of them fills no log with it: all are counted, and ever fewer are said.
    fn is_worth_a_line(&mut self) -> bool {
        self.doubtful += 1;
        self.doubtful <= DOUBTFUL_TOLD || self.doubtful.is_power_of_two()
    }

    fn append(&mut self, speech: &[Speech]) -> Result<(), CommitError> {
        self.encoded.borrow_mut().clear();
        for said in speech {
            let refused = |error: wire::EncodeError| {
                CommitError::Fatal(format!("a frame that must not be sent: {error}"))
            };
            let (conn, bytes, call) = match said {
                Speech::Send { conn, messages } => {
                    (conn, wire::encode_up(messages).map_err(refused)?, None)
                }
                Speech::Renew { conn, csr } => {
                    let request = wire::RenewRequest { csr: csr.clone() };
                    let bytes = request.encode().map_err(refused)?;
                    let call = IdentityCall::renew(csr, &bytes);
                    (conn, bytes, Some(call))
                }
                Speech::Recover { conn, request } => {
                    let bytes = request.encode().map_err(refused)?;
                    let call = IdentityCall::recover(&request.csr, &bytes);
                    (conn, bytes, Some(call))
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
            match call {
                Some(call) => {
                    let record = call.encode();
                    self.ledger
                        .append(Kind::Identity, conn.0, wall_us(), &record);
                }
                None => self.ledger.append(Kind::Frame, conn.0, wall_us(), &bytes),
            }
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
        let fatal = |error: &dyn std::error::Error| CommitError::Fatal(with_causes(error));
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
        // Where nobody is kept waiting, the loop's own thread syncs one of two: the other's answer finds it awake.
        let shares = self.alone && journal.is_some() && ledger.is_some();
        if shares {
            files.remove(0);
            journal = None;
        }
        if !files.is_empty() {
            self.mark = self.syncs.sync(files).map_err(|error| fatal(&error))?;
            self.given.push_back(Given {
                mark: self.mark,
                journal,
                ledger,
            });
        }
        if shares {
            self.journal.sync().map_err(|error| fatal(&error))?;
        }
        self.numbers.borrow_mut().committed(&effects.writes);
        self.tell();
        Ok(())
    }

    async fn load(&mut self) -> Result<Snapshot, LoadError> {
        Ok(self.journal.snapshot())
    }
}

/// Microseconds since 1970 by the site's clock: for people who read the ledger.
pub(crate) fn wall_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
