//! Who asks: bearer tokens, their tenant and role, and what an attacker's guesses may cost.
//!
//! The REST interface asks [`Guard`] before anything of a request's body is read. Tenant and role come from the token
//! and from nowhere else. Nothing here writes.

mod attempts;
mod bearer;
mod guard;

use std::sync::Arc;

use clap::ValueEnum;
use outpost_proto::name::TenantName;

use crate::store::StoreError;

pub use guard::Guard;

/// What a token allows; each role allows what the ones before it allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Look.
    Viewer,
    /// Apply, trigger and cancel workflows.
    Author,
    /// Invite and remove agents.
    Operator,
    /// Manage the tenant's tokens.
    Admin,
}

impl Role {
    /// All, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Author, Self::Operator, Self::Admin];

    /// The words of all of them.
    pub const WORDS: [&'static str; 4] = ["viewer", "author", "operator", "admin"];

    /// As it is stored and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Author => "author",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The way back from [`Role::word`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose things can be seen.
    pub tenant: TenantName,
    /// What may be done to them.
    pub role: Role,
    /// Public part of the token, for logs and limits.
    pub token_id: Arc<str>,
}

/// Why a request is nobody's.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credentials.
    #[error("this needs a token: send it as `Authorization: Bearer opt_…`")]
    Missing,
    /// Not of a token's form.
    #[error(
        "the Authorization header holds no token of the form `Bearer opt_<12 hex digits>_<43 characters>`"
    )]
    Malformed,
    /// Unknown or revoked: told alike.
    #[error(
        "the token is not valid: unknown or revoked; ask an administrator of your tenant for a new one"
    )]
    Unknown,
    /// It was good once.
    #[error("the token has expired; ask an administrator of your tenant for a new one")]
    Expired,
    /// An administrator of the platform has no tenant.
    #[error(
        "this token administers the platform and sees nothing of any tenant; use a token of the tenant"
    )]
    NoTenant,
    /// Too many wrong tokens from there.
    #[error("too many requests with tokens that are not valid; try again in a few seconds")]
    TooMany,
    /// The database could not say.
    #[error("tokens cannot be checked at the moment")]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_ordered_and_named() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(Role::from_word(role.word()), Some(role));
        }
        assert_eq!(Role::ALL.map(Role::word), Role::WORDS);
        assert_eq!(Role::from_word("root"), None);
    }
}
