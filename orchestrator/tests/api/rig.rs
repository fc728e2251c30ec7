//! One orchestrator without ports: requests go straight to its router.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use outpost_driver::Fatal;
use outpost_orchestrator::admin::token::draw;
use outpost_orchestrator::api::Rate;
use outpost_orchestrator::driver::{Driver, Handle};
use outpost_orchestrator::store::access::Access;
use outpost_orchestrator::store::read::Reader;
use outpost_orchestrator::store::sqlite::Sqlite;
use outpost_orchestrator::{ApiState, JoinInfo, api};
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::name::TenantName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::document;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const YAML: (&str, &str) = ("content-type", "application/yaml");
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

pub(crate) struct Rig {
    pub(crate) handle: Handle,
    pub(crate) access: Access,
    pub(crate) reader: Reader,
    pub(crate) router: Router,
    pub(crate) draining: CancellationToken,
    stop: CancellationToken,
    driver: JoinHandle<Result<(), Fatal>>,
    pub(crate) dir: TempDir,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    /// The body, if the status is the expected one.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

impl Rig {
    pub(crate) async fn new() -> Self {
        // The limit has a test of its own.
        Self::with_rate(Rate { per_s: 0, burst: 1 }).await
    }

    pub(crate) async fn with_rate(rate: Rate) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Sqlite::create(dir.path(), 7).await.unwrap();
        let store = Sqlite::open(dir.path()).await.unwrap();
        let (reader, access) = (store.reader(), store.access());
        for name in ["acme", "other"] {
            assert!(access.create_tenant(&tenant(name), 1).await.unwrap());
        }
        let start = |now, snapshot| Orchestrator::new(Settings::default(), [7; 32], now, snapshot);
        let (driver, handle) = Driver::new(store, start).await.unwrap();
        let (stop, draining) = (CancellationToken::new(), CancellationToken::new());
        let driver = tokio::spawn(driver.run(stop.clone()));
        let join = JoinInfo {
            agents: "outpost.example.org:7443".to_owned(),
            trust_domain: "test.internal".to_owned(),
            root_pin: [9; 32],
        };
        let state = ApiState {
            handle: handle.clone(),
            reader: reader.clone(),
            access: access.clone(),
            join,
            names: vec!["outpost.example.org".to_owned()],
            rate,
            draining: draining.clone(),
        };
        Self {
            handle,
            access,
            reader,
            router: api::router(state),
            draining,
            stop,
            driver,
            dir,
        }
    }

    /// Stops the driver, as after a fault of the disk.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        (&mut self.driver).await.unwrap().unwrap();
    }

    pub(crate) async fn token(&self, of: &str, role: &str) -> String {
        self.token_until(of, role, 3_600_000).await
    }

    pub(crate) async fn token_until(&self, of: &str, role: &str, ttl_ms: u64) -> String {
        let now = self.handle.now();
        let drawn = draw(&tenant(of), role, "a test's", now, ttl_ms).unwrap();
        self.access.insert_token(&drawn.row).await.unwrap();
        drawn.text
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        document::allows(&method, &path, &response);
        response
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let response = self
            .send(request(
                method,
                path,
                token,
                headers,
                Body::from(body.to_owned()),
            ))
            .await;
        read(response).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Reply {
        self.ask(Method::GET, path, Some(token), &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &str) -> Reply {
        self.ask(Method::POST, path, Some(token), &[JSON], body)
            .await
    }

    pub(crate) async fn apply(&self, token: &str, yaml: &str) -> Reply {
        self.ask(
            Method::POST,
            "/api/v1/workflows",
            Some(token),
            &[YAML],
            yaml,
        )
        .await
    }

    /// A run of a workflow; its id.
    pub(crate) async fn trigger(&self, token: &str, workflow: &str) -> String {
        let path = format!("/api/v1/workflows/{workflow}/runs");
        let answer = self.post(&path, token, "{}").await.expect(201);
        answer["run"].as_str().unwrap().to_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn request(
    method: Method,
    path: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
    body: Body,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == HOST) {
        request = request.header(HOST, "localhost:7080");
    }
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

pub(crate) async fn read(response: Response<Body>) -> Reply {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await;
    let text = String::from_utf8(body.unwrap().unwrap().to_bytes().into()).unwrap();
    if !parts.status.is_success() {
        assert_eq!(
            parts.headers[CONTENT_TYPE], "application/problem+json",
            "{text}"
        );
    }
    assert_eq!(parts.headers["cache-control"], "no-store");
    assert_eq!(parts.headers["x-content-type-options"], "nosniff");
    Reply {
        status: parts.status,
        headers: parts.headers,
        text,
    }
}

/// An answer without what differs from one test run to the next.
pub(crate) fn stable(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::String(text) => *text = words(text),
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == "duration_ms" && value.is_number() {
                        *value = "[ms]".into();
                    }
                    walk(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    walk(&mut value);
    value
}

/// Ids and moments become placeholders.
pub(crate) fn words(text: &str) -> String {
    let is_id = |word: &str| {
        let hex = word.bytes().all(|b| b.is_ascii_hexdigit());
        hex && (word.len() == 32 || word.len() == 12)
    };
    let is_time = |word: &str| word.len() == 27 && word.ends_with('Z') && word.contains('T');
    let word = |word: &str| {
        let bare = word.trim_matches(['`', ',', '.', ':', '"']);
        match bare {
            bare if is_id(bare) => word.replace(bare, "[id]"),
            bare if is_time(bare) => word.replace(bare, "[time]"),
            bare if bare.starts_with("opt_") && bare.len() == 60 => "[token]".to_owned(),
            bare if bare.starts_with("opj1.") && bare.len() > 60 => "[join token]".to_owned(),
            _ => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
