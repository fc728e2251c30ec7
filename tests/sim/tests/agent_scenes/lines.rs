//! Who is next: at the slots, and at the keepers, where brief tasks wait behind each other.

use outpost_agent_core::event::{Down, Event, KeeperSaid, Site, Speech};
use outpost_proto::ids::AttemptId;
use outpost_proto::message::{AttemptState, Directive};
use outpost_proto::outcome::{Interruption, Outcome, Refusal};
use outpost_sim::scene::{Host, Sold, sold};

use crate::part::*;

pub(crate) const ENTRY: &str = "moment";

fn host(slots: u16, ahead: u16) -> Host {
    Host {
        ahead,
        ..Host::new("site", slots, &["moment", "second", "hour", "failure"])
    }
}

/// Ready; the last attempt of the entry, number 100, was over within moments. Its tasks take long from now on: they end
/// when the test says so.
pub(crate) fn brief(slots: u16, ahead: u16) -> Part {
    let mut part = Part::ready(host(slots, ahead));
    part.gives(ENTRY, &[100]);
    part.silent(millis(50));
    assert_eq!(part.outcome(100), Some(Outcome::Succeeded));
    let told = part.events().last().expect("an event").0;
    part.tell(&[durable(told)]);
    part.scene.tasks_take(0, ENTRY, seconds(3600));
    part.page();
    part
}

/// The same with one slot and attempts 1 to 3: 1 has it, 2 waits at its keeper, 3 waits here.
fn three() -> Part {
    let mut part = brief(1, 1);
    part.gives(ENTRY, &[1, 2, 3]);
    assert_eq!(part.begun(), [(1, None), (2, Some(1))]);
    assert_eq!(part.state(2), Some(AttemptState::Starting));
    assert_eq!(part.state(3), Some(AttemptState::Assigned));
    part.page();
    part
}

/// A task ends after as long as brief ones take.
pub(crate) fn ends(part: &mut Part, attempt: u128) {
    part.scene
        .task_took(0, AttemptId(attempt), Outcome::Succeeded, 12);
    part.scene.run(millis(25));
}

#[test]
fn slots_are_given_in_the_order_of_the_commands() {
    let mut part = Part::ready(host(2, 0));
    part.gives("hour", &[9, 3, 7, 1]);
    assert_eq!(part.begun(), [(9, None), (3, None)]);
    part.ends(3, Outcome::Succeeded);
    part.ends(9, Outcome::Succeeded);
    assert_eq!(part.begun()[2..], [(7, None), (1, None)]);
}

#[test]
fn an_entry_with_a_limit_waits_and_others_pass_it() {
    let mut part = Part::ready(Host {
        sells: vec![
            Sold {
                max_parallel: Some(1),
                ..sold("hour")
            },
            sold("second"),
        ],
        ..host(3, 0)
    });
    let jobs = [
        part.job(1, "hour"),
        part.job(2, "hour"),
        part.job(3, "hour"),
        part.job(4, "second"),
    ];
    part.tell(&jobs);
    assert_eq!(part.begun(), [(1, None), (4, None)]);
    part.ends(1, Outcome::Succeeded);
    assert_eq!(part.begun()[2..], [(2, None)]);
    part.commands(Directive::Cancel(AttemptId(2)));
    part.silent(seconds(2));
    assert_eq!(part.begun()[3..], [(3, None)]);
}

#[test]
fn who_waits_at_a_keeper_is_begun_by_it_and_takes_the_slot_that_gets_free() {
    let mut part = three();
    ends(&mut part, 1);
    assert_eq!(
        part.scene.running(0),
        [AttemptId(2)],
        "its keeper went on by itself"
    );
    assert_eq!(part.begun(), [(3, Some(2))], "and has the next one already");
    ends(&mut part, 2);
    ends(&mut part, 3);
    assert_eq!((part.begun().len(), part.asked_back()), (1, vec![]));
    part.gives(ENTRY, &[4]);
    assert_eq!(part.begun()[1..], [(4, None)]);
    assert_eq!(part.outcome(3), Some(Outcome::Succeeded));
}

#[test]
fn heartbeats_count_who_waits_at_keepers_as_queued_and_slots_once() {
    let mut part = three();
    part.goes_on(seconds(10));
    let beat = part.beat().expect("a heartbeat");
    assert_eq!((beat.running, beat.queued, beat.slots_free), (1, 2, 0));
    // Two lines, of different length.
    let mut part = brief(3, 2);
    part.gives(ENTRY, &[1, 2, 3, 4, 5]);
    assert_eq!(
        part.begun(),
        [(1, None), (2, None), (3, None), (4, Some(1)), (5, Some(2))]
    );
    part.goes_on(seconds(10));
    let beat = part.beat().expect("a heartbeat");
    assert_eq!((beat.running, beat.slots_free), (3, 0));
}

