//! What becomes of a connection when link says nonsense, or is not there.

use super::*;

fn supervisor() -> (Supervisor, mpsc::Sender<LinkJob>, mpsc::Receiver<Happened>) {
    let (jobs, receive) = mpsc::channel(QUEUE);
    let (inbox, happened) = mpsc::channel(16);
    let setup = LinkSetup {
        exec: outpost_agent_keeper::exec::SelfExec::current(Vec::new()),
        leash: None,
        key_dir: "/nowhere".into(),
        address: "127.0.0.1:1".to_owned(),
        proxy: None,
        pin: None,
        audit: None,
        accounts: crate::sandbox::Accounts::find(
            "/nowhere".as_ref(),
            crate::sandbox::KeyDirectory::StaysAsItIs,
        ),
        least: outpost_agent_link::sandbox::Level::None,
        living: Default::default(),
    };
    let supervisor = Supervisor {
        setup: Rc::new(setup),
        inbox,
        jobs: receive,
        open: BTreeSet::new(),
        closing: BTreeMap::new(),
        stored: false,
        recovers: None,
        refusal: None,
    };
    (supervisor, jobs, happened)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// What was said to the core of connections that ended.
fn closed(happened: &mut mpsc::Receiver<Happened>) -> Vec<(u64, Down)> {
    let mut closed = Vec::new();
    while let Ok(happened) = happened.try_recv() {
        if let Happened::Core(Event::Closed { conn, why }) = happened {
            closed.push((conn.0, why));
        }
    }
    closed
}

#[test]
fn a_renewal_that_is_not_stored_is_told_from_a_recovery_that_was() {
    let (mut supervisor, _jobs, mut happened) = supervisor();
    supervisor.recovers = Some(3);
    let stored = |ok| FromLink::Stored {
        ok,
        text: "no room".to_owned(),
    };
    for (ok, troubles) in [(false, 1), (true, 0), (false, 0)] {
        assert!(run(supervisor.said(stored(ok))).is_none());
        let told = std::iter::from_fn(|| happened.try_recv().ok());
        let told = told.filter(|told| matches!(told, Happened::Trouble(_)));
        assert_eq!(told.count(), troubles);
    }
}

#[test]
fn a_frame_that_is_not_accepted_ends_its_connection_in_link_too() {
    let (mut supervisor, _jobs, mut happened) = supervisor();
    supervisor.open.insert(3);
    let nonsense = || FromLink::Frame {
        conn: 3,
        bytes: Bytes::from_static(b"\xff\xff\xff"),
    };
    let then = run(supervisor.said(nonsense()));
    assert!(matches!(then, Some(ToLink::Close { conn: 3 })), "{then:?}");
    // More of it, and link's own word about the end, are nobody's.
    assert!(run(supervisor.said(nonsense())).is_none());
    let over = FromLink::Closed {
        conn: 3,
        reason: ClosedReason::Local,
        text: String::new(),
    };
    assert!(run(supervisor.said(over)).is_none());
    assert_eq!(closed(&mut happened), [(3, Down::Protocol)]);
    assert!(supervisor.open.is_empty() && supervisor.closing.is_empty());
}

#[test]
fn of_what_was_asked_while_no_link_lived_only_the_newest_connection_is_wanted() {
    let (mut supervisor, jobs, mut happened) = supervisor();
    for job in [
        LinkJob::Frame(Conn(1), Bytes::new()),
        LinkJob::Dial(Conn(2)),
        LinkJob::Hangup(Conn(2)),
        LinkJob::Dial(Conn(3)),
        LinkJob::Dial(Conn(4)),
    ] {
        jobs.try_send(job).unwrap();
    }
    assert_eq!(supervisor.still_wanted(), Some(Conn(4)));
    run(supervisor.all_closed());
    let down = Down::Unreachable;
    assert_eq!(closed(&mut happened), [(2, down), (3, down)]);
    jobs.try_send(LinkJob::Dial(Conn(5))).unwrap();
    jobs.try_send(LinkJob::Hangup(Conn(5))).unwrap();
    assert_eq!(supervisor.still_wanted(), None);
}

/// H13: what a link says that is not ours to choose. It is in a process of its own; here it is the other end of the pair.
#[test]
fn h13_a_link_that_says_anything_at_all_ends_its_own_life_and_nothing_else() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let mut random = proptest::test_runner::TestRunner::deterministic();
    let byte = || proptest::arbitrary::any::<u8>();
    let noise = proptest::collection::vec(proptest::collection::vec(byte(), 1..600), 1..20);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for case in 0..150 {
        let mut packets = noise.new_tree(&mut random).unwrap().current();
        for (at, packet) in packets.iter_mut().enumerate() {
            // Most of them begin like a message, some are one, of a connection that there may be.
            packet[0] = 0x80 + packet[0] % 0x0d;
            if at % 3 == case % 3 {
                *packet = said_by_a_liar(packet);
            }
        }
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, one_life(&packets));
    }
}

