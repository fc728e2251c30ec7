//! Checking a whole ledger, from its oldest record on: every record and its place, what the orchestrator signed for, and
//! whether what was taken away is shown to have been as it is said to have been.
//!
//! One record at a time; what is held besides is bounded by what is listed in `bounds`, whoever wrote the files.

mod epochs;
mod receipts;
mod taken;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bounds::{FINDINGS, LISTED};
use super::damage::{Damage, Weight};
use super::held::Held;
use super::live::{Live, Session};
use super::reader::{Entry, Reader};
use super::roots::Roots;
use super::signed::Named;
use super::trust::Trust;
use super::{Kind, LedgerError, hex, number, segment_path};
use epochs::Epochs;
use receipts::Wanted;
use taken::Taken;

/// One session as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SessionHead {
    /// As the orchestrator numbered it; `None` while it had not answered.
    pub session_epoch: Option<u64>,
    /// Frames sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 chain head over them, in hex.
    pub head: String,
    /// Of the frames, those that were taken away with older segments: they are counted, and no longer here.
    pub pruned_frames: u64,
    /// How many of the frames the orchestrator signed for, and no frame among them can be others than these.
    pub signed_frames: u64,
    /// Of these, those that are here.
    pub signed_here: u64,
    /// Serial number of the certificate of the server that signed.
    pub signed_by: Option<String>,
    /// The agent that was signed for, as `tenant/agent`; `None` when the receipt names none.
    pub signed_for: Option<String>,
}

/// What the orchestrator signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Receipts {
    /// That hold: signed by the orchestrator, for exactly these frames.
    pub hold: u64,
    /// Signed by the orchestrator for this agent, for frames that were taken away with older segments.
    pub of_pruned: u64,
    /// Of which it cannot be told who signed, because no certificate or no root is known.
    pub unknown: u64,
    /// Of those that hold, those that name no agent: an orchestrator of an earlier version signed them.
    pub unnamed: u64,
    /// What they say besides of sessions before theirs, each once, that holds.
    pub before: u64,
    /// For frames that were taken away, and without the name of an agent: they could be another's, and prove nothing.
    pub of_nobody: u64,
}

/// What was taken away, as the records that are left say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pruned {
    /// Segments that went because all were larger together than they may be.
    pub for_size: u64,
    /// Of these, those that went before their time.
    pub early: u64,
    /// The youngest of those when it went, in seconds after its last record.
    pub youngest_s: Option<u64>,
}

/// What a whole ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Records of all kinds.
    pub records: u64,
    /// Frames sent on streams.
    pub frames: u64,
    /// Their bytes.
    pub frame_bytes: u64,
    /// Of the frames, those that the orchestrator signed for.
    pub signed_frames: u64,
    /// Requests for certificates.
    pub identity_requests: u64,
    /// Bytes of those, as sent.
    pub identity_bytes: u64,
    /// Bytes at the end that are no whole record.
    pub torn_bytes: u64,
    /// The newest segment that was taken away; 0 when none was.
    pub pruned_segments: u64,
    /// What the records that are left say of that.
    pub pruned: Pruned,
    /// Each connection that sent frames, in order; of very many the newest ones.
    pub sessions: Vec<SessionHead>,
    /// Those before them that are not listed.
    pub sessions_left_out: u64,
    /// What the orchestrator signed for.
    pub receipts: Receipts,
    /// SHA-256 of each root under which a server's signature counts, in hex.
    pub roots: Vec<String>,
    /// Whether these were named by whoever checks; else they are those that the ledger brings along.
    pub roots_named: bool,
    /// Those that it brings along and that were not named: they count for nothing.
    pub roots_unnamed: Vec<String>,
    /// Head of the chain over everything, in hex.
    pub head: String,
}

/// Something that is not as it should be although every record is as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which kind.
    pub kind: Damage,
    /// In words.
    pub what: String,
    /// In which file.
    pub path: PathBuf,
}

