//! When the next certificate is asked for, and how far that is.
//!
//! At about a third of the present one's life, so that two thirds are left for what goes wrong; tried again with jitter
//! and backoff. The key is made by link, the request is recorded by the store before it is said, and the connection
//! under the new certificate is made beside the present one: see [`crate::session::Connector`].

use std::time::Duration;

use outpost_driver::Micros;
use outpost_proto::ids::Conn;
use outpost_proto::limits::CSR_BYTES;
use serde::Serialize;

use crate::chance::Chance;
use crate::event::{NotRecovered, Speech};
use crate::settings::Backoff;
use crate::{Agent, Out};

/// For each step: a request made by link, an answer by the orchestrator. Longer than link itself waits.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Wait after the first failure.
const RETRY: Duration = Duration::from_secs(2);
/// Bounds of the longest wait between two tries: a twelfth of the life, within these.
const LONGEST_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(900));
/// However often the orchestrator wants it: not again within a sixth of the life, or this, whichever is shorter. Each
/// renewal costs a key and two syncs here.
const SHORTEST_GAP: Duration = Duration::from_secs(30);

/// How far a renewal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// None is under way.
    Idle,
    /// Link makes key and request.
    Requested,
    /// The orchestrator was asked on this connection.
    Asked(Conn),
}

/// The certificate's life, and its renewal.
#[derive(Debug)]
pub(crate) struct Renewal {
    stage: Stage,
    /// When it came to this stage.
    since: Micros,
    /// How long the present certificate holds in all, in microseconds, and until when.
    life: Option<(u64, Micros)>,
    due: Option<Micros>,
    began: Option<Micros>,
    failures: u32,
}

/// The certificate as people see it. Times are microseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// When it ends.
    pub until_us: u64,
    /// When the next one is asked for; `None` while that is under way.
    pub renewal_at_us: Option<u64>,
    /// Tries that failed since the last one that did not.
    pub failures: u32,
}

impl Renewal {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::Idle,
            since: Micros(0),
            life: None,
            due: None,
            began: None,
            failures: 0,
        }
    }

    /// What link presents from now on.
    fn holds(&mut self, life_us: u64, until: Micros, chance: &mut Chance) {
        self.life = Some((life_us, until));
        if self.failures == 0 {
            // Between three tenths and eleven thirtieths of the life: agents that enrolled together do not stay in step.
            let left = (life_us / 30 * 21).saturating_sub(chance.up_to(life_us / 15));
            self.due = Some(Micros(until.0.saturating_sub(left)));
        }
    }

    fn enter(&mut self, stage: Stage, now: Micros) {
        self.stage = stage;
        self.since = now;
    }

    fn failed(&mut self, now: Micros, chance: &mut Chance) {
        self.enter(Stage::Idle, now);
        self.failures = self.failures.saturating_add(1);
        let twelfth = self.life.map_or(0, |(life_us, _)| life_us / 12);
        let cap = Duration::from_micros(twelfth).clamp(LONGEST_RETRY.0, LONGEST_RETRY.1);
        let bound = Backoff { base: RETRY, cap }.bound_us(self.failures);
        self.due = Some(Micros(now.0.saturating_add(chance.up_to(bound))));
    }

    /// The orchestrator wants it now. A try that has failed keeps its wait.
    fn wanted(&mut self, now: Micros) {
        if self.failures > 0 {
            return;
        }
        let sixth = self.life.map_or(u64::MAX, |(life_us, _)| life_us / 6);
        let gap = Duration::from_micros(sixth).min(SHORTEST_GAP);
        let soonest = self.began.map_or(now, |began| now.max(began.plus(gap)));
        self.due = Some(self.due.map_or(soonest, |due| due.min(soonest)));
    }

    fn overdue(&self) -> Option<Micros> {
        (self.stage != Stage::Idle).then(|| self.since.plus(STEP_TIMEOUT))
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// When something is to be done, given that the session is ready or not.
    pub(crate) fn next_deadline(&self, may_begin: bool) -> Option<Micros> {
        self.overdue()
            .or_else(|| self.due.filter(|_| may_begin && self.stage == Stage::Idle))
    }

    pub(crate) fn view(&self) -> Option<CertificateView> {
        let (_, until) = self.life?;
        Some(CertificateView {
            until_us: until.0,
            renewal_at_us: self
                .due
                .filter(|_| self.stage == Stage::Idle)
                .map(|Micros(at)| at),
            failures: self.failures,
        })
    }
}

impl Agent {
    /// Link told which certificate it presents, or the site's clock was set.
    pub(crate) fn certificate(&mut self, life_us: u64, until: Micros) {
        self.renewal
            .holds(life_us, until, self.connector.chance_mut());
    }

    /// Link presents a newer certificate on every connection that is made from now on.
    pub(crate) fn renewed(&mut self, now: Micros, life_us: u64, until: Micros) {
        self.renewal.enter(Stage::Idle, now);
        self.renewal.failures = 0;
        self.certificate(life_us, until);
        self.recovered(now);
        self.connector.outdate(now);
    }

