//! What people ask about workflows: apply, delete, pause, list, upcoming. A denied one, and a dry run, changed nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use outpost_proto::name::{AgentName, EntryName, WorkflowName};

use crate::event::{Answer, Applied, Denied, WorkflowView};
use crate::limits::{UPCOMING, WORKFLOW_NAMES, WORKFLOWS};
use crate::params::{check_bounds, fill};
use crate::record::{NoticeKind, WorkflowChange, WorkflowRecord, Write};
use crate::run::Workflow;
use crate::schedule;
use crate::spec::WorkflowSpec;
use crate::tenant::{Ctx, Tenant, Version};

/// How a workflow is applied.
pub(crate) struct Applying<'a> {
    pub(crate) spec: &'a WorkflowSpec,
    pub(crate) source: &'a str,
    pub(crate) allow_unknown_entries: bool,
    pub(crate) dry_run: bool,
    pub(crate) expected_version: Option<u32>,
}

impl Tenant {
    /// The current version of a workflow that is not deleted.
    pub(crate) fn living(&self, workflow: &WorkflowName) -> Option<&Arc<Workflow>> {
        let current = self.current(workflow)?;
        let state = self.workflow_states.get(workflow);
        (!state.is_some_and(|state| state.deleted)).then_some(current)
    }

    fn known(&self, workflow: &WorkflowName) -> Result<&Arc<Workflow>, Denied> {
        let living = self.living(workflow);
        living.ok_or_else(|| Denied::UnknownWorkflow(workflow.clone()))
    }

    pub(crate) fn apply(
        &mut self,
        ctx: &mut Ctx<'_>,
        applying: &Applying<'_>,
    ) -> Result<Answer, Denied> {
        let spec = applying.spec;
        let current = self.living(&spec.name).cloned();
        let version = current.as_ref().map_or(0, |current| current.record.version);
        expect_version(&spec.name, applying.expected_version, version)?;
        if current.is_none() {
            self.has_room_for(&spec.name)?;
        }
        let mut warnings = self.unknown_entries(spec, applying.allow_unknown_entries)?;
        warnings.extend(check_schedule(ctx, spec)?);
        let unchanged = current
            .as_ref()
            .is_some_and(|current| current.record.spec == *spec);
        let (version, applied) = match version {
            _ if unchanged => (version, Applied::Unchanged),
            0 => (
                self.workflow_state(&spec.name).version + 1,
                Applied::Created,
            ),
            _ => (version + 1, Applied::Updated),
        };
        if !unchanged && !applying.dry_run {
            self.replace(ctx, applying, current.as_deref(), version);
        }
        Ok(Answer::Applied {
            version,
            applied,
            warnings,
        })
    }

    /// Names of deleted workflows are kept, so they are bounded apart.
    fn has_room_for(&self, name: &WorkflowName) -> Result<(), Denied> {
        if self.workflows.len() >= WORKFLOWS {
            return Err(Denied::Limit(format!(
                "this tenant has {WORKFLOWS} workflows, which is as many as one can have"
            )));
        }
        let used = self.workflow_states.len() >= WORKFLOW_NAMES;
        if used && !self.workflow_states.contains_key(name) {
            return Err(Denied::Limit(format!(
                "this tenant has used {WORKFLOW_NAMES} names of workflows, which is as many as one can have: use a \
                 former name again"
            )));
        }
        Ok(())
    }

