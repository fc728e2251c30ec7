//! The write-ahead log: room in it that is written already, and folding it into the file beside the commits.
//!
//! A file that grows makes every sync write its length too, which costs a commit a third of its time: [`reserve`] writes
//! the log's room once, before there is anything to wait for, and SQLite writes over it again and again.
//!
//! Folding copies thousands of pages and syncs twice. A thread of its own does that while bursts are committed on; what
//! they added meanwhile, a few pages, the writer folds itself between two turns. Only then SQLite begins the log anew:
//! it does so once nothing in it is left to fold. When nothing is asked for a while a shorter log is folded too: a call
//! that comes alone shall not wait for the same disk as the folding.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};

use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tracing::warn;

use super::OpenError;

/// Pages of the log before it is folded into the file: 16 MiB, so that pages that change with every burst are folded in
/// once for many.
const PAGES: u32 = 4000;
/// Pages that the writer folds itself: a millisecond or two.
const REST: u32 = 500;
/// Pages that are worth folding when nothing else is to be done: those of about ten runs.
const FEW: u32 = 250;
/// When folding did not get far enough, for a reader that holds on to what is old, so many pages later it is tried again.
const AGAIN: u32 = PAGES / 4;
/// Pages at which commits wait for it: a disk that folds more slowly than commits come must not fill up.
const MOST: u32 = 4 * PAGES;
/// Bytes of the log that are written before they are needed: what it grows to before it is begun anew, and while it is
/// folded. Pages have 4 KiB and a head of 24 bytes.
const ROOM: u64 = 32 + (PAGES + PAGES / 4) as u64 * (4096 + 24);
/// Bytes written at once: as much as the kernel keeps together, and then marks as changed together.
const BLOCK: usize = 4096;

const FOLD: &str = "PRAGMA wal_checkpoint(PASSIVE)";

thread_local! {
    /// Pages in the log after this thread's last commit: SQLite tells whoever commits, and nobody else.
    static TOLD: Cell<u32> = const { Cell::new(0) };
}

fn told(_: &Wal, pages: i32) -> rusqlite::Result<()> {
    TOLD.set(u32::try_from(pages).unwrap_or(0));
    Ok(())
}

/// How far the log of one database is, and who folds it.
#[derive(Debug)]
pub(super) struct Folding {
    path: PathBuf,
    /// In the log after the last commit.
    pages: u32,
    /// Folding begins at so many.
    next: u32,
    /// Of them in the file, after the last pass.
    folded: u32,
    /// In the log when it was last folded, as far as that went.
    tried: u32,
    beside: Option<JoinHandle<rusqlite::Result<u32>>>,
    first: u32,
}

impl Folding {
    /// Of the database that this connection writes; SQLite itself folds nothing from now on, but at the end.
    pub(super) fn of(connection: &Connection, path: &Path) -> Self {
        connection.wal_hook(Some(told));
        Self {
            path: path.to_owned(),
            pages: 0,
            next: PAGES,
            folded: 0,
            tried: 0,
            beside: None,
            first: PAGES,
        }
    }

    /// To be called after each commit, on its thread.
    pub(super) fn committed(&mut self) {
        let pages = TOLD.get();
        if pages < self.pages {
            (self.next, self.folded, self.tried) = (self.first, 0, 0);
        }
        self.pages = pages;
    }

    /// Whether commits must wait until more is folded.
    pub(super) fn is_behind(&self) -> bool {
        self.pages >= self.first.saturating_mul(MOST / PAGES)
    }

    /// Whether there is something to do when nothing else is.
    pub(super) fn is_wanted(&self) -> bool {
        self.beside.is_some() || self.pages.saturating_sub(self.tried) >= FEW
    }

    /// Folds if it is time to: begins beside, or ends what was begun. `idle`: nothing else is to be done, so that it is
    /// time if it is [wanted](Self::is_wanted). Returns at once unless it is [behind](Self::is_behind).
    ///
    /// # Errors
    /// SQLite's. After a failed sync the file can no longer be trusted; all else is tried again later.
    pub(super) fn step(&mut self, connection: &Connection, idle: bool) -> rusqlite::Result<()> {
        let done = self.advance(connection, idle);
        if done.is_err() {
            self.next = self.pages.saturating_add(AGAIN);
        }
        done
    }

