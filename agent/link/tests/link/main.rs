//! Link and dial against real TLS and HTTP/2 servers on loopback. One binary, so that the crate links once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers fail by panicking"
)]

mod confined;
mod dependencies;
mod dialling;
mod enrolment;
mod fuzz;
mod pressure;
mod process;
mod recovery;
mod renewal;
mod streams;
mod support;
mod trust;
