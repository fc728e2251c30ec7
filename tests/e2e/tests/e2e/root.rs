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

#[test]
#[ignore = "needs: root"]
fn link_has_no_environment_and_no_descriptor_but_its_own() {
    let world = World::new();
    let mut agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    agent.kill_runner();
    agent
        .env
        .push(("OUTPOST_PLANTED".to_owned(), "canary".to_owned()));
    agent.start();
    agent.live(&world.api());
    let environment = |pid: i32| std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let planted = b"OUTPOST_PLANTED=canary";
    let runner = environment(agent.runner().pid);
    assert!(runner.windows(planted.len()).any(|at| at == planted));
    let link = agent.link().pid;
    let environment = environment(link);
    let variables = environment.split(|byte| *byte == 0);
    let mut variables = variables.filter(|one| !one.starts_with(b"OUTPOST_LOG="));
    assert!(
        variables.all(<[u8]>::is_empty),
        "{}",
        String::from_utf8_lossy(&environment)
    );
    let keys = agent.state.join("keys");
    // By which this test's processes end with it: a site's agent has none.
    let arguments = std::fs::read_to_string(format!("/proc/{link}/cmdline")).unwrap();
    let mut arguments = arguments.split('\0');
    let leash = arguments
        .find(|one| *one == "--leash-fd")
        .and_then(|_| arguments.next());
    for entry in std::fs::read_dir(format!("/proc/{link}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let to = std::fs::read_link(&path).unwrap();
        let name = to.to_string_lossy();
        let own = ["socket:[", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"];
        assert!(
            to == keys
                || name == "/dev/null"
                || path.ends_with("2")
                || leash.is_some_and(|number| path.ends_with(number))
                || own.iter().any(|own| name.starts_with(own)),
            "{} is {name}",
            path.display()
        );
    }
}
