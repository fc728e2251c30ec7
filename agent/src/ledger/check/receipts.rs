//! What was signed for, with what is there: whose signature each receipt is, whether it is for this agent, and whether the
//! frames are here that it is for, of its own session and of those that it says came before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use outpost_certs::receipt::{Witness, WitnessError};

use super::super::bounds::{LINKS, beyond};
use super::super::damage::Damage;
use super::super::held::{Chain, FILE};
use super::super::live::Session;
use super::super::signed::{Named, Signed};
use super::super::trust::Trust;
use super::super::{Head, LedgerError};
use super::{Findings, Receipts};

/// What became of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// Nothing of its session was seen, or not enough.
    Not,
    /// These frames.
    Same,
    /// Others.
    Other,
}

/// Who signed, and for whom.
#[derive(Debug)]
struct Who {
    /// Serial number of the certificate of the server that signed; `None` when nobody knows who did.
    serial: Option<String>,
    named: Option<Named>,
}

/// Frames of a session that were signed for.
struct Asked {
    epoch: u64,
    frames: u64,
    head: Head,
    /// The segment that was written when it came.
    segment: u64,
    who: Rc<Who>,
    met: Met,
    /// The most frames that were seen of a session of that number, and the fewest that it began with.
    seen: Option<(u64, u64)>,
    /// Of one that a later session's receipt says: that receipt. Else its own.
    by: Option<usize>,
    /// Of a receipt whose session is here: which one was the first that began here, before it came to that.
    first_begun: Option<Option<u64>>,
}

/// The sessions that a receipt says it knows of: from the first one to before its own.
pub(super) type Counted = (u64, u64);

/// All receipts that could be the orchestrator's, by what they are for.
pub(super) struct Wanted {
    path: PathBuf,
    asked: Vec<Asked>,
    /// By session and frames.
    by_session: BTreeMap<u64, BTreeMap<u64, Vec<usize>>>,
    by_head: BTreeMap<Head, Vec<usize>>,
    counted: Vec<Counted>,
    /// Sessions before others that are asked for.
    links: usize,
}

impl Wanted {
    /// Those that are signed by nobody who counts, or for another agent, are findings and nothing else.
    ///
    /// # Errors
    /// [`LedgerError::Beyond`] when they name more sessions than those of any agent.
    pub(super) fn new(
        dir: &Path,
        receipts: Vec<Signed>,
        (trust, whose): (&Trust, Option<&Named>),
        findings: &mut Findings,
    ) -> Result<Self, LedgerError> {
        let mut wanted = Self {
            path: dir.join(FILE),
            asked: Vec::new(),
            by_session: BTreeMap::new(),
            by_head: BTreeMap::new(),
            counted: Vec::new(),
            links: 0,
        };
        let mut agents: BTreeSet<Named> = trust.agents().into_iter().collect();
        agents.extend(whose.cloned());
        let mut witnesses = BTreeMap::new();
        for signed in receipts {
            let (epoch, frames) = (signed.session_epoch, signed.frame_count);
            let said = format!("the receipt for {frames} frames of session {epoch}");
            let other = signed
                .named
                .as_ref()
                .filter(|named| !agents.contains(*named));
            if let Some(Named { tenant, agent }) = other.filter(|_| !agents.is_empty()) {
                let what = format!("{said} is for agent {agent} of tenant {tenant}");
                findings.add(Damage::ReceiptMismatch, what, wanted.path.clone());
                continue;
            }
            match judge_signature(&signed, &mut witnesses, trust) {
                Ok(serial) => {
                    if serial.is_none() {
                        let what = format!(
                            "{said}: the certificate of its signer, or the root for it, is not known here"
                        );
                        findings.add(Damage::ReceiptUnknown, what, wanted.path.clone());
                    }
                    wanted.ask(signed, serial)?;
                }
                Err(why) => {
                    let what = format!("{said}: {why}");
                    findings.add(Damage::ReceiptSignature, what, wanted.path.clone());
                }
            }
        }
        Ok(wanted)
    }

