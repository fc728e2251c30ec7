//! Two tenants on one orchestrator: neither sees, names or touches anything of the other.

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::{Entry, World, procs};
use serde_json::json;

#[test]
fn i5_two_tenants_with_the_same_names_see_and_run_only_their_own() {
    let world = World::new();
    let _ = world
        .orchestrator
        .command(&["tenant", "create", "bank-b"])
        .ok();
    let (a, b) = (
        world.api(),
        world.orchestrator.client("bank-b", "admin", "1h"),
    );
    let entries = [Entry::script("quick", "true")];
    let agent_a = world.agent_of(&a, "site-1", &entries);
    let agent_b = world.agent_of(&b, "site-1", &entries);
    let yaml = "name: one\ntasks:\n  t: {entry: quick}\n";
    let (_, _) = (a.apply(yaml).ok(), b.apply(yaml).ok());
    let mut attempts = Vec::new();
    for (api, agent) in [(&a, &agent_a), (&b, &agent_b)] {
        for _ in 0..3 {
            let run = api.trigger("one", &json!({}));
            let attempt = text(&attempts_of(&api.succeeded(&run), "t")[0]["attempt"]);
            assert!(
                agent.attempt_dir(&attempt).exists(),
                "it ran at the other tenant's site"
            );
            attempts.push((run, attempt));
        }
    }
    assert_eq!(procs::attempts(&agent_a.state).len(), 3);
    assert_eq!(procs::attempts(&agent_b.state).len(), 3);

    let (run, attempt) = &attempts[0];
    for path in [
        format!("/api/v1/runs/{run}"),
        format!("/api/v1/runs/{run}/explain"),
        format!("/api/v1/attempts/{attempt}"),
    ] {
        assert_eq!(a.get(&path).status, 200, "the control: {path}");
        let theirs = b.get(&path);
        let nothing = b.get(
            &path
                .replace(&run[..8], "00000000")
                .replace(&attempt[..8], "00000000"),
        );
        assert_eq!((theirs.status, nothing.status), (404, 404), "{path}");
        assert_eq!(theirs.body["code"], nothing.body["code"], "W2: {path}");
    }
    assert_eq!(
        b.post(&format!("/api/v1/runs/{run}/cancel"), &json!({}))
            .status,
        404
    );
    let runs = b.get("/api/v1/runs").ok();
    assert_eq!(runs["items"].as_array().unwrap().len(), 3);
    assert!(!runs.to_string().contains(run.as_str()));
    assert_eq!(
        b.get("/api/v1/agents").ok()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    assert_eq!(b.delete("/api/v1/agents/site-1").status, 204);
    agent_a.live(&a);
    let run = a.trigger("one", &json!({}));
    let _ = a.succeeded(&run);
}
