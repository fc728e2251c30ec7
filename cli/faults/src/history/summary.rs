//! A history in numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{History, Violation, What, check};

/// What was counted, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Runs that were acknowledged.
    pub acknowledged: usize,
    /// Runs there are.
    pub runs: usize,
    /// How many of them ended how.
    pub states: BTreeMap<String, usize>,
    /// Attempts there are.
    pub attempts: usize,
    /// How many of them ended how.
    pub outcomes: BTreeMap<String, usize>,
    /// Attempts that had been given up and were told of later.
    pub late: usize,
    /// Attempts that follow another one of the same task.
    pub further_attempts: usize,
    /// Starts, as the tasks themselves counted them.
    pub starts: usize,
    /// Runs that were acknowledged and are not there.
    pub lost: usize,
    /// Attempts that were started more than once.
    pub duplicates: usize,
    /// The longest time in which no task began anywhere, in milliseconds.
    pub longest_gap_ms: u64,
    /// Every promise that was not kept, as a sentence.
    pub violations: Vec<String>,
}

impl Summary {
    /// Counts and checks.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let violations = check(history);
        let mut states = BTreeMap::new();
        for run in &history.runs {
            *states.entry(run.state.clone()).or_default() += 1;
        }
        let tasks = history.runs.iter().flat_map(|run| &run.tasks);
        let (mut attempts, mut further_attempts, mut late) = (0, 0, 0);
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for task in tasks {
            attempts += task.attempts.len();
            further_attempts += task.attempts.len().saturating_sub(1);
            for attempt in &task.attempts {
                late += usize::from(attempt.late.is_some());
                let outcome = attempt.outcome.as_deref().unwrap_or(&attempt.state);
                *outcomes.entry(outcome.to_owned()).or_default() += 1;
            }
        }
        let count = |is: fn(&Violation) -> bool| violations.iter().filter(|it| is(it)).count();
        Self {
            acknowledged: history.acknowledged.len(),
            runs: history.runs.len(),
            states,
            attempts,
            outcomes,
            late,
            further_attempts,
            starts: history.site.iter().filter(begins).count(),
            lost: count(|it| matches!(it, Violation::Lost(_))),
            duplicates: count(|it| matches!(it, Violation::StartedTwice { .. })),
            longest_gap_ms: longest_gap_ms(history),
            violations: violations.iter().map(Violation::to_string).collect(),
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

fn begins(mark: &&super::Mark) -> bool {
    mark.what == What::Begin
}

fn longest_gap_ms(history: &History) -> u64 {
    let begun = history.site.iter().filter(begins);
    let mut times = begun.map(|mark| mark.at_cs).collect::<Vec<_>>();
    times.sort_unstable();
    let gaps = times
        .array_windows()
        .map(|[earlier, later]| (later - earlier) * 10);
    gaps.max().unwrap_or(0)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, usize>| {
            let parts = counts.iter().map(|(word, count)| format!("{count} {word}"));
            parts.collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "runs        {} acknowledged, {} there: {}",
            self.acknowledged,
            self.runs,
            list(&self.states)
        )?;
        writeln!(
            f,
            "attempts    {}, of which {} follow another one: {}",
            self.attempts,
            self.further_attempts,
            list(&self.outcomes)
        )?;
        writeln!(
            f,
            "starts      {}, counted by the tasks themselves; {} attempts were started more than once",
            self.starts, self.duplicates
        )?;
        writeln!(
            f,
            "lost        {} acknowledged runs; {} ends came after their attempts had been given up",
            self.lost, self.late
        )?;
        write!(
            f,
            "longest gap {} ms without any start",
            self.longest_gap_ms
        )?;
        for violation in &self.violations {
            write!(f, "\nVIOLATION   {violation}")?;
        }
        Ok(())
    }
}
