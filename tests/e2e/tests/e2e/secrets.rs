//! Secrets of a site: from each source, handed over in each way, refused with a reason that stays at the site, and found
//! nowhere afterwards (W7).

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use outpost_e2e::api::{attempts_of, client};
use outpost_e2e::site::is_root;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Api, Entry, World, eventually};
use serde_json::json;

use crate::canaries::{Search, canary};

/// The site's private files: values, and what values are fetched with.
struct Private {
    home: PathBuf,
    dir: PathBuf,
}

impl Private {
    fn of(agent: &Agent) -> Self {
        let home = agent.site.catalogue().parent().unwrap().to_owned();
        let dir = home.join("private");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { home, dir }
    }

    /// A file that the agent's account alone can read.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `secrets.toml`, beside the catalogue's directory.
    fn secrets(&self, text: &str) {
        let path = self.home.join("secrets.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// A server that answers the one question of Vault's API that is asked here, as the published API has it.
fn vault(token: &str, field: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let token = format!("x-vault-token: {}", token.to_lowercase());
    let answer = json!({ "data": { "data": { "password": field }, "metadata": { "version": 1 } } });
    let answer = answer.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap_or(0) > 0 {}
            let is_right = head.starts_with("GET /v1/secret/data/team/db ")
                && head.to_lowercase().contains(&token);
            let (status, body) = if is_right {
                ("200 OK", answer.as_str())
            } else {
                ("403 Forbidden", "{\"errors\":[\"permission denied\"]}")
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.get_mut().write_all(head.as_bytes());
            let _ = stream.get_mut().write_all(body.as_bytes());
        }
    });
    address
}

/// Tells the check sum of each, never the value; then waits to be looked at.
const USE: &str = "sum() { sha256sum | cut -d' ' -f1; }
{ echo fd $(cat <&$OUTPOST_SECRET_FROM_FILE_FD | sum)
  echo file $(sum < $OUTPOST_SECRET_FROM_COMMAND_FILE)
  echo env $(printf %s \"$OUTPOST_SECRET_FROM_ENV\" | sum)
  echo credential $(sum < /dev/fd/$OUTPOST_SECRET_FROM_CREDENTIAL_FD)
  echo vault $(sum < \"$DB_PASSWORD_FILE\"); } > \"$shared/sums\"
while ! test -e \"$shared/go\"; do sleep 0.05; done
! test -e \"$shared/crash\" || kill -SEGV $$";

fn granted(entry: Entry) -> Entry {
    entry
        .with("secret.from-file = { as = \"fd\" }")
        .with("secret.from-command = { as = \"file\" }")
        .with("secret.from-env = { as = \"env\" }")
        .with("secret.from-credential = { as = \"fd\" }")
        .with("secret.from-vault = { as = \"file\", variable = \"DB_PASSWORD_FILE\" }")
}

const SOURCES: [&str; 5] = ["file", "command", "env", "credential", "vault"];

/// A world whose agent has a secret of each source and an entry that is granted all of them.
fn site_with_secrets() -> (World, Agent, Private, BTreeMap<&'static str, String>) {
    let world = World::new();
    let entries = [granted(Entry::script("use", USE))];
    let token = world.token_file(&world.api(), "bank");
    let mut agent = world.enrolled("bank", &token, &[]);
    let private = Private::of(&agent);
    let mut values = SOURCES
        .map(|name| (name, canary(name)))
        .into_iter()
        .collect::<BTreeMap<_, _>>();
    let vault_token = format!("hvs.{}", canary("token"));
    let address = vault(&vault_token, &values["vault"]);
    let program = private.file(
        "program",
        &format!("#!/bin/sh\necho {}\n", values["command"]),
    );
    let file = private.file("file", &format!("{}\n", values["file"]));
    let _ = private.file("from-credential", &values["credential"]);
    let token_file = private.file("token", &format!("{vault_token}\n"));
    values.insert("token", vault_token);
    private.secrets(&format!(
        "[secret.from-file]\nfile = \"{file}\"\n[secret.from-command]\ncommand = [\"/bin/sh\", \"{program}\"]\n\
         [secret.from-env]\nenv = \"CANARY_VALUE\"\n[secret.from-credential]\ncredential = \"from-credential\"\n\
         [secret.from-vault.vault]\naddress = \"{address}\"\npath = \"team/db\"\nfield = \"password\"\n\
         token_file = \"{token_file}\"\n"
    ));
    agent.env = vec![
        ("CANARY_VALUE".to_owned(), values["env"].clone()),
        (
            "CREDENTIALS_DIRECTORY".to_owned(),
            private.dir.display().to_string(),
        ),
        ("OUTPOST_AGENT_METRICS".to_owned(), "127.0.0.1:0".to_owned()),
        ("OUTPOST_LOG".to_owned(), "debug".to_owned()),
    ];
    agent.site.write(&entries);
    agent.start();
    agent.live(&world.api());
    (world, agent, private, values)
}

/// Check sums as `sha256sum` has them.
fn sha256(text: &str) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

/// What the task told, by the source of each.
fn told(world: &World, values: &BTreeMap<&str, String>) {
    let sums = std::fs::read_to_string(world.shared("sums")).unwrap();
    let sums = sums
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect::<BTreeMap<_, _>>();
    for (told, source) in [
        ("fd", "file"),
        ("file", "command"),
        ("env", "env"),
        ("credential", "credential"),
        ("vault", "vault"),
    ] {
        let expected = sha256(&values[source]);
        assert_eq!(sums.get(told), Some(&expected.as_str()), "{sums:?}");
    }
}

const WORKFLOW: &str = "name: one\ntasks:\n  t:\n    entry: use\n";

fn agent_metrics(agent: &Agent) -> Vec<u8> {
    let logged = agent.logged();
    let line = logged
        .lines()
        .find(|line| line.contains("metrics are served"))
        .unwrap();
    let address = line.split("address=").nth(1).unwrap().trim();
    let answer = client().get(format!("http://{address}/metrics"));
    let answer = answer.send().unwrap();
    answer.bytes().unwrap().to_vec()
}

fn orchestrator_metrics(world: &World) -> Vec<u8> {
    let token = std::fs::read_to_string(world.orchestrator.dir().join("admin.token")).unwrap();
    let url = format!("http://{}/metrics", world.orchestrator.api_port());
    let answer = client().get(url).bearer_auth(token.trim()).send().unwrap();
    answer.bytes().unwrap().to_vec()
}

/// Looks everywhere but into what the site owner wrote: the private files.
fn look_everywhere(world: &World, agent: &Agent, private: &Private, search: &mut Search) {
    search.arguments();
    search.tree(world.dir(), &[&private.dir]);
    search.bytes("the agent's metrics", &agent_metrics(agent));
    search.bytes("the orchestrator's metrics", &orchestrator_metrics(world));
    let api = world.api();
    for path in ["/api/v1/agents", "/api/v1/runs", "/api/v1/workflows"] {
        search.bytes(path, api.get(path).ok().to_string().as_bytes());
    }
    for command in [
        ["status", "--output", "json"],
        ["ledger", "show", "--output"],
        ["ledger", "explain", "--output"],
    ] {
        let json = ["json"];
        let args = command
            .iter()
            .chain(json.iter().filter(|_| command[2] == "--output"));
        let shown = agent.command(&args.copied().collect::<Vec<_>>());
        search.bytes(&command.join(" "), shown.ok().as_bytes());
    }
    for command in [
        ["secrets", "list"],
        ["secrets", "test"],
        ["catalogue", "lint"],
    ] {
        let shown = agent.command_with_catalogue(&command);
        search.bytes(&command.join(" "), shown.ok().as_bytes());
    }
}

/// A run whose task has read every secret and waits; the run and its attempt.
fn has_read_them_all(world: &World, api: &Api) -> (String, String) {
    let _ = api.apply(WORKFLOW).ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "t", "running");
    eventually("the task has read them all", || {
        let sums = std::fs::read_to_string(world.shared("sums")).ok()?;
        so(sums.lines().count() == SOURCES.len())
    });
    (run, attempt)
}

#[test]
fn w7_secrets_of_every_source_reach_the_task_and_are_found_nowhere_else() {
    let (world, agent, private, values) = site_with_secrets();
    let api = world.api();
    let (run, attempt) = has_read_them_all(&world, &api);
    told(&world, &values);
    let mut search = Search::new(&values);
    look_everywhere(&world, &agent, &private, &mut search);
    let (keeper, task) = agent.keeper_and_task(&attempt);
    for (what, pid) in [
        ("the runner", agent.runner().pid),
        ("the spawner", agent.spawner().pid),
        ("the keeper", keeper.pid),
    ] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"));
        // Its own account may not look at a process that guards its memory.
        if let Ok(limits) = limits {
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"));
            let size = core.and_then(|line| line.split_whitespace().nth(4));
            assert_eq!(size, Some("0"), "{what} would leave a core dump: {core:?}");
        }
    }
    let files = std::fs::read_dir("/dev/shm")
        .into_iter()
        .flatten()
        .flatten();
    let files = files
        .map(|entry| entry.path().join(&attempt))
        .filter(|dir| dir.exists());
    let files = files.collect::<Vec<_>>();
    assert_eq!(
        files.len(),
        1,
        "its secrets that are files lie in memory: {task:?}"
    );
    world.allow("go");
    let _ = api.succeeded(&run);
    assert!(!files[0].exists(), "they go with the attempt");
    let backup = world.dir().join("backup.db");
    let _ = world
        .orchestrator
        .command(&["backup", backup.to_str().unwrap()])
        .ok();
    look_everywhere(&world, &agent, &private, &mut search);
    search.nothing();
    assert!(backup.exists() && agent.logged().len() > 1000);
}

/// What its own environment holds, and what the libraries that talk to Vault held, is not looked for.
#[test]
#[ignore = "needs: root"]
fn w7_no_process_of_the_agent_holds_a_value_once_the_task_has_it() {
    let (world, agent, _private, mut values) = site_with_secrets();
    let api = world.api();
    let (run, attempt) = has_read_them_all(&world, &api);
    values.retain(|name, _| ["file", "command", "credential"].contains(name));
    let mut search = Search::new(&values);
    let (keeper, _) = agent.keeper_and_task(&attempt);
    search.memory("the runner", agent.runner().pid);
    search.memory("link", agent.link().pid);
    search.memory("the spawner", agent.spawner().pid);
    search.memory("the keeper", keeper.pid);
    assert!(
        search.looked > 1 << 20,
        "{} bytes are not all of it",
        search.looked
    );
    search.nothing();
    world.allow("go");
    let _ = api.succeeded(&run);
}

/// Reads whatever may be a secret: the site's private files, other tasks' files in memory, and what processes of this
/// account have in their environment and open.
const STEAL: &str = "read_it() { cat \"$1\" >> \"$shared/stolen\" 2>/dev/null || true; }
echo tried > \"$shared/stolen\"
for file in \"$2\"/* /dev/shm/outpost-*/*/*; do read_it \"$file\"; done
test \"$3\" = no || for file in /proc/[0-9]*/environ /proc/[0-9]*/fd/[3-9]; do
  case \"$(readlink \"$file\" || true)\" in pipe:*|socket:*|anon_inode:*) ;; *) read_it \"$file\" ;; esac
done
if (echo '# by a task' >> \"$4\") 2> /dev/null; then echo changed >> \"$shared/changed\"; fi";

#[test]
fn k4_a_task_reaches_neither_the_sources_nor_another_tasks_secrets() {
    let (world, agent, private, values) = site_with_secrets();
    // Of two tasks of one account as root, each can look at the other: that is what accounts are for.
    let processes = if is_root() { "no" } else { "yes" };
    let steal = Entry::script("steal", STEAL)
        .argument(private.dir.to_str().unwrap())
        .argument(processes)
        .argument(private.home.join("secrets.toml").to_str().unwrap());
    agent
        .site
        .write(&[granted(Entry::script("use", USE)), steal]);
    let _ = agent.command(&["reload"]).ok();
    let api = world.api();
    let (run, _) = has_read_them_all(&world, &api);
    let _ = api
        .apply("name: two\ntasks:\n  t:\n    entry: steal\n")
        .ok();
    let _ = api.succeeded(&api.trigger("two", &json!({})));
    let mut search = Search::new(&values);
    search.bytes("the booty", &std::fs::read(world.shared("stolen")).unwrap());
    let changed = world.shared("changed");
    assert!(
        !changed.exists(),
        "what is fetched from where is the site's"
    );
    world.allow("go");
    let _ = api.succeeded(&run);
    search.nothing();
}

#[test]
fn w7_the_search_finds_what_a_task_prints_itself() {
    let (world, agent, private, values) = site_with_secrets();
    let api = world.api();
    agent.site.write(&[granted(Entry::script(
        "use",
        "printf %s $OUTPOST_SECRET_FROM_ENV | base64",
    ))]);
    let _ = agent.command(&["reload"]).ok();
    let _ = api.apply(WORKFLOW).ok();
    let run = api.trigger("one", &json!({}));
    let _ = api.succeeded(&run);
    let mut search = Search::new(&values);
    look_everywhere(&world, &agent, &private, &mut search);
    // Its log is the site's own, and the only place.
    assert!(
        !search.found.is_empty(),
        "a search that finds nothing proves nothing"
    );
    for found in &search.found {
        assert!(
            found.starts_with("env in ") && found.contains("/state/attempts/"),
            "{found}"
        );
    }
}

#[test]
fn w7_a_secret_that_cannot_be_had_is_a_class_upstream_and_a_reason_at_the_site() {
    let (world, agent, private, values) = site_with_secrets();
    let api = world.api();
    let _ = api.apply(WORKFLOW).ok();
    let _ = private.file(
        "program",
        "#!/bin/sh\necho half-a-secret\necho half-a-secret >&2\nexit 3\n",
    );
    let run = api.trigger("one", &json!({}));
    let tree = api.finished(&run);
    let attempts = attempts_of(&tree, "t");
    assert_eq!(attempts[0]["outcome"], "start_failed{secret}", "{tree:#}");
    assert_eq!(attempts[0]["may_have_started"], false, "{tree:#}");
    assert!(world.starts().is_empty());
    let logged = agent.logged();
    let why = logged
        .lines()
        .find(|line| line.contains("cannot be started"))
        .unwrap();
    assert!(
        why.contains("`from-command`") && why.contains("exit status 3"),
        "{why}"
    );
    let mut search = Search::new(&values);
    search
        .needles
        .push(("half".to_owned(), b"half-a-secret".to_vec()));
    look_everywhere_but_tests(&world, &agent, &private, &mut search);
    search.nothing();
    let shown = agent.command_with_catalogue(&["secrets", "test", "from-command"]);
    let told = format!("{}{}", shown.out, shown.err);
    assert_eq!(shown.code, Some(1), "{told}");
    assert!(told.contains("exit status 3"), "{told}");
    assert!(!told.contains("half-a-secret"), "{told}");
    for (_, words) in agent.ledger_words() {
        assert!(
            !words.contains("from-") && !words.contains("exit status"),
            "{words}"
        );
    }
}

fn look_everywhere_but_tests(world: &World, agent: &Agent, private: &Private, search: &mut Search) {
    search.arguments();
    search.tree(world.dir(), &[&private.dir]);
    search.bytes("the agent's metrics", &agent_metrics(agent));
    search.bytes("the orchestrator's metrics", &orchestrator_metrics(world));
}

#[test]
fn a_cancel_while_secrets_are_fetched_starts_nothing() {
    let (world, agent, private, _) = site_with_secrets();
    let api = world.api();
    let _ = api.apply(WORKFLOW).ok();
    let asked = private.dir.join("asked");
    let _ = private.file(
        "program",
        &format!("#!/bin/sh\n: > {}\nexec /bin/sleep 8\n", asked.display()),
    );
    let run = api.trigger("one", &json!({}));
    eventually("the source is asked", || so(asked.exists()));
    let _ = api
        .post(&format!("/api/v1/runs/{run}/cancel"), &json!({}))
        .ok();
    let tree = api.finished(&run);
    assert_eq!(
        attempts_of(&tree, "t")[0]["outcome"],
        "cancelled",
        "{tree:#}"
    );
    // Heartbeats, and everything else, went on meanwhile.
    assert!(agent.status().is_some());
    assert!(world.starts().is_empty());
}

#[test]
fn a_pause_while_secrets_are_fetched_starts_nothing() {
    let (world, agent, private, _) = site_with_secrets();
    let api = world.api();
    let _ = api.apply(WORKFLOW).ok();
    let (asked, go) = (private.dir.join("asked"), private.dir.join("go"));
    let program = format!(
        "#!/bin/sh\n: > {}\nuntil test -e {}; do /bin/sleep 0.05; done\necho value\n",
        asked.display(),
        go.display()
    );
    let _ = private.file("program", &program);
    let run = api.trigger("one", &json!({}));
    eventually("the source is asked", || so(asked.exists()));
    let _ = agent.command(&["pause"]).ok();
    std::fs::write(&go, "").unwrap();
    eventually("the start is refused", || {
        let said = agent.command(&["refusals"]).ok();
        so(said.contains("while what the attempt needs"))
    });
    assert!(world.starts().is_empty());
    let told = "it is told upstream as a class";
    eventually(told, || {
        let attempts = attempts_of(&api.run(&run)?, "t");
        so(attempts
            .iter()
            .any(|told| told["outcome"] == "refused{paused}"))
    });
}

#[test]
fn files_of_a_killed_keeper_and_of_a_killed_agent_are_taken_away() {
    let (world, mut agent, _private, values) = site_with_secrets();
    let api = world.api();
    let _ = api.apply(WORKFLOW).ok();
    let files = |attempt: &str| {
        let dirs = std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten();
        let mut dirs = dirs.map(|entry| entry.path().join(attempt));
        dirs.find(|dir| dir.exists())
    };
    let running = || {
        let run = api.trigger("one", &json!({}));
        let attempt = api.attempt_in(&run, "t", "running");
        eventually("its files are there", || files(&attempt));
        attempt
    };
    let first = running();
    let (keeper, _) = agent.keeper_and_task(&first);
    keeper.kill();
    eventually("the runner takes away what its keeper left", || {
        so(files(&first).is_none())
    });
    let second = running();
    let (keeper, _) = agent.keeper_and_task(&second);
    agent.kill_runner();
    agent.spawner().kill();
    keeper.kill();
    assert!(files(&second).is_some(), "nobody is left who could");
    agent.start();
    eventually("the next runner takes away what both left", || {
        so(files(&second).is_none())
    });
    assert_eq!(values.len(), SOURCES.len() + 1);
}

#[test]
fn try_hands_secrets_over_and_lists_tell_no_value() {
    let world = World::new();
    let agent = world.stranger("bank", &[]);
    let private = Private::of(&agent);
    let value = canary("file");
    let file = private.file("file", &value);
    private.secrets(&format!(
        "[secret.db]\nfile = \"{file}\"\n[secret.none]\nenv = \"NO_SUCH\"\n"
    ));
    let script = "cat <&$OUTPOST_SECRET_DB_FD | wc -c; ls -l /proc/self/fd | wc -l";
    agent.site.write(&[
        Entry::script("try", script).with("secret.db = { as = \"fd\" }"),
        Entry::script("without", "true").with("secret.none = { as = \"env\" }"),
    ]);
    let done = agent
        .command_with_catalogue(&["catalogue", "try", "try"])
        .ok();
    assert!(
        done.lines()
            .any(|line| line.trim() == value.len().to_string()),
        "{done}"
    );
    let why = agent
        .command_with_catalogue(&["catalogue", "try", "without"])
        .fails_with(6);
    assert!(
        why.contains("start_failed{secret}") && why.contains("NO_SUCH"),
        "{why}"
    );
    let list = agent.command_with_catalogue(&["secrets", "list"]).ok();
    assert!(
        list.contains("db: file ") && list.contains("granted to try"),
        "{list}"
    );
    let test = agent
        .command_with_catalogue(&["secrets", "test", "db"])
        .ok();
    assert_eq!(test.trim(), "ok    db");
    let lint = agent.command_with_catalogue(&["catalogue", "lint"]).ok();
    assert!(
        lint.contains("secret.none") && lint.contains("/proc"),
        "{lint}"
    );
    agent
        .site
        .write(&[Entry::script("try", "true").with("secret.dbb = { as = \"fd\" }")]);
    let lint = agent.command_with_catalogue(&["catalogue", "lint"]);
    assert_eq!(lint.code, Some(1), "{lint:#?}");
    let lint = lint.out;
    assert!(
        lint.contains("there is no secret `dbb`") && lint.contains("did you mean `db`"),
        "{lint}"
    );
}
