//! The chains of the sessions that go on: what the orchestrator computes of the same frames.
//!
//! Kept by the writer, to compare with receipts as they come, and by whoever checks a ledger later.

use std::collections::VecDeque;

use super::{HEAD_BYTES, Head, number, session_chain};

/// Sessions side by side. Two can be, when a certificate is renewed; an earlier connection's end is not recorded.
pub(super) const SESSIONS: usize = 8;
/// Heads that are remembered of one session, for receipts that are behind what was sent since. More than the orchestrator
/// lets come between two of them, several times.
const RECENT: usize = 8192;
/// A session carried over a segment's start: epoch, frames, bytes, head.
const CARRIED_BYTES: usize = 8 + 8 + 8 + HEAD_BYTES;

/// How far one session is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Session {
    pub(super) conn: u64,
    /// As the orchestrator numbered it; `None` while it had not answered.
    pub(super) epoch: Option<u64>,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) head: Head,
    /// Frames that were taken away before the first one here.
    pub(super) before: u64,
    /// The newest heads, the present one last.
    recent: VecDeque<Head>,
}

impl Session {
    fn frame(&mut self, frame: &[u8]) {
        self.head = session_chain(&self.head, frame);
        self.frames += 1;
        self.bytes += frame.len() as u64;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(self.head);
    }

    /// The head after so many frames, if that is remembered.
    pub(super) fn head_at(&self, frames: u64) -> Option<Head> {
        if frames == self.frames {
            return Some(self.head);
        }
        let behind = usize::try_from(self.frames.checked_sub(frames)?).ok()?;
        let at = self.recent.len().checked_sub(behind + 1)?;
        self.recent.get(at).copied()
    }

    /// What is remembered: how many frames, and the head then.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (u64, &Head)> {
        let first = self.frames - self.recent.len() as u64;
        (first + 1..).zip(&self.recent)
    }

    /// Nothing before this is asked for any more.
    fn forget_before(&mut self, frames: u64) {
        let behind = usize::try_from(self.frames.saturating_sub(frames)).unwrap_or(RECENT);
        while self.recent.len() > behind {
            self.recent.pop_front();
        }
    }

    /// As the payload of a record of kind `Carried`.
    pub(super) fn carried(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CARRIED_BYTES);
        bytes.extend_from_slice(&self.epoch.unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&self.frames.to_be_bytes());
        bytes.extend_from_slice(&self.bytes.to_be_bytes());
        bytes.extend_from_slice(&self.head);
        bytes
    }

    /// From such a payload.
    pub(super) fn from_carried(conn: u64, payload: &[u8]) -> Option<Self> {
        if payload.len() != CARRIED_BYTES {
            return None;
        }
        let field = |at: usize| number(&payload[at..at + 8]);
        let epoch = field(0);
        Some(Self {
            conn,
            epoch: (epoch > 0).then_some(epoch),
            frames: field(8),
            bytes: field(16),
            head: payload[24..].try_into().ok()?,
            before: field(8),
            recent: VecDeque::new(),
        })
    }
}

/// The sessions that go on, the one that began last at the end.
#[derive(Debug, Default)]
pub(super) struct Live(Vec<Session>);

impl Live {
    /// A frame was sent. Answers the session that made room for it, if one had to: it is over long since.
    pub(super) fn frame(&mut self, conn: u64, frame: &[u8]) -> Option<Session> {
        let (session, over) = self.on(conn);
        session.frame(frame);
        over
    }

    /// The orchestrator accepted the stream. Answers as [`Live::frame`].
    pub(super) fn accepted(&mut self, conn: u64, epoch: u64) -> Option<Session> {
        let (session, over) = self.on(conn);
        session.epoch = Some(epoch);
        over
    }

    pub(super) fn of(&self, conn: u64) -> Option<&Session> {
        self.0.iter().find(|session| session.conn == conn)
    }

    pub(super) fn all(&self) -> &[Session] {
        &self.0
    }

    /// Takes one in as it was carried over; whether there was room, which there is for all that a writer carries.
    pub(super) fn carry(&mut self, session: Session) -> bool {
        let room = self.0.len() < SESSIONS;
        if room {
            self.0.push(session);
        }
        room
    }

    /// A receipt was for so many frames: those before are not asked for again.
    pub(super) fn signed(&mut self, conn: u64, frames: u64) {
        if let Some(session) = self.0.iter_mut().find(|session| session.conn == conn) {
            session.forget_before(frames);
        }
    }

    /// Ends all.
    pub(super) fn take(&mut self) -> Vec<Session> {
        std::mem::take(&mut self.0)
    }

    /// The session on this connection; the oldest one makes room for it.
    fn on(&mut self, conn: u64) -> (&mut Session, Option<Session>) {
        let known = self.0.iter().position(|session| session.conn == conn);
        let mut over = None;
        let at = known.unwrap_or_else(|| {
            if self.0.len() == SESSIONS {
                over = Some(self.0.remove(0));
            }
            self.0.push(Session {
                conn,
                ..Session::default()
            });
            self.0.len() - 1
        });
        (&mut self.0[at], over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_remembered_until_they_are_signed_for() {
        let mut live = Live::default();
        let mut heads = vec![[0; 32]];
        for n in 0..10_u8 {
            live.frame(3, &[n]);
            heads.push(session_chain(&heads[usize::from(n)], &[n]));
        }
        let session = live.of(3).unwrap();
        for (n, head) in heads.iter().enumerate().skip(1) {
            assert_eq!(session.head_at(n as u64), Some(*head));
        }
        assert_eq!(session.head_at(11), None);
        let remembered: Vec<_> = session.remembered().map(|(n, head)| (n, *head)).collect();
        assert_eq!(remembered.first(), Some(&(1, heads[1])));
        assert_eq!(remembered.last(), Some(&(10, heads[10])));
        live.signed(3, 8);
        let session = live.of(3).unwrap();
        assert_eq!(session.head_at(8), None, "signed for");
        assert_eq!(session.head_at(9), Some(heads[9]));
        assert_eq!(session.head_at(10), Some(heads[10]));
        live.signed(3, 10);
        assert_eq!(live.of(3).unwrap().head_at(10), Some(heads[10]));
    }

    #[test]
    fn what_is_carried_over_is_read_back() {
        let mut live = Live::default();
        live.frame(3, b"one");
        live.accepted(3, 9);
        let session = live.of(3).unwrap();
        let read = Session::from_carried(3, &session.carried()).unwrap();
        assert_eq!(
            (read.epoch, read.frames, read.bytes, read.head, read.before),
            (Some(9), 1, 3, session.head, 1)
        );
        assert!(Session::from_carried(3, b"short").is_none());
    }
}
