//! A tenant's fences: the numbers that its tasks hand to databases and locks of their own, one more with each attempt.
//!
//! They never go back, whatever is restored: each life of the database begins with the second of its restore, so that
//! two lives from one backup give out different ones, and the later one the higher ones. What agents tell of fences is
//! followed so far as an honest clock could be wrong, and no further.

use outpost_proto::ids::Fence;
use outpost_proto::name::TenantName;
use serde::{Deserialize, Serialize};

use crate::limits::{FENCE_LEAP, FENCES_A_SECOND};

/// What a tenant counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRecord {
    /// Its name.
    pub tenant: TenantName,
    /// The next attempt's fence.
    pub next_fence: Fence,
    /// The newest recovery counter under which a person said to go on without the agents that have not reported.
    #[serde(default)]
    pub continued: u32,
    /// What the backups that the database was restored from knew: the fences, from and to (not included), of all attempts
    /// of each life up to its backup, those that were over too. Empty when it never was restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<(Fence, Fence)>,
    /// The first fence of this life of the database; `None` when it never was restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Fence>,
}

impl TenantRecord {
    /// A tenant of which nothing is known yet.
    #[must_use]
    pub fn new(tenant: TenantName) -> Self {
        Self {
            tenant,
            next_fence: Fence(1),
            continued: 0,
            known: Vec::new(),
            began: None,
        }
    }

    /// What a restore at this time, in microseconds since 1970, changes: fences leap, so that those of attempts that the
    /// backup does not know are not given out again. `told`: whether every agent had told what a restore before this one
    /// lacked; until then it is not known what of that time the backup has.
    pub fn restored(&mut self, told: bool, at_us: u64) {
        let former = self.known.last().map(|(_, to)| leap(*to));
        let began = self.began.or(former).filter(|_| !told);
        if told {
            self.known.clear();
        }
        self.known
            .push((began.unwrap_or(Fence(0)), self.next_fence));
        let second = (at_us / 1_000_000).min(u64::from(u32::MAX));
        let begins = leap(self.next_fence).max(Fence(second << FENCES_A_SECOND));
        self.next_fence = begins;
        self.began = Some(begins);
    }

    /// Whether a backup that the database was restored from knew the attempt with this fence.
    pub(crate) fn knew(&self, fence: Fence) -> bool {
        self.known
            .iter()
            .any(|(from, to)| (*from..*to).contains(&fence))
    }

    /// Whether a former life of this database may have given out this fence.
    pub(crate) fn believes(&self, fence: Fence) -> bool {
        self.began.is_some_and(|began| fence < leap(began))
    }

    /// Whatever is given out next is above this fence, if that can be one of a former life. Whether that changed anything.
    pub(crate) fn follow(&mut self, fence: Fence) -> bool {
        let follows = self.believes(fence) && self.next_fence <= fence;
        if follows {
            self.next_fence.0 = fence.0.saturating_add(1);
        }
        follows
    }
}

fn leap(from: Fence) -> Fence {
    Fence(from.0.saturating_add(FENCE_LEAP))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const NOW: u64 = 1_700_000_000 * SECOND;

    fn tenant() -> TenantRecord {
        let mut tenant = TenantRecord::new("acme".parse().unwrap());
        tenant.next_fence = Fence(7);
        tenant
    }

    #[test]
    fn two_restores_of_one_backup_give_out_different_fences() {
        let backup = tenant();
        let (mut first, mut second) = (backup.clone(), backup);
        first.restored(true, NOW);
        let given_out = first.next_fence.0..first.next_fence.0 + (1 << FENCES_A_SECOND);
        second.restored(true, NOW + SECOND);
        assert!(second.knew(Fence(6)) && !second.knew(Fence(7)));
        assert!(!given_out.contains(&second.next_fence.0));
        assert!(second.next_fence > Fence(given_out.end - 1));
        assert_eq!(second.known, [(Fence(0), Fence(7))]);
        for fence in given_out {
            assert!(!second.knew(Fence(fence)) && second.believes(Fence(fence)));
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_lets_them_leap() {
        let mut tenant = tenant();
        let mut last = Fence(0);
        for at in [0, NOW, NOW, NOW - SECOND, u64::MAX] {
            tenant.restored(false, at);
            assert!(tenant.next_fence > last && tenant.next_fence.0 < 1 << 48);
            last = tenant.next_fence;
        }
        assert!(
            tenant.known.windows(2).all(|two| two[0].1 < two[1].0),
            "each life begins where its fences do"
        );
    }

    #[test]
    fn no_word_of_an_agent_spoils_a_tenants_fences() {
        let mut tenant = tenant();
        tenant.restored(true, NOW);
        let began = tenant.next_fence;
        assert!(tenant.follow(Fence(began.0 + 5)));
        assert_eq!(tenant.next_fence, Fence(began.0 + 6));
        for fence in [began.0 + FENCE_LEAP, (1 << 48) - 1, u64::MAX] {
            assert!(!tenant.follow(Fence(fence)));
        }
        assert_eq!(tenant.next_fence, Fence(began.0 + 6));
    }
}