    fn advance(&mut self, connection: &Connection, idle: bool) -> rusqlite::Result<()> {
        let Some(beside) = self.beside.take() else {
            if self.pages >= self.next || (idle && self.is_wanted()) {
                self.begin();
            }
            return Ok(());
        };
        if !beside.is_finished() && !self.is_behind() {
            self.beside = Some(beside);
            return Ok(());
        }
        self.tried = self.pages;
        let (before, folded) = (self.folded, joined(beside)?);
        self.folded = folded;
        let rest = self.pages.saturating_sub(folded);
        if rest > REST && folded > before && !self.is_behind() {
            self.begin();
            return Ok(());
        }
        self.next = self.pages.saturating_add(AGAIN);
        self.folded = fold(connection)?;
        Ok(())
    }

    fn begin(&mut self) {
        let path = self.path.clone();
        let beside = Builder::new().name("fold".to_owned());
        self.begun(beside.spawn(move || fold(&open(&path)?)));
    }

    fn begun(&mut self, beside: io::Result<JoinHandle<rusqlite::Result<u32>>>) {
        match beside {
            Ok(beside) => self.beside = Some(beside),
            Err(error) => {
                self.next = self.pages.saturating_add(AGAIN);
                // Nor because nothing else is to be done: not before there is more of it.
                self.tried = self.pages;
                warn!(%error, "no thread to fold the database's log; trying again later");
            }
        }
    }

    /// Folding begins at so many pages.
    #[cfg(test)]
    pub(super) fn begins_at(&mut self, pages: u32) {
        (self.first, self.next) = (pages, pages);
    }

    /// As if what was begun beside had ended with this code of SQLite's.
    #[cfg(test)]
    pub(super) fn fails(&mut self, code: i32) {
        let failed = move || {
            Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(code),
                None,
            ))
        };
        self.beside = Some(std::thread::spawn(failed));
    }

    /// Waits for what was begun.
    ///
    /// # Errors
    /// As of [`Self::step`].
    pub(super) fn end(mut self) -> rusqlite::Result<()> {
        self.beside.take().map_or(Ok(0), joined).map(|_| ())
    }
}

