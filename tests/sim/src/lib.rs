//! Both real cores against each other: seeded faults, virtual time, invariants after every event.
//!
//! A seed is a whole history: who works with the orchestrator, what they want, and what goes wrong when. The cores are
//! driven by the same `outpost_driver::turn` as in production; network, disks, keepers and clocks are fakes that can be
//! cut, lost, killed and frozen. The same seed gives the same history, line by line.
//!
//! Read downward: [`run`] plays one seed; `world` is the next event, `center` and `site` the two ends with `disk` under
//! them and `network` between them, `keeper` what really ran, `invariants`, `records` and `checks` what must hold.

mod bugbank;
mod center;
mod checks;
mod clients;
mod dice;
mod disk;
mod driver;
mod faults;
mod invariants;
mod keeper;
mod limits;
mod network;
mod queue;
mod records;
mod renewal;
mod schedules;
mod shop;
mod site;
mod trace;
mod workload;
mod world;

use std::collections::BTreeMap;

pub use bugbank::{Bug, BugbankError, bugbank};

use crate::dice::Dice;
use crate::queue::{MINUTE, SECOND};
use crate::trace::Trace;
use crate::world::{Plan, World};

/// How one seed is played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// How many of the last lines are kept.
    pub keep_lines: usize,
    /// Who speaks before its commit, to prove that it is noticed.
    pub hasty: Hasty,
}

/// Who speaks before its commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hasty {
    /// Nobody, as in production.
    #[default]
    Nobody,
    /// The agents.
    Agents,
    /// The orchestrator.
    Orchestrator,
}

/// One seed, played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// Of every line.
    pub hash: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// The last lines.
    pub lines: Vec<String>,
    /// What must never happen and did: the invariant's sentence, and what broke it.
    pub broken: Option<(&'static str, String)>,
}

/// Plays one seed.
#[must_use]
pub fn run(seed: u64, options: Options) -> Played {
    let mut dice = Dice::new(seed);
    let plan = Plan {
        quiet_from: dice.between(3 * MINUTE, 15 * MINUTE),
        longest_outage: dice.span(2 * SECOND, 6 * MINUTE),
        calm: dice.percent(12),
        certificate_life: dice.span(40 * SECOND, 30 * MINUTE),
        hasty_agent: options.hasty == Hasty::Agents,
        hasty_center: options.hasty == Hasty::Orchestrator,
    };
    let mut world = World::new(dice, plan, Trace::new(options.keep_lines));
    let populated = world.populate();
    world.plan_faults();
    let broken = match (populated, world.run()) {
        (Err(error), _) => Some(("every name is one", error.to_string())),
        (Ok(()), Err(violation)) => Some((violation.sentence, violation.what)),
        (Ok(()), Ok(())) => None,
    };
    let hash = world.trace.hash();
    let (lines, counts) = world.trace.lines();
    Played {
        hash,
        counts,
        lines,
        broken,
    }
}
