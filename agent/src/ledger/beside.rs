//! `receipts.led` as it is written: what the orchestrator signed for, beside the segments and of the same form, so that it
//! outlives those that are taken away, and shows when one of them ends too early or is missing.
//!
//! Written by the ledger's one writer, and synced now and then only: a receipt that a power cut takes is followed by another
//! one that covers as much. It never stops the agent. What cannot be written or synced is not written past: the file is made
//! anew and put in the place of the old one, or, where that fails too, nothing is kept for a while; what is found damaged is
//! set aside. Each of these is told, once.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outpost_agent_keeper::process::boot_time_us;

use crate::ahead;
use crate::torn::UNSYNCED;

use super::held::{Chain, FILE, Held, encode_chain, is_kept};
use super::signed::{NO_SERVER, Signed};
use super::{HEAD_BYTES, HEADER_BYTES, Head, Kind, LedgerError, MAGIC, chain, io};

/// Where a file goes that is not as it was written.
pub(super) const DAMAGED: &str = "receipts.damaged";
/// Where one is made that takes the other's place.
const TEMP: &str = "receipts.tmp";
/// Bytes after which it is written anew.
const REWRITE_BYTES: u64 = 1024 * 1024;
/// Between two attempts to make it anew after one that failed, in microseconds.
const AGAIN_US: u64 = 60_000_000;

/// The file, or its want.
#[derive(Debug)]
pub(super) struct Beside {
    dir: PathBuf,
    open: Option<Open>,
    /// Without one: when it is tried again, in microseconds since the host's start.
    again_us: u64,
    /// The newest segment that was begun, and the head it began with.
    pub(super) tip: Option<(u64, Head)>,
    /// Receipts in it that did not hold.
    pub(super) bad: usize,
    /// What went wrong, for people.
    pub(super) told: Vec<String>,
}

/// The open file.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Bytes of these that are surely on the disk: of what is not, a power cut leaves any part.
    synced: u64,
    /// Bytes from which on it is written anew.
    rewrite_at: u64,
    head: Head,
    /// The certificates in it, each chain once; a receipt names its server by its place.
    servers: Vec<Chain>,
}

/// How a write failed.
#[derive(Debug)]
enum Failed {
    /// The disk is full; the file is as it was.
    Full(LedgerError),
    /// Nobody knows what the file holds.
    Broken(LedgerError),
}

impl Beside {
    /// Opens it, or begins it. A torn end is cut off, and a damaged file set aside.
    pub(super) fn open(dir: &Path) -> Self {
        let (held, read) = Held::as_far_as_good(dir);
        let mut beside = Self {
            dir: dir.to_owned(),
            open: None,
            again_us: 0,
            tip: held.tip,
            bad: held.bad(),
            told: Vec::new(),
        };
        if let Err(why) = read {
            beside.set_aside(&why);
        } else if held.good.0 > 0 {
            match Open::go_on(dir, &held) {
                Ok(open) => {
                    beside.open = Some(open);
                    return beside;
                }
                Err(why) => beside.tell("the file of receipts cannot be gone on with", &why),
            }
        }
        if let Err(why) = beside.anew(held) {
            beside.tell("receipts are not kept for now", &why);
        }
        beside
    }

    /// The first damaged file stays for whoever looks into it.
    fn set_aside(&mut self, why: &LedgerError) {
        let aside = self.dir.join(DAMAGED);
        if aside.symlink_metadata().is_err() {
            // Where even that fails, it is replaced by what could be read of it.
            drop(std::fs::rename(self.dir.join(FILE), aside));
        }
        self.tell("the file of receipts is not as it was written; it is set aside, and what could be read of it is kept", why);
    }

    fn tell(&mut self, what: &str, why: &LedgerError) {
        let cause = std::error::Error::source(why);
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        self.told.push(format!("{what}: {why}{cause}"));
    }

    /// Adds a receipt.
    pub(super) fn receipt(&mut self, receipt: &Signed) {
        self.mend();
        let written = self.open.as_mut().map(|open| open.receipt(receipt));
        self.after(written, |held| held.receipts.push(receipt.clone()));
        self.bad += usize::from(receipt.worth == super::signed::Worth::Bad);
        self.tidy();
    }

    /// A segment was begun, with this head.
    pub(super) fn tip(&mut self, segment: u64, head: &Head) {
        self.tip = Some((segment, *head));
        self.mend();
        let written = self.open.as_mut().map(|open| open.tip(segment, head));
        self.after(written, |_| ());
    }

    /// What follows from a write: after a failed one nothing more goes into that file. `add`: what was to be written.
    fn after(&mut self, written: Option<Result<(), Failed>>, add: impl FnOnce(&mut Held)) {
        match written {
            None | Some(Ok(())) => {}
            Some(Err(Failed::Full(why))) => self.tell("no room for a receipt", &why),
            Some(Err(Failed::Broken(why))) => {
                self.open = None;
                let (mut held, _) = Held::as_far_as_good(&self.dir);
                add(&mut held);
                match self.anew(held) {
                    Ok(()) => self.tell("the file of receipts was written anew", &why),
                    Err(again) => {
                        self.tell("the file of receipts cannot be written", &why);
                        self.tell("receipts are not kept for now", &again);
                    }
                }
            }
        }
    }

    /// Where there is no file, tries again now and then.
    fn mend(&mut self) {
        if self.open.is_some() || boot_time_us() < self.again_us {
            return;
        }
        let (held, _) = Held::as_far_as_good(&self.dir);
        // That it fails again was told before.
        if self.anew(held).is_ok() {
            self.told.push("receipts are kept again".to_owned());
        }
    }

