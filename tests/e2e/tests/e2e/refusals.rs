//! What is asked for wrongly has a clear answer and no effect.

use outpost_e2e::api::{attempts_of, task};
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};
use serde_json::json;

fn top() -> Entry {
    Entry::script("top", "echo $2")
        .argument("{param.n}")
        .param("n", "kind = \"int\", min = 1, max = 5")
}

#[test]
fn k9_parameters_outside_the_sites_schema_are_refused_there_and_the_reason_stays_there() {
    let world = World::new();
    let agent = world.agent("site-1", &[top()]);
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  t:\n    entry: top\n    with: {n: 61234567}\n")
        .ok();
    let run = api.trigger("one", &json!({}));
    let tree = api.finished(&run);
    let attempts = attempts_of(&tree, "t");
    assert_eq!(
        attempts[0]["outcome"], "refused{bad_parameters}",
        "{tree:#}"
    );
    assert_eq!(attempts[0]["may_have_started"], false, "{tree:#}");
    assert_eq!(attempts.len(), 1, "{tree:#}");
    assert!(world.starts().is_empty());
    let reason = agent.logged();
    let reason = reason
        .lines()
        .find(|line| line.contains("refused"))
        .unwrap_or_default();
    assert!(
        reason.contains("between 1 and 5") || reason.contains("1 to 5"),
        "{reason}"
    );
    for (_, words) in agent.ledger_words() {
        assert!(
            !words.contains("61234567") && !words.contains("between"),
            "{words}"
        );
    }
    let explained = api
        .get(&format!("/api/v1/runs/{run}/explain"))
        .ok()
        .to_string();
    assert!(!explained.contains("1 to 5"), "{explained}");
}

#[test]
fn an_entry_that_no_agent_offers_is_refused_at_apply_and_explained_when_it_was_allowed() {
    let world = World::new();
    let _agent = world.agent("site-1", &[top()]);
    let api = world.api();
    let unknown = "name: one\ntasks:\n  t: {entry: tpo}\n";
    let why = api.apply(unknown).refused(422, "unknown_entry");
    assert!(why.contains("tpo"), "{why}");
    assert_eq!(
        api.get("/api/v1/workflows/one").status,
        404,
        "it had an effect"
    );
    let _ = api.apply_unknown(unknown).ok();
    let run = api.trigger("one", &json!({}));
    eventually("the task's waiting is explained", || {
        let items = api.get(&format!("/api/v1/runs/{run}/explain")).ok();
        let reason = items["items"][0]["reason"].as_str()?.to_owned();
        so(reason.contains("tpo"))
    });
    assert_eq!(task(&api.run(&run).unwrap(), "t")["attempts"], json!([]));
}

#[test]
fn workflows_that_are_wrong_are_refused_with_their_place_and_change_nothing() {
    let world = World::new();
    let api = world.api();
    let cases = [
        ("name: [", "invalid_workflow", ""),
        (
            "name: w\ntasks:\n  a: {entry: top, nedes: [b]}\n",
            "invalid_workflow",
            "needs",
        ),
        (
            "name: w\ntasks:\n  a: {entry: top, needs: [b]}\n  b: {entry: top, needs: [a]}\n",
            "invalid_workflow",
            "a → b → a",
        ),
    ];
    for (yaml, code, part) in cases {
        let reply = api.apply_unknown(yaml);
        assert!(reply.body["line"].as_u64().is_some(), "{reply:#?}");
        let why = reply.refused(422, code);
        let cycle = why.contains("b → a → b");
        assert!(why.contains(part) || cycle, "{yaml}: {why}");
    }
    assert_eq!(api.get("/api/v1/workflows").ok()["items"], json!([]));
    let _ = api
        .apply_unknown("name: w\nparams:\n  n: {kind: int, min: 1, max: 3}\ntasks:\n  a: {entry: top, with: {n: \"${params.n}\"}}\n")
        .ok();
    let reply = api.post("/api/v1/workflows/w/runs", &json!({"params": {"n": 4}}));
    let _ = reply.refused(422, "invalid_parameters");
    assert_eq!(api.get("/api/v1/runs").ok()["items"], json!([]));
}

#[test]
fn a_wrong_token_and_an_expired_one_are_told_apart_and_do_nothing() {
    let world = World::new();
    let api = world.api();
    let wrong = api.with_token(&format!("opt_0123456789ab_{}", "A".repeat(43)));
    let _ = wrong.get("/api/v1/runs").refused(401, "unauthenticated");
    let _ = api
        .with_token("")
        .get("/api/v1/runs")
        .refused(401, "unauthenticated");
    let short = world.orchestrator.client("default", "author", "1s");
    eventually("it expires", || {
        let reply = short.get("/api/v1/runs");
        so(reply.status == 401 && reply.body["code"] == "token_expired")
    });
    let yaml = "name: one\ntasks:\n  t: {entry: top}\n";
    let _ = short.apply_unknown(yaml).refused(401, "token_expired");
    assert_eq!(api.get("/api/v1/workflows").ok()["items"], json!([]));
    let viewer = world.orchestrator.client("default", "viewer", "1h");
    let _ = viewer.apply_unknown(yaml).refused(403, "forbidden");
}

#[test]
fn one_idempotency_key_makes_one_run() {
    let world = World::new();
    let _agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  t: {entry: quick}\n").ok();
    let first = api.trigger_once("one", "nightly-7");
    let second = api.trigger_once("one", "nightly-7");
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.body["run"], second.body["run"]);
    let _ = api.succeeded(first.body["run"].as_str().unwrap());
    assert_eq!(
        api.get("/api/v1/runs").ok()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(world.starts_of("t"), 1);
}

#[test]
fn d6_a_state_directory_of_a_newer_agent_is_refused_and_left_alone() {
    let world = World::new();
    let mut agent = world.agent("site-1", &[top()]);
    agent.kill_runner();
    let version = agent.state.join("version");
    std::fs::write(&version, "99").unwrap();
    let before = names(&agent.state);
    for command in ["run", "check"] {
        let done = agent.command_with_catalogue(&[command]);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(
            format!("{}{}", done.out, done.err).contains("newer agent"),
            "{done:?}"
        );
    }
    assert_eq!(names(&agent.state), before);
    assert_eq!(std::fs::read_to_string(&version).unwrap(), "99");
}

#[test]
fn a_directory_of_a_newer_orchestrator_is_refused_and_left_alone() {
    let mut world = World::new();
    world
        .orchestrator
        .process()
        .signal(rustix::process::Signal::TERM);
    world
        .orchestrator
        .ended_within(std::time::Duration::from_secs(15));
    let file = world.orchestrator.dir().join("outpost.db");
    let url = format!("sqlite://{}", file.display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use sqlx::Connection as _;
        let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', 1, x'00', 0)")
            .execute(&mut db)
            .await
            .unwrap();
        db.close().await.unwrap();
    });
    let before = std::fs::read(&file).unwrap();
    let mut serve = world.orchestrator.serve();
    serve.args(["--agents", "127.0.0.1:0", "--api", "127.0.0.1:0"]);
    let error = outpost_e2e::process::run(serve).fails_with(2);
    assert!(error.contains("newer"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), before, "it was written to");
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut names = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    names.sort();
    names
}
