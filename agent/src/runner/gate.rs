//! The site's last word before a start: time windows and approvals. Asked at the moment of the start and not when the
//! instruction comes, because in between the window may close and a person may approve.
//!
//! Where secrets are fetched or a run's files are opened first, everything is asked again when that is done: a pause,
//! another catalogue, the end of a window and an approval that was taken back hold for what waited there. Only the last
//! time an approval is used up. A keeper asks nobody: what was let begin here begins within 10 s, by a clock that goes on
//! while the host sleeps, or not at all, so that no window is long over and no approval long withdrawn.

use outpost_agent_core::event::{Event, KeeperSaid, NotStarted};
use outpost_driver::Micros;
use outpost_proto::ids::AttemptId;
use outpost_proto::message::Assign;
use outpost_proto::outcome::Refusal;

use super::secrets::Granted;
use super::{Runner, wall_us};
use crate::approvals::Approvals;
use crate::catalogue::{Catalogue, Entry, texts};
use crate::local_time::Moment;

/// Within so long a keeper begins what it was let begin, in microseconds of boot time.
const WITHIN_US: u64 = 10_000_000;

/// What is done with the approval that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Approval {
    /// It is asked again before the start.
    Looked,
    /// The start uses it up.
    Used,
}

impl Runner {
    /// Starts an attempt, unless the site does not let it begin now.
    pub(super) fn start(
        &mut self,
        assign: &Assign,
        lease_until: Micros,
        behind: Option<AttemptId>,
    ) {
        let started = self
            .may_start(assign, behind)
            .and_then(|()| self.tasks.start(assign, lease_until.0, behind));
        if let Err(said) = started {
            let attempt = assign.attempt;
            self.pending.push(Event::Keeper { attempt, said });
        }
    }

    fn may_start(&mut self, assign: &Assign, behind: Option<AttemptId>) -> Result<(), KeeperSaid> {
        let catalogue = self.current.borrow().clone();
        if !catalogue.entry(&assign.entry).is_some_and(guards) {
            return Ok(());
        }
        // Asked when it starts: who knows for how long it would wait there.
        if behind.is_some() {
            return Err(KeeperSaid::GivenBack);
        }
        let judged = judge(&catalogue, &self.approvals(), assign, self.uses(assign));
        self.said_of(assign, judged)
    }

    /// Goes on with an attempt whose run's files were opened.
    pub(super) fn opened(&mut self, assign: &Assign, lease_until_boot_us: u64) -> Option<Event> {
        let may = self.still_may_start(assign);
        let said = may.and_then(|()| self.tasks.opened(assign, lease_until_boot_us));
        let (attempt, said) = (assign.attempt, said.err()?);
        Some(Event::Keeper { attempt, said })
    }

    /// Goes on with an attempt whose secrets were fetched, or could not be.
    pub(super) fn granted(&mut self, granted: Granted) -> Option<Event> {
        let attempt = granted.assign.attempt;
        if !self.tasks.awaits(attempt) {
            return None;
        }
        let may = match &granted.secrets {
            Ok(_) => self.asked_again(&granted.assign, Approval::Used),
            Err(_) => Ok(()),
        };
        let said = may.and_then(|()| self.tasks.granted(granted)).err()?;
        Some(Event::Keeper { attempt, said })
    }

    fn still_may_start(&mut self, assign: &Assign) -> Result<(), KeeperSaid> {
        self.asked_again(assign, self.uses(assign))
    }

    fn asked_again(&mut self, assign: &Assign, approval: Approval) -> Result<(), KeeperSaid> {
        let catalogue = self.current.borrow().clone();
        let (chosen, present) = (assign.catalogue_version, catalogue.version());
        let judged = if self.core.view().flags.paused {
            let why =
                "the site paused this agent while what the attempt needs was being made ready";
            Err((Refusal::Paused, why.to_owned()))
        } else if chosen != present {
            let why = format!(
                "chosen under catalogue {chosen}; this is catalogue {present}, which was read while what the attempt \
                 needs was being made ready"
            );
            Err((Refusal::CatalogueVersion, why))
        } else {
            judge(&catalogue, &self.approvals(), assign, approval)
        };
        self.said_of(assign, judged)
    }

