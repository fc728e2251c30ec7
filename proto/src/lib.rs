//! What is said between agent and orchestrator.
//!
//! [`message`] holds the validated values that both cores speak in, [`wire`] turns them into frames and back and
//! enforces every bound at that door, [`limits`] is the one page of limits. Nothing here does I/O, reads a clock or
//! draws a random number.

pub mod budget;
pub mod ids;
pub mod limits;
pub mod message;
pub mod name;
pub mod outcome;
pub mod strict;
pub mod units;
pub mod wire;
