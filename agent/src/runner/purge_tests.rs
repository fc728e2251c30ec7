//! What a purge without a running agent takes, and when it takes nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outpost_agent_core::Settings;
use outpost_agent_core::record::Write;
use outpost_agent_keeper::exec::SelfExec;
use outpost_agent_keeper::process::{ProcessRef, boot_id};
use outpost_proto::ids::{CatalogueVersion, CommandSeq, EventSeq, Fence, Incarnation, TaskIndex};
use outpost_proto::message::{Assign, OnDisconnect};
use outpost_proto::outcome::{Outcome, Refusal, Report};

use super::super::resting::Resting;
use super::*;

const RUN: RunId = RunId(7);
const OTHER: RunId = RunId(8);

struct Site {
    _dir: tempfile::TempDir,
    state: StateDir,
}

impl Site {
    fn new() -> Self {
        let dir = crate::testing::tempdir().unwrap();
        let state = StateDir::create(&dir.path().join("state")).unwrap();
        std::fs::create_dir(state.lists()).unwrap();
        for run in [RUN, OTHER] {
            std::fs::create_dir(state.run(run)).unwrap();
            std::fs::write(state.list_of(run), "some\n").unwrap();
            std::fs::write(Rest::of(&state, run).beside(), "half").unwrap();
        }
        Self { _dir: dir, state }
    }

    /// An attempt whose keeper is this process, or one of an earlier boot; `over`: with its end on record.
    fn attempt(&self, attempt: u128, run: RunId, lives: bool, over: bool) -> AttemptId {
        let attempt = AttemptId(attempt);
        let boot = if lives {
            boot_id().unwrap()
        } else {
            "another".to_owned()
        };
        let keeper = ProcessRef::own().unwrap();
        let mut lines = vec![serde_json::json!({ "keeper": {
            "version": 4, "binary": "1", "attempt": attempt.to_string(), "boot_id": boot, "keeper": keeper,
            "about": { "entry": "e", "task": "t", "workflow": "w", "run": run.to_string(), "begun_us": 1 },
        }})];
        if over {
            lines.push(serde_json::json!({ "exit": {
                "version": 4, "attempt": attempt.to_string(), "boot_id": boot, "ended": { "exited": 0 }, "cause": "own",
                "started_boot_us": 1, "duration_ms": 1, "log_bytes": 0, "log_dropped_bytes": 0, "containment": null,
                "text": "",
            }}));
        }
        let dir = self.state.attempt(attempt);
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(self.state.work(attempt)).unwrap();
        let line = |record: &serde_json::Value| {
            let body = record.to_string();
            let sum = crc32fast::hash(body.as_bytes());
            format!("{{\"crc32\":\"{sum:08x}\",\"record\":{body}}}\n")
        };
        std::fs::write(
            dir.join("claim"),
            lines.iter().map(line).collect::<String>(),
        )
        .unwrap();
        attempt
    }

    fn has(&self, attempt: AttemptId) -> bool {
        let (dir, work) = (self.state.attempt(attempt), self.state.work(attempt));
        assert_eq!(dir.exists(), work.exists());
        dir.exists()
    }

    /// In the journal, as it stands there.
    fn held(&self, attempt: u128, run: RunId, state: AttemptState) {
        let record = AttemptRecord {
            assign: assign(attempt, run),
            incarnation: Incarnation(1),
            on_disconnect: OnDisconnect::Continue,
            state,
            event_seq: EventSeq(1),
            cancel_requested: false,
        };
        let mut journal = crate::journal::Journal::open(self.state.path()).unwrap();
        journal.commit(&[Write::Attempt(Box::new(record))]).unwrap();
    }

    fn trash(&self) -> usize {
        std::fs::read_dir(self.state.trash()).map_or(0, Iterator::count)
    }
}

fn assign(attempt: u128, run: RunId) -> Assign {
    Assign {
        attempt: AttemptId(attempt),
        run,
        task: TaskIndex(0),
        fence: Fence(1),
        command_seq: CommandSeq(1),
        entry: "e".parse().unwrap(),
        catalogue_version: CatalogueVersion(1),
        parameters: Vec::new(),
        deadline_ms: None,
        task_name: "t".parse().unwrap(),
        workflow_name: "w".parse().unwrap(),
    }
}

fn finished() -> AttemptState {
    AttemptState::Finished(Report {
        outcome: Outcome::Succeeded,
        may_have_started: true,
        duration_ms: 1,
        exit_code: None,
        count: None,
    })
}

