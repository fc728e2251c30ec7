//! The calls of the agents' port: one stream, and the identity calls beside it. Everything else is unimplemented.
//!
//! Who calls comes from the certificate of the connection and from nothing that was sent.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use outpost_certs::identity::AgentIdentity;
use outpost_certs::receipt::Signer;
use outpost_certs::tls::Peer;
use outpost_proto::ids::Conn;
use outpost_proto::limits::{DOWN_FRAME_BYTES, UP_FRAME_BYTES};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::codec::Opaque;
use super::limits::{IDENTITY_BYTES, IDENTITY_PATIENCE};
use super::receipts::Receipts;
use super::session::Session;
use crate::calls::{Calls, OpenCall};
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
    /// Of the certificate that this connection's server presented.
    pub(super) signer: Option<Signer>,
}

/// The newest stream of a connection: none before the first one.
#[derive(Clone, Default)]
pub(super) struct Stream(Arc<Mutex<Option<Newest>>>);

/// A stream and what is signed of it.
type Newest = (Conn, Arc<Receipts>);

impl Stream {
    fn is(&self, conn: Conn, receipts: Arc<Receipts>) {
        *self.lock() = Some((conn, receipts));
    }

    fn conn(&self) -> Option<Conn> {
        self.lock().as_ref().map(|(conn, _)| *conn)
    }

    /// Another stream will soon take this one's place: the agent has a receipt for all of it before.
    fn is_to_be_replaced(&self) {
        if let Some((_, receipts)) = self.lock().as_ref() {
            receipts.ask();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Newest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
                    let renewed = self.enroller.renew(&presented, beside, &bytes).await;
                    caller.stream.is_to_be_replaced();
                    renewed
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
        let of = (tenant, agent);
        let past = self.enroller.pasts.of(&of.0, &of.1);
        let receipts = Arc::new(Receipts::new(caller.signer, of.clone(), past));
        let welcomed = receipts.welcomed();
        let opened = self
            .handle
            .opened(of, spiffe_id, key_hash, not_after, welcomed)
            .await;
        let Some((conn, outbox)) = opened else {
            return Err(Status::unavailable(
                "the orchestrator is stopping; connect again",
            ));
        };
        caller.stream.is(conn, receipts.clone());
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
            receipts,
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
