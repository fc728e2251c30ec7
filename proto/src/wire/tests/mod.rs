//! What the wire must hold.
