//! The judgement: every sentence that a history contradicts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Attempt, History, Mark, Task, What};

/// One promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// P1.
    StartedTwice {
        /// Which attempt.
        attempt: String,
        /// How often.
        times: usize,
    },
    /// A task ran of which the orchestrator knows nothing.
    StartedUnknown(String),
    /// It was said that nothing of it ran, and it ran.
    StartedAfterAll(String),
    /// It was said to have succeeded, and it never got to its end.
    NeverSucceeded(String),
    /// P5: a client was told that there is this run.
    Lost(String),
    /// Faults had stopped, and it did not come to an end.
    NotOver {
        /// Which run.
        run: String,
        /// Its state.
        state: String,
    },
    /// More runs than anybody asked for.
    Unasked(usize),
    /// P2.
    TwoOutcomes {
        /// Which attempt.
        attempt: String,
        /// What was said.
        first: String,
        /// And what was said too.
        second: String,
    },
    /// P5: an agent told it, had it acknowledged, and the orchestrator does not have it.
    NotKept {
        /// Which attempt.
        attempt: String,
        /// How it ended.
        outcome: String,
    },
    /// P3.
    SecondAttempt {
        /// The first attempt.
        first: String,
        /// The second one.
        second: String,
        /// Why there should be none.
        why: &'static str,
    },
    /// Two attempts of a task that is not `retry_safe` ran at the same time.
    Overlap {
        /// Which began first.
        first: String,
        /// Which began while it ran.
        second: String,
    },
    /// A later attempt of a task had no higher fence than the one before it.
    Fence {
        /// The earlier.
        first: String,
        /// The later.
        second: String,
    },
    /// An agent's ledger does not stand its own check.
    Ledger {
        /// Whose.
        agent: String,
        /// Why.
        why: String,
    },
    /// An agent still holds ends that nobody acknowledged.
    Unacknowledged {
        /// Whose.
        agent: String,
        /// How many.
        count: usize,
    },
    /// A line of the site's file that no task writes.
    Unreadable(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartedTwice { attempt, times } => {
                write!(f, "attempt {attempt} was started {times} times")
            }
            Self::StartedUnknown(attempt) => write!(
                f,
                "attempt {attempt} was started, and the orchestrator knows nothing of it"
            ),
            Self::StartedAfterAll(attempt) => write!(
                f,
                "attempt {attempt} is said not to have started, and it was started"
            ),
            Self::NeverSucceeded(attempt) => write!(
                f,
                "attempt {attempt} is said to have succeeded, and it never came to its end"
            ),
            Self::Lost(run) => write!(f, "run {run} was acknowledged and is not there"),
            Self::NotOver { run, state } => {
                write!(f, "run {run} is still {state} after faults stopped")
            }
            Self::Unasked(count) => write!(f, "{count} runs exist that nobody asked for"),
            Self::TwoOutcomes {
                attempt,
                first,
                second,
            } => write!(f, "attempt {attempt} ended as {first} and as {second}"),
            Self::NotKept { attempt, outcome } => write!(
                f,
                "attempt {attempt} was told to have ended as {outcome}, and the orchestrator does not have it"
            ),
            Self::SecondAttempt { first, second, why } => {
                write!(f, "attempt {second} follows {first}, {why}")
            }
            Self::Overlap { first, second } => {
                write!(f, "attempt {second} began while {first} still ran")
            }
            Self::Fence { first, second } => write!(
                f,
                "attempt {second} has no higher fence than {first} before it"
            ),
            Self::Ledger { agent, why } => {
                write!(f, "the ledger of {agent} does not stand its check: {why}")
            }
            Self::Unacknowledged { agent, count } => {
                write!(f, "{agent} still waits to have {count} ends acknowledged")
            }
            Self::Unreadable(line) => write!(f, "no task writes this: {line:?}"),
        }
    }
}

/// Every violation; empty when the history holds.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let attempts = history
        .runs
        .iter()
        .flat_map(|run| &run.tasks)
        .flat_map(|task| &task.attempts)
        .map(|attempt| (attempt.attempt.as_str(), attempt))
        .collect::<BTreeMap<_, _>>();
    runs(history, &mut found);
    starts(history, &attempts, &mut found);
    outcomes(history, &attempts, &mut found);
    for task in history.runs.iter().flat_map(|run| &run.tasks) {
        second_attempts(task, history.retry_safe.contains(&task.entry), &mut found);
    }
    side_by_side(history, &mut found);
    for ledger in &history.ledgers {
        let agent = ledger.agent.clone();
        if let Some(why) = ledger.broken.clone() {
            found.push(Violation::Ledger { agent, why });
        } else if ledger.unacknowledged > 0 {
            let count = ledger.unacknowledged;
            found.push(Violation::Unacknowledged { agent, count });
        }
    }
    found.extend(
        history
            .unreadable
            .iter()
            .cloned()
            .map(Violation::Unreadable),
    );
    found
}

fn runs(history: &History, found: &mut Vec<Violation>) {
    let known = history
        .runs
        .iter()
        .map(|run| run.run.as_str())
        .collect::<BTreeSet<_>>();
    let asked = history
        .acknowledged
        .iter()
        .map(String::as_str)
        .collect::<BTreeSet<_>>();
    found.extend(
        asked
            .difference(&known)
            .map(|run| Violation::Lost((*run).to_owned())),
    );
    let unasked = known.difference(&asked).count();
    if unasked > history.unanswered {
        found.push(Violation::Unasked(unasked - history.unanswered));
    }
    for run in history.runs.iter().filter(|run| !run.is_over()) {
        found.push(Violation::NotOver {
            run: run.run.clone(),
            state: run.state.clone(),
        });
    }
}

