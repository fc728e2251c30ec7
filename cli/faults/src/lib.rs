//! Faults and their judge: a TCP proxy that disturbs what passes through it, and the check of a history that both sides
//! recorded while they were disturbed.
//!
//! Used by `outpost demo --chaos` and by the chaos tests. It links neither agent nor orchestrator and decides nothing
//! about work: it breaks connections, and reads what others wrote down.

pub mod chance;
pub mod history;
pub mod procs;
pub mod proxy;