    fn ask(&mut self, signed: Signed, serial: Option<String>) -> Result<(), LedgerError> {
        let own = self.asked.len();
        let asked = Asked {
            epoch: signed.session_epoch,
            frames: signed.frame_count,
            head: signed.head,
            segment: signed.segment,
            who: Rc::new(Who {
                serial,
                named: signed.named,
            }),
            met: Met::Not,
            seen: None,
            by: None,
            first_begun: None,
        };
        let who = asked.who.clone();
        self.add(asked);
        let Some(past) = signed.past.filter(|_| who.serial.is_some()) else {
            return Ok(());
        };
        self.counted.push((past.since, signed.session_epoch));
        for end in past.before {
            let (epoch, frames) = (end.session_epoch.0, end.frame_count);
            // The same is said by each receipt of some sessions.
            let known = self.by_session.get(&epoch).and_then(|of| of.get(&frames));
            let is_known = |at: &usize| {
                let known = &self.asked[*at];
                known.head == end.head && known.who.serial.is_some()
            };
            if known.into_iter().flatten().any(is_known) {
                continue;
            }
            self.links += 1;
            if self.links > LINKS {
                let what = "sessions before others in its receipts";
                return Err(beyond(what, LINKS as u64, &self.path));
            }
            self.add(Asked {
                epoch,
                frames,
                head: end.head,
                segment: signed.segment,
                who: who.clone(),
                met: Met::Not,
                seen: None,
                by: Some(own),
                first_begun: None,
            });
        }
        Ok(())
    }

    fn add(&mut self, asked: Asked) {
        let at = self.asked.len();
        let session = self.by_session.entry(asked.epoch).or_default();
        session.entry(asked.frames).or_default().push(at);
        self.by_head.entry(asked.head).or_default().push(at);
        self.asked.push(asked);
    }

    /// Compares how far a session is with what was signed for; with `all` also how far it was. Answers the most frames that
    /// the orchestrator is known to have signed for, and by which receipt.
    pub(super) fn compare(&mut self, session: &Session, all: bool) -> Option<(u64, usize)> {
        let wanted = self.by_session.get(&session.epoch?)?;
        let mut found = Vec::new();
        if all {
            for (frames, head) in session.remembered() {
                let at = wanted.get(&frames).into_iter().flatten();
                found.extend(at.map(|at| (*at, *head)));
            }
        } else {
            let at = wanted.get(&session.frames).into_iter().flatten();
            found.extend(at.map(|at| (*at, session.head)));
        }
        let mut best = None;
        for (at, head) in found {
            let asked = &mut self.asked[at];
            if asked.head == head {
                asked.met = Met::Same;
                best = best.max(asked.proves(at));
            } else if asked.met == Met::Not {
                asked.met = Met::Other;
            }
        }
        best
    }

    /// Of a session whose number a crash took before it was on the disk: what was signed for shows that it is this one.
    pub(super) fn compare_unnumbered(&mut self, session: &Session) -> Option<(u64, usize)> {
        let mut best = None;
        for (frames, head) in session.remembered() {
            for at in self.by_head.get(head).into_iter().flatten() {
                let asked = &mut self.asked[*at];
                if asked.frames == frames {
                    asked.met = Met::Same;
                    best = best.max(asked.proves(*at));
                }
            }
        }
        best
    }

    /// A session of this number is here; the first that began here before it was this one, if one did.
    pub(super) fn is_here(&mut self, epoch: u64, first_begun: Option<u64>) {
        let wanted = self.by_session.get(&epoch);
        for at in wanted.into_iter().flat_map(BTreeMap::values).flatten() {
            self.asked[*at].first_begun.get_or_insert(first_begun);
        }
    }

    /// A session is over: how much of it was here.
    pub(super) fn seen(&mut self, session: &Session) {
        let wanted = session.epoch.and_then(|epoch| self.by_session.get(&epoch));
        for at in wanted.into_iter().flat_map(BTreeMap::values).flatten() {
            let seen = &mut self.asked[*at].seen;
            let (most, first) = seen.unwrap_or((0, u64::MAX));
            *seen = Some((most.max(session.frames), first.min(session.before)));
        }
    }

    /// Who signed, and for whom.
    pub(super) fn signer(&self, at: usize) -> (Option<String>, Option<String>) {
        let Who { serial, named } = &*self.asked[at].who;
        let named = named.as_ref();
        let named = named.map(|named| format!("{}/{}", named.tenant, named.agent));
        (serial.clone(), named)
    }

