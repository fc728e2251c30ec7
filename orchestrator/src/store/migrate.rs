//! Brings a database to the schema of this program, and refuses one that a newer program wrote.

use std::borrow::Cow;
use std::path::Path;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection, SqlSafeStr, SqliteConnection};

use super::{OpenError, sqlite};

/// The newest schema this program knows.
pub const SCHEMA_VERSION: i64 = 4;

const MIGRATIONS: [(i64, &str, &str); 4] = [
    (1, "spine", include_str!("../../migrations/0001_spine.sql")),
    (
        2,
        "surface",
        include_str!("../../migrations/0002_surface.sql"),
    ),
    (
        3,
        "bursts",
        include_str!("../../migrations/0003_bursts.sql"),
    ),
    (
        4,
        "fewer_pages",
        include_str!("../../migrations/0004_fewer_pages.sql"),
    ),
];

const FOUND: &str = "SELECT max(version) FROM _sqlx_migrations";
const HAS_SCHEMA: &str = "SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'";

/// Looks, through a connection that cannot write, whether this program may use the database.
pub(super) async fn check(path: &Path) -> Result<(), OpenError> {
    let refused = |error: sqlx::Error| OpenError::sqlite(path, error);
    let options = sqlite::options(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .map_err(refused)?;
    let found = version(&mut connection).await.map_err(refused)?;
    connection.close().await.map_err(refused)?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

async fn version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    if sqlx::query(HAS_SCHEMA)
        .fetch_optional(&mut *connection)
        .await?
        .is_none()
    {
        return Ok(0);
    }
    Ok(sqlx::query_scalar::<_, Option<i64>>(FOUND)
        .fetch_one(connection)
        .await?
        .unwrap_or(0))
}

/// Applies what is missing, each migration in a transaction of its own. The connection is its own too: tables that
/// others refer to are rebuilt, so that foreign keys are off in it.
pub(super) async fn run(path: &Path) -> Result<(), OpenError> {
    let refused = |error: sqlx::Error| OpenError::sqlite(path, error);
    let options = sqlite::options(path)
        .foreign_keys(false)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .map_err(refused)?;
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(
            version,
            Cow::Borrowed(name),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    let migrator = Migrator::with_migrations(migrations.into());
    migrator
        .run(&mut connection)
        .await
        .map_err(|error| OpenError::Migrate {
            path: path.to_owned(),
            error,
        })?;
    connection.close().await.map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_version_is_the_last_migrations() {
        let versions: Vec<i64> = MIGRATIONS.iter().map(|(version, ..)| *version).collect();
        assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
    }
}
