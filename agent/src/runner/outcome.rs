//! From what a keeper recorded to what is reported.

use std::path::Path;

use outpost_agent_core::event::{KeeperSaid, NotStarted};
use outpost_agent_keeper::protocol::{self, Cause, Ended, ExitRecord};
use outpost_proto::message::Assign;
use outpost_proto::outcome::{Interruption, KillReason, Outcome, Report, StartFailure};

use super::workspace;
use crate::catalogue::Entry;

/// Longest duration that the wire carries.
const DURATION_MS: u64 = (1 << 36) - 1;
/// Bytes of `$OUTPOST_OUT` that are looked at for `count`.
const OUTPUT_BYTES: u64 = 64 * 1024;

/// What an exit record says. `entry`: as long as the catalogue still has it, what of the details it lets out.
pub(super) fn said(
    record: &ExitRecord,
    assign: &Assign,
    entry: Option<&Entry>,
    run: &Path,
) -> KeeperSaid {
    let (outcome, exit_code) = match (record.ended, record.cause) {
        (Ended::NotStarted(why), _) => {
            return not_started(why).unwrap_or(KeeperSaid::Gone { claimed: true });
        }
        (_, Cause::TimedOut) => (Outcome::TimedOut, None),
        (_, Cause::Cancelled) => (Outcome::Cancelled, None),
        (_, Cause::DeadMan) => (Outcome::Killed(KillReason::Lease), None),
        (_, Cause::Oom) => (Outcome::Killed(KillReason::Oom), None),
        (_, Cause::Leash) => (Outcome::Interrupted(Interruption::AgentStateLost), None),
        (Ended::Exited(0), Cause::Own) => (Outcome::Succeeded, Some(0)),
        (Ended::Exited(code), Cause::Own) => (Outcome::Failed, Some(code)),
        (Ended::Signalled(_), Cause::Own) => (Outcome::Failed, None),
    };
    KeeperSaid::Finished(Report {
        outcome,
        may_have_started: true,
        duration_ms: record.duration_ms.min(DURATION_MS),
        exit_code: exit_code.filter(|_| entry.is_some_and(|entry| entry.report_exit_code)),
        count: entry
            .filter(|entry| entry.report_count)
            .and_then(|_| count(&workspace::outputs(run, assign))),
    })
}

/// What a keeper's refusal means; `None` when somebody else made the claim and speaks for the attempt.
pub(super) fn not_started(why: protocol::NotStarted) -> Option<KeeperSaid> {
    match why {
        protocol::NotStarted::LeaseOver => Some(KeeperSaid::NotStarted(NotStarted::LeaseOver)),
        protocol::NotStarted::ClaimLost => None,
        protocol::NotStarted::NotFound => Some(failed(StartFailure::NotFound)),
        protocol::NotStarted::Permission => Some(failed(StartFailure::Permission)),
        protocol::NotStarted::Resources => Some(failed(StartFailure::Resources)),
        protocol::NotStarted::Other => Some(failed(StartFailure::Other)),
    }
}

pub(super) fn failed(failure: StartFailure) -> KeeperSaid {
    KeeperSaid::NotStarted(NotStarted::Failed(failure))
}

/// The number under `count` in a task's outputs.
fn count(path: &Path) -> Option<u16> {
    // One is added on the wire: the last value of sixteen bits is not to be had.
    let value = text_of(path)?
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("count="))?
        .trim()
        .parse()
        .ok()?;
    (value < u16::MAX).then_some(value)
}

/// A task's outputs, for people at the site; of a name that is there twice, the last value.
pub(super) fn outputs(path: &Path) -> std::collections::BTreeMap<String, String> {
    let text = text_of(path).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The outputs as text. The file is the task's own: it may have put anything in its place, a pipe that never ends or a
/// link to another's file, and neither may cost the runner more than this look.
fn text_of(path: &Path) -> Option<String> {
    use std::io::Read;
    let flags =
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = std::fs::File::from(super::beneath::open(path, flags).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
