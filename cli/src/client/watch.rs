//! Watching a run until it is over: the event stream says when to look, the run itself says what is.
//!
//! On a terminal the tree is drawn again in place; a pipe gets one line per thing that happened, each exactly once,
//! with the time it happened at, however often the stream broke in between.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::api::{AttemptNode, RunTree, TaskNode};
use super::http::{Ask, Client};
use super::sse::{Following, Signal};
use super::tree::{self, Pen, clock, reported, took};
use super::waiting::Waiting;
use crate::failure::Failure;
use crate::output::{Live, Out, Tone, clean};

/// Events of a burst are looked at together.
const BURST: Duration = Duration::from_millis(40);
/// Until the next look at a server that could not answer.
const AWAY: Duration = Duration::from_millis(500);
/// Ten drawings a second make a spinner turn.
const FRAME: Duration = Duration::from_millis(100);

/// Shows the run until it is over, and returns it then. The caller stops it by dropping.
///
/// # Errors
/// The server says no, or is away for too long.
pub(crate) async fn watch(client: &Client, run: &str, out: Out) -> Result<RunTree, Failure> {
    watch_from(client, run, None, out).await
}

/// As [`watch`], of a run that is known up to here: what had happened by then is not told.
pub(crate) async fn watch_from(
    client: &Client,
    run: &str,
    known: Option<&RunTree>,
    out: Out,
) -> Result<RunTree, Failure> {
    // While the server is away the picture says so; waiting inside a request would freeze it.
    let client = &client.clone().patient(Duration::ZERO).quiet();
    let mut events = Following::of(client, Some(run));
    let mut view = View::new(out);
    if let (View::Lines(_, said), Some(tree)) = (&mut view, known) {
        said.news(tree);
        said.goes_on(tree);
    }
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut due: Option<Instant> = None;
    let mut waiting = Waiting::new();
    loop {
        let looking = due.unwrap_or_else(Instant::now);
        let wondering = waiting.due().filter(|_| !view.is_silent());
        let now = tokio::select! {
            biased;
            // First what was seen to happen: a storm of events must not keep anybody from looking.
            () = sleep_until(looking), if due.is_some() => true,
            signal = events.next() => match signal? {
                Signal::Opened | Signal::End => true,
                Signal::Event => {
                    due.get_or_insert_with(|| Instant::now() + BURST);
                    false
                }
                Signal::Broken(why) => {
                    view.broken(&why);
                    false
                }
            },
            () = sleep_until(wondering.unwrap_or(looking)), if wondering.is_some() => {
                for line in waiting.ask(client, run).await? {
                    view.note(&line);
                }
                false
            }
            _ = frames.tick(), if view.is_live() => {
                view.frame();
                false
            }
        };
        if !now {
            continue;
        }
        due = None;
        match look(client, run, &mut view).await? {
            Look::Over(tree) => return Ok(*tree),
            Look::Goes(tree) => waiting.saw(&tree, Instant::now()),
            Look::Away => due = Some(Instant::now() + AWAY),
        }
    }
}

/// What a look found.
enum Look {
    Goes(Box<RunTree>),
    Over(Box<RunTree>),
    /// Nothing: the server could not answer.
    Away,
}

/// Reads the run and shows it.
async fn look(client: &Client, run: &str, view: &mut View) -> Result<Look, Failure> {
    let tree: RunTree = match client.get(&Ask::get(&["runs", run])).await {
        Ok(tree) => tree,
        // The stream notices as well, and gives up when it lasts.
        Err(failure) if failure.status() == 3 => {
            view.broken(&failure.to_string());
            return Ok(Look::Away);
        }
        Err(failure) => return Err(failure),
    };
    view.update(tree.clone());
    let over = tree.is_over();
    let tree = Box::new(tree);
    Ok(if over {
        Look::Over(tree)
    } else {
        Look::Goes(tree)
    })
}

enum View {
    /// Results go to a program.
    Silent,
    /// One line per thing that happened.
    Lines(Out, Said),
    /// A tree, drawn in place.
    Tree(Out, Live, Box<Picture>),
}

#[derive(Default)]
struct Picture {
    tree: Option<RunTree>,
    trouble: Option<String>,
    frame: usize,
}

impl View {
    fn new(out: Out) -> Self {
        if out.is_json() {
            Self::Silent
        } else if out.is_live() {
            Self::Tree(out, Live::new(out), Box::default())
        } else {
            Self::Lines(out, Said::default())
        }
    }

    fn is_live(&self) -> bool {
        matches!(self, Self::Tree(..))
    }

    fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }

    /// Says something beside the results.
    fn note(&mut self, line: &str) {
        match self {
            Self::Silent => {}
            Self::Lines(out, _) => out.note(line),
            Self::Tree(out, live, _) => {
                live.clear();
                out.note(line);
                self.frame();
            }
        }
    }

    fn update(&mut self, tree: RunTree) {
        match self {
            Self::Silent => {}
            Self::Lines(out, said) => {
                said.away = false;
                for line in said.news(&tree) {
                    out.line(&line);
                }
            }
            Self::Tree(_, _, picture) => {
                picture.trouble = None;
                let over = tree.is_over();
                picture.tree = Some(tree);
                self.frame();
                if over && let Self::Tree(_, live, _) = self {
                    live.clear();
                }
            }
        }
    }

    fn broken(&mut self, why: &str) {
        match self {
            Self::Silent => {}
            Self::Lines(out, said) => {
                if !said.away {
                    out.note(&format!("{}; trying again", clean(why)));
                }
                said.away = true;
            }
            Self::Tree(_, _, picture) => picture.trouble = Some(why.to_owned()),
        }
    }

    fn frame(&mut self) {
        let Self::Tree(out, live, picture) = self else {
            return;
        };
        picture.frame += 1;
        let mut lines = match &picture.tree {
            Some(tree) => tree::lines(tree, Pen::new(*out, picture.frame, false)),
            None => vec![Tone::Faint.paint("looking…")],
        };
        if let Some(trouble) = &picture.trouble {
            lines.push(Tone::Warn.paint(&format!("{}; trying again", clean(trouble))));
        }
        live.draw(&lines);
    }
}

