//! A run as a tree: each task stands below the one it waits longest for, with how it ended and how long it took.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use outpost_proto::strict::is_step;
use serde_json::Value;

use super::api::{AttemptNode, RunTree, TaskNode};
use crate::output::{Out, Tone, clean};

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const SPINNER_ASCII: [&str; 4] = ["|", "/", "-", "\\"];
/// Characters of a parameter's value.
const VALUE: usize = 40;

/// How a tree is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pen {
    unicode: bool,
    /// Advances the spinner.
    frame: usize,
    /// Of now, for what is still running.
    now: Timestamp,
    /// Tasks that failed or were tried again get a line for each attempt, and the run one for what it was given.
    attempts: bool,
}

impl Pen {
    /// For one drawing now.
    pub(crate) fn new(out: Out, frame: usize, attempts: bool) -> Self {
        Self {
            unicode: out.is_unicode(),
            frame,
            now: Timestamp::now(),
            attempts,
        }
    }

    fn mark(self, state: &str) -> String {
        let (unicode, ascii, tone) = match state {
            "succeeded" => ("✔", "+", Tone::Good),
            "failed" | "lost" => ("✘", "x", Tone::Bad),
            "upstream_failed" | "cancelled" | "cancelling" => ("⊘", "x", Tone::Warn),
            "backoff" => ("↻", "~", Tone::Warn),
            "active" | "assigned" | "starting" | "running" => {
                (self.spin(), self.spin(), Tone::Busy)
            }
            _ => ("·", ".", Tone::Faint),
        };
        tone.paint(if self.unicode { unicode } else { ascii })
    }

    fn spin(self) -> &'static str {
        if self.unicode {
            SPINNER[self.frame % SPINNER.len()]
        } else {
            SPINNER_ASCII[self.frame % SPINNER_ASCII.len()]
        }
    }

    fn branches(self) -> [&'static str; 4] {
        if self.unicode {
            ["├─ ", "└─ ", "│  ", "   "]
        } else {
            ["|- ", "`- ", "|  ", "   "]
        }
    }
}

/// The tree's lines, the run's own first.
pub(crate) fn lines(tree: &RunTree, pen: Pen) -> Vec<String> {
    let took = tree
        .duration_ms
        .or_else(|| since(&tree.created_at, pen.now))
        .map(took)
        .unwrap_or_default();
    let on = tree
        .agent
        .as_ref()
        .map(|agent| format!(" on {}", clean(agent)))
        .unwrap_or_default();
    let title = Tone::Strong.paint(&clean(&tree.workflow));
    let mut about = clean(&tree.run);
    if let Some(instant) = &tree.scheduled_for {
        about.push_str(&format!("  for {}", clean(&day_and_clock(instant))));
    }
    if tree.reruns > 0 {
        about.push_str(&format!("  rerun {}", tree.reruns));
    }
    let run = Tone::Faint.paint(&about);
    let mut lines = vec![format!(
        "{} {title} {}{on}  {took}  {run}",
        pen.mark(&tree.state),
        clean(&tree.state)
    )];
    if pen.attempts && !tree.params.is_empty() {
        let given = Tone::Faint.paint(&format!("  version {}, {}", tree.version, given(tree)));
        lines.push(given);
    }
    let forest = forest(&tree.tasks);
    let widths = forest
        .iter()
        .map(|branch| branch.trail.len() * 3 + branch.task.task.len());
    let widest = widths.max().unwrap_or(0);
    for branch in &forest {
        task_lines(&mut lines, pen, branch, widest);
    }
    lines
}

/// `with day=2026-01-31, top=25`, each value cut.
fn given(tree: &RunTree) -> String {
    let one = |(name, value): (&String, &Value)| {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let mut cut: String = text.chars().take(VALUE).collect();
        if cut.len() < text.len() {
            cut.push('…');
        }
        clean(&format!("{name}={cut}"))
    };
    let given = tree.params.iter().map(one).collect::<Vec<_>>();
    format!("with {}", given.join(", "))
}

/// A task at its place in the tree.
struct Branch<'a> {
    /// Of its ancestors and of itself: whether a sibling follows.
    trail: Vec<bool>,
    task: &'a TaskNode,
    /// The needs other than the one it stands below.
    others: Vec<&'a str>,
    /// Whether anything stands below it.
    bears: bool,
}

fn forest(tasks: &[TaskNode]) -> Vec<Branch<'_>> {
    let depths = depths(tasks);
    let mut children: BTreeMap<Option<&str>, Vec<&TaskNode>> = BTreeMap::new();
    for task in tasks {
        children
            .entry(parent(task, &depths))
            .or_default()
            .push(task);
    }
    let mut branches = Vec::new();
    grow(&mut branches, &children, None, &[]);
    branches
}

