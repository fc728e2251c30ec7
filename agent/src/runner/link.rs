//! The runner's side of link and dial: starts them, hands frames over, and turns what link says into events.
//!
//! Link is a process of its own; when it dies the runner makes a new socket pair and a new link, and every connection
//! that stood counts as closed. Nothing here decides when to connect, to renew or to recover: the core does.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use backon::BackoffBuilder as _;
use bytes::Bytes;
use outpost_agent_core::event::{Down, Event, Proof};
use outpost_agent_link::ipc::{
    ClosedReason, FromLink, LinkSocket, TlsProblem, ToLink, UnaryMethod,
};
use outpost_proto::ids::{Conn, Nonce};
use outpost_proto::limits;
use outpost_proto::wire;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Happened;
use super::certificate::Certificate;
use super::link_process::{LinkProcess, LinkSetup};
use super::recovery::{self, Answered};

/// Messages for link that wait for it to read. The most that is said at once, an inventory after a restore, fits; so a
/// full queue is a connection that stands still: the runner gives it up, and the next session's inventory says what was
/// not delivered.
const QUEUE: usize = 1024;
const _: () = assert!(
    (limits::HELD_ATTEMPTS + limits::REMEMBERED) / (4 * limits::INVENTORY_PAGE) + 64 < QUEUE,
    "the longest inventory, four pages to a frame, fits at once"
);
/// A link that lived this long did not fail at once: the next one is started without waiting.
const LIVED: Duration = Duration::from_secs(10);

/// How long link may take to read what it is told, or to close what it is told to close. One that does neither hangs,
/// and is replaced. More than it waits itself for a slow orchestrator.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long what was said last may take to leave when the process ends: more than link itself waits for an orchestrator to
/// have taken it.
const GOODBYE: Duration = Duration::from_secs(3);

/// What the runner asks of whichever link lives.
#[derive(Debug)]
pub(super) enum LinkJob {
    Dial(Conn),
    Frame(Conn, Bytes),
    Hangup(Conn),
    /// Make a key and a request for a certificate.
    MakeCsr,
    /// An encoded request for the next certificate.
    Renew(Conn, Bytes),
    /// Prove with this nonce, over this challenge, that the key of the certificate that ended is held.
    Prove(Nonce, Bytes),
    /// An encoded request for a certificate in place of the one that ended, on a connection that is to be made for it.
    Recover(Conn, Bytes),
    /// The same on the connection that was made for it.
    RecoverOn(Conn, Bytes),
    /// Exactly this: an answer to what link said.
    Tell(ToLink),
}

/// The runner's handle.
#[derive(Debug)]
pub(super) struct LinkHandle {
    jobs: mpsc::Sender<LinkJob>,
    supervisor: JoinHandle<()>,
}

impl LinkHandle {
    /// Starts the supervision of link. Its events go to `inbox`.
    /// `first`: a link that lives already.
    pub(super) fn start(
        setup: LinkSetup,
        first: Option<LinkProcess>,
        inbox: mpsc::Sender<Happened>,
    ) -> Self {
        let (jobs, receive) = mpsc::channel(QUEUE);
        let supervisor = Supervisor {
            setup: Rc::new(setup),
            inbox,
            jobs: receive,
            open: BTreeSet::new(),
            closing: BTreeMap::new(),
            stored: false,
            recovers: None,
            refusal: None,
        };
        let supervisor = tokio::task::spawn_local(supervisor.run(first));
        Self { jobs, supervisor }
    }

    /// Nothing more is asked: waits until what was asked has left, or cannot.
    pub(super) async fn end(self) {
        drop(self.jobs);
        if tokio::time::timeout(GOODBYE, self.supervisor)
            .await
            .is_err()
        {
            tracing::warn!("link does not end; what was said last may not have left");
        }
    }

