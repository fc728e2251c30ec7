//! Why a command did not do what it was asked for: one sentence, what to do next, and one exit status.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::exit;

/// What the server said was wrong (RFC 9457).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Problem {
    /// HTTP status.
    #[serde(default)]
    pub(crate) status: u16,
    /// Stable, snake case.
    #[serde(default)]
    pub(crate) code: String,
    /// What happened, to which thing, what to do next.
    #[serde(default)]
    pub(crate) detail: String,
    /// Of the text that was sent.
    pub(crate) line: Option<u64>,
    /// Of the text that was sent.
    pub(crate) column: Option<u64>,
    /// Inside the document that was sent, such as `tasks.report.needs[1]`.
    pub(crate) path: Option<String>,
    /// Which of our files that text was; not from the server.
    #[serde(skip)]
    pub(crate) file: Option<String>,
    /// What to do next, found out by this side.
    #[serde(skip)]
    pub(crate) help: Option<String>,
}

impl Problem {
    fn place(&self) -> Option<String> {
        let numbers = [self.line, self.column]
            .into_iter()
            .flatten()
            .map(|n| format!(":{n}"));
        let place = self.file.iter().cloned().chain(numbers).collect::<String>();
        match (place.trim_start_matches(':'), &self.path) {
            ("", None) => None,
            ("", Some(path)) => Some(path.clone()),
            (place, None) => Some(place.to_owned()),
            (place, Some(path)) => Some(format!("{place} ({path})")),
        }
    }

    fn status(&self) -> u8 {
        match self.status {
            401 | 403 => exit::DENIED,
            404 | 409 | 412 => exit::CONFLICT,
            429 | 502..=504 => exit::UNREACHABLE,
            500..=599 => exit::INTERNAL,
            _ => exit::USAGE,
        }
    }

    fn advice(&self) -> Option<&'static str> {
        match (self.status, self.code.as_str()) {
            (401, "token_expired") => Some(
                "make a new one with `outpost-orchestrator token create`, and name its file with --token-file, \
                 OUTPOST_TOKEN_FILE or `outpost context add … --replace`",
            ),
            (401, _) => Some(
                "`outpost context show` says which token was used; one made by this server with \
                 `outpost-orchestrator token create` is accepted",
            ),
            (403, "forbidden") => Some(
                "ask an administrator for a token with that role (`outpost-orchestrator token create --role …`)",
            ),
            (409, "agent_exists") => {
                Some("choose another name, or remove it first with `outpost agents remove`")
            }
            (409, "workflow_busy") => Some(
                "wait for its runs (`outpost runs --workflow … --state running`) or cancel them with `outpost cancel`",
            ),
            (409, "cannot_rerun") => Some(
                "`--task NAME` runs a task again that succeeded; `outpost watch` waits for one that still runs",
            ),
            (404, _) => {
                Some("`outpost workflows`, `outpost runs` and `outpost agents` list what there is")
            }
            (429 | 503, _) => Some("try again in a moment"),
            _ => None,
        }
    }
}

/// Every way in which a command ends badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The run, or what was waited for, did not succeed.
    #[error("{0}")]
    Unsuccessful(String),
    /// The same of a run of which it is known where to look next.
    #[error("{message}")]
    Ended {
        /// How it ended.
        message: String,
        /// Where to look.
        help: String,
    },
    /// Asked for wrongly.
    #[error("{0}")]
    Usage(String),
    /// Files were looked at and told about already; this is the sum.
    #[error("{summary}")]
    Told {
        /// What came out of it all.
        summary: String,
        /// For the shell.
        status: u8,
    },
    /// Something differs, which was shown.
    #[error("")]
    Different,
    /// No token was given.
    #[error("no API token was given for {server}")]
    NoToken {
        /// Its URL.
        server: String,
        /// The server of the context whose token was not used.
        withheld: Option<String>,
    },
    /// No such context.
    #[error("there is no context `{name}`")]
    NoContext {
        /// What was asked for.
        name: String,
        /// What there is.
        hint: String,
    },
    /// Looked for here, and not found.
    #[error("{0}")]
    NotFound(String),
    /// A file of ours.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file with the token.
    #[error("the token file {} (named by {said}): {error}", path.display())]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
        /// What named it.
        said: String,
    },
    /// No answer.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// Its URL.
        server: String,
        /// Innermost cause.
        reason: String,
        /// What the cause points at.
        hint: Option<&'static str>,
    },
    /// Server and client do not understand each other.
    #[error("{0}")]
    Incompatible(String),
    /// An answer that says no.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Ctrl-C, or told to stop.
    #[error("{0}")]
    Interrupted(String),
    /// Not the caller's fault.
    #[error("{0}")]
    Internal(String),
}

impl Failure {
    /// For `map_err` on a file's path.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }

