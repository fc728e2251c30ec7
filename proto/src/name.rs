//! Names that people choose, valid from construction on.
//!
//! One form for all: 1 to 63 characters of `a-z`, `0-9`, `-`, `_`, `.`, beginning and ending with a letter or digit.
//! Such a name is safe as one path component, in a URL, in a SPIFFE id, on a terminal and in HTML.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::limits::NAME_LEN;

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a valid {kind}: use 1 to 63 of a-z, 0-9, `-`, `_`, `.`, with a letter or digit at both ends"
)]
pub struct NotAName {
    /// What was given, cut to 80 characters, control characters replaced.
    pub text: String,
    /// What it should have named.
    pub kind: &'static str,
}

fn check(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= NAME_LEN
        && edge(bytes.first())
        && edge(bytes.last())
        && !text.contains("..")
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NotAName;

            fn from_str(text: &str) -> Result<Self, NotAName> {
                if check(text) {
                    return Ok(Self(text.into()));
                }
                let shown = text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c });
                Err(NotAName { text: shown.collect(), kind: $kind })
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

name!(
    /// An isolated customer of the operator.
    TenantName, "tenant name"
);
name!(
    /// An agent within its tenant.
    AgentName, "agent name"
);
name!(
    /// A workflow within its tenant.
    WorkflowName, "workflow name"
);
name!(
    /// A task within its workflow.
    TaskName, "task name"
);
name!(
    /// An entry of a site's catalogue.
    EntryName, "catalogue entry name"
);
name!(
    /// A parameter of a workflow or of a catalogue entry.
    ParamName, "parameter name"
);

/// What upstream sees of a catalogue entry's name: 64 bits, salted with the agent's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryHash(pub u64);

impl EntryHash {
    /// First 64 bits (big-endian) of SHA-256(SHA-256(`spiffe_id`) || `entry`).
    #[must_use]
    pub fn new(spiffe_id: &str, entry: &EntryName) -> Self {
        let salt = Sha256::digest(spiffe_id.as_bytes());
        let digest = Sha256::new()
            .chain_update(salt)
            .chain_update(entry.as_str().as_bytes())
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }
}

/// `spiffe://<trust domain>/tenant/<tenant>/agent/<agent>`: the one URI SAN of an agent's certificate.
#[must_use]
pub fn spiffe_id(trust_domain: &str, tenant: &TenantName, agent: &AgentName) -> String {
    format!("spiffe://{trust_domain}/tenant/{tenant}/agent/{agent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            "-a",
            "a-",
            "A",
            "a/b",
            "a b",
            "a\0",
            "é",
            &"a".repeat(64),
        ] {
            assert!(text.parse::<AgentName>().is_err(), "{text:?}");
        }
        for text in ["a", "7", "a-b_c.d", &"a".repeat(63)] {
            assert!(text.parse::<AgentName>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_refused_name_is_shown_without_control_characters() {
        let error = "a\u{1b}[31m".parse::<TaskName>().unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
