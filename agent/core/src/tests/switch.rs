//! The kill switch and observe mode: nothing that comes from outside begins anything.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the few things that matter to it"
)]

use outpost_proto::ids::*;
use outpost_proto::message::*;
use outpost_proto::outcome::{Outcome, Refusal};
use proptest::prelude::*;

use super::harness::*;
use crate::event::{Down, Event, KeeperSaid, Site, Speech, Terms};
use crate::{Found, Settings};

fn roomy() -> Settings {
    Settings {
        ahead: 1,
        ..settings()
    }
}

/// Everything that can come from an orchestrator, honest or not.
fn from_outside() -> impl Strategy<Value = DownMessage> {
    let attempt = || (1..8u128).prop_map(AttemptId);
    let number = (1..60u64).prop_map(CommandSeq);
    let directive = prop_oneof![
        attempt().prop_map(Directive::Keep),
        attempt().prop_map(Directive::Cancel),
        attempt().prop_map(Directive::Forget),
        Just(Directive::Drain),
        Just(Directive::Cordon),
        Just(Directive::Uncordon),
        Just(Directive::RenewNow),
        Just(Directive::Reconciled),
        Just(Directive::Receipt(Receipt {
            session_epoch: SessionEpoch(1),
            frame_count: 1,
            head: [0; 32],
            signature: vec![1],
            named_signature: vec![1],
            linked: None,
        })),
    ];
    // A new kind of directive has its place above.
    let known = |directive: Directive| match directive {
        Directive::Keep(_)
        | Directive::Cancel(_)
        | Directive::Forget(_)
        | Directive::Drain
        | Directive::Cordon
        | Directive::Uncordon
        | Directive::Receipt(_)
        | Directive::RenewNow
        | Directive::Reconciled => directive,
    };
    let welcome = (any::<u64>(), 0..4u32, 50..20_000u32).prop_map(|(nonce, counter, ms)| {
        DownMessage::Welcome(Welcome {
            next_nonce: Nonce(nonce),
            recovery: RecoveryEpoch { counter, ..LIFE },
            heartbeat_interval_ms: ms,
            ..welcome()
        })
    });
    prop_oneof![
        1 => welcome,
        4 => (1..8u128, number.clone()).prop_map(|(n, seq)| DownMessage::Assign(assign(n, "copy", seq))),
        6 => (number, directive.prop_map(known)).prop_map(|(command_seq, directive)| {
            DownMessage::Directive { command_seq, directive }
        }),
        3 => (0..8u32).prop_map(lease),
        1 => (0..8u64).prop_map(durable),
    ]
}

