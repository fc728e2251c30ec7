//! Leases: until when the orchestrator has allowed work to be started.
//!
//! A lease runs from the moment its heartbeat was sent, by this machine's boot-time clock: the orchestrator's clock and
//! the time on the way do not matter, and an answer that was held back cannot prolong anything.

use std::collections::VecDeque;

use outpost_driver::Micros;
use outpost_proto::ids::HeartbeatSeq;

/// A start this close to the end of its lease is not begun: the keeper looks at the lease again just before exec.
const START_MARGIN_MS: u64 = 250;
/// Sent heartbeats whose answer may still come. Older ones can no longer grant anything.
const REMEMBERED: usize = 64;

/// Heartbeats and the lease of one session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease {
    last: HeartbeatSeq,
    sent: VecDeque<(HeartbeatSeq, Micros)>,
    held: Option<(HeartbeatSeq, Micros)>,
}

/// An answer to a heartbeat that was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NeverSent;

impl Lease {
    /// A heartbeat goes out now: its number.
    pub(crate) fn beat(&mut self, now: Micros) -> HeartbeatSeq {
        self.last = HeartbeatSeq(self.last.0.saturating_add(1));
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last, now));
        self.last
    }

    /// The orchestrator answers a heartbeat with a lease. It never ends one that was granted for longer.
    pub(crate) fn grant(&mut self, seq: HeartbeatSeq, lease_ms: u32) -> Result<(), NeverSent> {
        if seq == HeartbeatSeq(0) || seq > self.last {
            return Err(NeverSent);
        }
        while self.sent.front().is_some_and(|(sent, _)| *sent < seq) {
            self.sent.pop_front();
        }
        let Some((_, at)) = self.sent.front().filter(|(sent, _)| *sent == seq) else {
            return Ok(());
        };
        let until = at.plus_ms(u64::from(lease_ms));
        if self.held.is_none_or(|(_, held)| until >= held) {
            self.held = Some((seq, until));
        }
        Ok(())
    }

    /// The end of the lease, if enough of it is left to start something.
    pub(crate) fn to_start(&self, now: Micros) -> Option<Micros> {
        self.until()
            .filter(|until| *until > now.plus_ms(START_MARGIN_MS))
    }

    /// The end of the newest lease, past or not.
    pub(crate) fn until(&self) -> Option<Micros> {
        self.held.map(|(_, until)| until)
    }

    /// The heartbeat whose grant is held; 0 without a live lease.
    pub(crate) fn echo(&self, now: Micros) -> HeartbeatSeq {
        self.held
            .filter(|(_, until)| *until > now)
            .map_or(HeartbeatSeq(0), |(seq, _)| seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_lease_runs_from_the_moment_its_heartbeat_was_sent() {
        let mut lease = Lease::default();
        let seq = lease.beat(Micros(10 * SECOND));
        assert_eq!(lease.to_start(Micros(10 * SECOND)), None);
        assert_eq!(lease.grant(seq, 30_000), Ok(()));
        assert_eq!(
            lease.to_start(Micros(39 * SECOND)),
            Some(Micros(40 * SECOND))
        );
        assert_eq!(
            lease.to_start(Micros(40 * SECOND - 250_000)),
            None,
            "too close to its end"
        );
        assert_eq!(lease.echo(Micros(39 * SECOND)), seq);
        assert_eq!(lease.echo(Micros(40 * SECOND)), HeartbeatSeq(0));
    }

    #[test]
    fn late_and_repeated_answers_change_nothing_and_invented_ones_are_noticed() {
        let mut lease = Lease::default();
        let (one, two) = (lease.beat(Micros(0)), lease.beat(Micros(10 * SECOND)));
        assert_eq!(lease.grant(two, 30_000), Ok(()));
        assert_eq!(lease.grant(one, 60_000_000), Ok(()));
        assert_eq!(
            lease.grant(two, 1),
            Ok(()),
            "a shorter one does not end a longer one"
        );
        assert_eq!(lease.until(), Some(Micros(40 * SECOND)));
        assert_eq!(lease.grant(HeartbeatSeq(3), 30_000), Err(NeverSent));
        assert_eq!(lease.grant(HeartbeatSeq(0), 30_000), Err(NeverSent));
    }

    #[test]
    fn what_is_remembered_of_unanswered_heartbeats_is_bounded() {
        let mut lease = Lease::default();
        let first = lease.beat(Micros(0));
        for _ in 0..REMEMBERED {
            lease.beat(Micros(SECOND));
        }
        assert_eq!(lease.sent.len(), REMEMBERED);
        assert_eq!(lease.grant(first, 30_000), Ok(()));
        assert_eq!(lease.until(), None);
    }
}
