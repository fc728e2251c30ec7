//! Who may do what: every route with every role, two tenants, and tokens that are none.

use http::{Method, StatusCode};
use outpost_orchestrator::admin::token::draw;
use outpost_orchestrator::api::{RouteInfo, table};
use outpost_orchestrator::auth::Role;
use serde_json::Value;

use super::rig::{JSON, Rig, YAML, tenant};
use super::site::{Site, enrol};

const WORKFLOW: &str = "name: one\ntasks: {only: {entry: list}}\n";

/// A request that a tenant's own administrator is answered `status` to.
struct Sample {
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    status: u16,
    /// What it names, which another tenant must not find.
    named: Option<String>,
}

fn sample(path: impl Into<String>, status: u16) -> Sample {
    Sample {
        path: path.into(),
        headers: Vec::new(),
        body: String::new(),
        status,
        named: None,
    }
}

fn of(path: &str, name: String, status: u16) -> Sample {
    let begin = path.find('{').unwrap();
    let end = path.find('}').unwrap();
    let filled = format!("{}{name}{}", &path[..begin], &path[end + 1..]);
    Sample {
        named: Some(name),
        ..sample(filled, status)
    }
}

/// What exists in tenant `acme` while a table is gone through.
struct Things {
    owner: String,
    attempt: String,
    site: Site,
}

impl Things {
    async fn make(rig: &Rig) -> Self {
        let owner = rig.token("acme", "admin").await;
        rig.apply(&owner, WORKFLOW).await.expect(201);
        rig.apply(
            &owner,
            "name: nightly\nschedule: {cron: '@daily'}\ntasks: {only: {entry: list}}\n",
        )
        .await
        .expect(201);
        let mut site = Site::connect(rig, "site-1", &["list"]).await;
        rig.trigger(&owner, "one").await;
        let attempt = site.assigned().await.attempt.to_string();
        // The assignment is spoken after it is stored.
        Self {
            owner,
            attempt,
            site,
        }
    }
}

/// One sample per route, made of things that exist in tenant `acme`. A route without a row fails here.
async fn row(rig: &Rig, route: &RouteInfo, things: &Things, serial: usize) -> Sample {
    let (path, owner) = (route.path, things.owner.as_str());
    let json = |body: String, sample: Sample| Sample {
        headers: vec![JSON],
        body,
        ..sample
    };
    match (route.method.as_str(), path) {
        ("GET", "/healthz" | "/readyz" | "/metrics" | "/api/v1/openapi.json") => sample(path, 200),
        ("GET", "/api/v1/workflows" | "/api/v1/runs" | "/api/v1/agents" | "/api/v1/tokens") => {
            sample(path, 200)
        }
        ("GET", "/api/v1/recovery") => sample(path, 200),
        // There is nothing to decide; who may decide is told all the same.
        ("POST", "/api/v1/recovery/continue" | "/api/v1/recovery/unfreeze") => sample(path, 409),
        ("POST", "/api/v1/agents/{agent}/resolve") => json(
            r#"{"keep":"this"}"#.to_owned(),
            of(path, "site-1".to_owned(), 409),
        ),
        ("POST", "/api/v1/attempts/{attempt}/assert-dead") => json(
            r#"{"reason":"seen"}"#.to_owned(),
            of(path, things.attempt.clone(), 409),
        ),
        ("GET", "/api/v1/events") => sample(path, 200),
        ("POST", "/api/v1/workflows") => Sample {
            headers: vec![YAML],
            body: format!("name: w{serial}\ntasks: {{only: {{entry: list}}}}\n"),
            ..sample(path, 201)
        },
        ("DELETE", "/api/v1/workflows/{name}") => {
            let name = format!("doomed-{serial}");
            let yaml = format!("name: {name}\ntasks: {{only: {{entry: list}}}}\n");
            rig.apply(owner, &yaml).await.expect(201);
            of(path, name, 204)
        }
        ("POST", "/api/v1/workflows/{name}/pause" | "/api/v1/workflows/{name}/resume")
        | ("GET", "/api/v1/workflows/{name}/upcoming" | "/api/v1/workflows/{name}/versions") => {
            of(path, "nightly".to_owned(), 200)
        }
        ("GET", "/api/v1/workflows/{name}/versions/{version}") => Sample {
            named: Some("nightly".to_owned()),
            ..sample("/api/v1/workflows/nightly/versions/1", 200)
        },
        ("POST", "/api/v1/runs/{run}/rerun") => {
            let yaml = "name: lonely\nqueue: nobody-serves\ntasks: {only: {entry: list}}\n";
            rig.apply(owner, yaml).await;
            let run = rig.trigger(owner, "lonely").await;
            rig.post(&format!("/api/v1/runs/{run}/cancel"), owner, "")
                .await
                .expect(200);
            of(path, run, 200)
        }
        ("GET", "/api/v1/agents/{agent}") => of(path, "site-1".to_owned(), 200),
        ("PATCH", "/api/v1/agents/{agent}") => json(
            r#"{"labels":{"zone":"eu"}}"#.to_owned(),
            of(path, "site-1".to_owned(), 200),
        ),
        ("GET", "/api/v1/workflows/{name}") => of(path, "one".to_owned(), 200),
        ("POST", "/api/v1/workflows/{name}/runs") => {
            json("{}".to_owned(), of(path, "one".to_owned(), 201))
        }
        ("GET", "/api/v1/runs/{run}" | "/api/v1/runs/{run}/explain") => {
            of(path, rig.trigger(owner, "one").await, 200)
        }
        ("POST", "/api/v1/runs/{run}/cancel") => of(path, rig.trigger(owner, "one").await, 200),
        ("GET", "/api/v1/attempts/{attempt}") => of(path, things.attempt.clone(), 200),
        ("POST", "/api/v1/agents/invites") => json(
            format!("{{\"agent\":\"invited-{serial}\"}}"),
            sample(path, 201),
        ),
        ("DELETE", "/api/v1/agents/{agent}") => {
            let name = format!("enrolled-{serial}");
            enrol(rig, "acme", &name).await;
            of(path, name, 204)
        }
        ("POST", "/api/v1/tokens") => json("{\"role\":\"viewer\"}".to_owned(), sample(path, 201)),
        ("DELETE", "/api/v1/tokens/{id}") => {
            let drawn = draw(&tenant("acme"), "viewer", "", rig.handle.now(), 60_000).unwrap();
            rig.access.insert_token(&drawn.row).await.unwrap();
            of(path, drawn.row.id, 204)
        }
        (method, path) => panic!("{method} {path} has no row in this test"),
    }
}

