//! A short run of everything at once.

use std::time::Duration;

use outpost_chaos::plan::{Plan, run};
use outpost_e2e::report;

/// C1, C2, C3, C4, C9, D1, D2, D3, N1, N4, N7, N8, T1 at random, judged by the history of both sides.
#[test]
fn a_minute_of_chaos_loses_nothing_and_starts_nothing_twice() {
    let own = "a_minute_of_chaos_loses_nothing_and_starts_nothing_twice";
    if outpost_chaos::network::can_have() && !outpost_chaos::network::test_in_own(own) {
        return;
    }
    let plan = Plan {
        faults_for: Duration::from_secs(45),
        agents: 8,
        seed: 20,
        run_every: Duration::from_millis(500),
        fault_every_ms: 1500,
        only: Vec::new(),
        keep: false,
    };
    let outcome = run(&plan, report::note);
    report::note(&outcome);
    assert!(outcome.summary.holds(), "{outcome}");
    assert!(
        outcome.summary.starts > 50
            && outcome.faults.values().filter(|count| **count > 0).count() > 5,
        "{outcome}"
    );
}
