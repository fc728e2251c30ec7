//! Every limit of the wire on one page, with the relations that must hold between them.

use std::time::Duration;

/// Characters of a name.
pub const NAME_LEN: usize = 63;
/// Messages in one frame, either way: bounds the work of one decode and keeps a frame well under its byte limit.
pub const FRAME_MESSAGES: usize = 64;
/// Bytes of one frame from the agent. A full catalogue page (512 entries of 24 bytes) is the largest honest one.
pub const UP_FRAME_BYTES: usize = 64 * 1024;
/// Bytes of one frame to the agent: one Assign with all its parameters, or a burst of small messages.
pub const DOWN_FRAME_BYTES: usize = 256 * 1024;
/// Entries of a site's catalogue.
pub const CATALOGUE_ENTRIES: usize = 512;
/// Items on one page of an inventory.
pub const INVENTORY_PAGE: usize = 64;
/// Attempts an agent holds: running, waiting, and outcomes not yet acknowledged.
pub const HELD_ATTEMPTS: usize = 4096;
/// Parameters of one attempt.
pub const PARAMETERS: usize = 64;
/// Bytes of all parameters of one attempt, names included.
pub const PARAMETER_BYTES: usize = 64 * 1024;
/// Slots of one agent.
pub const SLOTS: u16 = 4095;
/// Bytes of a certificate request.
pub const CSR_BYTES: usize = 1024;
/// Bytes of one certificate.
pub const CERTIFICATE_BYTES: usize = 2048;

/// Default time between heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Default length of a lease, from the moment the answered heartbeat was sent.
pub const LEASE: Duration = Duration::from_secs(30);
/// An agent not heard for this long is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(40);
/// A `retry_safe` attempt of an agent not heard for this long is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(300);
/// No attempt is declared lost for this long after the orchestrator started.
pub const RESTART_GRACE: Duration = Duration::from_secs(300);
/// Added to a lease before its end counts, for the drift between two clocks.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// TLS handshake, then HTTP/2 preface and request headers, each.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the accepted stream to Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A session whose queue was not read for this long is closed.
pub const SLOW_PEER_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(HEARTBEAT_INTERVAL.as_secs() * 2 < LEASE.as_secs(), "one lost heartbeat must not end a lease");
const _: () = assert!(LEASE.as_secs() < STALE_AFTER.as_secs(), "a stale agent has no lease");
const _: () = assert!(STALE_AFTER.as_secs() < LOST_AFTER.as_secs(), "lost comes after stale");
const _: () = assert!(CATALOGUE_ENTRIES * 24 < UP_FRAME_BYTES, "a full catalogue fits into one frame");
const _: () = assert!(PARAMETER_BYTES < DOWN_FRAME_BYTES, "an assignment fits into one frame");
