//! What is kept of an agent besides what it does: whether one identity has two holders, and what it has yet to answer
//! after its orchestrator's database was restored.
//!
//! Durable parts only, with the judgements that need nothing else; `clone` and `restore` act on them.

use std::collections::{BTreeMap, BTreeSet};

use outpost_proto::ids::{AttemptId, Incarnation, Nonce, RecoveryEpoch};
use outpost_proto::message::Hello;
use outpost_proto::outcome::Report;
use serde::{Deserialize, Serialize};

use crate::bearer::Life;
use crate::limits::{LIVES, NONCES, OTHERS, REJECTED};
use crate::record::AgentRecord;
use crate::recover::Recovered;

/// The counter of a database that was never restored.
const FIRST_LIFE: u32 = 1;

/// How an agent stands. Most agents stand well, and nothing of it is written then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// A second holder of the identity appeared, and nobody has decided yet which one stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// Nonces of holders that a person decided against: whoever presents one is turned away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Nonce>,
    /// The lives of holders that a person decided against: what was assigned under one of them up to the decision may be
    /// with that holder, and what the kept one has not started, the other may have. The newest eight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
    /// It came back as another incarnation while the former one was still heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// Keys (SHA-256, hex) that it has left behind, the newest last: whoever presents one is a second holder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_keys: Vec<String>,
    /// Keys of those who had the name before, the newest last: whoever presents one is turned away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former_keys: Vec<String>,
    /// Keys of streams that were turned away because of them, the newest last: each is told once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_keys: Vec<String>,
    /// It went out of touch then, not together with most of the others: nobody expects it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away: Option<u64>,
    /// It is to get a new key, because another one held the present one too.
    pub rekey: bool,
    /// The newest recovery counter under which it said Hello.
    pub met: u32,
    /// The newest recovery counter under which it told everything it holds and remembers.
    pub reported: u32,
    /// It has seen a newer state of this life of the database than there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<RecoveryEpoch>,
    /// Attempts it runs of runs that a restored database does not know: they may go on to their end.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub adopted: BTreeSet<AttemptId>,
    /// Attempts that a restored database did not know and has taken in while two held the identity: whoever tells them once
    /// more, either holder, is not the first.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub taken_in: BTreeSet<AttemptId>,
    /// While two held the identity, the known one told as many memories as it can have, of a time that a restored database
    /// lacks. It tells them once: what it lacks after the decision it may have forgotten.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub may_have_forgotten: bool,
    /// The newest certificate that it got in place of one that had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Recovered>,
    /// When it got such ones, as far as that counts; at most as many as the settings allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recoveries: Vec<u64>,
    /// As former versions wrote it: a person decided between two holders of the same incarnation. Only ever read.
    #[serde(skip_serializing)]
    pub forked: bool,
    /// As former versions wrote it: the newest of `other_keys`. Only ever read.
    #[serde(skip_serializing)]
    pub other_key: Option<String>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            quarantine: None,
            rejected: Vec::new(),
            others: Vec::new(),
            doubt: None,
            left_keys: Vec::new(),
            former_keys: Vec::new(),
            other_keys: Vec::new(),
            away: None,
            rekey: false,
            met: FIRST_LIFE,
            reported: FIRST_LIFE,
            behind: None,
            adopted: BTreeSet::new(),
            taken_in: BTreeSet::new(),
            may_have_forgotten: false,
            recovered: None,
            recoveries: Vec::new(),
            forked: false,
            other_key: None,
        }
    }
}

impl Standing {
    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an attempt that was assigned then, under this incarnation, may be with a holder that was decided against.
    pub(crate) fn may_be_with_another(&self, incarnation: Incarnation, assigned_at: u64) -> bool {
        let others = self.others.iter();
        others
            .filter(|other| other.incarnation == incarnation)
            .any(|other| assigned_at <= other.until)
    }

    /// A person decided against the holder that lives under this incarnation.
    pub(crate) fn decided_against(&mut self, incarnation: Incarnation, at: u64) {
        self.others.retain(|other| other.incarnation != incarnation);
        self.others.push(Other {
            incarnation,
            until: at,
        });
        let many = self.others.len().saturating_sub(OTHERS);
        self.others.drain(..many);
    }
}

/// The life of a holder that a person decided against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Its incarnation. The one that stayed may have the same.
    pub incarnation: Incarnation,
    /// When it was decided.
    pub until: u64,
}

/// What an agent said of a life before its present one, while that may not be over.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Doubt {
    /// It is believed from then on, if no second holder appears.
    pub until: u64,
    /// By attempt: the end that was told, `None` if it was lacking.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<AttemptId, Option<Report>>,
}

