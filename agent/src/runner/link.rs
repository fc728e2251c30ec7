//! The runner's side of link and dial: starts them, hands frames over, and turns what link says into events.
//!
//! Link is a process of its own; when it dies the runner makes a new socket pair and a new link, and every connection
//! that stood counts as closed. Nothing here decides when to connect: the core does.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use backon::BackoffBuilder as _;
use bytes::Bytes;
use outpost_agent_core::event::{Down, Event};
use outpost_agent_keeper::exec::{Leash, SelfExec, pass_fd};
use outpost_agent_link::ipc::{
    ClosedReason, FromLink, LinkSocket, TlsProblem, ToLink, socket_pair,
};
use outpost_proto::ids::Conn;
use outpost_proto::wire;
use tokio::sync::mpsc;

use super::Happened;

/// Messages for link that wait for it to read. Each is a burst's frame, so a full queue is a connection that stands
/// still: the runner gives it up, and the next session's inventory says what was not delivered.
const QUEUE: usize = 256;
/// A link that lived this long did not fail at once: the next one is started without waiting.
const LIVED: Duration = Duration::from_secs(10);

/// How link and dial are started.
#[derive(Debug)]
pub(crate) struct LinkSetup {
    pub(crate) exec: SelfExec,
    pub(crate) leash: Option<Leash>,
    pub(crate) key_dir: std::path::PathBuf,
    /// `host:port` of the orchestrator.
    pub(crate) address: String,
    /// URL of an HTTP CONNECT proxy.
    pub(crate) proxy: Option<String>,
    /// Pin of the orchestrator's root, at enrolment only.
    pub(crate) pin: Option<String>,
}

/// One life of a link process.
pub(crate) struct LinkProcess {
    pub(crate) socket: LinkSocket,
    pub(crate) child: tokio::process::Child,
    dial_end: OwnedFd,
}

