//! What the agent's core is told once, when it is made.

use std::time::Duration;

use outpost_proto::ids::Incarnation;
use outpost_proto::limits::STRICT_GRID;
use outpost_proto::message::{Containment, Level, Reporting};
use outpost_proto::outcome::{Interruption, Report};

/// What does not change while the process lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This life of state directory, kernel and pid namespace.
    pub incarnation: Incarnation,
    /// What a change of incarnation means here: reboot on a host, restart in a container.
    pub interruption: Interruption,
    /// Build version: major, minor, patch.
    pub build: (u16, u16, u16),
    /// First 64 bits of SHA-256 over the link descriptor.
    pub schema_hash: u64,
    /// How many attempts run at once.
    pub slots: u16,
    /// How many attempts may wait at one keeper behind the one that it has; 0 hands over none ahead of time.
    pub ahead: u16,
    /// How much of link's sandbox is in force.
    pub sandbox: Level,
    /// What holds process trees together.
    pub containment: Containment,
    /// How far resource limits are enforced.
    pub limits: Level,
    /// How much is reported.
    pub reporting: Reporting,
    /// Record what would be done, run nothing.
    pub observe: bool,
    /// How many attempts may wait for a slot; more are refused as full.
    pub backlog: usize,
    /// How long what nobody waits for may collect before it is said: acknowledgements, and ends while other attempts
    /// wait for a slot here.
    pub report_within: Duration,
    /// Between tries after the network failed or the orchestrator went away in good order.
    pub reconnect: Backoff,
    /// Between tries after the identity was refused or the protocol broken: a person has to act.
    pub refused: Backoff,
    /// Between tries to have another certificate in place of one that ended: every agent of a site may want one at once.
    pub recover: Backoff,
    /// How long a drain waits for running attempts and unacknowledged outcomes before the process ends anyway.
    pub drain_limit: Duration,
    /// How long a stop waits for outcomes to be acknowledged before the process ends anyway.
    pub stop_grace: Duration,
    /// How long the first connection waits: after a process that ended again and again, so that it takes no work.
    pub begin_after: Duration,
    /// Seconds since 1970 at boot, by the site's clock: plus the boot-time clock it dates memories.
    pub wall_offset_s: u64,
}

impl Settings {
    /// The defaults for everything that neither host nor site decides.
    #[must_use]
    pub fn new(incarnation: Incarnation, slots: u16) -> Self {
        Self {
            incarnation,
            interruption: Interruption::Reboot,
            build: (0, 0, 0),
            schema_hash: 0,
            slots,
            ahead: 0,
            sandbox: Level::None,
            containment: Containment::Subreaper,
            limits: Level::None,
            reporting: Reporting::Normal,
            observe: false,
            backlog: 1024,
            report_within: Duration::from_millis(10),
            reconnect: Backoff {
                base: Duration::from_millis(200),
                cap: Duration::from_secs(30),
            },
            refused: Backoff {
                base: Duration::from_secs(5),
                cap: Duration::from_secs(300),
            },
            recover: Backoff {
                base: Duration::from_secs(4),
                cap: Duration::from_secs(120),
            },
            drain_limit: Duration::from_secs(3600),
            stop_grace: Duration::from_secs(2),
            begin_after: Duration::ZERO,
            wall_offset_s: 0,
        }
    }
}

impl Settings {
    /// How far apart the moments are, at least, at which anything is told of attempts. With strict reporting neither the
    /// orchestrator's interval of heartbeats nor its ending of connections brings them closer.
    pub(crate) fn apart(&self) -> Duration {
        match self.reporting {
            Reporting::Normal => Duration::ZERO,
            Reporting::Strict => STRICT_GRID,
        }
    }
}

/// Bounds of a wait that doubles with each failure. The wait itself is drawn evenly from zero to the bound, so that
/// many agents that lost the same orchestrator do not come back in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// Never more than this.
    pub cap: Duration,
}

impl Backoff {
    /// The bound after this many failures in a row, in microseconds.
    #[must_use]
    pub(crate) fn bound_us(self, failures: u32) -> u64 {
        let doublings = failures.saturating_sub(1).min(20);
        let bound = self.base.saturating_mul(1 << doublings).min(self.cap);
        u64::try_from(bound.as_micros()).unwrap_or(u64::MAX)
    }
}

/// What the runner found of an attempt that the journal says was starting or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its keeper lives and the task's process exists.
    Running,
    /// Its keeper left a record.
    Finished(Report),
    /// The runner made the claim: nothing ever ran, and nothing ever will.
    NeverStarted,
    /// No keeper and no record; its tree was ended. `claimed`: whether exec may have happened.
    Gone {
        /// Whether the keeper had made its claim.
        claimed: bool,
    },
}
