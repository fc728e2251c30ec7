//! What the orchestrator decides: workflows, runs, tasks, attempts, sessions and leases.
//!
//! A pure state machine: no clock, no disk, no network, no randomness of its own. [`event`] is everything that can
//! happen and everything that can result, [`record`] everything that is durable, [`spec`] a workflow as it was applied.
//! [`Orchestrator`] only routes: each stream, question and timer to its own tenant.
//!
//! After a failed commit the caller reloads and then shows the failed turn's `Opened`, `Frame` and `Closed` again:
//! connections are put back to where they were before it. Questions of that turn are not shown again; whoever asked is
//! told to.

mod agent;
mod ask;
mod attempt;
mod bearer;
pub mod chance;
mod clone;
mod command;
mod configure;
mod counts;
mod dead;
mod doubt;
mod enrol;
pub mod event;
mod explain;
mod freeze;
mod inventory;
pub mod label;
pub mod limits;
mod line;
pub mod mirror;
mod needs;
pub mod owner;
mod params;
mod place;
mod plan;
mod pool;
mod queue;
pub mod record;
pub mod recover;
mod rerun;
mod restore;
mod retry;
mod run;
pub mod safety;
pub mod schedule;
mod session;
pub mod shown;
pub mod spec;
pub mod standing;
pub mod state;
mod tally;
mod tenant;
mod timers;
mod views;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};

use outpost_driver::{Core, Effects, Micros};
use outpost_proto::ids::{Conn, RecoveryEpoch, RunId};
use outpost_proto::name::{AgentName, TenantName};

use crate::chance::Chance;
use crate::enrol::Invites;
use crate::event::{Ask, Call, CloseReason, Denied, Event, Speech};
pub use crate::limits::Settings;
use crate::limits::{BACK_BUT_ONE_IN, VANISH_WITHIN};
use crate::record::{Snapshot, TaskRecord, Write};
use crate::recover::{Expired, NotRecovered};
use crate::session::Presented;
use crate::tenant::{Ctx, Out, Tenant};

/// The orchestrator's core.
#[derive(Debug)]
pub struct Orchestrator {
    settings: Settings,
    chance: Chance,
    recovery: RecoveryEpoch,
    restored_at: Option<u64>,
    tenants: BTreeMap<TenantName, Tenant>,
    invites: Invites,
    /// Agents turned stale in this turn, or came back.
    vanishing: bool,
    /// Some tenant is frozen because most agents of all of them went, and since then fewer are gone.
    calm: Option<Micros>,
    /// Which tenant each live stream belongs to.
    conns: BTreeMap<Conn, TenantName>,
    /// Tenants with something due, and when.
    wakes: BTreeSet<(Micros, TenantName)>,
    wake_of: BTreeMap<TenantName, Micros>,
    /// Tenants that something happened to in this turn.
    touched: BTreeSet<TenantName>,
    /// Counts turns: from the first call after a settle to the next settle.
    turn: u64,
    /// Whether the present turn has been settled, so that the next call begins another.
    settled: bool,
    /// Streams to end with the next turn: they could not go on after a failed commit.
    ending: Vec<Conn>,
    /// Whether the present turn told them so.
    ending_said: bool,
    lost_from: Micros,
    /// How far the wall clock is ahead of this core's, in microseconds.
    ahead: i64,
}

impl Orchestrator {
    /// Begins with what a store gave back. Every agent counts as heard now, and as granted a full lease.
    #[must_use]
    pub fn new(settings: Settings, seed: [u8; 32], now: Micros, snapshot: Snapshot) -> Self {
        let mut orchestrator = Self {
            settings,
            chance: Chance::new(seed),
            recovery: snapshot.recovery,
            restored_at: snapshot.restored_at,
            tenants: BTreeMap::new(),
            invites: Invites::new(Vec::new(), now),
            vanishing: false,
            calm: None,
            conns: BTreeMap::new(),
            wakes: BTreeSet::new(),
            wake_of: BTreeMap::new(),
            touched: BTreeSet::new(),
            turn: 0,
            settled: true,
            ending: Vec::new(),
            ending_said: false,
            lost_from: now.plus(settings.restart_grace),
            ahead: 0,
        };
        orchestrator.load(now, snapshot);
        orchestrator
    }

