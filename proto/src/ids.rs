//! Ids and counters, each its own type, so that a run can never be taken for an attempt.
//!
//! The orchestrator chooses every id; the agent only echoes them. Random ids are 128 bits and shown as 32 hex digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is no id of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct NotAnId {
    /// What was given, cut to 64 characters.
    pub text: String,
    /// What would have been an id.
    pub expected: &'static str,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            /// Accepts exactly 32 lower-case hex digits: one spelling per id, safe as a file name.
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let fixed_form = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                let value = if fixed_form { u128::from_str_radix(text, 16).ok() } else { None };
                value.map(Self).ok_or_else(|| NotAnId {
                    text: text.chars().take(64).collect(),
                    expected: "an id of 32 lower-case hex digits",
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

random_id!(
    /// One try of a task on one agent. Random and never reused.
    AttemptId
);
random_id!(
    /// One execution of a workflow.
    RunId
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A task's place in its workflow version, counted from zero in the order of the file.
    TaskIndex(u16)
);
number!(
    /// Monotonic over all attempts of a tenant: the task hands it to its own database or lock as `OUTPOST_FENCE`.
    Fence(u64)
);
number!(
    /// One durable counter per agent over all events it ever sent; starts at 1, never reset.
    EventSeq(u64)
);
number!(
    /// One counter per agent over all commands it was ever sent; starts at 1.
    CommandSeq(u64)
);
number!(
    /// Which accepted stream of an agent this is; starts at 1 and grows with each Welcome.
    SessionEpoch(u64)
);
number!(
    /// Handed out by each Welcome and presented by the next Hello; zero means none. Detects clones, is no secret.
    Nonce(u64)
);
number!(
    /// Which life of an agent's state directory, kernel and pid namespace this is.
    Incarnation(u64)
);
number!(
    /// Version of a site's catalogue: changes with its content.
    CatalogueVersion(u32)
);
number!(
    /// One connection of this agent process to the orchestrator, or of the orchestrator's process to an agent.
    Conn(u64)
);
number!(
    /// Number of a heartbeat within its session; starts at 1.
    HeartbeatSeq(u32)
);

/// Which life of the orchestrator's database this is. Restoring a backup makes a new one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct RecoveryEpoch {
    /// Grows with each restore.
    pub counter: u32,
    /// Random id of the database.
    pub database: u64,
}
