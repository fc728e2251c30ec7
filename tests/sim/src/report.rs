//! Everything that is printed: the one place with output.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use outpost_sim::{Coverage, Played};

/// What all seeds together did.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    pub(crate) coverage: Coverage,
    counts: BTreeMap<&'static str, u64>,
    seeds_with: BTreeMap<&'static str, u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, played: &Played) {
        self.seeds += 1;
        self.coverage.add(&played.coverage);
        for (what, count) in &played.counts {
            *self.counts.entry(what).or_insert(0) += count;
            *self.seeds_with.entry(what).or_insert(0) += 1;
        }
    }
}

/// Prints a line; who closed the pipe does not want it.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

pub(crate) fn totals(totals: &Totals, took: Duration) {
    let rate = f64_of(totals.seeds) / took.as_secs_f64().max(0.001);
    line(format!(
        "{} seeds in {:.1} s, {rate:.1} seeds/s; every invariant held",
        totals.seeds,
        took.as_secs_f64()
    ));
    line(format!("{:>9} {:>6}  what", "times", "seeds"));
    for (what, count) in &totals.counts {
        let seeds = totals.seeds_with.get(what).copied().unwrap_or(0);
        line(format!("{count:>9} {seeds:>6}  {what}"));
    }
}

fn f64_of(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// What must never happen and did.
pub(crate) fn broken(seed: u64, played: &Played, replay: &str) {
    let Some((sentence, what)) = &played.broken else {
        return;
    };
    for text in &played.lines {
        line(format!("  {text}"));
    }
    line(format!("broken: {sentence}"));
    line(format!("  {}", what.chars().take(4000).collect::<String>()));
    line(format!("seed {seed}; replay with: {replay}"));
}
