//! A person's word that an attempt is over: what stands in for knowledge when an agent is gone for good.
//!
//! It frees the attempt's place and lets its task's retries go on. What the agent may say later is kept beside.

use outpost_proto::ids::{AttemptId, RunId, TaskIndex};

use crate::event::{Answer, Denied};
use crate::limits::REASON_LEN;
use crate::record::{NoticeKind, Presence, TaskState, Write};
use crate::retry::UNKNOWN_END;
use crate::safety::{Asserted, Safety};
use crate::state::Observed;
use crate::tenant::{Ctx, Tenant, is_active};

impl Tenant {
    pub(crate) fn assert_dead(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: AttemptId,
        by: &str,
        reason: &str,
    ) -> Result<Answer, Denied> {
        let length = reason.chars().count();
        if reason.trim().is_empty() || length > REASON_LEN || reason.chars().any(char::is_control) {
            return Err(Denied::Limit(format!(
                "a reason has 1 to {REASON_LEN} characters without control characters"
            )));
        }
        let Some(attempt) = self.attempts.get(&id) else {
            return Err(Denied::UnknownAttempt(id));
        };
        let agent = self.agents.get(&attempt.agent);
        if is_active(attempt)
            && agent.is_some_and(|agent| {
                agent.presence == Presence::Live
                    && agent.ready().is_some()
                    && !agent.live.unsent.contains(&id)
            })
        {
            return Err(Denied::InTouch {
                attempt: id,
                agent: attempt.agent.clone(),
            });
        }
        let (run, task, name) = (attempt.run, attempt.task, attempt.agent.clone());
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.asserted = Some(Asserted {
                by: by.to_owned(),
                at: ctx.now.0,
                reason: reason.to_owned(),
            });
            ctx.write(Write::Attempt(attempt.clone()));
        }
        let notice = NoticeKind::Safety {
            what: Safety::AssertedDead,
            agent: Some(name.clone()),
            attempt: Some(id),
            by: Some(by.to_owned()),
            reason: Some(reason.to_owned()),
        };
        ctx.notice(&self.record.tenant, notice);
        if self.attempts.get(&id).is_some_and(is_active) {
            // From an active phase silence has exactly one way to go.
            let _ = self.observe(ctx, &name, id, Observed::Silent);
        }
        self.go_on_without(ctx, id, run, task);
        self.tell_to_end(ctx, &name, id);
        let state = self
            .runs
            .get(&run)
            .and_then(|run| run.task(task))
            .map_or(TaskState::Cancelled, |task| task.record.state);
        Ok(Answer::AssertedDead { task: state })
    }

    /// The task's retries go on, if it still waits for this attempt.
    fn go_on_without(&mut self, ctx: &mut Ctx<'_>, id: AttemptId, run: RunId, task: TaskIndex) {
        let Some(attempt) = self.attempts.get(&id).cloned() else {
            return;
        };
        if self.waits_for(&attempt).is_none() {
            return;
        }
        self.release(ctx, run);
        self.spent(ctx, run, task, UNKNOWN_END);
        self.finish_if_over(ctx, run);
    }
}
