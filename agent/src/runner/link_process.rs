//! Starting link and dial: their sockets, arguments and environment. Nothing here decides when.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use anyhow::Context as _;
use outpost_agent_keeper::exec::{Leash, SelfExec, pass_fd};
use outpost_agent_link::ipc::{LinkSocket, socket_pair};

/// How link and dial are started.
#[derive(Debug)]
pub(crate) struct LinkSetup {
    pub(crate) exec: SelfExec,
    pub(crate) leash: Option<Leash>,
    pub(crate) key_dir: std::path::PathBuf,
    /// `host:port` of the orchestrator.
    pub(crate) address: String,
    /// URL of an HTTP CONNECT proxy.
    pub(crate) proxy: Option<String>,
    /// Pin of the orchestrator's root, at enrolment only.
    pub(crate) pin: Option<String>,
}

/// One life of a link process.
pub(crate) struct LinkProcess {
    pub(crate) socket: LinkSocket,
    pub(crate) child: tokio::process::Child,
    pub(super) dial_end: OwnedFd,
}

impl LinkSetup {
    /// Starts link.
    pub(crate) fn start(&self) -> anyhow::Result<LinkProcess> {
        self.start_with(Stdio::inherit())
    }

    /// Starts link with its log in the child's `stderr`, for somebody who words what it says.
    pub(crate) fn start_for_check(&self) -> anyhow::Result<LinkProcess> {
        self.start_with(Stdio::piped())
    }

    fn start_with(&self, stderr: Stdio) -> anyhow::Result<LinkProcess> {
        let (own, links) = socket_pair().context("making link's sockets")?;
        let (dials, links_dials) = socket_pair().context("making link's sockets")?;
        let host = self
            .address
            .rsplit_once(':')
            .map_or(self.address.as_str(), |(host, _)| host);

        let mut command = self.exec.command("link");
        clear_environment(&mut command);
        let ipc_fd = pass_fd(&mut command, links.as_fd())?;
        let dial_fd = pass_fd(&mut command, links_dials.as_fd())?;
        command.arg("--ipc-fd").arg(ipc_fd.to_string());
        command.arg("--dial-fd").arg(dial_fd.to_string());
        command.arg("--key-dir").arg(&self.key_dir);
        command
            .arg("--server-name")
            .arg(host.trim_matches(['[', ']']));
        if let Some(pin) = &self.pin {
            command.arg("--pin").arg(pin);
        }
        if let Some(leash) = &self.leash {
            leash.pass(&mut command)?;
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let child = tokio::process::Command::from(command)
            .spawn()
            .context("starting the link process")?;
        Ok(LinkProcess {
            socket: LinkSocket::new(own)?,
            child,
            dial_end: dials,
        })
    }

    /// Starts dial for a connection and waits until it is done; link has the descriptor then, if all went well.
    pub(crate) async fn dial(&self, dial_end: &OwnedFd, conn: u64) -> Result<(), String> {
        let command = self
            .dial_command(dial_end, conn)
            .map_err(|error| error.to_string())?;
        let output = tokio::process::Command::from(command).output().await;
        let output = output.map_err(|error| format!("dial could not be started: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .lines()
            .next_back()
            .unwrap_or("dial ended without a word");
        Err(outpost_agent_link::ipc::bounded_text(said))
    }

    fn dial_command(
        &self,
        dial_end: &OwnedFd,
        conn: u64,
    ) -> std::io::Result<std::process::Command> {
        let mut command = self.exec.command("dial");
        clear_environment(&mut command);
        let dial_fd = pass_fd(&mut command, dial_end.as_fd())?;
        command.arg("--dial-fd").arg(dial_fd.to_string());
        command
            .arg("--conn")
            .arg(conn.to_string())
            .arg("--address")
            .arg(&self.address);
        if let Some(proxy) = &self.proxy {
            // Not an argument: a proxy's URL can carry a password, and arguments can be read by everybody.
            command.env("OUTPOST_PROXY", proxy);
        }
        if let Some(leash) = &self.leash {
            leash.pass(&mut command)?;
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

impl LinkProcess {
    /// The end that dial inherits.
    pub(crate) fn dial_end(&self) -> std::io::Result<OwnedFd> {
        self.dial_end.try_clone()
    }
}

fn clear_environment(command: &mut std::process::Command) {
    command.env_clear();
    if let Some(filter) = std::env::var_os("OUTPOST_LOG") {
        command.env("OUTPOST_LOG", filter);
    }
}
