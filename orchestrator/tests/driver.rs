//! The driver on a real clock and a real database: schedules fire by themselves, a restart goes on, and a run that is
//! over is read from the database to be run again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::Poll;

use outpost_driver::Fatal;
use outpost_orchestrator::driver::sessions::{Outbox, Welcomed};
use outpost_orchestrator::driver::{AskError, Driver, Handle};
use outpost_orchestrator::store::read::{Reader, RunFilter};
use outpost_orchestrator::store::sqlite::Sqlite;
use outpost_orchestrator_core::event::{Answer, Ask, Denied};
use outpost_orchestrator_core::record::{RunRecord, RunState, TaskState};
use outpost_orchestrator_core::spec::{Missed, ScheduleSpec, TaskSpec, When, WorkflowSpec};
use outpost_orchestrator_core::{Orchestrator, Settings};
use outpost_proto::ids::{Conn, Incarnation, Nonce, RunId, SessionEpoch};
use outpost_proto::message::{Containment, Hello, Level, Reporting, UpMessage};
use outpost_proto::name::{AgentName, TenantName, spiffe_id};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn tenant() -> TenantName {
    "default".parse().unwrap()
}

struct Process {
    handle: Handle,
    reader: Reader,
    stop: CancellationToken,
    driver: JoinHandle<Result<(), Fatal>>,
}

impl Process {
    /// Each life of a process draws other ids, as in production.
    async fn start(dir: &Path, life: u8) -> Self {
        let store = Sqlite::open(dir).await.unwrap();
        let reader = store.reader();
        let start =
            move |now, snapshot| Orchestrator::new(Settings::default(), [life; 32], now, snapshot);
        let (driver, handle) = Driver::new(store, start).await.unwrap();
        let stop = CancellationToken::new();
        let driver = tokio::spawn(driver.run(stop.clone()));
        Self {
            handle,
            reader,
            stop,
            driver,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.driver.await.unwrap().unwrap();
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        self.handle.ask(tenant(), ask).await
    }

    async fn apply(&self, schedule: Option<ScheduleSpec>) {
        let task = TaskSpec::new("a".parse().unwrap(), "load".parse().unwrap());
        let spec = WorkflowSpec {
            schedule,
            ..WorkflowSpec::new("w".parse().unwrap(), vec![task])
        };
        let ask = Ask::Apply {
            spec,
            source: String::new(),
            allow_unknown_entries: true,
            dry_run: false,
            expected_version: None,
        };
        self.ask(ask).await.unwrap();
    }

    /// The instants that made runs, once there are so many.
    async fn instants(&self, count: usize) -> Vec<u64> {
        let mut news = self.handle.watch(&tenant());
        loop {
            let filter = RunFilter::default();
            let page = self.reader.runs(&tenant(), &filter, None, 100).await;
            let mut instants: Vec<u64> = page
                .unwrap()
                .items
                .iter()
                .filter_map(|run| run.scheduled_for)
                .collect();
            if instants.len() >= count {
                instants.sort_unstable();
                return instants;
            }
            news.changed().await.unwrap();
        }
    }

    async fn run(&self, run: RunId) -> RunRecord {
        let run = self.reader.run_record(&tenant(), run).await.unwrap();
        run.unwrap()
    }
}

async fn database() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    Sqlite::create(dir.path(), 7).await.unwrap();
    let store = Sqlite::open(dir.path()).await.unwrap();
    store.access().create_tenant(&tenant(), 1).await.unwrap();
    store.close().unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_makes_its_runs_and_goes_on_after_a_restart() {
    let dir = database().await;
    let process = Process::start(dir.path(), 1).await;
    // On a busy machine more than one instant may pass before anybody looks.
    let every = ScheduleSpec {
        missed: Missed::All,
        missed_limit: 100,
        ..ScheduleSpec::new(When::Every { ms: 1000 })
    };
    let before = process.handle.now();
    process.apply(Some(every)).await;
    let after = process.handle.now();
    process.instants(2).await;
    process.end().await;

    let process = Process::start(dir.path(), 2).await;
    let instants = process.instants(4).await;
    let next_second = |at: u64| (at / 1_000_000 + 1) * 1_000_000;
    assert!(
        (next_second(before)..=next_second(after)).contains(&instants[0]),
        "applied between {before} and {after}: {instants:?}"
    );
    let apart: Vec<u64> = instants.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        apart.iter().all(|apart| *apart == 1_000_000),
        "none is left out and none comes twice: {instants:?}"
    );
    let paused = Ask::PauseWorkflow {
        workflow: "w".parse().unwrap(),
        paused: true,
    };
    let answer = process.ask(paused).await.unwrap();
    assert_eq!(
        answer,
        Answer::Paused {
            paused: true,
            next: None
        }
    );
    process.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_over_is_read_back_and_run_again() {
    let dir = database().await;
    let process = Process::start(dir.path(), 1).await;
    process.apply(None).await;
    let trigger = Ask::Trigger {
        workflow: "w".parse().unwrap(),
        params: BTreeMap::new(),
        key: None,
    };
    let Ok(Answer::Triggered { run, .. }) = process.ask(trigger).await else {
        panic!("no run was made")
    };
    process.ask(Ask::Cancel { run }).await.unwrap();
    assert_eq!(process.run(run).await.state, RunState::Cancelled);
    let rerun = Ask::Rerun {
        run,
        tasks: None,
        stored: None,
    };
    let answer = process.ask(rerun.clone()).await.unwrap();
    let tasks = vec!["a".parse().unwrap()];
    assert_eq!(answer, Answer::Rerun { tasks });
    let record = process.run(run).await;
    assert_eq!(
        (record.state, record.reruns, record.finished_at),
        (RunState::Running, 1, None)
    );
    process.end().await;

    let process = Process::start(dir.path(), 2).await;
    let refused = process.ask(rerun).await;
    let denied = |answer: &Result<Answer, AskError>| {
        matches!(answer, Err(AskError::Denied(Denied::CannotRerun { .. })))
    };
    assert!(denied(&refused), "{refused:?}");
    process.ask(Ask::Cancel { run }).await.unwrap();
    let tree = process.reader.run(&tenant(), run).await.unwrap().unwrap();
    assert_eq!(tree.run.state, RunState::Cancelled);
    assert_eq!(tree.tasks[0].state, TaskState::Cancelled);
    let unknown = Ask::Rerun {
        run: RunId(1),
        tasks: None,
        stored: None,
    };
    let answer = process.ask(unknown).await;
    assert_eq!(answer, Err(AskError::Denied(Denied::UnknownRun(RunId(1)))));
    process.end().await;
}

/// A driver that does not run yet.
async fn standing(dir: &Path) -> (Driver, Handle) {
    let store = Sqlite::open(dir).await.unwrap();
    let start = move |now, snapshot| Orchestrator::new(Settings::default(), [1; 32], now, snapshot);
    Driver::new(store, start).await.unwrap()
}

async fn opened(handle: &Handle) -> Option<(Conn, Outbox)> {
    heard(handle, Welcomed::new(drop)).await
}

async fn heard(handle: &Handle, welcomed: Welcomed) -> Option<(Conn, Outbox)> {
    let agent: AgentName = "site-1".parse().unwrap();
    let id = spiffe_id("test.internal", &tenant(), &agent);
    let opened = handle.opened((tenant(), agent), id, KEY.into(), u64::MAX, welcomed);
    opened.await
}

/// Of the agent, once it has enrolled.
const KEY: &str = "key";

fn hello() -> UpMessage {
    UpMessage::Hello(Hello {
        protocol: (1, 1),
        build: (0, 1, 0),
        schema_hash: 1,
        incarnation: Incarnation(1),
        last: None,
        session_nonce: Nonce(0),
        slots: 2,
        sandbox: Level::Strict,
        containment: Containment::Cgroup,
        limits: Level::Strict,
        reporting: Reporting::Normal,
    })
}

/// What this gives at once; `None` when it has to wait.
async fn at_once<T>(mut waiting: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let look = poll_fn(|context| match waiting.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    });
    tokio::task::unconstrained(look).await
}

