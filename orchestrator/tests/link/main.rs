//! The agents' port over real TLS, with the real core and store behind it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use outpost_certs::ca::Authority;
use outpost_certs::tls::{ReloadingServerConfig, server_config};
use outpost_driver::Fatal;
use outpost_orchestrator::driver::{AskError, Driver, Handle};
use outpost_orchestrator::identity::Enroller;
use outpost_orchestrator::link::Listener;
use outpost_orchestrator::store::sqlite::{FILE, Sqlite};
use outpost_orchestrator_core::event::{Answer, Ask};
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::ids::{Incarnation, Nonce};
use outpost_proto::message::{
    Containment, DownMessage, Hello, Level, Reporting, UpMessage, Welcome,
};
use outpost_proto::name::TenantName;
use outpost_proto::wire::{
    EnrolRequest, Issued, RenewRequest, decode_down, encode_up, schema_hash,
};
use sha2::{Digest, Sha256};
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod client;
mod recovery;
use client::{Call, Client, Credentials, Ended};

/// How long the agents' certificates hold.
const LIFE: std::time::Duration = std::time::Duration::from_secs(3600);
const CONNECT: &str = "/outpost.link.v1.Link/Connect";
const ENROL: &str = "/outpost.identity.v1.Identity/Enrol";
const RENEW: &str = "/outpost.identity.v1.Identity/Renew";

const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const ABORTED: i32 = 10;
const UNIMPLEMENTED: i32 = 12;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

struct Fixture {
    dir: TempDir,
    address: SocketAddr,
    authority: Arc<Authority>,
    handle: Handle,
    stop: CancellationToken,
    stop_driver: CancellationToken,
    link: JoinHandle<()>,
    driver: JoinHandle<Result<(), Fatal>>,
}

fn tenant() -> TenantName {
    "default".parse().unwrap()
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Sqlite::create(dir.path(), 7).await.unwrap();
        let store = Sqlite::open(dir.path()).await.unwrap();
        store.access().create_tenant(&tenant(), 1).await.unwrap();
        let start = |now, snapshot| Orchestrator::new(Settings::default(), [7; 32], now, snapshot);
        let (driver, handle) = Driver::new(store, start).await.unwrap();
        let (stop, stop_driver) = (CancellationToken::new(), CancellationToken::new());
        let driver = tokio::spawn(driver.run(stop_driver.clone()));

        let authority = Arc::new(Authority::create("test.internal", SystemTime::now()).unwrap());
        let names = ["localhost".to_owned()];
        let server = authority
            .issue_server(&names, SystemTime::now(), Duration::from_secs(3600))
            .unwrap();
        let tls = server_config(&server, &[authority.agents_anchor().clone()]).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener {
            tcp,
            tls: Arc::new(ReloadingServerConfig::new(tls)),
            trust_domain: "test.internal".into(),
            handle: handle.clone(),
            enroller: Arc::new(Enroller::new(handle.clone(), authority.clone(), LIFE)),
        };
        let link = tokio::spawn(listener.serve(stop.child_token()));
        Self {
            dir,
            address,
            authority,
            handle,
            stop,
            stop_driver,
            link,
            driver,
        }
    }

    async fn client(&self, credentials: Option<&Credentials>) -> Client {
        Client::connect(self.address, self.authority.root(), credentials).await
    }

    async fn invite(&self, agent: &str, secret: [u8; 32]) {
        let token_hash = hex(&Sha256::digest(secret));
        let ask = Ask::Invite {
            agent: agent.parse().unwrap(),
            token_hash,
            ttl_ms: 60_000,
        };
        let answer = self.handle.ask(tenant(), ask).await.unwrap();
        assert!(matches!(answer, Answer::Invited { .. }));
    }

    async fn enrolled(&self, agent: &str) -> Credentials {
        let secret = rand(agent);
        self.invite(agent, secret).await;
        let key = rcgen::KeyPair::generate().unwrap();
        let issued = self.enrol(secret, &key).await.unwrap();
        assert_eq!(
            issued.spiffe_id,
            format!("spiffe://test.internal/tenant/default/agent/{agent}")
        );
        Credentials {
            chain: issued.chain,
            key: key.serialize_der(),
        }
    }

    async fn enrol(&self, secret: [u8; 32], key: &rcgen::KeyPair) -> Result<Issued, Ended> {
        let csr = rcgen::CertificateParams::default()
            .serialize_request(key)
            .unwrap()
            .der()
            .to_vec();
        let request = EnrolRequest { token: secret, csr }.encode().unwrap();
        let reply = self.client(None).await.unary(ENROL, &request).await?;
        Ok(Issued::decode(&reply).unwrap())
    }

    /// Changes the database behind everybody's back.
    async fn sql(&self, sql: &'static str) {
        let path = self.dir.path().join(FILE);
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut connection = sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    fn alarms(&self) -> u64 {
        self.handle.counters().alarms.load(Ordering::Relaxed)
    }
}

