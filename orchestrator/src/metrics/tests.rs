//! Numbers as a scrape shows them.

use std::time::Duration;

use outpost_orchestrator_core::record::{RunRecord, RunState, TaskRecord, TaskState, Write};
use outpost_proto::ids::{RunId, TaskIndex};

use super::*;

fn run(tenant: &str, id: u128, state: RunState) -> Write {
    Write::Run(RunRecord {
        tenant: tenant.parse().unwrap(),
        run: RunId(id),
        workflow: "w".parse().unwrap(),
        version: 1,
        params: BTreeMap::new(),
        state,
        agent: None,
        created_at: 1,
        started_at: None,
        finished_at: None,
        scheduled_for: None,
        reruns: 0,
    })
}

fn task(id: u128, place: u16, state: TaskState) -> Write {
    Write::Task(TaskRecord {
        run: RunId(id),
        task: TaskIndex(place),
        state,
        attempts: 0,
        spent: 0,
        requeued: 0,
        untimely: 0,
        unsure: false,
        shown: Vec::new(),
    })
}

fn scrape(metrics: &Metrics, tenant: &str) -> String {
    let counters = Counters::default();
    counters
        .server_certificate_not_after_s
        .store(90, Ordering::Relaxed);
    let now = Now {
        agents: &[],
        workflows: &[],
        streams: 0,
        sessions: 0,
        counters: &counters,
        now: 0,
    };
    metrics.text(&tenant.parse().unwrap(), &now)
}

fn commit(metrics: &Metrics, writes: &[Write]) {
    metrics.committed(writes, 1, Duration::from_millis(1));
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|known| known == line), "{line}\n{text}");
}

#[test]
fn runs_and_tasks_are_counted_where_they_stand() {
    let metrics = Metrics::default();
    commit(
        &metrics,
        &[
            run("a", 1, RunState::Running),
            task(1, 0, TaskState::Queued { since: 5 }),
            task(1, 1, TaskState::Waiting),
        ],
    );
    let text = scrape(&metrics, "a");
    has(&text, "outpost_runs{state=\"running\"} 1");
    has(&text, "outpost_tasks{state=\"queued\"} 1");
    has(&text, "outpost_tasks{state=\"waiting\"} 1");
    // Tasks that come behind the end of their run in one commit are counted all the same.
    commit(
        &metrics,
        &[
            task(1, 0, TaskState::Succeeded),
            run("a", 1, RunState::Failed),
            task(1, 1, TaskState::UpstreamFailed),
        ],
    );
    let text = scrape(&metrics, "a");
    has(&text, "outpost_runs{state=\"running\"} 0");
    has(&text, "outpost_tasks{state=\"waiting\"} 0");
    has(&text, "outpost_runs_finished_total{state=\"failed\"} 1");
    has(&text, "outpost_tasks_finished_total{state=\"succeeded\"} 1");
    has(
        &text,
        "outpost_tasks_finished_total{state=\"upstream_failed\"} 1",
    );
    has(&text, "outpost_server_certificate_remaining_seconds 90");
}

#[test]
fn nothing_of_a_tenant_is_told_to_another() {
    let metrics = Metrics::default();
    let before = scrape(&metrics, "b");
    let of_tenant = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .skip_while(|line| !line.contains("outpost_runs"));
        lines
            .take_while(|line| !line.contains("process_"))
            .map(str::to_owned)
            .collect()
    };
    commit(&metrics, &[run("a", 1, RunState::Running)]);
    assert!(of_tenant(&before).len() > 20);
    assert_eq!(of_tenant(&before), of_tenant(&scrape(&metrics, "b")));
}

#[test]
fn what_is_loaded_replaces_what_was_counted() {
    let metrics = Metrics::default();
    commit(&metrics, &[run("a", 1, RunState::Running)]);
    let Write::Run(other) = run("a", 2, RunState::Cancelling) else {
        panic!("a run")
    };
    metrics.loaded(&Snapshot {
        runs: vec![other],
        ..Snapshot::default()
    });
    let text = scrape(&metrics, "a");
    has(&text, "outpost_runs{state=\"running\"} 0");
    has(&text, "outpost_runs{state=\"cancelling\"} 1");
}

#[test]
fn requests_are_counted_by_route_and_status() {
    let metrics = Metrics::default();
    let took = Some(Duration::from_millis(2));
    metrics.answered("GET", "/api/v1/runs", 200, took);
    metrics.answered("GET", "/api/v1/runs", 200, took);
    let text = scrape(&metrics, "a");
    has(
        &text,
        "outpost_http_requests_total{method=\"GET\",route=\"/api/v1/runs\",status=\"200\"} 2",
    );
    has(&text, "# TYPE outpost_http_requests_total counter");
    has(&text, "# TYPE process_cpu_seconds_total counter");
}
