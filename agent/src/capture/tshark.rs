//! Running tshark: it decrypts, puts records and frames together, and prints every packet as JSON. Nothing of the user's
//! own settings for it counts.

use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};

use serde::de::DeserializeSeed as _;

use super::CaptureError;
use super::tree::{Each, Node};

/// The oldest one whose JSON names fields several times as they occur, and that decrypts TLS 1.3.
const OLDEST: (u32, u32) = (3, 6);
/// Of what it says on standard error, so much is passed on.
const SAID_BYTES: u64 = 4096;
const INSTALL: &str = "install it (Debian and Ubuntu: apt-get install tshark; Fedora and RHEL: dnf install \
                       wireshark-cli), or name one with --tshark";

/// An installed tshark.
#[derive(Debug)]
pub(super) struct Tshark {
    program: PathBuf,
    /// As it says itself.
    pub(super) version: String,
}

impl Tshark {
    /// The given one, or the one in the path.
    pub(super) fn find(given: Option<&Path>) -> Result<Self, CaptureError> {
        let program = given.unwrap_or(Path::new("tshark")).to_owned();
        let missing = |why: String| CaptureError::Missing {
            program: program.clone(),
            why,
            install: INSTALL,
        };
        let output = quiet(&program)
            .arg("--version")
            .output()
            .map_err(|error| missing(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().next().unwrap_or_default();
        let version = line
            .split_whitespace()
            .find_map(parse_version)
            .ok_or_else(|| missing(format!("it does not say its version but {line:?}")))?;
        if version < OLDEST {
            let (major, minor) = OLDEST;
            return Err(missing(format!("{line} is older than {major}.{minor}")));
        }
        Ok(Self {
            version: line.to_owned(),
            program,
        })
    }

    /// Hands over every packet of the capture that belongs to a connection with this port. Answers why it could not read
    /// the capture to its end, if so.
    pub(super) fn packets(
        &self,
        capture: &Path,
        keylog: &Path,
        port: u16,
        each: &mut dyn FnMut(Node),
    ) -> Result<Option<String>, CaptureError> {
        let failed = |why: String| CaptureError::Tshark {
            program: self.program.clone(),
            why,
        };
        let mut child = self
            .command(capture, keylog, port)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (Some(printed), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed("it has no output".to_owned()));
        };
        let listener = std::thread::spawn(move || words(stderr));
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(printed));
        let read = Each(each).deserialize(&mut json);
        // One that would go on printing ends with the pipe.
        drop(json);
        let said = listener.join().unwrap_or_default();
        let ended = child.wait().map_err(|error| failed(error.to_string()))?;
        match read {
            Ok(()) => Ok((!ended.success()).then_some(said)),
            Err(error) => Err(failed(format!("{said} ({error})"))),
        }
    }

    fn command(&self, capture: &Path, keylog: &Path, port: u16) -> Command {
        let mut command = quiet(&self.program);
        let file = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        command.arg("-n").arg("-r").arg(file(capture));
        command.arg("-Y").arg(format!("tcp.port == {port}"));
        command.arg("-d").arg(format!("tcp.port=={port},tls"));
        let mut keys = std::ffi::OsString::from("tls.keylog_file:");
        keys.push(file(keylog));
        command.arg("-o").arg(keys);
        for option in [
            "tls.desegment_ssl_records:TRUE",
            "tls.desegment_ssl_application_data:TRUE",
            "tls.ignore_ssl_mac_failed:FALSE",
            "tcp.desegment_tcp_streams:TRUE",
            "tcp.reassemble_out_of_order:TRUE",
            "tcp.analyze_sequence_numbers:TRUE",
            "tcp.relative_sequence_numbers:TRUE",
        ] {
            command.arg("-o").arg(option);
        }
        // Messages are compared as bytes; nobody is to guess at their meaning.
        command.arg("--disable-protocol").arg("protobuf");
        command
            .arg("-T")
            .arg("json")
            .arg("-J")
            .arg("frame tcp tls http2");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Without the user's profile, plug-ins, name tables and environment.
fn quiet(program: &Path) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH");
    command.env_clear().stdin(Stdio::null());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    for name in ["HOME", "XDG_CONFIG_HOME", "WIRESHARK_CONFIG_DIR"] {
        command.env(name, "/nonexistent");
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// What it says, up to a bound; the rest is read and forgotten, so that it never waits to be heard.
fn words(mut stderr: ChildStderr) -> String {
    let mut said = Vec::new();
    let heard = (&mut stderr).take(SAID_BYTES).read_to_end(&mut said);
    let _ = heard.and_then(|_| std::io::copy(&mut stderr, &mut std::io::sink()));
    let said = String::from_utf8_lossy(&said);
    let lines = said
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("Running as user"));
    lines.collect::<Vec<_>>().join("; ")
}

/// `4.0.17` or `4.2.0-rc1` as major and minor.
fn parse_version(word: &str) -> Option<(u32, u32)> {
    let mut parts = word.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    parts.next()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_not_there_is_told_with_what_to_install() {
        let error = Tshark::find(Some(Path::new("/nonexistent/tshark"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nonexistent/tshark"), "{text}");
        assert!(text.contains("apt-get install tshark"), "{text}");
    }

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(parse_version("4.0.17"), Some((4, 0)));
        assert_eq!(parse_version("(Git"), None);
        assert!((3, 4) < OLDEST && (4, 0) >= OLDEST);
        // `true` says nothing about its version.
        assert!(Tshark::find(Some(Path::new("true"))).is_err());
    }
}
