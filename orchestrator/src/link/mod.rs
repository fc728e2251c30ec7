//! The agents' port: TLS, HTTP/2 and gRPC with every limit stated, one task per stream, frames to and from the driver.
//!
//! Nothing here decides anything about agents or work. A stranger can cost no more than the limits in `limits`, and
//! what one peer does wrong ends that peer's connection only.

mod accept;
mod chain;
mod codec;
mod limits;
mod past;
mod places;
mod receipts;
mod service;
mod session;

pub use accept::Listener;
pub(crate) use past::Pasts;
