//! What is said upstream: the inventory, events and heartbeats, and the numbers they carry.
//!
//! Of each attempt only the latest state is said. A number is given in the turn in which it is sent, so that numbers
//! grow on the wire; it is journalled with the attempt before the frame goes out.

use outpost_driver::Micros;
use outpost_proto::ids::{AttemptId, EventSeq};
use outpost_proto::limits::{INVENTORY_PAGE, STRICT_HEALTH};
use outpost_proto::message::{
    AttemptState, Event, Health, Heartbeat, InventoryItem, InventoryPage, Reporting, UpMessage,
};
use outpost_proto::strict;

use crate::event::Speech;
use crate::grid::Grid;
use crate::outbox::{frames, told};
use crate::record::Memory;
use crate::session::{Phase, Session};
use crate::{Agent, Out};

/// Event numbers reserved at once: one sync of the counters for so many events.
const NUMBERS_RESERVED: u64 = 1000;

impl Agent {
    /// The next event number, reserved durably in the same turn.
    pub(crate) fn next_number(&mut self) -> EventSeq {
        let number = self.next_event;
        self.next_event += 1;
        if number > self.counters.event_seq_reserved.0 {
            self.counters.event_seq_reserved = EventSeq(number + NUMBERS_RESERVED - 1);
            self.counters_changed = true;
        }
        EventSeq(number)
    }

    /// Answers Welcome with the catalogue and everything held, at the moment that the session waits for.
    pub(crate) fn inventory(&mut self, now: Micros) {
        let is_due = |session: &Session| session.phase == Phase::Welcomed && session.may_tell(now);
        if !self.connector.session.as_ref().is_some_and(is_due) {
            return;
        }
        let mut messages = Vec::new();
        messages.extend(
            self.rules
                .as_ref()
                .map(|rules| UpMessage::Catalogue(rules.catalogue.clone())),
        );
        let items = self.items();
        let pages = items.len().div_ceil(INVENTORY_PAGE).max(1);
        for page in 0..pages {
            let page_items = items
                .iter()
                .skip(page * INVENTORY_PAGE)
                .take(INVENTORY_PAGE)
                .copied()
                .collect();
            let end = (page + 1 == pages).then(|| u32::try_from(items.len()).unwrap_or(u32::MAX));
            messages.push(UpMessage::Inventory(InventoryPage {
                items: page_items,
                end,
            }));
        }
        if let Some(session) = self.connector.session.as_mut() {
            session.pending = messages;
            session.announce = false;
            session.phase = Phase::Reconciling;
        }
    }

    /// Everything held, in the order of the numbers under which it was or is now reported.
    fn items(&mut self) -> Vec<InventoryItem> {
        while self.attempts.next_unsaid().is_some() {}
        self.due.starts.clear();
        for attempt in self.unreported() {
            let number = self.next_number();
            self.attempts.number(attempt, number);
        }
        let reporting = self.settings.reporting;
        let mut items: Vec<_> = self
            .attempts
            .iter()
            .map(|held| InventoryItem {
                attempt: held.record.assign.attempt,
                run: held.record.assign.run,
                task: held.record.assign.task,
                fence: held.record.assign.fence,
                state: told(held.record.state, reporting),
                event_seq: held.record.event_seq,
            })
            .collect();
        items.sort_by_key(|item| (item.event_seq, item.attempt));
        if self.counters.owes_memories {
            items.extend(
                self.memories
                    .iter()
                    .map(|memory| remembered(memory, reporting)),
            );
        }
        items
    }

    /// Attempts whose present state has no number. One that waits needs none: its command's acknowledgement says it.
    fn unreported(&self) -> Vec<AttemptId> {
        self.attempts.ids(|held| {
            held.record.event_seq == EventSeq(0) && held.record.state != AttemptState::Assigned
        })
    }

    /// Sends what this turn has to say.
    pub(crate) fn report(&mut self, now: Micros, out: &mut Out) {
        let Some(session) = self.connector.session.as_ref() else {
            return;
        };
        if session.phase < Phase::Reconciling {
            return;
        }
        let conn = session.conn;
        let ready = session.phase == Phase::Ready;
        let heartbeat_due = session.heartbeat_due(now);
        // A strict site lets nobody measure its tasks by the moment of an event.
        let on_grid = self.settings.reporting == Reporting::Normal
            || heartbeat_due
            || self.gates.stopping.is_some();
        if ready && !heartbeat_due && self.may_collect(now, on_grid) {
            return;
        }
        let mut messages = self.answers();
        if ready && on_grid {
            self.events(heartbeat_due, &mut messages);
        }
        if heartbeat_due {
            messages.extend(self.heartbeat(now));
        }
        let sends = frames(messages)
            .into_iter()
            .map(|messages| Speech::Send { conn, messages });
        out.speech.extend(sends);
    }