fn rand(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hello(protocol: (u8, u8), session_nonce: Nonce) -> Vec<u8> {
    let hello = Hello {
        protocol,
        build: (0, 1, 0),
        schema_hash: schema_hash(),
        incarnation: Incarnation(5),
        last: None,
        session_nonce,
        slots: 4,
        sandbox: Level::Strict,
        containment: Containment::Subreaper,
        limits: Level::Partial,
        reporting: Reporting::Normal,
    };
    encode_up(&[UpMessage::Hello(hello)]).unwrap()
}

async fn welcomed(client: &mut Client, nonce: Nonce) -> (Call, Welcome) {
    let mut call = client.call(CONNECT, &hello((1, 1), nonce)).await;
    let frame = call.next().await.unwrap();
    let first = decode_down(&frame).unwrap().remove(0);
    let DownMessage::Welcome(welcome) = first else {
        panic!("{first:?} instead of Welcome");
    };
    (call, welcome)
}

#[tokio::test]
async fn an_agent_enrols_connects_is_replaced_and_removed() {
    let fixture = Fixture::new().await;
    let credentials = fixture.enrolled("site-1").await;
    let mut client = fixture.client(Some(&credentials)).await;
    let (mut first, welcome) = welcomed(&mut client, Nonce(0)).await;
    assert_eq!(fixture.handle.sessions().len(), 1);

    // On the same connection and on another one, the newest stream takes over.
    let (mut second, _) = welcomed(&mut client, welcome.next_nonce).await;
    assert_eq!(first.end().await.code, ABORTED);
    let remove = Ask::RemoveAgent {
        agent: "site-1".parse().unwrap(),
    };
    assert_eq!(
        fixture.handle.ask(tenant(), remove).await,
        Ok(Answer::Removed)
    );
    let ended = second.end().await;
    assert_eq!(ended.code, PERMISSION_DENIED, "{ended:?}");

    // Its certificate is still in time; the core does not let it in any more.
    let mut again = fixture.client(Some(&credentials)).await;
    assert_eq!(
        again
            .call(CONNECT, &hello((1, 1), Nonce(0)))
            .await
            .end()
            .await
            .code,
        PERMISSION_DENIED
    );
    assert_eq!(fixture.alarms(), 0);
}

fn request(key: &rcgen::KeyPair) -> Vec<u8> {
    let params = rcgen::CertificateParams::default();
    let csr = params.serialize_request(key).unwrap().der().to_vec();
    RenewRequest { csr }.encode().unwrap()
}

#[tokio::test]
async fn a_certificate_is_renewed_under_the_present_one_which_is_good_until_the_new_one_is_used() {
    let fixture = Fixture::new().await;
    let old = fixture.enrolled("site-1").await;
    let mut client = fixture.client(Some(&old)).await;
    let (mut first, welcome) = welcomed(&mut client, Nonce(0)).await;

    // Beside the stream; the same request may be asked again, because the answer may be lost.
    let key = rcgen::KeyPair::generate().unwrap();
    let lost = client.unary(RENEW, &request(&key)).await.unwrap();
    let reply = client.unary(RENEW, &request(&key)).await.unwrap();
    let issued = Issued::decode(&reply).unwrap();
    assert_ne!(reply, lost, "another certificate for the same key");
    assert_eq!(
        issued.spiffe_id,
        "spiffe://test.internal/tenant/default/agent/site-1"
    );
    let new = Credentials {
        chain: issued.chain,
        key: key.serialize_der(),
    };
    // The old one still opens streams, in case the new one was never stored.
    let (mut second, welcome) = welcomed(&mut client, welcome.next_nonce).await;
    assert_eq!(first.end().await.code, ABORTED);

    let mut renewed = fixture.client(Some(&new)).await;
    let (_third, welcome) = welcomed(&mut renewed, welcome.next_nonce).await;
    assert_eq!(second.end().await.code, ABORTED);
    // Whoever still comes under the one that was left behind is a second holder: heard, and certified no more.
    let (_aside, _) = welcomed(&mut client, welcome.next_nonce).await;
    let other = rcgen::KeyPair::generate().unwrap();
    let refused = client.unary(RENEW, &request(&other)).await.unwrap_err();
    assert_eq!(refused.code, PERMISSION_DENIED);
    let counters = fixture.handle.counters();
    let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(counted(&counters.renewals), 2);
    assert_eq!(counted(&counters.renewals_refused), 1);
    assert_eq!(fixture.alarms(), 1, "two holders are told");
}

#[tokio::test]
async fn a_renewal_needs_a_certificate_a_new_key_and_an_agent_that_was_not_removed() {
    let fixture = Fixture::new().await;
    let credentials = fixture.enrolled("site-1").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let code = async |client: &mut Client, request: &[u8]| {
        client.unary(RENEW, request).await.unwrap_err().code
    };
    let mut stranger = fixture.client(None).await;
    assert_eq!(code(&mut stranger, &request(&key)).await, UNAUTHENTICATED);

    let mut client = fixture.client(Some(&credentials)).await;
    let own = rcgen::KeyPair::try_from(credentials.key.as_slice()).unwrap();
    assert_eq!(code(&mut client, &request(&own)).await, INVALID_ARGUMENT);
    let mut bent = request(&key);
    if let Some(byte) = bent.last_mut() {
        *byte ^= 1;
    }
    assert_eq!(code(&mut client, &bent).await, INVALID_ARGUMENT);

    let remove = Ask::RemoveAgent {
        agent: "site-1".parse().unwrap(),
    };
    let removed = fixture.handle.ask(tenant(), remove).await;
    assert_eq!(removed, Ok(Answer::Removed));
    assert_eq!(code(&mut client, &request(&key)).await, PERMISSION_DENIED);
}

#[tokio::test]
async fn an_agent_that_renews_all_the_time_is_slowed_down_and_nobody_else() {
    let fixture = Fixture::new().await;
    let (busy, other) = (
        fixture.enrolled("site-1").await,
        fixture.enrolled("site-2").await,
    );
    let mut client = fixture.client(Some(&busy)).await;
    let (_stream, _) = welcomed(&mut client, Nonce(0)).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut passed = 0;
    let refused = loop {
        match client.unary(RENEW, &request(&key)).await {
            Ok(_) => passed += 1,
            Err(ended) => break ended,
        }
        assert!(passed < 50, "never refused");
    };
    assert_eq!(refused.code, RESOURCE_EXHAUSTED);
    assert!(passed >= 10, "{passed}");
    let mut client = fixture.client(Some(&other)).await;
    let (_stream, _) = welcomed(&mut client, Nonce(0)).await;
    client.unary(RENEW, &request(&key)).await.unwrap();
}

#[tokio::test]
async fn strangers_that_call_all_the_time_keep_nobody_from_renewing() {
    let fixture = Fixture::new().await;
    let credentials = fixture.enrolled("site-1").await;
    let presented = fixture.authority.issued_to(&credentials.chain[0]).unwrap();
    let (handle, authority) = (fixture.handle.clone(), Arc::clone(&fixture.authority));
    let enroller = Enroller::new(handle, authority, Duration::from_secs(3600));
    let mut calls = 0;
    while enroller.enrol(b"nonsense").await.unwrap_err().code() as i32 != RESOURCE_EXHAUSTED {
        calls += 1;
        assert!(calls < 100_000, "never refused");
    }
    // It comes to the core, which refuses it only because this is not beside a session.
    let key = rcgen::KeyPair::generate().unwrap();
    let refused = enroller.renew(&presented, None, &request(&key)).await;
    assert_eq!(refused.unwrap_err().code() as i32, PERMISSION_DENIED);
}

#[tokio::test]
async fn a_token_enrols_one_key_and_no_other() {
    let fixture = Fixture::new().await;
    let secret = rand("one");
    fixture.invite("site-1", secret).await;
    let (key, other) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let unknown = fixture.enrol(rand("another"), &key).await.unwrap_err();
    assert_eq!(unknown.code, PERMISSION_DENIED, "{unknown:?}");
    fixture.enrol(secret, &key).await.unwrap();
    fixture.enrol(secret, &key).await.unwrap();
    assert_eq!(
        fixture.enrol(secret, &other).await.unwrap_err().code,
        PERMISSION_DENIED
    );
    for nonsense in [&b""[..], b"\xff\xff\xff", &[0x12; 4000]] {
        let ended = fixture
            .client(None)
            .await
            .unary(ENROL, nonsense)
            .await
            .unwrap_err();
        assert_eq!(ended.code, INVALID_ARGUMENT, "{ended:?}");
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_no_stream() {
    let fixture = Fixture::new().await;
    let mut client = fixture.client(None).await;
    let ended = client
        .call(CONNECT, &hello((1, 1), Nonce(0)))
        .await
        .end()
        .await;
    assert_eq!(ended.code, UNAUTHENTICATED, "{ended:?}");
    for path in ["/outpost.identity.v1.Identity/Other", "/x/y", "/"] {
        assert_eq!(
            client.unary(path, b"").await.unwrap_err().code,
            UNIMPLEMENTED,
            "{path}"
        );
    }
    assert!(fixture.handle.sessions().is_empty());
}

#[tokio::test]
async fn nonsense_ends_its_own_session_only() {
    let fixture = Fixture::new().await;
    let (honest, hostile) = (
        fixture.enrolled("honest").await,
        fixture.enrolled("hostile").await,
    );
    let mut client = fixture.client(Some(&honest)).await;
    let (mut stays, _) = welcomed(&mut client, Nonce(0)).await;
    for (alarms, nonsense) in [vec![0xff; 10], vec![0; 70_000]].into_iter().enumerate() {
        let mut client = fixture.client(Some(&hostile)).await;
        let ended = client.call(CONNECT, &nonsense).await.end().await;
        assert_eq!(ended.code, INVALID_ARGUMENT, "{ended:?}");
        assert_eq!(fixture.alarms(), alarms as u64 + 1);
    }
    let mut client = fixture.client(Some(&hostile)).await;
    let ended = client
        .call(CONNECT, &hello((9, 9), Nonce(0)))
        .await
        .end()
        .await;
    assert_eq!(ended.code, FAILED_PRECONDITION, "{ended:?}");

    // The honest one is still there: stopping is the first thing it hears.
    fixture.stop.cancel();
    assert_eq!(stays.end().await.code, UNAVAILABLE);
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed() {
    let fixture = Fixture::new().await;
    let client = fixture.client(None).await;
    let silent = TcpStream::connect(fixture.address).await.unwrap();
    let closed = async {
        while client.is_open() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Nor is one that never begins the handshake.
        let mut byte = [0];
        while silent.readable().await.is_ok() && silent.try_read(&mut byte).is_err() {}
    };
    tokio::time::timeout(Duration::from_secs(30), closed)
        .await
        .unwrap();
}

#[tokio::test]
async fn one_agent_has_a_bounded_number_of_connections() {
    let fixture = Fixture::new().await;
    let (greedy, other) = (
        fixture.enrolled("greedy").await,
        fixture.enrolled("other").await,
    );
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut client = fixture.client(Some(&greedy)).await;
        let call = client.silent(CONNECT).await;
        held.push((client, call));
    }
    let mut refused = fixture.client(Some(&greedy)).await;
    assert!(refused.is_turned_away().await);
    assert!(held.iter().all(|(client, _)| client.is_open()));
    let mut client = fixture.client(Some(&other)).await;
    assert!(!client.is_turned_away().await);
    welcomed(&mut client, Nonce(0)).await;
}

#[tokio::test]
async fn stopping_ends_streams_and_stores_everything() {
    let fixture = Fixture::new().await;
    let credentials = fixture.enrolled("site-1").await;
    let mut client = fixture.client(Some(&credentials)).await;
    let (mut call, _) = welcomed(&mut client, Nonce(0)).await;
    fixture.stop.cancel();
    assert_eq!(call.end().await.code, UNAVAILABLE);
    fixture.link.await.unwrap();
    fixture.stop_driver.cancel();
    fixture.driver.await.unwrap().unwrap();
    let mut store = Sqlite::open(fixture.dir.path()).await.unwrap();
    let snapshot = store.snapshot(0).unwrap();
    assert_eq!(snapshot.agents.len(), 1);
    assert_eq!(snapshot.agents[0].session_epoch.0, 1);
}

#[tokio::test]
async fn what_a_failed_commit_undid_is_said_or_done_again() {
    let fixture = Fixture::new().await;
    let credentials = fixture.enrolled("site-1").await;
    let mut client = fixture.client(Some(&credentials)).await;
    fixture
        .sql(
            "CREATE TRIGGER broken BEFORE UPDATE ON agent \
             BEGIN SELECT RAISE(ABORT, 'no space'); END",
        )
        .await;

    // The agent's Hello needs a commit; whoever asks meanwhile is told to try again.
    let mut call = client.call(CONNECT, &hello((1, 1), Nonce(0))).await;
    let failed = || {
        let counters = fixture.handle.counters();
        counters.failed_commits.load(Ordering::Relaxed)
    };
    let failing = async {
        while failed() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let tried_again = tokio::time::timeout(Duration::from_secs(30), failing).await;
    tried_again.unwrap();
    let answer = fixture.handle.ask(tenant(), Ask::Agents).await;
    assert_eq!(answer, Err(AskError::Unavailable));

    // Once the database takes it, the agent is welcomed on the same stream, and questions are answered.
    fixture.sql("DROP TRIGGER broken").await;
    let frame = call.next().await.unwrap();
    let first = decode_down(&frame).unwrap().remove(0);
    assert!(matches!(first, DownMessage::Welcome(_)), "{first:?}");
    let Answer::Agents(agents) = fixture.handle.ask(tenant(), Ask::Agents).await.unwrap() else {
        panic!("another answer");
    };
    assert_eq!(agents.len(), 1);
    assert_eq!(fixture.alarms(), 0);
}
