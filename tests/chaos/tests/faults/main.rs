//! Single faults of disk, clock and network, each with what a person sees of it and the history of both sides.

mod clock;
mod disk;
mod fsync;
mod network;
mod partition;

use std::time::Duration;

use outpost_chaos::field::Field;
use outpost_chaos::gather;
use outpost_chaos::work::{Asked, entry};
use outpost_e2e::Entry;
use outpost_faults::history::Summary;

const WORKFLOW: &str = "name: one\ntasks:\n  wait: {entry: gate}\n";

/// A task that waits until the test lets its run go on.
fn gate() -> Entry {
    entry(
        "gate",
        "until [ -e \"$shared/go.$OUTPOST_RUN\" ]; do sleep 0.05; done\nalive\nover 0",
    )
}

/// A field with one agent and the workflow `one`.
fn field() -> Field {
    let field = Field::with_entries(1, &[gate()]);
    let _ = field.api.apply(WORKFLOW).ok();
    field
}

fn trigger(field: &Field, asked: &mut Asked) -> String {
    let run = field.api.trigger("one", &serde_json::json!({}));
    asked.acknowledged.push(run.clone());
    run
}

fn allow(field: &Field, run: &str) {
    field.world.allow(&format!("go.{run}"));
}

/// All is quiet, and the history of both sides holds.
#[track_caller]
fn holds(field: &Field, asked: Asked) {
    assert!(gather::quiet(field, Duration::from_secs(60)));
    let summary = Summary::of(&gather::history(field, asked));
    assert!(summary.holds(), "{summary}");
}
