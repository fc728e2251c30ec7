//! Connections that must not come about, and the side that says so.

use std::sync::Arc;
use std::time::SystemTime;

use outpost_certs::tls::PeerError;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

use crate::{
    DAY, Identity, agent, agent_params, agent_port, authority, client, connect, key_der, rogue,
};

fn tls_error(error: &std::io::Error) -> Error {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
        .unwrap()
        .clone()
}

/// What the agent port says to a client with this certificate.
async fn refused(authority: &outpost_certs::ca::Authority, identity: Identity) -> Error {
    let config = Arc::new(client(authority, Some(identity)));
    let (server, client) = connect(agent_port(authority), &config, "localhost").await;
    assert!(client.is_err(), "the client must learn of it");
    // Who it was taken for is irrelevant: it must not have been let in at all.
    tls_error(&server.err().unwrap())
}

#[tokio::test]
async fn certificates_out_of_time_are_refused() {
    let now = SystemTime::now();
    let authority = outpost_certs::ca::Authority::create(crate::DOMAIN, now - 3 * DAY).unwrap();
    let expired = refused(&authority, agent(&authority, now - 2 * DAY)).await;
    assert!(
        matches!(
            expired,
            Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ),
        "{expired:?}"
    );
    let early = refused(&authority, agent(&authority, now + DAY)).await;
    assert!(
        matches!(
            early,
            Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })
        ),
        "{early:?}"
    );
}

#[tokio::test]
async fn certificates_of_other_authorities_are_refused() {
    let mine = authority();
    let foreign = refused(&mine, agent(&authority(), SystemTime::now())).await;
    assert_eq!(
        foreign,
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    );
    let key = KeyPair::generate().unwrap();
    let alone = vec![agent_params().self_signed(&key).unwrap().der().clone()];
    let self_signed = refused(&mine, (alone, key_der(&key))).await;
    assert_eq!(
        self_signed,
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    );
}

#[tokio::test]
async fn certificates_of_other_branches_are_refused() {
    let authority = authority();
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    authority.save(&saved).unwrap();
    // Even a leaf that says exactly what an agent's says.
    let operator = refused(&authority, rogue(&saved, "operators", &agent_params())).await;
    assert_eq!(
        operator,
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    );
    let server = refused(&authority, rogue(&saved, "servers", &agent_params())).await;
    assert!(
        matches!(
            server,
            Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
        ),
        "{server:?}"
    );
}

#[tokio::test]
async fn a_leaf_for_servers_is_no_client() {
    let authority = authority();
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    authority.save(&saved).unwrap();
    let mut params = agent_params();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let error = refused(&authority, rogue(&saved, "agents", &params)).await;
    assert!(
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_trusted_leaf_that_names_no_agent_gets_no_identity() {
    let authority = authority();
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    authority.save(&saved).unwrap();
    let mut params = agent_params();
    params.subject_alt_names.push(SanType::URI(
        "spiffe://test.example/tenant/b/agent/b".try_into().unwrap(),
    ));
    let config = Arc::new(client(&authority, Some(rogue(&saved, "agents", &params))));
    let (server, _) = connect(agent_port(&authority), &config, "localhost").await;
    assert!(matches!(server.unwrap().peer, Err(PeerError::Identity(_))));
}

/// What an agent says to a server with this certificate.
async fn refused_server(authority: &outpost_certs::ca::Authority, (chain, key): Identity) -> Error {
    let config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let mut config = config;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (_, client) = connect(
        Arc::new(config),
        &Arc::new(client(authority, None)),
        "localhost",
    )
    .await;
    tls_error(&client.err().unwrap())
}

#[tokio::test]
async fn an_agent_is_no_server() {
    let authority = authority();
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("ca");
    authority.save(&saved).unwrap();
    let refused = |error: &Error| {
        matches!(
            error,
            Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
        )
    };
    let with_localhost = |mut params: CertificateParams| {
        params
            .subject_alt_names
            .push(SanType::DnsName("localhost".try_into().unwrap()));
        params
    };
    let error = refused_server(&authority, agent(&authority, SystemTime::now())).await;
    assert!(refused(&error), "{error:?}");
    let error = refused_server(
        &authority,
        rogue(&saved, "agents", &with_localhost(agent_params())),
    )
    .await;
    assert!(refused(&error), "{error:?}");
    // Not even with the agents' branch in hand: the intermediate itself is limited to clients.
    let mut params = with_localhost(agent_params());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let error = refused_server(&authority, rogue(&saved, "agents", &params)).await;
    assert!(refused(&error), "{error:?}");
    // The same leaf under the servers' branch is fine, so it was the branch.
    let (chain, key) = rogue(&saved, "servers", &params);
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let (_, client) = connect(
        Arc::new(config),
        &Arc::new(client(&authority, None)),
        "localhost",
    )
    .await;
    client.unwrap();
}

#[tokio::test]
async fn a_server_under_another_name_or_root_is_refused() {
    let authority = authority();
    let config = Arc::new(client(&authority, None));
    let (_, elsewhere) = connect(agent_port(&authority), &config, "other.example").await;
    assert!(matches!(
        tls_error(&elsewhere.err().unwrap()),
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
    ));
    let (_, foreign) = connect(agent_port(&crate::authority()), &config, "localhost").await;
    assert_eq!(
        tls_error(&foreign.err().unwrap()),
        Error::InvalidCertificate(CertificateError::UnknownIssuer)
    );
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let authority = authority();
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (server, client) = connect(agent_port(&authority), &Arc::new(config), "localhost").await;
    assert!(client.is_err());
    let Err(error) = server else {
        panic!("accepted")
    };
    assert!(
        matches!(tls_error(&error), Error::PeerIncompatible(_)),
        "{error}"
    );
}