    /// Hands a job over without waiting: the runner's loop must never wait for a process that may wait for it. A full
    /// queue means that link, or the network behind it, has not taken anything for a long time: the job comes back.
    pub(super) fn try_job(&self, job: LinkJob) -> Result<(), LinkJob> {
        self.jobs.try_send(job).map_err(|error| error.into_inner())
    }
}

/// What there is of one life of link.
struct LinkLife {
    socket: Rc<LinkSocket>,
    dial_end: OwnedFd,
    dialled: mpsc::Sender<(u64, String)>,
    dials: mpsc::Receiver<(u64, String)>,
    hears: mpsc::Receiver<Result<Option<FromLink>, String>>,
}

struct Supervisor {
    setup: Rc<LinkSetup>,
    inbox: mpsc::Sender<Happened>,
    jobs: mpsc::Receiver<LinkJob>,
    /// Connections that the core believes in.
    open: BTreeSet<u64>,
    /// Connections that link was, or is to be, told to close and has not yet said to be closed; since when.
    closing: BTreeMap<u64, Instant>,
    /// Link has just stored a newer certificate; it tells which one next.
    stored: bool,
    /// The newest connection that was made for a recovery.
    recovers: Option<u64>,
    /// Why there is no certificate in place of the one that ended.
    refusal: Option<String>,
}

impl Supervisor {
    async fn run(mut self, mut living: Option<LinkProcess>) {
        let delays = || {
            let builder = backon::ExponentialBuilder::default()
                .with_jitter()
                .without_max_times();
            builder
                .with_min_delay(Duration::from_millis(100))
                .with_max_delay(Duration::from_secs(10))
                .build()
        };
        let mut waits = delays();
        let mut first = None;
        loop {
            let began = Instant::now();
            let started = match living.take() {
                Some(link) => Ok(link),
                None => self.setup.start().await,
            };
            match started {
                Ok(link) => {
                    let why = self.serve(link, first).await;
                    if self.jobs.is_closed() {
                        return;
                    }
                    tracing::warn!(why, "link ended; starting a new one");
                }
                Err(error) => {
                    tracing::error!("link cannot be started: {error:#}");
                    self.open.extend(first.map(|conn| conn.0));
                }
            }
            self.all_closed().await;
            if began.elapsed() > LIVED {
                waits = delays();
            }
            if let Some(wait) = waits.next() {
                tokio::time::sleep(wait).await;
            }
            first = self.still_wanted();
            self.all_closed().await;
        }
    }

    /// One life of link; answers why it ended.
    async fn serve(&mut self, link: LinkProcess, first: Option<Conn>) -> String {
        let LinkProcess {
            socket,
            confinement: _,
            mut child,
            dial_end,
        } = link;
        let socket = Rc::new(socket);
        // Receiving has a task of its own: whoever sends to link must keep receiving from it.
        let (heard, hears) = mpsc::channel(64);
        let receiver = tokio::task::spawn_local(receive(Rc::clone(&socket), heard));
        let (dialled, dials) = mpsc::channel(16);
        let life = LinkLife {
            socket,
            dial_end,
            dialled,
            dials,
            hears,
        };
        let why = self.talk(life, first).await;
        receiver.abort();
        self.setup.living.link(None);
        // Its socket is gone, so it ends by itself; a link that does not is ended.
        if tokio::time::timeout(Duration::from_secs(2), child.wait())
            .await
            .is_err()
        {
            let _ = child.kill().await;
        }
        why
    }

