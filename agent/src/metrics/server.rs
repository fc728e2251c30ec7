//! `GET /metrics` on a loopback address, when the site asks for it with `--metrics`. The only listener an agent ever has
//! on a network, and one that nobody outside the host can reach: any other address is refused, and so is a request
//! that a browser was led to make under another name.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::text;
use crate::health::process::Usage;
use crate::runner::{Ask, Happened, Status};

/// Connections at a time: a scraper or two, and a person.
const CONNECTIONS: usize = 8;
/// How long a connection may take, from its first byte to its last.
const TIMEOUT: Duration = Duration::from_secs(10);
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Listens, and answers until the runner ends.
///
/// # Errors
/// An address that is not loopback, or that cannot be listened on.
pub(crate) async fn serve(at: SocketAddr, inbox: mpsc::Sender<Happened>) -> anyhow::Result<()> {
    if !at.ip().is_loopback() {
        bail!(
            "--metrics {at}: metrics are served on loopback only; use 127.0.0.1:{} and let something on this host forward it",
            at.port()
        );
    }
    let listener = TcpListener::bind(at)
        .await
        .with_context(|| format!("listening for metrics on {at}"))?;
    tracing::info!(address = %listener.local_addr()?, "metrics are served");
    tokio::task::spawn_local(accept(listener, inbox));
    Ok(())
}

async fn accept(listener: TcpListener, inbox: mpsc::Sender<Happened>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let inbox = inbox.clone();
                tokio::task::spawn_local(async move {
                    converse(stream, inbox).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("metrics cannot be served for now: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, inbox: mpsc::Sender<Happened>) {
    let service = service_fn(|request| answer(request, inbox.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a reader of metrics went away: {error}"),
        Err(_) => tracing::debug!("a reader of metrics took too long"),
    }
}

async fn answer(
    request: Request<Incoming>,
    inbox: mpsc::Sender<Happened>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = if !is_local(request.headers().get(HOST)) {
        plain(StatusCode::FORBIDDEN, "ask by a loopback address\n")
    } else if request.uri().path() != "/metrics" {
        plain(StatusCode::NOT_FOUND, "there is /metrics here\n")
    } else if request.method() != Method::GET {
        plain(StatusCode::METHOD_NOT_ALLOWED, "GET it\n")
    } else {
        match status(inbox).await {
            Some(status) => {
                let usage = Usage::own();
                plain(StatusCode::OK, text::render(&status, usage.as_ref()))
            }
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "the runner ends\n"),
        }
    };
    Ok(response)
}

async fn status(inbox: mpsc::Sender<Happened>) -> Option<Status> {
    let (reply, replied) = oneshot::channel();
    inbox.send(Happened::Local(Ask::Status, reply)).await.ok()?;
    replied.await.ok()
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// A page of another site that resolves its name to 127.0.0.1 says that name here.
fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.parse::<SocketAddr>() {
        Ok(address) => return address.ip().is_loopback(),
        Err(_) => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_answered() {
        let local = |host: &'static str| is_local(Some(&HeaderValue::from_static(host)));
        for host in [
            "127.0.0.1:9464",
            "localhost:9464",
            "localhost",
            "[::1]:9464",
            "127.0.0.1",
        ] {
            assert!(local(host), "{host}");
        }
        for host in [
            "evil.example:9464",
            "10.0.0.1:9464",
            "localhost.evil.example",
            "",
        ] {
            assert!(!local(host), "{host}");
        }
        assert!(is_local(None));
    }
}
