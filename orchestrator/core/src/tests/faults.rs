//! Silence, restarts, removal and commits that fail.

use crate::record::{NoticeKind, Presence};

use super::*;

const MINUTE: u64 = 60_000;

fn presence(rig: &mut Rig, agent: &str) -> Presence {
    let Ok(Answer::Agents(views)) = rig.ask(Ask::Agents) else {
        unreachable!()
    };
    views
        .into_iter()
        .find(|view| view.agent.as_str() == agent)
        .unwrap()
        .presence
}

fn running(rig: &mut Rig, site: &mut Site, entry: &str) -> (RunId, Assign) {
    rig.apply(workflow("w", vec![task("a", entry, &[])]));
    let (run, said) = rig.trigger("w");
    let assign = assigns(&said).remove(0);
    site.tells(rig, assign.attempt, AttemptState::Running);
    (run, assign)
}

#[test]
fn an_agent_is_stale_after_forty_seconds_and_live_again_when_heard() {
    let mut rig = Rig::new();
    let mut site = rig.site("bank");
    rig.pass_ms(39_999);
    assert_eq!(presence(&mut rig, "bank"), Presence::Live);
    rig.pass_ms(1);
    assert_eq!(presence(&mut rig, "bank"), Presence::Stale);
    site.beats(&mut rig);
    assert_eq!(presence(&mut rig, "bank"), Presence::Live);
    let told: Vec<Presence> = rig
        .mirror
        .notices
        .iter()
        .filter_map(|notice| match notice.what {
            NoticeKind::Agent { presence, .. } => Some(presence),
            NoticeKind::Run { .. }
            | NoticeKind::Task { .. }
            | NoticeKind::Attempt { .. }
            | NoticeKind::Workflow { .. }
            | NoticeKind::Skipped { .. }
            | NoticeKind::Safety { .. } => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            Presence::Enrolled,
            Presence::Live,
            Presence::Stale,
            Presence::Live
        ]
    );
}

#[test]
fn only_retry_safe_attempts_are_lost_and_replaced_elsewhere_and_a_late_end_is_kept_beside() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let mut plant = rig.site("plant");
    rig.pass_ms(10 * MINUTE);
    bank.beats(&mut rig);
    let (run, assign) = running(&mut rig, &mut bank, "load");
    rig.turn(&[bank.close()]);
    rig.pass_ms(5 * MINUTE - 1000);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
    plant.beats(&mut rig);
    let said = rig.pass_ms(1000);
    assert_eq!(
        rig.phase(assign.attempt),
        Phase::Lost {
            may_have_started: true
        }
    );
    let [second] = &assigns(&said)[..] else {
        panic!("{said:?}")
    };
    assert_eq!(rig.attempt(second.attempt).agent.as_str(), "plant");
    assert!(second.fence > assign.fence);

    let item = bank.item(&assign, AttemptState::Running, 1);
    let said = bank.connect(&mut rig, vec![item]);
    assert_eq!(
        directives(&said),
        [Directive::Cancel(assign.attempt), Directive::Reconciled],
        "not wanted any more"
    );
    bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
    assert_eq!(
        rig.attempt(assign.attempt).late,
        Some(report(Outcome::Succeeded))
    );
    assert_eq!(
        rig.run_state(run),
        RunState::Running,
        "the late end decides nothing"
    );
    plant.ends(&mut rig, second.attempt, Outcome::Failed);
    assert_eq!(rig.run_state(run), RunState::Failed);
    assert_eq!(rig.core.durable().runs, []);
}

#[test]
fn a_silent_agent_that_is_still_connected_is_told_that_its_attempt_is_not_wanted() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let (_, assign) = running(&mut rig, &mut bank, "load");
    let said = rig.pass_ms(5 * MINUTE);
    assert_eq!(directives(&said), [Directive::Cancel(assign.attempt)]);
    assert_eq!(assigns(&said), []);
    let said = bank.beats(&mut rig);
    assert_eq!(
        assigns(&said).len(),
        1,
        "heard again, it gets the replacement"
    );
}

#[test]
fn what_is_not_retry_safe_waits_for_ever() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let _plant = rig.site("plant");
    let (_, assign) = running(&mut rig, &mut bank, "once");
    rig.turn(&[bank.close()]);
    rig.pass_ms(48 * 60 * MINUTE);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
    assert_eq!(rig.mirror.attempts.len(), 1);
}

