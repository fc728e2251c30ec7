//! The tenant's own API tokens.

use std::sync::Arc;

use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer::{Created, Done, Found};
use super::doc::{SchemaOf, schema_of};
use super::input::{Asked, By, Json, Kind, Named, missing, whole};
use super::problem::ApiError;
use super::{Api, schema, view};
use crate::admin::token::{LABEL_CHARS, MAX_TTL_MS, draw};
use crate::auth::Role;
use crate::store::access::{InsertTokenError, TokenRow};
use crate::store::read::PAGE;
use crate::store::tokens::Revoked;

/// Seconds a token holds at most.
const MAX_TTL_S: u64 = MAX_TTL_MS / 1000;
/// And when nothing is said.
const DEFAULT_TTL_S: u64 = 90 * 24 * 3600;

/// A token's public part.
pub(super) struct TokenId(String);

impl Kind for TokenId {
    const KIND: &'static str = "token";
    const FORM: SchemaOf = schema_of::<schema::TokenId>;
}

impl std::str::FromStr for TokenId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let fits = text.len() == 12 && text.bytes().all(hex);
        fits.then(|| Self(text.to_owned())).ok_or(())
    }
}

/// A token without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TokenView {
    #[schemars(with = "schema::TokenId")]
    id: String,
    #[schemars(with = "schema::Role")]
    role: String,
    label: String,
    #[schemars(schema_with = "state_words")]
    state: &'static str,
    #[schemars(with = "schema::Time")]
    created_at: String,
    #[schemars(with = "schema::Time")]
    expires_at: String,
    #[schemars(with = "Option<schema::Time>")]
    revoked_at: Option<String>,
}

fn state_words(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["valid", "expired", "revoked"] })
}

/// A page of tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TokenList {
    items: Vec<TokenView>,
    #[schemars(with = "Option<schema::Cursor>")]
    next: Option<String>,
}

/// Which page of tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichTokens {
    /// Items of a page; without it as many as a page can have.
    #[schemars(with = "Option<schema::PageLimit>")]
    limit: Option<u32>,
    #[schemars(with = "Option<schema::TokenCursor>")]
    cursor: Option<String>,
}

/// `GET /api/v1/tokens`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(which): Asked<WhichTokens>,
) -> Result<Found<TokenList>, ApiError> {
    let now = api.state.handle.now();
    let limit = view::limit(which.limit, PAGE)?;
    let page = api
        .state
        .access
        .page_of_tokens(&caller.tenant, which.cursor.as_deref(), limit)
        .await?;
    Ok(Found(TokenList {
        items: page.items.into_iter().map(|row| token(row, now)).collect(),
        next: page.next,
    }))
}

fn token(row: TokenRow, now: u64) -> TokenView {
    let state = match row.revoked_at {
        Some(_) => "revoked",
        None if row.expires_at <= now => "expired",
        None => "valid",
    };
    TokenView {
        id: row.id,
        role: row.role,
        label: row.label,
        state,
        created_at: view::time(row.created_at),
        expires_at: view::time(row.expires_at),
        revoked_at: row.revoked_at.map(view::time),
    }
}

/// A token to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "role": "author", "label": "ci", "ttl_s": 2_592_000 }))]
pub(super) struct NewToken {
    #[schemars(with = "schema::Role")]
    role: String,
    /// For people; no control characters.
    #[serde(default)]
    #[schemars(length(max = LABEL_CHARS), regex(pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$"))]
    label: String,
    /// Seconds it holds; without it 90 days.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "Option<u64>", range(min = 1, max = MAX_TTL_S))]
    ttl_s: Option<u64>,
}

/// A token, with its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TokenMade {
    /// Told only here.
    #[schemars(regex(pattern = "^opt_[0-9a-f]{12}_[A-Za-z0-9_-]{43}$"))]
    token: String,
    #[schemars(with = "schema::TokenId")]
    id: String,
    #[schemars(with = "schema::Role")]
    role: &'static str,
    label: String,
    #[schemars(with = "schema::Time")]
    expires_at: String,
}

/// `POST /api/v1/tokens`: the only moment the token's text is told.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Json(new): Json<NewToken>,
) -> Result<Created<TokenMade>, ApiError> {
    let bad = |path: &str, why: String| ApiError::Value {
        path: path.to_owned(),
        why,
    };
    let role = Role::from_word(&new.role)
        .ok_or_else(|| bad("role", format!("is one of {}", Role::WORDS.join(", "))))?;
    let ttl_s = new.ttl_s.unwrap_or(DEFAULT_TTL_S);
    if ttl_s == 0 || ttl_s > MAX_TTL_S {
        let why = format!("is between 1 second and 365 days ({MAX_TTL_S})");
        return Err(bad("ttl_s", why));
    }
    if new.label.chars().count() > LABEL_CHARS || new.label.chars().any(char::is_control) {
        let why = format!("has at most {LABEL_CHARS} characters, none of them a control character");
        return Err(bad("label", why));
    }
    let now = api.state.handle.now();
    let drawn = draw(&caller.tenant, role.word(), &new.label, now, ttl_s * 1000)
        .map_err(|_| ApiError::Internal)?;
    api.state
        .access
        .insert_token(&drawn.row)
        .await
        .map_err(|error| match error {
            InsertTokenError::Store(error) => error.into(),
            InsertTokenError::UnknownTenant(_) => ApiError::Internal,
        })?;
    Ok(Created(TokenMade {
        token: drawn.text,
        id: drawn.row.id,
        role: role.word(),
        label: new.label,
        expires_at: view::time(drawn.row.expires_at),
    }))
}

/// `DELETE /api/v1/tokens/{id}`
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(TokenId(id)): Named<TokenId>,
) -> Result<Done, ApiError> {
    let now = api.state.handle.now();
    let revoked = api
        .state
        .access
        .revoke_unless_last(Some(&caller.tenant), &id, now)
        .await?;
    match revoked {
        Revoked::Done => {
            api.guard.forget(&id);
            Ok(Done)
        }
        Revoked::Unknown => Err(missing("token", &id)),
        Revoked::LastAdmin => Err(ApiError::LastAdmin(id)),
    }
}
