//! The one table of routes: method, path, the role it needs, the handler, and what the document says of it. What is
//! not in it is not served, and what is in it cannot be served without the role beside it.

use std::sync::Arc;

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Method;

use super::code::Code;
use super::doc::{Documented, Operation};
use super::{
    Api, agents, attempts, events, explain, health, metrics, openapi, recovery, runs, schedules,
    tokens, versions, workflows,
};
use crate::auth::Role;

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    /// The same as a word.
    pub(super) word: &'static str,
    pub(super) path: &'static str,
    /// `None`: anybody may ask.
    pub(super) role: Option<Role>,
    /// Whether its answer goes on for as long as the client listens.
    pub(super) streams: bool,
    pub(super) endpoint: MethodRouter<Arc<Api>>,
    pub(super) operation: Operation,
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
    let info = |route: Route| RouteInfo {
        method: route.method,
        path: route.path,
        role: route.role,
    };
    all().into_iter().map(info).collect()
}

/// The table.
pub(super) fn all() -> Vec<Route> {
    let mut routes = probes();
    routes.extend(of_workflows());
    routes.extend(of_runs());
    routes.extend(of_agents());
    routes.extend(of_tokens());
    routes.extend(of_recovery());
    routes
}

fn probes() -> Vec<Route> {
    vec![
        get("/healthz", health::alive)
            .says("alive", "Whether the process answers.")
            .anybody(),
        get("/readyz", health::ready)
            .says("ready", "Whether driver and database answer.")
            .anybody(),
        get("/metrics", metrics::scrape).says(
            "metrics",
            "Numbers of the process and of the token's tenant, for Prometheus.",
        ),
        get("/api/v1/openapi.json", openapi::serve).says("openapi", "This document."),
    ]
}

fn of_workflows() -> Vec<Route> {
    use Role::Author;
    vec![
        get("/api/v1/workflows", workflows::list)
            .says("list_workflows", "Workflows, by name, in pages."),
        post("/api/v1/workflows", workflows::apply)
            .says(
                "apply_workflow",
                "Makes this file the current version of its workflow; the same file again changes nothing.",
            )
            .needs(Author)
            .fails(&[Code::UnknownEntry]),
        get("/api/v1/workflows/{name}", workflows::show)
            .says("show_workflow", "A workflow's current version with its source."),
        delete("/api/v1/workflows/{name}", workflows::delete)
            .says(
                "delete_workflow",
                "Deletes a workflow that has no live runs; its history stays readable.",
            )
            .needs(Author)
            .fails(&[Code::WorkflowBusy]),
        post("/api/v1/workflows/{name}/runs", workflows::trigger)
            .says("trigger_workflow", "Makes a run.")
            .needs(Author)
            .fails(&[Code::InvalidParameters]),
        post("/api/v1/workflows/{name}/pause", schedules::pause)
            .says(
                "pause_workflow",
                "Stops the making of scheduled runs; triggers work all the same.",
            )
            .needs(Author),
        post("/api/v1/workflows/{name}/resume", schedules::resume)
            .says(
                "resume_workflow",
                "Scheduled runs are made again, from now on.",
            )
            .needs(Author),
        get("/api/v1/workflows/{name}/upcoming", schedules::upcoming)
            .says("upcoming_instants", "The next instants of a schedule.")
            .fails(&[Code::NoSchedule]),
        get("/api/v1/workflows/{name}/versions", versions::list)
            .says("list_versions", "A workflow's versions, newest first, in pages."),
        get("/api/v1/workflows/{name}/versions/{version}", versions::show)
            .says("show_version", "One version of a workflow with its source."),
    ]
}

fn of_runs() -> Vec<Route> {
    use Role::Author;
    vec![
        get("/api/v1/runs", runs::list).says("list_runs", "Runs, newest first, in pages."),
        get("/api/v1/runs/{run}", runs::show)
            .says("show_run", "A run with its tasks and their attempts."),
        post("/api/v1/runs/{run}/cancel", runs::cancel)
            .says("cancel_run", "Ends a run.")
            .needs(Author)
            .fails(&[Code::RunOver]),
        post("/api/v1/runs/{run}/rerun", runs::rerun)
            .says(
                "rerun_run",
                "Runs tasks of a run again, in the same run: those that did not succeed, or the named ones and \
                 everything that needs them.",
            )
            .needs(Author)
            .fails(&[Code::CannotRerun, Code::InvalidParameters]),
        get("/api/v1/runs/{run}/explain", explain::explain)
            .says("explain_run", "Why each task of a run stands where it stands."),
        get("/api/v1/attempts/{attempt}", attempts::show)
            .says("show_attempt", "One attempt, and where its log is."),
        get("/api/v1/events", events::follow)
            .says(
                "follow_events",
                "What happens, as it happens: server-sent events that can be picked up again by number.",
            )
            .streams()
            .fails(&[Code::NotFound]),
    ]
}

