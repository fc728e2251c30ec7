//! Link's event loop: what the runner says, descriptors from dial, and sessions that end.
//!
//! It owns the key directory and the routing of connection numbers; the bytes move in session tasks. Everything it
//! keeps is bounded, and when a bound is reached it stops reading from the runner.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outpost_failpoint as failpoint;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::closing::Closing;
use crate::identity::{self, Identity, IdentityError, KeyDir, KeyPlace};
use crate::ipc::{
    ClosedReason, Conn, FromLink, IpcError, RunnerSocket, ToLink, UnaryMethod, bounded_text,
    receive_descriptor,
};
use crate::key_log::KeyLog;
use crate::recover;
use crate::sandbox::Confinement;
use crate::session::{self, Call, Inlets, Setting};
use crate::tls::{self, Audit, TlsError};
use crate::{LinkArgs, Timeouts, fd};

/// Frames waiting for one connection: enough for a burst of events, little enough to notice a slow peer.
const FRAME_QUEUE: usize = 64;
/// Identity calls waiting for one connection; the runner makes one at a time.
const CALL_QUEUE: usize = 4;
/// Connections that are up or coming up: one stream, its successor, an identity call, and
/// some that are saying goodbye.
const MAX_CONNS: usize = 8;
/// Descriptors that came before their number was announced. More are dropped: the runner would dial again.
const MAX_UNCLAIMED: usize = 4;
/// Sessions, and answers that the runner has not taken yet. At this many link stops reading from the runner.
const MAX_TASKS: usize = 32;
/// After this long without a word from the runner nothing is going on: far more than a burst's pauses, less than the
/// time between heartbeats.
const QUIET_AFTER: Duration = Duration::from_secs(3);
/// And again, as long as nothing is said: the orchestrator's side may have said something.
const QUIET_AGAIN: Duration = Duration::from_secs(60);

