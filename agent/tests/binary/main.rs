//! The agent's executable as a person meets it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, like the tests"
)]

mod basics;
mod catalogue;
mod check;
mod enrolled;
mod running;
mod support;
mod try_entry;
