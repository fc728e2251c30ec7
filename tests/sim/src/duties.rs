//! What each end owes the other besides saying nothing wrong: what nobody wants any more is ended, what was acknowledged is
//! let go of, who was kept gets a key of its own, and a site that tells little tells little.

use outpost_orchestrator_core::event::CloseReason;
use outpost_orchestrator_core::record::RunState;
use outpost_proto::ids::{AttemptId, Conn, EventSeq};
use outpost_proto::limits::STRICT_GRID;
use outpost_proto::message::{AttemptState, UpMessage};
use outpost_proto::strict;

use crate::invariants::{Checked, holds};
use crate::queue::{At, SECOND};
use crate::world::World;

/// So long after a session was made, or somebody asked for it, a lease that is renewed says that the command for it has
/// arrived: streams keep their order.
const PATIENCE: At = 60 * SECOND;
/// A turn that is due begins within this.
const ON_TIME: u64 = 10_000;

impl World {
    /// A task ended by itself: nobody had asked for its end for so long that it should have been ended.
    pub(crate) fn invariant_what_is_cancelled_is_ended(
        &self,
        index: usize,
        attempt: AttemptId,
    ) -> Checked {
        let site = &self.sites[index];
        let mirror = &self.center.disk.mirror;
        let run = mirror.attempts.get(&attempt);
        let run = run.and_then(|attempt| mirror.runs.get(&attempt.run));
        let Some(run) = run.filter(|run| run.state == RunState::Cancelling) else {
            return Ok(());
        };
        let Some(asked) = self.truth.cancelled.get(&run.run) else {
            return Ok(());
        };
        let renewed = self.lease_of(index) > Some(site.clock.shows(self.now));
        let since = site
            .session
            .as_ref()
            .map_or(self.now, |session| session.since);
        let lease = At::try_from(self.plan.settings().lease.as_micros()).unwrap_or(At::MAX);
        let late = self.now > since.max(*asked) + lease + PATIENCE;
        let excused = site.cheats || self.is_copied(index) || self.has_slept(attempt);
        holds(
            !renewed || !late || excused,
            "what is cancelled is ended",
            format!("{attempt} on s{index} ran on, cancelled at {asked}"),
        )
    }

    fn has_slept(&self, attempt: AttemptId) -> bool {
        self.truth.slept.contains_key(&attempt)
    }

    /// After each turn of an agent that was committed: ends that it was told to be durable it holds no more.
    pub(crate) fn invariant_what_is_acknowledged_is_let_go(&self, index: usize) -> Checked {
        let site = &self.sites[index];
        let acknowledged = site
            .session
            .as_ref()
            .and_then(|session| session.acknowledged());
        let Some(acknowledged) = acknowledged else {
            return Ok(());
        };
        let snapshot = site.disk.snapshot();
        if snapshot.session.hold.is_some() {
            return Ok(());
        }
        let over = |state| matches!(state, AttemptState::Finished(_));
        let held = snapshot.attempts.iter().find(|held| {
            over(held.state) && held.event_seq > EventSeq(0) && held.event_seq <= acknowledged
        });
        holds(
            held.is_none(),
            "an outcome that is durable upstream is let go of",
            format!("s{index} holds {held:?}"),
        )
    }

    /// At each stream that the orchestrator ends: whoever has a key that its agent left behind holds an earlier state of
    /// it, and is told of as a second holder.
    pub(crate) fn invariant_a_key_left_behind_is_a_second_holders(
        &self,
        conn: Conn,
        why: CloseReason,
    ) -> Checked {
        let Some(link) = self.network.links.get(&conn.0) else {
            return Ok(());
        };
        let agent = self
            .center
            .disk
            .mirror
            .agents
            .get(&self.sites[link.site].name());
        let left = agent.is_some_and(|agent| agent.standing.left_keys.contains(&link.key));
        holds(
            !left || why != CloseReason::OtherKey,
            "a key that was left behind is a second holder's, not a stranger's",
            format!("s{} on link {conn}", link.site),
        )
    }

    /// Whether every kept holder has the key that the other one does not have.
    pub(crate) fn is_everybody_rekeyed(&self) -> bool {
        let agents = &self.center.disk.mirror.agents;
        self.sites.iter().all(|site| {
            let agent = agents.get(&site.name());
            let owes = agent.is_some_and(|agent| !agent.removed && agent.standing.rekey);
            site.gone || site.cheats || !owes
        })
    }

    /// At each frame of a strict site: nothing that a task chose, and nothing about attempts or host but at one moment in
    /// each span of the host's clock, whichever connection and whichever life of the process tells it.
    pub(crate) fn invariant_a_strict_site_tells_little(
        &mut self,
        index: usize,
        conn: Conn,
        shown: u64,
        messages: &[UpMessage],
    ) -> Checked {
        let site = &self.sites[index];
        let strict = site.process.as_ref().filter(|process| process.strict);
        let Some(process) = strict else {
            return Ok(());
        };
        let mut tells = false;
        for message in messages {
            let states: Vec<AttemptState> = match message {
                UpMessage::Event(event) => vec![event.state],
                UpMessage::Inventory(page) => page.items.iter().map(|item| item.state).collect(),
                UpMessage::Heartbeat(_) => Vec::new(),
                UpMessage::Hello(_)
                | UpMessage::Catalogue(_)
                | UpMessage::Ack(_)
                | UpMessage::Trigger { .. } => continue,
            };
            tells = true;
            for state in states {
                let AttemptState::Finished(report) = state else {
                    continue;
                };
                holds(
                    strict::report(report) == report,
                    "a strict site tells nothing that a task chose",
                    format!("s{index}: {report:?}"),
                )?;
            }
        }
        if !tells {
            return Ok(());
        }
        let grid = u64::try_from(STRICT_GRID.as_micros()).unwrap_or(u64::MAX);
        let span = shown / grid;
        // It may have stood still, or waited after a commit that failed.
        let held_up = site.clock.shows(process.not_before) > span * grid;
        let on_time = shown % grid < ON_TIME || held_up;
        let stops = process.stops;
        self.trace.count("strict site told of attempts");
        let told = &mut self.truth.told;
        let before = told.insert((index, self.sites[index].incarnation), shown);
        let apart = before.is_none_or(|at| at == shown || at / grid < span);
        holds(
            on_time && apart || stops,
            "a strict site lets nobody see when something happened",
            format!("s{index} on {conn} at {shown} after {before:?}"),
        )
    }
}
