//! What goes to link, in order, each not before its bytes are durable in the ledger and what they tell of in the journal.

use std::collections::VecDeque;
use std::io;

use outpost_agent_core::event::{Down, Event};
use outpost_agent_keeper::failpoint;
use outpost_proto::ids::Conn;

use super::durable::{Mark, Synced, Waits};
use super::link::{LinkHandle, LinkJob};

/// What may wait for the disk before nothing more is decided: more than any disk that works keeps waiting.
const WAITING: usize = 1024;

/// The way out of the runner.
pub(super) struct Outgoing {
    link: LinkHandle,
    waits: Waits,
    durable: Mark,
    waiting: VecDeque<(Mark, LinkJob)>,
    /// Connections that link is still to be told to end.
    hangups: Vec<Conn>,
}

impl Outgoing {
    pub(super) fn new(link: LinkHandle, waits: Waits) -> Self {
        Self {
            link,
            waits,
            durable: Mark::default(),
            waiting: VecDeque::new(),
            hangups: Vec::new(),
        }
    }

    /// Lines a job up behind everything said before it; it leaves once `mark` is durable.
    pub(super) fn push(&mut self, mark: Mark, job: LinkJob) {
        self.waiting.push_back((mark, job));
    }

    /// Waits for more to be durable. Safe to be dropped half way.
    ///
    /// # Errors
    /// A sync failed: the process must end.
    pub(super) async fn synced(&mut self) -> io::Result<Synced> {
        let synced = self.waits.next().await?;
        self.durable = synced.mark;
        Ok(synced)
    }

    /// Whether more may be decided.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    /// Whether nothing waits for the disk.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands over what may leave. What follows from a link that takes nothing goes into `events`.
    pub(super) fn flush(&mut self, events: &mut Vec<Event>) {
        self.hang_up();
        while let Some((_, job)) = self.waiting.pop_front_if(|(mark, _)| *mark <= self.durable) {
            match self.link.try_job(job) {
                Ok(()) => failpoint::reach("runner-sent"),
                Err(job) => self.not_taken(job, events),
            }
        }
        self.hang_up();
    }

    /// The process ends: waits until what was handed over has left, or cannot.
    pub(super) async fn end(mut self) {
        self.hang_up();
        self.link.end().await;
    }

    /// A connection whose link does not take what is for it is given up; a renewal is tried again later.
    fn not_taken(&mut self, job: LinkJob, events: &mut Vec<Event>) {
        match job {
            LinkJob::Dial(conn) | LinkJob::Frame(conn, _) => {
                tracing::warn!(%conn, "link does not take what is sent; the connection is given up");
                self.hangups.push(conn);
                events.push(Event::Closed {
                    conn,
                    why: Down::Unreachable,
                });
            }
            LinkJob::Hangup(conn) => self.hangups.push(conn),
            LinkJob::MakeCsr
            | LinkJob::Renew(..)
            | LinkJob::Prove(..)
            | LinkJob::Recover(..)
            | LinkJob::RecoverOn(..) => events.push(Event::NotRenewed),
            // Link's own side of the runner says these, never the loop.
            LinkJob::Tell(_) => {}
        }
    }

    /// Hangs up what is to be hung up, as far as link listens; the rest follows later.
    fn hang_up(&mut self) {
        let link = &self.link;
        self.hangups
            .retain(|conn| link.try_job(LinkJob::Hangup(*conn)).is_err());
    }
}
