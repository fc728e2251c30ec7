//! Hostile certificates against the one identity parser.

use outpost_certs::identity::{AgentIdentity, IdentityError, OrchestratorIdentity, Purpose};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType,
};

use crate::{AGENT_URI, DOMAIN, agent_params};

fn read(params: &CertificateParams) -> Result<AgentIdentity, IdentityError> {
    let key = KeyPair::generate().unwrap();
    AgentIdentity::from_leaf(params.self_signed(&key).unwrap().der(), DOMAIN)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[test]
fn the_exact_form_is_read() {
    let identity = read(&agent_params()).unwrap();
    assert_eq!(
        (identity.tenant.as_str(), identity.agent.as_str()),
        ("acme", "north")
    );
    let longest = "a".repeat(63);
    let mut params = agent_params();
    params.subject_alt_names = vec![uri(&format!(
        "spiffe://{DOMAIN}/tenant/{longest}/agent/{longest}"
    ))];
    assert_eq!(read(&params).unwrap().agent.as_str(), longest);
}

#[test]
fn any_other_uri_is_refused() {
    let long = format!("spiffe://{DOMAIN}/tenant/acme/agent/{}", "a".repeat(64));
    let hostile = [
        "spiffe://other.example/tenant/acme/agent/north",
        "spiffe://test.example.evil/tenant/acme/agent/north",
        "spiffe://test.exampl/tenant/acme/agent/north",
        "spiffe://xtest.example/tenant/acme/agent/north",
        "spiffe:///tenant/acme/agent/north",
        "spiffe://TEST.example/tenant/acme/agent/north",
        "SPIFFE://test.example/tenant/acme/agent/north",
        "https://test.example/tenant/acme/agent/north",
        "spiffe://test.example:443/tenant/acme/agent/north",
        "spiffe://user@test.example/tenant/acme/agent/north",
        "spiffe://test.example/tenant/acme/agent/north/",
        "spiffe://test.example/tenant/acme/agent/north?x=1",
        "spiffe://test.example/tenant/acme/agent/north#x",
        "spiffe://test.example/tenant/acme/agent/north%2f",
        "spiffe://test.example/tenant/%61cme/agent/north",
        "spiffe://test.example/tenant/acme/agent/North",
        "spiffe://test.example/tenant/Acme/agent/north",
        "spiffe://test.example/Tenant/acme/agent/north",
        "spiffe://test.example/tenant/acme/agent/..",
        "spiffe://test.example/tenant/../agent/north",
        "spiffe://test.example/tenant/acme/../agent/north",
        "spiffe://test.example/tenant/acme/agent/./north",
        "spiffe://test.example/tenant//agent/north",
        "spiffe://test.example/tenant/acme/agent/",
        "spiffe://test.example//tenant/acme/agent/north",
        "spiffe://test.example/tenant/acme/agent/north/agent/b",
        "spiffe://test.example/tenant/acme/agent/agent/north",
        "spiffe://test.example/tenant/acme",
        "spiffe://test.example/agent/north/tenant/acme",
        "spiffe://test.example/orchestrator",
        "spiffe://test.example",
        "spiffe://test.example/tenant/acme/agent/north\0",
        "spiffe://test.example/tenant/acme\0/agent/north",
        "\0spiffe://test.example/tenant/acme/agent/north",
        " spiffe://test.example/tenant/acme/agent/north",
        "spiffe://test.example/tenant/acme/agent/north\n",
        "spiffe://test.example/tenant/acme/agent/nor th",
        "",
        &long,
    ];
    for text in hostile {
        let mut params = agent_params();
        params.subject_alt_names = vec![uri(text)];
        let error = read(&params).unwrap_err();
        assert!(
            matches!(error, IdentityError::Uri { .. }),
            "{text:?}: {error}"
        );
        assert!(
            !error.to_string().contains(['\0', '\n']),
            "{text:?} is shown raw"
        );
    }
}

#[test]
fn none_two_or_other_names_are_refused() {
    let other = "spiffe://test.example/tenant/b/agent/b";
    let mail = SanType::Rfc822Name("a@test.example".try_into().unwrap());
    let address = SanType::IpAddress([127, 0, 0, 1].into());
    for names in [
        vec![],
        vec![uri(AGENT_URI), uri(AGENT_URI)],
        vec![uri(AGENT_URI), uri(other)],
        vec![uri(other), uri(AGENT_URI)],
        vec![uri(AGENT_URI), dns("localhost")],
        vec![uri(AGENT_URI), mail],
        vec![address, uri(AGENT_URI)],
        vec![dns(AGENT_URI)],
    ] {
        let mut params = agent_params();
        params.subject_alt_names.clone_from(&names);
        let error = read(&params).unwrap_err();
        assert!(
            matches!(error, IdentityError::Names { .. }),
            "{names:?}: {error}"
        );
    }
}

#[test]
fn a_huge_name_is_refused_by_size() {
    let mut params = agent_params();
    params.subject_alt_names = vec![uri(&format!("{AGENT_URI}{}", "a".repeat(2048)))];
    assert!(matches!(read(&params), Err(IdentityError::TooLarge { .. })));
}

#[test]
fn a_second_list_of_names_is_refused() {
    let mut params = agent_params();
    let mut list = vec![0x86, u8::try_from(AGENT_URI.len()).unwrap()];
    list.extend(AGENT_URI.bytes());
    let mut content = vec![0x30, u8::try_from(list.len()).unwrap()];
    content.extend(list);
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
    assert_eq!(
        read(&params),
        Err(IdentityError::Extension("subject alternative name"))
    );
    // By itself that extension is fine: it is the repetition that is refused.
    params.subject_alt_names.clear();
    assert_eq!(read(&params).unwrap().spiffe_id, AGENT_URI);
}

#[test]
fn other_purposes_are_refused() {
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    for extended in [
        vec![],
        vec![ExtendedKeyUsagePurpose::ServerAuth],
        vec![client.clone(), ExtendedKeyUsagePurpose::ServerAuth],
        vec![client.clone(), ExtendedKeyUsagePurpose::Any],
        vec![ExtendedKeyUsagePurpose::Any],
        vec![client.clone(), ExtendedKeyUsagePurpose::CodeSigning],
        vec![client, ExtendedKeyUsagePurpose::Other(vec![1, 2, 3, 4])],
    ] {
        let mut params = agent_params();
        params.extended_key_usages.clone_from(&extended);
        assert_eq!(
            read(&params),
            Err(IdentityError::Purpose(Purpose::Client)),
            "{extended:?}"
        );
    }
    let mut params = agent_params();
    params.key_usages.clear();
    assert_eq!(read(&params), Err(IdentityError::Purpose(Purpose::Client)));
}

#[test]
fn an_authority_is_nobody() {
    let mut params = agent_params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(read(&params), Err(IdentityError::IsAuthority));
    let mut params = agent_params();
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_eq!(read(&params), Err(IdentityError::IsAuthority));
}

#[test]
fn another_kind_of_key_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let leaf = agent_params().self_signed(&key).unwrap();
    assert_eq!(
        AgentIdentity::from_leaf(leaf.der(), DOMAIN),
        Err(IdentityError::Key)
    );
}

