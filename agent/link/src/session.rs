//! One connection number from its descriptor to its `Closed`: the stream, if it was asked for, and identity calls.
//!
//! Runs as a task of its own. It hands every frame to the runner before it asks the network for the next one, so that
//! a runner that does not read stops the orchestrator through HTTP/2's windows. It keeps no connection beyond the end
//! of the certificates by which it was made, the agent's or the server's.

use std::future::pending;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::uri::PathAndQuery;
use outpost_failpoint as failpoint;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::Timeouts;
use crate::closing::Closing;
use crate::codec::BytesCodec;
use crate::connection::Connection;
use crate::ipc::{
    ClosedReason, Conn, FromLink, RunnerSocket, TlsProblem, UnaryMethod, bounded_text,
};

const CONNECT_PATH: &str = "/outpost.link.v1.Link/Connect";
/// How long frames handed over before `Close` may take to leave.
const LINGER: Duration = Duration::from_secs(1);
/// The certificates' end is looked at again this often at the latest: a suspended host must not outstay it for long.
const END_CHECK: Duration = Duration::from_secs(60);
/// How long a failed call waits for the connection's own, better, reason.
const REASON_WAIT: Duration = Duration::from_millis(500);

/// One identity call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: UnaryMethod,
    pub(crate) bytes: Bytes,
}

/// What the event loop gives a session and keeps the other ends of.
#[derive(Debug)]
pub(crate) struct Inlets {
    /// Frames for the stream; absent when only calls are wanted.
    pub(crate) frames: Option<mpsc::Receiver<Bytes>>,
    pub(crate) calls: mpsc::Receiver<Call>,
    /// Resolves when the session is to end from this side.
    pub(crate) close: oneshot::Receiver<Closing>,
}

/// What every session of this process needs.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) runner: Arc<RunnerSocket>,
    pub(crate) tls: Arc<ClientConfig>,
    /// When the certificate that `tls` presents ends, in seconds since 1970; absent before enrolment.
    pub(crate) own_end_s: Option<u64>,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) timeouts: Timeouts,
}

/// Runs one connection to its end and says `Closed`.
pub(crate) async fn run(setting: Setting, conn: Conn, stream: TcpStream, inlets: Inlets) {
    let runner = Arc::clone(&setting.runner);
    let (Closing { reason, text }, connection) = serve(setting, conn, stream, inlets).await;
    // The runner, which is told, says so in the log.
    tracing::debug!(conn, %reason, text, "connection over");
    if let Err(error) = runner.send(&FromLink::Closed { conn, reason, text }).await {
        // When the runner has gone the event loop ends this process.
        tracing::debug!(conn, %error, "nobody took the end of the connection");
    }
    if let Some(connection) = connection {
        connection.farewell(LINGER).await;
    }
}

async fn serve(
    setting: Setting,
    conn: Conn,
    stream: TcpStream,
    mut inlets: Inlets,
) -> (Closing, Option<Connection>) {
    let Setting {
        runner,
        tls,
        own_end_s,
        server_name,
        timeouts,
    } = setting;
    let establish = Connection::establish(stream, tls, server_name, timeouts);
    let connection = tokio::select! {
        biased;
        closing = closed(&mut inlets.close) => return (closing, None),
        established = establish => match established {
            Ok(connection) => connection,
            Err(closing) => return (closing, None),
        },
    };
    failpoint::reach("link-connected");
    let mut session = Session {
        conn,
        runner,
        timeouts,
        connection,
        inbound: None,
        calls: JoinSet::new(),
    };
    let server_end_s = session.connection.server_end_s();
    let end = End::new(own_end_s, server_end_s, SystemTime::now());
    let closing = match session.open_stream(&mut inlets, end).await {
        Ok(()) => session.carry(&mut inlets, end).await,
        Err(closing) => closing,
    };
    drop(inlets);
    let connection = session.finish(&closing).await;
    (closing, Some(connection))
}

struct Session {
    conn: Conn,
    runner: Arc<RunnerSocket>,
    timeouts: Timeouts,
    connection: Connection,
    inbound: Option<Streaming<Bytes>>,
    calls: JoinSet<Result<FromLink, Status>>,
}

