//! Issuing leaves: for an agent from its certificate request, for a server from a list of names.
//!
//! Of a request only the public key is used, after its signature has proved that the sender holds the private one.
//! Who the key belongs to is the caller's decision, made from a join token or the certificate that is being renewed.

use std::fmt;
use std::time::{Duration, SystemTime};

use outpost_proto::limits::CSR_BYTES;
use outpost_proto::name::{AgentName, TenantName, spiffe_id};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::ca::{Authority, CreateError, Intermediate, Validity, new_serial};
use crate::crypto::{p256_point, sha256, verify_p256};
use crate::identity::{Serial, orchestrator_id, shown};

/// AlgorithmIdentifier of ecdsa-with-SHA256 in DER.
const ECDSA_WITH_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

/// A certificate request that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Larger than any request made from our template.
    #[error("the certificate request has {bytes} bytes, more than the {CSR_BYTES} allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not DER of one PKCS #10 request and nothing else.
    #[error("the bytes are not one PKCS #10 certificate request in DER")]
    NotARequest,
    /// Another kind or form of key.
    #[error("the certificate request's key is not ECDSA P-256")]
    Key,
    /// The sender does not hold the private key, or the request was changed.
    #[error("the certificate request's signature (ECDSA P-256 with SHA-256) is not valid")]
    Signature,
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The agent's request is not acceptable.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The intermediate is past its end, so nothing that it signs would be accepted.
    #[error("the {branch} intermediate certificate has expired; replace it before issuing")]
    IntermediateExpired {
        /// `agents` or `servers`.
        branch: &'static str,
    },
    /// A server needs at least one name.
    #[error("a server certificate needs at least one DNS name or IP address")]
    NoNames,
    /// A name that is neither.
    #[error("`{name}` is neither a DNS name nor an IP address")]
    Name {
        /// What was given, cut to 80 characters, control characters replaced.
        name: String,
    },
    /// Signing failed.
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl From<rcgen::Error> for IssueError {
    fn from(error: rcgen::Error) -> Self {
        Self::Create(error.into())
    }
}

/// The public key of a certificate request whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsrKey {
    spki: Vec<u8>,
    /// SHA-256 of the SubjectPublicKeyInfo in DER, as in [`crate::identity::AgentIdentity`].
    pub sha256: [u8; 32],
}

impl CsrKey {
    /// Reads PKCS #10 in DER. Whatever else the request asks for is ignored.
    pub fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES {
            return Err(CsrError::TooLarge { bytes: der.len() });
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|_| CsrError::NotARequest)?;
        if !rest.is_empty() {
            return Err(CsrError::NotARequest);
        }
        let info = &request.certification_request_info;
        let spki = info.subject_pki.raw;
        let point = p256_point(spki).ok_or(CsrError::Key)?;
        let signature = &request.signature_value.data;
        if !is_framed(der, info.raw, signature) || !verify_p256(point, info.raw, signature) {
            return Err(CsrError::Signature);
        }
        Ok(Self {
            spki: spki.to_vec(),
            sha256: sha256(spki),
        })
    }
}

/// Whether what stands around the signed part is the one DER spelling of an ECDSA P-256 signature: the parser is more
/// lenient, and no byte of a request shall be open to change.
fn is_framed(der: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let Ok(length @ 1..=0x7f) = u8::try_from(signature.len() + 1) else {
        return false;
    };
    let tail = [signed, &ECDSA_WITH_SHA256, &[0x03, length, 0x00], signature].concat();
    der.first() == Some(&0x30) && der.ends_with(&tail)
}

/// An agent's new certificate, ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedChain {
    /// DER: leaf, then the agents' intermediate; without the root.
    pub chain: Vec<Vec<u8>>,
    /// DER: the roots that the agent shall trust.
    pub roots: Vec<Vec<u8>>,
    /// As in the leaf.
    pub spiffe_id: String,
    /// The last second of the leaf's validity.
    pub not_after: SystemTime,
    /// Of the leaf.
    pub serial: Serial,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo in DER.
    pub public_key_sha256: [u8; 32],
}

/// A server's certificate chain and private key.
pub struct ServerIdentity {
    /// Leaf, servers' intermediate, and the root, which an agent compares with its pin at enrolment.
    pub chain: Vec<CertificateDer<'static>>,
    /// The last second of the leaf's validity.
    pub not_after: SystemTime,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl ServerIdentity {
    /// The leaf in DER, if there is a chain at all.
    #[must_use]
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }
}

impl Authority {
    /// A leaf for the key of `csr_der`, named `spiffe://<trust domain>/tenant/<tenant>/agent/<agent>`, for TLS clients
    /// only. It holds from ten minutes before `now` for `lifetime` after it, at most as long as the intermediate.
    pub fn issue_agent(
        &self,
        tenant: &TenantName,
        agent: &AgentName,
        csr_der: &[u8],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<IssuedChain, IssueError> {
        let key = CsrKey::from_csr(csr_der)?;
        let validity = self.agents.validity("agents", now, lifetime)?;
        let (serial_bytes, serial) = new_serial()?;
        let spiffe_id = spiffe_id(&self.trust_domain, tenant, agent);
        let mut params = validity.params("Outpost agent", &serial_bytes);
        params.subject_alt_names = vec![SanType::URI(spiffe_id.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(
            &SubjectPublicKeyInfo::from_der(&key.spki)?,
            &self.agents.issuer,
        )?;
        Ok(IssuedChain {
            chain: vec![leaf.der().to_vec(), self.agents.certificate.to_vec()],
            roots: vec![self.root.to_vec()],
            spiffe_id,
            not_after: validity.not_after,
            serial,
            public_key_sha256: key.sha256,
        })
    }

    /// A leaf with a new key for TLS servers only, named by `names` (DNS names or IP addresses, at least one) and
    /// `spiffe://<trust domain>/orchestrator`. Validity as with [`Self::issue_agent`].
    pub fn issue_server(
        &self,
        names: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<ServerIdentity, IssueError> {
        if names.is_empty() {
            return Err(IssueError::NoNames);
        }
        let validity = self.servers.validity("servers", now, lifetime)?;
        let (serial_bytes, _) = new_serial()?;
        let mut params = validity.params("Outpost orchestrator", &serial_bytes);
        params.subject_alt_names = names
            .iter()
            .map(|name| host(name))
            .collect::<Result<_, _>>()?;
        params.subject_alt_names.push(SanType::URI(
            orchestrator_id(&self.trust_domain).try_into()?,
        ));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(CreateError::Certificate)?;
        let leaf = params.signed_by(&key, &self.servers.issuer)?;
        Ok(ServerIdentity {
            chain: vec![
                leaf.der().clone(),
                self.servers.certificate.clone(),
                self.root.clone(),
            ],
            not_after: validity.not_after,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }
}

impl Intermediate {
    fn validity(
        &self,
        branch: &'static str,
        now: SystemTime,
        life: Duration,
    ) -> Result<Validity, IssueError> {
        if now >= self.not_after {
            return Err(IssueError::IntermediateExpired { branch });
        }
        Ok(Validity::new(now, life, Some(self.not_after))?)
    }
}

fn host(name: &str) -> Result<SanType, IssueError> {
    match ServerName::try_from(name) {
        Ok(ServerName::IpAddress(address)) => {
            Ok(SanType::IpAddress(std::net::IpAddr::from(address)))
        }
        Ok(ServerName::DnsName(dns)) => Ok(SanType::DnsName(dns.as_ref().try_into()?)),
        // `ServerName` may grow other kinds; none of them is a name of ours.
        Ok(_) | Err(_) => Err(IssueError::Name { name: shown(name) }),
    }
}
