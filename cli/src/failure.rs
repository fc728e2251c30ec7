//! Why a command did not do what it was asked for: one sentence, what to do next, and one exit status.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// What the server said was wrong (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
}

/// Every way in which a command ends badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The run, or what was waited for, did not succeed.
    #[error("{0}")]
    Unsuccessful(String),
    /// Asked for wrongly.
    #[error("{0}")]
    Usage(String),
    /// No token was given.
    #[error("no API token was given for {0}")]
    NoToken(String),
    /// A file of ours.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// No answer.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// Its URL.
        server: String,
        /// Innermost cause.
        reason: String,
    },
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

    /// For the shell.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Unsuccessful(_) => 1,
            Self::Usage(_) | Self::File { .. } => 2,
            Self::Unreachable { .. } => 3,
            Self::NoToken(_) => 4,
            Self::Interrupted(_) => 6,
            Self::Internal(_) => 70,
            Self::Problem(problem) => match problem.status {
                401 | 403 => 4,
                404 | 409 => 5,
                429 | 502..=504 => 3,
                500..=599 => 70,
                _ => 2,
            },
        }
    }

    /// The stable code shown in brackets.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) if !problem.code.is_empty() => Some(&problem.code),
            Self::Problem(_) | Self::Unsuccessful(_) | Self::Interrupted(_) | Self::Internal(_) => {
                None
            }
            Self::Usage(_) => Some("usage"),
            Self::NoToken(_) => Some("no_token"),
            Self::File { .. } => Some("file"),
            Self::Unreachable { .. } => Some("unreachable"),
        }
    }

    /// Where in the text that was sent.
    pub(crate) fn place(&self) -> Option<String> {
        match self {
            Self::Problem(problem) => problem.place(),
            Self::Unsuccessful(_)
            | Self::Usage(_)
            | Self::NoToken(_)
            | Self::File { .. }
            | Self::Unreachable { .. }
            | Self::Interrupted(_)
            | Self::Internal(_) => None,
        }
    }

    /// What to do next, where the sentence itself does not say it.
    pub(crate) fn help(&self) -> Option<String> {
        let help = match self {
            Self::NoToken(_) => {
                "name a file that holds one with --token-file or OUTPOST_TOKEN_FILE; `outpost-orchestrator init` writes \
                 the first one, `outpost-orchestrator token create` makes more"
            }
            Self::Unreachable { .. } => {
                "check that the orchestrator runs and that --server or OUTPOST_SERVER is its API's address"
            }
            Self::Problem(problem) => match (problem.status, problem.code.as_str()) {
                (401, "token_expired") => "make a new one with `outpost-orchestrator token create`",
                (401, _) => {
                    "check the token in --token-file or OUTPOST_TOKEN_FILE; it begins with `opt_`"
                }
                (409, "agent_exists") => {
                    "choose another name, or remove it first with `outpost agents remove`"
                }
                (404, _) => {
                    "`outpost workflows`, `outpost runs` and `outpost agents` list what there is"
                }
                (429 | 503, _) => "try again in a moment",
                _ => return None,
            },
            Self::Unsuccessful(_)
            | Self::Usage(_)
            | Self::File { .. }
            | Self::Interrupted(_)
            | Self::Internal(_) => {
                return None;
            }
        };
        Some(help.to_owned())
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
        let statuses = [400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503];
        assert_eq!(statuses.map(code), [2, 4, 4, 5, 5, 2, 2, 2, 3, 70, 3]);
    }
}