#[test]
fn what_ends_alone_is_replaced_only_after_that() {
    let mut rig = Rig::new();
    rig.enrol("bank");
    let mut bank = Site::new("bank");
    bank.connect(&mut rig, vec![]);
    let UpMessage::Catalogue(mut catalogue) = bank.catalogue() else {
        unreachable!()
    };
    catalogue.version = CatalogueVersion(2);
    catalogue.entries[0].on_disconnect = OnDisconnect::StopAfter(600);
    bank.says(&mut rig, UpMessage::Catalogue(catalogue));
    let (_, assign) = running(&mut rig, &mut bank, "load");
    // Lease and margin, stop-after, grace.
    rig.pass_ms(30_000 + 5_000 + 600_000 + 10_000 - 1);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
    rig.pass_ms(1);
    assert_eq!(
        rig.phase(assign.attempt),
        Phase::Lost {
            may_have_started: true
        }
    );
}

#[test]
fn after_a_restart_every_agent_counts_as_heard_and_nothing_is_lost_for_a_while() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let (_, assign) = running(&mut rig, &mut bank, "load");
    rig.pass_ms(4 * MINUTE);
    rig.restart();
    assert_eq!(presence(&mut rig, "bank"), Presence::Live);
    rig.pass_ms(5 * MINUTE - 1);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
    assert_eq!(presence(&mut rig, "bank"), Presence::Stale);
    rig.pass_ms(1);
    assert_eq!(
        rig.phase(assign.attempt),
        Phase::Lost {
            may_have_started: true
        }
    );
}

#[test]
fn while_the_database_is_down_nothing_is_lost() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let (_, assign) = running(&mut rig, &mut bank, "load");
    // As long as nothing can be committed nobody can be heard, and every turn fails.
    for _ in 0..10 {
        rig.now = rig.now.plus_ms(MINUTE);
        rig.failing_turn(&[], false);
        assert_eq!(rig.phase(assign.attempt), Phase::Running);
    }
    rig.pass_ms(39_000);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
    bank.beats(&mut rig);
    rig.pass_ms(4 * MINUTE);
    assert_eq!(
        rig.phase(assign.attempt),
        Phase::Running,
        "silence counts from then"
    );
    rig.pass_ms(MINUTE);
    assert!(matches!(rig.phase(assign.attempt), Phase::Lost { .. }));
}

#[test]
fn the_grace_after_a_start_may_be_longer_than_the_time_to_be_lost() {
    let restart_grace = std::time::Duration::from_secs(900);
    let mut rig = Rig::with(Settings {
        restart_grace,
        ..Settings::default()
    });
    let mut bank = rig.site("bank");
    let (_, assign) = running(&mut rig, &mut bank, "load");
    rig.pass_ms(15 * MINUTE - 1);
    assert_eq!(rig.phase(assign.attempt), Phase::Running);
    rig.pass_ms(1);
    assert_eq!(
        rig.phase(assign.attempt),
        Phase::Lost {
            may_have_started: true
        }
    );
}

#[test]
fn a_restart_in_the_middle_of_a_run_changes_nothing_of_it() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    rig.apply(workflow(
        "w",
        vec![
            task("a", "load", &[]),
            task("b", "load", &[0]),
            task("c", "load", &[0, 1]),
        ],
    ));
    let (run, said) = rig.trigger("w");
    let mut assign = assigns(&said).remove(0);
    for n in 1.. {
        rig.restart();
        let item = bank.item(&assign, AttemptState::Running, n * 2 - 1);
        bank.event_seq = n * 2 - 1;
        let said = bank.connect(&mut rig, vec![item]);
        assert_eq!(
            directives(&said),
            [Directive::Keep(assign.attempt), Directive::Reconciled]
        );
        let said = bank.ends(&mut rig, assign.attempt, Outcome::Succeeded);
        match assigns(&said).pop() {
            Some(next) => assign = next,
            None => break,
        }
    }
    assert_eq!(rig.run_state(run), RunState::Succeeded);
    assert_eq!(rig.mirror.attempts.len(), 3);
}

