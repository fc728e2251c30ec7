//! One simulated agent: the real core, a real connection, and a journal and ledger that are only in memory. It has no
//! processes; what it is asked to run succeeds at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outpost_agent_core::event::{Catalog, Down, Event, KeeperSaid, Speech, Terms};
use outpost_agent_core::mirror::Mirror;
use outpost_agent_core::record::{Snapshot, Write};
use outpost_agent_core::{Agent, Settings};
use outpost_driver::{CommitError, Core as _, Effects, LoadError, Micros, Store, turn};
use outpost_proto::ids::{CatalogueVersion, Conn, Incarnation};
use outpost_proto::message::{Assign, Catalogue, Directive, DownMessage, OnDisconnect};
use outpost_proto::outcome::{Outcome, Refusal, Report};
use outpost_proto::wire;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::stream::{Connection, Outgoing, framed};

const CONNECT: &str = "/outpost.link.v1.Link/Connect";
/// Events that wait for a member.
const INBOX: usize = 64;
/// Attempts at once.
const SLOTS: u16 = 2;

/// What all members of one process share.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// Members with a session that is reconciled.
    pub(crate) reconciled: AtomicUsize,
    /// Where the clock of all members begins.
    pub(crate) begun: Instant,
}

/// Memory instead of a disk: what is measured here is the orchestrator.
#[derive(Default)]
struct Memory(Mirror);

impl Store<Agent> for Memory {
    async fn commit(&mut self, effects: &Effects<Write, Speech>) -> Result<(), CommitError> {
        effects.writes.iter().for_each(|write| self.0.apply(write));
        Ok(())
    }

    async fn load(&mut self) -> Result<Snapshot, LoadError> {
        Ok(self.0.snapshot())
    }
}

/// Runs everything, announces nothing: no work is placed in a swarm.
#[derive(Debug)]
struct Nothing;

impl Catalog for Nothing {
    fn announced(&self) -> Catalogue {
        Catalogue {
            version: CatalogueVersion(1),
            entries: Vec::new(),
        }
    }

    fn judge(&self, _assign: &Assign) -> Result<Terms, (Refusal, String)> {
        Ok(Terms {
            on_disconnect: OnDisconnect::Continue,
            max_parallel: None,
            max_per_hour: None,
        })
    }
}

struct Line {
    outgoing: Option<Outgoing>,
    reader: JoinHandle<()>,
}

/// What a line tells its member.
enum Heard {
    Ready(Conn, Outgoing),
    Event(Event),
}

/// One agent.
pub(crate) struct Member {
    number: u64,
    core: Agent,
    store: Memory,
    crowd: Arc<Crowd>,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    lines: BTreeMap<Conn, Line>,
    inbox: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    reconciled: Option<Conn>,
}

impl Member {
    pub(crate) fn new(
        number: u64,
        crowd: Arc<Crowd>,
        address: SocketAddr,
        tls: Arc<ClientConfig>,
    ) -> Self {
        let mut settings = Settings::new(Incarnation(number + 1), SLOTS);
        settings.schema_hash = wire::schema_hash();
        let mut seed = [0; 32];
        for (byte, part) in seed.iter_mut().zip(number.to_be_bytes()) {
            *byte = part;
        }
        let now = Micros(micros(crowd.begun.elapsed()));
        let core = Agent::new(settings, seed, now, Snapshot::default(), BTreeMap::new());
        let (inbox, heard) = mpsc::channel(INBOX);
        Self {
            number,
            core,
            store: Memory::default(),
            crowd,
            address,
            tls,
            lines: BTreeMap::new(),
            inbox,
            heard,
            reconciled: None,
        }
    }