/// The status; the body of a stream is not waited for.
async fn status(rig: &Rig, route: &RouteInfo, sample: &Sample, token: Option<&str>) -> StatusCode {
    let body = axum::body::Body::from(sample.body.clone());
    let method = route.method.clone();
    let request = super::rig::request(method, &sample.path, token, &sample.headers, body);
    rig.send(request).await.status()
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let rig = Rig::new().await;
    let mut things = Things::make(&rig).await;
    let platform = {
        let mut drawn = draw(&tenant("acme"), "admin", "", rig.handle.now(), 60_000).unwrap();
        drawn.row.tenant = None;
        rig.access.insert_token(&drawn.row).await.unwrap();
        drawn.text
    };
    let mut printed = Vec::new();
    let mut serial = 0;
    for route in table() {
        // Where the disk is slow, all of them take longer than an agent may be silent.
        things.site.beat(&rig).await;
        let what = format!("{} {}", route.method, route.path);
        let mut words = Vec::new();
        for role in Role::ALL {
            serial += 1;
            let token = rig.token("acme", role.word()).await;
            let sample = row(&rig, &route, &things, serial).await;
            let status = status(&rig, &route, &sample, Some(&token)).await;
            let allowed = route.role.is_none_or(|needed| role >= needed);
            let expected = if allowed { sample.status } else { 403 };
            assert_eq!(status, expected, "{what} as {}", role.word());
            words.push(status.as_u16().to_string());
        }
        let sample = row(&rig, &route, &things, serial + 1).await;
        for (token, refused) in [(None, 401), (Some(platform.as_str()), 403)] {
            let expected = if route.role.is_some() { refused } else { 200 };
            let status = status(&rig, &route, &sample, token).await;
            assert_eq!(status, expected, "{what} with {token:?}");
        }
        serial += 1;
        let role = route.role.map_or("anybody", Role::word);
        printed.push(format!("{what:45} {role:9} {}", words.join(" ")));
    }
    insta::assert_snapshot!(printed.join("\n"));
}

