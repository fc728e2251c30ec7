//! What a task asks of an agent: queues, labels, catalogue entries. With affinity `run` all tasks of a workflow ask
//! together, because one agent runs all of them.

use std::collections::BTreeSet;

use outpost_proto::name::EntryName;

use crate::agent::Agent;
use crate::label::{LabelKey, LabelValue, QueueName};
use crate::spec::{TaskSpec, WorkflowSpec};

/// What an agent must serve, be labelled and announce.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Needs {
    pub(crate) queues: BTreeSet<QueueName>,
    /// Each key with the value it must have; no agent has two values of one key.
    pub(crate) labels: BTreeSet<(LabelKey, LabelValue)>,
    pub(crate) entries: BTreeSet<EntryName>,
}

impl Needs {
    /// Of one task.
    pub(crate) fn of_task(workflow: &WorkflowSpec, task: &TaskSpec) -> Self {
        let mut needs = Self::default();
        needs.add(workflow, task);
        needs
    }

    /// Of all tasks together.
    pub(crate) fn of_all(workflow: &WorkflowSpec) -> Self {
        let mut needs = Self::default();
        for task in &workflow.tasks {
            needs.add(workflow, task);
        }
        needs
    }

    fn add(&mut self, workflow: &WorkflowSpec, task: &TaskSpec) {
        let queue = task.queue.as_ref().unwrap_or(&workflow.queue);
        self.queues.insert(queue.clone());
        let labels = workflow.selector.0.iter().chain(&task.selector.0);
        self.labels
            .extend(labels.map(|(key, value)| (key.clone(), value.clone())));
        self.entries.insert(task.entry.clone());
    }

    /// Whether an agent serves all queues.
    pub(crate) fn served_by(&self, agent: &Agent) -> bool {
        self.queues.is_subset(&agent.record.queues)
    }

    /// Whether an agent has all labels.
    pub(crate) fn labelled(&self, agent: &Agent) -> bool {
        self.labels
            .iter()
            .all(|(key, value)| agent.record.labels.get(key) == Some(value))
    }
}
