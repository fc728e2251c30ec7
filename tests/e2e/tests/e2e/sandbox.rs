//! How link and dial are confined, seen from outside with the real binaries: who they are, what the kernel says of them,
//! what is told of it here and upstream, and that a panic under the filter is an end like any other.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use outpost_e2e::api::attempts_of;
use outpost_e2e::procs::Proc;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use serde_json::{Value, json};

/// By which a test keeps the sandbox from parts of it.
const CAP: &str = "OUTPOST_TEST_SANDBOX";
const ONE: &str = "name: one\ntasks:\n  t: {entry: quick}\n";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn world() -> (World, Agent) {
    let world = World::new();
    let agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    (world, agent)
}

/// A line of what the kernel says of a process.
fn status_line(process: &Proc, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap().to_owned()
}

fn sandbox_of(agent: &Agent) -> Value {
    eventually("the agent says how link is confined", || {
        let sandbox = agent.status()?["sandbox"].clone();
        sandbox["level"].is_string().then_some(sandbox)
    })
}

#[test]
fn link_is_confined_and_says_so_here_and_upstream() {
    let (world, agent) = world();
    let link = agent.link();
    assert_eq!(status_line(&link, "Seccomp"), "2");
    assert_eq!(status_line(&link, "NoNewPrivs"), "1");
    assert_eq!(status_line(&link, "Threads"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_line(&link, set), "0000000000000000", "{set}");
    }
    let sandbox = sandbox_of(&agent);
    assert_eq!(sandbox["level"], "strict", "{sandbox}");
    assert_eq!(sandbox["missing"], json!([]), "{sandbox}");
    let keys = std::fs::metadata(agent.state.join("keys")).unwrap();
    let uid = u64::from(keys.uid());
    assert_eq!(sandbox["uid"], uid, "{sandbox}");
    assert_eq!(keys.mode() & 0o777, 0o700);
    if is_root() {
        assert_ne!(uid, 0);
        assert!(
            status_line(&link, "Uid").starts_with(&format!("{uid}\t")),
            "its own account"
        );
    }
    let api = world.api();
    assert_eq!(api.agent("site-1").unwrap()["sandbox"], "strict");
    let shown = agent.command(&["status"]).ok();
    assert!(shown.contains("sandbox       strict"), "{shown}");
    // And it works: a session, and a run in it.
    let _ = api.apply(ONE).ok();
    let run = api.trigger("one", &json!({}));
    assert_eq!(attempts_of(&api.succeeded(&run), "t").len(), 1);
}

#[test]
fn what_a_host_does_not_give_is_told_with_what_to_do() {
    let (world, mut agent) = world();
    agent.kill_runner();
    for (cap, level, says) in [
        ("nothing", "none", "no Landlock"),
        ("no-landlock", "partial", "no Landlock"),
        ("1", "partial", "no rules for TCP"),
        ("4", "strict", ""),
        ("6", "strict", ""),
        ("7", "strict", ""),
    ] {
        agent.env = vec![(CAP.to_owned(), cap.to_owned())];
        agent.start();
        agent.live(&world.api());
        eventually("the orchestrator knows the level", || {
            so(world.api().agent("site-1")?["sandbox"] == level)
        });
        let sandbox = sandbox_of(&agent);
        assert_eq!(sandbox["level"], level, "{cap}: {sandbox}");
        assert!(sandbox["missing"].to_string().contains(says), "{sandbox}");
        let shown = agent.command(&["status"]).ok();
        assert_eq!(shown.contains("\nto mend "), level != "strict", "{shown}");
        let checked = agent.command_with_catalogue(&["check"]);
        assert!(checked.out.contains(level), "{checked:?}");
        agent.kill_runner();
    }
}

#[test]
fn strict_ends_below_it_before_anything_is_connected() {
    let (_world, mut agent) = world();
    agent.kill_runner();
    let before = agent.ledger_words().len();
    agent.env = vec![
        (CAP.to_owned(), "1".to_owned()),
        ("OUTPOST_AGENT_SANDBOX".to_owned(), "strict".to_owned()),
    ];
    agent.start();
    assert_eq!(agent.ended_within(Duration::from_secs(30)), Some(4));
    let logged = agent.logged();
    assert!(
        logged.contains("the sandbox of link is partial, and strict is asked for")
            && logged.contains("no rules for TCP"),
        "{logged}"
    );
    assert_eq!(agent.ledger_words().len(), before, "nothing was said");
    let checked = agent.command_with_catalogue(&["check"]);
    assert!(
        checked.code == Some(1) && checked.out.contains("FAIL  sandbox"),
        "{checked:?}"
    );
    // With all of it there is nothing to refuse.
    agent.env.remove(0);
    agent.start();
    let _ = agent.link();
    assert_eq!(sandbox_of(&agent)["level"], "strict");
}

