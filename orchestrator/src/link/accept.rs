//! Accepts connections for ever, whatever single ones do; bounds those that have not said who they are; serves HTTP/2
//! on the others.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use outpost_certs::identity::AgentIdentity;
use outpost_certs::receipt::Signer;
use outpost_certs::tls::{Peer, PeerError, ReloadingServerConfig, peer};
use outpost_proto::limits::HANDSHAKE_TIMEOUT;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::limits::{
    ACCEPT_PAUSE, CONNECTION_WINDOW, GOODBYE, HEADER_BYTES, HTTP_FRAME_BYTES, IDLE, KEEPALIVE,
    KEEPALIVE_TIMEOUT, LOCAL_RESETS, PENDING_RESETS, SEND_BUFFER, STREAM_WINDOW, STREAMS,
};
use super::places::{Places, Stranger};
use super::service::{Caller, Services, Stream};
use super::session::expired;
use crate::calls::Calls;
use crate::driver::Handle;
use crate::identity::Enroller;

/// The agents' port.
pub struct Listener {
    /// Bound already.
    pub tcp: TcpListener,
    /// Replaced when the server's certificate is.
    pub tls: Arc<ReloadingServerConfig>,
    /// First part of every SPIFFE id accepted.
    pub trust_domain: String,
    /// Where frames go.
    pub handle: Handle,
    /// Issues certificates for invitations.
    pub enroller: Arc<Enroller>,
}

/// What every connection's task needs.
#[derive(Clone)]
struct Context {
    tls: Arc<ReloadingServerConfig>,
    trust_domain: Arc<str>,
    services: Services,
    places: Places,
    stop: CancellationToken,
}

impl Listener {
    /// Accepts until `stop`, then tells every stream so and waits for all connections to end.
    pub async fn serve(self, stop: CancellationToken) {
        let (tasks, sessions) = (TaskTracker::new(), self.handle.sessions().clone());
        let context = Context {
            tls: self.tls,
            trust_domain: self.trust_domain.into(),
            services: Services {
                handle: self.handle,
                enroller: self.enroller,
                tasks: tasks.clone(),
            },
            places: Places::default(),
            stop: stop.clone(),
        };
        let accepting = accept(&self.tcp, &context, &tasks);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = accepting => {}
        }
        drop(self.tcp);
        sessions.drain();
        tasks.close();
        tasks.wait().await;
    }
}

async fn accept(tcp: &TcpListener, context: &Context, tasks: &TaskTracker) {
    loop {
        // Before accepting: what is not accepted waits in the kernel's queue and costs nothing here.
        let Some(room) = context.places.room().await else {
            return;
        };
        match tcp.accept().await {
            Ok((stream, address)) => match context.places.stranger(address.ip(), room) {
                Some(stranger) => {
                    drop(tasks.spawn(connection(stream, address, stranger, context.clone())))
                }
                None => {
                    debug!(%address, "too many connections from this address that do not say who they are")
                }
            },
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                warn!(%error, "a connection could not be accepted; pausing shortly");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

async fn connection(stream: TcpStream, address: SocketAddr, stranger: Stranger, context: Context) {
    // Boxed, as the rest: what one phase needs is not kept through the next, which may last for days.
    let (tls, peer, signer) = match Box::pin(handshake(stream, &context)).await {
        Ok(shaken) => shaken,
        Err(error) => return debug!(%address, %error, "no connection"),
    };
    // Whoever has shown a certificate is counted as that agent; anybody else stays a stranger to the end.
    let (_stranger, _known) = match &peer {
        Peer::Anonymous => (Some(stranger), None),
        Peer::Agent(AgentIdentity { tenant, agent, .. }) => {
            let Some(known) = context.places.known(tenant, agent) else {
                return debug!(%address, %tenant, %agent, "too many connections of this agent");
            };
            (None, Some(known))
        }
    };
    serve(tls, (peer, signer), address, &context).await;
}

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("the TLS handshake took longer than allowed")]
    Slow,
    #[error("the TLS handshake failed: {0}")]
    Tls(#[from] io::Error),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

async fn handshake(
    stream: TcpStream,
    context: &Context,
) -> Result<(TlsStream<TcpStream>, Peer, Option<Signer>), HandshakeError> {
    stream.set_nodelay(true)?;
    let serving = context.tls.serving();
    let acceptor = TlsAcceptor::from(serving.config.clone());
    let tls = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| HandshakeError::Slow)??;
    let peer = peer(tls.get_ref().1, &context.trust_domain)?;
    Ok((tls, peer, serving.signer.clone()))
}

/// Serves HTTP/2 to the connection's end. Not async itself: the future holds the connection once.
fn serve(
    tls: TlsStream<TcpStream>,
    (peer, signer): (Peer, Option<Signer>),
    address: SocketAddr,
    context: &Context,
) -> impl Future<Output = ()> + Send {
    let over = expiry(match &peer {
        Peer::Agent(identity) => Some(identity.not_after),
        Peer::Anonymous => None,
    });
    let calls = Calls::default();
    let caller = Caller {
        peer: Arc::new(peer),
        address: address.ip(),
        calls: calls.clone(),
        stream: Stream::default(),
        signer,
    };
    let services = context.services.clone();
    let service = hyper::service::service_fn(move |request| {
        // Boxed: the answer's body, which is an agent's whole stream, is not to carry the room for making it.
        let call = Box::pin(services.clone().call(caller.clone(), request));
        async move { Ok::<_, std::convert::Infallible>(call.await) }
    });
    let http2 = http2_limits(&context.services.tasks);
    let mut connection = Box::pin(http2.serve_connection(TokioIo::new(tls), service));
    let stop = context.stop.clone();
    async move {
        let ended = tokio::select! {
            biased;
            result = connection.as_mut() => Some(result),
            () = over => None,
            () = calls.idle(IDLE, IDLE) => None,
            () = stop.cancelled() => None,
        };
        let result = match ended {
            Some(result) => result,
            None => {
                connection.as_mut().graceful_shutdown();
                timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = result {
            debug!(%address, %error, "the connection broke");
        }
    }
}

/// The end of the certificate that the connection was made with: no call is answered beyond it. Whoever has none is
/// bounded by being idle.
async fn expiry(not_after: Option<SystemTime>) {
    match not_after {
        Some(not_after) => drop(expired(not_after).await),
        None => std::future::pending().await,
    }
}

/// Nothing is left to a default: those are made for peers that are trusted more.
fn http2_limits(tasks: &TaskTracker) -> http2::Builder<Tracked> {
    let mut http2 = http2::Builder::new(Tracked(tasks.clone()));
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .header_table_size(4096)
        .max_frame_size(HTTP_FRAME_BYTES)
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .auto_date_header(false);
    http2
}

/// Runs what HTTP/2 spawns where it is waited for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
