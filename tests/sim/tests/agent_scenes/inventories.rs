//! The inventory: everything that is held, once, in order, in pages that fit, and nothing of it before Welcome.

use outpost_proto::ids::{AttemptId, EventSeq, RunId, TaskIndex};
use outpost_proto::message::{AttemptState, Directive, UpMessage, Welcome};
use outpost_proto::outcome::Outcome;
use outpost_sim::scene::Host;

use crate::part::*;

fn host(slots: u16) -> Host {
    Host {
        backlog: 10_000,
        ..Host::new("site", slots, &["moment", "hour", "stubborn"])
    }
}

/// A new stream, and the answer to its Welcome, frame by frame.
fn told_again(part: &mut Part) -> Vec<Vec<UpMessage>> {
    part.scene.cut(0);
    part.scene.run(millis(1));
    part.hello();
    part.welcomes(welcome())
}

/// The catalogue counts as half a frame and a page as a quarter, whatever is in them.
#[test]
fn a_large_inventory_goes_in_pages_that_say_how_much_it_is_and_in_frames_that_fit() {
    for (held, pages, frames) in [
        (0, vec![(0, true)], vec!["CIH"]),
        (1, vec![(1, true)], vec!["CIH"]),
        (64, vec![(64, true)], vec!["CIH"]),
        (65, vec![(64, false), (1, true)], vec!["CII", "H"]),
        (128, vec![(64, false), (64, true)], vec!["CII", "H"]),
        (
            150,
            vec![(64, false), (64, false), (22, true)],
            vec!["CII", "IH"],
        ),
        (
            400,
            vec![
                (64, false),
                (64, false),
                (64, false),
                (64, false),
                (64, false),
                (64, false),
                (16, true),
            ],
            vec!["CII", "IIII", "IH"],
        ),
    ] {
        let mut part = Part::ready(host(1));
        let jobs: Vec<_> = (1..=held).map(|n| part.job(n, "hour")).collect();
        if !jobs.is_empty() {
            part.tell(&jobs);
        }
        let said = told_again(&mut part);
        let letter = |message: &UpMessage| match message {
            UpMessage::Catalogue(_) => 'C',
            UpMessage::Inventory(_) => 'I',
            UpMessage::Heartbeat(_) => 'H',
            other => panic!("{other:?}"),
        };
        let letters: Vec<String> = said
            .iter()
            .map(|frame| frame.iter().map(letter).collect())
            .collect();
        assert_eq!(letters, frames, "{held}");
        let sizes: Vec<(usize, bool)> = said
            .iter()
            .flatten()
            .filter_map(|message| match message {
                UpMessage::Inventory(page) => Some((page.items.len(), page.end.is_some())),
                _ => None,
            })
            .collect();
        assert_eq!(sizes, pages, "{held}");
        let ids: std::collections::BTreeSet<u128> =
            items(&said).iter().map(|item| item.attempt.0).collect();
        assert_eq!(ids, (1..=held).collect(), "each of them, once");
        let end = said.iter().flatten().find_map(|message| match message {
            UpMessage::Inventory(page) => page.end,
            _ => None,
        });
        assert_eq!(end.map(u128::from), Some(held), "and how many");
    }
}

#[test]
fn each_item_says_whose_it_is_where_it_stands_and_under_which_number() {
    let mut part = Part::ready(host(2));
    part.gives("hour", &[1]);
    let mut other = part.assign(2, "hour");
    (other.run, other.task) = (RunId(9), TaskIndex(4));
    part.tell(&[outpost_proto::message::DownMessage::Assign(other)]);
    part.gives("hour", &[3]);
    part.ends(1, Outcome::Failed);
    part.goes_on(millis(100));
    let number = |part: &Part, n: u128| part.held(n).map(|held| held.event_seq);
    let numbers = [number(&part, 1), number(&part, 2)];
    let told = items(&told_again(&mut part));
    let one = told
        .iter()
        .find(|item| item.attempt == AttemptId(1))
        .expect("told");
    let two = told
        .iter()
        .find(|item| item.attempt == AttemptId(2))
        .expect("told");
    assert!(
        matches!(one.state, AttemptState::Finished(report) if report.outcome == Outcome::Failed)
    );
    assert_eq!(
        (two.state, two.run, two.task),
        (AttemptState::Running, RunId(9), TaskIndex(4))
    );
    assert_eq!([Some(one.event_seq), Some(two.event_seq)], numbers);
    let order: Vec<EventSeq> = told.iter().map(|item| item.event_seq).collect();
    assert!(order.is_sorted(), "{order:?}");
}

