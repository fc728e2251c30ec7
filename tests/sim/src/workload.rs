//! What people want in one simulation: sites, workflows, runs, cancels, removals. Drawn from the seed before it begins.

use std::collections::BTreeMap;

use outpost_orchestrator_core::spec::{
    Argument, ParamKind, ParamSpec, Retry, TaskSpec, WorkflowSpec,
};
use outpost_proto::ids::{Incarnation, RunId, TaskIndex};
use outpost_proto::message::ParamValue;
use outpost_proto::name::{NotAName, ParamName, TenantName, WorkflowName, spiffe_id};

use crate::clients::Want;
use crate::dice::Dice;
use crate::identity::Identity;
use crate::limits;
use crate::queue::{At, BootClock, MS, SECOND};
use crate::shop::{BRIEF_ENTRIES, ENTRIES, Entry};
use crate::site::Site;
use crate::world::{Happening, World};

/// Most tasks of one workflow.
const TASKS: u64 = 7;

impl World {
    /// Sites, and everything that people will want.
    pub(crate) fn populate(&mut self) -> Result<(), NotAName> {
        let sites = usize::try_from(self.plan.sites).unwrap_or(1);
        let names = ["acme", "globex", "initech", "umbrella", "hooli"];
        let many = usize::try_from(self.plan.tenants).unwrap_or(1);
        let tenants = names.iter().take(many).map(|name| name.parse());
        let tenants: Vec<TenantName> = tenants.collect::<Result<_, _>>()?;
        self.make_replicas(&tenants);
        for index in 0..sites {
            let tenant = tenants[index % many].clone();
            self.add_site(index, tenant)?;
        }
        let mut named = Vec::new();
        for tenant in &tenants {
            let names = self.workflows(tenant)?;
            self.runs(tenant, &names)?;
            named.push((tenant, names));
        }
        if self.dice.percent(25) {
            let site = self.dice.below(sites);
            let tenant = self.sites[site].identity.tenant.clone();
            let at = self.dice.between(60 * SECOND, self.plan.quiet_from);
            self.want_at(at, &tenant, Want::Remove(site));
        }
        for (number, (tenant, names)) in (0..).zip(named) {
            if let Some(draw) = self.plan.brief {
                self.with_own_dice(draw ^ number, |world| world.bursts(tenant, &names));
            }
        }
        Ok(())
    }

    /// Somebody will want this then, unless it is left out.
    pub(crate) fn want_at(&mut self, at: At, tenant: &TenantName, want: Want) {
        let number = self.wants;
        self.wants += 1;
        if self
            .wanted
            .as_ref()
            .is_some_and(|wanted| !wanted.contains(&number))
        {
            return;
        }
        let tenant = tenant.clone();
        self.queue.put(at, Happening::Want { tenant, want });
    }

    fn add_site(&mut self, index: usize, tenant: TenantName) -> Result<(), NotAName> {
        let agent = format!("site-{index}").parse()?;
        let spiffe_id = spiffe_id("sim.test", &tenant, &agent);
        let drift_ppm = i64::try_from(self.dice.between(0, 400)).unwrap_or(0) - 200;
        let identity = Identity {
            tenant: tenant.clone(),
            agent,
            spiffe_id,
            key: self.dice.next(),
            pending: None,
            since: 0,
            dated: 0,
        };
        let slots = u16::try_from(self.dice.between(1, 5)).unwrap_or(1);
        let incarnation = Incarnation(self.dice.next());
        let clock = (BootClock::new(0, drift_ppm), drift_ppm);
        self.sites.push(Site {
            cheats: self.plan.cheats && index == 0,
            ..Site::new(identity, slots, clock, incarnation)
        });
        let at = self.dice.span(1, 20 * SECOND);
        let want = Want::Invite(index);
        self.queue.put(at, Happening::Want { tenant, want });
        Ok(())
    }

    /// Applies some workflows, and sometimes a newer version later.
    fn workflows(&mut self, tenant: &TenantName) -> Result<Vec<WorkflowName>, NotAName> {
        let mut names = Vec::new();
        for number in 0..self.dice.between(1, 3) {
            let name: WorkflowName = format!("flow-{number}").parse()?;
            let versions = 1 + u64::from(self.dice.percent(25));
            if versions > 1 {
                self.disturb(tenant, &name);
            }
            for version in 0..versions {
                let at = version * self.dice.between(30 * SECOND, self.plan.quiet_from);
                let want = Want::Apply(Box::new(self.workflow(&name)?));
                self.want_at(at, tenant, want);
            }
            self.interfere(tenant, &name);
            names.push(name);
        }
        Ok(names)
    }

