//! Events of a run, one at a time, from a stream that is opened again where it broke off.
//!
//! Only the number and the name of an event are used: what happened is read from the run itself, which cannot lag
//! behind its events.

use std::time::{Duration, Instant};

use reqwest::Response;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::http::Client;
use crate::failure::Failure;

/// Longest line: the server's own limit is far below.
const LINE: usize = 256 * 1024;
/// First pause before the stream is opened again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Without the server for so long, watching is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It stands: from now on nothing is missed.
    Opened,
    /// Something happened.
    Event,
    /// Nothing more will happen.
    End,
    /// It broke; it is opened again by itself.
    Broken(String),
}

/// Signals that may wait to be looked at; the stream waits beyond them.
const QUEUE: usize = 64;

/// A stream that is followed until this is dropped.
pub(crate) struct Following {
    signals: mpsc::Receiver<Result<Signal, Failure>>,
    /// Ends the task with this.
    _task: JoinSet<()>,
}

impl Following {
    /// Follows a run's events, or the whole tenant's.
    pub(crate) fn of(client: &Client, run: Option<&str>) -> Self {
        let mut events = Events::of(client.clone(), run.map(str::to_owned));
        let (sender, signals) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let signal = events.next().await;
                let last = signal.is_err();
                if sender.send(signal).await.is_err() || last {
                    return;
                }
            }
        });
        Self {
            signals,
            _task: task,
        }
    }

    /// The next signal. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// The server says no, or is away for too long.
    pub(crate) async fn next(&mut self) -> Result<Signal, Failure> {
        let ended = || {
            Err(Failure::Internal(
                "the event stream's task ended".to_owned(),
            ))
        };
        self.signals.recv().await.unwrap_or_else(ended)
    }
}

/// Events of a run, or of the whole tenant.
struct Events {
    client: Client,
    run: Option<String>,
    stream: Option<Response>,
    parser: Parser,
    last: Option<String>,
    pause: Duration,
    away_since: Option<Instant>,
}

impl Events {
    /// Not opened yet.
    fn of(client: Client, run: Option<String>) -> Self {
        let parser = Parser::default();
        Self {
            client,
            run,
            stream: None,
            parser,
            last: None,
            pause: Duration::ZERO,
            away_since: None,
        }
    }

    async fn next(&mut self) -> Result<Signal, Failure> {
        loop {
            if let Some(event) = self.parser.next() {
                if event.id.is_some() {
                    self.last = event.id;
                }
                return Ok(if event.name == "end" {
                    Signal::End
                } else {
                    Signal::Event
                });
            }
            let Some(stream) = &mut self.stream else {
                return self.open().await;
            };
            let why = match stream.chunk().await {
                Ok(Some(bytes)) if self.parser.push(&bytes) => {
                    self.pause = Duration::ZERO;
                    continue;
                }
                Ok(Some(_)) => "an event of more than 256 KiB".to_owned(),
                Ok(None) => "the server closed the stream".to_owned(),
                Err(error) => format!(
                    "the connection was cut ({})",
                    crate::failure::innermost(&error)
                ),
            };
            self.stream = None;
            return Ok(Signal::Broken(why));
        }
    }

    async fn open(&mut self) -> Result<Signal, Failure> {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        let failure = match self
            .client
            .events(self.run.as_deref(), self.last.as_deref())
            .await
        {
            Ok(stream) => {
                self.stream = Some(stream);
                self.parser = Parser::default();
                self.away_since = None;
                return Ok(Signal::Opened);
            }
            Err(failure) => failure,
        };
        let away = self.away_since.get_or_insert_with(Instant::now).elapsed();
        if failure.status() == 3 && away < PATIENCE {
            Ok(Signal::Broken(failure.to_string()))
        } else {
            Err(failure)
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<String>,
    name: String,
    /// Whether it has data; an event without is none.
    data: bool,
}

/// `text/event-stream`, as far as it is needed.
#[derive(Debug, Default)]
struct Parser {
    rest: Vec<u8>,
    event: Event,
    ready: std::collections::VecDeque<Event>,
}

impl Parser {
    /// Takes more bytes; says no when a line is too long.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            self.line(line.trim_end_matches(['\n', '\r']));
        }
        self.rest.len() <= LINE
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if event.data || !event.name.is_empty() {
                self.ready.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.event.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.event.name),
            "data" => self.event.data = true,
            // A comment, or something newer.
            _ => {}
        }
    }

    fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_may_arrive_in_any_pieces() {
        let text =
            ": hello\n\nid: 7\nevent: task\ndata: {}\n\nevent: end\r\ndata:\r\n\r\nid: 9\n\n";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            assert!(text.as_bytes().chunks(size).all(|piece| parser.push(piece)));
            let task = Event {
                id: Some("7".to_owned()),
                name: "task".to_owned(),
                data: true,
            };
            assert_eq!(parser.next(), Some(task));
            assert_eq!(
                parser.next(),
                Some(Event {
                    id: None,
                    name: "end".to_owned(),
                    data: true
                })
            );
            assert_eq!(parser.next(), None);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut parser = Parser::default();
        assert!(parser.push(&vec![b'x'; LINE]));
        assert!(!parser.push(b"x"));
    }
}
