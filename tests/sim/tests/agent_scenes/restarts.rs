//! What becomes of everything when the process ends, the host reboots, or a commit fails.

use outpost_agent_core::event::{KeeperSaid, NotStarted, Site, Speech};
use outpost_agent_core::{SessionPhase, Trouble};
use outpost_proto::ids::AttemptId;
use outpost_proto::message::{AttemptState, Directive};
use outpost_proto::outcome::{Interruption, KillReason, Outcome, Refusal, StartFailure};
use outpost_sim::scene::{Host, Scene};
use outpost_sim::{Fault, Message, Moment};

use crate::part::*;

fn host() -> Host {
    Host::new(
        "site",
        3,
        &["moment", "minute", "hour", "watched", "stubborn"],
    )
}

fn cancels(part: &Part) -> Vec<u128> {
    let said = part.scene.said(0).filter_map(|(_, said)| match said {
        Speech::Cancel { attempt } => Some(attempt.0),
        _ => None,
    });
    said.collect()
}

#[test]
fn a_new_process_adopts_what_runs_takes_in_what_ended_and_begins_nothing_again() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.gives("moment", &[3]);
    part.silent(millis(100));
    part.gives("minute", &[4]);
    part.gives("hour", &[5]);
    part.scene.crash(0);
    part.scene.keepers_go_on(0, AttemptId(2), Outcome::Failed);
    part.page();
    part.hello();
    let told = items(&part.welcomes(welcome()));
    let state = |n: u128| {
        told.iter()
            .find(|item| item.attempt == AttemptId(n))
            .map(|item| item.state)
    };
    assert_eq!(state(1), Some(AttemptState::Running));
    assert_eq!(state(4), Some(AttemptState::Running));
    assert!(
        matches!(state(2), Some(AttemptState::Finished(report)) if report.outcome == Outcome::Failed)
    );
    assert!(
        matches!(state(3), Some(AttemptState::Finished(report)) if report.outcome == Outcome::Succeeded)
    );
    assert_eq!(state(5), Some(AttemptState::Assigned));
    part.reconciles();
    part.goes_on(seconds(61));
    assert_eq!(
        part.outcome(4),
        Some(Outcome::Succeeded),
        "told by its keeper"
    );
    for attempt in 1..=5 {
        assert_eq!(part.scene.starts(AttemptId(attempt)), 1, "{attempt}");
    }
}

#[test]
fn what_was_about_to_begin_when_the_process_was_killed_never_ran_and_is_given_back() {
    let mut part = Part::ready(host());
    part.scene.keepers_stand_still(0, seconds(1));
    part.gives("hour", &[1]);
    assert_eq!(part.state(1), Some(AttemptState::Starting));
    part.scene.keepers_stand_still(0, std::time::Duration::ZERO);
    part.scene.crash(0);
    part.begins();
    // Whoever made the claim first speaks: the runner that came back, or the keeper.
    let starts = part.scene.starts(AttemptId(1));
    let refused = part.state(1) == Some(refusal(Refusal::NoLease));
    assert_eq!(refused, starts == 0);
}

#[test]
fn after_a_reboot_everything_that_was_held_is_interrupted_and_may_have_started() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.gives("moment", &[3]);
    part.silent(millis(100));
    part.gives("hour", &[4, 5]);
    part.scene.power_cut(0);
    part.page();
    part.begins();
    let reboot = ended(Outcome::Interrupted(Interruption::Reboot), true);
    for attempt in [1, 2, 4, 5] {
        assert_eq!(part.state(attempt), Some(reboot), "{attempt}");
    }
    assert_eq!(
        part.outcome(3),
        Some(Outcome::Succeeded),
        "what was over stays so"
    );
    assert_eq!(part.begun(), []);
}

#[test]
fn each_thing_a_keeper_can_say_has_its_outcome_and_the_first_end_stays() {
    for (said, outcome) in [
        (
            KeeperSaid::Gone { claimed: true },
            Outcome::Killed(KillReason::Keeper),
        ),
        (
            KeeperSaid::NotStarted(NotStarted::Failed(StartFailure::NotFound)),
            Outcome::Interrupted(Interruption::AgentStateLost),
        ),
    ] {
        let mut part = Part::ready(host());
        part.gives("hour", &[1]);
        part.keeper(1, said);
        assert_eq!(part.state(1), Some(ended(outcome, true)));
        part.ends(1, Outcome::Succeeded);
        assert_eq!(part.outcome(1), Some(outcome));
    }
    for (said, outcome) in [
        (NotStarted::LeaseOver, Outcome::Refused(Refusal::NoLease)),
        (NotStarted::Cancelled, Outcome::Cancelled),
        (
            NotStarted::Failed(StartFailure::NotFound),
            Outcome::StartFailed(StartFailure::NotFound),
        ),
        (
            NotStarted::Refused(Refusal::TimeWindow),
            Outcome::Refused(Refusal::TimeWindow),
        ),
    ] {
        let mut part = Part::ready(host());
        part.scene.keepers_stand_still(0, seconds(3600));
        part.gives("hour", &[1]);
        part.page();
        part.keeper(1, KeeperSaid::NotStarted(said));
        assert_eq!(part.state(1), Some(ended(outcome, false)));
        part.goes_on(seconds(10));
        let refusals: u16 = part
            .beats()
            .iter()
            .map(|(_, beat)| beat.health.refusals)
            .sum();
        let refused = matches!(said, NotStarted::Refused(_));
        assert_eq!(refusals, u16::from(refused), "{said:?}");
    }
}