    fn replace(
        &mut self,
        ctx: &mut Ctx<'_>,
        applying: &Applying<'_>,
        former: Option<&Workflow>,
        version: u32,
    ) {
        let spec = applying.spec;
        // What was due until now is due under the former schedule.
        self.schedule_due(ctx, &spec.name);
        for task in &spec.tasks {
            self.places.know_entry(&task.entry, &self.agents);
        }
        let record = WorkflowRecord {
            tenant: self.record.tenant.clone(),
            version,
            spec: spec.clone(),
            source: applying.source.to_owned(),
            applied_at: ctx.now.0,
        };
        ctx.write(Write::Workflow(record.clone()));
        let versions = self.workflows.entry(spec.name.clone()).or_default();
        versions.retain(|_, version| version.runs > 0);
        versions.insert(
            version,
            Version {
                workflow: Arc::new(Workflow::new(record)),
                runs: 0,
            },
        );
        self.limits_changed(&spec.name);
        self.places.lines.limits_changed(&spec.name);
        let before = former.and_then(|former| former.record.spec.schedule.as_ref());
        let mut state = self.workflow_state(&spec.name);
        let anew = spec.schedule.is_some() && spec.schedule.as_ref() != before;
        if anew {
            // A new rule makes no run for what was before it.
            state.scheduled_until = state.scheduled_until.max(Some(ctx.wall()));
        }
        if anew || state.deleted {
            (state.deleted, state.version) = (false, 0);
            self.set_workflow_state(ctx, state);
        }
        self.plan(ctx, &spec.name);
        self.notice_workflow(ctx, &spec.name, WorkflowChange::Applied { version });
    }

    /// One sentence per entry that no agent announces; a refusal if agents could be asked and that is not accepted.
    fn unknown_entries(&self, spec: &WorkflowSpec, allow: bool) -> Result<Vec<String>, Denied> {
        let announcing = self
            .agents
            .values()
            .filter(|agent| !agent.record.removed && agent.record.catalogue.is_some());
        let asked = announcing.count();
        let mut warnings = Vec::new();
        let mut missing = Vec::new();
        let mut offered: BTreeMap<&EntryName, bool> = BTreeMap::new();
        for task in &spec.tasks {
            let offered = offered.entry(&task.entry);
            if *offered.or_insert_with(|| self.is_offered(&task.entry)) {
                continue;
            }
            missing.push((task.name.clone(), task.entry.clone()));
            let why = match asked {
                0 => "no agent of this tenant has announced a catalogue yet".to_owned(),
                1 => "the only agent that announced a catalogue does not have it".to_owned(),
                _ => format!("none of the {asked} agents that announced a catalogue has it"),
            };
            warnings.push(format!(
                "task `{}` waits until an agent announces the catalogue entry `{}`: {why}",
                task.name, task.entry
            ));
        }
        let mut missing = missing.into_iter();
        match missing.next() {
            Some((task, entry)) if asked > 0 && !allow => Err(Denied::UnknownEntry {
                task,
                entry,
                others: missing.collect(),
                asked,
            }),
            Some(_) | None => Ok(warnings),
        }
    }

    /// The index knows entries of applied workflows only; asking it comes first because it costs nothing.
    fn is_offered(&self, entry: &EntryName) -> bool {
        let there = |name: &AgentName| {
            let agent = self.agents.get(name);
            agent.is_some_and(|agent| !agent.record.removed)
        };
        let mut all = self.agents.values();
        self.places.offering(entry).any(there)
            || all.any(|agent| !agent.record.removed && agent.offer(entry).is_some())
    }

    /// No more runs are made of it; versions and runs stay readable in the store.
    pub(crate) fn delete_workflow(
        &mut self,
        ctx: &mut Ctx<'_>,
        workflow: &WorkflowName,
        expected_version: Option<u32>,
    ) -> Result<Answer, Denied> {
        let version = self.known(workflow)?.record.version;
        expect_version(workflow, expected_version, version)?;
        let runs = self.tallies.get(workflow).runs;
        if runs > 0 {
            let workflow = workflow.clone();
            return Err(Denied::WorkflowBusy { workflow, runs });
        }
        let mut state = self.workflow_state(workflow);
        (state.deleted, state.paused, state.version) = (true, false, version);
        state.scheduled_until = state.scheduled_until.max(Some(ctx.wall()));
        self.set_workflow_state(ctx, state);
        self.plan(ctx, workflow);
        self.drop_versions(workflow);
        self.notice_workflow(ctx, workflow, WorkflowChange::Deleted);
        Ok(Answer::Deleted)
    }

