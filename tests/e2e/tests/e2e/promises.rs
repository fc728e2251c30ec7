//! The page of promises against the sources: every test and invariant that it names exists, and nothing is left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where tests and invariants are.
pub(super) const SOURCES: [&str; 6] = ["agent", "certs", "cli", "orchestrator", "proto", "tests"];
const PROMISES: usize = 10;
/// The fault cases that are to be covered.
const CASES: [&str; 27] = [
    "N1", "N3", "N4", "N5", "N6", "N7", "N8", "N9", "C1", "C2", "C3", "C4", "C5", "C9", "C10",
    "D1", "D2", "D3", "D4", "D6", "D9", "T1", "T3", "T4", "B5", "I15", "K2",
];

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Names of all functions below a directory.
pub(super) fn functions(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
                rest[end..]
                    .starts_with(['(', '<'])
                    .then(|| rest[..end].to_owned())
            });
            into.extend(names);
        }
    }
}

/// What stands between backticks.
pub(super) fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_page_of_promises_names_exists() {
    let page = std::fs::read_to_string(root().join("docs/promises.md")).unwrap();
    let mut known = BTreeSet::new();
    for dir in SOURCES {
        functions(&root().join(dir), &mut known);
    }
    let faults = std::fs::read_to_string(root().join("tests/sim/src/faults.rs")).unwrap();
    let exists = |name: &str| match name.strip_prefix("fault: ") {
        Some(_) => faults.contains(&format!("\"{name}\"")),
        None => known.contains(name),
    };
    let mut wrong = Vec::new();
    let mut rows = BTreeSet::new();
    let mut count = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells = row.trim_matches('|').split('|').map(str::trim);
        let cells = cells.collect::<Vec<_>>();
        if ["#", "case"].contains(&cells[0]) {
            continue;
        }
        let tests = if cells.len() == 5 {
            &cells[3..]
        } else {
            &cells[2..]
        };
        let names = tests.iter().flat_map(|cell| named(cell));
        let names = names.collect::<Vec<_>>();
        // A promise is shown at both layers.
        if tests.iter().any(|cell| named(cell).next().is_none()) {
            wrong.push(format!("{} names no test", cells[0]));
        }
        count += names.len();
        let missing = names.into_iter().filter(|name| !exists(name));
        wrong.extend(missing.map(|name| format!("{}: `{name}` is not there", cells[0])));
        rows.insert(cells[0].to_owned());
    }
    let promises = (1..=PROMISES).map(|number| format!("P{number}"));
    let cases = CASES.iter().map(|&case| case.to_owned());
    let absent = promises.chain(cases).filter(|case| !rows.contains(case));
    wrong.extend(absent.map(|case| format!("{case} has no row")));
    assert!(count > 100, "the test looks at the right place");
    assert!(
        wrong.is_empty(),
        "docs/promises.md is wrong:\n{}",
        wrong.join("\n")
    );
}
