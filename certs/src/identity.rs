//! The one strict reading of a certificate: who its holder is.
//!
//! TLS decides whether a chain is trusted and in time; this decides what the leaf says, and accepts exactly one form.
//! Called for every connection and by nothing that issues. It never repairs, normalises or guesses.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outpost_proto::limits::CERTIFICATE_BYTES;
use outpost_proto::name::{AgentName, TenantName, spiffe_id};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::FromDer as _;

use crate::crypto::{hex, p256_point, sha256};

/// Characters of a trust domain.
const TRUST_DOMAIN_LEN: usize = 255;

/// A certificate that names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Larger than any certificate of ours.
    #[error("the certificate has {bytes} bytes, more than the {CERTIFICATE_BYTES} allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not DER of one X.509 certificate and nothing else.
    #[error("the bytes are not one X.509 certificate in DER")]
    NotACertificate,
    /// An extension is damaged or occurs twice.
    #[error("the certificate's extension {0} is damaged or repeated")]
    Extension(&'static str),
    /// A certificate authority's own certificate.
    #[error("the certificate is an authority's, not a leaf")]
    IsAuthority,
    /// Not ECDSA P-256.
    #[error("the certificate's key is not ECDSA P-256")]
    Key,
    /// Key usage or extended key usage differ from what the role needs.
    #[error("the certificate is not for exactly {0}")]
    Purpose(Purpose),
    /// Alternative names other than the one expected.
    #[error("the certificate must have {expected} as subject alternative names, it has {found}")]
    Names {
        /// What the role needs.
        expected: &'static str,
        /// A count by kind.
        found: String,
    },
    /// The URI is not of the expected form or trust domain.
    #[error("the certificate names `{uri}`, expected {expected}")]
    Uri {
        /// What it says, cut to 80 characters, control characters replaced.
        uri: String,
        /// The form that is accepted.
        expected: String,
    },
}

/// What a leaf may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `clientAuth` and nothing else.
    Client,
    /// `serverAuth` and nothing else.
    Server,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "TLS client authentication",
            Self::Server => "TLS server authentication",
        })
    }
}

/// A text that is no trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a valid trust domain: use 1 to 255 of a-z, 0-9, `-`, `_`, `.`, such as `outpost.example.org`"
)]
pub struct NotATrustDomain {
    /// What was given, cut to 80 characters, control characters replaced.
    pub text: String,
}

/// Accepts what SPIFFE allows as a trust domain.
pub fn check_trust_domain(text: &str) -> Result<(), NotATrustDomain> {
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if (1..=TRUST_DOMAIN_LEN).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(());
    }
    Err(NotATrustDomain { text: shown(text) })
}

/// `spiffe://<trust domain>/orchestrator`: the one URI SAN of a server's certificate.
#[must_use]
pub fn orchestrator_id(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/orchestrator")
}

/// A certificate's serial number: at least 32 lower-case hex digits, so 128-bit ones have one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    /// From the big-endian number, with or without leading zeros.
    #[must_use]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
        Self(format!("{:0>32}", hex(&bytes[start..])))
    }

    /// The hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What an agent's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The only place a tenant may come from.
    pub tenant: TenantName,
    /// Within the tenant.
    pub agent: AgentName,
    /// The URI as it stands in the certificate.
    pub spiffe_id: String,
    /// Of the certificate.
    pub serial: Serial,
    /// The last second of validity.
    pub not_after: SystemTime,
    /// SHA-256 of the SubjectPublicKeyInfo in DER: the key that enrolment bound.
    pub public_key_sha256: [u8; 32],
}

impl AgentIdentity {
    /// Reads an agent's leaf. Trust and time are not checked here.
    pub fn from_leaf(der: &[u8], trust_domain: &str) -> Result<Self, IdentityError> {
        let leaf = Leaf::parse(der, Purpose::Client)?;
        let [uri] = leaf.uris.as_slice() else {
            return Err(leaf.names_error("exactly one URI"));
        };
        if !leaf.hosts.is_empty() || leaf.others > 0 {
            return Err(leaf.names_error("exactly one URI"));
        }
        let (tenant, agent) = agent_of(uri, trust_domain).ok_or_else(|| IdentityError::Uri {
            uri: shown(uri),
            expected: format!("spiffe://{trust_domain}/tenant/<tenant>/agent/<agent>"),
        })?;
        Ok(Self {
            tenant,
            agent,
            spiffe_id: uri.clone(),
            serial: leaf.serial,
            not_after: leaf.not_after,
            public_key_sha256: leaf.public_key_sha256,
        })
    }
}

/// What a server's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrchestratorIdentity {
    /// DNS names and IP addresses it serves under.
    pub hosts: Vec<String>,
    /// Of the certificate.
    pub serial: Serial,
    /// The last second of validity.
    pub not_after: SystemTime,
    /// SHA-256 of the SubjectPublicKeyInfo in DER.
    pub public_key_sha256: [u8; 32],
}

