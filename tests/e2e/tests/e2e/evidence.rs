//! The page of security against the sources: every test that it names exists, every fault case has its row, and the
//! table of upstream fields is what the wire's definition says.

use std::collections::{BTreeMap, BTreeSet};

use super::promises::{SOURCES, functions, named, root};

/// The fault cases that the page must cover.
const CASES: [&str; 19] = [
    "K2", "K3", "K4", "K5", "K6", "K7", "K8", "K9", "K10", "K11", "K12", "K13", "K14", "K16",
    "K18", "C8", "D4", "H13", "W7",
];

fn page() -> String {
    std::fs::read_to_string(root().join("docs/security.md")).unwrap()
}

/// Cells of each row of the section under this heading.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = page.split("\n## ").find(|part| part.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("the page has no section {heading:?}"));
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &'a str| row.trim_matches('|').split('|').map(str::trim).collect();
    rows.skip(1).map(cells).collect()
}

/// Every field of the messages that an agent may say, in their order, as the page words them.
fn fields() -> BTreeMap<String, Vec<String>> {
    let wire =
        std::fs::read_to_string(root().join("proto/proto/outpost/link/v1/link.proto")).unwrap();
    let upstream = wire.split("orchestrator -> agent").next().unwrap();
    let mut messages = BTreeMap::<String, Vec<String>>::new();
    let mut inside = None;
    for line in upstream.lines() {
        if let Some(name) = line.strip_prefix("message ") {
            inside = Some(name.trim_end_matches(" {").to_owned());
        } else if line.starts_with('}') {
            inside = None;
        }
        let Some(message) = &inside else { continue };
        let Some((before, after)) = line.split_once(" = ") else {
            continue;
        };
        let Some(field) = before.split_whitespace().last() else {
            continue;
        };
        let bits = after
            .split_once("max_bits) = ")
            .and_then(|(_, rest)| rest.split(']').next());
        let said = bits.map_or(format!("`{field}`"), |bits| format!("`{field}` {bits}"));
        messages.entry(message.clone()).or_default().push(said);
    }
    messages
}

#[test]
fn every_field_that_leaves_is_on_the_page_with_its_bits() {
    let page = page();
    let rows = rows(&page, "Every field that leaves");
    let on_page = rows
        .iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[2]));
    let on_page = on_page.collect::<BTreeMap<_, _>>();
    let fields = fields();
    assert!(
        fields.len() >= 15,
        "the definition was not understood: {fields:?}"
    );
    let names = |of: &BTreeSet<String>| of.iter().cloned().collect::<Vec<_>>().join(", ");
    let (wire, told) = (
        fields.keys().cloned().collect(),
        on_page.keys().cloned().collect(),
    );
    assert_eq!(names(&wire), names(&told), "the messages on the page");
    for (message, fields) in &fields {
        let told = on_page[message].split(", ").collect::<Vec<_>>();
        assert_eq!(told.len(), fields.len(), "{message}: {told:?}");
        for (told, field) in told.iter().zip(fields) {
            let whole = told.strip_prefix(field.as_str());
            let whole = whole.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
            assert!(
                whole,
                "{message}: the page says {told:?}, the definition {field:?}"
            );
        }
    }
}

#[test]
fn every_test_that_the_page_of_security_names_exists() {
    let page = page();
    let mut known = BTreeSet::new();
    for dir in SOURCES {
        functions(&root().join(dir), &mut known);
    }
    let mut wrong = Vec::new();
    let mut count = 0;
    for heading in ["Measures", "Fault cases"] {
        for row in rows(&page, heading) {
            let tests = row.last().copied().unwrap_or_default();
            if named(tests).next().is_none() {
                wrong.push(format!("{}: names no test", row[0]));
            }
            // A command has a space in it.
            for name in named(tests).filter(|name| !name.contains(' ')) {
                count += 1;
                if !known.contains(name) {
                    wrong.push(format!("{}: there is no test `{name}`", row[0]));
                }
            }
        }
    }
    let cases = rows(&page, "Fault cases");
    let cases = cases.iter().map(|row| row[0]).collect::<BTreeSet<_>>();
    wrong.extend(
        CASES
            .iter()
            .filter(|case| !cases.contains(*case))
            .map(|case| format!("{case} has no row")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 40, "the page was not understood: {count} names");
}
