//! The section `schedule`: its rule, its zone, its bounds, and what scheduled runs are given.

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use outpost_orchestrator_core::schedule::{ScheduleError, check};
use outpost_orchestrator_core::spec::{Missed, ScheduleSpec, When};
use outpost_proto::limits::PARAMETERS;
use outpost_proto::message::ParamValue;
use outpost_proto::name::ParamName;

use super::fields::{Fields, named};
use super::found::{Findings, join, shown};
use super::keys::{self, INTERVALS, MISSED};
use super::node::{Node, Value};
use super::params::{Declared, fitting, literal};
use super::place;
use super::scalar::{duration, number, parsed_name, text};

const PATH: &str = "schedule";
/// The last moment of a day.
pub(super) const LAST: Time = Time::constant(23, 59, 59, 999_999_000);

/// A schedule that can be kept; nothing when there is none or it cannot.
pub(super) fn schedule(
    node: Option<&Node>,
    params: &Declared,
    found: &mut Findings,
) -> Option<ScheduleSpec> {
    let node = node?;
    if let Value::Text(given) = &node.value {
        found
            .add(node.referenced, PATH, "expected a mapping, found text")
            .help(match given.split_whitespace().count() {
                5 | 6 => format!("write `schedule: {{cron: \"{}\"}}`", shown(given)),
                _ => format!("write `schedule: {{every: {}}}`", shown(given)),
            });
        return None;
    }
    let fields = Fields::of(node, PATH, &keys::SCHEDULE, found)?;
    let when = when(&fields, found);
    let zone = zone(&fields, found);
    let start = instant(&fields, "start", zone.as_ref(), false, found);
    let end = instant(&fields, "end", zone.as_ref(), true, found);
    let missed = place::word(&fields, "missed", found);
    let limit = fields
        .get("missed_limit", found)
        .and_then(|node| number(node, &fields.path_of("missed_limit"), MISSED, found));
    let given = given(&fields, params, found);
    let (Some((timezone, _)), Some(when)) = (&zone, &when) else {
        // A rule is right or wrong whatever the zone.
        if let Some(when) = when {
            judged(&fields, ScheduleSpec::new(when), found);
        }
        return None;
    };
    let spec = ScheduleSpec {
        timezone: timezone.clone(),
        start,
        end,
        missed: match missed {
            Some("skip") => Missed::Skip,
            Some("all") => Missed::All,
            Some(_) | None => Missed::Latest,
        },
        params: given,
        ..ScheduleSpec::new(when.clone())
    };
    let spec = ScheduleSpec {
        missed_limit: limit
            .and_then(|limit| u16::try_from(limit).ok())
            .unwrap_or(spec.missed_limit),
        ..spec
    };
    judged(&fields, spec, found)
}

/// What the core says of the whole, told where the key at fault stands.
fn judged(fields: &Fields<'_>, spec: ScheduleSpec, found: &mut Findings) -> Option<ScheduleSpec> {
    let error = match check(&spec) {
        Ok(()) => return Some(spec),
        Err(error) => error,
    };
    let key = match &error {
        ScheduleError::Expression { .. } | ScheduleError::Never(_) => "cron",
        ScheduleError::Timezone(_) => "timezone",
        ScheduleError::Every(_) => "every",
        ScheduleError::Backwards => "end",
        ScheduleError::MissedLimit(_) => "missed_limit",
    };
    let (at, path) = match fields.raw(key) {
        Some(node) => (node.referenced, fields.path_of(key)),
        None => (fields.at(), PATH.to_owned()),
    };
    found.add(at, &path, shown_long(&error));
    None
}

fn shown_long(error: &ScheduleError) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    error.to_string().chars().take(400).map(clean).collect()
}

fn when(fields: &Fields<'_>, found: &mut Findings) -> Option<When> {
    match (fields.raw("cron"), fields.raw("every")) {
        (Some(_), Some(every)) => {
            found
                .add(
                    every.referenced,
                    &fields.path_of("every"),
                    "`cron` and `every` are both there",
                )
                .help("keep one of them");
            None
        }
        (None, None) => {
            found
                .add(fields.at(), PATH, "neither `cron` nor `every` is there")
                .help("add one, such as `every: 15m` or `cron: \"30 2 * * *\"`");
            None
        }
        (Some(_), None) => cron(fields, found),
        (None, Some(_)) => {
            let node = fields.get("every", found)?;
            let ms = duration(node, &fields.path_of("every"), INTERVALS, found)?;
            Some(When::Every { ms })
        }
    }
}

fn cron(fields: &Fields<'_>, found: &mut Findings) -> Option<When> {
    let node = fields.get("cron", found)?;
    let path = fields.path_of("cron");
    let given = text(node, &path, found)?.trim();
    let parts: Vec<&str> = given.split_whitespace().collect();
    if (6..=7).contains(&parts.len()) && !given.starts_with('@') {
        let without = parts.get(1..6).unwrap_or_default().join(" ");
        found
            .add(
                node.referenced,
                &path,
                format!(
                    "`{}` has {} fields; there are five, without seconds and years",
                    shown(given),
                    parts.len()
                ),
            )
            .help(format!(
                "did you mean `{}`? The smallest step is a minute; `every` takes seconds",
                shown(&without)
            ));
        return None;
    }
    if (2..=4).contains(&parts.len()) {
        found
            .add(
                node.referenced,
                &path,
                format!(
                    "`{}` has {} fields; there are five",
                    shown(given),
                    parts.len()
                ),
            )
            .help("minute, hour, day of month, month, day of week, such as `30 2 * * 1-5`");
        return None;
    }
    Some(When::Cron {
        expression: parts.join(" "),
    })
}

