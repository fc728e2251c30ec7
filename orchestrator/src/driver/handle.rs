//! How the rest of the process reaches the core: questions with an answer, and what streams bring.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outpost_orchestrator_core::event::{Answer, Ask, Call, Denied, Event};
use outpost_proto::ids::{Conn, Nonce};
use outpost_proto::message::UpMessage;
use outpost_proto::name::{AgentName, TenantName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::Counters;
use super::clock::Clock;
use super::sessions::{Outbox, Place, Sessions, Welcomed};
use crate::metrics::Metrics;
use crate::store::notices::Hub;

/// How long a question waits for its answer: several slow commits.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a stream brings: it is handled again after a failed commit.
#[derive(Debug)]
pub(super) struct News {
    pub(super) event: Event,
    /// Of a frame: given back once it is handled.
    pub(super) place: Option<Place>,
}

/// A question: whoever asked is told to try again after a failed commit.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) event: Event,
    pub(super) call: Call,
    pub(super) reply: Reply,
}

pub(super) type Reply = oneshot::Sender<Result<Result<Answer, Denied>, Unavailable>>;

/// The transaction did not happen.
#[derive(Debug)]
pub(super) struct Unavailable;

/// Why a question was not answered with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The core says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The database did not take it, or the orchestrator is stopping. Nothing changed as far as is known; the same
    /// question may be asked again.
    #[error("the orchestrator cannot store anything at the moment; try again shortly")]
    Unavailable,
    /// More questions wait than are taken.
    #[error("too many requests wait for an answer; try again shortly")]
    Overloaded,
}

/// Reaches the driver. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) inbox: mpsc::Sender<News>,
    /// Beside the inbox: however much streams bring, questions are taken.
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) sessions: Sessions,
    pub(super) hub: Hub,
    pub(super) clock: Clock,
    pub(super) counters: Arc<Counters>,
    pub(super) metrics: Metrics,
    pub(super) numbers: Arc<AtomicU64>,
}

impl Handle {
    /// Asks about or changes a tenant's state. What was changed is durable when this answers.
    ///
    /// # Errors
    /// [`AskError`]
    pub async fn ask(&self, tenant: TenantName, ask: Ask) -> Result<Answer, AskError> {
        self.call(|call| Event::Asked { call, tenant, ask }).await
    }

    /// Presents an invitation; the answer names tenant and agent of the certificate to issue. Hashes are SHA-256 in
    /// hex.
    ///
    /// # Errors
    /// [`AskError`]
    pub async fn enrol(
        &self,
        token_hash: String,
        key_hash: String,
    ) -> Result<(TenantName, AgentName), AskError> {
        match self
            .call(|call| Event::Enrol {
                call,
                token_hash,
                key_hash,
            })
            .await?
        {
            Answer::Enrolled { tenant, agent } => Ok((tenant, agent)),
            Answer::Applied { .. }
            | Answer::Triggered { .. }
            | Answer::Cancelled { .. }
            | Answer::Explained(_)
            | Answer::Agents(_)
            | Answer::Invited { .. }
            | Answer::Deleted
            | Answer::Paused { .. }
            | Answer::Workflows(_)
            | Answer::Upcoming(_)
            | Answer::Rerun { .. }
            | Answer::Agent(_)
            | Answer::Renewed
            | Answer::Recovery(_)
            | Answer::AssertedDead { .. }
            | Answer::Removed => Err(AskError::Unavailable),
        }
    }

    /// Presents an agent's certificate and the key of its next one, both as SHA-256 in hex, and the stream of the
    /// connection on which it is asked. The next one may be issued when this answers.
    ///
    /// # Errors
    /// [`AskError`]
    pub async fn renew(
        &self,
        tenant: TenantName,
        agent: AgentName,
        key_hash: String,
        next_key: String,
        beside: Option<Conn>,
    ) -> Result<(), AskError> {
        let answer = self.call(|call| Event::Renew {
            call,
            tenant,
            agent,
            key_hash,
            next_key,
            beside,
        });
        answer.await.map(drop)
    }

    /// Presents what the holder of an ended certificate has proven. Another one may be issued when this answers.
    ///
    /// # Errors
    /// [`AskError`]
    pub async fn recover(
        &self,
        (tenant, agent): (TenantName, AgentName),
        (key_hash, next_key): (String, String),
        nonce: Nonce,
        (ended_ms_ago, not_after): (Option<u64>, u64),
    ) -> Result<(), AskError> {
        let answer = self.call(|call| Event::Recover {
            call,
            tenant,
            agent,
            key_hash,
            next_key,
            nonce,
            ended_ms_ago,
            not_after,
        });
        answer.await.map(drop)
    }

    /// A stream of this agent was accepted. `None` when the orchestrator is stopping.
    pub async fn opened(
        &self,
        (tenant, agent): (TenantName, AgentName),
        spiffe_id: String,
        key_hash: String,
        not_after: u64,
        welcomed: Welcomed,
    ) -> Option<(Conn, Outbox)> {
        let conn = Conn(self.numbers.fetch_add(1, Ordering::Relaxed));
        let mut outbox = None;
        // Entered once there is room for the event: whoever waits for that may be gone before, and then nothing ends it.
        self.link(None, || {
            outbox = Some(self.sessions.enter(conn, welcomed));
            Event::Opened {
                conn,
                tenant,
                agent,
                spiffe_id,
                key_hash,
                not_after,
            }
        })
        .await;
        Some((conn, outbox?))
    }

    /// One frame arrived on the stream of this outbox. Waits while the driver is busy, or has enough of this stream's to
    /// handle: the peer is slowed down, not the process. `false` when the orchestrator is stopping.
    pub async fn frame(&self, conn: Conn, outbox: &Outbox, messages: Vec<UpMessage>) -> bool {
        match outbox.place().await {
            Some(place) => {
                self.link(Some(place), || Event::Frame { conn, messages })
                    .await
            }
            None => false,
        }
    }

    /// A stream is gone.
    pub async fn closed(&self, conn: Conn) {
        self.sessions.leave(conn);
        if !self.link(None, || Event::Closed { conn }).await {
            self.sessions.forget(conn);
        }
    }

    /// Changes whenever something new about the tenant is committed; the notices themselves are in the database.
    #[must_use]
    pub fn watch(&self, tenant: &TenantName) -> watch::Receiver<u64> {
        self.hub.watch(tenant)
    }

    /// The clock that everything durable is told by: microseconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.now().0
    }

    /// What went wrong so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Numbers for whoever watches.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The streams open now.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Whether the driver takes questions.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.inbox.is_closed()
    }

    /// Waits for room first: an event is large, and a stream's task would carry the place for one as long as it lives.
    async fn link(&self, place: Option<Place>, event: impl FnOnce() -> Event) -> bool {
        match self.inbox.reserve().await {
            Ok(room) => {
                let event = event();
                room.send(News { event, place });
                true
            }
            Err(_) => false,
        }
    }

    async fn call(&self, event: impl FnOnce(Call) -> Event) -> Result<Answer, AskError> {
        let call = Call(self.numbers.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        let event = event(call);
        self.questions
            .try_send(Question { event, call, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AskError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => AskError::Unavailable,
            })?;
        match timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer?),
            Ok(Ok(Err(Unavailable)) | Err(_)) | Err(_) => Err(AskError::Unavailable),
        }
    }
}