fn of_agents() -> Vec<Route> {
    use Role::Operator;
    vec![
        get("/api/v1/agents", agents::list).says("list_agents", "Agents, by name, in pages."),
        get("/api/v1/agents/{agent}", agents::show).says("show_agent", "One agent."),
        patch("/api/v1/agents/{agent}", agents::configure)
            .says(
                "configure_agent",
                "Changes labels, queues, slots, cordon or drain of an agent; what is not named stays.",
            )
            .needs(Operator)
            .fails(&[Code::InvalidParameters]),
        delete("/api/v1/agents/{agent}", agents::remove)
            .says(
                "remove_agent",
                "Cuts an agent off and never lets it connect again.",
            )
            .needs(Operator),
        post("/api/v1/agents/invites", agents::invite)
            .says(
                "invite_agent",
                "Makes a join token; it is told only here, and it works once.",
            )
            .needs(Operator)
            .fails(&[Code::AgentExists, Code::InvalidParameters]),
    ]
}

fn of_recovery() -> Vec<Route> {
    use Role::Operator;
    vec![
        get("/api/v1/recovery", recovery::show).says(
            "show_recovery",
            "What endangers the work as a whole: a restore, a freeze, two holders of one identity.",
        ),
        post("/api/v1/recovery/continue", recovery::go_on)
            .says(
                "continue_recovery",
                "Gives out work again after a restore, without the agents that have not reported.",
            )
            .needs(Operator)
            .fails(&[Code::NothingToDecide]),
        post("/api/v1/recovery/unfreeze", recovery::unfreeze)
            .says(
                "unfreeze",
                "Gives up silent attempts again, although most agents are gone.",
            )
            .needs(Operator)
            .fails(&[Code::NothingToDecide]),
        post("/api/v1/agents/{agent}/resolve", recovery::resolve)
            .says(
                "resolve_agent",
                "Decides which of two holders of an agent's identity stays; the other one is turned away.",
            )
            .needs(Operator)
            .fails(&[Code::NothingToDecide]),
        post("/api/v1/attempts/{attempt}/assert-dead", recovery::assert_dead)
            .says(
                "assert_dead",
                "Says that an attempt is over of which nothing is heard, so that its task's retries go on.",
            )
            .needs(Operator)
            .fails(&[Code::AgentInTouch, Code::InvalidParameters]),
    ]
}

fn of_tokens() -> Vec<Route> {
    use Role::Admin;
    vec![
        get("/api/v1/tokens", tokens::list)
            .says(
                "list_tokens",
                "The tenant's tokens without their secrets, newest first, in pages.",
            )
            .needs(Admin),
        post("/api/v1/tokens", tokens::create)
            .says("create_token", "Makes a token; its text is told only here.")
            .needs(Admin)
            .fails(&[Code::InvalidParameters]),
        delete("/api/v1/tokens/{id}", tokens::revoke)
            .says("revoke_token", "Ends a token within a second.")
            .needs(Admin)
            .fails(&[Code::LastAdmin]),
    ]
}

impl Route {
    fn new<H, T, D>(
        word: &'static str,
        filter: MethodFilter,
        path: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<Api>> + Documented<D>,
        T: 'static,
    {
        let mut operation = Operation::default();
        H::document(&mut operation);
        Self {
            // Words of the table below, each of which is a method.
            method: Method::from_bytes(word.as_bytes()).unwrap_or_default(),
            word,
            path,
            role: Some(Role::Viewer),
            streams: false,
            endpoint: on(filter, handler),
            operation,
        }
    }

    fn says(mut self, id: &'static str, summary: &'static str) -> Self {
        (self.operation.id, self.operation.summary) = (id, summary);
        self
    }

    fn needs(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    fn anybody(mut self) -> Self {
        self.role = None;
        self
    }

    fn streams(mut self) -> Self {
        self.streams = true;
        self
    }

    /// What can go wrong besides what every such route and what it takes can lead to.
    fn fails(mut self, codes: &[Code]) -> Self {
        self.operation.codes.extend(codes);
        self
    }
}

fn get<H, T, D>(path: &'static str, handler: H) -> Route
where
    H: Handler<T, Arc<Api>> + Documented<D>,
    T: 'static,
{
    Route::new("GET", MethodFilter::GET, path, handler)
}

fn post<H, T, D>(path: &'static str, handler: H) -> Route
where
    H: Handler<T, Arc<Api>> + Documented<D>,
    T: 'static,
{
    Route::new("POST", MethodFilter::POST, path, handler)
}

fn patch<H, T, D>(path: &'static str, handler: H) -> Route
where
    H: Handler<T, Arc<Api>> + Documented<D>,
    T: 'static,
{
    Route::new("PATCH", MethodFilter::PATCH, path, handler)
}

fn delete<H, T, D>(path: &'static str, handler: H) -> Route
where
    H: Handler<T, Arc<Api>> + Documented<D>,
    T: 'static,
{
    Route::new("DELETE", MethodFilter::DELETE, path, handler)
}
