//! Lists of runs: which index answers which filter.
//!
//! Each list is walked backwards in time through one index that is named in the statement, so that no guess of the
//! planner can make a page dear. What that index does not know is looked at in the row.

use outpost_orchestrator_core::record::RunState;
use outpost_proto::name::{AgentName, WorkflowName};

/// Which runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Of this workflow.
    pub workflow: Option<WorkflowName>,
    /// In this state.
    pub state: Option<RunState>,
    /// That run on this agent as a whole.
    pub agent: Option<AgentName>,
    /// Made by a schedule, or not.
    pub scheduled: Option<bool>,
}

/// A state as it stands in the database: the same word as in JSON.
pub(super) fn state_word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Cancelling => "cancelling",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    }
}

/// Whether a run in this state can still change by itself.
pub(super) fn is_live(state: RunState) -> bool {
    match state {
        RunState::Running | RunState::Cancelling => true,
        RunState::Succeeded | RunState::Failed | RunState::Cancelled => false,
    }
}

impl RunFilter {
    /// The statement of a page: `?1` tenant, `?2` and `?3` the cursor's place, `?4` rows, `?5` workflow, `?6` state,
    /// `?7` agent.
    pub(super) fn sql(&self) -> String {
        let mut sql = format!(
            "SELECT record FROM run INDEXED BY {} \
             WHERE tenant = ?1 AND (created_at, run) < (?2, ?3)",
            self.index()
        );
        if let Some(state) = self.state {
            sql.push_str(if is_live(state) {
                " AND live = 1 AND state = ?6"
            } else {
                " AND live = 0 AND state = ?6"
            });
        }
        if self.workflow.is_some() {
            sql.push_str(" AND workflow = ?5");
        }
        if self.agent.is_some() {
            sql.push_str(" AND agent = ?7");
        }
        match self.scheduled {
            Some(true) => sql.push_str(" AND scheduled_for IS NOT NULL"),
            Some(false) => sql.push_str(" AND scheduled_for IS NULL"),
            None => {}
        }
        sql.push_str(" ORDER BY created_at DESC, run DESC LIMIT ?4");
        sql
    }

    fn index(&self) -> &'static str {
        match (self.state, &self.workflow, &self.agent) {
            (Some(state), _, _) if is_live(state) => "run_live",
            (Some(_), Some(_), _) => "run_over_of_workflow",
            (None, Some(_), _) => "run_by_workflow",
            (_, None, Some(_)) => "run_by_agent",
            (Some(_), None, None) => "run_over",
            (None, None, None) => "run_by_time",
        }
    }
}