    /// Writes it anew when it has grown.
    fn tidy(&mut self) {
        let grown = |open: &Open| open.bytes >= open.rewrite_at;
        if !self.open.as_ref().is_some_and(grown) {
            return;
        }
        let (held, read) = Held::as_far_as_good(&self.dir);
        if let Err(why) = read {
            self.set_aside(&why);
        }
        if let Err(why) = self.anew(held) {
            // The present one goes on, where there is one still; it is not tried again at each receipt.
            if let Some(open) = &mut self.open {
                open.rewrite_at = 2 * open.bytes;
            }
            self.tell("the file of receipts could not be written anew", &why);
        }
    }

    /// Puts a new file with what is to be kept of this in the place of the present one.
    fn anew(&mut self, mut held: Held) -> Result<(), LedgerError> {
        self.again_us = boot_time_us() + AGAIN_US;
        let left_out = held.keep();
        held.tip = self.tip;
        let open = Open::anew(&self.dir, &held)?;
        self.open = Some(open);
        self.bad = held.bad();
        if held.newer > 0 {
            self.told.push(format!(
                "{} records in the file of receipts are a newer version's: they are no longer kept",
                held.newer
            ));
        }
        if left_out > 0 {
            self.told.push(format!(
                "there is no room for the receipts of {left_out} sessions, the oldest ones: they are no longer kept"
            ));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn has_grown(&mut self) {
        if let Some(open) = &mut self.open {
            open.rewrite_at = 0;
        }
    }

    /// Puts something in the file's place that can be written and not synced, and has it synced at once.
    #[cfg(test)]
    pub(super) fn cannot_be_synced(&mut self, file: File) {
        if let Some(open) = &mut self.open {
            (open.file, open.synced) = (file, 0);
            open.bytes += UNSYNCED;
        }
    }
}

impl Open {
    /// The file as it is there.
    fn go_on(dir: &Path, held: &Held) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
        let mut file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(io("opening", &path))?;
        let cut = file.set_len(held.good.0);
        cut.and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(io("opening", &path))?;
        let (bytes, head) = held.good;
        Ok(Self {
            path,
            file,
            bytes,
            synced: 0,
            rewrite_at: REWRITE_BYTES.max(2 * bytes),
            head,
            servers: held.servers.clone(),
        })
    }

    fn anew(dir: &Path, held: &Held) -> Result<Self, LedgerError> {
        let (path, temp) = (dir.join(FILE), dir.join(TEMP));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temp)
            .map_err(io("making", &temp))?;
        let mut open = Self {
            path: temp.clone(),
            file,
            bytes: 0,
            synced: 0,
            rewrite_at: u64::MAX,
            head: Head::default(),
            servers: Vec::new(),
        };
        open.fill(held)
            .map_err(|(Failed::Full(why) | Failed::Broken(why))| why)?;
        std::fs::rename(&temp, &path).map_err(io("writing", &path))?;
        open.path = path;
        open.rewrite_at = REWRITE_BYTES.max(2 * open.bytes);
        Ok(open)
    }

    fn fill(&mut self, held: &Held) -> Result<(), Failed> {
        let start = [MAGIC.as_slice(), &[0; 8], &[0; HEAD_BYTES]].concat();
        self.write(Kind::Segment, 0, 0, &start)?;
        if let Some((segment, head)) = held.tip {
            self.tip(segment, &head)?;
        }
        for receipt in &held.receipts {
            self.receipt(receipt)?;
        }
        self.sync()
    }

    fn receipt(&mut self, receipt: &Signed) -> Result<(), Failed> {
        let server = self.server(&receipt.chain)?;
        let payload = receipt.payload(server);
        self.write(receipt.kind(), receipt.conn, receipt.wall_us, &payload)
    }

    /// The place of these certificates, which are added when they are new.
    fn server(&mut self, chain: &Chain) -> Result<u32, Failed> {
        if !is_kept(chain) {
            return Ok(NO_SERVER);
        }
        let known = self.servers.iter().rposition(|known| known == chain);
        let at = match known {
            Some(at) => at,
            None => {
                self.write(Kind::Server, 0, 0, &encode_chain(chain))?;
                self.servers.push(Arc::clone(chain));
                self.servers.len() - 1
            }
        };
        Ok(u32::try_from(at).unwrap_or(NO_SERVER))
    }

    fn tip(&mut self, segment: u64, head: &Head) -> Result<(), Failed> {
        let payload = [&segment.to_be_bytes()[..], head].concat();
        self.write(Kind::Tip, 0, 0, &payload)
    }

    fn write(&mut self, kind: Kind, conn: u64, wall_us: u64, payload: &[u8]) -> Result<(), Failed> {
        let mut record = Vec::with_capacity(HEADER_BYTES + payload.len() + HEAD_BYTES);
        super::writer::encode(&mut record, kind, (conn, wall_us), payload);
        let head = chain(&self.head, &record);
        record.extend_from_slice(&head);
        if let Err(error) = self.file.write_all(&record) {
            // Half a record would be taken for damage by whatever follows it.
            let undone = self.file.set_len(self.bytes);
            let undone = undone.and_then(|()| self.file.seek(SeekFrom::Start(self.bytes)));
            let is_full = ahead::is_full(&error) && undone.is_ok();
            let why = io("writing to", &self.path)(error);
            return Err(if is_full {
                Failed::Full(why)
            } else {
                Failed::Broken(why)
            });
        }
        self.bytes += record.len() as u64;
        self.head = head;
        if self.bytes - self.synced > UNSYNCED / 2 {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failed> {
        let synced = self.file.sync_data();
        synced.map_err(|error| Failed::Broken(io("syncing", &self.path)(error)))?;
        self.synced = self.bytes;
        Ok(())
    }
}
