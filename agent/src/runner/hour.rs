//! What began here within the last hour, as the attempts' own records say, so that `max_per_hour` counts over a restart of
//! the agent. Read once, before anything begins; what was purged meanwhile counts no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use outpost_agent_core::Found;
use outpost_agent_keeper::protocol::is_attempt_id;
use outpost_agent_keeper::record::{CLAIM, read_keeper_record};
use outpost_driver::Micros;
use outpost_proto::ids::AttemptId;
use outpost_proto::name::EntryName;

use crate::catalogue::Catalogue;
use crate::dated::Dated;
use crate::state_dir::StateDir;

const HOUR: Duration = Duration::from_secs(3600);

/// The starts of entries that have a `max_per_hour`, on the clock of this boot. `found`: what became of attempts that an
/// earlier runner began; those that run are counted by the core itself. `wall_us`, `now`: the present moment on the
/// site's clock and on that of this boot.
pub(super) fn begun(
    state: &StateDir,
    catalogue: &Catalogue,
    found: &BTreeMap<AttemptId, Found>,
    wall_us: u64,
    now: Micros,
) -> Vec<(EntryName, Micros)> {
    let rated = catalogue.entries();
    let rated = rated.filter(|entry| entry.max_per_hour.is_some());
    let rated = rated.map(|entry| &entry.name).collect::<BTreeSet<_>>();
    if rated.is_empty() {
        return Vec::new();
    }
    let since_us = wall_us.saturating_sub(u64::try_from(HOUR.as_micros()).unwrap_or(u64::MAX));
    let since = UNIX_EPOCH + Duration::from_micros(since_us);
    let attempts = std::fs::read_dir(state.attempts()).into_iter().flatten();
    let one = |dir: std::fs::DirEntry| {
        let id = dir.file_name();
        let id = id.to_str().filter(|id| is_attempt_id(id))?;
        let attempt = AttemptId(u128::from_str_radix(id, 16).ok()?);
        if found.get(&attempt) == Some(&Found::Running) {
            return None;
        }
        // Most are older, and need not be read. A claim is never older than its attempt's start, whatever a task says of it.
        let written = Dated::Changed.of(&dir.path().join(CLAIM).metadata().ok()?);
        if written + Duration::from_secs(1) < since {
            return None;
        }
        let about = read_keeper_record(&dir.path()).ok()??.about?;
        let entry = about.entry.parse::<EntryName>().ok()?;
        let counts = rated.contains(&entry) && about.begun_us >= since_us;
        let ago = wall_us.saturating_sub(about.begun_us);
        counts.then_some((entry, Micros(now.0.saturating_sub(ago))))
    };
    attempts.flatten().filter_map(one).collect()
}
