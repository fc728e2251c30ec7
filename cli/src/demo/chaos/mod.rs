//! `demo --chaos`: the example several times at once, while its processes are killed and stopped and its connections
//! cut; each fault in a line, and at the end the history of both sides, checked.
//!
//! Starts are counted by what the scripts themselves wrote down, which no part of agent or orchestrator touches.

mod faults;
mod gather;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outpost_faults::chance::Chance;
use outpost_faults::history::Summary;
use outpost_faults::proxy::Proxy;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{example, good, step};
use crate::client;
use crate::client::api::RunTree;
use crate::client::http::{Ask, Client};
use crate::client::sse::{Following, Signal};
use crate::dev::{Place, Server};
use crate::failure::Failure;
use crate::output::{Out, Tone};

use faults::Faults;

/// Runs of the example at once.
const RUNS: usize = 3;
/// Faults go on at most so long; then everything may come to its end undisturbed.
const FAULTS_FOR: Duration = Duration::from_secs(40);
/// Between two faults, in milliseconds.
const PAUSE_MS: (u64, u64) = (400, 1_800);
/// How long the last acknowledgements may take.
const QUIET: Duration = Duration::from_secs(30);

/// What the disturbed runs left.
pub(super) struct Disturbed {
    /// The first run's tree.
    pub(super) tree: RunTree,
    /// The same as the server said it.
    pub(super) value: Value,
    faults: BTreeMap<&'static str, u64>,
    summary: Summary,
}

/// Where the scripts write down that they ran.
pub(super) fn marks(root: &Path) -> PathBuf {
    root.join("starts")
}

/// Runs the example under faults.
pub(super) async fn run(
    place: &Place,
    server: &Server,
    proxy: &Proxy,
    top: u16,
    out: Out,
) -> Result<Disturbed, Failure> {
    let params = json!({ "top": top });
    let mut runs = Vec::new();
    for number in 0..RUNS {
        let key = format!("demo-{}-{number}", std::process::id());
        let answer = client::start(&server.client, example::NAME, &params, Some(&key)).await?;
        runs.push(client::run_of(&answer)?);
    }
    good(out, &format!("runs          {}", runs.join(", ")));
    let seed = u64::from(std::process::id());
    let mut faults = Faults::new(place, proxy, Chance::new(seed));
    {
        let over = all_over(&server.client, &runs);
        tokio::pin!(over);
        tokio::select! {
            biased;
            over = &mut over => over?,
            () = disturb(&mut faults, out) => {
                step(out, "  faults have stopped");
                over.await?;
            }
        }
    }
    faults.mend();
    let summary = gather::history(place, &server.client, runs.clone(), QUIET).await?;
    let first = runs.first().map(String::as_str).unwrap_or_default();
    let value = server.client.ask(&Ask::get(&["runs", first])).await?;
    Ok(Disturbed {
        tree: client::http::parse(value.clone())?,
        value,
        faults: faults.counts(),
        summary: Summary::of(&summary),
    })
}

async fn disturb(faults: &mut Faults<'_>, out: Out) {
    let begun = Instant::now();
    while begun.elapsed() < FAULTS_FOR {
        sleep(faults.pause(PAUSE_MS)).await;
        if let Some(told) = faults.strike() {
            let at = begun.elapsed().as_secs_f64();
            step(out, &format!("  {at:>5.1} s  {told}"));
        }
    }
    faults.mend();
}

/// Returns when none of these runs will change any more.
async fn all_over(client: &Client, runs: &[String]) -> Result<(), Failure> {
    for run in runs {
        let mut events = Following::of(client, Some(run));
        loop {
            match events.next().await? {
                Signal::Opened | Signal::Event => {
                    let tree: RunTree = client.get(&Ask::get(&["runs", run])).await?;
                    if ["succeeded", "failed", "cancelled"].contains(&tree.state.as_str()) {
                        break;
                    }
                }
                Signal::End => break,
                Signal::Broken(_) => {}
            }
        }
    }
    Ok(())
}

impl Disturbed {
    /// The checked history in words.
    pub(super) fn tell(&self, out: Out) {
        let total: u64 = self.faults.values().sum();
        let list = |counts: &mut dyn Iterator<Item = (String, String)>| {
            let parts = counts.map(|(word, count)| format!("{count} {word}"));
            parts.collect::<Vec<_>>().join(", ")
        };
        let summary = &self.summary;
        out.line("");
        out.line(&Tone::Strong.paint("What was done to it, and what both sides recorded"));
        let faults = self.faults.iter();
        let mut faults = faults.map(|(kind, count)| ((*kind).to_owned(), count.to_string()));
        out.line(&format!("  faults  {total}: {}", list(&mut faults)));
        let outcomes = summary.outcomes.iter();
        let mut outcomes = outcomes.map(|(word, count)| (word.clone(), count.to_string()));
        out.line(&format!("  ends    {}", list(&mut outcomes)));
        if summary.holds() {
            let words = format!(
                "{} attempts of {} runs, each started at most once ({} starts, counted by the scripts), each with one end; \
                 nothing acknowledged is missing; the ledger stands its check",
                summary.attempts, summary.runs, summary.starts
            );
            out.line(&format!("  checked {}", Tone::Good.paint(&words)));
        }
        for violation in &summary.violations {
            out.line(&format!("  {}", Tone::Bad.paint(violation)));
        }
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        json!({ "faults": self.faults, "history": self.summary })
    }

    /// Whether every promise was kept.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match self.summary.violations.len() {
            0 => Ok(()),
            n => Err(Failure::Unsuccessful(format!(
                "the history contradicts {n} promises"
            ))),
        }
    }
}