    fn workflow(&mut self, name: &WorkflowName) -> Result<WorkflowSpec, NotAName> {
        let mut tasks = Vec::new();
        let linked = self.dice.between(10, 70);
        for index in 0..self.dice.between(1, TASKS) {
            let mut needs = Vec::new();
            for before in 0..index {
                if self.dice.percent(linked) {
                    needs.push(TaskIndex(u16::try_from(before).unwrap_or(0)));
                }
            }
            tasks.push(self.task(index, needs)?);
        }
        let n: ParamName = "n".parse()?;
        let kind = ParamKind::Int { min: 0, max: 9 };
        let default = Some(ParamValue::Integer(3));
        let drawn = self.dice.next();
        let mut spec = WorkflowSpec {
            description: format!("drawn as {drawn:x}"),
            params: BTreeMap::from([(n, ParamSpec { kind, default })]),
            schedule: self.draw_schedule(),
            ..WorkflowSpec::new(name.clone(), tasks)
        };
        limits::limit(&mut spec, drawn);
        Ok(spec)
    }

    fn task(&mut self, index: u64, needs: Vec<TaskIndex>) -> Result<TaskSpec, NotAName> {
        let entry = ENTRIES[self.dice.below(ENTRIES.len() - BRIEF_ENTRIES.len())];
        let entry = self.brief_instead(index).unwrap_or(entry);
        let n: ParamName = "n".parse()?;
        let argument = Argument::Param(n.clone());
        Ok(TaskSpec {
            needs,
            with: if entry.picky {
                BTreeMap::from([(n, argument)])
            } else {
                BTreeMap::new()
            },
            retry: Retry {
                retries: u16::try_from(self.dice.between(0, 3)).unwrap_or(0),
                delay_ms: self.dice.span(100, 5_000),
                max_delay_ms: 30_000,
            },
            timeout_ms: self.dice.percent(20).then(|| self.dice.span(1_000, 60_000)),
            ..TaskSpec::new(format!("task-{index}").parse()?, entry.name.parse()?)
        })
    }

    /// What most tasks are in a simulation in which most are over within moments.
    fn brief_instead(&self, index: u64) -> Option<Entry> {
        let mut dice = Dice::new(self.plan.brief? ^ (u64::from(self.wants) << 8 | index));
        let entry = BRIEF_ENTRIES[dice.below(BRIEF_ENTRIES.len())];
        dice.percent(80).then_some(entry)
    }

    /// Many at once, so that they wait for each other.
    fn bursts(&mut self, tenant: &TenantName, names: &[WorkflowName]) {
        for _ in 0..self.dice.between(1, 4) {
            let workflow = names[self.dice.below(names.len())].clone();
            let mut at = self.dice.between(30 * SECOND, self.plan.quiet_from);
            for _ in 0..self.dice.between(3, 10) {
                let want = Want::Trigger {
                    workflow: workflow.clone(),
                    params: BTreeMap::new(),
                    key: None,
                    refused: false,
                    cancel_ms: self.dice.percent(15).then(|| self.dice.span(5, 5_000)),
                    rerun_ms: None,
                };
                self.want_at(at, tenant, want);
                at += self.dice.span(1, 200) * MS;
            }
        }
    }

    /// Triggers, some of them more than once, some with parameters that are refused, some to be cancelled.
    fn runs(&mut self, tenant: &TenantName, names: &[WorkflowName]) -> Result<(), NotAName> {
        for number in 0..self.dice.between(2, 8) {
            let n = self.dice.between(0, 12);
            let params = BTreeMap::from([(
                "n".parse()?,
                ParamValue::Integer(i64::try_from(n).unwrap_or(0)),
            )]);
            let want = Want::Trigger {
                workflow: names[self.dice.below(names.len())].clone(),
                params,
                key: self.dice.percent(75).then(|| format!("key-{number}")),
                refused: n > 9,
                cancel_ms: self.dice.percent(20).then(|| self.dice.span(100, 300_000)),
                rerun_ms: self
                    .dice
                    .percent(40)
                    .then(|| self.dice.span(10_000, 400_000)),
            };
            let at = self.dice.between(SECOND, self.plan.quiet_from * 3 / 4);
            self.want_at(at, tenant, want.clone());
            if self.dice.percent(20) {
                let again = at + self.dice.span(SECOND, 60 * SECOND);
                self.want_at(again, tenant, want);
            }
        }
        self.snoop(tenant);
        Ok(())
    }

    /// Somebody of this tenant tries to reach a run that is another's, whichever there is then.
    fn snoop(&mut self, tenant: &TenantName) {
        for _ in 0..2 {
            let at: At = self.dice.between(60 * SECOND, self.plan.quiet_from);
            let want = Want::Cancel(RunId(0));
            self.want_at(at, tenant, want);
        }
    }

    /// A run of somebody else, for who asks for run 0.
    pub(crate) fn foreign_run(&mut self, tenant: &TenantName) -> Option<RunId> {
        let foreign = self
            .clients
            .runs
            .iter()
            .filter(|(_, owner)| *owner != tenant);
        let runs: Vec<RunId> = foreign.map(|(run, _)| *run).collect();
        if runs.is_empty() {
            return None;
        }
        self.trace.count("reached for another tenant's run");
        Some(runs[self.dice.below(runs.len())])
    }
}
