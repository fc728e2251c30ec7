//! When things are said: at once where somebody waits for them, together where nobody does, and never forgotten.

use std::time::Duration;

use outpost_agent_core::event::{Event, KeeperSaid, Site};
use outpost_proto::ids::{AttemptId, CommandSeq};
use outpost_proto::message::{AttemptState, Directive, UpMessage};
use outpost_proto::outcome::Outcome;
use outpost_sim::scene::{Host, sold};

use crate::part::*;

/// What nobody waits for may collect for as long.
const WITHIN: u64 = 200;

fn host() -> Host {
    Host {
        report_within: millis(WITHIN),
        ..Host::new("site", 1, &["moment", "second", "minute", "hour"])
    }
}

fn ready() -> Part {
    let mut part = Part::ready(host());
    part.silent(millis(500));
    part.page();
    part
}

/// Which messages each frame had, in letters: A acknowledgement, E event, C catalogue, H heartbeat.
fn letters(part: &Part) -> Vec<String> {
    let letter = |message: &UpMessage| match message {
        UpMessage::Ack(_) => 'A',
        UpMessage::Event(_) => 'E',
        UpMessage::Catalogue(_) => 'C',
        UpMessage::Heartbeat(_) => 'H',
        UpMessage::Hello(_) => 'h',
        UpMessage::Inventory(_) => 'I',
        UpMessage::Trigger { .. } => 'T',
    };
    let frames = part.frames().into_iter();
    frames
        .map(|(_, said)| said.iter().map(letter).collect())
        .collect()
}

#[test]
fn that_a_command_was_taken_is_said_with_what_becomes_of_it() {
    let mut part = ready();
    part.gives("moment", &[1]);
    part.silent(millis(100));
    // It ran and ended within moments: one frame for all of it.
    assert_eq!(letters(&part), ["AE", "E"]);
    let states: Vec<_> = part.events().iter().map(|told| told.2).collect();
    assert_eq!(states[0], AttemptState::Running);
    assert!(matches!(states[1], AttemptState::Finished(_)));
    part.silent(seconds(1));
    assert_eq!(letters(&part).len(), 2, "nothing is left to be said");
}

#[test]
fn that_a_command_was_taken_is_said_in_time_when_nothing_becomes_of_it() {
    let mut part = ready();
    let told = part.scene.now();
    part.commands(Directive::Cordon);
    part.silent(millis(WITHIN - 30));
    assert_eq!(letters(&part), Vec::<String>::new());
    part.silent(millis(20));
    assert_eq!(letters(&part), ["A"]);
    assert_eq!(part.acks(), [part.command]);
    let took = part.frames()[0].0 - told;
    assert!((WITHIN * MS..(WITHIN + 6) * MS).contains(&took), "{took}");
}

#[test]
fn ends_collect_while_others_wait_for_the_slot_counted_from_the_first_of_them() {
    let mut part = ready();
    let all: Vec<u128> = (1..=20).collect();
    let began = part.scene.now();
    part.gives("moment", &all);
    part.silent(millis(WITHIN - 60));
    let over = (1..=20).filter(|n| part.outcome(*n).is_some()).count();
    assert!(over > 5, "the slot waits for no frame: {over}");
    assert_eq!(part.events(), [], "an end has no number before it is said");
    assert_eq!(part.held(1).map(|held| held.event_seq.0), Some(0));
    part.silent(millis(60));
    let first = part.frames().first().map(|(at, _)| at - began);
    let bound = WITHIN * MS..(WITHIN + 8) * MS;
    assert!(first.is_some_and(|at| bound.contains(&at)), "{first:?}");
    let said = letters(&part);
    assert!(said[0].starts_with("AEEEEE"), "{said:?}");
    part.silent(millis(500));
    let ended: Vec<u128> = part
        .events()
        .iter()
        .filter(|told| matches!(told.2, AttemptState::Finished(_)))
        .map(|told| told.1)
        .collect();
    assert_eq!(ended, all, "each once, in order");
}

#[test]
fn an_end_for_which_upstream_waits_is_told_at_once() {
    let mut part = ready();
    part.gives("minute", &[1]);
    part.page();
    let ended = part.scene.now();
    part.ends(1, Outcome::Succeeded);
    assert_eq!(letters(&part), ["E"]);
    assert!(part.frames()[0].0 - ended < 5 * MS);
}

