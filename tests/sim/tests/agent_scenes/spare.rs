//! A slot that gets free while others wait at the keepers of slots that do not: as many come back as there is room for.

use outpost_proto::ids::AttemptId;
use outpost_proto::message::Directive;
use outpost_proto::outcome::Outcome;

use crate::lines::{ENTRY, brief, ends};
use crate::part::*;

#[test]
fn a_slot_that_is_free_elsewhere_has_the_last_of_the_longest_line_back() {
    let mut part = brief(2, 3);
    part.gives(ENTRY, &[1, 2, 3, 4, 5, 6]);
    let all = [
        (1, None),
        (2, None),
        (3, Some(1)),
        (4, Some(2)),
        (5, Some(1)),
        (6, Some(2)),
    ];
    assert_eq!(part.begun(), all);
    part.page();
    // Both that wait at the second keeper are over before they begin: then it has none, and its slot gets free.
    part.commands(Directive::Cancel(AttemptId(4)));
    part.commands(Directive::Cancel(AttemptId(6)));
    assert_eq!(part.asked_back(), []);
    part.page();
    ends(&mut part, 2);
    assert_eq!(
        part.asked_back(),
        [5],
        "one slot, one attempt, and not the next in line"
    );
    assert_eq!(part.begun(), [(5, None)]);
    part.page();
    ends(&mut part, 1);
    assert_eq!((part.begun(), part.asked_back()), (vec![], vec![]));
    assert_eq!(part.scene.running(0), [AttemptId(3), AttemptId(5)]);
}

/// As many come back as there are slots, and none twice.
#[test]
fn two_slots_that_get_free_in_one_turn_have_two_back() {
    let mut part = brief(3, 3);
    part.gives(ENTRY, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for attempt in [5, 6, 8, 9] {
        part.commands(Directive::Cancel(AttemptId(attempt)));
    }
    // 4 and 7 wait behind 1; 2 and 3 have nobody behind them, and end together.
    part.page();
    for attempt in [2, 3] {
        part.scene
            .task_took(0, AttemptId(attempt), Outcome::Succeeded, 12);
    }
    part.scene.run(millis(25));
    assert_eq!(part.asked_back(), [4, 7]);
    assert_eq!(part.begun(), [(4, None), (7, None)]);
    assert_eq!(part.scene.running(0), [1, 4, 7].map(AttemptId));
}

/// Keepers may take their time to answer: who was asked for is counted on, and nobody is asked for twice.
#[test]
fn who_is_on_the_way_back_is_counted_on() {
    let mut part = brief(3, 3);
    part.gives(ENTRY, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for attempt in [5, 6, 8, 9] {
        part.commands(Directive::Cancel(AttemptId(attempt)));
    }
    part.page();
    part.scene.keepers_answer_after(0, seconds(12));
    ends(&mut part, 2);
    assert_eq!(part.asked_back(), [7], "the last of the line");
    // Whatever else happens meanwhile, one slot has one back.
    part.commands(Directive::Cordon);
    part.goes_on(millis(300));
    assert_eq!(part.asked_back(), [7]);
    ends(&mut part, 3);
    assert_eq!(part.asked_back(), [7, 4], "two slots, two attempts");
    part.goes_on(seconds(11));
    assert_eq!((part.asked_back().len(), part.begun()), (2, vec![]));
    part.goes_on(seconds(2));
    assert_eq!(part.begun(), [(7, None), (4, None)]);
}

/// A line that is shut has all back that wait there: a slot that gets free in the same turn wants nobody else.
#[test]
fn who_comes_back_because_its_line_is_shut_takes_the_slot_that_got_free() {
    let mut part = brief(2, 2);
    part.gives(ENTRY, &[1, 2, 3, 4, 5, 6]);
    part.commands(Directive::Cancel(AttemptId(4)));
    part.commands(Directive::Cancel(AttemptId(6)));
    part.page();
    part.silent(millis(1100));
    ends(&mut part, 2);
    assert_eq!(part.asked_back(), [3, 5]);
    let begun = [(3, None), (5, Some(3))];
    assert_eq!(part.begun(), begun, "into the slot, in order");
}

/// One slot, and one that comes back anyway: the others that wait elsewhere stay where they are.
#[test]
fn for_one_slot_one_is_enough_whyever_it_comes_back() {
    let mut part = brief(3, 1);
    part.gives(ENTRY, &[1, 2]);
    part.gives(ENTRY, &[4]);
    part.gives(ENTRY, &[5]);
    assert_eq!(
        part.begun(),
        [(1, None), (2, None), (4, None), (5, Some(1))]
    );
    part.silent(millis(900));
    // Another one gets its slot only now, and its line stays open.
    ends(&mut part, 4);
    assert_eq!(part.asked_back(), [5]);
    assert_eq!(part.begun().last(), Some(&(5, None)));
    part.gives(ENTRY, &[6, 7]);
    assert_eq!(part.asked_back(), [5], "there is no slot for them");
    assert_eq!(part.scene.running(0).len(), 3);
    assert_eq!(part.outcome(4), Some(Outcome::Succeeded));
}
