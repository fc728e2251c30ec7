//! Lists of runs and versions: complete, in order, the same whatever is written between two pages.

use std::collections::BTreeMap;

use outpost_orchestrator::store::read::RunFilter;
use outpost_orchestrator::store::sqlite::Sqlite;
use outpost_orchestrator_core::record::{
    RunRecord, RunState, WorkflowRecord, WorkflowStateRecord, Write,
};
use outpost_proto::name::{AgentName, TenantName, WorkflowName};

use crate::writes::Writes;
use crate::{commit, made};

/// States, agents and origins to narrow a list by.
fn narrower() -> Vec<(Option<RunState>, Option<AgentName>, Option<bool>)> {
    let agent: AgentName = "site-1".parse().unwrap();
    vec![
        (None, None, None),
        (Some(RunState::Running), None, None),
        (Some(RunState::Failed), None, None),
        (Some(RunState::Succeeded), Some(agent.clone()), Some(true)),
        (None, Some(agent), None),
        (None, None, Some(true)),
        (Some(RunState::Cancelling), None, Some(false)),
    ]
}

#[tokio::test]
async fn pages_are_stable_and_complete() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(11);
    commit(&mut store, &writes.tenants()).await;
    commit(&mut store, &writes.workflows()).await;
    let runs: Vec<RunRecord> = (0..57).map(|_| writes.new_run()).collect();
    commit(
        &mut store,
        &runs.iter().cloned().map(Write::Run).collect::<Vec<_>>(),
    )
    .await;
    let reader = store.reader();
    for tenant in writes.tenant_names() {
        for (state, agent, scheduled) in narrower() {
            for workflow in [None, Some("build".parse().unwrap())] {
                let filter = RunFilter {
                    workflow,
                    state,
                    agent: agent.clone(),
                    scheduled,
                };
                let mut expected: Vec<&RunRecord> = runs
                    .iter()
                    .filter(|run| fits(run, &tenant, &filter))
                    .collect();
                expected.sort_by_key(|run| std::cmp::Reverse((run.created_at, run.run)));
                let mut found: Vec<RunRecord> = Vec::new();
                let mut cursor: Option<String> = None;
                loop {
                    let page = reader
                        .runs(&tenant, &filter, cursor.as_deref(), 10)
                        .await
                        .unwrap();
                    assert!(page.items.len() <= 10);
                    found.extend(page.items);
                    // What is added between two pages is newer: it changes no page after the first.
                    let mut newer = writes.new_run();
                    newer.created_at += 1_000_000_000_000;
                    commit(&mut store, &[Write::Run(newer)]).await;
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
                found.retain(|run| run.created_at < 1_000_000_000_000);
                assert_eq!(
                    found.iter().collect::<Vec<_>>(),
                    expected,
                    "{tenant} {filter:?}"
                );
            }
        }
    }
    let tenant = writes.tenant_names().remove(0);
    for cursor in ["", "x", "1-", "-1", "1-zz", "ffffffffffffffffffff-0"] {
        assert!(
            reader
                .runs(&tenant, &RunFilter::default(), Some(cursor), 10)
                .await
                .is_err(),
            "{cursor:?}"
        );
    }
}

fn fits(run: &RunRecord, tenant: &TenantName, filter: &RunFilter) -> bool {
    run.tenant == *tenant
        && filter.state.is_none_or(|state| run.state == state)
        && filter
            .workflow
            .as_ref()
            .is_none_or(|workflow| run.workflow == *workflow)
        && filter
            .agent
            .as_ref()
            .is_none_or(|agent| run.agent.as_ref() == Some(agent))
        && filter
            .scheduled
            .is_none_or(|scheduled| run.scheduled_for.is_some() == scheduled)
}

/// What the list of workflows shows.
async fn names(store: &Sqlite, tenant: &TenantName) -> Vec<String> {
    let page = store.reader().workflows(tenant, None, 100).await.unwrap();
    page.items
        .iter()
        .map(|workflow| format!("{} {}", workflow.spec.name, workflow.version))
        .collect()
}

#[tokio::test]
async fn a_deleted_workflow_is_in_no_list_but_its_versions_are() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(3);
    commit(&mut store, &writes.tenants()).await;
    let mut first = BTreeMap::new();
    for write in writes.workflows().into_iter().chain(writes.workflows()) {
        if let Write::Workflow(record) = &write
            && record.tenant.as_str() == "a"
        {
            first.insert((record.spec.name.clone(), record.version), record.clone());
        }
        commit(&mut store, &[write]).await;
    }
    let tenant: TenantName = "a".parse().unwrap();
    assert_eq!(names(&store, &tenant).await, ["build 2", "report 2", "x 2"]);

    let build: WorkflowName = "build".parse().unwrap();
    let state = |deleted| {
        Write::WorkflowState(WorkflowStateRecord {
            tenant: tenant.clone(),
            workflow: build.clone(),
            paused: false,
            deleted,
            scheduled_until: None,
            version: 0,
        })
    };
    commit(&mut store, &[state(true)]).await;
    assert_eq!(names(&store, &tenant).await, ["report 2", "x 2"]);
    let reader = store.reader();
    let current = reader.workflow(&tenant, &build, None).await.unwrap();
    assert!(current.is_none());
    let old = reader.workflow(&tenant, &build, Some(1)).await.unwrap();
    assert_eq!(old.as_ref(), first.get(&(build.clone(), 1)));

    // Applied again: the numbers go on, and the list has it again.
    let third = WorkflowRecord {
        version: 3,
        ..old.unwrap()
    };
    commit(&mut store, &[state(false), Write::Workflow(third)]).await;
    assert_eq!(names(&store, &tenant).await, ["build 3", "report 2", "x 2"]);

    let mut versions = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = reader.versions(&tenant, &build, cursor.as_deref(), 2);
        let page = page.await.unwrap();
        versions.extend(page.items.iter().map(|row| row.version));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(versions, [3, 2, 1]);
    let bad = reader.versions(&tenant, &build, Some("x"), 2).await;
    assert!(bad.is_err());
}
