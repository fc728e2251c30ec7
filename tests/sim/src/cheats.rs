//! Agents that do what no honest one does: inventories that invent or leave out, outcomes of others' attempts, numbers from
//! nowhere. The real core runs behind each, and what it says is changed on its way. Such an agent may harm its own
//! attempts and nothing else.

use outpost_orchestrator_core::record::{AttemptRecord, Phase, TaskRecord, TaskState};
use outpost_proto::ids::{AttemptId, CommandSeq, EventSeq, Nonce, RunId, TaskIndex};
use outpost_proto::message::{AttemptState, Event as Told, Hello, InventoryItem, UpMessage};
use outpost_proto::name::{AgentName, TenantName};
use outpost_proto::outcome::{Outcome, Report};

use crate::world::World;

/// What is done to the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// The end of an attempt of somebody else.
    OthersOutcome,
    /// The end of an attempt that never was.
    InventedOutcome,
    /// Everything ended well.
    AllSucceeded,
    /// Nothing is held.
    LeaveOut,
    /// More is held than is.
    AddInvented,
    AddOthers,
    /// Another run, or another fence.
    OtherEcho,
    NumberFromNowhere,
    CommandFromNowhere,
    NonceFromNowhere,
    HelloAgain,
    EventsTwice,
}

const LIES: [Lie; 12] = [
    Lie::OthersOutcome,
    Lie::InventedOutcome,
    Lie::AllSucceeded,
    Lie::LeaveOut,
    Lie::AddInvented,
    Lie::AddOthers,
    Lie::OtherEcho,
    Lie::NumberFromNowhere,
    Lie::CommandFromNowhere,
    Lie::NonceFromNowhere,
    Lie::HelloAgain,
    Lie::EventsTwice,
];

fn well() -> AttemptState {
    AttemptState::Finished(Report {
        outcome: Outcome::Succeeded,
        may_have_started: true,
        duration_ms: 1,
        exit_code: None,
        count: None,
    })
}

impl World {
    /// A cheating agent changes one of its next frames.
    pub(crate) fn cheat_soon(&mut self) {
        let cheats: Vec<usize> = (0..self.sites.len())
            .filter(|site| self.sites[*site].cheats)
            .collect();
        if !cheats.is_empty() {
            let site = cheats[self.dice.below(cheats.len())];
            self.sites[site].next_lie = Some(self.dice.next());
        }
    }

    pub(crate) fn is_cheat(&self, tenant: &TenantName, agent: &AgentName) -> bool {
        let of = |site: &&crate::site::Site| {
            site.identity.tenant == *tenant && site.identity.agent == *agent
        };
        self.sites.iter().find(of).is_some_and(|site| site.cheats)
    }

    pub(crate) fn is_with_a_cheat(&self, attempt: &AttemptRecord) -> bool {
        self.is_cheat(&attempt.tenant, &attempt.agent)
    }

    /// Whether what becomes of this task is in the hands of a cheating agent: it holds the task, the task's run is bound
    /// to it, or nobody else of its tenant is there.
    pub(crate) fn is_in_a_cheats_hands(&self, task: &TaskRecord) -> bool {
        if !self.plan.cheats {
            return false;
        }
        let mirror = &self.center.disk.mirror;
        let Some(run) = mirror.runs.get(&task.run) else {
            return false;
        };
        match task.state {
            TaskState::Active { attempt } => {
                let held = mirror.attempts.get(&attempt);
                // What its agent lacks after a restore is sent again as new work is.
                let waits = self.is_waiting_after_a_restore(&run.tenant)
                    && self.waits_for_a_cheats_report(&run.tenant);
                let unsent = |held: &AttemptRecord| waits && held.phase == Phase::Assigned;
                held.is_some_and(|held| self.is_with_a_cheat(held) || unsent(held))
            }
            TaskState::Queued { .. } | TaskState::Backoff { .. } => {
                let bound = run.agent.as_ref();
                let mut own = self.sites.iter();
                bound.is_some_and(|agent| self.is_cheat(&run.tenant, agent))
                    || self.waits_for_a_cheats_report(&run.tenant)
                    || self.waits_for_a_cheat(&run.tenant)
                    || own.all(|site| site.cheats || site.identity.tenant != run.tenant)
            }
            TaskState::Waiting
            | TaskState::Succeeded
            | TaskState::Failed { .. }
            | TaskState::UpstreamFailed
            | TaskState::Cancelled => false,
        }
    }

    /// Whether all work of this tenant waits for a cheating agent to say what a restored database lacks, and nobody goes
    /// on without it: who invents its first nonce then is set aside when it presents the true one.
    fn waits_for_a_cheat(&self, tenant: &TenantName) -> bool {
        let mut sites = self.sites.iter();
        let life = self.center.disk.mirror.recovery.counter;
        let awaited = |site: &crate::site::Site| {
            let name = (site.identity.tenant.clone(), site.identity.agent.clone());
            let agent = self.center.disk.mirror.agents.get(&name);
            agent.is_some_and(|agent| !agent.removed && agent.standing.reported < life)
        };
        let cheat =
            sites.any(|site| site.cheats && site.identity.tenant == *tenant && awaited(site));
        cheat && !self.plan.person && self.is_waiting_after_a_restore(tenant)
    }

    /// After a restore new work waits for what every agent has to tell, or for a person. A cheat that invented its first
    /// nonce is set aside as a second holder when it presents the true one, and tells nothing.
    fn waits_for_a_cheats_report(&self, tenant: &TenantName) -> bool {
        let mirror = &self.center.disk.mirror;
        let life = mirror.recovery.counter;
        let mut agents = mirror.agents.values();
        agents.any(|agent| {
            agent.tenant == *tenant
                && !agent.removed
                && agent.standing.reported < life
                && self.is_cheat(tenant, &agent.agent)
        })
    }

