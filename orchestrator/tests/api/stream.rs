//! Events as they happen, picked up again where they were left.

use axum::body::Body;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use outpost_proto::outcome::Outcome;
use serde_json::Value;

use super::rig::{PATIENCE, Rig, request, stable, tenant};
use super::runs::{REPORT, in_state};
use super::site::Site;

/// One stream being read.
struct Listener {
    body: Body,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Heard {
    id: u64,
    event: String,
    data: Value,
}

impl Listener {
    async fn open(rig: &Rig, path: &str, token: &str, headers: &[(&str, &str)]) -> Self {
        let response: Response<Body> = rig
            .send(request(
                Method::GET,
                path,
                Some(token),
                headers,
                Body::empty(),
            ))
            .await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// The next event; `None` when the stream is over. Comments are left out.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let heard = heard(block);
                self.text = rest.to_owned();
                if heard.is_some() {
                    return heard;
                }
                continue;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .unwrap()?;
            let data = frame.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    async fn rest(mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        while let Some(heard) = self.next().await {
            all.push(heard);
        }
        all
    }
}

fn heard(block: &str) -> Option<Heard> {
    let field = |name: &str| {
        let lines = block.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let data = serde_json::from_str(field("data")?).unwrap();
    let id = field("id").map_or(0, |id| id.parse().unwrap());
    Some(Heard {
        id,
        event: field("event").unwrap().to_owned(),
        data,
    })
}

fn line(heard: &Heard) -> String {
    let mut data = stable(heard.data.clone());
    if let Value::Object(fields) = &mut data {
        fields.remove("seq");
    }
    format!("{} {data}", heard.event)
}

#[tokio::test]
async fn a_runs_events_end_with_it_and_can_be_picked_up() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    let mut site = Site::connect(&rig, "site-1", &["list", "join"]).await;
    rig.apply(&token, REPORT).await.expect(201);
    let run = rig.trigger(&token, "report").await;
    let path = format!("/api/v1/events?run={run}");
    let live = Listener::open(&rig, &path, &token, &[]).await;
    let reading = tokio::spawn(live.rest());
    for _ in 0..3 {
        site.run(&rig, Outcome::Succeeded).await;
    }
    let live = reading.await.unwrap();
    assert!(
        live.windows(2)
            .all(|pair| pair[0].id < pair[1].id || pair[1].event == "end")
    );
    // Whether anybody could have seen an attempt run depends on how much is committed at once.
    let seen = live
        .iter()
        .filter(|heard| heard.data["state"] != "running" || heard.event != "attempt");
    insta::assert_snapshot!(seen.map(line).collect::<Vec<_>>().join("\n"));

    // The same again from the beginning, from the middle by either way, and from the end.
    let again = Listener::open(&rig, &path, &token, &[]).await.rest().await;
    assert_eq!(again, live);
    let middle = live.len() / 2;
    let id = live[middle].id.to_string();
    let resumed = Listener::open(&rig, &path, &token, &[("last-event-id", &id)]).await;
    assert_eq!(resumed.rest().await, live[middle + 1..]);
    let resumed = Listener::open(&rig, &format!("{path}&after={id}"), &token, &[]).await;
    assert_eq!(resumed.rest().await, live[middle + 1..]);
    let last = live[live.len() - 2].id.to_string();
    let resumed = Listener::open(&rig, &path, &token, &[("last-event-id", &last)]).await;
    assert_eq!(resumed.rest().await, live[live.len() - 1..]);
}

#[tokio::test]
async fn a_tenants_events_begin_now_and_are_its_own() {
    let rig = Rig::new().await;
    let (token, other) = (
        rig.token("acme", "author").await,
        rig.token("other", "viewer").await,
    );
    let mut site = Site::connect(&rig, "site-1", &["list", "join"]).await;
    rig.apply(&token, REPORT).await.expect(201);
    let before = rig.trigger(&token, "report").await;
    site.run(&rig, Outcome::Failed).await;
    in_state(&rig, &token, &before, "failed").await;
    let path = "/api/v1/events";
    let (mut own, foreign) = (
        Listener::open(&rig, path, &token, &[]).await,
        Listener::open(&rig, path, &other, &[]).await,
    );
    let run = rig.trigger(&token, "report").await;
    let first = own.next().await.unwrap();
    assert_eq!(
        (first.event.as_str(), first.data["run"].as_str()),
        ("run", Some(run.as_str()))
    );
    // Streams end when the server is about to stop; the other tenant heard nothing.
    rig.draining.cancel();
    assert_eq!(foreign.rest().await, []);
    own.rest().await;
}

#[tokio::test]
async fn streams_are_counted_and_given_back() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "viewer").await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Listener::open(&rig, "/api/v1/events", &token, &[]).await);
    }
    assert_eq!(rig.get("/api/v1/events", &token).await.code(), "too_many");
    let second = rig.token("acme", "viewer").await;
    Listener::open(&rig, "/api/v1/events", &second, &[]).await;
    open.pop();
    Listener::open(&rig, "/api/v1/events", &token, &[]).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let rig = Rig::new().await;
    let (token, admin) = (
        rig.token("acme", "viewer").await,
        rig.token("acme", "admin").await,
    );
    let stream = Listener::open(&rig, "/api/v1/events", &token, &[]).await;
    let path = format!("/api/v1/tokens/{}", &token[4..16]);
    rig.ask(Method::DELETE, &path, Some(&admin), &[], "")
        .await
        .expect(204);
    assert_eq!(stream.rest().await, []);
}

