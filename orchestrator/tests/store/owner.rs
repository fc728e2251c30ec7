//! Two processes on one database: only the one that took it last writes.

use outpost_driver::CommitError;
use outpost_orchestrator::store::backup::{backup, restore};
use outpost_orchestrator_core::event::{Call, Denied, Speech};

use super::*;

const NOW: u64 = 1_700_000_000_000_000;

async fn refused(store: &mut Sqlite, writes: &[Write], speech: Vec<Speech>) -> String {
    let effects = Effects {
        writes: writes.to_vec(),
        speech,
    };
    match store.commit(&effects).await {
        Err(CommitError::Fatal(why)) => why,
        other => other.map(|()| String::new()).unwrap(),
    }
}

#[tokio::test]
async fn c5_a_process_that_was_overtaken_writes_and_says_nothing_more() {
    let (dir, mut former) = made().await;
    former.own(1).unwrap();
    let mut writes = Writes::new(5);
    let mut mirror = Mirror::default();
    let burst = writes.burst();
    commit(&mut former, &burst).await;
    burst.iter().for_each(|write| mirror.apply(write));

    let mut present = Sqlite::open(dir.path()).await.unwrap();
    present.own(2).unwrap();
    let why = refused(&mut former, &burst, Vec::new()).await;
    assert!(why.contains("another orchestrator took over"), "{why}");
    assert!(why.contains("fence 2, this one has fence 1"), "{why}");
    // A lease is said without a write: not by this one any more either.
    let said = Speech::Answer {
        call: Call(1),
        answer: Err(Denied::NotFrozen),
    };
    refused(&mut former, &[], vec![said]).await;

    let burst = writes.burst();
    commit(&mut present, &burst).await;
    burst.iter().for_each(|write| mirror.apply(write));
    let stored = present.snapshot(writes.now).unwrap();
    assert_eq!(stored.runs, mirror.snapshot(Micros(writes.now)).runs);
}

#[tokio::test]
async fn c5_nobody_owns_a_restored_database_until_it_is_taken() {
    let (dir, mut store) = made().await;
    store.own(1).unwrap();
    commit(&mut store, &Writes::new(6).burst()).await;
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    backup(dir.path(), &copy).unwrap();
    restore(copies.path(), &copy, (0, 77), false, NOW)
        .await
        .unwrap();
    let owners = |path: &Path| -> i64 {
        let connection = rusqlite::Connection::open(path.join(FILE)).unwrap();
        let sql = "SELECT count(*) FROM meta WHERE key = 'owner'";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!((owners(dir.path()), owners(copies.path())), (1, 0));
}

#[tokio::test]
async fn c5_a_server_whose_database_was_set_aside_by_a_restore_writes_nothing_more() {
    let (dir, mut store) = made().await;
    store.own(1).unwrap();
    let mut writes = Writes::new(7);
    commit(&mut store, &writes.burst()).await;
    let copies = tempfile::tempdir().unwrap();
    let copy = copies.path().join("copy.db");
    backup(dir.path(), &copy).unwrap();
    let restored = restore(dir.path(), &copy, (0, 77), true, NOW).await;
    assert!(restored.unwrap().aside.is_some());
    let why = refused(&mut store, &writes.burst(), Vec::new()).await;
    assert!(why.contains("it was restored since"), "{why}");
}
