//! The one connection: where it stands, how long it may stay there, and when the next one is tried.
//!
//! Under a new certificate a successor is made beside the present session, which goes on until the successor's stream
//! stands. With Hello on that, the present one is silent: it is only ended once the orchestrator has taken the Hello,
//! so that there is no moment in which the agent has no stream.
//!
//! Hello, Welcome, Inventory, Reconciled, work: in this order on every stream, whatever happened before. A session
//! knows its connection's number, so that nothing said on an earlier stream reaches a later one.

use std::time::Duration;

use outpost_driver::Micros;
use outpost_proto::ids::{CommandSeq, Conn};
use outpost_proto::limits;
use outpost_proto::message::{UpMessage, Welcome};

use crate::chance::Chance;
use crate::event::Down;
use crate::grid::Grid;
use crate::lease::Lease;
use crate::settings::{Backoff, Settings};

/// For each step until the session is ready: resolving, connecting and handshakes, or an orchestrator that admits
/// its agents slowly after a restart.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// What an orchestrator may ask for as the time between heartbeats, in milliseconds.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 50..=3_600_000;

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The connection is being made.
    Dialling,
    /// Hello is sent.
    Greeting,
    /// Welcome arrived; the inventory follows in the same turn.
    Welcomed,
    /// The inventory is sent; directives follow from it.
    Reconciling,
    /// Work may be taken and events sent.
    Ready,
}

/// One connection and what was agreed on it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: Conn,
    pub(crate) phase: Phase,
    /// When it came to this phase.
    pub(crate) since: Micros,
    /// The last word from the other side, or the last step made.
    heard: Micros,
    heartbeat_ms: u64,
    next_heartbeat: Option<Micros>,
    grid: Grid,
    pub(crate) lease: Lease,
    /// A newer certificate than this stream's is stored.
    pub(crate) outdated: bool,
    /// The newest command taken on this stream.
    pub(crate) command: Option<CommandSeq>,
    /// Whether a command was taken since the last Ack.
    pub(crate) ack_due: bool,
    /// When what may collect is said at the latest; `None` while there is nothing.
    pub(crate) report_by: Option<Micros>,
    /// Whether the catalogue is to be announced again.
    pub(crate) announce: bool,
    /// What goes out at the end of this turn, in order.
    pub(crate) pending: Vec<UpMessage>,
}

impl Session {
    fn new(conn: Conn, now: Micros) -> Self {
        Self {
            conn,
            phase: Phase::Dialling,
            since: now,
            heard: now,
            heartbeat_ms: 0,
            next_heartbeat: None,
            grid: Grid::default(),
            lease: Lease::default(),
            outdated: false,
            command: None,
            ack_due: false,
            report_by: None,
            announce: false,
            pending: Vec::new(),
        }
    }

    pub(crate) fn enter(&mut self, phase: Phase, now: Micros) {
        self.phase = phase;
        self.since = now;
        self.heard = now;
    }

    pub(crate) fn hears(&mut self, now: Micros) {
        self.heard = now;
    }

    /// What Welcome dictates, but heartbeats that are so far `apart` at least. The first one follows the inventory at
    /// once, and the inventory Welcome; see [`Self::tells_behind`].
    pub(crate) fn agree(&mut self, welcome: &Welcome, now: Micros, apart: Duration) {
        let apart_ms = u64::try_from(apart.as_millis()).unwrap_or(u64::MAX);
        self.heartbeat_ms = u64::from(welcome.heartbeat_interval_ms)
            .max(apart_ms)
            .clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
        self.next_heartbeat = Some(now);
    }

    /// Inventory and heartbeats wait for the moments of this grid, and for one that is behind what was `told` last on
    /// whichever connection.
    pub(crate) fn tells_behind(&mut self, now: Micros, told: Micros, grid: Grid) {
        self.grid = grid;
        if grid != Grid::default() {
            self.next_heartbeat = Some(grid.from(now).max(grid.behind(told)));
        }
    }

    /// Whether the inventory may be told.
    pub(crate) fn may_tell(&self, now: Micros) -> bool {
        self.tells_at().is_none_or(|at| at <= now)
    }

    /// The moment that the inventory waits for.
    fn tells_at(&self) -> Option<Micros> {
        self.next_heartbeat
            .filter(|_| self.phase == Phase::Welcomed && self.grid != Grid::default())
    }

    pub(crate) fn heartbeat_due(&self, now: Micros) -> bool {
        self.phase >= Phase::Reconciling && self.next_heartbeat.is_some_and(|at| at <= now)
    }

    pub(crate) fn heartbeat_sent(&mut self, now: Micros) {
        let since = self.grid.until(now);
        self.next_heartbeat = Some(self.grid.from(since.plus_ms(self.heartbeat_ms)));
    }

