//! Tasks as strangers, with the real agent: what a task sees of the agent, of other tasks and of what it was not given.
//! As root the account of its entry is the wall; for an ordinary account, which agent and task share, Landlock is.

use std::os::unix::fs::symlink;

use outpost_e2e::api::attempts_of;
use outpost_e2e::binaries::Binary;
use outpost_e2e::site::is_root;
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};
use serde_json::json;

/// Each line by itself; those that succeed are named in `tried`.
fn tries(lines: &[&str]) -> String {
    let tries = lines.iter().enumerate().map(|(at, line)| {
        format!("if ( {line} ) >/dev/null 2>&1; then echo \"done {at}\" >> \"$shared/tried\"; fi\n")
    });
    tries
        .chain(["echo end >> \"$shared/tried\"\n".to_owned()])
        .collect()
}

/// What the agent's own account could do without a wall, and another account is refused.
const FORBIDDEN: &[&str] = &[
    "ls $STATE/keys",
    "cat $STATE/keys/*",
    "ls $STATE/attempts",
    "cat $STATE/attempts/$OTHER/log.0",
    "cat $STATE/work/$OTHER/left",
    "echo >> $STATE/identity.json",
    "touch $STATE/new",
    "mv $STATE $STATE.away",
    "echo >> $CATALOGUE/site.toml",
    "$AGENT pause --state $STATE",
    "$AGENT status --state $STATE | grep -q orchestrator",
    "$AGENT logs --state $STATE $OTHER | grep -q .",
    "cat /proc/$PPID/environ | grep -q .",
    "readlink /proc/$PPID/fd/0",
    "kill -CONT $PPID",
    "kill -CONT $RUNNER",
    "kill -CONT $LINK",
    "cat /proc/$RUNNER/environ | grep -q .",
    "cat /proc/$LINK/environ | grep -q .",
    "cat $STATE/agent.token | grep -q .",
    "prlimit --pid $RUNNER --nofile=16",
    "prlimit --pid $LINK --cpu=1",
    "renice -n 19 -p $RUNNER",
    "ionice -c 3 -p $RUNNER",
    "chrt --idle -p 0 $RUNNER",
    "cat $STATE/keepers.token | grep -q .",
    "echo 1000 > /proc/$RUNNER/oom_score_adj",
    "echo 1000 > /proc/$LINK/oom_score_adj",
    "echo 1000 > /proc/$PPID/oom_score_adj",
    "echo 0xff > /proc/$RUNNER/coredump_filter",
    "echo 5 > /proc/$RUNNER/clear_refs",
    "ls /proc/$RUNNER/fd",
    "ls /proc/$RUNNER/root/",
    "nsenter -t $RUNNER -m true",
    "unshare -Urm sh -c 'mount --bind $STATE/keys /mnt && cat /mnt/*'",
    "unshare -Urm cat $STATE/agent.token",
];

/// On which processors a process may run.
fn processors(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("Cpus_allowed_list:"));
    line.unwrap().to_owned()
}

#[test]
fn k14_k16_the_agents_key_its_sockets_and_other_tasks_leftovers_are_out_of_reach() {
    let world = World::new();
    let first = Entry::script("first", "echo canary > left; echo canary; sleep 1000");
    // Where accounts are the wall, tasks of one account are no strangers to each other.
    let first = match is_root() {
        true => first.without_user().with("user = \"daemon\""),
        false => first,
    };
    // It is told that it is done, because of its own threads; what is, is looked at.
    let places = "for pid in $RUNNER $LINK $PPID; do taskset -p 1 $pid || true; done";
    let body = format!(". $shared/given\n{places}\n{}", tries(FORBIDDEN));
    let agent = world.agent("site-1", &[first, Entry::script("second", &body)]);
    // Tasks of two accounts write down that they began.
    std::fs::write(world.shared("starts"), "").unwrap();
    outpost_e2e::site::mode(&world.shared("starts"), 0o666);
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  t: {entry: first}\n").ok();
    let run = api.trigger("one", &json!({}));
    let other = api.attempt_in(&run, "t", "running");
    let left = agent.state.join("work").join(&other).join("left");
    eventually("it has left something", || so(left.exists()));
    let given = [
        ("STATE", agent.state.display().to_string()),
        ("OTHER", other),
        ("CATALOGUE", agent.site.catalogue().display().to_string()),
        ("AGENT", Binary::Agent.path().display().to_string()),
        ("RUNNER", agent.runner().pid.to_string()),
        ("LINK", agent.link().pid.to_string()),
    ];
    let given = given
        .map(|(name, value)| format!("{name}={value}\n"))
        .concat();
    std::fs::write(world.shared("given"), given).unwrap();
    outpost_e2e::site::mode(&world.shared("given"), 0o644);
    let before = processors(agent.runner().pid);
    let _ = api.apply("name: two\ntasks:\n  t: {entry: second}\n").ok();
    let run = api.trigger("two", &json!({}));
    let _ = api.succeeded(&run);
    let tried = std::fs::read_to_string(world.shared("tried")).unwrap();
    assert_eq!(tried, "end\n", "the numbers are of {FORBIDDEN:#?}");
    assert_eq!(processors(agent.runner().pid), before);
    assert_eq!(processors(agent.link().pid), before);
    let status = agent.status().unwrap();
    let separation = status["separation"].as_str().unwrap();
    let expected = if is_root() {
        "by account"
    } else {
        "by Landlock"
    };
    assert!(separation.starts_with(expected), "{separation}");
}

