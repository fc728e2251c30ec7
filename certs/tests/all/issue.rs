//! Certificate requests: what is taken from them, and what is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outpost_certs::ca::{Authority, CreateError};
use outpost_certs::identity::{AgentIdentity, OrchestratorIdentity};
use outpost_certs::issue::{CsrError, CsrKey, IssueError};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _,
    SanType,
};
use sha2::{Digest as _, Sha256};
use x509_parser::parse_x509_certificate;

use crate::{AGENT_URI, DAY, DOMAIN, authority, csr, issue};

#[test]
fn an_agents_leaf_says_who_it_is_and_for_how_long() {
    let now = SystemTime::now();
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let issued = issue(&authority, &key, now);
    let identity = AgentIdentity::from_leaf(&issued.chain[0], DOMAIN).unwrap();
    assert_eq!(identity.spiffe_id, AGENT_URI);
    assert_eq!(issued.spiffe_id, AGENT_URI);
    assert_eq!(identity.serial, issued.serial);
    assert_eq!(identity.not_after, issued.not_after);
    let hash: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
    assert_eq!(
        (identity.public_key_sha256, issued.public_key_sha256),
        (hash, hash)
    );
    assert_eq!(CsrKey::from_csr(&csr(&key)).unwrap().sha256, hash);
    let seconds = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(
        issued.not_after,
        UNIX_EPOCH + Duration::from_secs(seconds) + DAY
    );
    let (_, leaf) = parse_x509_certificate(&issued.chain[0]).unwrap();
    assert_eq!(
        leaf.validity().not_before.timestamp(),
        i64::try_from(seconds).unwrap() - 600
    );
    assert!(
        issued.chain[0].len() < 1024,
        "{} bytes",
        issued.chain[0].len()
    );
    assert_eq!(issued.roots, [authority.root().to_vec()]);
    let again = issue(&authority, &key, now);
    assert_ne!(
        again.serial, issued.serial,
        "serial numbers are random, not derived from the key"
    );
    assert_eq!(issued.serial.as_str().len(), 32);
}

#[test]
fn of_a_greedy_request_only_the_key_is_taken() {
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(["evil.example".to_owned()]).unwrap();
    greedy.subject_alt_names.push(SanType::URI(
        "spiffe://test.example/tenant/victim/agent/a"
            .try_into()
            .unwrap(),
    ));
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    greedy.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    // The library that writes requests leaves out the authority flag, so it goes in as a raw extension.
    greedy
        .custom_extensions
        .push(CustomExtension::from_oid_content(
            &[2, 5, 29, 19],
            vec![0x30, 3, 1, 1, 0xff],
        ));
    greedy.is_ca = IsCa::NoCa;
    let request = greedy.serialize_request(&key).unwrap();
    let (tenant, agent) = ("acme".parse().unwrap(), "north".parse().unwrap());
    let issued = authority()
        .issue_agent(&tenant, &agent, request.der(), SystemTime::now(), DAY)
        .unwrap();
    let identity = AgentIdentity::from_leaf(&issued.chain[0], DOMAIN).unwrap();
    assert_eq!(identity.spiffe_id, AGENT_URI);
    let (_, leaf) = parse_x509_certificate(&issued.chain[0]).unwrap();
    assert!(!leaf.is_ca());
    let extensions: Vec<String> = leaf
        .extensions()
        .iter()
        .map(|e| e.oid.to_id_string())
        .collect();
    let expected = [
        "2.5.29.35",
        "2.5.29.17",
        "2.5.29.15",
        "2.5.29.37",
        "2.5.29.14",
        "2.5.29.19",
    ]
    .map(str::to_owned);
    assert_eq!(extensions, expected, "nothing the request asked for");
    assert!(!leaf.subject().to_string().contains("rcgen"));
}

