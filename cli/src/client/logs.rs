//! `outpost logs`: where the logs of an attempt, or of a run's attempts, are. They lie at sites; nothing here reads one.

use serde_json::{Value, json};

use super::api::{AttemptNode, RunTree, TaskNode};
use super::http::{Ask, Client, parse};
use super::{lists, runs};
use crate::failure::Failure;
use crate::output::{Column, Out, Table};
use crate::suggest;

/// Digits of the whole id of an attempt or of a run.
const WHOLE: usize = 32;

/// `outpost logs ATTEMPT`, `outpost logs RUN [TASK]`
pub(super) async fn logs(
    client: &Client,
    given: &str,
    task: Option<&str>,
    out: Out,
) -> Result<(), Failure> {
    if task.is_none() && given.len() == WHOLE {
        match client.ask(&Ask::get(&["attempts", given])).await {
            Ok(value) => return lists::whereabouts(&value, out),
            // Perhaps it is a run's.
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    let tree = match run(client, given).await {
        Ok(tree) => tree,
        Err(failure) if is_missing(&failure) => return Err(nobodys(given)),
        Err(failure) => return Err(failure),
    };
    if let Some(task) = task
        && !tree.tasks.iter().any(|node| node.task == task)
    {
        let names = tree.tasks.iter().map(|node| node.task.as_str());
        let unknown = Failure::NotFound(format!("the run has no task `{task}`"));
        return Err(unknown.advised(suggest::sentence(task, names)));
    }
    of_run(&tree, task, out);
    Ok(())
}

async fn run(client: &Client, given: &str) -> Result<RunTree, Failure> {
    let run = runs::id(client, given).await?;
    parse(client.ask(&Ask::get(&["runs", &run])).await?)
}

fn is_missing(failure: &Failure) -> bool {
    failure.is_not_found() || matches!(failure, Failure::NotFound(_))
}

fn nobodys(given: &str) -> Failure {
    Failure::NotFound(format!(
        "`{given}` is no attempt and no run: give a run's id or its beginning (`outpost runs`), or an attempt's whole id \
         (`outpost run RUN`)"
    ))
}

fn of_run(tree: &RunTree, task: Option<&str>, out: Out) {
    let columns = [
        Column::new("TASK", 0),
        Column::new("ATTEMPT", 0).id(),
        Column::new("ENDED", 1),
        Column::new("AGENT", 2),
    ];
    let mut table = Table::new(&columns, "no attempt was made, so there is no log");
    let mut items = Vec::new();
    let wanted = |node: &&TaskNode| task.is_none_or(|task| node.task == task);
    for node in tree.tasks.iter().filter(wanted) {
        for attempt in &node.attempts {
            let agent = attempt.agent.clone().or_else(|| tree.agent.clone());
            items.push(item(node, attempt, agent.as_deref()));
            table.row(vec![
                node.task.clone(),
                attempt.attempt.clone(),
                attempt.ending(),
                agent.unwrap_or_default(),
            ]);
        }
    }
    let is_empty = items.is_empty();
    out.either(&json!({ "run": tree.run, "items": items }), |out| {
        out.table(&table);
        if !is_empty {
            out.note(
                "They are at the agents' sites and do not leave them. To read one, run there: outpost-agent logs ATTEMPT. \
                 What was refused there has none: outpost-agent refusals says why",
            );
        }
    });
}

fn item(node: &TaskNode, attempt: &AttemptNode, agent: Option<&str>) -> Value {
    json!({
        "task": node.task, "attempt": attempt.attempt, "number": attempt.number,
        "state": attempt.state, "outcome": attempt.outcome, "agent": agent,
    })
}
