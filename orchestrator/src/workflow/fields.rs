//! Mappings whose keys are known words, and mappings whose keys are names.

use serde_saphyr::{Location, Spanned};

use super::foreign;
use super::found::{Findings, join, shown};
use super::keys::{self, Section};
use super::node::{Node, Value};

/// One entry of a mapping.
pub(super) type Entry = (Spanned<String>, Node);

/// A mapping whose keys are known words.
pub(super) struct Fields<'a> {
    entries: &'a [Entry],
    at: Location,
    path: String,
}

impl<'a> Fields<'a> {
    /// Reads a mapping; unknown and repeated keys are told.
    pub(super) fn of(
        node: &'a Node,
        path: &str,
        section: &Section,
        found: &mut Findings,
    ) -> Option<Self> {
        Self::with(node, path, section.names(), found)
    }

    /// Like [`Fields::of`], with other words than those of one section.
    pub(super) fn with(
        node: &'a Node,
        path: &str,
        known: impl Iterator<Item = &'static str> + Clone,
        found: &mut Findings,
    ) -> Option<Self> {
        let entries = mapping(node, path, found)?;
        for (key, _) in entries {
            if !known.clone().any(|name| name == key.value) {
                unknown(key, path, known.clone(), found);
            }
        }
        Some(Self {
            entries,
            at: node.referenced,
            path: path.to_owned(),
        })
    }

    /// The value of a key; a key without value is told and counts as left out.
    pub(super) fn get(&self, key: &str, found: &mut Findings) -> Option<&'a Node> {
        let node = self.raw(key)?;
        if node.value == Value::Null {
            found
                .add(node.referenced, &self.path_of(key), "has no value")
                .help("write one or leave the key out");
            return None;
        }
        Some(node)
    }

    /// Like [`Fields::get`]; a key that is not there is told.
    pub(super) fn required(&self, key: &str, found: &mut Findings) -> Option<&'a Node> {
        if self.raw(key).is_none() {
            found.add(self.at, &self.path, format!("`{key}` is missing"));
        }
        self.get(key, found)
    }

    /// The value of a key, whatever it is.
    pub(super) fn raw(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|(name, _)| name.value == key)
            .map(|(_, node)| node)
    }

    /// Where the value of a key stands.
    pub(super) fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Where the mapping begins.
    pub(super) fn at(&self) -> Location {
        self.at
    }
}

fn unknown(
    key: &Spanned<String>,
    path: &str,
    known: impl Iterator<Item = &'static str> + Clone,
    found: &mut Findings,
) {
    let word = shown(&key.value);
    let path = join(path, &word);
    let is_known = |word: &str| known.clone().any(|name| name == word);
    match foreign::meant(&key.value, is_known) {
        Some(help) => found
            .add(key.referenced, &path, format!("unknown key `{word}`"))
            .help(help),
        None => match keys::home(&key.value) {
            Some(home) => found
                .add(
                    key.referenced,
                    &path,
                    format!("`{word}` does not belong here"),
                )
                .help(format!("it belongs {home}; look at the indentation")),
            None => {
                let message = format!("unknown key `{word}`");
                found.add_word(key.referenced, &path, message, &key.value, known);
            }
        },
    }
}

/// A mapping's entries, in the order of the file. Repeated keys are told.
pub(super) fn mapping<'a>(node: &'a Node, path: &str, found: &mut Findings) -> Option<&'a [Entry]> {
    let Value::Map(entries) = &node.value else {
        let message = format!(
            "expected a mapping (`key: value` lines), found {}",
            node.value.kind()
        );
        let told = found.add(node.referenced, path, message);
        if let Value::Text(text) = &node.value
            && let Some((key, _)) = text.split_once(':')
            && !key.contains(char::is_whitespace)
        {
            told.help(format!(
                "a colon needs a space behind it: `{}: …`",
                shown(key)
            ));
        }
        return None;
    };
    let mut seen = std::collections::BTreeMap::new();
    for (key, _) in entries {
        if let Some(first) = seen.insert(key.value.as_str(), key.referenced.line()) {
            let word = shown(&key.value);
            found
                .add(
                    key.referenced,
                    &join(path, &word),
                    format!("`{word}` is there twice, first on line {first}"),
                )
                .help("keep one, or rename one");
        }
    }
    Some(entries)
}

/// Entries of a mapping whose keys are names that people choose; too many are told.
pub(super) fn named<'a>(
    node: &'a Node,
    path: &str,
    (most, what): (usize, &str),
    found: &mut Findings,
) -> &'a [Entry] {
    let entries = mapping(node, path, found).unwrap_or_default();
    if entries.len() > most {
        let message = format!(
            "there are {} {what}; at most {most} are accepted",
            entries.len()
        );
        found.add(node.referenced, path, message);
    }
    entries
}
