//! Whose key a stream is under: its agent's own, one of a second holder of its identity, or a stranger's.
//!
//! Whoever presents a key that the agent has left behind holds an earlier state of it, and one of the two is a copy. The
//! keys of whoever had the name before are known as such. Any other one, after a restore, is of the time that the
//! database lacks: when its certificate ends says nothing, because lives may have become shorter since, or a clock may
//! have been put back. The port has seen the certificate by then, and that it holds.

use outpost_proto::ids::{Nonce, RecoveryEpoch};
use outpost_proto::message::Hello;

use crate::limits::{KEYS_FORMER, KEYS_LEFT, KEYS_TOLD};
use crate::record::AgentRecord;
use crate::standing::Holder;

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bearer {
    /// The agent's: as known, or, once after a restore, one that the backup does not know.
    Own,
    /// Newer than what is known, in a database that was not restored: the agent's, if that has seen more than there is.
    Newer,
    /// A second holder's.
    Second,
    /// Nobody's of this enrolment.
    Stranger,
}

/// What a database knows of its own lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) recovery: RecoveryEpoch,
    /// When the present one began by a restore.
    pub(crate) restored_at: Option<u64>,
}

impl AgentRecord {
    /// Whose key this is; `not_after`: when its certificate ends.
    pub(crate) fn bearer(&self, key_hash: &str, not_after: u64, life: Life) -> Bearer {
        if self.accepts(key_hash) {
            return Bearer::Own;
        }
        if self.standing.left_keys.iter().any(|left| left == key_hash) {
            return Bearer::Second;
        }
        if self.is_of_former(key_hash) {
            return Bearer::Stranger;
        }
        if self.is_unmet(life.recovery) {
            return Bearer::Own;
        }
        let newest = self.certificate_not_after;
        if life.restored_at.is_some_and(|at| at >= self.enrolled_at) {
            Bearer::Second
        } else if newest.is_some_and(|newest| not_after > newest) {
            Bearer::Newer
        } else {
            Bearer::Stranger
        }
    }

    /// Whether the key is one of those who had the name before.
    pub(crate) fn is_of_former(&self, key_hash: &str) -> bool {
        let former = &self.standing.former_keys;
        former.iter().any(|former| former == key_hash)
    }

    /// The keys by which somebody else who gets the name, under the key `next_of`, must not be disturbed.
    pub(crate) fn leaves_keys(&self, next_of: &str) -> Vec<String> {
        let standing = &self.standing;
        let second = standing.quarantine.iter();
        let second = second.filter_map(|quarantine| quarantine.key.as_ref());
        let own = standing.left_keys.iter().chain([&self.key_hash]);
        let own = own.chain(&self.next_key).chain(second);
        let all = standing.former_keys.iter().chain(own);
        let mut keys: Vec<String> = all.filter(|key| *key != next_of).cloned().collect();
        let many = keys.len().saturating_sub(KEYS_FORMER);
        keys.drain(..many);
        keys
    }

    /// Who says Hello under this key, whose certificate ends then; `None`: a stranger. `ahead`: as for [`Self::who`].
    pub(crate) fn presents(
        &self,
        hello: &Hello,
        (key_hash, not_after): (&str, u64),
        life: Life,
        ahead: bool,
    ) -> Option<Holder> {
        let holder = self.who(life.recovery, hello, ahead);
        match (holder, self.bearer(key_hash, not_after, life)) {
            (_, Bearer::Stranger) => None,
            (Holder::Refused, _) => Some(Holder::Refused),
            (holder, Bearer::Own) => Some(holder),
            (holder, Bearer::Newer) if ahead => Some(holder),
            (_, Bearer::Newer | Bearer::Second) => Some(self.beside(hello.session_nonce)),
        }
    }

    /// Who says Hello under another key than the agent's own.
    fn beside(&self, nonce: Nonce) -> Holder {
        match &self.standing.quarantine {
            Some(quarantine) if !quarantine.nonces.contains(&nonce) => Holder::Refused,
            Some(_) | None => Holder::Second,
        }
    }

    /// A key of the agent's is used: the one before is left behind from then on.
    pub(crate) fn uses(&mut self, key_hash: &str) {
        if self.key_hash != key_hash {
            self.binds(key_hash.to_owned());
            self.standing.rekey = false;
        }
    }

    /// The agent is known by this key from now on.
    pub(crate) fn binds(&mut self, key_hash: String) {
        let left = &mut self.standing.left_keys;
        left.retain(|left| *left != key_hash);
        left.push(std::mem::replace(&mut self.key_hash, key_hash));
        let many = left.len().saturating_sub(KEYS_LEFT);
        left.drain(..many);
        self.next_key = None;
    }

    /// Whether a stranger's key was not told of yet; it counts as told from now on.
    pub(crate) fn tells_key(&mut self, key_hash: &str) -> bool {
        let told = &mut self.standing.other_keys;
        if told.iter().any(|told| told == key_hash) {
            return false;
        }
        told.push(key_hash.to_owned());
        let many = told.len().saturating_sub(KEYS_TOLD);
        told.drain(..many);
        true
    }
}
