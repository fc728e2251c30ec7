//! Certificates are renewed under load and nobody notices: no run fails, nothing starts twice, no agent is ever away, and
//! every frame that was sent is accounted for.
//!
//! `OUTPOST_RENEWAL_S` says for how many seconds (75), `OUTPOST_RENEWAL_TTL` how long certificates hold (20s): an hour with
//! certificates of a minute is `OUTPOST_RENEWAL_S=3600 OUTPOST_RENEWAL_TTL=60s`.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, like the tests"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outpost_certs::ca::Authority;
use outpost_certs::identity::AgentIdentity;
use outpost_certs::pem;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use outpost_proto::message::UpMessage;
use outpost_proto::wire::decode_up;
use serde_json::{Value, json};

/// Runs under way at once.
const AT_ONCE: usize = 6;

fn seconds(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

fn ttl() -> String {
    std::env::var("OUTPOST_RENEWAL_TTL").unwrap_or_else(|_| "20s".to_owned())
}

/// Everything that the orchestrator tells whoever watches, as it tells it.
struct Watcher {
    runtime: tokio::runtime::Runtime,
    told: Arc<Mutex<String>>,
}

impl Watcher {
    fn start(world: &World) -> Self {
        let token = std::fs::read_to_string(world.orchestrator.dir().join("admin.token")).unwrap();
        let url = format!("http://{}/api/v1/events", world.orchestrator.api_port());
        let told = Arc::new(Mutex::new(String::new()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let heard = Arc::clone(&told);
        runtime.spawn(async move {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.get(url).bearer_auth(token.trim());
            let mut response = request.send().await.unwrap();
            while let Ok(Some(chunk)) = response.chunk().await {
                let text = String::from_utf8_lossy(&chunk);
                heard.lock().unwrap().push_str(&text);
            }
        });
        Self { runtime, told }
    }

    /// Each change of an agent's presence.
    fn presences(self) -> Vec<(String, String)> {
        self.runtime.shutdown_background();
        let told = self.told.lock().unwrap();
        // The last one may have come in part only.
        let (whole, _) = told.rsplit_once("\n\n").unwrap_or_default();
        let events = whole.lines().filter_map(|line| line.strip_prefix("data:"));
        let events = events.map(|data| serde_json::from_str::<Value>(data.trim()).unwrap());
        events
            .filter(|event| event["kind"] == "agent")
            .map(|event| {
                let text = |key: &str| event[key].as_str().unwrap().to_owned();
                (text("agent"), text("presence"))
            })
            .collect()
    }
}

/// The serial number of the certificate in the agent's key directory, if it can be read just now.
fn serial(world: &World, agent: &Agent) -> Option<String> {
    let authority = Authority::load(&world.orchestrator.dir().join("ca")).unwrap();
    let text = std::fs::read(agent.state.join("keys/agent.crt")).ok()?;
    let chain = pem::certificates(&text).unwrap();
    let identity = AgentIdentity::from_leaf(&chain[0], authority.trust_domain()).unwrap();
    Some(identity.serial.to_string())
}

/// Keeps some runs under way until `until`; how many succeeded, which is all of them.
fn load(world: &World, until: Instant, mut meanwhile: impl FnMut()) -> usize {
    let api = world.api();
    let (mut under_way, mut succeeded) = (VecDeque::new(), 0);
    while Instant::now() < until || !under_way.is_empty() {
        if Instant::now() < until {
            under_way.push_back(api.trigger("chain", &json!({})));
        }
        if under_way.len() >= AT_ONCE || Instant::now() >= until {
            let run = under_way.pop_front().unwrap();
            let _ = api.succeeded(&run);
            succeeded += 1;
        }
        meanwhile();
    }
    succeeded
}

const CHAIN: &str = "name: chain\ntasks:\n  a: {entry: quick}\n  b: {entry: slow, needs: [a]}\n  \
    c: {entry: quick, needs: [a]}\n  d: {entry: quick, needs: [b, c]}\n";

fn entries() -> [Entry; 2] {
    [
        Entry::script("quick", "exit 0"),
        Entry::script("slow", "sleep 0.3"),
    ]
}

/// The mark counts when it is there, the agent's record otherwise.
const HIGHEST: &str = "SELECT max(coalesce((SELECT record ->> '$.event_seq' FROM agent_mark WHERE agent = ?1), 0), \
    (SELECT record ->> '$.event_seq' FROM agent WHERE agent = ?1))";

/// What the ledger says was sent: by connection, each frame's bytes in order.
fn sent(agent: &Agent) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let shown = agent.command(&["ledger", "show", "--output", "json"]).ok();
    let mut sent: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for line in shown.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["kind"] == "frame" {
            let bytes = unhex(record["hex"].as_str().unwrap());
            let conn = record["connection"].as_u64().unwrap();
            sent.entry(conn).or_default().push(bytes);
        }
    }
    sent
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Every number of an event that was ever said.
fn event_numbers(sent: &BTreeMap<u64, Vec<Vec<u8>>>) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    for frame in sent.values().flatten() {
        for message in decode_up(frame).unwrap() {
            match message {
                UpMessage::Event(event) => drop(numbers.insert(event.event_seq.0)),
                UpMessage::Inventory(page) => {
                    numbers.extend(page.items.iter().map(|item| item.event_seq.0));
                }
                UpMessage::Trigger { event_seq, .. } => drop(numbers.insert(event_seq.0)),
                UpMessage::Hello(_)
                | UpMessage::Catalogue(_)
                | UpMessage::Heartbeat(_)
                | UpMessage::Ack(_) => {}
            }
        }
    }
    numbers.remove(&0);
    numbers
}

/// The highest event that the orchestrator has applied, from its database.
fn applied(world: &World, agent: &str) -> u64 {
    let path = world.orchestrator.dir().join("outpost.db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(highest_event(&path, agent))
}

async fn highest_event(path: &Path, agent: &str) -> u64 {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .read_only(true);
    let mut db = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    let row: (i64,) = sqlx::query_as(HIGHEST)
        .bind(agent)
        .fetch_one(&mut db)
        .await
        .unwrap();
    u64::try_from(row.0).unwrap()
}

#[test]
fn certificates_renew_under_load_and_nobody_notices() {
    let ttl = ttl();
    let world = World::serving(&["--agent-cert-ttl", &ttl, "--server-cert-ttl", &ttl]);
    let api = world.api();
    let watcher = Watcher::start(&world);
    let agents = ["site-1", "site-2"].map(|name| world.agent(name, &entries()));
    let _ = api.apply(CHAIN).ok();
    let began = Instant::now();
    let lasts = Duration::from_secs(seconds("OUTPOST_RENEWAL_S", 75));
    let mut serials = [BTreeSet::new(), BTreeSet::new()];
    let succeeded = load(&world, began + lasts, || {
        for (agent, serials) in agents.iter().zip(&mut serials) {
            serials.extend(serial(&world, agent));
        }
    });
    assert!(succeeded > 20, "{succeeded} runs in {lasts:?}");

    let life = outpost_proto::units::duration_ms(&ttl).unwrap();
    let least = (lasts.as_millis() / u128::from(life) * 2).max(1);
    for serials in &serials {
        assert!(
            serials.len() as u128 > least,
            "renewed {} times, expected at least {least}",
            serials.len() - 1
        );
    }
    let starts = world.starts();
    let attempts: BTreeSet<_> = starts.iter().map(|(attempt, _)| attempt).collect();
    assert_eq!(attempts.len(), starts.len(), "nothing starts twice");
    assert_eq!(starts.len(), succeeded * 4, "every task once");

    for agent in &agents {
        eventually("everything is acknowledged", || {
            so(agent.status()?["view"]["unacknowledged"] == 0)
        });
        let _ = agent.command(&["ledger", "verify"]).ok();
        let sent = sent(agent);
        assert!(sent.len() as u128 > least, "a stream for each certificate");
        let numbers = event_numbers(&sent);
        let highest = numbers.iter().next_back().copied().unwrap();
        assert_eq!(numbers.len() as u64, highest, "no number was left out");
        assert_eq!(applied(&world, &agent.name), highest, "and none was lost");
    }
    for (agent, presence) in watcher.presences() {
        assert_ne!(presence, "stale", "{agent} was taken to be away");
    }
    let log = std::fs::read_to_string(world.orchestrator.log()).unwrap();
    for nonsense in [
        "no honest agent does",
        "certificate has expired",
        "was not renewed",
    ] {
        assert!(!log.contains(nonsense), "{nonsense}");
    }
}

#[test]
fn a_link_killed_at_any_moment_keeps_a_certificate_that_works() {
    let world = World::serving(&["--agent-cert-ttl", "20s"]);
    let api = world.api();
    let agent = world.agent("site-1", &entries());
    let _ = api.apply(CHAIN).ok();
    for kill in 0..4 {
        // Right after the certificate took its place, and once more when nothing is known of the moment.
        let before = serial(&world, &agent);
        eventually("a renewal", || {
            serial(&world, &agent).filter(|serial| Some(serial) != before.as_ref())
        });
        agent.link().kill();
        agent.live(&api);
        if kill % 2 == 1 {
            agent.link().kill();
        }
        let _ = api.succeeded(&api.trigger("chain", &json!({})));
    }
    let starts = world.starts();
    let attempts: BTreeSet<_> = starts.iter().map(|(attempt, _)| attempt).collect();
    assert_eq!(attempts.len(), starts.len(), "nothing starts twice");
    let _ = agent.command(&["ledger", "verify"]).ok();
}

#[test]
fn the_servers_certificate_is_replaced_while_agents_stay_connected() {
    let world = World::new();
    let api = world.api();
    let agent = world.agent("site-1", &entries());
    let epoch = || {
        agent
            .status()
            .map(|status| status["view"]["session_since_us"].clone())
    };
    let before = epoch().unwrap();
    world
        .orchestrator
        .process()
        .signal(rustix::process::Signal::HUP);
    eventually("the server's certificate is replaced", || {
        let log = std::fs::read_to_string(world.orchestrator.log()).ok()?;
        so(log.contains("the server's certificate was replaced"))
    });
    let _ = api.apply(CHAIN).ok();
    let _ = api.succeeded(&api.trigger("chain", &json!({})));
    assert_eq!(epoch(), Some(before), "the stream is the same one");
    // And one that is made now is made with the new certificate.
    agent.link().kill();
    agent.live(&api);
    let _ = api.succeeded(&api.trigger("chain", &json!({})));
}
