//! An attempt's life as one table: what becomes of each state by each thing that can happen.
//!
//! Nothing here knows of sessions, slots or journals: the caller turns the step into writes and speech.

use outpost_proto::message::AttemptState;
use outpost_proto::outcome::{Interruption, KillReason, Outcome, Refusal, Report};

use crate::event::{KeeperSaid, NotStarted};

/// What can happen to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A slot and a live lease are there.
    Begin,
    /// Its keeper said something, or was found to be gone.
    Keeper(KeeperSaid),
    /// It shall end, or not begin.
    Cancel,
    /// The site does not start it after all.
    Refuse(Refusal),
    /// What it ran in is gone, or nobody can say what became of it.
    Interrupt(Interruption),
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: said before, or too late to matter.
    Stay,
    /// It stands elsewhere now.
    To(AttemptState),
    /// Its keeper shall end the tree; the state moves when the keeper says that it is gone.
    EndTree,
    /// No honest part of this agent says so: nothing changes.
    Unexpected,
}

/// The table.
#[must_use]
pub fn step(state: AttemptState, input: Input) -> Step {
    use AttemptState as S;
    use KeeperSaid as K;
    match (state, input) {
        (S::Assigned, Input::Begin) => Step::To(S::Starting),
        (S::Assigned, Input::Cancel) => over(Outcome::Cancelled, false),
        (S::Assigned, Input::Refuse(refusal)) => over(Outcome::Refused(refusal), false),
        // A start is not synced: after a power cut the journal may still say that it only waits.
        (S::Assigned, Input::Interrupt(by)) => over(Outcome::Interrupted(by), true),
        (S::Assigned, Input::Keeper(_)) => Step::Unexpected,

        (S::Starting, Input::Keeper(K::Running)) => Step::To(S::Running),
        (S::Starting, Input::Keeper(K::NotStarted(why))) => not_started(why),
        (S::Starting, Input::Keeper(K::GivenBack)) => Step::To(S::Assigned),
        // It cannot be begun here any more, and nothing of it ever ran: as good as never taken.
        (S::Starting, Input::Keeper(K::Gone { claimed: false })) => {
            over(Outcome::Refused(Refusal::NoLease), false)
        }

        (S::Running, Input::Keeper(K::Running)) => Step::Stay,
        (S::Running, Input::Keeper(K::GivenBack)) => Step::Unexpected,
        // A keeper that contradicts itself is not believed about the harmless half.
        (S::Running, Input::Keeper(K::NotStarted(_))) => {
            over(Outcome::Interrupted(Interruption::AgentStateLost), true)
        }
        (S::Running, Input::Keeper(K::Gone { claimed: false })) => {
            over(Outcome::Killed(KillReason::Keeper), true)
        }

        (S::Starting | S::Running, Input::Keeper(K::Finished(report))) => {
            Step::To(S::Finished(report))
        }
        (S::Starting | S::Running, Input::Keeper(K::Gone { claimed: true })) => {
            over(Outcome::Killed(KillReason::Keeper), true)
        }
        (S::Starting | S::Running, Input::Cancel) => Step::EndTree,
        (S::Starting | S::Running, Input::Interrupt(by)) => over(Outcome::Interrupted(by), true),
        (S::Starting | S::Running, Input::Begin | Input::Refuse(_)) => Step::Unexpected,

        // Terminal is terminal: the first end stays.
        (S::Finished(_), Input::Keeper(_) | Input::Cancel | Input::Interrupt(_)) => Step::Stay,
        (S::Finished(_), Input::Begin | Input::Refuse(_)) => Step::Unexpected,
    }
}

fn not_started(why: NotStarted) -> Step {
    let outcome = match why {
        NotStarted::LeaseOver => Outcome::Refused(Refusal::NoLease),
        NotStarted::Cancelled => Outcome::Cancelled,
        NotStarted::Failed(failure) => Outcome::StartFailed(failure),
        NotStarted::Refused(refusal) => Outcome::Refused(refusal),
    };
    over(outcome, false)
}

fn over(outcome: Outcome, may_have_started: bool) -> Step {
    Step::To(AttemptState::Finished(ended(outcome, may_have_started)))
}

/// An end that no keeper measured.
pub(crate) fn ended(outcome: Outcome, may_have_started: bool) -> Report {
    Report {
        outcome,
        may_have_started,
        duration_ms: 0,
        exit_code: None,
        count: None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use outpost_proto::outcome::StartFailure;

    use super::*;

    fn name(state: AttemptState) -> String {
        match state {
            AttemptState::Assigned => "assigned".into(),
            AttemptState::Starting => "starting".into(),
            AttemptState::Running => "running".into(),
            AttemptState::Finished(report) => {
                let may = if report.may_have_started {
                    "may have started"
                } else {
                    "never started"
                };
                format!("finished: {}, {may}", report.outcome)
            }
        }
    }

    fn words(input: Input) -> String {
        match input {
            Input::Begin => "begin".into(),
            Input::Keeper(KeeperSaid::Running) => "keeper: running".into(),
            Input::Keeper(KeeperSaid::GivenBack) => "keeper: given back".into(),
            Input::Keeper(KeeperSaid::NotStarted(why)) => format!("keeper: not started, {why:?}"),
            Input::Keeper(KeeperSaid::Finished(report)) => {
                format!("keeper: finished, {}", report.outcome)
            }
            Input::Keeper(KeeperSaid::Gone { claimed }) => {
                format!("keeper: gone, claimed {claimed}")
            }
            Input::Cancel => "cancel".into(),
            Input::Refuse(refusal) => format!("refuse: {}", Outcome::Refused(refusal)),
            Input::Interrupt(by) => format!("interrupt: {}", Outcome::Interrupted(by)),
        }
    }

    #[test]
    fn the_table() {
        let finished = AttemptState::Finished(ended(Outcome::Succeeded, true));
        let states = [
            AttemptState::Assigned,
            AttemptState::Starting,
            AttemptState::Running,
            finished,
        ];
        let inputs = [
            Input::Begin,
            Input::Keeper(KeeperSaid::Running),
            Input::Keeper(KeeperSaid::GivenBack),
            Input::Keeper(KeeperSaid::NotStarted(NotStarted::LeaseOver)),
            Input::Keeper(KeeperSaid::NotStarted(NotStarted::Cancelled)),
            Input::Keeper(KeeperSaid::NotStarted(NotStarted::Failed(
                StartFailure::NotFound,
            ))),
            Input::Keeper(KeeperSaid::NotStarted(NotStarted::Refused(
                Refusal::TimeWindow,
            ))),
            Input::Keeper(KeeperSaid::Finished(ended(Outcome::Failed, true))),
            Input::Keeper(KeeperSaid::Gone { claimed: false }),
            Input::Keeper(KeeperSaid::Gone { claimed: true }),
            Input::Cancel,
            Input::Refuse(Refusal::Paused),
            Input::Interrupt(Interruption::Reboot),
        ];
        let mut table = String::new();
        for state in states {
            writeln!(table, "{}", name(state)).unwrap();
            for input in inputs {
                let then = match step(state, input) {
                    Step::Stay => "(stays)".into(),
                    Step::To(next) => name(next),
                    Step::EndTree => "(its keeper ends the tree)".into(),
                    Step::Unexpected => "(unexpected)".into(),
                };
                writeln!(table, "  {:<40} -> {then}", words(input)).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }
}
