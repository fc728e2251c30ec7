//! Both real cores against each other: seeded faults, virtual time, invariants after every event.
//!
//! A seed is a whole history: who works with the orchestrator, what they want, and what goes wrong when. The cores are
//! driven by the same `outpost_driver::turn` as in production; network, disks, keepers and clocks are fakes that can be
//! cut, lost, killed and frozen. The same seed gives the same history, line by line.
//!
//! Read downward: [`run`] plays one seed; `world` is the next event, `center` and `site` the two ends with `disk` under
//! them and `network` between them, `keeper` what really ran, `invariants`, `records` and `checks` what must hold.

mod acts;
mod ahead;
pub mod bugbank;
mod center;
mod cheats;
mod checks;
mod clients;
mod clocks;
mod clones;
mod coverage;
mod dice;
mod directed;
mod disk;
mod driver;
mod duties;
mod excuses;
mod faults;
mod identity;
mod invariants;
mod keeper;
mod limits;
mod moments;
mod network;
mod patience;
mod person;
mod plan;
mod queue;
mod records;
mod renewal;
mod replicas;
mod restore;
pub mod scene;
mod schedules;
mod shop;
mod shrink;
mod site;
pub mod stage;
mod trace;
mod workload;
mod world;

use std::collections::BTreeMap;

pub use coverage::Coverage;
pub use faults::Fault;
pub use moments::{Message, Moment, When};
pub use plan::{Planned, Script};
pub use shrink::shrink;

use crate::dice::Dice;
use crate::plan::{Plan, draw_faults};
use crate::trace::Trace;
use crate::world::{Happening, World};

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
    /// Which fault came at which step.
    pub coverage: Coverage,
    /// What was to go wrong.
    pub faults: Vec<Planned>,
    /// How many things people wanted.
    pub wants: u32,
    /// What must never happen and did: the invariant's sentence, and what broke it.
    pub broken: Option<(&'static str, String)>,
}

/// Plays one seed.
#[must_use]
pub fn run(seed: u64, options: Options) -> Played {
    play(&Script::of(seed), options)
}

/// Plays a seed, or what is left of one. Who is there and what they want, what goes wrong, and how long everything takes
/// are drawn apart from each other, so that less of one leaves the others as they are.
#[must_use]
pub fn play(script: &Script, options: Options) -> Played {
    let seed = script.seed;
    let mut people = Dice::new(seed);
    let plan = Plan {
        hasty_agent: options.hasty == Hasty::Agents,
        hasty_center: options.hasty == Hasty::Orchestrator,
        ..Plan::draw(&mut people, &mut Dice::new(seed.rotate_left(48)))
    };
    let drawn = || draw_faults(seed, &mut Dice::new(!seed), &plan);
    let faults = script.faults.clone().unwrap_or_else(drawn);
    let mut world = World::new(people, plan, Trace::new(options.keep_lines));
    world.wanted.clone_from(&script.wants);
    world.center.settings = world.plan.settings();
    let life = &mut world.center.disk.mirror.recovery;
    (life.counter, life.database) = (1, seed);
    let populated = world.populate();
    world.dice = Dice::new(seed.rotate_left(32));
    for planned in &faults {
        let happening = Happening::Fault(Box::new(planned.clone()));
        world.queue.put(planned.at_us, happening);
    }
    let broken = match (populated, world.run()) {
        (Err(error), _) => Some(("every name is one", error.to_string())),
        (Ok(()), Err(violation)) => Some((violation.sentence, violation.what)),
        (Ok(()), Ok(())) => None,
    };
    let hash = world.trace.hash();
    let (wants, coverage) = (world.wants, world.coverage);
    let (lines, counts) = world.trace.lines();
    Played {
        hash,
        counts,
        lines,
        coverage,
        faults,
        wants,
        broken,
    }
}
