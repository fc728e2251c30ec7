//! A certificate authority made for one test.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

pub(crate) const ORCHESTRATOR: &str = "spiffe://site.test/orchestrator";
pub(crate) const AGENT: &str = "spiffe://site.test/tenant/acme/agent/a1";

pub(crate) struct Ca {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

/// What a server presents.
pub(crate) struct ServerCert {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// How a leaf deviates from the usual one.
pub(crate) struct Leaf {
    pub(crate) uri: &'static str,
    pub(crate) usage: Vec<ExtendedKeyUsagePurpose>,
    /// Hours from now.
    pub(crate) from_h: i64,
    pub(crate) to_h: i64,
    /// And seconds.
    pub(crate) to_s: i64,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            uri: ORCHESTRATOR,
            usage: vec![ExtendedKeyUsagePurpose::ServerAuth],
            from_h: -1,
            to_h: 24,
            to_s: 0,
        }
    }
}

impl Leaf {
    pub(crate) fn of_agent(self, uri: &'static str) -> Self {
        let usage = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Self { uri, usage, ..self }
    }
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let root =
            CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap();
        let below = authority(&format!("{name} servers"));
        let intermediate =
            CertifiedIssuer::signed_by(below, KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, intermediate }
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    pub(crate) fn pin(&self) -> [u8; 32] {
        Sha256::digest(self.root.der()).into()
    }

    /// Leaf, intermediate and root.
    pub(crate) fn server(&self, leaf: Leaf) -> ServerCert {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf_params(&leaf)
            .signed_by(&key, &self.intermediate)
            .unwrap();
        ServerCert {
            chain: vec![
                certificate.der().clone(),
                self.intermediate.der().clone(),
                self.root.der().clone(),
            ],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// An agent's chain for the key of a request, and the end of its validity in seconds since 1970.
    pub(crate) fn agent(&self, csr: &[u8]) -> (Vec<Vec<u8>>, u64) {
        self.agent_as(csr, Leaf::default().of_agent(AGENT))
    }

    /// The same with another leaf.
    pub(crate) fn agent_as(&self, csr: &[u8], leaf: Leaf) -> (Vec<Vec<u8>>, u64) {
        let request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let params = leaf_params(&leaf);
        let not_after = u64::try_from(params.not_after.unix_timestamp()).unwrap();
        let certificate = params
            .signed_by(&request.public_key, &self.intermediate)
            .unwrap();
        (
            vec![certificate.der().to_vec(), self.intermediate.der().to_vec()],
            not_after,
        )
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(2);
    params
}

fn leaf_params(leaf: &Leaf) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(leaf.uri.try_into().unwrap())];
    params.extended_key_usages = leaf.usage.clone();
    params.not_before = OffsetDateTime::now_utc() + Duration::hours(leaf.from_h);
    params.not_after =
        OffsetDateTime::now_utc() + Duration::hours(leaf.to_h) + Duration::seconds(leaf.to_s);
    params
}