fn starts(history: &History, attempts: &BTreeMap<&str, &Attempt>, found: &mut Vec<Violation>) {
    let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ended: BTreeSet<&str> = BTreeSet::new();
    for mark in &history.site {
        match mark.what {
            What::Begin => *begun.entry(&mark.attempt).or_default() += 1,
            What::End(0) => {
                ended.insert(&mark.attempt);
            }
            What::Alive | What::End(_) => {}
        }
    }
    for (attempt, times) in &begun {
        let id = (*attempt).to_owned();
        if *times > 1 {
            found.push(Violation::StartedTwice {
                attempt: id.clone(),
                times: *times,
            });
        }
        match attempts.get(attempt) {
            None => found.push(Violation::StartedUnknown(id)),
            Some(known) if known.may_have_started == Some(false) => {
                found.push(Violation::StartedAfterAll(id));
            }
            Some(_) => {}
        }
    }
    for (id, attempt) in attempts {
        let succeeded = attempt.outcome.as_deref() == Some("succeeded");
        if succeeded && !ended.contains(id) {
            found.push(Violation::NeverSucceeded((*id).to_owned()));
        }
    }
}

/// What was once shown or told stays, and is what is there at the end.
fn outcomes(history: &History, attempts: &BTreeMap<&str, &Attempt>, found: &mut Vec<Violation>) {
    let mut differing = BTreeSet::new();
    for (attempt, outcome) in &history.seen {
        let last = attempts
            .get(attempt.as_str())
            .and_then(|known| known.outcome.as_deref())
            .unwrap_or("nothing");
        if last != outcome {
            differing.insert((attempt.clone(), outcome.clone(), last.to_owned()));
        }
    }
    let mut told: BTreeMap<&str, &str> = BTreeMap::new();
    for (attempt, outcome) in history.ledgers.iter().flat_map(|ledger| &ledger.told) {
        let first = *told.entry(attempt).or_insert(outcome);
        if first != outcome {
            differing.insert((attempt.clone(), first.to_owned(), outcome.clone()));
            continue;
        }
        let known = attempts.get(attempt.as_str());
        let outcomes = known.map(|known| (known.outcome.as_deref(), known.late.as_deref()));
        match outcomes {
            Some((Some(first), None)) if first != outcome => {
                differing.insert((attempt.clone(), first.to_owned(), outcome.clone()));
            }
            Some((first, late)) if first == Some(outcome) || late == Some(outcome) => {}
            Some(_) | None => {
                let kept = Violation::NotKept {
                    attempt: attempt.clone(),
                    outcome: outcome.clone(),
                };
                if !found.contains(&kept) {
                    found.push(kept);
                }
            }
        }
    }
    found.extend(
        differing
            .into_iter()
            .map(|(attempt, first, second)| Violation::TwoOutcomes {
                attempt,
                first,
                second,
            }),
    );
}

/// P3: a second attempt needs a first one that is known to be over or never to have started, a site that calls the
/// entry `retry_safe`, or a person.
fn second_attempts(task: &Task, retry_safe: bool, found: &mut Vec<Violation>) {
    for pair in task.attempts.windows(2) {
        let [first, second] = pair else { continue };
        if let Some(why) = why_not(first, second, retry_safe) {
            found.push(Violation::SecondAttempt {
                first: first.attempt.clone(),
                second: second.attempt.clone(),
                why,
            });
        }
    }
}

fn why_not(first: &Attempt, second: &Attempt, retry_safe: bool) -> Option<&'static str> {
    match first.state.as_str() {
        "finished" if first.outcome.as_deref() == Some("succeeded") => Some("which had succeeded"),
        "finished" => {
            let before = first
                .finished_at
                .as_deref()
                .is_some_and(|over| over <= second.assigned_at.as_str());
            (!before).then_some("which was not known to be over by then")
        }
        "lost" if retry_safe || first.asserted || first.may_have_started == Some(false) => None,
        "lost" => Some("which may have started, and its entry is not retry_safe"),
        _ => Some("which is not over"),
    }
}

/// What tasks of one name in one run wrote, in the order of the file.
fn side_by_side(history: &History, found: &mut Vec<Violation>) {
    let entries = history
        .runs
        .iter()
        .flat_map(|run| {
            run.tasks
                .iter()
                .map(|task| ((run.run.as_str(), task.task.as_str()), task.entry.as_str()))
        })
        .collect::<BTreeMap<_, _>>();
    let mut tasks: BTreeMap<(&str, &str), Vec<&Mark>> = BTreeMap::new();
    for mark in &history.site {
        tasks.entry((&mark.run, &mark.task)).or_default().push(mark);
    }
    for (task, marks) in tasks {
        let overlap_allowed = entries
            .get(&task)
            .is_some_and(|entry| history.retry_safe.contains(*entry));
        one_task(&marks, overlap_allowed, found);
    }
}

fn one_task(marks: &[&Mark], overlap_allowed: bool, found: &mut Vec<Violation>) {
    // Attempts in the order of their first lines.
    let mut begun: Vec<&Mark> = Vec::new();
    for mark in marks {
        let Some(place) = begun.iter().position(|first| first.attempt == mark.attempt) else {
            if let Some(before) = begun.last().filter(|before| before.fence >= mark.fence) {
                found.push(Violation::Fence {
                    first: before.attempt.clone(),
                    second: mark.attempt.clone(),
                });
            }
            begun.push(mark);
            continue;
        };
        // Somebody else has begun since, and this one still writes.
        if let Some(next) = begun.get(place + 1).filter(|_| !overlap_allowed) {
            let overlap = Violation::Overlap {
                first: mark.attempt.clone(),
                second: next.attempt.clone(),
            };
            if !found.contains(&overlap) {
                found.push(overlap);
            }
        }
    }
}
