//! The life of one attempt as one table: what the orchestrator believes, what it observes, what follows.
//!
//! Pure lookup; `attempt` carries out what it says. Terminal phases are sticky, and what no honest agent can say is a
//! named [`Unexpected`], never a panic.

use outpost_proto::message::AttemptState;
use outpost_proto::outcome::Report;

use crate::record::Phase;

/// What can be observed about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// Its agent says where it stands, by an event or in an inventory.
    Said(AttemptState),
    /// Its agent's complete inventory lacks it, under the incarnation it was assigned under.
    Absent,
    /// Its agent's complete inventory lacks it, and the agent's incarnation is another.
    AbsentElsewhere,
    /// Its agent was removed, or was silent for so long that a `retry_safe` attempt is given up.
    Silent,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing new.
    Same,
    /// This phase is now the true one.
    To(Phase),
    /// It never reached the agent: send it again, or withdraw it.
    Unsent,
    /// It had been given up; keep this beside it.
    Late(Report),
}

/// What no honest agent can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// A state before the one already known.
    #[error("the attempt went back to an earlier state")]
    WentBack,
    /// Not over although its end was accepted.
    #[error("the attempt lives on after its end")]
    Revived,
    /// Its end is known, so nobody waits for it.
    #[error("the attempt is over, nothing more can be observed of it")]
    Over,
}

/// The table.
///
/// # Errors
/// [`Unexpected`] for every pair that no honest agent brings about.
pub fn step(phase: Phase, observed: Observed) -> Result<Step, Unexpected> {
    use AttemptState as A;
    use Observed as O;
    use Step::{Late, Same, To, Unsent};

    let lost = To(Phase::Lost {
        may_have_started: true,
    });
    match (phase, observed) {
        (Phase::Assigned, O::Absent) => Ok(Unsent),

        (
            Phase::Assigned | Phase::Accepted | Phase::Starting,
            O::Said(A::Starting | A::Running),
        ) => Ok(To(Phase::Running)),
        (
            Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running,
            O::Said(A::Finished(report)),
        ) => Ok(To(Phase::Finished { report })),
        (
            Phase::Assigned | Phase::Accepted | Phase::Starting | Phase::Running,
            O::AbsentElsewhere | O::Silent,
        )
        | (Phase::Accepted | Phase::Starting | Phase::Running, O::Absent) => Ok(lost),

        // That it is held changes nothing: it may still be withdrawn. That it starts may be said twice, as it is one
        // state here.
        (Phase::Assigned | Phase::Accepted, O::Said(A::Assigned))
        | (Phase::Running, O::Said(A::Starting | A::Running)) => Ok(Same),
        (Phase::Starting | Phase::Running, O::Said(A::Assigned)) => Err(Unexpected::WentBack),

        (Phase::Finished { .. }, O::Said(A::Finished(_))) => Ok(Same),
        (Phase::Finished { .. }, O::Said(A::Assigned | A::Starting | A::Running)) => {
            Err(Unexpected::Revived)
        }
        (Phase::Finished { .. }, O::Absent | O::AbsentElsewhere | O::Silent) => {
            Err(Unexpected::Over)
        }

        (Phase::Lost { .. }, O::Said(A::Finished(report))) => Ok(Late(report)),
        (
            Phase::Lost { .. },
            O::Said(A::Assigned | A::Starting | A::Running)
            | O::Absent
            | O::AbsentElsewhere
            | O::Silent,
        ) => Ok(Same),
    }
}

#[cfg(test)]
mod tests {
    use outpost_proto::outcome::Outcome;

    use super::*;

    fn word(step: Result<Step, Unexpected>) -> String {
        match step {
            Ok(Step::Same) => "same".into(),
            Ok(Step::To(phase)) => format!("-> {}", phase_word(phase)),
            Ok(Step::Unsent) => "unsent".into(),
            Ok(Step::Late(_)) => "late".into(),
            Err(unexpected) => format!("! {unexpected:?}"),
        }
    }

    fn phase_word(phase: Phase) -> &'static str {
        match phase {
            Phase::Assigned => "assigned",
            Phase::Accepted => "accepted",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Finished { .. } => "finished",
            Phase::Lost { .. } => "lost",
        }
    }

    #[test]
    fn the_whole_table() {
        let report = Report {
            outcome: Outcome::Succeeded,
            may_have_started: true,
            duration_ms: 1,
            exit_code: None,
            count: None,
        };
        let observations = [
            ("says assigned", Observed::Said(AttemptState::Assigned)),
            ("says starting", Observed::Said(AttemptState::Starting)),
            ("says running", Observed::Said(AttemptState::Running)),
            (
                "says finished",
                Observed::Said(AttemptState::Finished(report)),
            ),
            ("absent", Observed::Absent),
            ("absent elsewhere", Observed::AbsentElsewhere),
            ("silent", Observed::Silent),
        ];
        let phases = [
            Phase::Assigned,
            Phase::Accepted,
            Phase::Starting,
            Phase::Running,
            Phase::Finished { report },
            Phase::Lost {
                may_have_started: true,
            },
        ];
        let mut table = String::new();
        for phase in phases {
            for (name, observed) in observations {
                let line = format!(
                    "{:<9} {:<17} {}",
                    phase_word(phase),
                    name,
                    word(step(phase, observed))
                );
                table.push_str(line.trim_end());
                table.push('\n');
            }
        }
        insta::assert_snapshot!(table);
    }
}