#[test]
fn everything_of_the_run_goes_with_its_list_and_nothing_of_another() {
    let site = Site::new();
    let (one, other) = (
        site.attempt(1, RUN, false, true),
        site.attempt(2, OTHER, false, true),
    );
    let purged = at_rest(&site.state, RUN).unwrap();
    assert_eq!((purged.refused, purged.stays), (None, vec![]));
    assert_eq!(purged.attempts, [one.to_string()]);
    let Site { state, .. } = &site;
    assert!(!site.has(one) && !state.run(RUN).exists() && !state.list_of(RUN).exists());
    assert!(site.has(other) && state.run(OTHER).exists() && state.list_of(OTHER).exists());
    assert!(!Rest::of(state, RUN).beside().exists() && Rest::of(state, OTHER).beside().exists());
    assert_eq!(site.trash(), 0);
}

#[test]
fn refusals_of_the_run_go_and_what_only_the_journal_knows_of_goes_too() {
    let site = Site::new();
    let mut refusals = Refusals::open(site.state.path());
    for (attempt, run) in [(3, RUN), (4, OTHER)] {
        refusals.note(1, &assign(attempt, run), Refusal::Rate, "why");
    }
    // Its keeper never made a claim, or it is gone.
    site.held(5, RUN, finished());
    std::fs::create_dir(site.state.work(AttemptId(5))).unwrap();
    let purged = at_rest(&site.state, RUN).unwrap();
    assert_eq!((purged.refused, purged.refusals), (None, 1));
    assert!(!site.state.work(AttemptId(5)).exists());
    let left = refusals::read(site.state.path()).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].run, OTHER.to_string());
}

#[test]
fn what_waits_or_runs_by_the_journal_holds_it_back() {
    for state in [
        AttemptState::Assigned,
        AttemptState::Starting,
        AttemptState::Running,
    ] {
        let site = Site::new();
        site.held(1, RUN, finished());
        site.held(2, RUN, state);
        let purged = at_rest(&site.state, RUN).unwrap();
        let why = purged.refused.unwrap();
        assert!(why.contains("1 attempts of it run or wait"), "{why}");
        assert!(site.state.run(RUN).exists());
        assert_eq!(at_rest(&site.state, OTHER).unwrap().refused, None);
    }
}

#[test]
fn a_keeper_that_lives_and_is_not_done_holds_it_back_and_one_that_is_done_does_not() {
    let site = Site::new();
    let going = site.attempt(1, RUN, true, false);
    let over = site.attempt(2, RUN, true, true);
    let purged = at_rest(&site.state, RUN).unwrap();
    let why = purged.refused.unwrap();
    assert!(
        why.contains(&format!("the keeper of attempt {going} lives")),
        "{why}"
    );
    assert!(site.has(going) && site.has(over) && site.state.run(RUN).exists());
    std::fs::remove_dir_all(site.state.attempt(going)).unwrap();
    let purged = at_rest(&site.state, RUN).unwrap();
    assert_eq!(purged.refused, None);
    assert!(!site.has(over) && !site.state.run(RUN).exists());
}

/// What is on its way from one form to the other would be written beside what was thrown away.
#[tokio::test]
async fn a_run_whose_files_are_being_encrypted_or_opened_stays() {
    let site = Site::new();
    let files = site.state.path().join("catalogue.d");
    std::fs::create_dir(&files).unwrap();
    let catalogue = crate::catalogue::load(&files, "").unwrap();
    let answered = async {
        let (inbox, _happened) = mpsc::channel(1);
        let resting = Resting::new(&site.state, None, Duration::ZERO);
        resting.begin(RUN).await;
        let tasks = Tasks::new(
            site.state.clone(),
            SelfExec::current(Vec::new()),
            None,
            Rc::new(RefCell::new(Arc::new(catalogue))),
            inbox,
            retention::Trash::start(&site.state),
            resting,
        );
        let settings = Settings::new(Incarnation(1), 1);
        let core = Agent::new(
            settings,
            [0; 32],
            super::super::now(),
            Snapshot::default(),
            BTreeMap::new(),
        );
        let mut answers = Vec::new();
        for run in [RUN, OTHER] {
            let (reply, replied) = oneshot::channel();
            let wanted = Wanted {
                run,
                attempts: Vec::new(),
                reply,
            };
            wanted.answer(&core, &tasks, &mut Refusals::open(site.state.path()));
            answers.push(replied.await.unwrap().refused);
        }
        answers
    };
    let answers = tokio::task::LocalSet::new().run_until(answered).await;
    let why = answers[0].as_ref().unwrap();
    assert!(why.contains("being encrypted or opened"), "{why}");
    assert_eq!(answers[1], None);
    assert!(site.state.run(RUN).exists() && !site.state.run(OTHER).exists());
}
