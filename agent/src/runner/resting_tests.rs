//! A run that rests is encrypted; a start of it waits until it is opened, a cancelled one does not start.

use std::path::PathBuf;

use outpost_proto::ids::{CatalogueVersion, CommandSeq, Fence, TaskIndex};

use super::super::retention::Held;
use super::*;
use crate::seal::tests::keys;

const RUN: RunId = RunId(0x11);

fn assign(attempt: u128) -> Assign {
    Assign {
        attempt: AttemptId(attempt),
        run: RUN,
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

fn site() -> (tempfile::TempDir, StateDir, PathBuf) {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(&dir.path().join("state")).unwrap();
    let file = state.run(RUN).join("file");
    std::fs::create_dir(state.run(RUN)).unwrap();
    std::fs::write(&file, "said").unwrap();
    (dir, state, file)
}

/// What reaches the loop that is not a question of what is held: nothing is.
async fn next(happened: &mut mpsc::Receiver<Happened>) -> Happened {
    loop {
        let came = happened.recv().await.unwrap();
        let Happened::Held(ask) = came else {
            return came;
        };
        drop(ask.send(Held::default()));
    }
}

/// Answers questions until the run is encrypted.
async fn until_sealed(state: &StateDir, happened: &mut mpsc::Receiver<Happened>) {
    while !Rest::of(state, RUN).is_whole() {
        tokio::select! {
            _ = next(happened) => panic!("nothing else happens"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    let set = tokio::task::LocalSet::new();
    let test = set.run_until(test);
    tokio::time::timeout(Duration::from_secs(60), test)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_run_of_which_nothing_is_held_is_encrypted_and_opened_for_the_next_start() {
    local(async {
        let (_dir, state, file) = site();
        let keys = Arc::new(keys(&[1]));
        let resting = Resting::new(&state, Some(keys), Duration::ZERO);
        let (inbox, mut happened) = mpsc::channel(4);
        // Left by an earlier runner: nobody says that it was started.
        tokio::task::spawn_local(resting.clone().keep(inbox.clone()));
        assert!(resting.needs_opening(RUN), "nobody knows what it is");
        until_sealed(&state, &mut happened).await;
        assert!(resting.needs_opening(RUN));
        assert_ne!(std::fs::read(&file).unwrap(), b"said");
        resting.open_for(assign(1), 7, inbox.clone());
        let Happened::Opened {
            assign: opened,
            lease_until_boot_us,
        } = next(&mut happened).await
        else {
            panic!("it was to be opened");
        };
        assert_eq!((opened.attempt, lease_until_boot_us), (AttemptId(1), 7));
        assert_eq!(std::fs::read(&file).unwrap(), b"said");
        assert!(!resting.needs_opening(RUN));
        // Its task is over some time: it rests again.
        resting.started(RUN);
        until_sealed(&state, &mut happened).await;
        resting.open_for(assign(2), 7, inbox.clone());
        assert!(resting.cancelled(AttemptId(2)));
        assert!(!resting.cancelled(AttemptId(2)), "once");
        let Happened::Core(Event::Keeper { attempt, said }) = next(&mut happened).await else {
            panic!("it was cancelled");
        };
        assert_eq!(attempt, AttemptId(2));
        assert_eq!(said, KeeperSaid::NotStarted(NotStarted::Cancelled));
    })
    .await;
}

#[tokio::test]
async fn without_the_key_a_task_of_an_encrypted_run_does_not_start() {
    local(async {
        let (_dir, state, _file) = site();
        runs::seal(&keys(&[1]), &Rest::of(&state, RUN)).unwrap();
        let resting = Resting::new(&state, None, Duration::ZERO);
        let (inbox, mut happened) = mpsc::channel(4);
        assert!(resting.needs_opening(RUN));
        resting.open_for(assign(1), 7, inbox);
        let Happened::Core(Event::Keeper { said, .. }) = next(&mut happened).await else {
            panic!("it cannot start");
        };
        assert_eq!(said, outcome::failed(StartFailure::Other));
        assert!(resting.needs_opening(RUN), "it stays encrypted");
    })
    .await;
}

#[test]
fn a_run_with_an_attempt_that_is_held_does_not_rest() {
    let (_dir, state, _file) = site();
    let resting = Resting::new(&state, Some(Arc::new(keys(&[1]))), Duration::ZERO);
    resting.started(RUN);
    assert_eq!(resting.rested(|run| run == RUN), []);
    assert_eq!(resting.rested(|_| false), [RUN]);
    assert_eq!(resting.rested(|_| false), [], "it is being encrypted");
}

/// Of a run whose directory is not there nothing needs to be looked at, and of one that this process began neither.
#[test]
fn only_what_an_earlier_life_left_is_looked_at_before_a_start() {
    let (_dir, state, _file) = site();
    let keys = Some(Arc::new(keys(&[1])));
    let resting = Resting::new(&state, keys, Duration::ZERO);
    assert!(!resting.needs_opening(RunId(0x12)));
    resting.started(RunId(0x12));
    std::fs::create_dir(state.run(RunId(0x12))).unwrap();
    assert!(!resting.needs_opening(RunId(0x12)));
    assert!(resting.needs_opening(RUN));
    let without = Resting::new(&state, None, Duration::ZERO);
    assert!(!without.needs_opening(RUN));
}

#[tokio::test]
async fn a_run_of_which_a_file_was_taken_away_does_not_start_and_says_which() {
    local(async {
        let (_dir, state, file) = site();
        let keys = keys(&[1]);
        runs::seal(&keys, &Rest::of(&state, RUN)).unwrap();
        std::fs::remove_file(file).unwrap();
        let resting = Resting::new(&state, Some(Arc::new(keys)), Duration::ZERO);
        let (inbox, mut happened) = mpsc::channel(4);
        resting.open_for(assign(1), 7, inbox);
        let Happened::Core(Event::Keeper { said, .. }) = next(&mut happened).await else {
            panic!("it cannot start");
        };
        assert_eq!(said, outcome::failed(StartFailure::Other));
    })
    .await;
}
