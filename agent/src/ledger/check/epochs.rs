//! Whether all sessions are here that the orchestrator numbered: it counts those of one agent without a gap, and signs each
//! number with a receipt, and with later ones which sessions were before. Whoever leaves the first sessions out, receipts and
//! all, leaves numbers that nothing here explains.
//!
//! What explains one: a session of that number; one without a number, because the answer to its first frame did not come or
//! was not on the disk; segments that were taken away before the first one here.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use super::super::damage::Damage;
use super::super::live::Session;
use super::Findings;
use super::receipts::Counted;

/// How far the numbers were followed.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    /// The highest number so far; `None` while nothing says what came before.
    highest: Option<u64>,
    /// Sessions that began here and have no number.
    unnumbered: u64,
    /// Numbers that were taken for those of such sessions last: their answer can still come.
    lent: Range<u64>,
    /// The first number of a session that began here; 0 when the numbers went back since.
    first_begun: Option<u64>,
    /// Numbers of sessions that are not here; the first ones of very many.
    missing: Vec<Range<u64>>,
}

/// Gaps that are named one by one.
const NAMED: usize = 16;

impl Epochs {
    /// `is_pruned`: segments were taken away before the first one here.
    pub(super) fn new(is_pruned: bool) -> Self {
        Self {
            highest: (!is_pruned).then_some(0),
            ..Self::default()
        }
    }

    /// A session began here: its first frame was read.
    pub(super) fn begun(&mut self) {
        self.unnumbered += 1;
    }

    /// A session goes on here that began in what was taken away.
    pub(super) fn carried(&mut self, session: &Session) -> Option<u64> {
        if let Some(epoch) = session.epoch {
            self.highest = self.highest.max(Some(epoch));
        }
        self.first_begun
    }

    /// The orchestrator accepted a session that began here (else it goes on here), under this number. Answers the first
    /// number of one that began here before it.
    pub(super) fn accepted(&mut self, epoch: u64, began_here: bool) -> Option<u64> {
        let first_begun = self.first_begun;
        if self.lent.contains(&epoch) {
            // It counts as one without a number already; the numbers behind it were followed.
            return first_begun;
        }
        if began_here {
            self.unnumbered = self.unnumbered.saturating_sub(1);
        }
        let highest = self.highest.unwrap_or(epoch.saturating_sub(1));
        if epoch > highest {
            let gap = highest + 1..epoch;
            let lent = self.unnumbered.min(gap.end - gap.start);
            self.unnumbered -= lent;
            let lent_to = gap.start + lent;
            if lent > 0 {
                self.lent = gap.start..lent_to;
            }
            if lent_to < gap.end && self.missing.len() < NAMED {
                self.missing.push(lent_to..gap.end);
            }
        } else {
            // Counted anew, by an orchestrator that was put back to an earlier copy, or another one.
            self.first_begun = Some(0);
            self.lent = 0..0;
        }
        self.highest = Some(epoch);
        if began_here {
            self.first_begun.get_or_insert(epoch);
        }
        first_begun
    }

    /// Names what is missing. `counted`: what receipts say that the orchestrator counted, and of which sessions something is
    /// signed.
    pub(super) fn end(
        self,
        (counted, signed): (&[Counted], BTreeSet<u64>),
        path: &Path,
        findings: &mut Findings,
    ) {
        for gap in self.missing {
            let what = format!(
                "{} of this agent, as the orchestrator numbered them, are not here: they are in the ledger of an earlier \
                 enrolment, of a copy of this agent, or in one that was moved away; or somebody took them out, and their \
                 receipts",
                sessions(&gap)
            );
            findings.add(Damage::SessionMissing, what, path.to_owned());
        }
        for gap in uncovered(counted, &signed) {
            let what = format!(
                "the orchestrator signed that it counted {} of this agent, and nothing that is signed says what was received in \
                 them: they were too short for a receipt, and their successors too, or somebody took their receipts out",
                sessions(&gap)
            );
            findings.add(Damage::SessionMissing, what, path.to_owned());
        }
    }
}

fn sessions(gap: &Range<u64>) -> String {
    match gap.end - gap.start {
        1 => format!("session {}", gap.start),
        _ => format!("sessions {} to {}", gap.start, gap.end - 1),
    }
}