/// A whole message with what the noise gives.
fn said_by_a_liar(noise: &[u8]) -> Vec<u8> {
    let conn = u64::from(noise[0] % 5);
    let bytes = Bytes::copy_from_slice(noise);
    let said = match noise.len() % 8 {
        0 => FromLink::Opened { conn },
        1 => FromLink::Frame { conn, bytes },
        2 => FromLink::Closed {
            conn,
            reason: ClosedReason::PeerClosed,
            text: String::new(),
        },
        3 => FromLink::Csr {
            der: noise.to_vec(),
        },
        4 => FromLink::Reply {
            conn,
            ok: noise[0] & 1 == 0,
            code: noise[0],
            bytes,
            text: "no".to_owned(),
        },
        5 => FromLink::Stored {
            ok: noise[0] & 1 == 0,
            text: String::new(),
        },
        6 => FromLink::Ends {
            conn,
            at_s: u64::MAX,
        },
        _ => FromLink::Ready {
            certificate_since_s: u64::MAX,
            certificate_not_after_s: 0,
            spiffe_id: String::from_utf8_lossy(&noise[..noise.len().min(80)]).into_owned(),
        },
    };
    said.encode()
}

/// The runner's side of a link that says these packets and goes.
async fn one_life(packets: &[Vec<u8>]) {
    let (mut supervisor, jobs, mut happened) = supervisor();
    supervisor.open.extend([1, 2, 3]);
    let (own, links) = outpost_agent_link::ipc::socket_pair().unwrap();
    let (dial_end, _) = outpost_agent_link::ipc::socket_pair().unwrap();
    let child = tokio::process::Command::new("/bin/true").spawn().unwrap();
    let link = LinkProcess {
        socket: LinkSocket::new(own).unwrap(),
        confinement: outpost_agent_link::sandbox::Confinement::nothing(),
        child,
        dial_end,
    };
    // Whoever reads the inbox: it must take everything, or the supervisor waits for it as it must.
    let reader = tokio::task::spawn_local(async move {
        let mut closed = BTreeMap::<u64, usize>::new();
        while let Some(happened) = happened.recv().await {
            if let Happened::Core(Event::Closed { conn, .. }) = happened {
                *closed.entry(conn.0).or_default() += 1;
            }
        }
        closed
    });
    let packets = packets.to_vec();
    let liar = tokio::task::spawn_blocking(move || {
        for packet in packets {
            if rustix::net::send(&links, &packet, rustix::net::SendFlags::NOSIGNAL).is_err() {
                return;
            }
        }
    });
    let limit = Duration::from_secs(20);
    let why = tokio::time::timeout(limit, supervisor.serve(link, None)).await;
    let why = why.expect("a life ends with its socket");
    assert!(!why.is_empty());
    liar.await.unwrap();
    supervisor.all_closed().await;
    drop((supervisor, jobs));
    let closed = reader.await.unwrap();
    // Each connection that the core believed in ended, and once.
    let once = BTreeMap::from([(1, 1), (2, 1), (3, 1)]);
    assert_eq!(closed, once);
}

/// Link reads what is said last, says that it is done with it, and only then finds nobody there.
#[test]
fn what_is_said_last_leaves_before_the_process_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (mut supervisor, jobs, _happened) = supervisor();
        supervisor.open.insert(3);
        let (own, links) = outpost_agent_link::ipc::socket_pair().unwrap();
        let (dial_end, _) = outpost_agent_link::ipc::socket_pair().unwrap();
        let child = tokio::process::Command::new("/bin/true").spawn().unwrap();
        let link = LinkProcess {
            socket: LinkSocket::new(own).unwrap(),
            confinement: outpost_agent_link::sandbox::Confinement::nothing(),
            child,
            dial_end,
        };
        let last = LinkJob::Frame(Conn(3), Bytes::from_static(b"the last"));
        jobs.try_send(last).unwrap();
        jobs.try_send(LinkJob::Hangup(Conn(3))).unwrap();
        let supervisor = tokio::task::spawn_local(supervisor.run(Some(link)));
        let handle = LinkHandle { jobs, supervisor };
        let heard = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 256];
            let mut packet = || {
                let (read, _) =
                    rustix::net::recv(&links, &mut buffer[..], rustix::net::RecvFlags::empty())
                        .unwrap();
                buffer[..read].to_vec()
            };
            let told = [packet(), packet()];
            let over = FromLink::Closed {
                conn: 3,
                reason: ClosedReason::Local,
                text: String::new(),
            };
            rustix::net::send(&links, &over.encode(), rustix::net::SendFlags::NOSIGNAL).unwrap();
            (told, packet())
        });
        handle.end().await;
        let (told, end) = heard.await.unwrap();
        assert!(told[0].ends_with(b"the last"), "{told:?}");
        assert_eq!(end, [0; 0], "nobody is there any more");
    });
}
