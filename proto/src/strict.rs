//! Strict reporting: what a site says in place of what it knows, so that a task has little to signal with.
//!
//! The agent's core puts everything it says through here when the site runs with `--reporting strict`; the budget counts
//! the values that are left; whoever shows a duration asks whether it is one of them. When something is said, which is
//! the other half of strict reporting, the core decides by [`crate::limits::STRICT_GRID`].

use crate::message::Health;
use crate::outcome::Report;

/// The longest duration that the wire carries, in milliseconds.
pub const LONGEST_MS: u64 = (1 << 36) - 1;
/// The shortest duration that is told apart from none: a second, as a power of two.
pub const SHORTEST_MS: u64 = 1 << 10;
/// The shares that are told, in percent: each stands for everything above the one before it.
pub const SHARES: [u8; 4] = [50, 80, 95, 100];
/// The loads that are told, in percent of a processor: each stands for everything above the one before it.
pub const LOADS: [u16; 4] = [100, 200, 400, 4095];

/// How an attempt ended: its class, the order of magnitude of its time, and nothing that the task chose.
#[must_use]
pub fn report(report: Report) -> Report {
    Report {
        outcome: report.outcome,
        may_have_started: report.may_have_started,
        duration_ms: duration_ms(report.duration_ms),
        exit_code: None,
        count: None,
    }
}

/// A duration as a power of two, rounded up: 0 for none, else 1024 at least.
#[must_use]
pub fn duration_ms(known: u64) -> u64 {
    if known == 0 {
        return 0;
    }
    let power = known.min(LONGEST_MS).next_power_of_two();
    power.clamp(SHORTEST_MS, LONGEST_MS)
}

/// Every duration that is told, the shortest first.
pub fn durations() -> impl Iterator<Item = u64> {
    let powers = (SHORTEST_MS.trailing_zeros()..36).map(|power| 1 << power);
    std::iter::once(0).chain(powers).chain([LONGEST_MS])
}

/// Whether a duration may be such a step, so that it must not be shown as an exact time.
#[must_use]
pub fn is_step(duration_ms: u64) -> bool {
    duration_ms >= SHORTEST_MS && (duration_ms.is_power_of_two() || duration_ms == LONGEST_MS)
}

/// The host's numbers as they are told: what a task can move is taken from `told`, which is old, and coarse.
#[must_use]
pub fn health(known: Health, told: Health) -> Health {
    Health {
        cpu_percent: share(told.cpu_percent),
        memory_percent: share(told.memory_percent),
        disk_percent: share(told.disk_percent),
        load_percent: load(told.load_percent),
        pressure_percent: share(told.pressure_percent),
        log_percent: share(told.log_percent),
        ledger_percent: share(told.ledger_percent),
        uptime_s: known.uptime_s,
        certificate_days_left: known.certificate_days_left,
        // Each refusal is told as an event of its own.
        refusals: known.refusals.min(1),
    }
}

fn share(known: u8) -> u8 {
    let above = SHARES.into_iter().find(|share| known <= *share);
    above.unwrap_or(100)
}

fn load(known: u16) -> u16 {
    let above = LOADS.into_iter().find(|load| known <= *load);
    above.unwrap_or(4095)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn a_duration_is_told_as_the_power_of_two_above_it() {
        let told = [0, 1, 1024, 1025, 60_000, 3_600_000, u64::MAX].map(duration_ms);
        assert_eq!(
            told,
            [0, 1024, 1024, 2048, 65_536, 4_194_304, (1 << 36) - 1]
        );
        assert_eq!(durations().count(), 28);
        assert!(durations().all(|ms| ms == 0 || is_step(ms)));
        assert!(![0, 1, 512, 1025, 60_000].into_iter().any(is_step));
    }

    #[test]
    fn shares_and_loads_are_told_as_the_step_above_them() {
        assert_eq!(
            [0, 50, 51, 95, 96, 100].map(share),
            [50, 50, 80, 95, 100, 100]
        );
        assert_eq!([0, 100, 101, 4095].map(load), [100, 100, 200, 4095]);
    }

    proptest! {
        #[test]
        fn nothing_is_told_but_what_is_counted(ms: u64, code: u8, count: u16, shares: [u8; 7], loads: u16) {
            let known = Report {
                outcome: Outcome::Failed,
                may_have_started: true,
                duration_ms: ms,
                exit_code: Some(code),
                count: Some(count),
            };
            let told = report(known);
            prop_assert!(durations().any(|value| value == told.duration_ms));
            prop_assert!(ms > LONGEST_MS || told.duration_ms >= ms, "rounded up");
            prop_assert_eq!((told.exit_code, told.count), (None, None));
            let [cpu_percent, memory_percent, disk_percent, pressure_percent, ledger_percent, log_percent, days] = shares;
            let host = Health {
                cpu_percent, memory_percent, disk_percent, pressure_percent, ledger_percent, log_percent,
                load_percent: loads,
                uptime_s: ms as u32,
                certificate_days_left: days.into(),
                refusals: count,
            };
            let told = health(host, host);
            let said = BTreeSet::from([
                told.cpu_percent, told.memory_percent, told.disk_percent, told.pressure_percent, told.ledger_percent,
                told.log_percent,
            ]);
            prop_assert!(said.iter().all(|share| SHARES.contains(share)), "{said:?}");
            prop_assert!(LOADS.contains(&told.load_percent));
            prop_assert_eq!((told.uptime_s, told.refusals), (ms as u32, count.min(1)));
        }
    }
}
