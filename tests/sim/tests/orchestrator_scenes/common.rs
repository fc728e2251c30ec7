//! What several scenes ask, read and send.

use outpost_orchestrator_core::event::{AgentChange, Ask, Denied};
use outpost_orchestrator_core::record::TaskState;
use outpost_proto::ids::{AttemptId, EventSeq, Fence, RunId, TaskIndex};
use outpost_proto::message::{AttemptState, Directive, DownMessage, InventoryItem};
use outpost_proto::outcome::Outcome;
use outpost_sim::stage::{Stage, name};

pub(crate) const SUCCEEDED: AttemptState = AttemptState::Finished(succeeded());

pub(crate) const fn succeeded() -> outpost_proto::outcome::Report {
    outpost_proto::outcome::Report {
        outcome: Outcome::Succeeded,
        may_have_started: true,
        duration_ms: 1000,
        exit_code: None,
        count: None,
    }
}

pub(crate) fn configure(scene: &mut Stage, agent: &str, change: AgentChange) {
    let agent = name(agent);
    assert!(scene.ask(Ask::ConfigureAgent { agent, change }).is_ok());
}

pub(crate) fn cordon(scene: &mut Stage, agent: &str, cordoned: bool) {
    let cordoned = Some(cordoned);
    let change = AgentChange {
        cordoned,
        ..AgentChange::default()
    };
    configure(scene, agent, change);
}

pub(crate) fn drain(scene: &mut Stage, agent: &str, draining: bool) {
    let draining = Some(draining);
    let change = AgentChange {
        draining,
        ..AgentChange::default()
    };
    configure(scene, agent, change);
}

pub(crate) fn go_on(scene: &mut Stage) -> Result<(), Denied> {
    let by = "somebody".to_owned();
    scene.ask(Ask::Continue { by }).map(|_| ())
}

pub(crate) fn says_over(scene: &mut Stage, attempt: AttemptId) -> Result<(), Denied> {
    let (by, reason) = ("somebody".to_owned(), "looked at the host".to_owned());
    scene
        .ask(Ask::AssertDead {
            attempt,
            by,
            reason,
        })
        .map(|_| ())
}

pub(crate) fn state(scene: &Stage, run: RunId, task: u16) -> TaskState {
    scene.task(run, task).state
}

pub(crate) fn awaited(scene: &mut Stage) -> Vec<String> {
    scene
        .recovery()
        .awaited
        .iter()
        .map(ToString::to_string)
        .collect()
}

pub(crate) fn directives(said: &[DownMessage]) -> Vec<Directive> {
    let directive = |message: &DownMessage| match message {
        DownMessage::Directive { directive, .. } => Some(directive.clone()),
        DownMessage::Welcome(_) | DownMessage::Assign(_) | DownMessage::Granted(_) => None,
    };
    said.iter().filter_map(directive).collect()
}

/// What nobody but an agent knows of: an attempt of this run's task with this fence.
pub(crate) fn unknown(
    run: RunId,
    task: u16,
    fence: u64,
    state: AttemptState,
    event: u64,
) -> InventoryItem {
    InventoryItem {
        attempt: AttemptId(0xabc_000 + u128::from(fence)),
        run,
        task: TaskIndex(task),
        fence: Fence(fence),
        state,
        event_seq: EventSeq(event),
    }
}
