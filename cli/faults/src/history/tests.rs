//! Broken histories of every kind, each with the one sentence it contradicts.

use super::*;

fn mark(what: What, attempt: &str, fence: u64, at_cs: u64) -> Mark {
    Mark {
        what,
        attempt: attempt.to_owned(),
        run: "r1".to_owned(),
        task: "t".to_owned(),
        fence,
        at_cs,
    }
}

fn finished(attempt: &str, outcome: &str, from: &str, to: &str) -> Attempt {
    Attempt {
        attempt: attempt.to_owned(),
        state: "finished".to_owned(),
        outcome: Some(outcome.to_owned()),
        may_have_started: Some(true),
        assigned_at: from.to_owned(),
        finished_at: Some(to.to_owned()),
        ..Attempt::default()
    }
}

/// One run whose task failed once and then succeeded; everybody agrees.
fn good() -> History {
    let attempts = vec![
        finished("a1", "failed", "12:00", "12:01"),
        finished("a2", "succeeded", "12:02", "12:03"),
    ];
    let task = Task {
        task: "t".to_owned(),
        entry: "e".to_owned(),
        attempts,
    };
    let run = Run {
        run: "r1".to_owned(),
        state: "succeeded".to_owned(),
        tasks: vec![task],
    };
    let mut ledger = Ledger {
        agent: "site-1".to_owned(),
        ..Ledger::default()
    };
    ledger.hear("attempt a1 is over: failed after 12 ms, exit code 3 (event 7)");
    ledger.hear("holds or owes 2 attempts in all: a1 is over: failed after 12 ms; a2 is over: succeeded after 3 ms");
    ledger.hear("attempt a2 is running (event 8)");
    History {
        acknowledged: vec!["r1".to_owned()],
        runs: vec![run],
        site: vec![
            mark(What::Begin, "a1", 1, 100),
            mark(What::End(3), "a1", 1, 101),
            mark(What::Begin, "a2", 2, 160),
            mark(What::Alive, "a2", 2, 161),
            mark(What::End(0), "a2", 2, 162),
        ],
        seen: vec![("a1".to_owned(), "failed".to_owned())],
        ledgers: vec![ledger],
        ..History::default()
    }
}

