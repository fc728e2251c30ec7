//! Wire = ledger, with real packet captures of real agents: every byte that was sent is accounted for, and what a modified
//! link would add is told by its name.

mod plants;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use outpost_certs::ca::Authority;
use outpost_certs::tls::server_config;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, KeyLog, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::of_agent;
use plants::{GROUPS, Group, PLANTS, Plant, frame, planted};

/// A capture that goes on until it is taken.
struct Capture {
    dumpcap: Child,
    file: PathBuf,
}

impl Capture {
    /// Of everything to and from this address.
    fn begin(dir: &Path, address: SocketAddr) -> Self {
        let file = dir.join("capture.pcap");
        let log = dir.join("dumpcap.log");
        let filter = format!("host {} and tcp port {}", address.ip(), address.port());
        let dumpcap = Command::new("dumpcap")
            .args(["-P", "-i", "lo", "-f", &filter, "-w"])
            .arg(&file)
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .expect("dumpcap is installed, with tshark");
        eventually("the capture has begun", || {
            so(std::fs::read_to_string(&log).ok()?.contains("File: "))
        });
        Self { dumpcap, file }
    }

    /// Ends it once everything that was sent is in the file: what comes is written twice a second.
    fn take(mut self) -> PathBuf {
        let mut before = 0;
        eventually("the capture is written", || {
            std::thread::sleep(Duration::from_millis(1500));
            let now = self.file.metadata().ok()?.len();
            so(std::mem::replace(&mut before, now) == now)
        });
        let pid = Pid::from_raw(i32::try_from(self.dumpcap.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        self.dumpcap.wait().unwrap();
        self.file.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.dumpcap.kill();
        let _ = self.dumpcap.wait();
    }
}

fn verify(agent: &Agent, capture: &Path, keylog: &Path, more: &[&str], code: i32) -> Value {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (capture, keylog) = (text(capture), text(keylog));
    let args: [&str; 8] = [
        "ledger",
        "verify",
        "--output",
        "json",
        "--capture",
        &capture,
        "--keylog",
        &keylog,
    ];
    let done = agent.command(&[&args[..], more].concat());
    assert_eq!(done.code, Some(code), "{done:#?}");
    serde_json::from_str(&done.out).unwrap()
}

fn findings(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| finding["what"].as_str().unwrap().to_owned())
        .collect()
}

/// Runs a workflow of two tasks a few times.
fn work(world: &World) {
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  a: {entry: quick}\n  b: {entry: quick, needs: [a]}\n")
        .ok();
    for _ in 0..3 {
        let run = api.trigger("one", &json!({}));
        let _ = api.succeeded(&run);
    }
}

/// With a catalogue that is more than one frame of HTTP/2 takes.
fn audited(world: &World) -> (Agent, PathBuf, PathBuf) {
    audited_with(world, 400, |_| work(world))
}

/// An agent in audit mode from its enrolment until the orchestrator knows of all that was done meanwhile, the capture of
/// all of it, and its keys.
pub(crate) fn audited_while(
    world: &World,
    is_done: impl FnOnce(&Agent),
) -> (Agent, PathBuf, PathBuf) {
    audited_with(world, 0, is_done)
}

/// The same with so many more entries in its catalogue.
fn audited_with(
    world: &World,
    more: usize,
    is_done: impl FnOnce(&Agent),
) -> (Agent, PathBuf, PathBuf) {
    let names: Vec<String> = (0..more).map(|n| format!("another-entry-{n}")).collect();
    let others = names.iter().map(|name| Entry::script(name, "true"));
    let entries: Vec<Entry> = others.chain([Entry::script("quick", "echo $$")]).collect();
    let capture = Capture::begin(world.dir(), world.orchestrator.agents_port());
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.stranger("site-1", &entries);
    let keylog = world.dir().join("keys.log");
    agent.env.push((
        "OUTPOST_AGENT_AUDIT_KEYLOG".to_owned(),
        keylog.to_string_lossy().into_owned(),
    ));
    let enrolled = agent.command(&["enrol", "--token-file", &token.to_string_lossy()]);
    assert!(enrolled.err.contains("AUDIT MODE"), "{enrolled:#?}");
    let _ = enrolled.ok();
    agent.start();
    agent.live(&api);
    assert_eq!(
        agent.status().unwrap()["audit_keylog"],
        json!(keylog.to_string_lossy())
    );
    is_done(&agent);
    eventually("everything is acknowledged", || {
        so(agent.status()?["view"]["unacknowledged"] == 0)
    });
    assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));
    (agent, capture.take(), keylog)
}

