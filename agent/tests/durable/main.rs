//! Journal and ledger against every tear and against flipped bits: what is read back is what was written up to a point,
//! and damage before the end is reported with its place, never skipped.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

mod full;
mod journal;
mod ledger;
mod writes;
