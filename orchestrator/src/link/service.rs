//! The calls of the agents' port: one stream, and the identity calls beside it. Everything else is unimplemented.
//!
//! Who calls comes from the certificate of the connection and from nothing that was sent.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use outpost_certs::identity::AgentIdentity;
use outpost_certs::tls::Peer;
use outpost_proto::ids::Conn;
use outpost_proto::limits::{DOWN_FRAME_BYTES, UP_FRAME_BYTES};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::codec::Opaque;
use super::limits::{IDENTITY_BYTES, IDENTITY_PATIENCE};
use super::session::Session;
use crate::driver::Handle;
use crate::identity::Enroller;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) handle: Handle,
    pub(super) enroller: Arc<Enroller>,
    /// Owns the sessions' tasks.
    pub(super) tasks: TaskTracker,
}

/// One connection's peer and how many calls it has open.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) peer: Arc<Peer>,
    pub(super) address: IpAddr,
    pub(super) calls: Calls,
    pub(super) stream: Stream,
}

/// The newest stream of a connection: 0 before the first one.
#[derive(Clone, Default)]
pub(super) struct Stream(Arc<AtomicU64>);

impl Stream {
    fn is(&self, conn: Conn) {
        self.0.store(conn.0, Ordering::Relaxed);
    }

    fn conn(&self) -> Option<Conn> {
        let conn = Conn(self.0.load(Ordering::Relaxed));
        (conn != Conn(0)).then_some(conn)
    }
}

/// Counts a connection's open calls, so that one without any can be closed.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Count>);

#[derive(Default)]
struct Count {
    open: AtomicUsize,
    /// One waits: the connection's own task.
    changed: Notify,
}

/// One open call; a stream's task holds it too.
pub(super) struct OpenCall(Calls);

impl Calls {
    pub(super) fn begin(&self) -> OpenCall {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        self.0.changed.notify_one();
        OpenCall(self.clone())
    }

    /// Waits until some are open, or none. To be awaited by one at a time.
    pub(super) async fn wait(&self, some: bool) {
        // A change between the look and the wait leaves a permit.
        while (self.0.open.load(Ordering::Acquire) > 0) != some {
            self.0.changed.notified().await;
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let Count { open, changed } = &*self.0.0;
        open.fetch_sub(1, Ordering::AcqRel);
        changed.notify_one();
    }
}

type Frames = ReceiverStream<Result<Bytes, Status>>;

impl Services {
    /// Answers one call.
    pub(super) async fn call(
        self,
        caller: Caller,
        request: http::Request<hyper::body::Incoming>,
    ) -> http::Response<Body> {
        let call = Arc::new(caller.calls.begin());
        match request.uri().path() {
            "/outpost.link.v1.Link/Connect" => {
                let mut grpc = Grpc::new(Opaque)
                    .max_decoding_message_size(UP_FRAME_BYTES)
                    .max_encoding_message_size(DOWN_FRAME_BYTES);
                let connect = tower::service_fn(move |request| {
                    self.clone().connect(caller.clone(), call.clone(), request)
                });
                grpc.streaming(connect, request).await
            }
            // Boxed: a stream's call would carry the room for these as long as it lives.
            "/outpost.identity.v1.Identity/Enrol" => {
                let enroller = self.enroller;
                let enrol = move |bytes: Bytes| async move { enroller.enrol(&bytes).await };
                Box::pin(unary(request, enrol)).await
            }
            "/outpost.identity.v1.Identity/Renew" => {
                let renew = move |bytes: Bytes| async move {
                    let presented = admitted(&caller.peer)?;
                    let beside = caller.stream.conn();
                    self.enroller.renew(&presented, beside, &bytes).await
                };
                Box::pin(unary(request, renew)).await
            }
            "/outpost.identity.v1.Identity/Recover" => {
                let enroller = self.enroller;
                let recover = move |bytes: Bytes| async move {
                    enroller.recover(caller.address, &bytes).await
                };
                Box::pin(unary(request, recover)).await
            }
            _ => Status::unimplemented("there is no such call on this port").into_http(),
        }
    }

    async fn connect(
        self,
        caller: Caller,
        call: Arc<OpenCall>,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Frames>, Status> {
        let identity = admitted(&caller.peer)?;
        let AgentIdentity {
            tenant,
            agent,
            spiffe_id,
            public_key_sha256,
            not_after,
            ..
        } = identity.clone();
        let key_hash = crate::identity::hex(&public_key_sha256);
        let not_after = crate::identity::micros(not_after);
        let opened = self
            .handle
            .opened(tenant, agent, spiffe_id, key_hash, not_after)
            .await;
        let Some((conn, outbox)) = opened else {
            return Err(Status::unavailable(
                "the orchestrator is stopping; connect again",
            ));
        };
        caller.stream.is(conn);
        info!(tenant = %identity.tenant, agent = %identity.agent, conn = conn.0, "session begins");
        // One frame under way at a time: what waits, waits in the bounded outbox.
        let (out, frames) = mpsc::channel(1);
        let inbound = request.into_inner();
        let session = Session {
            identity,
            conn,
            handle: self.handle,
            outbox,
            inbound,
            out,
            _call: call,
        };
        self.tasks.spawn(session.run());
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// Streams are for agents with a certificate.
fn admitted(peer: &Peer) -> Result<AgentIdentity, Status> {
    match peer {
        Peer::Agent(identity) => Ok(identity.clone()),
        Peer::Anonymous => Err(Status::unauthenticated(
            "this call needs an agent's certificate; enrol first",
        )),
    }
}

async fn unary<F, R>(
    request: http::Request<hyper::body::Incoming>,
    answer: F,
) -> http::Response<Body>
where
    F: FnOnce(Bytes) -> R + Clone,
    R: Future<Output = Result<Bytes, Status>>,
{
    let answer = tower::service_fn(move |request: Request<Bytes>| {
        let answer = answer.clone();
        async move { answer(request.into_inner()).await.map(Response::new) }
    });
    let mut grpc = Grpc::new(Opaque)
        .max_decoding_message_size(IDENTITY_BYTES)
        .max_encoding_message_size(IDENTITY_BYTES);
    let answered = timeout(IDENTITY_PATIENCE, grpc.unary(answer, request)).await;
    answered.unwrap_or_else(|_| {
        Status::deadline_exceeded("the call took longer than allowed").into_http()
    })
}
