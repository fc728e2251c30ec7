//! What people and programs ask of one tenant: apply, trigger, cancel, agents. Each is answered once its effects are
//! durable, and a denied one changed nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use outpost_proto::ids::{AttemptId, RunId, TaskIndex};
use outpost_proto::limits::{PARAMETER_BYTES, PARAMETERS};
use outpost_proto::message::ParamValue;
use outpost_proto::name::{AgentName, ParamName, WorkflowName};

use crate::command::value_bytes;
use crate::event::{Answer, Applied, Denied};
use crate::limits::{KEY_LEN, KEYS, PARAM_TEXT, RUNS, WORKFLOWS};
use crate::place::resolve;
use crate::record::{KeyRecord, Phase, RunRecord, RunState, TaskState, WorkflowRecord, Write};
use crate::run::{Run, Workflow};
use crate::spec::{ParamKind, WorkflowSpec};
use crate::tenant::{Ctx, Due, Tenant, Version, key_expiry};

impl Tenant {
    pub(crate) fn apply(
        &mut self,
        ctx: &mut Ctx<'_>,
        spec: &WorkflowSpec,
        source: &str,
        allow_unknown_entries: bool,
    ) -> Result<Answer, Denied> {
        let current = self
            .workflows
            .get(&spec.name)
            .and_then(|versions| versions.values().next_back());
        let current = current.map(|version| {
            (
                version.workflow.record.version,
                version.workflow.record.spec == *spec,
            )
        });
        if current.is_none() && self.workflows.len() >= WORKFLOWS {
            return Err(Denied::Limit(format!(
                "this tenant has {WORKFLOWS} workflows, which is as many as one can have"
            )));
        }
        for task in &spec.tasks {
            self.places.know_entry(&task.entry, &self.agents);
        }
        let warnings = self.unknown_entries(spec, allow_unknown_entries)?;
        let (version, applied) = match current {
            Some((version, true)) => (version, Applied::Unchanged),
            Some((version, false)) => (version + 1, Applied::Updated),
            None => (1, Applied::Created),
        };
        if applied != Applied::Unchanged {
            let record = WorkflowRecord {
                tenant: self.record.tenant.clone(),
                version,
                spec: spec.clone(),
                source: source.to_owned(),
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
        }
        Ok(Answer::Applied {
            version,
            applied,
            warnings,
        })
    }

    /// One sentence per entry that no agent announces; a refusal if agents could be asked and that is not accepted.
    fn unknown_entries(&self, spec: &WorkflowSpec, allow: bool) -> Result<Vec<String>, Denied> {
        let announcing = self
            .agents
            .values()
            .filter(|agent| !agent.record.removed && agent.record.catalogue.is_some());
        let asked = announcing.count();
        let mut warnings = Vec::new();
        for task in &spec.tasks {
            let removed = |name: &AgentName| {
                self.agents
                    .get(name)
                    .is_none_or(|agent| agent.record.removed)
            };
            if self.places.offering(&task.entry).any(|name| !removed(name)) {
                continue;
            }
            if asked > 0 && !allow {
                return Err(Denied::UnknownEntry {
                    task: task.name.clone(),
                    entry: task.entry.clone(),
                    asked,
                });
            }
            let why = if asked > 0 {
                format!("none of the {asked} agents that announced a catalogue has it")
            } else {
                "no agent of this tenant has announced a catalogue yet".to_owned()
            };
            warnings.push(format!(
                "task `{}` waits until an agent announces the catalogue entry `{}`: {why}",
                task.name, task.entry
            ));
        }
        Ok(warnings)
    }

    pub(crate) fn trigger(
        &mut self,
        ctx: &mut Ctx<'_>,
        workflow: &WorkflowName,
        params: &BTreeMap<ParamName, ParamValue>,
        key: Option<&str>,
    ) -> Result<Answer, Denied> {
        if let Some(known) = key.and_then(|key| self.keys.get(key)) {
            if known.workflow != *workflow {
                return Err(Denied::KeyReused);
            }
            return Ok(Answer::Triggered {
                run: known.run,
                created: false,
            });
        }
        let versions = self.workflows.get_mut(workflow);
        let Some(version) = versions.and_then(|versions| versions.values_mut().next_back()) else {
            return Err(Denied::UnknownWorkflow(workflow.clone()));
        };
        let current = Arc::clone(&version.workflow);
        let params = fill(&current.record.spec, params)?;
        check_bounds(&current.record.spec, &params)?;
        // Counted only when it may matter: runs that are over stay while an end is unknown.
        let live = |tenant: &Self| tenant.runs.values().filter(|run| !run.is_over()).count();
        if self.runs.len() >= RUNS && live(self) >= RUNS {
            return Err(Denied::Limit(format!(
                "{RUNS} runs of this tenant are live, which is the limit: wait for some to end, or cancel some"
            )));
        }
        let run = RunRecord {
            tenant: self.record.tenant.clone(),
            run: ctx.chance.run(),
            workflow: workflow.clone(),
            version: current.record.version,
            params,
            state: RunState::Running,
            agent: None,
            created_at: ctx.now.0,
            finished_at: None,
            scheduled_for: None,
            reruns: 0,
        };
        if let Some(key) = key {
            self.keep_key(ctx, key, &run)?;
        }
        let id = run.run;
        self.begin(ctx, run, current);
        Ok(Answer::Triggered {
            run: id,
            created: true,
        })
    }

    fn keep_key(&mut self, ctx: &mut Ctx<'_>, key: &str, run: &RunRecord) -> Result<(), Denied> {
        if key.is_empty()
            || key.len() > KEY_LEN
            || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        {
            return Err(Denied::Limit(format!(
                "an idempotency key has 1 to {KEY_LEN} printable ASCII characters"
            )));
        }
        if self.keys.len() >= KEYS {
            return Err(Denied::Limit(format!(
                "this tenant used {KEYS} idempotency keys within a day, which is the limit"
            )));
        }
        let record = KeyRecord {
            tenant: run.tenant.clone(),
            key: key.to_owned(),
            workflow: run.workflow.clone(),
            request: None,
            run: run.run,
            at: ctx.now.0,
        };
        self.timers
            .set(key_expiry(&record), Due::Key(record.key.clone()));
        ctx.write(Write::Key(record.clone()));
        self.keys.insert(record.key.clone(), record);
        Ok(())
    }

    fn begin(&mut self, ctx: &mut Ctx<'_>, record: RunRecord, workflow: Arc<Workflow>) {
        let id = record.run;
        let versions = self.workflows.get_mut(&record.workflow);
        if let Some(version) = versions.and_then(|versions| versions.get_mut(&record.version)) {
            version.runs += 1;
        }
        let run = Run::new(record, workflow);
        let tasks: Vec<_> = run.tasks.iter().map(|task| task.record.clone()).collect();
        self.runs.insert(id, run);
        self.set_run(ctx, id, RunState::Running);
        for task in tasks {
            ctx.write(Write::Task(task.clone()));
            self.notice_task(ctx, &task);
            if matches!(task.state, TaskState::Queued { .. }) {
                self.enqueue(id, task.task);
            }
        }
    }

    /// What was never given out is cancelled at once; the rest when its agent says how it ended.
    pub(crate) fn cancel(&mut self, ctx: &mut Ctx<'_>, id: RunId) -> Result<Answer, Denied> {
        let Some(run) = self.runs.get(&id) else {
            return Err(Denied::UnknownRun(id));
        };
        if run.is_over() {
            return Err(Denied::RunOver {
                run: id,
                state: run.record.state,
            });
        }
        let mut at_once: Vec<TaskIndex> = Vec::new();
        let mut active: Vec<AttemptId> = Vec::new();
        for task in &run.tasks {
            match task.record.state {
                TaskState::Waiting | TaskState::Queued { .. } | TaskState::Backoff { .. } => {
                    at_once.push(task.record.task);
                }
                TaskState::Active { attempt } if self.is_lost(attempt) => {
                    at_once.push(task.record.task)
                }
                TaskState::Active { attempt } => active.push(attempt),
                TaskState::Succeeded
                | TaskState::Failed { .. }
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => {}
            }
        }
        if run.record.state != RunState::Cancelling {
            self.set_run(ctx, id, RunState::Cancelling);
        }
        for task in at_once {
            self.set_task(ctx, id, task, TaskState::Cancelled);
        }
        for attempt in &active {
            self.request_cancel(ctx, *attempt);
        }
        let pending = active
            .iter()
            .filter(|attempt| self.attempts.contains_key(attempt))
            .count();
        self.finish_if_over(ctx, id);
        let state = self
            .runs
            .get(&id)
            .map_or(RunState::Cancelled, |run| run.record.state);
        Ok(Answer::Cancelled {
            state,
            pending: u32::try_from(pending).unwrap_or(u32::MAX),
        })
    }

    fn is_lost(&self, attempt: AttemptId) -> bool {
        self.attempts
            .get(&attempt)
            .is_none_or(|attempt| matches!(attempt.phase, Phase::Lost { .. }))
    }
}

/// The run's parameters with defaults filled in, each within its bounds.
fn fill(
    spec: &WorkflowSpec,
    given: &BTreeMap<ParamName, ParamValue>,
) -> Result<BTreeMap<ParamName, ParamValue>, Denied> {
    let bad = |param: &ParamName, why: String| Denied::BadParam {
        param: param.to_string(),
        why,
    };
    if let Some(unknown) = given.keys().find(|name| !spec.params.contains_key(*name)) {
        let names: Vec<String> = spec.params.keys().map(|name| format!("`{name}`")).collect();
        let why = if names.is_empty() {
            format!("workflow `{}` takes no parameters", spec.name)
        } else {
            format!(
                "workflow `{}` has no such parameter; it takes {}",
                spec.name,
                names.join(", ")
            )
        };
        return Err(bad(unknown, why));
    }
    let mut filled = BTreeMap::new();
    for (name, param) in &spec.params {
        let Some(value) = given.get(name).or(param.default.as_ref()) else {
            return Err(bad(
                name,
                format!("is required: give {}", expected(&param.kind)),
            ));
        };
        if !fits(&param.kind, value) {
            return Err(bad(
                name,
                format!("{} is not {}", shown(value), expected(&param.kind)),
            ));
        }
        filled.insert(name.clone(), value.clone());
    }
    Ok(filled)
}

/// Every task's resolved parameters fit into one assignment.
fn check_bounds(
    spec: &WorkflowSpec,
    params: &BTreeMap<ParamName, ParamValue>,
) -> Result<(), Denied> {
    for task in &spec.tasks {
        let given = resolve(task, params);
        let bytes: usize = given
            .iter()
            .map(|(name, value)| name.as_str().len() + value_bytes(value))
            .sum();
        if given.len() > PARAMETERS || bytes > PARAMETER_BYTES {
            return Err(Denied::Limit(format!(
                "task `{}` would be given {} parameters of {bytes} bytes; an attempt takes at most {PARAMETERS} of \
                 {PARAMETER_BYTES} bytes together",
                task.name,
                given.len()
            )));
        }
    }
    Ok(())
}

fn fits(kind: &ParamKind, value: &ParamValue) -> bool {
    match (kind, value) {
        (ParamKind::Flag, ParamValue::Flag(_)) => true,
        (ParamKind::Int { min, max }, ParamValue::Integer(number)) => (min..=max).contains(&number),
        (ParamKind::Enum { values }, ParamValue::Text(text)) => values.contains(text),
        (ParamKind::Date, ParamValue::Text(text)) => is_date(text),
        (ParamKind::Text { max_length }, ParamValue::Text(text)) => {
            let most = usize::try_from(*max_length)
                .unwrap_or(PARAM_TEXT)
                .min(PARAM_TEXT);
            text.len() <= most && !text.contains('\0')
        }
        (ParamKind::Flag, ParamValue::Integer(_) | ParamValue::Text(_))
        | (ParamKind::Int { .. }, ParamValue::Flag(_) | ParamValue::Text(_))
        | (
            ParamKind::Enum { .. } | ParamKind::Date | ParamKind::Text { .. },
            ParamValue::Flag(_) | ParamValue::Integer(_),
        ) => false,
    }
}

fn expected(kind: &ParamKind) -> String {
    match kind {
        ParamKind::Flag => "true or false".to_owned(),
        ParamKind::Int { min, max } => format!("a whole number from {min} to {max}"),
        ParamKind::Enum { values } => format!("one of {}", values.join(", ")),
        ParamKind::Date => "a date of the form YYYY-MM-DD".to_owned(),
        ParamKind::Text { max_length } => format!("text of at most {max_length} bytes without NUL"),
    }
}

fn shown(value: &ParamValue) -> String {
    match value {
        ParamValue::Flag(flag) => flag.to_string(),
        ParamValue::Integer(number) => number.to_string(),
        ParamValue::Text(text) => {
            let clean = text
                .chars()
                .take(64)
                .map(|c| if c.is_control() { '\u{fffd}' } else { c });
            format!("`{}`", clean.collect::<String>())
        }
    }
}

/// A day of the Gregorian calendar as `YYYY-MM-DD`.
pub(crate) fn is_date(text: &str) -> bool {
    let form = text.len() == 10
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            0.. => byte.is_ascii_digit(),
        });
    if !form {
        return false;
    }
    let number = |from: usize, to: usize| {
        text.get(from..to)
            .and_then(|part| part.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        0 | 13.. => 0,
    };
    (1..=days).contains(&day)
}
