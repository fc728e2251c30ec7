//! Serves the REST interface on one port: plain HTTP on loopback, TLS elsewhere, every limit stated.
//!
//! Knows nothing of what is served; a connection that misbehaves costs a bounded amount and ends alone.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use outpost_certs::tls::ReloadingServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::calls::{Calls, OpenCall};

/// Connections at once: a few hundred people's browsers with event streams.
const CONNECTIONS: usize = 2048;
/// TLS handshake, the first request after it, and then the headers of a request, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection on which nothing is being answered is given back.
const IDLE: Duration = Duration::from_secs(60);
/// For a connection to end once it was told to.
const GOODBYE: Duration = Duration::from_secs(5);
/// What connections are given.
const WAITS: Waits = Waits {
    first: PATIENCE,
    idle: IDLE,
    goodbye: GOODBYE,
};
/// Pause after the kernel could not accept, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of all headers of one request.
const HEADER_BYTES: usize = 16 * 1024;
/// Headers of one request.
const HEADERS: usize = 64;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 64;
/// Bytes in flight on one request, and on all of one connection.
const WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);

/// Serves until `stop`, then waits for what is being answered. Without `tls` it must be a loopback address.
pub(crate) async fn serve(
    tcp: TcpListener,
    tls: Option<Arc<ReloadingServerConfig>>,
    router: Router,
    stop: CancellationToken,
) {
    let (tasks, room) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&tcp, &room) => accepted,
        };
        let (stream, from, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "an API connection could not be accepted; pausing shortly");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        tasks.spawn(async move {
            connection(stream, from, tls, router, stop).await;
            drop(permit);
        });
    }
    drop(tcp);
    tasks.close();
    tasks.wait().await;
}

async fn accept(
    tcp: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = room
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, from) = tcp.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, from, permit))
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    tls: Option<Arc<ReloadingServerConfig>>,
    router: Router,
    stop: CancellationToken,
) {
    let Some(tls) = tls else {
        return serve_http(stream, from, router, stop, WAITS).await;
    };
    match timeout(PATIENCE, TlsAcceptor::from(tls.current()).accept(stream)).await {
        Ok(Ok(stream)) => serve_http(stream, from, router, stop, WAITS).await,
        Ok(Err(error)) => debug!(%error, "a TLS handshake on the API port failed"),
        Err(_) => debug!("a TLS handshake on the API port took longer than allowed"),
    }
}

/// How long a connection is waited for.
#[derive(Debug, Clone, Copy)]
struct Waits {
    first: Duration,
    idle: Duration,
    goodbye: Duration,
}

async fn serve_http<S>(
    stream: S,
    from: SocketAddr,
    router: Router,
    stop: CancellationToken,
    waits: Waits,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let calls = Calls::default();
    let counted = calls.clone();
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        let call = counted.begin();
        request.extensions_mut().insert(ConnectInfo(from));
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(answer.map(|body| until_sent(call, body)))
        }
    });
    let builder = limits();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        result = connection.as_mut() => Some(result),
        () = stop.cancelled() => None,
        () = calls.idle(waits.first, waits.idle) => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(waits.goodbye, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        debug!(%error, "an API connection broke");
    }
}

/// A call is open until its answer is sent or given up.
fn until_sent(call: OpenCall, body: Body) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _open = &call;
        frame
    }))
}

fn limits() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX))
        .max_frame_size(16 * 1024)
        .adaptive_window(false)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(256 * 1024)
        .max_pending_accept_reset_streams(16)
        .max_local_error_reset_streams(64)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(PATIENCE);
    builder
}

#[cfg(test)]
mod tests;
