//! An agent that was out of reach until its certificate ended asks for another one.
//!
//! It has proven that it holds the ended certificate's key. It gets another one if that key is still the one it is bound
//! to, if it presents the nonce that its last session left with it, and not too late or too often. Whoever holds the key
//! and cannot have both is a copy, and from then on nobody gets work under that name before a person has decided. So is
//! whoever asks for another next key than the one that was already asked for: an agent keeps that one until it has the
//! certificate for it.

use std::collections::VecDeque;
use std::time::Duration;

use outpost_driver::Micros;
use outpost_proto::ids::{Nonce, RecoveryEpoch};
use outpost_proto::name::AgentName;
use serde::{Deserialize, Serialize};

use crate::event::{Answer, Denied};
use crate::limits::{
    RECOVERIES_ALARM, RECOVERIES_ALARM_WITHIN, RECOVERIES_WITHIN, RECOVERIES_WITHIN_DAYS, Settings,
};
use crate::record::{AgentRecord, NoticeKind};
use crate::safety::Safety;
use crate::standing::{Holder, Keep, Quarantine};
use crate::tenant::{Ctx, Tenant};

/// Why an agent gets no certificate in place of one that ended, and what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRecovered {
    /// No such agent, or one that was removed.
    #[error("it is not known here, or was removed: invite it under a new name and enrol it")]
    Unknown,
    /// Two holders, and nobody has decided.
    #[error(
        "its identity has two holders: decide which one stays (`outpost agents resolve`), then the kept one may ask again"
    )]
    Quarantined,
    /// A person decided against this holder.
    #[error(
        "another holder of its identity was kept: move this copy's state away and enrol it under a name of its own"
    )]
    TurnedAway,
    /// The key is not the one that the agent is bound to.
    #[error(
        "it is known by another key: this is an earlier state of it, or its name was given to another; remove it, \
         invite it again and enrol it"
    )]
    OtherKey,
    /// The certificate holds by the orchestrator's clock.
    #[error(
        "its certificate has not ended by the orchestrator's clock: it connects with the one it has"
    )]
    NotExpired,
    /// The certificate ended too long ago.
    #[error(
        "its certificate ended longer ago than is accepted: remove it, invite it again and enrol it"
    )]
    TooLate,
    /// It was done often lately.
    #[error(
        "it has recovered as often as is accepted in {RECOVERIES_WITHIN_DAYS} days: remove it, invite it again and \
         enrol it, and see why it does not renew"
    )]
    TooOften,
}

/// A certificate that took the place of one that had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The key of the ended one (SHA-256, hex).
    pub from: String,
    /// The first key that was presented for its successor: no other one gets it.
    pub to: String,
    /// A person decided so: whoever presents another one is turned away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decided: bool,
}

/// What the holder of an ended certificate presents. Hashes are SHA-256 in hex.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expired<'a> {
    pub(crate) key_hash: &'a str,
    pub(crate) next_key: &'a str,
    pub(crate) nonce: Nonce,
    /// Milliseconds since it ended; `None` while it holds.
    pub(crate) ended_ms_ago: Option<u64>,
    /// When it ended, in microseconds since 1970.
    pub(crate) not_after: u64,
}

impl Expired<'_> {
    fn keys(&self) -> Recovered {
        Recovered {
            from: self.key_hash.to_owned(),
            to: self.next_key.to_owned(),
            decided: false,
        }
    }
}

impl AgentRecord {
    /// A person decided between two holders, of which the one that appeared had a certificate that ended. Under the same
    /// key and the same nonce only the next key tells them apart.
    pub(crate) fn decide_recovery(&mut self, keep: Keep, that: Recovered) {
        match keep {
            Keep::This => {
                let asked = self.next_key.clone();
                let asked = asked.filter(|_| self.key_hash == that.from);
                let this = &mut self.standing.recovered;
                if let Some(this) = this.as_mut().filter(|this| this.from == that.from) {
                    this.decided = true;
                } else if let Some(to) = asked {
                    let (from, decided) = (that.from, true);
                    *this = Some(Recovered { from, to, decided });
                }
            }
            Keep::That => {
                (self.key_hash, self.next_key) = (that.from.clone(), Some(that.to.clone()));
                self.standing.recovered = Some(Recovered {
                    decided: true,
                    ..that
                });
            }
        }
    }
}

impl AgentRecord {
    /// Whether the ended certificate is the agent's: as known, or once after a restore, if it is a newer one than the
    /// backup knows. What the agent has left behind ended earlier.
    fn recovers(&self, expired: &Expired<'_>, recovery: RecoveryEpoch) -> bool {
        let newest = self.certificate_not_after.unwrap_or(self.enrolled_at);
        let newer = expired.not_after > newest && !self.is_of_former(expired.key_hash);
        self.accepts(expired.key_hash) || (self.is_unmet(recovery) && newer)
    }