/// The one thing that is wrong after this change.
#[track_caller]
fn wrong(change: impl FnOnce(&mut History)) -> Violation {
    let mut history = good();
    change(&mut history);
    let mut found = check(&history);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn attempt(history: &mut History, place: usize) -> &mut Attempt {
    &mut history.runs[0].tasks[0].attempts[place]
}

#[test]
fn a_history_that_agrees_has_nothing_wrong_and_is_counted() {
    let history = good();
    assert_eq!(check(&history), []);
    assert_eq!(history.ledgers[0].told.len(), 3);
    let summary = Summary::of(&history);
    assert!(summary.holds());
    assert_eq!(
        (summary.attempts, summary.starts, summary.further_attempts),
        (2, 2, 1)
    );
    assert_eq!(summary.longest_gap_ms, 600);
}

#[test]
fn p1_a_second_start_is_seen() {
    let found = wrong(|history| history.site.insert(1, mark(What::Begin, "a1", 1, 100)));
    assert!(matches!(found, Violation::StartedTwice { times: 2, .. }));
}

#[test]
fn p1_a_start_that_nobody_ordered_or_that_was_denied_is_seen() {
    let found = wrong(|history| {
        let mut mark = mark(What::Begin, "a9", 1, 100);
        mark.run = "r9".to_owned();
        history.site.push(mark);
    });
    assert_eq!(found, Violation::StartedUnknown("a9".to_owned()));
    let found = wrong(|history| attempt(history, 0).may_have_started = Some(false));
    assert_eq!(found, Violation::StartedAfterAll("a1".to_owned()));
}

#[test]
fn p2_an_invented_success_is_seen() {
    let found = wrong(|history| drop(history.site.pop()));
    assert_eq!(found, Violation::NeverSucceeded("a2".to_owned()));
}

#[test]
fn p2_an_outcome_that_changed_is_seen() {
    let found = wrong(|history| {
        history
            .seen
            .push(("a1".to_owned(), "killed{keeper}".to_owned()))
    });
    assert!(matches!(found, Violation::TwoOutcomes { .. }));
    let found = wrong(|history| history.seen.push(("gone".to_owned(), "failed".to_owned())));
    assert!(matches!(found, Violation::TwoOutcomes { .. }));
    let found = wrong(|history| {
        history.ledgers[0].hear("attempt a1 is over: succeeded after 1 ms (event 9)");
    });
    assert!(matches!(found, Violation::TwoOutcomes { .. }));
    let found = wrong(|history| {
        attempt(history, 0).outcome = Some("timed_out".to_owned());
        history.seen.clear();
    });
    assert!(matches!(found, Violation::TwoOutcomes { .. }));
}

#[test]
fn p5_a_run_that_was_acknowledged_and_is_gone_is_seen() {
    let found = wrong(|history| history.acknowledged.push("r2".to_owned()));
    assert_eq!(found, Violation::Lost("r2".to_owned()));
}

#[test]
fn p5_an_outcome_that_was_told_and_is_not_kept_is_seen() {
    let found = wrong(|history| {
        history.ledgers[0].hear("attempt a7 is over: failed after 1 ms (event 9)");
    });
    assert!(matches!(found, Violation::NotKept { .. }));
    let found = wrong(|history| history.ledgers[0].unacknowledged = 1);
    assert!(matches!(found, Violation::Unacknowledged { count: 1, .. }));
}

#[test]
fn a_late_outcome_beside_a_lost_one_is_right() {
    let mut history = good();
    let first = attempt(&mut history, 0);
    first.state = "lost".to_owned();
    (first.outcome, first.late) = (None, Some("failed".to_owned()));
    history.seen.clear();
    history.retry_safe.insert("e".to_owned());
    assert_eq!(check(&history), []);
}

#[test]
fn a_run_that_does_not_end_and_one_that_nobody_asked_for_are_seen() {
    let found = wrong(|history| history.runs[0].state = "running".to_owned());
    assert!(matches!(found, Violation::NotOver { .. }));
    let found = wrong(|history| history.acknowledged.clear());
    assert_eq!(found, Violation::Unasked(1));
    let mut history = good();
    history.acknowledged.clear();
    history.unanswered = 1;
    assert_eq!(
        check(&history),
        [],
        "a request without an answer may have made it"
    );
}

#[test]
fn p3_a_second_attempt_without_a_reason_is_seen() {
    let lost = |history: &mut History| {
        let first = attempt(history, 0);
        first.state = "lost".to_owned();
        first.outcome = None;
        first.late = Some("failed".to_owned());
        history.seen.clear();
    };
    let found = wrong(lost);
    assert!(matches!(found, Violation::SecondAttempt { .. }));
    for excuse in 0..3 {
        let mut history = good();
        lost(&mut history);
        match excuse {
            0 => drop(history.retry_safe.insert("e".to_owned())),
            1 => attempt(&mut history, 0).asserted = true,
            _ => {
                attempt(&mut history, 0).may_have_started = Some(false);
                history.site.drain(..2);
            }
        }
        assert_eq!(check(&history), [], "excuse {excuse}");
    }
    let found = wrong(|history| attempt(history, 0).finished_at = Some("12:02:30".to_owned()));
    assert!(matches!(found, Violation::SecondAttempt { .. }));
    let found = wrong(|history| {
        attempt(history, 0).outcome = Some("succeeded".to_owned());
        history.ledgers.clear();
        history.seen.clear();
        history.site[1].what = What::End(0);
    });
    assert!(matches!(found, Violation::SecondAttempt { .. }));
}

#[test]
fn p4_attempts_side_by_side_are_seen_unless_the_site_allows_it() {
    let overlap = |history: &mut History| history.site.swap(1, 2);
    let found = wrong(overlap);
    assert!(matches!(found, Violation::Overlap { .. }));
    let mut history = good();
    overlap(&mut history);
    history.retry_safe.insert("e".to_owned());
    assert_eq!(check(&history), []);
}

#[test]
fn a_fence_that_does_not_rise_is_seen() {
    let found = wrong(|history| {
        history.site[..2].iter_mut().for_each(|mark| mark.fence = 2);
    });
    assert!(matches!(found, Violation::Fence { .. }));
}

#[test]
fn a_ledger_that_fails_its_check_and_a_line_that_is_none_are_seen() {
    let found = wrong(|history| history.ledgers[0].broken = Some("byte 7".to_owned()));
    assert!(matches!(found, Violation::Ledger { .. }));
    let (marks, unreadable) = site::parse("begin a r t 1 12.34\nend a r t 1 12.35 0\nbegin a r\n");
    assert_eq!((marks.len(), unreadable.len()), (2, 1));
    assert_eq!((marks[0].at_cs, marks[1].what), (1234, What::End(0)));
    let found = wrong(|history| history.unreadable = unreadable);
    assert!(matches!(found, Violation::Unreadable(_)));
}
