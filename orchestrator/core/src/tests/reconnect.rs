//! Sessions, inventories and what follows from them.

use crate::event::Alarm;

use super::*;

fn one_task(entry: &str) -> (Rig, Site, RunId, Assign) {
    let mut rig = Rig::new();
    let site = rig.site("bank");
    rig.apply(workflow("w", vec![task("a", entry, &[])]));
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    (rig, site, run, assign)
}

#[test]
fn the_first_session_step_by_step() {
    let mut rig = Rig::new();
    rig.enrol("bank");
    let mut site = Site::new("bank");
    let opened = site.open(&mut rig);
    assert_eq!(rig.turn(&[opened]), []);
    let hello = site.hello();
    let said = site.says(&mut rig, hello);
    let [DownMessage::Welcome(welcome)] = &messages(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(
        (
            welcome.session_epoch,
            welcome.highest_event_seq,
            welcome.lease_ms
        ),
        (SessionEpoch(1), EventSeq(0), 30_000)
    );
    let record = &rig.mirror.agents[&(name("acme"), name("bank"))];
    assert_eq!(
        (record.session_epoch, record.nonces.clone()),
        (SessionEpoch(1), vec![Nonce(0), welcome.next_nonce])
    );

    let catalogue = site.catalogue();
    assert_eq!(site.says(&mut rig, catalogue), []);
    let beat = site.heartbeat();
    assert_eq!(
        site.says(&mut rig, beat),
        [],
        "a lease before the inventory's end would start what is withdrawn"
    );
    let said = site.says(&mut rig, Site::inventory(vec![]));
    let expected = vec![
        DownMessage::Directive {
            command_seq: CommandSeq(1),
            directive: Directive::Reconciled,
        },
        DownMessage::Granted(Granted {
            highest_event_seq: EventSeq(0),
            lease: Some((HeartbeatSeq(1), 30_000)),
        }),
    ];
    assert_eq!(
        said,
        [Speech::Send {
            conn: site.conn,
            messages: expected
        }],
        "the lease that was owed"
    );
    let record = &rig.mirror.agents[&(name("acme"), name("bank"))];
    assert_eq!(
        record.nonces,
        [welcome.next_nonce],
        "confirmed by the inventory's end"
    );
}

#[test]
fn a_running_attempt_is_kept_across_sessions_and_the_old_stream_is_replaced() {
    let (mut rig, mut site, _, assign) = one_task("once");
    site.tells(&mut rig, assign.attempt, AttemptState::Running);
    let old = site.conn;
    let item = site.item(&assign, AttemptState::Running, 1);
    let said = site.connect(&mut rig, vec![item]);
    assert_eq!(closes(&said), [(old, CloseReason::Replaced)]);
    assert_eq!(
        directives(&said),
        [Directive::Keep(assign.attempt), Directive::Reconciled]
    );
    assert_eq!(assigns(&said), []);
    let late = Happened::Frame {
        conn: old,
        messages: vec![site.event(
            assign.attempt,
            AttemptState::Finished(report(Outcome::Failed)),
        )],
    };
    assert_eq!(
        rig.turn(&[late]),
        [],
        "late frames of the old stream are ignored"
    );
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
}

#[test]
fn an_outcome_in_the_inventory_is_applied_first_and_once() {
    let (mut rig, mut site, run, assign) = one_task("once");
    rig.turn(&[site.close()]);
    let item = site.item(
        &assign,
        AttemptState::Finished(report(Outcome::Succeeded)),
        9,
    );
    let said = site.connect(&mut rig, vec![item]);
    assert_eq!(rig.run_state(run), RunState::Succeeded);
    assert_eq!(
        directives(&said),
        [Directive::Forget(assign.attempt), Directive::Reconciled]
    );
    assert_eq!(
        rig.mirror.agents[&(name("acme"), name("bank"))].event_seq,
        EventSeq(9)
    );
    let said = site.connect(&mut rig, vec![item]);
    assert_eq!(
        directives(&said),
        [Directive::Forget(assign.attempt), Directive::Reconciled],
        "known no more"
    );
}

#[test]
fn what_never_arrived_is_sent_again_under_a_new_number_with_no_try_used_up() {
    let (mut rig, mut site, _, assign) = one_task("once");
    rig.turn(&[site.close()]);
    site.catalogue_version = 2;
    let said = site.connect(&mut rig, vec![]);
    let [again] = &assigns(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(
        (again.attempt, again.fence, again.catalogue_version),
        (assign.attempt, assign.fence, CatalogueVersion(2))
    );
    assert!(again.command_seq > assign.command_seq);
    assert_eq!(rig.mirror.attempts.len(), 1);
}

#[test]
fn under_another_incarnation_nothing_is_sent_again() {
    for (entry, replaced) in [("load", true), ("once", false)] {
        let (mut rig, mut site, run, assign) = one_task(entry);
        let said = site.reboots(&mut rig, vec![]);
        assert_eq!(
            rig.phase(assign.attempt),
            Phase::Lost {
                may_have_started: true
            }
        );
        let sent = assigns(&said);
        assert_eq!(sent.len(), usize::from(replaced), "{entry}");
        assert!(sent.iter().all(|sent| sent.attempt != assign.attempt));
        assert_eq!(
            rig.run_state(run),
            RunState::Running,
            "waits for a person, or for the replacement"
        );
    }
}

#[test]
fn what_the_core_does_not_know_is_forgotten() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let stranger = InventoryItem {
        attempt: AttemptId(99),
        run: RunId(98),
        task: TaskIndex(0),
        fence: Fence(7),
        state: AttemptState::Running,
        event_seq: EventSeq(3),
    };
    let said = site.connect(&mut rig, vec![stranger]);
    assert_eq!(
        directives(&said),
        [Directive::Forget(AttemptId(99)), Directive::Reconciled]
    );
}

#[test]
fn crashes_between_welcome_and_inventory_raise_no_alarm_and_a_copy_does() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    let confirmed = site.nonce;
    for _ in 0..20 {
        let opened = site.open(&mut rig);
        let said = rig.turn(&[opened, site.frame(vec![site.hello()])]);
        assert_eq!(
            messages(&said).len(),
            1,
            "the confirmed nonce stays good: {said:?}"
        );
    }
    assert_eq!(
        rig.mirror.agents[&(name("acme"), name("bank"))]
            .nonces
            .len(),
        8
    );
    site.connect(&mut rig, vec![]);
    assert_ne!(site.nonce, confirmed);

    let mut copy = Site::new("bank");
    copy.nonce = confirmed;
    let opened = copy.open(&mut rig);
    let said = rig.turn(&[opened, copy.frame(vec![copy.hello()])]);
    let alarm = Speech::Alarm {
        tenant: name("acme"),
        agent: name("bank"),
        what: Alarm::Cloned,
    };
    assert_eq!(said.first(), Some(&alarm));
    assert_eq!(closes(&said), [], "both keep their sessions");
    assert_eq!(
        site.beats(&mut rig),
        [site.granted(0, None)],
        "the session goes on, without a lease"
    );
}

