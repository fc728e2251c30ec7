//! What the core can be told to do differently, and every bound it keeps, on one page.
//!
//! The wire's own limits are in `outpost_proto::limits`; nothing here reads a file.

use std::time::Duration;

use outpost_proto::limits;

/// The one version of the link protocol spoken here.
pub const PROTOCOL: u8 = 1;
/// Nonces kept per agent: the confirmed one and what was handed out since. Eight crashes in a row between Welcome and
/// its sync at the agent raise no alarm.
pub const NONCES: usize = 8;
/// Nonces kept of holders of an identity that a person decided against: four of them.
pub const REJECTED: usize = 4 * NONCES;
/// Lives of such holders of one agent that are kept.
pub const OTHERS: usize = 2 * REJECTED / NONCES;
/// Lives of the holders of an identity that are kept besides the two that a person decides between: former ones of the
/// second, and as many of others.
pub const LIVES: usize = 3;
/// Keys kept that an agent has left behind. Certificates hold for three renewals.
pub const KEYS_LEFT: usize = 4;
/// Keys kept of those who had an agent's name before: more than can still be good of the newest of them.
pub const KEYS_FORMER: usize = 3 * KEYS_LEFT;
/// Keys kept of streams that were turned away because of theirs: each is told once.
pub const KEYS_TOLD: usize = 8;
/// How far fences leap at a restore at least: further than any attempts between the backup and its restore. And how far
/// an agent's word can move them after it.
pub const FENCE_LEAP: u64 = 1 << 32;
/// Fences that a tenant can give out in a second, as a power of two: those that a life of the database begins with are
/// the second of its restore, shifted by so many bits. Fences have 48 bits, so that this holds until the year 2106.
pub const FENCES_A_SECOND: u32 = 16;
/// More than this share of agents, in percent, that vanish within [`VANISH_WITHIN`] is nothing that happens to agents.
pub const VANISH_PERCENT: usize = 55;
/// The time in which they vanish.
pub const VANISH_WITHIN: Duration = Duration::from_secs(120);
/// Fewer than so many are hosts that broke, whatever their share.
pub const VANISH_LEAST: usize = 3;
/// They are back once no more than one in so many of those that vanished is away.
pub const BACK_BUT_ONE_IN: usize = 10;
/// Time over which one agent's recoveries are counted, in days.
pub const RECOVERIES_WITHIN_DAYS: u64 = 30;
/// The same.
pub(crate) const RECOVERIES_WITHIN: Duration =
    Duration::from_secs(RECOVERIES_WITHIN_DAYS * 24 * 3600);
/// More than so many recoveries of a tenant's agents within an hour raise an alarm.
pub const RECOVERIES_ALARM: usize = 10;
/// The time in which they are counted, and the time between two alarms.
pub(crate) const RECOVERIES_ALARM_WITHIN: Duration = Duration::from_secs(3600);
/// Characters of a person's reason.
pub const REASON_LEN: usize = 500;
/// Live runs of one tenant: at a thousand tasks each they still fit into memory.
pub const RUNS: usize = 10_000;
/// Agents of one tenant, removed ones too: what one orchestrator is built to serve.
pub const AGENTS: usize = 10_000;
/// Workflows of one tenant.
pub const WORKFLOWS: usize = 1_000;
/// Names of workflows that a tenant ever paused, scheduled or deleted: those of deleted ones are kept.
pub const WORKFLOW_NAMES: usize = 10_000;
/// Instants of a schedule that are told at once.
pub const UPCOMING: u16 = 100;
/// An instant found due only so many milliseconds later counts as missed: a restart is no outage.
pub const MISSED_AFTER_MS: u64 = 60_000;
/// How far missed instants are counted.
pub const SKIPPED_COUNTED: usize = 1_000;
/// Idempotency keys of one tenant: more than one a second for as long as they are kept.
pub const KEYS: usize = 200_000;
/// Characters of an idempotency key.
pub const KEY_LEN: usize = 128;
/// Live invitations over all tenants: each is good for ten minutes at most.
pub const INVITES: usize = 100_000;
/// Longest life of an invitation, in milliseconds.
pub const INVITE_TTL_MS: u64 = 600_000;
/// How long an idempotency key is kept, in milliseconds: twice the day that is promised, so that a clock which is put
/// forward by a day forgets none that counts.
pub const KEY_TTL_MS: u64 = 2 * 24 * 3_600_000;
/// Attempts of one task in a row that the site refused for now or that were lost, before the task fails: with the
/// pause below, several minutes of refusals.
pub const REQUEUES: u16 = 100;
/// Shortest and longest pause after a refusal that may pass, in milliseconds.
pub const REQUEUE_PAUSE_MS: (u64, u64) = (1_000, 5_000);
/// Attempts of one task in a row that only the site's clock stood against, before the task fails: they came outside of the
/// entry's windows, or after as many starts as it may have in an hour. With the pause below they are asked for over eight
/// days at least, so that a window of any day of the week is found.
pub const UNTIMELY: u16 = 1_040;
/// Longest pause after such a refusal. The longest of the pause above doubles with each until it is as long; from then on
/// it is drawn between three quarters of this and this.
pub const UNTIMELY_PAUSE_MS: u64 = 15 * 60_000;
/// Tasks that an agent which only observes is shown and has not answered.
pub const SHOWN_AT_ONCE: usize = 16;
/// How often one task is shown to agents that only observe, whichever and under whatever catalogue.
pub const SHOWN_OF_A_TASK: usize = 16;
/// Bytes of text in one frame of commands, as estimated before encoding: half of the wire's limit, so that the
/// estimate need not be exact.
pub const FRAME_TEXT: usize = limits::DOWN_FRAME_BYTES / 2;
/// What waits at an agent beyond its slots is worth so many microseconds of work: several times what a commit at each
/// end and the way between them take, and nothing that a person would notice when something more urgent comes.
pub const BACKLOG_US: u64 = 50_000;
/// And is never more than so many attempts, but for an agent of more slots.
pub const BACKLOG_MOST: u16 = 128;

