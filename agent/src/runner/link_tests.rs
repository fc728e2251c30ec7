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
