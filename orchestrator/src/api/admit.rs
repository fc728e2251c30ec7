//! What every request passes before its handler: is it meant for this server, whose is it, may they, is there room, and
//! is it done in time.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use http::header::{AUTHORIZATION, CACHE_CONTROL, HOST, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use tokio::time::timeout;
use tracing::error;

use super::Api;
use super::problem::ApiError;
use super::rate::{Left, Rate};
use super::routes::Route;
use crate::auth::{AuthError, Role};

/// For one request, event streams apart: longer than a question waits for the driver.
const PATIENCE: Duration = Duration::from_secs(30);
/// Everybody's names of this machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// What browsers are told besides.
const CONTENT_SECURITY_POLICY: (HeaderName, HeaderValue) = (
    http::header::CONTENT_SECURITY_POLICY,
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
);

/// As in the IETF's draft of rate limit fields.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// A route's handler behind its role, its share of the room and its time limit.
pub(super) fn guarded(route: Route, api: &Arc<Api>) -> MethodRouter<Arc<Api>> {
    let mut endpoint = route.endpoint;
    let counted_as = Counted {
        api: api.clone(),
        method: route.word,
        path: route.path,
        streams: route.streams,
    };
    if !route.streams {
        endpoint = endpoint.route_layer(from_fn_with_state(api.clone(), bounded));
    }
    if let Some(needed) = route.role {
        endpoint = endpoint.route_layer(from_fn_with_state((api.clone(), needed), authorised));
    }
    endpoint.route_layer(from_fn_with_state(counted_as, counted))
}

/// What a request is counted as.
#[derive(Clone)]
struct Counted {
    api: Arc<Api>,
    method: &'static str,
    path: &'static str,
    streams: bool,
}

async fn counted(State(what): State<Counted>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    let took = (!what.streams).then(|| began.elapsed());
    let metrics = what.api.state.handle.metrics();
    metrics.answered(what.method, what.path, response.status().as_u16(), took);
    response
}

/// Turns away what is meant for another host: a page elsewhere whose name was made to point to this machine could
/// otherwise speak to a server that listens on loopback only.
pub(super) async fn host(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    // Probes ask by whatever address they know.
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let header = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let given = request
        .uri()
        .authority()
        .map(Authority::as_str)
        .or(header)
        .unwrap_or_default();
    let host = given
        .parse::<Authority>()
        .map(|authority| authority.host().to_ascii_lowercase())
        .unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let known = |name: &String| name.eq_ignore_ascii_case(bare);
    if LOOPBACK.contains(&host.as_str()) || api.state.names.iter().any(known) {
        return next.run(request).await;
    }
    let shown: String = given
        .chars()
        .take(100)
        .filter(|c| !c.is_control())
        .collect();
    ApiError::WrongHost(shown).into_response()
}

async fn authorised(
    State((api, needed)): State<(Arc<Api>, Role)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let from = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|info| info.0.ip());
    let header = token(request.headers())?;
    let caller = api
        .guard
        .caller(header.as_ref(), from, api.state.handle.now())?;
    if caller.role < needed {
        return Err(ApiError::Forbidden {
            needed,
            has: caller.role,
        });
    }
    let left = api.rates.take(&caller.token_id, Instant::now());
    if let Left::Nothing { wait_s } = left {
        let per_s = api.rates.rate().per_s;
        let mut response = ApiError::Rate { per_s, wait_s }.into_response();
        tell(&api, &mut response, 0);
        return Ok(response);
    }
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if let Left::Some(left) = left {
        tell(&api, &mut response, left);
    }
    Ok(response)
}

/// What is left of a token's requests; the next one comes back within a second.
fn tell(api: &Api, response: &mut Response, left: u32) {
    let headers = response.headers_mut();
    headers.insert(POLICY, api.policy.clone());
    if let Ok(value) = HeaderValue::try_from(format!("\"token\";r={left};t=1")) {
        headers.insert(LEFT, value);
    }
}

/// What a token is allowed, as it is told with every answer.
pub(super) fn policy(rate: Rate) -> HeaderValue {
    let window_s = rate.burst.div_ceil(rate.per_s.max(1)).max(1);
    HeaderValue::try_from(format!("\"token\";q={};w={window_s}", rate.burst))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The header with the token. Two of them could mean two things to two programs.
fn token(headers: &HeaderMap) -> Result<Option<HeaderValue>, AuthError> {
    let mut headers = headers.get_all(AUTHORIZATION).iter();
    let header = headers.next().cloned();
    if headers.next().is_some() {
        return Err(AuthError::Malformed);
    }
    Ok(header)
}

async fn bounded(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let _room = api
        .room
        .try_acquire()
        .map_err(|_| ApiError::Busy("too many requests are being answered"))?;
    timeout(PATIENCE, next.run(request))
        .await
        .map_err(|_| ApiError::Timeout(PATIENCE.as_secs()))
}

/// What browsers and caches are told with every answer.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (name, value) = CONTENT_SECURITY_POLICY;
    headers.insert(name, value);
    response
}

/// A fault of a handler costs its own request only.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let what = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    error!(what, "a request's handler panicked");
    ApiError::Internal.into_response()
}
