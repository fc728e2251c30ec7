//! Why nothing happens to a run that is watched: asked once nothing has changed for a while, said once per reason.
//!
//! Only a task that could be under way and is not makes anybody ask; one that waits for another task of its run has
//! its reason there.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::api::{Items, Reason};
use super::api::{RunTree, TaskNode};
use super::http::{Ask, Client};
use crate::failure::Failure;
use crate::output::clean;

/// Without a change for so long, somebody wants to know why.
const SILENCE: Duration = Duration::from_secs(5);
/// A reason may change without an event; it is asked again after twice as long each time, up to this.
const LONGEST: Duration = Duration::from_secs(60);
/// Digits of a run's id that surely belong to one run only.
const DIGITS: usize = 12;

/// What has been seen and said of one run.
#[derive(Debug)]
pub(super) struct Waiting {
    tasks: Vec<TaskNode>,
    due: Option<Instant>,
    pause: Duration,
    /// Task and code.
    said: BTreeSet<(String, String)>,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            tasks: Vec::new(),
            due: None,
            pause: SILENCE,
            said: BTreeSet::new(),
        }
    }

    /// The run was looked at.
    pub(super) fn saw(&mut self, tree: &RunTree, now: Instant) {
        if self.tasks == tree.tasks {
            return;
        }
        self.tasks.clone_from(&tree.tasks);
        self.pause = SILENCE;
        let waits = !tree.is_over() && tree.tasks.iter().any(held_up);
        self.due = waits.then(|| now + self.pause);
    }

    /// When to ask, if there is anything to ask about.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Asks; gives what was not said yet. A server that cannot answer is told of elsewhere.
    ///
    /// # Errors
    /// The server says no.
    pub(super) async fn ask(&mut self, client: &Client, run: &str) -> Result<Vec<String>, Failure> {
        self.pause = (self.pause * 2).min(LONGEST);
        self.due = Some(Instant::now() + self.pause);
        let asked = client
            .get::<Items<Reason>>(&Ask::get(&["runs", run, "explain"]))
            .await;
        match asked {
            Ok(reasons) => Ok(self.news(run, &reasons.items)),
            Err(failure) if failure.status() == 3 => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    /// One line for each reason that was not said of its task: the first task, and how many wait for the same.
    fn news(&mut self, run: &str, reasons: &[Reason]) -> Vec<String> {
        let mut news: Vec<(&Reason, usize)> = Vec::new();
        for reason in reasons.iter().filter(|reason| waits(reason)) {
            if !self.said.insert((reason.task.clone(), reason.code.clone())) {
                continue;
            }
            match news.iter_mut().find(|(first, _)| first.code == reason.code) {
                Some((_, more)) => *more += 1,
                None => news.push((reason, 0)),
            }
        }
        let run: String = run.chars().take(DIGITS).collect();
        let line = |(reason, more): (&Reason, usize)| {
            let more = match more {
                0 => String::new(),
                1 => " 1 other task waits for the same.".to_owned(),
                n => format!(" {n} other tasks wait for the same."),
            };
            let why = first_sentence(&reason.reason);
            clean(&format!(
                "waiting: {why}{more} (outpost explain {run} {})",
                reason.task
            ))
        };
        news.into_iter().map(line).collect()
    }
}

/// Whether a task could be under way and is not.
fn held_up(task: &TaskNode) -> bool {
    let started = |task: &TaskNode| {
        task.attempts
            .last()
            .is_some_and(|attempt| attempt.started_at.is_some() && !attempt.is_over())
    };
    match task.state.as_str() {
        "queued" | "backoff" => true,
        "active" | "assigned" | "starting" => !started(task),
        _ => false,
    }
}

fn waits(reason: &Reason) -> bool {
    let could = ["queued", "backoff", "active", "assigned", "starting"];
    could.contains(&reason.state.as_str()) && reason.code != "running"
}

/// Up to the first full stop that another sentence follows.
fn first_sentence(text: &str) -> &str {
    text.split_once(". ")
        .and_then(|(first, _)| text.get(..=first.len()))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(state: &str, tasks: &str) -> RunTree {
        serde_json::from_str(&format!(
            r#"{{"run":"4f1d9c02aaaabbbb","workflow":"w","version":1,"state":"{state}","created_at":"x","tasks":[{tasks}]}}"#
        ))
        .unwrap()
    }

    fn reason(task: &str, state: &str, code: &str, reason: &str) -> Reason {
        Reason {
            task: task.to_owned(),
            state: state.to_owned(),
            code: code.to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn nobody_asks_while_something_changes_runs_or_is_over() {
        let mut waiting = Waiting::new();
        let start = Instant::now();
        let queued = r#"{"task":"a","state":"queued"}"#;
        waiting.saw(&tree("running", queued), start);
        assert_eq!(waiting.due(), Some(start + SILENCE));
        // The same again is no change.
        let later = start + Duration::from_secs(2);
        waiting.saw(&tree("running", queued), later);
        assert_eq!(waiting.due(), Some(start + SILENCE));
        let sent =
            r#"{"task":"a","state":"assigned","attempts":[{"attempt":"x","state":"assigned"}]}"#;
        waiting.saw(&tree("running", sent), later);
        assert_eq!(waiting.due(), Some(later + SILENCE));
        let runs = r#"{"task":"a","state":"running","attempts":[{"attempt":"x","state":"running","started_at":"t"}]}"#;
        waiting.saw(&tree("running", runs), later);
        assert_eq!(waiting.due(), None);
        waiting.saw(&tree("cancelled", queued), later);
        assert_eq!(waiting.due(), None);
    }

    #[test]
    fn each_reason_is_said_once() {
        let mut waiting = Waiting::new();
        let full = "Every agent is full (1 of them); it has waited for 5 s. Wait.";
        let mut reasons = vec![
            reason("a", "queued", "slots_full", full),
            reason("b", "queued", "slots_full", full),
            reason("c", "waiting", "needs", "It needs `a` to succeed first."),
            reason(
                "d",
                "running",
                "running",
                "It has run on agent `bank` for 9 s.",
            ),
        ];
        let said = waiting.news("4f1d9c02aaaabbbb", &reasons);
        assert_eq!(
            said,
            [
                "waiting: Every agent is full (1 of them); it has waited for 5 s. 1 other task waits for the same. \
              (outpost explain 4f1d9c02aaaa a)"
            ]
        );
        assert!(waiting.news("4f1d9c02aaaabbbb", &reasons).is_empty());
        let held = "Agent `bank` holds it and starts nothing: its site has paused it. Only the site can resume it.";
        reasons[3] = reason("d", "assigned", "paused", held);
        assert_eq!(
            waiting.news("4f1d9c02aaaabbbb", &reasons),
            [
                "waiting: Agent `bank` holds it and starts nothing: its site has paused it. (outpost explain 4f1d9c02aaaa d)"
            ]
        );
        reasons.truncate(3);
        reasons[1] = reason(
            "b",
            "queued",
            "paused",
            "Agent `bank` could run it, but its site has paused it.",
        );
        assert_eq!(
            waiting.news("4f1d9c02aaaabbbb", &reasons),
            [
                "waiting: Agent `bank` could run it, but its site has paused it. (outpost explain 4f1d9c02aaaa b)"
            ]
        );
    }
}