    async fn talk(&mut self, mut life: LinkLife, first: Option<Conn>) -> String {
        let mut waiting = first.map(LinkJob::Dial);
        loop {
            let job = match waiting.take() {
                Some(job) => job,
                None => match self.next_job(&mut life).await {
                    Ok(Some(job)) => job,
                    Ok(None) => continue,
                    Err(why) => return why,
                },
            };
            let told = match job {
                LinkJob::Dial(conn) => match self.dial(&life, conn) {
                    Ok(()) => ToLink::Open { conn: conn.0 },
                    Err(why) => return why,
                },
                LinkJob::Frame(conn, bytes) => ToLink::Frame {
                    conn: conn.0,
                    bytes,
                },
                LinkJob::Hangup(conn) => {
                    if self.open.contains(&conn.0) {
                        self.closing.entry(conn.0).or_insert_with(Instant::now);
                    }
                    ToLink::Close { conn: conn.0 }
                }
                LinkJob::MakeCsr => ToLink::MakeCsr { conn: 0 },
                LinkJob::Renew(conn, bytes) => unary(conn, UnaryMethod::Renew, bytes),
                LinkJob::Prove(Nonce(session_nonce), challenge) => ToLink::Prove {
                    session_nonce,
                    challenge,
                },
                LinkJob::Recover(conn, bytes) => {
                    self.recovers = Some(conn.0);
                    if let Err(why) = self.dial(&life, conn) {
                        return why;
                    }
                    unary(conn, UnaryMethod::Recover, bytes)
                }
                LinkJob::RecoverOn(conn, bytes) => unary(conn, UnaryMethod::Recover, bytes),
                LinkJob::Tell(told) => told,
            };
            if let Err(why) = self.tell(&mut life, &told).await {
                return why;
            }
        }
    }

    fn dial(&mut self, life: &LinkLife, conn: Conn) -> Result<(), String> {
        self.open.insert(conn.0);
        let end = life.dial_end.try_clone();
        let end = end.map_err(|error| format!("no descriptors left: {error}"))?;
        let dialled = life.dialled.clone();
        let setup = Rc::clone(&self.setup);
        tokio::task::spawn_local(dial(setup, end, conn.0, dialled));
        Ok(())
    }

    /// What link is to be told next; `None` when something else happened.
    async fn next_job(&mut self, life: &mut LinkLife) -> Result<Option<LinkJob>, String> {
        let overdue = self.closing.values().min().map(|since| *since + PATIENCE);
        tokio::select! {
            biased;
            // First what link says: its end, or a connection's, makes the rest pointless.
            said = life.hears.recv() => Ok(self.heard(said).await?.map(LinkJob::Tell)),
            // Then dials that failed: link learns it from here only.
            Some((conn, why)) = life.dials.recv() => {
                tracing::warn!(conn, "cannot reach {}: {why}", self.setup.address);
                self.inbox.send(Happened::Trouble(why)).await.ok();
                Ok(Some(LinkJob::Hangup(Conn(conn))))
            }
            () = at(overdue) => Err("it does not close what it was told to close".to_owned()),
            job = self.jobs.recv() => match job {
                Some(job) => Ok(Some(job)),
                None => {
                    self.closes_all(life).await;
                    Err("the runner ends".to_owned())
                }
            },
        }
    }

    /// Nothing more is asked. Link says that a connection is closed once everything said on it before has left: its socket
    /// stands until then.
    async fn closes_all(&mut self, life: &mut LinkLife) {
        while !self.closing.is_empty() {
            let said = life.hears.recv().await;
            if self.heard(said).await.is_err() {
                return;
            }
        }
    }

    /// Takes note of one message; answers what link is to be told because of it.
    async fn heard(
        &mut self,
        said: Option<Result<Option<FromLink>, String>>,
    ) -> Result<Option<ToLink>, String> {
        match said {
            Some(Ok(Some(said))) => Ok(self.said(said).await),
            Some(Ok(None)) | None => Err("it closed its socket".to_owned()),
            Some(Err(error)) => Err(error),
        }
    }

