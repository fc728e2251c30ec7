//! Agents: who is there, what a person decides about them, invitations and removals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use outpost_certs::token::JoinToken;
use outpost_orchestrator_core::event::{AgentChange, AgentView, Answer, Ask, HolderView};
use outpost_orchestrator_core::label::{LABELS, Labels, QUEUES, QueueName};
use outpost_orchestrator_core::limits::INVITE_TTL_MS;
use outpost_orchestrator_core::standing::Keep;
use outpost_proto::limits::SLOTS;
use outpost_proto::message::{Containment, Flags, Level, Reporting};
use outpost_proto::name::{AgentName, TenantName};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use tracing::error;

use super::answer::{Created, Done, Found};
use super::input::{Asked, By, Json, Named, missing, whole};
use super::problem::ApiError;
use super::{Api, schema, view};
use crate::store::StoreError;
use crate::store::read::PAGE;

/// The route of invitations stands where the name of an agent would.
const RESERVED: &str = "invites";
/// Seconds a join token is good for at most.
const LONGEST_S: u64 = INVITE_TTL_MS / 1000;

/// An agent. What it said of itself is null until it connected.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AgentItem {
    #[schemars(with = "schema::AgentName")]
    agent: AgentName,
    #[schemars(with = "schema::Presence")]
    presence: &'static str,
    /// Whether it has a session. One that ended in order has none at once, and is `live` until it counts as silent.
    connected: bool,
    #[schemars(with = "Option<schema::Time>")]
    last_heard: Option<String>,
    #[schemars(with = "schema::Time")]
    enrolled_at: String,
    version: Option<String>,
    /// Attempts it offers to run at once.
    slots: Option<u16>,
    /// Attempts it may run at once, if fewer than it offers.
    slots_limit: Option<u16>,
    slots_free: Option<u16>,
    running: Option<u16>,
    queued: Option<u16>,
    /// What a person at the site decided.
    #[schemars(schema_with = "flag_words")]
    flags: Vec<&'static str>,
    /// What its processes are held together by.
    containment: Option<&'static str>,
    sandbox: Option<&'static str>,
    /// How much it says. With `strict` percentages and attempts' durations are steps: each stands for everything above
    /// the step below it.
    #[schemars(schema_with = "reporting_words")]
    reporting: Option<&'static str>,
    cpu_percent: Option<u8>,
    memory_percent: Option<u8>,
    disk_percent: Option<u8>,
    load_percent: Option<u16>,
    certificate_days_left: Option<u16>,
    /// When the certificate that it uses ends.
    #[schemars(with = "Option<schema::Time>")]
    certificate_not_after: Option<String>,
    /// Entries in its catalogue.
    entries: usize,
    /// Attempts it holds, as far as known.
    attempts: usize,
    #[schemars(with = "schema::Labels")]
    labels: Labels,
    #[schemars(with = "schema::Queues")]
    queues: BTreeSet<QueueName>,
    /// Takes no new work.
    cordoned: bool,
    /// Takes no new work and is to run empty; it is when `attempts` is 0.
    draining: bool,
    /// Its identity has two holders, the known one first: neither gets work until a person decides. Else empty.
    holders: Vec<Holder>,
    /// It saw a newer state of the orchestrator's database than there is, and gets no work until a restore.
    held_back: bool,
}

/// One of two holders of an agent's identity.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Holder {
    /// The one that was known, or the one that appeared.
    #[schemars(schema_with = "holder_words")]
    which: Keep,
    /// Which life of which machine it is in; 16 hex digits.
    incarnation: String,
    connected: bool,
    #[schemars(with = "Option<schema::Time>")]
    last_heard: Option<String>,
    running: Option<u16>,
    uptime_s: Option<u32>,
    /// Attempts it holds, as far as known.
    attempts: Option<usize>,
}

fn holder_words(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["this", "that"] })
}

fn holder(holder: HolderView) -> Holder {
    let beat = holder.heartbeat.as_ref();
    Holder {
        which: holder.which,
        incarnation: format!("{:016x}", holder.incarnation.0),
        connected: holder.connected,
        last_heard: holder.last_heard.map(view::time),
        running: beat.map(|beat| beat.running),
        uptime_s: beat.map(|beat| beat.health.uptime_s),
        attempts: holder.attempts,
    }
}

fn flag_words(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let words = ["paused", "draining", "observe", "hold"];
    schemars::json_schema!({ "type": "array", "items": { "type": "string", "enum": words } })
}

/// A page of agents.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AgentList {
    items: Vec<AgentItem>,
    #[schemars(with = "Option<schema::Cursor>")]
    next: Option<String>,
}