/// The zone and its name.
fn zone(fields: &Fields<'_>, found: &mut Findings) -> Option<(String, TimeZone)> {
    let Some(node) = fields.raw("timezone") else {
        return Some(("UTC".to_owned(), TimeZone::UTC));
    };
    let node = if node.value == Value::Null {
        fields.get("timezone", found)?
    } else {
        node
    };
    let path = fields.path_of("timezone");
    let given = text(node, &path, found)?;
    let database = TimeZoneDatabase::bundled();
    if let Ok(zone) = database.get(given) {
        // Names are looked up whatever their case; one spelling is kept.
        let name = zone.iana_name().unwrap_or(given).to_owned();
        return Some((name, zone));
    }
    let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
    let message = format!("there is no time zone `{}`", shown(given));
    match zone_like(given, &names) {
        Some(near) => found
            .add(node.referenced, &path, message)
            .help(format!("did you mean `{near}`?")),
        None => found
            .add(node.referenced, &path, message)
            .help("give a name of the IANA database, such as `Europe/Berlin` or `UTC`"),
    }
    None
}

/// The zone that was likely meant: of that city, or spelt nearly so.
fn zone_like(given: &str, names: &[String]) -> Option<String> {
    let tame = |text: &str| text.to_ascii_lowercase().replace([' ', '-'], "_");
    let wanted = tame(given);
    let city = |name: &&String| tame(name).rsplit('/').next() == Some(wanted.as_str());
    if let Some(name) = names.iter().find(city) {
        return Some(name.clone());
    }
    let hint = super::suggest::nearest(given, names.iter().map(String::as_str))?;
    Some(hint.to_owned())
}

/// A day or a day and a time, on the zone's wall clock; as an end, a day is included.
fn instant(
    fields: &Fields<'_>,
    key: &str,
    zone: Option<&(String, TimeZone)>,
    is_end: bool,
    found: &mut Findings,
) -> Option<u64> {
    let node = fields.get(key, found)?;
    let path = fields.path_of(key);
    let given = text(node, &path, found)?;
    let Some(at) = civil(given, is_end) else {
        found
            .add(
                node.referenced,
                &path,
                format!("`{}` is neither a day nor a day and a time", shown(given)),
            )
            .help("write it as `2026-01-31` or `2026-01-31T18:00`, without an offset: the zone is `timezone`");
        return None;
    };
    let micros = at
        .to_zoned(zone?.1.clone())
        .ok()
        .and_then(|zoned| u64::try_from(zoned.timestamp().as_microsecond()).ok());
    if micros.is_none() {
        found.add(node.referenced, &path, "it is before 1970");
    }
    micros
}

fn civil(text: &str, is_end: bool) -> Option<DateTime> {
    let digits = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'T'))
    };
    if !digits(text) {
        return None;
    }
    if let Some((day, _)) = text.split_once('T') {
        return (day.len() == 10).then(|| text.parse().ok())?;
    }
    let day: Date = (text.len() == 10).then(|| text.parse().ok())??;
    Some(if is_end {
        day.to_datetime(LAST)
    } else {
        day.to_datetime(Time::midnight())
    })
}

fn given(
    fields: &Fields<'_>,
    params: &Declared,
    found: &mut Findings,
) -> BTreeMap<ParamName, ParamValue> {
    let mut given = BTreeMap::new();
    let path = fields.path_of("params");
    if let Some(node) = fields.get("params", found) {
        for (key, node) in named(node, &path, (PARAMETERS, "values"), found) {
            let path = join(&path, &shown(&key.value));
            let Some(name) = parsed_name::<ParamName>(&key.value, key.referenced, &path, found)
            else {
                continue;
            };
            let Some(spec) = params.specs.get(&name) else {
                if params.is_unclear(name.as_str()) {
                    continue;
                }
                let known = params.names();
                let message = format!("the workflow has no parameter `{name}`");
                found.add_word(key.referenced, &path, message, name.as_str(), known);
                continue;
            };
            if let Some(value) = literal(node, &path, found)
                && fitting(node, &spec.kind, &value, &path, found)
            {
                given.insert(name, value);
            }
        }
    }
    let written = |name: &ParamName| {
        let node = fields.raw("params");
        node.is_some_and(|node| node.value.has(name.as_str()))
    };
    for name in params.required().filter(|name| !written(name)) {
        found
            .add(
                fields.at(),
                PATH,
                format!(
                    "scheduled runs are not given the parameter `{name}`, which has no default"
                ),
            )
            .help(format!(
                "add it under `schedule.params`, or give `params.{name}` a default"
            ));
    }
    given
}
