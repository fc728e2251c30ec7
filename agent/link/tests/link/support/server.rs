//! An orchestrator's port with a chosen behaviour: real TLS, real HTTP/2, real gRPC.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outpost_agent_link::BytesCodec;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{Grpc, StreamingService, UnaryService};
use tonic::{Code, Request, Response, Status, Streaming};

use super::ca::{Ca, ServerCert};

/// What the server does with the stream.
#[derive(Clone, Copy)]
pub(crate) enum Behaviour {
    /// Sends every frame back.
    Echo,
    /// Refuses the stream at once.
    Refuse(Code),
    /// Ends the stream with this status after the first frame.
    EndWith(Code),
    /// Never sends response headers.
    Silent,
    /// Accepts the stream and never reads.
    Deaf,
    /// Sends frames of 64 KiB as fast as they are taken.
    Flood,
}

/// What the server saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) handshakes: AtomicUsize,
    pub(crate) requests: Mutex<Vec<String>>,
    pub(crate) client_certificates: Mutex<Vec<usize>>,
    pub(crate) frames_flooded: AtomicUsize,
    pub(crate) key_exchange: Mutex<Option<rustls::NamedGroup>>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
}

/// The TLS side of a server.
pub(crate) struct Tls {
    pub(crate) certificate: ServerCert,
    pub(crate) client_root: CertificateDer<'static>,
    pub(crate) client_certificate_required: bool,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
}

impl Tls {
    pub(crate) fn usual(ca: &Ca) -> Self {
        Self {
            certificate: ca.server(super::ca::Leaf::default()),
            client_root: CertificateDer::from(ca.root_der()),
            client_certificate_required: false,
            alpn: vec![b"h2".to_vec()],
            versions: rustls::ALL_VERSIONS,
        }
    }

    fn config(self) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.client_root).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = if self.client_certificate_required {
            verifier
        } else {
            verifier.allow_unauthenticated()
        }
        .build()
        .unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.certificate.chain, self.certificate.key)
            .unwrap();
        config.alpn_protocols = self.alpn;
        config
    }
}

pub(crate) async fn start(tls: Tls, behaviour: Behaviour) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let acceptor = TlsAcceptor::from(Arc::new(tls.config()));
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(
                acceptor.clone(),
                stream,
                behaviour,
                Arc::clone(&shared),
            ));
        }
    });
    Server { address, seen }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, behaviour: Behaviour, seen: Arc<Seen>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    seen.handshakes.fetch_add(1, Ordering::SeqCst);
    let session = stream.get_ref().1;
    seen.client_certificates
        .lock()
        .unwrap()
        .push(session.peer_certificates().map_or(0, <[_]>::len));
    *seen.key_exchange.lock().unwrap() = session
        .negotiated_key_exchange_group()
        .map(|group| group.name());
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let path = request.uri().path().to_owned();
            seen.requests.lock().unwrap().push(path.clone());
            let mut grpc = Grpc::new(BytesCodec);
            let response = if path == "/outpost.link.v1.Link/Connect" {
                grpc.streaming(Connect { behaviour, seen }, request).await
            } else {
                grpc.unary(Identity, request).await
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct Connect {
    behaviour: Behaviour,
    seen: Arc<Seen>,
}

type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

impl StreamingService<Bytes> for Connect {
    type Response = Bytes;
    type ResponseStream = Frames;
    type Future = Answer<Frames>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (behaviour, seen) = (self.behaviour, Arc::clone(&self.seen));
        let mut inbound = request.into_inner();
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(1);
            match behaviour {
                Behaviour::Refuse(code) => return Err(Status::new(code, "as the test wants")),
                Behaviour::Silent => std::future::pending::<()>().await,
                Behaviour::Deaf => drop(tokio::spawn(async move {
                    let _held = (inbound, sender);
                    std::future::pending::<()>().await;
                })),
                Behaviour::Echo => drop(tokio::spawn(async move {
                    while let Ok(Some(bytes)) = inbound.message().await {
                        let _ = sender.send(Ok(bytes)).await;
                    }
                })),
                Behaviour::EndWith(code) => drop(tokio::spawn(async move {
                    let _ = inbound.message().await;
                    if code != Code::Ok {
                        let _ = sender
                            .send(Err(Status::new(code, "as the test wants")))
                            .await;
                    }
                })),
                Behaviour::Flood => drop(tokio::spawn(async move {
                    let _held = inbound;
                    while sender
                        .send(Ok(Bytes::from(vec![5; 64 * 1024])))
                        .await
                        .is_ok()
                    {
                        seen.frames_flooded.fetch_add(1, Ordering::SeqCst);
                    }
                })),
            }
            Ok(Response::new(
                Box::pin(ReceiverStream::new(receiver)) as Frames
            ))
        })
    }
}

/// Answers "no" with UNAUTHENTICATED, and everything else with itself reversed.
struct Identity;

impl UnaryService<Bytes> for Identity {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            let bytes = request.into_inner();
            if bytes == "no" {
                return Err(Status::new(Code::Unauthenticated, "token used"));
            }
            Ok(Response::new(bytes.iter().rev().copied().collect()))
        })
    }
}