impl OrchestratorIdentity {
    /// Reads a server's leaf. Trust, time and host name are not checked here.
    pub fn from_leaf(der: &[u8], trust_domain: &str) -> Result<Self, IdentityError> {
        const EXPECTED: &str = "exactly one URI and at least one DNS name or IP address";
        let leaf = Leaf::parse(der, Purpose::Server)?;
        let [uri] = leaf.uris.as_slice() else {
            return Err(leaf.names_error(EXPECTED));
        };
        if leaf.hosts.is_empty() || leaf.others > 0 {
            return Err(leaf.names_error(EXPECTED));
        }
        let expected = orchestrator_id(trust_domain);
        if *uri != expected {
            return Err(IdentityError::Uri {
                uri: shown(uri),
                expected,
            });
        }
        let Leaf {
            hosts,
            serial,
            not_after,
            public_key_sha256,
            ..
        } = leaf;
        Ok(Self {
            hosts,
            serial,
            not_after,
            public_key_sha256,
        })
    }
}

/// Tenant and agent, if `uri` is byte for byte what those names spell.
fn agent_of(uri: &str, trust_domain: &str) -> Option<(TenantName, AgentName)> {
    let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
    let (tenant, agent) = path.strip_prefix("/tenant/")?.split_once("/agent/")?;
    let (tenant, agent) = (tenant.parse().ok()?, agent.parse().ok()?);
    (spiffe_id(trust_domain, &tenant, &agent) == uri).then_some((tenant, agent))
}

/// The parts of a leaf that both roles need.
struct Leaf {
    uris: Vec<String>,
    hosts: Vec<String>,
    others: usize,
    serial: Serial,
    not_after: SystemTime,
    public_key_sha256: [u8; 32],
}

impl Leaf {
    fn parse(der: &[u8], purpose: Purpose) -> Result<Self, IdentityError> {
        if der.len() > CERTIFICATE_BYTES {
            return Err(IdentityError::TooLarge { bytes: der.len() });
        }
        let certificate = parse_certificate(der).ok_or(IdentityError::NotACertificate)?;
        check_not_authority(&certificate)?;
        check_purpose(&certificate, purpose)?;
        let spki = certificate.public_key().raw;
        p256_point(spki).ok_or(IdentityError::Key)?;
        let mut leaf = Self {
            uris: Vec::new(),
            hosts: Vec::new(),
            others: 0,
            serial: Serial::from_bytes(certificate.raw_serial()),
            not_after: not_after(&certificate),
            public_key_sha256: sha256(spki),
        };
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| IdentityError::Extension("subject alternative name"))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            leaf.add_name(name);
        }
        Ok(leaf)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(host) => self.hosts.push((*host).to_owned()),
            GeneralName::IPAddress(bytes) => match ip_address(bytes) {
                Some(address) => self.hosts.push(address.to_string()),
                None => self.others += 1,
            },
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => self.others += 1,
        }
    }

    fn names_error(&self, expected: &'static str) -> IdentityError {
        let found = format!(
            "{} URIs, {} hosts and {} of other kinds",
            self.uris.len(),
            self.hosts.len(),
            self.others
        );
        IdentityError::Names { expected, found }
    }
}

/// The certificate, if `der` is one and nothing follows it.
pub(crate) fn parse_certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(certificate)
}

/// The last second of validity; before 1970 counts as 1970.
pub(crate) fn not_after(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = certificate.validity().not_after.timestamp();
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn check_not_authority(certificate: &X509Certificate<'_>) -> Result<(), IdentityError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| IdentityError::Extension("basic constraints"))?;
    let usage = certificate
        .key_usage()
        .map_err(|_| IdentityError::Extension("key usage"))?;
    let may_sign = usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    if may_sign || constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(IdentityError::IsAuthority);
    }
    Ok(())
}

fn check_purpose(certificate: &X509Certificate<'_>, purpose: Purpose) -> Result<(), IdentityError> {
    let usage = certificate
        .key_usage()
        .map_err(|_| IdentityError::Extension("key usage"))?;
    let extended = certificate
        .extended_key_usage()
        .map_err(|_| IdentityError::Extension("extended key usage"))?;
    let signs = usage.is_some_and(|usage| usage.value.digital_signature());
    if !signs || !extended.is_some_and(|extended| is_exactly(extended.value, purpose)) {
        return Err(IdentityError::Purpose(purpose));
    }
    Ok(())
}

fn is_exactly(usage: &ExtendedKeyUsage<'_>, purpose: Purpose) -> bool {
    let ExtendedKeyUsage {
        any,
        server_auth,
        client_auth,
        code_signing,
        email_protection,
        time_stamping,
        ocsp_signing,
        other,
    } = usage;
    let extra = *any
        || *code_signing
        || *email_protection
        || *time_stamping
        || *ocsp_signing
        || !other.is_empty();
    let wanted = match purpose {
        Purpose::Client => *client_auth && !*server_auth,
        Purpose::Server => *server_auth && !*client_auth,
    };
    wanted && !extra
}

fn ip_address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(Into::into);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(Into::into);
    v4().or_else(v6)
}

/// A hostile text, safe to show.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
