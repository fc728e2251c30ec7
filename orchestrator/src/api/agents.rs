//! Agents: who is there, invitations and removals.

use std::sync::Arc;

use axum::Json as Body;
use axum::extract::State;
use http::StatusCode;
use outpost_certs::token::JoinToken;
use outpost_orchestrator_core::event::{AgentView, Answer, Ask};
use outpost_orchestrator_core::limits::INVITE_TTL_MS;
use outpost_proto::message::{Containment, Flags, Level};
use outpost_proto::name::AgentName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::error;

use super::input::{By, Json, Named};
use super::problem::ApiError;
use super::{Api, view};

/// The route of invitations stands where the name of an agent would.
const RESERVED: &str = "invites";

#[derive(Debug, Serialize)]
struct AgentItem {
    agent: AgentName,
    presence: &'static str,
    last_heard: Option<String>,
    enrolled_at: String,
    version: Option<String>,
    slots: Option<u16>,
    slots_free: Option<u16>,
    running: Option<u16>,
    queued: Option<u16>,
    flags: Vec<&'static str>,
    containment: Option<&'static str>,
    sandbox: Option<&'static str>,
    cpu_percent: Option<u8>,
    memory_percent: Option<u8>,
    disk_percent: Option<u8>,
    load_percent: Option<u16>,
    certificate_days_left: Option<u16>,
    entries: usize,
    attempts: usize,
}

/// `GET /api/v1/agents`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
) -> Result<Body<Value>, ApiError> {
    let Answer::Agents(agents) = api.state.handle.ask(caller.tenant, Ask::Agents).await? else {
        return Err(ApiError::Internal);
    };
    let items: Vec<AgentItem> = agents.into_iter().map(item).collect();
    Ok(Body(json!({ "items": items })))
}

fn item(agent: AgentView) -> AgentItem {
    let (hello, beat) = (agent.hello.as_ref(), agent.heartbeat.as_ref());
    let health = beat.map(|beat| &beat.health);
    AgentItem {
        presence: view::presence(agent.presence),
        last_heard: agent.last_heard.map(view::time),
        enrolled_at: view::time(agent.enrolled_at),
        version: hello
            .map(|hello| format!("{}.{}.{}", hello.build.0, hello.build.1, hello.build.2)),
        slots: hello.map(|hello| hello.slots),
        slots_free: beat.map(|beat| beat.slots_free),
        running: beat.map(|beat| beat.running),
        queued: beat.map(|beat| beat.queued),
        flags: beat.map(|beat| flags(beat.flags)).unwrap_or_default(),
        containment: hello.map(|hello| containment(hello.containment)),
        sandbox: hello.map(|hello| level(hello.sandbox)),
        cpu_percent: health.map(|health| health.cpu_percent),
        memory_percent: health.map(|health| health.memory_percent),
        disk_percent: health.map(|health| health.disk_percent),
        load_percent: health.map(|health| health.load_percent),
        certificate_days_left: health.map(|health| health.certificate_days_left),
        entries: agent.entries,
        attempts: agent.attempts,
        agent: agent.agent,
    }
}

fn flags(flags: Flags) -> Vec<&'static str> {
    let Flags {
        paused,
        draining,
        observe,
        hold,
    } = flags;
    let named = [
        (paused, "paused"),
        (draining, "draining"),
        (observe, "observe"),
        (hold, "hold"),
    ];
    named
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name)
        .collect()
}

fn containment(containment: Containment) -> &'static str {
    match containment {
        Containment::Cgroup => "cgroup",
        Containment::PidNamespace => "pid_namespace",
        Containment::Subreaper => "subreaper",
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::None => "none",
        Level::Partial => "partial",
        Level::Strict => "strict",
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvite {
    agent: String,
    ttl_s: Option<u64>,
}

/// `POST /api/v1/agents/invites`: the only moment the join token's text is told.
pub(super) async fn invite(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Json(new): Json<NewInvite>,
) -> Result<(StatusCode, Body<Value>), ApiError> {
    let bad = |path: &str, why: String| ApiError::Value {
        path: path.to_owned(),
        why,
    };
    let agent: AgentName = new
        .agent
        .parse()
        .map_err(|error| bad("agent", format!("{error}")))?;
    if agent.as_str() == RESERVED {
        let why = format!("`{RESERVED}` is a word of this interface; choose another name");
        return Err(bad("agent", why));
    }
    let longest = INVITE_TTL_MS / 1000;
    let ttl_s = new.ttl_s.unwrap_or(longest);
    if ttl_s == 0 || ttl_s > longest {
        return Err(bad("ttl_s", format!("is between 1 and {longest} seconds")));
    }
    let join = &api.state.join;
    let token = JoinToken::new(
        &join.agents,
        caller.tenant.clone(),
        agent.clone(),
        &join.trust_domain,
        join.root_pin,
    );
    let token = token.map_err(|error| {
        error!(%error, "no join token could be made");
        ApiError::Internal
    })?;
    let token_hash = token
        .secret_hash()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let ask = Ask::Invite {
        agent: agent.clone(),
        token_hash,
        ttl_ms: ttl_s * 1000,
    };
    let Answer::Invited { expires_at } = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    let answer =
        json!({ "token": *token.expose(), "agent": agent, "expires_at": view::time(expires_at) });
    Ok((StatusCode::CREATED, Body(answer)))
}

/// `DELETE /api/v1/agents/{agent}`
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(agent): Named<AgentName>,
) -> Result<StatusCode, ApiError> {
    api.state
        .handle
        .ask(caller.tenant, Ask::RemoveAgent { agent })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
