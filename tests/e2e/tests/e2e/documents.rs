//! The documentation against what it describes: reference pages are what the binaries print, the page of limits says
//! what the constants are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outpost_e2e::binaries::Binary;
use outpost_e2e::process::{command, run};

const PAGES: [&str; 5] = [
    "agent.md",
    "catalogue.md",
    "cli.md",
    "orchestrator.md",
    "workflow.md",
];
/// Files whose public constants are all on the page.
const WHOLE: [&str; 2] = ["proto/src/limits.rs", "orchestrator/core/src/limits.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn reference_pages_are_what_the_binaries_print() {
    let dir = tempfile::tempdir().unwrap();
    for binary in [Binary::Agent, Binary::Orchestrator, Binary::Cli] {
        let _ = binary.path();
    }
    let pages = root().join("docs/reference");
    let mut regenerate = command(&pages.join("regenerate"));
    regenerate.arg(Binary::Cli.path().parent().unwrap());
    regenerate.arg(dir.path());
    let _ = run(regenerate).ok();
    let pages_there = PAGES.map(|page| (pages.join(page), page));
    let budget = (root().join("docs/budget.md"), "budget.md");
    let stale = pages_there
        .into_iter()
        .chain([budget])
        .filter(|(there, page)| read(there) != read(&dir.path().join(page)))
        .map(|(_, page)| page)
        .collect::<Vec<_>>();
    assert!(
        stale.is_empty(),
        "these pages of docs/reference are out of date: {stale:?}; write them anew with \
         `docs/reference/regenerate {}`",
        Binary::Cli.path().parent().unwrap().display()
    );
}

#[test]
fn the_page_of_limits_says_what_the_constants_are() {
    let page = read(&root().join("docs/limits.md"));
    let mut wrong = Vec::new();
    let mut told = BTreeMap::<&str, Vec<&str>>::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells = row.trim_matches('|').split('|').map(str::trim);
        let cells = cells.collect::<Vec<_>>();
        let [_, value, place] = cells[..] else {
            panic!("three columns: {row}");
        };
        let Some((file, constant)) = place.trim_matches('`').split_once(": ") else {
            continue;
        };
        told.entry(file).or_default().push(constant);
        let found = constant_of(file, constant);
        if found.as_deref() != Some(&numbers(value)) {
            wrong.push(format!("{file}: {constant} is {found:?} and not {value}"));
        }
    }
    for file in WHOLE {
        let source = read(&root().join(file));
        let names = source.lines().filter_map(|line| {
            let (name, _) = line.strip_prefix("pub const ")?.split_once(':')?;
            Some(name)
        });
        let missing = names.filter(|name| !told.get(file).is_some_and(|told| told.contains(name)));
        wrong.extend(missing.map(|name| format!("{file}: {name} is missing")));
    }
    assert!(told.values().map(Vec::len).sum::<usize>() > 100);
    assert!(
        wrong.is_empty(),
        "docs/limits.md is wrong:\n{}",
        wrong.join("\n")
    );
}

/// What a constant is, in bytes, microseconds or as it is; two numbers if it is a pair.
fn constant_of(file: &str, name: &str) -> Option<Vec<u128>> {
    let source = read(&root().join(file));
    let (_, rest) = source.split_once(&format!("const {name}: "))?;
    let (kind, rest) = rest.split_once('=')?;
    let (value, _) = rest.split_once(';')?;
    let value = value.trim().replace("Duration::", "");
    let parts = if kind.trim().starts_with('(') {
        pair(&value)?
    } else {
        vec![value]
    };
    let unit = name.split('_').find_map(|word| match word {
        "MS" => Some(1_000),
        "S" => Some(1_000_000),
        _ => None,
    });
    let unit = unit.unwrap_or(1);
    let numbers = parts.iter().map(|part| Some(sum(file, part)? * unit));
    numbers.collect()
}

fn pair(value: &str) -> Option<Vec<String>> {
    let inner = value.strip_prefix('(')?.strip_suffix(')')?;
    let (first, second) = inner.split_once(", ")?;
    Some(vec![first.to_owned(), second.to_owned()])
}

/// Sums, products and powers of two, as constants are written.
fn sum(file: &str, text: &str) -> Option<u128> {
    let text = text.trim();
    for (function, unit) in [("from_secs", 1_000_000), ("from_millis", 1_000)] {
        if let Some(inner) = text.strip_prefix(function) {
            return Some(sum(file, inner)? * unit);
        }
    }
    if let Some(inner) = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
    {
        return sum(file, inner);
    }
    let two = |operator: &str, of: fn(u128, u128) -> Option<u128>| {
        let (left, right) = text.rsplit_once(operator)?;
        of(sum(file, left)?, sum(file, right)?)
    };
    if text.contains(" - ") {
        return two(" - ", u128::checked_sub);
    }
    if text.contains(" << ") {
        return two(" << ", |left, right| Some(left << right));
    }
    if text.contains(" / ") && !text.contains(" * ") {
        return two(" / ", u128::checked_div);
    }
    if text.contains(" * ") {
        return two(" * ", u128::checked_mul);
    }
    text.replace('_', "").parse().ok().or_else(|| {
        let (path, name) = text.rsplit_once("::").unwrap_or(("", text));
        let own = path.is_empty().then(|| constant_of(file, name)).flatten();
        let found = own.or_else(|| constant_of(WHOLE[0], name))?;
        found.first().copied()
    })
}

/// `64 KiB`, `10 s`, `1 s to 5 s`, `10,000`: in bytes, microseconds, or as it is.
fn numbers(value: &str) -> Vec<u128> {
    let one = |text: &str| {
        let (number, unit) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let unit: u128 = match unit {
            "" | "B" | "µs" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "ms" => 1_000,
            "s" => 1_000_000,
            "min" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            unit => panic!("{unit} is no unit"),
        };
        let number = number.replace(',', "");
        number
            .parse::<u128>()
            .unwrap_or_else(|_| panic!("{text} is no number"))
            * unit
    };
    value.split(" to ").map(one).collect()
}