    /// When nobody waits for the other side any longer.
    pub(crate) fn patience_ends(&self) -> Micros {
        match self.phase {
            Phase::Dialling | Phase::Greeting | Phase::Welcomed | Phase::Reconciling => {
                self.heard.plus(STEP_TIMEOUT)
            }
            Phase::Ready => {
                let silent = self.heard.plus_ms(self.heartbeat_ms.saturating_mul(4));
                silent.max(self.heard.plus(limits::STALE_AFTER))
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Micros {
        let heartbeat = self
            .next_heartbeat
            .filter(|_| self.phase >= Phase::Reconciling);
        [heartbeat, self.tells_at(), self.report_by]
            .into_iter()
            .flatten()
            .fold(self.patience_ends(), Micros::min)
    }
}

/// The connection, or the time of the next try.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) session: Option<Session>,
    /// Being made beside the session; takes its place when its stream stands.
    successor: Option<Session>,
    /// A successor is wanted, not before then.
    succeed_at: Option<Micros>,
    /// The stream whose place was taken: nothing more is said or heard on it.
    fading: Option<Conn>,
    chance: Chance,
    next_conn: u64,
    failures: u32,
    successor_failures: u32,
    pub(crate) retry_at: Micros,
    /// The moments at which a connection may begin, and something be told on it.
    grid: Grid,
    /// No connection is begun before.
    not_before: Micros,
    /// When attempts and host were told of last; no connection, and no earlier life of the process, told anything later.
    told: Micros,
    /// Since when there is no session.
    pub(crate) down_since: Micros,
}

impl Connector {
    pub(crate) fn new(seed: [u8; 32], now: Micros) -> Self {
        Self {
            session: None,
            successor: None,
            succeed_at: None,
            fading: None,
            chance: Chance::new(seed),
            next_conn: 1,
            failures: 0,
            successor_failures: 0,
            retry_at: now,
            grid: Grid::default(),
            not_before: Micros(0),
            told: Micros(0),
            down_since: now,
        }
    }

    /// Connections begin, and tell, at the moments of this grid that are behind `now`.
    pub(crate) fn keep_to(&mut self, grid: Grid, now: Micros) {
        self.grid = grid;
        self.told = now;
        self.retry_at = grid.from(self.retry_at);
    }

    /// What Welcome dictates to the session, within what the grid leaves.
    pub(crate) fn agree(&mut self, conn: Conn, welcome: &Welcome, now: Micros, apart: Duration) {
        let (told, grid) = (self.told, self.grid);
        if let Some(session) = self.on(conn) {
            session.agree(welcome, now, apart);
            session.tells_behind(now, told, grid);
        }
    }

    /// The session tells of attempts and host.
    pub(crate) fn tells(&mut self, now: Micros) {
        self.told = now;
    }

    /// The session on this stream, if it is the present one.
    pub(crate) fn on(&mut self, conn: Conn) -> Option<&mut Session> {
        self.session.as_mut().filter(|session| session.conn == conn)
    }

    /// Whether events may be sent and work begun.
    pub(crate) fn ready(&self) -> Option<&Session> {
        self.session
            .as_ref()
            .filter(|session| session.phase == Phase::Ready)
    }

    /// The session is ready: the next failure is a first one.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.successor_failures = 0;
    }

    pub(crate) fn chance_mut(&mut self) -> &mut Chance {
        &mut self.chance
    }

    /// Begins a connection: its number.
    pub(crate) fn dial(&mut self, now: Micros) -> Conn {
        let conn = self.number();
        self.not_before = self.grid.behind(now);
        self.session = Some(Session::new(conn, now));
        // What is dialled now presents the newest certificate anyway.
        self.succeed_at = None;
        conn
    }

    /// A number for a connection.
    pub(crate) fn number(&mut self) -> Conn {
        let conn = Conn(self.next_conn);
        self.next_conn += 1;
        conn
    }

    /// Ends the session, if there is one, and says when the next is tried. A successor that is being made takes its
    /// place when the stream was merely lost.
    pub(crate) fn lost(&mut self, now: Micros, why: Down, settings: &Settings) -> Option<Conn> {
        let session = self.session.take()?;
        self.down_since = now;
        let may_go_on = match why {
            Down::Unreachable | Down::Ended => true,
            Down::Refused | Down::Expired | Down::Protocol => false,
        };
        if may_go_on && self.successor.is_some() {
            self.session = self.successor.take();
            return Some(session.conn);
        }
        self.failures = self.failures.saturating_add(1);
        let bound = self.backoff(why, settings).bound_us(self.failures);
        self.retry_within(now, bound);
        Some(session.conn)
    }

    /// The next connection is tried at a moment drawn from now until then.
    pub(crate) fn retry_within(&mut self, now: Micros, bound_us: u64) {
        let drawn = Micros(now.0.saturating_add(self.chance.up_to(bound_us)));
        self.retry_at = self.grid.from(drawn.max(self.not_before));
    }

    // --- make before break

    /// The present session is to be followed by one under a newer certificate, not before `at`.
    pub(crate) fn want_successor(&mut self, at: Micros) {
        if self.session.is_some() {
            self.succeed_at = Some(self.succeed_at.map_or(at, |wanted| wanted.min(at)));
        }
    }

    /// The same, because a newer certificate is stored.
    pub(crate) fn outdate(&mut self, now: Micros) {
        self.want_successor(now);
        if let Some(session) = self.session.as_mut() {
            session.outdated = true;
        }
    }

    /// Whether a successor is being made, or about to take over.
    pub(crate) fn is_succeeding(&self) -> bool {
        self.successor.is_some() || self.fading.is_some()
    }

    /// When the successor that is wanted may be dialled: beside a session that works.
    pub(crate) fn successor_due(&self) -> Option<Micros> {
        self.succeed_at
            .map(|at| self.grid.from(at.max(self.not_before)))
            .filter(|_| self.ready().is_some() && self.successor.is_none())
    }

    /// Begins the successor: its number.
    pub(crate) fn dial_successor(&mut self, now: Micros) -> Conn {
        let conn = self.number();
        self.not_before = self.grid.behind(now);
        self.successor = Some(Session::new(conn, now));
        self.succeed_at = None;
        conn
    }

    /// When nobody waits for the successor any longer.
    pub(crate) fn successor_patience_ends(&self) -> Option<Micros> {
        self.successor.as_ref().map(Session::patience_ends)
    }

    /// The successor could not be made: the session goes on, and another one is tried later.
    pub(crate) fn successor_lost(&mut self, now: Micros, settings: &Settings) -> Option<Conn> {
        let successor = self.successor.take()?;
        self.successor_failures = self.successor_failures.saturating_add(1);
        let bound = settings.reconnect.bound_us(self.successor_failures);
        self.succeed_at = Some(Micros(now.0.saturating_add(self.chance.up_to(bound))));
        Some(successor.conn)
    }

    pub(crate) fn is_successor(&self, conn: Conn) -> bool {
        self.successor
            .as_ref()
            .is_some_and(|successor| successor.conn == conn)
    }

    /// The successor's stream stands: it is the session from now on, and the former one fades. Gives what faded before.
    pub(crate) fn take_over(&mut self) -> Option<Conn> {
        let successor = self.successor.take()?;
        let former = self.session.replace(successor).map(|former| former.conn);
        std::mem::replace(&mut self.fading, former)
    }

    /// The stream that faded is not needed any more, or gone.
    pub(crate) fn faded(&mut self) -> Option<Conn> {
        self.fading.take()
    }

    pub(crate) fn is_fading(&self, conn: Conn) -> bool {
        self.fading == Some(conn)
    }

    /// Every other stream there is, besides the session's: each is to be ended.
    pub(crate) fn give_up_others(&mut self) -> Vec<Conn> {
        self.succeed_at = None;
        let successor = self.successor.take().map(|successor| successor.conn);
        successor.into_iter().chain(self.fading.take()).collect()
    }

    fn backoff(&self, why: Down, settings: &Settings) -> Backoff {
        match why {
            Down::Unreachable | Down::Ended => settings.reconnect,
            Down::Expired => settings.recover,
            Down::Refused | Down::Protocol => settings.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use outpost_proto::ids::Incarnation;

    use super::*;

    fn waits(why: Down, tries: usize) -> Vec<u64> {
        let settings = Settings::new(Incarnation(1), 1);
        let mut connector = Connector::new([9; 32], Micros(0));
        (0..tries)
            .map(|_| {
                connector.dial(Micros(0));
                connector.lost(Micros(0), why, &settings);
                connector.retry_at.0
            })
            .collect()
    }

    #[test]
    fn waits_are_jittered_doubling_and_bounded() {
        for (why, base, cap) in [
            (Down::Unreachable, 200_000, 30_000_000),
            (Down::Refused, 5_000_000, 300_000_000),
        ] {
            let waits = waits(why, 200);
            for (n, wait) in waits.iter().enumerate() {
                assert!(*wait <= (base << n.min(20)).min(cap), "{n}: {wait}");
            }
            assert!(
                waits.iter().any(|wait| *wait > cap * 9 / 10),
                "the cap is reached"
            );
            assert!(
                waits[20..].iter().any(|wait| *wait < cap / 10),
                "the whole span is used"
            );
        }
    }

    #[test]
    fn connection_numbers_grow_and_old_ones_are_not_answered() {
        let settings = Settings::new(Incarnation(1), 1);
        let mut connector = Connector::new([0; 32], Micros(0));
        let first = connector.dial(Micros(0));
        assert_eq!(
            connector.lost(Micros(0), Down::Ended, &settings),
            Some(first)
        );
        let second = connector.dial(Micros(1));
        assert!(second > first);
        assert!(connector.on(first).is_none());
        assert!(connector.on(second).is_some());
    }
}
