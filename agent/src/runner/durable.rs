//! Waiting for the disk beside the loop: a thread that syncs what the loop has written, and tells how far. A second one
//! helps it where two files are to be synced: both then take the time of one.
//!
//! The loop writes journal and ledger itself, in order, and goes on; what must not leave before it would survive a
//! power cut waits for its number. While one sync runs, everything written meanwhile collects for the next: one sync
//! per burst, whatever the rate. A sync that fails is the end of the process, because nothing can be said any more of
//! what the kernel holds.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as wakes;

/// Number of a write; everything up to a number is durable, or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Mark(u64);

/// Something to be synced.
struct Job {
    mark: Mark,
    files: Vec<Arc<File>>,
}

/// How far everything is durable, and how long the last sync took.
#[derive(Debug)]
pub(super) struct Synced {
    pub(super) mark: Mark,
    pub(super) took: Duration,
}

/// The side that writes.
#[derive(Debug)]
pub(super) struct Syncs {
    jobs: mpsc::Sender<Job>,
    last: Mark,
}

/// The side that waits.
#[derive(Debug)]
pub(super) struct Waits {
    done: wakes::UnboundedReceiver<io::Result<Synced>>,
}

/// Starts the thread. It ends with `Syncs`.
///
/// # Errors
/// When no thread can be had.
pub(super) fn start() -> io::Result<(Syncs, Waits)> {
    let (jobs, receive) = mpsc::channel();
    // Not bounded itself: an answer per job, and jobs are bounded by what the loop lets wait.
    let (tell, done) = wakes::unbounded_channel();
    let helper = Helper::start()?;
    std::thread::Builder::new()
        .name("outpost-sync".to_owned())
        .spawn(move || serve(receive, &helper, &tell))?;
    let syncs = Syncs {
        jobs,
        last: Mark::default(),
    };
    Ok((syncs, Waits { done }))
}

impl Syncs {
    /// Has what was written to these files synced; answers its mark.
    ///
    /// # Errors
    /// When the thread is gone, which it is only after a failed sync.
    pub(super) fn sync(&mut self, files: Vec<Arc<File>>) -> io::Result<Mark> {
        self.last.0 += 1;
        let mark = self.last;
        let gone = |_| io::Error::other("the thread that syncs is gone");
        self.jobs.send(Job { mark, files }).map_err(gone)?;
        Ok(mark)
    }
}

impl Waits {
    /// The next news.
    ///
    /// # Errors
    /// A sync failed: the process must end.
    pub(super) async fn next(&mut self) -> io::Result<Synced> {
        let gone = || Err(io::Error::other("the thread that syncs is gone"));
        self.done.recv().await.unwrap_or_else(gone)
    }
}

/// A thread that syncs one file at a time; it ends with this.
struct Helper {
    files: mpsc::Sender<Arc<File>>,
    done: mpsc::Receiver<io::Result<()>>,
}

impl Helper {
    fn start() -> io::Result<Self> {
        let (files, receive) = mpsc::channel::<Arc<File>>();
        let (tell, done) = mpsc::channel();
        std::thread::Builder::new()
            .name("outpost-sync-2".to_owned())
            .spawn(move || {
                while let Ok(file) = receive.recv()
                    && tell.send(file.sync_data()).is_ok()
                {}
            })?;
        Ok(Self { files, done })
    }

    /// Syncs all of them, the last one on the caller's thread.
    fn sync(&self, files: &[Arc<File>]) -> io::Result<()> {
        let gone = || io::Error::other("the thread that helps to sync is gone");
        let Some((own, others)) = files.split_last() else {
            return Ok(());
        };
        for file in others {
            let given = self.files.send(Arc::clone(file));
            given.map_err(|_| gone())?;
        }
        let mut synced = own.sync_data();
        for _ in others {
            let other = self.done.recv().map_err(|_| gone())?;
            synced = synced.and(other);
        }
        synced
    }
}

/// Whoever hears that it has ended finds nobody who takes more: `jobs` goes before `tell`.
fn serve(
    jobs: mpsc::Receiver<Job>,
    helper: &Helper,
    tell: &wakes::UnboundedSender<io::Result<Synced>>,
) {
    while let Ok(Job {
        mut mark,
        mut files,
    }) = jobs.recv()
    {
        for job in jobs.try_iter() {
            mark = job.mark;
            for file in job.files {
                if !files.iter().any(|known| Arc::ptr_eq(known, &file)) {
                    files.push(file);
                }
            }
        }
        let began = Instant::now();
        let synced = helper.sync(&files);
        let failed = synced.is_err();
        let said = synced.map(|()| Synced {
            mark,
            took: began.elapsed(),
        });
        if tell.send(said).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn marks_come_in_order_and_none_is_told_before_its_sync() {
        let (mut syncs, mut waits) = start().unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut last = Mark::default();
        for _ in 0..100 {
            last = syncs.sync(vec![Arc::clone(&file)]).unwrap();
        }
        let mut told = Mark::default();
        while told < last {
            let synced = waits.next().await.unwrap();
            assert!(synced.mark > told);
            told = synced.mark;
        }
        assert_eq!(told, last);
    }

    #[tokio::test]
    async fn a_failed_sync_is_told_and_nothing_is_synced_after_it() {
        let (mut syncs, mut waits) = start().unwrap();
        // A pipe cannot be synced.
        let (_read, write) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(write));
        syncs.sync(vec![Arc::new(pipe)]).unwrap();
        assert!(waits.next().await.is_err());
        assert!(waits.next().await.is_err());
        assert!(syncs.sync(Vec::new()).is_err());
    }
}