/// What was counted of which nothing is signed, the first gaps.
fn uncovered(counted: &[Counted], signed: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut counted = counted.to_vec();
    counted.sort_unstable();
    let mut gaps: Vec<Range<u64>> = Vec::new();
    let mut done = 0;
    for (since, end) in counted {
        let mut next = since.max(done);
        done = end.max(done);
        while next < end && gaps.len() < NAMED {
            let known = signed.range(next..end).next().copied();
            let until = known.unwrap_or(end);
            match gaps.last_mut() {
                Some(last) if last.end == next => last.end = until,
                Some(_) | None if until > next => gaps.push(next..until),
                Some(_) | None => {}
            }
            next = until.saturating_add(1);
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is missing after these: `None` a session without an answer, `Some(n)` one with this number.
    fn missing(is_pruned: bool, said: &[Option<u64>]) -> Vec<(u64, u64)> {
        let mut epochs = Epochs::new(is_pruned);
        for epoch in said {
            epochs.begun();
            if let Some(epoch) = epoch {
                epochs.accepted(*epoch, true);
            }
        }
        pairs(epochs.missing)
    }

    fn pairs(gaps: Vec<Range<u64>>) -> Vec<(u64, u64)> {
        gaps.into_iter().map(|gap| (gap.start, gap.end)).collect()
    }

    #[test]
    fn numbers_without_a_gap_miss_nothing_and_a_gap_is_named() {
        let of = |numbers: &[u64]| numbers.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(missing(false, &of(&[1, 2, 3])), []);
        assert_eq!(missing(false, &of(&[2, 3])), [(1, 2)]);
        assert_eq!(missing(false, &of(&[1, 5, 6, 8])), [(2, 5), (7, 8)]);
        assert_eq!(missing(true, &of(&[7, 8])), [], "taken away");
        assert_eq!(missing(true, &of(&[7, 9])), [(8, 9)]);
    }

    #[test]
    fn a_session_without_an_answer_explains_one_number_and_no_more() {
        assert_eq!(missing(false, &[None, Some(2)]), []);
        assert_eq!(missing(false, &[None, Some(3)]), [(2, 3)]);
        assert_eq!(missing(false, &[None, None, Some(2), Some(4)]), []);
        assert_eq!(missing(false, &[Some(1), None]), []);
    }

    #[test]
    fn an_answer_that_comes_late_counts_once() {
        let mut epochs = Epochs::new(false);
        epochs.begun();
        epochs.begun();
        epochs.accepted(2, true);
        epochs.accepted(1, true);
        epochs.begun();
        epochs.accepted(3, true);
        assert_eq!(epochs.missing, []);
        assert_eq!(epochs.unnumbered, 0);
    }

    #[test]
    fn numbers_that_go_back_are_another_count() {
        let of = |numbers: &[u64]| numbers.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(missing(false, &of(&[1, 2, 3, 2, 3, 4])), []);
        assert_eq!(missing(false, &of(&[1, 2, 3, 2, 4])), [(3, 4)]);
    }

    #[test]
    fn what_was_counted_and_not_signed_is_named_once() {
        let of = |counted: &[Counted], signed: &[u64]| {
            pairs(uncovered(counted, &signed.iter().copied().collect()))
        };
        assert_eq!(of(&[], &[4]), []);
        assert_eq!(of(&[(1, 4), (1, 3)], &[1, 2, 3, 4]), []);
        assert_eq!(of(&[(1, 6)], &[2, 3, 6]), [(1, 2), (4, 6)]);
        assert_eq!(of(&[(1, 6), (1, 5), (4, 7)], &[6]), [(1, 6)]);
        assert_eq!(of(&[(3, 3), (9, 10)], &[3, 10]), [(9, 10)]);
        let hostile: Vec<_> = (0..1000).map(|n| (n * 10, n * 10 + 5)).collect();
        assert_eq!(of(&hostile, &[]).len(), NAMED);
        assert_eq!(of(&[(0, u64::MAX)], &[7]), [(0, 7), (8, u64::MAX)]);
    }
}
