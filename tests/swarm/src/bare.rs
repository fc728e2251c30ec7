//! The same connections without Outpost behind them: TLS, HTTP/2, one stream, one message each way. What this costs,
//! nobody who wants that many connections can avoid.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outpost_certs::ca::Authority;
use outpost_certs::tls::server_config;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use crate::stream::{Connection, Credentials, framed, tls};

const LIFE: Duration = Duration::from_secs(24 * 3600);
/// As the orchestrator dictates it.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The size of a Hello.
const HELLO: [u8; 60] = [7; 60];

/// What a client of the bare server needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) address: SocketAddr,
    pub(crate) root: Vec<u8>,
    pub(crate) credentials: Credentials,
}

/// Serves until the process ends; says where in `ready`.
pub(crate) async fn serve(ready: &Path) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let authority = Authority::create("bare.internal", now)?;
    let server = authority.issue_server(&["127.0.0.1".to_owned()], now, LIFE)?;
    let config = server_config(&server, &[authority.agents_anchor().clone()])?;
    let key = rcgen::KeyPair::generate()?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key)?;
    let (tenant, agent) = ("default".parse()?, "bare".parse()?);
    let issued = authority.issue_agent(&tenant, &agent, csr.der(), now, LIFE)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let access = Access {
        address: listener.local_addr()?,
        root: authority.root().to_vec(),
        credentials: Credentials {
            chain: issued.chain,
            key: key.serialize_der(),
        },
    };
    let part = ready.with_extension("part");
    std::fs::write(&part, serde_json::to_vec(&access)?)?;
    std::fs::rename(&part, ready)?;
    let acceptor = TlsAcceptor::from(config);
    loop {
        let (tcp, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move { connection(tcp, acceptor).await });
    }
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(512 * 1024);
    let service = service_fn(|request: http::Request<Incoming>| async move {
        let (send, queue) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {
                if send.send(Ok(framed(&HELLO))).await.is_err() {
                    return;
                }
            }
        });
        Ok::<_, Infallible>(http::Response::new(StreamBody::new(ReceiverStream::new(
            queue,
        ))))
    });
    builder
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// Connects once, says one message, counts the answer, and holds the stream with a message as often as an agent has a
/// heartbeat.
pub(crate) async fn client(
    number: u64,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    answered: Arc<AtomicUsize>,
) -> anyhow::Result<()> {
    let mut connection = Connection::establish(number, address, tls).await?;
    let (send, mut incomings) = connection.open("/bare", Some(&HELLO)).await?;
    let _ = incomings.next().await?;
    answered.fetch_add(1, Ordering::Relaxed);
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        send.send(Ok(framed(&HELLO))).await?;
        let _ = incomings.next().await?;
    }
}

/// The configurations of `count` clients.
pub(crate) fn clients(access: &Access, count: usize) -> anyhow::Result<Vec<Arc<ClientConfig>>> {
    let one = || tls(&access.root, Some(&access.credentials));
    (0..count)
        .map(|_| one().context("the client's configuration"))
        .collect()
}
