//! Who may speak: the certificate authority, the one strict identity parser, join tokens and TLS configurations.
//!
//! The orchestrator issues with [`ca::Authority`], serves with [`tls::server_config`] and learns who connected from
//! [`tls::peer`]; every certificate is read by [`identity`] and nowhere else. The time of issue is always an argument;
//! randomness (keys, serial numbers, token secrets) comes from the operating system. Nothing here opens a socket.

pub mod ca;
mod crypto;
pub mod identity;
pub mod issue;
pub mod pem;
pub mod receipt;
pub mod recover;
pub mod store;
pub mod tls;
pub mod token;

pub use crypto::NoRandomness;