/// Reads and checks everything.
///
/// # Errors
/// The first damage found, of a receipt too. What is not shown and not known to be wrong is none.
pub fn verify(dir: &Path) -> Result<Summary, LedgerError> {
    let (summary, findings) = check(dir, false, None)?;
    let wrong = |finding: &Finding| finding.kind.weight() > Weight::Unproven;
    match findings.into_iter().find(wrong) {
        Some(Finding { kind, what, path }) => Err(LedgerError::Damaged {
            kind,
            what,
            path,
            offset: 0,
        }),
        None => Ok(summary),
    }
}

/// Reads and checks everything. `copy`: nobody writes to it, so that an end that is torn is damage. `whose`: the agent that
/// receipts are to name, beside those whose enrolments are noted there.
///
/// # Errors
/// The first record that is not as it was written. What the orchestrator signed for and is not here is a finding.
pub fn check(
    dir: &Path,
    copy: bool,
    whose: Option<&Named>,
) -> Result<(Summary, Vec<Finding>), LedgerError> {
    let given = Given {
        whose,
        ..Given::default()
    };
    check_with(dir, copy, given)
}

/// What whoever checks knows from elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// The agent that receipts are to name, beside those whose enrolments are noted there.
    pub whose: Option<&'a Named>,
    /// Its SPIFFE id.
    pub spiffe_id: Option<&'a str>,
    /// The roots under which signatures count, and no others; without them those that the ledger brings along.
    pub roots: Option<&'a Roots>,
}

/// The same by the word of whoever checks.
///
/// # Errors
/// As [`check`].
pub fn check_with(
    dir: &Path,
    copy: bool,
    given: Given<'_>,
) -> Result<(Summary, Vec<Finding>), LedgerError> {
    // First: what is added meanwhile is in the segments, and the receipts that are known here are for less than that.
    let held = Held::read(dir, copy)?;
    let mut reader = if copy {
        Reader::open_copy(dir)?
    } else {
        Reader::open(dir)?
    };
    let mut checker = Checker::new(dir, held, given)?;
    while let Some(entry) = reader.next_entry()? {
        checker.entry(&entry, reader.at().0)?;
    }
    checker.summary.torn_bytes = reader.torn;
    checker.over();
    Ok(checker.end(reader.at().0))
}

/// What is not as it should be, the first ones of very many.
#[derive(Debug, Default)]
pub(super) struct Findings {
    all: Vec<Finding>,
    /// The heaviest of those that are not listed, where it is, and how many there are.
    others: Option<(Damage, PathBuf, u64)>,
}

impl Findings {
    pub(super) fn add(&mut self, kind: Damage, what: String, path: PathBuf) {
        let finding = Finding { kind, what, path };
        if self.all.last() == Some(&finding) {
            return;
        }
        if self.all.len() < FINDINGS {
            self.all.push(finding);
            return;
        }
        let (heaviest, path, count) = self.others.take().unwrap_or((kind, finding.path, 0));
        let kind = std::cmp::max_by_key(heaviest, kind, |kind| kind.weight());
        self.others = Some((kind, path, count + 1));
    }

    pub(super) fn into_all(mut self) -> Vec<Finding> {
        if let Some((kind, path, count)) = self.others {
            let what =
                format!("and {count} more things that are not listed, the worst of this kind");
            self.all.push(Finding { kind, what, path });
        }
        self.all
    }
}

