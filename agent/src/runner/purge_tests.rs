//! What a purge without a running agent takes, and when it takes nothing.

use outpost_agent_keeper::process::{ProcessRef, boot_id};

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
        self.state.attempt(attempt).exists() && self.state.work(attempt).exists()
    }
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
