//! What is over: found again, kept for a while, deleted a little at a time; and what may be there only once.

use std::time::Duration;

use outpost_driver::{CommitError, Effects, Store as _};
use outpost_orchestrator::store::retention::Retention;
use outpost_orchestrator::store::sqlite::Sqlite;
use outpost_orchestrator_core::mirror::Mirror;
use outpost_orchestrator_core::record::{
    KeyRecord, Notice, NoticeKind, Phase, RunRecord, RunState, TaskRecord, TaskState, Write,
};
use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::name::TenantName;
use outpost_proto::outcome::{Outcome, Report};

use crate::writes::Writes;
use crate::{commit, made};

#[tokio::test]
async fn an_instant_of_a_schedule_makes_one_run() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(7);
    commit(&mut store, &writes.tenants()).await;
    commit(&mut store, &writes.workflows()).await;
    let run = RunRecord {
        scheduled_for: Some(60_000_000),
        ..writes.new_run()
    };
    commit(&mut store, &[Write::Run(run.clone())]).await;
    let twice = RunRecord {
        run: RunId(run.run.0 ^ 1),
        ..run.clone()
    };
    let effects = Effects {
        writes: vec![Write::Run(twice)],
        speech: Vec::new(),
    };
    let error = store.commit(&effects).await.unwrap_err();
    assert!(matches!(error, CommitError::Failed(_)), "{error}");
    // The first one changes as ever, and other instants make runs of their own.
    let other = RunRecord {
        run: RunId(run.run.0 ^ 2),
        scheduled_for: Some(120_000_000),
        ..run.clone()
    };
    let over = RunRecord {
        state: RunState::Succeeded,
        ..run
    };
    commit(&mut store, &[Write::Run(over), Write::Run(other)]).await;
}

#[tokio::test]
async fn a_run_that_is_over_is_given_back_whole() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(13);
    let mut mirror = Mirror::default();
    for _ in 0..30 {
        let burst = writes.burst();
        commit(&mut store, &burst).await;
        burst.iter().for_each(|write| mirror.apply(write));
    }
    assert!(mirror.runs.len() > 10);
    for (id, run) in &mirror.runs {
        for tenant in writes.tenant_names() {
            let stored = store.load_run(&tenant, *id).unwrap();
            assert_eq!(stored, mirror.stored_run(&tenant, *id));
            assert_eq!(stored.is_some(), tenant == run.tenant);
        }
    }
    let tenant = &writes.tenant_names()[0];
    assert_eq!(store.load_run(tenant, RunId(1)).unwrap(), None);
}

/// A run of one task that was over at `at`.
fn over(writes: &mut Writes, like: &RunRecord, at: u64) -> (RunId, Vec<Write>) {
    let run = RunRecord {
        run: writes.new_run().run,
        state: RunState::Succeeded,
        created_at: at,
        finished_at: Some(at),
        scheduled_for: None,
        ..like.clone()
    };
    let task = TaskRecord {
        run: run.run,
        task: TaskIndex(0),
        state: TaskState::Succeeded,
        attempts: 1,
        spent: 0,
        requeued: 0,
        untimely: 0,
        unsure: false,
        shown: Vec::new(),
    };
    (run.run, vec![Write::Run(run), Write::Task(task)])
}

#[tokio::test]
async fn old_runs_go_but_the_newest_of_each_workflow_and_the_unsettled_stay() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(17);
    commit(&mut store, &writes.tenants()).await;
    commit(&mut store, &writes.workflows()).await;
    let like = writes.new_run();
    let tenant = like.tenant.clone();
    let begin = store.clock().now().0 - 100 * 24 * 3600 * 1_000_000;
    let (mut ids, mut burst) = (Vec::new(), Vec::new());
    for number in 0..1500_u64 {
        let (id, batch) = over(&mut writes, &like, begin + number);
        burst.extend(batch);
        ids.push(id);
    }
    commit(&mut store, &burst).await;
    // The oldest has an attempt that was lost and never heard of again; the second is live.
    let mut lost = writes.attempt_of(&like, ids[0]);
    lost.phase = Phase::Lost {
        may_have_started: true,
    };
    let mut live = store.load_run(&tenant, ids[1]).unwrap().unwrap().run;
    live.state = RunState::Running;
    let mut settled = writes.attempt_of(&like, ids[2]);
    settled.phase = Phase::Running;
    let burst = [lost, settled.clone()].map(Write::Attempt);
    commit(&mut store, &burst).await;
    settled.phase = finished();
    let burst = [Write::Run(live), Write::Attempt(settled.clone())];
    commit(&mut store, &burst).await;

    store.retain(Retention {
        runs: None,
        ..Retention::default()
    });
    prune_all(&mut store);
    let kept = store.load_run(&tenant, ids[2]).unwrap();
    assert!(kept.is_some(), "kept for ever");
    store.retain(Retention::default());
    prune_all(&mut store);
    let left: Vec<usize> = (0..ids.len())
        .filter(|place| store.load_run(&tenant, ids[*place]).unwrap().is_some())
        .collect();
    let mut expected = vec![0, 1];
    expected.extend(1490..1500);
    assert_eq!(left, expected);
    let gone = store.reader().attempt(&tenant, settled.attempt).await;
    assert!(gone.unwrap().is_none());
}

