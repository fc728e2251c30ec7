//! Lists as tables.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::api::{AgentItem, Attempt, Holder, Items, Reason, RunItem, outcome_words};
use super::http::parse;
use super::tree::{day_and_clock, took};
use crate::failure::Failure;
use crate::output::{Column, Out, Table, clean};

/// Of a certificate.
const EXPIRED: &str = "expired";

/// `outpost runs`; `is_some`: only some were asked for.
pub(crate) fn runs(value: &Value, is_some: bool, out: Out) -> Result<(), Failure> {
    let empty = if is_some {
        "no such runs"
    } else {
        "no runs; `outpost trigger WORKFLOW` starts one"
    };
    let table = runs_table(parse::<Items<RunItem>>(value.clone())?.items, empty);
    let more = value.get("next").is_some_and(|next| !next.is_null());
    out.either(value, |out| {
        out.table(&table);
        if more {
            out.note("there are older ones: --limit N or --all shows them");
        }
    });
    Ok(())
}

fn runs_table(items: Vec<RunItem>, empty: &'static str) -> Table {
    let columns = [
        Column::new("RUN", 0).id(),
        Column::new("WORKFLOW", 1),
        Column::new("STATE", 0),
        Column::new("TOOK", 2).right(),
        Column::new("CREATED", 3),
        Column::new("AGENT", 4),
        Column::new("SCHEDULED FOR", 5),
        Column::new("RERUNS", 6).right(),
    ];
    let mut table = Table::new(&columns, empty);
    for item in items {
        table.row(vec![
            item.run,
            item.workflow,
            item.state,
            item.duration_ms.map(took).unwrap_or_default(),
            day_and_clock(&item.created_at),
            item.agent.unwrap_or_default(),
            item.scheduled_for
                .as_deref()
                .map(day_and_clock)
                .unwrap_or_default(),
            match item.reruns {
                0 => String::new(),
                n => n.to_string(),
            },
        ]);
    }
    table
}

/// `outpost agents`
pub(crate) fn agents(value: &Value, out: Out) -> Result<(), Failure> {
    let table = agents_table(parse::<Items<AgentItem>>(value.clone())?.items);
    out.either(value, |out| out.table(&table));
    Ok(())
}

fn agents_table(items: Vec<AgentItem>) -> Table {
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
        Column::new("FLAGS", 1),
        Column::new("LABELS", 3),
        Column::new("QUEUES", 4),
    ];
    let mut table = Table::new(
        &columns,
        "no agents; `outpost agents invite NAME` makes a token for one",
    );
    for item in items {
        let strict = is_strict(&item);
        let percent = |value: Option<u32>| share(value, strict);
        let count = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
        let free = slots_left(&item);
        let (flags, left) = (flags(&item), certificate_left(&item, Timestamp::now()));
        let queues = item.queues.join(",");
        let labels = labels(&item.labels);
        table.row(vec![
            item.agent,
            item.presence,
            count(item.running),
            free,
            percent(item.cpu_percent),
            percent(item.memory_percent),
            percent(item.disk_percent),
            left.unwrap_or_default(),
            item.last_heard
                .as_deref()
                .map(day_and_clock)
                .unwrap_or_default(),
            item.version.unwrap_or_default(),
            flags,
            labels,
            queues,
        ]);
    }
    table
}

/// Free slots of those that it gets work for: a limit that is set here counts like fewer slots.
fn slots_left(item: &AgentItem) -> String {
    let Some(free) = item.slots_free else {
        return String::new();
    };
    let Some(slots) = item.slots else {
        return free.to_string();
    };
    let all = item.slots_limit.map_or(slots, |limit| limit.min(slots));
    let free = free.min(all.saturating_sub(item.running.unwrap_or(0)));
    format!("{free}/{all}")
}

/// How long its certificate still lives, in the unit that fits: `6 d`, `5 h`, `40 min`, `30 s`. An agent's life is in
/// days in one place and in minutes in another.
fn certificate_left(item: &AgentItem, now: Timestamp) -> Option<String> {
    let ends = item.certificate_not_after.as_deref();
    let Some(ends) = ends.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return item.certificate_days_left.map(|days| format!("{days} d"));
    };
    let seconds = ends.duration_since(now).as_secs();
    Some(match seconds {
        ..=0 => EXPIRED.to_owned(),
        1..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        172_800.. => format!("{} d", seconds / 86_400),
    })
}