/// Two holders of one identity: a copied machine, or one put back to an earlier snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when.
    pub since: u64,
    /// What the unexpected holder may present: what it came with, then what was handed out to it; at most 8.
    pub nonces: Vec<Nonce>,
    /// The unexpected holder's.
    pub incarnation: Incarnation,
    /// What the unexpected holder asked for, if its certificate had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovers: Option<Recovered>,
    /// The newest recovery counter under which the unexpected holder said Hello.
    #[serde(default)]
    pub met: u32,
    /// The unexpected holder's key (SHA-256, hex), if it may not be the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Lives that the unexpected holder has had since, before its present one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Incarnation>,
    /// The lives of yet other holders: of who was turned away since, and of who was the known one before a restore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub third: Vec<Incarnation>,
    /// What the known holder told to have been interrupted in a former life, the first word of each attempt: believed
    /// only once a person decided that it stays.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<AttemptId, Report>,
}

impl Quarantine {
    pub(crate) fn new(since: u64, incarnation: Incarnation) -> Self {
        Self {
            since,
            nonces: Vec::new(),
            incarnation,
            recovers: None,
            met: 0,
            key: None,
            former: Vec::new(),
            third: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    /// The unexpected holder lives under this incarnation now.
    pub(crate) fn lives_as(&mut self, incarnation: Incarnation) {
        let former = std::mem::replace(&mut self.incarnation, incarnation);
        if former != incarnation && !self.former.contains(&former) {
            self.former.push(former);
            let many = self.former.len().saturating_sub(LIVES);
            self.former.drain(..many);
        }
    }

    /// Who comes under an unexpected nonce counts as the known one. The one that was known until now, under this
    /// incarnation, may be yet another holder.
    fn was_known(&mut self, incarnation: Incarnation) {
        if !self.third.contains(&incarnation) {
            self.third.truncate(LIVES - 1);
            self.third.insert(0, incarnation);
        }
    }

    /// Somebody else under this incarnation was turned away. Gives whether that is new; the first ones are kept.
    pub(crate) fn has_third(&mut self, incarnation: Incarnation) -> bool {
        let new = self.third.len() < LIVES && !self.third.contains(&incarnation);
        if new {
            self.third.push(incarnation);
        }
        new
    }
}

/// One of the two holders of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The one that was known when the other one appeared.
    This,
    /// The one that appeared.
    That,
}

/// Who says Hello, by its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The agent as it is known.
    Known,
    /// The second holder, for the first time or again.
    Second,
    /// One that a person decided against, or a third.
    Refused,
}

impl AgentRecord {
    /// Says in this version's words what a former version wrote, at the time when it is read: a decision whose time was
    /// not kept counts as made by now.
    pub fn bring_up_to_date(&mut self, now: u64) {
        if std::mem::take(&mut self.standing.forked) {
            self.standing.decided_against(self.incarnation, now);
        }
        if let Some(key) = self.standing.other_key.take() {
            self.tells_key(&key);
        }
    }

    /// Whether it has not said Hello since the database was restored: its first nonce is taken as given.
    pub(crate) fn is_unmet(&self, recovery: RecoveryEpoch) -> bool {
        self.standing.met < recovery.counter
    }

    /// Whether it has not told yet what it knows of the time that a restored database lacks.
    pub(crate) fn is_awaited(&self, recovery: RecoveryEpoch) -> bool {
        !self.removed && self.standing.reported < recovery.counter
    }

    /// Whether the database is older than what this agent was told by it.
    pub(crate) fn is_behind(&self, recovery: RecoveryEpoch) -> bool {
        self.standing.behind == Some(recovery)
    }

    /// Whether what it says it obeyed is more than this database ever commanded.
    pub(crate) fn has_seen_more(&self, recovery: RecoveryEpoch, hello: &Hello) -> bool {
        hello.last.is_some_and(|(life, command)| {
            life.counter > recovery.counter
                || (life.counter == recovery.counter && life.database != recovery.database)
                || (life == recovery && command > self.command_seq)
        })
    }

    /// Who says this Hello. After a restore an agent's first nonce is taken as given, because the backup may be older
    /// than its chain. So is that of an agent which is `ahead`: it was told more than this database knows, and nobody is
    /// there as this agent. Neither makes the holder that was set aside, or turned away, the known one.
    pub(crate) fn who(&self, recovery: RecoveryEpoch, hello: &Hello, ahead: bool) -> Holder {
        let nonce = hello.session_nonce;
        let standing = &self.standing;
        let set_aside = standing.quarantine.as_ref();
        let given = match set_aside {
            Some(quarantine) => self.is_unmet(recovery) && !quarantine.nonces.contains(&nonce),
            None => self.is_unmet(recovery) || ahead,
        };
        if given && !standing.rejected.contains(&nonce) {
            return Holder::Known;
        }
        self.holder(nonce)
    }

