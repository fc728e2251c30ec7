//! What goes wrong, as it is told: one request for each code that a request can lead to.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, Request};
use outpost_orchestrator::api::Code;

use super::rig::{JSON, Reply, Rig, YAML, read, request, words};
use super::site::{Site, enrol};

const ONE: &str = "name: one\nparams: {n: {kind: int, min: 1, max: 9, default: 1}}\n\
                   tasks: {only: {entry: list, with: {n: \"${params.n}\"}}}\n";

struct Told {
    lines: Vec<String>,
    codes: BTreeSet<String>,
}

impl Told {
    fn add(&mut self, what: &str, reply: &Reply) {
        let json = reply.json();
        let code = json["code"].as_str().unwrap().to_owned();
        assert_eq!(json["status"], reply.status.as_u16());
        let pretty = serde_json::to_string_pretty(&json).unwrap();
        self.lines.push(format!("# {what}\n{}", words(&pretty)));
        self.codes.insert(code);
    }
}

#[tokio::test]
async fn each_problem_has_its_code_and_its_sentence() {
    let mut rig = Rig::new().await;
    let token = rig.token("acme", "admin").await;
    let viewer = rig.token("acme", "viewer").await;
    let mut told = Told {
        lines: Vec::new(),
        codes: BTreeSet::new(),
    };
    rig.apply(&token, ONE).await.expect(201);

    access(&rig, &mut told, &token, &viewer).await;
    requests(&rig, &mut told, &token).await;
    workflows(&rig, &mut told, &token).await;

    rig.stop().await;
    told.add(
        "the driver is gone",
        &rig.post("/api/v1/workflows/one/runs", &token, "").await,
    );
    told.add(
        "not ready",
        &rig.ask(Method::GET, "/readyz", None, &[], "").await,
    );

    // A request cannot be made to take half a minute or to meet a fault; those are tested where they are made.
    let elsewhere = ["timeout", "internal"].map(str::to_owned);
    let all: BTreeSet<String> = Code::ALL
        .iter()
        .map(|code| code.word().to_owned())
        .collect();
    let missing: Vec<&String> = all
        .difference(&told.codes)
        .filter(|code| !elsewhere.contains(code))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    insta::assert_snapshot!(told.lines.join("\n\n"));
}

async fn access(rig: &Rig, told: &mut Told, token: &str, viewer: &str) {
    told.add(
        "no token",
        &rig.ask(Method::GET, "/api/v1/runs", None, &[], "").await,
    );
    let expired = rig.token_until("acme", "admin", 0).await;
    told.add("an expired token", &rig.get("/api/v1/runs", &expired).await);
    told.add("a viewer applies", &rig.apply(viewer, ONE).await);
    let host = [("host", "evil.example:7080")];
    told.add(
        "another host",
        &rig.ask(Method::GET, "/api/v1/runs", Some(token), &host, "")
            .await,
    );
    told.add("no such route", &rig.get("/api/v2/runs", token).await);
    let reply = rig
        .ask(Method::PUT, "/api/v1/runs", Some(token), &[], "")
        .await;
    assert!(reply.headers["allow"].to_str().unwrap().contains("GET"));
    told.add("another method", &reply);
    told.add(
        "no such run",
        &rig.get(&format!("/api/v1/runs/{:032x}", 7), token).await,
    );
    told.add(
        "no run's id",
        &rig.get("/api/v1/runs/%1b%5b31m..%2f", token).await,
    );
    told.add(
        "no such agent",
        &rig.ask(Method::DELETE, "/api/v1/agents/none", Some(token), &[], "")
            .await,
    );
}

