//! Lines that are indented like no line above them: found where the parser gave up, because it only says which word of its
//! grammar it missed.

use super::found::shown;

/// A line, as far as its indentation goes.
struct Level<'a> {
    /// Blanks before its key.
    indent: usize,
    key: &'a str,
    /// It says nothing behind its key, so lines below it may go deeper.
    is_open: bool,
}

/// What is wrong with how the line of this number, from 0, is indented, and how it would be right.
pub(super) fn wrong(text: &str, at: usize) -> Option<(String, String)> {
    let lines: Vec<&str> = text.lines().take(at.checked_add(1)?).collect();
    let (line, above) = lines.split_last()?;
    let own = level(line)?;
    let chain = chain(above, own.indent);
    if chain.iter().any(|level| level.indent == own.indent) {
        return None;
    }
    let outer = chain.iter().find(|level| level.indent < own.indent);
    let inner = chain.iter().rev().find(|level| level.indent > own.indent);
    if outer.is_some_and(|outer| outer.is_open) && inner.is_none() {
        return None;
    }
    let beside = |level: &Level<'_>| {
        format!(
            "by {} to put it beside `{}`",
            spaces(level.indent),
            shown(level.key)
        )
    };
    let ways: Vec<String> = [inner, outer].into_iter().flatten().map(beside).collect();
    if ways.is_empty() {
        return None;
    }
    let message = format!(
        "`{}` is indented by {}, like no line above it",
        shown(own.key),
        spaces(own.indent)
    );
    Some((message, format!("indent it {}", ways.join(", or "))))
}

fn spaces(count: usize) -> String {
    match count {
        0 => "nothing".to_owned(),
        1 => "1 space".to_owned(),
        count => format!("{count} spaces"),
    }
}

/// The lines that a line below these could stand beside: the nearest of each indentation that was not left since. The
/// deepest comes first; of those deeper than `own`, only the outermost can be meant.
fn chain<'a>(above: &[&'a str], own: usize) -> Vec<Level<'a>> {
    let mut chain: Vec<Level<'a>> = Vec::new();
    for line in above.iter().rev() {
        let Some(level) = level(line) else { continue };
        let is_outer = chain.last().is_none_or(|last| level.indent < last.indent);
        if is_outer {
            let is_done = level.indent == 0;
            chain.push(level);
            if is_done {
                break;
            }
        }
    }
    let deeper = chain.iter().filter(|level| level.indent > own).count();
    chain.split_off(deeper.saturating_sub(1))
}

/// The key of a line and where it begins, behind the dash of a list; nothing for blank lines and comments.
fn level(line: &str) -> Option<Level<'_>> {
    let bare = line.trim_start().trim_start_matches("- ").trim_start();
    if bare.is_empty() || bare.starts_with('#') {
        return None;
    }
    let (key, value) = bare.split_once(':').unwrap_or((bare, "-"));
    Some(Level {
        indent: line.len() - bare.len(),
        key: key.trim_end(),
        is_open: value
            .split(" #")
            .next()
            .is_some_and(|v| v.trim().is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_stands_beside_none_is_told_where_it_could() {
        for (text, expected) in [
            (
                "tasks:\n  a:\n    entry: e\n   with: {}",
                "`with` is indented by 3 spaces, like no line above it: indent it by 4 spaces to put it beside `entry`, \
                 or by 2 spaces to put it beside `a`",
            ),
            (
                "name: x\ntasks:\n  a:\n    entry: e\n b:",
                "`b` is indented by 1 space, like no line above it: indent it by 2 spaces to put it beside `a`, or by \
                 nothing to put it beside `tasks`",
            ),
            (
                "tasks:\n  a:\n    entry: e\n      with: {}",
                "`with` is indented by 6 spaces, like no line above it: indent it by 4 spaces to put it beside `entry`",
            ),
            (
                "tasks:\n  - name: a\n   entry: e",
                "`entry` is indented by 3 spaces, like no line above it: indent it by 4 spaces to put it beside `name`, or \
                 by nothing to put it beside `tasks`",
            ),
        ] {
            let (message, help) = wrong(text, text.lines().count() - 1).unwrap();
            assert_eq!(format!("{message}: {help}"), expected);
        }
        for text in [
            "tasks:\n  a:\n    entry: e\n    with: {}",
            "tasks:\n  a:\n    with: # nothing yet\n        x: 1",
            "name: x",
            "  name: x",
            "name: x\n\n# all\ntasks: {}",
        ] {
            assert_eq!(wrong(text, text.lines().count() - 1), None, "{text}");
        }
        assert_eq!(wrong("a: 1", 7), None);
    }
}
