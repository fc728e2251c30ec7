//! The agent's network processes. Link holds the TLS key and the one connection and carries opaque frames between the
//! runner and the orchestrator; dial resolves, connects and hands the connected descriptor to link.
//!
//! Link can decode nothing it carries (neither prost nor the wire's types are dependencies of this crate), creates no
//! socket, resolves no name and starts no process; `sandbox` sees to it that it cannot. Both roles log through `tracing`; the agent's binary installs the
//! subscriber.

mod closing;
mod codec;
mod connection;
mod dial;
mod fd;
mod identity;
pub mod ipc;
mod key_log;
mod proxy;
mod recover;
mod run;
pub mod sandbox;
mod session;
mod tls;

use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub use codec::BytesCodec;
pub use dial::{DialArgs, DialOutcome, dial_main};
pub use tls::leads_to;

use identity::KeyPlace;
use sandbox::Confinement;

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
    /// Audit mode: where the secrets of every connection are appended, in the NSS key log format.
    pub keylog_fd: Option<RawFd>,
    /// Read end of the leash pipe; its end ends link at once.
    pub leash_fd: Option<RawFd>,
    /// To what link confines itself before it hears anybody. `None` is for a thread of a test: the sandbox is of the whole
    /// process, which must be link's alone, and every descriptor that is not named here is closed.
    pub sandbox: Option<sandbox::Asked>,
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
    let named = [args.ipc_fd, args.dial_fd];
    let named: Vec<_> = named
        .into_iter()
        .chain(args.keylog_fd)
        .chain(args.leash_fd)
        .collect();
    let closed = args.sandbox.is_some() && sandbox::close_others(&named);
    let keys = KeyPlace::find(&args.key_dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "link has no runtime");
            return ExitCode::FAILURE;
        }
    };
    let confinement = match args.sandbox {
        Some(asked) => sandbox::link(asked, keys.as_ref().ok().map(AsFd::as_fd), closed),
        None => Confinement::nothing(),
    };
    let ended = runtime.block_on(run::run(args, keys, confinement));
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = run::chain(&error), "link cannot go on");
            ExitCode::FAILURE
        }
    }
}