/// What happens to an agent besides what its site's people do.
#[derive(Debug, Clone)]
enum Step {
    /// Numbered on from where the stream is, as an honest one would, or as it comes.
    Says(Vec<DownMessage>, bool),
    /// The stream ends; another is made and comes as far as it does.
    Reconnects,
    /// The process is killed and started again.
    Crashes,
    Keeper(u128, KeeperSaid),
    Waits(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let said = prop_oneof![
        Just(KeeperSaid::Running),
        Just(KeeperSaid::GivenBack),
        Just(KeeperSaid::Finished(report(Outcome::Succeeded))),
        Just(KeeperSaid::Gone { claimed: false }),
    ];
    let says = (prop::collection::vec(from_outside(), 1..4), any::<bool>());
    let step = prop_oneof![
        8 => says.prop_map(|(messages, honest)| Step::Says(messages, honest)),
        2 => Just(Step::Reconnects),
        1 => Just(Step::Crashes),
        3 => (1..8u128, said).prop_map(|(n, said)| Step::Keeper(n, said)),
        2 => (1..30u64).prop_map(Step::Waits),
    ];
    prop::collection::vec(step, 1..40)
}

/// An agent with two that run, one that waits at a keeper behind them, and one that waits.
fn busy() -> Stage {
    let mut stage = Stage::new(roomy());
    stage.ready(Some(shop(1, &[("copy", free())])));
    stage.acked();
    let jobs = (1..=4).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    for n in 1..=2 {
        stage.keeper(n, KeeperSaid::Running);
    }
    stage.said.clear();
    stage
}

/// What was said begins nothing, and heartbeats say why.
fn nothing_began(stage: &mut Stage) {
    for said in std::mem::take(&mut stage.said) {
        match said {
            Speech::Start { .. } => panic!("it began something: {said:?}"),
            Speech::Send { messages, .. } => {
                for message in messages {
                    if let UpMessage::Heartbeat(beat) = message {
                        assert!(beat.flags.paused, "{beat:?}");
                    }
                }
            }
            Speech::Dial { conn } => stage.conn = conn,
            _ => {}
        }
    }
    assert!(stage.agent.view().flags.paused);
    assert!(stage.agent.durable().site.paused);
}

fn takes(stage: &mut Stage, step: Step) {
    match step {
        Step::Says(messages, honest) => {
            let conn = stage.conn;
            let number = |message| match message {
                DownMessage::Assign(mut assign) if honest => {
                    assign.command_seq = stage.number();
                    DownMessage::Assign(assign)
                }
                DownMessage::Directive { directive, .. } if honest => stage.order(directive),
                other => other,
            };
            let messages = messages.into_iter().map(number).collect();
            stage.spoken(&[Event::Frame { conn, messages }]);
        }
        Step::Reconnects => {
            let conn = stage.conn;
            stage.spoken(&[Event::Closed {
                conn,
                why: Down::Ended,
            }]);
            stage.after(400 * SECOND);
            stage.spoken(&[]);
            nothing_began(stage);
            let conn = stage.conn;
            stage.spoken(&[Event::Opened { conn }]);
            stage.frame(vec![DownMessage::Welcome(welcome())]);
            let reconciled = stage.order(Directive::Reconciled);
            stage.frame(vec![reconciled, lease(1)]);
        }
        Step::Crashes => {
            let held = stage.journal.mirror.snapshot().attempts;
            let found = held
                .iter()
                .map(|held| (held.assign.attempt, Found::Running));
            stage.restart(roomy(), &found.collect::<Vec<_>>());
            stage.spoken(&[shop(1, &[("copy", free())])]);
        }
        Step::Keeper(attempt, said) => stage.keeper(attempt, said),
        Step::Waits(seconds) => {
            stage.after(seconds * SECOND);
            stage.spoken(&[]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_comes_from_outside_a_paused_agent_stays_paused_and_begins_nothing(steps in steps()) {
        let mut stage = busy();
        stage.spoken(&[Event::Site(Site::Pause)]);
        nothing_began(&mut stage);
        for step in steps {
            takes(&mut stage, step);
            nothing_began(&mut stage);
        }
    }
}

#[test]
fn the_same_agent_begins_what_waits_when_nobody_paused_it() {
    // What the test above would miss if its world could begin nothing anyway.
    let mut stage = busy();
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    stage.keeper(2, KeeperSaid::Finished(report(Outcome::Succeeded)));
    let job = stage.job(9, "copy");
    stage.frame(vec![job]);
    let starts = stage
        .said
        .iter()
        .filter(|said| matches!(said, Speech::Start { .. }));
    assert!(starts.count() >= 2, "{:?}", stage.said);
}

#[test]
fn a_pause_has_back_what_waits_at_a_keeper_and_a_crash_gives_nothing_to_begin() {
    let mut stage = Stage::new(Settings {
        slots: 1,
        ..roomy()
    });
    stage.ready(Some(shop(1, &[("copy", free())])));
    stage.acked();
    // The first one shows that these are over within moments.
    let job = stage.job(1, "copy");
    stage.frame(vec![job]);
    stage.keeper(1, KeeperSaid::Running);
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    let jobs = (2..=3).map(|n| stage.job(n, "copy")).collect();
    stage.frame(jobs);
    stage.keeper(2, KeeperSaid::Running);
    let behind = stage.said.iter().any(|said| {
        matches!(
            said,
            Speech::Start {
                behind: Some(AttemptId(2)),
                ..
            }
        )
    });
    assert!(behind, "{:?}", stage.said);
    stage.said.clear();
    stage.spoken(&[Event::Site(Site::Pause)]);
    assert_eq!(
        stage.next(),
        Speech::TakeBack {
            attempt: AttemptId(3)
        }
    );
    nothing_began(&mut stage);
    // The process is killed before the keeper answers. Nobody took it: the runner makes the claim in its place.
    let found = [
        (AttemptId(2), Found::Running),
        (AttemptId(3), Found::NeverStarted),
    ];
    stage.restart(roomy(), &found);
    stage.ready(Some(shop(1, &[("copy", free())])));
    nothing_began(&mut stage);
    stage.keeper(2, KeeperSaid::Finished(report(Outcome::Succeeded)));
    nothing_began(&mut stage);
}

fn observing() -> Settings {
    Settings {
        observe: true,
        ..roomy()
    }
}

#[test]
fn an_observing_agent_judges_in_full_records_what_would_run_and_says_only_that_it_observes() {
    let terms = Terms {
        max_per_hour: Some(2),
        ..free()
    };
    let mut stage = Stage::new(observing());
    stage.ready(Some(shop(1, &[("copy", terms)])));
    stage.acked();
    let mut parameters = assign(1, "copy", stage.number());
    parameters.parameters = vec![("day".parse().unwrap(), ParamValue::Integer(3))];
    let wanted = [
        (DownMessage::Assign(parameters.clone()), Refusal::Observe),
        (stage.job(2, "format-disk"), Refusal::UnknownEntry),
        (stage.job(3, "copy"), Refusal::Observe),
        // Two would have begun within the hour.
        (stage.job(4, "copy"), Refusal::Rate),
    ];
    for (job, expected) in wanted {
        stage.frame(vec![job.clone()]);
        let Speech::Refused {
            refusal,
            assign,
            why,
            ..
        } = stage.next()
        else {
            panic!("not refused")
        };
        assert_eq!(DownMessage::Assign(*assign), job, "with its parameters");
        assert_eq!(refusal, expected, "{why}");
        assert!(!why.is_empty());
        let messages = stage.sent();
        let UpMessage::Event(event) = &messages[1] else {
            panic!("no event: {messages:?}")
        };
        let AttemptState::Finished(told) = event.state else {
            panic!("not over: {event:?}")
        };
        assert_eq!(told.outcome, Outcome::Refused(expected));
        stage.nothing_else();
    }
    assert!(stage.agent.view().flags.observe);
}

#[test]
fn an_observing_agent_lets_what_an_earlier_process_began_go_on_and_turns_away_what_waits() {
    let mut stage = busy();
    let found = [
        (AttemptId(1), Found::Running),
        (AttemptId(2), Found::Running),
    ];
    stage.restart(observing(), &found);
    let rules = shop(1, &[("copy", free())]);
    stage.spoken(&[rules]);
    let mut refused = Vec::new();
    while let Some(said) = stage.said.pop_front() {
        match said {
            Speech::Refused {
                attempt, refusal, ..
            } => refused.push((attempt, refusal)),
            Speech::Start { .. } => panic!("{said:?}"),
            Speech::Dial { conn } => stage.conn = conn,
            _ => {}
        }
    }
    let waited = stage.agent.view().running;
    assert!(
        waited.iter().any(|one| one.attempt == AttemptId(1)),
        "{waited:?}"
    );
    assert!(
        refused.iter().all(|(_, why)| *why == Refusal::Observe),
        "{refused:?}"
    );
    assert!(!refused.is_empty());
    assert_eq!(stage.agent.view().queued, []);
    stage.keeper(1, KeeperSaid::Finished(report(Outcome::Succeeded)));
    assert!(
        !stage
            .said
            .iter()
            .any(|said| matches!(said, Speech::Start { .. }))
    );
}

#[test]
fn heartbeats_say_that_it_is_paused_or_observes() {
    for (settings, pause) in [(roomy(), true), (observing(), false)] {
        let mut stage = Stage::new(settings);
        if pause {
            stage.spoken(&[Event::Site(Site::Pause)]);
        }
        stage.connect(Some(shop(1, &[("copy", free())])));
        stage.frame(vec![DownMessage::Welcome(welcome())]);
        let messages = stage.sent();
        let Some(UpMessage::Heartbeat(beat)) = messages.last() else {
            panic!("{messages:?}")
        };
        assert_eq!((beat.flags.paused, beat.flags.observe), (pause, !pause));
    }
}
