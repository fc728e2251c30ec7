//! Placement against a scheduler that keeps nothing: it walks over everything, counts anew, and must decide the same.

use std::cmp::Reverse;

use proptest::prelude::*;

use super::invariants::{Act, World, act};
use super::*;
use crate::line::Key;
use crate::place::Sends;
use crate::run::Run;
use crate::spec::Affinity;
use crate::tenant::{Ctx, Tenant, over};

impl Tenant {
    /// Every queued task, first to last, to the best agent that may take it now.
    pub(crate) fn give_out_naively(&mut self, ctx: &mut Ctx<'_>, sends: &mut Sends) {
        let queued = |run: &Run| {
            let tasks = run.tasks.iter();
            let queued = tasks.filter(|task| matches!(task.record.state, TaskState::Queued { .. }));
            let keys = queued.map(|task| run.key(task.record.task));
            keys.collect::<Vec<_>>()
        };
        let mut keys: Vec<Key> = self.runs.values().flat_map(queued).collect();
        keys.sort();
        for key in keys {
            if self.is_limited_naively(key) {
                continue;
            }
            if let Some((name, offer)) = self.agent_naively(ctx, key) {
                self.give(ctx, &name, key, offer, sends);
            }
        }
    }

    fn is_limited_naively(&self, key: Key) -> bool {
        let run = &self.runs[&key.run];
        let workflow = &run.record.workflow;
        let spec = &self.workflows[workflow]
            .values()
            .next_back()
            .unwrap()
            .workflow
            .record
            .spec;
        let of_it = || {
            self.runs
                .values()
                .filter(|run| run.record.workflow == *workflow)
        };
        let begun = |run: &&Run| run.record.started_at.is_some() && !over(run.record.state);
        let active = |name: Option<&outpost_proto::name::TaskName>| {
            let tasks =
                of_it().flat_map(|run| run.tasks.iter().zip(&run.workflow.record.spec.tasks));
            let active = tasks.filter(|(task, spec)| {
                matches!(task.record.state, TaskState::Active { .. })
                    && name.is_none_or(|name| spec.name == *name)
            });
            u32::try_from(active.count()).unwrap()
        };
        let own = &run.workflow.task(key.task).unwrap().name;
        let limit = spec.tasks.iter().find(|task| task.name == *own);
        let runs = u32::try_from(of_it().filter(begun).count()).unwrap();
        let full = |limit: Option<u32>, now: u32| limit.is_some_and(|limit| now >= limit);
        !begun(&run) && full(spec.max_active_runs, runs)
            || full(spec.max_active_tasks, active(None))
            || full(limit.and_then(|task| task.max_active), active(Some(own)))
    }

    fn agent_naively(&self, ctx: &Ctx<'_>, key: Key) -> Option<(AgentName, CatalogueEntry)> {
        let run = &self.runs[&key.run];
        let spec = &run.workflow.record.spec;
        let task = run.workflow.task(key.task)?;
        let asking = |other: &&TaskSpec| spec.affinity == Affinity::Run || other.name == task.name;
        let suits = |agent: &crate::agent::Agent| {
            spec.tasks.iter().filter(asking).all(|task| {
                let queue = task.queue.as_ref().unwrap_or(&spec.queue);
                agent.record.queues.contains(queue)
                    && spec.selector.takes(&agent.record.labels)
                    && task.selector.takes(&agent.record.labels)
                    && agent.offer(&task.entry).is_some()
            })
        };
        let takes = |agent: &&crate::agent::Agent| {
            let fits = match &run.record.agent {
                Some(bound) => agent.record.agent == *bound && agent.offer(&task.entry).is_some(),
                None => suits(agent),
            };
            fits && agent.obstacle(ctx.now).is_none() && agent.room(ctx.settings) > 0
        };
        let agents = self.agents.values().filter(takes);
        let best = agents.min_by_key(|agent| {
            let room = Reverse(agent.room(ctx.settings));
            (room, agent.record.agent.clone())
        });
        best.and_then(|agent| Some((agent.record.agent.clone(), *agent.offer(&task.entry)?)))
    }
}

fn assert_same(acts: &[Act]) {
    let (mut quick, mut naive) = (World::new(), World::new());
    naive.be_naive();
    for act in acts {
        quick.act(act);
        naive.act(act);
        let (one, two) = (quick.mirror(), naive.mirror());
        assert_eq!(one.attempts, two.attempts, "{act:?}");
        assert_eq!(one.tasks, two.tasks, "{act:?}");
        assert_eq!(one.runs, two.runs, "{act:?}");
        assert_eq!(one.agents, two.agents, "{act:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_is_placed_as_by_a_scheduler_that_walks_over_everything(
        acts in prop::collection::vec(act(), 1..100)
    ) {
        assert_same(&acts);
    }
}
