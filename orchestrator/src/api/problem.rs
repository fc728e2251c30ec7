//! What goes wrong, as HTTP tells it: `application/problem+json` with a stable code and a sentence.
//!
//! [`Problem::of`] is the one place where an error becomes a status.

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use outpost_orchestrator_core::event::Denied;
use outpost_proto::name::{EntryName, TaskName};
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};
use serde::Serialize;
use tracing::error;

use super::code::Code;
use crate::auth::{AuthError, Role};
use crate::driver::AskError;
use crate::store::StoreError;
use crate::workflow::{self, PROBLEMS, WorkflowError};

/// Seconds after which what is unavailable may be there again.
const RETRY_AFTER_S: u32 = 1;

/// Why a request is not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Nobody's.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Somebody's who may not.
    #[error("this needs the role {}, and the token has the role {}", needed.word(), has.word())]
    Forbidden { needed: Role, has: Role },
    /// No such route.
    #[error("there is nothing at this path; the interface is below /api/v1")]
    NoRoute,
    /// Another method would have been right.
    #[error("this path does not know the method; the header Allow names those it knows")]
    Method,
    /// No such thing in this tenant.
    #[error("there is no {kind} `{name}`")]
    NotFound { kind: &'static str, name: String },
    /// Not a request.
    #[error("{0}")]
    BadRequest(String),
    /// A value of a request is not one.
    #[error("`{path}`: {why}")]
    Value { path: String, why: String },
    /// More bytes than are taken.
    #[error("the body has more than {most} bytes, which is the most this takes")]
    TooLarge { most: usize },
    /// A body of another type.
    #[error("this takes a body of type {expected}: name it in the header Content-Type")]
    MediaType { expected: &'static str },
    /// Meant for somebody else.
    #[error(
        "this server is not known as `{0}`; use one of its names, or add that one with `init --name`"
    )]
    WrongHost(String),
    /// It took longer than a request may.
    #[error("the request was not answered within {0} seconds; send it again")]
    Timeout(u64),
    /// More at once than are served.
    #[error("{0}; try again shortly")]
    Busy(&'static str),
    /// More at once than one may have.
    #[error("{0}")]
    TooMany(String),
    /// More in a short time than one token may.
    #[error(
        "this token has used up its requests: {per_s} a second are allowed in the long run; wait {wait_s} s"
    )]
    Rate {
        /// What comes back every second.
        per_s: u32,
        /// Seconds until the next one is allowed.
        wait_s: u32,
    },
    /// Events that a stream was to begin after.
    #[error(
        "events after {after} cannot be told: {why}; look at the present state and begin without an id"
    )]
    EventsGone {
        /// The given number.
        after: u64,
        /// Too old, or from elsewhere.
        why: &'static str,
    },
    /// Two conditions that are never both true.
    #[error("If-Match wants a version to be there and If-None-Match wants none; give one of them")]
    Contradiction,
    /// Nobody could undo it through this interface.
    #[error(
        "token {0} is the last administrator's of this tenant; make another one first, or revoke it on the \
         orchestrator's machine with `token revoke --force`"
    )]
    LastAdmin(String),
    /// The core or the driver.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
    /// Over, as the database says.
    #[error("run {run} is over: {state}")]
    RunOver { run: String, state: &'static str },
    /// Draining.
    #[error("the orchestrator is not ready: {0}")]
    NotReady(&'static str),
    /// A fault; it stands in the log.
    #[error("the orchestrator failed to answer; its log says why")]
    Internal,
}

/// What went wrong, after RFC 9457.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProblemDetails")]
pub(super) struct Problem {
    /// Always `about:blank`: the code tells problems apart.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What the code means.
    title: &'static str,
    /// As in the status line.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// Stable: programs decide by it.
    #[schemars(schema_with = "code_words")]
    code: &'static str,
    /// What happened, to which thing, and what to do next.
    detail: String,
    /// In the workflow file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// In the workflow file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
    /// Which part of the request or of the workflow file, such as `tasks.report.needs[1]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// All problems of a workflow file, or all tasks whose entries nobody announces, at most 50; the first one is told
    /// above too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<workflow::Problem>,
}

fn code_words(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Code::ALL.map(Code::word) })
}

fn unknown_entry((task, entry): (&TaskName, &EntryName)) -> workflow::Problem {
    workflow::Problem {
        line: 0,
        column: 0,
        path: format!("tasks.{task}.entry"),
        message: format!("no agent of this tenant announces `{entry}`"),
        help: None,
    }
}