/// What ends while there is no stream has its number by the inventory; what waits needs none.
#[test]
fn what_was_not_told_yet_is_numbered_by_the_inventory_and_not_told_a_second_time() {
    let mut part = Part::ready(host(2));
    part.gives("hour", &[1, 2, 3, 4]);
    let before = part.events().last().expect("an event").0;
    part.scene.cut_off(0, seconds(5));
    part.scene.run(millis(1));
    part.ends(2, Outcome::Succeeded);
    assert_eq!(part.held(2).map(|held| held.event_seq), Some(EventSeq(0)));
    part.scene.run(seconds(6));
    part.hello();
    let told = items(&part.welcomes(welcome()));
    let numbers: Vec<(u64, u128)> = told
        .iter()
        .map(|item| (item.event_seq.0, item.attempt.0))
        .collect();
    assert_eq!(numbers, [(0, 3), (0, 4), (before - 1, 1), (before + 1, 2)]);
    part.page();
    part.reconciles_after(1);
    part.goes_on(seconds(1));
    let again: Vec<u128> = part.events().iter().map(|told| told.1).collect();
    assert!(!again.contains(&2), "{again:?}");
    part.tell(&[durable(before + 1)]);
    assert_eq!(part.held(2), None);
}

#[test]
fn directives_upon_it_are_obeyed_before_any_work() {
    let mut part = Part::ready(host(2));
    part.gives("hour", &[1, 2, 3]);
    told_again(&mut part);
    part.page();
    let orders = [
        part.order(Directive::Keep(AttemptId(1))),
        part.order(Directive::Cancel(AttemptId(2))),
        part.order(Directive::Forget(AttemptId(3))),
    ];
    part.tell(&orders);
    part.silent(seconds(2));
    assert_eq!(part.state(1), Some(AttemptState::Running), "kept");
    assert_eq!(part.outcome(2), Some(Outcome::Cancelled));
    assert_eq!(part.held(3), None, "and forgotten");
    assert_eq!(part.acks(), [part.command], "which is said");
    assert_eq!(
        part.events(),
        [],
        "of attempts nothing, before it is reconciled"
    );
    part.reconciles_after(1);
    let told: Vec<u128> = part.events().iter().map(|told| told.1).collect();
    assert_eq!(told, [2]);
}

#[test]
fn whatever_was_forgotten_is_ended_first_and_nothing_of_it_is_told() {
    let mut part = Part::ready(host(2));
    part.gives("stubborn", &[1]);
    part.gives("moment", &[2]);
    part.silent(millis(100));
    part.page();
    part.commands(Directive::Forget(AttemptId(1)));
    assert_eq!(
        part.held(1).map(|held| held.cancel_requested),
        Some(true),
        "until nothing of it runs"
    );
    part.goes_on(seconds(31));
    assert_eq!((part.held(1), part.scene.running(0)), (None, vec![]));
    part.commands(Directive::Forget(AttemptId(2)));
    assert_eq!(part.held(2), None);
    part.goes_on(seconds(12));
    assert_eq!(part.events(), []);
    let memories = part.scene.journal(0).memories;
    assert_eq!(memories.len(), 2, "remembered all the same");
    // What nobody holds is no harm.
    part.commands(Directive::Forget(AttemptId(99)));
    part.commands(Directive::Cancel(AttemptId(99)));
    assert_eq!(part.alarms(), []);
}

