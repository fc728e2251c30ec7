//! What endangers the rule that nothing is lost and nothing runs twice, and what people decide about it: the words.

use serde::{Deserialize, Serialize};

/// What nobody shall miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Safety {
    /// A second holder of an agent's identity appeared: neither gets new work.
    Quarantined,
    /// A person kept the holder that was known.
    KeptThis,
    /// A person kept the holder that appeared.
    KeptThat,
    /// A stream under a key that the agent has left behind was turned away: an older copy of it, or who had its name before.
    OtherKey,
    /// Most agents vanished at once: nothing is given up.
    Frozen,
    /// They are back, or a person said so.
    Unfrozen,
    /// An agent has seen a newer state of the database than there is.
    Behind,
    /// The database was restored from a backup.
    Restored,
    /// Every agent has told what it knows of the time that the backup lacks.
    Recovered,
    /// A person goes on without the agents that have not told.
    Continued,
    /// A person said that an attempt is over.
    AssertedDead,
    /// An agent got a certificate after its last one had ended.
    CertificateRecovered,
    /// Unusually many of a tenant's agents did.
    RecoveredOften,
}

impl Safety {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Quarantined,
        Self::KeptThis,
        Self::KeptThat,
        Self::OtherKey,
        Self::Frozen,
        Self::Unfrozen,
        Self::Behind,
        Self::Restored,
        Self::Recovered,
        Self::Continued,
        Self::AssertedDead,
        Self::CertificateRecovered,
        Self::RecoveredOften,
    ];

    /// As it is shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::KeptThis => "kept_this",
            Self::KeptThat => "kept_that",
            Self::OtherKey => "other_key",
            Self::Frozen => "frozen",
            Self::Unfrozen => "unfrozen",
            Self::Behind => "behind",
            Self::Restored => "restored",
            Self::Recovered => "recovered",
            Self::Continued => "continued",
            Self::AssertedDead => "asserted_dead",
            Self::CertificateRecovered => "certificate_recovered",
            Self::RecoveredOften => "recovered_often",
        }
    }
}

/// A person's word that an attempt is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asserted {
    /// Whose: the public part of the token.
    pub by: String,
    /// When.
    pub at: u64,
    /// How the person knows.
    pub reason: String,
}
