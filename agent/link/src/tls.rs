//! The client side of TLS: which server is the orchestrator, and what link presents to it.
//!
//! TLS 1.3 only, no session resumption (a resumed session would keep an old identity), HTTP/2 by ALPN. The server is
//! known by its SPIFFE identity under the trusted roots, not by its host name: any certificate of that CA which
//! carries the orchestrator's identity is the orchestrator's.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::identity::{Identity, uri_san};
use crate::key_log::KeyLog;

/// The protocol name that both ends must agree on.
pub(crate) const ALPN: &[u8] = b"h2";

/// Why no TLS configuration can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the TLS library refuses this agent's key or certificate; enrol again")]
    Refused(#[from] Error),
    #[error("the orchestrator sent no usable roots")]
    Roots(#[from] VerifierBuilderError),
}

/// Where the secrets of connections go: nowhere but in audit mode.
pub(crate) type Audit = Option<Arc<KeyLog>>;

/// Connects as an enrolled agent: trusts the stored roots and presents the stored certificate.
pub(crate) fn enrolled(identity: &Identity, audit: &Audit) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = trusting(roots_of(identity)?)?;
    let config = builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    Ok(finish(config, audit))
}

/// Connects as an agent whose certificate has ended: trusts the stored roots and presents nothing.
pub(crate) fn expired(identity: &Identity, audit: &Audit) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = trusting(roots_of(identity)?)?;
    Ok(finish(builder.with_no_client_auth(), audit))
}

/// Connects before enrolment: trusts exactly the root with this SHA-256, presents nothing.
pub(crate) fn pinned(pin: [u8; 32], audit: &Audit) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = trusting(Trust::Pin(pin))?;
    Ok(finish(builder.with_no_client_auth(), audit))
}

fn trusting(trust: Trust) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(OrchestratorVerifier::new(trust)))
}

fn roots_of(identity: &Identity) -> Result<Trust, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in &identity.roots {
        roots.add(root.clone())?;
    }
    Ok(Trust::Roots {
        roots,
        trust_domain: identity.trust_domain.clone(),
    })
}

/// Signs with the key of the present certificate: ECDSA P-256 with SHA-256, DER.
pub(crate) fn sign(identity: &Identity, message: &[u8]) -> Result<Vec<u8>, TlsError> {
    let key = provider()
        .key_provider
        .load_private_key(identity.key.clone_key())?;
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
    let signer = signer.ok_or_else(|| Error::General("the key is not ECDSA P-256".into()))?;
    Ok(signer.sign(message)?)
}

/// Checks that a chain which is about to be stored leads to its roots and may authenticate a client: storing another
/// would lock this agent out.
pub(crate) fn check_own(chain: &[Vec<u8>], roots: &[Vec<u8>]) -> Result<(), TlsError> {
    let mut trusted = RootCertStore::empty();
    for root in roots {
        trusted.add(CertificateDer::from_slice(root).into_owned())?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider()).build()?;
    let chain: Vec<CertificateDer<'_>> = chain
        .iter()
        .map(|der| CertificateDer::from_slice(der))
        .collect();
    let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    verifier.verify_client_cert(leaf, intermediates, UnixTime::now())?;
    Ok(())
}

/// Whether these certificates (DER, leaf first) lead a client to one of `roots` at this time since 1970, and none of them
/// is there for nothing. For who looks at a connection afterwards.
#[must_use]
pub fn leads_to(chain: &[Vec<u8>], roots: &[Vec<u8>], at: Duration) -> bool {
    let mut trusted = RootCertStore::empty();
    for root in roots {
        // What is no certificate anchors nothing.
        let _ = trusted.add(CertificateDer::from_slice(root).into_owned());
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), provider());
    let Ok(verifier) = verifier.build() else {
        return false;
    };
    let leads = |chain: &[&Vec<u8>]| {
        let ders = chain.iter().map(|der| CertificateDer::from_slice(der));
        let ders: Vec<CertificateDer<'_>> = ders.collect();
        let Some((leaf, intermediates)) = ders.split_first() else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(at);
        verifier
            .verify_client_cert(leaf, intermediates, now)
            .is_ok()
    };
    let whole: Vec<&Vec<u8>> = chain.iter().collect();
    let is_spare = |at: usize| {
        let mut less = whole.clone();
        less.remove(at);
        leads(&less)
    };
    leads(&whole) && !(1..whole.len()).any(is_spare)
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    provider.kx_groups = vec![
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
    ];
    Arc::new(provider)
}

fn finish(mut config: ClientConfig, audit: &Audit) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    if let Some(log) = audit {
        config.key_log = Arc::clone(log) as Arc<dyn rustls::KeyLog>;
    }
    Arc::new(config)
}

#[derive(Debug)]
enum Trust {
    Roots {
        roots: RootCertStore,
        trust_domain: String,
    },
    Pin([u8; 32]),
}

/// What is wrong with a certificate that is well signed.
#[derive(Debug, thiserror::Error)]
enum NotTheOrchestrator {
    #[error("it does not parse")]
    Unreadable,
    #[error("no root with the pinned fingerprint was presented")]
    Pin,
    #[error("its extended key usage does not name server authentication")]
    Usage,
    #[error("its URI name is not the orchestrator's identity")]
    Identity,
}

impl From<NotTheOrchestrator> for Error {
    fn from(problem: NotTheOrchestrator) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(problem))))
    }
}

#[derive(Debug)]
struct OrchestratorVerifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl OrchestratorVerifier {
    fn new(trust: Trust) -> Arc<Self> {
        Arc::new(Self {
            trust,
            provider: provider(),
        })
    }
}

impl ServerCertVerifier for OrchestratorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let trust_domain = match &self.trust {
            Trust::Roots {
                roots,
                trust_domain,
            } => {
                verify_server_cert_signed_by_trust_anchor(
                    &leaf,
                    roots,
                    intermediates,
                    now,
                    algorithms,
                )?;
                Some(trust_domain.as_str())
            }
            Trust::Pin(pin) => {
                let roots = pinned_root(pin, intermediates)?;
                verify_server_cert_signed_by_trust_anchor(
                    &leaf,
                    &roots,
                    intermediates,
                    now,
                    algorithms,
                )?;
                None
            }
        };
        check_orchestrator(end_entity, trust_domain)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
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

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// The one presented certificate with the pinned fingerprint becomes the only trusted root.
fn pinned_root(pin: &[u8; 32], presented: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
    let root = presented
        .iter()
        .find(|der| Sha256::digest(der)[..] == pin[..])
        .ok_or(NotTheOrchestrator::Pin)?;
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned())?;
    Ok(roots)
}

/// Asks for server authentication in so many words (the path check lets a certificate without any usage pass), and
/// for the orchestrator's identity as the one URI name.
fn check_orchestrator(
    leaf: &CertificateDer<'_>,
    trust_domain: Option<&str>,
) -> Result<(), NotTheOrchestrator> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| NotTheOrchestrator::Unreadable)?;
    let usage = leaf
        .extended_key_usage()
        .map_err(|_| NotTheOrchestrator::Unreadable)?;
    if !usage.is_some_and(|usage| usage.value.server_auth) {
        return Err(NotTheOrchestrator::Usage);
    }
    let uri = uri_san(&leaf).ok_or(NotTheOrchestrator::Identity)?;
    let domain = uri
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_suffix("/orchestrator"));
    match (domain, trust_domain) {
        (Some(presented), Some(expected)) if presented == expected => Ok(()),
        (Some(presented), None) if !presented.is_empty() && !presented.contains('/') => Ok(()),
        (Some(_) | None, _) => Err(NotTheOrchestrator::Identity),
    }
}
