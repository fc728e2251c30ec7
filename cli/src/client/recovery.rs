//! Commands for what endangers the work as a whole, and for attempts of which nothing is heard.

use serde_json::{Value, json};

use super::api::RecoveryItem;
use super::http::{Ask, Client, parse};
use super::tree::day_and_clock;
use crate::args::{AttemptsCommand, RecoveryCommand};
use crate::failure::Failure;
use crate::output::{Out, clean};

/// `outpost recovery`
pub(super) async fn run(
    client: &Client,
    command: RecoveryCommand,
    out: Out,
) -> Result<(), Failure> {
    let value = match command {
        RecoveryCommand::Status => client.ask(&Ask::get(&["recovery"])).await?,
        RecoveryCommand::Continue => {
            let nothing = json!({});
            client
                .ask(&Ask::post(&["recovery", "continue"], &nothing))
                .await?
        }
    };
    status(&value, out)
}

/// `outpost agents unfreeze`
pub(super) async fn unfreeze(client: &Client, out: Out) -> Result<(), Failure> {
    let nothing = json!({});
    let value = client
        .ask(&Ask::post(&["recovery", "unfreeze"], &nothing))
        .await?;
    status(&value, out)
}

fn status(value: &Value, out: Out) -> Result<(), Failure> {
    let item: RecoveryItem = parse(value.clone())?;
    out.either(value, |out| {
        if let Some(at) = &item.restored_at {
            out.line(&format!(
                "The database was restored at {} (recovery epoch {}).",
                day_and_clock(at),
                item.epoch
            ));
        }
        let told = warnings(&item);
        for line in &told {
            out.line(&clean(line));
        }
        if told.is_empty() {
            out.line("Nothing holds work back.");
        }
    });
    Ok(())
}

/// What a person should know of, one sentence each.
pub(super) fn warnings(item: &RecoveryItem) -> Vec<String> {
    let mut told = Vec::new();
    if item.recovering {
        told.push(format!(
            "New work waits for agents that have not reported since the restore: {}. `outpost recovery continue` goes on \
             without them.",
            item.awaited.join(", ")
        ));
    } else if !item.awaited.is_empty() {
        told.push(format!(
            "Not reported since the restore, and not waited for: {}.",
            item.awaited.join(", ")
        ));
    }
    if let Some(since) = &item.frozen_since {
        told.push(format!(
            "Most agents went at once: since {} no silent attempt is given up. It ends when they are back, or with \
             `outpost agents unfreeze`.",
            day_and_clock(since)
        ));
    }
    for agent in &item.quarantined {
        told.push(format!(
            "Two machines hold the identity of {agent}, and neither gets work: `outpost agents show {agent}`, then \
             `outpost agents resolve {agent} --keep this` or `--keep that`."
        ));
    }
    if !item.held_back.is_empty() {
        told.push(format!(
            "The database is older than what these agents saw, and they get no work: {}. Restore a backup with \
             `outpost-orchestrator restore`.",
            item.held_back.join(", ")
        ));
    }
    told
}

/// `outpost attempts`
pub(super) async fn attempts(
    client: &Client,
    command: &AttemptsCommand,
    out: Out,
) -> Result<(), Failure> {
    let AttemptsCommand::AssertDead { attempt, reason } = command;
    let body = json!({ "reason": reason });
    let value = client
        .ask(&Ask::post(&["attempts", attempt, "assert-dead"], &body))
        .await?;
    out.either(&value, |out| {
        let state = value
            .get("task_state")
            .and_then(Value::as_str)
            .unwrap_or("?");
        out.line(&clean(&format!(
            "{attempt} counts as over; its task is {state}"
        )));
    });
    Ok(())
}
