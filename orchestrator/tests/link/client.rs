//! A gRPC client that does exactly what it is told, well-behaved or not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// A certificate chain and its key.
pub(crate) struct Credentials {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: Vec<u8>,
}

/// One connection.
pub(crate) struct Client(SendRequest<Body>);

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// One call under way.
pub(crate) struct Call {
    /// Dropping it ends the stream.
    _send: Option<mpsc::Sender<Result<Frame<Bytes>, Infallible>>>,
    body: Incoming,
    buffer: BytesMut,
    ended: Option<Ended>,
}

impl Client {
    /// Shakes hands, with a certificate or without one.
    pub(crate) async fn connect(
        address: SocketAddr,
        root: &[u8],
        credentials: Option<&Credentials>,
    ) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config(root, credentials)));
        let name = ServerName::try_from("localhost").unwrap();
        let tls = connector.connect(name, stream).await.unwrap();
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Begins a call with its first message; the agent's side of it stays open.
    pub(crate) async fn call(&mut self, path: &str, first: &[u8]) -> Call {
        let (send, queue) = mpsc::channel(16);
        send.send(Ok(framed(first))).await.unwrap();
        let call = self.begin(path, queue).await;
        Call {
            _send: Some(send),
            ..call
        }
    }

    /// Begins a call and says nothing.
    pub(crate) async fn silent(&mut self, path: &str) -> Call {
        let (send, queue) = mpsc::channel(1);
        let call = self.begin(path, queue).await;
        Call {
            _send: Some(send),
            ..call
        }
    }

    async fn begin(
        &mut self,
        path: &str,
        queue: mpsc::Receiver<Result<Frame<Bytes>, Infallible>>,
    ) -> Call {
        let response = self.0.send_request(request(path, queue)).await.unwrap();
        let ended = ended(response.headers());
        Call {
            _send: None,
            body: response.into_body(),
            buffer: BytesMut::new(),
            ended,
        }
    }

    /// A call with one message each way.
    pub(crate) async fn unary(&mut self, path: &str, message: &[u8]) -> Result<Bytes, Ended> {
        let (send, queue) = mpsc::channel(1);
        send.send(Ok(framed(message))).await.unwrap();
        drop(send);
        self.begin(path, queue).await.next().await
    }

    /// Whether the other side ends the connection instead of answering a call on it.
    pub(crate) async fn is_turned_away(&mut self) -> bool {
        let (send, queue) = mpsc::channel(1);
        drop(send);
        let answer = timeout(PATIENCE, self.0.send_request(request("/", queue))).await;
        answer.expect("the other side says nothing").is_err()
    }

    /// Whether the connection still takes calls.
    pub(crate) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }
}

impl Call {
    /// The next message, or how the call ended.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Ended> {
        loop {
            if let Some(message) = unframed(&mut self.buffer) {
                return Ok(message);
            }
            if let Some(ended) = &self.ended {
                return Err(ended.clone());
            }
            let frame = timeout(PATIENCE, self.body.frame()).await;
            match frame.expect("the other side says nothing") {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.put(data),
                    Err(frame) => self.ended = ended(frame.trailers_ref().unwrap()),
                },
                Some(Err(error)) => {
                    self.ended = Some(Ended {
                        code: -1,
                        message: error.to_string(),
                    })
                }
                None => {
                    self.ended = Some(Ended {
                        code: -1,
                        message: "no status".into(),
                    })
                }
            }
        }
    }

    /// How the call ends, whatever comes before.
    pub(crate) async fn end(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.next().await {
                return ended;
            }
        }
    }
}

fn config(root: &[u8], credentials: Option<&Credentials>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(Credentials { chain, key }) => {
            let chain = chain
                .iter()
                .map(|der| CertificateDer::from(der.clone()))
                .collect();
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn request(
    path: &str,
    queue: mpsc::Receiver<Result<Frame<Bytes>, Infallible>>,
) -> http::Request<Body> {
    http::Request::post(format!("https://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(StreamBody::new(ReceiverStream::new(queue)))
        .unwrap()
}

fn framed(message: &[u8]) -> Frame<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put(message);
    Frame::data(bytes.freeze())
}

fn unframed(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(buffer.get(1..5)?.try_into().unwrap()) as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length).freeze())
}

fn ended(headers: &http::HeaderMap) -> Option<Ended> {
    let code = headers
        .get("grpc-status")?
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let message = headers
        .get("grpc-message")
        .map_or("", |text| text.to_str().unwrap())
        .to_owned();
    Some(Ended { code, message })
}