    /// Whether another next key than this was asked for under the same key, and not used yet. A person's decision
    /// between two holders lets the kept one ask anew.
    fn awaits_another(&self, expired: &Expired<'_>) -> bool {
        let next = self.next_key.as_deref();
        !self.standing.rekey
            && self.key_hash == expired.key_hash
            && next.is_some_and(|next| next != expired.next_key)
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Issue,
    /// As before: the answer may not have arrived.
    IssueAgain,
    /// A copy of the agent asks.
    Second,
    Refuse(NotRecovered),
}

fn judge(
    record: &AgentRecord,
    expired: &Expired<'_>,
    (now, recovery): (Micros, RecoveryEpoch),
    settings: &Settings,
) -> Verdict {
    let standing = &record.standing;
    if record.removed {
        return Verdict::Refuse(NotRecovered::Unknown);
    }
    if standing.quarantine.is_some() {
        return Verdict::Refuse(NotRecovered::Quarantined);
    }
    // Nobody gets anything for such a key: whoever still has it disturbs nobody.
    let within = settings.recover_within.as_millis();
    if expired
        .ended_ms_ago
        .is_some_and(|ago| u128::from(ago) > within)
    {
        return Verdict::Refuse(NotRecovered::TooLate);
    }
    let before = standing
        .recovered
        .as_ref()
        .filter(|before| before.from == expired.key_hash);
    // Whoever held the key when another one took its place with it is a second holder, whatever its nonce.
    if let Some(before) = before.filter(|before| before.to != expired.next_key) {
        return match before.decided {
            true => Verdict::Refuse(NotRecovered::TurnedAway),
            false => Verdict::Second,
        };
    }
    if !record.recovers(expired, recovery) {
        return Verdict::Refuse(NotRecovered::OtherKey);
    }
    match record.holder(expired.nonce) {
        Holder::Known => {}
        Holder::Refused => return Verdict::Refuse(NotRecovered::TurnedAway),
        Holder::Second if record.is_unmet(recovery) => {}
        Holder::Second => return Verdict::Second,
    }
    if expired.ended_ms_ago.is_none() {
        return Verdict::Refuse(NotRecovered::NotExpired);
    }
    if before.is_some() {
        return Verdict::IssueAgain;
    }
    if record.awaits_another(expired) {
        return Verdict::Second;
    }
    let recent = standing.recoveries.iter();
    let recent = recent.filter(|at| is_within(**at, now, RECOVERIES_WITHIN));
    if recent.count() >= usize::from(settings.recoveries) {
        return Verdict::Refuse(NotRecovered::TooOften);
    }
    Verdict::Issue
}

fn is_within(at: u64, now: Micros, span: Duration) -> bool {
    Micros(at).plus(span) > now
}

/// When agents of one tenant recovered lately, in this process: many at once are told apart from one.
#[derive(Debug, Default)]
pub(crate) struct Recoveries {
    lately: VecDeque<u64>,
    told: Option<u64>,
}

impl Recoveries {
    /// One more; answers how many there were lately, if that is to be told.
    fn one_more(&mut self, now: Micros) -> Option<usize> {
        let within = |at: u64| is_within(at, now, RECOVERIES_ALARM_WITHIN);
        while self.lately.front().is_some_and(|at| !within(*at)) {
            self.lately.pop_front();
        }
        // No more are needed to know that there are too many.
        if self.lately.len() <= RECOVERIES_ALARM {
            self.lately.push_back(now.0);
        }
        let often = self.lately.len() > RECOVERIES_ALARM;
        if !often || self.told.is_some_and(within) {
            return None;
        }
        self.told = Some(now.0);
        Some(self.lately.len())
    }
}

impl Tenant {
    /// Lets an agent have a certificate in place of one that ended, if it is the one that was bound to it. The key of the
    /// ended one stays good for asking again with the same next key, because the answer may never arrive.
    pub(crate) fn recover_certificate(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        expired: &Expired<'_>,
    ) -> Result<Answer, Denied> {
        let denied = |why| Denied::NotRecovered {
            agent: name.clone(),
            why,
        };
        let Some(agent) = self.agents.get_mut(name) else {
            return Err(denied(NotRecovered::Unknown));
        };
        let at = (ctx.now, ctx.recovery);
        match judge(&agent.record, expired, at, ctx.settings) {
            Verdict::Refuse(why) => Err(denied(why)),
            Verdict::IssueAgain => Ok(Answer::Renewed),
            Verdict::Second => {
                self.copy_asks(ctx, name, expired);
                Err(denied(NotRecovered::Quarantined))
            }
            Verdict::Issue => {
                agent.remember(ctx.turn);
                let record = &mut agent.record;
                record.uses(expired.key_hash);
                record.next_key = Some(expired.next_key.to_owned());
                record.standing.recovered = Some(expired.keys());
                let recoveries = &mut record.standing.recoveries;
                recoveries.retain(|at| is_within(*at, ctx.now, RECOVERIES_WITHIN));
                recoveries.push(ctx.now.0);
                self.places.changed.insert(name.clone());
                self.tell_recovered(ctx, name);
                Ok(Answer::Renewed)
            }
        }
    }

    /// A copy of the agent proved that it holds the key: both are set aside, as when it says Hello.
    fn copy_asks(&mut self, ctx: &mut Ctx<'_>, name: &AgentName, expired: &Expired<'_>) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.remember(ctx.turn);
        let record = &mut agent.record;
        // It has said nothing of its life: with the same one, what the other may have started counts as started.
        let mut quarantine = Quarantine::new(ctx.now.0, record.incarnation);
        quarantine.nonces = vec![expired.nonce];
        quarantine.recovers = Some(expired.keys());
        record.standing.quarantine = Some(quarantine);
        self.places.changed.insert(name.clone());
        self.set_aside(ctx, name);
    }

    fn tell_recovered(&mut self, ctx: &mut Ctx<'_>, name: &AgentName) {
        self.tell_safety(ctx, Safety::CertificateRecovered, name, None);
        let Some(count) = self.recoveries.one_more(ctx.now) else {
            return;
        };
        let reason = format!(
            "{count} agents of this tenant within an hour: after a long outage that is to be expected, otherwise \
             somebody may try keys of certificates that ended"
        );
        let notice = NoticeKind::Safety {
            what: Safety::RecoveredOften,
            agent: None,
            attempt: None,
            by: None,
            reason: Some(reason),
        };
        ctx.notice(&self.record.tenant, notice);
    }
}
