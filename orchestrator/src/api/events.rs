//! What happens, as it happens: server-sent events that can be picked up again by number.
//!
//! A stream keeps nothing but its place: it reads the notices after the last one it sent from the database and sleeps
//! until the driver commits more. A slow reader therefore costs no memory and misses nothing. A stream ends with its
//! token.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::Stream;
use futures_util::stream::unfold;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use outpost_orchestrator_core::record::NoticeKind;
use outpost_proto::ids::{RunId, TaskIndex};
use outpost_proto::name::{TaskName, TenantName};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::doc::{AnswerDoc, Gives, Operation, Takes, schema_of};
use super::input::{Asked, By, missing};
use super::preconditions::LastEvent;
use super::problem::ApiError;
use super::{Api, notices, schema, view};
use crate::auth::Caller;
use crate::store::StoreError;
use crate::store::bounds::Kept;
use crate::store::read::{NumberedNotice, Reader};

/// Streams of one token, and of all: each costs a connection and now and then a short read.
const PER_TOKEN: usize = 64;
const IN_ALL: usize = 1024;
/// Notices read at once.
const BATCH: u32 = 256;
/// Silence is broken by a comment, so that whatever stands in between keeps the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a stream's token is checked again.
const RECHECK: Duration = Duration::from_secs(5);
/// Workflows' task names remembered by one stream.
const NAMES: usize = 64;

/// Which events.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only of this run; the stream ends after the run's last event.
    #[schemars(with = "Option<schema::Id>")]
    run: Option<String>,
    /// Go on after the event with this number, for clients that cannot send Last-Event-ID; 0 for all that is kept.
    #[schemars(range(max = schema::SAFE_INTEGER))]
    after: Option<u64>,
}

/// A stream of events.
struct EventStream;

impl JsonSchema for EventStream {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventStream".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Server-sent events: `id` is the event's number, `event` one of run, task, attempt, agent, \
                            workflow, skipped, safety or end, `data` a JSON object with seq, at, kind and what it is about. \
                            Silence is broken by a comment every 15 seconds.",
            "type": "string",
        })
    }
}

impl<S> Gives for Sse<S> {
    fn gives(operation: &mut Operation) {
        operation.answers.insert(
            200,
            AnswerDoc {
                description: "Events until the client goes, the token ends or the server stops.",
                body: Some(("text/event-stream", schema_of::<EventStream>)),
                headers: &[],
            },
        );
    }
}

/// `GET /api/v1/events`
///
/// Begins after `Last-Event-ID` or `after`; without either with a run's first event, or with what happens from now on
/// in the whole tenant.
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    By(caller): By,
    Asked(which): Asked<Which>,
    LastEvent(given): LastEvent,
    Credentials(header): Credentials,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let run = match which.run {
        None => None,
        Some(text) => {
            let run: RunId = text.parse().map_err(|_| missing("run", &text))?;
            // Another tenant's run is not there.
            api.state
                .reader
                .run_record(&caller.tenant, run)
                .await?
                .ok_or_else(|| missing("run", &text))?;
            Some(run)
        }
    };
    // Before the place is decided, so that nothing committed meanwhile goes by unseen.
    let news = api.state.handle.watch(&caller.tenant);
    let reader = &api.state.reader;
    let last = match (given.or(which.after), run) {
        (Some(last), _) => {
            kept(reader, &caller.tenant, last).await?;
            last
        }
        (None, Some(_)) => 0,
        (None, None) => reader.newest_notice(&caller.tenant).await?,
    };
    let open = Open::new(api, caller.token_id.clone())?;
    let recheck = Instant::now() + RECHECK;
    let mut feed = Feed {
        open,
        caller,
        header,
        run,
        last,
        news,
        recheck,
        queue: VecDeque::new(),
        names: BTreeMap::new(),
        ended: false,
    };
    // Sent at once: the client knows that it listens, and from where.
    feed.queue
        .push_back(Event::default().comment("listening").id(last.to_string()));
    let events = unfold(feed, |mut feed| async move {
        feed.next().await.map(|event| (Ok(event), feed))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")))
}

/// Whether everything after this number is still there, and the number is one of ours.
async fn kept(reader: &Reader, tenant: &TenantName, after: u64) -> Result<(), ApiError> {
    if after == 0 {
        return Ok(());
    }
    let why = match reader.notices_kept(tenant, after).await? {
        Kept::All => return Ok(()),
        Kept::NotAll => "some of them are no longer kept",
        Kept::Ahead => {
            "none has had that number yet, so it is of another database or an earlier one"
        }
    };
    Err(ApiError::EventsGone { after, why })
}

/// The header that is looked at again while a stream is open.
pub(super) struct Credentials(Option<HeaderValue>);

impl<S: Sync> FromRequestParts<S> for Credentials {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.get(AUTHORIZATION).cloned()))
    }
}

impl Takes for Credentials {
    fn takes(_: &mut Operation) {}
}

/// Streams that are open now.
pub(super) fn open(api: &Api) -> usize {
    streams(api).values().sum()
}

/// One open stream's place in the count; gives it back when dropped.
struct Open {
    api: Arc<Api>,
    token_id: Arc<str>,
}

