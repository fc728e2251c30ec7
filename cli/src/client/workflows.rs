//! Commands about workflows that the server knows: list, delete, pause, resume, schedule.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::api::{Items, WorkflowItem};
use super::http::{Ask, Client, parse};
use super::tree::day_and_clock;
use crate::args::{DeleteCommand, ScheduleArgs};
use crate::failure::Failure;
use crate::output::{Column, Out, Table, clean};
use crate::suggest;

/// `outpost workflows`
pub(super) async fn list(client: &Client, out: Out) -> Result<(), Failure> {
    let value = super::pages::all(
        client,
        &Ask::get(&["workflows"]),
        None,
        "reading workflows",
        out,
    )
    .await?;
    show(&value, out)
}

fn show(value: &Value, out: Out) -> Result<(), Failure> {
    let table = table(parse::<Items<WorkflowItem>>(value.clone())?.items);
    out.either(value, |out| out.table(&table));
    Ok(())
}

/// Workflows as rows.
pub(super) fn table(items: Vec<WorkflowItem>) -> Table {
    let columns = [
        Column::new("WORKFLOW", 0),
        Column::new("VERSION", 2).right(),
        Column::new("SCHEDULED", 1),
        Column::new("NEXT RUN", 1),
        Column::new("LIVE RUNS", 3).right(),
        Column::new("TASKS", 4).right(),
        Column::new("APPLIED", 6),
        Column::new("DESCRIPTION", 5).prose(),
    ];
    let mut table = Table::new(&columns, "no workflows yet; `outpost apply FILE` makes one");
    for item in items {
        let scheduled = item.scheduled().to_owned();
        table.row(vec![
            item.name,
            item.version.to_string(),
            scheduled,
            item.next_run_at
                .as_deref()
                .map(day_and_clock)
                .unwrap_or_default(),
            item.active_runs.map(|n| n.to_string()).unwrap_or_default(),
            item.tasks.to_string(),
            day_and_clock(&item.applied_at),
            item.description.unwrap_or_default(),
        ]);
    }
    table
}

/// A workflow that is not there is told with one that is meant.
pub(super) async fn meant(client: &Client, workflow: &str, failure: Failure) -> Failure {
    if !failure.is_not_found() {
        return failure;
    }
    let Ok(known) = client
        .get::<Items<WorkflowItem>>(&Ask::get(&["workflows"]))
        .await
    else {
        return failure;
    };
    let names = known.items.iter().map(|item| item.name.as_str());
    let help = suggest::sentence(workflow, names).unwrap_or_else(|| {
        let help = if known.items.is_empty() {
            "there are no workflows yet; `outpost apply FILE` makes one"
        } else {
            "`outpost workflows` lists those that are there"
        };
        help.to_owned()
    });
    failure.advised(Some(help))
}

/// Asks about one workflow.
pub(super) async fn ask(client: &Client, workflow: &str, ask: &Ask<'_>) -> Result<Value, Failure> {
    match client.ask(ask).await {
        Ok(value) => Ok(value),
        Err(failure) => Err(meant(client, workflow, failure).await),
    }
}

/// `outpost delete workflow NAME`
pub(super) async fn delete(
    client: &Client,
    command: &DeleteCommand,
    out: Out,
) -> Result<(), Failure> {
    let DeleteCommand::Workflow { workflow, yes } = command;
    if !yes {
        // Whoever mistyped the name learns it before being asked.
        ask(client, workflow, &Ask::get(&["workflows", workflow])).await?;
        out.confirm(
            &format!("Delete the workflow `{workflow}` at {}?", client.server()),
            "--yes",
        )?;
    }
    ask(client, workflow, &Ask::delete(&["workflows", workflow])).await?;
    out.either(&json!({ "name": workflow, "result": "deleted" }), |out| {
        out.line(&format!(
            "{} is deleted; its runs stay readable",
            clean(workflow)
        ));
    });
    Ok(())
}

/// `outpost pause WORKFLOW`, `outpost resume WORKFLOW`
pub(super) async fn pause(
    client: &Client,
    workflow: &str,
    paused: bool,
    out: Out,
) -> Result<(), Failure> {
    let word = if paused { "pause" } else { "resume" };
    let path = ["workflows", workflow, word];
    let answer = ask(client, workflow, &Ask::post(&path, &json!({})).again()).await?;
    let next = answer.get("next_run_at").and_then(Value::as_str);
    let line = match (paused, next) {
        (true, _) => format!(
            "{} is paused: no scheduled runs until `outpost resume {0}`; runs by hand still start",
            clean(workflow)
        ),
        (false, Some(next)) => format!(
            "{} is resumed; the next scheduled run is at {}",
            clean(workflow),
            day_and_clock(next)
        ),
        (false, None) => format!(
            "{} is resumed; no scheduled run is to come",
            clean(workflow)
        ),
    };
    let mut value = answer;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("name".to_owned(), json!(workflow));
    }
    out.either(&value, |out| out.line(&line));
    Ok(())
}

