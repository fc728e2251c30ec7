//! The real executable: made, run, refused and killed as an operator would.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost-orchestrator"));
    command
        .args(args)
        .env("OUTPOST_ORCHESTRATOR_DIR", dir)
        .stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

/// The status, and what was said about it.
fn refused(output: &Output) -> (i32, String) {
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}

struct Orchestrator {
    dir: PathBuf,
    _temp: TempDir,
}

/// A running server; killed when the test ends.
struct Server {
    child: Child,
    agents: String,
    api: String,
}

impl Orchestrator {
    fn init() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("orchestrator");
        stdout(&run(&dir, &["init"]));
        Self { dir, _temp: temp }
    }

    fn serve(&self) -> Server {
        self.serve_api("127.0.0.1:0")
    }

    fn serve_api(&self, api: &str) -> Server {
        let ready = self.dir.join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let args = [
            "serve",
            "--agents",
            "127.0.0.1:0",
            "--api",
            api,
            "--ready-file",
        ];
        let mut child = command(&self.dir, &args)
            .arg(&ready)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(|| ready.exists() || child.try_wait().unwrap().is_some());
        let ready: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        let text = |key: &str| ready[key].as_str().unwrap().to_owned();
        Server {
            child,
            agents: text("agents"),
            api: text("api"),
        }
    }
}

