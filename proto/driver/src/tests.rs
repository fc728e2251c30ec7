//! The order itself, on the smallest core there is: a counter that says each value it reached.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

#[derive(Default)]
struct Counter(u32);

impl Core for Counter {
    type Event = u32;
    type Write = u32;
    type Speech = u32;
    type Snapshot = u32;

    fn handle(&mut self, _: Micros, event: &u32, out: &mut Effects<u32, u32>) {
        self.0 += event;
        out.writes.push(self.0);
        out.speech.push(self.0);
    }

    fn settle(&mut self, _: Micros, _: &mut Effects<u32, u32>) {}

    fn next_deadline(&self) -> Option<Micros> {
        None
    }

    fn reload(&mut self, _: Micros, snapshot: u32) {
        self.0 = snapshot;
    }
}

#[derive(Default)]
struct Cell {
    durable: u32,
    commits: u32,
    fail: Option<CommitError>,
    lost: bool,
}

impl Store<Counter> for Cell {
    async fn commit(&mut self, effects: &Effects<u32, u32>) -> Result<(), CommitError> {
        std::future::ready(()).await;
        self.commits += 1;
        if let Some(error) = self.fail.take() {
            return Err(error);
        }
        self.durable = effects.writes.last().copied().unwrap_or(self.durable);
        Ok(())
    }

    async fn load(&mut self) -> Result<u32, LoadError> {
        std::future::ready(()).await;
        if self.lost {
            Err(LoadError("gone".into()))
        } else {
            Ok(self.durable)
        }
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("these futures never wait"),
    }
}

#[test]
fn a_burst_is_one_commit_and_is_spoken_after_it() {
    let (mut core, mut cell, mut said) = (Counter::default(), Cell::default(), Vec::new());
    let turn = run(turn(&mut core, &mut cell, Micros(0), &[1, 2, 3], |s| {
        said.push(s)
    }));
    assert_eq!(turn, Ok(Turn::Spoken));
    assert_eq!((cell.commits, cell.durable, said), (1, 6, vec![1, 3, 6]));
}

#[test]
fn nothing_decided_commits_nothing() {
    let (mut core, mut cell) = (Counter::default(), Cell::default());
    let turn = run(turn(&mut core, &mut cell, Micros(0), &[], |_| {
        panic!("nothing to say")
    }));
    assert_eq!((turn, cell.commits), (Ok(Turn::Spoken), 0));
}

#[test]
fn after_a_failed_commit_nothing_is_spoken_and_the_core_is_what_is_durable() {
    let (mut core, mut cell) = (
        Counter(4),
        Cell {
            durable: 4,
            ..Cell::default()
        },
    );
    cell.fail = Some(CommitError::Failed("full".into()));
    let turn = run(turn(&mut core, &mut cell, Micros(0), &[1], |_| {
        panic!("spoke before the commit")
    }));
    assert_eq!(turn, Ok(Turn::NotCommitted("full".into())));
    assert_eq!(core.0, 4);
}

#[test]
fn a_failed_fsync_and_a_failed_load_end_the_process() {
    let (mut core, mut cell) = (Counter::default(), Cell::default());
    cell.fail = Some(CommitError::Fatal("fsync".into()));
    let ended = run(turn(&mut core, &mut cell, Micros(0), &[1], |_| {
        panic!("spoke")
    }));
    let said = ended.unwrap_err().to_string();
    assert_eq!(said, "the disk can no longer be trusted: fsync");
    cell.fail = Some(CommitError::Failed("full".into()));
    cell.lost = true;
    assert!(
        run(turn(&mut core, &mut cell, Micros(0), &[1], |_| panic!(
            "spoke"
        )))
        .is_err()
    );
}
