//! Another certificate in place of one that ended while the orchestrator was out of reach.
//!
//! Begun when the orchestrator, or the clock, says that it has ended; never while a session stands. Link names the
//! certificate and a new key, the orchestrator answers with a challenge, link signs it, and what comes back is stored as
//! with a renewal. Both requests are recorded by the store before they are said. After a refusal the certificate is tried
//! again first: the other side may have been wrong. Attempts, outcomes and counters are touched by none of it.

use std::time::Duration;

use outpost_driver::Micros;
use outpost_proto::ids::Conn;
use outpost_proto::wire::{ChallengeAnswer, RecoverRequest};
use serde::Serialize;

use crate::event::{NotRecovered, Proof, Speech};
use crate::{Agent, Out, Trouble};

/// For each step: what link puts together, an answer by the orchestrator. Longer than link itself waits.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing is under way.
    Idle,
    /// Link puts a request together: the first one, or with the answer to this challenge.
    Proving { conn: Conn, challenge: Vec<u8> },
    /// The orchestrator was asked on this connection, which has no stream.
    Asked { conn: Conn, answered: bool },
}

/// An ended certificate, and what is done about it.
#[derive(Debug)]
pub(crate) struct Recovery {
    stage: Stage,
    /// When it came to this stage.
    since: Micros,
    /// The next connection asks for another certificate instead of opening a stream.
    wanted: bool,
    /// Tries that failed since the last session, or certificate.
    failures: u32,
}

/// A recovery as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RecoveryView {
    /// Whether the orchestrator is being asked just now.
    pub under_way: bool,
    /// Tries that failed.
    pub failures: u32,
}

impl Recovery {
    pub(crate) fn new() -> Self {
        Self {
            stage: Stage::Idle,
            since: Micros(0),
            wanted: false,
            failures: 0,
        }
    }

    fn enter(&mut self, stage: Stage, now: Micros) {
        self.stage = stage;
        self.since = now;
    }

    /// Whether the next connection is for a recovery.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// The connection it is made on, while there is one.
    pub(crate) fn conn(&self) -> Option<Conn> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Proving { conn, .. } | Stage::Asked { conn, .. } => Some(*conn),
        }
    }

    /// When nobody waits for the present step any longer.
    pub(crate) fn overdue(&self) -> Option<Micros> {
        self.is_under_way().then(|| self.since.plus(STEP_TIMEOUT))
    }

    /// The orchestrator takes the certificate.
    pub(crate) fn over(&mut self) {
        self.wanted = false;
        self.failures = 0;
    }

    pub(crate) fn view(&self) -> Option<RecoveryView> {
        let view = RecoveryView {
            under_way: self.is_under_way(),
            failures: self.failures,
        };
        (self.wanted || view.under_way || view.failures > 0).then_some(view)
    }
}

impl Agent {
    /// The certificate has ended, says the orchestrator or the clock. The session is gone.
    pub(crate) fn has_ended(&mut self, now: Micros) {
        self.recovery.wanted = true;
        let bound = self.settings.recover.bound_us(self.recovery.failures + 1);
        self.connector.retry_within(now, bound);
    }

    /// Instead of a stream.
    pub(crate) fn recover(&mut self, now: Micros, out: &mut Out) {
        let stage = Stage::Proving {
            conn: self.connector.number(),
            challenge: Vec::new(),
        };
        self.recovery.enter(stage, now);
        out.speech.push(Speech::Prove {
            session_nonce: self.counters.nonce,
            challenge: Vec::new(),
        });
    }

    /// Link put a request together, or could not.
    pub(crate) fn proven(&mut self, now: Micros, made: &Proof, out: &mut Out) {
        let Stage::Proving { conn, challenge } = &self.recovery.stage else {
            return;
        };
        let conn = *conn;
        let answered = !challenge.is_empty();
        let answer = answered.then(|| ChallengeAnswer {
            challenge: challenge.clone(),
            proof: made.proof.clone(),
        });
        let request = RecoverRequest {
            certificate: made.certificate.clone(),
            session_nonce: self.counters.nonce,
            csr: made.csr.clone(),
            answer,
        };
        // What link could not make is empty, and has no wire form.
        if request.encode().is_err() {
            return self.not_recovered(now, conn, NotRecovered::Later);
        }
        self.recovery.enter(Stage::Asked { conn, answered }, now);
        out.speech.push(Speech::Recover {
            conn,
            request: Box::new(request),
        });
    }

    /// The orchestrator wants to see that the key is held.
    pub(crate) fn challenged(&mut self, now: Micros, conn: Conn, challenge: &[u8], out: &mut Out) {
        let asked = Stage::Asked {
            conn,
            answered: false,
        };
        if self.recovery.stage != asked {
            // A second challenge is no answer to a proof.
            return self.not_recovered(now, conn, NotRecovered::Later);
        }
        let challenge = challenge.to_vec();
        let stage = Stage::Proving {
            conn,
            challenge: challenge.clone(),
        };
        self.recovery.enter(stage, now);
        out.speech.push(Speech::Prove {
            session_nonce: self.counters.nonce,
            challenge,
        });
    }

    /// There is none, for this reason. On a connection that is not the present one it means nothing.
    pub(crate) fn not_recovered(&mut self, now: Micros, conn: Conn, why: NotRecovered) {
        if self.recovery.conn() != Some(conn) {
            return;
        }
        self.due.hangups.push(conn);
        self.recovery_failed(now, why);
    }

    /// The connection is gone, or link is, or it took too long, or what came cannot be stored.
    pub(crate) fn recovery_failed(&mut self, now: Micros, why: NotRecovered) {
        if !self.recovery.is_under_way() {
            return;
        }
        let recovery = &mut self.recovery;
        recovery.enter(Stage::Idle, now);
        recovery.failures = recovery.failures.saturating_add(1);
        recovery.wanted = why == NotRecovered::Later;
        let settings = &self.settings;
        let backoff = match why {
            NotRecovered::Holds | NotRecovered::Later => settings.recover,
            NotRecovered::Refused => settings.refused,
        };
        let bound = backoff.bound_us(self.recovery.failures);
        self.connector.retry_within(now, bound);
        self.trouble = Some(Trouble::NotRecovered(why));
    }

    /// Another certificate is durable: the next connection is a stream again, at once. The one on which it came may be
    /// gone already, and the session of a renewal too.
    pub(crate) fn recovered(&mut self, now: Micros) {
        if let Some(conn) = self.recovery.conn() {
            self.due.hangups.push(conn);
            self.recovery.enter(Stage::Idle, now);
        }
        self.recovery.over();
        if self.connector.session.is_none() {
            self.connector.retry_within(now, 0);
        }
    }

    /// Gives up a step that takes too long.
    pub(crate) fn recover_no_longer(&mut self, now: Micros) {
        if self.recovery.overdue().is_some_and(|at| at <= now)
            && let Some(conn) = self.recovery.conn()
        {
            self.not_recovered(now, conn, NotRecovered::Later);
        }
    }
}
