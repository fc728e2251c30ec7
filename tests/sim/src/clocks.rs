//! What goes wrong with the time at a site: a wall clock that is wrong by a day or by decades, and a host that sleeps. The
//! boot-time clock goes on through both.

use outpost_agent_core::event::Event;

use crate::keeper::Phase;
use crate::queue::{At, MINUTE, SECOND};
use crate::site::Site;
use crate::trace::note;
use crate::world::{Happening, World};

/// What the wall clock shows when the simulation begins, in seconds since 1970.
const BEGAN_S: i64 = 1_700_000_000;
const DAY_AND_AN_HOUR_S: i64 = 25 * 3600;
/// The end of an unsigned counter of 32 bits.
const YEAR_2106_S: i64 = 4_294_967_296;

impl Site {
    /// Seconds since 1970 at boot, as its wall clock has it now.
    pub(crate) fn wall_offset_s(&self) -> u64 {
        let booted = i64::try_from(self.clock.booted_at() / SECOND).unwrap_or(0);
        u64::try_from(BEGAN_S + booted + self.wall_ahead_s).unwrap_or(0)
    }

    /// How much of its certificate's life is left, as its wall clock has it.
    pub(crate) fn certificate_left(&self, left: At) -> At {
        let ahead = self.wall_ahead_s.unsigned_abs() * SECOND;
        if self.wall_ahead_s > 0 {
            left.saturating_sub(ahead)
        } else {
            left + ahead
        }
    }
}

impl World {
    /// The wall clock of a site is set wrong, and put right some time later.
    pub(crate) fn clock_goes_wrong(&mut self, site: usize) {
        let wrong = [
            DAY_AND_AN_HOUR_S,
            -DAY_AND_AN_HOUR_S,
            -BEGAN_S,
            YEAR_2106_S - BEGAN_S,
        ];
        self.sites[site].wall_ahead_s = wrong[self.dice.below(wrong.len())];
        let right = self.now + self.outage();
        self.queue.put(right, Happening::ClockRight { site });
        self.clock_was_set_at(site);
    }

    pub(crate) fn clock_right(&mut self, site: usize) {
        self.sites[site].wall_ahead_s = 0;
        self.clock_was_set_at(site);
    }

    fn clock_was_set_at(&mut self, index: usize) {
        let ahead = self.sites[index].wall_ahead_s;
        note!(self, "s{index}: the wall clock is {ahead} s ahead");
        let (life_us, until) = self.certificate_of(index);
        let process = self.sites[index].processes;
        self.site_hears(index, process, Event::Certificate { life_us, until });
    }

    /// Everything on the host stands still, keepers and tasks too; its streams are given up by the other end.
    pub(crate) fn suspend(&mut self, index: usize) {
        let left = self.plan.quiet_from.saturating_sub(self.now).max(SECOND);
        let longest = if self.plan.long {
            60 * MINUTE
        } else {
            10 * MINUTE
        };
        let until = self.now + self.dice.span(5 * SECOND, longest).min(left);
        let site = &mut self.sites[index];
        site.suspended_until = until;
        if let Some(process) = site.process.as_mut() {
            process.not_before = process.not_before.max(until);
        }
        // What stood still cannot end itself in time: only its fence shuts it out.
        let alive = |phase| !matches!(phase, Phase::Over | Phase::Dead);
        let keepers = site.keepers.iter();
        let asleep = keepers.filter(|(_, keeper)| alive(keeper.phase));
        for (attempt, _) in asleep {
            let awake = self.truth.slept.entry(*attempt).or_insert(until);
            *awake = until.max(*awake);
        }
        if until > self.now + 30 * SECOND {
            let links = self.network.open_links();
            for link in links {
                if self.network.links[&link].site == index {
                    self.cut(link, 80 * SECOND);
                }
            }
        }
    }

    /// When a sleeping host goes on.
    pub(crate) fn asleep_until(&self, site: usize) -> Option<At> {
        let until = self.sites[site].suspended_until;
        (until > self.now).then_some(until)
    }
}
