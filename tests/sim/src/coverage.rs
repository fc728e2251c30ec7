//! Which fault came at which step of the protocol: a simulation that never cut a stream between an assignment and its
//! acknowledgement proves nothing of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use outpost_agent_core::SessionPhase;

use crate::faults::{Fault, KINDS};
use crate::keeper::Phase;
use crate::moments::{MESSAGES, MOMENTS, Message, When};
use crate::plan::cells;
use crate::world::World;

/// What a site was doing when a fault came that waits for no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    NoProcess,
    Away,
    Dialling,
    Greeting,
    Reconciling,
    Idle,
    Waiting,
    Starting,
    Ahead,
    Running,
    Reporting,
}

/// All of them, in their order.
const STEPS: [(Step, &str); 11] = [
    (Step::NoProcess, "down"),
    (Step::Away, "away"),
    (Step::Dialling, "dialling"),
    (Step::Greeting, "greeting"),
    (Step::Reconciling, "reconcil."),
    (Step::Idle, "idle"),
    (Step::Waiting, "queued"),
    (Step::Starting, "starting"),
    (Step::Ahead, "ahead"),
    (Step::Running, "running"),
    (Step::Reporting, "outcome"),
];

/// A fault at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    Message(Fault, When),
    Step(Fault, Step),
}

/// How often which was hit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage {
    cells: BTreeMap<Cell, u64>,
}

impl Coverage {
    pub(crate) fn hit(&mut self, cell: Cell) {
        *self.cells.entry(cell).or_insert(0) += 1;
    }

    /// Adds what another simulation hit.
    pub fn add(&mut self, other: &Self) {
        for (cell, count) in &other.cells {
            *self.cells.entry(*cell).or_insert(0) += count;
        }
    }

    fn count(&self, cell: Cell) -> u64 {
        self.cells.get(&cell).copied().unwrap_or(0)
    }

    /// What can be hit and was not, one line each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let missing = all_cells()
            .into_iter()
            .filter(|cell| out_of_reach(*cell).is_none() && self.count(*cell) == 0);
        missing.map(|cell| format!("{cell:?}")).collect()
    }

    /// How much of what can be hit was, and what is out of reach and why.
    #[must_use]
    pub fn summary(&self) -> String {
        let cells = all_cells();
        let mut why: BTreeMap<&str, u64> = BTreeMap::new();
        for reason in cells.iter().filter_map(|cell| out_of_reach(*cell)) {
            *why.entry(reason).or_insert(0) += 1;
        }
        let within = cells.len() - usize::try_from(why.values().sum::<u64>()).unwrap_or(0);
        let hit = within - self.missing().len();
        let mut text = format!("{hit} of {within} pairs of fault and step were hit");
        for (reason, count) in why {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{count:>9} pairs are out of reach: {reason}");
        }
        text
    }

    /// Two tables: faults at a message, by its moments; and faults at any time, by what the site was doing.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Faults at a message: which moment of its way, how often"
        );
        let faults: BTreeSet<Fault> = cells().into_iter().map(|(fault, _)| fault).collect();
        let _ = write!(text, "{:<32} {:<10}", "", "");
        for message in MESSAGES {
            let name = format!("{message:?}").chars().take(9).collect::<String>();
            let _ = write!(text, "{name:>10}");
        }
        text.push('\n');
        for fault in faults {
            for moment in MOMENTS {
                let row = |message: Message| {
                    let when = When { message, moment };
                    when.allows(fault)
                        .then(|| self.count(Cell::Message(fault, when)))
                };
                self.row(&mut text, fault, &format!("{moment:?}"), &MESSAGES.map(row));
            }
        }
        let _ = writeln!(
            text,
            "Faults at any time: what the site was doing, how often"
        );
        let _ = write!(text, "{:<32} {:<10}", "", "");
        for (_, name) in STEPS {
            let _ = write!(text, "{name:>10}");
        }
        text.push('\n');
        for kind in &KINDS {
            let row = STEPS.map(|(step, _)| {
                let cell = Cell::Step(kind.fault, step);
                let count = self.count(cell);
                (count > 0 || out_of_reach(cell).is_none()).then_some(count)
            });
            self.row(&mut text, kind.fault, "", &row);
        }
        text
    }

    fn row(&self, text: &mut String, fault: Fault, moment: &str, row: &[Option<u64>]) {
        if row.iter().all(Option::is_none) {
            return;
        }
        let kind = fault.kind();
        let name = kind.name.trim_start_matches("fault: ");
        let name = format!("{} {name}", kind.cases);
        let name = name.trim().chars().take(32).collect::<String>();
        let _ = write!(text, "{name:<32} {moment:<10}");
        for count in row {
            let shown = count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let _ = write!(text, "{shown:>10}");
        }
        text.push('\n');
    }
}