#[test]
fn nonsense_ends_the_stream_with_an_alarm_and_touches_nothing() {
    let (mut rig, site, _, assign) = one_task("once");
    let mut other = rig.site("plant");
    let wrong_count = UpMessage::Inventory(InventoryPage {
        items: vec![],
        end: Some(1),
    });
    let event = |n, attempt, state| {
        UpMessage::Event(Event {
            event_seq: EventSeq(n),
            attempt,
            state,
        })
    };
    let cases: Vec<(Vec<UpMessage>, bool, Alarm)> = vec![
        (vec![other.heartbeat()], false, Alarm::OutOfOrder),
        (
            vec![
                other.hello(),
                event(1, assign.attempt, AttemptState::Running),
            ],
            false,
            Alarm::OutOfOrder,
        ),
        (
            vec![other.hello(), wrong_count],
            false,
            Alarm::InventoryCount,
        ),
        (vec![other.hello()], true, Alarm::OutOfOrder),
        (vec![Site::inventory(vec![])], true, Alarm::OutOfOrder),
        (
            vec![event(9, assign.attempt, AttemptState::Running)],
            true,
            Alarm::ForeignAttempt,
        ),
        (
            vec![UpMessage::Ack(CommandSeq(1_000_000))],
            true,
            Alarm::ImpossibleEvent,
        ),
    ];
    for (frame, ready, what) in cases {
        let mut events = Vec::new();
        if ready {
            other.connect(&mut rig, vec![]);
        } else {
            events.push(other.open(&mut rig));
        }
        let frame: Vec<UpMessage> = frame
            .into_iter()
            .map(|message| {
                if matches!(message, UpMessage::Hello(_)) {
                    other.hello()
                } else {
                    message
                }
            })
            .collect();
        events.push(other.frame(frame));
        let said = rig.turn(&events);
        let alarm = Speech::Alarm {
            tenant: name("acme"),
            agent: name("plant"),
            what,
        };
        assert!(said.contains(&alarm), "{what:?}: {said:?}");
        assert!(
            closes(&said).contains(&(other.conn, CloseReason::Protocol)),
            "{what:?}"
        );
        assert_eq!(
            rig.turn(&[other.frame(vec![UpMessage::Ack(CommandSeq(0))])]),
            [],
            "not heard any more"
        );
    }
    assert_eq!(rig.phase(assign.attempt), Phase::Assigned);
    assert!(
        rig.core.conns.contains_key(&site.conn),
        "nobody else is affected"
    );
}

