//! One stream of one agent: frames in, through the door, to the driver; what the driver says, out.
//!
//! Reading and writing go on beside each other and neither waits for the other. Whatever ends one ends both; the agent
//! is told why as a gRPC status, and the driver that the stream is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use outpost_certs::identity::AgentIdentity;
use outpost_orchestrator_core::event::CloseReason;
use outpost_proto::ids::Conn;
use outpost_proto::limits::{HELLO_TIMEOUT, SLOW_PEER_TIMEOUT};
use outpost_proto::wire::{decode_up, encode_down_frames};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::limits::GOODBYE;
use super::receipts::Receipts;
use crate::calls::OpenCall;
use crate::driver::Handle;
use crate::driver::sessions::{Ending, Outbox};
use crate::identity::hex;

/// The certificate's end is looked at again this often at the latest: a suspended host must not outstay it for long.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);

/// Frames or the final status, for the response's body.
pub(super) type Out = mpsc::Sender<Result<Bytes, Status>>;

/// Everything one stream needs.
pub(super) struct Session {
    pub(super) identity: AgentIdentity,
    pub(super) conn: Conn,
    pub(super) handle: Handle,
    pub(super) outbox: Outbox,
    pub(super) inbound: Streaming<Bytes>,
    pub(super) out: Out,
    /// Evidence for the site of what was received.
    pub(super) receipts: Arc<Receipts>,
    /// Keeps the connection from being taken for an idle one.
    pub(super) _call: Arc<OpenCall>,
}

impl Session {
    /// Serves the stream to its end.
    pub(super) async fn run(self) {
        let Self {
            identity,
            conn,
            handle,
            outbox,
            mut inbound,
            out,
            receipts,
            _call,
        } = self;
        let end = tokio::select! {
            biased;
            // First: what the core or the operator decided is not to be delayed by traffic.
            why = outbox.ended() => Some(status_of(why)),
            status = expired(identity.not_after) => Some(status),
            status = write(&outbox, &out, &receipts) => status,
            status = read(&mut inbound, (conn, &outbox), &handle, &receipts) => status,
        };
        let chain = receipts.chain();
        let (tenant, agent) = (&identity.tenant, &identity.agent);
        let head = hex(&chain.head);
        match &end {
            Some(status) => info!(
                %tenant, %agent, conn = conn.0, frames = chain.frames, head, code = ?status.code(),
                why = status.message(), "session ended"
            ),
            None => {
                info!(%tenant, %agent, conn = conn.0, frames = chain.frames, head, "session ended by the agent")
            }
        }
        if end
            .as_ref()
            .is_some_and(|status| status.code() == Code::InvalidArgument)
        {
            handle.counters().alarms.fetch_add(1, Ordering::Relaxed);
        }
        handle.closed(conn).await;
        if let Some(status) = end {
            // An agent that does not read is not waited for.
            let _ = timeout(GOODBYE, farewell(&out, &receipts, status)).await;
        }
    }
}

/// The last words: how much was received, and why the stream ends.
async fn farewell(out: &Out, receipts: &Receipts, status: Status) {
    if let Some(receipt) = receipts.take() {
        for frame in encode_down_frames(&[receipt]).unwrap_or_default() {
            // Whoever is gone needs neither.
            drop(out.send(Ok(frame.into())).await);
        }
    }
    drop(out.send(Err(status)).await);
}

/// Takes frames until the agent ends the stream (`None`) or has to be told why it ends.
async fn read(
    inbound: &mut Streaming<Bytes>,
    (conn, outbox): (Conn, &Outbox),
    handle: &Handle,
    receipts: &Receipts,
) -> Option<Status> {
    let mut silent = true;
    loop {
        let next = if silent {
            match timeout(HELLO_TIMEOUT, inbound.message()).await {
                Ok(next) => next,
                Err(_) => {
                    return Some(Status::deadline_exceeded(
                        "no Hello within the time allowed",
                    ));
                }
            }
        } else {
            inbound.message().await
        };
        let frame = match next {
            Ok(Some(frame)) => frame,
            Ok(None) => return None,
            Err(status) => return broken(status),
        };
        silent = false;
        receipts.received(&frame);
        let messages = match decode_up(&frame) {
            Ok(messages) => messages,
            Err(error) => {
                warn!(conn = conn.0, %error, "a frame that no honest agent sends");
                return Some(Status::invalid_argument(format!(
                    "the frame cannot be accepted: {error}"
                )));
            }
        };
        if !handle.frame(conn, outbox, messages).await {
            return Some(draining());
        }
    }
}

