//! What conversions of both directions share: ids, epochs, numbers in their own width, enums.

use super::error::{DecodeError, Invalid};
use super::link;
use crate::ids::RecoveryEpoch;

pub(super) fn missing(field: &'static str) -> DecodeError {
    DecodeError::Missing { field }
}

/// A number in its domain's own width.
pub(super) fn narrow<T: TryFrom<u32>>(field: &'static str, value: u32) -> Result<T, DecodeError> {
    T::try_from(value).map_err(|_| {
        DecodeError::Invalid(Invalid {
            field,
            reason: "is larger than its kind of number can be",
        })
    })
}

pub(super) fn id_to_wire(id: u128) -> Option<link::Id> {
    let [a, b, c, d, e, f, g, h, low @ ..] = id.to_be_bytes();
    Some(link::Id {
        high: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        low: u64::from_be_bytes(low),
    })
}

pub(super) fn id_from_wire(field: &'static str, id: Option<link::Id>) -> Result<u128, DecodeError> {
    let id = id.ok_or(missing(field))?;
    Ok(u128::from(id.high) << 64 | u128::from(id.low))
}

pub(super) fn recovery_to_wire(recovery: RecoveryEpoch) -> link::RecoveryEpoch {
    link::RecoveryEpoch {
        counter: recovery.counter,
        database: recovery.database,
    }
}

pub(super) fn recovery_from_wire(recovery: link::RecoveryEpoch) -> RecoveryEpoch {
    RecoveryEpoch {
        counter: recovery.counter,
        database: recovery.database,
    }
}

/// A number of an enum that this build knows; zero is left to the caller.
pub(super) fn known<E: TryFrom<i32>>(field: &'static str, value: i32) -> Result<E, DecodeError> {
    E::try_from(value).map_err(|_| DecodeError::Unsupported {
        field,
        value: value.cast_unsigned(),
    })
}
