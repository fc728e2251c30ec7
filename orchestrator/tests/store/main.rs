//! The store against the memory it must equal: random bursts, reopened files, other versions, pages.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use outpost_driver::{Effects, Micros, Store as _};
use outpost_orchestrator::store::OpenError;
use outpost_orchestrator::store::access::{InsertTokenError, TokenRow};
use outpost_orchestrator::store::sqlite::{FILE, Sqlite};
use outpost_orchestrator_core::mirror::Mirror;
use outpost_orchestrator_core::record::{Notice, NoticeKind, RunState, Write};
use outpost_proto::ids::{RecoveryEpoch, RunId};
use tempfile::TempDir;

mod backups;
mod history;
mod lists;
mod owner;
mod upgrade;
mod writes;
use writes::Writes;

const DATABASE: u64 = u64::MAX - 7;

async fn made() -> (TempDir, Sqlite) {
    let dir = tempfile::tempdir().unwrap();
    Sqlite::create(dir.path(), DATABASE).await.unwrap();
    let store = Sqlite::open(dir.path()).await.unwrap();
    (dir, store)
}

async fn commit(store: &mut Sqlite, writes: &[Write]) {
    let effects = Effects {
        writes: writes.to_vec(),
        speech: Vec::new(),
    };
    store.commit(&effects).await.unwrap();
}

#[tokio::test]
async fn what_is_read_back_is_what_a_mirror_holds() {
    for seed in 1..=8 {
        let (dir, mut store) = made().await;
        let recovery = RecoveryEpoch {
            counter: 1,
            database: DATABASE,
        };
        let mut mirror = Mirror {
            recovery,
            ..Mirror::default()
        };
        let mut writes = Writes::new(seed);
        for burst in 0..40 {
            let batch = writes.burst();
            commit(&mut store, &batch).await;
            batch.iter().for_each(|write| mirror.apply(write));
            if burst % 10 == 9 {
                store.close().unwrap();
                store = Sqlite::open(dir.path()).await.unwrap();
            }
            for now in [
                0,
                writes.now,
                writes.now + 86_400_000_000,
                writes.now + 172_800_000_000,
                writes.now + 180_000_000_000,
            ] {
                let (stored, mirrored) =
                    (store.snapshot(now).unwrap(), mirror.snapshot(Micros(now)));
                assert_eq!(stored, mirrored, "seed {seed}, burst {burst}, now {now}");
            }
        }
        assert!(
            !mirror.attempts.is_empty() && !mirror.keys.is_empty(),
            "seed {seed} tries too little"
        );
    }
}

#[tokio::test]
async fn a_burst_is_stored_whole_or_not_at_all() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(3);
    commit(&mut store, &writes.tenants()).await;
    let before = store.snapshot(0).unwrap();
    // The second write refers to a workflow that does not exist.
    let mut burst = writes.tenants();
    burst.push(Write::Run(writes.orphan()));
    let effects = Effects {
        writes: burst,
        speech: Vec::new(),
    };
    store.commit(&effects).await.unwrap_err();
    assert_eq!(store.snapshot(0).unwrap(), before);
    // And the store goes on afterwards.
    commit(&mut store, &writes.burst()).await;
}

