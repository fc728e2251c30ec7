//! H13: packets of every shape, both ways. Whatever one side says, the other takes a whole message or ends the pair: it
//! never panics, never hangs, and holds no more than a packet.

use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use outpost_agent_link::ipc::{
    FromLink, IpcError, LinkSocket, MAX_FRAME_BYTES, MAX_PACKET_BYTES, MAX_TEXT_BYTES, ToLink,
    UnaryMethod, socket_pair,
};
use outpost_agent_link::{LinkArgs, Timeouts, link_main};
use proptest::prelude::*;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// What a runner can say, with every kind in it.
fn to_link() -> impl Strategy<Value = ToLink> {
    let conn = prop_oneof![0_u64..9, any::<u64>()];
    let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let ders = || prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..4);
    let method = prop_oneof![
        Just(UnaryMethod::Enrol),
        Just(UnaryMethod::Renew),
        Just(UnaryMethod::Recover)
    ];
    (0..7_u8, conn, bytes, ders(), ders(), method).prop_map(
        |(kind, conn, bytes, chain, roots, method)| match kind {
            0 => ToLink::Open { conn },
            1 => ToLink::Frame { conn, bytes },
            2 => ToLink::Close { conn },
            3 => ToLink::MakeCsr { conn },
            4 => ToLink::Prove {
                session_nonce: conn,
                challenge: bytes.slice(..bytes.len().min(64)),
            },
            5 => ToLink::Unary {
                conn,
                method,
                bytes,
            },
            _ => ToLink::StoreIdentity { chain, roots },
        },
    )
}

/// A packet that is a message, nearly one, or nothing of the kind.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let whole = || to_link().prop_map(|message| message.encode());
    let spoilt =
        (whole(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut packet, at, byte)| {
            let at = at.index(packet.len());
            packet[at] = byte;
            packet
        });
    let cut = (whole(), any::<prop::sample::Index>()).prop_map(|(mut packet, at)| {
        packet.truncate(at.index(packet.len()) + 1);
        packet
    });
    let longer =
        (whole(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(mut packet, more)| {
            packet.extend(more);
            packet
        });
    // Any kind of either direction, and anything behind it.
    let noise =
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..400)).prop_map(|(kind, mut packet)| {
            packet.insert(0, kind);
            packet
        });
    let huge = (any::<u8>(), MAX_FRAME_BYTES..MAX_PACKET_BYTES + 2)
        .prop_map(|(kind, length)| vec![kind; length]);
    prop_oneof![4 => whole(), 4 => spoilt, 2 => cut, 2 => longer, 6 => noise, 1 => huge]
}

/// What is decoded is within every limit, and is the message that its canonical form says.
fn bounded(said: &FromLink) {
    assert_eq!(FromLink::decode(&said.encode()).unwrap(), *said);
    if let FromLink::Closed { text, .. } | FromLink::Reply { text, .. } = said {
        assert!(text.len() <= MAX_TEXT_BYTES);
    }
    if let FromLink::Frame { bytes, .. } | FromLink::Reply { bytes, .. } = said {
        assert!(bytes.len() <= MAX_FRAME_BYTES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn h13_a_packet_is_one_whole_message_or_none(packet in packet()) {
        match ToLink::decode(&packet) {
            Ok(told) => prop_assert_eq!(ToLink::decode(&told.encode()).unwrap(), told),
            Err(error) => prop_assert!(matches!(error, IpcError::Malformed(_))),
        }
        match FromLink::decode(&packet) {
            Ok(said) => bounded(&said),
            Err(error) => prop_assert!(matches!(error, IpcError::Malformed(_))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn h13_link_ends_with_a_runner_that_talks_nonsense(packets in prop::collection::vec(packet(), 1..12)) {
        let around = tempfile::tempdir().unwrap();
        let (runner, link) = socket_pair().unwrap();
        let (_dial, link_dial) = socket_pair().unwrap();
        let args = LinkArgs {
            ipc_fd: link.into_raw_fd(),
            dial_fd: link_dial.into_raw_fd(),
            key_dir: around.path().join("keys"),
            server_name: "orchestrator.site.test".into(),
            pin: None,
            keylog_fd: None,
            leash_fd: None,
            sandbox: None,
            timeouts: Timeouts::default(),
            when_quiet: || (),
        };
        let thread = std::thread::spawn(move || link_main(args));
        let ends = packets.iter().any(|packet| ToLink::decode(packet).is_err());
        say(&runner, &packets);
        let read = hear_until_silent(&runner, ends);
        drop(runner);
        let code = joined(thread);
        // A packet that is no message ends link; everything else it answers, or drops politely.
        prop_assert_eq!(code == ExitCode::FAILURE, ends);
        prop_assert!(matches!(read.first(), Some(FromLink::Confined(_))));
    }
}

/// Sends until link has gone. What is larger than any packet is not even taken by the kernel, or is cut by link.
fn say(runner: &OwnedFd, packets: &[Vec<u8>]) {
    for packet in packets {
        match send(runner, packet, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Everything link says, until it has gone or, if it stays, has answered what there was.
fn hear_until_silent(runner: &OwnedFd, ends: bool) -> Vec<FromLink> {
    let limit = Instant::now() + Duration::from_secs(60);
    let mut heard = Vec::new();
    let mut buffer = vec![0; MAX_PACKET_BYTES + 1];
    let mut silent_since = Instant::now();
    while Instant::now() < limit {
        match recv(runner, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return heard,
            // Link left something unread; what it said before is still there.
            Err(Errno::CONNRESET) => {}
            Ok((_, length)) => {
                heard.push(FromLink::decode(&buffer[..length]).unwrap());
                silent_since = Instant::now();
            }
            Err(Errno::AGAIN) => {
                let silent = silent_since.elapsed() > Duration::from_millis(30);
                if !ends && silent && heard.len() >= 2 {
                    return heard;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("link neither ends nor falls silent");
}

fn joined(thread: std::thread::JoinHandle<ExitCode>) -> ExitCode {
    let limit = Instant::now() + Duration::from_secs(60);
    while !thread.is_finished() {
        assert!(Instant::now() < limit, "link hangs");
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.join().unwrap()
}

/// The runner's end: the same from a link that says anything at all.
#[tokio::test]
async fn h13_the_runners_end_takes_messages_and_refuses_the_rest() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..200 {
        let packet = packet().new_tree(&mut runner).unwrap().current();
        let (own, links) = socket_pair().unwrap();
        let socket = LinkSocket::new(own).unwrap();
        if send(&links, &packet, SendFlags::NOSIGNAL).is_err() {
            continue;
        }
        drop(links);
        let heard = crate::support::soon("an answer", socket.recv()).await;
        match FromLink::decode(&packet) {
            Ok(said) if packet.len() <= MAX_PACKET_BYTES => {
                assert_eq!(heard.unwrap(), Some(said));
            }
            Ok(_) | Err(_) => {
                assert!(matches!(
                    heard,
                    Err(IpcError::Malformed(_) | IpcError::TooLarge)
                ));
            }
        }
    }
}