#[test]
fn an_end_asked_for_is_asked_for_again_until_the_tree_is_gone() {
    let mut part = Part::ready(host());
    part.gives("stubborn", &[1, 2]);
    part.commands(Directive::Cancel(AttemptId(1)));
    part.scene.crash(0);
    part.page();
    part.hello();
    part.silent(millis(50));
    assert!(
        cancels(&part).contains(&1) && !cancels(&part).contains(&2),
        "{:?}",
        cancels(&part)
    );
    assert_eq!(
        part.state(1),
        Some(AttemptState::Running),
        "not over before its tree is gone"
    );
    part.silent(seconds(31));
    assert_eq!(part.outcome(1), Some(Outcome::Cancelled));
    // Over, nobody asks for it again.
    part.scene.crash(0);
    part.page();
    part.begins();
    assert_eq!(cancels(&part), []);
    assert_eq!(part.state(2), Some(AttemptState::Running));
}

/// The turn in which it was asked for was written, and nothing of it was said.
#[test]
fn a_cancel_that_was_not_spoken_is_spoken_after_the_commit_that_failed() {
    let mut part = Part::ready(host());
    part.gives("stubborn", &[1, 2]);
    part.page();
    part.scene.commit_fails(0, true);
    part.commands(Directive::Cancel(AttemptId(1)));
    assert_eq!(part.held(1).map(|held| held.cancel_requested), Some(true));
    part.scene.run(seconds(1));
    assert_eq!(cancels(&part), [1]);
    part.scene.run(seconds(31));
    assert_eq!(part.outcome(1), Some(Outcome::Cancelled));
    assert_eq!(part.state(2), Some(AttemptState::Running));
}

#[test]
fn a_runner_looks_for_what_was_begun_in_this_life_and_for_nothing_else() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.gives("moment", &[3]);
    part.silent(millis(100));
    part.gives("hour", &[4, 5, 6]);
    assert_eq!(part.state(5), Some(AttemptState::Assigned));
    part.scene.crash(0);
    part.begins();
    assert_eq!(part.scene.looked_for(0), [1, 2, 4].map(AttemptId));
    part.scene.power_cut(0);
    part.begins();
    assert_eq!(
        part.scene.looked_for(0),
        [],
        "nothing of another life can run"
    );
}

#[test]
fn a_compacted_journal_is_the_same_journal() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1]);
    part.gives("moment", &[2]);
    part.silent(millis(100));
    let told = part.events().last().expect("an event").0;
    part.tell(&[durable(told)]);
    let before = part.scene.journal(0);
    assert_eq!((before.attempts.len(), before.memories.len()), (1, 1));
    part.scene.compacts(0);
    assert_eq!(part.scene.journal(0), before);
    part.scene.crash(0);
    part.begins();
    assert_eq!(part.state(1), Some(AttemptState::Running));
    assert_eq!(part.scene.journal(0).memories, before.memories);
}

#[test]
fn a_cancel_that_came_before_the_keeper_was_there_is_said_again_to_the_keeper_that_is() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.page();
    part.commands(Directive::Cancel(AttemptId(1)));
    assert_eq!(cancels(&part), [1]);
    part.page();
    part.keeper(1, KeeperSaid::Running);
    part.keeper(2, KeeperSaid::Running);
    assert_eq!(cancels(&part), [1]);
}

