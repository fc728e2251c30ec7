//! Backups and restores of the file.

use std::path::PathBuf;

use outpost_orchestrator::store::backup::{BackupError, backup, restore};
use outpost_orchestrator_core::record::{AgentRecord, TenantRecord};
use outpost_orchestrator_core::safety::Safety;
use outpost_proto::name::TenantName;

use super::*;

const NOW: u64 = 1_700_000_000_000_000;

fn restored_notices(dir: &Path) -> i64 {
    let connection = rusqlite::Connection::open(dir.join(FILE)).unwrap();
    let sql = "SELECT count(*) FROM notice WHERE record LIKE '%' || ?1 || '%'";
    let word = format!("\"what\":\"{}\"", Safety::Restored.word());
    connection.query_row(sql, [word], |row| row.get(0)).unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_of_an_open_database_is_whole_and_ours_alone() {
    let (dir, mut store) = made().await;
    let mut writes = Writes::new(5);
    for _ in 0..10 {
        commit(&mut store, &writes.burst()).await;
    }
    let now = writes.now;
    let before = store.snapshot(now).unwrap();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("a.db");
    let bytes = backup(dir.path(), &file).unwrap();
    assert_eq!(bytes, file.metadata().unwrap().len());
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(files(out.path()), ["a.db"], "nothing is left beside it");
    // What comes after is not in it.
    commit(&mut store, &writes.burst()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(&file, elsewhere.path().join(FILE)).unwrap();
    let mut copied = Sqlite::open(elsewhere.path()).await.unwrap();
    assert_eq!(copied.snapshot(now).unwrap(), before);
    assert!(matches!(
        backup(dir.path(), &file),
        Err(BackupError::Exists(_))
    ));
    let nowhere = PathBuf::from("/nowhere/at/all");
    assert!(matches!(
        backup(&nowhere, &file),
        Err(BackupError::Exists(_) | BackupError::Open(_))
    ));
}

#[tokio::test]
async fn a_restore_begins_another_life_and_keeps_what_was_there() {
    let (dir, mut store) = made().await;
    let mut writes = Writes::new(7);
    commit(&mut store, &writes.tenants()).await;
    commit(&mut store, &writes.burst()).await;
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("a.db");
    backup(dir.path(), &file).unwrap();
    let before = store.snapshot(writes.now).unwrap();
    commit(&mut store, &writes.burst()).await;
    store.close().unwrap();
    let refused = restore(dir.path(), &file, (0, 3), false, NOW).await;
    assert!(
        matches!(refused, Err(BackupError::InTheWay(_))),
        "{refused:?}"
    );
    let restored = restore(dir.path(), &file, (0, 3), true, NOW).await.unwrap();
    let life = RecoveryEpoch {
        counter: 2,
        database: 3,
    };
    assert_eq!(restored.recovery, life);
    assert!(restored.aside.unwrap().exists());
    let mut store = Sqlite::open(dir.path()).await.unwrap();
    let after = store.snapshot(writes.now).unwrap();
    assert_eq!((after.recovery, after.restored_at), (life, Some(NOW)));
    assert_eq!(
        (&after.runs, &after.attempts),
        (&before.runs, &before.attempts)
    );
    for (was, is) in before.tenants.iter().zip(&after.tenants) {
        assert!(
            is.next_fence.0 >= was.next_fence.0 + (1 << 32),
            "fences leap"
        );
    }
    store.close().unwrap();
    assert!(restored_notices(dir.path()) > 0, "it is told");
    // The same backup once more: the life of the database that is there counts too.
    let again = restore(dir.path(), &file, (0, 4), true, NOW + 2_000_000)
        .await
        .unwrap();
    assert_eq!(again.recovery.counter, 3);
    let told = restore(dir.path(), &file, (40, 5), true, NOW + 4_000_000)
        .await
        .unwrap();
    assert_eq!(told.recovery.counter, 40);
}

#[tokio::test]
async fn a_damaged_backup_changes_nothing() {
    let (dir, mut store) = made().await;
    let mut writes = Writes::new(9);
    for _ in 0..10 {
        commit(&mut store, &writes.burst()).await;
    }
    store.close().unwrap();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("a.db");
    backup(dir.path(), &file).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    let present = std::fs::read(dir.path().join(FILE)).unwrap();
    assert!(restore(dir.path(), &file, (0, 3), true, NOW).await.is_err());
    assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), present);
    let missing = out.path().join("b.db");
    let refused = restore(dir.path(), &missing, (0, 3), true, NOW).await;
    assert!(matches!(refused, Err(BackupError::Missing(_))));
}

/// A database, a backup of it, and what came after the backup.
async fn made_and_saved() -> (tempfile::TempDir, tempfile::TempDir, PathBuf) {
    let (dir, mut store) = made().await;
    let mut writes = Writes::new(11);
    commit(&mut store, &writes.tenants()).await;
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("a.db");
    backup(dir.path(), &file).unwrap();
    commit(&mut store, &writes.burst()).await;
    store.close().unwrap();
    (dir, out, file)
}

