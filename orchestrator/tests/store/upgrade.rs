//! A database that an earlier version of the program wrote is brought to the present schema with everything in it.

use std::borrow::Cow;

use outpost_orchestrator::store::read::RunFilter;
use outpost_orchestrator::store::sqlite::{FILE, Sqlite};
use outpost_orchestrator_core::record::{Phase, RunState, Write};
use outpost_orchestrator_core::standing::Other;
use outpost_proto::name::TenantName;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection as _, SqlSafeStr as _, SqliteConnection};
use tempfile::TempDir;

const SCHEMA: &str = include_str!("../../migrations/0001_spine.sql");
/// Two versions of a workflow, a run that is over, a live one, a lost attempt, an agent, notices.
const DATA: &str = include_str!("data_1.sql");

/// A database of schema 1, made by its own migration.
async fn old() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(dir.path().join(FILE))
        .create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let sql = SCHEMA.into_sql_str();
    let spine = Migration::new(1, Cow::Borrowed("spine"), MigrationType::Simple, sql, false);
    let migrator = Migrator::with_migrations(vec![spine]);
    migrator.run(&mut connection).await.unwrap();
    sqlx::raw_sql(DATA).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    dir
}

#[tokio::test]
async fn everything_live_in_an_old_database_is_still_there() {
    let dir = old().await;
    let mut store = Sqlite::open(dir.path()).await.unwrap();
    let snapshot = store.snapshot(2_000_000).unwrap();
    assert_eq!(snapshot.recovery.database, 42);
    assert_eq!(snapshot.tenants.len(), 1);
    let versions: Vec<u32> = snapshot.workflows.iter().map(|one| one.version).collect();
    assert_eq!(
        versions,
        [1, 2],
        "the newest, and one that a live run is of"
    );
    let states: Vec<RunState> = snapshot.runs.iter().map(|run| run.state).collect();
    assert_eq!(states, [RunState::Failed, RunState::Running]);
    assert_eq!(snapshot.tasks.len(), 2);
    let [attempt] = &snapshot.attempts[..] else {
        panic!("{:?}", snapshot.attempts)
    };
    assert!(matches!(attempt.phase, Phase::Lost { .. }));
    assert_eq!(snapshot.agents[0].event_seq.0, 77);
    assert_eq!(snapshot.keys.len(), 1);
    store.close().unwrap();
    let mut again = Sqlite::open(dir.path()).await.unwrap();
    assert_eq!(again.snapshot(2_000_000).unwrap(), snapshot);
}

#[tokio::test]
async fn a_decision_between_two_holders_of_one_life_counts_as_a_former_version_wrote_it() {
    let dir = old().await;
    let path = dir.path().join(FILE);
    let sql =
        "UPDATE agent SET record = json_set(record, '$.standing', json('{\"forked\": true}'))";
    let changed = rusqlite::Connection::open(path).unwrap().execute(sql, []);
    assert_eq!(changed.unwrap(), 1);
    let mut store = Sqlite::open(dir.path()).await.unwrap();
    let agent = store.snapshot(2_000_000).unwrap().agents.remove(0);
    let other = Other {
        incarnation: agent.incarnation,
        until: 2_000_000,
    };
    assert_eq!(agent.standing.others, [other]);
    // Once it is written, the time stays.
    crate::commit(&mut store, &[Write::Agent(agent.clone())]).await;
    assert_eq!(store.snapshot(9_000_000).unwrap().agents, [agent]);
}

#[tokio::test]
async fn the_history_of_an_old_database_is_read_and_written_on() {
    let dir = old().await;
    let mut store = Sqlite::open(dir.path()).await.unwrap();
    let tenant: TenantName = "acme".parse().unwrap();
    let reader = store.reader();
    let all = RunFilter::default();
    let runs = reader.runs(&tenant, &all, None, 10).await.unwrap().items;
    assert_eq!(runs.len(), 3);
    let on_agent = RunFilter {
        agent: Some("site-1".parse().unwrap()),
        ..RunFilter::default()
    };
    let page = reader.runs(&tenant, &on_agent, None, 10).await.unwrap();
    assert_eq!(page.items, runs[2..]);
    let tree = reader.run(&tenant, runs[2].run).await.unwrap().unwrap();
    assert_eq!((tree.tasks.len(), tree.attempts.len()), (1, 1));
    let notices = reader.notices(&tenant, None, 0, 10).await.unwrap();
    let numbers: Vec<_> = notices.iter().map(|one| (one.seq, one.notice.at)).collect();
    assert_eq!(numbers, [(3, 100), (9, 200)]);
    assert!(store.clock().now().0 >= 200);

    let notice = Write::Notice(notices[0].notice.clone());
    crate::commit(&mut store, &[notice]).await;
    assert_eq!(reader.newest_notice(&tenant).await.unwrap(), 10);
}
