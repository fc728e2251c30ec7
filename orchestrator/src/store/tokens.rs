//! Tokens as their tenant's administrators see and end them through the REST interface.

use outpost_proto::name::TenantName;

use super::StoreError;
use super::access::{Access, TokenRow, signed};
use super::page::{PAGE, Page, page};

const PAGE_OF_TOKENS: &str = "SELECT id, hash, tenant, role, label, created_at, expires_at, revoked_at FROM token \
     WHERE tenant = ?1 AND (created_at, id) < (?2, ?3) ORDER BY created_at DESC, id DESC LIMIT ?4";
/// An administrator's token that holds is ended only if there is another one.
const REVOKE: &str = "UPDATE token SET revoked_at = ?3 \
     WHERE id = ?2 AND (?1 IS NULL OR tenant = ?1) AND revoked_at IS NULL \
     AND (role <> 'admin' OR tenant IS NULL OR expires_at <= ?3 OR EXISTS ( \
         SELECT 1 FROM token AS other WHERE other.tenant = token.tenant AND other.role = 'admin' \
         AND other.id <> token.id AND other.revoked_at IS NULL AND other.expires_at > ?3))";
const HOLDS: &str =
    "SELECT 1 FROM token WHERE id = ?2 AND (?1 IS NULL OR tenant = ?1) AND revoked_at IS NULL";

/// What became of a token that was to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// It ended.
    Done,
    /// There is no such token that has not been revoked.
    Unknown,
    /// It is the last administrator's of its tenant: it stays.
    LastAdmin,
}

impl Access {
    /// The tokens of a tenant, newest first; at most [`PAGE`] at once. `cursor` is an earlier page's `next`.
    ///
    /// # Errors
    /// [`StoreError::BadCursor`] and the database's own.
    pub async fn page_of_tokens(
        &self,
        tenant: &TenantName,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<TokenRow>, StoreError> {
        let (before, id) = cursor.map_or(Ok((i64::MAX, "g".to_owned())), place)?;
        let limit = limit.clamp(1, PAGE);
        let query = sqlx::query_as(PAGE_OF_TOKENS)
            .bind(tenant.as_str())
            .bind(before)
            .bind(id)
            .bind(i64::from(limit) + 1);
        let items = query.fetch_all(&self.pool).await?;
        Ok(page(items, limit, |token: &TokenRow| {
            format!("{:x}-{}", token.created_at, token.id)
        }))
    }

    /// Ends a token of a tenant, or with `None` any token, unless nobody could manage the tenant's tokens then.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn revoke_unless_last(
        &self,
        tenant: Option<&TenantName>,
        id: &str,
        now: u64,
    ) -> Result<Revoked, StoreError> {
        let query = sqlx::query(REVOKE)
            .bind(tenant.map(TenantName::as_str))
            .bind(id)
            .bind(signed(now));
        if query.execute(&self.pool).await?.rows_affected() == 1 {
            return Ok(Revoked::Done);
        }
        let query = sqlx::query(HOLDS)
            .bind(tenant.map(TenantName::as_str))
            .bind(id);
        let holds = query.fetch_optional(&self.pool).await?.is_some();
        Ok(if holds {
            Revoked::LastAdmin
        } else {
            Revoked::Unknown
        })
    }
}

fn place(cursor: &str) -> Result<(i64, String), StoreError> {
    let (time, id) = cursor.split_once('-').ok_or(StoreError::BadCursor)?;
    let time = i64::from_str_radix(time, 16).map_err(|_| StoreError::BadCursor)?;
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if id.len() != 12 || !id.bytes().all(hex) {
        return Err(StoreError::BadCursor);
    }
    Ok((time, id.to_owned()))
}