fn grow<'a>(
    branches: &mut Vec<Branch<'a>>,
    children: &BTreeMap<Option<&str>, Vec<&'a TaskNode>>,
    above: Option<&str>,
    trail: &[bool],
) {
    let below = children.get(&above).map_or(&[][..], Vec::as_slice);
    for (at, task) in below.iter().enumerate() {
        let mut trail = trail.to_vec();
        trail.push(at + 1 < below.len());
        let needs = task.needs.iter().map(String::as_str);
        branches.push(Branch {
            trail: trail.clone(),
            task,
            others: needs.filter(|need| Some(*need) != above).collect(),
            bears: children.contains_key(&Some(task.task.as_str())),
        });
        grow(branches, children, Some(&task.task), &trail);
    }
}

/// How many tasks stand between a task and the beginning, by the longest way.
fn depths(tasks: &[TaskNode]) -> BTreeMap<&str, usize> {
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    // The longest way has fewer steps than there are tasks; a round without change ends it earlier.
    for _ in 0..tasks.len() {
        let mut changed = false;
        for task in tasks {
            let above = task
                .needs
                .iter()
                .filter_map(|need| depths.get(need.as_str()))
                .max();
            let depth = above.map_or(0, |depth| depth + 1);
            changed |= depths.insert(&task.task, depth) != Some(depth);
        }
        if !changed {
            break;
        }
    }
    depths
}

/// Of a task's needs the deepest; of equally deep ones the last named.
fn parent<'a>(task: &'a TaskNode, depths: &BTreeMap<&str, usize>) -> Option<&'a str> {
    let known = task
        .needs
        .iter()
        .filter(|need| depths.contains_key(need.as_str()));
    known
        .max_by_key(|need| depths.get(need.as_str()))
        .map(String::as_str)
}

fn task_lines(lines: &mut Vec<String>, pen: Pen, branch: &Branch<'_>, widest: usize) {
    let [fork, corner, pipe, blank] = pen.branches();
    let (task, others) = (branch.task, &branch.others);
    let (follows, above) = branch.trail.split_last().unwrap_or((&false, &[]));
    let indent = above.iter().map(|more| if *more { pipe } else { blank });
    let indent = indent.collect::<String>();
    let twig = Tone::Faint.paint(&format!("{indent}{}", if *follows { fork } else { corner }));
    let pad = widest.saturating_sub(branch.trail.len() * 3 + task.task.chars().count());
    let (mark, name) = (pen.mark(shown_state(task)), clean(&task.task));
    let mut line = format!("{twig}{mark} {name}{:pad$}  {}", "", words(task, pen));
    if !others.is_empty() {
        let also = if others.len() > 2 {
            format!("{} others", others.len())
        } else {
            others.join(", ")
        };
        line.push_str(&Tone::Faint.paint(&format!("  (needs {} too)", clean(&also))));
    }
    lines.push(line);
    let has_lines = task.attempts.len() > 1 || task.state == "failed";
    if !pen.attempts || !has_lines {
        return;
    }
    let beside = if *follows { pipe } else { blank };
    let below = if branch.bears { pipe } else { blank };
    for (at, attempt) in task.attempts.iter().enumerate() {
        let number = attempt.number.map_or(at + 1, |number| number as usize);
        let took = attempt_took(attempt, pen.now).unwrap_or_default();
        let (ending, id) = (clean(&attempt.ending()), clean(&attempt.attempt));
        let text = format!("{indent}{beside}{below}attempt {number}: {ending}  {took}  {id}");
        lines.push(Tone::Faint.paint(&text));
    }
}

/// The attempt's own state says more than that there is one.
fn shown_state(task: &TaskNode) -> &str {
    match task.attempts.last() {
        Some(attempt) if task.state == "active" && !attempt.is_over() => &attempt.state,
        Some(_) | None => &task.state,
    }
}

/// `succeeded  0.4 s, 2 attempts`
fn words(task: &TaskNode, pen: Pen) -> String {
    let state = shown_state(task);
    let mut words = clean(&state.replace('_', " "));
    let last = task.attempts.last();
    if let Some(attempt) = last.filter(|_| matches!(state, "failed" | "backoff")) {
        words =
            format!("{words}: {}", clean(&attempt.ending())).replace("failed: failed", "failed");
    }
    if let Some(time) = last.and_then(|attempt| attempt_took(attempt, pen.now)) {
        words.push_str(&format!("  {time}"));
    }
    if task.attempts.len() > 1 {
        words.push_str(&format!("  {} attempts", task.attempts.len()));
    }
    words
}