    pub(crate) fn not_renewed(&mut self, now: Micros) {
        if !self.renewal.is_idle() {
            self.renewal.failed(now, self.connector.chance_mut());
        }
    }

    /// Link holds no newer certificate: it ended, or could not store what came.
    pub(crate) fn not_stored(&mut self, now: Micros) {
        self.not_renewed(now);
        if let Some(conn) = self.recovery.conn() {
            self.not_recovered(now, conn, NotRecovered::Later);
        }
    }

    pub(crate) fn renew_now(&mut self, now: Micros) {
        self.renewal.wanted(now);
    }

    /// Link made a request, or could not.
    pub(crate) fn csr(&mut self, now: Micros, der: &[u8], out: &mut Out) {
        if self.renewal.stage != Stage::Requested {
            return;
        }
        match self.connector.ready().map(|session| session.conn) {
            Some(conn) if (1..=CSR_BYTES).contains(&der.len()) => {
                self.renewal.enter(Stage::Asked(conn), now);
                out.speech.push(Speech::Renew {
                    conn,
                    csr: der.to_vec(),
                });
            }
            Some(_) | None => self.not_renewed(now),
        }
    }

    /// No answer comes on a connection that is gone.
    pub(crate) fn unanswered(&mut self, now: Micros, conn: Conn) {
        if self.renewal.stage == Stage::Asked(conn) {
            self.not_renewed(now);
        }
    }

    /// Begins a renewal that is due, and gives up one that takes too long.
    pub(crate) fn renew(&mut self, now: Micros, out: &mut Out) {
        if self.renewal.overdue().is_some_and(|at| at <= now) {
            self.not_renewed(now);
        }
        if self.may_renew()
            && self.renewal.is_idle()
            && self.renewal.due.is_some_and(|due| due <= now)
        {
            self.renewal.enter(Stage::Requested, now);
            self.renewal.began = Some(now);
            out.speech.push(Speech::MakeCsr);
        }
    }

    /// On a session that works, not while its successor is being made, and never under a certificate that has been
    /// renewed already: the orchestrator would take that for a sign that the renewed one was never stored.
    pub(crate) fn may_renew(&self) -> bool {
        let session = self.connector.ready();
        session.is_some_and(|session| !session.outdated)
            && !self.connector.is_succeeding()
            && self.gates.stopping.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;

    #[test]
    fn it_is_due_at_about_a_third_of_the_life() {
        let mut chance = Chance::new([3; 32]);
        let mut dues = Vec::new();
        for _ in 0..200 {
            let mut renewal = Renewal::new();
            renewal.holds(30 * HOUR, Micros(40 * HOUR), &mut chance);
            dues.extend(renewal.due.map(|due| due.0 - 10 * HOUR));
        }
        assert!(dues.iter().all(|due| (9 * HOUR..=11 * HOUR).contains(due)));
        assert!(dues.iter().any(|due| *due < 9 * HOUR + HOUR / 4));
        assert!(dues.iter().any(|due| *due > 11 * HOUR - HOUR / 4));
    }

    #[test]
    fn failures_wait_longer_and_never_longer_than_a_twelfth_of_the_life() {
        let mut chance = Chance::new([3; 32]);
        for (life_s, longest_s) in [(20, 2), (3600, 300), (86_400, 900)] {
            let mut renewal = Renewal::new();
            renewal.holds(life_s * 1_000_000, Micros(life_s * 1_000_000), &mut chance);
            for _ in 0..50 {
                renewal.failed(Micros(0), &mut chance);
                assert!(renewal.due.unwrap().0 <= longest_s * 1_000_000);
            }
            assert_eq!(renewal.view().unwrap().failures, 50);
        }
    }

    #[test]
    fn a_life_of_moments_or_of_ages_is_a_life() {
        let mut chance = Chance::new([5; 32]);
        for life_us in [0, 1, 15, 29, u64::MAX] {
            for until in [0, u64::MAX] {
                for _ in 0..100 {
                    let mut renewal = Renewal::new();
                    renewal.holds(life_us, Micros(until), &mut chance);
                    assert!(renewal.due.is_some_and(|due| due.0 <= until));
                }
            }
        }
    }

    #[test]
    fn whoever_wants_it_all_the_time_gets_it_now_and_then() {
        let mut chance = Chance::new([3; 32]);
        let mut renewal = Renewal::new();
        renewal.holds(24 * HOUR, Micros(24 * HOUR), &mut chance);
        renewal.wanted(Micros(5));
        assert_eq!(renewal.due, Some(Micros(5)), "the first time at once");
        renewal.began = Some(Micros(5));
        renewal.holds(24 * HOUR, Micros(24 * HOUR), &mut chance);
        renewal.wanted(Micros(6));
        assert_eq!(renewal.due, Some(Micros(30_000_005)));
    }
}