/// A commit fails, written or not: nothing was said, and everything goes on as if the stream had been lost.
#[test]
fn after_a_failed_commit_nothing_was_said_and_the_session_is_made_anew() {
    for applied in [false, true] {
        let mut part = Part::ready(host());
        part.gives("hour", &[1]);
        let stream = part.conn();
        part.page();
        part.scene.commit_fails(0, applied);
        let job = part.job(2, "hour");
        part.tell(&[job]);
        assert_eq!((part.begun(), part.events()), (vec![], vec![]));
        assert_eq!(part.view().trouble, Some(Trouble::NotCommitted));
        part.scene.run(seconds(1));
        let hangups = part.hangups();
        assert!(
            hangups.iter().any(|(_, conn)| *conn == stream),
            "{hangups:?}"
        );
        assert_eq!(part.state(1), Some(AttemptState::Running));
        // Taken, if it was written; of its start nobody heard, and it is begun once.
        part.begins();
        let begun = if applied { vec![(2, None)] } else { vec![] };
        assert_eq!(part.begun(), begun, "{applied}");
        assert_eq!(part.scene.starts(AttemptId(2)), u32::from(applied));
        assert_eq!(part.view().trouble, None);
    }
}

#[test]
fn a_start_that_was_not_spoken_is_remembered_through_several_failures() {
    let mut part = Part::ready(host());
    part.page();
    let job = part.job(1, "hour");
    part.scene.commit_fails(0, true);
    part.tell(&[job]);
    // Each of these is shown again until it was committed; none of them is.
    for wants in [Site::Pause, Site::Resume, Site::Pause, Site::Resume] {
        part.scene.commit_fails(0, true);
        part.scene.wants(0, wants);
        part.scene.run(seconds(2));
        assert_eq!(part.begun(), []);
    }
    part.begins();
    assert_eq!(part.begun(), [(1, None)]);
    assert_eq!(part.scene.starts(AttemptId(1)), 1);
}

#[test]
fn a_connection_that_was_only_about_to_be_made_when_a_commit_failed_is_made_later() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1]);
    part.scene.cut_off(0, seconds(2));
    part.scene.run(millis(5));
    part.page();
    part.scene.commit_fails(0, false);
    part.scene.task_ends(0, AttemptId(1), Outcome::Succeeded);
    part.begins();
    assert_eq!(
        part.outcome(1),
        Some(Outcome::Succeeded),
        "said again by its keeper"
    );
    let dials: Vec<_> = part.dials().into_iter().map(|(_, conn)| conn).collect();
    let hangups: Vec<_> = part.hangups().into_iter().map(|(_, conn)| conn).collect();
    assert!(
        hangups.iter().all(|conn| dials.contains(conn)),
        "{hangups:?} of {dials:?}"
    );
}

#[test]
fn what_was_settled_in_a_commit_that_may_have_failed_is_discarded_all_the_same() {
    for applied in [false, true] {
        let mut part = Part::ready(host());
        part.gives("hour", &[1]);
        part.ends(1, Outcome::Succeeded);
        let told = part.events().last().expect("an event").0;
        part.page();
        part.scene.commit_fails(0, applied);
        part.tell(&[durable(told)]);
        let discarded = |part: &Part| {
            let said = part.scene.said(0);
            said.filter(|(_, said)| matches!(said, Speech::Discard { .. }))
                .count()
        };
        assert_eq!(discarded(&part), 0);
        part.begins();
        assert_eq!(discarded(&part), usize::from(applied), "{applied}");
        part.tell(&[durable(told)]);
        assert_eq!((part.held(1), discarded(&part)), (None, 1), "{applied}");
    }
}

#[test]
fn what_was_found_at_the_start_outlives_a_commit_that_failed() {
    let mut part = Part::ready(host());
    part.gives("hour", &[1, 2]);
    part.scene.crash(0);
    part.scene
        .keepers_go_on(0, AttemptId(1), Outcome::Succeeded);
    part.scene.commit_fails(0, false);
    part.begins();
    assert_eq!(part.outcome(1), Some(Outcome::Succeeded));
    assert_eq!(part.state(2), Some(AttemptState::Running));
}

/// Killed at each step of taking an attempt: it runs once, and both ends know.
#[test]
fn an_agent_killed_at_any_step_of_an_assignment_runs_it_once_at_most() {
    for moment in [Moment::Heard, Moment::Kept, Moment::Arrived] {
        let mut scene = Scene::new(&[host()]);
        let flow = Scene::flow("nightly", &[("load", "minute")]);
        scene.apply("acme", &flow);
        scene.fault_at(Fault::AgentCrash, Message::Assign, moment);
        let run = scene.trigger("acme", &flow);
        scene.run(seconds(900));
        let attempts = &scene.database().attempts;
        assert!(
            attempts.keys().all(|attempt| scene.starts(*attempt) <= 1),
            "{moment:?}"
        );
        let state = scene.database().runs[&run].state;
        assert_eq!(format!("{state:?}"), "Succeeded", "{moment:?}");
        let view = scene.view(0).expect("a process");
        assert_eq!(
            (view.session, view.unacknowledged),
            (Some(SessionPhase::Ready), 0)
        );
        assert_eq!(scene.journal(0).attempts, []);
    }
}