#[test]
fn an_acknowledgement_settles_what_it_covers_in_order_and_nothing_else() {
    let mut part = Part::ready(host(3));
    part.gives("hour", &[1, 2, 3]);
    for attempt in [3, 1, 2] {
        part.ends(attempt, Outcome::Succeeded);
    }
    let number = |part: &Part, n: u128| part.held(n).map_or(0, |held| held.event_seq.0);
    let (one, two, three) = (number(&part, 1), number(&part, 2), number(&part, 3));
    assert!(three < one && one < two);
    part.page();
    part.tell(&[durable(one)]);
    let held: Vec<bool> = [1, 2, 3].iter().map(|n| part.held(*n).is_some()).collect();
    assert_eq!(held, [false, true, false]);
    part.tell(&[durable(three)]);
    assert!(part.held(2).is_some(), "a lower one later says nothing new");
    part.tell(&[durable(two)]);
    assert_eq!(part.scene.journal(0).attempts, []);
    let discarded: Vec<u128> = part
        .scene
        .said(0)
        .filter_map(|(_, said)| match said {
            outpost_agent_core::event::Speech::Discard { attempt } => Some(attempt.0),
            _ => None,
        })
        .collect();
    assert_eq!(discarded, [3, 1, 2]);
}

/// A cancel that crosses an outcome on the way is answered by the outcome.
#[test]
fn a_cancel_is_answered_when_the_whole_tree_is_gone_or_by_the_end_that_came_first() {
    let mut part = Part::ready(host(1));
    part.gives("hour", &[1, 2]);
    part.page();
    part.commands(Directive::Cancel(AttemptId(2)));
    assert_eq!(
        part.state(2),
        Some(ended(Outcome::Cancelled, false)),
        "what waits, at once"
    );
    part.commands(Directive::Cancel(AttemptId(1)));
    assert_eq!(part.held(1).map(|held| held.cancel_requested), Some(true));
    part.silent(seconds(2));
    assert_eq!(part.outcome(1), Some(Outcome::Cancelled));
    part.page();
    part.commands(Directive::Cancel(AttemptId(1)));
    let told: Vec<u128> = part.events().iter().map(|told| told.1).collect();
    assert_eq!(told, [1], "said again");
}

/// Numbers that a former copy of the state directory gave away stand for something else upstream.
#[test]
fn an_agent_put_back_to_an_earlier_copy_numbers_above_what_upstream_knows() {
    let mut part = Part::ready(host(3));
    part.gives("hour", &[1, 2]);
    part.ends(1, Outcome::Succeeded);
    for (highest, first) in [(3, None), (4, Some(5)), (5000, Some(5001))] {
        part.scene.cut(0);
        part.scene.run(millis(1));
        part.hello();
        let told = items(&part.welcomes(Welcome {
            highest_event_seq: EventSeq(highest),
            ..welcome()
        }));
        let numbers: Vec<u64> = told.iter().map(|item| item.event_seq.0).collect();
        if let Some(first) = first {
            assert_eq!(numbers, [first, first + 1]);
        } else {
            assert!(
                numbers.iter().all(|number| *number < 10),
                "kept: {numbers:?}"
            );
        }
        part.reconciles();
    }
    part.tell(&[durable(5000)]);
    assert_eq!(part.view().unacknowledged, 1, "not what that number says");
    let number = part.held(1).expect("held").event_seq.0;
    part.tell(&[durable(number)]);
    assert_eq!(part.held(1), None);
    part.gives("nothing", &[7]);
    let numbers: Vec<u64> = part.events().iter().map(|told| told.0).collect();
    assert_eq!(numbers.last(), Some(&5003));
}

/// An orchestrator cannot silence an agent by claiming to know more than there can be.
#[test]
fn no_number_of_an_orchestrator_leaves_an_agent_without_any() {
    for (highest, believed) in [
        ((1 << 47) - 1, true),
        (1 << 47, false),
        ((1 << 48) - 1, false),
    ] {
        let mut part = Part::of(host(1));
        part.hello();
        part.welcomes(Welcome {
            highest_event_seq: EventSeq(highest),
            ..welcome()
        });
        assert_eq!(part.alarms().is_empty(), believed, "{highest}");
        if believed {
            part.reconciles();
            part.gives("nothing", &[1]);
            assert_eq!(part.events()[0].0, highest + 1, "beyond");
            // And what it numbered itself it believes.
            part.scene.cut(0);
            part.scene.run(millis(1));
            part.hello();
            part.welcomes(Welcome {
                highest_event_seq: EventSeq(highest + 1),
                ..welcome()
            });
            assert_eq!(part.alarms(), []);
        }
    }
}
