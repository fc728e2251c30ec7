//! From what is durable to a core: at the start of the process, and after a commit that failed.
//!
//! Each attempt that the journal holds is looked at once. One of another incarnation is interrupted; one that was
//! starting or running is what its keeper, or the claim, says that it is; nothing is ever begun a second time.

use std::collections::BTreeMap;

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, EventSeq};
use outpost_proto::message::{AttemptState, Health};
use outpost_proto::name::EntryName;
use outpost_proto::outcome::Interruption;

use crate::attempts::Attempts;
use crate::clock::Clocks;
use crate::event::{Down, KeeperSaid, NotRecovered};
use crate::grid::Grid;
use crate::memory::Memories;
use crate::record::{AttemptRecord, SessionRecord, SiteRecord, Snapshot};
use crate::recovery::Recovery;
use crate::renewal::Renewal;
use crate::session::Connector;
use crate::state::{Input, Step, step};
use crate::{Agent, Due, Found, Gates, Marks, Settings, Trouble};

impl Agent {
    /// Makes the agent from its journal. `now`: microseconds since boot. `found`: what the runner found of each
    /// attempt that [`unsettled`] names; one that is not in it counts as gone with its claim made.
    ///
    /// What follows from `found` is written and said by the first turn.
    #[must_use]
    pub fn new(
        settings: Settings,
        seed: [u8; 32],
        now: Micros,
        snapshot: Snapshot,
        found: BTreeMap<AttemptId, Found>,
    ) -> Self {
        let begins = u64::try_from(settings.begin_after.as_micros()).unwrap_or(u64::MAX);
        let first_dial = Micros(now.0.saturating_add(begins));
        let mut agent = Self {
            clocks: Clocks::new(settings.wall_offset_s),
            settings,
            rules: None,
            attempts: Attempts::default(),
            memories: Memories::default(),
            counters: SessionRecord::default(),
            counters_changed: false,
            site: SiteRecord::default(),
            site_changed: false,
            next_event: 1,
            acknowledged: EventSeq(0),
            gates: Gates::default(),
            connector: Connector::new(seed, first_dial),
            renewal: Renewal::new(),
            recovery: Recovery::new(),
            health: Health::default(),
            looked: (now, Health::default()),
            refusals: 0,
            trouble: None,
            due: Due::default(),
            turn: Marks::default(),
            found: Some(found),
        };
        let grid = Grid::of(agent.settings.apart());
        agent.connector.keep_to(grid, now);
        agent.restore(now, snapshot);
        agent.next_event = agent.counters.event_seq_reserved.0.saturating_add(1);
        agent.adopt(now);
        agent.cancel_again();
        agent
    }

    /// An attempt of this entry began at this moment, on the clock of this boot, under an earlier process: it counts in its
    /// hour. Not of those that still run, which count anyway.
    pub fn began(&mut self, entry: &EntryName, at: Micros) {
        self.attempts.index.entries.took_slot(entry, at);
    }

    fn restore(&mut self, now: Micros, snapshot: Snapshot) {
        self.counters = snapshot.session;
        self.counters_changed = false;
        self.site = snapshot.site;
        self.site_changed = false;
        self.memories = Memories::new(snapshot.memories);
        self.attempts = Attempts::default();
        for record in snapshot.attempts {
            self.attempts.restore(record, now);
        }
    }

    /// Looks once at each attempt that the journal holds. Done again when the turn that writes it was not committed:
    /// no keeper says a second time what was found.
    fn adopt(&mut self, now: Micros) {
        let Some(found) = &self.found else {
            return;
        };
        let mut ends = Vec::new();
        for held in self.attempts.iter() {
            let attempt = held.record.assign.attempt;
            if let Some(input) = self.became(&held.record, found.get(&attempt))
                && let Step::To(next) = step(held.record.state, input)
            {
                ends.push((attempt, next));
            }
        }
        for (attempt, next) in ends {
            self.attempts.set(attempt, next, now);
        }
    }

    fn became(&self, record: &AttemptRecord, found: Option<&Found>) -> Option<Input> {
        if record.incarnation != self.settings.incarnation {
            return Some(Input::Interrupt(self.settings.interruption));
        }
        match record.state {
            AttemptState::Assigned | AttemptState::Finished(_) => None,
            AttemptState::Starting | AttemptState::Running => Some(match found {
                Some(Found::Running) => Input::Keeper(KeeperSaid::Running),
                Some(Found::Finished(report)) => Input::Keeper(KeeperSaid::Finished(*report)),
                Some(Found::NeverStarted | Found::Gone { claimed: false }) => {
                    Input::Keeper(KeeperSaid::Gone { claimed: false })
                }
                Some(Found::Gone { claimed: true }) | None => {
                    Input::Interrupt(Interruption::AgentStateLost)
                }
            }),
        }
    }

    /// Says again to every keeper what it may not have heard.
    fn cancel_again(&mut self) {
        self.due.cancels = self.attempts.ids(|held| {
            held.record.cancel_requested
                && matches!(
                    held.record.state,
                    AttemptState::Starting | AttemptState::Running
                )
        });
    }

    /// After a commit that failed, or may have failed: what this turn was about to say was not said.
    pub(crate) fn start_over(&mut self, now: Micros, snapshot: Snapshot) {
        let marks = std::mem::take(&mut self.turn);
        let before = std::mem::take(&mut self.attempts);
        self.restore(now, snapshot);
        self.attempts.carry_over(before);
        self.adopt(now);
        self.gates.done = false;
        for attempt in &marks.starts {
            // Journalled, perhaps, but its start was never spoken: nobody else can have begun it.
            if self
                .attempts
                .get(*attempt)
                .is_some_and(|held| held.record.state == AttemptState::Starting)
            {
                self.attempts.set(*attempt, AttemptState::Assigned, now);
            }
        }
        // Until a commit has surely undone them: the next one may fail too.
        self.turn.starts = marks.starts;
        let settled = marks
            .discards
            .into_iter()
            .filter(|attempt| self.attempts.get(*attempt).is_none());
        self.due.discards.extend(settled);
        self.due.hangups.extend(marks.hangups);
        self.cancel_again();
        let others = self.connector.give_up_others();
        let lost = self.connector.lost(now, Down::Ended, &self.settings);
        let ended = lost.into_iter().chain(others);
        self.due
            .hangups
            .extend(ended.filter(|conn| marks.dialled != Some(*conn)));
        self.not_renewed(now);
        // Its request may not have been said: its connection is of no use.
        self.due.hangups.extend(self.recovery.conn());
        self.recovery_failed(now, NotRecovered::Later);
        self.trouble = Some(Trouble::NotCommitted);
        self.due.starts.clear();
    }
}

/// The attempts of this incarnation that the runner has to look for before it makes the core.
pub fn unsettled(snapshot: &Snapshot, settings: &Settings) -> Vec<AttemptId> {
    let begun = |record: &&AttemptRecord| {
        record.incarnation == settings.incarnation
            && matches!(record.state, AttemptState::Starting | AttemptState::Running)
    };
    snapshot
        .attempts
        .iter()
        .filter(begun)
        .map(|record| record.assign.attempt)
        .collect()
}
