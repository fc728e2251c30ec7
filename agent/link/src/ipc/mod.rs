//! What runner and link say to each other over one SOCK_SEQPACKET pair: one message per packet, fixed binary fields.
//!
//! Used by link and by the runner's side of the pair. Frames and unary bodies are opaque here: nothing in this crate
//! can decode them. A packet that is cut short or does not parse ends the pair.
//!
//! Rules of the conversation:
//! * link says [`FromLink::Confined`] first, once, before it has heard anybody; then [`FromLink::Ready`], and that again right after each `Stored { ok: true }` (the certificate changed);
//! * every connection number that [`ToLink::Open`] or [`ToLink::Unary`] brought up ends with exactly one
//!   [`FromLink::Closed`], also after [`ToLink::Close`]; numbers are never used twice;
//! * after `Closed` (or after sending `Close`) words about that number are dropped politely by either side.

mod socket;
mod wire;

pub use socket::{LinkSocket, RunnerSocket, socket_pair};
pub(crate) use socket::{receive_descriptor, send_descriptor};
pub(crate) use wire::MAX_DER_BYTES;

use std::fmt;

use bytes::Bytes;

use crate::sandbox::Confinement;

/// Bytes of one frame or unary body, either way.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// Bytes of one packet: a full frame and its header.
pub const MAX_PACKET_BYTES: usize = MAX_FRAME_BYTES + 1024;
/// Bytes of a human-readable text in a message.
pub const MAX_TEXT_BYTES: usize = 256;
/// Certificates in each list of [`ToLink::StoreIdentity`].
pub const MAX_CERTIFICATES: usize = 8;

/// Bytes of the orchestrator's challenge in [`ToLink::Prove`].
pub const MAX_CHALLENGE_BYTES: usize = 64;

/// The runner's number for one connection: it makes the numbers, never reuses one, and link only echoes them.
pub type Conn = u64;

/// Which call of `outpost.identity.v1.Identity` a unary request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryMethod {
    /// With a one-time token, without a client certificate.
    Enrol,
    /// Under the certificate that is to be replaced.
    Renew,
    /// After the certificate has expired.
    Recover,
}

impl UnaryMethod {
    /// The request path of the call.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Enrol => "/outpost.identity.v1.Identity/Enrol",
            Self::Renew => "/outpost.identity.v1.Identity/Renew",
            Self::Recover => "/outpost.identity.v1.Identity/Recover",
        }
    }
}

/// What the runner tells link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToLink {
    /// The descriptor that dial delivers for this number becomes TLS, HTTP/2 and the stream.
    Open {
        /// A fresh number.
        conn: Conn,
    },
    /// One frame for the stream. Dropped when the connection is not open (its `Closed` is on the way).
    Frame {
        /// An opened connection.
        conn: Conn,
        /// At most [`MAX_FRAME_BYTES`].
        bytes: Bytes,
    },
    /// End this connection: frames already handed over are still sent within a second, nothing more is received.
    Close {
        /// A number of an earlier `Open` or `Unary`.
        conn: Conn,
    },
    /// Make a P-256 key (or take the one of a request that was interrupted) and answer with [`FromLink::Csr`].
    MakeCsr {
        /// For the runner's own bookkeeping; not echoed.
        conn: Conn,
    },
    /// One identity call. On an open connection it travels beside the stream; for a fresh number the descriptor that
    /// dial delivers becomes TLS and HTTP/2 without the stream, and stays usable for further calls until `Close`. A
    /// connection that is brought up by `Recover` is made without a certificate.
    Unary {
        /// A fresh number or an opened connection.
        conn: Conn,
        /// Which call.
        method: UnaryMethod,
        /// The encoded request, at most [`MAX_FRAME_BYTES`].
        bytes: Bytes,
    },
    /// Prove that the key of the present certificate, which has ended, is held, for a request as `MakeCsr` makes it, and
    /// answer with [`FromLink::Proof`].
    Prove {
        /// What the last session handed out: part of what is signed.
        session_nonce: u64,
        /// The orchestrator's, at most [`MAX_CHALLENGE_BYTES`]; empty: only certificate and request are wanted.
        challenge: Bytes,
    },
    /// Write the key of the last `MakeCsr`, this chain and these roots into the key directory, and use them for every
    /// connection made from now on. Where there is an identity already, the chain must be for the same name and lead
    /// to a root that is trusted already.
    StoreIdentity {
        /// DER, leaf first, without the root; 1 to [`MAX_CERTIFICATES`].
        chain: Vec<Vec<u8>>,
        /// DER; 1 to [`MAX_CERTIFICATES`].
        roots: Vec<Vec<u8>>,
    },
}