fn finished() -> Phase {
    let report = Report {
        outcome: Outcome::Succeeded,
        may_have_started: true,
        duration_ms: 1,
        exit_code: None,
        count: None,
    };
    Phase::Finished { report }
}

/// As the driver does, again and again until nothing is left to be deleted.
fn prune_all(store: &mut Sqlite) {
    while store.prune().unwrap() {}
}

#[tokio::test]
async fn keys_and_what_they_refer_to_outlive_a_clock_that_is_put_forward_by_a_day() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(17);
    commit(&mut store, &writes.tenants()).await;
    commit(&mut store, &writes.workflows()).await;
    let like = writes.new_run();
    let hour = 3600 * 1_000_000;
    let now = store.clock().now().0;
    let mut runs = Vec::new();
    for number in 0..30 {
        let at = now - if number < 15 { 50 * hour } else { 30 * hour } + number;
        let (run, mut batch) = over(&mut writes, &like, at);
        batch.push(Write::Key(KeyRecord {
            tenant: like.tenant.clone(),
            key: format!("{number:02}"),
            workflow: like.workflow.clone(),
            request: None,
            run,
            at,
        }));
        commit(&mut store, &batch).await;
        runs.push(run);
    }
    store.retain(Retention {
        notices: Duration::ZERO,
        runs: Some(Duration::ZERO),
    });
    prune_all(&mut store);
    // As of long ago: whatever is there counts.
    let left = store.snapshot(0).unwrap().keys;
    let left: Vec<RunId> = left.into_iter().map(|key| key.run).collect();
    assert_eq!(left, runs[15..]);
    let counting = store.snapshot(now).unwrap().keys;
    assert_eq!(counting.len(), 15);
    for (number, run) in runs.iter().enumerate() {
        let kept = store.load_run(&like.tenant, *run).unwrap().is_some();
        assert_eq!(kept, number >= 15, "{number}");
    }
}

fn notice(run: u128, at: u64, state: RunState) -> Write {
    Write::Notice(Notice {
        tenant: "a".parse().unwrap(),
        at,
        what: NoticeKind::Run {
            run: RunId(run),
            workflow: "w".parse().unwrap(),
            state,
        },
    })
}

#[tokio::test]
async fn old_notices_go_and_no_number_is_used_twice() {
    let (dir, mut store) = made().await;
    let tenant: TenantName = "a".parse().unwrap();
    let old: Vec<Write> = (0..1200)
        .map(|run| notice(run, 5, RunState::Running))
        .collect();
    commit(&mut store, &old).await;
    let newest = store.reader().newest_notice(&tenant).await.unwrap();
    store.retain(Retention {
        notices: Duration::ZERO,
        runs: None,
    });
    prune_all(&mut store);
    let left = store.reader().notices(&tenant, None, 0, 100).await.unwrap();
    assert_eq!(left.len(), 1);
    store.close().unwrap();
    let mut store = Sqlite::open(dir.path()).await.unwrap();
    commit(&mut store, &[notice(1, 6, RunState::Running)]).await;
    let next = store.reader().newest_notice(&tenant).await.unwrap();
    assert_eq!(next, newest + 1);
}

#[tokio::test]
async fn what_changes_several_times_in_a_burst_is_told_once() {
    let (_dir, mut store) = made().await;
    let tenant: TenantName = "a".parse().unwrap();
    let burst = [
        notice(1, 1, RunState::Running),
        notice(2, 1, RunState::Running),
        notice(1, 1, RunState::Cancelled),
    ];
    commit(&mut store, &burst).await;
    let told = store.reader().notices(&tenant, None, 0, 10).await.unwrap();
    let told: Vec<Write> = told
        .into_iter()
        .map(|one| Write::Notice(one.notice))
        .collect();
    assert_eq!(told, burst[1..]);
}
