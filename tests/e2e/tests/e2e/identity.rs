//! Who may speak on the agents' port, and who may enrol.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outpost_certs::ca::Authority;
use outpost_certs::pem;
use outpost_certs::token::JoinToken;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, World, eventually, site};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::kills::gate;

pub(crate) type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What became of a connection and a call of `Connect`.
#[derive(Debug, PartialEq)]
enum Seen {
    /// It ended before there was an answer.
    Ended,
    /// The call was refused with this gRPC status.
    Status(String),
    /// The stream was accepted.
    Accepted,
}

pub(crate) fn client(
    root: &CertificateDer<'static>,
    credentials: Option<Credentials>,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// The identity that an agent holds in its state directory.
pub(crate) fn of_agent(state: &Path) -> Credentials {
    let read = |name: &str| std::fs::read(state.join("keys").join(name)).unwrap();
    let chain = pem::certificates(&read("agent.crt")).unwrap();
    (chain, pem::private_key(&read("agent.key")).unwrap())
}

fn issued(authority: &Authority, now: SystemTime) -> Credentials {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let (tenant, agent) = ("default".parse().unwrap(), "site-1".parse().unwrap());
    let day = Duration::from_secs(86_400);
    let issued = authority
        .issue_agent(&tenant, &agent, csr.der(), now, day)
        .unwrap();
    let chain = issued.chain.into_iter().map(CertificateDer::from).collect();
    (chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
}

fn call(address: SocketAddr, config: ClientConfig) -> Seen {
    // One thread: with more, a request that is queued in the moment in which the connection's task ends is now and then
    // neither sent nor refused as long as its sender lives (hyper 1.12's queue over tokio's unbounded channel).
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let patience = Duration::from_secs(20);
    let call = async { tokio::time::timeout(patience, try_call(address, config)).await };
    let answer = runtime.block_on(call).expect("there is no answer");
    answer.unwrap_or(Seen::Ended)
}

async fn try_call(address: SocketAddr, config: ClientConfig) -> Option<Seen> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls));
    let (mut sender, connection) = shaken.await.ok()?;
    tokio::spawn(connection);
    let request = http::Request::post(format!("https://{address}/outpost.link.v1.Link/Connect"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.ok()?;
    Some(match response.headers().get("grpc-status") {
        Some(status) => Seen::Status(status.to_str().unwrap().to_owned()),
        None => Seen::Accepted,
    })
}

#[test]
fn i1_i2_i7_only_a_valid_certificate_of_the_own_authority_gets_a_stream() {
    let world = World::new();
    let mut agent = world.agent("site-1", &[gate(0)]);
    agent.kill_runner();
    let ours = Authority::load(&world.orchestrator.dir().join("ca")).unwrap();
    let theirs = Authority::create(ours.trust_domain(), SystemTime::now()).unwrap();
    let port = world.orchestrator.agents_port();
    let now = SystemTime::now();
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let try_with = |credentials, version| call(port, client(ours.root(), credentials, version));

    assert_eq!(
        try_with(Some(of_agent(&agent.state)), &TLS13),
        Seen::Accepted,
        "the control"
    );
    assert_eq!(
        try_with(Some(issued(&ours, now)), &TLS13),
        Seen::Accepted,
        "the other control"
    );
    assert_eq!(
        try_with(None, &TLS13),
        Seen::Status("16".to_owned()),
        "no certificate"
    );
    assert_eq!(
        try_with(Some(issued(&theirs, now)), &TLS13),
        Seen::Ended,
        "I2: wrong CA"
    );
    assert_eq!(
        try_with(Some(issued(&ours, now - days(3))), &TLS13),
        Seen::Ended,
        "I1: expired"
    );
    assert_eq!(
        try_with(Some(issued(&ours, now + days(3))), &TLS13),
        Seen::Ended,
        "I1: too early"
    );
    assert_eq!(
        try_with(Some(of_agent(&agent.state)), &TLS12),
        Seen::Ended,
        "I7: TLS 1.2"
    );

    agent.start();
    agent.live(&world.api());
}

fn enrol(agent: &Agent, token: &Path) -> outpost_e2e::process::Done {
    agent.command(&["enrol", "--token-file", &token.to_string_lossy()])
}

#[test]
fn i10_a_join_token_is_good_once_and_for_its_time_only() {
    let world = World::new();
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let first = world.enrolled("site-1", &token, &[gate(0)]);
    let thief = world.stranger("thief", &[gate(0)]);
    let error = enrol(&thief, &token).fails_with(1);
    assert!(error.contains("refused"), "{error}");
    assert!(!thief.state.join("identity.json").exists());

    let authority = Authority::load(&world.orchestrator.dir().join("ca")).unwrap();
    let port = world.orchestrator.agents_port().to_string();
    let (tenant, name) = ("default".parse().unwrap(), "site-2".parse().unwrap());
    let forged = JoinToken::new(
        &port,
        tenant,
        name,
        authority.trust_domain(),
        authority.root_pin(),
    );
    let file = world.dir().join("forged.token");
    std::fs::write(&file, forged.unwrap().expose().as_bytes()).unwrap();
    site::mode(&file, 0o600);
    let error = enrol(&thief, &file).fails_with(1);
    assert!(error.contains("refused"), "{error}");

    let body = serde_json::json!({ "agent": "site-3", "ttl_s": 1 });
    let invite = api.post("/api/v1/agents/invites", &body).ok();
    let until = Duration::from_secs(2);
    let made = std::time::Instant::now();
    eventually("its second is over", || so(made.elapsed() > until));
    std::fs::write(&file, outpost_e2e::api::text(&invite["token"])).unwrap();
    let error = enrol(&thief, &file).fails_with(1);
    assert!(error.contains("refused"), "{error}");
    assert!(
        api.agent("site-2")
            .is_none_or(|agent| agent["presence"] != "live")
    );

    let error = enrol(&first, &token).fails_with(1);
    assert!(error.contains("--force"), "I17: {error}");
}