#[test]
fn an_attempt_that_goes_back_is_nonsense() {
    let (mut rig, mut site, _, assign) = one_task("once");
    site.tells(&mut rig, assign.attempt, AttemptState::Running);
    let said = site.tells(&mut rig, assign.attempt, AttemptState::Assigned);
    assert_eq!(closes(&said), [(site.conn, CloseReason::Protocol)]);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
}

#[test]
fn unknown_and_removed_agents_and_unknown_tenants_are_turned_away() {
    let mut rig = Rig::new();
    let site = rig.site("bank");
    let closed = Speech::Close {
        conn: Conn(50),
        why: CloseReason::Removed,
    };
    for (tenant, agent) in [("acme", "stranger"), ("nobody", "bank")] {
        let opened = Happened::Opened {
            conn: Conn(50),
            tenant: name(tenant),
            agent: name(agent),
            spiffe_id: String::new(),
            key_hash: "key".into(),
            not_after: 0,
        };
        assert_eq!(rig.turn(&[opened]), std::slice::from_ref(&closed));
    }
    let (answer, said) = rig.ask_in(
        "acme",
        Ask::RemoveAgent {
            agent: name("bank"),
        },
    );
    assert_eq!(answer, Ok(Answer::Removed));
    assert_eq!(
        said,
        [Speech::Close {
            conn: site.conn,
            why: CloseReason::Removed
        }]
    );
    let opened = Happened::Opened {
        conn: Conn(50),
        tenant: name("acme"),
        agent: name("bank"),
        spiffe_id: String::new(),
        key_hash: "key".into(),
        not_after: 0,
    };
    assert_eq!(rig.turn(&[opened]), [closed]);
}

#[test]
fn an_unknown_protocol_is_told_so() {
    let mut rig = Rig::new();
    rig.enrol("bank");
    let mut site = Site::new("bank");
    let opened = site.open(&mut rig);
    let UpMessage::Hello(mut hello) = site.hello() else {
        unreachable!()
    };
    hello.protocol = (2, 3);
    let said = rig.turn(&[opened, site.frame(vec![UpMessage::Hello(hello)])]);
    assert_eq!(
        said,
        [Speech::Close {
            conn: site.conn,
            why: CloseReason::Version
        }]
    );
}

#[test]
fn pages_of_an_inventory_are_one_inventory() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    site.slots = 60;
    site.connect(&mut rig, vec![]);
    rig.apply(workflow(
        "wide",
        (0..100)
            .map(|n| task(&format!("t{n}"), "load", &[]))
            .collect(),
    ));
    let (_, said) = rig.trigger("wide");
    assert_eq!(said.len(), 2, "two frames of at most 64 messages");
    let given = assigns(&said);
    assert_eq!(given.len(), 100);
    let opened = site.open(&mut rig);
    rig.turn(&[opened, site.frame(vec![site.hello()])]);
    let items: Vec<_> = given
        .iter()
        .map(|assign| site.item(assign, AttemptState::Assigned, 0))
        .collect();
    let first = UpMessage::Inventory(InventoryPage {
        items: items[..64].to_vec(),
        end: None,
    });
    let last = UpMessage::Inventory(InventoryPage {
        items: items[64..].to_vec(),
        end: Some(100),
    });
    assert_eq!(site.says(&mut rig, first), []);
    let said = site.says(&mut rig, last);
    assert_eq!(directives(&said).len(), 101);
    let kept = directives(&said);
    let all = given
        .iter()
        .all(|assign| kept.contains(&Directive::Keep(assign.attempt)));
    assert!(all);
}

#[test]
fn a_removed_agents_certificate_is_not_the_one_of_whoever_has_its_name_now() {
    let mut rig = Rig::new();
    rig.site("bank");
    let remove = Ask::RemoveAgent {
        agent: name("bank"),
    };
    assert_eq!(rig.ask_in("acme", remove).0, Ok(Answer::Removed));
    let invite = Ask::Invite {
        agent: name("bank"),
        token_hash: "second token".into(),
        ttl_ms: 600_000,
    };
    assert!(matches!(rig.ask(invite), Ok(Answer::Invited { .. })));
    rig.enrol_with("second token", "another key").unwrap();
    let open = |conn: u64, key: &str| Happened::Opened {
        conn: Conn(conn),
        tenant: name("acme"),
        agent: name("bank"),
        spiffe_id: "spiffe://test/tenant/acme/agent/bank".into(),
        key_hash: key.into(),
        not_after: 0,
    };
    let turned_away = Speech::Close {
        conn: Conn(50),
        why: CloseReason::OtherKey,
    };
    assert_eq!(rig.turn(&[open(50, "key")]), [turned_away]);
    assert_eq!(rig.turn(&[open(51, "another key")]), []);
}
