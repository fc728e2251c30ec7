//! What happened, as lines: all of them go into one hash, the last ones are kept for the report.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};

use crate::queue::At;

/// The lines of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    keep: usize,
    line: String,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    /// Keeps the last `keep` lines.
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: VecDeque::new(),
            keep,
            line: String::new(),
            counts: BTreeMap::new(),
        }
    }

    pub(crate) fn say(&mut self, at: At, what: fmt::Arguments<'_>) {
        self.line.clear();
        // Writing to a String cannot fail.
        let _ = write!(
            self.line,
            "{:>6}.{:06} {what}",
            at / 1_000_000,
            at % 1_000_000
        );
        self.hash = fnv(self.hash, self.line.as_bytes());
        if self.keep > 0 {
            if self.lines.len() == self.keep {
                self.lines.pop_front();
            }
            self.lines.push_back(self.line.clone());
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn lines(self) -> (Vec<String>, BTreeMap<&'static str, u64>) {
        (self.lines.into(), self.counts)
    }
}

/// FNV-1a (Fowler, Noll, Vo), continued from `hash`.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Adds a line to a world's trace.
macro_rules! note {
    ($world:expr, $($what:tt)*) => {
        $world.trace.say($world.now, format_args!($($what)*))
    };
}
pub(crate) use note;
