//! The stream: frames both ways, its ends, and the ends of link itself.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use outpost_agent_link::Timeouts;
use outpost_agent_link::ipc::{ClosedReason, FromLink, MAX_FRAME_BYTES, ToLink, UnaryMethod};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Code;

use crate::support::ca::Ca;
use crate::support::rig::{KeyPlace, Rig, joined};
use crate::support::server::{Behaviour, Tls, start};
use crate::support::soon;

/// Frames that differ in size and content; the first is empty, the last as large as allowed.
fn frames() -> Vec<Bytes> {
    let mut all: Vec<Bytes> = (0..200_usize)
        .map(|n| {
            (0..n * 37 % 5000)
                .map(|at| u8::try_from((at * 31 + n) % 251).unwrap())
                .collect()
        })
        .collect();
    all.push(Bytes::from(vec![0xa5; MAX_FRAME_BYTES]));
    all
}

#[tokio::test]
async fn the_runner_hears_what_the_server_presented_before_anything_that_it_says() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    rig.tell(ToLink::Open { conn: 7 }).await;
    rig.dial(7, server.address).await;
    while rig.hear_all().await != (FromLink::Opened { conn: 7 }) {}
    let bytes = Bytes::from_static(b"abc");
    rig.tell(ToLink::Frame { conn: 7, bytes }).await;
    let FromLink::Server { conn: 7, chain } = rig.hear_all().await else {
        panic!("not what it presented")
    };
    assert_eq!(
        chain.last(),
        Some(&ca.root_der()),
        "{} of them",
        chain.len()
    );
    assert!(matches!(
        rig.hear_all().await,
        FromLink::Frame { conn: 7, .. }
    ));
}

#[tokio::test]
async fn frames_pass_both_ways_in_order_and_unchanged() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    assert_eq!(
        rig.open(7, server.address).await,
        FromLink::Opened { conn: 7 }
    );
    let send = async {
        for bytes in frames() {
            rig.tell(ToLink::Frame { conn: 7, bytes }).await;
        }
    };
    let receive = async {
        for bytes in frames() {
            assert_eq!(rig.hear().await, FromLink::Frame { conn: 7, bytes });
        }
    };
    tokio::join!(send, receive);
    // An identity call travels beside the stream, on the same connection.
    let bytes = Bytes::from_static(b"abc");
    rig.tell(ToLink::Unary {
        conn: 7,
        method: UnaryMethod::Renew,
        bytes,
    })
    .await;
    let bytes = Bytes::from_static(b"cba");
    assert_eq!(
        rig.hear().await,
        FromLink::Reply {
            conn: 7,
            ok: true,
            code: 0,
            bytes,
            text: String::new()
        }
    );
    assert_eq!(server.seen.client_certificates.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn two_connections_are_kept_apart() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    for conn in [1, 2] {
        assert_eq!(
            rig.open(conn, server.address).await,
            FromLink::Opened { conn }
        );
    }
    for conn in [2, 1] {
        let bytes = Bytes::from(vec![u8::try_from(conn).unwrap()]);
        rig.tell(ToLink::Frame {
            conn,
            bytes: bytes.clone(),
        })
        .await;
        assert_eq!(rig.hear().await, FromLink::Frame { conn, bytes });
    }
    rig.tell(ToLink::Close { conn: 1 }).await;
    assert!(matches!(
        rig.hear().await,
        FromLink::Closed {
            conn: 1,
            reason: ClosedReason::Local,
            ..
        }
    ));
    // Words to a closed connection are dropped politely; the other one lives.
    rig.tell(ToLink::Frame {
        conn: 1,
        bytes: Bytes::from_static(b"late"),
    })
    .await;
    rig.tell(ToLink::Frame {
        conn: 2,
        bytes: Bytes::from_static(b"live"),
    })
    .await;
    assert_eq!(
        rig.hear().await,
        FromLink::Frame {
            conn: 2,
            bytes: Bytes::from_static(b"live")
        }
    );
}

#[tokio::test]
async fn a_descriptor_may_come_before_its_number() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    rig.dial(3, server.address).await;
    rig.tell(ToLink::Open { conn: 3 }).await;
    assert_eq!(rig.hear().await, FromLink::Opened { conn: 3 });
    // A number that is never dialled can be taken back.
    rig.tell(ToLink::Open { conn: 4 }).await;
    rig.tell(ToLink::Close { conn: 4 }).await;
    assert!(matches!(
        rig.hear().await,
        FromLink::Closed {
            conn: 4,
            reason: ClosedReason::Local,
            ..
        }
    ));
}