    /// Whether nothing of what there is to say is waited for, and none of it has waited for long. That a command was
    /// taken is said with what becomes of it; the end of an attempt makes no slot free that upstream could fill as long
    /// as others wait for it here. What collects is one frame, one sync at both ends and one transaction.
    fn may_collect(&mut self, now: Micros, on_grid: bool) -> bool {
        let events = on_grid && self.attempts.has_unsaid();
        let slot_waits = self.attempts.index.waiting == 0;
        let leaving = self.gates.stopping.is_some() || self.gates.draining.is_some();
        let by = now.plus(self.settings.report_within);
        let Some(session) = self.connector.session.as_mut() else {
            return false;
        };
        let awaited =
            leaving || session.announce || !session.pending.is_empty() || events && slot_waits;
        if awaited || !(events || session.ack_due) {
            return false;
        }
        now < *session.report_by.get_or_insert(by)
    }

    /// What is said whether or not anything happened to an attempt.
    fn answers(&mut self) -> Vec<UpMessage> {
        let Some(session) = self.connector.session.as_mut() else {
            return Vec::new();
        };
        let mut messages = Vec::new();
        session.report_by = None;
        if std::mem::take(&mut session.ack_due) {
            messages.extend(session.command.map(UpMessage::Ack));
        }
        if std::mem::take(&mut session.announce) {
            messages.extend(
                self.rules
                    .as_ref()
                    .map(|rules| UpMessage::Catalogue(rules.catalogue.clone())),
            );
        }
        messages.append(&mut session.pending);
        messages
    }

    fn events(&mut self, heartbeat_due: bool, messages: &mut Vec<UpMessage>) {
        if heartbeat_due {
            // Most starts are followed by a keeper's word within milliseconds; the ones that are not are worth a
            // message of their own.
            for attempt in std::mem::take(&mut self.due.starts) {
                if self.attempts.index.lines.waits(attempt) {
                    self.due.starts.push(attempt);
                } else if self
                    .attempts
                    .get(attempt)
                    .is_some_and(|held| held.record.state == AttemptState::Starting)
                {
                    self.attempts.say(attempt);
                }
            }
        }
        let mut unsaid: Vec<_> = std::iter::from_fn(|| self.attempts.next_unsaid()).collect();
        match self.settings.reporting {
            Reporting::Normal => {}
            // Nor by which of two came first.
            Reporting::Strict => unsaid.sort_unstable(),
        }
        for attempt in unsaid {
            let Some(state) = self.attempts.get(attempt).map(|held| held.record.state) else {
                continue;
            };
            let event_seq = self.next_number();
            self.attempts.number(attempt, event_seq);
            let state = told(state, self.settings.reporting);
            messages.push(UpMessage::Event(Event {
                event_seq,
                attempt,
                state,
            }));
        }
    }

    /// The host's numbers as they are told: with strict reporting seldom looked at, and coarse.
    fn told_health(&mut self, now: Micros) -> Health {
        let known = Health {
            refusals: std::mem::take(&mut self.refusals),
            ..self.health
        };
        match self.settings.reporting {
            Reporting::Normal => known,
            Reporting::Strict => {
                // In another life of the process at the same moments as in this one.
                if Grid::of(STRICT_HEALTH).behind(self.looked.0) <= now {
                    self.looked = (now, known);
                }
                strict::health(known, self.looked.1)
            }
        }
    }

    fn heartbeat(&mut self, now: Micros) -> Option<UpMessage> {
        self.connector.session.as_ref()?;
        let flags = self.flags();
        let health = self.told_health(now);
        self.connector.tells(now);
        let index = &self.attempts.index;
        let session = self.connector.session.as_mut()?;
        let lease_echo = session.lease.echo(now);
        session.heartbeat_sent(now);
        let free = usize::from(self.settings.slots).saturating_sub(index.slots_taken());
        Some(UpMessage::Heartbeat(Heartbeat {
            seq: session.lease.beat(now),
            lease_echo,
            slots_free: short(free),
            running: short(index.running),
            queued: short(index.waiting + index.lines.len()),
            flags,
            health,
        }))
    }
}

/// A settled outcome, told again to a database that may not know it: it has no number any more.
fn remembered(memory: &Memory, reporting: Reporting) -> InventoryItem {
    InventoryItem {
        attempt: memory.attempt,
        run: memory.run,
        task: memory.task,
        fence: memory.fence,
        state: told(AttemptState::Finished(memory.report), reporting),
        event_seq: EventSeq(0),
    }
}

fn short(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use outpost_proto::ids::{Fence, RunId, TaskIndex};
    use outpost_proto::outcome::{Outcome, Report};

    use super::*;

    /// A restored database is told again what was told to the one before it, in the same words.
    #[test]
    fn what_is_remembered_is_told_as_it_was_when_it_happened() {
        let memory = Memory {
            attempt: AttemptId(1),
            run: RunId(2),
            task: TaskIndex(3),
            fence: Fence(4),
            report: Report {
                outcome: Outcome::Failed,
                may_have_started: true,
                duration_ms: 1500,
                exit_code: Some(37),
                count: Some(9),
            },
            settled_at_s: 1,
        };
        let told = |reporting| match remembered(&memory, reporting).state {
            AttemptState::Finished(report) => (report.duration_ms, report.exit_code, report.count),
            AttemptState::Assigned | AttemptState::Starting | AttemptState::Running => {
                panic!("it is over")
            }
        };
        assert_eq!(told(Reporting::Normal), (1500, Some(37), Some(9)));
        assert_eq!(told(Reporting::Strict), (2048, None, None));
    }
}