impl Problem {
    /// How an error is told.
    pub(super) fn of(error: &ApiError) -> Self {
        let code = code(error);
        let mut problem = Self {
            kind: "about:blank",
            title: code.title(),
            status: code.status().as_u16(),
            code: code.word(),
            detail: error.to_string(),
            line: None,
            column: None,
            path: None,
            problems: Vec::new(),
        };
        match error {
            ApiError::Workflow(WorkflowError { problems }) => problem.place(problems),
            ApiError::Value { path, .. } => problem.path = Some(path.clone()),
            ApiError::Ask(AskError::Denied(Denied::BadParam { param, .. })) => {
                problem.path = Some(format!("params.{param}"));
            }
            ApiError::Ask(AskError::Denied(Denied::BadSchedule(_))) => {
                problem.path = Some("schedule".to_owned());
            }
            ApiError::Ask(AskError::Denied(Denied::UnknownEntry {
                task,
                entry,
                others,
                ..
            })) => {
                let all = std::iter::once((task, entry));
                let all = all.chain(others.iter().map(|(task, entry)| (task, entry)));
                problem.problems = all.take(PROBLEMS).map(unknown_entry).collect();
                problem.path = problem.problems.first().map(|first| first.path.clone());
            }
            ApiError::Store(StoreError::Sqlite(_) | StoreError::Record { .. })
            | ApiError::Auth(AuthError::Store(_)) => {
                error!(%error, "a request could not be answered");
                problem.detail = "the database could not answer; the log says why".to_owned();
            }
            ApiError::Store(StoreError::BadCursor)
            | ApiError::Auth(_)
            | ApiError::Forbidden { .. }
            | ApiError::NoRoute
            | ApiError::Method
            | ApiError::NotFound { .. }
            | ApiError::BadRequest(_)
            | ApiError::TooLarge { .. }
            | ApiError::MediaType { .. }
            | ApiError::WrongHost(_)
            | ApiError::Timeout(_)
            | ApiError::Busy(_)
            | ApiError::TooMany(_)
            | ApiError::Rate { .. }
            | ApiError::Contradiction
            | ApiError::LastAdmin(_)
            | ApiError::EventsGone { .. }
            | ApiError::Ask(_)
            | ApiError::RunOver { .. }
            | ApiError::NotReady(_)
            | ApiError::Internal => {}
        }
        problem
    }

    fn place(&mut self, problems: &[workflow::Problem]) {
        self.problems = problems.to_vec();
        let Some(first) = problems.first() else {
            return;
        };
        self.detail = match problems.len() {
            1 => first.sentence(),
            more => format!("{} (the first of {more} problems)", first.sentence()),
        };
        if first.line > 0 {
            (self.line, self.column) = (Some(first.line), Some(first.column));
        }
        if !first.path.is_empty() {
            self.path = Some(first.path.clone());
        }
    }
}

fn code(error: &ApiError) -> Code {
    match error {
        ApiError::Auth(error) => match error {
            AuthError::Missing | AuthError::Malformed | AuthError::Unknown => Code::Unauthenticated,
            AuthError::Expired => Code::TokenExpired,
            AuthError::NoTenant => Code::Forbidden,
            AuthError::TooMany => Code::TooMany,
            AuthError::Store(_) => Code::Unavailable,
        },
        ApiError::Forbidden { .. } => Code::Forbidden,
        ApiError::NoRoute | ApiError::NotFound { .. } => Code::NotFound,
        ApiError::Method => Code::MethodNotAllowed,
        ApiError::BadRequest(_) => Code::BadRequest,
        ApiError::Value { .. } => Code::InvalidParameters,
        ApiError::TooLarge { .. } => Code::TooLarge,
        ApiError::MediaType { .. } => Code::UnsupportedMediaType,
        ApiError::WrongHost(_) => Code::WrongHost,
        ApiError::Timeout(_) => Code::Timeout,
        ApiError::TooMany(_) | ApiError::Rate { .. } => Code::TooMany,
        ApiError::Contradiction => Code::VersionMismatch,
        ApiError::LastAdmin(_) => Code::LastAdmin,
        ApiError::EventsGone { .. } => Code::EventsGone,
        ApiError::Workflow(_) => Code::InvalidWorkflow,
        ApiError::RunOver { .. } => Code::RunOver,
        ApiError::Internal => Code::Internal,
        ApiError::Busy(_) | ApiError::NotReady(_) => Code::Unavailable,
        ApiError::Store(error) => match error {
            StoreError::Sqlite(_) => Code::Unavailable,
            StoreError::Record { .. } => Code::Internal,
            StoreError::BadCursor => Code::BadRequest,
        },
        ApiError::Ask(AskError::Unavailable | AskError::Overloaded) => Code::Unavailable,
        ApiError::Ask(AskError::Denied(denied)) => denied_code(denied),
    }
}

fn denied_code(denied: &Denied) -> Code {
    match denied {
        Denied::UnknownWorkflow(_)
        | Denied::UnknownRun(_)
        | Denied::UnknownAgent(_)
        | Denied::UnknownAttempt(_)
        | Denied::UnknownTask { .. } => Code::NotFound,
        Denied::NotQuarantined(_) | Denied::NothingAwaited | Denied::NotFrozen => {
            Code::NothingToDecide
        }
        Denied::InTouch { .. } => Code::AgentInTouch,
        Denied::RunOver { .. } => Code::RunOver,
        Denied::CannotRerun { .. } => Code::CannotRerun,
        Denied::WorkflowBusy { .. } => Code::WorkflowBusy,
        Denied::VersionMismatch { .. } => Code::VersionMismatch,
        Denied::NoSchedule(_) => Code::NoSchedule,
        Denied::BadSchedule(_) => Code::InvalidWorkflow,
        Denied::UnknownEntry { .. } => Code::UnknownEntry,
        Denied::BadParam { .. } => Code::InvalidParameters,
        Denied::AgentExists(_) => Code::AgentExists,
        Denied::KeyReused => Code::KeyReused,
        Denied::Limit(_) => Code::TooMany,
        // Only an agent that wants a certificate is answered with them.
        Denied::BadToken | Denied::NotTheHolder(_) | Denied::NotRecovered { .. } => Code::Internal,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = code(&self);
        let wait_s = if let Self::Rate { wait_s, .. } = &self {
            *wait_s
        } else {
            RETRY_AFTER_S
        };
        let problem = Problem::of(&self);
        // A struct of texts and numbers: it cannot fail.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(code, Code::Unauthenticated | Code::TokenExpired) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(code, Code::Unavailable | Code::TooMany | Code::Timeout) {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait_s));
        }
        response
    }
}
