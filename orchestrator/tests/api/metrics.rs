//! What a scrape shows, and to whom.

use outpost_proto::outcome::Outcome;

use super::rig::Rig;
use super::runs::{REPORT, in_state};
use super::site::Site;

fn value(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}\n{text}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_tenant_sees_the_process_and_itself() {
    let rig = Rig::new().await;
    let (token, other) = (
        rig.token("acme", "author").await,
        rig.token("other", "viewer").await,
    );
    let mut site = Site::connect(&rig, "site-1", &["list", "join"]).await;
    rig.apply(&token, REPORT).await.expect(201);
    let run = rig.trigger(&token, "report").await;
    let live = rig.get("/metrics", &token).await.text;
    assert_eq!(value(&live, "outpost_runs{state=\"running\"}"), 1.0);
    assert_eq!(value(&live, "outpost_tasks{state=\"active\"}"), 1.0);
    assert_eq!(value(&live, "outpost_tasks{state=\"waiting\"}"), 2.0);
    site.run(&rig, Outcome::Failed).await;
    in_state(&rig, &token, &run, "failed").await;
    let reply = rig.get("/metrics", &token).await;
    assert_eq!(
        reply.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = reply.text;
    for (name, expected) in [
        ("outpost_runs{state=\"running\"}", 0.0),
        ("outpost_runs_finished_total{state=\"failed\"}", 1.0),
        ("outpost_tasks{state=\"active\"}", 0.0),
        (
            "outpost_tasks_finished_total{state=\"upstream_failed\"}",
            2.0,
        ),
        ("outpost_attempts_finished_total{outcome=\"failed\"}", 1.0),
        ("outpost_task_queued_seconds_count", 1.0),
        ("outpost_attempt_start_seconds_count", 1.0),
        ("outpost_agents{presence=\"live\"}", 1.0),
        ("outpost_agent_slots", 2.0),
        ("outpost_sessions", 1.0),
    ] {
        assert_eq!(value(&text, name), expected, "{name}");
    }
    assert!(value(&text, "outpost_commit_duration_seconds_count") > 3.0);
    assert!(value(&text, "outpost_agents_certificate_remaining_min_seconds") > 0.0);
    assert!(value(&text, "process_open_fds") > 3.0);
    let theirs = rig.get("/metrics", &other).await.text;
    assert_eq!(
        value(&theirs, "outpost_runs_finished_total{state=\"failed\"}"),
        0.0
    );
    assert_eq!(value(&theirs, "outpost_agents{presence=\"live\"}"), 0.0);
    for name in ["acme", "other", "site-1", "report"] {
        let label = format!("=\"{name}\"");
        assert!(!text.contains(&label) && !theirs.contains(&label), "{name}");
    }
}