#[tokio::test]
async fn status_codes_become_reasons() {
    let cases = [
        (Code::Unauthenticated, ClosedReason::Unauthenticated),
        (Code::PermissionDenied, ClosedReason::Refused),
        (Code::Unavailable, ClosedReason::Unavailable),
        (Code::ResourceExhausted, ClosedReason::Unavailable),
        (Code::InvalidArgument, ClosedReason::Protocol),
        (Code::DeadlineExceeded, ClosedReason::Timeout),
    ];
    let ca = Ca::new("root");
    for (code, expected) in cases {
        let rig = Rig::enrolled(&ca, Timeouts::default()).await;
        let at_once = start(Tls::usual(&ca), Behaviour::Refuse(code)).await;
        let (reason, text) = rig.reason_of_open(at_once.address).await;
        assert_eq!(reason, expected, "{text}");
        assert!(text.contains("as the test wants"), "{text}");

        let later = start(Tls::usual(&ca), Behaviour::EndWith(code)).await;
        assert_eq!(
            rig.open(2, later.address).await,
            FromLink::Opened { conn: 2 }
        );
        rig.tell(ToLink::Frame {
            conn: 2,
            bytes: Bytes::from_static(b"x"),
        })
        .await;
        let closed = rig.hear().await;
        let FromLink::Closed {
            conn: 2,
            reason,
            text,
        } = closed
        else {
            panic!("{closed:?}")
        };
        assert_eq!(reason, expected, "{text}");
    }
}

#[tokio::test]
async fn an_orderly_end_is_the_peers() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::EndWith(Code::Ok)).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    assert_eq!(
        rig.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    rig.tell(ToLink::Frame {
        conn: 1,
        bytes: Bytes::from_static(b"x"),
    })
    .await;
    assert!(matches!(
        rig.hear().await,
        FromLink::Closed {
            conn: 1,
            reason: ClosedReason::PeerClosed,
            ..
        }
    ));
}

#[tokio::test]
async fn a_server_that_never_accepts_the_stream_times_out() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Silent).await;
    // No shorter limit: the handshake before it has the same one.
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    let (reason, text) = rig.reason_of_open(server.address).await;
    assert_eq!(reason, ClosedReason::Timeout);
    assert!(text.contains("accept the stream"), "{text}");
}

#[tokio::test]
async fn the_runners_end_is_links_end_in_every_state() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let idle = Rig::start(KeyPlace::new(), None, Timeouts::default()).await;
    assert_eq!(idle.end().await.0, ExitCode::SUCCESS);
    let open = Rig::enrolled(&ca, Timeouts::default()).await;
    assert_eq!(
        open.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    assert_eq!(open.end().await.0, ExitCode::SUCCESS);
}

#[tokio::test]
async fn the_leashs_end_is_links_end() {
    let mut rig = Rig::start(KeyPlace::new(), None, Timeouts::default()).await;
    rig.leash = None;
    assert_eq!(soon("end of file", rig.socket.recv()).await.unwrap(), None);
    assert_eq!(joined(rig.thread).await, ExitCode::SUCCESS);
}

/// Passes bytes on until told to hold them back (`Some(true)`) or to cut both connections (`Some(false)`).
async fn relay(to: SocketAddr) -> (SocketAddr, watch::Sender<Option<bool>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (order, mut orders) = watch::channel(None);
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let hold = tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
            order = orders.wait_for(Option::is_some) => *order.unwrap() == Some(true),
        };
        if hold {
            std::future::pending::<()>().await;
        }
    });
    (address, order)
}

#[tokio::test]
async fn a_silent_network_and_a_cut_one_are_told_apart() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Echo).await;
    let quick = Timeouts {
        keepalive_interval: Duration::from_millis(200),
        keepalive_timeout: Duration::from_secs(6),
        ..Timeouts::default()
    };
    for (hold, expected) in [
        (true, ClosedReason::Timeout),
        (false, ClosedReason::PeerClosed),
    ] {
        let rig = Rig::enrolled(&ca, quick).await;
        let (address, order) = relay(server.address).await;
        assert_eq!(rig.open(1, address).await, FromLink::Opened { conn: 1 });
        // While pings are answered an idle stream stays open, for longer than it would without.
        let idle = tokio::time::timeout(Duration::from_secs(7), rig.hear()).await;
        assert!(idle.is_err(), "{idle:?}");
        order.send(Some(hold)).unwrap();
        let closed = rig.hear().await;
        let FromLink::Closed {
            conn: 1,
            reason,
            text,
        } = closed
        else {
            panic!("{closed:?}")
        };
        assert_eq!(reason, expected, "{text}");
    }
}
