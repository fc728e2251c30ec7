//! Receipts as they come: judged against the frames that were sent, kept beside the chain, never in the way of either.
//!
//! Called by the runner's store. What a receipt is worth decides what it may displace: one that does not hold, or of which
//! that cannot be told, takes no place of one that does, and only so many of them are kept at all.

use std::sync::Arc;

use outpost_certs::receipt::Witness;
use outpost_proto::message::{Receipt, SessionEnd};

use super::damage::Damage;
use super::held::{BAD, Chain, is_kept};
use super::signed::{Came, Named, Signed, Worth};
use super::trust::Trust;
use super::writer::Ledger;

/// Connections whose servers' certificates are remembered: more than stand at once.
const SERVERS: usize = 4;

/// What a receipt is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// The orchestrator received exactly these frames.
    Holds {
        /// How many.
        frames: u64,
    },
    /// It may hold; from here it cannot be told why not.
    Unknown(String),
    /// It does not hold: one of both sides has other frames than the other, or somebody else signed.
    Alarm(Damage, String),
}

/// Something about the evidence itself that this site's people must hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Receipts could not be kept as they came.
    Receipts(String),
    /// A segment went before its time, because there are too many.
    Early(String),
}

impl Ledger {
    /// Whose receipts count from now on.
    pub fn trust(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// Which agent's this ledger is: receipts are to name it.
    pub fn is_of(&mut self, named: Option<Named>) {
        self.whose = named;
    }

    /// What the server of a connection presented, DER, leaf first: as link says. It counts for something only once a
    /// receipt through this connection was verified with it, up to a root that this site trusts.
    pub fn server(&mut self, conn: u64, chain: Vec<Vec<u8>>) {
        self.servers.insert(conn, Arc::new(chain));
        while self.servers.len() > SERVERS {
            self.servers.pop_first();
        }
    }

    /// What is to be told of since this was asked last.
    pub fn notices(&mut self) -> Vec<Notice> {
        let told = std::mem::take(&mut self.beside.told);
        let mut notices = std::mem::take(&mut self.early);
        notices.extend(told.into_iter().map(Notice::Receipts));
        notices
    }

    /// Judges a receipt, and keeps it beside the chain if it says more than what is kept, or is evidence against whoever
    /// signed it.
    pub fn receipt(&mut self, conn: u64, wall_us: u64, receipt: &Receipt) -> Judged {
        let chain = self.servers.get(&conn).cloned().unwrap_or_default();
        let came = Came {
            conn,
            wall_us,
            segment: self.number,
            opened_us: self.opened_us,
        };
        let mut signed = Signed::new(receipt, came, chain, self.whose.as_ref());
        let judged = self.judge(&signed);
        signed.worth = match judged {
            Judged::Holds { .. } => Worth::Holds,
            Judged::Unknown(_) => Worth::Untold,
            Judged::Alarm(..) => Worth::Bad,
        };
        if self.says_more(&signed) {
            self.beside.receipt(&signed);
        }
        if let Judged::Holds { frames } = judged {
            self.live.signed(conn, frames);
        }
        judged
    }

    /// Whether a receipt is worth its place.
    fn says_more(&mut self, signed: &Signed) -> bool {
        let best = self.best.get(&signed.conn).map_or(0, |(frames, _)| *frames);
        match signed.worth {
            Worth::Bad => self.beside.bad < BAD,
            Worth::Untold => signed.frame_count > best,
            Worth::Holds if signed.frame_count <= best => false,
            Worth::Holds => {
                let best = (signed.frame_count, signed.head);
                self.best.insert(signed.conn, best);
                while self.best.len() > SERVERS {
                    self.best.pop_first();
                }
                true
            }
        }
    }

    fn judge(&self, signed: &Signed) -> Judged {
        let signature = |why: String| Judged::Alarm(Damage::ReceiptSignature, why);
        let witness = match self.witness(&signed.chain) {
            Ok(witness) => witness,
            Err(judged) => return judged,
        };
        if let Err(why) = signed.is_by(&witness) {
            return signature(match &signed.named {
                Some(Named { tenant, agent }) => {
                    format!(
                        "it is not for agent {agent} of tenant {tenant}, or not so signed: {why}"
                    )
                }
                None => why.to_string(),
            });
        }
        self.compare(signed)
    }

    fn witness(&self, chain: &Chain) -> Result<Witness, Judged> {
        let signature = |why: String| Judged::Alarm(Damage::ReceiptSignature, why);
        if self.trust.anchors.is_empty() {
            let why = "whose signature counts is not known here";
            return Err(Judged::Unknown(why.to_owned()));
        }
        // Link says what a server presented before anything that came from it.
        if chain.is_empty() {
            let why = "the certificate of the server it came from was not told";
            return Err(Judged::Alarm(Damage::ReceiptUnknown, why.to_owned()));
        }
        if !is_kept(chain) {
            let why = "the server's certificates are more than are kept";
            return Err(signature(why.to_owned()));
        }
        let witness = self.trust.witness(chain);
        witness.map_err(|why| signature(why.to_string()))
    }

    /// What was signed for with what was sent.
    fn compare(&self, signed: &Signed) -> Judged {
        let (epoch, frames) = (signed.session_epoch, signed.frame_count);
        let mismatch = |why: String| Judged::Alarm(Damage::ReceiptMismatch, why);
        let session = self.live.of(signed.conn);
        let Some(session) = session.filter(|session| session.epoch == Some(epoch)) else {
            return mismatch(format!(
                "it is for session {epoch}, which is not this connection's"
            ));
        };
        if frames > session.frames {
            return mismatch(format!(
                "it is for {frames} frames of session {epoch}, and {} were sent",
                session.frames
            ));
        }
        // Heads before the newest that was signed for are forgotten, but for that one.
        let best = self.best.get(&signed.conn);
        let best = best.filter(|(known, _)| *known == frames);
        match session.head_at(frames).or(best.map(|(_, head)| *head)) {
            Some(head) if head == signed.head => match self.other_before(signed) {
                Some(why) => mismatch(why),
                None => Judged::Holds { frames },
            },
            Some(_) => mismatch(format!(
                "the first {frames} frames of session {epoch} are others there than here"
            )),
            None => Judged::Unknown(format!("it is too old: {frames} frames")),
        }
    }

    /// What a receipt says of an earlier session that is still remembered, where that is something else.
    fn other_before(&self, signed: &Signed) -> Option<String> {
        let before = signed.past.as_ref().map_or(&[][..], |past| &past.before);
        let is_other = |end: &&SessionEnd| {
            let epoch = Some(end.session_epoch.0);
            let known = self.live.all().iter().filter(|known| known.epoch == epoch);
            let mut heads = known
                .map(|known| (known.frames, known.head_at(end.frame_count)))
                .peekable();
            let fits = |(frames, head): (u64, Option<super::Head>)| {
                end.frame_count <= frames && head.is_none_or(|head| head == end.head)
            };
            heads.peek().is_some() && !heads.any(fits)
        };
        let end = before.iter().find(is_other)?;
        Some(format!(
            "it says that {} frames of session {} came before, and these are others than were sent",
            end.frame_count, end.session_epoch.0
        ))
    }

    /// Notes beside the chain that the present segment was begun: without it, that it is missing would not show.
    pub(super) fn mark_tip(&mut self, head: &super::Head) {
        if self.beside.tip.is_none_or(|(tip, _)| tip < self.number) {
            self.beside.tip(self.number, head);
        }
    }

    #[cfg(test)]
    pub(super) fn receipts_have_grown(&mut self) {
        self.beside.has_grown();
    }
}
