//! The whole text, as a scraper gets it.

use outpost_proto::ids::{Fence, RunId, TaskIndex};
use outpost_proto::outcome::{KillReason, Refusal, Report};

use super::*;
use crate::runner::Status;

fn settled(outcome: Outcome) -> Write {
    Write::Settled(outpost_agent_core::record::Memory {
        attempt: AttemptId(1),
        run: RunId(1),
        task: TaskIndex(0),
        fence: Fence(1),
        report: Report {
            outcome,
            may_have_started: false,
            duration_ms: 1,
            exit_code: None,
            count: None,
        },
        settled_at_s: 1,
    })
}

fn status() -> Status {
    let mut numbers = Numbers::new(1_000_000);
    numbers.connected(2_000_000);
    numbers.connected(3_000_000);
    numbers.committed(&[
        settled(Outcome::Succeeded),
        settled(Outcome::Succeeded),
        settled(Outcome::Killed(KillReason::Oom)),
        settled(Outcome::Refused(Refusal::BadParameters)),
    ]);
    numbers.synced(Duration::from_micros(100));
    numbers.synced(Duration::from_micros(101));
    numbers.synced(Duration::from_secs(5));
    serde_json::from_value(serde_json::json!({
        "agent": "a", "tenant": "t", "orchestrator": "o:1", "version": "1.2.3",
        "certificate_not_after_s": 1_900_000_000, "trouble": null, "now_boot_us": 50_000_000,
        "catalogue": { "version": "x", "entries": 3 },
        "disk": { "ledger_bytes": 10, "ledger_limit_bytes": 20, "journal_bytes": 30, "logs_limit_bytes": 40 },
        "numbers": numbers,
        "view": {
            "session": "ready", "session_since_us": 20_000_000, "lease_until_us": 60_000_000, "slots": 4,
            "running": [{}, {}], "queued": [{}], "unacknowledged": 5, "flags": { "paused": true },
        },
    }))
    .unwrap()
}

#[test]
fn the_text_has_every_number_with_its_help() {
    insta::assert_snapshot!(text::render(&status(), None));
}

#[test]
fn a_bound_counts_what_is_as_long_as_itself() {
    let mut histogram = Histogram::default();
    histogram.observe(Duration::from_micros(100));
    histogram.observe(Duration::from_micros(101));
    histogram.observe(Duration::from_secs(3600));
    assert_eq!(histogram.counts[0], 1);
    assert_eq!(histogram.counts[1], 1);
    assert_eq!(histogram.counts[SYNC_BOUNDS_US.len()], 1);
}

#[test]
fn of_many_refusals_the_newest_are_remembered() {
    let mut numbers = Numbers::default();
    let entry = "load".parse().unwrap();
    for n in 0..20 {
        numbers.refused(n, AttemptId(1), &entry, "why");
    }
    assert_eq!(numbers.refusals.len(), RECENT);
    assert_eq!(numbers.refusals.back().unwrap().at_us, 19);
}
