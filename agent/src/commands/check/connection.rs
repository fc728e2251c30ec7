//! The certificate, the clock, and the way to the orchestrator: tried through a link and a dial of its own, and closed
//! again before a word is said, so that a check is no session and leaves nothing in the ledger.

use std::time::Duration;

use outpost_agent_link::ipc::{ClosedReason, FromLink, IpcError, TlsProblem, ToLink};

use super::Findings;
use crate::commands::words::left;
use crate::runner::link_process::{LinkProcess, LinkSetup};
use crate::runner::wall_us;
use crate::sandbox::{Reached, Required};
use crate::state_dir::Identity;

const CERTIFICATE: &str = "certificate";
const CLOCK: &str = "clock";
const CONNECTION: &str = "connection";
/// How long the connection may take: a dial and a handshake of ten seconds each, and some.
const CONNECT: Duration = Duration::from_secs(25);
/// The one connection of a check.
const CONN: u64 = 1;
/// A certificate that has less left than this part of its life should have been renewed long ago.
const LEFT_PART: u64 = 6;
/// Clocks are allowed to differ by so much.
const SKEW_S: u64 = 300;

const ENROL_AGAIN: &str =
    "get a new join token from the operator, then outpost-agent enrol --force --token-file FILE";

/// Looks at all of it.
pub(super) async fn look(
    setup: &LinkSetup,
    identity: &Identity,
    required: Required,
    found: &mut Findings,
) {
    proxies(setup, found);
    let mut link = match setup.start_for_check().await {
        Ok(link) => link,
        Err(error) => {
            return found.failure(CERTIFICATE, format!("{error:#}"), "see the message");
        }
    };
    sandbox(
        &Reached::new(&link.confinement, &setup.accounts),
        required,
        found,
    );
    match link.socket.recv().await {
        Ok(Some(FromLink::Ready {
            certificate_since_s,
            certificate_not_after_s,
            spiffe_id,
        })) => {
            let certificate = Certificate {
                since_s: certificate_since_s,
                not_after_s: certificate_not_after_s,
                spiffe_id,
            };
            certificate.judge(identity, wall_us() / 1_000_000, found);
        }
        Ok(_) | Err(_) => {
            let why = last_words(&mut link).await;
            let fix = if why.contains("others may read or change") {
                String::new()
            } else {
                ENROL_AGAIN.to_owned()
            };
            return found.failure(CERTIFICATE, why, fix);
        }
    }
    let reached = tokio::time::timeout(CONNECT, reach(setup, &link)).await;
    let reached = reached.unwrap_or_else(|_| Err(Failed::silent(&setup.address)));
    match reached {
        Ok(()) => found.ok(CONNECTION, format!("{} accepts this agent", setup.address)),
        Err(failed) => found.failure(CONNECTION, failed.says, failed.fix),
    }
}

/// How link is confined, which it has said before anything else.
fn sandbox(reached: &Reached, required: Required, found: &mut Findings) {
    const CHECK: &str = "sandbox";
    let says = reached.words();
    match required {
        _ if reached.missing.is_empty() => found.ok(CHECK, says),
        Required::Best => found.warning(CHECK, says, reached.fixes()),
        Required::Strict => found.failure(CHECK, says, reached.fixes()),
    }
}

/// A proxy that everything else here uses is easily forgotten.
fn proxies(setup: &LinkSetup, found: &mut Findings) {
    let names = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let set = names
        .into_iter()
        .find(|name| std::env::var_os(name).is_some());
    if let (None, Some(name)) = (&setup.proxy, set) {
        found.warning(
            CONNECTION,
            format!("{name} is set here and means nothing to the agent"),
            "if the agent needs a proxy, give it one: --proxy URL or OUTPOST_PROXY",
        );
    }
}

struct Certificate {
    since_s: u64,
    not_after_s: u64,
    spiffe_id: String,
}

impl Certificate {
    fn judge(&self, identity: &Identity, now_s: u64, found: &mut Findings) {
        if self.not_after_s == 0 {
            return found.failure(CERTIFICATE, "there is none", ENROL_AGAIN);
        }
        if self.spiffe_id != identity.spiffe_id {
            let says = format!("it is {}'s, not {}'s", self.spiffe_id, identity.spiffe_id);
            return found.failure(CERTIFICATE, says, ENROL_AGAIN);
        }
        if now_s + SKEW_S < self.since_s {
            let behind = left(self.since_s - now_s);
            let says = format!("this host's clock is {behind} before the certificate was made");
            let fix = "set the clock (date -u; timedatectl set-ntp true)";
            return found.failure(CLOCK, says, fix);
        }
        let Some(left_s) = self.not_after_s.checked_sub(now_s) else {
            let ago = left(now_s - self.not_after_s);
            let says = format!("it ended {ago} ago");
            let fix = format!(
                "if this host's clock (date -u) is right: a running agent asks for another one by itself \
                 (outpost-agent run); where `outpost-agent status` says that it is refused: {ENROL_AGAIN}"
            );
            return found.failure(CERTIFICATE, says, fix);
        };
        let life_s = self.not_after_s.saturating_sub(self.since_s);
        let says = format!("{}, ends in {}", self.spiffe_id, left(left_s));
        if left_s < life_s / LEFT_PART {
            let fix = "a running and connected agent renews it well before: see that this one runs and is connected";
            found.warning(
                CERTIFICATE,
                format!("{says}: it should have been renewed by now"),
                fix,
            );
        } else {
            found.ok(CERTIFICATE, says);
        }
        found.ok(CLOCK, "within what the certificate allows");
    }
}

