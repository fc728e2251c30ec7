//! What is durable on both sides: the cores' own mirrors, commits that fail when told to, and writes that only a power
//! cut loses.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use outpost_agent_core as agent;
use outpost_driver::{CommitError, Effects, LoadError, Micros, Store};
use outpost_orchestrator_core as center;
use outpost_orchestrator_core::owner::Owner;
use outpost_orchestrator_core::record::{AttemptRecord, Notice, RunRecord, TaskRecord};
use outpost_proto::ids::Conn;
use outpost_proto::wire;

use crate::moments::{Message, Sprung, in_commit};
use crate::plan::Planned;
use crate::queue::At;
use crate::replicas::{Scope, scoped};

/// How the next commit with something to write goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommitFault {
    /// Whether the transaction was durable all the same.
    pub(crate) applied: bool,
    /// Whether the process ends instead of loading again.
    pub(crate) fatal: bool,
}

impl CommitFault {
    fn error(self) -> CommitError {
        let why = "told to".to_owned();
        if self.fatal {
            CommitError::Fatal(why)
        } else {
            CommitError::Failed(why)
        }
    }
}

/// What is about to go wrong with a disk.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    /// The next commit with something to write goes wrong like this.
    pub(crate) fault: Option<CommitFault>,
    /// The next commit of all does.
    pub(crate) pressing: Option<Sprung>,
    /// The commit of a turn that says such a message does.
    pub(crate) waiting: Vec<Planned>,
    /// One of the two did, in this turn.
    pub(crate) sprung: Option<Sprung>,
    /// Nothing can be written before.
    pub(crate) full_until: At,
    /// This turn's time.
    pub(crate) now: At,
    /// A full disk ends the process.
    pub(crate) full_is_fatal: bool,
}

impl Trouble {
    /// How this commit goes wrong.
    fn take(&mut self, writes: bool, says: impl Fn(Message) -> bool) -> Option<CommitFault> {
        let waits = |planned: &&Planned| planned.when.is_some_and(|when| says(when.message));
        let waiting = self.waiting.iter().find(waits).map(|planned| Sprung {
            fault: in_commit(planned),
            planned: planned.clone(),
        });
        if let Some(sprung) = self.pressing.take().or(waiting) {
            let fault = sprung.fault;
            self.sprung = Some(sprung);
            return Some(fault);
        }
        if !writes {
            return None;
        }
        if self.now < self.full_until {
            return Some(CommitFault {
                applied: false,
                fatal: self.full_is_fatal,
            });
        }
        self.fault.take()
    }
}

/// One frame as the ledger holds it: the exact bytes, and on which connection of which process.
pub(crate) type Frame = (u64, Conn, Rc<[u8]>);

/// An agent's state directory.
#[derive(Debug, Default)]
pub(crate) struct SiteDisk {
    journal: agent::mirror::Mirror,
    /// What a power cut leaves.
    synced: agent::mirror::Mirror,
    /// Bursts since then.
    unsynced: VecDeque<Vec<agent::record::Write>>,
    /// All frames, synced.
    pub(crate) ledger: Rc<RefCell<Vec<Frame>>>,
    /// Frames of this turn, to be handed to the network.
    pub(crate) encoded: Rc<RefCell<VecDeque<Rc<[u8]>>>>,
    pub(crate) trouble: Trouble,
    /// Which process writes.
    pub(crate) process: u64,
    /// Writes since this was last taken.
    pub(crate) written: Vec<agent::record::Write>,
    /// A frame that could not be encoded.
    pub(crate) refused: Option<String>,
}

impl SiteDisk {
    pub(crate) fn snapshot(&self) -> agent::record::Snapshot {
        self.journal.snapshot()
    }

    /// The host loses power: of the bursts that were not synced the first `kept` survive.
    pub(crate) fn power_cut(&mut self, kept: usize) {
        for write in self.unsynced.drain(..).take(kept).flatten() {
            self.synced.apply(&write);
        }
        self.journal = self.synced.clone();
    }