    /// It says Hello, as the known one: it lives as this incarnation from now on.
    pub(crate) fn lives_as(&mut self, hello: &Hello) {
        let former = std::mem::replace(&mut self.incarnation, hello.incarnation);
        let expected = self.nonces.contains(&hello.session_nonce);
        let quarantine = self.standing.quarantine.as_mut();
        if let Some(quarantine) = quarantine.filter(|_| !expected && former != hello.incarnation) {
            quarantine.was_known(former);
        }
    }

    /// Who says of the present session that it is the agent holds as not begun what was begun by one that lived under
    /// this incarnation: it is the second of two, and came first. Its own nonce is the newest.
    pub(crate) fn came_first(&mut self, began: Incarnation, life: Life, now: u64) {
        let second = std::mem::replace(&mut self.incarnation, began);
        let mut quarantine = Quarantine::new(now, second);
        quarantine.nonces.extend(self.nonces.pop());
        quarantine.key = Some(self.key_hash.clone());
        quarantine.met = life.recovery.counter;
        if life.restored_at.is_some_and(|at| at >= self.enrolled_at) {
            // The first nonce was taken as given, and it was not the agent's.
            self.standing.met = life.recovery.counter.saturating_sub(1);
        }
        self.standing.quarantine = Some(quarantine);
    }

    /// A person decided which of two holders stays.
    pub(crate) fn decide(&mut self, keep: Keep, quarantine: &Quarantine, at: u64) {
        let standing = &mut self.standing;
        let mut others = [&quarantine.former[..], &[quarantine.incarnation]].concat();
        match keep {
            Keep::This => {}
            // Whatever was assigned under a life of the one that appeared was given to the known one, which may have had
            // that life too, before its present one.
            Keep::That => others.push(self.incarnation),
        }
        for other in quarantine.third.iter().chain(&others) {
            standing.decided_against(*other, at);
        }
        standing.rekey = true;
        let that = quarantine.nonces.clone();
        let gone = match keep {
            Keep::This => that,
            Keep::That => std::mem::replace(&mut self.nonces, that),
        };
        if let Keep::That = keep {
            if let Some(key) = quarantine.key.as_ref().filter(|key| **key != self.key_hash) {
                self.binds(key.clone());
            }
            // It may have come since the database was restored, and the other one not.
            self.standing.met = self.standing.met.max(quarantine.met);
        }
        if let Some(recovers) = quarantine.recovers.clone() {
            self.decide_recovery(keep, recovers);
        }
        self.reject(gone);
    }

    pub(crate) fn holder(&self, nonce: Nonce) -> Holder {
        if self.nonces.contains(&nonce) {
            return Holder::Known;
        }
        if self.standing.rejected.contains(&nonce) {
            return Holder::Refused;
        }
        match &self.standing.quarantine {
            None => Holder::Second,
            Some(quarantine) if quarantine.nonces.contains(&nonce) => Holder::Second,
            Some(_) => Holder::Refused,
        }
    }

    /// Turns away from now on whoever presents one of these, unless its own holder presents it too.
    pub(crate) fn reject(&mut self, mut nonces: Vec<Nonce>) {
        nonces.retain(|nonce| !self.nonces.contains(nonce));
        let rejected = &mut self.standing.rejected;
        rejected.extend(nonces);
        let many = rejected.len().saturating_sub(REJECTED);
        rejected.drain(..many);
    }
}

/// Presenting a nonce confirms it: whatever was handed out besides, before or after, went to connections that its
/// holder has given up. The confirmed one comes first, then what was handed out in answer to it, because the holder may
/// end before it has kept that. When too many were, the oldest of those goes, never the confirmed one.
pub(crate) fn hand_out(nonces: &mut Vec<Nonce>, presented: Nonce, next: Nonce) {
    if nonces.first() != Some(&presented) {
        *nonces = vec![presented];
    }
    if nonces.len() >= NONCES {
        nonces.remove(1);
    }
    nonces.push(next);
}

/// The newest nonce was kept by its holder: no other one is good any more.
pub(crate) fn confirm(nonces: &mut Vec<Nonce>) {
    let confirmed = nonces.len().saturating_sub(1);
    nonces.drain(..confirmed);
}
