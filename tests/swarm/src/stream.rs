//! A connection as an agent makes it: TLS 1.3 with a certificate, HTTP/2, one gRPC stream of opaque messages.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;

/// What goes out, as HTTP/2 data.
pub(crate) type Outgoing = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;
type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

/// Messages that wait to be written.
const OUTGOING: usize = 16;
/// As the agent's link sets them.
const WINDOW_BYTES: u32 = 256 * 1024;

/// A certificate chain with its key, DER.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: Vec<u8>,
}

/// Trusts `root`, presents `credentials` if there are any.
pub(crate) fn tls(
    root: &[u8],
    credentials: Option<&Credentials>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.to_vec()))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName { roots, provider }));
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(Credentials { chain, key }) => {
            let chain = chain
                .iter()
                .map(|der| CertificateDer::from(der.clone()))
                .collect();
            let key = PrivateKeyDer::try_from(key.clone())
                .map_err(|why| anyhow::anyhow!("the key: {why}"))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Any server under the roots, whatever its name: as agents do, which know an orchestrator by its identity.
#[derive(Debug)]
struct AnyName {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// One HTTP/2 connection.
pub(crate) struct Connection(SendRequest<Body>);

/// What comes in on a stream.
pub(crate) struct Incomings {
    body: Incoming,
    buffer: BytesMut,
}

impl Connection {
    /// TCP from an address of one's own, TLS, HTTP/2.
    pub(crate) async fn establish(
        number: u64,
        address: SocketAddr,
        tls: Arc<ClientConfig>,
    ) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((own_address(number), 0).into())?;
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 2);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Opens a call whose request stays open as long as the sender lives.
    pub(crate) async fn open(
        &mut self,
        path: &str,
        first: Option<&[u8]>,
    ) -> anyhow::Result<(Outgoing, Incomings)> {
        let (send, queue) = mpsc::channel(OUTGOING);
        if let Some(first) = first {
            send.send(Ok(framed(first))).await?;
        }
        Ok((send, self.call(path, queue).await?))
    }

    /// One message each way.
    pub(crate) async fn unary(&mut self, path: &str, message: &[u8]) -> anyhow::Result<Bytes> {
        let (send, queue) = mpsc::channel(1);
        send.send(Ok(framed(message))).await?;
        // The answer comes when the request is whole.
        drop(send);
        self.call(path, queue).await?.next().await
    }

    async fn call(
        &mut self,
        path: &str,
        queue: mpsc::Receiver<Result<Frame<Bytes>, Infallible>>,
    ) -> anyhow::Result<Incomings> {
        let request = http::Request::post(format!("https://orchestrator{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(StreamBody::new(ReceiverStream::new(queue)))?;
        let response = self.0.send_request(request).await?;
        if let Some(status) = response.headers().get("grpc-status") {
            let why = response.headers().get("grpc-message");
            anyhow::bail!("refused with gRPC status {status:?}: {why:?}");
        }
        Ok(Incomings {
            body: response.into_body(),
            buffer: BytesMut::new(),
        })
    }
}

impl Incomings {
    /// The next message.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(message) = unframed(&mut self.buffer) {
                return Ok(message);
            }
            let frame = self.body.frame().await.context("the stream ended")??;
            match frame.into_data() {
                Ok(data) => self.buffer.put(data),
                Err(frame) => anyhow::bail!("the call ended: {:?}", frame.trailers_ref()),
            }
        }
    }
}

/// Of loopback, another for each member: sites are not behind one address, and ports do not run out.
fn own_address(number: u64) -> Ipv4Addr {
    let [.., high, middle, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 64, middle, low)
}

/// A gRPC message as HTTP/2 data.
pub(crate) fn framed(message: &[u8]) -> Frame<Bytes> {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put(message);
    Frame::data(bytes.freeze())
}

fn unframed(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = buffer.get(1..5)?.iter();
    let length = length.fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length).freeze())
}