#[tokio::test]
async fn questions_are_taken_however_much_streams_bring() {
    let dir = database().await;
    let (driver, handle) = standing(dir.path()).await;
    let mut brought = 0;
    while at_once(pin!(opened(&handle))).await.is_some() {
        brought += 1;
        assert!(brought < 100_000, "streams never wait");
    }
    let mut asked = pin!(handle.ask(tenant(), Ask::Agents));
    assert_eq!(at_once(asked.as_mut()).await, None, "it is taken");
    let stop = CancellationToken::new();
    let running = tokio::spawn(driver.run(stop.clone()));
    assert_eq!(asked.await, Ok(Answer::Agents(Vec::new())));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_stream_has_few_of_the_places_and_gets_them_back() {
    let dir = database().await;
    let (driver, handle) = standing(dir.path()).await;
    let (busy, outbox) = opened(&handle).await.unwrap();
    let (other, beside) = opened(&handle).await.unwrap();
    let mut taken = 0;
    while at_once(pin!(handle.frame(busy, &outbox, Vec::new()))).await == Some(true) {
        taken += 1;
        assert!(taken < 1000, "one stream never waits");
    }
    assert!(taken >= 16, "{taken}");
    let free = at_once(pin!(handle.frame(other, &beside, Vec::new()))).await;
    assert_eq!(free, Some(true), "nobody else waits");
    let stop = CancellationToken::new();
    let running = tokio::spawn(driver.run(stop.clone()));
    for _ in 0..3 * taken {
        assert!(handle.frame(busy, &outbox, Vec::new()).await);
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_is_counted_and_told_also_when_its_stream_is_gone_before_it_is_welcomed() {
    let dir = database().await;
    let process = Process::start(dir.path(), 1).await;
    let invite = Ask::Invite {
        agent: "site-1".parse().unwrap(),
        token_hash: "token".into(),
        ttl_ms: 60_000,
    };
    process.ask(invite).await.unwrap();
    let enrolled = process.handle.enrol("token".into(), KEY.into());
    enrolled.await.unwrap();
    process.end().await;
    let (driver, handle) = standing(dir.path()).await;
    let (told, mut counted) = mpsc::unbounded_channel();
    for _ in 0..2 {
        let told = told.clone();
        let welcomed = Welcomed::new(move |epoch| told.send(epoch).unwrap());
        let (conn, outbox) = heard(&handle, welcomed).await.unwrap();
        assert!(handle.frame(conn, &outbox, vec![hello()]).await);
        handle.closed(conn).await;
    }
    assert_eq!(handle.sessions().len(), 2, "the core has not heard of it");
    let stop = CancellationToken::new();
    let running = tokio::spawn(driver.run(stop.clone()));
    assert_eq!(handle.ask(tenant(), Ask::Agents).await.map(drop), Ok(()));
    assert_eq!(counted.try_recv(), Ok(SessionEpoch(1)));
    assert_eq!(counted.try_recv(), Ok(SessionEpoch(2)));
    stop.cancel();
    running.await.unwrap().unwrap();
    assert!(handle.sessions().is_empty());
}