    /// A copy of the state directory as it is now.
    pub(crate) fn copied(&self) -> Self {
        Self {
            journal: self.journal.clone(),
            synced: self.journal.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn memories(&self) -> usize {
        self.journal.snapshot().memories.len()
    }

    /// Written anew from what it amounts to, synced.
    pub(crate) fn compact(&mut self) {
        self.journal = agent::mirror::Mirror::from(self.journal.snapshot());
        self.synced = self.journal.clone();
        self.unsynced.clear();
    }

    /// What a former process wrote, synced.
    pub(crate) fn prepare(&mut self, writes: &[agent::record::Write]) {
        for write in writes {
            self.journal.apply(write);
            self.synced.apply(write);
        }
    }

    pub(crate) fn unsynced_bursts(&self) -> usize {
        self.unsynced.len()
    }

    fn apply(&mut self, writes: &[agent::record::Write]) {
        writes.iter().for_each(|write| self.journal.apply(write));
        self.written.extend_from_slice(writes);
        self.unsynced.push_back(writes.to_vec());
        if writes.iter().any(agent::record::Write::needs_sync) {
            for write in self.unsynced.drain(..).flatten() {
                self.synced.apply(&write);
            }
        }
    }

    fn encode(&mut self, speech: &[agent::event::Speech]) -> Result<(), CommitError> {
        let mut encoded = self.encoded.borrow_mut();
        encoded.clear();
        for said in speech {
            use agent::event::Speech;
            let (conn, bytes) = match said {
                Speech::Send { conn, messages } => (conn, wire::encode_up(messages)),
                Speech::Renew { conn, csr } => {
                    let csr = csr.clone();
                    (conn, wire::RenewRequest { csr }.encode())
                }
                Speech::Recover { conn, request } => (conn, request.encode()),
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
            let frame: Rc<[u8]> = match bytes {
                Ok(frame) => frame.into(),
                Err(error) => {
                    self.refused = Some(error.to_string());
                    return Err(CommitError::Fatal(error.to_string()));
                }
            };
            let mut ledger = self.ledger.borrow_mut();
            ledger.push((self.process, *conn, Rc::clone(&frame)));
            encoded.push_back(frame);
        }
        Ok(())
    }
}

impl Store<agent::Agent> for SiteDisk {
    async fn commit(
        &mut self,
        effects: &Effects<agent::record::Write, agent::event::Speech>,
    ) -> Result<(), CommitError> {
        std::future::ready(()).await;
        let says = |message: Message| {
            let mut speech = effects.speech.iter();
            speech.any(|said| match said {
                agent::event::Speech::Send { messages, .. } => {
                    messages.iter().any(|sent| message.is_up(sent))
                }
                agent::event::Speech::Dial { .. }
                | agent::event::Speech::Hangup { .. }
                | agent::event::Speech::MakeCsr
                | agent::event::Speech::Renew { .. }
                | agent::event::Speech::Prove { .. }
                | agent::event::Speech::Recover { .. }
                | agent::event::Speech::Start { .. }
                | agent::event::Speech::TakeBack { .. }
                | agent::event::Speech::Cancel { .. }
                | agent::event::Speech::InTouch
                | agent::event::Speech::Discard { .. }
                | agent::event::Speech::Refused { .. }
                | agent::event::Speech::Alarm(_)
                | agent::event::Speech::Done => false,
            })
        };
        let fault = self.trouble.take(!effects.writes.is_empty(), says);
        if fault.is_none_or(|fault| fault.applied) {
            self.encode(&effects.speech)?;
            if !effects.writes.is_empty() {
                self.apply(&effects.writes);
            }
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    async fn load(&mut self) -> Result<agent::record::Snapshot, LoadError> {
        std::future::ready(()).await;
        Ok(self.journal.snapshot())
    }
}

/// One record of the orchestrator before and after a write.
#[derive(Debug)]
pub(crate) enum Change {
    Run(Option<RunRecord>, RunRecord),
    Task(Option<TaskRecord>, TaskRecord),
    Attempt(Option<AttemptRecord>, Box<AttemptRecord>),
}

/// The orchestrator's database.
#[derive(Debug, Default)]
pub(crate) struct CenterDisk {
    pub(crate) mirror: center::mirror::Mirror,
    pub(crate) trouble: Trouble,
    /// The database host's clock, for the turn at hand.
    pub(crate) now: Micros,
    /// Changes since this was last taken, each with what the database held just before it.
    pub(crate) changes: Vec<Change>,
    /// Whether anything was written since this was last reset.
    pub(crate) wrote: bool,
    /// Whether somebody reads notices, and those since this was last taken.
    pub(crate) is_read: bool,
    pub(crate) told: Vec<Notice>,
    /// Who owns what.
    pub(crate) owners: BTreeMap<Scope, Owner>,
    /// For whom the turn at hand commits, and whether somebody else owns that by now.
    pub(crate) committing: Option<(Scope, Owner)>,
    pub(crate) overtaken: bool,
    /// Under which rows each scope was written, in order.
    pub(crate) wrote_under: BTreeMap<Scope, Vec<Owner>>,
}

impl CenterDisk {
    /// The commit's condition, within its transaction: whoever commits owns what it is about.
    fn still_owned(&mut self) -> bool {
        let Some((scope, held)) = &self.committing else {
            return true;
        };
        let row = self.owners.get(scope);
        let owned = row.is_some_and(|row| row.admits(*held));
        self.overtaken |= !owned;
        owned
    }

    fn note_owner(&mut self) {
        if let Some((scope, held)) = &self.committing {
            let under = self.wrote_under.entry(scope.clone()).or_default();
            if under.last().is_none_or(|last| !last.admits(*held)) {
                under.push(*held);
            }
        }
    }

    fn apply(&mut self, write: &center::record::Write) {
        use center::record::Write;
        let mirror = &self.mirror;
        let change = match write {
            Write::Run(run) => Some(Change::Run(mirror.runs.get(&run.run).cloned(), run.clone())),
            Write::Task(task) => {
                let before = mirror.tasks.get(&(task.run, task.task)).cloned();
                Some(Change::Task(before, task.clone()))
            }
            Write::Attempt(attempt) => {
                let before = mirror.attempts.get(&attempt.attempt).cloned();
                Some(Change::Attempt(before, Box::new(attempt.clone())))
            }
            Write::Workflow(_)
            | Write::WorkflowState(_)
            | Write::Agent(_)
            | Write::AgentMark(_)
            | Write::Invite(_)
            | Write::Tenant(_)
            | Write::Key(_)
            | Write::Notice(_) => None,
        };
        self.changes.extend(change);
        self.mirror.apply(write);
    }
}

impl Store<center::Orchestrator> for CenterDisk {
    async fn commit(
        &mut self,
        effects: &Effects<center::record::Write, center::event::Speech>,
    ) -> Result<(), CommitError> {
        std::future::ready(()).await;
        let says = |message: Message| {
            let mut speech = effects.speech.iter();
            speech.any(|said| match said {
                center::event::Speech::Send { messages, .. } => {
                    messages.iter().any(|sent| message.is_down(sent))
                }
                center::event::Speech::Close { .. }
                | center::event::Speech::Answer { .. }
                | center::event::Speech::Alarm { .. } => false,
            })
        };
        if !effects.writes.is_empty() && !self.still_owned() {
            return Err(CommitError::Fatal("another one owns it".to_owned()));
        }
        let fault = self.trouble.take(!effects.writes.is_empty(), says);
        if fault.is_none_or(|fault| fault.applied) {
            if !effects.writes.is_empty() {
                self.note_owner();
            }
            self.wrote |= !effects.writes.is_empty();
            effects.writes.iter().for_each(|write| self.apply(write));
            // A seed's simulation reads no notices, and a snapshot does not hold them.
            let told = std::mem::take(&mut self.mirror.notices);
            if self.is_read {
                self.told.extend(told);
            }
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    async fn load(&mut self) -> Result<center::record::Snapshot, LoadError> {
        std::future::ready(()).await;
        let scope = self.committing.as_ref().map(|(scope, _)| scope);
        let snapshot = self.mirror.snapshot(self.now);
        Ok(match scope {
            Some(scope) => scoped(snapshot, scope),
            None => snapshot,
        })
    }
}
