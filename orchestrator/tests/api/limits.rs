//! How much, how often and how long.

use outpost_orchestrator::api::Rate;

use super::rig::Rig;

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_back() {
    let rig = Rig::with_rate(Rate { per_s: 1, burst: 3 }).await;
    let (token, other) = (
        rig.token("acme", "viewer").await,
        rig.token("acme", "viewer").await,
    );
    for left in [2, 1, 0] {
        let reply = rig.get("/api/v1/runs", &token).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["ratelimit-policy"], "\"token\";q=3;w=3");
        assert_eq!(
            reply.headers["ratelimit"],
            format!("\"token\";r={left};t=1")
        );
    }
    let refused = rig.get("/api/v1/runs", &token).await;
    assert_eq!(refused.code(), "too_many");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.headers["ratelimit"], "\"token\";r=0;t=1");
    // Nobody else is held up, and probes have no token.
    assert_eq!(rig.get("/api/v1/runs", &other).await.status, 200);
    assert_eq!(rig.get("/healthz", &token).await.status, 200);
    // It comes back by itself.
    let again = async {
        while rig.get("/api/v1/runs", &token).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::rig::PATIENCE, again)
        .await
        .unwrap();
}