const _: () = assert!(
    limits::PARAMETER_BYTES * 3 / 2 < FRAME_TEXT,
    "one assignment fits into a frame's estimate"
);
const _: () = assert!(NONCES >= 2, "a confirmed nonce and the next one");
const _: () = assert!(
    REQUEUE_PAUSE_MS.0 < REQUEUE_PAUSE_MS.1,
    "a pause is drawn between the two"
);
const _: () = assert!(
    UNTIMELY_PAUSE_MS >= REQUEUE_PAUSE_MS.1,
    "it grows up to the longest"
);

/// What the operator may set. Defaults are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between two heartbeats; dictated to the agents.
    pub heartbeat_interval: Duration,
    /// How long a heartbeat's answer lets an agent start work.
    pub lease: Duration,
    /// Added to a lease before its end counts here.
    pub lease_margin: Duration,
    /// Not heard for longer: stale.
    pub stale_after: Duration,
    /// Not heard for longer: `retry_safe` attempts are lost.
    pub lost_after: Duration,
    /// Nothing is declared lost for this long after a start or takeover.
    pub restart_grace: Duration,
    /// Attempts an agent is given beyond its slots; `None` means as many as slots, at least one, and where tasks are so
    /// short that a free slot would wait for the next one to arrive, what its slots do in 50 ms, at most 128.
    pub backlog: Option<u16>,
    /// An agent gets a certificate in place of one that ended no longer ago than this; zero: never.
    pub recover_within: Duration,
    /// And so many times in 30 days.
    pub recoveries: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_interval: limits::HEARTBEAT_INTERVAL,
            lease: limits::LEASE,
            lease_margin: limits::LEASE_MARGIN,
            stale_after: limits::STALE_AFTER,
            lost_after: limits::LOST_AFTER,
            restart_grace: limits::RESTART_GRACE,
            backlog: None,
            recover_within: Duration::from_secs(30 * 24 * 3600),
            recoveries: 3,
        }
    }
}

impl Settings {
    /// Attempts that an agent of so many slots may hold at once, whatever its tasks are like.
    #[must_use]
    pub fn most(&self, slots: u16) -> u16 {
        self.with_backlog(slots, self.backlog.unwrap_or(slots.max(BACKLOG_MOST)))
    }

    /// The same where a task takes so long on average, in microseconds.
    #[must_use]
    pub fn capacity(&self, slots: u16, pace_us: u64) -> u16 {
        let short = u64::from(slots).saturating_mul(BACKLOG_US) / pace_us.max(1);
        let short = u16::try_from(short).unwrap_or(u16::MAX).min(BACKLOG_MOST);
        self.with_backlog(slots, self.backlog.unwrap_or(short.max(slots).max(1)))
    }

    fn with_backlog(&self, slots: u16, backlog: u16) -> u16 {
        let most = u16::try_from(limits::HELD_ATTEMPTS / 2).unwrap_or(u16::MAX);
        slots.saturating_add(backlog).min(most)
    }

    pub(crate) fn lease_ms(&self) -> u32 {
        u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX)
    }

    pub(crate) fn heartbeat_interval_ms(&self) -> u32 {
        u32::try_from(self.heartbeat_interval.as_millis()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tasks_wait_where_they_run_and_long_ones_do_not() {
        let settings = Settings::default();
        assert_eq!(settings.capacity(2, 1_000_000), 4);
        assert_eq!(settings.capacity(2, 50_000), 4);
        assert_eq!(settings.capacity(2, 1_000), 102);
        assert_eq!(settings.capacity(64, 1_000), 192);
        assert_eq!(settings.capacity(0, 1_000), 1);
        let fixed = Settings {
            backlog: Some(3),
            ..settings
        };
        assert_eq!(fixed.capacity(2, 1_000), 5);
        for (settings, slots) in [(settings, 2), (settings, 300), (fixed, 2)] {
            for pace in [1, 1_000, 1_000_000] {
                assert!(settings.capacity(slots, pace) <= settings.most(slots));
            }
        }
    }
}