#[test]
fn another_catalogue_is_announced_at_once_with_all_there_is_to_say() {
    let mut part = ready();
    part.gives("minute", &[1, 2]);
    part.silent(millis(500));
    part.page();
    part.scene.reload(0, &[sold("minute")]);
    part.silent(millis(20));
    assert_eq!(
        letters(&part),
        ["CE"],
        "the one that waited was chosen under another one"
    );
    let told = part.told();
    let announced = told.iter().find_map(|said| match said {
        UpMessage::Catalogue(catalogue) => Some((catalogue.version.0, catalogue.entries.len())),
        _ => None,
    });
    assert_eq!(announced, Some((2, 1)));
    part.silent(seconds(1));
    assert_eq!(letters(&part).len(), 1, "once");
}

#[test]
fn a_catalogue_that_changes_before_the_inventory_is_announced_with_it_and_not_twice() {
    let mut part = Part::of(host());
    part.hello();
    part.scene.reload(0, &[sold("minute")]);
    part.silent(millis(25));
    let said = part.welcomes(welcome());
    let catalogues = said
        .iter()
        .flatten()
        .filter(|said| matches!(said, UpMessage::Catalogue(_)));
    assert_eq!(catalogues.count(), 1);
    part.page();
    part.reconciles_after(1);
    part.silent(seconds(1));
    assert!(
        letters(&part).iter().all(|frame| !frame.contains('C')),
        "{:?}",
        letters(&part)
    );
    // While it reconciles it is not kept back either.
    let mut part = Part::of(host());
    part.hello();
    part.welcomes(welcome());
    part.page();
    part.scene.reload(0, &[sold("minute")]);
    part.silent(millis(25));
    assert_eq!(letters(&part), ["C"]);
}

#[test]
fn who_leaves_says_everything_first() {
    for leaves in [Site::Stop, Site::Drain] {
        let mut part = ready();
        part.gives("moment", &[1, 2, 3, 4, 5]);
        part.silent(millis(5));
        part.page();
        part.scene.wants(0, leaves);
        part.scene.run(millis(8));
        let said = part.told();
        assert!(
            said.iter().any(|said| matches!(said, UpMessage::Event(_))),
            "{leaves:?}: {said:?}"
        );
    }
}

#[test]
fn before_the_session_is_ready_nothing_is_told_of_attempts_and_then_all_of_it() {
    let mut part = Part::ready(host());
    part.gives("minute", &[1]);
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.hello();
    part.welcomes(welcome());
    part.page();
    part.ends(1, Outcome::Succeeded);
    part.silent(millis(300));
    assert_eq!(
        part.events(),
        [],
        "the inventory is out, and its answer is not here"
    );
    part.reconciles_after(1);
    let told = part.events();
    assert!(
        matches!(told[..], [(_, 1, AttemptState::Finished(_))]),
        "{told:?}"
    );
}

/// Most starts are followed by a word from their keeper; the ones that are not are told with a heartbeat.
#[test]
fn a_start_of_which_no_keeper_says_anything_is_told_with_the_next_heartbeat_once() {
    let mut part = ready();
    part.scene.keepers_stand_still(0, seconds(25));
    part.gives("minute", &[1]);
    part.silent(millis(300));
    assert_eq!(part.events(), []);
    part.goes_on(seconds(22));
    let states: Vec<_> = part.events().iter().map(|told| (told.1, told.2)).collect();
    assert_eq!(
        states,
        [(1, AttemptState::Starting)],
        "not with each of them"
    );
    part.goes_on(seconds(10));
    let states: Vec<_> = part.events().iter().map(|told| told.2).collect();
    assert_eq!(states, [AttemptState::Starting, AttemptState::Running]);
}

#[test]
fn numbers_grow_without_a_gap_and_are_reserved_a_thousand_at_a_time() {
    let mut part = Part::ready(Host {
        backlog: 10_000,
        ..Host::new("site", 1, &["minute"])
    });
    let reserved = |part: &Part| part.scene.journal(0).session.event_seq_reserved.0;
    assert_eq!(reserved(&part), 0);
    // Each of what the site does not offer is refused, which is an event.
    let refuse = |part: &mut Part, from: u128, count: u128| {
        let jobs: Vec<_> = (from..from + count)
            .map(|n| part.job(n, "nothing"))
            .collect();
        part.tell(&jobs);
        part.silent(millis(30));
    };
    refuse(&mut part, 1, 1);
    assert_eq!(reserved(&part), 1000);
    let mut next = 2;
    while next < 1001 {
        let count = 60.min(1001 - next);
        refuse(&mut part, next, count);
        let highest = part.events().last().expect("an event").0;
        part.tell(&[durable(highest)]);
        next += count;
    }
    assert_eq!(reserved(&part), 1000, "the last one of the first block");
    refuse(&mut part, 1001, 1);
    assert_eq!(reserved(&part), 2000);
    let numbers: Vec<u64> = part.events().iter().map(|told| told.0).collect();
    let all: Vec<u64> = (1..=1001).collect();
    assert_eq!(numbers, all);
    // A new process goes on above everything that may have been used.
    part.scene.crash(0);
    part.begins();
    part.page();
    refuse(&mut part, 2001, 2);
    let numbers: Vec<u64> = part.events().iter().map(|told| told.0).collect();
    assert_eq!(numbers, [2001, 2002]);
    assert_eq!(reserved(&part), 3000);
}

