//! What time it is by the site's clock, and by the orchestrator's once it has said it in this life of the process.
//!
//! Either may be wrong by years. What is settled counts from the later of the two, and is old only when both say so: a
//! clock that leaps, or a host that starts with a wrong one, makes nobody forget what an orchestrator may still ask for.

use outpost_driver::Micros;

/// Both clocks, as seconds since 1970 at this host's boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    site_s: u64,
    orchestrator_s: Option<u64>,
}

impl Clocks {
    /// Before the orchestrator was heard.
    pub(crate) fn new(site_s: u64) -> Self {
        Self {
            site_s,
            orchestrator_s: None,
        }
    }

    /// The orchestrator says what time it is: microseconds since 1970.
    pub(crate) fn hear(&mut self, now: Micros, server_time_us: u64) {
        self.orchestrator_s = Some((server_time_us / 1_000_000).saturating_sub(seconds(now)));
    }

    /// Seconds since 1970 by the clock that is ahead.
    pub(crate) fn latest_s(self, now: Micros) -> u64 {
        let at_boot = self.site_s.max(self.orchestrator_s.unwrap_or(0));
        at_boot.saturating_add(seconds(now))
    }

    /// Seconds since 1970 that have surely passed; none before the orchestrator was heard.
    pub(crate) fn surely_s(self, now: Micros) -> u64 {
        let at_boot = self.orchestrator_s.map(|other| other.min(self.site_s));
        at_boot.map_or(0, |at_boot| at_boot.saturating_add(seconds(now)))
    }

    /// When [`Clocks::surely_s`] will be `at_s`; `None` as long as it does not move.
    pub(crate) fn when(self, at_s: u64) -> Option<Micros> {
        let at_boot = self.orchestrator_s.map(|other| other.min(self.site_s));
        let since_boot = |at_boot| at_s.saturating_sub(at_boot).saturating_mul(1_000_000);
        if at_s == 0 {
            return Some(Micros(0));
        }
        at_boot.map(since_boot).map(Micros)
    }
}

fn seconds(now: Micros) -> u64 {
    now.0 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros(50_000_000);

    #[test]
    fn nothing_surely_passed_before_the_orchestrator_was_heard() {
        let clocks = Clocks::new(1_000);
        assert_eq!((clocks.latest_s(NOW), clocks.surely_s(NOW)), (1_050, 0));
        assert_eq!((clocks.when(1), clocks.when(0)), (None, Some(Micros(0))));
    }

    #[test]
    fn what_is_settled_counts_from_the_later_clock_and_is_old_by_the_earlier_one() {
        for (site, server) in [(9_000, 1_050), (1_000, 9_050)] {
            let mut clocks = Clocks::new(site);
            clocks.hear(NOW, server * 1_000_000);
            assert_eq!((clocks.latest_s(NOW), clocks.surely_s(NOW)), (9_050, 1_050));
            assert_eq!(clocks.when(1_060), Some(NOW.plus_ms(10_000)));
            assert_eq!(clocks.when(7), Some(Micros(0)), "long ago");
        }
    }
}
