//! Collecting a history: the orchestrator's account over its API, each agent's over its own commands, the tasks' own
//! from the file they wrote.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use outpost_e2e::process::Done;
use outpost_e2e::{Agent, Api};
use outpost_faults::history::{History, Ledger, Run, site};
use serde_json::Value;

use crate::field::Field;
use crate::work::{Asked, RETRY_SAFE};

/// Between two looks whether all is quiet.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Waits until every run is over and every agent has had every end acknowledged; `false` when that does not come.
#[must_use]
pub fn quiet(field: &Field, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let live = ["running", "cancelling"].iter().any(|state| {
            let page = field
                .api
                .try_get(&format!("/api/v1/runs?state={state}&limit=1"));
            let items = page.and_then(|page| page.body["items"].as_array().map(Vec::len));
            items != Some(0)
        });
        if !live
            && field
                .agents
                .iter()
                .all(|agent| unacknowledged(agent) == Some(0))
        {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The whole history, as it is now.
///
/// # Panics
/// When the orchestrator does not answer.
#[must_use]
pub fn history(field: &Field, asked: Asked) -> History {
    let text = std::fs::read(field.world.shared("marks")).unwrap_or_default();
    let (marks, unreadable) = site::parse(&String::from_utf8_lossy(&text));
    History {
        acknowledged: asked.acknowledged,
        unanswered: asked.unanswered,
        runs: runs(&field.api),
        site: marks,
        unreadable: unreadable.into_iter().chain(asked.refused).collect(),
        seen: asked.seen,
        ledgers: field.agents.iter().map(ledger).collect(),
        retry_safe: BTreeSet::from([RETRY_SAFE.to_owned()]),
    }
}

/// Every run there is, page by page.
///
/// # Panics
/// When the orchestrator does not answer.
#[must_use]
pub fn runs(api: &Api) -> Vec<Run> {
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/api/v1/runs?limit=200{cursor}")).ok();
        let items = page["items"].as_array().cloned().unwrap_or_default();
        for item in items {
            let run = outpost_e2e::api::text(&item["run"]);
            let tree = api.get(&format!("/api/v1/runs/{run}")).ok();
            found.push(Run::from_api(&tree).unwrap_or_else(|| panic!("no tree: {tree:#}")));
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

fn unacknowledged(agent: &Agent) -> Option<usize> {
    let count = agent.status()?["view"]["unacknowledged"].as_u64()?;
    usize::try_from(count).ok()
}

/// Whether a ledger stands its check. That many sessions after each other ended before a receipt was due is no damage: it is
/// what these faults do, and all that is said then is that nothing signed tells of them.
fn stands(verified: &Done) -> bool {
    const UNPROVEN: i32 = 5;
    let mut errors = verified
        .err
        .lines()
        .filter(|line| line.starts_with("error: "));
    match verified.code {
        Some(0) => true,
        Some(UNPROVEN) => errors.all(|line| line.contains("too short for a receipt")),
        _ => false,
    }
}

/// What this agent's own ledger says of what left its site.
fn ledger(agent: &Agent) -> Ledger {
    let mut ledger = Ledger {
        agent: agent.name.clone(),
        unacknowledged: unacknowledged(agent).unwrap_or(0),
        ..Ledger::default()
    };
    let verified = agent.command(&["ledger", "verify"]);
    if !stands(&verified) {
        ledger.broken = Some(verified.err.trim().to_owned());
        return ledger;
    }
    let said = agent.command(&["ledger", "explain", "--output", "json"]);
    for line in said.out.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(words) = line["words"].as_str() {
            ledger.hear(words);
        }
    }
    ledger
}
