//! The site's own door to the runner: a unix socket in the state directory, for the agent's account and root only.
//!
//! One line of JSON and one with the token in, one line out. The token lies in the state directory, where it is new with
//! each runner: who shows it can read there, which tasks of the agent's own account cannot. There is nothing here that
//! starts a task or says anything upstream.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use outpost_agent_core::{Agent, SessionPhase, View};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::link_process::Network;
use super::{Happened, purge};
use crate::catalogue::Catalogue;
use crate::files;
use crate::metrics::Numbers;
use crate::sandbox::Reached;
use crate::state_dir::{Identity, StateDir};

/// Bytes of a question and a token.
const ASK_BYTES: u64 = 512;
/// Hex digits of a token.
const TOKEN_DIGITS: usize = 64;
/// Its file.
const TOKEN: &str = "agent.token";
/// Bytes of an answer: every attempt an agent can hold, with names.
const ANSWER_BYTES: u64 = 4 << 20;
/// How long a caller may take to ask, and the runner to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the site can ask of its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// How are you?
    Status,
    /// Start nothing until resumed.
    Pause,
    /// Start work again.
    Resume,
    /// Finish what runs, take nothing new, then end.
    Drain,
    /// Read the catalogue again.
    Reload,
}

/// The agent in one screen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub agent: String,
    /// Its tenant.
    pub tenant: String,
    /// `host:port` of the orchestrator.
    pub orchestrator: String,
    /// Version of the running agent.
    #[serde(default)]
    pub version: String,
    /// The runner's process id.
    #[serde(default)]
    pub pid: u32,
    /// Seconds since 1970 when the certificate ends; 0 without one.
    pub certificate_not_after_s: u64,
    /// Audit mode: where the secrets of connections go.
    #[serde(default)]
    pub audit_keylog: Option<std::path::PathBuf>,
    /// How link is confined.
    #[serde(default)]
    pub sandbox: Reached,
    /// The network processes.
    #[serde(default)]
    pub network: Network,
    /// What keeps tasks apart from the agent and from each other, in words.
    #[serde(default)]
    pub separation: String,
    /// The site keys that logs and outputs are encrypted with, the one in use first; none: they are not.
    #[serde(default)]
    pub site_keys: Vec<String>,
    /// Why the orchestrator was last out of reach, while it is.
    pub trouble: Option<String>,
    /// Microseconds since boot, as of this answer: times in `view` are on this clock.
    pub now_boot_us: u64,
    /// The catalogue in force.
    #[serde(default)]
    pub catalogue: InForce,
    /// Space.
    #[serde(default)]
    pub disk: Disk,
    /// What the process counted.
    #[serde(default)]
    pub numbers: Numbers,
    /// The core's own view.
    pub view: serde_json::Value,
}

/// The catalogue in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InForce {
    /// Changes with the content.
    pub version: String,
    /// How many entries it has.
    pub entries: usize,
}

/// What the agent's own records take on disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// The ledger.
    pub ledger_bytes: u64,
    /// Beyond which its oldest segments go.
    pub ledger_limit_bytes: u64,
    /// The journal.
    pub journal_bytes: u64,
    /// Beyond which the oldest logs go.
    pub logs_limit_bytes: u64,
}

impl Status {
    /// A text of the core's view.
    #[must_use]
    pub fn view_text(&self, key: &str) -> Option<&str> {
        self.view.get(key)?.as_str()
    }

    /// A number of the core's view.
    #[must_use]
    pub fn view_number(&self, key: &str) -> Option<u64> {
        self.view.get(key)?.as_u64()
    }

    /// `running` or `queued`.
    #[must_use]
    pub fn attempts(&self, key: &str) -> &[serde_json::Value] {
        let list = self.view.get(key).and_then(serde_json::Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether something keeps the agent from starting work.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.view.pointer(&format!("/flags/{name}")) == Some(&serde_json::Value::Bool(true))
    }
}

/// What the runner knows besides its core.
pub(super) struct About<'a> {
    pub(super) identity: &'a Identity,
    pub(super) certificate_not_after_s: u64,
    pub(super) audit: Option<&'a Path>,
    pub(super) sandbox: &'a Reached,
    pub(super) network: Network,
    pub(super) site_keys: &'a [String],
    pub(super) trouble: Option<String>,
    pub(super) catalogue: &'a Catalogue,
    pub(super) disk: Disk,
    pub(super) numbers: &'a Numbers,
}

pub(super) fn status(core: &Agent, about: &About<'_>) -> Status {
    let view: View = core.view();
    Status {
        agent: about.identity.agent.clone(),
        tenant: about.identity.tenant.clone(),
        orchestrator: about.identity.orchestrator.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        certificate_not_after_s: about.certificate_not_after_s,
        audit_keylog: about.audit.map(Path::to_owned),
        sandbox: about.sandbox.clone(),
        network: about.network.clone(),
        separation: super::walls::here().1,
        site_keys: about.site_keys.to_vec(),
        // A former stream that ended when its successor stood is none.
        trouble: about
            .trouble
            .clone()
            .filter(|_| view.session != Some(SessionPhase::Ready)),
        now_boot_us: super::boot_time_us(),
        catalogue: InForce {
            version: about.catalogue.version().to_string(),
            entries: about.catalogue.entries().count(),
        },
        disk: about.disk,
        numbers: about.numbers.clone(),
        view: serde_json::to_value(view).unwrap_or_default(),
    }
}

