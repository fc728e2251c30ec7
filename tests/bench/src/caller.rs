//! Calls that are timed: one prepared request over one open connection, answered into one buffer. A client that does
//! more would add its own time to what is measured.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use outpost_e2e::Api;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers are smaller than this.
const ANSWER: usize = 64 * 1024;

/// Starts runs of one workflow.
#[derive(Debug)]
pub(crate) struct Caller {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Caller {
    pub(crate) fn new(api: &Api, workflow: &str) -> anyhow::Result<Self> {
        let address = api.base().trim_start_matches("http://");
        let stream =
            TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let token = api.token();
        let request = format!(
            "POST /api/v1/workflows/{workflow}/runs HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        Ok(Self {
            stream,
            request: request.into_bytes(),
        })
    }

    /// Starts one; its id.
    pub(crate) fn trigger(&mut self) -> anyhow::Result<String> {
        self.stream.write_all(&self.request)?;
        let mut answer = vec![0; ANSWER];
        let mut filled = 0;
        loop {
            let room = answer
                .get_mut(filled..)
                .context("an answer of more than 64 KiB")?;
            let read = self.stream.read(room)?;
            ensure!(read > 0, "the orchestrator hung up");
            filled += read;
            if let Some(body) = body(&answer[..filled])? {
                let body: serde_json::Value = serde_json::from_slice(body)?;
                return Ok(body["run"]
                    .as_str()
                    .context("an answer without a run")?
                    .to_owned());
            }
        }
    }
}

/// The body of a good answer; `None` while it is not all there.
fn body(answer: &[u8]) -> anyhow::Result<Option<&[u8]>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end])?;
    ensure!(head.starts_with("HTTP/1.1 20"), "refused: {head}");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("an answer without a length")?;
    let length: usize = length.1.trim().parse()?;
    Ok(answer.get(end + 4..end + 4 + length))
}
