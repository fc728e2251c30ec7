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
/// Settled outcomes an agent remembers and tells again after a restore: about 20 MB, three days of one a second.
pub const REMEMBERED: usize = 200_000;
/// Parameters of one attempt.
pub const PARAMETERS: usize = 64;
/// Bytes of all parameters of one attempt, names included.
pub const PARAMETER_BYTES: usize = 64 * 1024;
/// Bytes of one parameter's text.
pub const PARAMETER_TEXT_BYTES: usize = 4096;
/// Slots of one agent.
pub const SLOTS: u16 = 4095;
/// Bytes of a certificate request.
pub const CSR_BYTES: usize = 1024;
/// Bytes of one certificate.
pub const CERTIFICATE_BYTES: usize = 2048;
/// Bytes of an enrolment token's secret part.
pub const TOKEN_BYTES: usize = 32;
/// Bytes of a challenge for recovery.
pub const CHALLENGE_BYTES: usize = 64;
/// Bytes of an ECDSA P-256 signature in DER (72 at most by its form).
pub const SIGNATURE_BYTES: usize = 80;
/// Sessions before its own that one receipt names.
pub const RECEIPT_SESSIONS: usize = 8;
/// Certificates of one chain, leaf included.
pub const CHAIN_CERTIFICATES: usize = 4;
/// Roots that an agent is told to trust: the present one, the next one, and room for a change of both.
pub const ROOT_CERTIFICATES: usize = 8;
/// Bytes of a SPIFFE id: a trust domain of 255, two names of 63 and what stands between them, rounded up.
pub const SPIFFE_ID_BYTES: usize = 512;
/// Bytes of one identity request: certificate, request, challenge, proof and their headers.
pub const IDENTITY_REQUEST_BYTES: usize = 4 * 1024;
/// Bytes of one identity reply: a full chain and all roots.
pub const IDENTITY_REPLY_BYTES: usize = 32 * 1024;

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

/// With strict reporting: between two moments at which an agent tells of attempts and host, whatever interval of
/// heartbeats and however many connections the orchestrator asks for.
pub const STRICT_GRID: Duration = Duration::from_secs(10);
/// With strict reporting: between two looks at what the host's numbers are.
pub const STRICT_HEALTH: Duration = Duration::from_secs(300);

/// TLS handshake, then HTTP/2 preface and request headers, each.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the accepted stream to Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A session whose queue was not read for this long is closed.
pub const SLOW_PEER_TIMEOUT: Duration = Duration::from_secs(30);

const _: () = assert!(
    HEARTBEAT_INTERVAL.as_secs() * 2 < LEASE.as_secs(),
    "one lost heartbeat must not end a lease"
);
const _: () = assert!(
    STRICT_GRID.as_secs() * 2 < LEASE.as_secs(),
    "a strict agent has a lease under the default length of one"
);
const _: () = assert!(
    LEASE.as_secs() < STALE_AFTER.as_secs(),
    "a stale agent has no lease"
);
const _: () = assert!(
    STALE_AFTER.as_secs() < LOST_AFTER.as_secs(),
    "lost comes after stale"
);
const _: () = assert!(
    CATALOGUE_ENTRIES * 24 < UP_FRAME_BYTES,
    "a full catalogue fits into one frame"
);
const _: () = assert!(
    PARAMETER_BYTES < DOWN_FRAME_BYTES,
    "an assignment fits into one frame"
);
const _: () = assert!(
    CERTIFICATE_BYTES + CSR_BYTES + CHALLENGE_BYTES + SIGNATURE_BYTES + 64 < IDENTITY_REQUEST_BYTES,
    "the largest identity request fits"
);
const _: () = assert!(
    (CHAIN_CERTIFICATES + ROOT_CERTIFICATES) * (CERTIFICATE_BYTES + 8) + SPIFFE_ID_BYTES
        < IDENTITY_REPLY_BYTES,
    "the largest identity reply fits"
);
