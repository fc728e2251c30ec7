//! What the crate promises, seen from outside: certificates over real TLS handshakes, files and hostile input.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails by panicking, as the test does"
)]

mod handshake;
mod identity;
mod issue;
mod refusal;
mod store;
mod token;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outpost_certs::ca::Authority;
use outpost_certs::issue::IssuedChain;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::Resumption;
use rustls::version::TLS13;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const DOMAIN: &str = "test.example";
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const AGENT_URI: &str = "spiffe://test.example/tenant/acme/agent/north";

pub(crate) fn authority() -> Authority {
    Authority::create(DOMAIN, SystemTime::now()).unwrap()
}

/// A chain (DER) and the key of its leaf.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(crate) fn key_der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .der()
        .to_vec()
}

pub(crate) fn issue(authority: &Authority, key: &KeyPair, now: SystemTime) -> IssuedChain {
    let (tenant, agent) = ("acme".parse().unwrap(), "north".parse().unwrap());
    authority
        .issue_agent(&tenant, &agent, &csr(key), now, DAY)
        .unwrap()
}

pub(crate) fn agent(authority: &Authority, now: SystemTime) -> Identity {
    let key = KeyPair::generate().unwrap();
    let chain = issue(authority, &key, now)
        .chain
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    (chain, key_der(&key))
}

pub(crate) fn agent_port(authority: &Authority) -> Arc<ServerConfig> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let identity = authority
        .issue_server(&names, SystemTime::now(), DAY)
        .unwrap();
    outpost_certs::tls::server_config(&identity, &[authority.agents_anchor().clone()]).unwrap()
}

/// An honest agent's leaf, to be spoiled by a test.
pub(crate) fn agent_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![SanType::URI(AGENT_URI.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A leaf signed with the stolen key of one branch: what only the identity parser and the branches' limits can stop.
pub(crate) fn rogue(saved: &Path, branch: &str, params: &CertificateParams) -> Identity {
    let read =
        |ending: &str| std::fs::read_to_string(saved.join(format!("{branch}.{ending}"))).unwrap();
    let certificate = outpost_certs::pem::certificates(read("crt").as_bytes())
        .unwrap()
        .remove(0);
    let issuer =
        Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(&read("key")).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    (vec![leaf.der().clone(), certificate], key_der(&key))
}

/// A client as the agent's link builds it.
pub(crate) fn client(authority: &Authority, identity: Option<Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// One end's view of a connection over which a byte came from the other end.
pub(crate) struct Seen<P> {
    pub(crate) peer: P,
    pub(crate) kind: HandshakeKind,
    pub(crate) group: rustls::NamedGroup,
    pub(crate) alpn: Option<Vec<u8>>,
}

type ServerSeen = Seen<Result<outpost_certs::tls::Peer, outpost_certs::tls::PeerError>>;
type ClientSeen = Seen<Vec<CertificateDer<'static>>>;

fn seen<P>(connection: &rustls::CommonState, peer: P) -> Seen<P> {
    Seen {
        peer,
        kind: connection.handshake_kind().unwrap(),
        group: connection.negotiated_key_exchange_group().unwrap().name(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
    }
}

/// Connects the two in memory; each side then sends one byte and waits for the other's.
pub(crate) async fn connect(
    server: Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    host: &str,
) -> (std::io::Result<ServerSeen>, std::io::Result<ClientSeen>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let server_side = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_u8(1).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        let connection = stream.get_ref().1;
        Ok(seen(
            connection,
            outpost_certs::tls::peer(connection, DOMAIN),
        ))
    };
    let client_side = async {
        let mut stream = TlsConnector::from(Arc::clone(client))
            .connect(host, near)
            .await?;
        stream.write_u8(2).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        let connection = stream.get_ref().1;
        Ok(seen(
            connection,
            connection.peer_certificates().unwrap_or_default().to_vec(),
        ))
    };
    tokio::join!(server_side, client_side)
}
