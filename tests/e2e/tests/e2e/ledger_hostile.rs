//! A hostile orchestrator, a disk that does not take receipts, and evidence that somebody else wrote: what was signed for
//! stays shown, the agent goes on, and whoever checks the evidence holds only so much of it.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outpost_certs::ca::Authority;
use outpost_certs::issue::ServerIdentity;
use outpost_certs::receipt::{Holder, Signer};
use outpost_certs::tls::server_config;
use outpost_e2e::binaries::Binary;
use outpost_e2e::process::{Done, command, run};
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use outpost_proto::ids::{CommandSeq, EventSeq, Nonce, RecoveryEpoch, SessionEpoch};
use outpost_proto::message::{Directive, DownMessage, Receipt, Welcome};
use outpost_proto::wire::encode_down;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::preload::{FAILING_RECEIPTS, compiled};

/// A record, or a file, is not as it was written.
const DAMAGED: i32 = 3;
/// A receipt does not hold.
const NOT_SIGNED_FOR: i32 = 4;
/// Nothing is known to be wrong, and not all of it is shown.
const UNPROVEN: i32 = 5;
/// It could not be checked.
const UNCHECKED: i32 = 1;
/// The number of the one session.
const EPOCH: SessionEpoch = SessionEpoch(1);

/// The stream that stands: what is put in here is said on it.
type Stream = Arc<Mutex<Option<mpsc::UnboundedSender<Bytes>>>>;

/// An orchestrator with a certificate of the agent's own authority, which welcomes, and says what a test has it say.
struct Hostile {
    _runtime: tokio::runtime::Runtime,
    address: String,
    signer: Signer,
    stream: Stream,
}

impl Hostile {
    fn of(world: &World) -> Self {
        let authority = Authority::load(&world.orchestrator.dir().join("ca")).unwrap();
        let names = ["127.0.0.1".to_owned()];
        let long = Duration::from_secs(3600);
        let server: ServerIdentity = authority
            .issue_server(&names, SystemTime::now(), long)
            .unwrap();
        let config = server_config(&server, &[authority.agents_anchor().clone()]).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stream = Stream::default();
        runtime.spawn(listen(listener, TlsAcceptor::from(config), stream.clone()));
        Self {
            _runtime: runtime,
            address,
            signer: Signer::new(&server).unwrap(),
            stream,
        }
    }

    fn says(&self, receipt: Receipt) {
        let directive = DownMessage::Directive {
            command_seq: CommandSeq(1),
            directive: Directive::Receipt(receipt),
        };
        let frame = grpc(&encode_down(&[directive]).unwrap());
        let stream = self.stream.lock().unwrap();
        stream
            .as_ref()
            .expect("a stream stands")
            .send(frame)
            .unwrap();
    }

    fn receipt(
        &self,
        agent: &str,
        epoch: SessionEpoch,
        frame_count: u64,
        head: [u8; 32],
    ) -> Receipt {
        let tenant = "default";
        let holder = Holder { tenant, agent };
        let named = self.signer.sign_for(holder, epoch, frame_count, &head);
        Receipt {
            session_epoch: epoch,
            frame_count,
            head,
            signature: self.signer.sign(epoch, frame_count, &head).unwrap(),
            named_signature: named.unwrap(),
            linked: None,
        }
    }
}

/// One message of a gRPC stream: not compressed, and so long.
fn grpc(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    Bytes::from([&[0][..], &length, message].concat())
}

async fn listen(listener: TcpListener, tls: TlsAcceptor, stream: Stream) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, stream) = (tls.clone(), stream.clone());
        tokio::spawn(async move {
            let tls = tls.accept(tcp).await.ok()?;
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let stream = stream.clone();
                async move { Ok::<_, Infallible>(answer(request, &stream)) }
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.serve_connection(TokioIo::new(tls), service).await.ok()
        });
    }
}

/// What is said on a stream, until the test is over.
struct Said(mpsc::UnboundedReceiver<Bytes>);

impl hyper::body::Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(cx);
        next.map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Welcomes whoever says anything, and reads on.
fn answer(request: hyper::Request<Incoming>, stream: &Stream) -> hyper::Response<Said> {
    let (say, said) = mpsc::unbounded_channel();
    let mut body = request.into_body();
    let stream = stream.clone();
    tokio::spawn(async move {
        let welcome = DownMessage::Welcome(Welcome {
            protocol: 1,
            session_epoch: EPOCH,
            recovery: RecoveryEpoch {
                counter: 1,
                database: 2,
            },
            next_nonce: Nonce(3),
            highest_event_seq: EventSeq(0),
            heartbeat_interval_ms: 1_000,
            lease_ms: 40_000,
            server_time_us: 1,
        });
        let _hello = body.frame().await;
        // Whoever sees what the agent answers finds the stream.
        *stream.lock().ok()? = Some(say.clone());
        say.send(grpc(&encode_down(&[welcome]).unwrap())).ok()?;
        drop(say);
        while let Some(Ok(_)) = body.frame().await {}
        Some(())
    });
    let response = hyper::Response::builder().header("content-type", "application/grpc");
    response.body(Said(said)).unwrap()
}