#[test]
fn what_a_removed_agent_held_is_replaced_once_its_lease_is_over_if_that_is_safe() {
    for (entry, replaced) in [("load", true), ("once", false)] {
        let mut rig = Rig::new();
        let mut bank = rig.site("bank");
        let mut plant = rig.site("plant");
        let (run, assign) = running(&mut rig, &mut bank, entry);
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
                conn: bank.conn,
                why: CloseReason::Removed
            }]
        );
        assert_eq!(
            rig.phase(assign.attempt),
            Phase::Lost {
                may_have_started: true
            }
        );
        assert_eq!(rig.pass_ms(29_000), []);
        plant.beats(&mut rig);
        assert_eq!(rig.pass_ms(5_999), []);
        assert_eq!(
            assigns(&rig.pass_ms(1)).len(),
            usize::from(replaced),
            "{entry}"
        );
        assert_eq!(rig.run_state(run), RunState::Running);
    }
}

#[test]
fn after_a_failed_commit_the_session_goes_on_and_what_was_said_is_handled_again() {
    for durable in [false, true] {
        let mut rig = Rig::new();
        let mut bank = rig.site("bank");
        let (run, assign) = running(&mut rig, &mut bank, "once");
        let event = bank.event(
            assign.attempt,
            AttemptState::Finished(report(Outcome::Succeeded)),
        );
        let frame = bank.frame(vec![event]);
        rig.failing_turn(std::slice::from_ref(&frame), durable);
        assert_eq!(rig.turn(&[frame]), [bank.ack(2)]);
        assert_eq!(rig.run_state(run), RunState::Succeeded);
        assert_eq!(rig.pass_ms(1), []);
    }
}

#[test]
fn a_welcome_that_was_never_spoken_is_spoken_again() {
    for durable in [false, true] {
        let mut rig = Rig::new();
        let mut bank = rig.site("bank");
        let old = bank.conn;
        let opened = bank.open(&mut rig);
        let events = [opened, bank.frame(vec![bank.hello()])];
        rig.failing_turn(&events, durable);
        let said = rig.turn(&events);
        assert!(
            matches!(messages(&said)[..], [DownMessage::Welcome(_)]),
            "{said:?}"
        );
        assert!(closes(&said).contains(&(old, CloseReason::Replaced)));
    }
}

#[test]
fn an_inventory_in_a_failed_turn_is_reconciled_again() {
    let mut rig = Rig::new();
    let mut bank = rig.site("bank");
    let (_, assign) = running(&mut rig, &mut bank, "once");
    let opened = bank.open(&mut rig);
    rig.turn(&[opened, bank.frame(vec![bank.hello()])]);
    let listing = bank.frame(vec![Site::inventory(vec![bank.item(
        &assign,
        AttemptState::Running,
        1,
    )])]);
    rig.failing_turn(std::slice::from_ref(&listing), false);
    let said = rig.turn(&[listing]);
    assert_eq!(
        directives(&said),
        [Directive::Keep(assign.attempt), Directive::Reconciled]
    );
}

#[test]
fn a_command_that_is_durable_but_was_never_spoken_ends_the_session() {
    for durable in [false, true] {
        let mut rig = Rig::new();
        let mut bank = rig.site("bank");
        rig.apply(workflow("w", vec![task("a", "once", &[])]));
        let ask = Ask::Trigger {
            workflow: name("w"),
            params: BTreeMap::new(),
            key: Some("k".into()),
        };
        rig.failing_turn(
            &[Happened::Asked {
                call: Call(900),
                tenant: name("acme"),
                ask: ask.clone(),
            }],
            durable,
        );
        let said = rig.turn(&[]);
        assert_eq!(
            closes(&said),
            if durable {
                vec![(bank.conn, CloseReason::Replaced)]
            } else {
                vec![]
            }
        );
        let (answer, said) = rig.ask_in("acme", ask);
        assert!(
            matches!(answer, Ok(Answer::Triggered { created, .. }) if created != durable),
            "{answer:?}"
        );
        let said = if durable {
            bank.connect(&mut rig, vec![])
        } else {
            said
        };
        assert_eq!(assigns(&said).len(), 1);
        assert_eq!(rig.mirror.attempts.len(), 1);
    }
}

#[test]
fn a_stream_that_closed_in_a_failed_turn_stays_closed() {
    let mut rig = Rig::new();
    let bank = rig.site("bank");
    rig.failing_turn(&[bank.close()], false);
    rig.turn(&[bank.close()]);
    rig.apply(workflow("w", vec![task("a", "once", &[])]));
    let (_, said) = rig.trigger("w");
    assert_eq!(said, [], "nothing is sent into a stream that is gone");
}