    /// Stops or starts scheduled runs. What was due before a pause is made; what passes during it is not.
    pub(crate) fn pause_workflow(
        &mut self,
        ctx: &mut Ctx<'_>,
        workflow: &WorkflowName,
        paused: bool,
    ) -> Result<Answer, Denied> {
        self.known(workflow)?;
        if self.workflow_state(workflow).paused != paused {
            self.schedule_due(ctx, workflow);
            let mut state = self.workflow_state(workflow);
            state.paused = paused;
            state.scheduled_until = state.scheduled_until.max(Some(ctx.wall()));
            self.set_workflow_state(ctx, state);
            self.plan(ctx, workflow);
            let change = if paused {
                WorkflowChange::Paused
            } else {
                WorkflowChange::Resumed
            };
            self.notice_workflow(ctx, workflow, change);
        }
        let next = self.plans.next(workflow);
        Ok(Answer::Paused { paused, next })
    }

    pub(crate) fn workflow_views(&self) -> Vec<WorkflowView> {
        let living = self.workflows.keys().filter_map(|name| self.living(name));
        let view = |current: &Arc<Workflow>| {
            let name = &current.record.spec.name;
            let tally = self.tallies.get(name);
            let state = self.workflow_states.get(name);
            WorkflowView {
                name: name.clone(),
                version: current.record.version,
                paused: state.is_some_and(|state| state.paused),
                next: self.plans.next(name),
                active_runs: tally.runs,
                queued_tasks: tally.queued,
                active_tasks: tally.active,
            }
        };
        living.map(view).collect()
    }

    pub(crate) fn upcoming(
        &self,
        ctx: &Ctx<'_>,
        workflow: &WorkflowName,
        count: u16,
    ) -> Result<Answer, Denied> {
        let current = self.known(workflow)?;
        let Some(schedule) = &current.schedule else {
            return Err(Denied::NoSchedule(workflow.clone()));
        };
        let decided = self.workflow_state(workflow).scheduled_until;
        let from = decided.unwrap_or(0).max(ctx.wall());
        let count = usize::from(count.min(UPCOMING));
        Ok(Answer::Upcoming(
            schedule.following(from).take(count).collect(),
        ))
    }

    /// Lets go of a deleted workflow's versions that no run in memory is of.
    pub(crate) fn drop_versions(&mut self, workflow: &WorkflowName) {
        if let Some(versions) = self.workflows.get_mut(workflow) {
            versions.retain(|_, version| version.runs > 0);
            if versions.is_empty() {
                self.workflows.remove(workflow);
            }
        }
    }

    fn notice_workflow(&self, ctx: &mut Ctx<'_>, workflow: &WorkflowName, change: WorkflowChange) {
        let workflow = workflow.clone();
        ctx.notice(
            &self.record.tenant,
            NoticeKind::Workflow { workflow, change },
        );
    }
}

fn expect_version(
    workflow: &WorkflowName,
    expected: Option<u32>,
    current: u32,
) -> Result<(), Denied> {
    match expected {
        Some(expected) if expected != current => Err(Denied::VersionMismatch {
            workflow: workflow.clone(),
            expected,
            current,
        }),
        Some(_) | None => Ok(()),
    }
}

/// A refusal if a schedule cannot be kept, or gives what its workflow does not take; a sentence if it is over.
fn check_schedule(ctx: &Ctx<'_>, spec: &WorkflowSpec) -> Result<Option<String>, Denied> {
    let Some(rule) = &spec.schedule else {
        return Ok(None);
    };
    let bad = |error: schedule::ScheduleError| Denied::BadSchedule(error.to_string());
    schedule::check(rule).map_err(bad)?;
    let params = fill(spec, &rule.params)
        .map_err(|denied| Denied::BadSchedule(format!("its params: {denied}")))?;
    check_bounds(spec, &params)?;
    let none = schedule::upcoming(rule, ctx.wall(), 1).is_empty();
    Ok(none.then(|| "the schedule makes no more runs: its end has passed".to_owned()))
}