    /// Whether the server said that a thing is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.status == 404)
    }

    /// With advice that this side has found out.
    pub(crate) fn advised(mut self, help: Option<String>) -> Self {
        match (&mut self, help) {
            (Self::Problem(problem), Some(help)) => problem.help = Some(help),
            (Self::NotFound(message), Some(help)) => *message = format!("{message}; {help}"),
            (_, None) | (_, Some(_)) => {}
        }
        self
    }

    /// For the shell.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Unsuccessful(_) | Self::Ended { .. } | Self::Different => exit::UNSUCCESSFUL,
            Self::Usage(_)
            | Self::File { .. }
            | Self::TokenFile { .. }
            | Self::NoContext { .. } => exit::USAGE,
            Self::Told { status, .. } => *status,
            Self::Unreachable { .. } | Self::Incompatible(_) => exit::UNREACHABLE,
            Self::NoToken { .. } => exit::DENIED,
            Self::NotFound(_) => exit::CONFLICT,
            Self::Interrupted(_) => exit::INTERRUPTED,
            Self::Internal(_) => exit::INTERNAL,
            Self::Problem(problem) => problem.status(),
        }
    }

    /// The stable code shown in brackets.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) if !problem.code.is_empty() => Some(&problem.code),
            Self::Problem(_)
            | Self::Unsuccessful(_)
            | Self::Ended { .. }
            | Self::Told { .. }
            | Self::Different
            | Self::Interrupted(_)
            | Self::Internal(_) => None,
            Self::Usage(_) => Some("usage"),
            Self::NoToken { .. } => Some("no_token"),
            Self::NoContext { .. } => Some("no_context"),
            Self::NotFound(_) => Some("not_found"),
            Self::File { .. } | Self::TokenFile { .. } => Some("file"),
            Self::Unreachable { .. } => Some("unreachable"),
            Self::Incompatible(_) => Some("incompatible"),
        }
    }

    /// Where in the text that was sent.
    pub(crate) fn place(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.place(),
            Self::Unsuccessful(_)
            | Self::Ended { .. }
            | Self::Usage(_)
            | Self::Told { .. }
            | Self::Different
            | Self::NoToken { .. }
            | Self::NoContext { .. }
            | Self::NotFound(_)
            | Self::File { .. }
            | Self::TokenFile { .. }
            | Self::Unreachable { .. }
            | Self::Incompatible(_)
            | Self::Interrupted(_)
            | Self::Internal(_) => None,
        }
    }

    /// What to do next, where the sentence itself does not say it.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::NoToken { withheld: Some(server), .. } => Some(format!(
                "the context's token is for {server} and is not shown to another server; name one with --token-file"
            )),
            Self::NoToken { withheld: None, .. } => Some(
                "name a file that holds one with --token-file, OUTPOST_TOKEN_FILE or `outpost context add`; \
                 `outpost-orchestrator init` writes the first one, `outpost-orchestrator token create` makes more, and \
                 `outpost dev` says what to export"
                    .to_owned(),
            ),
            Self::NoContext { hint, .. } => Some(hint.clone()),
            Self::Ended { help, .. } => Some(help.clone()),
            Self::Unreachable { hint, .. } => Some(
                hint.unwrap_or(
                    "check that the orchestrator runs and that --server, OUTPOST_SERVER or the context is its API's \
                     address (`outpost context show`)",
                )
                .to_owned(),
            ),
            Self::Problem(problem) => problem
                .help
                .clone()
                .or_else(|| problem.advice().map(str::to_owned)),
            Self::Incompatible(_) => Some(
                "compare `outpost --version` with the server's, and use the same version on both sides".to_owned(),
            ),
            Self::File { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path; it is looked up from the current directory".to_owned())
            }
            Self::TokenFile { .. } => Some(
                "name another with --token-file or OUTPOST_TOKEN_FILE; `outpost context show` says what is in effect"
                    .to_owned(),
            ),
            Self::Unsuccessful(_)
            | Self::Usage(_)
            | Self::Told { .. }
            | Self::Different
            | Self::NotFound(_)
            | Self::File { .. }
            | Self::Interrupted(_)
            | Self::Internal(_) => None,
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({ "error": {
            "status": self.status(),
            "code": self.code(),
            "message": self.to_string(),
            "place": self.place(),
            "help": self.help(),
        }})
    }
}

/// The innermost cause of an error: the part that a person can act upon.
pub(crate) fn innermost(error: &dyn std::error::Error) -> impl fmt::Display {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_place_is_as_precise_as_the_server_said() {
        let mut it = problem(
            r#"{"status":422,"code":"invalid_workflow","detail":"d","line":7,"path":"tasks.a"}"#,
        );
        assert_eq!(it.place().unwrap(), "7 (tasks.a)");
        it.file = Some("flow.yaml".to_owned());
        it.column = Some(3);
        assert_eq!(it.place().unwrap(), "flow.yaml:7:3 (tasks.a)");
        assert_eq!(problem("{}").place(), None);
    }

    #[test]
    fn every_status_has_its_exit_code() {
        let code = |status| {
            Failure::Problem(Box::new(problem(&format!(r#"{{"status":{status}}}"#)))).status()
        };
        let statuses = [400, 401, 403, 404, 409, 412, 413, 415, 422, 429, 500, 503];
        assert_eq!(statuses.map(code), [2, 4, 4, 5, 5, 5, 2, 2, 2, 3, 70, 3]);
    }
}