impl Session {
    /// Opens the stream if frames are wanted, and says `Opened` when the response headers are there.
    async fn open_stream(&mut self, inlets: &mut Inlets, end: End) -> Result<(), Closing> {
        let Some(frames) = inlets.frames.take() else {
            return Ok(());
        };
        let mut client = self.connection.client();
        let request = Request::new(ReceiverStream::new(frames));
        let path = PathAndQuery::from_static(CONNECT_PATH);
        let opening = async {
            client
                .ready()
                .await
                .map_err(|error| Closing::from_http(&error))?;
            Ok(client.streaming(request, path, BytesCodec).await)
        };
        let response = tokio::select! {
            biased;
            closing = closed(&mut inlets.close) => return Err(closing),
            opened = timeout(self.timeouts.handshake, opening) => opened,
        };
        let text = "the orchestrator did not accept the stream in time";
        match response {
            Err(_) => Err(Closing::new(ClosedReason::Timeout, text)),
            Ok(Err(closing)) => Err(self.better(closing).await),
            Ok(Ok(Err(status))) => Err(self.why(&status).await),
            Ok(Ok(Ok(response))) => {
                failpoint::reach("link-opened");
                self.inbound = Some(response.into_inner());
                let conn = self.conn;
                self.say(&FromLink::Opened { conn }, inlets).await?;
                let chain = self.connection.server_chain();
                if !chain.is_empty() {
                    self.say(&FromLink::Server { conn, chain }, inlets).await?;
                }
                match end.soon(SystemTime::now()) {
                    Some(at_s) => self.say(&FromLink::Ends { conn, at_s }, inlets).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Moves messages until something ends the connection.
    async fn carry(&mut self, inlets: &mut Inlets, end: End) -> Closing {
        let expired = end.reached();
        tokio::pin!(expired);
        loop {
            let step = tokio::select! {
                biased;
                // The runner's wish to end goes before everything.
                closing = closed(&mut inlets.close) => Err(closing),
                // Then the end of what this connection stands on: traffic must not put it off.
                closing = &mut expired => Err(closing),
                // Answers to calls are few and awaited.
                Some(done) = self.calls.join_next() => match done {
                    Ok(Ok(reply)) => {
                        failpoint::reach("link-answered");
                        Ok(Step::Say(reply))
                    }
                    Ok(Err(status)) => Ok(Step::Failed(status)),
                    Err(error) => Err(Closing::new(ClosedReason::Local, format!("a call's task ended: {error}"))),
                },
                Some(call) = inlets.calls.recv() => Ok(Step::Call(call)),
                message = next(&mut self.inbound) => match message {
                    Ok(Some(bytes)) => {
                        failpoint::reach("link-received");
                        Ok(Step::Say(FromLink::Frame { conn: self.conn, bytes }))
                    }
                    Ok(None) => Err(Closing::new(ClosedReason::PeerClosed, "the orchestrator ended the stream")),
                    Err(status) => Ok(Step::Failed(status)),
                },
                // Last, so that everything received before the end is delivered; with a stream its own end tells.
                closing = self.connection.ended(), if self.inbound.is_none() => Err(closing),
            };
            let done = match step {
                Ok(Step::Say(message)) => self.say(&message, inlets).await,
                Ok(Step::Call(call)) => {
                    self.start(call);
                    Ok(())
                }
                Ok(Step::Failed(status)) => Err(self.why(&status).await),
                Err(closing) => Err(closing),
            };
            if let Err(closing) = done {
                return closing;
            }
            failpoint::reach("link-passed");
        }
    }

    /// Hands a message to the runner; waits as long as the runner takes, unless it wants the end.
    async fn say(&mut self, message: &FromLink, inlets: &mut Inlets) -> Result<(), Closing> {
        tokio::select! {
            biased;
            closing = closed(&mut inlets.close) => Err(closing),
            sent = self.runner.send(message) => sent.map_err(|error| Closing::new(ClosedReason::Local, error.to_string())),
        }
    }

    fn start(&mut self, call: Call) {
        let (conn, limit, mut client) = (self.conn, self.timeouts.call, self.connection.client());
        self.calls.spawn(async move {
            let path = PathAndQuery::from_static(call.method.path());
            let calling = async {
                client
                    .ready()
                    .await
                    .map_err(|error| Status::from_error(Box::new(error)))?;
                client
                    .unary(Request::new(call.bytes), path, BytesCodec)
                    .await
            };
            let answer = timeout(limit, calling)
                .await
                .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "no answer in time")));
            match answer {
                Ok(response) => {
                    let bytes = response.into_inner();
                    Ok(FromLink::Reply {
                        conn,
                        ok: true,
                        code: 0,
                        bytes,
                        text: String::new(),
                    })
                }
                // A status with a cause was made here of a transport that failed: the connection is over.
                Err(status) if std::error::Error::source(&status).is_some() => Err(status),
                Err(status) => Ok(FromLink::Reply {
                    conn,
                    ok: false,
                    code: code_number(status.code()),
                    bytes: Bytes::new(),
                    text: bounded_text(status.message()),
                }),
            }
        });
    }

    /// The reason behind a failed call: what the orchestrator said, else what the connection knows.
    async fn why(&mut self, status: &Status) -> Closing {
        if std::error::Error::source(status).is_none() {
            return Closing::from_status(status);
        }
        self.better(Closing::from_transport(status)).await
    }

    async fn better(&mut self, closing: Closing) -> Closing {
        match timeout(REASON_WAIT, self.connection.ended()).await {
            Ok(known) if known.reason != ClosedReason::PeerClosed => known,
            Ok(_) | Err(_) => closing,
        }
    }

    /// After `Close` from this side, frames already handed over may still leave.
    async fn finish(self, closing: &Closing) -> Connection {
        let Self {
            connection,
            mut inbound,
            ..
        } = self;
        if closing.reason == ClosedReason::Local && inbound.is_some() {
            let drain = async { while let Ok(Some(_)) = next(&mut inbound).await {} };
            // A peer that does not end its half in time is cut off.
            let _ = timeout(LINGER, drain).await;
        }
        connection
    }
}

/// Which certificate ends first, and when: seconds since 1970.
#[derive(Clone, Copy)]
enum End {
    Own(u64),
    /// The agent's own one ends later, then.
    Server(u64, u64),
}

impl End {
    /// Where the agent's own one has ended already by this host's clock, the orchestrator decides whether it has: its
    /// clock counts, and it lets nobody in whose certificate has.
    fn new(own_s: Option<u64>, server_s: u64, now: SystemTime) -> Self {
        let now_s = seconds(now);
        match own_s.filter(|own_s| *own_s >= now_s) {
            Some(own_s) if own_s <= server_s => Self::Own(own_s),
            Some(own_s) => Self::Server(server_s, own_s),
            None => Self::Server(server_s, u64::MAX),
        }
    }

