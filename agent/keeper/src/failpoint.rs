//! Places at which a test can hold or kill a process of the agent, for the crates above this one too.

pub use outpost_failpoint::{VARIABLE, pass_on, reach};