#[tokio::test]
async fn two_tenants_see_nothing_of_each_other() {
    let rig = Rig::new().await;
    let mut things = Things::make(&rig).await;
    let stranger = rig.token("other", "admin").await;
    for (serial, route) in table().into_iter().enumerate() {
        things.site.beat(&rig).await;
        let sample = row(&rig, &route, &things, serial).await;
        let Some(name) = &sample.named else { continue };
        let ask = |path: String| {
            let (rig, route, sample, stranger) = (&rig, &route, &sample, &stranger);
            async move {
                let method = route.method.clone();
                rig.ask(method, &path, Some(stranger), &sample.headers, &sample.body)
                    .await
            }
        };
        let unknown = if name.len() >= 12 {
            "0".repeat(name.len())
        } else {
            "none".to_owned()
        };
        let foreign = ask(sample.path.clone()).await;
        let missing = ask(sample.path.replace(name, &unknown)).await;
        assert_eq!(foreign.status, 404, "{} {}", route.method, route.path);
        assert_eq!(
            foreign.text.replace(name, &unknown),
            missing.text,
            "{}",
            route.path
        );
    }
    for list in ["workflows", "runs", "agents"] {
        let items = rig
            .get(&format!("/api/v1/{list}"), &stranger)
            .await
            .expect(200);
        assert_eq!(items["items"], Value::Array(Vec::new()), "{list}");
    }
    let tokens = rig.get("/api/v1/tokens", &stranger).await.expect(200);
    assert_eq!(tokens["items"].as_array().unwrap().len(), 1);
    // A workflow, an agent and a key of the same name are another tenant's own.
    rig.apply(&stranger, WORKFLOW).await.expect(201);
    let run = rig.trigger(&things.owner, "one").await;
    let events = format!("/api/v1/events?run={run}");
    assert_eq!(rig.get(&events, &stranger).await.status, 404);
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let rig = Rig::new().await;
    let admin = rig.token("acme", "admin").await;
    let path = |token: &str| format!("/api/v1/tokens/{}", &token[4..16]);
    let revoke = async |token: &str, by: &str| {
        rig.ask(Method::DELETE, &path(token), Some(by), &[], "")
            .await
    };
    // Neither an expired one nor another tenant's is another administrator.
    rig.token_until("acme", "admin", 0).await;
    let stranger = rig.token("other", "admin").await;
    assert_eq!(revoke(&admin, &admin).await.code(), "last_admin");
    assert_eq!(revoke(&admin, &stranger).await.status, 404);
    let second = rig.token("acme", "admin").await;
    revoke(&admin, &second).await.expect(204);
    assert_eq!(revoke(&second, &second).await.code(), "last_admin");
    assert_eq!(revoke(&admin, &second).await.status, 404);
}

#[tokio::test]
async fn a_token_that_is_none_opens_nothing() {
    let rig = Rig::new().await;
    let ask = async |token: &str| rig.get("/api/v1/runs", token).await;
    let good = rig.token("acme", "viewer").await;
    assert_eq!(ask(&good).await.status, 200);
    let unknown = format!("{}{}", &good[..17], "A".repeat(43));
    assert_eq!(ask(&unknown).await.code(), "unauthenticated");
    let other_id = format!("opt_000000000000{}", &good[16..]);
    assert_eq!(ask(&other_id).await.code(), "unauthenticated");
    assert_eq!(ask("opt_").await.code(), "unauthenticated");
    let expired = rig.token_until("acme", "viewer", 0).await;
    assert_eq!(ask(&expired).await.code(), "token_expired");
    let refused = rig.ask(Method::GET, "/api/v1/runs", None, &[], "").await;
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    let twice = [("authorization", "Bearer x")];
    let refused = rig
        .ask(Method::GET, "/api/v1/runs", Some(&good), &twice, "")
        .await;
    assert_eq!(refused.code(), "unauthenticated");

    let admin = rig.token("acme", "admin").await;
    let path = format!("/api/v1/tokens/{}", &good[4..16]);
    rig.ask(Method::DELETE, &path, Some(&admin), &[], "")
        .await
        .expect(204);
    assert_eq!(ask(&good).await.code(), "unauthenticated");
    let again = rig.ask(Method::DELETE, &path, Some(&admin), &[], "").await;
    assert_eq!(again.status, 404);
}

#[tokio::test]
async fn guesses_are_limited_and_keep_nobody_out() {
    let rig = Rig::new().await;
    let good = rig.token("acme", "viewer").await;
    assert_eq!(rig.get("/api/v1/runs", &good).await.status, 200);
    let mut limited = false;
    for guess in 0..60 {
        let token = format!("opt_{guess:012x}_{}", "A".repeat(43));
        limited |= rig.get("/api/v1/runs", &token).await.code() == "too_many";
    }
    assert!(limited);
    assert_eq!(rig.get("/api/v1/runs", &good).await.status, 200);
}

#[tokio::test]
async fn a_made_token_is_shown_once_and_works() {
    let rig = Rig::new().await;
    let admin = rig.token("acme", "admin").await;
    let made = rig
        .post(
            "/api/v1/tokens",
            &admin,
            r#"{"role":"author","label":"ci","ttl_s":60}"#,
        )
        .await
        .expect(201);
    let token = made["token"].as_str().unwrap();
    assert_eq!(rig.get("/api/v1/runs", token).await.status, 200);
    let list = rig.get("/api/v1/tokens", &admin).await;
    let secret = token.splitn(3, '_').nth(2).unwrap();
    assert!(!list.text.contains(&token[17..]) && !list.text.contains(secret));
    let mut items = super::rig::stable(list.json());
    items["items"]
        .as_array_mut()
        .unwrap()
        .sort_by_key(|item| item["role"].to_string());
    insta::assert_json_snapshot!(items);
    for body in [
        r#"{"role":"root"}"#,
        r#"{"role":"viewer","ttl_s":0}"#,
        r#"{"role":"viewer","ttl_s":31536001}"#,
        "{\"role\":\"viewer\",\"label\":\"\\u001b\"}",
    ] {
        assert_eq!(
            rig.post("/api/v1/tokens", &admin, body).await.code(),
            "invalid_parameters"
        );
    }
}
