//! Which fault came at which step of the protocol: a simulation that never cut a stream between an assignment and its
//! acknowledgement proves nothing of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use outpost_agent_core::SessionPhase;

use crate::faults::{Fault, KINDS};
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
    Running,
    Reporting,
}

/// All of them, in their order.
const STEPS: [(Step, &str); 10] = [
    (Step::NoProcess, "down"),
    (Step::Away, "away"),
    (Step::Dialling, "dialling"),
    (Step::Greeting, "greeting"),
    (Step::Reconciling, "reconcil."),
    (Step::Idle, "idle"),
    (Step::Waiting, "queued"),
    (Step::Starting, "starting"),
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
        let at_messages = cells()
            .into_iter()
            .map(|(fault, when)| Cell::Message(fault, when));
        let at_steps = KINDS.iter().flat_map(|kind| {
            let steps = STEPS.iter().map(|(step, _)| Cell::Step(kind.fault, *step));
            steps.filter(|cell| can_be_hit(*cell))
        });
        let missing = at_messages
            .chain(at_steps)
            .filter(|cell| self.count(*cell) == 0);
        missing.map(|cell| format!("{cell:?}")).collect()
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
                (count > 0 || can_be_hit(cell)).then_some(count)
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

/// Whether a fault of this kind comes by itself while a site does that, often enough to be asked for: steps that take
/// milliseconds are hit at their messages instead.
fn can_be_hit(cell: Cell) -> bool {
    let Cell::Step(fault, step) = cell else {
        return true;
    };
    let kind = fault.kind();
    let brief = matches!(step, Step::Dialling | Step::Greeting | Step::Reconciling);
    let no_link = matches!(step, Step::NoProcess | Step::Away);
    kind.weight > 0 && fault != Fault::Cheat && !brief && !(no_link && fault.is_of_a_link())
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
        let work = [
            (!view.queued.is_empty(), Step::Waiting),
            (running(true), Step::Starting),
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