fn joined(beside: JoinHandle<rusqlite::Result<u32>>) -> rusqlite::Result<u32> {
    // A thread that panicked has folded nothing.
    beside.join().unwrap_or(Ok(0))
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Folds what is not needed by a reader; waits for nobody. Answers how many pages of the log are in the file.
fn fold(connection: &Connection) -> rusqlite::Result<u32> {
    let folded: i64 = connection.query_row(FOLD, [], |row| row.get(2))?;
    Ok(u32::try_from(folded).unwrap_or(0))
}

/// Writes the room of the log that is not written yet, with nothing that SQLite would take for a page, and waits until
/// it is on the disk. Nothing is changed when that fails: then every commit takes longer until the log has grown.
///
/// # Errors
/// [`OpenError`]
pub(super) fn reserve(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let refused = |error: rusqlite::Error| OpenError::sqlite(path, error);
    // Nobody adds to the log meanwhile.
    let alone = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(refused)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    fill(&log).map_err(|error| OpenError::Io { path: log, error })?;
    alone.rollback().map_err(refused)
}

fn fill(log: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(log)?;
    let length = file.metadata()?.len();
    let mut at = length;
    while at < ROOM {
        let block = usize::try_from(ROOM - at).map_or(BLOCK, |left| left.min(BLOCK));
        if let Err(error) = file.write_all_at(&[0; BLOCK][..block], at) {
            file.set_len(length)?;
            return Err(error);
        }
        at += block as u64;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    const ROW: &str = "INSERT INTO t VALUES (?1, randomblob(3000))";

    fn database(dir: &Path) -> (PathBuf, Connection) {
        let path = dir.join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER, b BLOB)")
            .unwrap();
        (path, connection)
    }

    fn log_of(path: &Path) -> PathBuf {
        path.with_extension("db-wal")
    }

    /// Adds a row; how long the log is then.
    fn add(connection: &Connection, folding: &mut Folding, n: u32) -> u32 {
        connection.execute(ROW, [n]).unwrap();
        folding.committed();
        folding.pages
    }

    #[test]
    fn the_log_is_folded_beside_and_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, connection) = database(dir.path());
        let mut folding = Folding::of(&connection, &path);
        (folding.first, folding.next) = (100, 100);
        let (until, mut longest, mut anew, mut n) =
            (Instant::now() + Duration::from_secs(60), 0, 0, 0);
        while anew < 3 {
            assert!(Instant::now() < until, "never begun anew; {longest} pages");
            let before = folding.pages;
            let pages = add(&connection, &mut folding, n);
            folding.step(&connection, false).unwrap();
            anew += u32::from(pages < before);
            longest = longest.max(pages);
            n += 1;
        }
        assert!((100..=500).contains(&longest), "{longest}");
        folding.end().unwrap();
        let rows: u32 = connection
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, n);
    }

    #[test]
    fn a_reader_of_old_things_delays_it_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, connection) = database(dir.path());
        let mut folding = Folding::of(&connection, &path);
        (folding.first, folding.next) = (50, 50);
        let reader = Connection::open(&path).unwrap();
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM t")
            .unwrap();
        for n in 0..400 {
            add(&connection, &mut folding, n);
            folding.step(&connection, false).unwrap();
        }
        assert!(folding.pages >= 400);
        reader.execute_batch("COMMIT").unwrap();
        let mut n = 400;
        while folding.pages >= 400 {
            assert!(n < 10_000, "{folding:?}");
            add(&connection, &mut folding, n);
            folding.step(&connection, false).unwrap();
            n += 1;
        }
    }

    #[test]
    fn a_short_log_is_folded_when_nothing_else_is_to_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let (path, connection) = database(dir.path());
        let mut folding = Folding::of(&connection, &path);
        let mut n = 0;
        while folding.pages < FEW {
            assert!(!folding.is_wanted(), "{folding:?}");
            add(&connection, &mut folding, n);
            n += 1;
        }
        folding.step(&connection, false).unwrap();
        assert!(folding.beside.is_none(), "not while there is work");
        let until = Instant::now() + Duration::from_secs(60);
        while folding.is_wanted() {
            assert!(Instant::now() < until, "{folding:?}");
            folding.step(&connection, true).unwrap();
        }
        let longest = folding.pages;
        assert!(add(&connection, &mut folding, n) < longest, "begun anew");
        assert!(!folding.is_wanted());
    }

    #[test]
    fn without_a_thread_it_is_not_tried_again_before_there_is_more() {
        let dir = tempfile::tempdir().unwrap();
        let (path, connection) = database(dir.path());
        let mut folding = Folding::of(&connection, &path);
        let mut n = 0;
        while !folding.is_wanted() {
            add(&connection, &mut folding, n);
            n += 1;
        }
        folding.begun(Err(io::ErrorKind::OutOfMemory.into()));
        assert!(!folding.is_wanted(), "{folding:?}");
        let until = folding.pages + FEW;
        while !folding.is_wanted() {
            assert!(folding.pages < until, "{folding:?}");
            add(&connection, &mut folding, n);
            n += 1;
        }
    }

    #[test]
    fn room_is_written_before_and_is_no_page() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut connection) = database(dir.path());
        // Some pages are there before: room goes behind them.
        connection.execute(ROW, [1]).unwrap();
        reserve(&mut connection, &path).unwrap();
        let length = || log_of(&path).metadata().unwrap().len();
        assert_eq!(length(), ROOM);
        connection.execute(ROW, [2]).unwrap();
        assert_eq!(length(), ROOM, "written into the room");
        // As after a crash: nothing was folded.
        let copy = dir.path().join("b.db");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(log_of(&path), log_of(&copy)).unwrap();
        let found: Vec<u32> = Connection::open(&copy)
            .unwrap()
            .prepare("SELECT n FROM t ORDER BY n")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(found, [1, 2]);
    }
}
