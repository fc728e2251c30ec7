//! Whether what an attempt's record says of its encrypted log is what the keeper wrote: that it is encrypted, with which
//! key, how the attempt ended and how much of its output there was.

use std::path::Path;

use outpost_agent_keeper::record::{
    CLAIM, KeeperRecord, RecordError, check_record, read_keeper_record,
};

use super::SiteKeys;
use super::log::{TailError, attempt_of};

/// What a record is worth that nothing speaks against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Each line of it is signed with the attempt's key.
    Signed,
    /// It says that the log is not encrypted.
    Plain,
    /// There is none, or one that says nothing.
    Nothing,
}

impl Worth {
    /// What there is to say of it to who reads the log with a key.
    pub(crate) fn note(self) -> Option<&'static str> {
        match self {
            Self::Signed | Self::Nothing => None,
            Self::Plain => Some("the log is not encrypted: whether it was changed cannot be said"),
        }
    }
}

/// Looks at the record of an attempt whose log was read with these keys.
pub(crate) fn worth(dir: &Path, keys: Option<&SiteKeys>) -> Result<Worth, TailError> {
    let damaged = |what: String| TailError::Damaged {
        file: dir.join(CLAIM),
        what,
    };
    let record = read_keeper_record(dir).map_err(|error| damaged(said(&error)))?;
    let Some(KeeperRecord {
        sealed,
        sealed_with,
        ..
    }) = record
    else {
        return Ok(Worth::Nothing);
    };
    let (Some(with), Some(attempt)) = (sealed_with, attempt_of(dir)) else {
        return if sealed {
            Err(damaged(
                "it is not signed, as that of every encrypted log is".to_owned(),
            ))
        } else {
            Ok(Worth::Plain)
        };
    };
    let witness = match keys.map(|keys| keys.witness(&with, attempt.to_be_bytes())) {
        Some(Ok(witness)) => witness,
        Some(Err(missing)) => {
            return Err(TailError::Key {
                file: dir.join(CLAIM),
                missing,
            });
        }
        None => {
            return Err(TailError::Key {
                file: dir.join(CLAIM),
                missing: super::MissingKey(with.key_id),
            });
        }
    };
    match check_record(dir, &witness) {
        Ok(()) if sealed => Ok(Worth::Signed),
        Ok(()) => Err(damaged("it says two things of the log".to_owned())),
        Err(error) => Err(damaged(said(&error))),
    }
}

fn said(error: &RecordError) -> String {
    match error {
        RecordError::Io { source, .. } => source.to_string(),
        RecordError::Damaged { what, .. } => what.clone(),
    }
}
