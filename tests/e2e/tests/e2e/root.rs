//! What only root can see: the accounts of tasks.

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::{Entry, World};
use serde_json::json;

#[test]
#[ignore = "needs: root"]
fn a_task_runs_as_the_user_of_its_entry_with_no_way_back() {
    let world = World::new();
    let body =
        "id -u; id -G; grep NoNewPrivs /proc/self/status; cat /proc/self/status | grep CapEff";
    let agent = world.agent("site-1", &[Entry::script("whoami", body)]);
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  t: {entry: whoami}\n").ok();
    let run = api.trigger("one", &json!({}));
    let attempt = text(&attempts_of(&api.succeeded(&run), "t")[0]["attempt"]);
    let output = agent.output(&attempt);
    let lines = output.lines().collect::<Vec<_>>();
    let nobody = std::fs::read_to_string("/etc/passwd").unwrap();
    let nobody = nobody
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .unwrap();
    let ids = nobody.split(':').collect::<Vec<_>>();
    assert_eq!(&lines[..2], &[ids[2], ids[3]], "{output}");
    assert!(
        output.contains("NoNewPrivs:\t1") && output.contains("CapEff:\t0000000000000000"),
        "{output}"
    );
}

#[test]
#[ignore = "needs: root"]
fn as_root_an_entry_without_a_user_is_refused() {
    let world = World::new();
    let mut agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    agent.kill_runner();
    agent
        .site
        .write(&[Entry::script("quick", "true").without_user()]);
    let error = agent.command_with_catalogue(&["run"]).fails_with(1);
    assert!(error.contains("user") && error.contains("quick"), "{error}");
    let _ = agent
        .command_with_catalogue(&["check"])
        .code
        .filter(|code| *code == 1)
        .unwrap();
}