/// What has been said already.
#[derive(Debug, Default)]
struct Said {
    facts: BTreeSet<(String, &'static str)>,
    /// That the server is away.
    away: bool,
}

impl Said {
    /// Lines about what is new, in the order it happened.
    fn news(&mut self, tree: &RunTree) -> Vec<String> {
        let width = tree
            .tasks
            .iter()
            .map(|task| task.task.chars().count())
            .max()
            .unwrap_or(0);
        let mut news: Vec<(String, String)> = Vec::new();
        // What has no time of its own was seen now, or happened before the run's end.
        let seen = tree.finished_at.clone().unwrap_or_else(now);
        for task in &tree.tasks {
            for (time, words) in self.task(task, &seen) {
                news.push((time, format!("{:width$}  {words}", clean(&task.task))));
            }
        }
        news.sort_by(|a, b| a.0.cmp(&b.0));
        if tree.is_over() && self.facts.insert((tree.run.clone(), "over")) {
            let took = tree
                .duration_ms
                .map(|ms| format!(" in {}", took(ms)))
                .unwrap_or_default();
            news.push((
                seen,
                format!("{:width$}  {}{took}", "run", clean(&tree.state)),
            ));
        }
        news.into_iter()
            .map(|(time, words)| format!("{} {words}", clock(&time)))
            .collect()
    }

    /// What had ended goes on: its next end is news.
    fn goes_on(&mut self, tree: &RunTree) {
        self.facts.remove(&(tree.run.clone(), "over"));
        for task in &tree.tasks {
            self.facts.remove(&(task.task.clone(), "over"));
        }
    }

    fn task(&mut self, task: &TaskNode, seen: &str) -> Vec<(String, String)> {
        let mut news = Vec::new();
        for (at, attempt) in task.attempts.iter().enumerate() {
            let again = if at > 0 {
                format!(" (attempt {})", at + 1)
            } else {
                String::new()
            };
            if let Some(time) = attempt.started_at.clone()
                && self.facts.insert((attempt.attempt.clone(), "running"))
            {
                news.push((time, format!("running{again}")));
            }
            if attempt.is_over() && self.facts.insert((attempt.attempt.clone(), "over")) {
                news.push((
                    attempt
                        .finished_at
                        .clone()
                        .unwrap_or_else(|| seen.to_owned()),
                    ended(task, attempt, at, &again),
                ));
            }
        }
        let without = matches!(task.state.as_str(), "upstream_failed" | "cancelled")
            && task.attempts.is_empty();
        if without && self.facts.insert((task.task.clone(), "over")) {
            news.push((seen.to_owned(), task.state.replace('_', " ")));
        }
        news
    }
}

fn ended(task: &TaskNode, attempt: &AttemptNode, at: usize, again: &str) -> String {
    let took = attempt
        .duration_ms
        .map(|ms| format!("  {}", reported(ms)))
        .unwrap_or_default();
    let retried =
        at + 1 < task.attempts.len() || matches!(task.state.as_str(), "backoff" | "queued");
    let well = attempt.outcome.as_ref().is_some_and(|it| it == "succeeded");
    let next = match (retried, well) {
        (true, false) => "; trying again",
        // A person asked for it.
        (true, true) => "; run again",
        (false, _) => "",
    };
    format!("{}{again}{took}{next}", clean(&attempt.ending()))
}

fn now() -> String {
    Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(json: &str) -> RunTree {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_thing_is_said_once_however_late_it_is_looked_at() {
        let mut said = Said::default();
        let first = tree(
            r#"{"run":"r","workflow":"w","version":1,"state":"running","created_at":"x","tasks":[
            {"task":"index","state":"backoff","attempts":[{"attempt":"a","state":"finished","outcome":"failed","exit_code":75,
             "started_at":"2026-01-02T03:04:05Z","finished_at":"2026-01-02T03:04:06Z","duration_ms":900}]},
            {"task":"b","state":"active","attempts":[{"attempt":"b","state":"running","started_at":"2026-01-02T03:04:04Z"}]}]}"#,
        );
        let words = |lines: Vec<String>| {
            lines
                .iter()
                .map(|line| line[9..].to_owned())
                .collect::<Vec<_>>()
        };
        let expected = [
            "b      running",
            "index  running",
            "index  failed (exit 75)  900 ms; trying again",
        ];
        assert_eq!(words(said.news(&first)), expected);
        assert!(said.news(&first).is_empty());

        // Run again by a person: only what is new from then on.
        let mut again = Said::default();
        again.news(&first);
        again.goes_on(&first);
        assert!(again.news(&first).is_empty());

        let mut last = first.clone();
        last.state = "cancelled".to_owned();
        last.duration_ms = Some(2000);
        last.tasks[0].state = "cancelled".to_owned();
        assert_eq!(words(said.news(&last)), ["run    cancelled in 2.0 s"]);
    }
}
