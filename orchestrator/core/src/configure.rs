//! What a person decides about an agent: labels, queues, slots, cordon, drain.

use outpost_proto::name::AgentName;

use crate::event::{AgentChange, Answer, Denied};
use crate::label::{LABELS, QUEUES};
use crate::record::Write;
use crate::tenant::{Ctx, Tenant};

impl Tenant {
    /// Changes what is given of a change, or nothing.
    pub(crate) fn configure_agent(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &AgentName,
        change: &AgentChange,
    ) -> Result<Answer, Denied> {
        let known = self.agents.get_mut(name);
        let Some(agent) = known.filter(|agent| !agent.record.removed) else {
            return Err(Denied::UnknownAgent(name.clone()));
        };
        if change
            .labels
            .as_ref()
            .is_some_and(|labels| labels.len() > LABELS)
        {
            return Err(Denied::Limit(format!(
                "an agent has at most {LABELS} labels"
            )));
        }
        let queues = change.queues.as_ref().map(|queues| queues.len());
        if queues.is_some_and(|queues| queues == 0 || queues > QUEUES) {
            return Err(Denied::Limit(format!(
                "an agent serves between 1 and {QUEUES} queues"
            )));
        }
        let record = &mut agent.record;
        record.labels = change.labels.clone().unwrap_or(record.labels.clone());
        record.queues = change.queues.clone().unwrap_or(record.queues.clone());
        record.slots_limit = change.slots_limit.unwrap_or(record.slots_limit);
        record.cordoned = change.cordoned.unwrap_or(record.cordoned);
        record.draining = change.draining.unwrap_or(record.draining);
        ctx.write(Write::Agent(record.clone()));
        let view = agent.view();
        self.refresh(ctx, name);
        Ok(Answer::Agent(view))
    }
}