    /// Tells link something, and goes on hearing it meanwhile: a link that waits to be heard reads nothing.
    async fn tell(&mut self, life: &mut LinkLife, told: &ToLink) -> Result<(), String> {
        let socket = Rc::clone(&life.socket);
        let sent = tokio::time::timeout(PATIENCE, socket.send(told));
        tokio::pin!(sent);
        // Told after this message; more than a few there cannot be, one per connection.
        let mut then = Vec::new();
        loop {
            tokio::select! {
                biased;
                sent = &mut sent => {
                    sent.map_err(|_| "it does not read what it is told".to_owned())?
                        .map_err(|error| error.to_string())?;
                    break;
                }
                said = life.hears.recv() => then.extend(self.heard(said).await?),
            }
        }
        for told in then {
            socket
                .send(&told)
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What was asked while no link lived. Only the newest connection is still wanted, if it is: it is answered, the
    /// others count as closed.
    fn still_wanted(&mut self) -> Option<Conn> {
        let mut wanted = None;
        while let Ok(job) = self.jobs.try_recv() {
            match job {
                LinkJob::Dial(conn) => {
                    self.open.insert(conn.0);
                    wanted = Some(conn);
                }
                LinkJob::Hangup(conn) => wanted = wanted.filter(|wanted| *wanted != conn),
                // Of a connection, or a renewal, that went with the link that held it.
                LinkJob::Frame(..)
                | LinkJob::MakeCsr
                | LinkJob::Renew(..)
                | LinkJob::Prove(..)
                | LinkJob::RecoverOn(..)
                | LinkJob::Tell(_) => {}
                // It counts as closed: the core asks again.
                LinkJob::Recover(conn, _) => drop(self.open.insert(conn.0)),
            }
        }
        if let Some(conn) = wanted {
            self.open.remove(&conn.0);
        }
        wanted
    }

    /// Answers what link is to be told because of it.
    async fn said(&mut self, said: FromLink) -> Option<ToLink> {
        let mut then = None;
        let happened = match said {
            // Said once, before anything was heard; whoever says it again is not believed.
            FromLink::Confined(_) => return None,
            // Of a connection that was not asked for nothing is believed, and nothing is kept.
            FromLink::Opened { conn }
            | FromLink::Frame { conn, .. }
            | FromLink::Server { conn, .. }
            | FromLink::Ends { conn, .. }
                if !self.open.contains(&conn) =>
            {
                return None;
            }
            FromLink::Opened { conn } => Happened::Core(Event::Opened { conn: Conn(conn) }),
            FromLink::Frame { conn, .. } if self.closing.contains_key(&conn) => return None,
            FromLink::Frame { conn, bytes } => match wire::decode_down(&bytes) {
                Ok(messages) => Happened::Core(Event::Frame {
                    conn: Conn(conn),
                    messages,
                }),
                Err(error) => {
                    tracing::error!(
                        conn,
                        "the orchestrator sent what this agent does not accept: {error}"
                    );
                    // Whatever link still says of it is nobody's any more.
                    self.open.remove(&conn);
                    self.closing.insert(conn, Instant::now());
                    then = Some(ToLink::Close { conn });
                    Happened::Core(Event::Closed {
                        conn: Conn(conn),
                        why: Down::Protocol,
                    })
                }
            },
            FromLink::Closed { conn, reason, text } => {
                tracing::info!(conn, "connection over: {reason}: {text}");
                let was_told = self.closing.remove(&conn).is_some();
                if !self.open.remove(&conn) {
                    return None;
                }
                // What link was told to close was closed for a reason that is known already.
                if !was_told {
                    let ended = reason == ClosedReason::Expired;
                    let trouble = match self.refusal.as_ref().filter(|_| ended) {
                        Some(refusal) => refusal.clone(),
                        None => format!("{reason}: {text}"),
                    };
                    self.inbox.send(Happened::Trouble(trouble)).await.ok();
                }
                Happened::Core(Event::Closed {
                    conn: Conn(conn),
                    why: down(reason),
                })
            }
            FromLink::Server { conn, chain } => Happened::Server {
                conn: Conn(conn),
                chain,
            },
            FromLink::Ends { conn, at_s } => Happened::Ends {
                conn: Conn(conn),
                at_s,
            },
            FromLink::Ready {
                certificate_since_s,
                certificate_not_after_s,
                spiffe_id,
            } => Happened::Certificate {
                certificate: Certificate::new(certificate_since_s, certificate_not_after_s),
                spiffe_id,
                renewed: std::mem::take(&mut self.stored),
            },
            FromLink::Csr { der } => Happened::Core(Event::Csr(der)),
            FromLink::Proof {
                certificate,
                csr,
                proof,
            } => Happened::Core(Event::Proof(Proof {
                certificate,
                csr,
                proof,
            })),
            FromLink::Reply {
                conn,
                ok,
                code,
                bytes,
                text,
            } => {
                let answered = if self.recovers == Some(conn) {
                    recovery::recovery(Conn(conn), (!ok).then_some(code), &bytes, &text)
                } else {
                    recovery::renewal(ok, &bytes, text)
                };
                match answered {
                    Answered::Store(store) => return Some(store),
                    Answered::Core(event) => Happened::Core(event),
                    Answered::Not(event, why) => {
                        tracing::warn!("no new certificate: {why}");
                        if self.recovers == Some(conn) {
                            self.refusal = Some(why.to_string());
                            let trouble = Happened::Trouble(why.to_string());
                            self.inbox.send(trouble).await.ok();
                        }
                        Happened::Core(event)
                    }
                }
            }
            FromLink::Stored { ok: true, .. } => {
                self.stored = true;
                self.refusal = None;
                self.recovers = None;
                return None;
            }
            FromLink::Stored { text, .. } => {
                tracing::error!("the new certificate is not used: {text}");
                if self.recovers.is_some() {
                    let why = format!(
                        "the certificate in place of the one that ended is not used: {text}; compare this host's clock \
                         (date -u) with the orchestrator's"
                    );
                    self.inbox.send(Happened::Trouble(why)).await.ok();
                }
                Happened::Core(Event::NotRenewed)
            }
        };
        self.inbox.send(happened).await.ok();
        then
    }

    async fn all_closed(&mut self) {
        self.closing.clear();
        self.stored = false;
        let not_renewed = Happened::Core(Event::NotRenewed);
        self.inbox.send(not_renewed).await.ok();
        for conn in std::mem::take(&mut self.open) {
            let closed = Event::Closed {
                conn: Conn(conn),
                why: Down::Unreachable,
            };
            self.inbox.send(Happened::Core(closed)).await.ok();
        }
    }
}

fn unary(conn: Conn, method: UnaryMethod, bytes: Bytes) -> ToLink {
    ToLink::Unary {
        conn: conn.0,
        method,
        bytes,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn receive(socket: Rc<LinkSocket>, heard: mpsc::Sender<Result<Option<FromLink>, String>>) {
    loop {
        let said = socket.recv().await.map_err(|error| error.to_string());
        let over = !matches!(said, Ok(Some(_)));
        if heard.send(said).await.is_err() || over {
            return;
        }
    }
}

async fn dial(setup: Rc<LinkSetup>, end: OwnedFd, conn: u64, dialled: mpsc::Sender<(u64, String)>) {
    if let Err(why) = setup.dial(&end, conn).await {
        dialled.send((conn, why)).await.ok();
    }
}

/// What the core does about it: try again soon, or seldom because a person has to act.
fn down(reason: ClosedReason) -> Down {
    match reason {
        ClosedReason::PeerClosed | ClosedReason::Timeout | ClosedReason::Local => Down::Unreachable,
        ClosedReason::Unavailable => Down::Ended,
        ClosedReason::Expired => Down::Expired,
        ClosedReason::Unauthenticated | ClosedReason::Refused | ClosedReason::Intercepted => {
            Down::Refused
        }
        ClosedReason::Tls(TlsProblem::Untrusted) => Down::Refused,
        ClosedReason::Tls(TlsProblem::Expired | TlsProblem::NotYetValid | TlsProblem::Other) => {
            Down::Unreachable
        }
        ClosedReason::Protocol => Down::Protocol,
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
