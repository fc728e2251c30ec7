//! The tenant's own API tokens.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::input::{By, Json, missing};
use super::problem::ApiError;
use super::{Api, view};
use crate::admin::token::draw;
use crate::auth::Role;
use crate::store::access::{InsertTokenError, TokenRow};

/// Seconds a token holds at most: somebody looks at each once a year.
const MAX_TTL_S: u64 = 365 * 24 * 3600;
/// And when nothing is said.
const DEFAULT_TTL_S: u64 = 90 * 24 * 3600;
/// Characters of a label.
const LABEL: usize = 100;

#[derive(Debug, Serialize)]
pub(super) struct TokenView {
    id: String,
    role: String,
    label: String,
    state: &'static str,
    created_at: String,
    expires_at: String,
    revoked_at: Option<String>,
}

/// `GET /api/v1/tokens`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
) -> Result<Body<Value>, ApiError> {
    let now = api.state.handle.now();
    let rows = api.state.access.list_tokens(Some(&caller.tenant)).await?;
    let items: Vec<TokenView> = rows.into_iter().map(|row| token(row, now)).collect();
    Ok(Body(json!({ "items": items })))
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    role: String,
    #[serde(default)]
    label: String,
    ttl_s: Option<u64>,
}

/// `POST /api/v1/tokens`: the only moment the token's text is told.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, Body<Value>), ApiError> {
    let bad = |path: &str, why: &str| ApiError::Value {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let role = Role::from_word(&new.role)
        .ok_or_else(|| bad("role", "is one of viewer, author, operator, admin"))?;
    let ttl_s = new.ttl_s.unwrap_or(DEFAULT_TTL_S);
    if ttl_s == 0 || ttl_s > MAX_TTL_S {
        return Err(bad("ttl_s", "is between 1 second and 365 days (31536000)"));
    }
    if new.label.chars().count() > LABEL || new.label.chars().any(char::is_control) {
        return Err(bad(
            "label",
            "has at most 100 characters, none of them a control character",
        ));
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
    let answer = json!({
        "token": drawn.text,
        "id": drawn.row.id,
        "role": role.word(),
        "label": new.label,
        "expires_at": view::time(drawn.row.expires_at),
    });
    Ok((StatusCode::CREATED, Body(answer)))
}

/// `DELETE /api/v1/tokens/{id}`
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let now = api.state.handle.now();
    if !api
        .state
        .access
        .revoke_token(Some(&caller.tenant), &id, now)
        .await?
    {
        return Err(missing("token", &id));
    }
    api.guard.forget(&id);
    Ok(StatusCode::NO_CONTENT)
}
