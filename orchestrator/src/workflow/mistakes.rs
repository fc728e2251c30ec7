//! What people likely meant when their text is not YAML: looked for in the line at fault, so that the parser's own words
//! are not all they get.

use super::Problem;
use super::indent;

/// Adds the likeliest cause to what the parser said.
pub(super) fn likely(text: &str, mut problem: Problem) -> Problem {
    let Some(at) = usize::try_from(problem.line)
        .ok()
        .and_then(|line| line.checked_sub(1))
    else {
        return problem;
    };
    // The parser notices some mistakes one line late.
    let around = [Some(at), at.checked_sub(1), at.checked_add(1)];
    for place in around.into_iter().flatten() {
        let Some(line) = text.lines().nth(place) else {
            continue;
        };
        if let Some(column) = tab(line) {
            let number = u64::try_from(place).unwrap_or(0) + 1;
            problem.line = number;
            problem.column = u64::try_from(column).unwrap_or(0) + 1;
            problem.message = "a tab indents this line; YAML is indented by spaces".to_owned();
            problem.help = Some("replace the tab by two spaces for each level".to_owned());
            return problem;
        }
    }
    if problem.help.is_some() {
        return problem;
    }
    let Some(line) = text.lines().nth(at) else {
        return problem;
    };
    if let Some((message, help)) = indent::wrong(text, at) {
        problem.message = message;
        problem.help = Some(help);
    } else if let Some(help) = advice(line) {
        problem.help = Some(help);
    } else if let Some(place) = text.lines().take(at + 1).position(is_glued) {
        let help = format!("on line {} a colon has no space behind it", place + 1);
        problem.help = Some(help);
    }
    problem
}

/// A key and its value without the space between them.
fn is_glued(line: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '-');
    line.trim_start()
        .split_once(':')
        .is_some_and(|(key, value)| {
            !key.is_empty()
                && key.chars().all(is_word)
                && !value.is_empty()
                && !value.starts_with([' ', '/', '\t'])
        })
}

/// Where a tab stands in the indentation.
fn tab(line: &str) -> Option<usize> {
    let blank = line.len() - line.trim_start().len();
    line[..blank].find('\t')
}

fn advice(line: &str) -> Option<String> {
    let (key, value) = line.split_once(':')?;
    let (key, value) = (key.trim().trim_start_matches("- "), value.trim());
    let is_alias = value.strip_prefix('*').is_some_and(|rest| {
        rest.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            && !rest.is_empty()
    });
    if value.starts_with(['*', '@', '%', '`']) && !is_alias && !value.contains(['"', '\'']) {
        let value: String = value.chars().take(60).filter(|c| !c.is_control()).collect();
        let key: String = key.chars().take(60).filter(|c| !c.is_control()).collect();
        return Some(format!("put the value in quotes: `{key}: \"{value}\"`"));
    }
    let unquoted = |text: &str| {
        text.match_indices("${").any(|(at, _)| {
            !text[..at].trim_end().ends_with(['"', '\'']) && !text[..at].contains(['"', '\''])
        })
    };
    if line.contains('{') && unquoted(value) {
        return Some("put `${params.NAME}` in quotes: `\"${params.NAME}\"`".to_owned());
    }
    if value.contains(": ") && !value.starts_with(['"', '\'', '{', '[']) {
        return Some(
            "put a value with a colon in quotes, or begin a new line for a new key".to_owned(),
        );
    }
    None
}
