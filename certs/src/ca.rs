//! The certificate authority: a root and one intermediate each for agents, servers and operators.
//!
//! Three branches with separate extended key usages, so that a certificate of one branch is worth nothing in another.
//! The root's key is needed only to make intermediates and may be taken offline. There are no name constraints: the
//! path validation in use rejects URI names under them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::crypto::{NoRandomness, hex, random, sha256};
use crate::identity::{NotATrustDomain, Serial, check_trust_domain};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Ten years.
const ROOT_LIFE: Duration = Duration::from_secs(3652 * DAY.as_secs());
/// Two years.
const INTERMEDIATE_LIFE: Duration = Duration::from_secs(730 * DAY.as_secs());
/// How far validity begins before the time of issue, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(10 * 60);

/// Why no authority or certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The trust domain is not one.
    #[error(transparent)]
    TrustDomain(#[from] NotATrustDomain),
    /// No key or serial number.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The time of issue or of expiry cannot be written into a certificate.
    #[error(
        "the time {seconds} s after 1970 cannot stand in a certificate; check this machine's clock"
    )]
    Time {
        /// The time that does not fit.
        seconds: u64,
    },
    /// Key generation or signing failed.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The root certificate and three intermediates with their keys.
pub struct Authority {
    pub(crate) trust_domain: String,
    pub(crate) root: CertificateDer<'static>,
    /// Only in an authority just created; it is saved once and never read again by a server.
    pub(crate) root_key: Option<KeyPair>,
    pub(crate) agents: Intermediate,
    pub(crate) servers: Intermediate,
    pub(crate) operators: Intermediate,
}

/// One branch: what signs leaves.
pub(crate) struct Intermediate {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) not_after: SystemTime,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("root_pin", &hex(&self.root_pin()))
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority with new keys, valid from ten minutes before `now`: root for ten years, intermediates for
    /// two.
    pub fn create(trust_domain: &str, now: SystemTime) -> Result<Self, CreateError> {
        check_trust_domain(trust_domain)?;
        let root_key = KeyPair::generate()?;
        let mut params = authority_params("Outpost root", 1, Validity::new(now, ROOT_LIFE, None)?)?;
        params.subject_alt_names = vec![SanType::URI(root_id(trust_domain).try_into()?)];
        let root = params.self_signed(&root_key)?.der().clone();
        let issuer = Issuer::from_params(&params, &root_key);
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let agents = Intermediate::create("Outpost agents", client.clone(), &issuer, now)?;
        let servers = Intermediate::create(
            "Outpost servers",
            ExtendedKeyUsagePurpose::ServerAuth,
            &issuer,
            now,
        )?;
        let operators = Intermediate::create("Outpost operators", client, &issuer, now)?;
        let trust_domain = trust_domain.to_owned();
        Ok(Self {
            trust_domain,
            root,
            root_key: Some(root_key),
            agents,
            servers,
            operators,
        })
    }

    /// The first part of every SPIFFE id under this authority.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The root certificate: what agents and clients trust.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// SHA-256 of the root certificate in DER: the pin in a join token.
    #[must_use]
    pub fn root_pin(&self) -> [u8; 32] {
        sha256(&self.root)
    }

    /// The intermediate under which agents are accepted, as trust anchor for [`crate::tls::server_config`].
    #[must_use]
    pub fn agents_anchor(&self) -> &CertificateDer<'static> {
        &self.agents.certificate
    }
}

impl Intermediate {
    fn create(
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
        root: &Issuer<'_, &KeyPair>,
        now: SystemTime,
    ) -> Result<Self, CreateError> {
        let key = KeyPair::generate()?;
        let validity = Validity::new(now, INTERMEDIATE_LIFE, None)?;
        let not_after = validity.not_after;
        let mut params = authority_params(name, 0, validity)?;
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, root)?.der().clone();
        Ok(Self {
            certificate,
            not_after,
            issuer: Issuer::new(params, key),
        })
    }
}

/// `spiffe://<trust domain>`: in the root, so that a directory of certificates says what it is for.
pub(crate) fn root_id(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}")
}

fn authority_params(
    name: &str,
    path_length: u8,
    validity: Validity,
) -> Result<CertificateParams, CreateError> {
    // Two authorities never share a subject, so a chain of the other one is "unknown issuer", not "bad signature".
    let subject = format!("{name} {}", hex(&random::<4>()?));
    let mut params = validity.params(&subject, &new_serial()?.0);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A random 128-bit serial number, as bytes and as text.
pub(crate) fn new_serial() -> Result<([u8; 16], Serial), CreateError> {
    let bytes = random::<16>()?;
    let serial = Serial::from_bytes(&bytes);
    Ok((bytes, serial))
}

/// From when to when a certificate holds, in whole seconds as certificates count.
pub(crate) struct Validity {
    begin: OffsetDateTime,
    end: OffsetDateTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// From ten minutes before `now` for `lifetime` after it, but not past `limit`.
    pub(crate) fn new(
        now: SystemTime,
        lifetime: Duration,
        limit: Option<SystemTime>,
    ) -> Result<Self, CreateError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut end = now.saturating_add(lifetime.as_secs());
        if let Some(limit) = limit {
            end = end.min(
                limit
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs(),
            );
        }
        Ok(Self {
            begin: date(now.saturating_sub(BACKDATE.as_secs()))?,
            end: date(end)?,
            // No overflow: `date` has just refused years past 9999.
            not_after: UNIX_EPOCH + Duration::from_secs(end),
        })
    }

    /// Parameters with everything stated that would otherwise take a library's default.
    pub(crate) fn params(&self, common_name: &str, serial: &[u8]) -> CertificateParams {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, common_name);
        let mut params = CertificateParams::default();
        params.not_before = self.begin;
        params.not_after = self.end;
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.distinguished_name = name;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params
    }
}

fn date(seconds: u64) -> Result<OffsetDateTime, CreateError> {
    let timestamp = i64::try_from(seconds).ok();
    timestamp
        .and_then(|t| OffsetDateTime::from_unix_timestamp(t).ok())
        .ok_or(CreateError::Time { seconds })
}
