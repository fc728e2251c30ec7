//! Pages stay what they are while things are added between them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rig::Rig;
use super::site::enrol;

const YAML: &str = "tasks: {only: {entry: list}}\n";

/// What a list holds when, after each page, `between` adds something.
async fn all(
    rig: &Rig,
    token: &str,
    path: &str,
    key: &str,
    between: impl AsyncFn(usize),
) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    for page in 0.. {
        assert!(page < 50, "{path} does not end");
        let shown = rig
            .get(&format!("{path}?limit=2{cursor}"), token)
            .await
            .expect(200);
        let items = shown["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        let text = |item: &Value| {
            let value = &item[key];
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        found.extend(items.iter().map(text));
        let Some(next) = shown["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
        between(page).await;
    }
    let distinct: BTreeSet<&String> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "{found:?}");
    found
}

async fn apply(rig: &Rig, token: &str, name: &str, description: &str) {
    let yaml = format!("name: {name}\ndescription: {description}\n{YAML}");
    rig.apply(token, &yaml).await;
}

#[tokio::test]
async fn lists_by_name_show_each_thing_once() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "admin").await;
    for place in 0..5 {
        apply(&rig, &token, &format!("m{place}"), "x").await;
        enrol(&rig, "acme", &format!("m{place}")).await;
    }
    // Before and behind the place where the next page begins.
    let between = async |page: usize| {
        apply(&rig, &token, &format!("a{page}"), "x").await;
        enrol(&rig, "acme", &format!("a{page}")).await;
        if page == 0 {
            apply(&rig, &token, "z", "x").await;
            enrol(&rig, "acme", "z").await;
        }
    };
    let names = all(&rig, &token, "/api/v1/workflows", "name", between).await;
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "z"]);
    let nothing = async |_: usize| {};
    let agents = all(&rig, &token, "/api/v1/agents", "agent", nothing).await;
    assert_eq!(agents.len(), 8);
    assert!(agents.is_sorted());
}

#[tokio::test]
async fn lists_by_time_show_what_was_there_at_first() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "admin").await;
    for version in 0..5 {
        apply(&rig, &token, "one", &format!("v{version}")).await;
        rig.token("acme", "viewer").await;
    }
    let between = async |page: usize| {
        apply(&rig, &token, "one", &format!("later{page}")).await;
        rig.token("acme", "viewer").await;
        rig.token("other", "viewer").await;
    };
    let versions = all(
        &rig,
        &token,
        "/api/v1/workflows/one/versions",
        "version",
        between,
    )
    .await;
    assert_eq!(versions, ["5", "4", "3", "2", "1"]);
    let tokens = rig.get("/api/v1/tokens", &token).await.expect(200);
    let before = tokens["items"].as_array().unwrap().len();
    let shown = all(&rig, &token, "/api/v1/tokens", "id", between).await;
    assert_eq!(shown.len(), before);
}

#[tokio::test]
async fn limits_and_cursors_are_checked() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "admin").await;
    apply(&rig, &token, "one", "x").await;
    let lists = [
        "workflows",
        "workflows/one/versions",
        "runs",
        "agents",
        "tokens",
    ];
    for list in lists {
        for query in ["limit=0", "limit=1001", "limit=-1", "cursor=%00", "what=1"] {
            let reply = rig.get(&format!("/api/v1/{list}?{query}"), &token).await;
            assert_eq!(reply.code(), "bad_request", "{list} {query}");
        }
        let reply = rig.get(&format!("/api/v1/{list}?limit=1000"), &token).await;
        reply.expect(200);
    }
}
