//! Attempts held ahead at a keeper: handed over while it still has another one, begun when nothing of that is left, given
//! back when their runner asks for it or their lease is over, gone with their runner and with their keeper.
//!
//! The order is that of the real keeper: before it goes on it obeys what its runner has said meanwhile, then looks at the
//! lease; what it has begun goes its own way to the claim, whether or not its runner still lives. What waits has no files,
//! so that whoever comes after makes the claim, also while a keeper is on its way there: one of the two wins.

use outpost_agent_core::event::KeeperSaid;
use outpost_proto::ids::AttemptId;
use outpost_proto::message::{Assign, AttemptState};

use crate::invariants::{Checked, broken, holds};
use crate::keeper::{Keeper, Phase, Step};
use crate::queue::MS;
use crate::scene::us;
use crate::trace::note;
use crate::world::World;

impl World {
    /// The runner hands an attempt over that is to begin behind another one.
    pub(crate) fn hand_over(
        &mut self,
        site: usize,
        assign: Assign,
        lease_until: u64,
        first: AttemptId,
    ) -> Checked {
        let attempt = assign.attempt;
        self.invariant_a_start_is_asked_for_once(site, attempt)?;
        let present = self.present(site, first);
        let phase = present.and_then(|present| self.phase_of(site, present));
        let takes = match phase {
            Some(Phase::Requested | Phase::Forked | Phase::Running) => true,
            // Its end may have been heard already, and then nobody knows of a line there any more.
            Some(Phase::Over) => self.dice.percent(50) && !self.plan.directed,
            Some(Phase::Waits | Phase::Dead) | None => false,
        };
        let Some(present) = present.filter(|_| takes) else {
            self.trace.count("keeper took no other attempt");
            self.keeper_says(site, attempt, KeeperSaid::GivenBack);
            return Ok(());
        };
        self.trace.count("attempt held ahead");
        note!(self, "s{site} {attempt} waits behind {present}");
        let keepers = &mut self.sites[site].keepers;
        keepers.insert(attempt, Keeper::new(assign, lease_until, Phase::Waits));
        if let Some(keeper) = keepers.get_mut(&present) {
            keeper.line.push_back(attempt);
        }
        self.goes_on_soon(site, present);
        Ok(())
    }

    /// Whom the keeper that once had this attempt has now.
    fn present(&self, site: usize, mut attempt: AttemptId) -> Option<AttemptId> {
        let keepers = &self.sites[site].keepers;
        while let Some(heir) = keepers.get(&attempt)?.heir {
            attempt = heir;
        }
        Some(attempt)
    }

    fn phase_of(&self, site: usize, attempt: AttemptId) -> Option<Phase> {
        let keeper = self.sites[site].keepers.get(&attempt)?;
        Some(keeper.phase)
    }

    pub(crate) fn invariant_a_start_is_asked_for_once(
        &self,
        site: usize,
        attempt: AttemptId,
    ) -> Checked {
        let known = self.sites[site].keepers.contains_key(&attempt);
        holds(!known, "a start is asked for once", attempt)
    }

    /// Nothing of this attempt is left: its keeper goes on with whoever waits there.
    pub(crate) fn goes_on_soon(&mut self, site: usize, over: AttemptId) {
        let keeper = self.sites[site].keepers.get(&over);
        if keeper.is_some_and(Keeper::goes_on) {
            let takes = if self.plan.directed {
                20
            } else if self.dice.percent(10) {
                self.plan.start_takes(&mut self.dice)
            } else {
                self.dice.between(20, MS)
            };
            self.keeper_later(site, over, self.now + takes, Step::GoOn);
        }
    }

    /// The next of those that wait here begins, unless it was asked back or its lease is over.
    pub(crate) fn go_on(&mut self, site: usize, over: AttemptId) {
        let shown = self.sites[site].clock.shows(self.now);
        loop {
            let keepers = &mut self.sites[site].keepers;
            let Some(keeper) = keepers.get_mut(&over) else {
                return;
            };
            let Some(next) = keeper.line.pop_front() else {
                return;
            };
            let (rest, last_word) = (std::mem::take(&mut keeper.line), keeper.last_word);
            let may_begin = |waits: &&mut Keeper| !waits.asked_back && shown < waits.lease_until;
            if let Some(waits) = keepers.get_mut(&next).filter(may_begin) {
                (waits.phase, waits.line) = (Phase::Forked, rest);
                waits.last_word = waits.last_word.max(last_word);
                if let Some(keeper) = keepers.get_mut(&over) {
                    keeper.heir = Some(next);
                }
                self.trace.count("attempt held ahead begun");
                let at = self.now + self.plan.start_takes(&mut self.dice);
                return self.keeper_later(site, next, at, Step::Exec);
            }
            if let Some(keeper) = keepers.get_mut(&over) {
                keeper.line = rest;
            }
            self.give_back(site, next);
        }
    }

