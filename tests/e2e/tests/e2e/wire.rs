//! A claim made to sites is a test: what is on the wire is what is in the ledger, byte for byte.
//!
//! A proxy with a certificate of the orchestrator's own authority stands between; it has the agent's key as well, so
//! that it reads what neither side means for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use outpost_certs::ca::Authority;
use outpost_certs::tls::server_config;
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::{client, of_agent};

/// What the agent said, one byte string for each connection.
type Said = Arc<Mutex<Vec<Vec<u8>>>>;

#[test]
fn every_byte_of_every_message_on_the_wire_is_in_the_ledger_before_and_nothing_else() {
    let world = World::new();
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[Entry::script("quick", "echo $$")]);
    let authority = Authority::load(&world.orchestrator.dir().join("ca")).unwrap();
    let names = ["127.0.0.1".to_owned()];
    let server = authority.issue_server(&names, SystemTime::now(), Duration::from_secs(3600));
    let server = server_config(&server.unwrap(), &[authority.agents_anchor().clone()]).unwrap();
    let outward = client(authority.root(), Some(of_agent(&agent.state)), &TLS13);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let said = Said::default();
    let to = world.orchestrator.agents_port();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let proxy = listener.local_addr().unwrap();
    runtime.spawn(between(
        listener,
        server,
        Arc::new(outward),
        to,
        Arc::clone(&said),
    ));

    agent.dials(&proxy.to_string());
    agent.start();
    agent.live(&api);
    let _ = api
        .apply("name: one\ntasks:\n  a: {entry: quick}\n  b: {entry: quick, needs: [a]}\n")
        .ok();
    for _ in 0..3 {
        let run = api.trigger("one", &json!({}));
        let _ = api.succeeded(&run);
    }
    eventually("everything is acknowledged", || {
        so(agent.status()?["view"]["unacknowledged"] == 0)
    });
    assert_eq!(agent.terminate_within(Duration::from_secs(20)), Some(0));

    let shown = agent.command(&["ledger", "show", "--output", "json"]).ok();
    let recorded = shown
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| record["kind"] == "frame")
        .map(|record| record["hex"].as_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    let ends = 3 * 2;
    assert!(recorded.len() > ends, "{recorded:?}");
    eventually("the wire has what the ledger has", || {
        let wire = said
            .lock()
            .unwrap()
            .iter()
            .flat_map(|bytes| messages(bytes))
            .collect::<Vec<_>>();
        assert!(
            recorded.starts_with(&wire),
            "the ledger:\n{recorded:#?}\nthe wire:\n{wire:#?}"
        );
        so(wire.len() == recorded.len())
    });
}

async fn between(
    listener: TcpListener,
    server: Arc<ServerConfig>,
    outward: Arc<ClientConfig>,
    to: SocketAddr,
    said: Said,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (server, outward, said) = (server.clone(), outward.clone(), said.clone());
        tokio::spawn(async move {
            let agent = TlsAcceptor::from(server).accept(stream).await.ok()?;
            let stream = TcpStream::connect(to).await.ok()?;
            let name = ServerName::from(to.ip());
            let orchestrator = TlsConnector::from(outward)
                .connect(name, stream)
                .await
                .ok()?;
            let (from_agent, to_agent) = split(agent);
            let (mut from_orchestrator, to_orchestrator) = split(orchestrator);
            let mut to_agent = to_agent;
            tokio::spawn(async move { copy(&mut from_orchestrator, &mut to_agent).await });
            record(from_agent, to_orchestrator, said).await
        });
    }
}

async fn record(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    said: Said,
) -> Option<()> {
    let number = {
        let mut said = said.lock().ok()?;
        said.push(Vec::new());
        said.len() - 1
    };
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        said.lock().ok()?[number].extend_from_slice(&buffer[..read]);
        to.write_all(&buffer[..read]).await.ok()?;
        to.flush().await.ok()?;
    }
}

/// The gRPC messages, in hex, in what a client said over HTTP/2 (RFC 9113, section 4.1) on its one stream.
fn messages(said: &[u8]) -> Vec<String> {
    const PREFACE: usize = 24;
    const DATA: u8 = 0;
    const PADDED: u8 = 8;
    let mut rest = said.get(PREFACE..).unwrap_or_default();
    let mut data = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, after)) = after.split_at_checked(length) else {
            break;
        };
        if head[3] == DATA {
            assert_eq!(
                head[4] & PADDED,
                0,
                "padding says something that is not in the ledger"
            );
            assert_eq!(head[8], 1, "there is one stream");
            data.extend_from_slice(payload);
        }
        rest = after;
    }
    let mut found = Vec::new();
    let mut rest = data.as_slice();
    while let Some((head, after)) = rest.split_at_checked(5) {
        assert_eq!(head[0], 0, "nothing is compressed");
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some((message, after)) = after.split_at_checked(length) else {
            break;
        };
        found.push(message.iter().map(|byte| format!("{byte:02x}")).collect());
        rest = after;
    }
    found
}