async fn requests(rig: &Rig, told: &mut Told, token: &str) {
    let trigger = "/api/v1/workflows/one/runs";
    told.add(
        "JSON that is none",
        &rig.post(trigger, token, "{\"params\":\n {\"n\" 1}}").await,
    );
    told.add("a list", &rig.post(trigger, token, "[{}]").await);
    told.add(
        "an unknown key",
        &rig.post(trigger, token, "{\"parameters\": {}}").await,
    );
    told.add(
        "an unknown query",
        &rig.get("/api/v1/runs?stat=running", token).await,
    );
    told.add(
        "no such state",
        &rig.get("/api/v1/runs?state=done", token).await,
    );
    told.add(
        "an empty page",
        &rig.get("/api/v1/runs?limit=0", token).await,
    );
    told.add(
        "no such cursor",
        &rig.get("/api/v1/runs?cursor=x", token).await,
    );
    let text = [("content-type", "text/html")];
    told.add(
        "another type",
        &rig.ask(Method::POST, trigger, Some(token), &text, "{}")
            .await,
    );
    told.add(
        "no type of YAML",
        &rig.ask(Method::POST, "/api/v1/workflows", Some(token), &[JSON], ONE)
            .await,
    );
    let large = "x".repeat(64 * 1024 + 1);
    told.add("a large body", &rig.post(trigger, token, &large).await);
    let chunks =
        futures_util::stream::iter(vec![
            Ok::<_, std::convert::Infallible>("x".repeat(1024));
            300
        ]);
    let body = Body::from_stream(chunks);
    let request: Request<Body> = request(
        Method::POST,
        "/api/v1/workflows",
        Some(token),
        &[YAML],
        body,
    );
    told.add(
        "a large body in chunks",
        &read(rig.send(request).await).await,
    );
    let key = [JSON, ("idempotency-key", "")];
    told.add(
        "an empty key",
        &rig.ask(Method::POST, trigger, Some(token), &key, "").await,
    );
}