/// Frames that are too large or compressed are nonsense; everything else is the line.
fn broken(status: Status) -> Option<Status> {
    if matches!(
        status.code(),
        Code::OutOfRange | Code::ResourceExhausted | Code::Unimplemented
    ) {
        return Some(Status::invalid_argument(status.message().to_owned()));
    }
    debug!(%status, "the stream broke");
    None
}

/// Sends what the driver says until nothing more comes or the agent does not take it.
async fn write(outbox: &Outbox, out: &Out, receipts: &Receipts) -> Option<Status> {
    loop {
        let burst = tokio::select! {
            biased;
            // The response's body is gone: the agent or its connection is.
            () = out.closed() => return None,
            burst = outbox.next() => burst,
            // Last: work is worth more than evidence of earlier work.
            () = receipts.due() => receipts.take().into_iter().collect(),
        };
        receipts.sending(&burst);
        let frames = match encode_down_frames(&burst) {
            Ok(frames) => frames,
            Err(error) => {
                error!(%error, "a message of our own is outside its bounds");
                return Some(Status::internal("a message could not be encoded"));
            }
        };
        for frame in frames {
            match timeout(SLOW_PEER_TIMEOUT, out.send(Ok(frame.into()))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(slow()),
            }
        }
    }
}

/// Ends with the certificate: a stream must not outlive what it was admitted by.
pub(super) async fn expired(not_after: SystemTime) -> Status {
    while let Ok(left) = not_after.duration_since(SystemTime::now()) {
        sleep(left.min(EXPIRY_CHECK)).await;
        if left.is_zero() {
            break;
        }
    }
    Status::unauthenticated("the agent's certificate has expired")
}

/// Why the stream ends, as the agent is told.
fn status_of(why: Ending) -> Status {
    match why {
        Ending::Core(CloseReason::Replaced) => {
            Status::aborted("a newer stream of this agent took over")
        }
        Ending::Core(CloseReason::Removed) => Status::permission_denied(
            "this agent was removed or is not known; enrol again under a new name",
        ),
        Ending::Core(CloseReason::OtherKey) => Status::permission_denied(
            "this agent is known by another key: its certificate was renewed since, or its name given to another; \
             if its state was put back to an earlier copy, remove the agent and enrol it again",
        ),
        Ending::Core(CloseReason::Version) => {
            Status::failed_precondition("no protocol version in common; upgrade the older side")
        }
        Ending::Core(CloseReason::Protocol) => {
            Status::invalid_argument("the agent broke the protocol")
        }
        Ending::Core(CloseReason::Cloned) => Status::permission_denied(
            "another holder of this identity exists: the machine or its state was copied; \
             remove this copy's state and enrol it under a name of its own",
        ),
        Ending::Slow => slow(),
        Ending::Draining => draining(),
    }
}

fn slow() -> Status {
    Status::resource_exhausted("the agent did not read its stream")
}

fn draining() -> Status {
    Status::unavailable("the orchestrator is stopping; connect again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_status() {
        let code = |why| status_of(why).code();
        assert_eq!(code(Ending::Core(CloseReason::Replaced)), Code::Aborted);
        assert_eq!(
            code(Ending::Core(CloseReason::Removed)),
            Code::PermissionDenied
        );
        assert_eq!(
            code(Ending::Core(CloseReason::Version)),
            Code::FailedPrecondition
        );
        assert_eq!(
            code(Ending::Core(CloseReason::Protocol)),
            Code::InvalidArgument
        );
        assert_eq!(
            code(Ending::Core(CloseReason::Cloned)),
            Code::PermissionDenied
        );
        assert_eq!(code(Ending::Slow), Code::ResourceExhausted);
        assert_eq!(code(Ending::Draining), Code::Unavailable);
        let text = |why| status_of(Ending::Core(why)).message().to_owned();
        assert_ne!(text(CloseReason::Removed), text(CloseReason::Cloned));
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_certificate() {
        let status = expired(SystemTime::now() - Duration::from_secs(1)).await;
        assert_eq!(status.code(), Code::Unauthenticated);
    }
}
