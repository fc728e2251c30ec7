//! One connection: TLS and HTTP/2 on a descriptor that dial connected. Used by one session; opens nothing by itself.

use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::{IpAddr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::client::Grpc;

use crate::Timeouts;
use crate::closing::Closing;
use crate::identity::not_after_s;
use crate::ipc::{ClosedReason, MAX_CERTIFICATES, MAX_DER_BYTES, MAX_FRAME_BYTES};
use crate::tls::ALPN;

/// One full frame may be on its way per stream; the connection also carries an identity call beside it.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
const HTTP2_FRAME_BYTES: u32 = 16 * 1024;
const HEADER_BYTES: u32 = 16 * 1024;
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// A connection that is up.
pub(crate) struct Connection {
    grpc: Grpc<Http2>,
    failure: Failure,
    driver: Driver,
    server_end_s: u64,
    server_chain: Vec<Vec<u8>>,
}

impl Connection {
    /// TLS handshake, ALPN check, HTTP/2 preface.
    pub(crate) async fn establish(
        stream: TcpStream,
        tls: Arc<ClientConfig>,
        name: ServerName<'static>,
        timeouts: Timeouts,
    ) -> Result<Self, Closing> {
        let local = |error: io::Error| {
            Closing::new(ClosedReason::Local, format!("bad descriptor: {error}"))
        };
        stream.set_nonblocking(true).map_err(local)?;
        let stream = tokio::net::TcpStream::from_std(stream).map_err(local)?;
        let origin = origin(&name)?;
        let stream = timeout(
            timeouts.handshake,
            TlsConnector::from(tls).connect(name, stream),
        )
        .await
        .map_err(|_| {
            Closing::new(
                ClosedReason::Timeout,
                "the server did not finish the TLS handshake in time",
            )
        })?
        .map_err(|error| Closing::from_io(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(Closing::intercepted());
        }
        let presented = stream.get_ref().1.peer_certificates();
        let server_end_s = presented
            .and_then(<[_]>::first)
            .map_or(0, |leaf| not_after_s(leaf));
        let server_chain = presented.filter(|chain| {
            chain.len() <= MAX_CERTIFICATES && chain.iter().all(|der| der.len() <= MAX_DER_BYTES)
        });
        let server_chain = server_chain.unwrap_or_default().iter();
        let server_chain = server_chain.map(|der| der.to_vec()).collect();
        let failure = Failure::default();
        let watched = Watched {
            inner: stream,
            failure: failure.clone(),
        };
        let handshake = builder(timeouts).handshake(TokioIo::new(watched));
        let (sender, connection) = timeout(timeouts.handshake, handshake)
            .await
            .map_err(|_| {
                Closing::new(
                    ClosedReason::Timeout,
                    "the server did not take the HTTP/2 preface in time",
                )
            })?
            .map_err(|error| Closing::from_http(&error))?;
        let grpc = Grpc::with_origin(Http2(sender), origin)
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        Ok(Self {
            grpc,
            failure,
            driver: Driver(Some(tokio::spawn(connection))),
            server_end_s,
            server_chain,
        })
    }

    /// When the server's certificate ends, in seconds since 1970.
    pub(crate) fn server_end_s(&self) -> u64 {
        self.server_end_s
    }

    /// What the server presented, DER, leaf first. Taken: nobody needs it twice.
    pub(crate) fn server_chain(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.server_chain)
    }

    /// A client for one call.
    pub(crate) fn client(&self) -> Grpc<Http2> {
        self.grpc.clone()
    }

    /// Waits for the end of the connection and says why it ended. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Closing {
        let outcome = match &mut self.driver.0 {
            Some(task) => task.await,
            None => Ok(Ok(())),
        };
        self.driver.0 = None;
        if let Some(recorded) = self.failure.take() {
            return recorded;
        }
        match outcome {
            Ok(Ok(())) => Closing::new(
                ClosedReason::PeerClosed,
                "the orchestrator closed the connection",
            ),
            Ok(Err(error)) => Closing::from_http(&error),
            Err(error) => Closing::new(
                ClosedReason::Local,
                format!("the connection's task ended: {error}"),
            ),
        }
    }

    /// Lets HTTP/2 and TLS say goodbye once no call is left.
    pub(crate) async fn farewell(mut self, limit: Duration) {
        drop(self.grpc);
        let Some(task) = &mut self.driver.0 else {
            return;
        };
        // Whoever does not take the goodbye in time is cut off: nothing is lost by it.
        let _ = timeout(limit, task).await;
    }
}

/// What requests carry as scheme and authority.
fn origin(name: &ServerName<'_>) -> Result<Uri, Closing> {
    let authority = if let ServerName::IpAddress(address @ IpAddr::V6(_)) = name {
        format!("[{}]", std::net::IpAddr::from(*address))
    } else {
        name.to_str().into_owned()
    };
    let origin = Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query("/")
        .build();
    origin.map_err(|error| {
        Closing::new(
            ClosedReason::Local,
            format!("the server name is not usable: {error}"),
        )
    })
}

fn builder(timeouts: Timeouts) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .adaptive_window(false)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(8)
        .keep_alive_interval(timeouts.keepalive_interval)
        .keep_alive_timeout(timeouts.keepalive_timeout)
        .keep_alive_while_idle(true);
    builder
}

/// The task that moves the connection's bytes: it answers pings even while the runner does not read.
struct Driver(Option<JoinHandle<hyper::Result<()>>>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The HTTP/2 sender as the service that the gRPC client wants.
#[derive(Clone)]
pub(crate) struct Http2(http2::SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Http2 {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// The first TLS failure of a connection. HTTP/2 keeps only the text of what failed below it, and an alert such as
/// "certificate required" comes after the client's handshake is over.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<Closing>>>);

impl Failure {
    fn record(&self, error: &io::Error) {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<rustls::Error>())
        {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert_with(|| Closing::from_io(error));
        }
    }

    fn take(&self) -> Option<Closing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A TLS stream that remembers why it failed. A failed write is swallowed: the socket is dead then, so that reading
/// ends soon too, but only after the peer's last words (an alert, a status), which a write error would hide.
struct Watched<S> {
    inner: S,
    failure: Failure,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &polled {
            self.failure.record(error);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        polled.map(|written| Ok(written.unwrap_or(bytes.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map(|_| Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