#[test]
fn k5_output_that_speaks_the_agents_own_protocols_is_only_output() {
    let world = World::new();
    let body = r#"printf '\001{"finished":{"ended":{"exited":0}}}\n\003"taken"\n\004{"not_started":{"why":"claim_lost","text":""}}\n'
printf '{"crc":"00000000","record":{"exit":{}}}\n::set-output name=count::7\ncount=7\n\000\000\000\005\n'
echo '{"crc":"x"}' >&2; exit 3"#;
    let agent = world.agent("site-1", &[Entry::script("speaks", body)]);
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  t: {entry: speaks}\n").ok();
    let run = api.trigger("one", &json!({}));
    let tree = api.finished(&run);
    let attempts = attempts_of(&tree, "t");
    assert_eq!(attempts.len(), 1, "{tree:#}");
    assert_eq!(attempts[0]["outcome"], "failed", "{tree:#}");
    assert_eq!(world.starts_of("t"), 1);
    for (_, words) in agent.ledger_words() {
        assert!(
            !words.contains("claim") && !words.contains("count"),
            "{words}"
        );
    }
}

#[test]
fn k11_a_link_in_place_of_a_runs_outputs_is_not_followed() {
    let world = World::new();
    let precious = world.shared("precious");
    std::fs::create_dir_all(&precious).unwrap();
    std::fs::write(precious.join("second.env"), "count=9\n").unwrap();
    let hostile = format!(
        "cd $OUTPOST_RUN_DIR && mv out aside && ln -s {} out || echo kept",
        precious.display()
    );
    let entries = [
        Entry::script("hostile", &hostile),
        Entry::script("plain", "true"),
    ];
    let _agent = world.agent("site-1", &entries);
    let api = world.api();
    let yaml =
        "name: one\ntasks:\n  first: {entry: hostile}\n  second: {entry: plain, needs: [first]}\n";
    let _ = api.apply(yaml).ok();
    let run = api.trigger("one", &json!({}));
    let _ = api.finished(&run);
    let text = std::fs::read_to_string(precious.join("second.env")).unwrap();
    assert_eq!(
        text, "count=9\n",
        "nothing of another's was removed or written"
    );
}

#[test]
fn k12_a_program_that_others_can_change_is_not_started() {
    let world = World::new();
    let dir = world.dir().join("theirs");
    std::fs::create_dir_all(&dir).unwrap();
    symlink("/bin/true", dir.join("program")).unwrap();
    let path = dir.join("program").display().to_string();
    let entry = Entry::program("theirs", &[&path]);
    let agent = world.agent("site-1", &[entry]);
    let api = world.api();
    let _ = api.apply("name: one\ntasks:\n  t: {entry: theirs}\n").ok();
    // Whoever can write to the directory can put another program behind the link.
    outpost_e2e::site::mode(&dir, 0o777);
    let run = api.trigger("one", &json!({}));
    let tree = api.finished(&run);
    let outcome = attempts_of(&tree, "t")[0]["outcome"].clone();
    assert_eq!(outcome, "start_failed{permission}", "{tree:#}");
    assert!(
        agent.logged().contains("can be written by others"),
        "told at the site"
    );
}
