//! Starting link and dial: their sockets, arguments and environment. Nothing here decides when.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outpost_agent_keeper::exec::{Leash, SelfExec, pass_fd};
use outpost_agent_keeper::failpoint;
use outpost_agent_link::ipc::{FromLink, LinkSocket, socket_pair};
use outpost_agent_link::sandbox::{Account, Confinement, Level};
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::sandbox::{Accounts, Reached, TooWeak};

/// How long link may take to say how it is confined: it has nothing to wait for.
const CONFINES: Duration = Duration::from_secs(20);

/// The network processes that live, by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Link's.
    pub link: Option<u32>,
    /// Of each dial that is under way.
    pub dial: Vec<u32>,
}

/// The same as whoever starts them keeps it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Living(Rc<RefCell<Network>>);

impl Living {
    /// As of now.
    pub(crate) fn now(&self) -> Network {
        self.0.borrow().clone()
    }

    /// Link is this process now, or none.
    pub(super) fn link(&self, pid: Option<u32>) {
        self.0.borrow_mut().link = pid;
    }

    /// A dial that is under way as long as what this gives is kept.
    fn dial(&self, pid: Option<u32>) -> Dialling {
        self.0.borrow_mut().dial.extend(pid);
        Dialling(self.clone(), pid)
    }
}

struct Dialling(Living, Option<u32>);

impl Drop for Dialling {
    fn drop(&mut self) {
        let mut network = self.0.0.borrow_mut();
        network.dial.retain(|pid| Some(*pid) != self.1);
    }
}

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
    /// Where link puts the secrets of its connections, in audit mode.
    pub(crate) audit: Option<Audit>,
    /// Whom link and dial become.
    pub(crate) accounts: Accounts,
    /// The least that link's sandbox may be.
    pub(crate) least: Level,
    /// Those that were started and live.
    pub(crate) living: Living,
}

/// One life of a link process.
pub(crate) struct LinkProcess {
    pub(crate) socket: LinkSocket,
    /// How it is confined.
    pub(crate) confinement: Confinement,
    pub(crate) child: tokio::process::Child,
    pub(super) dial_end: OwnedFd,
}

impl LinkSetup {
    /// Starts link, and waits until it is confined.
    ///
    /// # Errors
    /// [`TooWeak`] when its sandbox is less than what is accepted; link is ended then.
    pub(crate) async fn start(&self) -> anyhow::Result<LinkProcess> {
        self.confined(self.spawn(Stdio::inherit())?).await
    }

    /// Starts the first link of a runner. Later ones must be confined no less: that is what the orchestrator is told.
    ///
    /// # Errors
    /// When all of the sandbox is asked for and there is no link that has it. Otherwise a link that cannot be started now
    /// may be later.
    pub(crate) async fn first(mut self) -> anyhow::Result<(Self, Option<LinkProcess>)> {
        match self.start().await {
            Ok(link) => {
                self.least = self.least.max(link.confinement.level());
                Ok((self, Some(link)))
            }
            Err(error) if self.least > Level::None => Err(error),
            Err(error) => {
                tracing::error!("link cannot be started: {error:#}");
                Ok((self, None))
            }
        }
    }

    /// Starts link with its log in the child's `stderr`, for somebody who words what it says.
    pub(crate) async fn start_for_check(&self) -> anyhow::Result<LinkProcess> {
        self.confined(self.spawn(Stdio::piped())?).await
    }

    /// Hears the first word of a link that has heard none.
    async fn confined(&self, mut link: LinkProcess) -> anyhow::Result<LinkProcess> {
        let said = tokio::time::timeout(CONFINES, link.socket.recv()).await;
        let said = said.context("link does not say how it is confined")??;
        let Some(FromLink::Confined(confinement)) = said else {
            // It may only just be ending.
            let _ = link.child.kill().await;
            bail!("link ended before it was confined; its log says why");
        };
        if confinement.level() < self.least {
            let _ = link.child.kill().await;
            let reached = Reached::new(&confinement, &self.accounts);
            let least = self.least;
            return Err(TooWeak { least, reached }.into());
        }
        link.confinement = confinement;
        self.living.link(link.child.id());
        Ok(link)
    }

    fn spawn(&self, stderr: Stdio) -> anyhow::Result<LinkProcess> {
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
        if let Some(audit) = &self.audit {
            let keylog_fd = pass_fd(&mut command, audit.as_fd())?;
            command.arg("--keylog-fd").arg(keylog_fd.to_string());
        }
        become_account(&mut command, self.accounts.link());
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
            confinement: Confinement::nothing(),
            child,
            dial_end: dials,
        })
    }

    /// Starts dial for a connection and waits until it is done; link has the descriptor then, if all went well.
    pub(crate) async fn dial(&self, dial_end: &OwnedFd, conn: u64) -> Result<(), String> {
        let command = self
            .dial_command(dial_end, conn)
            .map_err(|error| error.to_string())?;
        let dial = tokio::process::Command::from(command).spawn();
        let dial = dial.map_err(|error| format!("dial could not be started: {error}"))?;
        let _under_way = self.living.dial(dial.id());
        let output = dial.wait_with_output().await;
        let output = output.map_err(|error| format!("dial could not be waited for: {error}"))?;
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
        become_account(&mut command, self.accounts.dial());
        if self.least == Level::Strict {
            command.arg("--strict");
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

fn become_account(command: &mut std::process::Command, account: Option<Account>) {
    if let Some(Account { uid, gid }) = account {
        command.arg("--account").arg(format!("{uid}:{gid}"));
    }
}

fn clear_environment(command: &mut std::process::Command) {
    command.env_clear();
    if let Some(filter) = std::env::var_os("OUTPOST_LOG") {
        command.env("OUTPOST_LOG", filter);
    }
    failpoint::pass_on(command);
    #[cfg(debug_assertions)]
    if let Some(cap) = std::env::var_os(outpost_agent_link::sandbox::CAP_VARIABLE) {
        command.env(outpost_agent_link::sandbox::CAP_VARIABLE, cap);
    }
}
