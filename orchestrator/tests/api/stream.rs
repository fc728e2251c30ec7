//! Events as they happen, picked up again where they were left.

use axum::body::Body;
use http::{Method, Response};
use http_body_util::BodyExt as _;
use outpost_proto::outcome::Outcome;
use serde_json::Value;

use super::rig::{PATIENCE, Rig, request, stable};
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
    insta::assert_snapshot!(live.iter().map(line).collect::<Vec<_>>().join("\n"));

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
