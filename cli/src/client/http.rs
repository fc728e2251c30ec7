//! Asking the server: one request at a time, answers as JSON, what went wrong as a [`Failure`].
//!
//! A request that may be asked twice is asked again while the patience lasts; one that may not is asked again only if
//! it never reached the server.

use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, Response, Url, redirect};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::config::Connection;
use crate::failure::{Failure, Problem, innermost};
use crate::output::{Out, attended};

/// Of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// A whole request; the server's own limit is 30 s.
const REQUEST: Duration = Duration::from_secs(35);
/// Without a byte on an event stream, which says something every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// First pause before asking again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A server and the right to ask it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    connection: Connection,
    patience: Duration,
    /// Where it is said that an answer takes long.
    shown: Option<Out>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    method: Method,
    path: Vec<&'a str>,
    query: Vec<(&'a str, String)>,
    body: Option<(&'static str, Vec<u8>)>,
    key: Option<&'a str>,
    /// Asking twice has the effect of asking once.
    repeatable: bool,
}

impl<'a> Ask<'a> {
    /// `GET /api/v1/…`; each part of the path is escaped.
    pub(crate) fn get(path: &[&'a str]) -> Self {
        Self {
            method: Method::GET,
            path: path.to_vec(),
            query: vec![],
            body: None,
            key: None,
            repeatable: true,
        }
    }

    /// `DELETE`
    pub(crate) fn delete(path: &[&'a str]) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(path)
        }
    }

    /// `POST` of JSON, which may be asked once only.
    pub(crate) fn post(path: &[&'a str], body: &Value) -> Self {
        let body = Some(("application/json", body.to_string().into_bytes()));
        Self {
            method: Method::POST,
            body,
            repeatable: false,
            ..Self::get(path)
        }
    }

    /// `PATCH` of JSON: the same one twice changes nothing.
    pub(crate) fn patch(path: &[&'a str], body: &Value) -> Self {
        Self {
            method: Method::PATCH,
            repeatable: true,
            ..Self::post(path, body)
        }
    }

    /// `POST` of a workflow: the same one twice changes nothing.
    pub(crate) fn apply(yaml: Vec<u8>) -> Self {
        let body = Some(("application/yaml", yaml));
        Self {
            method: Method::POST,
            body,
            ..Self::get(&["workflows"])
        }
    }

    /// With a query parameter, if there is a value.
    pub(crate) fn with(mut self, name: &'a str, value: Option<String>) -> Self {
        self.query.extend(value.map(|value| (name, value)));
        self
    }

    /// With an idempotency key, which makes it repeatable.
    pub(crate) fn keyed(mut self, key: Option<&'a str>) -> Self {
        self.repeatable |= key.is_some();
        self.key = key;
        self
    }

    /// Said to be repeatable.
    pub(crate) fn again(self) -> Self {
        Self {
            repeatable: true,
            ..self
        }
    }
}

impl Client {
    /// Asks once.
    pub(crate) fn new(connection: Connection) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("outpost/", env!("CARGO_PKG_VERSION")));
        if connection.server.scheme() == "http" {
            // Loopback: neither a proxy nor the system's certificates have a part in it.
            builder = builder.no_proxy().tls_certs_only([]);
        } else if let Some(roots) = &connection.ca {
            builder = builder.tls_certs_only(roots.iter().cloned());
        }
        let http = builder
            .build()
            .map_err(|error| Failure::Internal(format!("no HTTP client: {}", innermost(&error))))?;
        Ok(Self {
            http,
            connection,
            patience: Duration::ZERO,
            shown: None,
        })
    }

    /// Asks again for so long while the server is away or cannot answer.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Says when an answer takes long.
    pub(crate) fn shown(self, out: Out) -> Self {
        let shown = Some(out);
        Self { shown, ..self }
    }

    /// Says nothing; somebody else draws.
    pub(crate) fn quiet(self) -> Self {
        let shown = None;
        Self { shown, ..self }
    }

    /// The server's URL as people write it.
    pub(crate) fn server(&self) -> &str {
        self.connection.server.as_str().trim_end_matches('/')
    }

    /// Asks, and reads the answer's JSON; `null` when there is none.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Value, Failure> {
        let what = format!("waiting for {}", self.server());
        attended(self.shown, &what, self.repeat(ask)).await
    }

    async fn repeat(&self, ask: &Ask<'_>) -> Result<Value, Failure> {
        let until = Instant::now() + self.patience;
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.once(ask).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if !failure.may_pass(ask.repeatable) || Instant::now() + pause > until {
                return Err(failure.failure);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks, and reads the answer into a type.
    pub(crate) async fn get<T: DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<T, Failure> {
        parse(self.ask(ask).await?)
    }

    /// Opens the event stream of a run, or of the whole tenant, after an event.
    pub(crate) async fn events(
        &self,
        run: Option<&str>,
        after: Option<&str>,
    ) -> Result<Response, Failure> {
        let ask = Ask::get(&["events"])
            .with("run", run.map(str::to_owned))
            .with("after", after.map(str::to_owned));
        let request = self.request(&ask).header(ACCEPT, "text/event-stream");
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refused(response).await)
        }
    }

    /// What the server says, unless it shows that it does not know what was asked at all.
    async fn refused(&self, response: Response) -> Failure {
        let told = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"));
        let problem = problem(response).await;
        // A path or method that a server of our version would know; a thing that is not there is told otherwise.
        let unknown = match problem.status {
            404 => !told || problem.detail.contains("nothing at this path"),
            405 => true,
            _ => false,
        };
        if !unknown {
            return Failure::Problem(Box::new(problem));
        }
        let server = self.server();
        Failure::Incompatible(if told {
            format!("{server} does not know this request: it is older than this outpost {VERSION}")
        } else {
            format!("{server} answers, but not as an Outpost orchestrator does")
        })
    }

    async fn once(&self, ask: &Ask<'_>) -> Result<Value, Refused> {
        let sent = self.request(ask).timeout(REQUEST).send().await;
        let response = sent.map_err(|error| Refused {
            unsent: error.is_connect(),
            failure: self.unreachable(&error),
        })?;
        if !response.status().is_success() {
            return Err(Refused {
                unsent: false,
                failure: self.refused(response).await,
            });
        }
        let body = response.bytes().await;
        let body = body.map_err(|error| Refused {
            unsent: false,
            failure: self.unreachable(&error),
        })?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| {
            let why = format!(
                "{} answered something that is no JSON ({error}); is it an Outpost orchestrator?",
                self.server()
            );
            Refused {
                unsent: false,
                failure: Failure::Incompatible(why),
            }
        })
    }

    fn request(&self, ask: &Ask<'_>) -> RequestBuilder {
        let mut request = self.http.request(
            ask.method.clone(),
            url(&self.connection.server, &ask.path, &ask.query),
        );
        request = request.bearer_auth(&self.connection.token);
        if let Some((kind, body)) = &ask.body {
            request = request.header(CONTENT_TYPE, *kind).body(body.clone());
        }
        if let Some(key) = ask.key {
            request = request.header("idempotency-key", key);
        }
        request
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let reason = match (error.is_timeout(), innermost(error)) {
            (true, _) => "no answer in time".to_owned(),
            (false, cause) => cause.to_string(),
        };
        let https = self.connection.server.scheme() == "https";
        Failure::Unreachable {
            server: self.server().to_owned(),
            hint: hint(https, &reason),
            reason,
        }
    }
}

