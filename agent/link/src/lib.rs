//! The agent's network processes. Link holds the TLS key and the one connection and carries opaque frames between the
//! runner and the orchestrator; dial resolves, connects and hands the connected descriptor to link.
//!
//! Link can decode nothing it carries (neither prost nor the wire's types are dependencies of this crate), creates no
//! socket, resolves no name and starts no process. Both roles log through `tracing`; the agent's binary installs the
//! subscriber.

mod closing;
mod codec;
mod connection;
mod dial;
mod fd;
mod identity;
pub mod ipc;
mod proxy;
mod recover;
mod run;
mod session;
mod tls;

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub use codec::BytesCodec;
pub use dial::{DialArgs, DialOutcome, dial_main};

/// What the link role is started with. The role takes over the descriptors named here.
#[derive(Clone, Debug)]
pub struct LinkArgs {
    /// Link's end of [`ipc::socket_pair`] with the runner.
    pub ipc_fd: RawFd,
    /// Link's end of the second [`ipc::socket_pair`], on whose other end dial sends descriptors.
    pub dial_fd: RawFd,
    /// Where key, certificate and roots are; made 0700 when missing.
    pub key_dir: PathBuf,
    /// The orchestrator's DNS name or address: sent as TLS server name and as the requests' authority. The server is
    /// recognised by its SPIFFE identity, not by this name.
    pub server_name: String,
    /// SHA-256 of the orchestrator's root certificate (DER), for enrolment only: link then trusts exactly the root
    /// with this fingerprint that the server presents in its chain, and presents nothing itself, until
    /// [`ipc::ToLink::StoreIdentity`] succeeds.
    pub pin: Option<[u8; 32]>,
    /// Read end of the leash pipe; its end ends link at once.
    pub leash_fd: Option<RawFd>,
    /// Time limits; `Timeouts::default()` outside tests.
    pub timeouts: Timeouts,
    /// Called when nothing was said for a few seconds: the process may let go of what it can have again.
    pub when_quiet: fn(),
}

/// Link's time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TLS handshake, HTTP/2 preface, and response headers of the stream, each.
    pub handshake: Duration,
    /// After this long without a word from the orchestrator a ping is sent. Proxies cut idle connections after a minute.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// How long an identity call may take.
    pub call: Duration,
    /// How long a full queue may stand still before its connection is closed.
    pub slow_peer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            call: Duration::from_secs(30),
            slow_peer: Duration::from_secs(30),
        }
    }
}

/// Runs the link role until the runner's socket or the leash ends (success), or until link cannot go on: a bad
/// descriptor, a key directory that cannot be used, a packet that does not parse (failure; the log says which).
#[must_use]
pub fn link_main(args: LinkArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run::run(args));
            runtime.shutdown_background();
            ended
        }
        Err(error) => {
            tracing::error!(%error, "link has no runtime");
            return ExitCode::FAILURE;
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = run::chain(&error), "link cannot go on");
            ExitCode::FAILURE
        }
    }
}