/// Whether the numbers that it tells are steps.
fn is_strict(item: &AgentItem) -> bool {
    item.reporting.as_deref() == Some("strict")
}

/// `34 %`; a step stands for everything above the one below it.
fn share(percent: Option<u32>, strict: bool) -> String {
    let most = if strict { "≤" } else { "" };
    let words = percent.map(|percent| format!("{most}{percent} %"));
    words.unwrap_or_default()
}

/// What the agent says of itself, and what was decided about it here.
fn flags(item: &AgentItem) -> String {
    // Within the presence timeout only this tells an agent that was stopped in order from one that works.
    let left = item.presence == "live" && item.connected == Some(false);
    let decided = [
        (left, "no session"),
        (item.cordoned, "cordoned"),
        (item.draining, "draining"),
        (!item.holders.is_empty(), "quarantined"),
        (item.held_back, "hold"),
        (is_strict(item), "strict"),
    ];
    let decided = decided
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, word)| *word);
    let mut flags: Vec<&str> = decided
        .chain(item.flags.iter().map(String::as_str))
        .collect();
    flags.sort_unstable();
    flags.dedup();
    flags.join(",")
}

/// `disk=fast,zone=eu`
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(",")
}

/// `outpost agents show AGENT`
pub(crate) fn agent(value: &Value, out: Out) -> Result<(), Failure> {
    let item: AgentItem = parse(value.clone())?;
    let shown = flags(&item);
    let left = certificate_left(&item, Timestamp::now());
    let strict = is_strict(&item);
    out.either(value, |out| {
        let line = |name: &str, text: String| {
            if !text.is_empty() {
                out.line(&format!("{name:12} {}", clean(&text)));
            }
        };
        let number = |value: Option<u32>| value.map(|n| n.to_string()).unwrap_or_default();
        let percent = |value: Option<u32>| share(value, strict);
        line("agent", item.agent);
        line("presence", item.presence);
        let heard = item.last_heard.as_deref().map(day_and_clock);
        line("last heard", heard.unwrap_or_default());
        line("version", item.version.unwrap_or_default());
        line("attempts", item.attempts.to_string());
        line("slots", number(item.slots));
        line("slots free", number(item.slots_free));
        line("slots limit", number(item.slots_limit));
        line("queues", item.queues.join(", "));
        line("labels", labels(&item.labels));
        line("flags", shown);
        if strict {
            line(
                "reporting",
                "strict: in steps, every ten seconds at most".to_owned(),
            );
        }
        line("cpu", percent(item.cpu_percent));
        line("memory", percent(item.memory_percent));
        line("disk", percent(item.disk_percent));
        let left = left.map(|left| match left.as_str() {
            EXPIRED => left,
            _ => format!("{left} left"),
        });
        line("certificate", left.unwrap_or_default());
        for holder in &item.holders {
            line(&holder.which, holder_words(holder));
        }
    });
    Ok(())
}