#[tokio::test]
async fn a_restore_works_whatever_the_database_that_is_there_has_become() {
    let damages: [fn(&Path); 4] = [
        |path| std::fs::write(path, b"").unwrap(),
        |path| std::fs::write(path, vec![0xa5; 70_000]).unwrap(),
        |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[100..8192].fill(0xff);
            std::fs::write(path, bytes).unwrap();
        },
        |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
        },
    ];
    for (nth, damage) in damages.into_iter().enumerate() {
        let (dir, _out, file) = made_and_saved().await;
        let path = dir.path().join(FILE);
        damage(&path);
        let present = std::fs::read(&path).unwrap();
        let restored = restore(dir.path(), &file, (0, 3), true, NOW).await;
        let restored = restored.unwrap_or_else(|error| panic!("{nth}: {error}"));
        let aside = restored.aside.unwrap();
        let name = aside.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(name, "outpost.db.before-restore-20231114T221320Z", "{nth}");
        if nth < 2 {
            assert_eq!(std::fs::read(&aside).unwrap(), present, "{nth}");
        }
        assert!(restored.recovery.counter >= 2, "{nth}");
        let store = Sqlite::open(dir.path()).await.unwrap();
        store.close().unwrap();
        assert!(!dir.path().join("restoring").exists());
    }
}

#[tokio::test]
async fn a_life_that_cannot_be_read_is_leapt_over() {
    let (dir, _out, file) = made_and_saved().await;
    for (now, database) in [(NOW, 3), (NOW + 1, 4)] {
        restore(dir.path(), &file, (0, database), true, now)
            .await
            .unwrap();
    }
    std::fs::write(dir.path().join(FILE), vec![7; 9000]).unwrap();
    // The one before is aside, with a counter of 2; the one that was there had 3.
    let restored = restore(dir.path(), &file, (0, 5), true, NOW + 2)
        .await
        .unwrap();
    assert!(restored.recovery.counter > 1000);
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    let missing = restore(dir.path(), &file, (0, 6), false, NOW + 3)
        .await
        .unwrap();
    assert!(missing.recovery.counter > 1000, "it is aside and unread");
    assert_eq!(missing.aside, None);
}

#[tokio::test]
async fn a_restore_that_was_interrupted_leaps_over_what_it_set_aside() {
    let (dir, _out, file) = made_and_saved().await;
    std::fs::write(dir.path().join(FILE), vec![7; 9000]).unwrap();
    // As after a crash between setting aside and giving the new one its name.
    let aside = format!("{FILE}.before-restore-20231114T221320Z");
    std::fs::rename(dir.path().join(FILE), dir.path().join(aside)).unwrap();
    let restored = restore(dir.path(), &file, (0, 3), false, NOW)
        .await
        .unwrap();
    assert!(restored.recovery.counter > 1000, "{restored:?}");
}

#[tokio::test]
async fn after_a_leap_it_still_counts_what_agents_told_under_the_backups_own_life() {
    let (dir, mut store) = made().await;
    let tenant: TenantName = "acme".parse().unwrap();
    let bank = AgentRecord::enrolled(tenant.clone(), "bank".parse().unwrap(), "key".into(), 1);
    let writes = [
        Write::Tenant(TenantRecord::new(tenant)),
        Write::Agent(bank.clone()),
    ];
    commit(&mut store, &writes).await;
    store.close().unwrap();
    let out = tempfile::tempdir().unwrap();
    let files = ["a.db", "b.db"].map(|name| out.path().join(name));
    backup(dir.path(), &files[0]).unwrap();
    let first = restore(dir.path(), &files[0], (40, 3), true, NOW).await;
    assert_eq!(first.unwrap().recovery.counter, 40);
    let mut store = Sqlite::open(dir.path()).await.unwrap();
    let mut told = bank;
    told.standing.reported = 40;
    commit(&mut store, &[Write::Agent(told)]).await;
    store.close().unwrap();
    backup(dir.path(), &files[1]).unwrap();
    let second = restore(dir.path(), &files[1], (90, 4), true, NOW + 1).await;
    assert_eq!(second.unwrap().recovery.counter, 90);
    let mut store = Sqlite::open(dir.path()).await.unwrap();
    let tenants = store.snapshot(NOW + 1).unwrap().tenants;
    assert_eq!(tenants[0].known.len(), 1, "{:?}", tenants[0].known);
}

#[tokio::test]
async fn a_log_without_its_database_does_not_become_the_new_ones() {
    let (dir, _out, file) = made_and_saved().await;
    let (path, log) = (dir.path().join(FILE), dir.path().join("outpost.db-wal"));
    std::fs::remove_file(path).unwrap();
    std::fs::write(&log, b"of another").unwrap();
    let restored = restore(dir.path(), &file, (0, 3), false, NOW)
        .await
        .unwrap();
    let mut aside = restored.aside.unwrap().into_os_string();
    aside.push("-wal");
    assert_eq!(std::fs::read(aside).unwrap(), b"of another");
    Sqlite::open(dir.path()).await.unwrap().close().unwrap();
}