#[test]
fn damaged_bytes_are_refused_without_a_panic() {
    let key = KeyPair::generate().unwrap();
    let honest = agent_params().self_signed(&key).unwrap().der().to_vec();
    let mut trailing = honest.clone();
    trailing.push(0);
    assert_eq!(
        AgentIdentity::from_leaf(&trailing, DOMAIN),
        Err(IdentityError::NotACertificate)
    );
    for end in 0..honest.len() {
        assert_eq!(
            AgentIdentity::from_leaf(&honest[..end], DOMAIN),
            Err(IdentityError::NotACertificate)
        );
    }
    for bit in 0..honest.len() * 8 {
        let mut tampered = honest.clone();
        tampered[bit / 8] ^= 1 << (bit % 8);
        // The signature is not this parser's business; that it returns is what counts.
        let _ = AgentIdentity::from_leaf(&tampered, DOMAIN);
    }
}

#[test]
fn a_server_must_be_this_trust_domains_orchestrator() {
    let key = KeyPair::generate().unwrap();
    let read = |names: Vec<SanType>, purpose| {
        let mut params = agent_params();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![purpose];
        OrchestratorIdentity::from_leaf(params.self_signed(&key).unwrap().der(), DOMAIN)
    };
    let server = || ExtendedKeyUsagePurpose::ServerAuth;
    let ours = || uri("spiffe://test.example/orchestrator");
    assert_eq!(
        read(vec![dns("localhost"), ours()], server())
            .unwrap()
            .hosts,
        ["localhost"]
    );
    for (names, purpose) in [
        (vec![ours()], server()),
        (vec![dns("a")], server()),
        (vec![dns("a"), ours(), ours()], server()),
        (
            vec![dns("a"), uri("spiffe://other.example/orchestrator")],
            server(),
        ),
        (
            vec![dns("a"), uri("spiffe://test.example/orchestrator/")],
            server(),
        ),
        (vec![dns("a"), uri(AGENT_URI)], server()),
        (vec![dns("a"), ours()], ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let shown = format!("{names:?} {purpose:?}");
        assert!(read(names, purpose).is_err(), "{shown}");
    }
}