fn checked(agent: &Agent) -> (Option<i32>, Value) {
    let done = agent.command(&["ledger", "verify", "--output", "json"]);
    (done.code, serde_json::from_str(&done.out).unwrap())
}

/// The session's frames, and the head that they end with.
fn session(summary: &Value) -> Option<(u64, [u8; 32])> {
    let sessions = summary["sessions"].as_array()?;
    let session = sessions.iter().find(|s| s["session_epoch"] == EPOCH.0)?;
    let hex = session["head"].as_str()?;
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    Some((session["frames"].as_u64()?, std::array::from_fn(byte)))
}

fn signed_frames(summary: &Value) -> u64 {
    summary["signed_frames"].as_u64().unwrap()
}

fn enrolled(world: &World) -> Agent {
    let token = world.token_file(&world.api(), "site-1");
    world.enrolled("site-1", &token, &[Entry::script("quick", "true")])
}

/// An agent that has ended, with a receipt for some of what it said.
fn signed_for(world: &World) -> Agent {
    let mut agent = enrolled(world);
    agent.start();
    eventually("something is signed for", || {
        so(signed_frames(&checked(&agent).1) > 0)
    });
    agent.kill_runner();
    agent
}

#[test]
fn receipts_of_a_hostile_orchestrator_take_no_evidence_away_and_stop_nothing() {
    let world = World::new();
    let mut agent = enrolled(&world);
    let hostile = Hostile::of(&world);
    agent.dials(&hostile.address);
    agent.start();
    let (frames, head) = eventually("the agent has said what it holds", || {
        let (_, summary) = checked(&agent);
        session(&summary).filter(|(frames, _)| *frames >= 2)
    });
    hostile.says(hostile.receipt("site-1", EPOCH, frames, head));
    let good = eventually("it is signed for", || {
        let (_, summary) = checked(&agent);
        (signed_frames(&summary) == frames).then_some(summary)
    });
    assert_eq!(
        good["sessions"][0]["signed_for"], "default/site-1",
        "{good:#}"
    );
    assert_eq!(good["verified"], true);

    // Others' frames, another's name, no signature, more than was sent, what was said before: hundreds of each.
    let mut forged = hostile.receipt("site-1", EPOCH, frames, head);
    forged.named_signature[20] ^= 1;
    for _ in 0..200 {
        hostile.says(hostile.receipt("site-1", EPOCH, frames, [9; 32]));
        hostile.says(hostile.receipt("site-2", EPOCH, frames, head));
        hostile.says(hostile.receipt("site-1", EPOCH, 1_000_000, head));
        hostile.says(hostile.receipt("site-1", SessionEpoch(8), frames, head));
        hostile.says(hostile.receipt("site-1", EPOCH, 1, [8; 32]));
        hostile.says(forged.clone());
    }
    eventually("each is an alarm", || {
        so(agent.status()?["numbers"]["alarms"].as_u64()? >= 5 * 200)
    });
    let (code, after) = checked(&agent);
    assert_eq!(code, Some(NOT_SIGNED_FOR), "{after:#}");
    assert_eq!(signed_frames(&after), frames);
    assert_eq!(after["receipts"]["hold"], 1, "{after:#}");
    let kept = std::fs::metadata(agent.state.join("ledger/receipts.led")).unwrap();
    assert!(kept.len() < 64 * 1024, "{} bytes", kept.len());

    // And in the life that follows, with the orchestrator that the site trusts.
    agent.kill_runner();
    agent.dials(&world.orchestrator.agents_port().to_string());
    agent.start();
    eventually("the honest one signs too", || {
        let (_, summary) = checked(&agent);
        so(signed_frames(&summary) > frames)
    });
}

#[test]
fn d3_receipts_that_cannot_be_synced_are_an_alarm_and_the_agent_works_on() {
    let world = World::new();
    let api = world.api();
    let mut agent = enrolled(&world);
    let receipts = agent.state.join("ledger/receipts.led");
    std::fs::remove_file(&receipts).unwrap();
    let fail = world.dir().join("fail");
    let object = compiled(world.dir(), FAILING_RECEIPTS, "FAIL", &fail);
    std::fs::write(&fail, "").unwrap();
    agent.env = vec![("LD_PRELOAD".to_owned(), object.display().to_string())];
    agent.start();
    agent.live(&api);
    let _ = api.apply("name: one\ntasks:\n  a: {entry: quick}\n").ok();
    let _ = api.succeeded(&api.trigger("one", &json!({})));
    let told = "receipts are not kept for now";
    assert_eq!(
        agent.logged().matches(told).count(),
        1,
        "{}",
        agent.logged()
    );
    assert!(agent.status().unwrap()["numbers"]["alarms"].as_u64() > Some(0));
    assert!(
        !receipts.exists(),
        "nothing that is not on the disk is in its place"
    );
    let (code, summary) = checked(&agent);
    assert_eq!((code, signed_frames(&summary)), (Some(0), 0), "{summary:#}");
    assert!(agent.is_running());

    agent.kill_runner();
    std::fs::remove_file(&fail).unwrap();
    agent.start();
    eventually("receipts are kept", || {
        let (_, summary) = checked(&agent);
        so(signed_frames(&summary) > 0)
    });
}

