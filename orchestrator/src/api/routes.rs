//! The one table of routes: method, path, the role it needs and the handler. What is not in it is not served, and what
//! is in it cannot be served without the role beside it.

use std::sync::Arc;

use axum::handler::Handler;
use axum::routing::{self, MethodRouter};
use http::Method;

use super::{Api, agents, events, explain, health, runs, tokens, workflows};
use crate::auth::Role;

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// `None`: anybody may ask.
    pub(super) role: Option<Role>,
    /// Whether its answer goes on for as long as the client listens.
    pub(super) streams: bool,
    pub(super) endpoint: MethodRouter<Arc<Api>>,
}

/// One route, as tests and documents see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// Such as `GET`.
    pub method: Method,
    /// With `{name}` for what varies.
    pub path: &'static str,
    /// The least role; `None`: anybody may ask.
    pub role: Option<Role>,
}

/// Every route that is served.
#[must_use]
pub fn table() -> Vec<RouteInfo> {
    all()
        .into_iter()
        .map(
            |Route {
                 method, path, role, ..
             }| RouteInfo { method, path, role },
        )
        .collect()
}

pub(super) fn all() -> Vec<Route> {
    use Role::{Admin, Author, Operator, Viewer};
    vec![
        Route {
            role: None,
            ..get("/healthz", Viewer, health::alive)
        },
        Route {
            role: None,
            ..get("/readyz", Viewer, health::ready)
        },
        get("/api/v1/workflows", Viewer, workflows::list),
        post("/api/v1/workflows", Author, workflows::apply),
        get("/api/v1/workflows/{name}", Viewer, workflows::show),
        post("/api/v1/workflows/{name}/runs", Author, workflows::trigger),
        get("/api/v1/runs", Viewer, runs::list),
        get("/api/v1/runs/{run}", Viewer, runs::show),
        post("/api/v1/runs/{run}/cancel", Author, runs::cancel),
        get("/api/v1/runs/{run}/explain", Viewer, explain::explain),
        get("/api/v1/attempts/{attempt}", Viewer, runs::attempt),
        get("/api/v1/agents", Viewer, agents::list),
        post("/api/v1/agents/invites", Operator, agents::invite),
        delete("/api/v1/agents/{agent}", Operator, agents::remove),
        Route {
            streams: true,
            ..get("/api/v1/events", Viewer, events::follow)
        },
        get("/api/v1/tokens", Admin, tokens::list),
        post("/api/v1/tokens", Admin, tokens::create),
        delete("/api/v1/tokens/{id}", Admin, tokens::revoke),
    ]
}

fn get<H: Handler<T, Arc<Api>>, T: 'static>(path: &'static str, role: Role, handler: H) -> Route {
    Route {
        method: Method::GET,
        path,
        role: Some(role),
        streams: false,
        endpoint: routing::get(handler),
    }
}

fn post<H: Handler<T, Arc<Api>>, T: 'static>(path: &'static str, role: Role, handler: H) -> Route {
    Route {
        method: Method::POST,
        path,
        role: Some(role),
        streams: false,
        endpoint: routing::post(handler),
    }
}

fn delete<H: Handler<T, Arc<Api>>, T: 'static>(
    path: &'static str,
    role: Role,
    handler: H,
) -> Route {
    Route {
        method: Method::DELETE,
        path,
        role: Some(role),
        streams: false,
        endpoint: routing::delete(handler),
    }
}
