//! Tenants and tokens: administered by people on the same file while the server runs, read by the server on every
//! request, known to no core.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use outpost_proto::name::TenantName;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use serde::Serialize;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{FromRow, Row};

use super::{OpenError, StoreError, sqlite};

/// What is stored of an API token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenRow {
    /// Its public part, 12 hex digits.
    pub id: String,
    /// SHA-256 of its secret, in hex.
    #[serde(skip)]
    pub hash: String,
    /// Whose; `None` for an administrator of the platform.
    pub tenant: Option<TenantName>,
    /// `viewer`, `author`, `operator` or `admin`.
    pub role: String,
    /// For people.
    pub label: String,
    /// Microseconds since 1970.
    pub created_at: u64,
    /// Of no use from then on.
    pub expires_at: u64,
    /// When it was revoked.
    pub revoked_at: Option<u64>,
}

/// A tenant as administered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TenantRow {
    /// Its name.
    pub tenant: TenantName,
    /// Microseconds since 1970.
    pub created_at: u64,
}

/// Why a token was not stored.
#[derive(Debug, thiserror::Error)]
pub enum InsertTokenError {
    /// Tokens belong to tenants that exist.
    #[error("there is no tenant `{0}`; make it with `outpost-orchestrator tenant create {0}`")]
    UnknownTenant(TenantName),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Administration of tenants and tokens. Cheap to clone; its connections are apart from the driver's.
#[derive(Debug, Clone)]
pub struct Access {
    pub(super) pool: SqlitePool,
    path: PathBuf,
    /// Only looks tokens up, once it was asked to.
    looks: Arc<Mutex<Option<Connection>>>,
}

impl Access {
    /// Opens the database in `dir`, which must exist and be of this program's schema.
    ///
    /// # Errors
    /// When there is none, or it is of another version.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = sqlite::existing(dir)?;
        super::migrate::check(&path).await?;
        Ok(Self::on(&path))
    }

    pub(super) fn on(path: &Path) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(sqlite::options(path));
        Self {
            pool,
            path: path.to_owned(),
            looks: Arc::default(),
        }
    }

    /// Makes a tenant; `false` when there is one of that name.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn create_tenant(&self, tenant: &TenantName, now: u64) -> Result<bool, StoreError> {
        const SQL: &str =
            "INSERT INTO tenant(tenant, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        let done = sqlx::query(SQL)
            .bind(tenant.as_str())
            .bind(signed(now))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// All tenants, by name.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_tenants(&self) -> Result<Vec<TenantRow>, StoreError> {
        const SQL: &str = "SELECT tenant, created_at FROM tenant ORDER BY tenant";
        Ok(sqlx::query_as(SQL).fetch_all(&self.pool).await?)
    }

    /// Whether there is a tenant of that name.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn tenant_exists(&self, tenant: &TenantName) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT 1 FROM tenant WHERE tenant = ?1";
        Ok(sqlx::query(SQL)
            .bind(tenant.as_str())
            .fetch_optional(&self.pool)
            .await?
            .is_some())
    }

    /// Stores a new token.
    ///
    /// # Errors
    /// When its tenant does not exist.
    pub async fn insert_token(&self, token: &TokenRow) -> Result<(), InsertTokenError> {
        const SQL: &str = "INSERT INTO token(id, hash, tenant, role, label, created_at, expires_at, revoked_at) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        if let Some(tenant) = &token.tenant
            && !self.tenant_exists(tenant).await?
        {
            return Err(InsertTokenError::UnknownTenant(tenant.clone()));
        }
        sqlx::query(SQL)
            .bind(&token.id)
            .bind(&token.hash)
            .bind(token.tenant.as_ref().map(TenantName::as_str))
            .bind(&token.role)
            .bind(&token.label)
            .bind(signed(token.created_at))
            .bind(signed(token.expires_at))
            .bind(token.revoked_at.map(signed))
            .execute(&self.pool)
            .await
            .map_err(StoreError::from)?;
        Ok(())
    }

    /// The token with this hash, revoked and expired ones too. On the caller's thread: a request waits for it, and the
    /// few pages it looks at are in memory, so that handing it to another thread would cost ten times as much.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRow>, StoreError> {
        const SQL: &str = "SELECT id, hash, tenant, role, label, created_at, expires_at, revoked_at \
                           FROM token WHERE hash = ?1";
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match looks.take() {
            Some(connection) => connection,
            None => look_at(&self.path)?,
        };
        let found = connection
            .prepare_cached(SQL)?
            .query_row([hash], token_row)
            .optional()?;
        // One that failed is not used again.
        *looks = Some(connection);
        Ok(found)
    }

    /// The tokens of a tenant, or with `None` all tokens; newest first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list_tokens(
        &self,
        tenant: Option<&TenantName>,
    ) -> Result<Vec<TokenRow>, StoreError> {
        const SQL: &str = "SELECT id, hash, tenant, role, label, created_at, expires_at, revoked_at FROM token \
                           WHERE ?1 IS NULL OR tenant = ?1 ORDER BY created_at DESC, id LIMIT 10000";
        Ok(sqlx::query_as(SQL)
            .bind(tenant.map(TenantName::as_str))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Ends a token of a tenant, or with `None` any token; `false` when there is no such token that still holds.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn revoke_token(
        &self,
        tenant: Option<&TenantName>,
        id: &str,
        now: u64,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "UPDATE token SET revoked_at = ?3 \
                           WHERE id = ?2 AND (?1 IS NULL OR tenant = ?1) AND revoked_at IS NULL";
        let query = sqlx::query(SQL)
            .bind(tenant.map(TenantName::as_str))
            .bind(id)
            .bind(signed(now));
        Ok(query.execute(&self.pool).await?.rows_affected() == 1)
    }

    /// Gives the connections back.
    pub async fn close(&self) {
        self.looks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.pool.close().await;
    }
}

fn look_at(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(sqlite::BUSY)?;
    Ok(connection)
}

fn token_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<TokenRow> {
    let tenant: Option<String> = row.get(2)?;
    let tenant = tenant.map(|text| text.parse()).transpose();
    Ok(TokenRow {
        id: row.get(0)?,
        hash: row.get(1)?,
        tenant: tenant.map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(
                2,
                rusqlite::types::Type::Text,
                Box::new(error),
            )
        })?,
        role: row.get(3)?,
        label: row.get(4)?,
        created_at: unsigned(row.get(5)?),
        expires_at: unsigned(row.get(6)?),
        revoked_at: row.get::<_, Option<i64>>(7)?.map(unsigned),
    })
}

impl FromRow<'_, SqliteRow> for TenantRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            tenant: tenant(row.try_get("tenant")?)?,
            created_at: unsigned(row.try_get("created_at")?),
        })
    }
}

impl FromRow<'_, SqliteRow> for TokenRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            hash: row.try_get("hash")?,
            tenant: row
                .try_get::<Option<&str>, _>("tenant")?
                .map(tenant)
                .transpose()?,
            role: row.try_get("role")?,
            label: row.try_get("label")?,
            created_at: unsigned(row.try_get("created_at")?),
            expires_at: unsigned(row.try_get("expires_at")?),
            revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(unsigned),
        })
    }
}

fn tenant(text: &str) -> sqlx::Result<TenantName> {
    text.parse()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// SQLite's integers are signed; times fit for 292,000 years.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back; nothing negative is ever written.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