    /// Until the process ends.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let mut events = vec![Event::Catalogue(Arc::new(Nothing))];
        loop {
            let mut speech = Vec::new();
            let now = self.now();
            // Memory never fails to commit.
            let _ = turn(&mut self.core, &mut self.store, now, &events, |said| {
                speech.push(said);
            })
            .await?;
            events.clear();
            for said in speech {
                events.extend(self.speak(said).await?);
            }
            if !events.is_empty() {
                continue;
            }
            let deadline = self.core.next_deadline();
            let sleep = deadline.map_or(Duration::from_secs(3600), |at| {
                Duration::from_micros(at.since(self.now()))
            });
            tokio::select! {
                heard = self.heard.recv() => match heard {
                    Some(heard) => events.extend(self.take(heard)),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn now(&self) -> Micros {
        Micros(micros(self.crowd.begun.elapsed()))
    }

    fn take(&mut self, heard: Heard) -> Option<Event> {
        match heard {
            Heard::Ready(conn, outgoing) => {
                let line = self.lines.get_mut(&conn)?;
                line.outgoing = Some(outgoing);
                Some(Event::Opened { conn })
            }
            Heard::Event(event) => {
                if let Event::Frame { conn, messages } = &event
                    && messages.iter().any(is_reconciled)
                {
                    self.count(Some(*conn));
                }
                if let Event::Closed { conn, .. } = &event {
                    self.lines.remove(conn);
                    if self.reconciled == Some(*conn) {
                        self.count(None);
                    }
                }
                Some(event)
            }
        }
    }

    fn count(&mut self, conn: Option<Conn>) {
        match (self.reconciled.is_some(), conn.is_some()) {
            (false, true) => self.crowd.reconciled.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.crowd.reconciled.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => 0,
        };
        self.reconciled = conn;
    }

    async fn speak(&mut self, speech: Speech) -> anyhow::Result<Vec<Event>> {
        match speech {
            Speech::Dial { conn } => {
                let dialled = line(
                    self.number,
                    conn,
                    self.address,
                    Arc::clone(&self.tls),
                    self.inbox.clone(),
                );
                let reader = tokio::spawn(dialled);
                let line = Line {
                    outgoing: None,
                    reader,
                };
                self.lines.insert(conn, line);
            }
            Speech::Send { conn, messages } => {
                let frame = wire::encode_up(&messages)?;
                if let Some(outgoing) = self
                    .lines
                    .get(&conn)
                    .and_then(|line| line.outgoing.as_ref())
                {
                    // A line that is gone says so itself.
                    let _ = outgoing.send(Ok(framed(&frame))).await;
                }
            }
            Speech::Hangup { conn } => {
                if let Some(line) = self.lines.remove(&conn) {
                    line.reader.abort();
                }
                if self.reconciled == Some(conn) {
                    self.count(None);
                }
            }
            Speech::MakeCsr => return Ok(vec![Event::Csr(Vec::new())]),
            Speech::Start { assign, .. } => {
                let attempt = assign.attempt;
                let report = Report {
                    outcome: Outcome::Succeeded,
                    may_have_started: true,
                    duration_ms: 1,
                    exit_code: None,
                    count: None,
                };
                return Ok(vec![
                    Event::Keeper {
                        attempt,
                        said: KeeperSaid::Running,
                    },
                    Event::Keeper {
                        attempt,
                        said: KeeperSaid::Finished(report),
                    },
                ]);
            }
            Speech::Renew { .. }
            | Speech::Prove { .. }
            | Speech::Recover { .. }
            | Speech::TakeBack { .. }
            | Speech::Cancel { .. }
            | Speech::InTouch
            | Speech::Discard { .. }
            | Speech::Refused { .. }
            | Speech::Alarm(_)
            | Speech::Done => {}
        }
        Ok(Vec::new())
    }
}

fn is_reconciled(message: &DownMessage) -> bool {
    matches!(
        message,
        DownMessage::Directive {
            directive: Directive::Reconciled,
            ..
        }
    )
}

/// One connection from its first packet to its end.
async fn line(
    number: u64,
    conn: Conn,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    inbox: mpsc::Sender<Heard>,
) {
    let why = match carry(number, conn, address, tls, &inbox).await {
        Ok(()) => Down::Ended,
        Err(_) => Down::Unreachable,
    };
    // A member that is gone needs no word.
    let _ = inbox.send(Heard::Event(Event::Closed { conn, why })).await;
}

async fn carry(
    number: u64,
    conn: Conn,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    inbox: &mpsc::Sender<Heard>,
) -> anyhow::Result<()> {
    let mut connection = Connection::establish(number, address, tls).await?;
    let (outgoing, mut incomings) = connection.open(CONNECT, None).await?;
    inbox.send(Heard::Ready(conn, outgoing)).await?;
    loop {
        let bytes = incomings.next().await?;
        let messages = wire::decode_down(&bytes)?;
        inbox
            .send(Heard::Event(Event::Frame { conn, messages }))
            .await?;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .saturating_add(1_000_000)
}
