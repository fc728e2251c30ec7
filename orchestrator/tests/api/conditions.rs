//! What a request expects: a version, something it has already, nothing done twice.

use http::Method;

use super::rig::{Rig, YAML};

const ONE: &str = "name: one\ntasks: {only: {entry: list}}\n";
const TWO: &str = "name: one\ntasks: {only: {entry: join}}\n";

#[tokio::test]
async fn an_author_changes_what_they_have_seen() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    let apply = async |header: (&str, &str), yaml: &str| {
        let headers = [YAML, header];
        rig.ask(
            Method::POST,
            "/api/v1/workflows",
            Some(&token),
            &headers,
            yaml,
        )
        .await
    };
    let fresh = ("if-none-match", "*");
    assert_eq!(
        apply(("if-match", "\"1\""), ONE).await.code(),
        "version_mismatch"
    );
    let made = apply(fresh, ONE).await;
    assert_eq!(
        (made.status.as_u16(), &made.headers["etag"]),
        (201, &"\"1\"".parse().unwrap())
    );
    assert_eq!(apply(fresh, TWO).await.code(), "version_mismatch");
    // What a look was answered with is good as a condition.
    let seen = rig.get("/api/v1/workflows/one", &token).await;
    let tag = seen.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(apply(("if-match", &tag), TWO).await.status, 200);
    assert_eq!(
        apply(("if-match", &tag), ONE).await.code(),
        "version_mismatch"
    );
    assert_eq!(
        apply(("if-match", "\"2\""), ONE).await.headers["etag"],
        "\"3\""
    );
    for header in [
        ("if-match", "2"),
        ("if-match", "*"),
        ("if-none-match", "\"1\""),
    ] {
        assert_eq!(apply(header, TWO).await.code(), "bad_request", "{header:?}");
    }
    let both = [YAML, ("if-match", "\"3\""), fresh];
    let reply = rig
        .ask(Method::POST, "/api/v1/workflows", Some(&token), &both, ONE)
        .await;
    assert_eq!(reply.code(), "version_mismatch");
    let delete = async |tag: &str| {
        let headers = [("if-match", tag)];
        rig.ask(
            Method::DELETE,
            "/api/v1/workflows/one",
            Some(&token),
            &headers,
            "",
        )
        .await
    };
    assert_eq!(delete("\"2\"").await.code(), "version_mismatch");
    delete("\"3\"").await.expect(204);
    assert_eq!(rig.get("/api/v1/workflows/one", &token).await.status, 404);
    // Its history stays, and its numbers go on.
    let versions = rig.get("/api/v1/workflows/one/versions", &token).await;
    assert_eq!(versions.expect(200)["items"].as_array().unwrap().len(), 3);
    assert_eq!(rig.apply(&token, ONE).await.expect(201)["version"], 4);
}

#[tokio::test]
async fn what_is_known_already_is_not_sent_again() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    rig.apply(&token, ONE).await.expect(201);
    for path in ["/api/v1/workflows", "/api/v1/workflows/one"] {
        let tag = rig.get(path, &token).await.headers["etag"].clone();
        let tag = tag.to_str().unwrap();
        let ask = async |tag: &str| {
            let headers = [("if-none-match", tag)];
            rig.send(super::rig::request(
                Method::GET,
                path,
                Some(&token),
                &headers,
                axum::body::Body::empty(),
            ))
            .await
        };
        let same = ask(tag).await;
        assert_eq!(
            (same.status().as_u16(), &same.headers()["etag"]),
            (304, &tag.parse().unwrap())
        );
        assert_eq!(ask("\"1\"").await.status(), 200);
        // What it does now is part of what is shown.
        rig.post("/api/v1/workflows/one/pause", &token, "")
            .await
            .expect(200);
        assert_eq!(ask(tag).await.status(), 200, "{path}");
        rig.post("/api/v1/workflows/one/resume", &token, "")
            .await
            .expect(200);
        assert_eq!(ask(tag).await.status(), 304, "{path}");
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    let path = "/api/v1/workflows?dry_run=true";
    let dry = async |yaml: &str| {
        rig.ask(Method::POST, path, Some(&token), &[YAML], yaml)
            .await
    };
    let told = dry(ONE).await.expect(200);
    assert_eq!(
        (&told["result"], &told["version"]),
        (&"created".into(), &1.into())
    );
    assert_eq!(told["dry_run"], true);
    assert_eq!(rig.get("/api/v1/workflows/one", &token).await.status, 404);
    rig.apply(&token, ONE).await.expect(201);
    let told = dry(TWO).await.expect(200);
    assert_eq!(
        (&told["result"], &told["version"]),
        (&"updated".into(), &2.into())
    );
    assert_eq!(dry(ONE).await.expect(200)["result"], "unchanged");
    let shown = rig.get("/api/v1/workflows/one", &token).await.expect(200);
    assert_eq!(shown["version"], 1);
}
