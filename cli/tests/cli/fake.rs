//! A server that answers what it was told to, for what a real one cannot be made to say at will, and for output that
//! must be the same each time. What a real one answers is tried elsewhere.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::outpost;

/// One answer.
#[derive(Clone)]
struct Answer {
    method: &'static str,
    /// With its query, or without for any query.
    path: String,
    status: u16,
    kind: &'static str,
    body: String,
}

/// Listens until the test's process ends.
pub(crate) struct Fake {
    port: u16,
    answers: Vec<Answer>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    answers: Vec<Answer>,
    asked: Vec<String>,
}

impl Fake {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self {
            port,
            answers: Vec::new(),
            shared,
        }
    }

    /// Answers a request with JSON; the last one told of a path is the one given.
    pub(crate) fn on(mut self, method: &'static str, path: &str, status: u16, body: &str) -> Self {
        let kind = if status < 300 {
            "application/json"
        } else {
            "application/problem+json"
        };
        self = self.plain(method, path, status, kind, body);
        self
    }

    /// Answers with anything.
    pub(crate) fn plain(
        mut self,
        method: &'static str,
        path: &str,
        status: u16,
        kind: &'static str,
        body: &str,
    ) -> Self {
        self.answers.push(Answer {
            method,
            path: path.to_owned(),
            status,
            kind,
            body: body.to_owned(),
        });
        self.shared.lock().unwrap().answers = self.answers.clone();
        self
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The binary, asking this server.
    pub(crate) fn outpost(&self, args: &[&str]) -> Command {
        let mut command = outpost();
        command
            .args(args)
            .env("OUTPOST_SERVER", self.url())
            .env("OUTPOST_TOKEN", "opt_0123456789ab_secret");
        command
    }

    /// What was asked: method, path, body.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.lock().unwrap().asked.clone()
    }
}

fn serve(stream: &TcpStream, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first).is_err() {
        return;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut parts = first.split_whitespace();
    let (method, path) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let bare = path.split('?').next().unwrap_or_default();
    let answer = {
        let mut shared = shared.lock().unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        shared
            .asked
            .push(format!("{method} {path} {text}").trim_end().to_owned());
        let fits = |it: &&Answer| it.method == method && (it.path == path || it.path == bare);
        let exact = shared
            .answers
            .iter()
            .rev()
            .find(|it| it.method == method && it.path == path);
        exact
            .or_else(|| shared.answers.iter().rev().find(fits))
            .cloned()
    };
    let (status, kind, body) = match &answer {
        Some(it) => (it.status, it.kind, it.body.as_str()),
        None => (
            404,
            "application/problem+json",
            r#"{"status":404,"code":"not_found","detail":"there is no such thing here"}"#,
        ),
    };
    let mut stream = stream;
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.flush();
}