    /// The runner wants one back that waits at a keeper.
    pub(crate) fn take_back(&mut self, site: usize, attempt: AttemptId) -> Checked {
        let snapshot = self.sites[site].disk.snapshot();
        let begun = snapshot
            .attempts
            .iter()
            .any(|held| held.assign.attempt == attempt && held.state == AttemptState::Starting);
        let sentence = "only what was journalled as begun is taken back";
        holds(begun, sentence, attempt)?;
        self.ask_back(site, attempt);
        Ok(())
    }

    /// Whether it waited: its keeper reads that before it goes on.
    pub(crate) fn ask_back(&mut self, site: usize, attempt: AttemptId) -> bool {
        let keeper = self.sites[site].keepers.get_mut(&attempt);
        let Some(keeper) = keeper.filter(|keeper| keeper.phase == Phase::Waits) else {
            return false;
        };
        keeper.asked_back = true;
        let drawn = self.dice.between(50, 2 * MS);
        let host = self.sites[site].host.as_deref();
        let takes = host.map_or(drawn, |host| us(host.answers_after));
        self.keeper_later(site, attempt, self.now + takes, Step::GiveBack);
        true
    }

    /// Lets one go that waits; it leaves nothing.
    pub(crate) fn give_back(&mut self, site: usize, attempt: AttemptId) {
        self.trace.count("attempt given back by a keeper");
        note!(self, "s{site} {attempt} is given back");
        self.keeper_says(site, attempt, KeeperSaid::GivenBack);
        let keepers = &mut self.sites[site].keepers;
        keepers.remove(&attempt);
        for keeper in keepers.values_mut() {
            keeper.line.retain(|waits| *waits != attempt);
        }
    }

    /// The runner is gone: nobody could have back what waits, so no keeper begins it any more.
    pub(crate) fn nobody_waits_any_more(&mut self, site: usize) {
        let keepers = &mut self.sites[site].keepers;
        let before = keepers.len();
        keepers.retain(|_, keeper| keeper.phase != Phase::Waits);
        keepers.values_mut().for_each(|keeper| keeper.line.clear());
        if keepers.len() < before {
            self.trace.count("runner ended while attempts waited");
        }
    }

    /// A keeper was killed: whoever waited there is looked for, and nobody has made the claim.
    pub(crate) fn line_is_lost(&mut self, site: usize, attempt: AttemptId) {
        let keepers = &mut self.sites[site].keepers;
        let Some(keeper) = keepers.get_mut(&attempt) else {
            return;
        };
        let line = std::mem::take(&mut keeper.line);
        for waited in line {
            if let Some(keeper) = self.sites[site].keepers.get_mut(&waited) {
                keeper.phase = Phase::Dead;
            }
            self.trace.count("keeper killed while an attempt waited");
            self.says_what_is_found(site, waited);
        }
    }

    /// After a turn that was spoken: what keeps work from being started has everything back that waits at keepers.
    pub(crate) fn invariant_nothing_waits_at_a_keeper_that_may_not_begin(
        &self,
        index: usize,
    ) -> Checked {
        let site = &self.sites[index];
        // Whoever is next where nothing of the last one is left has its slot: it begins, and its keeper looks at the lease.
        let rest = site.keepers.values().flat_map(|keeper| {
            let begins = usize::from(keeper.phase == Phase::Over);
            keeper.line.iter().skip(begins)
        });
        let asked_back = |attempt: &AttemptId| {
            let keeper = site.keepers.get(attempt);
            keeper.is_none_or(|keeper| keeper.asked_back)
        };
        let Some(attempt) = rest.copied().find(|attempt| !asked_back(attempt)) else {
            return Ok(());
        };
        let why = if site.disk.snapshot().site.paused {
            "its site is paused"
        } else if self.lease_of(index).is_none() {
            "no session is ready"
        } else {
            return Ok(());
        };
        Err(broken(
            "what may not begin is asked back from its keeper",
            format!("s{index}: {attempt}, {why}"),
        ))
    }
}
