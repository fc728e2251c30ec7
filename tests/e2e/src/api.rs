//! The orchestrator's API as a client sees it.

use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::wait::eventually;

/// One client with one token.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    token: String,
    client: Client,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body; null when it is not JSON.
    pub body: Value,
}

impl Reply {
    /// The body of an answer that says yes.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "refused: {self:#?}");
        self.body
    }

    /// The sentence of a refusal with this status and code.
    ///
    /// # Panics
    /// When it is another answer.
    #[track_caller]
    #[must_use]
    pub fn refused(self, status: u16, code: &str) -> String {
        let same = self.status == status && self.body["code"] == code;
        assert!(same, "expected {status} {code}: {self:#?}");
        self.body["detail"].as_str().unwrap_or_default().to_owned()
    }
}

impl Api {
    /// A client of the API at this URL.
    ///
    /// # Panics
    /// When no client can be made.
    #[must_use]
    pub fn new(base: &str, token: &str) -> Self {
        Self {
            base: base.to_owned(),
            token: token.to_owned(),
            client: client(),
        }
    }

    /// What this client shows to be let in.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The same API with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// The API's URL.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    fn send(&self, request: RequestBuilder) -> Option<Reply> {
        let response = request.bearer_auth(&self.token).send().ok()?;
        let status = response.status().as_u16();
        let body = response.json().unwrap_or(Value::Null);
        Some(Reply { status, body })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// GET; `None` when there is no answer.
    #[must_use]
    pub fn try_get(&self, path: &str) -> Option<Reply> {
        self.send(self.client.get(self.url(path)))
    }

    /// GET.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Reply {
        self.try_get(path).expect("the orchestrator answers")
    }

    /// POST of JSON; `None` when there is no answer.
    #[must_use]
    pub fn try_post(&self, path: &str, body: &Value) -> Option<Reply> {
        self.send(self.client.post(self.url(path)).json(body))
    }

    /// POST of JSON.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.try_post(path, body).expect("the orchestrator answers")
    }

    /// DELETE.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn delete(&self, path: &str) -> Reply {
        self.send(self.client.delete(self.url(path)))
            .expect("the orchestrator answers")
    }

    /// Applies a workflow.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn apply(&self, yaml: &str) -> Reply {
        self.apply_at("/api/v1/workflows", yaml)
    }

    /// Applies a workflow whose entries need not be known to any agent.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn apply_unknown(&self, yaml: &str) -> Reply {
        self.apply_at("/api/v1/workflows?allow_unknown_entries=true", yaml)
    }

    #[track_caller]
    fn apply_at(&self, path: &str, yaml: &str) -> Reply {
        let request = self.client.post(self.url(path));
        let request = request.header("content-type", "application/yaml");
        self.send(request.body(yaml.to_owned()))
            .expect("the orchestrator answers")
    }

    /// Starts a run; its id.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    #[must_use]
    pub fn trigger(&self, workflow: &str, params: &Value) -> String {
        let body = json!({ "params": params });
        let reply = self.post(&format!("/api/v1/workflows/{workflow}/runs"), &body);
        text(&reply.ok()["run"])
    }

    /// Starts a run under an idempotency key; the answer.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn trigger_once(&self, workflow: &str, key: &str) -> Reply {
        self.try_trigger_once(workflow, key)
            .expect("the orchestrator answers")
    }

    /// The same; `None` when there is no answer.
    #[must_use]
    pub fn try_trigger_once(&self, workflow: &str, key: &str) -> Option<Reply> {
        let path = format!("/api/v1/workflows/{workflow}/runs");
        let request = self.client.post(self.url(&path)).json(&json!({}));
        self.send(request.header("idempotency-key", key))
    }

    /// Runs again, in the same run, what did not succeed. The run goes on from the answer on: whoever asks for its end
    /// after this is told that of the new attempts.
    ///
    /// # Panics
    /// When that is refused.
    #[track_caller]
    pub fn again(&self, run: &str) {
        let _ = self
            .post(&format!("/api/v1/runs/{run}/rerun"), &json!({}))
            .ok();
    }

    /// A run's tree; `None` when there is no good answer.
    #[must_use]
    pub fn run(&self, run: &str) -> Option<Value> {
        let reply = self.try_get(&format!("/api/v1/runs/{run}"))?;
        (reply.status == 200).then_some(reply.body)
    }

    /// A run's tree once it is over.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    #[must_use]
    pub fn finished(&self, run: &str) -> Value {
        eventually(&format!("run {run} is over"), || {
            let tree = self.run(run)?;
            let over = ["succeeded", "failed", "cancelled"];
            over.iter()
                .any(|state| tree["state"] == *state)
                .then_some(tree)
        })
    }

    /// The tree of a run that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    #[must_use]
    pub fn succeeded(&self, run: &str) -> Value {
        let tree = self.finished(run);
        assert_eq!(tree["state"], "succeeded", "{tree:#}");
        tree
    }

    /// The first attempt of a task, once it is in this state.
    ///
    /// # Panics
    /// When it never is.
    #[track_caller]
    #[must_use]
    pub fn attempt_in(&self, run: &str, task: &str, state: &str) -> String {
        eventually(
            &format!("task {task} has an attempt that is {state}"),
            || {
                let tree = self.run(run)?;
                let attempts = attempts_of(&tree, task);
                let found = attempts.iter().find(|attempt| attempt["state"] == state)?;
                Some(text(&found["attempt"]))
            },
        )
    }

    /// An agent as the list shows it; `None` when it is not in it.
    #[must_use]
    pub fn agent(&self, name: &str) -> Option<Value> {
        let list = self.try_get("/api/v1/agents")?.body;
        let mut agents = list["items"].as_array()?.iter();
        agents.find(|agent| agent["agent"] == name).cloned()
    }
}

/// A client of this machine's own servers: between it and them there is no proxy, whatever the environment says.
///
/// # Panics
/// When no client can be made.
#[must_use]
pub fn client() -> Client {
    let client = Client::builder()
        .no_proxy()
        // The server gives a connection back on which nothing is asked for ten seconds: none is used that it may just be
        // closing.
        .pool_idle_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .build();
    client.expect("a client without TLS roots")
}

/// A task of a run's tree.
///
/// # Panics
/// When there is none of that name.
#[track_caller]
#[must_use]
pub fn task<'a>(tree: &'a Value, name: &str) -> &'a Value {
    let tasks = tree["tasks"].as_array().expect("a tree has tasks");
    tasks
        .iter()
        .find(|task| task["task"] == name)
        .unwrap_or_else(|| panic!("no task {name} in {tree:#}"))
}

/// The attempts of a task of a run's tree.
///
/// # Panics
/// When there is no such task.
#[track_caller]
#[must_use]
pub fn attempts_of(tree: &Value, name: &str) -> Vec<Value> {
    let attempts = &task(tree, name)["attempts"];
    attempts.as_array().cloned().unwrap_or_default()
}

/// A JSON text as a text.
///
/// # Panics
/// When it is something else.
#[track_caller]
#[must_use]
pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}
