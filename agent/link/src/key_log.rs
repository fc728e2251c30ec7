//! The key log of the audit mode: the secrets of every connection, in the NSS format, into a descriptor that the runner
//! opened. Link can write there and do nothing else with it; without the option nothing is ever logged.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

/// Writes each secret as one line.
pub(crate) struct KeyLog {
    /// Opened for appending: each line is one write, whole lines whoever else appends.
    file: File,
}

impl KeyLog {
    /// Takes the descriptor over.
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file: file.into() }
    }
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLog")
    }
}

impl rustls::KeyLog for KeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = line(label, client_random, secret);
        if let Err(error) = (&self.file).write_all(line.as_bytes()) {
            tracing::error!(
                %error,
                "a secret could not be added to the audit key log: a capture of this connection cannot be read"
            );
        }
    }
}

/// `LABEL <client random in hex> <secret in hex>`.
fn line(label: &str, client_random: &[u8], secret: &[u8]) -> String {
    let mut line = format!("{label} ");
    let hex = |bytes: &[u8], line: &mut String| {
        for byte in bytes {
            // Writing to a string cannot fail.
            let _ = write!(line, "{byte:02x}");
        }
    };
    hex(client_random, &mut line);
    line.push(' ');
    hex(secret, &mut line);
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustls::KeyLog as _;

    use super::*;

    #[test]
    fn each_secret_is_one_line_of_the_published_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let open = || {
            let file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path);
            KeyLog::new(file.unwrap().into())
        };
        open().log("CLIENT_TRAFFIC_SECRET_0", &[0x0a; 32], &[0xf1, 0x02]);
        open().log("EXPORTER_SECRET", &[0; 2], &[7]);
        let text = std::fs::read_to_string(&path).unwrap();
        let random = "0a".repeat(32);
        assert_eq!(
            text,
            format!("CLIENT_TRAFFIC_SECRET_0 {random} f102\nEXPORTER_SECRET 0000 07\n")
        );
    }
}