/// What link tells the runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromLink {
    /// Link is confined, so far as it could be, and has heard nobody yet.
    Confined(Confinement),
    /// Link is up, or its identity has changed.
    Ready {
        /// Seconds since 1970 when the agent's certificate was stored; 0 without a certificate.
        certificate_since_s: u64,
        /// Seconds since 1970 until which the agent's certificate is valid; 0 without a certificate.
        certificate_not_after_s: u64,
        /// The certificate's one URI SAN; empty without a certificate.
        spiffe_id: String,
    },
    /// The stream was accepted: the orchestrator's response headers were seen.
    Opened {
        /// As in `Open`.
        conn: Conn,
    },
    /// What the server presented on this connection, so that the runner can judge for itself what that server signs. Said
    /// right after `Opened`, unless it is larger than any chain of ours.
    Server {
        /// An opened connection.
        conn: Conn,
        /// DER, leaf first; 1 to [`MAX_CERTIFICATES`].
        chain: Vec<Vec<u8>>,
    },
    /// The server's certificate ends well before the agent's own, and the stream with it. Said right after `Server`.
    Ends {
        /// An opened connection.
        conn: Conn,
        /// Seconds since 1970.
        at_s: u64,
    },
    /// One frame from the stream.
    Frame {
        /// An opened connection.
        conn: Conn,
        /// At most [`MAX_FRAME_BYTES`].
        bytes: Bytes,
    },
    /// The connection is over, or never came up. Said exactly once per number.
    Closed {
        /// A number of an earlier `Open` or `Unary`.
        conn: Conn,
        /// Why.
        reason: ClosedReason,
        /// One line for the local log, at most [`MAX_TEXT_BYTES`]; never sent upstream.
        text: String,
    },
    /// Answer to `MakeCsr`.
    Csr {
        /// PKCS #10, DER; empty when no key could be made (the local log says why).
        der: Vec<u8>,
    },
    /// Answer to `Prove`.
    Proof {
        /// The present certificate, DER; empty, as the rest, when there is none or no key could be made or used (the
        /// local log says why).
        certificate: Vec<u8>,
        /// PKCS #10, DER.
        csr: Vec<u8>,
        /// ECDSA P-256, DER; empty without a challenge.
        proof: Vec<u8>,
    },
    /// Answer to `Unary` by the orchestrator. When no answer came there is `Closed` instead.
    Reply {
        /// As in `Unary`.
        conn: Conn,
        /// Whether `bytes` holds the encoded response.
        ok: bool,
        /// The gRPC status code; 0 when ok.
        code: u8,
        /// The encoded response; empty unless ok.
        bytes: Bytes,
        /// One line for the local log, at most [`MAX_TEXT_BYTES`].
        text: String,
    },
    /// Answer to `StoreIdentity`.
    Stored {
        /// Whether key, chain and roots are durable and in use.
        ok: bool,
        /// Why not, one line, at most [`MAX_TEXT_BYTES`].
        text: String,
    },
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedReason {
    /// The orchestrator ended the stream or the connection was lost.
    PeerClosed,
    /// The TLS handshake failed on what the server presented.
    Tls(TlsProblem),
    /// Something between here and the orchestrator opens TLS: the server does not speak HTTP/2 by ALPN.
    Intercepted,
    /// The orchestrator does not accept the agent's certificate (none, unknown).
    Unauthenticated,
    /// The agent's certificate has ended: the orchestrator says so, or this host's clock did while a stream stood.
    Expired,
    /// The orchestrator knows the agent and refuses it (removed, revoked, clone).
    Refused,
    /// The orchestrator cannot serve now (starting, draining, overloaded).
    Unavailable,
    /// One side broke the protocol, or a message was over its limit.
    Protocol,
    /// Handshake, response headers, keepalive or a full queue took too long.
    Timeout,
    /// Closed from this side, or failed on this host.
    Local,
}

/// What was wrong with the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsProblem {
    /// Not signed by a trusted root, not the pinned root, or not an orchestrator's certificate.
    Untrusted,
    /// The server's certificate has expired (or this host's clock is ahead).
    Expired,
    /// The server's certificate is not valid yet (or this host's clock is behind).
    NotYetValid,
    /// Anything else: no common protocol version, not TLS at all, broken off.
    Other,
}

impl fmt::Display for ClosedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerClosed => "closed by the orchestrator",
            Self::Tls(TlsProblem::Untrusted) => "server not trusted",
            Self::Tls(TlsProblem::Expired) => "server certificate expired",
            Self::Tls(TlsProblem::NotYetValid) => "server certificate not valid yet",
            Self::Tls(TlsProblem::Other) => "TLS handshake failed",
            Self::Intercepted => "TLS is intercepted on the way",
            Self::Unauthenticated => "agent certificate not accepted",
            Self::Expired => "agent certificate expired",
            Self::Refused => "agent refused",
            Self::Unavailable => "orchestrator unavailable",
            Self::Protocol => "protocol violation",
            Self::Timeout => "timed out",
            Self::Local => "closed locally",
        })
    }
}

/// Why a packet could not be sent, received or understood.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The other process is gone.
    #[error("the process at the other end of the socket pair has gone")]
    Gone,
    /// A frame is over [`MAX_FRAME_BYTES`], or a packet over [`MAX_PACKET_BYTES`].
    #[error("a local packet is larger than a frame of {MAX_FRAME_BYTES} bytes needs")]
    TooLarge,
    /// A packet does not parse.
    #[error("a local packet does not parse ({0}); close this socket pair")]
    Malformed(&'static str),
    /// A packet that must carry a descriptor carries none, or one that is not a connected TCP socket.
    #[error("a packet from dial carries no usable descriptor ({0})")]
    Descriptor(&'static str),
    /// The socket itself failed.
    #[error("the local socket failed")]
    Io(#[from] std::io::Error),
}

/// Makes one line of at most [`MAX_TEXT_BYTES`] of a text that a peer or a library chose.
#[must_use]
pub fn bounded_text(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_TEXT_BYTES));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        line.push(c);
    }
    line
}
