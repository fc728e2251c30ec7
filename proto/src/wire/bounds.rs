//! The declared bounds: their check, generated from the descriptor, and their sum, the bit budget.

use super::error::{Excess, OutOfBounds};
use super::link;
use crate::limits::{CERTIFICATE_BYTES, CHALLENGE_BYTES, CSR_BYTES, SIGNATURE_BYTES, TOKEN_BYTES};

/// A wire message whose declared bounds can be checked, down to its innermost part.
pub(super) trait Bounded {
    fn check(&self) -> Result<(), OutOfBounds>;
}

include!(concat!(env!("OUT_DIR"), "/bounds.rs"));

fn within(
    message: &'static str,
    field: &'static str,
    value: u64,
    max_bits: u32,
) -> Result<(), OutOfBounds> {
    if value >> max_bits == 0 {
        return Ok(());
    }
    Err(OutOfBounds {
        message,
        field,
        excess: Excess::Bits { value, max_bits },
    })
}

fn at_most(
    message: &'static str,
    field: &'static str,
    items: usize,
    max_items: usize,
) -> Result<(), OutOfBounds> {
    if items <= max_items {
        return Ok(());
    }
    Err(OutOfBounds {
        message,
        field,
        excess: Excess::Items { items, max_items },
    })
}

/// How many bits of information one field of an agent's message can carry at most.
///
/// A part that may be absent counts one bit more than its content, a choice the bits that number its alternatives and
/// the largest of them, a list its length and all its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLine {
    /// The message.
    pub message: &'static str,
    /// Its field, or the name of a choice between fields.
    pub field: &'static str,
    /// Bits.
    pub max_bits: u32,
}

/// The published bit budget: every field of every message that an agent can send, ordered by message: the link's, then
/// the requests of the identity calls.
#[must_use]
pub const fn budget() -> &'static [BudgetLine] {
    const { include!(concat!(env!("OUT_DIR"), "/budget.rs")) }
}

/// The bits of bytes of any length up to this one, the length included.
const fn byte_bits(max_bytes: usize) -> u32 {
    let bytes = max_bytes as u32;
    bytes * 8 + (bytes + 1).next_power_of_two().trailing_zeros()
}

/// The bits of a whole message, `None` if an agent cannot send one of that name.
#[must_use]
pub fn budget_of(message: &str) -> Option<u32> {
    let lines = || budget().iter().filter(|line| line.message == message);
    lines().next()?;
    Some(lines().map(|line| line.max_bits).sum())
}

/// The bits of all that is said about one attempt that takes every step: one event per state. Most of them only echo
/// the attempt's id. What a reconnect says again adds nothing, save the moment at which it is said.
#[must_use]
pub fn budget_per_attempt() -> u32 {
    use link::State::{Assigned, Finished, Running, Starting};
    let states = [Assigned, Starting, Running, Finished];
    let event = budget_of("Event").unwrap_or(0);
    states.map(|_| event).iter().sum()
}