#[test]
fn each_waits_where_the_fewest_do_and_no_line_is_longer_than_it_may() {
    let mut part = brief(2, 2);
    part.gives(ENTRY, &[1, 2, 3, 4, 5, 6, 7, 8]);
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
    // 3 has the slot of 1 and one behind it; the next one goes there.
    ends(&mut part, 1);
    assert_eq!(part.begun(), [(7, Some(3))]);
    ends(&mut part, 3);
    assert_eq!(part.begun(), [(7, Some(3)), (8, Some(5))]);
    for attempt in [2, 5, 4, 7, 6, 8] {
        ends(&mut part, attempt);
    }
    assert_eq!(part.asked_back(), []);
    for attempt in 1..=8 {
        assert_eq!(part.outcome(attempt), Some(Outcome::Succeeded), "{attempt}");
        assert_eq!(part.scene.starts(AttemptId(attempt)), 1, "{attempt}");
    }
}

#[test]
fn nobody_waits_behind_what_takes_long_or_is_not_known() {
    let mut part = Part::ready(host(1, 1));
    part.gives("second", &[1, 2, 3]);
    assert_eq!(part.begun(), [(1, None)]);
    part.silent(millis(1500));
    assert_eq!(part.begun(), [(1, None), (2, None)]);
}

/// What says how long the next one will take: ends of its own, whichever, and no others.
#[test]
fn an_end_that_came_from_elsewhere_says_nothing_of_how_long_the_next_one_takes() {
    for (entry, cancelled, ahead) in [
        ("moment", false, true),
        ("failure", false, true),
        ("moment", true, false),
    ] {
        let mut part = Part::ready(host(1, 1));
        part.gives(entry, &[100]);
        if cancelled {
            // Before it ends by itself.
            let mut again = Part::ready(host(1, 1));
            let job = again.job(100, entry);
            let cancel = again.order(Directive::Cancel(AttemptId(100)));
            again.tell(&[job, cancel]);
            part = again;
        }
        part.silent(millis(1500));
        part.page();
        part.gives(entry, &[1, 2]);
        assert_eq!(
            part.begun().len() == 2 && part.begun()[1].1 == Some(AttemptId(1).0),
            ahead,
            "{entry}"
        );
    }
}

#[test]
fn what_has_a_timer_or_a_count_of_its_own_does_not_wait_at_a_keeper() {
    let limits = [
        Sold {
            max_parallel: Some(1),
            ..sold(ENTRY)
        },
        Sold {
            max_per_hour: Some(10),
            ..sold(ENTRY)
        },
    ];
    for limit in limits {
        let mut part = Part::ready(Host {
            sells: vec![limit],
            ..host(1, 1)
        });
        part.gives(ENTRY, &[100]);
        part.silent(millis(50));
        part.page();
        part.gives(ENTRY, &[1, 2]);
        part.silent(millis(100));
        assert_eq!(part.begun(), [(1, None), (2, None)], "{limit:?}");
    }
}

/// Nobody is overtaken for long behind one that turns out to take long.
#[test]
fn after_a_second_a_line_is_shut_and_who_waits_there_comes_back_for_the_next_slot() {
    let mut part = brief(2, 1);
    part.gives(ENTRY, &[1, 2, 3, 4, 5, 6]);
    let all = [(1, None), (2, None), (3, Some(1)), (4, Some(2))];
    assert_eq!(part.begun(), all);
    part.page();
    part.silent(millis(900));
    part.scene
        .task_took(0, AttemptId(2), Outcome::Succeeded, 12);
    part.silent(millis(50));
    assert_eq!(
        (part.asked_back(), part.begun()),
        (vec![], vec![(5, Some(4))])
    );
    // From here on nothing happens that would make it look; the next thing that does comes after a second.
    part.page();
    part.silent(millis(300));
    ends(&mut part, 4);
    assert_eq!(
        part.asked_back(),
        [3],
        "1 has had its slot for more than a second"
    );
    // It comes back, and by then the next one in line was before it.
    assert_eq!(part.begun(), [(6, Some(5))]);
    assert_eq!(part.state(3), Some(AttemptState::Assigned));
    part.page();
    ends(&mut part, 5);
    assert_eq!(part.begun(), [(3, Some(6))], "and nobody behind 1 again");
    assert_eq!(part.asked_back(), []);
    for attempt in [6, 3] {
        ends(&mut part, attempt);
        assert_eq!(part.outcome(attempt), Some(Outcome::Succeeded));
    }
}