fn attempt_took(attempt: &AttemptNode, now: Timestamp) -> Option<String> {
    if attempt.is_over() {
        return attempt.duration_ms.map(reported);
    }
    since(attempt.started_at.as_deref()?, now).map(took)
}

/// As [`took`], of what an agent said. A step, which is all that a strict one says, is no exact time: `at most 2.1 s`.
pub(crate) fn reported(ms: u64) -> String {
    if !is_step(ms) {
        return took(ms);
    }
    // Rounded up, so that it is true.
    let unit = match ms {
        0..60_000 => 100,
        60_000..3_600_000 => 1000,
        _ => 60_000,
    };
    format!("at most {}", took(ms.div_ceil(unit) * unit))
}

fn since(from: &str, now: Timestamp) -> Option<u64> {
    let from: Timestamp = from.parse().ok()?;
    u64::try_from(now.as_millisecond() - from.as_millisecond()).ok()
}

/// `350 ms`, `2.4 s`, `3 min 5 s`, `2 h 10 min`
pub(crate) fn took(ms: u64) -> String {
    let seconds = ms / 1000;
    match (ms, seconds) {
        (0..1000, _) => format!("{ms} ms"),
        (_, 0..60) => format!("{}.{} s", seconds, ms % 1000 / 100),
        (_, 60..3600) => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// As [`took`].
pub(crate) fn took_duration(duration: Duration) -> String {
    took(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// The time of day here.
pub(crate) fn clock(time: &str) -> String {
    local(time, "%H:%M:%S")
}

/// Day and time of day here.
pub(crate) fn day_and_clock(time: &str) -> String {
    local(time, "%Y-%m-%d %H:%M:%S")
}

fn local(time: &str, format: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime(format).to_string(),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_not_told_as_an_exact_time() {
        let told = [900, 1024, 1025, 65_536, 4_194_304].map(reported);
        let expected = [
            "900 ms",
            "at most 1.1 s",
            "1.0 s",
            "at most 1 min 6 s",
            "at most 1 h 10 min",
        ];
        assert_eq!(told, expected);
    }

    const TREE: &str = r#"{"run":"0123456789abcdef0123456789abcdef","workflow":"host-report","version":1,"state":"failed",
      "agent":"site-1","params":{"top":25,"title":"audit"},"created_at":"2026-01-02T03:04:05.000000Z","finished_at":null,"duration_ms":6100,"tasks":[
      {"task":"open","state":"succeeded","attempts":[{"attempt":"a1","number":1,"state":"finished","outcome":"succeeded","duration_ms":80}]},
      {"task":"packages","state":"succeeded","attempts":[{"attempt":"a2","number":1,"state":"finished","outcome":"succeeded","duration_ms":412}]},
      {"task":"index","needs":["open"],"state":"succeeded","attempts":[
        {"attempt":"a3","number":1,"state":"finished","outcome":"failed","exit_code":75,"duration_ms":20},
        {"attempt":"a4","number":2,"state":"finished","outcome":"succeeded","duration_ms":2900}]},
      {"task":"sockets","state":"failed","attempts":[{"attempt":"a5","number":1,"state":"finished","outcome":{"killed":"oom"},"duration_ms":66000}]},
      {"task":"join","needs":["packages","index","sockets"],"state":"upstream_failed"},
      {"task":"html","needs":["join"],"state":"waiting"}]}"#;

    #[test]
    fn a_run_is_a_tree_of_what_waits_for_what() {
        let tree: RunTree = serde_json::from_str(TREE).unwrap();
        let now = "2026-01-02T03:04:11Z".parse().unwrap();
        for (unicode, name) in [(true, "unicode"), (false, "ascii")] {
            let lines = lines(
                &tree,
                Pen {
                    unicode,
                    frame: 0,
                    now,
                    attempts: true,
                },
            );
            let text = lines
                .iter()
                .map(|line| anstream::adapter::strip_str(line).to_string() + "\n")
                .collect::<String>();
            insta::assert_snapshot!(name, text);
        }
    }

    #[test]
    fn durations_have_the_unit_that_matters() {
        assert_eq!(
            [350, 2_449, 185_000, 7_800_000].map(took),
            ["350 ms", "2.4 s", "3 min 5 s", "2 h 10 min"]
        );
    }

    #[test]
    fn a_cycle_that_no_server_sends_ends_nevertheless() {
        let task = |name: &str, need: &str| TaskNode {
            task: name.to_owned(),
            needs: vec![need.to_owned()],
            state: "waiting".to_owned(),
            attempts: vec![],
        };
        assert!(forest(&[task("a", "b"), task("b", "a")]).is_empty());
    }
}
