//! Connections that are accepted, and what is negotiated.

use std::sync::Arc;
use std::time::SystemTime;

use outpost_certs::tls::{
    ConfigError, Peer, PeerError, ReloadingServerConfig, api_server_config, client_config_for_api,
    server_config,
};
use rustls::client::Resumption;
use rustls::{HandshakeKind, NamedGroup, ServerConfig};

use crate::{AGENT_URI, DAY, DOMAIN, agent, agent_port, authority, client, connect};

#[tokio::test]
async fn an_agent_is_known_by_its_certificate_and_the_exchange_is_post_quantum() {
    let authority = authority();
    let config = Arc::new(client(
        &authority,
        Some(agent(&authority, SystemTime::now())),
    ));
    for host in ["localhost", "127.0.0.1"] {
        let (server, client) = connect(agent_port(&authority), &config, host).await;
        let (server, client) = (server.unwrap(), client.unwrap());
        let Ok(Peer::Agent(identity)) = server.peer else {
            panic!("{:?}", server.peer)
        };
        assert_eq!(identity.spiffe_id, AGENT_URI);
        assert_eq!(
            (identity.tenant.as_str(), identity.agent.as_str()),
            ("acme", "north")
        );
        assert_eq!(
            (server.group, client.group),
            (NamedGroup::X25519MLKEM768, NamedGroup::X25519MLKEM768)
        );
        assert_eq!(server.alpn.as_deref(), Some(b"h2".as_slice()));
        let shown = client.peer;
        assert_eq!(
            shown.len(),
            3,
            "leaf, intermediate and the root for the pin"
        );
        assert_eq!(shown.last(), Some(authority.root()));
        outpost_certs::identity::OrchestratorIdentity::from_leaf(&shown[0], DOMAIN).unwrap();
    }
}

#[tokio::test]
async fn a_client_without_post_quantum_exchange_is_still_served() {
    let authority = authority();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .kx_groups
        .retain(|group| group.name() == NamedGroup::X25519);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (server, _) = connect(agent_port(&authority), &Arc::new(config), "localhost").await;
    assert_eq!(server.unwrap().group, NamedGroup::X25519);
}

#[tokio::test]
async fn without_a_certificate_a_client_is_anonymous() {
    let authority = authority();
    let (server, client) = connect(
        agent_port(&authority),
        &Arc::new(client(&authority, None)),
        "localhost",
    )
    .await;
    assert_eq!(server.unwrap().peer, Ok(Peer::Anonymous));
    client.unwrap();
}

#[tokio::test]
async fn nothing_is_resumed_even_for_a_client_that_would() {
    let authority = authority();
    let mut config = client(&authority, None);
    config.resumption = Resumption::default();
    let config = Arc::new(config);
    let ours = agent_port(&authority);
    for _ in 0..3 {
        let (server, client) = connect(Arc::clone(&ours), &config, "localhost").await;
        assert_eq!(
            (server.unwrap().kind, client.unwrap().kind),
            (HandshakeKind::Full, HandshakeKind::Full)
        );
    }

    // The same client does resume where a server lets it: otherwise the above would prove nothing.
    let defaults = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&ours.cert_resolver));
    let mut lax = defaults;
    lax.alpn_protocols = vec![b"h2".to_vec()];
    let lax = Arc::new(lax);
    let (_, first) = connect(Arc::clone(&lax), &config, "localhost").await;
    let (_, second) = connect(lax, &config, "localhost").await;
    assert_eq!(
        (first.unwrap().kind, second.unwrap().kind),
        (HandshakeKind::Full, HandshakeKind::Resumed)
    );
    assert_eq!((ours.send_tls13_tickets, ours.max_early_data_size), (0, 0));
    assert!(!ours.session_storage.can_cache());
}

#[tokio::test]
async fn a_client_that_enrols_on_one_connection_is_known_on_the_next() {
    let authority = authority();
    let port = agent_port(&authority);
    let mut anonymous = client(&authority, None);
    anonymous.resumption = Resumption::default();
    let store = anonymous.resumption.clone();
    let (server, _) = connect(Arc::clone(&port), &Arc::new(anonymous), "localhost").await;
    assert_eq!(server.unwrap().peer, Ok(Peer::Anonymous));
    let mut known = client(&authority, Some(agent(&authority, SystemTime::now())));
    known.resumption = store;
    let (server, _) = connect(port, &Arc::new(known), "localhost").await;
    assert!(matches!(server.unwrap().peer, Ok(Peer::Agent(_))));
}

#[tokio::test]
async fn a_replaced_configuration_serves_the_next_connection() {
    let authority = authority();
    let reloading = ReloadingServerConfig::new(agent_port(&authority));
    let config = Arc::new(client(&authority, None));
    let (_, first) = connect(reloading.current(), &config, "localhost").await;
    reloading.replace(agent_port(&authority));
    let (_, second) = connect(reloading.current(), &config, "localhost").await;
    assert_ne!(first.unwrap().peer[0], second.unwrap().peer[0]);
}

#[tokio::test]
async fn http2_must_be_negotiated_on_the_agent_port() {
    let authority = authority();
    let mut none = client(&authority, None);
    none.alpn_protocols.clear();
    let (server, _) = connect(agent_port(&authority), &Arc::new(none), "localhost").await;
    assert_eq!(server.unwrap().peer, Err(PeerError::NotHttp2));
    let mut other = client(&authority, None);
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (server, _) = connect(agent_port(&authority), &Arc::new(other), "localhost").await;
    assert!(server.is_err());
}

#[tokio::test]
async fn the_api_is_served_to_clients_that_trust_the_root() {
    let authority = authority();
    let identity = authority
        .issue_server(&["localhost".to_owned()], SystemTime::now(), DAY)
        .unwrap();
    let port = api_server_config(&identity).unwrap();
    let roots = outpost_certs::pem::encode_certificate(authority.root());
    let config = client_config_for_api(roots.as_bytes()).unwrap();
    let mut old = config.clone();
    old.alpn_protocols = vec![b"http/1.1".to_vec()];
    for (config, alpn) in [(config, b"h2".as_slice()), (old, b"http/1.1")] {
        let (_, client) = connect(Arc::clone(&port), &Arc::new(config), "localhost").await;
        let seen = client.unwrap();
        assert_eq!(seen.alpn.as_deref(), Some(alpn));
        assert_eq!(seen.group, NamedGroup::X25519MLKEM768);
    }
    let foreign = outpost_certs::pem::encode_certificate(crate::authority().root());
    let config = Arc::new(client_config_for_api(foreign.as_bytes()).unwrap());
    let (_, client) = connect(port, &config, "localhost").await;
    assert!(client.is_err());
    assert!(matches!(
        client_config_for_api(b"nothing"),
        Err(ConfigError::Pem(_))
    ));
}

#[test]
fn an_agent_port_that_trusts_nobody_is_refused() {
    let authority = authority();
    let identity = authority
        .issue_server(&["localhost".to_owned()], SystemTime::now(), DAY)
        .unwrap();
    assert!(matches!(
        server_config(&identity, &[]),
        Err(ConfigError::Anchors(_))
    ));
}

#[test]
fn what_servers_share_between_threads_may_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<outpost_certs::ca::Authority>();
    shared::<outpost_certs::issue::ServerIdentity>();
    shared::<ReloadingServerConfig>();
    shared::<outpost_certs::token::JoinToken>();
}