/// Whose signature counts.
fn trusted(
    dir: &Path,
    (brought, given): (Trust, Given<'_>),
    summary: &mut Summary,
    findings: &mut Findings,
) -> Trust {
    let Some(roots) = given.roots else {
        summary.roots = brought.fingerprints();
        return brought;
    };
    let trust = roots.of(&brought, given.spiffe_id);
    summary.roots_named = true;
    summary.roots = trust.fingerprints();
    let is_named = |root: &String| roots.hashes().contains(root);
    summary.roots_unnamed = brought.fingerprints();
    summary.roots_unnamed.retain(|root| !is_named(root));
    if summary.roots.is_empty() {
        let what = "none of the roots that were named is among those that this ledger brings along: nothing in it is shown to be \
                    signed under them; give a root as a file where it brings none";
        findings.add(
            Damage::ReceiptUnknown,
            what.to_owned(),
            dir.join(super::trust::FILE),
        );
    }
    trust
}

struct Checker {
    dir: PathBuf,
    summary: Summary,
    findings: Findings,
    live: Live,
    wanted: Wanted,
    /// How many frames of a session that goes on were signed for, and by which receipt, by connection.
    proven: BTreeMap<u64, (u64, usize)>,
    sessions: VecDeque<SessionHead>,
    taken: Taken,
    epochs: Epochs,
    /// The newest segment that was begun, as is noted beside them.
    tip: Option<u64>,
    /// Whether records of sessions that go on may still come: directly behind a segment's start.
    begins: bool,
}

impl Checker {
    fn new(dir: &Path, held: Held, given: Given<'_>) -> Result<Self, LedgerError> {
        let brought = Trust::read(dir).map_err(|error| LedgerError::Damaged {
            kind: Damage::Tampered,
            what: error.to_string(),
            path: dir.join(super::trust::FILE),
            offset: 0,
        })?;
        let taken = Taken::new(dir)?;
        let mut findings = Findings::default();
        let mut summary = Summary {
            pruned_segments: taken.segment(),
            ..Summary::default()
        };
        let trust = trusted(dir, (brought, given), &mut summary, &mut findings);
        let aside = dir.join(super::beside::DAMAGED);
        if aside.symlink_metadata().is_ok() {
            let what = "receipts that were not as they were written, set aside by the agent";
            findings.add(Damage::Tampered, what.to_owned(), aside);
        }
        if held.newer > 0 {
            let what = format!(
                "{} records of a newer version of the agent: this one cannot judge them",
                held.newer
            );
            findings.add(Damage::ReceiptUnknown, what, dir.join(super::held::FILE));
        }
        let tip = held.tip.map(|(tip, _)| tip);
        Ok(Self {
            wanted: Wanted::new(dir, held.receipts, (&trust, given.whose), &mut findings)?,
            epochs: Epochs::new(taken.segment() > 0),
            dir: dir.to_owned(),
            summary,
            findings,
            live: Live::default(),
            proven: BTreeMap::new(),
            sessions: VecDeque::new(),
            taken,
            tip,
            begins: false,
        })
    }

    fn entry(&mut self, entry: &Entry, segment: u64) -> Result<(), LedgerError> {
        self.summary.records += 1;
        self.summary.head = hex(&entry.head);
        if entry.kind != Kind::Carried {
            self.begins = entry.kind == Kind::Segment;
        }
        match entry.kind {
            Kind::Frame => {
                self.summary.frames += 1;
                self.summary.frame_bytes += entry.payload.len() as u64;
                if self.live.of(entry.conn).is_none() {
                    self.epochs.begun();
                }
                let over = self.live.frame(entry.conn, &entry.payload);
                self.made_room(over);
                self.compare(entry.conn, false);
            }
            Kind::Session => {
                self.accepted(entry.conn, number(&entry.payload));
                let over = self.live.accepted(entry.conn, number(&entry.payload));
                self.made_room(over);
                self.compare(entry.conn, true);
            }
            Kind::Identity => {
                self.summary.identity_requests += 1;
                let call = super::IdentityCall::decode(&entry.payload);
                let sent = call.map(|call| u64::from(call.length));
                self.summary.identity_bytes += sent.unwrap_or(entry.payload.len() as u64);
            }
            Kind::Opened => self.over(),
            Kind::Carried => return self.carried(entry, segment),
            Kind::Pruned => {
                let known = self.taken.said(&entry.payload, &mut self.summary.pruned);
                let what = "a record of what was taken away that no agent writes";
                return known.ok_or_else(|| self.tampered(segment, what));
            }
            Kind::Segment
            | Kind::Receipt
            | Kind::Cut
            | Kind::Server
            | Kind::Tip
            | Kind::Judged
            | Kind::Linked
            | Kind::Newer => {}
        }
        Ok(())
    }

    /// A number for a session that said something: an empty one stands for none.
    fn accepted(&mut self, conn: u64, epoch: u64) {
        let session = self.live.of(conn);
        if let Some(session) = session.filter(|session| session.epoch.is_none()) {
            let first_begun = self.epochs.accepted(epoch, session.before == 0);
            self.wanted.is_here(epoch, first_begun);
        }
    }

    /// What a segment says of a session that goes on in it is what its frames say, as far as these are here: they are not
    /// only where this is the oldest segment left, and others were taken away before it.
    fn carried(&mut self, entry: &Entry, segment: u64) -> Result<(), LedgerError> {
        let carried = Session::from_carried(entry.conn, &entry.payload);
        let known = self.live.of(entry.conn);
        let is_first = self.taken.segment() > 0 && segment == self.taken.segment() + 1;
        match (carried, known) {
            (Some(carried), Some(known)) => {
                let fits = (carried.epoch, carried.frames, carried.bytes, carried.head)
                    == (known.epoch, known.frames, known.bytes, known.head);
                if fits && self.begins {
                    return Ok(());
                }
            }
            (Some(carried), None) if is_first && self.begins => {
                let (epoch, first_begun) = (carried.epoch, self.epochs.carried(&carried));
                if self.live.carry(carried) {
                    if let Some(epoch) = epoch {
                        self.wanted.is_here(epoch, first_begun);
                    }
                    self.compare(entry.conn, false);
                    return Ok(());
                }
            }
            (Some(_) | None, _) => {}
        }
        let what = "how far a session was when the segment began is not what its frames say";
        Err(self.tampered(segment, what))
    }

    fn tampered(&self, segment: u64, what: &str) -> LedgerError {
        LedgerError::Damaged {
            kind: Damage::Tampered,
            what: what.to_owned(),
            path: segment_path(&self.dir, segment),
            offset: 0,
        }
    }

    /// Compares how far a session is with what was signed for; with `all` also how far it was.
    fn compare(&mut self, conn: u64, all: bool) {
        let Some(session) = self.live.of(conn) else {
            return;
        };
        if let Some(best) = self.wanted.compare(session, all) {
            let proven = self.proven.entry(conn).or_insert(best);
            *proven = best.max(*proven);
        }
    }

    fn made_room(&mut self, over: Option<Session>) {
        if let Some(session) = over {
            self.ended(&session);
        }
    }

    /// The sessions of a process are over.
    fn over(&mut self) {
        for session in self.live.take() {
            self.ended(&session);
        }
    }

    fn ended(&mut self, session: &Session) {
        let mut proven = self.proven.remove(&session.conn);
        if session.epoch.is_none() {
            proven = proven.max(self.wanted.compare_unnumbered(session));
        }
        self.wanted.seen(session);
        let signed = proven.map_or(0, |(frames, _)| frames);
        self.taken.ended(session, signed);
        if session.frames == session.before {
            // Carried over, and silent since.
            return;
        }
        let signed_here = signed.saturating_sub(session.before);
        self.summary.signed_frames += signed_here;
        let by = proven.map(|(_, at)| self.wanted.signer(at));
        let (signed_by, signed_for) = by.unwrap_or_default();
        self.sessions.push_back(SessionHead {
            session_epoch: session.epoch,
            frames: session.frames,
            bytes: session.bytes,
            head: hex(&session.head),
            pruned_frames: session.before,
            signed_frames: signed,
            signed_here,
            signed_by,
            signed_for,
        });
        if self.sessions.len() > LISTED {
            self.sessions.pop_front();
            self.summary.sessions_left_out += 1;
        }
    }

    /// Judges what was signed for and what was taken away, once everything was read.
    fn end(mut self, last: u64) -> (Summary, Vec<Finding>) {
        if let Some(tip) = self.tip.filter(|tip| *tip > last) {
            let what = format!("segment {tip} was begun, and the newest one here is {last}");
            let path = segment_path(&self.dir, tip);
            self.findings.add(Damage::MissingSegment, what, path);
        }
        self.summary.receipts = self.wanted.end(self.taken.segment(), &mut self.findings);
        let path = self.dir.join(super::held::FILE);
        let counted = self.wanted.counted();
        self.epochs.end(counted, &path, &mut self.findings);
        let of_pruned = self.summary.receipts.of_pruned;
        self.taken
            .end(&self.dir, (last, of_pruned), &mut self.findings);
        self.summary.sessions = self.sessions.into();
        (self.summary, self.findings.into_all())
    }
}