/// A frame has at most 64 messages, and as many as it may have.
#[test]
fn frames_are_as_full_as_they_may_be_and_keep_the_order() {
    for (count, sizes) in [
        (62, vec![63]),
        (63, vec![64]),
        (64, vec![64, 1]),
        (150, vec![64, 64, 23]),
    ] {
        let mut part = ready();
        let jobs: Vec<_> = (1..=count).map(|n| part.job(n, "nothing")).collect();
        part.scene.hears(
            0,
            Event::Frame {
                conn: part.conn(),
                messages: jobs,
            },
        );
        part.silent(millis(100));
        let lengths: Vec<usize> = part.frames().iter().map(|(_, said)| said.len()).collect();
        assert_eq!(lengths, sizes, "{count}");
        let told: Vec<u128> = part.events().iter().map(|told| told.1).collect();
        assert_eq!(told, (1..=count).collect::<Vec<_>>());
        assert_eq!(part.told()[0], UpMessage::Ack(CommandSeq(part.command)));
    }
}

#[test]
fn a_duration_beyond_what_can_be_told_is_told_as_the_longest_there_is() {
    let mut part = ready();
    part.gives("hour", &[1]);
    let done = outpost_proto::outcome::Report {
        outcome: Outcome::Succeeded,
        may_have_started: true,
        duration_ms: u64::MAX,
        exit_code: Some(7),
        count: Some(9),
    };
    // A keeper whose clock went mad says so; its task is ended, and it says so again.
    part.keeper(1, KeeperSaid::Finished(done));
    let told = part.events().last().expect("an event").2;
    let AttemptState::Finished(report) = told else {
        panic!("{told:?}");
    };
    assert_eq!(report.duration_ms, outpost_proto::strict::LONGEST_MS);
    assert_eq!((report.exit_code, report.count), (Some(7), Some(9)));
    assert_eq!(report.outcome, Outcome::Succeeded);
    part.ends(1, Outcome::Failed);
    assert_eq!(
        part.outcome(1),
        Some(Outcome::Succeeded),
        "the first end stays"
    );
}

#[test]
fn heartbeats_say_what_is_free_what_runs_what_waits_and_what_was_refused_since() {
    let mut part = Part::ready(Host::new("site", 3, &["hour"]));
    part.gives("hour", &[1, 2]);
    part.gives("nothing", &[3]);
    part.goes_on(seconds(10));
    let beat = part.beat().expect("a heartbeat");
    assert_eq!((beat.slots_free, beat.running, beat.queued), (1, 2, 0));
    assert_eq!(beat.health.refusals, 1);
    part.gives("hour", &[4, 5, 6]);
    part.goes_on(seconds(10));
    let beat = part.beat().expect("a heartbeat");
    assert_eq!((beat.slots_free, beat.running, beat.queued), (0, 3, 2));
    assert_eq!(beat.health.refusals, 0, "told once");
    part.hears(Event::Health(outpost_proto::message::Health {
        cpu_percent: 42,
        uptime_s: 77,
        ..Default::default()
    }));
    part.scene.task_ends(0, AttemptId(1), Outcome::Succeeded);
    part.goes_on(seconds(10));
    let beat = part.beat().expect("a heartbeat");
    assert_eq!((beat.health.cpu_percent, beat.health.uptime_s), (42, 77));
    assert_eq!((beat.running, beat.queued), (3, 1));
}

#[test]
fn a_heartbeat_waits_for_nothing_and_takes_along_what_collects() {
    let mut part = Part::ready(Host {
        report_within: Duration::from_secs(30),
        ..host()
    });
    part.page();
    part.commands(Directive::Cordon);
    part.goes_on(seconds(10));
    assert_eq!(letters(&part), ["AH"]);
}
