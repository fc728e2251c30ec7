//! Why something was not put on the wire, or not taken from it. Every error names message and field.

/// A frame or request that cannot be sent as it is. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It would be longer than the other side reads.
    #[error(
        "{message} would be {bytes} bytes long and {limit} are allowed: send it in several frames"
    )]
    TooLong {
        /// The outermost message.
        message: &'static str,
        /// Its length.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A number or list is larger than the wire carries.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// A value breaks a rule of its message.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// A frame or request that is not taken. None of it was used; whoever sent it is of another version or faulty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is longer than any honest one.
    #[error("{message} is {bytes} bytes long and {limit} are allowed")]
    TooLong {
        /// The outermost message.
        message: &'static str,
        /// Its length.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It is not an encoding of the message at all.
    #[error("{message} is malformed: {reason}")]
    Malformed {
        /// The outermost message.
        message: &'static str,
        /// Where the decoder stopped.
        reason: String,
    },
    /// It holds something beside the declared fields, or says the same in an unusual way.
    #[error(
        "{message} is not in canonical form: it holds an unknown field, or a known one in another encoding or order"
    )]
    NotCanonical {
        /// The outermost message.
        message: &'static str,
    },
    /// A number or list is larger than the wire allows.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// A part that must be there is not, or is of a kind this build does not know.
    #[error("{field} is missing or of a kind that this build does not know")]
    Missing {
        /// `Message.field`.
        field: &'static str,
    },
    /// A value that this build does not know: never guessed.
    #[error("{field} has the value {value}, which this build does not support")]
    Unsupported {
        /// `Message.field`.
        field: &'static str,
        /// The number on the wire.
        value: u32,
    },
    /// A value breaks a rule of its message.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// A number or list that is larger than its declared bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message}.{field} {excess}")]
pub struct OutOfBounds {
    /// The message.
    pub message: &'static str,
    /// Its field.
    pub field: &'static str,
    /// By what it is too large.
    pub excess: Excess,
}

/// What is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// A number.
    #[error("has the value {value}, which does not fit into {max_bits} bits")]
    Bits {
        /// The number; an enum's as its 32 bits.
        value: u64,
        /// What is allowed.
        max_bits: u32,
    },
    /// A list.
    #[error("has {items} items and {max_items} are allowed")]
    Items {
        /// How many there are.
        items: usize,
        /// What is allowed.
        max_items: usize,
    },
}

/// A value that breaks a rule of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct Invalid {
    /// `Message.field`.
    pub field: &'static str,
    /// What is wrong with it, as the end of a sentence.
    pub reason: &'static str,
}

impl Invalid {
    /// `Ok` if the rule holds.
    pub(crate) fn unless(
        holds: bool,
        field: &'static str,
        reason: &'static str,
    ) -> Result<(), Self> {
        if holds {
            Ok(())
        } else {
            Err(Self { field, reason })
        }
    }
}
