//! What was taken away: whether the agent says so in the chain, and whether anything that the orchestrator signed shows that
//! what is gone was as it is said to have been. Whoever takes the first segments away and writes `pruned.json` himself has
//! neither.

use std::path::Path;

use super::super::damage::Damage;
use super::super::live::Session;
use super::super::pruned::{PRUNED, PrunedTo, TakenAway, read_pruned};
use super::super::{LedgerError, segment_path};
use super::{Findings, Pruned};

/// What is gone, and what is said of it.
pub(super) struct Taken {
    pruned: PrunedTo,
    /// What the chain says of exactly that segment: whether with that head.
    said: Option<bool>,
    /// The newest one that the chain says is gone.
    newest: u64,
    /// Frames that went of sessions that go on here without being signed for: session, frames; the first such.
    unsigned: Option<(Option<u64>, u64)>,
    /// Whether some session that goes on here is signed for from before what is gone.
    is_signed: bool,
}

impl Taken {
    pub(super) fn new(dir: &Path) -> Result<Self, LedgerError> {
        Ok(Self {
            pruned: read_pruned(dir)?,
            said: None,
            newest: 0,
            unsigned: None,
            is_signed: false,
        })
    }

    /// The newest segment that is gone; 0 when none is.
    pub(super) fn segment(&self) -> u64 {
        self.pruned.segment
    }

    /// A record of the chain says that a segment is gone; `None` when it cannot be read.
    pub(super) fn said(&mut self, payload: &[u8], summary: &mut Pruned) -> Option<()> {
        let taken = TakenAway::from_payload(payload)?;
        if taken.segment == self.pruned.segment {
            self.said = Some(taken.head == self.pruned.head);
        }
        self.newest = self.newest.max(taken.segment);
        summary.for_size += u64::from(taken.for_size);
        if taken.is_early() {
            summary.early += 1;
            let age = taken.age_s();
            summary.youngest_s = Some(summary.youngest_s.map_or(age, |young| young.min(age)));
        }
        Some(())
    }

    /// A session is over of which so many frames were signed for. Where that is more than went of it, the head is signed
    /// for with which it goes on here, and with it all that went.
    pub(super) fn ended(&mut self, session: &Session, signed: u64) {
        if session.before == 0 {
            return;
        }
        if signed >= session.before {
            self.is_signed = true;
        } else if session.frames > session.before && self.unsigned.is_none() {
            self.unsigned = Some((session.epoch, session.before));
        }
    }

    /// `last`: the newest segment here; `of_pruned`: receipts for frames that are gone, which name this agent.
    pub(super) fn end(&self, dir: &Path, (last, of_pruned): (u64, u64), findings: &mut Findings) {
        let segment = self.pruned.segment;
        if segment == 0 {
            return;
        }
        if last <= segment {
            let what = format!("none is here behind segment {segment}, and the newest never goes");
            let path = segment_path(dir, segment + 1);
            findings.add(Damage::MissingSegment, what, path);
            return;
        }
        let mut find = |kind, what: String| findings.add(kind, what, dir.join(PRUNED));
        match self.said {
            Some(true) => {}
            Some(false) => find(
                Damage::Tampered,
                format!("the agent recorded that segment {segment} went with another head"),
            ),
            None if self.newest > 0 => find(
                Damage::Removed,
                format!(
                    "segments up to {segment} are not here, and the agent recorded no more than that it took those up to {} away",
                    self.newest
                ),
            ),
            None => find(
                Damage::PrunedUnsigned,
                format!(
                    "segments up to {segment} are not here, and no record says that the agent took them away: one of an earlier \
                     version did, or somebody else"
                ),
            ),
        }
        if let Some((epoch, frames)) = self.unsigned {
            let session = epoch.map_or_else(|| "without a number".to_owned(), |n| n.to_string());
            find(
                Damage::PrunedUnsigned,
                format!(
                    "pruned before any receipt: {frames} frames of session {session} were taken away, and nothing shows that they \
                     were as they say"
                ),
            );
        } else if !self.is_signed && of_pruned == 0 {
            find(
                Damage::PrunedUnsigned,
                format!(
                    "pruned before any receipt: segments up to {segment} were taken away, and nothing shows that the frames in \
                     them were as they say"
                ),
            );
        }
    }
}