/// Exactly a second is not too long; a microsecond more is.
#[test]
fn a_line_is_open_for_a_second_to_the_microsecond() {
    for (more, shut) in [(0, false), (1, true)] {
        let mut part = brief(1, 1);
        part.gives(ENTRY, &[1, 2]);
        let began = part.view().running[0].began_us.expect("its beginning");
        part.runs_to(began + SECOND + more, 50);
        part.scene.hears(0, Event::Room(true));
        part.silent(millis(5));
        let asked = if shut { vec![2] } else { vec![] };
        assert_eq!(part.asked_back(), asked, "{more}");
    }
}

#[test]
fn a_pause_has_it_back_once_and_what_is_resumed_begins_it() {
    let mut part = three();
    part.wants(Site::Pause);
    assert_eq!(part.asked_back(), [2]);
    assert_eq!(part.state(2), Some(AttemptState::Assigned), "given back");
    part.goes_on(seconds(25));
    assert_eq!(part.asked_back(), [2], "asked once");
    ends(&mut part, 1);
    assert_eq!(part.begun(), []);
    part.wants(Site::Resume);
    assert_eq!(part.begun(), [(2, None), (3, Some(2))]);
}

#[test]
fn what_turns_away_whatever_waits_turns_it_away_too() {
    type Order = fn(&mut Part);
    let orders: [(Order, Refusal); 3] = [
        (|part| part.wants(Site::Drain), Refusal::Draining),
        (|part| part.commands(Directive::Drain), Refusal::Draining),
        (|part| part.hears(Event::Room(false)), Refusal::Disk),
    ];
    for (order, why) in orders {
        let mut part = three();
        order(&mut part);
        assert_eq!(part.asked_back(), [2], "{why:?}");
        let states = [part.state(2), part.state(3)];
        assert_eq!(states, [Some(refusal(why)); 2]);
        let told: Vec<_> = part.refused().iter().map(|told| (told.0, told.1)).collect();
        assert_eq!(told, [(3, why), (2, why)]);
        assert_eq!(part.scene.starts(AttemptId(2)), 0);
    }
}

#[test]
fn another_catalogue_has_it_back_and_judges_it_again() {
    let mut part = three();
    part.scene.reload(0, &[sold(ENTRY)]);
    part.silent(millis(25));
    assert_eq!(part.asked_back(), [2]);
    let refused = Some(refusal(Refusal::CatalogueVersion));
    assert_eq!([part.state(2), part.state(3)], [refused; 2]);
}

#[test]
fn a_session_or_a_lease_that_ends_has_it_back() {
    let mut part = three();
    part.scene.cut(0);
    part.scene.run(millis(25));
    assert_eq!(part.asked_back(), [2]);
    assert_eq!(part.state(2), Some(AttemptState::Assigned));
    let mut part = three();
    part.silent(seconds(31));
    assert_eq!((part.asked_back(), part.begun()), (vec![2], vec![]));
}

#[test]
fn a_cancel_reaches_it_at_its_keeper_and_it_never_begins() {
    let mut part = three();
    part.commands(Directive::Cancel(AttemptId(2)));
    assert_eq!(part.state(2), Some(ended(Outcome::Cancelled, false)));
    assert_eq!(part.scene.starts(AttemptId(2)), 0);
    assert_eq!(
        part.begun(),
        [(3, Some(1))],
        "its place is taken by the next one"
    );
    let cancels = part
        .scene
        .said(0)
        .filter(|(_, said)| matches!(said, Speech::Cancel { .. }));
    assert_eq!(cancels.count(), 1);
}

#[test]
fn a_keeper_that_gives_back_unasked_is_given_nothing_more() {
    let mut part = three();
    part.scene.gives_back(0, AttemptId(2));
    part.scene.run(millis(25));
    assert_eq!(
        (part.begun(), part.state(2)),
        (vec![], Some(AttemptState::Assigned))
    );
    ends(&mut part, 1);
    assert_eq!(part.begun(), [(2, None), (3, Some(2))]);
}

#[test]
fn a_keeper_that_was_asked_is_given_the_next_one() {
    let mut part = three();
    part.wants(Site::Pause);
    part.wants(Site::Resume);
    assert_eq!(part.begun(), [(2, Some(1))], "its line is open");
}

#[test]
fn what_waited_at_a_keeper_that_is_lost_may_run_elsewhere_at_once() {
    let mut part = three();
    part.scene.keeper_dies(0, AttemptId(1));
    part.scene.run(millis(25));
    let lost = Outcome::Killed(outpost_proto::outcome::KillReason::Keeper);
    assert_eq!(part.outcome(1), Some(lost));
    assert_eq!(part.state(2), Some(refusal(Refusal::NoLease)));
    assert_eq!(part.begun(), [(3, None)]);
}

