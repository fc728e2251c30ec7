//! What becomes of an attempt once a keeper was asked for.

use outpost_agent_core::event::Event;
use outpost_agent_keeper::adopt::{Claim, try_claim};

use super::*;

fn assign() -> Assign {
    use outpost_proto::ids::{CatalogueVersion, CommandSeq, Fence, RunId, TaskIndex};
    Assign {
        attempt: AttemptId(1),
        run: RunId(7),
        task: TaskIndex(0),
        fence: Fence(5),
        command_seq: CommandSeq(1),
        entry: "e".parse().unwrap(),
        catalogue_version: CatalogueVersion(1),
        parameters: Default::default(),
        deadline_ms: None,
        task_name: "t".parse().unwrap(),
        workflow_name: "w".parse().unwrap(),
    }
}

/// A keeper was asked for and cannot be listened to: what is told of the attempt. `began`: its keeper made the claim.
async fn told(began: bool) -> KeeperSaid {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(&dir.path().join("state")).unwrap();
    let files = dir.path().join("catalogue");
    std::fs::create_dir(&files).unwrap();
    let catalogue = crate::catalogue::load(&files, "").unwrap();
    let (inbox, mut happened) = mpsc::channel(1);
    let assign = assign();
    if began {
        let attempt = state.attempt(assign.attempt);
        std::fs::create_dir(&attempt).unwrap();
        std::fs::write(attempt.join("claim"), "keeper").unwrap();
    }
    let exec = SelfExec::current(Vec::new());
    let told = async {
        let current = Rc::new(RefCell::new(std::sync::Arc::new(catalogue)));
        let trash = Trash::start(&state);
        let resting = Resting::new(&state, None, Duration::ZERO);
        let tasks = Tasks::new(state.clone(), exec, None, current, inbox, trash, resting);
        tasks.asked(Err(io::ErrorKind::OutOfMemory.into()), &assign);
        match happened.recv().await {
            Some(Happened::Core(Event::Keeper { attempt, said })) => {
                assert_eq!(attempt, assign.attempt);
                said
            }
            Some(_) | None => panic!("something else happened"),
        }
    };
    let told = tokio::task::LocalSet::new().run_until(told).await;
    assert_eq!(
        try_claim(&state.attempt(assign.attempt)).unwrap(),
        Claim::Lost,
        "nobody begins it later"
    );
    told
}

#[tokio::test]
async fn c2_what_a_keeper_was_asked_for_never_counts_as_failed_before_the_claim_says_so() {
    assert_eq!(told(false).await, KeeperSaid::Gone { claimed: false });
    assert_eq!(told(true).await, KeeperSaid::Gone { claimed: true });
}

#[test]
fn what_could_not_begin_has_no_log_and_is_told_in_the_status() {
    let numbers = Shared::default();
    let said = failed(&numbers, &assign(), StartFailure::Secret, "no such file");
    assert_eq!(said, outcome::failed(StartFailure::Secret));
    let told = numbers.borrow().last_trouble.clone().unwrap();
    assert_eq!(told.what, "entry `e` cannot be started: no such file");
}