/// Why link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the descriptor given by {flag} cannot be used")]
    Descriptor {
        flag: &'static str,
        source: std::io::Error,
    },
    #[error("the server name {0:?} is neither a DNS name nor an address")]
    ServerName(String),
    #[error("the identity cannot be used")]
    Identity(#[from] IdentityError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("a session's task failed; the runner starts link anew")]
    Session(#[from] tokio::task::JoinError),
    #[error("the runner cannot be heard")]
    Runner(#[from] IpcError),
}

/// Runs until the runner or the leash ends.
pub(crate) async fn run(
    args: LinkArgs,
    keys: Result<KeyPlace, IdentityError>,
    confinement: Confinement,
) -> Result<(), LinkError> {
    let leash = match args.leash_fd {
        Some(number) => Some(fd::inherited(number).map_err(descriptor("--leash-fd"))?),
        None => None,
    };
    let runner = fd::inherited(args.ipc_fd)
        .and_then(RunnerSocket::new)
        .map_err(descriptor("--ipc-fd"))?;
    // Before anything else can go wrong, and before anything is heard.
    runner.send(&FromLink::Confined(confinement)).await?;
    let mut link = Link::new(args, runner, KeyDir::enter(keys?)?)?;
    let leash = async {
        match leash {
            Some(leash) => fd::leash_end(leash).await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        // The leash's end must not wait for anything.
        ended = leash => {
            tracing::info!("the leash has ended");
            ended.map_err(descriptor("--leash-fd"))
        }
        ended = link.serve() => ended,
    }
}

fn descriptor(flag: &'static str) -> impl Fn(std::io::Error) -> LinkError {
    move |source| LinkError::Descriptor { flag, source }
}

/// The other ends of a session's [`Inlets`].
struct Outlets {
    frames: Option<mpsc::Sender<Bytes>>,
    calls: mpsc::Sender<Call>,
    close: oneshot::Sender<Closing>,
    /// Kept here until dial has delivered the descriptor.
    waiting: Option<Inlets>,
    /// Brought up to recover: presents nothing.
    recovers: bool,
}

struct Link {
    runner: Arc<RunnerSocket>,
    dial: Option<AsyncFd<OwnedFd>>,
    keys: KeyDir,
    audit: Audit,
    tls: Option<Arc<ClientConfig>>,
    pin: Option<[u8; 32]>,
    identity: Option<Identity>,
    server_name: ServerName<'static>,
    timeouts: Timeouts,
    when_quiet: fn(),
    conns: BTreeMap<Conn, Outlets>,
    unclaimed: BTreeMap<Conn, TcpStream>,
    /// Sessions answer with their number; answers that wait for the runner with none.
    tasks: JoinSet<Option<Conn>>,
}

impl Link {
    fn new(args: LinkArgs, runner: RunnerSocket, keys: KeyDir) -> Result<Self, LinkError> {
        let dial = fd::inherited(args.dial_fd).and_then(|dial| {
            rustix::io::ioctl_fionbio(&dial, true)?;
            fd::watch(dial)
        });
        let dial = dial.map_err(descriptor("--dial-fd"))?;
        let server_name = ServerName::try_from(args.server_name.clone());
        let server_name = server_name.map_err(|_| LinkError::ServerName(args.server_name))?;
        let audit = match args.keylog_fd {
            Some(number) => {
                let file = fd::inherited(number).map_err(descriptor("--keylog-fd"))?;
                Some(Arc::new(KeyLog::new(file)))
            }
            None => None,
        };
        let (identity, tls) = match args.pin {
            // Enrolling anew needs nothing of what is there, and must not stumble over it.
            Some(pin) => (None, Some(tls::pinned(pin, &audit)?)),
            None => {
                let identity = keys.load()?;
                let tls = identity
                    .as_ref()
                    .map(|own| tls::enrolled(own, &audit))
                    .transpose()?;
                (identity, tls)
            }
        };
        Ok(Self {
            runner: Arc::new(runner),
            dial: Some(dial),
            keys,
            audit,
            tls,
            pin: args.pin,
            identity,
            server_name,
            timeouts: args.timeouts,
            when_quiet: args.when_quiet,
            conns: BTreeMap::new(),
            unclaimed: BTreeMap::new(),
            tasks: JoinSet::new(),
        })
    }

    async fn serve(&mut self) -> Result<(), LinkError> {
        self.say(self.ready());
        let quiet = tokio::time::sleep(QUIET_AFTER);
        tokio::pin!(quiet);
        loop {
            let full = self.tasks.len() >= MAX_TASKS;
            tokio::select! {
                biased;
                // Ended sessions first: they make room.
                Some(done) = self.tasks.join_next() => self.joined(done)?,
                // Descriptors are rare and their number was announced before: a flood of frames must not hide them.
                got = descriptor_from(&mut self.dial) => self.dialled(got),
                message = self.runner.recv(), if !full => match message? {
                    Some(message) => {
                        quiet.as_mut().reset(tokio::time::Instant::now() + QUIET_AFTER);
                        if self.heard(message).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => return Ok(()),
                },
                gone = self.runner.hung_up(), if full => {
                    gone.map_err(IpcError::Io)?;
                    return Ok(());
                }
                () = &mut quiet => {
                    (self.when_quiet)();
                    quiet.as_mut().reset(tokio::time::Instant::now() + QUIET_AGAIN);
                }
            }
            // Receiving from a busy runner never waits: let sessions and timers have their turn.
            tokio::task::consume_budget().await;
        }
    }

    /// Obeys one message. `Err` when the runner went away meanwhile.
    async fn heard(&mut self, message: ToLink) -> Result<(), Gone> {
        failpoint::reach("link-heard");
        match message {
            ToLink::Open { conn } => {
                let (sender, receiver) = mpsc::channel(FRAME_QUEUE);
                self.announce(conn, Some((sender, receiver)), None);
            }
            ToLink::Frame { conn, bytes } => return self.frame(conn, bytes).await,
            ToLink::Close { conn } => self.close(
                conn,
                Closing::new(ClosedReason::Local, "closed by the runner"),
            ),
            ToLink::MakeCsr { conn: _ } => self.make_csr(),
            ToLink::Unary {
                conn,
                method,
                bytes,
            } => self.unary(conn, method, bytes),
            ToLink::Prove {
                session_nonce,
                challenge,
            } => self.prove(session_nonce, &challenge),
            ToLink::StoreIdentity { chain, roots } => self.store(&chain, &roots),
        }
        Ok(())
    }

    /// Takes up a new number; its session starts when dial has delivered the descriptor.
    fn announce(
        &mut self,
        conn: Conn,
        frames: Option<(mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>)>,
        call: Option<Call>,
    ) {
        if self.conns.contains_key(&conn) {
            tracing::warn!(conn, "the runner used a connection number twice");
            return;
        }
        if self.conns.len() >= MAX_CONNS || self.tls.is_none() {
            let text = if self.tls.is_none() {
                "not enrolled: no certificate and no pin"
            } else {
                "too many connections"
            };
            let text = text.to_owned();
            return self.say(FromLink::Closed {
                conn,
                reason: ClosedReason::Local,
                text,
            });
        }
        let recovers = call
            .as_ref()
            .is_some_and(|call| call.method == UnaryMethod::Recover);
        let (calls_in, calls) = mpsc::channel(CALL_QUEUE);
        if let Some(call) = call {
            // The channel is new and has room.
            let _ = calls_in.try_send(call);
        }
        let (close_in, close) = oneshot::channel();
        let (frames_in, frames) = frames.unzip();
        let waiting = Some(Inlets {
            frames,
            calls,
            close,
        });
        self.conns.insert(
            conn,
            Outlets {
                frames: frames_in,
                calls: calls_in,
                close: close_in,
                waiting,
                recovers,
            },
        );
        if let Some(stream) = self.unclaimed.remove(&conn) {
            self.start(conn, stream);
        }
    }

    fn dialled(&mut self, got: Result<Option<(Conn, TcpStream)>, IpcError>) {
        match got {
            Ok(Some((conn, stream)))
                if self
                    .conns
                    .get(&conn)
                    .is_some_and(|outlets| outlets.waiting.is_some()) =>
            {
                self.start(conn, stream);
            }
            Ok(Some((conn, stream))) => {
                if self.unclaimed.len() >= MAX_UNCLAIMED {
                    self.unclaimed.pop_first();
                }
                self.unclaimed.insert(conn, stream);
            }
            Ok(None) => self.dial = None,
            Err(error) => tracing::warn!(%error, "a packet from dial was dropped"),
        }
    }

    fn start(&mut self, conn: Conn, stream: TcpStream) {
        failpoint::reach("link-dialled");
        let outlets = self.conns.get_mut(&conn);
        let Some((inlets, recovers)) = outlets.and_then(|outlets| {
            let inlets = outlets.waiting.take()?;
            Some((inlets, outlets.recovers))
        }) else {
            return;
        };
        let Some((tls, own_end_s)) = self.presents(recovers) else {
            let text = "no configuration to connect with; is there a certificate?";
            return self.close(conn, Closing::new(ClosedReason::Local, text));
        };
        let setting = Setting {
            runner: Arc::clone(&self.runner),
            tls,
            own_end_s,
            server_name: self.server_name.clone(),
            timeouts: self.timeouts,
        };
        self.tasks.spawn(async move {
            session::run(setting, conn, stream, inlets).await;
            Some(conn)
        });
    }

    /// With what a connection is made, and when the certificate in that ends.
    fn presents(&self, recovers: bool) -> Option<(Arc<ClientConfig>, Option<u64>)> {
        let identity = self.identity.as_ref();
        if recovers {
            return Some((tls::expired(identity?, &self.audit).ok()?, None));
        }
        Some((self.tls.clone()?, identity.map(|own| own.not_after_s)))
    }

    /// Queues one frame; while the queue is full nothing more is read from the runner.
    async fn frame(&mut self, conn: Conn, bytes: Bytes) -> Result<(), Gone> {
        failpoint::reach("link-taken");
        let outlets = self
            .conns
            .get(&conn)
            .filter(|outlets| outlets.waiting.is_none());
        let Some(frames) = outlets.and_then(|outlets| outlets.frames.as_ref()) else {
            return Ok(());
        };
        tokio::select! {
            biased;
            // Either it is queued, or the session has ended and says so itself.
            _ = frames.send(bytes) => {
                failpoint::reach("link-queued");
                return Ok(());
            }
            _ = self.runner.hung_up() => return Err(Gone),
            () = tokio::time::sleep(self.timeouts.slow_peer) => {}
        }
        self.close(
            conn,
            Closing::new(
                ClosedReason::Timeout,
                "the orchestrator took no frame for too long",
            ),
        );
        Ok(())
    }

    fn close(&mut self, conn: Conn, closing: Closing) {
        let Some(outlets) = self.conns.remove(&conn) else {
            return;
        };
        if outlets.waiting.is_some() {
            let Closing { reason, text } = closing;
            return self.say(FromLink::Closed { conn, reason, text });
        }
        // A session that has just ended says `Closed` by itself. Dropping the frames' sender ends the stream's half.
        let _ = outlets.close.send(closing);
    }

    fn unary(&mut self, conn: Conn, method: UnaryMethod, bytes: Bytes) {
        let call = Call { method, bytes };
        let Some(outlets) = self.conns.get(&conn) else {
            return self.announce(conn, None, Some(call));
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = outlets.calls.try_send(call) {
            let text = "too many calls at once".to_owned();
            self.say(FromLink::Reply {
                conn,
                ok: false,
                code: 8,
                bytes: Bytes::new(),
                text,
            });
        }
    }

    fn make_csr(&mut self) {
        let der = self.keys.request().unwrap_or_else(|error| {
            tracing::error!(
                error = chain(&error),
                "no certificate request could be made"
            );
            Vec::new()
        });
        self.say(FromLink::Csr { der });
    }

    fn prove(&mut self, session_nonce: u64, challenge: &[u8]) {
        let made = self.identity.as_ref().map(|identity| {
            recover::prove(identity, &self.keys, session_nonce, challenge)
                .map_err(|error| chain(&error))
        });
        let made = made.unwrap_or_else(|| Err("there is no certificate".to_owned()));
        self.say(made.unwrap_or_else(|error| {
            tracing::error!(error, "no proof could be made");
            FromLink::Proof {
                certificate: Vec::new(),
                csr: Vec::new(),
                proof: Vec::new(),
            }
        }));
    }

    fn store(&mut self, chain_ders: &[Vec<u8>], roots: &[Vec<u8>]) {
        let stored = self
            .try_store(chain_ders, roots)
            .map_err(|error| chain(&error));
        match stored {
            Ok((tls, identity)) => {
                failpoint::reach("link-stored");
                (self.tls, self.identity, self.pin) = (Some(tls), Some(identity), None);
                let ready = self.ready();
                self.say_all(vec![
                    FromLink::Stored {
                        ok: true,
                        text: String::new(),
                    },
                    ready,
                ]);
            }
            Err(text) => {
                tracing::error!(error = text, "the identity was not stored");
                self.say(FromLink::Stored {
                    ok: false,
                    text: bounded_text(&text),
                });
            }
        }
    }

    fn try_store(
        &self,
        chain_ders: &[Vec<u8>],
        roots: &[Vec<u8>],
    ) -> Result<(Arc<ClientConfig>, Identity), LinkError> {
        tls::check_own(chain_ders, roots)?;
        if let Some(present) = &self.identity {
            // A renewal can add roots, but it must hold under one that is trusted already, and for the same name.
            let trusted: Vec<_> = present.roots.iter().map(|root| root.to_vec()).collect();
            tls::check_own(chain_ders, &trusted)?;
            identity::check_name(present, chain_ders)?;
        }
        let identity = self.keys.store(chain_ders, roots)?;
        Ok((tls::enrolled(&identity, &self.audit)?, identity))
    }

    fn ready(&self) -> FromLink {
        let Some(identity) = &self.identity else {
            return FromLink::Ready {
                certificate_since_s: 0,
                certificate_not_after_s: 0,
                spiffe_id: String::new(),
            };
        };
        FromLink::Ready {
            certificate_since_s: identity.since_s,
            certificate_not_after_s: identity.not_after_s,
            spiffe_id: identity.spiffe_id.clone(),
        }
    }

    fn say(&mut self, message: FromLink) {
        self.say_all(vec![message]);
    }

    /// Answers the runner without waiting for it to read; how many may wait is bounded in `serve`.
    fn say_all(&mut self, messages: Vec<FromLink>) {
        let runner = Arc::clone(&self.runner);
        self.tasks.spawn(async move {
            for message in &messages {
                if let Err(error) = runner.send(message).await {
                    tracing::debug!(%error, "an answer was not taken");
                }
            }
            None
        });
    }

    fn joined(
        &mut self,
        done: Result<Option<Conn>, tokio::task::JoinError>,
    ) -> Result<(), LinkError> {
        if let Some(conn) = done? {
            self.conns.remove(&conn);
        }
        Ok(())
    }
}

/// The runner went away.
struct Gone;

async fn descriptor_from(
    dial: &mut Option<AsyncFd<OwnedFd>>,
) -> Result<Option<(Conn, TcpStream)>, IpcError> {
    match dial {
        Some(dial) => receive_descriptor(dial).await,
        None => pending().await,
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