/// Why link ended before it was ready: its last line says it.
async fn last_words(link: &mut LinkProcess) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut said = Vec::new();
    if let Some(stderr) = link.child.stderr.take() {
        // What was read until an error is still worth showing.
        let _ = stderr.take(16 * 1024).read_to_end(&mut said).await;
    }
    let said = String::from_utf8_lossy(&said);
    let line = said
        .lines()
        .next_back()
        .unwrap_or("link ended without a word");
    let why = line
        .split_once("error=\"")
        .map(|(_, why)| why.trim_end_matches('"'));
    why.unwrap_or(line).replace("\\\"", "\"")
}

/// Why there is no connection, and what to do.
struct Failed {
    says: String,
    fix: String,
}

impl Failed {
    fn new(says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            says: says.into(),
            fix: fix.into(),
        }
    }

    fn silent(address: &str) -> Self {
        let says = format!("{address} gave no answer within {} s", CONNECT.as_secs());
        Self::new(says, "see whether a firewall drops the connection")
    }

    fn local(error: &dyn std::fmt::Display) -> Self {
        Self::new(error.to_string(), "see the message")
    }
}

async fn reach(setup: &LinkSetup, link: &LinkProcess) -> Result<(), Failed> {
    let local = |error: IpcError| Failed::local(&error);
    link.socket
        .send(&ToLink::Open { conn: CONN })
        .await
        .map_err(local)?;
    let end = link.dial_end().map_err(|error| Failed::local(&error))?;
    setup
        .dial(&end, CONN)
        .await
        .map_err(|why| unreachable(setup, &why))?;
    loop {
        match link.socket.recv().await.map_err(local)? {
            Some(FromLink::Opened { .. }) => return Ok(()),
            Some(FromLink::Closed { reason, text, .. }) => {
                return Err(closed(setup, reason, &text));
            }
            Some(_) => {}
            None => return Err(Failed::local(&"the link process ended; its log says why")),
        }
    }
}

/// Dial's one sentence, and what a person does about it.
fn unreachable(setup: &LinkSetup, why: &str) -> Failed {
    let says = format!("{} cannot be reached: {why}", setup.address);
    let host = setup.address.rsplit_once(':').map_or("", |(host, _)| host);
    let fix = if why.contains("proxy refuses") || why.contains("407") {
        "ask whoever runs the proxy to allow CONNECT to that address, or correct the credentials in the proxy's URL"
            .to_owned()
    } else if why.contains("proxy") {
        "see whether --proxy (or OUTPOST_PROXY) names the proxy's own address".to_owned()
    } else if why.contains("cannot be resolved") {
        format!(
            "see whether the name is right and known here: getent hosts {host}; the agent asks the hosts file and DNS \
             servers only, so a name that another service of this host knows has to be in /etc/hosts"
        )
    } else if why.to_lowercase().contains("refused") {
        "nobody listens there: is the orchestrator running, and is this its agent port?".to_owned()
    } else if why.contains("does not answer")
        || why.contains("in time")
        || why.contains("timed out")
    {
        "no answer: see whether a firewall drops the connection, and whether the address is right"
            .to_owned()
    } else {
        "see that this host has a route there: ip route get".to_owned()
    };
    Failed::new(says, fix)
}

/// Link's reason, and what a person does about it.
fn closed(setup: &LinkSetup, reason: ClosedReason, text: &str) -> Failed {
    let address = &setup.address;
    let clock = "compare this host's clock (date -u) with the orchestrator's";
    let fix = match reason {
        ClosedReason::Tls(TlsProblem::Untrusted) => format!(
            "see that {address} is the orchestrator this agent was enrolled at, and that no proxy opens TLS on the way; after a new authority, enrol again with --force"
        ),
        ClosedReason::Tls(TlsProblem::Expired | TlsProblem::NotYetValid) => {
            format!(
                "{clock}; if it is right, the orchestrator's certificate is to be renewed there"
            )
        }
        ClosedReason::Tls(TlsProblem::Other) | ClosedReason::PeerClosed => format!(
            "something answers at {address} that is not the orchestrator's agent port: correct the address or the port"
        ),
        ClosedReason::Intercepted => {
            "let connections to the orchestrator through as they are: no TLS inspection".to_owned()
        }
        ClosedReason::Expired => format!(
            "a running agent asks for another one by itself (outpost-agent run); where `outpost-agent status` says that \
             it is refused: {ENROL_AGAIN}"
        ),
        ClosedReason::Unauthenticated | ClosedReason::Refused => format!(
            "the orchestrator does not accept this certificate: {clock}, and ask its operator whether this agent was removed"
        ),
        ClosedReason::Unavailable => "the orchestrator cannot serve now: try again soon".to_owned(),
        ClosedReason::Protocol => {
            "see that agent and orchestrator are of versions that know each other".to_owned()
        }
        ClosedReason::Timeout => format!(
            "something takes connections at {address} and says nothing: see that it is the orchestrator's agent port"
        ),
        ClosedReason::Local => "see the message".to_owned(),
    };
    Failed::new(format!("{address}: {reason}: {text}"), fix)
}