/// `ledger verify --from`, in so much memory that nothing hostile fits into it.
fn verify_in_little_memory(export: &Path) -> Done {
    const KIB: u64 = 384 * 1024;
    let mut shell = command(Path::new("/bin/sh"));
    let program = Binary::Agent.path();
    shell.arg("-c").arg(format!(
        "ulimit -v {KIB}; exec '{}' ledger verify --from '{}'",
        program.display(),
        export.display()
    ));
    run(shell)
}

fn copied(from: &Path, to: PathBuf) -> PathBuf {
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// Makes a file longer than anybody can hold, with something at its very end; it takes no room.
fn endless(path: &Path, bytes: u64) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(bytes - 1)).unwrap();
    file.write_all(b"x").unwrap();
}

#[test]
fn a_hostile_export_is_named_for_what_it_is_in_constant_memory() {
    let world = World::new();
    let agent = signed_for(&world);
    let export = world.dir().join("export");
    let _ = agent
        .command(&["ledger", "export", &export.to_string_lossy()])
        .ok();
    assert_eq!(verify_in_little_memory(&export).code, Some(0));
    type Deed = fn(&Path);
    let deeds: [(&str, i32, &str, Deed); 8] = [
        ("long", UNCHECKED, "is not read: at most", |dir| {
            endless(&dir.join("000001.led"), 2 << 30);
        }),
        ("line", DAMAGED, "tampered", |dir| {
            endless(&dir.join("000001.led"), 900 << 20);
        }),
        ("receipts", UNCHECKED, "is not read: at most", |dir| {
            endless(&dir.join("receipts.led"), 3 << 30);
        }),
        ("list", UNCHECKED, "is not read: at most", |dir| {
            endless(&dir.join("manifest.json"), 3 << 30);
        }),
        ("lines", DAMAGED, "tampered", |dir| {
            endless(&dir.join("receipts.jsonl"), 8 << 30);
        }),
        ("many", UNCHECKED, "at most 100000 files in it", |dir| {
            for n in 0..=100_000 {
                File::create(dir.join(n.to_string())).unwrap();
            }
        }),
        ("deep", DAMAGED, "unlisted file", |dir| {
            let deep = (0..500).fold(dir.join("d"), |dir, _| dir.join("d"));
            std::fs::create_dir_all(deep).unwrap();
        }),
        ("pipe", UNCHECKED, "no plain file", |dir| {
            let path = dir.join("000001.led");
            std::fs::remove_file(&path).unwrap();
            let (mode, kind) = (rustix::fs::Mode::RUSR, rustix::fs::FileType::Fifo);
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        }),
    ];
    for (name, code, words, deed) in deeds {
        let dir = copied(&export, world.dir().join(name));
        deed(&dir);
        let done = verify_in_little_memory(&dir);
        assert_eq!(done.code, Some(code), "{name}: {done:?}");
        assert!(done.err.contains(words), "{name}: {done:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn d4_a_front_that_was_taken_away_is_never_called_verified() {
    let world = World::new();
    let agent = signed_for(&world);
    // Segment 1 is made to be segment 2, behind one that is said to have been taken away.
    let ledger = agent.state.join("ledger");
    let pruned = json!({ "segment": 1, "head": vec![0; 32], "checksum": 0 });
    std::fs::write(ledger.join("pruned.json"), pruned.to_string()).unwrap();
    let (code, told) = checked(&agent);
    assert_eq!(code, Some(DAMAGED), "{told:#}");
    assert_eq!(told["kind"], "tampered");
    // Where nobody knows whose signature counts, nothing is shown by one.
    std::fs::remove_file(ledger.join("pruned.json")).unwrap();
    std::fs::remove_file(ledger.join("trust.json")).unwrap();
    let (code, told) = checked(&agent);
    assert_eq!(code, Some(UNPROVEN), "{told:#}");
    assert_eq!(told["findings"][0]["kind"], "receipt_unknown");
    assert_eq!(
        (signed_frames(&told), &told["verified"]),
        (0, &json!(false))
    );
}
