//! Single values: text, names, words, numbers, lengths of time.

use std::fmt::Display;
use std::str::FromStr;

use outpost_proto::units;
use serde_saphyr::Location;

use super::found::{Findings, shown};
use super::node::{Node, Value};
use super::suggest::nearest;

/// Text, as it was written.
pub(super) fn text<'a>(node: &'a Node, path: &str, found: &mut Findings) -> Option<&'a str> {
    let told = |found: &mut Findings, help: Option<&str>| {
        let message = format!("expected text, found {}", node.value.kind());
        let told = found.add(node.referenced, path, message);
        if let Some(help) = help {
            told.help(help);
        }
    };
    match &node.value {
        Value::Text(text) => return Some(text),
        Value::Flag(_) | Value::Integer(_) | Value::OtherNumber => {
            told(found, Some("put it in quotes if it is meant as text"));
        }
        Value::List(items) if items.len() == 1 => {
            told(found, Some("leave out the dash or the brackets"))
        }
        Value::Null | Value::List(_) | Value::Map(_) => told(found, None),
    }
    None
}

/// A name of some kind.
pub(super) fn name<T: FromStr<Err: Display>>(
    node: &Node,
    path: &str,
    found: &mut Findings,
) -> Option<T> {
    parsed_name(text(node, path, found)?, node.referenced, path, found)
}

/// A name that stands where `at` says.
pub(super) fn parsed_name<T: FromStr<Err: Display>>(
    text: &str,
    at: Location,
    path: &str,
    found: &mut Findings,
) -> Option<T> {
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            let told = found.add(at, path, format!("{error}"));
            let likely = tamed(text);
            if likely.parse::<T>().is_ok() {
                told.help(format!("`{likely}` would do"));
            }
            None
        }
    }
}

/// The name that was likely meant: in lower case, with dashes for everything that no name has.
fn tamed(text: &str) -> String {
    let tame = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '-' | '_' | '.') => c,
        _ => '-',
    };
    let tamed: String = text.chars().take(64).map(tame).collect();
    tamed.trim_matches(['-', '_', '.']).to_owned()
}

/// One of the words of a table; gives its place there.
pub(super) fn word(
    node: &Node,
    path: &str,
    words: &[(&'static str, &str)],
    found: &mut Findings,
) -> Option<&'static str> {
    let given = text(node, path, found)?;
    let known = words.iter().map(|(word, _)| *word);
    let chosen = known.clone().find(|word| *word == given);
    if chosen.is_none() {
        let list: Vec<String> = known.clone().map(|word| format!("`{word}`")).collect();
        let message = format!("`{}` is not one of {}", shown(given), list.join(", "));
        let told = found.add(node.referenced, path, message);
        if let Some(near) = nearest(given, known) {
            told.help(format!("did you mean `{near}`?"));
        }
    }
    chosen
}

/// A whole number between two bounds.
pub(super) fn number(
    node: &Node,
    path: &str,
    (low, high): (i64, i64),
    found: &mut Findings,
) -> Option<i64> {
    match &node.value {
        Value::Integer(number) if (low..=high).contains(number) => return Some(*number),
        Value::Integer(number) => {
            let message = format!("{number} is not between {low} and {high}");
            found.add(node.referenced, path, message);
        }
        Value::Text(text) if text.parse::<i64>().is_ok() => {
            found
                .add(node.referenced, path, "expected a whole number, found text")
                .help("leave out the quotes");
        }
        value @ (Value::Null
        | Value::Flag(_)
        | Value::OtherNumber
        | Value::Text(_)
        | Value::List(_)
        | Value::Map(_)) => {
            let message = format!("expected a whole number, found {}", value.kind());
            found.add(node.referenced, path, message);
        }
    }
    None
}

/// A length of time in milliseconds between two bounds, which are also given as people write them.
pub(super) fn duration(
    node: &Node,
    path: &str,
    (least, most): ((u64, &str), (u64, &str)),
    found: &mut Findings,
) -> Option<u64> {
    if let Value::Integer(number) = &node.value {
        found
            .add(node.referenced, path, "a duration needs a unit")
            .help(format!(
                "write ms, s, m, h or d behind it, such as `{number}s`"
            ));
        return None;
    }
    let given = text(node, path, found)?;
    match duration_ms(given) {
        Some(millis) if (least.0..=most.0).contains(&millis) => Some(millis),
        Some(_) => {
            let message = format!(
                "`{}` is not between {} and {}",
                shown(given),
                least.1,
                most.1
            );
            found.add(node.referenced, path, message);
            None
        }
        None => {
            found
                .add(
                    node.referenced,
                    path,
                    format!("`{}` is not a duration", shown(given)),
                )
                .help("write whole numbers with d, h, m, s or ms, the largest first, such as `90s` or `1h30m`");
            None
        }
    }
}

/// Milliseconds of `90s` or `1h30m`: each unit at most once, the largest first.
fn duration_ms(text: &str) -> Option<u64> {
    const ORDER: [&str; 5] = ["d", "h", "m", "s", "ms"];
    let mut rest = text;
    let mut total: u64 = 0;
    let mut least_rank = 0;
    while !rest.is_empty() || total == 0 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..]
            .bytes()
            .take_while(u8::is_ascii_lowercase)
            .count();
        let (part, behind) = rest.split_at(digits + letters);
        let rank = ORDER.iter().position(|unit| *unit == &part[digits..])?;
        if rank < least_rank {
            return None;
        }
        least_rank = rank + 1;
        total = total.checked_add(units::duration_ms(part).ok()?)?;
        if total == 0 && behind.is_empty() {
            return Some(0);
        }
        rest = behind;
    }
    Some(total)
}

/// As people write it: `90s` becomes `1m30s`.
pub(super) fn duration_text(mut millis: u64) -> String {
    const UNITS: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut text = String::new();
    for (unit, factor) in UNITS {
        if millis >= factor {
            text.push_str(&format!("{}{unit}", millis / factor));
            millis %= factor;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1d1ms", 86_400_001),
            ("0s", 0),
        ] {
            assert_eq!(duration_ms(text), Some(millis), "{text}");
            assert_eq!(duration_ms(&duration_text(millis)), Some(millis), "{text}");
        }
        for text in [
            "",
            "s",
            "5",
            "5 s",
            "-5s",
            "1.5h",
            "5S",
            "1m1h",
            "1s1s",
            "1h30",
            "é",
            "99999999999999999999s",
        ] {
            assert_eq!(duration_ms(text), None, "{text:?}");
        }
    }
}