#[test]
#[ignore = "needs: root, tshark"]
fn every_byte_of_a_real_capture_is_accounted_for() {
    let world = World::new();
    let (agent, capture, keylog) = audited(&world);
    let report = verify(&agent, &capture, &keylog, &[], 0);
    assert_eq!(report["verdict"], "accounted", "{report:#}");
    assert_eq!(report["sum_bytes"], report["captured_bytes"]);
    assert_eq!(report["identity_calls"], json!([1, 1]));
    let streams = report["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 1);
    assert_eq!(streams[0]["sent"], streams[0]["matched"]);
    let shown = agent.command(&["ledger", "show", "--output", "json"]).ok();
    let frames = shown
        .lines()
        .filter(|line| line.contains(r#""kind":"frame""#))
        .count();
    assert_eq!(
        streams[0]["sent"],
        json!(frames),
        "the whole ledger was on the wire"
    );

    // A part of the capture proves what it has, and says what it lacks.
    let part = world.dir().join("part.pcap");
    let half = frames / 2;
    without(
        &capture,
        &part,
        world.orchestrator.agents_port().port(),
        half,
    );
    let report = verify(&agent, &part, &keylog, &[], 5);
    assert_eq!(report["verdict"], "incomplete", "{report:#}");
    assert_eq!(findings(&report), [""; 0]);

    // Without the keys nothing is taken on trust.
    let none = world.dir().join("none.log");
    std::fs::write(&none, "").unwrap();
    let report = verify(&agent, &capture, &none, &[], 1);
    assert!(
        findings(&report).iter().any(|what| what.contains("no key")),
        "{report:#}"
    );
}

/// Copies a capture without one packet that carries something of the agent's, the last but `behind` of them, and without
/// what says the same once more: a kernel that waits long for a word of the other side sends again.
fn without(from: &Path, to: &Path, port: u16, behind: usize) {
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    /// Ethernet, IP and TCP with time stamps.
    const HEADERS: usize = 14 + 20 + 32;
    const FROM_PORT: usize = 14 + 20;
    const TO_PORT: usize = FROM_PORT + 2;
    const NUMBER: usize = TO_PORT + 2;
    let bytes = std::fs::read(from).unwrap();
    let (mut packets, mut at) = (Vec::new(), FILE_HEADER);
    while at < bytes.len() {
        let length: [u8; 4] = bytes[at + 8..at + 12].try_into().unwrap();
        let end = at + PACKET_HEADER + u32::from_le_bytes(length) as usize;
        packets.push(&bytes[at..end]);
        at = end;
    }
    let is_said = |packet: &&[u8]| {
        let packet = &packet[PACKET_HEADER..];
        packet.len() > HEADERS && packet[TO_PORT..TO_PORT + 2] == port.to_be_bytes()
    };
    // From which port, at which place of that connection, and how much.
    let place = |packet: &&[u8]| {
        let packet = &packet[PACKET_HEADER..];
        let number: [u8; 4] = packet[NUMBER..NUMBER + 4].try_into().unwrap();
        let port = [packet[FROM_PORT], packet[FROM_PORT + 1]];
        (port, u32::from_be_bytes(number), packet.len() - HEADERS)
    };
    let said = packets.iter().filter(|packet| is_said(packet));
    let said = said.map(place).collect::<Vec<_>>();
    let (port, number, length) = said[said.len() - 1 - behind];
    let says_the_same = |packet: &&[u8]| {
        let (from, at, much) = place(packet);
        let apart = i64::from(at.wrapping_sub(number).cast_signed());
        from == port && apart < length as i64 && apart + much as i64 > 0
    };
    let mut kept = bytes[..FILE_HEADER].to_vec();
    for packet in &packets {
        if !(is_said(packet) && says_the_same(packet)) {
            kept.extend_from_slice(packet);
        }
    }
    assert!(kept.len() < bytes.len());
    std::fs::write(to, kept).unwrap();
}

/// The agent's link and what is behind it are, together, a modified link: it holds the agent's key, says everything that
/// link says, and adds something on every connection. What goes out is captured.
#[test]
#[ignore = "needs: root, tshark"]
fn what_a_modified_link_adds_is_told_by_its_name() {
    let world = World::new();
    let to = world.orchestrator.agents_port();
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[Entry::script("quick", "echo $$")]);
    let capture = Capture::begin(world.dir(), to);
    let keylog = world.dir().join("keys.log");
    let authority = Authority::load(&world.orchestrator.dir().join("ca")).unwrap();
    let names = [to.ip().to_string()];
    let server = authority.issue_server(&names, SystemTime::now(), Duration::from_secs(3600));
    let server = server_config(&server.unwrap(), &[authority.agents_anchor().clone()]).unwrap();
    let keys = std::fs::File::create(&keylog).unwrap();
    let outward = Outward {
        root: authority.root().clone(),
        of_agent: agent.state.clone(),
        keys: Arc::new(Keys(Mutex::new(keys))),
    };
    let left = Arc::new(Mutex::new(GROUPS.to_vec()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind((to.ip(), 0))).unwrap();
    let proxy = listener.local_addr().unwrap();
    runtime.spawn(modified(
        listener,
        server,
        Arc::new(outward),
        to,
        Arc::clone(&left),
    ));

    agent.dials(&proxy.to_string());
    agent.start();
    eventually("everything was planted", || {
        so(left.lock().unwrap().is_empty())
    });
    agent.live(&api);
    agent.kill_runner();
    let orchestrator = to.to_string();
    let more = ["--orchestrator", orchestrator.as_str()];
    let report = verify(&agent, &capture.take(), &keylog, &more, 1);
    let found = findings(&report);
    for (plant, what) in PLANTS {
        assert!(
            found.iter().any(|found| found == what),
            "{plant:?} is not told: {report:#}"
        );
    }
    // Each is told once, with its place, and nothing else is told.
    assert_eq!(found.len(), PLANTS.len(), "{report:#}");
    let findings = report["findings"].as_array().unwrap().iter();
    assert!(
        findings
            .clone()
            .all(|finding| finding["at"]["packet"].as_u64() > Some(3))
    );
}

/// How the modified link speaks TLS: as link does, but for what it plants.
struct Outward {
    root: CertificateDer<'static>,
    of_agent: PathBuf,
    keys: Arc<Keys>,
}

impl Outward {
    fn config(&self, plants: Group) -> ClientConfig {
        let mut provider = default_provider();
        provider.kx_groups = vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ];
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let (mut chain, key) = of_agent(&self.of_agent);
        if plants.contains(&Plant::Certificate) {
            let says = rcgen::generate_simple_self_signed(vec!["leak".to_owned()]).unwrap();
            chain.push(says.cert.der().clone());
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        if plants.contains(&Plant::Protocol) {
            config.alpn_protocols.push(b"leak".to_vec());
        }
        config.resumption = Resumption::disabled();
        config.key_log = Arc::clone(&self.keys) as Arc<dyn KeyLog>;
        config
    }
}

struct Keys(Mutex<std::fs::File>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl KeyLog for Keys {
    fn log(&self, label: &str, random: &[u8], secret: &[u8]) {
        use std::io::Write as _;
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let line = format!("{label} {} {}\n", hex(random), hex(secret));
        self.0.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

async fn modified(
    listener: TcpListener,
    server: Arc<ServerConfig>,
    outward: Arc<Outward>,
    to: SocketAddr,
    left: Arc<Mutex<Vec<Group>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (server, outward, left) = (server.clone(), outward.clone(), left.clone());
        tokio::spawn(async move {
            let agent = TlsAcceptor::from(server).accept(stream).await.ok()?;
            let stream = TcpStream::connect(to).await.ok()?;
            let name = ServerName::from(to.ip());
            let plants = left.lock().ok()?.first().copied().unwrap_or_default();
            let connector = TlsConnector::from(Arc::new(outward.config(plants)));
            let mut orchestrator = connector.connect(name, stream).await.ok()?;
            if plants.contains(&Plant::Keys) {
                orchestrator.get_mut().1.refresh_traffic_keys().ok()?;
            }
            let (from_agent, mut to_agent) = split(agent);
            let (mut from_orchestrator, to_orchestrator) = split(orchestrator);
            let back =
                tokio::spawn(async move { copy(&mut from_orchestrator, &mut to_agent).await });
            let back = back.abort_handle();
            add(from_agent, (to_orchestrator, &back), plants, &left).await;
            back.abort();
            Some(())
        });
    }
}

/// Passes HTTP/2 frames on and adds one thing; after it, the connection is ended so that the next one comes. What the
/// orchestrator makes of it does not come `back`: whoever is refused tries again much later.
async fn add(
    mut from: impl AsyncRead + Unpin,
    (mut to, back): (impl AsyncWrite + Unpin, &tokio::task::AbortHandle),
    plants: Group,
    left: &Mutex<Vec<Group>>,
) -> Option<()> {
    const PREFACE: usize = 24;
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await.ok()?;
    to.write_all(&preface).await.ok()?;
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await.ok()?;
        let is_planted = |plant| plants.contains(&plant);
        let added = match head[3] {
            HEADERS if is_planted(Plant::Header) => {
                payload.extend_from_slice(b"\x00\x07x-extra\x04leak");
                Some(frame(HEADERS, head[4], 1, &payload))
            }
            HEADERS if is_planted(Plant::Packing) => {
                // The table's size, as it is anyway.
                let packed = [b"\x3f\xe1\x1f", payload.as_slice()].concat();
                Some(frame(HEADERS, head[4], 1, &packed))
            }
            DATA if is_planted(Plant::Padding) => {
                let padded = [&[7], payload.as_slice(), b"leaking"].concat();
                Some(frame(DATA, head[4] | 8, 1, &padded))
            }
            DATA if !plants.is_empty() => {
                let frames = plants.iter().map(|plant| planted(*plant));
                let frames = frames.collect::<Vec<_>>().concat();
                let reserved = u32::from(is_planted(Plant::Reserved)) << 31;
                let pieces = if is_planted(Plant::Cuts) {
                    1
                } else {
                    payload.len()
                };
                let pieces = payload.chunks(pieces.max(1));
                let data = pieces.map(|piece| frame(DATA, head[4], 1 | reserved, piece));
                Some([data.collect::<Vec<_>>().concat(), frames].concat())
            }
            _ => None,
        };
        match added {
            Some(bytes) => {
                back.abort();
                to.write_all(&bytes).await.ok()?;
                to.flush().await.ok()?;
                left.lock().ok()?.retain(|other| *other != plants);
                to.shutdown().await.ok()?;
                return Some(());
            }
            None => {
                to.write_all(&[&head[..], &payload].concat()).await.ok()?;
                to.flush().await.ok()?;
            }
        }
    }
}