#[test]
fn other_kinds_of_keys_are_refused() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(
            CsrKey::from_csr(&csr(&key)),
            Err(CsrError::Key),
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_request_with_any_bit_changed_is_refused() {
    let honest = csr(&KeyPair::generate().unwrap());
    CsrKey::from_csr(&honest).unwrap();
    for bit in 0..honest.len() * 8 {
        let mut tampered = honest.clone();
        tampered[bit / 8] ^= 1 << (bit % 8);
        assert!(CsrKey::from_csr(&tampered).is_err(), "bit {bit}");
    }
    let mut last = honest.clone();
    *last.last_mut().unwrap() ^= 1;
    assert_eq!(CsrKey::from_csr(&last), Err(CsrError::Signature));
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let (mine, victim) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut request = csr(&mine);
    let place = request
        .windows(65)
        .position(|part| part == mine.der_bytes())
        .unwrap();
    request[place..place + 65].copy_from_slice(victim.der_bytes());
    assert_eq!(CsrKey::from_csr(&request), Err(CsrError::Signature));
}

#[test]
fn requests_of_other_sizes_and_shapes_are_refused() {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = (0..60).map(|n| format!("host-{n}.example.org")).collect();
    let large = CertificateParams::new(names)
        .unwrap()
        .serialize_request(&key)
        .unwrap();
    let bytes = large.der().len();
    assert!(bytes > 1024);
    assert_eq!(
        CsrKey::from_csr(large.der()),
        Err(CsrError::TooLarge { bytes })
    );
    let mut trailing = csr(&key);
    trailing.push(0);
    for junk in [&trailing[..], b"", b"junk", &trailing[..trailing.len() - 2]] {
        assert_eq!(CsrKey::from_csr(junk), Err(CsrError::NotARequest));
    }
}

#[test]
fn no_leaf_outlives_its_intermediate() {
    let now = SystemTime::now();
    let authority = Authority::create(DOMAIN, now).unwrap();
    let key = KeyPair::generate().unwrap();
    let end = now + 730 * DAY;
    let late = issue(&authority, &key, end - DAY / 2);
    assert!(late.not_after <= end && late.not_after > end - Duration::from_secs(2));
    let (tenant, agent) = ("acme".parse().unwrap(), "north".parse().unwrap());
    let error = authority
        .issue_agent(&tenant, &agent, &csr(&key), end, DAY)
        .unwrap_err();
    assert!(matches!(
        error,
        IssueError::IntermediateExpired { branch: "agents" }
    ));
    let error = authority
        .issue_server(&["a".to_owned()], end, DAY)
        .unwrap_err();
    assert!(matches!(
        error,
        IssueError::IntermediateExpired { branch: "servers" }
    ));
}

#[test]
fn a_server_is_named_by_hosts_that_are_hosts() {
    let authority = authority();
    let names = ["outpost.example.org", "127.0.0.1", "::1"].map(str::to_owned);
    let server = authority
        .issue_server(&names, SystemTime::now(), DAY)
        .unwrap();
    let identity = OrchestratorIdentity::from_leaf(server.leaf().unwrap(), DOMAIN).unwrap();
    assert_eq!(identity.hosts, names);
    assert_eq!(identity.not_after, server.not_after);
    assert!(!format!("{server:?}").contains("key"));
    let none = authority
        .issue_server(&[], SystemTime::now(), DAY)
        .unwrap_err();
    assert!(matches!(none, IssueError::NoNames));
    for name in ["", "a b", "https://a", "a:1", "é.example", "a\0"] {
        let error = authority
            .issue_server(&[name.to_owned()], SystemTime::now(), DAY)
            .unwrap_err();
        assert!(
            matches!(error, IssueError::Name { .. }),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn an_authority_has_three_limited_branches() {
    let authority = authority();
    let (_, root) = parse_x509_certificate(authority.root()).unwrap();
    let constraints = root.basic_constraints().unwrap().unwrap().value;
    assert_eq!(
        (constraints.ca, constraints.path_len_constraint),
        (true, Some(1))
    );
    let (_, agents) = parse_x509_certificate(authority.agents_anchor()).unwrap();
    let constraints = agents.basic_constraints().unwrap().unwrap().value;
    assert_eq!(
        (constraints.ca, constraints.path_len_constraint),
        (true, Some(0))
    );
    let usage = agents.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    let extended = agents.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth);
    assert!(
        agents.name_constraints().unwrap().is_none() && root.name_constraints().unwrap().is_none()
    );
    assert_eq!(
        Sha256::digest(authority.root()).as_slice(),
        authority.root_pin()
    );
}

#[test]
fn an_authority_needs_a_trust_domain_and_a_sane_clock() {
    for domain in [
        "",
        "Test.example",
        "a/b",
        "a b",
        "a:1",
        "é",
        &"a".repeat(256),
    ] {
        let error = Authority::create(domain, SystemTime::now()).unwrap_err();
        assert!(matches!(error, CreateError::TrustDomain(_)), "{domain:?}");
    }
    let absurd = UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    assert!(matches!(
        Authority::create(DOMAIN, absurd),
        Err(CreateError::Time { .. })
    ));
    // Before 1970 counts as 1970: the certificates are out of time, but nothing breaks.
    Authority::create(DOMAIN, UNIX_EPOCH - DAY).unwrap();
}