#[tokio::test]
async fn what_was_committed_survives_without_a_close() {
    let (dir, mut store) = made().await;
    let mut writes = Writes::new(5);
    let burst = writes.burst();
    commit(&mut store, &burst).await;
    let before = store.snapshot(writes.now).unwrap();
    // The file as a killed process leaves it: the write-ahead log is still beside it.
    let copy = tempfile::tempdir().unwrap();
    for name in [FILE, "outpost.db-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let mut again = Sqlite::open(copy.path()).await.unwrap();
    assert_eq!(again.snapshot(writes.now).unwrap(), before);
}

#[tokio::test]
async fn a_newer_database_is_refused_and_not_touched() {
    let (dir, store) = made().await;
    store.close().unwrap();
    pretend_newer(dir.path()).await;
    let path = dir.path().join(FILE);
    let before = std::fs::read(&path).unwrap();
    let error = Sqlite::open(dir.path()).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { found: 9999, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

async fn pretend_newer(dir: &Path) {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join(FILE));
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let sql = "INSERT INTO _sqlx_migrations(version, description, success, checksum, execution_time) \
               VALUES (9999, 'later', 1, x'00', 0)";
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    let (dir, mut store) = made().await;
    commit(&mut store, &Writes::new(1).tenants()).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path()), 0o700);
    for name in [FILE, "outpost.db-wal", "outpost.db-shm"] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn making_it_twice_is_refused() {
    let (dir, store) = made().await;
    store.close().unwrap();
    let before = std::fs::read(dir.path().join(FILE)).unwrap();
    assert!(matches!(
        Sqlite::create(dir.path(), 1).await,
        Err(OpenError::Exists(_))
    ));
    assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Sqlite::open(empty.path()).await,
        Err(OpenError::Missing(_))
    ));
}

#[tokio::test]
async fn one_that_could_not_be_made_leaves_nothing_that_looks_like_one() {
    let dir = tempfile::tempdir().unwrap();
    // Where SQLite wants a file of its own.
    let in_the_way = dir.path().join("outpost.db-wal");
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(Sqlite::create(dir.path(), 1).await.is_err());
    assert!(!dir.path().join(FILE).exists());
    std::fs::remove_dir(&in_the_way).unwrap();
    Sqlite::create(dir.path(), 1).await.unwrap();
}

#[tokio::test]
async fn a_tenant_sees_its_own_things_only() {
    let (_dir, mut store) = made().await;
    let mut writes = Writes::new(23);
    let mut runs = BTreeMap::new();
    for _ in 0..60 {
        let burst = writes.burst();
        commit(&mut store, &burst).await;
        for write in burst {
            if let Write::Run(run) = write {
                runs.insert(run.run, run.tenant);
            }
        }
    }
    let reader = store.reader();
    for (run, owner) in runs {
        for tenant in writes.tenant_names() {
            let tree = reader.run(&tenant, run).await.unwrap();
            assert_eq!(tree.is_some(), tenant == owner);
            let Some(tree) = tree else { continue };
            assert_eq!(tree.workflow.version, tree.run.version);
            assert!(tree.tasks.iter().all(|task| task.run == run));
            for attempt in tree.attempts {
                assert_eq!(attempt.run, run);
                for tenant in writes.tenant_names() {
                    let found = reader.attempt(&tenant, attempt.attempt).await.unwrap();
                    assert_eq!(found.is_some(), tenant == owner);
                }
            }
        }
    }
    for tenant in writes.tenant_names() {
        let page = reader.workflows(&tenant, None, 1000).await.unwrap();
        for workflow in page.items {
            assert_eq!(workflow.tenant, tenant);
            let current = reader
                .workflow(&tenant, &workflow.spec.name, None)
                .await
                .unwrap();
            assert_eq!(current.unwrap(), workflow);
            let first = reader
                .workflow(&tenant, &workflow.spec.name, Some(1))
                .await
                .unwrap();
            assert_eq!(first.unwrap().version, 1);
        }
    }
}