impl Open {
    fn new(api: Arc<Api>, token_id: Arc<str>) -> Result<Self, ApiError> {
        {
            let mut streams = streams(&api);
            if streams.values().sum::<usize>() >= IN_ALL {
                return Err(ApiError::Busy(
                    "as many event streams are open as this server carries",
                ));
            }
            let own = streams.entry(token_id.clone()).or_default();
            if *own >= PER_TOKEN {
                let why = format!(
                    "{PER_TOKEN} event streams are open with this token, which is the limit; close one"
                );
                return Err(ApiError::TooMany(why));
            }
            *own += 1;
        }
        Ok(Self { api, token_id })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut streams = streams(&self.api);
        if let Some(own) = streams.get_mut(&self.token_id) {
            *own -= 1;
            if *own == 0 {
                streams.remove(&self.token_id);
            }
        }
    }
}

fn streams(api: &Api) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
    api.streams.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Feed {
    open: Open,
    caller: Caller,
    header: Option<HeaderValue>,
    run: Option<RunId>,
    /// The last notice read.
    last: u64,
    news: watch::Receiver<u64>,
    recheck: Instant,
    queue: VecDeque<Event>,
    names: BTreeMap<RunId, Arc<[TaskName]>>,
    ended: bool,
}

impl Feed {
    /// The next event; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            // Before every read: a long history that is sent batch after batch ends with its token, too.
            if self.ended || !self.may_go_on() {
                return None;
            }
            // Seen before reading: what is committed after that wakes the wait below.
            self.news.borrow_and_update();
            match self.read().await {
                Ok(true) => {}
                Ok(false) => self.wait().await?,
                Err(error) => {
                    // The client picks it up again by its last number.
                    warn!(%error, "an event stream ends early");
                    return None;
                }
            }
        }
    }

    /// Reads what is new; `false` when there is nothing to send.
    async fn read(&mut self) -> Result<bool, StoreError> {
        let (reader, tenant) = (&self.open.api.state.reader, &self.caller.tenant);
        // The state first: what is read after that is everything of a run that is over by then.
        let over = match self.run {
            None => false,
            Some(run) => reader
                .run_record(tenant, run)
                .await?
                .is_none_or(|run| view::is_over(run.state)),
        };
        let notices = reader.notices(tenant, self.run, self.last, BATCH).await?;
        if notices.is_empty() && over {
            self.ended = true;
            self.queue
                .push_back(Event::default().event("end").data("{}"));
        }
        for notice in notices {
            self.last = notice.seq;
            let event = self.event(&notice).await?;
            self.queue.push_back(event);
        }
        Ok(!self.queue.is_empty())
    }

    /// Until there may be something new; `None` when the stream is to end.
    async fn wait(&mut self) -> Option<()> {
        let api = &self.open.api;
        tokio::select! {
            biased;
            // First, so that a busy tenant cannot hold up a stop.
            () = api.state.draining.cancelled() => return None,
            changed = self.news.changed() => changed.ok()?,
            () = sleep_until(self.recheck) => {}
        }
        Some(())
    }

    /// Whether the token still holds, which is looked up every few seconds.
    fn may_go_on(&mut self) -> bool {
        if Instant::now() < self.recheck {
            return true;
        }
        self.recheck = Instant::now() + RECHECK;
        let api = &self.open.api;
        let now = api.state.handle.now();
        let caller = api.guard.caller(self.header.as_ref(), None, now);
        caller.is_ok_and(|caller| caller == self.caller)
    }

    async fn event(&mut self, numbered: &NumberedNotice) -> Result<Event, StoreError> {
        let name = match &numbered.notice.what {
            NoticeKind::Task { run, task, .. } | NoticeKind::Attempt { run, task, .. } => {
                self.name(*run, *task).await?
            }
            NoticeKind::Run { .. }
            | NoticeKind::Workflow { .. }
            | NoticeKind::Skipped { .. }
            | NoticeKind::Safety { .. }
            | NoticeKind::Agent { .. } => None,
        };
        Ok(notices::event(numbered, name.as_ref()))
    }

    async fn name(&mut self, run: RunId, task: TaskIndex) -> Result<Option<TaskName>, StoreError> {
        if !self.names.contains_key(&run) {
            let names = self.names_of(run).await?;
            if self.names.len() >= NAMES {
                self.names.pop_first();
            }
            self.names.insert(run, names);
        }
        Ok(self
            .names
            .get(&run)
            .and_then(|names| names.get(usize::from(task.0)))
            .cloned())
    }

    async fn names_of(&self, run: RunId) -> Result<Arc<[TaskName]>, StoreError> {
        let (reader, tenant) = (&self.open.api.state.reader, &self.caller.tenant);
        let Some(run) = reader.run_record(tenant, run).await? else {
            return Ok([].into());
        };
        let workflow = reader
            .workflow(tenant, &run.workflow, Some(run.version))
            .await?;
        let tasks = workflow
            .map(|workflow| workflow.spec.tasks)
            .unwrap_or_default();
        Ok(tasks.into_iter().map(|task| task.name).collect())
    }
}
