//! What the process is to its surroundings: signals, inherited descriptors, limits.
//!
//! Inherited descriptors are reached through `/proc/self/fd`, so that nothing here needs to trust a number as a
//! descriptor of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Cancelled by the first SIGTERM or SIGINT; a second one ends the process as usual.
pub(crate) fn stop_signal() -> io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        for round in 0.. {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM"),
                _ = interrupt.recv() => info!("SIGINT"),
            }
            if round > 0 {
                warn!("told twice; ending at once");
                std::process::exit(1);
            }
            told.cancel();
        }
    });
    Ok(stop)
}

/// Ends the process when the other end of the inherited pipe `fd` is closed.
pub(crate) fn end_with(fd: u32) -> io::Result<()> {
    let mut leash = File::open(format!("/proc/self/fd/{fd}"))?;
    std::thread::Builder::new()
        .name("leash".to_owned())
        .spawn(move || {
            // Nothing is ever written to it: this returns at its end, or when it cannot be read.
            let mut byte = [0];
            while matches!(leash.read(&mut byte), Ok(1..)) {}
            std::process::exit(1);
        })?;
    Ok(())
}

/// Thousands of agents are thousands of descriptors: takes all the system allows.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files could not be raised; fewer agents can be connected");
    }
}

/// Writes `ready` to the file, in one step, and to the inherited descriptor.
pub(crate) fn announce(ready: &str, file: Option<&Path>, fd: Option<u32>) -> io::Result<()> {
    if let Some(path) = file {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        std::fs::write(&name, ready)?;
        std::fs::rename(&name, path)?;
    }
    if let Some(fd) = fd {
        let mut stream = OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))?;
        stream.write_all(ready.as_bytes())?;
    }
    Ok(())
}
