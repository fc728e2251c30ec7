//! Spawner and keepers as real processes, with real tasks.
//!
//! The spawner is this test binary itself, started again with `role spawner …`.

mod dead;
mod ends;
mod life;
mod output;
mod role;
mod site;
mod trees;