    /// Whether a cheating agent has a hand in this run.
    pub(crate) fn is_a_cheats_run(&self, run: RunId) -> bool {
        let tasks = &self.center.disk.mirror.tasks;
        let mut own = tasks.range((run, TaskIndex(0))..=(run, TaskIndex(u16::MAX)));
        own.any(|(_, task)| self.is_in_a_cheats_hands(task) || self.is_held_up(task))
    }

    /// What a cheating agent says instead.
    pub(crate) fn cheat(&mut self, index: usize, messages: &mut Vec<UpMessage>) {
        let Some(draw) = self.sites[index].next_lie else {
            return;
        };
        let others = self.others_attempts(index);
        let mut told = false;
        self.with_own_dice(draw, |world| {
            let first = world.dice.below(LIES.len());
            let other = others[world.dice.below(others.len())];
            let invented = AttemptId(u128::from(world.dice.next()));
            for nth in 0..LIES.len() {
                let lie = LIES[(first + nth) % LIES.len()];
                if tell(lie, messages, other, invented) {
                    told = true;
                    return;
                }
            }
        });
        if told {
            self.sites[index].next_lie = None;
            self.trace.count("frame that no honest agent sends");
        }
    }

    fn others_attempts(&self, index: usize) -> Vec<AttemptId> {
        let own = &self.sites[index].identity;
        let attempts = self.center.disk.mirror.attempts.values();
        let others = attempts.filter(|attempt| attempt.agent != own.agent);
        let mut others: Vec<AttemptId> = others.map(|attempt| attempt.attempt).collect();
        others.push(AttemptId(7));
        others
    }
}

/// Whether this frame could carry it, and does.
fn tell(lie: Lie, messages: &mut Vec<UpMessage>, other: AttemptId, invented: AttemptId) -> bool {
    let highest = |messages: &[UpMessage]| {
        let numbers = messages.iter().filter_map(|message| match message {
            UpMessage::Event(event) => Some(event.event_seq),
            UpMessage::Hello(_)
            | UpMessage::Catalogue(_)
            | UpMessage::Inventory(_)
            | UpMessage::Heartbeat(_)
            | UpMessage::Trigger { .. }
            | UpMessage::Ack(_) => None,
        });
        numbers.max()
    };
    let end_of = |attempt, messages: &mut Vec<UpMessage>| {
        let Some(seq) = highest(messages) else {
            return false;
        };
        messages.push(UpMessage::Event(Told {
            event_seq: EventSeq(seq.0 + 1),
            attempt,
            state: well(),
        }));
        true
    };
    match lie {
        Lie::OthersOutcome => end_of(other, messages),
        Lie::InventedOutcome => end_of(invented, messages),
        Lie::AllSucceeded => each_event(messages, |event| event.state = well()),
        Lie::NumberFromNowhere => each_event(messages, |event| event.event_seq.0 += 1_000_000),
        Lie::EventsTwice => {
            let again = messages.clone();
            let has = highest(messages).is_some();
            messages.extend(again.into_iter().filter(|_| has));
            has
        }
        Lie::LeaveOut => each_inventory(messages, Vec::clear),
        Lie::AddInvented => each_inventory(messages, |items| items.push(item(invented))),
        Lie::AddOthers => each_inventory(messages, |items| items.push(item(other))),
        Lie::OtherEcho => each_inventory(messages, |items| {
            for item in items {
                item.fence.0 += 1;
            }
        }),
        Lie::CommandFromNowhere => {
            let acks = messages
                .iter()
                .any(|message| matches!(message, UpMessage::Ack(_)));
            if acks {
                messages.push(UpMessage::Ack(CommandSeq(1 << 40)));
            }
            acks
        }
        Lie::NonceFromNowhere => each_hello(messages, |hello| {
            hello.session_nonce = Nonce(hello.session_nonce.0 ^ 0xffff);
        }),
        Lie::HelloAgain => match messages.first().cloned() {
            Some(UpMessage::Hello(hello)) => {
                messages.push(UpMessage::Hello(hello));
                true
            }
            Some(_) | None => false,
        },
    }
}

fn item(attempt: AttemptId) -> InventoryItem {
    InventoryItem {
        attempt,
        run: RunId(1),
        task: outpost_proto::ids::TaskIndex(0),
        fence: outpost_proto::ids::Fence(1),
        state: AttemptState::Running,
        event_seq: EventSeq(0),
    }
}

fn each_event(messages: &mut [UpMessage], change: impl Fn(&mut Told)) -> bool {
    let mut any = false;
    for message in messages {
        if let UpMessage::Event(event) = message {
            change(event);
            any = true;
        }
    }
    any
}

fn each_hello(messages: &mut [UpMessage], change: impl Fn(&mut Hello)) -> bool {
    let mut any = false;
    for message in messages {
        if let UpMessage::Hello(hello) = message {
            change(hello);
            any = true;
        }
    }
    any
}

/// Changes a whole inventory, its count with it.
fn each_inventory(messages: &mut [UpMessage], change: impl Fn(&mut Vec<InventoryItem>)) -> bool {
    let mut any = false;
    for message in messages {
        if let UpMessage::Inventory(page) = message
            && page
                .end
                .is_some_and(|end| usize::try_from(end) == Ok(page.items.len()))
        {
            change(&mut page.items);
            page.end = u32::try_from(page.items.len()).ok();
            any = true;
        }
    }
    any
}