    /// The end of the server's certificate, if it comes within half of the time that is left of the agent's own one:
    /// before the agent's renewal would make another connection anyway.
    fn soon(self, now: SystemTime) -> Option<u64> {
        let now_s = seconds(now);
        match self {
            Self::Own(_) => None,
            Self::Server(at_s, own_s) => {
                let (server, own) = (at_s.saturating_sub(now_s), own_s.saturating_sub(now_s));
                (server < own / 2).then_some(at_s)
            }
        }
    }

    /// Waits for it, by this host's clock.
    async fn reached(self) -> Closing {
        let (Self::Own(at_s) | Self::Server(at_s, _)) = self;
        let at = UNIX_EPOCH + Duration::from_secs(at_s);
        while let Ok(left) = at.duration_since(SystemTime::now()) {
            tokio::time::sleep(left.min(END_CHECK)).await;
        }
        match self {
            Self::Own(_) => Closing::new(
                ClosedReason::Expired,
                "this agent's certificate has ended by this host's clock",
            ),
            Self::Server(..) => Closing::new(
                ClosedReason::Tls(TlsProblem::Expired),
                "the server's certificate has ended",
            ),
        }
    }
}

/// Since 1970.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What one turn of the loop found to do.
enum Step {
    Say(FromLink),
    Call(Call),
    Failed(Status),
}

/// Resolves when the session is to end from this side.
async fn closed(close: &mut oneshot::Receiver<Closing>) -> Closing {
    close
        .await
        .unwrap_or_else(|_| Closing::new(ClosedReason::Local, "link is ending"))
}

async fn next(inbound: &mut Option<Streaming<Bytes>>) -> Result<Option<Bytes>, Status> {
    match inbound {
        Some(stream) => stream.message().await,
        None => pending().await,
    }
}

fn code_number(code: Code) -> u8 {
    // gRPC has seventeen codes.
    u8::try_from(i32::from(code)).unwrap_or(2)
}
