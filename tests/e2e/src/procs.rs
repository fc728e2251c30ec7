//! Processes as /proc shows them: the same eyes that `demo --chaos` has.

pub use outpost_faults::procs::*;
