//! From a file to a finished run, as people see it.

use http::Method;
use outpost_proto::outcome::Outcome;
use serde_json::Value;

use super::rig::{JSON, PATIENCE, Rig, stable};
use super::site::Site;

pub(crate) const REPORT: &str = "\
name: report
description: Two tasks, one after the other
params: {top: {kind: int, min: 1, max: 100, default: 10}}
tasks:
  list: {entry: list, with: {top: \"${params.top}\"}}
  join: {entry: join, needs: [list]}
  send: {entry: join, needs: [join]}
";

/// The run once it is in this state.
pub(crate) async fn in_state(rig: &Rig, token: &str, run: &str, state: &str) -> Value {
    let path = format!("/api/v1/runs/{run}");
    let wait = async {
        loop {
            let shown = rig.get(&path, token).await.expect(200);
            if shown["state"] == state {
                return shown;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

#[tokio::test]
async fn a_run_is_followed_from_apply_to_its_end() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "operator").await;
    let mut site = Site::connect(&rig, "site-1", &["list", "join"]).await;
    let applied = rig.apply(&token, REPORT).await.expect(201);
    insta::assert_json_snapshot!("applied", applied);
    insta::assert_json_snapshot!(
        "workflow",
        stable(
            rig.get("/api/v1/workflows/report", &token)
                .await
                .expect(200)
        )
    );
    insta::assert_json_snapshot!(
        "workflows",
        stable(rig.get("/api/v1/workflows", &token).await.expect(200))
    );

    let path = "/api/v1/workflows/report/runs";
    let run = rig
        .post(path, &token, r#"{"params":{"top":7}}"#)
        .await
        .expect(201);
    let run = run["run"].as_str().unwrap();
    let first = site.run(&rig, Outcome::Succeeded).await;
    let second = site.assigned().await;
    let live = rig
        .get(&format!("/api/v1/runs/{run}/explain"), &token)
        .await
        .expect(200);
    assert_eq!(live["items"][1]["state"], "assigned");
    assert_eq!(live["items"][1]["code"], "assigned");
    assert_eq!(live["items"][2]["code"], "needs");
    insta::assert_json_snapshot!("agents", agents(&rig, &token).await);

    rig.post(&format!("/api/v1/runs/{run}/cancel"), &token, "")
        .await
        .expect(200);
    let cancelled =
        outpost_proto::message::AttemptState::Finished(outpost_proto::outcome::Report {
            outcome: Outcome::Cancelled,
            may_have_started: false,
            duration_ms: 0,
            exit_code: None,
            count: None,
        });
    site.tell(&rig, second.attempt, cancelled).await;
    let shown = in_state(&rig, &token, run, "cancelled").await;
    insta::assert_json_snapshot!("run", stable(shown));
    let over = rig
        .get(&format!("/api/v1/runs/{run}/explain"), &token)
        .await
        .expect(200);
    insta::assert_json_snapshot!("explained", stable(over));
    let attempt = rig
        .get(&format!("/api/v1/attempts/{}", first.attempt), &token)
        .await;
    insta::assert_json_snapshot!("attempt", stable(attempt.expect(200)));
    let runs = rig
        .get("/api/v1/runs?workflow=report&state=cancelled", &token)
        .await;
    insta::assert_json_snapshot!("runs", stable(runs.expect(200)));
}

async fn agents(rig: &Rig, token: &str) -> Value {
    stable(rig.get("/api/v1/agents", token).await.expect(200))
}

#[tokio::test]
async fn what_failed_says_so_long_after() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    let mut site = Site::connect(&rig, "site-1", &["list", "join"]).await;
    rig.apply(&token, REPORT).await.expect(201);
    let run = rig.trigger(&token, "report").await;
    site.run(&rig, Outcome::Failed).await;
    in_state(&rig, &token, &run, "failed").await;
    let over = rig
        .get(&format!("/api/v1/runs/{run}/explain"), &token)
        .await
        .expect(200);
    let told: Vec<&str> = over["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["code"].as_str().unwrap())
        .collect();
    assert_eq!(told, ["failed", "upstream_failed", "upstream_failed"]);
    let cancel = rig
        .post(&format!("/api/v1/runs/{run}/cancel"), &token, "")
        .await;
    assert_eq!(cancel.code(), "run_over");
}

#[tokio::test]
async fn the_same_file_again_changes_nothing() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    assert_eq!(
        rig.apply(&token, REPORT).await.expect(201)["result"],
        "created"
    );
    let again = rig.apply(&token, REPORT).await.expect(200);
    assert_eq!(
        (&again["result"], &again["version"]),
        (&"unchanged".into(), &1.into())
    );
    let comment = format!("# a comment\n{REPORT}");
    assert_eq!(
        rig.apply(&token, &comment).await.expect(200)["result"],
        "unchanged"
    );
    let changed = rig
        .apply(&token, &REPORT.replace("max: 100", "max: 50"))
        .await
        .expect(200);
    assert_eq!(
        (&changed["result"], &changed["version"]),
        (&"updated".into(), &2.into())
    );
}

#[tokio::test]
async fn a_key_makes_one_run() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    rig.apply(&token, REPORT).await.expect(201);
    let trigger = async |key: &str| {
        let headers = [JSON, ("idempotency-key", key)];
        rig.ask(
            Method::POST,
            "/api/v1/workflows/report/runs",
            Some(&token),
            &headers,
            "{}",
        )
        .await
    };
    let first = trigger("monday").await.expect(201);
    assert_eq!(trigger("monday").await.expect(200), first);
    assert_ne!(trigger("tuesday").await.expect(201), first);
    assert_eq!(trigger(&"x".repeat(129)).await.code(), "bad_request");
    // The same key of another tenant is another key.
    let other = rig.token("other", "author").await;
    rig.apply(&other, REPORT).await.expect(201);
    let headers = [JSON, ("idempotency-key", "monday")];
    let path = "/api/v1/workflows/report/runs";
    assert_ne!(
        rig.ask(Method::POST, path, Some(&other), &headers, "")
            .await
            .expect(201),
        first
    );
}

#[tokio::test]
async fn pages_stay_the_same_while_runs_are_added() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    rig.apply(&token, REPORT).await.expect(201);
    let mut expected = Vec::new();
    for _ in 0..25 {
        expected.insert(0, rig.trigger(&token, "report").await);
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = rig
            .get(&format!("/api/v1/runs?limit=10{cursor}"), &token)
            .await
            .expect(200);
        let items = page["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|item| item["run"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        rig.trigger(&token, "report").await;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((pages, seen), (3, expected));
}

#[tokio::test]
async fn an_invitation_is_a_join_token() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "operator").await;
    let path = "/api/v1/agents/invites";
    let invited = rig
        .post(path, &token, r#"{"agent":"site-9","ttl_s":60}"#)
        .await
        .expect(201);
    insta::assert_json_snapshot!("invited", stable(invited.clone()));
    let join: outpost_certs::token::JoinToken = invited["token"].as_str().unwrap().parse().unwrap();
    assert_eq!(join.url(), "outpost.example.org:7443");
    assert_eq!(
        (join.tenant().as_str(), join.agent().as_str()),
        ("acme", "site-9")
    );
    assert_eq!(
        (join.trust_domain(), join.pin()),
        ("test.internal", &[9; 32])
    );
    let hash: String = join
        .secret_hash()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (tenant, agent) = rig.handle.enrol(hash, "key".to_owned()).await.unwrap();
    assert_eq!((tenant.as_str(), agent.as_str()), ("acme", "site-9"));
    let listed = agents(&rig, &token).await;
    assert_eq!(listed["items"][0]["presence"], "enrolled");
    rig.ask(
        Method::DELETE,
        "/api/v1/agents/site-9",
        Some(&token),
        &[],
        "",
    )
    .await
    .expect(204);
    assert_eq!(
        agents(&rig, &token).await["items"][0]["presence"],
        "removed"
    );
}
