//! Every statement of the store is answered by an index: asserted on the plans that SQLite makes, with tables empty and
//! without statistics, as they are on the first day.

use outpost_orchestrator_core::record::RunState;
use rusqlite::Connection;

use super::{bounds, load, read, retention, runs, sqlite};

/// Tables that are read whole at a start because all of it can still change, and walks over an index that holds
/// nothing else.
const WHOLE: [&str; 7] = [
    "SCAN tenant",
    "SCAN workflow_state",
    "SCAN agent",
    "SCAN agent USING INDEX sqlite_autoindex_agent_1",
    "SCAN attempt USING INDEX attempt_unsettled",
    "SCAN run USING INDEX run_live",
    "SCAN workflow USING INDEX workflow_current",
];
/// Walks over what an earlier step made of a few rows.
const PASSING: [&str; 5] = [
    "SCAN wanted",
    "SCAN t",
    "SCAN newest",
    "SCAN CONSTANT ROW",
    "SCAN (subquery",
];

async fn database() -> (tempfile::TempDir, Connection) {
    let dir = tempfile::tempdir().unwrap();
    sqlite::Sqlite::create(dir.path(), 1).await.unwrap();
    let connection = Connection::open(dir.path().join(sqlite::FILE)).unwrap();
    (dir, connection)
}

fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let parameters = statement.parameter_count();
    let nothing = vec![rusqlite::types::Null; parameters];
    let steps = statement
        .query_map(rusqlite::params_from_iter(nothing), |row| row.get(3))
        .unwrap();
    steps.map(Result::unwrap).collect()
}

fn assert_indexed(connection: &Connection, sql: &str, whole: &[&str]) {
    let steps = plan(connection, sql);
    for step in &steps {
        assert!(!step.contains("TEMP B-TREE"), "{sql}\n{steps:#?}");
        let allowed = whole.contains(&step.as_str())
            || PASSING.iter().any(|passing| step.starts_with(passing));
        assert!(!step.starts_with("SCAN") || allowed, "{sql}\n{steps:#?}");
    }
}

fn filters() -> Vec<runs::RunFilter> {
    let states = [None, Some(RunState::Running), Some(RunState::Failed)];
    let mut filters = Vec::new();
    for state in states {
        for workflow in [None, Some("w".parse().unwrap())] {
            for agent in [None, Some("a".parse().unwrap())] {
                for scheduled in [None, Some(true), Some(false)] {
                    filters.push(runs::RunFilter {
                        workflow: workflow.clone(),
                        state,
                        agent: agent.clone(),
                        scheduled,
                    });
                }
            }
        }
    }
    filters
}

#[tokio::test]
async fn every_list_and_look_up_is_answered_by_an_index() {
    let (_dir, connection) = database().await;
    for filter in filters() {
        assert_indexed(&connection, &filter.sql(), &[]);
    }
    for sql in [
        read::RUN,
        read::TASKS_OF_RUN,
        read::ATTEMPTS_OF_RUN,
        read::ATTEMPT,
        read::WORKFLOWS,
        read::WORKFLOW_VERSION,
        read::WORKFLOW_CURRENT,
        read::VERSIONS,
        read::NOTICES,
        read::NOTICES_OF_RUN,
        read::NEWEST_NOTICE,
        bounds::NEWEST,
        bounds::NO_LATER_THAN,
    ] {
        assert_indexed(&connection, sql, &[]);
    }
}

#[tokio::test]
async fn a_start_reads_what_is_live_and_nothing_else() {
    let (_dir, connection) = database().await;
    for sql in [
        load::TENANTS,
        load::STATES,
        load::AGENTS,
        load::INVITES,
        load::KEYS,
        load::UNSETTLED,
        load::UNSETTLED_OF_RUN,
        load::LIVE_RUNS,
        load::RUN,
        load::TASKS,
        load::CURRENT,
        load::VERSION,
        sqlite::NEWEST,
    ] {
        assert_indexed(&connection, sql, &WHOLE);
    }
}

#[tokio::test]
async fn what_is_deleted_is_found_by_an_index() {
    let (_dir, connection) = database().await;
    for sql in [
        retention::TENANTS,
        retention::NOTICES,
        retention::KEYS,
        retention::INVITES,
        retention::RUNS,
        retention::ATTEMPTS,
        retention::TASKS,
        retention::RUN,
    ] {
        assert_indexed(&connection, sql, &[]);
    }
}

#[tokio::test]
async fn every_write_finds_its_row_by_an_index() {
    let (_dir, connection) = database().await;
    for sql in super::write::STATEMENTS {
        assert_indexed(&connection, sql, &[]);
    }
}