async fn workflows(rig: &Rig, told: &mut Told, token: &str) {
    told.add(
        "no such workflow",
        &rig.post("/api/v1/workflows/two/runs", token, "").await,
    );
    told.add("no YAML", &rig.apply(token, "name: [").await);
    told.add(
        "an unknown key of a workflow",
        &rig.apply(token, "name: x\ntasks: {a: {entry: e, need: []}}")
            .await,
    );
    let cycle = "name: x\ntasks:\n  a: {entry: e, needs: [b]}\n  b: {entry: e, needs: [a]}\n  c: {entri: e}\n";
    told.add("a cycle and more", &rig.apply(token, cycle).await);
    let trigger = "/api/v1/workflows/one/runs";
    told.add(
        "a value out of bounds",
        &rig.post(trigger, token, r#"{"params":{"n":10}}"#).await,
    );
    told.add(
        "an unknown parameter",
        &rig.post(trigger, token, r#"{"params":{"m":1}}"#).await,
    );
    told.add(
        "half a number",
        &rig.post(trigger, token, r#"{"params":{"n":1.5}}"#).await,
    );
    let key = [JSON, ("idempotency-key", "k1")];
    rig.ask(Method::POST, trigger, Some(token), &key, "")
        .await
        .expect(201);
    rig.apply(token, "name: two\ntasks: {only: {entry: list}}")
        .await
        .expect(201);
    let reply = rig
        .ask(
            Method::POST,
            "/api/v1/workflows/two/runs",
            Some(token),
            &key,
            "",
        )
        .await;
    told.add("a key used twice", &reply);
    let run = rig.trigger(token, "one").await;
    let cancel = format!("/api/v1/runs/{run}/cancel");
    rig.post(&cancel, token, "").await.expect(200);
    told.add("a run that is over", &rig.post(&cancel, token, "").await);

    conflicts(rig, told, token).await;
    conditions(rig, told, token).await;
    agents(rig, told, token).await;
    wrong_tokens(rig, told).await;
}

async fn agents(rig: &Rig, told: &mut Told, token: &str) {
    enrol(rig, "acme", "site-1").await;
    told.add(
        "an agent that exists",
        &rig.post("/api/v1/agents/invites", token, r#"{"agent":"site-1"}"#)
            .await,
    );
    told.add(
        "a reserved name",
        &rig.post("/api/v1/agents/invites", token, r#"{"agent":"invites"}"#)
            .await,
    );
    told.add(
        "a bad name",
        &rig.post("/api/v1/agents/invites", token, r#"{"agent":"Site 1"}"#)
            .await,
    );
    let mut site = Site::connect(rig, "site-2", &["list"]).await;
    told.add(
        "one holder",
        &rig.post("/api/v1/agents/site-2/resolve", token, r#"{"keep":"this"}"#)
            .await,
    );
    let attempt = site.assigned().await.attempt;
    let dead = format!("/api/v1/attempts/{attempt}/assert-dead");
    told.add(
        "an agent in touch",
        &rig.post(&dead, token, r#"{"reason":"it looks dead"}"#)
            .await,
    );
    told.add(
        "no reason",
        &rig.post(&dead, token, r#"{"reason":" "}"#).await,
    );
    told.add(
        "an unknown entry",
        &rig.apply(token, "name: x\ntasks: {a: {entry: lost}}").await,
    );
    let allowed = "/api/v1/workflows?allow_unknown_entries=true";
    let reply = rig
        .ask(
            Method::POST,
            allowed,
            Some(token),
            &[YAML],
            "name: x\ntasks: {a: {entry: lost}}",
        )
        .await;
    assert_eq!(reply.expect(201)["warnings"].as_array().unwrap().len(), 1);
}

async fn wrong_tokens(rig: &Rig, told: &mut Told) {
    let none = format!("opt_{}_{}", "0".repeat(12), "A".repeat(43));
    for _ in 0..60 {
        let reply = rig.get("/api/v1/runs", &none).await;
        if reply.code() == "too_many" {
            told.add("many wrong tokens", &reply);
            return;
        }
    }
    panic!("wrong tokens are not limited");
}

async fn conflicts(rig: &Rig, told: &mut Told, token: &str) {
    let run = rig.trigger(token, "one").await;
    let ask = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        rig.ask(method, path, Some(token), headers, body).await
    };
    told.add(
        "a run that is not over",
        &rig.post(&format!("/api/v1/runs/{run}/rerun"), token, "")
            .await,
    );
    told.add(
        "no such task",
        &rig.post(
            &format!("/api/v1/runs/{run}/rerun"),
            token,
            r#"{"tasks":["lost"]}"#,
        )
        .await,
    );
    told.add(
        "a workflow with live runs is deleted",
        &ask(Method::DELETE, "/api/v1/workflows/one", &[], "").await,
    );
}

async fn conditions(rig: &Rig, told: &mut Told, token: &str) {
    let ask = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        rig.ask(method, path, Some(token), headers, body).await
    };
    told.add(
        "no schedule",
        &rig.get("/api/v1/workflows/one/upcoming", token).await,
    );
    told.add(
        "another version",
        &ask(
            Method::POST,
            "/api/v1/workflows",
            &[YAML, ("if-match", "\"7\"")],
            ONE,
        )
        .await,
    );
    told.add(
        "no version",
        &ask(
            Method::DELETE,
            "/api/v1/workflows/one",
            &[("if-match", "7")],
            "",
        )
        .await,
    );
    told.add(
        "an event of another database",
        &rig.get("/api/v1/events?after=4711", token).await,
    );
    told.add(
        "a bad label",
        &ask(
            Method::PATCH,
            "/api/v1/agents/site-1",
            &[JSON],
            r#"{"labels":{"Zone":"eu"}}"#,
        )
        .await,
    );
    told.add(
        "no slots",
        &ask(
            Method::PATCH,
            "/api/v1/agents/site-1",
            &[JSON],
            r#"{"slots":0}"#,
        )
        .await,
    );
    let lone = rig.token("other", "admin").await;
    let path = format!("/api/v1/tokens/{}", &lone[4..16]);
    told.add(
        "the last administrator",
        &rig.ask(Method::DELETE, &path, Some(&lone), &[], "").await,
    );
}

#[tokio::test]
async fn only_this_servers_names_are_answered() {
    let rig = Rig::new().await;
    for (host, status) in [
        ("localhost", 401),
        ("LOCALHOST:1", 401),
        ("127.0.0.1:7080", 401),
        ("[::1]:7080", 401),
        ("outpost.example.org", 401),
        ("localhost.evil.example", 421),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:7080", 421),
        ("", 421),
        ("user@localhost", 401),
    ] {
        let headers = [("host", host)];
        let reply = rig
            .ask(Method::GET, "/api/v1/runs", None, &headers, "")
            .await;
        assert_eq!(reply.status, status, "{host:?}");
        let alive = rig.ask(Method::GET, "/healthz", None, &headers, "").await;
        assert_eq!(alive.status, 200);
    }
}