/// C8: it panics where it runs in every session, under the filter; a new one takes its place.
#[test]
fn c8_a_link_that_panics_ends_and_is_followed_by_another() {
    let (world, mut agent) = world();
    agent.kill_runner();
    let places = world.dir().join("places");
    std::fs::create_dir(&places).unwrap();
    outpost_e2e::site::mode(&places, 0o777);
    agent.env = vec![(
        "OUTPOST_FAILPOINTS".to_owned(),
        places.display().to_string(),
    )];
    agent.start();
    agent.live(&world.api());
    let first = agent.link();
    std::fs::write(places.join("link-heard.draft"), "panic").unwrap();
    std::fs::rename(places.join("link-heard.draft"), places.join("link-heard")).unwrap();
    eventually("it ends by itself", || so(!first.is_alive()));
    let logged = agent.logged();
    assert!(logged.contains("at the place link-heard"), "{logged}");
    assert_ne!(agent.link().pid, first.pid);
    let api = world.api();
    agent.live(&api);
    let _ = api.apply(ONE).ok();
    let run = api.trigger("one", &json!({}));
    let _ = api.succeeded(&run);
    assert_eq!(sandbox_of(&agent)["level"], "strict");
}

/// An agent of before link had an account: its files are root's.
#[test]
#[ignore = "needs: root"]
fn a_key_directory_of_root_becomes_links_at_the_next_start_and_no_sooner() {
    let (world, mut agent) = world();
    agent.kill_runner();
    let keys = agent.state.join("keys");
    let files = || {
        let entries = std::fs::read_dir(&keys).unwrap();
        entries.map(|entry| entry.unwrap().path())
    };
    for path in files().chain([keys.clone()]) {
        std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
    }
    let checked = agent.command_with_catalogue(&["check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("not link's yet"), "{checked:?}");
    assert_eq!(std::fs::metadata(&keys).unwrap().uid(), 0);

    agent.start();
    agent.live(&world.api());
    assert_eq!(sandbox_of(&agent)["level"], "strict");
    let number = std::fs::metadata(&keys).unwrap().uid();
    assert_ne!(number, 0);
    for path in files() {
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (number, 0o600));
    }
    // Everything else of the state directory is closed to it.
    for name in ["ledger", "attempts", "."] {
        let listed = command_on(number, "/bin/ls", &agent.state.join(name));
        assert!(!listed, "{name}");
    }
    for name in ["journal", "identity.json", "id", "agent.sock"] {
        let read = command_on(number, "/bin/cat", &agent.state.join(name));
        assert!(!read, "{name}");
    }
    assert!(command_on(number, "/bin/ls", &keys));
}

/// Whether the program succeeds with this path as that user.
fn command_on(uid: u32, program: &str, path: &std::path::Path) -> bool {
    use std::os::unix::process::CommandExt as _;
    let output = std::process::Command::new(program)
        .arg(path)
        .uid(uid)
        .gid(uid)
        .output();
    output.unwrap().status.success()
}

/// A host name instead of an address: dial resolves under its own walls.
#[test]
fn dial_resolves_a_name_under_its_walls() {
    let (world, mut agent) = world();
    agent.kill_runner();
    let path = agent.state.join("identity.json");
    let mut identity: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let port = relay(world.orchestrator.agents_port());
    for host in ["localhost", "127.0.0.1"] {
        identity["orchestrator"] = json!(format!("{host}:{port}"));
        std::fs::write(&path, identity.to_string()).unwrap();
        agent.env = vec![("OUTPOST_AGENT_SANDBOX".to_owned(), "strict".to_owned())];
        agent.start();
        eventually("it is in a session", || {
            so(agent.status()?["view"]["session"] == "ready")
        });
        agent.kill_runner();
    }
}

/// A port of 127.0.0.1 behind which the orchestrator is; the threads end with this process.
fn relay(to: SocketAddr) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(to) else {
                continue;
            };
            for (mut from, mut into) in [
                (near.try_clone().unwrap(), far.try_clone().unwrap()),
                (far, near),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Both);
                });
            }
        }
    });
    port
}
