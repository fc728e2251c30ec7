//! Reading `receipts.led`: what it holds, as far as it is as it was written, and which of it stays when it is written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::bounds::{RECEIPTS, RECEIPTS_BYTES, beyond};
use super::reader::Walk;
use super::signed::{NO_SERVER, Signed, Worth};
use super::{Head, Kind, LedgerError};

/// The file's name.
pub(super) const FILE: &str = "receipts.led";
/// Sessions of which one receipt is kept, of those that held and of those of which that could not be told: years of them,
/// for most agents.
pub(super) const SESSIONS: usize = 4096;
/// Receipts that did not hold of which the evidence is kept, the first ones.
pub(super) const BAD: usize = 64;
/// Bytes of what is kept, roughly: half of what is ever read of it, and that again for what comes until it is written anew.
const KEPT_BYTES: usize = 16 << 20;
/// What a receipt takes without certificates, at most.
const RECORD_BYTES: usize = 1024;
/// Bytes of the certificates of one server; those of one with more are not kept.
pub(super) const CHAIN_BYTES: usize = 16 << 10;

/// And how many.
const CERTIFICATES: usize = 16;

/// The certificates of one server.
pub(super) type Chain = Arc<Vec<Vec<u8>>>;

/// What the file holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// In the order in which they came.
    pub(super) receipts: Vec<Signed>,
    /// The newest segment that was begun, and the head it began with.
    pub(super) tip: Option<(u64, Head)>,
    /// Bytes of whole records, and the head behind them.
    pub(super) good: (u64, Head),
    /// The certificates in it, each chain once; a receipt names its server by its place.
    pub(super) servers: Vec<Chain>,
    /// Records that only a newer version knows.
    pub(super) newer: u64,
}

impl Held {
    /// Reads and checks the file; nothing is held when there is none.
    ///
    /// # Errors
    /// [`LedgerError`] when it is not as it was written, or larger than any that an agent writes.
    pub(super) fn read(dir: &Path, complete: bool) -> Result<Self, LedgerError> {
        let mut held = Self::default();
        held.fill(dir, complete).map(|()| held)
    }

    /// The same as far as it is as it was written, and what is wrong behind that.
    pub(super) fn as_far_as_good(dir: &Path) -> (Self, Result<(), LedgerError>) {
        let mut held = Self::default();
        let read = held.fill(dir, false);
        (held, read)
    }

    fn fill(&mut self, dir: &Path, complete: bool) -> Result<(), LedgerError> {
        let path = dir.join(FILE);
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let mut walk = Walk::file(path, 0, complete, RECEIPTS_BYTES)?;
        loop {
            let offset = walk.offset();
            let Some(entry) = walk.next_record()? else {
                break;
            };
            let taken = self.take(entry.kind, entry.wall_us, entry.conn, &entry.payload);
            if taken.is_none() {
                return Err(walk.damaged_at(offset, "a record that has no place in this file"));
            }
            if self.receipts.len() > RECEIPTS {
                return Err(beyond("receipts in it", RECEIPTS as u64, &dir.join(FILE)));
            }
            self.good = (walk.offset(), walk.head());
        }
        Ok(())
    }

    fn take(&mut self, kind: Kind, wall_us: u64, conn: u64, payload: &[u8]) -> Option<()> {
        match kind {
            Kind::Segment => {}
            Kind::Server => self.servers.push(Arc::new(decode_chain(payload)?)),
            Kind::Tip => {
                let (segment, head) = payload.split_first_chunk::<8>()?;
                self.tip = Some((u64::from_be_bytes(*segment), head.try_into().ok()?));
            }
            Kind::Receipt => self.push(Signed::from_plain(conn, wall_us, payload)?)?,
            Kind::Judged => self.push(Signed::from_judged(conn, wall_us, payload)?)?,
            Kind::Linked => self.push(Signed::from_linked(conn, wall_us, payload)?)?,
            Kind::Newer => self.newer += 1,
            Kind::Frame
            | Kind::Identity
            | Kind::Session
            | Kind::Opened
            | Kind::Cut
            | Kind::Carried
            | Kind::Pruned => return None,
        }
        Some(())
    }

