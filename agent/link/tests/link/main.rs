//! Link and dial against real TLS and HTTP/2 servers on loopback. One binary, so that the crate links once.

mod dependencies;
mod dialling;
mod enrolment;
mod pressure;
mod process;
mod streams;
mod support;
mod trust;