#[tokio::test]
async fn notices_are_numbered_in_commit_order_and_wake_their_tenant() {
    let (_dir, mut store) = made().await;
    let (a, b): (outpost_proto::name::TenantName, _) = ("a".parse().unwrap(), "b".parse().unwrap());
    let hub = store.hub();
    let (seen_a, seen_b) = (hub.watch(&a), hub.watch(&b));
    let notice = |tenant: &outpost_proto::name::TenantName, run: u128, at| {
        let workflow = "w".parse().unwrap();
        let what = NoticeKind::Run {
            run: RunId(run),
            workflow,
            state: RunState::Running,
        };
        Write::Notice(Notice {
            tenant: tenant.clone(),
            at,
            what,
        })
    };
    commit(
        &mut store,
        &[notice(&a, 3, 10), notice(&a, 2, 11), notice(&a, 1, 12)],
    )
    .await;
    assert!(seen_a.has_changed().unwrap() && !seen_b.has_changed().unwrap());
    commit(&mut store, &[notice(&b, 1, 13)]).await;
    assert!(seen_b.has_changed().unwrap());

    let reader = store.reader();
    let all = reader.notices(&a, None, 0, 100).await.unwrap();
    assert_eq!(
        all.iter().map(|one| one.notice.at).collect::<Vec<_>>(),
        [10, 11, 12]
    );
    assert!(all.windows(2).all(|two| two[0].seq < two[1].seq));
    assert_eq!(reader.newest_notice(&a).await.unwrap(), all[2].seq);
    assert_eq!(*seen_a.borrow(), all[2].seq);
    let of_run = reader
        .notices(&a, Some(RunId(1)), all[0].seq, 100)
        .await
        .unwrap();
    assert_eq!(
        of_run.iter().map(|one| one.notice.at).collect::<Vec<_>>(),
        [12]
    );
    assert!(
        reader
            .notices(&b, Some(RunId(2)), 0, 100)
            .await
            .unwrap()
            .is_empty()
    );

    // The clock begins no earlier than the newest thing stored, and what is old goes in the end.
    store.prune().unwrap();
    assert_eq!(
        reader.notices(&b, None, 0, 100).await.unwrap().len(),
        1,
        "the newest notice stays"
    );
    assert!(reader.notices(&a, None, 0, 100).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_clock_never_begins_before_what_is_stored() {
    let (dir, mut store) = made().await;
    let ahead = store.clock().now().0 + 3_600_000_000;
    let what = NoticeKind::Run {
        run: RunId(1),
        workflow: "w".parse().unwrap(),
        state: RunState::Running,
    };
    let notice = Notice {
        tenant: "a".parse().unwrap(),
        at: ahead,
        what,
    };
    commit(&mut store, &[Write::Notice(notice)]).await;
    store.close().unwrap();
    let store = Sqlite::open(dir.path()).await.unwrap();
    assert!(store.clock().now().0 >= ahead);
}

#[tokio::test]
async fn tokens_are_found_listed_and_revoked() {
    let (_dir, store) = made().await;
    let access = store.access();
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    assert!(access.create_tenant(&a, 1).await.unwrap());
    assert!(!access.create_tenant(&a, 2).await.unwrap());
    let token = |id: &str, tenant: &outpost_proto::name::TenantName| TokenRow {
        id: id.into(),
        hash: format!("hash of {id}"),
        tenant: Some(tenant.clone()),
        role: "viewer".into(),
        label: "test".into(),
        created_at: 5,
        expires_at: 6,
        revoked_at: None,
    };
    let (first, second) = (token("000000000001", &a), token("000000000002", &a));
    access.insert_token(&first).await.unwrap();
    access.insert_token(&second).await.unwrap();
    access.insert_token(&first).await.unwrap_err();
    let unknown = access
        .insert_token(&token("000000000003", &b))
        .await
        .unwrap_err();
    assert!(
        matches!(unknown, InsertTokenError::UnknownTenant(_)),
        "{unknown}"
    );

    assert_eq!(
        access.token_by_hash(&first.hash).unwrap(),
        Some(first.clone())
    );
    assert_eq!(access.token_by_hash("").unwrap(), None);
    assert_eq!(
        access.list_tokens(Some(&a)).await.unwrap(),
        [first.clone(), second]
    );
    assert!(access.list_tokens(Some(&b)).await.unwrap().is_empty());
    assert_eq!(access.list_tokens(None).await.unwrap().len(), 2);

    assert!(
        !access.revoke_token(Some(&b), &first.id, 9).await.unwrap(),
        "another tenant's"
    );
    assert!(access.revoke_token(Some(&a), &first.id, 9).await.unwrap());
    assert!(
        !access.revoke_token(None, &first.id, 10).await.unwrap(),
        "revoked already"
    );
    assert_eq!(
        access
            .token_by_hash(&first.hash)
            .unwrap()
            .unwrap()
            .revoked_at,
        Some(9)
    );
}