/// Listens on the state directory's socket, replacing one that a dead runner left: the caller holds the lock.
pub(super) fn serve(state: &StateDir, inbox: mpsc::Sender<Happened>) -> anyhow::Result<()> {
    let token = Token::new(state)?;
    let path = state.socket();
    if path.exists() {
        std::fs::remove_file(&path)
            .with_context(|| format!("removing the old socket {}", path.display()))?;
    }
    // Bound under a short name, because a socket's path has 107 bytes at most and a state directory's can have more.
    let dir = std::fs::File::open(state.path())?;
    let short = format!(
        "/proc/self/fd/{}/agent.sock",
        std::os::fd::AsRawFd::as_raw_fd(&dir)
    );
    let listener =
        UnixListener::bind(&short).with_context(|| format!("listening on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    tokio::task::spawn_local(accept(listener, state.clone(), token, inbox));
    Ok(())
}

/// What a caller shows that can read the state directory.
#[derive(Debug, Clone)]
struct Token(Rc<str>);

impl Token {
    /// A new one, in the place of an earlier runner's; that one where the disk is full.
    fn new(state: &StateDir) -> anyhow::Result<Self> {
        let path = state.path().join(TOKEN);
        let mut bytes = [0; TOKEN_DIGITS / 2];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let text = bytes.iter().map(|byte| format!("{byte:02x}"));
        let text = text.collect::<String>();
        match files::replace(&path, text.as_bytes()) {
            Ok(()) => Ok(Self(text.into())),
            Err(error) => {
                let earlier = Self::of(state.path()).ok();
                let earlier = earlier.filter(|text| text.len() == TOKEN_DIGITS);
                let written = || format!("writing {}", path.display());
                let earlier = earlier.ok_or(error).with_context(written)?;
                Ok(Self(earlier.into()))
            }
        }
    }

    /// Takes as long wherever they differ.
    fn is(&self, shown: &str) -> bool {
        let (own, shown) = (self.0.as_bytes(), shown.trim_end().as_bytes());
        let pairs = own.iter().zip(shown);
        own.len() == shown.len() && pairs.fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
    }

    /// The running one's; none of an agent that asks for none.
    fn of(state: &Path) -> anyhow::Result<String> {
        let path = state.join(TOKEN);
        let limit = u64::try_from(TOKEN_DIGITS).unwrap_or(u64::MAX);
        match files::read_plain(&path, limit) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.with_context(|| format!("reading {}", path.display())),
        }
    }
}

async fn accept(
    listener: UnixListener,
    state: StateDir,
    token: Token,
    inbox: mpsc::Sender<Happened>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A task under the agent's own account is not the site's.
                if outpost_agent_keeper::peer_may_speak(stream.as_fd()) {
                    let (state, token) = (state.clone(), token.clone());
                    tokio::task::spawn_local(answer(stream, state, token, inbox.clone()));
                }
            }
            Err(error) => {
                tracing::warn!("the local socket cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, state: StateDir, token: Token, inbox: mpsc::Sender<Happened>) {
    let conversation = async {
        let (read, mut write) = stream.into_split();
        let (mut line, mut shown) = (String::new(), String::new());
        let mut lines = tokio::io::BufReader::new(read.take(ASK_BYTES));
        lines.read_line(&mut line).await.ok()?;
        lines.read_line(&mut shown).await.ok()?;
        token.is(&shown).then_some(())?;
        let mut answer = match serde_json::from_str(&line) {
            Ok(ask) => {
                let (reply, replied) = oneshot::channel();
                inbox.send(Happened::Local(ask, reply)).await.ok()?;
                serde_json::to_vec(&replied.await.ok()?).ok()?
            }
            Err(_) => {
                let question = serde_json::from_str(&line).ok()?;
                serde_json::to_vec(&purge::serve(&question, state, &inbox).await?).ok()?
            }
        };
        answer.push(b'\n');
        write.write_all(&answer).await.ok()
    };
    // Whoever asks nonsense, or stops asking, is left without an answer.
    let _ = tokio::time::timeout(TIMEOUT, conversation).await;
}

/// Asks the runner of a state directory.
///
/// # Errors
/// When none is running there, or it does not answer in time.
pub fn ask(state: &Path, ask: Ask) -> anyhow::Result<Status> {
    serde_json::from_str(&exchange(state, &ask)?)
        .context("the agent's answer cannot be read; is it of another version?")
}

/// Puts one question to the runner of a state directory; its answer as it came, empty if it knows no such question.
pub(super) fn exchange(state: &Path, question: &impl Serialize) -> anyhow::Result<String> {
    let mut stream = connect(state)?;
    let question = serde_json::to_string(question)?;
    let lines = format!("{question}\n{}\n", Token::of(state)?);
    stream.write_all(lines.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES))
        .read_line(&mut answer)
        .context("the agent does not answer")?;
    Ok(answer)
}

/// A connection to the runner of a state directory.
fn connect(state: &Path) -> anyhow::Result<std::os::unix::net::UnixStream> {
    let dir = std::fs::File::open(state).with_context(|| format!("opening {}", state.display()))?;
    let short = format!(
        "/proc/self/fd/{}/agent.sock",
        std::os::fd::AsRawFd::as_raw_fd(&dir)
    );
    let stream = std::os::unix::net::UnixStream::connect(short).with_context(|| {
        format!(
            "no agent is running on {}: start it with `outpost-agent run`",
            state.display()
        )
    })?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
