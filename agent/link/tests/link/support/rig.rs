//! Link on a thread of its own, spoken to as the runner does.

use std::net::SocketAddr;
use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;

use outpost_agent_link::ipc::{ClosedReason, FromLink, LinkSocket, ToLink, socket_pair};
use outpost_agent_link::{DialArgs, LinkArgs, Timeouts, dial_main, link_main};

use super::ca::Ca;
use super::soon;

pub(crate) struct Rig {
    pub(crate) socket: LinkSocket,
    pub(crate) dial: OwnedFd,
    pub(crate) leash: Option<OwnedFd>,
    pub(crate) thread: JoinHandle<ExitCode>,
    pub(crate) ready: FromLink,
    // Removed with its files when the rig is dropped.
    pub(crate) keys: KeyPlace,
}

/// A key directory, and the temporary directory around it while nobody else needs it.
pub(crate) struct KeyPlace {
    _around: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl KeyPlace {
    pub(crate) fn new() -> Self {
        let around = tempfile::tempdir().unwrap();
        let path = around.path().join("keys");
        Self {
            _around: around,
            path,
        }
    }
}

impl Rig {
    pub(crate) async fn start(keys: KeyPlace, pin: Option<[u8; 32]>, timeouts: Timeouts) -> Self {
        let (runner, link) = socket_pair().unwrap();
        let (dial, link_dial) = socket_pair().unwrap();
        let (leash_read, leash) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let args = LinkArgs {
            ipc_fd: link.into_raw_fd(),
            dial_fd: link_dial.into_raw_fd(),
            key_dir: keys.path.clone(),
            server_name: "orchestrator.site.test".into(),
            pin,
            keylog_fd: None,
            leash_fd: Some(leash_read.into_raw_fd()),
            sandbox: None,
            timeouts,
            when_quiet: || (),
        };
        let thread = std::thread::spawn(move || link_main(args));
        let socket = LinkSocket::new(runner).unwrap();
        let confined = soon("Confined", socket.recv()).await.unwrap().unwrap();
        assert!(matches!(confined, FromLink::Confined(_)), "{confined:?}");
        let ready = soon("Ready", socket.recv()).await.unwrap().unwrap();
        assert!(matches!(ready, FromLink::Ready { .. }), "{ready:?}");
        Self {
            socket,
            dial,
            leash: Some(leash),
            thread,
            ready,
            keys,
        }
    }

    /// Link with a certificate of this CA, stored the way the runner does it.
    pub(crate) async fn enrolled(ca: &Ca, timeouts: Timeouts) -> Self {
        let mut rig = Self::start(KeyPlace::new(), None, timeouts).await;
        rig.store(ca).await;
        rig
    }

    /// The request for a new key.
    pub(crate) async fn csr(&self) -> Vec<u8> {
        self.tell(ToLink::MakeCsr { conn: 0 }).await;
        let FromLink::Csr { der } = self.hear().await else {
            panic!("no request")
        };
        der
    }

    pub(crate) async fn store(&mut self, ca: &Ca) {
        let der = self.csr().await;
        self.store_chain(ca, ca.agent(&der).0).await;
    }

    pub(crate) async fn store_chain(&mut self, ca: &Ca, chain: Vec<Vec<u8>>) {
        self.tell(ToLink::StoreIdentity {
            chain,
            roots: vec![ca.root_der()],
        })
        .await;
        assert_eq!(
            self.hear().await,
            FromLink::Stored {
                ok: true,
                text: String::new()
            }
        );
        self.ready = self.hear().await;
        assert!(
            matches!(self.ready, FromLink::Ready { .. }),
            "{:?}",
            self.ready
        );
    }

    pub(crate) async fn tell(&self, message: ToLink) {
        soon("link reads", self.socket.send(&message))
            .await
            .unwrap();
    }

    /// The next message, but for what the server presented: a test of its own hears that.
    pub(crate) async fn hear(&self) -> FromLink {
        loop {
            let said = self.hear_all().await;
            if !matches!(said, FromLink::Server { .. }) {
                return said;
            }
        }
    }

    /// The next message.
    pub(crate) async fn hear_all(&self) -> FromLink {
        soon("a message from link", self.socket.recv())
            .await
            .unwrap()
            .expect("link has ended")
    }

    /// Dials the way the runner does, but on a thread.
    pub(crate) async fn dial(&self, conn: u64, address: SocketAddr) {
        let args = DialArgs {
            dial_fd: self.dial.try_clone().unwrap().into_raw_fd(),
            conn,
            address: address.to_string(),
            proxy: None,
            leash_fd: None,
            sandbox: None,
            timeout: DialArgs::TIMEOUT,
        };
        let code = tokio::task::spawn_blocking(move || dial_main(args))
            .await
            .unwrap();
        assert_eq!(code, ExitCode::SUCCESS);
    }

    /// Opens the stream and returns what link says to that.
    pub(crate) async fn open(&self, conn: u64, address: SocketAddr) -> FromLink {
        self.tell(ToLink::Open { conn }).await;
        self.dial(conn, address).await;
        self.hear().await
    }

    pub(crate) async fn reason_of_open(&self, address: SocketAddr) -> (ClosedReason, String) {
        let said = self.open(1, address).await;
        let FromLink::Closed {
            conn: 1,
            reason,
            text,
        } = said
        else {
            panic!("{said:?}")
        };
        (reason, text)
    }

    /// Ends link the way a runner ends, and returns its exit code with the key directory.
    pub(crate) async fn end(self) -> (ExitCode, KeyPlace) {
        let Self {
            socket,
            thread,
            keys,
            ..
        } = self;
        drop(socket);
        (joined(thread).await, keys)
    }
}

pub(crate) async fn joined(thread: JoinHandle<ExitCode>) -> ExitCode {
    soon(
        "link ends",
        tokio::task::spawn_blocking(|| thread.join().unwrap()),
    )
    .await
    .unwrap()
}
