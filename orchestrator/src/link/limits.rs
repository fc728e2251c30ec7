//! Every limit of the agents' port on one page, beside those of the wire itself in `outpost_proto::limits`.

use std::time::Duration;

use outpost_proto::limits::{DOWN_FRAME_BYTES, HANDSHAKE_TIMEOUT, HELLO_TIMEOUT, UP_FRAME_BYTES};

/// Connections that have not shown a certificate yet, in all: accepting pauses above it.
pub(super) const STRANGERS: usize = 4096;
/// Of these, from one address: whole sites come back at once from behind one address, and a flood from one address must
/// not be all of [`STRANGERS`].
pub(super) const STRANGERS_PER_ADDRESS: usize = 1024;
/// Connections of one agent: two when it makes one before it breaks the other, as many again of a copy of it, and what a
/// bad line left behind until the [`KEEPALIVE`] notices.
pub(super) const CONNECTIONS_PER_AGENT: usize = 64;
/// Pause after the kernel could not accept, for want of descriptors or memory.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A connection without a call is closed: nobody has a reason to keep one.
pub(super) const IDLE: Duration = HANDSHAKE_TIMEOUT;
/// For a connection to end once it was told to.
pub(super) const GOODBYE: Duration = Duration::from_secs(5);

/// Calls at once on one connection: one link, one renewal beside it, and room for the next ones to begin before these end.
pub(super) const STREAMS: u32 = 4;
/// Bytes of all headers of one call.
pub(super) const HEADER_BYTES: u32 = 8 * 1024;
/// Bytes of one HTTP/2 frame.
pub(super) const HTTP_FRAME_BYTES: u32 = 16 * 1024;
/// Bytes in flight from an agent: two frames of the largest kind.
pub(super) const STREAM_WINDOW: u32 = 2 * 64 * 1024;
/// Bytes in flight on a connection.
pub(super) const CONNECTION_WINDOW: u32 = 2 * STREAM_WINDOW;
/// Bytes waiting in HTTP/2 for a slow agent.
pub(super) const SEND_BUFFER: usize = DOWN_FRAME_BYTES;
/// A call's buffer at its beginning, each way: most frames of an idle agent fit, and larger ones make it grow.
pub(super) const STREAM_BUFFER: usize = 512;
/// Bytes of frames that are ready at once and leave together.
pub(super) const STREAM_YIELD: usize = 32 * 1024;
/// Streams an agent may open and reset before it is taken for an attack.
pub(super) const PENDING_RESETS: usize = 16;
/// Streams reset from here, for what the peer did wrong, before the connection is ended.
pub(super) const LOCAL_RESETS: usize = 64;
/// An idle line is asked whether anybody is there.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(20);
/// And given up without an answer.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one identity call, either way: a certificate chain is the largest.
pub(super) const IDENTITY_BYTES: usize = 16 * 1024;
/// For one identity call, from its first header to its answer.
pub(super) const IDENTITY_PATIENCE: Duration = Duration::from_secs(30);
/// Frames after which the agent has a receipt: a signature costs less than a thousandth of handling them.
pub(super) const RECEIPT_FRAMES: u64 = 1000;
/// After which time of a stream's life its agent has a receipt, if less has come: soon, so that short ones have one too.
pub(super) const RECEIPT_FIRST: Duration = Duration::from_secs(5);
/// The wait doubles with each receipt up to this: idle agents cost one signature in so long.
pub(super) const RECEIPT_LONGEST: Duration = Duration::from_secs(5 * 60);

const _: () = assert!(
    STRANGERS_PER_ADDRESS * 2 <= STRANGERS,
    "one address must not use up all"
);
const _: () = assert!(
    UP_FRAME_BYTES <= STREAM_WINDOW as usize,
    "a frame fits into the window"
);
const _: () = assert!(HELLO_TIMEOUT.as_secs() <= 30, "a silent stream ends soon");
