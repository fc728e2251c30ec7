//! rustls configurations for the two ports, and who is at the other end of a connection.
//!
//! TLS 1.3 only, post-quantum hybrid key exchange first. There is no resumption anywhere: a resumed session keeps the
//! identity of the first handshake, so an agent would stay anonymous after enrolment and keep a replaced certificate.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, ProtocolVersion, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::crypto::provider;
use crate::identity::{AgentIdentity, IdentityError};
use crate::issue::ServerIdentity;
use crate::pem::{self, PemError};
use crate::receipt::Signer;

/// HTTP/2, the only protocol of the agent port.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1, offered on the API port beside HTTP/2.
pub const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// Why a configuration could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A trust anchor is no certificate, or there is none.
    #[error("the certificates to trust cannot be used: {0}")]
    Anchors(String),
    /// Certificate chain and key do not fit together or are not supported.
    #[error("the server's certificate or key cannot be used: {0}")]
    Identity(rustls::Error),
    /// The provider lacks TLS 1.3.
    #[error("TLS 1.3 is not available: {0}")]
    Protocol(rustls::Error),
    /// The file of trusted roots is not PEM.
    #[error("the trusted roots cannot be read: {0}")]
    Pem(#[from] PemError),
}

/// Configuration of the agent port. A client certificate is optional, because an agent that enrols has none yet, but
/// one that is presented must be a valid TLS client's under one of `agent_anchors`
/// ([`crate::ca::Authority::agents_anchor`]); [`peer`] then says whose it is.
pub fn server_config(
    identity: &ServerIdentity,
    agent_anchors: &[CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(root_store(agent_anchors)?),
        provider(),
    )
    .allow_unauthenticated()
    .build()
    .map_err(|error| ConfigError::Anchors(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(ConfigError::Protocol)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(ConfigError::Identity)?;
    Ok(Arc::new(without_resumption(config, &[ALPN_H2])))
}

/// Configuration of the HTTPS API where it is not on loopback: no client certificates, HTTP/2 or HTTP/1.1.
pub fn api_server_config(identity: &ServerIdentity) -> Result<Arc<ServerConfig>, ConfigError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(ConfigError::Protocol)?
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(ConfigError::Identity)?;
    Ok(Arc::new(without_resumption(
        config,
        &[ALPN_H2, ALPN_HTTP_1_1],
    )))
}

/// Configuration of an API client that trusts exactly the certificates in `roots_pem`.
pub fn client_config_for_api(roots_pem: &[u8]) -> Result<ClientConfig, ConfigError> {
    let roots = root_store(&pem::certificates(roots_pem)?)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(ConfigError::Protocol)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP_1_1.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn root_store(anchors: &[CertificateDer<'static>]) -> Result<RootCertStore, ConfigError> {
    let mut store = RootCertStore::empty();
    for anchor in anchors {
        store
            .add(anchor.clone())
            .map_err(|error| ConfigError::Anchors(error.to_string()))?;
    }
    Ok(store)
}

fn without_resumption(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

/// What a port serves under at one moment.
#[derive(Debug, Clone)]
pub struct Serving {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// Signs receipts with the key of the certificate that `config` presents; absent on a port without receipts.
    pub signer: Option<Signer>,
}

impl From<Arc<ServerConfig>> for Serving {
    /// Without receipts.
    fn from(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            signer: None,
        }
    }
}

/// The server configuration of the moment: replaced when a certificate is renewed, read for every new connection.
#[derive(Debug)]
pub struct ReloadingServerConfig(ArcSwap<Serving>);

impl ReloadingServerConfig {
    /// Starts with `serving`.
    #[must_use]
    pub fn new(serving: impl Into<Serving>) -> Self {
        Self(ArcSwap::from_pointee(serving.into()))
    }

    /// What a connection accepted now shall use.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.load().config.clone()
    }

    /// The same with what signs for it: both of one moment.
    #[must_use]
    pub fn serving(&self) -> Arc<Serving> {
        self.0.load_full()
    }

    /// Connections accepted from now on use `serving`; those that exist go on.
    pub fn replace(&self, serving: impl Into<Serving>) {
        self.0.store(Arc::new(serving.into()));
    }
}

/// Who is at the other end of a connection to the agent port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Without a certificate: may enrol and nothing else.
    Anonymous,
    /// With a valid one.
    Agent(AgentIdentity),
}

/// Why a connection to the agent port is closed right after its handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The handshake is not over, or was not TLS 1.3.
    #[error("the connection has not completed a TLS 1.3 handshake")]
    Handshake,
    /// The peer did not ask for HTTP/2; something between may have changed the handshake.
    #[error(
        "the peer did not negotiate HTTP/2 (ALPN `h2`); is a proxy intercepting TLS on the way?"
    )]
    NotHttp2,
    /// The certificate is trusted but names no agent.
    #[error("the peer's certificate is trusted but names no agent: {0}")]
    Identity(#[from] IdentityError),
}

/// Who completed this handshake on the agent port. The only way a tenant enters the orchestrator.
pub fn peer(connection: &CommonState, trust_domain: &str) -> Result<Peer, PeerError> {
    if connection.is_handshaking()
        || connection.protocol_version() != Some(ProtocolVersion::TLSv1_3)
    {
        return Err(PeerError::Handshake);
    }
    if connection.alpn_protocol() != Some(ALPN_H2) {
        return Err(PeerError::NotHttp2);
    }
    match connection.peer_certificates() {
        None | Some([]) => Ok(Peer::Anonymous),
        Some([leaf, ..]) => Ok(Peer::Agent(AgentIdentity::from_leaf(leaf, trust_domain)?)),
    }
}
