//! Which servers link talks to, and what it calls those it does not.

use std::time::Duration;

use outpost_agent_link::Timeouts;
use outpost_agent_link::ipc::{ClosedReason, FromLink, TlsProblem, ToLink};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::support::ca::{AGENT, Ca, Leaf};
use crate::support::rig::Rig;
use crate::support::server::{Behaviour, Server, Tls, start};

async fn presenting(ca: &Ca, leaf: Leaf) -> Server {
    start(
        Tls {
            certificate: ca.server(leaf),
            ..Tls::usual(ca)
        },
        Behaviour::Echo,
    )
    .await
}

async fn refused(rig: &Rig, server: &Server) -> (ClosedReason, String) {
    let refused = rig.reason_of_open(server.address).await;
    assert!(
        server.seen.requests.lock().unwrap().is_empty(),
        "nothing may be asked of an untrusted server"
    );
    refused
}

#[tokio::test]
async fn a_server_of_another_ca_is_untrusted() {
    let (ca, other) = (Ca::new("root"), Ca::new("root"));
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let (reason, text) = refused(&rig, &presenting(&other, Leaf::default()).await).await;
    assert_eq!(reason, ClosedReason::Tls(TlsProblem::Untrusted));
    assert!(text.contains("no trusted root"), "{text}");
}

#[tokio::test]
async fn expired_and_future_certificates_are_named() {
    let ca = Ca::new("root");
    let expired = presenting(
        &ca,
        Leaf {
            from_h: -2,
            to_h: -1,
            ..Leaf::default()
        },
    )
    .await;
    let future = presenting(
        &ca,
        Leaf {
            from_h: 1,
            to_h: 2,
            ..Leaf::default()
        },
    )
    .await;
    for (server, problem) in [
        (expired, TlsProblem::Expired),
        (future, TlsProblem::NotYetValid),
    ] {
        let rig = Rig::enrolled(&ca, Timeouts::default()).await;
        let (reason, text) = refused(&rig, &server).await;
        assert_eq!(reason, ClosedReason::Tls(problem), "{text}");
        assert!(text.contains("clock"), "{text}");
    }
}

#[tokio::test]
async fn certificates_of_others_under_the_same_root_are_untrusted() {
    let ca = Ca::new("root");
    let agents_usage = || vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaves = [
        // An agent's own certificate, which its TLS library would already refuse.
        Leaf {
            uri: AGENT,
            usage: agents_usage(),
            ..Leaf::default()
        },
        // Right name, wrong or missing usage; right usage, wrong name or wrong trust domain.
        Leaf {
            usage: agents_usage(),
            ..Leaf::default()
        },
        Leaf {
            usage: vec![],
            ..Leaf::default()
        },
        Leaf {
            uri: AGENT,
            ..Leaf::default()
        },
        Leaf {
            uri: "spiffe://other.test/orchestrator",
            ..Leaf::default()
        },
    ];
    for (index, leaf) in leaves.into_iter().enumerate() {
        let rig = Rig::enrolled(&ca, Timeouts::default()).await;
        let (reason, text) = refused(&rig, &presenting(&ca, leaf).await).await;
        assert_eq!(
            reason,
            ClosedReason::Tls(TlsProblem::Untrusted),
            "leaf {index}: {text}"
        );
    }
}

#[tokio::test]
async fn a_server_without_http2_is_an_interception() {
    let ca = Ca::new("root");
    for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
        let server = start(
            Tls {
                alpn,
                ..Tls::usual(&ca)
            },
            Behaviour::Echo,
        )
        .await;
        let rig = Rig::enrolled(&ca, Timeouts::default()).await;
        let (reason, text) = refused(&rig, &server).await;
        assert_eq!(reason, ClosedReason::Intercepted);
        assert!(text.contains("proxy"), "{text}");
    }
}

#[tokio::test]
async fn an_older_tls_is_not_spoken() {
    let ca = Ca::new("root");
    static OLD: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    let server = start(
        Tls {
            versions: &OLD,
            ..Tls::usual(&ca)
        },
        Behaviour::Echo,
    )
    .await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let (reason, text) = refused(&rig, &server).await;
    assert_eq!(reason, ClosedReason::Tls(TlsProblem::Other), "{text}");
}

#[tokio::test]
async fn a_server_that_wants_another_certificate_makes_us_unauthenticated() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let client_root = other.root_der().into();
    let tls = Tls {
        client_root,
        client_certificate_required: true,
        ..Tls::usual(&ca)
    };
    let server = start(tls, Behaviour::Echo).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let (reason, text) = refused(&rig, &server).await;
    assert_eq!(reason, ClosedReason::Unauthenticated, "{text}");
}

#[tokio::test]
async fn silence_and_noise_in_the_handshake_end_it() {
    let ca = Ca::new("root");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let short = Timeouts {
        handshake: Duration::from_secs(3),
        ..Timeouts::default()
    };
    let rig = Rig::enrolled(&ca, short).await;
    let (reason, _) = rig.reason_of_open(silent.local_addr().unwrap()).await;
    assert_eq!(reason, ClosedReason::Timeout);

    let noisy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = noisy.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = noisy.accept().await {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let (reason, text) = rig.reason_of_open(address).await;
    assert_eq!(reason, ClosedReason::Tls(TlsProblem::Other), "{text}");
}

#[tokio::test]
async fn without_certificate_and_pin_nothing_is_opened() {
    let rig = Rig::start(
        crate::support::rig::KeyPlace::new(),
        None,
        Timeouts::default(),
    )
    .await;
    rig.tell(ToLink::Open { conn: 1 }).await;
    let FromLink::Closed {
        conn: 1,
        reason: ClosedReason::Local,
        text,
    } = rig.hear().await
    else {
        panic!()
    };
    assert!(text.contains("not enrolled"), "{text}");
}