    /// Which sessions the orchestrator counted, as its receipts say, and of which something is signed.
    pub(super) fn counted(&self) -> (&[Counted], BTreeSet<u64>) {
        let signed = self.asked.iter().filter(|asked| asked.who.serial.is_some());
        (&self.counted, signed.map(|asked| asked.epoch).collect())
    }

    /// Counts those that hold; those that do not are findings. `pruned`: the newest segment that was taken away.
    pub(super) fn end(&self, pruned: u64, findings: &mut Findings) -> Receipts {
        let mut receipts = Receipts::default();
        let mut gone = BTreeSet::new();
        for asked in &self.asked {
            let place = self.place(asked, pruned);
            let (is_link, is_known) = (asked.by.is_some(), asked.who.serial.is_some());
            match place {
                Place::Not(kind, why) => findings.add(kind, why, self.path.clone()),
                Place::Here if is_link => receipts.before += 1,
                Place::Here | Place::Pruned if !is_known => receipts.unknown += 1,
                Place::Pruned if is_link && !gone.insert(asked.epoch) => {}
                Place::Here => {
                    receipts.hold += 1;
                    receipts.unnamed += u64::from(asked.who.named.is_none());
                }
                Place::Pruned if asked.who.named.is_none() => receipts.of_nobody += 1,
                Place::Pruned => {
                    gone.insert(asked.epoch);
                    receipts.of_pruned += 1;
                }
            }
        }
        receipts
    }

    fn place(&self, asked: &Asked, pruned: u64) -> Place {
        let (epoch, frames) = (asked.epoch, asked.frames);
        let said = match asked.by {
            None => format!("the orchestrator signed for {frames} frames of session {epoch}"),
            Some(by) => format!(
                "the orchestrator signed that before session {} came {frames} frames of session {epoch}",
                self.asked[by].epoch
            ),
        };
        let not = |kind, what: String| Place::Not(kind, format!("{said}, and {what}"));
        match (asked.met, asked.seen) {
            (Met::Same, _) => Place::Here,
            (Met::Not, _) if self.is_pruned(asked, pruned) => Place::Pruned,
            (Met::Other, _) => not(
                Damage::ReceiptMismatch,
                format!("they are others than the first {frames} here"),
            ),
            (Met::Not, Some((most, _))) => not(Damage::Truncated, format!("here are {most}")),
            (Met::Not, None) => not(Damage::Truncated, "here is none".to_owned()),
        }
    }

    /// Whether the frames can have gone with the segments that the agent took away: the oldest ones, and nothing behind
    /// anything that is here.
    fn is_pruned(&self, asked: &Asked, pruned: u64) -> bool {
        let began_later = asked.seen.is_some_and(|(_, first)| first > asked.frames);
        if pruned == 0 || began_later {
            return pruned > 0;
        }
        let Some(by) = asked.by.filter(|_| asked.seen.is_none()) else {
            return asked.segment <= pruned;
        };
        let by = &self.asked[by];
        match by.first_begun {
            Some(Some(first)) => asked.epoch < first,
            Some(None) => true,
            // Its number was lost; or it is gone itself, and what came before it with it.
            None => by.met == Met::Same || self.is_pruned(by, pruned),
        }
    }
}

/// Where the frames are that a receipt is for.
enum Place {
    Here,
    /// Gone with older segments.
    Pruned,
    /// They are not.
    Not(Damage, String),
}

impl Asked {
    fn proves(&self, at: usize) -> Option<(u64, usize)> {
        let serial = self.who.serial.as_ref();
        serial.map(|_| (self.frames, at))
    }
}

/// Whose signature it is: a serial number, or nobody's that is known.
fn judge_signature(
    signed: &Signed,
    witnesses: &mut BTreeMap<Chain, Result<Witness, WitnessError>>,
    trust: &Trust,
) -> Result<Option<String>, String> {
    let witness = witnesses
        .entry(signed.chain.clone())
        .or_insert_with(|| trust.witness(&signed.chain));
    match witness {
        Ok(witness) => match signed.is_by(witness) {
            Ok(()) => Ok(Some(witness.serial.to_string())),
            Err(why) => Err(why.to_string()),
        },
        Err(_) if signed.chain.is_empty() || trust.anchors.is_empty() => Ok(None),
        Err(why) => Err(why.to_string()),
    }
}
