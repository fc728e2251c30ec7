//! The certificate that link presents, told to the core on the clock that the core knows.
//!
//! Certificates end by the wall clock, which a person or a time server may set; the core counts microseconds since boot.

use outpost_agent_core::event::Event;
use outpost_driver::Micros;

/// The wall clock may drift by so much, in microseconds, before the core is told again.
const DRIFT_US: u64 = 2_000_000;

/// When it was stored and when it ends, in seconds since 1970; zeros before link has said so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Certificate {
    since_s: u64,
    pub(super) not_after_s: u64,
    told: Option<Micros>,
}

impl Certificate {
    /// As link says.
    pub(super) fn new(since_s: u64, not_after_s: u64) -> Self {
        Self {
            since_s,
            not_after_s,
            told: None,
        }
    }

    /// What the core is to be told, if it was not told already. `renewed`: link has just stored it.
    pub(super) fn event(&mut self, renewed: bool, boot_us: u64, wall_us: u64) -> Option<Event> {
        let until = on_boot_clock(self.not_after_s, boot_us, wall_us);
        let known = self
            .told
            .is_some_and(|told| told.0.abs_diff(until.0) < DRIFT_US);
        if self.not_after_s == 0 || known {
            return None;
        }
        self.told = Some(until);
        let life_s = self.not_after_s.saturating_sub(self.since_s);
        let life_us = life_s.saturating_mul(1_000_000);
        Some(if renewed {
            Event::Renewed { life_us, until }
        } else {
            Event::Certificate { life_us, until }
        })
    }

    /// Whether it has ended by this host's clock.
    pub(super) fn has_ended(&self, wall_us: u64) -> bool {
        (1..wall_us / 1_000_000).contains(&self.not_after_s)
    }

    /// Whole days until it ends, as the wire carries them.
    pub(super) fn days_left(&self, wall_us: u64) -> u16 {
        let left_s = self.not_after_s.saturating_sub(wall_us / 1_000_000);
        u16::try_from((left_s / 86_400).min(4095)).unwrap_or(4095)
    }
}

/// A moment of the wall clock on the boot-time clock; 0 for one before the host's start.
pub(super) fn on_boot_clock(at_s: u64, boot_us: u64, wall_us: u64) -> Micros {
    let at_us = at_s.saturating_mul(1_000_000);
    Micros(at_us.saturating_add(boot_us).saturating_sub(wall_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn the_core_is_told_once_and_again_when_the_clock_was_set() {
        let mut certificate = Certificate::new(1000, 1060);
        let told = certificate.event(true, 500 * S, 1010 * S);
        let (life_us, until) = (60 * S, Micros(550 * S));
        assert!(
            matches!(told, Some(Event::Renewed { life_us: l, until: u }) if (l, u) == (life_us, until))
        );
        assert!(certificate.event(false, 510 * S, 1020 * S).is_none());
        let told = certificate.event(false, 520 * S, 1040 * S);
        let until = Micros(540 * S);
        assert!(matches!(told, Some(Event::Certificate { until: u, .. }) if u == until));
        assert_eq!(on_boot_clock(10, 5 * S, 100 * S), Micros(0));
        assert!(Certificate::default().event(false, 1, 1).is_none());
    }

    #[test]
    fn days_are_whole_ones() {
        let certificate = Certificate::new(0, 3 * 86_400);
        assert_eq!(certificate.days_left(S), 2);
        assert_eq!(certificate.days_left(4 * 86_400 * S), 0);
        assert!(certificate.has_ended(4 * 86_400 * S));
        assert!(!certificate.has_ended(2 * 86_400 * S));
        assert!(!Certificate::default().has_ended(S), "there is none");
    }
}