/// A failure, and whether the request never reached the server.
struct Refused {
    unsent: bool,
    failure: Failure,
}

impl Refused {
    fn may_pass(&self, repeatable: bool) -> bool {
        match &self.failure {
            Failure::Unreachable { .. } => self.unsent || repeatable,
            Failure::Problem(problem) => repeatable && matches!(problem.status, 429 | 502..=504),
            Failure::Unsuccessful(_)
            | Failure::Ended { .. }
            | Failure::Usage(_)
            | Failure::Told { .. }
            | Failure::Different
            | Failure::NoToken { .. }
            | Failure::NoContext { .. }
            | Failure::NotFound(_)
            | Failure::File { .. }
            | Failure::TokenFile { .. }
            | Failure::Incompatible(_)
            | Failure::Interrupted(_)
            | Failure::Internal(_) => false,
        }
    }
}

/// An answer in its type.
pub(crate) fn parse<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        Failure::Incompatible(format!(
            "the server's answer is not understood by this outpost {VERSION} ({error}); is the address that of the API, and not the agents' port?"
        ))
    })
}

/// What a cause points at.
fn hint(https: bool, reason: &str) -> Option<&'static str> {
    let says = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    if https && says(&["InvalidContentType", "corrupt message", "handshake eof"]) {
        return Some(
            "the server speaks no TLS there, perhaps plain http: try http:// instead of https://",
        );
    }
    if !https
        && says(&[
            "invalid HTTP version",
            "InvalidMessage",
            "connection closed",
            "reset by peer",
        ])
    {
        return Some("the server may speak TLS there: write https:// instead of http://");
    }
    if https && says(&["UnknownIssuer", "unknown issuer", "CaUsedAsEndEntity"]) {
        return Some(
            "its certificate is by an authority that is not trusted here: name its root with --ca, OUTPOST_CA or the \
             context (`ca/root.crt` in the orchestrator's directory)",
        );
    }
    if https && says(&["NotValidForName", "not valid for name"]) {
        return Some(
            "its certificate is for other names: use one of them, or add this one with `outpost-orchestrator init --name`",
        );
    }
    None
}

fn url(server: &Url, path: &[&str], query: &[(&str, String)]) -> Url {
    let mut url = server.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.clear().extend(["api", "v1"]).extend(path);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

/// What the server says; a bare status where it says nothing.
async fn problem(response: Response) -> Problem {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let parsed: Option<Problem> = serde_json::from_slice(&body).ok();
    let mut problem = parsed.unwrap_or_default();
    problem.status = status.as_u16();
    if problem.detail.is_empty() {
        problem.detail = format!("the server answered {status}");
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_escaped() {
        let server = Url::parse("http://127.0.0.1:7080").unwrap();
        let url = url(
            &server,
            &["runs", "a/../b?c"],
            &[("workflow", "x&y".to_owned())],
        );
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:7080/api/v1/runs/a%2F..%2Fb%3Fc?workflow=x%26y"
        );
    }
}
