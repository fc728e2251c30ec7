//! Nothing is buffered without bound, either way, and a stuck peer does not keep link alive.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use outpost_agent_link::Timeouts;
use outpost_agent_link::ipc::{ClosedReason, FromLink, ToLink};
use tokio::time::timeout;

use crate::support::ca::Ca;
use crate::support::rig::Rig;
use crate::support::server::{Behaviour, Tls, start};
use crate::support::soon;

/// How long nothing may move for a queue to count as full.
const STILL: Duration = Duration::from_secs(5);
const FRAME: usize = 64 * 1024;
/// Queue, socket buffers and HTTP/2 windows of this crate are far below; loopback's TCP buffers take some megabytes.
const BOUND: usize = 400;

async fn fill(rig: &Rig) -> usize {
    let mut sent = 0;
    let frame = ToLink::Frame {
        conn: 1,
        bytes: Bytes::from(vec![1; FRAME]),
    };
    while timeout(STILL, rig.socket.send(&frame)).await.is_ok() {
        sent += 1;
        assert!(sent < BOUND, "link takes frames without bound");
    }
    sent
}

#[tokio::test]
async fn a_peer_that_does_not_read_stops_the_runner() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Deaf).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    assert_eq!(
        rig.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    assert!(fill(&rig).await > 64);
    // Link hears the runner's end even while it does not read.
    assert_eq!(rig.end().await.0, ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_queue_that_stands_still_closes_its_connection() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Deaf).await;
    let short = Timeouts {
        slow_peer: Duration::from_secs(3),
        ..Timeouts::default()
    };
    let rig = Rig::enrolled(&ca, short).await;
    assert_eq!(
        rig.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    let frame = ToLink::Frame {
        conn: 1,
        bytes: Bytes::from(vec![1; FRAME]),
    };
    let closed = soon("the connection is closed", async {
        loop {
            tokio::select! {
                biased;
                message = rig.hear() => return message,
                sent = rig.socket.send(&frame) => sent.unwrap(),
            }
        }
    })
    .await;
    assert!(
        matches!(
            closed,
            FromLink::Closed {
                conn: 1,
                reason: ClosedReason::Timeout,
                ..
            }
        ),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_runner_that_does_not_read_stops_the_peer() {
    let ca = Ca::new("root");
    let server = start(Tls::usual(&ca), Behaviour::Flood).await;
    let rig = Rig::enrolled(&ca, Timeouts::default()).await;
    assert_eq!(
        rig.open(1, server.address).await,
        FromLink::Opened { conn: 1 }
    );
    let count = || server.seen.frames_flooded.load(Ordering::SeqCst);
    let mut before = usize::MAX;
    soon("the flood stands still", async {
        while before != count() {
            before = count();
            assert!(before < BOUND, "link takes frames without bound");
            tokio::time::sleep(STILL).await;
        }
    })
    .await;
    // Reading again lets it go on, and nothing was lost or changed.
    for _ in 0..before + 100 {
        let frame = rig.hear().await;
        assert!(
            matches!(&frame, FromLink::Frame { conn: 1, bytes } if bytes.len() == FRAME && bytes[0] == 5)
        );
    }
    assert!(count() > before);
    // A runner that ends without having read ends link.
    assert_eq!(rig.end().await.0, ExitCode::SUCCESS);
}