    pub(super) fn approvals(&self) -> Approvals {
        Approvals::of(self.tasks.state().path())
    }

    /// What a start now does with its approval.
    fn uses(&self, assign: &Assign) -> Approval {
        if self.tasks.makes_ready(assign) {
            Approval::Looked
        } else {
            Approval::Used
        }
    }

    fn said_of(
        &mut self,
        assign: &Assign,
        judged: Result<(), (Refusal, String)>,
    ) -> Result<(), KeeperSaid> {
        judged.map_err(|(refusal, why)| {
            self.refused(assign, refusal, &why);
            KeeperSaid::NotStarted(NotStarted::Refused(refusal))
        })
    }

    /// Keeps the full reason at the site.
    pub(super) fn refused(&mut self, assign: &Assign, refusal: Refusal, why: &str) {
        let now_us = wall_us();
        if refusal == Refusal::Observe {
            self.observed(assign, why, now_us);
        } else {
            self.noted(assign, refusal, why, now_us);
        }
    }

    /// The same, as it was at that time.
    pub(super) fn noted(&mut self, assign: &Assign, refusal: Refusal, why: &str, now_us: u64) {
        let (attempt, entry) = (assign.attempt, &assign.entry);
        tracing::warn!(%attempt, %entry, "refused: {why}");
        let mut numbers = self.numbers.borrow_mut();
        numbers.refused(now_us, attempt, entry, why);
        self.refusals.note(now_us, assign, refusal, why);
    }
}

/// Until when a keeper may begin what this entry's guards let begin now: no longer than under the lease.
pub(super) fn until(entry: &Entry, lease_until_boot_us: u64, now_boot_us: u64) -> u64 {
    if guards(entry) {
        lease_until_boot_us.min(now_boot_us.saturating_add(WITHIN_US))
    } else {
        lease_until_boot_us
    }
}

/// Whether an entry is asked about here at all.
fn guards(entry: &Entry) -> bool {
    !entry.windows.is_empty() || entry.needs_approval
}

/// Whether the attempt may start now.
///
/// # Errors
/// The refusal for the wire and the full reason for the site.
fn judge(
    catalogue: &Catalogue,
    approvals: &Approvals,
    assign: &Assign,
    approval: Approval,
) -> Result<(), (Refusal, String)> {
    let now_us = wall_us();
    let Some(entry) = catalogue.entry(&assign.entry) else {
        return Ok(());
    };
    within_windows(entry, now_us).map_err(|why| (Refusal::TimeWindow, why))?;
    approved(entry, approvals, assign, approval, now_us).map_err(|why| (Refusal::NotApproved, why))
}

/// Whether a person let it start, where that is needed.
///
/// # Errors
/// The full reason for the site.
pub(super) fn approved(
    entry: &Entry,
    approvals: &Approvals,
    assign: &Assign,
    approval: Approval,
    now_us: u64,
) -> Result<(), String> {
    if !entry.needs_approval {
        return Ok(());
    }
    let (name, texts) = (entry.name.as_str(), texts(assign));
    let is_approved = match approval {
        Approval::Looked => approvals.has(name, &texts, now_us),
        Approval::Used => approvals.take(name, &texts, now_us),
    };
    match is_approved {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "entry `{name}` needs an approval and has none: outpost-agent approve {name}"
        )),
        Err(error) => Err(format!(
            "entry `{name}` needs an approval, and what is approved cannot be read or changed: {error}"
        )),
    }
}

/// Whether it may start at this hour.
///
/// # Errors
/// The full reason for the site.
pub(super) fn within_windows(entry: &Entry, now_us: u64) -> Result<(), String> {
    if entry.windows.is_empty() {
        return Ok(());
    }
    let now = Moment::at(now_us);
    let now =
        now.ok_or_else(|| "this host's clock shows no time that a calendar has".to_owned())?;
    if entry.windows.iter().any(|window| window.is_open(now)) {
        return Ok(());
    }
    let windows = entry.windows.iter().map(ToString::to_string);
    let windows = windows.collect::<Vec<_>>().join("; ");
    Err(format!(
        "entry `{}` may start at {windows} by this site's clock, which shows {:02}:{:02}",
        entry.name,
        now.minute / 60,
        now.minute % 60
    ))
}
