//! The REST interface: every route below `/api/v1`, with what it takes, what it answers and who may ask.
//!
//! `routes` is the one table of routes and roles, from which the document (`openapi`) is made too; a request passes,
//! from the outside inward, the host check, the token and its role, its rate, the room for one more request and the time
//! limit before its handler sees it. Changes go through the
//! driver, lists and history come from the database. Nothing here decides anything about work.

mod admit;
mod agents;
mod answer;
mod attempts;
mod code;
mod doc;
mod events;
mod explain;
mod health;
mod input;
mod metrics;
mod notices;
mod openapi;
mod preconditions;
mod problem;
mod rate;
mod recovery;
mod routes;
mod runs;
mod schedules;
mod schema;
mod tokens;
mod versions;
mod view;
mod workflows;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use http::HeaderValue;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::ApiState;
use crate::auth::Guard;
use problem::ApiError;
use rate::Buckets;

pub use code::Code;
pub use openapi::text as openapi;
pub use rate::Rate;
pub use routes::{RouteInfo, table};

/// Requests being answered at once, event streams apart: each holds a place in the driver's inbox or a database
/// connection for a moment.
const REQUESTS: usize = 512;

/// What every handler shares.
#[derive(Debug)]
struct Api {
    state: ApiState,
    guard: Guard,
    room: Semaphore,
    rates: Buckets,
    policy: HeaderValue,
    /// Open event streams by token.
    streams: Mutex<BTreeMap<Arc<str>, usize>>,
}

/// Everything that is served over HTTP.
pub fn router(state: ApiState) -> Router {
    let guard = Guard::new(state.access.clone());
    let rate = state.rate;
    let api = Arc::new(Api {
        state,
        guard,
        room: Semaphore::new(REQUESTS),
        rates: Buckets::new(rate),
        policy: admit::policy(rate),
        streams: Mutex::default(),
    });
    let mut router = Router::new();
    for route in routes::all() {
        router = router.route(route.path, admit::guarded(route, &api));
    }
    router
        .fallback(async || ApiError::NoRoute)
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(from_fn_with_state(api.clone(), admit::host))
        .layer(CatchPanicLayer::custom(admit::panicked))
        .layer(from_fn(admit::headers))
        .with_state(api)
}

#[cfg(test)]
mod tests;
