//! How much, how often and how long.

use std::time::{Duration, Instant};

use outpost_orchestrator::api::Rate;

use super::rig::Rig;

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_back() {
    let rig = Rig::with_rate(Rate { per_s: 1, burst: 3 }).await;
    // On a busy machine a second may pass in between, and bring one more.
    let (token, other, replies) = loop {
        let (token, other) = (
            rig.token("acme", "viewer").await,
            rig.token("acme", "viewer").await,
        );
        let since = Instant::now();
        let mut replies = Vec::new();
        for _ in 0..4 {
            replies.push(rig.get("/api/v1/runs", &token).await);
        }
        if since.elapsed() < Duration::from_secs(1) {
            break (token, other, replies);
        }
    };
    for (reply, left) in replies.iter().zip([2, 1, 0]) {
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["ratelimit-policy"], "\"token\";q=3;w=3");
        assert_eq!(
            reply.headers["ratelimit"],
            format!("\"token\";r={left};t=1")
        );
    }
    let refused = &replies[3];
    assert_eq!(refused.code(), "too_many");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["ratelimit"], "\"token\";r=0;t=1");
    // Nobody else is held up, and probes have no token.
    assert_eq!(rig.get("/api/v1/runs", &other).await.status, 200);
    assert_eq!(rig.get("/healthz", &token).await.status, 200);
    // It comes back by itself.
    let again = async {
        while rig.get("/api/v1/runs", &token).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::rig::PATIENCE, again)
        .await
        .unwrap();
}