#[tokio::test]
async fn a_long_history_ends_with_its_token_too() {
    /// Notices that are read at once.
    const BATCH: u64 = 256;
    let rig = Rig::new().await;
    let token = rig.token("acme", "viewer").await;
    let admin = rig.token("acme", "admin").await;
    rig.apply(&admin, REPORT).await.expect(201);
    for _ in 0..BATCH {
        rig.trigger(&admin, "report").await;
    }
    let last = rig.reader.newest_notice(&tenant("acme")).await.unwrap();
    assert!(last > 2 * BATCH);

    let mut stream = Listener::open(&rig, "/api/v1/events?after=0", &token, &[]).await;
    let first = stream.next().await.unwrap().id;
    let path = format!("/api/v1/tokens/{}", &token[4..16]);
    rig.ask(Method::DELETE, &path, Some(&admin), &[], "")
        .await
        .expect(204);
    // Until the token is looked at again.
    tokio::time::sleep(std::time::Duration::from_millis(5100)).await;
    let heard = stream.rest().await.last().map_or(first, |heard| heard.id);
    assert!(heard < first + BATCH, "{heard} of {last}");
}

/// One stream over a real connection, which can be cut.
struct Wire {
    socket: tokio::net::TcpStream,
    text: String,
}

impl Wire {
    async fn open(server: std::net::SocketAddr, token: &str, last: Option<u64>) -> Self {
        use tokio::io::AsyncWriteExt as _;
        let mut socket = tokio::net::TcpStream::connect(server).await.unwrap();
        let last = last.map_or(String::new(), |last| format!("Last-Event-ID: {last}\r\n"));
        let request = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{last}\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut wire = Self {
            socket,
            text: String::new(),
        };
        while !wire.text.contains("listening") {
            wire.read().await;
        }
        wire
    }

    async fn read(&mut self) {
        use tokio::io::AsyncReadExt as _;
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut bytes)).await;
        let read = read.unwrap().unwrap();
        assert!(read > 0, "{}", self.text);
        self.text
            .push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }

    /// Reads until at least so many events came; their numbers.
    async fn seqs(&mut self, count: usize) -> Vec<u64> {
        loop {
            let found: Vec<u64> = self
                .text
                .split("\"seq\":")
                .skip(1)
                .filter_map(|rest| rest.split_once(['}', ',']))
                .map(|(number, _)| number.parse().unwrap())
                .collect();
            if found.len() >= count {
                return found;
            }
            self.read().await;
        }
    }
}

#[tokio::test]
async fn a_cut_connection_is_picked_up_without_a_gap_or_a_repetition() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    let mut site = Site::connect(&rig, "site-1", &["list", "join"]).await;
    rig.apply(&token, REPORT).await.expect(201);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(listener, rig.router.clone()).into_future());

    let mut whole = Wire::open(server, &token, None).await;
    let mut cut = Wire::open(server, &token, None).await;
    let first = rig.trigger(&token, "report").await;
    let before = cut.seqs(2).await;
    // Cut in the middle of the run; what happens meanwhile is kept.
    drop(cut);
    site.run(&rig, Outcome::Failed).await;
    in_state(&rig, &token, &first, "failed").await;
    let mut again = Wire::open(server, &token, before.last().copied()).await;
    let second = rig.trigger(&token, "report").await;
    site.run(&rig, Outcome::Failed).await;
    in_state(&rig, &token, &second, "failed").await;
    let path = format!("/api/v1/events?run={second}");
    let last = Listener::open(&rig, &path, &token, &[]).await.rest().await;
    let last = last.iter().rev().find(|heard| heard.id > 0).unwrap().id;
    let mut all = whole.seqs(1).await;
    while all.last() != Some(&last) {
        all = whole.seqs(all.len() + 1).await;
    }
    let mut pieces = again.seqs(1).await;
    while pieces.last() != Some(&last) {
        pieces = again.seqs(pieces.len() + 1).await;
    }
    assert_eq!([before, pieces].concat(), all);
    serving.abort();
}

#[tokio::test]
async fn what_is_no_longer_kept_is_said_to_be_gone() {
    let rig = Rig::new().await;
    let token = rig.token("acme", "author").await;
    rig.apply(&token, REPORT).await.expect(201);
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(rig.trigger(&token, "report").await);
    }
    let path = "/api/v1/events?after=0";
    let mut all = Listener::open(&rig, path, &token, &[]).await;
    let mut begun = Vec::new();
    while begun.len() < 3 {
        let event = all.next().await.unwrap();
        if event.event == "run" {
            begun.push(event.id);
        }
    }
    // What one call told is stored together and goes together.
    let [first, _, third] = begun[..] else {
        panic!("{begun:?}")
    };
    let database = rusqlite::Connection::open(rig.dir.path().join("outpost.db")).unwrap();
    let sql = "DELETE FROM notice WHERE seq < ?1";
    database
        .execute(sql, [i64::try_from(third).unwrap()])
        .unwrap();

    let ask = async |id: u64| {
        let id = id.to_string();
        let headers = [("last-event-id", id.as_str())];
        rig.send(request(
            Method::GET,
            "/api/v1/events",
            Some(&token),
            &headers,
            Body::empty(),
        ))
        .await
        .status()
    };
    assert_eq!(ask(first).await, 410);
    assert_eq!(ask(third).await, 200);
    // A number of the future is of another database: waiting for it would hide everything until then.
    assert_eq!(ask(1_000_000).await, 410);
    let mut kept = Listener::open(&rig, path, &token, &[]).await;
    assert_eq!(kept.next().await.unwrap().id, third);
}
