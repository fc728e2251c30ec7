//! From nothing to a certificate, and what happens to it on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use outpost_agent_link::Timeouts;
use outpost_agent_link::ipc::{ClosedReason, FromLink, TlsProblem, ToLink, UnaryMethod};

use crate::support::ca::{AGENT, Ca};
use crate::support::rig::{KeyPlace, Rig};
use crate::support::server::{Behaviour, Tls, start};

fn enrol(conn: u64, bytes: &'static [u8]) -> ToLink {
    ToLink::Unary {
        conn,
        method: UnaryMethod::Enrol,
        bytes: Bytes::from_static(bytes),
    }
}

#[tokio::test]
async fn enrolment_goes_through_under_the_pin() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let mut rig = Rig::start(KeyPlace::new(), Some(ca.pin()), Timeouts::default()).await;
    assert_eq!(
        rig.ready,
        FromLink::Ready {
            certificate_since_s: 0,
            certificate_not_after_s: 0,
            spiffe_id: String::new()
        }
    );

    rig.tell(enrol(1, b"\x00request\xff")).await;
    rig.dial(1, server.address).await;
    let bytes = Bytes::from_static(b"\xfftseuqer\x00");
    assert_eq!(
        rig.hear().await,
        FromLink::Reply {
            conn: 1,
            ok: true,
            code: 0,
            bytes,
            text: String::new()
        }
    );
    assert_eq!(
        *server.seen.requests.lock().unwrap(),
        ["/outpost.identity.v1.Identity/Enrol"]
    );
    assert_eq!(*server.seen.client_certificates.lock().unwrap(), [0]);

    // A refusal is an answer: the connection stays.
    rig.tell(enrol(1, b"no")).await;
    let text = "token used".to_owned();
    assert_eq!(
        rig.hear().await,
        FromLink::Reply {
            conn: 1,
            ok: false,
            code: 16,
            bytes: Bytes::new(),
            text
        }
    );
    rig.tell(ToLink::Close { conn: 1 }).await;
    assert!(matches!(
        rig.hear().await,
        FromLink::Closed {
            conn: 1,
            reason: ClosedReason::Local,
            ..
        }
    ));

    // The stored identity is in use at once: no restart, and the pin is out of force.
    rig.store(&ca).await;
    assert_eq!(
        rig.open(2, server.address).await,
        FromLink::Opened { conn: 2 }
    );
    assert_eq!(*server.seen.client_certificates.lock().unwrap(), [0, 2]);
    assert_eq!(
        *server.seen.key_exchange.lock().unwrap(),
        Some(rustls::NamedGroup::X25519MLKEM768)
    );
}