impl Server {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn end(&mut self) -> std::process::ExitStatus {
        until(|| self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "it did not come to pass within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_second_init_changes_nothing() {
    let orchestrator = Orchestrator::init();
    let files = ["outpost.db", "admin.token", "ca/root.crt", "server.json"]
        .map(|name| orchestrator.dir.join(name));
    let before = files.each_ref().map(|path| std::fs::read(path).unwrap());
    let (status, said) = refused(&run(&orchestrator.dir, &["init"]));
    assert_eq!(status, 2, "{said}");
    assert!(
        said.contains("exists") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(
        files.each_ref().map(|path| std::fs::read(path).unwrap()),
        before
    );
}

#[test]
fn what_init_writes_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let orchestrator = Orchestrator::init();
    let mode = |name: &str| {
        orchestrator
            .dir
            .join(name)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("."), 0o700);
    for name in [
        "outpost.db",
        "admin.token",
        "ca/agents.key",
        "ca/servers.key",
        "ca/root.key",
    ] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    let token = std::fs::read_to_string(orchestrator.dir.join("admin.token")).unwrap();
    let database = std::fs::read(orchestrator.dir.join("outpost.db")).unwrap();
    // `opt_<id>_<secret>`; the secret's own alphabet has `_` in it.
    let secret = token.trim().splitn(3, '_').nth(2).unwrap().as_bytes();
    assert_eq!(secret.len(), 43, "32 random bytes in base64");
    assert!(
        !database.windows(secret.len()).any(|bytes| bytes == secret),
        "the token itself is stored"
    );
}

#[test]
fn without_init_there_is_nothing_to_serve() {
    let temp = tempfile::tempdir().unwrap();
    for args in [&["serve"][..], &["tenant", "list"], &["token", "list"]] {
        let (status, said) = refused(&run(&temp.path().join("none"), args));
        assert_eq!(status, 2, "{said}");
        assert!(said.contains("outpost-orchestrator init"), "{said}");
    }
}

#[test]
fn tenants_and_tokens_are_administered_while_a_server_runs() {
    let orchestrator = Orchestrator::init();
    let _server = orchestrator.serve();
    let dir = &orchestrator.dir;
    stdout(&run(dir, &["tenant", "create", "bank-a"]));
    assert_eq!(refused(&run(dir, &["tenant", "create", "bank-a"])).0, 2);
    assert_eq!(refused(&run(dir, &["tenant", "create", "Bank A"])).0, 2);
    let tenants = json(&run(dir, &["--output", "json", "tenant", "list"]));
    let names: Vec<&str> = tenants
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["tenant"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["bank-a", "default"]);

    let create = [
        "token", "create", "--tenant", "bank-a", "--role", "viewer", "--label", "ci", "--output",
        "json",
    ];
    let made = json(&run(dir, &create));
    let id = made["id"].as_str().unwrap();
    assert!(
        made["token"]
            .as_str()
            .unwrap()
            .starts_with(&format!("opt_{id}_"))
    );
    let (status, said) = refused(&run(
        dir,
        &["token", "create", "--tenant", "nobody", "--role", "viewer"],
    ));
    assert_eq!(status, 2);
    assert!(said.contains("tenant create nobody"), "{said}");
    let list = stdout(&run(dir, &["token", "list", "--tenant", "bank-a"]));
    assert!(list.contains(id) && list.contains("valid"), "{list}");
    assert!(run(dir, &["token", "revoke", id]).status.success());
    assert_eq!(refused(&run(dir, &["token", "revoke", id])).0, 2);
    let list = stdout(&run(dir, &["token", "list"]));
    assert!(list.contains("revoked"), "{list}");
}

#[test]
fn a_taken_port_is_named() {
    let orchestrator = Orchestrator::init();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for args in [
        ["--agents", &address, "--api", "127.0.0.1:0"],
        ["--agents", "127.0.0.1:0", "--api", &address],
    ] {
        let (status, said) = refused(&run(&orchestrator.dir, &[&["serve"], &args[..]].concat()));
        assert_eq!(status, 2, "{said}");
        assert!(said.contains(&address), "{said}");
    }
}

#[test]
fn a_second_server_is_refused_and_the_first_goes_on() {
    let orchestrator = Orchestrator::init();
    let mut server = orchestrator.serve();
    let args = ["serve", "--agents", "127.0.0.1:0", "--api", "127.0.0.1:0"];
    let (status, said) = refused(&run(&orchestrator.dir, &args));
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("another orchestrator uses"), "{said}");
    assert!(server.child.try_wait().unwrap().is_none());
    std::net::TcpStream::connect(&server.agents).unwrap();
}

#[test]
fn a_newer_database_is_refused() {
    let orchestrator = Orchestrator::init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(pretend_newer(&orchestrator.dir));
    let path = orchestrator.dir.join("outpost.db");
    let before = std::fs::read(&path).unwrap();
    for args in [
        &["serve"][..],
        &["tenant", "create", "x"],
        &["token", "list"],
    ] {
        let (status, said) = refused(&run(&orchestrator.dir, args));
        assert_eq!(status, 2, "{said}");
        assert!(
            said.contains("9999") && said.contains("nothing was changed"),
            "{said}"
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_damaged_database_is_said_to_be_one() {
    let orchestrator = Orchestrator::init();
    let path = orchestrator.dir.join("outpost.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..16].fill(7);
    std::fs::write(&path, &bytes).unwrap();
    for args in [&["serve"][..], &["tenant", "list"]] {
        let (status, said) = refused(&run(&orchestrator.dir, args));
        assert_eq!(status, 70, "{said}");
        assert!(
            said.contains("is damaged") && said.contains("restore FILE --force"),
            "{said}"
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

async fn pretend_newer(dir: &Path) {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("outpost.db"));
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let sql = "INSERT INTO _sqlx_migrations(version, description, success, checksum, execution_time) \
               VALUES (9999, 'later', 1, x'00', 0)";
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[test]
fn a_killed_server_starts_again() {
    let orchestrator = Orchestrator::init();
    for _ in 0..3 {
        let mut server = orchestrator.serve();
        assert!(
            server.api.starts_with("http://127.0.0.1:"),
            "{}",
            server.api
        );
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
}

#[test]
fn told_to_stop_it_ends_well() {
    let orchestrator = Orchestrator::init();
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = orchestrator.serve();
        server.signal(signal);
        assert_eq!(server.end().code(), Some(0), "{signal:?}");
        assert!(
            !orchestrator.dir.join("outpost.db-wal").exists(),
            "the store was not closed"
        );
    }
}

#[test]
fn it_ends_with_its_leash() {
    let orchestrator = Orchestrator::init();
    let ready = orchestrator.dir.join("leashed.json");
    let args = [
        "serve",
        "--agents",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
        "--leash-fd",
        "0",
        "--ready-file",
    ];
    let mut child = command(&orchestrator.dir, &args)
        .arg(&ready)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(|| ready.exists());
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    until(|| child.try_wait().unwrap().is_some());
}

#[test]
fn wrong_use_is_explained() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("new");
    for args in [
        &["init", "--name", "not a host"][..],
        &["init", "--trust-domain", "UPPER"],
        &["serve", "--agents", "nowhere"],
        &["token", "create", "--tenant", "a", "--role", "king"],
        &["sing"],
    ] {
        let (status, said) = refused(&run(&dir, args));
        assert_eq!(status, 2, "{args:?}: {said}");
        assert!(said.starts_with("error:"), "{args:?}: {said}");
    }
    assert!(
        !dir.join("outpost.db").exists(),
        "a refused init leaves nothing behind"
    );
    let help = stdout(&run(&dir, &["--help"]));
    assert!(
        help.contains("Examples:") && help.contains("Exit status:"),
        "{help}"
    );
    assert!(stdout(&run(&dir, &["completions", "bash"])).contains("outpost-orchestrator"));
    stdout(&run(&dir, &["init"]));
}

#[test]
fn off_loopback_the_api_speaks_tls_only() {
    let orchestrator = Orchestrator::init();
    let server = orchestrator.serve_api("0.0.0.0:0");
    let port = server.api.strip_prefix("https://0.0.0.0:").unwrap();
    let root = std::fs::read(orchestrator.dir.join("ca/root.crt")).unwrap();
    let client = reqwest::blocking::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&root).unwrap()])
        .no_proxy()
        .build()
        .unwrap();
    let answer = |scheme: &str| {
        let url = format!("{scheme}://127.0.0.1:{port}/healthz");
        client.get(url).send().map(|answer| answer.status())
    };
    assert_eq!(answer("https").unwrap(), 200);
    assert!(answer("http").is_err(), "plaintext was answered");
}

#[test]
fn the_last_administrator_is_revoked_only_by_force() {
    let orchestrator = Orchestrator::init();
    let dir = &orchestrator.dir;
    let token = std::fs::read_to_string(dir.join("admin.token")).unwrap();
    let id = &token[4..16];
    let (status, said) = refused(&run(dir, &["token", "revoke", id]));
    assert_eq!(status, 2, "{said}");
    assert!(
        said.contains("last administrator") && said.contains("--force"),
        "{said}"
    );
    assert!(
        run(dir, &["token", "revoke", id, "--force"])
            .status
            .success()
    );
    assert_eq!(refused(&run(dir, &["token", "revoke", id, "--force"])).0, 2);
}

#[test]
fn interface_and_configuration_describe_themselves_without_a_server() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("none");
    let document: serde_json::Value =
        serde_json::from_str(&stdout(&run(&dir, &["openapi"]))).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let reference = stdout(&run(&dir, &["config", "reference"]));
    for key in ["agents", "api_rate", "keep_runs", "log_format"] {
        assert!(
            reference.contains(&format!("\n## `{key}`\n")),
            "{reference}"
        );
    }
    assert!(!dir.exists());
}

/// The number of tenants that the database of that name holds, if there is one.
fn tenants_in(path: &Path) -> Option<i64> {
    let connection = path
        .exists()
        .then(|| rusqlite::Connection::open(path).unwrap())?;
    let sql = "SELECT count(*) FROM tenant";
    Some(connection.query_row(sql, [], |row| row.get(0)).unwrap())
}

/// The databases that were set aside.
fn asides(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains(".db.before-restore-"))
        .filter(|path| path.to_string_lossy().ends_with('Z'))
        .collect()
}

#[test]
fn d9_a_restore_that_is_killed_leaves_the_old_database_or_none_and_can_be_done_again() {
    use outpost_failpoint::{ALL, Process, VARIABLE};
    for point in ALL.iter().filter(|point| point.process == Process::Restore) {
        let site = Orchestrator::init();
        let saved = site.dir.join("saved.db");
        let saved = saved.to_str().unwrap();
        stdout(&run(&site.dir, &["backup", saved]));
        stdout(&run(&site.dir, &["tenant", "create", "later"]));
        let wishes = tempfile::tempdir().unwrap();
        std::fs::write(wishes.path().join(point.name), "kill").unwrap();
        let killed = command(&site.dir, &["restore", saved, "--force"])
            .env(VARIABLE, wishes.path())
            .output()
            .unwrap();
        assert!(killed.status.code().is_none(), "{}: {killed:?}", point.name);
        let path = site.dir.join("outpost.db");
        let is_there = tenants_in(&path);
        assert!(
            matches!(is_there, None | Some(2)),
            "{}: {is_there:?}",
            point.name
        );
        if is_there.is_none() {
            let (status, said) = refused(&run(&site.dir, &["init"]));
            assert_eq!(status, 2, "{}: {said}", point.name);
            assert!(said.contains("a restore was interrupted"), "{said}");
            assert_eq!(tenants_in(&asides(&site.dir)[0]), Some(2));
        }
        let mut again = vec!["restore", saved];
        again.extend(is_there.map(|_| "--force"));
        stdout(&run(&site.dir, &again));
        assert_eq!(tenants_in(&path), Some(1), "{}", point.name);
        let kept = asides(&site.dir);
        assert!(
            kept.iter().any(|path| tenants_in(path) == Some(2)),
            "{kept:?}"
        );
    }
}

#[test]
fn a_restore_is_refused_while_a_server_runs() {
    let site = Orchestrator::init();
    let saved = site.dir.join("saved.db");
    let saved = saved.to_str().unwrap();
    let _server = site.serve();
    stdout(&run(&site.dir, &["backup", saved]));
    let before = std::fs::read(site.dir.join("outpost.db")).unwrap();
    let (_, said) = refused(&run(&site.dir, &["restore", saved, "--force"]));
    assert!(said.contains("another orchestrator uses"), "{said}");
    assert_eq!(std::fs::read(site.dir.join("outpost.db")).unwrap(), before);
    assert!(asides(&site.dir).is_empty());
}
