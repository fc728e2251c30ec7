//! What takes longer than a second says so: one line on stderr, drawn in place, only where somebody looks, and gone
//! again when it is over.

use std::future::Future;
use std::io::Write as _;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval_at};

use super::{Out, Tone, clean};

/// Until then nobody wonders.
const SOON: Duration = Duration::from_secs(1);
/// Between two drawings.
const FRAME: Duration = Duration::from_millis(200);

/// Waits for something; after a second says what is waited for, and for how long.
pub(crate) async fn attended<T>(out: Option<Out>, what: &str, work: impl Future<Output = T>) -> T {
    if !out.is_some_and(Out::is_attended) {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    let begun = Instant::now();
    let mut frames = interval_at(tokio::time::Instant::now() + SOON, FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut line = Line::default();
    loop {
        tokio::select! {
            biased;
            // First: what is done needs no line.
            done = &mut work => return done,
            _ = frames.tick() => line.draw(&format!("{what} ({} s)", begun.elapsed().as_secs())),
        }
    }
}

/// Many things, one after the other.
pub(crate) struct Steps {
    out: Out,
    what: &'static str,
    total: Option<usize>,
    done: usize,
    begun: Instant,
    line: Line,
}

impl Steps {
    /// None done yet; `what` is such as `applying`.
    pub(crate) fn new(out: Out, what: &'static str, total: Option<usize>) -> Self {
        Self {
            out,
            what,
            total,
            done: 0,
            begun: Instant::now(),
            line: Line::default(),
        }
    }

    /// So many are done; the next is of this name.
    pub(crate) fn at(&mut self, done: usize, name: &str) {
        self.done = done;
        if !self.out.is_attended() || self.begun.elapsed() < SOON {
            return;
        }
        let count = match self.total {
            Some(total) => format!("{} of {total}", self.done),
            None => self.done.to_string(),
        };
        self.line
            .draw(&format!("{} {count}: {}", self.what, clean(name)));
    }
}

/// A line on stderr that is there or not. Taken away when dropped.
#[derive(Debug, Default)]
struct Line {
    drawn: bool,
}

impl Line {
    fn draw(&mut self, text: &str) {
        self.drawn = true;
        let width = super::size().0.saturating_sub(1);
        let text: String = text.chars().take(width).collect();
        let mut terminal = anstream::stderr().lock();
        let _ = write!(terminal, "\r{}\x1b[K", Tone::Faint.paint(&text));
        let _ = terminal.flush();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.drawn {
            let mut terminal = anstream::stderr().lock();
            let _ = write!(terminal, "\r\x1b[K");
            let _ = terminal.flush();
        }
    }
}
