//! What the orchestrator's store costs with much history behind it: pages of the run list, one run, a start, and the
//! commits of a task's life, with few and with many finished attempts in the database. Printed, not judged.
//!
//! History is written through the store itself, in large bursts, so that the file is the one a server would have.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use outpost_driver::{Effects, Store as _};
use outpost_e2e::report;
use outpost_orchestrator::store::read::RunFilter;
use outpost_orchestrator::store::sqlite::{FILE, Sqlite};
use outpost_orchestrator_core::record::{RunState, Write};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

#[path = "../growth/mod.rs"]
mod growth;
use growth::multiply::{APART_US, multiply, some_runs};
use growth::{History, TASKS};

/// Items of a page: what the command line asks for.
const PAGE: u32 = 50;
/// Attempts written in one transaction while the database is filled.
const FILL: usize = 2_000;
/// Attempts that the store writes itself; what is more is copied from them.
const WRITTEN: usize = 100_000;
/// What a page of the run list may take, in ms, whatever lies in the database.
const LIST_MS: f64 = 50.0;

/// Measures the store with few and with many finished attempts in it.
#[derive(Debug, Parser)]
#[command(name = "store_growth")]
struct Args {
    /// Finished attempts to measure with; several make several rows.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000])]
    attempts: Vec<usize>,
    /// How often each read is timed.
    #[arg(long, default_value_t = 300)]
    reads: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One figure at one size.
#[derive(Debug, Serialize)]
struct Row {
    attempts: usize,
    what: String,
    unit: &'static str,
    p50: f64,
    p99: f64,
    /// At most so much for the 99th of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from);
    let rows = runtime.and_then(|runtime| runtime.block_on(measure_all(&args)));
    match rows {
        Ok(rows) if args.json => report::line(format_args!("{}", serde_json::json!(rows))),
        Ok(rows) => rows.iter().for_each(tell),
        Err(error) => {
            report::note(format_args!("error: {error:#}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn tell(row: &Row) {
    let target = row.target.map_or(String::new(), |target| {
        let met = if row.met == Some(true) {
            "met"
        } else {
            "missed"
        };
        format!("  (p99 <= {target}: {met})")
    });
    report::line(format_args!(
        "{:>9} attempts  {:<44} p50 {:>10.2}  p99 {:>10.2} {}{target}",
        row.attempts, row.what, row.p50, row.p99, row.unit
    ));
}

async fn measure_all(args: &Args) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for attempts in &args.attempts {
        let dir = tempfile::tempdir().context("no room for a database")?;
        Sqlite::create(dir.path(), 1).await?;
        let mut store = Sqlite::open(dir.path()).await?;
        let mut history = History::default();
        let begun = Instant::now();
        commit(&mut store, history.beginning()).await?;
        for _ in 0..(*attempts).min(WRITTEN).div_ceil(FILL) {
            commit(&mut store, history.finished_runs(FILL / TASKS)).await?;
        }
        if *attempts > WRITTEN {
            store.close()?;
            let file = dir.path().join(FILE);
            let times = attempts.div_ceil(WRITTEN);
            multiply(&file, times)?;
            let runs = some_runs(&file, 1_000)?;
            let runs = runs.iter().filter_map(|run| run.parse().ok()).collect();
            history.know(runs, u64::from(APART_US) * times as u64);
            store = Sqlite::open(dir.path()).await?;
        }
        let size = dir.path().join(FILE).metadata()?.len() >> 20;
        report::note(format_args!(
            "{attempts} attempts written in {:.1} s, {size} MiB",
            begun.elapsed().as_secs_f64()
        ));
        let mut measure = Measure {
            attempts: *attempts,
            reads: args.reads,
            rows: Vec::new(),
        };
        measure.reads(&mut store, &history).await?;
        for burst in [1, 10, 100] {
            measure.lives(&mut store, &mut history, burst).await?;
        }
        rows.extend(measure.rows);
        store.close()?;
    }
    Ok(rows)
}

async fn commit(store: &mut Sqlite, writes: Vec<Write>) -> anyhow::Result<()> {
    let effects = Effects {
        writes,
        speech: Vec::new(),
    };
    Ok(store.commit(&effects).await?)
}

/// CPU time of this process, all threads.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The figures at one size.
struct Measure {
    attempts: usize,
    reads: usize,
    rows: Vec<Row>,
}

impl Measure {
    fn add(&mut self, what: impl Into<String>, unit: &'static str, mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        let at = |share: usize| {
            let place = values.len().saturating_sub(1) * share / 100;
            values.get(place).copied().unwrap_or(0.0)
        };
        self.rows.push(Row {
            attempts: self.attempts,
            what: what.into(),
            unit,
            p50: at(50),
            p99: at(99),
            target: None,
            met: None,
        });
    }

    /// The newest figure is one of the run list.
    fn judge_list(&mut self) {
        if let Some(row) = self.rows.last_mut() {
            (row.target, row.met) = (Some(LIST_MS), Some(row.p99 <= LIST_MS));
        }
    }

    async fn reads(&mut self, store: &mut Sqlite, history: &History) -> anyhow::Result<()> {
        let reader = store.reader();
        let all = RunFilter::default();
        let failed = RunFilter {
            state: Some(RunState::Failed),
            ..RunFilter::default()
        };
        let of_workflow = RunFilter {
            workflow: Some(history.workflow()),
            ..failed.clone()
        };
        let filters = [
            ("run list, all", all),
            ("run list, failed", failed),
            ("run list, failed of a workflow", of_workflow),
        ];
        for (what, filter) in filters {
            let (mut times, mut cursor) = (Vec::new(), None::<String>);
            for _ in 0..self.reads {
                let begun = Instant::now();
                let page = reader
                    .runs(&history.tenant(), &filter, cursor.as_deref(), PAGE)
                    .await?;
                times.push(millis(begun));
                cursor = page.next;
            }
            self.add(what, "ms", times);
            self.judge_list();
        }
        let mut times = Vec::new();
        for place in 0..self.reads {
            let run = history.run_at(place * 7919);
            let begun = Instant::now();
            black_box(reader.run(&history.tenant(), run).await?);
            times.push(millis(begun));
        }
        self.add("one run with its tasks and attempts", "ms", times);
        let mut times = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            black_box(store.load().await?);
            times.push(millis(begun));
        }
        self.add("load at a start, nothing live", "ms", times);
        Ok(())
    }

    /// The life of `burst` attempts at a time: assigned, running, over, each in a commit.
    async fn lives(
        &mut self,
        store: &mut Sqlite,
        history: &mut History,
        burst: usize,
    ) -> anyhow::Result<()> {
        let rounds = (3_000 / burst).clamp(20, 300);
        let (mut walls, mut cpus) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let life = history.lives(burst);
            for writes in life {
                let effects = Effects {
                    writes,
                    speech: Vec::new(),
                };
                let (begun, used) = (Instant::now(), cpu());
                store.commit(&effects).await?;
                walls.push(millis(begun) * 1000.0);
                cpus.push((cpu() - used).as_secs_f64() * 1e6);
            }
        }
        let total: f64 = cpus.iter().sum();
        let each = total / (rounds * burst) as f64;
        self.add(format!("commit of a burst of {burst}, wall"), "us", walls);
        self.add(format!("commit of a burst of {burst}, CPU"), "us", cpus);
        self.add(
            format!("an attempt's three commits, bursts of {burst}, CPU"),
            "us",
            vec![each],
        );
        Ok(())
    }
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}
