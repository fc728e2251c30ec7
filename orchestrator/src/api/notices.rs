//! Notices as events of a stream: one word for what it is about, and an object that says what happened.

use axum::response::sse::Event;
use outpost_orchestrator_core::record::{NoticeKind, Phase};
use outpost_proto::name::TaskName;
use serde_json::{Value, json};

use super::view;
use crate::store::read::NumberedNotice;

/// One notice; `task` is the name of the task it is about, if it is about one.
pub(super) fn event(numbered: &NumberedNotice, task: Option<&TaskName>) -> Event {
    let (kind, mut data) = told(&numbered.notice.what, task);
    if let Value::Object(fields) = &mut data {
        fields.retain(|_, value| !value.is_null());
        fields.insert("seq".to_owned(), json!(numbered.seq));
        fields.insert("at".to_owned(), json!(view::time(numbered.notice.at)));
        fields.insert("kind".to_owned(), json!(kind));
    }
    Event::default()
        .id(numbered.seq.to_string())
        .event(kind)
        .data(data.to_string())
}

fn told(what: &NoticeKind, name: Option<&TaskName>) -> (&'static str, Value) {
    match what {
        NoticeKind::Run {
            run,
            workflow,
            state,
        } => (
            "run",
            json!({ "run": run, "workflow": workflow, "state": view::run_state(*state) }),
        ),
        NoticeKind::Task { run, task, state } => (
            "task",
            // A task is told to be active when its attempt is made; the attempt's own events tell the rest.
            json!({ "run": run, "task": name, "index": task,
                    "state": view::task_state(*state, Some(Phase::Assigned)),
                    "outcome": view::task_outcome(*state) }),
        ),
        NoticeKind::Attempt {
            run,
            task,
            attempt,
            agent,
            phase,
        } => (
            "attempt",
            json!({ "run": run, "task": name, "index": task, "attempt": attempt, "agent": agent,
                    "state": view::phase_word(*phase), "outcome": view::phase_outcome(*phase) }),
        ),
        NoticeKind::Workflow { workflow, change } => (
            "workflow",
            json!({ "workflow": workflow, "change": change }),
        ),
        NoticeKind::Skipped {
            workflow,
            from,
            until,
            count,
            why,
        } => (
            "skipped",
            json!({ "workflow": workflow, "from": view::time(*from), "until": view::time(*until),
                    "count": count, "why": why }),
        ),
        NoticeKind::Safety {
            what,
            agent,
            attempt,
            by,
            reason,
        } => (
            "safety",
            json!({ "what": what.word(), "agent": agent, "attempt": attempt, "by": by, "reason": reason }),
        ),
        NoticeKind::Agent { agent, presence } => (
            "agent",
            json!({ "agent": agent, "presence": view::presence(*presence) }),
        ),
    }
}
