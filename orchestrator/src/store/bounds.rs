//! Whether a stream of notices can go on from where somebody left it.

use outpost_proto::name::TenantName;

use super::StoreError;
use super::access::{signed, unsigned};
use super::read::Reader;

/// Notices are deleted from the oldest on, and the newest of a tenant stays.
pub(super) const NEWEST: &str = "SELECT max(seq) FROM notice WHERE tenant = ?1";
/// One that is told already, or whose row goes on with what is not.
pub(super) const NO_LATER_THAN: &str = "SELECT coalesce((SELECT max(seq) FROM notice WHERE tenant = ?1 AND seq <= ?2), \
     (SELECT min(first) FROM (SELECT first FROM notice WHERE tenant = ?1 AND seq > ?2 ORDER BY seq LIMIT 1) \
     WHERE first <= ?2))";

/// What is kept of the notices after a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All of them.
    All,
    /// Some were deleted since.
    NotAll,
    /// That number was not given yet.
    Ahead,
}

impl Reader {
    /// Whether every notice of the tenant after this number is still there.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn notices_kept(&self, tenant: &TenantName, after: u64) -> Result<Kept, StoreError> {
        let newest: Option<i64> = sqlx::query_scalar(NEWEST)
            .bind(tenant.as_str())
            .fetch_one(&self.pool)
            .await?;
        if after > newest.map_or(0, unsigned) {
            return Ok(Kept::Ahead);
        }
        // While an earlier one is there, the later ones are too.
        let earlier: Option<i64> = sqlx::query_scalar(NO_LATER_THAN)
            .bind(tenant.as_str())
            .bind(signed(after))
            .fetch_one(&self.pool)
            .await?;
        Ok(if earlier.is_some() {
            Kept::All
        } else {
            Kept::NotAll
        })
    }
}