    fn push(&mut self, (mut signed, server): (Signed, u32)) -> Option<()> {
        if server != NO_SERVER {
            signed.chain = Arc::clone(self.servers.get(server as usize)?);
        }
        self.receipts.push(signed);
        Some(())
    }

    /// Of each session the receipt that held and covers most, whatever came after it; the newest of each of which that could
    /// not be told; the first few that did not hold. Answers how many sessions of the first kind there was no room for.
    pub(super) fn keep(&mut self) -> usize {
        let all = std::mem::take(&mut self.receipts);
        let mut best: BTreeMap<_, (u64, usize)> = BTreeMap::new();
        let (mut untold, mut bad) = (BTreeMap::new(), Vec::new());
        for (at, signed) in all.iter().enumerate() {
            match signed.worth {
                Worth::Holds => {
                    let most = best.entry(signed.session()).or_insert((0, at));
                    if signed.frame_count >= most.0 {
                        *most = (signed.frame_count, at);
                    }
                }
                Worth::Untold => {
                    untold.insert(signed.session(), at);
                }
                Worth::Bad if bad.len() < BAD => bad.push(at),
                Worth::Bad => {}
            }
        }
        let holds = newest(best.into_values().map(|(_, at)| at));
        let mut room = Room::default();
        let mut kept = BTreeSet::new();
        // Those that hold first: the others are kept where these leave room.
        for at in holds.iter().copied().take(SESSIONS) {
            if room.takes(&all[at]) {
                kept.insert(at);
            }
        }
        let left_out = holds.len() - kept.len();
        let untold = newest(untold.into_values());
        for at in untold.into_iter().take(SESSIONS).chain(bad) {
            if room.takes(&all[at]) {
                kept.insert(at);
            }
        }
        self.receipts = kept.into_iter().map(|at| all[at].clone()).collect();
        left_out
    }

    /// How many of them did not hold when they came.
    pub(super) fn bad(&self) -> usize {
        let bad = |signed: &&Signed| signed.worth == Worth::Bad;
        self.receipts.iter().filter(bad).count()
    }
}

/// The last first.
fn newest(all: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut all: Vec<_> = all.collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all
}

/// What the file that is written anew may still take.
#[derive(Default)]
struct Room {
    used: usize,
    chains: BTreeSet<Chain>,
}

impl Room {
    fn takes(&mut self, signed: &Signed) -> bool {
        let mut bytes = RECORD_BYTES;
        if !self.chains.contains(&signed.chain) {
            bytes += signed.chain.iter().map(Vec::len).sum::<usize>();
        }
        if self.used + bytes > KEPT_BYTES {
            return false;
        }
        self.used += bytes;
        self.chains.insert(Arc::clone(&signed.chain));
        true
    }
}

/// All receipts beside the ledger in `dir`, each record checked; whether what they say is so, [`super::check`] says.
///
/// # Errors
/// [`LedgerError`] when the file cannot be read or is not as it was written.
pub fn signed(dir: &Path) -> Result<Vec<Signed>, LedgerError> {
    Held::read(dir, false).map(|held| held.receipts)
}

/// Whether a server's certificates are kept.
pub(super) fn is_kept(chain: &[Vec<u8>]) -> bool {
    let bytes: usize = chain.iter().map(Vec::len).sum();
    !chain.is_empty() && chain.len() <= CERTIFICATES && bytes <= CHAIN_BYTES
}

/// Each certificate with its length before it.
pub(super) fn encode_chain(chain: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for der in chain {
        let length = u32::try_from(der.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(der);
    }
    bytes
}

fn decode_chain(mut payload: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut chain = Vec::new();
    while !payload.is_empty() {
        let (length, rest) = payload.split_first_chunk::<4>()?;
        let (der, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        chain.push(der.to_vec());
        payload = rest;
        (chain.len() <= CERTIFICATES).then_some(())?;
    }
    Some(chain)
}