/// Which page of agents.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichAgents {
    /// Items of a page; without it as many as a page can have.
    #[schemars(with = "Option<schema::PageLimit>")]
    limit: Option<u32>,
    #[schemars(with = "Option<schema::NameCursor>")]
    cursor: Option<String>,
}

async fn all(api: &Api, tenant: TenantName) -> Result<Vec<AgentView>, ApiError> {
    let Answer::Agents(agents) = api.state.handle.ask(tenant, Ask::Agents).await? else {
        return Err(ApiError::Internal);
    };
    Ok(agents)
}

/// `GET /api/v1/agents`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(which): Asked<WhichAgents>,
) -> Result<Found<AgentList>, ApiError> {
    let limit = view::limit(which.limit, PAGE)? as usize;
    let after: Option<AgentName> = which
        .cursor
        .map(|name| name.parse())
        .transpose()
        .map_err(|_| StoreError::BadCursor)?;
    let mut agents = all(&api, caller.tenant).await?;
    agents.sort_by(|a, b| a.agent.cmp(&b.agent));
    agents.retain(|agent| after.as_ref().is_none_or(|after| agent.agent > *after));
    let more = agents.len() > limit;
    agents.truncate(limit);
    let last = agents.last().map(|agent| agent.agent.to_string());
    Ok(Found(AgentList {
        items: agents.into_iter().map(item).collect(),
        next: last.filter(|_| more),
    }))
}

/// `GET /api/v1/agents/{agent}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(agent): Named<AgentName>,
) -> Result<Found<AgentItem>, ApiError> {
    let agents = all(&api, caller.tenant).await?;
    let found = agents.into_iter().find(|known| known.agent == agent);
    let found = found.ok_or_else(|| missing("agent", agent.as_str()))?;
    Ok(Found(item(found)))
}

pub(super) fn item(agent: AgentView) -> AgentItem {
    let (hello, beat) = (agent.hello.as_ref(), agent.heartbeat.as_ref());
    let health = beat.map(|beat| &beat.health);
    AgentItem {
        presence: view::presence(agent.presence),
        connected: agent.connected,
        last_heard: agent.last_heard.map(view::time),
        enrolled_at: view::time(agent.enrolled_at),
        version: hello
            .map(|hello| format!("{}.{}.{}", hello.build.0, hello.build.1, hello.build.2)),
        slots: hello.map(|hello| hello.slots),
        slots_limit: agent.slots_limit,
        slots_free: beat.map(|beat| beat.slots_free),
        running: beat.map(|beat| beat.running),
        queued: beat.map(|beat| beat.queued),
        flags: beat.map(|beat| flags(beat.flags)).unwrap_or_default(),
        containment: hello.map(|hello| containment(hello.containment)),
        sandbox: hello.map(|hello| level(hello.sandbox)),
        reporting: hello.map(|hello| reporting(hello.reporting)),
        cpu_percent: health.map(|health| health.cpu_percent),
        memory_percent: health.map(|health| health.memory_percent),
        disk_percent: health.map(|health| health.disk_percent),
        load_percent: health.map(|health| health.load_percent),
        certificate_days_left: health.map(|health| health.certificate_days_left),
        certificate_not_after: agent.certificate_not_after.map(view::time),
        entries: agent.entries,
        attempts: agent.attempts,
        labels: agent.labels,
        queues: agent.queues,
        cordoned: agent.cordoned,
        draining: agent.draining,
        holders: agent.holders.into_iter().map(holder).collect(),
        held_back: agent.held_back,
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

fn reporting(reporting: Reporting) -> &'static str {
    match reporting {
        Reporting::Normal => "normal",
        Reporting::Strict => "strict",
    }
}

fn reporting_words(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["string", "null"], "enum": ["normal", "strict", null] })
}

fn level(level: Level) -> &'static str {
    match level {
        Level::None => "none",
        Level::Partial => "partial",
        Level::Strict => "strict",
    }
}

/// What a person changes about an agent. What is not named stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "labels": { "zone": "eu" }, "cordoned": true }))]
pub(super) struct Change {
    /// All its labels.
    #[serde(default)]
    #[schemars(with = "Option<schema::Labels>")]
    labels: Option<BTreeMap<String, String>>,
    /// All its queues.
    #[serde(default)]
    #[schemars(with = "Option<schema::Queues>")]
    queues: Option<Vec<String>>,
    /// Attempts it may run at once; null for as many as it offers.
    #[serde(default, deserialize_with = "even_null")]
    #[schemars(with = "Option<u16>", range(min = 1, max = SLOTS))]
    slots: Option<Option<u16>>,
    /// Whether it takes no new work.
    #[serde(default)]
    cordoned: Option<bool>,
    /// Whether it takes no new work and is to run empty.
    #[serde(default)]
    draining: Option<bool>,
}