/// Why a fault of this kind does not come by itself while a site does that, or not often enough to be asked for. Every
/// other pair has to be hit, and all at messages.
fn out_of_reach(cell: Cell) -> Option<&'static str> {
    let Cell::Step(fault, step) = cell else {
        return None;
    };
    if fault.kind().weight == 0 {
        return Some(
            "it lasts for a day: it comes at messages only, in simulations that last longer",
        );
    }
    if fault == Fault::Cheat {
        return Some("a cheating agent changes its own next frame, whatever it does then");
    }
    if matches!(step, Step::Dialling | Step::Greeting | Step::Reconciling) {
        return Some("the step takes milliseconds: faults come at its messages instead");
    }
    let no_link = matches!(step, Step::NoProcess | Step::Away);
    (no_link && fault.is_of_a_link()).then_some("there is no stream that it could happen to")
}

/// Every pair of a fault and a step of the protocol, also those out of reach.
fn all_cells() -> Vec<Cell> {
    let at_messages = cells().into_iter();
    let at_messages = at_messages.map(|(fault, when)| Cell::Message(fault, when));
    let at_steps = KINDS.iter().flat_map(|kind| {
        let steps = STEPS.iter();
        steps.map(|(step, _)| Cell::Step(kind.fault, *step))
    });
    at_messages.chain(at_steps).collect()
}

impl World {
    /// A fault comes at any time: what each site that it concerns is doing.
    pub(crate) fn cover_steps(&mut self, fault: Fault, site: usize) {
        let sites = if fault.is_of_the_center() || fault == Fault::Partition {
            0..self.sites.len()
        } else {
            site..site + 1
        };
        for site in sites {
            for step in self.steps_of(site) {
                self.coverage.hit(Cell::Step(fault, step));
            }
        }
    }

    fn steps_of(&self, site: usize) -> Vec<Step> {
        let Some(process) = self.sites[site].process.as_ref() else {
            return vec![Step::NoProcess];
        };
        let view = process.core.view();
        let session = match view.session {
            None => Step::Away,
            Some(SessionPhase::Dialling) => Step::Dialling,
            Some(SessionPhase::Greeting) => Step::Greeting,
            Some(SessionPhase::Welcomed | SessionPhase::Reconciling) => Step::Reconciling,
            Some(SessionPhase::Ready) => Step::Idle,
        };
        let running = |starting: bool| {
            let is = |state| state == outpost_proto::message::AttemptState::Starting;
            view.running
                .iter()
                .any(|attempt| is(attempt.state) == starting)
        };
        let mut keepers = self.sites[site].keepers.values();
        let ahead = keepers.any(|keeper| keeper.phase == Phase::Waits);
        let work = [
            (!view.queued.is_empty(), Step::Waiting),
            (running(true), Step::Starting),
            (ahead, Step::Ahead),
            (running(false), Step::Running),
            (view.unacknowledged > 0, Step::Reporting),
        ];
        let mut steps: Vec<Step> = work
            .into_iter()
            .filter_map(|(is, step)| is.then_some(step))
            .collect();
        if steps.is_empty() || session != Step::Idle {
            steps.push(session);
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_is_not_hit_is_told_and_one_out_of_reach_is_not() {
        let mut coverage = Coverage::default();
        let within = coverage.missing().len();
        assert!(within > 700, "{within}");
        let cells = all_cells();
        let far = cells.iter().filter(|cell| out_of_reach(**cell).is_some());
        assert_eq!(within + far.count(), cells.len());
        for cell in &cells {
            coverage.hit(*cell);
        }
        assert_eq!(coverage.missing(), Vec::<String>::new());
        let lacks = Cell::Step(Fault::Clone, Step::Running);
        coverage.cells.remove(&lacks);
        assert_eq!(coverage.missing(), [format!("{lacks:?}")]);
        assert!(
            coverage
                .summary()
                .contains(&format!("{} of {within}", within - 1))
        );
    }
}