/// `outpost schedule WORKFLOW`
pub(super) async fn schedule(
    client: &Client,
    args: &ScheduleArgs,
    out: Out,
) -> Result<(), Failure> {
    let workflow = args.workflow.as_str();
    let about = ask(client, workflow, &Ask::get(&["workflows", workflow])).await?;
    let path = ["workflows", workflow, "upcoming"];
    let upcoming = Ask::get(&path).with("count", Some(args.count.to_string()));
    let upcoming: Items<String> = parse(ask(client, workflow, &upcoming).await?)?;
    let schedule = about.get("schedule").filter(|it| !it.is_null());
    let zone = schedule
        .and_then(|it| it.get("timezone")?.as_str())
        .unwrap_or("UTC");
    let paused = about.get("paused").and_then(Value::as_bool) == Some(true);
    show_schedule(workflow, schedule, zone, paused, &upcoming.items, out);
    Ok(())
}

fn show_schedule(
    workflow: &str,
    schedule: Option<&Value>,
    zone: &str,
    paused: bool,
    upcoming: &[String],
    out: Out,
) {
    let known = TimeZone::get(zone).ok();
    let mut items = Vec::new();
    let mut table = Table::new(
        &[
            Column::new("IN ZONE", 0),
            Column::new("HERE", 0),
            Column::new("UTC", 1),
        ],
        "no scheduled run is to come",
    );
    for at in upcoming {
        let there = known.as_ref().and_then(|zone| {
            let at: Timestamp = at.parse().ok()?;
            Some(at.to_zoned(zone.clone()))
        });
        let written = |form: &str| there.as_ref().map(|at| at.strftime(form).to_string());
        items.push(json!({ "at": at, "in_zone": written("%Y-%m-%dT%H:%M:%S%:z") }));
        table.row(vec![
            written("%a %Y-%m-%d %H:%M:%S%:z").unwrap_or_default(),
            day_and_clock(at),
            at.clone(),
        ]);
    }
    let value = json!({
        "name": workflow, "schedule": schedule, "timezone": zone, "paused": paused, "items": items,
    });
    out.either(&value, |out| {
        let when = schedule.map(words);
        match when {
            Some(when) => out.note(&format!("{} runs {}", clean(workflow), clean(&when))),
            None => out.note(&format!(
                "{} has no schedule; `outpost trigger {0}` runs it",
                clean(workflow)
            )),
        }
        if paused {
            out.note(&format!(
                "it is paused: none of these will run until `outpost resume {}`",
                clean(workflow)
            ));
        }
        if schedule.is_some() {
            out.table(&table);
        }
    });
}

/// `at 30 2 * * 1-5, Europe/Berlin`, `every 15 min`
fn words(schedule: &Value) -> String {
    let text = |name: &str| schedule.get(name).and_then(Value::as_str);
    let mut words = match (
        text("cron"),
        schedule.get("every_ms").and_then(Value::as_u64),
    ) {
        (Some(cron), _) => format!("at `{cron}`"),
        (None, Some(ms)) => format!("every {}", interval(ms)),
        (None, None) => "on a schedule".to_owned(),
    };
    let zone = text("timezone").unwrap_or("UTC");
    words.push_str(&format!(", {zone}"));
    for (name, word) in [("start", "from"), ("end", "until")] {
        if let Some(at) = text(name) {
            words.push_str(&format!(", {word} {}", on_clock(at, zone)));
        }
    }
    words
}

/// An instant on the wall clock of the schedule, as the file says it.
fn on_clock(at: &str, zone: &str) -> String {
    let there = at.parse::<Timestamp>().ok().zip(TimeZone::get(zone).ok());
    there.map_or_else(
        || day_and_clock(at),
        |(at, zone)| at.to_zoned(zone).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// `15 min`: what an interval has none of is left out.
fn interval(ms: u64) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = ms;
    let mut parts = Vec::new();
    for (name, size) in units {
        if rest >= size {
            parts.push(format!("{} {name}", rest / size));
        }
        rest %= size;
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_told_in_words() {
        let cron = json!({ "cron": "30 2 * * 1-5", "timezone": "Europe/Berlin", "start": null });
        assert_eq!(words(&cron), "at `30 2 * * 1-5`, Europe/Berlin");
        let cron = json!({ "cron": "@daily", "timezone": "Europe/Berlin", "start": "2025-12-31T23:00:00Z" });
        assert_eq!(
            words(&cron),
            "at `@daily`, Europe/Berlin, from 2026-01-01 00:00"
        );
        assert_eq!(interval(93_784_005), "1 d 2 h 3 min 4 s 5 ms");
        let every = json!({ "every_ms": 900_000, "timezone": "UTC" });
        assert_eq!(words(&every), "every 15 min, UTC");
    }
}
