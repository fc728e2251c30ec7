//! Labels of agents, selectors of tasks, queues: names that only the orchestrator knows and that never cross the wire.
//!
//! Placement compares them and nothing else does; each is valid from construction on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Labels of one agent, and keys of one selector.
pub const LABELS: usize = 16;
/// Queues that one agent serves.
pub const QUEUES: usize = 8;
/// The queue of tasks that name none, and of agents that were told none.
pub const DEFAULT_QUEUE: &str = "default";
const LEN: usize = 63;

/// A text that is no label key, label value or queue name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind}: use {form}")]
pub struct NotALabel {
    /// What was given, cut to 80 characters, control characters replaced.
    pub text: String,
    /// What it should have been.
    pub kind: &'static str,
    /// What would be valid.
    pub form: &'static str,
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $form:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NotALabel;

            fn from_str(text: &str) -> Result<Self, NotALabel> {
                if $check(text.as_bytes()) {
                    return Ok(Self(text.into()));
                }
                let shown = text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c });
                Err(NotALabel { text: shown.collect(), kind: $kind, form: $form })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

text!(
    /// What a label says something about, such as `zone` or `example.com/disk`.
    LabelKey,
    "label key",
    "1 to 63 of a-z, 0-9, `.`, `_`, `/`, `-`, beginning with a letter or digit",
    is_key
);
text!(
    /// What a label says; may be empty.
    LabelValue,
    "label value",
    "at most 63 of A-Z, a-z, 0-9, `.`, `_`, `-`",
    is_value
);
text!(
    /// A queue that agents serve and tasks wait in.
    QueueName,
    "queue name",
    "1 to 63 of a-z, 0-9, `-`, `_`, `.`, with a letter or digit at both ends",
    is_queue
);

fn edge(byte: Option<&u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_key(bytes: &[u8]) -> bool {
    let inside = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'/' | b'-');
    bytes.len() <= LEN && edge(bytes.first()) && bytes.iter().all(inside)
}

fn is_value(bytes: &[u8]) -> bool {
    let inside = |b: &u8| matches!(b, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    bytes.len() <= LEN && bytes.iter().all(inside)
}

fn is_queue(bytes: &[u8]) -> bool {
    let inside = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    bytes.len() <= LEN
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(inside)
        && !bytes.windows(2).any(|pair| pair == b"..")
}

impl Default for QueueName {
    fn default() -> Self {
        Self(DEFAULT_QUEUE.into())
    }
}

impl QueueName {
    /// Whether it is the one that nobody need name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.as_str() == DEFAULT_QUEUE
    }
}

/// What an agent's labels say.
pub type Labels = BTreeMap<LabelKey, LabelValue>;

/// The queues of an agent that was told none.
#[must_use]
pub fn default_queues() -> BTreeSet<QueueName> {
    BTreeSet::from([QueueName::default()])
}

/// Labels that an agent must have, each with exactly this value. An empty one takes every agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub Labels);

impl Selector {
    /// Whether it takes every agent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these labels are what it asks for.
    #[must_use]
    pub fn takes(&self, labels: &Labels) -> bool {
        self.0
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_valid_and_what_not() {
        for text in ["zone", "example.com/disk-1", "0", "a_b"] {
            assert!(text.parse::<LabelKey>().is_ok(), "{text}");
        }
        for text in ["", "-a", "Zone", "a b", "a=b", &"a".repeat(64)] {
            assert!(text.parse::<LabelKey>().is_err(), "{text}");
        }
        for text in ["", "EU", "a-b_c.d"] {
            assert!(text.parse::<LabelValue>().is_ok(), "{text}");
        }
        for text in ["a b", "a/b", "\u{1b}", &"a".repeat(64)] {
            assert!(text.parse::<LabelValue>().is_err(), "{text}");
        }
        for text in ["default", "big.1"] {
            assert!(text.parse::<QueueName>().is_ok(), "{text}");
        }
        for text in ["", "a/b", "a..b", "Big", "a."] {
            assert!(text.parse::<QueueName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_selector_takes_who_has_every_label() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            let parsed = pairs
                .iter()
                .map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap()));
            parsed.collect()
        };
        let selector = Selector(labels(&[("zone", "eu"), ("disk", "fast")]));
        assert!(selector.takes(&labels(&[("zone", "eu"), ("disk", "fast"), ("x", "")])));
        assert!(!selector.takes(&labels(&[("zone", "eu")])));
        assert!(!selector.takes(&labels(&[("zone", "us"), ("disk", "fast")])));
        assert!(Selector::default().takes(&labels(&[])));
    }
}