#[tokio::test]
async fn a_wrong_pin_is_refused_before_anything_is_sent() {
    let (ca, other) = (Ca::new("root"), Ca::new("root"));
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let rig = Rig::start(KeyPlace::new(), Some(other.pin()), Timeouts::default()).await;
    rig.tell(enrol(1, b"secret token")).await;
    rig.dial(1, server.address).await;
    let closed = rig.hear().await;
    let FromLink::Closed {
        conn: 1,
        reason,
        text,
    } = closed
    else {
        panic!("{closed:?}")
    };
    assert_eq!(reason, ClosedReason::Tls(TlsProblem::Untrusted));
    assert!(text.contains("pinned"), "{text}");
    assert_eq!(server.seen.handshakes.load(Ordering::SeqCst), 0);
    assert!(server.seen.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_identity_survives_a_restart_with_private_files() {
    let ca = Ca::new("root");
    let mut rig = Rig::start(KeyPlace::new(), None, Timeouts::default()).await;
    rig.tell(ToLink::MakeCsr { conn: 0 }).await;
    let FromLink::Csr { der: first } = rig.hear().await else {
        panic!()
    };
    let (chain, not_after) = ca.agent(&first);
    rig.tell(ToLink::StoreIdentity {
        chain,
        roots: vec![ca.root_der()],
    })
    .await;
    assert_eq!(
        rig.hear().await,
        FromLink::Stored {
            ok: true,
            text: String::new()
        }
    );
    let FromLink::Ready {
        certificate_since_s,
        certificate_not_after_s,
        spiffe_id,
    } = rig.hear().await
    else {
        panic!()
    };
    assert_eq!(
        (certificate_not_after_s, spiffe_id.as_str()),
        (not_after, AGENT)
    );
    // Valid for a day, and stored just now.
    assert!((not_after - 86_500..not_after - 86_300).contains(&certificate_since_s));
    rig.store(&ca).await;
    let (code, keys) = rig.end().await;
    assert_eq!(code, ExitCode::SUCCESS);

    let mut names: Vec<String> = fs::read_dir(&keys.path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["agent.crt", "agent.key", "roots.crt"]);
    for name in names {
        let mode = fs::metadata(keys.path.join(&name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let rig = Rig::start(keys, None, Timeouts::default()).await;
    let FromLink::Ready {
        certificate_not_after_s,
        spiffe_id,
        ..
    } = &rig.ready
    else {
        panic!()
    };
    assert!(*certificate_not_after_s >= not_after && spiffe_id == AGENT);
}

#[tokio::test]
async fn a_crash_between_request_and_store_is_retried_with_the_same_key() {
    let ca = Ca::new("root");
    let rig = Rig::start(KeyPlace::new(), None, Timeouts::default()).await;
    rig.tell(ToLink::MakeCsr { conn: 0 }).await;
    let FromLink::Csr { der } = rig.hear().await else {
        panic!()
    };
    let (_, keys) = rig.end().await;
    // The certificate of the first request fits the key of the second process.
    let rig = Rig::start(keys, None, Timeouts::default()).await;
    let (chain, _) = ca.agent(&der);
    rig.tell(ToLink::StoreIdentity {
        chain: chain.clone(),
        roots: vec![ca.root_der()],
    })
    .await;
    assert_eq!(
        rig.hear().await,
        FromLink::Stored {
            ok: true,
            text: String::new()
        }
    );
    let (_, keys) = rig.end().await;
    // A crash in the middle of storing: the certificate is in place, its key still pending.
    fs::rename(keys.path.join("agent.key"), keys.path.join("pending.key")).unwrap();
    let rig = Rig::start(keys, None, Timeouts::default()).await;
    assert!(matches!(&rig.ready, FromLink::Ready { spiffe_id, .. } if spiffe_id == AGENT));
    assert!(
        rig.keys.path.join("agent.key").exists() && !rig.keys.path.join("pending.key").exists()
    );
}

#[tokio::test]
async fn what_does_not_belong_to_the_requested_key_is_not_stored() {
    let ca = Ca::new("root");
    let rig = Rig::start(KeyPlace::new(), None, Timeouts::default()).await;
    let other = Rig::start(KeyPlace::new(), None, Timeouts::default()).await;
    for link in [&rig, &other] {
        link.tell(ToLink::MakeCsr { conn: 0 }).await;
    }
    rig.hear().await;
    let FromLink::Csr { der } = other.hear().await else {
        panic!()
    };
    let (chain, _) = ca.agent(&der);
    rig.tell(ToLink::StoreIdentity {
        chain,
        roots: vec![ca.root_der()],
    })
    .await;
    let FromLink::Stored { ok: false, text } = rig.hear().await else {
        panic!()
    };
    assert!(text.contains("requested key"), "{text}");
    rig.tell(ToLink::Open { conn: 1 }).await;
    assert!(matches!(
        rig.hear().await,
        FromLink::Closed {
            conn: 1,
            reason: ClosedReason::Local,
            ..
        }
    ));
}

#[tokio::test]
async fn a_chain_that_leads_to_other_roots_is_not_stored() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let rig = Rig::start(KeyPlace::new(), None, Timeouts::default()).await;
    rig.tell(ToLink::MakeCsr { conn: 0 }).await;
    let FromLink::Csr { der } = rig.hear().await else {
        panic!()
    };
    let (chain, _) = ca.agent(&der);
    rig.tell(ToLink::StoreIdentity {
        chain,
        roots: vec![other.root_der()],
    })
    .await;
    let FromLink::Stored { ok: false, text } = rig.hear().await else {
        panic!()
    };
    assert!(text.contains("UnknownIssuer"), "{text}");
    assert!(!rig.keys.path.join("agent.crt").exists() && !rig.keys.path.join("roots.crt").exists());
}

#[tokio::test]
async fn a_key_that_others_can_read_ends_link() {
    let ca = Ca::new("root");
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let (_, keys) = rig.end().await;
    fs::set_permissions(
        keys.path.join("agent.key"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    let (socket, thread) = crate::process::bare_link(&keys.path);
    let confined = crate::support::soon("Confined", socket.recv()).await;
    assert!(matches!(confined.unwrap(), Some(FromLink::Confined(_))));
    assert_eq!(
        crate::support::soon("end", socket.recv()).await.unwrap(),
        None
    );
    assert_eq!(crate::support::rig::joined(thread).await, ExitCode::FAILURE);
}