#[test]
fn a_process_that_stops_has_it_back_before_it_ends() {
    let mut part = three();
    part.wants(Site::Stop);
    assert_eq!(part.asked_back(), [2]);
    let said: Vec<Speech> = part.scene.said(0).map(|(_, said)| said.clone()).collect();
    let asked = said
        .iter()
        .position(|said| matches!(said, Speech::TakeBack { .. }));
    let done = said.iter().position(|said| *said == Speech::Done);
    assert!(asked.is_some() && asked < done);
    assert_eq!(part.state(2), Some(AttemptState::Assigned));
    // The next process begins it.
    part.begins();
    ends(&mut part, 1);
    assert!(part.begun().contains(&(2, None)));
}

#[test]
fn upstream_is_not_told_that_it_begins_before_it_does() {
    let mut part = three();
    part.goes_on(seconds(10));
    let told = |part: &Part| part.events().iter().any(|told| told.1 == 2);
    assert!(!told(&part));
    ends(&mut part, 1);
    part.goes_on(seconds(10));
    assert!(told(&part), "it has the slot now");
}

/// A keeper that stood still gives one back only when the next session's inventory has said that it begins.
#[test]
fn what_upstream_was_told_begins_does_not_wait_here_again() {
    let refused = Outcome::Refused(Refusal::NoLease);
    for (cancel, outcome) in [(false, refused), (true, Outcome::Cancelled)] {
        let mut part = three();
        part.scene.keepers_stand_still(0, seconds(20));
        part.scene.cut(0);
        part.scene.run(millis(1));
        part.hello();
        let items = items(&part.welcomes(welcome()));
        let told = items.iter().find(|item| item.attempt == AttemptId(2));
        assert_eq!(told.map(|item| item.state), Some(AttemptState::Starting));
        part.reconciles();
        if cancel {
            part.commands(Directive::Cancel(AttemptId(2)));
        }
        part.goes_on(seconds(21));
        assert_eq!(part.state(2), Some(ended(outcome, false)));
        assert_eq!(part.scene.starts(AttemptId(2)), 0);
    }
}

#[test]
fn a_commit_that_fails_takes_back_what_was_not_handed_over() {
    for applied in [false, true] {
        let mut part = brief(1, 1);
        part.gives(ENTRY, &[1]);
        part.page();
        let job = part.job(2, ENTRY);
        part.scene.commit_fails(0, applied);
        part.tell(&[job]);
        assert_eq!(
            (part.begun(), part.phase()),
            (vec![], None),
            "nothing was said"
        );
        let state = applied.then_some(AttemptState::Assigned);
        part.scene.run(seconds(1));
        assert_eq!(part.state(2), state);
        part.begins();
        ends(&mut part, 1);
        let begun = if applied { vec![(2, None)] } else { vec![] };
        assert_eq!(part.begun(), begun, "{applied}");
    }
}

/// A line outlives a commit that fails: the keeper still has who waits there.
#[test]
fn after_a_commit_that_failed_who_waits_at_a_keeper_still_takes_its_slot() {
    for applied in [false, true] {
        let mut part = three();
        part.scene.commit_fails(0, applied);
        part.gives(ENTRY, &[4]);
        part.scene.run(seconds(1));
        // Without a session nothing waits at keepers: it was asked for, once more.
        assert_eq!(part.asked_back(), [2], "{applied}");
        part.begins();
        assert!(part.view().running.len() <= 2);
        ends(&mut part, 1);
        let begun = part.begun();
        assert_eq!(
            begun.iter().filter(|begun| begun.0 == 2).count(),
            1,
            "{begun:?}"
        );
        assert_eq!(part.scene.running(0), [AttemptId(2)]);
    }
}

#[test]
fn what_waited_at_a_keeper_when_its_runner_was_killed_never_ran() {
    let mut part = three();
    part.scene.crash(0);
    part.begins();
    assert_eq!(part.state(1), Some(AttemptState::Running), "adopted");
    assert_eq!(part.state(2), Some(refusal(Refusal::NoLease)));
    assert_eq!(part.scene.starts(AttemptId(2)), 0);
    part.scene.power_cut(0);
    part.begins();
    let reboot = Outcome::Interrupted(Interruption::Reboot);
    assert_eq!(part.outcome(1), Some(reboot));
}

#[test]
fn a_keeper_that_says_what_cannot_be_is_not_believed() {
    let mut part = Part::ready(host(1, 0));
    part.gives("hour", &[1, 2]);
    part.keeper(2, KeeperSaid::Running);
    assert_eq!(part.state(2), Some(AttemptState::Assigned));
    let trouble = part.view().trouble.map(|trouble| trouble.to_string());
    assert!(trouble.is_some_and(|text| text.contains("said what cannot be")));
    let (conn, why) = (part.conn(), Down::Unreachable);
    part.hears(Event::Closed { conn, why });
    part.begins();
    assert_eq!(part.view().trouble, None);
}
