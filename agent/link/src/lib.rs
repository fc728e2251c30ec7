//! The agent's network processes. Link holds the TLS key and the one connection and carries opaque frames between the
//! runner and the orchestrator; dial resolves, connects and hands the connected descriptor to link.
//!
//! Link can decode nothing it carries (neither prost nor the wire's types are dependencies of this crate), creates no
//! socket, resolves no name and starts no process.

pub mod ipc;
