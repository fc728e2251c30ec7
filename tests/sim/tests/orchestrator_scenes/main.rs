//! Scenes about the orchestrator, on the simulator's stage: what it promises, told as stories in which real agents, peers by
//! hand and people meet, and what each of them is told.

#![expect(
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test names what it waits for, and fails by panicking at anything else"
)]

mod alike;
mod certificates;
mod common;
mod copied_back;
mod copies;
mod inventories;
mod keys;
mod outages;
mod pace;
mod reboots;
mod restores;
mod sessions;
mod silence;
mod stores;
mod told_since;
mod work;
