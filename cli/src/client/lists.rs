//! Lists as tables.

use serde_json::Value;

use super::api::{AgentItem, Attempt, Items, Reason, RunItem, WorkflowItem, outcome_words};
use super::http::parse;
use super::tree::{day_and_clock, took};
use crate::failure::Failure;
use crate::output::{Column, Out, Table, clean};

/// `outpost workflows`
pub(crate) fn workflows(value: &Value, out: Out) -> Result<(), Failure> {
    let columns = [
        Column::new("WORKFLOW", 0),
        Column::new("VERSION", 1).right(),
        Column::new("TASKS", 2).right(),
        Column::new("APPLIED", 4),
        Column::new("DESCRIPTION", 3).prose(),
    ];
    let mut table = Table::new(&columns, "no workflows yet; `outpost apply FILE` makes one");
    for item in parse::<Items<WorkflowItem>>(value.clone())?.items {
        table.row(vec![
            item.name,
            item.version.to_string(),
            item.tasks.to_string(),
            day_and_clock(&item.applied_at),
            item.description.unwrap_or_default(),
        ]);
    }
    out.either(value, |out| out.table(&table));
    Ok(())
}

/// `outpost runs`
pub(crate) fn runs(value: &Value, out: Out) -> Result<(), Failure> {
    let columns = [
        Column::new("RUN", 0),
        Column::new("WORKFLOW", 1),
        Column::new("STATE", 0),
        Column::new("TOOK", 2).right(),
        Column::new("CREATED", 3),
        Column::new("AGENT", 4),
    ];
    let mut table = Table::new(&columns, "no runs; `outpost trigger WORKFLOW` starts one");
    for item in parse::<Items<RunItem>>(value.clone())?.items {
        table.row(vec![
            item.run,
            item.workflow,
            item.state,
            item.duration_ms.map(took).unwrap_or_default(),
            day_and_clock(&item.created_at),
            item.agent.unwrap_or_default(),
        ]);
    }
    out.either(value, |out| out.table(&table));
    Ok(())
}

/// `outpost agents`
pub(crate) fn agents(value: &Value, out: Out) -> Result<(), Failure> {
    let columns = [
        Column::new("AGENT", 0),
        Column::new("PRESENCE", 0),
        Column::new("RUNNING", 1).right(),
        Column::new("FREE", 2).right(),
        Column::new("CPU", 5).right(),
        Column::new("MEM", 5).right(),
        Column::new("DISK", 5).right(),
        Column::new("CERT", 4).right(),
        Column::new("LAST HEARD", 3),
        Column::new("VERSION", 6),
        Column::new("FLAGS", 2),
    ];
    let mut table = Table::new(
        &columns,
        "no agents; `outpost agents invite NAME` makes a token for one",
    );
    for item in parse::<Items<AgentItem>>(value.clone())?.items {
        let percent =
            |value: Option<u32>| value.map(|value| format!("{value} %")).unwrap_or_default();
        let count = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
        let free = match (item.slots_free, item.slots) {
            (Some(free), Some(all)) => format!("{free}/{all}"),
            (free, None) => count(free),
            (None, Some(_)) => String::new(),
        };
        table.row(vec![
            item.agent,
            item.presence,
            count(item.running),
            free,
            percent(item.cpu_percent),
            percent(item.memory_percent),
            percent(item.disk_percent),
            item.certificate_days_left
                .map(|days| format!("{days} d"))
                .unwrap_or_default(),
            item.last_heard
                .as_deref()
                .map(day_and_clock)
                .unwrap_or_default(),
            item.version.unwrap_or_default(),
            item.flags.join(","),
        ]);
    }
    out.either(value, |out| out.table(&table));
    Ok(())
}

/// `outpost explain RUN`
pub(crate) fn reasons(value: &Value, out: Out) -> Result<(), Failure> {
    let columns = [
        Column::new("TASK", 0),
        Column::new("STATE", 0),
        Column::new("CODE", 1),
        Column::new("WHY", 0).prose(),
    ];
    let mut table = Table::new(&columns, "nothing to explain");
    for item in parse::<Items<Reason>>(value.clone())?.items {
        table.row(vec![item.task, item.state, item.code, item.reason]);
    }
    out.either(value, |out| out.table(&table));
    Ok(())
}

/// `outpost logs ATTEMPT`
pub(crate) fn whereabouts(value: &Value, out: Out) -> Result<(), Failure> {
    let item: Attempt = parse(value.clone())?;
    out.either(value, |out| {
        let state = item
            .outcome
            .as_ref()
            .map_or_else(|| item.state.clone(), outcome_words);
        let line = |name: &str, value: &str| out.line(&format!("{name:9} {}", clean(value)));
        line("attempt", &item.attempt);
        line(
            "task",
            &format!("{} of {} (run {})", item.task, item.workflow, item.run),
        );
        line("state", &state);
        line("agent", &item.agent);
        out.line("Its log is at the agent's site and does not leave it. To read it, run there:");
        out.line(&format!("  outpost-agent logs {}", clean(&item.attempt)));
    });
    Ok(())
}
