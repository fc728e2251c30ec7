//! What cannot hold of an identity of which there are two, of which attempts, and why. Nothing else is exempt from any
//! invariant because of a copy.
//!
//! Nobody can know of a second holder before it comes. What either does until then is told truly and may be wrong:
//!
//! * **Two of one life.** A state directory was copied to another place of the same host: both holders are the same
//!   incarnation, so that nothing but the chain of nonces tells them apart. Until somebody decides, each may have been
//!   given, and each may start, what was assigned to the one agent; each tells what became of it there. So of these
//!   attempts there may be two starts, and an end, told by one, of what the other runs or never began: exempt from every
//!   sentence about starts and ends.
//! * **Taken for over.** A copy that comes first presents the nonce that is expected and says that the attempts of the
//!   life before its own are interrupted, or lacks them: just as after a reboot. Was the original silent for the presence
//!   timeout, that is believed, and the original may run them still, or begin them under a lease that it still has.
//!   Exempt, for these attempts alone: an end is accepted only when nothing of the task runs; what is over does not
//!   start; nothing starts once a later attempt exists; a successor waits for what ends alone. That the original was
//!   silent for so long is an invariant itself, and so is all that is told of what never started or how it ended. Such a
//!   word of what was given up before is kept beside and changes nothing, whoever says it and when.
//!
//! * **Decided against.** What one holder told of a life before its own, and somebody then decided for the other: that
//!   one tells itself what became of it, and nothing is kept of the first one's word. Exempt, for interruptions of these
//!   agents alone: an outcome is kept at the agent until it is durable upstream.
//!
//! * **Forgotten with its holder.** A database that is restored to a time before the copy forgets what was assigned to one
//!   holder since, that there are two, and what somebody decided of them. Comes the other one first, then it is asked,
//!   presents the nonce that is taken as given, and truly never had it: its task is given out anew, while the first one's
//!   lease still lives. Or it holds what the first one runs, from before the copy, and says that a reboot ended that:
//!   nobody is known whose silence could be waited for. Exempt, for what the restored database does not know and only
//!   another holder than the one that was heard since has or may begin: nothing starts once a later attempt exists; and
//!   what is exempt of what is taken for over.
//!
//! A host that is put back to its snapshot is a single holder: nothing is exempt.

use outpost_orchestrator_core::event::Event;
use outpost_orchestrator_core::record::{AttemptRecord, Phase};
use outpost_proto::ids::AttemptId;
use outpost_proto::limits::STALE_AFTER;
use outpost_proto::outcome::{Interruption, Outcome, Report};

use crate::clones::Copied;
use crate::invariants::{Checked, holds};
use crate::queue::At;
use crate::records::outcome_of;
use crate::world::World;

impl World {
    /// Two of one life may each have this attempt.
    pub(crate) fn may_be_with_two_alike(&self, attempt: &AttemptRecord) -> bool {
        self.copied_name(attempt)
            .is_some_and(|copied| copied.alike && copied.was_open_at(attempt.assigned_at))
    }

    /// It was taken for over on the word of another life than the one that has it.
    pub(crate) fn is_taken_for_over(&self, attempt: AttemptId) -> bool {
        self.clones.taken_for_over.contains(&attempt)
    }

    /// Somebody decided which holder stays: what the other one told of a former life may be let go of.
    pub(crate) fn is_let_go(&self, attempt: &AttemptRecord) -> bool {
        self.copied_name(attempt).is_some_and(Copied::is_decided)
    }

    /// For one of the first two reasons.
    pub(crate) fn is_excused(&self, attempt: &AttemptRecord) -> bool {
        self.is_taken_for_over(attempt.attempt) || self.may_be_with_two_alike(attempt)
    }

    /// A restored database does not know it, and heard another holder than this site, which has it.
    pub(crate) fn is_forgotten_with_its_holder(&self, site: usize, attempt: AttemptId) -> bool {
        let known = self.center.disk.mirror.attempts.contains_key(&attempt);
        let former = self.truth.former.attempt(attempt).filter(|_| !known);
        let copied = former.and_then(|former| self.copied_name(former));
        copied.is_some_and(|copied| copied.was_ready_elsewhere(site))
    }

    /// The site whose life it was given to.
    fn has_it(&self, attempt: &AttemptRecord) -> Option<usize> {
        // A restored database takes it in without knowing that.
        let former = self.truth.former.attempt(attempt.attempt);
        let known = former.filter(|_| attempt.recovered).unwrap_or(attempt);
        self.sites.iter().position(|site| {
            let named = (&site.identity.tenant, &site.identity.agent);
            named == (&attempt.tenant, &attempt.agent)
                && !site.gone
                && site.incarnation == known.incarnation
        })
    }

    /// Another life said of what was given up before that a reboot ended it.
    pub(crate) fn is_word_beside(&self, attempt: &AttemptRecord, told: Report) -> bool {
        let given_up = matches!(attempt.phase, Phase::Lost { .. });
        let rebooted = told.outcome == Outcome::Interrupted(Interruption::Reboot);
        let two = self.copied_name(attempt);
        given_up
            && rebooted
            && two.is_some_and(|copied| !copied.alike)
            && self.has_it(attempt).is_some()
    }

    /// The orchestrator took these in, by a decision of this moment.
    pub(crate) fn have_spoken(&mut self, events: &[Event], at: At) {
        for event in events {
            let Event::Frame { conn, .. } = event else {
                continue;
            };
            // What comes again of a stream that has ended is not taken in.
            let ends = |event: &Event| matches!(event, Event::Closed { conn: of } if of == conn);
            let link = self.network.links.get(&conn.0);
            if let Some(link) = link.filter(|link| link.center_open || events.iter().any(ends)) {
                self.sites[link.site].spoke = Some(at);
            }
        }
    }

    /// When an end is accepted, or the wait for it given up: whether another life said so of one that still has it.
    pub(crate) fn invariant_only_a_silent_life_is_taken_for_over(
        &mut self,
        after: &AttemptRecord,
    ) -> Checked {
        let Some(copied) = self.copied_name(after).filter(|copied| !copied.alike) else {
            return Ok(());
        };
        let decided = copied.is_decided();
        let rebooted = Outcome::Interrupted(Interruption::Reboot);
        let told = outcome_of(after).is_some_and(|report| report.outcome == rebooted);
        let lost = matches!(after.phase, Phase::Lost { .. });
        let Some(index) = self.has_it(after).filter(|_| told || lost) else {
            return Ok(());
        };
        self.trace.count("attempt of another holder taken for over");
        self.clones.taken_for_over.insert(after.attempt);
        let silent = self.sites[index]
            .spoke
            .map(|at| self.now.saturating_sub(at));
        let timeout = At::try_from(STALE_AFTER.as_micros()).unwrap_or(At::MAX);
        holds(
            !told || after.recovered || (!decided && silent.is_none_or(|silent| silent >= timeout)),
            "the end of another life is believed only once that was silent for long enough",
            format!(
                "{}: s{index} was silent for {silent:?} us, decided: {decided}",
                after.attempt
            ),
        )
    }
}
