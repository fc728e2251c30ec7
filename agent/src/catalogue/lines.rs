//! Where in a catalogue file a key stands: for messages that a person can jump to.

use toml::de::{DeTable, DeValue};

/// The line, from 1, of a byte offset.
pub(super) fn of_offset(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).matches('\n').count() + 1
}

/// The line of the key that `path` leads to, or of the last part of it that is there; `None` when not even the first
/// part is.
pub(super) fn of_path(text: &str, path: &[&str]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut table = Some(table.get_ref());
    let mut line = None;
    for part in path {
        let found = table.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == part));
        let Some((key, value)) = found else { break };
        line = Some(of_offset(text, key.span().start));
        table = if let DeValue::Table(inner) = value.get_ref() {
            Some(inner)
        } else {
            None
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_each_spelling_and_a_missing_one_at_its_parent() {
        let text = "\n[entry.a]\nargv = [\n \"/bin/true\",\n]\ntimeout = \"x\"\nparam.n = { kind = \"int\" }\n\n\
                    [entry.a.param.m]\nkind = \"int\"\n";
        let line = |path: &[&str]| of_path(text, path);
        assert_eq!(line(&["entry", "a", "timeout"]), Some(6));
        assert_eq!(line(&["entry", "a", "param", "n", "min"]), Some(7));
        assert_eq!(line(&["entry", "a", "param", "m", "kind"]), Some(10));
        assert_eq!(line(&["entry", "a", "grace"]), Some(2));
        assert_eq!(line(&["other"]), None);
    }
}
