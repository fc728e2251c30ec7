//! A home that looks enrolled: a real certificate of an authority made for the test.

use std::path::Path;
use std::time::{Duration, SystemTime};

use outpost_certs::ca::Authority;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::support::{Home, entry, mode};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// When the certificate was made and for how long it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) made: SystemTime,
    pub(crate) life: Duration,
}

impl Validity {
    pub(crate) fn fresh() -> Self {
        Self {
            made: SystemTime::now(),
            life: DAY,
        }
    }

    pub(crate) fn made_ago(ago: Duration) -> Self {
        Self {
            made: SystemTime::now() - ago,
            life: DAY,
        }
    }
}

pub(crate) fn authority() -> Authority {
    Authority::create("site.test", SystemTime::now() - 10 * DAY).unwrap()
}

/// Enrolled at this address.
pub(crate) fn enrolled(address: &str, validity: Validity) -> Home {
    let home = Home::new().with_state("2").with_catalogue(&entry());
    mode(home.0.path(), 0o711);
    let spiffe_id = keys(&home, "a1", validity);
    let identity = serde_json::json!({
        "orchestrator": address, "tenant": "acme", "agent": "a1", "spiffe_id": spiffe_id,
    });
    write(&home.state().join("identity.json"), identity.to_string());
    home
}

/// Puts key and certificate of an agent into place.
pub(crate) fn keys(home: &Home, agent: &str, validity: Validity) -> String {
    let ca = authority();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).unwrap();
    let issued = ca
        .issue_agent(
            &"acme".parse().unwrap(),
            &agent.parse().unwrap(),
            request.der(),
            validity.made,
            validity.life,
        )
        .unwrap();
    let dir = home.state().join("keys");
    let _ = std::fs::create_dir(&dir);
    mode(&dir, 0o700);
    write(&dir.join("agent.key"), key.serialize_pem());
    let chain = issued.chain.iter();
    let chain = chain.map(|der| outpost_certs::pem::encode_certificate(der));
    write(&dir.join("agent.crt"), chain.collect::<String>());
    let roots = issued.roots.iter();
    let roots = roots.map(|der| outpost_certs::pem::encode_certificate(der));
    write(&dir.join("roots.crt"), roots.collect::<String>());
    // What says since when it is in use.
    let stored = std::fs::File::options()
        .write(true)
        .open(dir.join("agent.crt"));
    stored.unwrap().set_modified(validity.made).unwrap();
    issued.spiffe_id
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
    mode(path, 0o600);
}