impl LinkSetup {
    /// Starts link.
    pub(crate) fn start(&self) -> anyhow::Result<LinkProcess> {
        let (own, links) = socket_pair().context("making link's sockets")?;
        let (dials, links_dials) = socket_pair().context("making link's sockets")?;
        let host = self
            .address
            .rsplit_once(':')
            .map_or(self.address.as_str(), |(host, _)| host);

        let mut command = self.exec.command("link");
        clear_environment(&mut command);
        let ipc_fd = pass_fd(&mut command, links.as_fd())?;
        let dial_fd = pass_fd(&mut command, links_dials.as_fd())?;
        command.arg("--ipc-fd").arg(ipc_fd.to_string());
        command.arg("--dial-fd").arg(dial_fd.to_string());
        command.arg("--key-dir").arg(&self.key_dir);
        command
            .arg("--server-name")
            .arg(host.trim_matches(['[', ']']));
        if let Some(pin) = &self.pin {
            command.arg("--pin").arg(pin);
        }
        if let Some(leash) = &self.leash {
            leash.pass(&mut command)?;
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = tokio::process::Command::from(command)
            .spawn()
            .context("starting the link process")?;
        Ok(LinkProcess {
            socket: LinkSocket::new(own)?,
            child,
            dial_end: dials,
        })
    }

    /// Starts dial for a connection and waits until it is done; link has the descriptor then, if all went well.
    pub(crate) async fn dial(&self, dial_end: &OwnedFd, conn: u64) -> Result<(), String> {
        let command = self
            .dial_command(dial_end, conn)
            .map_err(|error| error.to_string())?;
        let output = tokio::process::Command::from(command).output().await;
        let output = output.map_err(|error| format!("dial could not be started: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .lines()
            .next_back()
            .unwrap_or("dial ended without a word");
        Err(outpost_agent_link::ipc::bounded_text(said))
    }

    fn dial_command(
        &self,
        dial_end: &OwnedFd,
        conn: u64,
    ) -> std::io::Result<std::process::Command> {
        let mut command = self.exec.command("dial");
        clear_environment(&mut command);
        let dial_fd = pass_fd(&mut command, dial_end.as_fd())?;
        command.arg("--dial-fd").arg(dial_fd.to_string());
        command
            .arg("--conn")
            .arg(conn.to_string())
            .arg("--address")
            .arg(&self.address);
        if let Some(proxy) = &self.proxy {
            // Not an argument: a proxy's URL can carry a password, and arguments can be read by everybody.
            command.env("OUTPOST_PROXY", proxy);
        }
        if let Some(leash) = &self.leash {
            leash.pass(&mut command)?;
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

impl LinkProcess {
    /// The end that dial inherits.
    pub(crate) fn dial_end(&self) -> std::io::Result<OwnedFd> {
        self.dial_end.try_clone()
    }
}

fn clear_environment(command: &mut std::process::Command) {
    command.env_clear();
    if let Some(filter) = std::env::var_os("OUTPOST_LOG") {
        command.env("OUTPOST_LOG", filter);
    }
}

/// What the runner asks of whichever link lives.
#[derive(Debug)]
pub(super) enum LinkJob {
    Dial(Conn),
    Frame(Conn, Bytes),
    Hangup(Conn),
}

/// The runner's handle.
#[derive(Debug, Clone)]
pub(super) struct LinkHandle {
    jobs: mpsc::Sender<LinkJob>,
}

impl LinkHandle {
    /// Starts the supervision of link. Its events go to `inbox`.
    pub(super) fn start(setup: LinkSetup, inbox: mpsc::Sender<Happened>) -> Self {
        let (jobs, receive) = mpsc::channel(QUEUE);
        let supervisor = Supervisor {
            setup: Rc::new(setup),
            inbox,
            jobs: receive,
            open: BTreeSet::new(),
        };
        tokio::task::spawn_local(supervisor.run());
        Self { jobs }
    }

    /// Hands a job over without waiting: the runner's loop must never wait for a process that may wait for it. A full
    /// queue means that link, or the network behind it, has not taken anything for a long time: the job comes back.
    pub(super) fn try_job(&self, job: LinkJob) -> Result<(), LinkJob> {
        self.jobs.try_send(job).map_err(|error| error.into_inner())
    }
}

struct Supervisor {
    setup: Rc<LinkSetup>,
    inbox: mpsc::Sender<Happened>,
    jobs: mpsc::Receiver<LinkJob>,
    /// Connections that the core believes in.
    open: BTreeSet<u64>,
}

impl Supervisor {
    async fn run(mut self) {
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
        loop {
            let began = tokio::time::Instant::now();
            match self.setup.start() {
                Ok(link) => {
                    let why = self.serve(link).await;
                    if self.jobs.is_closed() {
                        return;
                    }
                    tracing::warn!(why, "link ended; starting a new one");
                }
                Err(error) => tracing::error!("link cannot be started: {error:#}"),
            }
            self.all_closed().await;
            if began.elapsed() > LIVED {
                waits = delays();
            }
            if let Some(wait) = waits.next() {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// One life of link; answers why it ended.
    async fn serve(&mut self, mut link: LinkProcess) -> String {
        let socket = Rc::new(link.socket);
        let (dialled, mut dials) = mpsc::channel::<(u64, String)>(16);
        // Receiving has a task of its own: whoever sends to link must keep receiving from it.
        let (heard, mut hears) = mpsc::channel::<Result<Option<FromLink>, String>>(64);
        let receiver = tokio::task::spawn_local(receive(Rc::clone(&socket), heard));
        let why = loop {
            let job = tokio::select! {
                biased;
                // First what link says: its end, or a connection's, makes the rest pointless.
                said = hears.recv() => match said {
                    Some(Ok(Some(said))) => {
                        self.said(said).await;
                        continue;
                    }
                    Some(Ok(None)) | None => break "it closed its socket".to_owned(),
                    Some(Err(error)) => break error,
                },
                // Then dials that failed: link learns it from here only.
                Some((conn, why)) = dials.recv() => {
                    tracing::warn!(conn, "cannot reach {}: {why}", self.setup.address);
                    self.inbox.send(Happened::Trouble(why)).await.ok();
                    ToLink::Close { conn }
                }
                job = self.jobs.recv() => match job {
                    Some(LinkJob::Dial(conn)) => {
                        self.open.insert(conn.0);
                        match link.dial_end.try_clone() {
                            Ok(end) => {
                                tokio::task::spawn_local(dial(Rc::clone(&self.setup), end, conn.0, dialled.clone()));
                            }
                            Err(error) => break format!("no descriptors left: {error}"),
                        }
                        ToLink::Open { conn: conn.0 }
                    }
                    Some(LinkJob::Frame(conn, bytes)) => ToLink::Frame { conn: conn.0, bytes },
                    Some(LinkJob::Hangup(conn)) => ToLink::Close { conn: conn.0 },
                    None => break "the runner ends".to_owned(),
                },
            };
            if let Err(error) = socket.send(&job).await {
                break error.to_string();
            }
        };
        receiver.abort();
        drop(socket);
        // Its socket is gone, so it ends by itself; a link that does not is ended.
        if tokio::time::timeout(Duration::from_secs(2), link.child.wait())
            .await
            .is_err()
        {
            let _ = link.child.kill().await;
        }
        why
    }

    async fn said(&mut self, said: FromLink) {
        let happened = match said {
            FromLink::Opened { conn } => Happened::Core(Event::Opened { conn: Conn(conn) }),
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
                    self.open.remove(&conn);
                    Happened::Core(Event::Closed {
                        conn: Conn(conn),
                        why: Down::Protocol,
                    })
                }
            },
            FromLink::Closed { conn, reason, text } => {
                tracing::info!(conn, "connection over: {reason}: {text}");
                if !self.open.remove(&conn) {
                    return;
                }
                self.inbox
                    .send(Happened::Trouble(format!("{reason}: {text}")))
                    .await
                    .ok();
                Happened::Core(Event::Closed {
                    conn: Conn(conn),
                    why: down(reason),
                })
            }
            FromLink::Ready {
                certificate_not_after_s,
                spiffe_id,
            } => Happened::Certificate {
                not_after_s: certificate_not_after_s,
                spiffe_id,
            },
            FromLink::Csr { .. } | FromLink::Reply { .. } | FromLink::Stored { .. } => return,
        };
        self.inbox.send(happened).await.ok();
    }

    async fn all_closed(&mut self) {
        for conn in std::mem::take(&mut self.open) {
            let closed = Event::Closed {
                conn: Conn(conn),
                why: Down::Unreachable,
            };
            self.inbox.send(Happened::Core(closed)).await.ok();
        }
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