/// Tells null from nothing.
fn even_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u16>>, D::Error> {
    whole(from).map(Some)
}

fn bad(path: impl Into<String>, why: impl ToString) -> ApiError {
    ApiError::Value {
        path: path.into(),
        why: why.to_string(),
    }
}

/// `PATCH /api/v1/agents/{agent}`
pub(super) async fn configure(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(agent): Named<AgentName>,
    Json(change): Json<Change>,
) -> Result<Found<AgentItem>, ApiError> {
    if let Some(Some(slots)) = change.slots
        && !(1..=SLOTS).contains(&slots)
    {
        let why = format!("is between 1 and {SLOTS}, or null; to take nothing, cordon the agent");
        return Err(bad("slots", why));
    }
    let change = AgentChange {
        labels: change.labels.map(labels).transpose()?,
        queues: change.queues.map(queues).transpose()?,
        slots_limit: change.slots,
        cordoned: change.cordoned,
        draining: change.draining,
    };
    let ask = Ask::ConfigureAgent { agent, change };
    let Answer::Agent(agent) = api.state.handle.ask(caller.tenant, ask).await? else {
        return Err(ApiError::Internal);
    };
    Ok(Found(item(agent)))
}

fn labels(texts: BTreeMap<String, String>) -> Result<Labels, ApiError> {
    if texts.len() > LABELS {
        return Err(bad("labels", format!("has at most {LABELS} labels")));
    }
    let label = |(key, value): (String, String)| {
        let path = format!("labels.{}", view::shown(&key));
        let parsed = key.parse().map_err(|error| bad(path.clone(), error))?;
        let value = value.parse().map_err(|error| bad(path, error))?;
        Ok((parsed, value))
    };
    texts.into_iter().map(label).collect()
}

fn queues(texts: Vec<String>) -> Result<BTreeSet<QueueName>, ApiError> {
    if texts.is_empty() || texts.len() > QUEUES {
        return Err(bad("queues", format!("names 1 to {QUEUES} queues")));
    }
    let queue = |(place, text): (usize, &String)| {
        text.parse()
            .map_err(|error| bad(format!("queues[{place}]"), error))
    };
    let parsed: BTreeSet<QueueName> = texts
        .iter()
        .enumerate()
        .map(queue)
        .collect::<Result<_, _>>()?;
    if parsed.len() < texts.len() {
        return Err(bad("queues", "names a queue twice"));
    }
    Ok(parsed)
}

/// An agent to be let in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "agent": "site-1", "ttl_s": 600 }))]
pub(super) struct NewInvite {
    #[schemars(with = "InvitedName")]
    agent: String,
    /// Seconds the join token is good for; without it as long as possible.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "Option<u64>", range(min = 1, max = LONGEST_S))]
    ttl_s: Option<u64>,
}

/// Any agent's name but the word of a route.
struct InvitedName;

impl JsonSchema for InvitedName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InvitedName".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let name = generator.subschema_for::<schema::AgentName>();
        schemars::json_schema!({ "allOf": [name], "not": { "const": RESERVED } })
    }
}

/// A join token.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Invitation {
    /// Give it to `outpost-agent enrol` on the agent's machine.
    #[schemars(regex(pattern = "^opj1\\."))]
    token: String,
    #[schemars(with = "schema::AgentName")]
    agent: AgentName,
    #[schemars(with = "schema::Time")]
    expires_at: String,
}

/// `POST /api/v1/agents/invites`: the only moment the join token's text is told.
pub(super) async fn invite(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Json(new): Json<NewInvite>,
) -> Result<Created<Invitation>, ApiError> {
    let agent: AgentName = new.agent.parse().map_err(|error| bad("agent", error))?;
    if agent.as_str() == RESERVED {
        let why = format!("`{RESERVED}` is a word of this interface; choose another name");
        return Err(bad("agent", why));
    }
    let ttl_s = new.ttl_s.unwrap_or(LONGEST_S);
    if ttl_s == 0 || ttl_s > LONGEST_S {
        return Err(bad(
            "ttl_s",
            format!("is between 1 and {LONGEST_S} seconds"),
        ));
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
    Ok(Created(Invitation {
        token: token.expose().to_string(),
        agent,
        expires_at: view::time(expires_at),
    }))
}

/// `DELETE /api/v1/agents/{agent}`
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Named(agent): Named<AgentName>,
) -> Result<Done, ApiError> {
    let ask = Ask::RemoveAgent { agent };
    api.state.handle.ask(caller.tenant, ask).await?;
    Ok(Done)
}