    /// What of the core is durable, sorted: always what the store holds.
    #[must_use]
    pub fn durable(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            recovery: self.recovery,
            restored_at: self.restored_at,
            ..Snapshot::default()
        };
        for tenant in self.tenants.values() {
            tenant.durable(&mut snapshot);
        }
        snapshot.runs.sort_by_key(|run| run.run);
        snapshot.tasks.sort_by_key(|task| (task.run, task.task));
        snapshot.attempts.sort_by_key(|attempt| attempt.attempt);
        snapshot.invites = self.invites.durable();
        snapshot
    }

    /// Replaces everything durable.
    fn load(&mut self, now: Micros, snapshot: Snapshot) {
        self.recovery = snapshot.recovery;
        self.restored_at = snapshot.restored_at;
        // Nothing is frozen in what was loaded.
        self.calm = None;
        self.invites = Invites::new(snapshot.invites, now);
        self.tenants = snapshot
            .tenants
            .into_iter()
            .map(|record| (record.tenant.clone(), Tenant::new(record)))
            .collect();
        for record in snapshot.workflows {
            if let Some(tenant) = self.tenants.get_mut(&record.tenant) {
                tenant.load_workflow(record);
            }
        }
        for record in snapshot.workflow_states {
            if let Some(tenant) = self.tenants.get_mut(&record.tenant) {
                tenant.load_workflow_state(record);
            }
        }
        let mut tasks: BTreeMap<RunId, Vec<TaskRecord>> = BTreeMap::new();
        for record in snapshot.tasks {
            tasks.entry(record.run).or_default().push(record);
        }
        for record in snapshot.runs {
            let tasks = tasks.remove(&record.run).unwrap_or_default();
            if let Some(tenant) = self.tenants.get_mut(&record.tenant) {
                tenant.load_run(record, tasks);
            }
        }
        for record in snapshot.agents {
            let name = record.tenant.clone();
            self.with(now, &name, &mut Effects::new(), |tenant, ctx, _| {
                tenant.load_agent(ctx, record)
            });
        }
        for record in snapshot.attempts {
            if let Some(tenant) = self.tenants.get_mut(&record.tenant) {
                tenant.load_attempt(record);
            }
        }
        for record in snapshot.keys {
            if let Some(tenant) = self.tenants.get_mut(&record.tenant) {
                tenant.load_key(record);
            }
        }
        self.wakes.clear();
        self.wake_of.clear();
        let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        for name in names {
            self.with(now, &name, &mut Effects::new(), |tenant, ctx, _| {
                tenant.loaded(ctx)
            });
            self.touched.insert(name);
        }
    }

    /// Lets one tenant decide. Nothing else is within its reach but the invitations, which are nobody's yet.
    fn with<T>(
        &mut self,
        now: Micros,
        name: &TenantName,
        out: &mut Out,
        decide: impl FnOnce(&mut Tenant, &mut Ctx<'_>, &mut Invites) -> T,
    ) -> Option<T> {
        let tenant = self.tenants.get_mut(name)?;
        let mut ctx = Ctx {
            now,
            settings: &self.settings,
            chance: &mut self.chance,
            recovery: self.recovery,
            restored_at: self.restored_at,
            lost_from: self.lost_from,
            ahead: self.ahead,
            turn: self.turn,
            out,
        };
        let decided = decide(tenant, &mut ctx, &mut self.invites);
        self.vanishing |= tenant.vanished.take_changed();
        let next = tenant.timers.next();
        if next != self.wake_of.get(name).copied() {
            if let Some(former) = self.wake_of.remove(name) {
                self.wakes.remove(&(former, name.clone()));
            }
            if let Some(next) = next {
                self.wakes.insert((next, name.clone()));
                self.wake_of.insert(name.clone(), next);
            }
        }
        Some(decided)
    }

    /// The same, for something that happened: the tenant settles at the end of the turn.
    fn happened<T>(
        &mut self,
        now: Micros,
        name: &TenantName,
        out: &mut Out,
        decide: impl FnOnce(&mut Tenant, &mut Ctx<'_>, &mut Invites) -> T,
    ) -> Option<T> {
        self.touched.insert(name.clone());
        self.with(now, name, out, decide)
    }

    /// A call after a settle begins a turn, and tells that the former one was committed.
    fn begin(&mut self) {
        if std::mem::take(&mut self.settled) {
            self.turn += 1;
            if std::mem::take(&mut self.ending_said) {
                self.ending.clear();
            }
        }
    }

    fn asked(&mut self, now: Micros, call: Call, name: &TenantName, ask: &Ask, out: &mut Out) {
        let known = self.tenants.contains_key(name);
        let tenant = self
            .tenants
            .entry(name.clone())
            .or_insert_with(|| Tenant::unknown(name.clone()));
        let founded = Write::Tenant(tenant.record.clone());
        let (wrote, founds) = (out.writes.len(), founds(ask));
        let done = self.happened(now, name, out, |tenant, ctx, invites| {
            let answer = ask::decide(tenant, ctx, invites, ask);
            let done = answer.is_ok();
            ctx.answer(call, answer);
            done
        });
        if !known && founds && done == Some(true) {
            out.writes.insert(wrote, founded);
        } else if !known {
            self.tenants.remove(name);
        }
    }

    /// Most agents of all tenants together gone at once: nothing is given up in any tenant that misses some.
    fn freeze_all(&mut self, now: Micros, out: &mut Out) {
        let calm = self.calm_until().is_some_and(|until| until <= now);
        if !std::mem::take(&mut self.vanishing) && !calm {
            return;
        }
        let counts = self.tenants.values_mut().map(|tenant| {
            tenant.vanished.forget_old(now);
            tenant.vanished.counts()
        });
        let (gone, of) = counts.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        if !freeze::is_mass(gone, of) {
            return self.thaw_all(now, calm, out);
        }
        self.calm = None;
        let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
        for name in names {
            self.with(now, &name, out, |tenant, ctx, _| {
                tenant.freeze(ctx, (gone, of), true)
            });
        }
    }

    /// Lets go of what is frozen for the sake of all, once nine in ten are there, or for a while most of them.
    fn thaw_all(&mut self, now: Micros, calm: bool, out: &mut Out) {
        let frozen = self.tenants.iter();
        let frozen = frozen.filter(|(_, tenant)| tenant.vanished.is_frozen_with_all());
        let frozen: Vec<TenantName> = frozen.map(|(name, _)| name.clone()).collect();
        let counts = self.tenants.values();
        let counts = counts.map(|tenant| tenant.vanished.missing());
        let (away, of) = counts.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        if frozen.is_empty() || freeze::is_mass(away, of) {
            self.calm = None;
        } else if calm || away * BACK_BUT_ONE_IN <= of {
            self.calm = None;
            for name in frozen {
                self.with(now, &name, out, |tenant, ctx, _| tenant.thaw_with_all(ctx));
            }
        } else {
            self.calm = self.calm.or(Some(now));
        }
    }

    /// When it will have been calm for long enough.
    fn calm_until(&self) -> Option<Micros> {
        self.calm.map(|since| since.plus(VANISH_WITHIN))
    }

    fn enrol(&mut self, now: Micros, call: Call, token_hash: &str, key_hash: &str, out: &mut Out) {
        let invite = self.invites.get(token_hash).cloned();
        let answer = invite.and_then(|invite| {
            let tenant = invite.tenant.clone();
            self.happened(now, &tenant, out, |tenant, ctx, invites| {
                tenant.enrol(ctx, invites, &invite, key_hash)
            })
        });
        let answer = answer.unwrap_or(Err(Denied::BadToken));
        out.speech.push(Speech::Answer { call, answer });
    }

    fn recover(
        &mut self,
        now: Micros,
        (call, tenant, agent): (Call, &TenantName, &AgentName),
        expired: &Expired<'_>,
        out: &mut Out,
    ) {
        let answer = self.happened(now, tenant, out, |tenant, ctx, _| {
            tenant.recover_certificate(ctx, agent, expired)
        });
        let answer = answer.unwrap_or_else(|| {
            Err(Denied::NotRecovered {
                agent: agent.clone(),
                why: NotRecovered::Unknown,
            })
        });
        out.speech.push(Speech::Answer { call, answer });
    }
}

/// Whether a question that is answered makes a tenant known.
fn founds(ask: &Ask) -> bool {
    match ask {
        Ask::Apply { dry_run, .. } => !dry_run,
        Ask::Invite { .. } => true,
        Ask::DeleteWorkflow { .. }
        | Ask::PauseWorkflow { .. }
        | Ask::Workflows
        | Ask::Upcoming { .. }
        | Ask::Rerun { .. }
        | Ask::ConfigureAgent { .. }
        | Ask::Trigger { .. }
        | Ask::Cancel { .. }
        | Ask::Explain { .. }
        | Ask::Agents
        | Ask::ResolveAgent { .. }
        | Ask::Recovery
        | Ask::Continue { .. }
        | Ask::Unfreeze { .. }
        | Ask::AssertDead { .. }
        | Ask::RemoveAgent { .. } => false,
    }
}

impl Core for Orchestrator {
    type Event = Event;
    type Write = Write;
    type Speech = Speech;
    type Snapshot = Snapshot;

    fn handle(&mut self, now: Micros, event: &Event, out: &mut Out) {
        self.begin();
        match event {
            Event::Opened {
                conn,
                tenant,
                agent,
                spiffe_id,
                key_hash,
                not_after,
            } => {
                let presented = Presented {
                    spiffe_id,
                    key_hash,
                    not_after: *not_after,
                };
                self.conns.insert(*conn, tenant.clone());
                let known = self.happened(now, tenant, out, |tenant, ctx, _| {
                    tenant.opened(ctx, *conn, agent, &presented)
                });
                if known.is_none() {
                    out.speech.push(Speech::Close {
                        conn: *conn,
                        why: CloseReason::Removed,
                    });
                }
            }
            Event::Frame { conn, messages } => {
                let Some(tenant) = self.conns.get(conn).cloned() else {
                    return;
                };
                self.happened(now, &tenant, out, |tenant, ctx, _| {
                    tenant.frame(ctx, *conn, messages)
                });
            }
            Event::Closed { conn } => {
                let Some(tenant) = self.conns.remove(conn) else {
                    return;
                };
                self.happened(now, &tenant, out, |tenant, ctx, _| {
                    tenant.closed(ctx, *conn)
                });
            }
            Event::Asked { call, tenant, ask } => self.asked(now, *call, tenant, ask, out),
            Event::Wall { ahead } => {
                self.ahead = *ahead;
                let names: Vec<TenantName> = self.tenants.keys().cloned().collect();
                for name in names {
                    self.with(now, &name, out, |tenant, ctx, _| tenant.plan_all(ctx));
                }
            }
            Event::Enrol {
                call,
                token_hash,
                key_hash,
            } => self.enrol(now, *call, token_hash, key_hash, out),
            Event::Renew {
                call,
                tenant,
                agent,
                key_hash,
                next_key,
                beside,
            } => {
                let answer = self.happened(now, tenant, out, |tenant, ctx, _| {
                    tenant.renew_certificate(ctx, agent, (key_hash, next_key), *beside)
                });
                let answer = answer.unwrap_or_else(|| Err(Denied::UnknownAgent(agent.clone())));
                out.speech.push(Speech::Answer {
                    call: *call,
                    answer,
                });
            }
            Event::Recover {
                call,
                tenant,
                agent,
                key_hash,
                next_key,
                nonce,
                ended_ms_ago,
                not_after,
            } => {
                let expired = Expired {
                    key_hash,
                    next_key,
                    nonce: *nonce,
                    ended_ms_ago: *ended_ms_ago,
                    not_after: *not_after,
                };
                self.recover(now, (*call, tenant, agent), &expired, out);
            }
        }
    }

    fn settle(&mut self, now: Micros, out: &mut Out) {
        self.begin();
        let why = CloseReason::Replaced;
        out.speech.extend(
            self.ending
                .iter()
                .map(|conn| Speech::Close { conn: *conn, why }),
        );
        self.ending_said = true;
        self.invites.settle(now);
        let mut names = std::mem::take(&mut self.touched);
        names.extend(
            self.wakes
                .iter()
                .take_while(|(at, _)| *at <= now)
                .map(|(_, name)| name.clone()),
        );
        for name in names {
            self.with(now, &name, out, |tenant, ctx, _| tenant.settle(ctx));
        }
        self.freeze_all(now, out);
        self.settled = true;
    }

    fn next_deadline(&self) -> Option<Micros> {
        if !self.ending.is_empty() && !self.ending_said {
            return Some(Micros(0));
        }
        let wake = self.wakes.first().map(|(at, _)| *at);
        let calm = self.calm_until();
        wake.into_iter()
            .chain(self.invites.next())
            .chain(calm)
            .min()
    }

    fn reload(&mut self, now: Micros, snapshot: Snapshot) {
        let former = std::mem::take(&mut self.tenants);
        self.load(now, snapshot);
        // While the store was out of reach nobody could be heard: silence counts from now.
        self.lost_from = self.lost_from.max(now.plus(self.settings.stale_after));
        let open = self.conns.clone();
        for (name, old) in former {
            let conns: Vec<Conn> = old.conns.keys().copied().collect();
            let adopted = self.with(now, &name, &mut Effects::new(), |tenant, ctx, _| {
                tenant.adopt(ctx, old, &open)
            });
            self.ending.extend(adopted.unwrap_or(conns));
        }
        self.ending_said = false;
        self.settled = true;
    }
}

#[cfg(test)]
mod tests;
