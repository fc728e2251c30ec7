//! Stable codes of what goes wrong: the words that programs decide by, so that none ever changes its meaning.

use http::StatusCode;

/// What goes wrong, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The request is not one: its JSON, query or a header.
    BadRequest,
    /// No valid token.
    Unauthenticated,
    /// The token was valid once.
    TokenExpired,
    /// The role does not allow it.
    Forbidden,
    /// Not there, or another tenant's.
    NotFound,
    /// The path does not know the method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    Timeout,
    /// The run is over already.
    RunOver,
    /// Nothing of the run can be run again now.
    CannotRerun,
    /// The workflow has live runs.
    WorkflowBusy,
    /// The workflow makes no runs by itself.
    NoSchedule,
    /// The events after the given one are no longer kept, or never were.
    EventsGone,
    /// Another version is current than the request expects.
    VersionMismatch,
    /// Without this token nobody could manage the tenant's tokens.
    LastAdmin,
    /// The agent's name is taken.
    AgentExists,
    /// Nothing waits for a person's decision.
    NothingToDecide,
    /// The attempt's agent is in touch and can end it.
    AgentInTouch,
    /// The idempotency key was used for something else.
    KeyReused,
    /// The body is too large.
    TooLarge,
    /// The body is of another type.
    UnsupportedMediaType,
    /// The request is meant for another host.
    WrongHost,
    /// The workflow file is wrong.
    InvalidWorkflow,
    /// No agent announces the entry.
    UnknownEntry,
    /// A value is missing, unknown or outside its bounds.
    InvalidParameters,
    /// A limit is reached.
    TooMany,
    /// A fault of this program.
    Internal,
    /// Not now; the same request may be sent again.
    Unavailable,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::TokenExpired,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Timeout,
        Self::RunOver,
        Self::CannotRerun,
        Self::WorkflowBusy,
        Self::NoSchedule,
        Self::EventsGone,
        Self::VersionMismatch,
        Self::LastAdmin,
        Self::AgentExists,
        Self::NothingToDecide,
        Self::AgentInTouch,
        Self::KeyReused,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::WrongHost,
        Self::InvalidWorkflow,
        Self::UnknownEntry,
        Self::InvalidParameters,
        Self::TooMany,
        Self::Internal,
        Self::Unavailable,
    ];

    /// As it stands in the answer.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthenticated => "unauthenticated",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::RunOver => "run_over",
            Self::CannotRerun => "cannot_rerun",
            Self::WorkflowBusy => "workflow_busy",
            Self::NoSchedule => "no_schedule",
            Self::EventsGone => "events_gone",
            Self::VersionMismatch => "version_mismatch",
            Self::LastAdmin => "last_admin",
            Self::AgentExists => "agent_exists",
            Self::NothingToDecide => "nothing_to_decide",
            Self::AgentInTouch => "agent_in_touch",
            Self::KeyReused => "key_reused",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::WrongHost => "wrong_host",
            Self::InvalidWorkflow => "invalid_workflow",
            Self::UnknownEntry => "unknown_entry",
            Self::InvalidParameters => "invalid_parameters",
            Self::TooMany => "too_many",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }

    /// What it means, in a few words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request cannot be understood",
            Self::Unauthenticated => "No valid token",
            Self::TokenExpired => "The token has expired",
            Self::Forbidden => "Not allowed",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Timeout => "The request took too long",
            Self::RunOver => "The run is over",
            Self::CannotRerun => "Nothing of the run can be run again now",
            Self::WorkflowBusy => "The workflow has live runs",
            Self::NoSchedule => "The workflow has no schedule",
            Self::EventsGone => "The events are not kept",
            Self::VersionMismatch => "Another version is current",
            Self::LastAdmin => "The tenant's last administrator",
            Self::AgentExists => "The agent exists",
            Self::NothingToDecide => "Nothing waits for a decision",
            Self::AgentInTouch => "The agent is in touch",
            Self::KeyReused => "The idempotency key was used",
            Self::TooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The body is of another type",
            Self::WrongHost => "Another host",
            Self::InvalidWorkflow => "The workflow is not valid",
            Self::UnknownEntry => "Unknown catalogue entry",
            Self::InvalidParameters => "A parameter is not valid",
            Self::TooMany => "A limit is reached",
            Self::Internal => "A fault of the orchestrator",
            Self::Unavailable => "Not available at the moment",
        }
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthenticated | Self::TokenExpired => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::RunOver
            | Self::CannotRerun
            | Self::WorkflowBusy
            | Self::NoSchedule
            | Self::LastAdmin
            | Self::AgentExists
            | Self::NothingToDecide
            | Self::AgentInTouch
            | Self::KeyReused => StatusCode::CONFLICT,
            Self::EventsGone => StatusCode::GONE,
            Self::VersionMismatch => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::WrongHost => StatusCode::MISDIRECTED_REQUEST,
            Self::InvalidWorkflow | Self::UnknownEntry | Self::InvalidParameters => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}