/// What tells one holder of an identity from the other.
fn holder_words(holder: &Holder) -> String {
    let mut words = vec![format!("incarnation {}", holder.incarnation)];
    words.push(match (holder.connected, holder.last_heard.as_deref()) {
        (true, _) => "connected".to_owned(),
        (false, Some(heard)) => format!("last heard {}", day_and_clock(heard)),
        (false, None) => "not connected".to_owned(),
    });
    words.extend(
        holder
            .uptime_s
            .map(|s| format!("host up for {}", took(s.saturating_mul(1000)))),
    );
    words.extend(holder.running.map(|n| format!("{n} running")));
    words.extend(holder.attempts.map(|n| format!("{n} attempts held")));
    words.join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::api::WorkflowItem;
    use crate::client::workflows;

    /// As a terminal of this width shows it.
    fn shown(table: &Table, width: usize) -> String {
        let lines = table.lines(Some(width));
        let plain = lines.iter().map(|line| {
            let line = anstream::adapter::strip_str(line).to_string();
            assert!(line.chars().count() <= width, "{width}: {line}");
            line + "\n"
        });
        format!("{width} columns\n{}", plain.collect::<String>())
    }

    fn at_widths(table: &Table) -> String {
        [60, 80, 120].map(|width| shown(table, width)).join("\n")
    }

    #[test]
    fn what_a_strict_agent_tells_is_shown_as_the_steps_that_it_is() {
        let item = r#"{"agent":"a","presence":"live","connected":true,"reporting":"strict","cpu_percent":80}"#;
        let item: AgentItem = serde_json::from_str(item).unwrap();
        assert_eq!(flags(&item), "strict");
        assert_eq!(share(item.cpu_percent, is_strict(&item)), "≤80 %");
        let exact = r#"{"agent":"a","presence":"live","connected":true,"reporting":"normal","cpu_percent":80}"#;
        let exact: AgentItem = serde_json::from_str(exact).unwrap();
        assert_eq!(flags(&exact), "");
        assert_eq!(share(exact.cpu_percent, is_strict(&exact)), "80 %");
    }

    #[test]
    fn an_agent_that_was_stopped_a_moment_ago_is_told_from_one_that_works() {
        let shown = |presence: &str, connected: &str| {
            let item = format!(r#"{{"agent":"a","presence":"{presence}"{connected}}}"#);
            flags(&serde_json::from_str(&item).unwrap())
        };
        assert_eq!(shown("live", r#","connected":false"#), "no session");
        assert_eq!(shown("live", r#","connected":true"#), "");
        assert_eq!(shown("live", ""), "", "an older server does not say");
        assert_eq!(shown("stale", r#","connected":false"#), "");
    }

    #[test]
    fn what_is_left_of_a_certificate_is_told_in_its_own_unit() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let left = |ends: &str| {
            let item = format!(
                r#"{{"agent":"a","presence":"live","certificate_days_left":0,"certificate_not_after":"{ends}"}}"#
            );
            certificate_left(&serde_json::from_str(&item).unwrap(), now).unwrap()
        };
        let ends = [
            ("2026-03-08T12:00:00Z", "7 d"),
            ("2026-03-02T12:00:00Z", "24 h"),
            ("2026-03-01T17:59:59Z", "5 h"),
            ("2026-03-01T12:40:00Z", "40 min"),
            ("2026-03-01T12:01:00Z", "60 s"),
            ("2026-03-01T12:00:00Z", "expired"),
            ("2026-02-01T12:00:00Z", "expired"),
            ("no time", "0 d"),
        ];
        for (ends, expected) in ends {
            assert_eq!(left(ends), expected, "{ends}");
        }
    }

    #[test]
    fn lists_fit_narrow_terminals() {
        // Times are shown in the zone of this machine: without one they stay as they are.
        let runs: Items<RunItem> = serde_json::from_str(
            r#"{"items":[
            {"run":"4f1d9c02aaaaaaaaaaaaaaaaaaaaaaaa","workflow":"nightly-database-dump","state":"failed","agent":"site-1",
             "created_at":"yesterday at noon","duration_ms":6100,"scheduled_for":"noon"},
            {"run":"4f1d77bbbbbbbbbbbbbbbbbbbbbbbbbb","workflow":"host-report","state":"cancelling","agent":null,
             "created_at":"yesterday at noon","duration_ms":null}]}"#,
        )
        .unwrap();
        insta::assert_snapshot!("runs_narrow", at_widths(&runs_table(runs.items, "no runs")));
        let agents: Items<AgentItem> = serde_json::from_str(
            r#"{"items":[{"agent":"hospital-north-ward-7","presence":"live","last_heard":"a moment ago","version":"0.1.0",
            "slots":8,"slots_free":6,"running":2,"flags":["paused"],"cpu_percent":100,"memory_percent":34,"disk_percent":56,
            "certificate_days_left":6,"labels":{"zone":"eu","disk":"fast"},"queues":["default","big"],"cordoned":true},
            {"agent":"b","presence":"stale","flags":[]}]}"#,
        )
        .unwrap();
        insta::assert_snapshot!("agents_narrow", at_widths(&agents_table(agents.items)));
        let listed: Items<WorkflowItem> = serde_json::from_str(
            r#"{"items":[{"name":"nightly-database-dump","version":12,"tasks":5,"applied_at":"yesterday","paused":false,
            "next_run_at":"tomorrow, early","active_runs":1,"schedule":{"cron":"30 2 * * *"},
            "description":"Dumps every database, keeps seven, and verifies the newest one by restoring it"},
            {"name":"a","version":1,"tasks":1,"applied_at":"yesterday","description":""}]}"#,
        )
        .unwrap();
        insta::assert_snapshot!(
            "workflows_narrow",
            at_widths(&workflows::table(listed.items))
        );
    }
}
