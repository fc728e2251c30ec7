//! Deadlines, cancel, the dead-man timer: all without anybody's help.

use outpost_agent_keeper::adopt::read_exit_record;
use outpost_agent_keeper::protocol::{Cause, Ended, ToKeeper};

use crate::site::*;

#[test]
fn a_deadline_ends_a_task_that_ignores_term_without_any_contact() {
    let site = Site::new();
    let mut spec = site.script("trap '' TERM; while :; do sleep 0.05; done");
    // Longer than a busy machine keeps the shell from its first two lines.
    spec.timeout_ms = Some(3_000);
    spec.grace_ms = 200;
    // The runner is gone from the start.
    drop(site.start(&spec));
    let record = until("the record", || read_exit_record(&spec.dir).unwrap());
    assert_eq!(
        (record.ended, record.cause),
        (Ended::Signalled(9), Cause::TimedOut)
    );
    assert!((3_200..60_000).contains(&record.duration_ms), "{record:?}");
    assert_eq!(site.starts(), 1);
}

#[test]
fn a_task_may_use_its_grace() {
    let site = Site::new();
    let mut spec = site
        .script("trap 'echo bye; exit 7' TERM; echo ready >> ready; while :; do sleep 0.02; done");
    spec.grace_ms = 60_000;
    let keeper = site.start(&spec);
    site.lines("ready", 1);
    keeper.send(ToKeeper::Cancel).unwrap();
    expect(last(&keeper), Ended::Exited(7), Cause::Cancelled);
    assert!(read(&spec.dir.join("log.0")).ends_with("bye\n"));
}

#[test]
fn a_cancel_after_the_end_changes_nothing() {
    let site = Site::new();
    let spec = site.script("exit 0");
    let keeper = site.start(&spec);
    let first = last(&keeper);
    keeper.send(ToKeeper::Cancel).unwrap();
    keeper.send(ToKeeper::Query).unwrap();
    assert_eq!(last(&keeper), first);
    expect(first, Ended::Exited(0), Cause::Own);
}

#[test]
fn the_dead_man_timer_fires_unless_it_is_pushed() {
    let site = Site::new();
    let mut spec = site.script("sleep 1000");
    // Longer than a busy machine keeps whoever pushes from it.
    spec.stop_after_ms = Some(5_000);
    let keeper = site.start(&spec);
    running(&keeper);
    let since = std::time::Instant::now();
    while since.elapsed().as_millis() < 7_000 {
        keeper.send(ToKeeper::StillConnected).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(
        read_exit_record(&spec.dir).unwrap().is_none(),
        "it was pushed"
    );
    let record = expect(last(&keeper), Ended::Signalled(15), Cause::DeadMan);
    assert!(record.duration_ms >= 7_000, "{record:?}");
}
