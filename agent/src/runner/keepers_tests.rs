//! What files say of an attempt whose keeper is gone, or never was.

use std::fs;

use outpost_agent_keeper::protocol::{Cause, Ended, PROTOCOL_VERSION, Packets};

use super::*;

#[test]
fn c1_a_crash_before_the_directory_was_made_is_an_attempt_that_never_started() {
    let state = crate::testing::tempdir().unwrap();
    let dir = state.path().join("attempt");
    assert_eq!(look(&dir), Ok(Looked::NeverStarted));
    // Said again after a crash before it was journalled.
    assert_eq!(look(&dir), Ok(Looked::NeverStarted));
    assert_eq!(
        try_claim(&dir).unwrap(),
        Claim::Lost,
        "no keeper can start it"
    );
}

#[test]
fn a_directory_without_a_keeper_is_claimed_once_and_for_all() {
    let dir = crate::testing::tempdir().unwrap();
    assert_eq!(look(dir.path()), Ok(Looked::NeverStarted));
    assert_eq!(look(dir.path()), Ok(Looked::NeverStarted));
}

#[test]
fn a_keepers_claim_without_a_keeper_may_have_run() {
    let dir = crate::testing::tempdir().unwrap();
    for who in ["keeper", ""] {
        fs::write(dir.path().join(CLAIM), who).unwrap();
        assert_eq!(
            look(dir.path()),
            Ok(Looked::Dead { surely: false }),
            "{who:?}"
        );
    }
}

#[test]
fn a_damaged_exit_record_says_nothing_and_stops_nothing() {
    let dir = crate::testing::tempdir().unwrap();
    fs::write(dir.path().join(CLAIM), "keeper").unwrap();
    fs::write(dir.path().join("exit.json"), "{\"crc32\":\"00000000\"").unwrap();
    assert_eq!(look(dir.path()), Ok(Looked::Dead { surely: false }));
}

/// The ways in which it may not be known who kept an attempt.
fn damaged() -> [(&'static str, &'static str); 3] {
    [
        ("keeper.json", "{"),
        (CLAIM, "{\"keeper\": to be"),
        // A flipped bit in what a keeper's claim begins with.
        (CLAIM, "z\"crc32\":\"00000000\"}"),
    ]
}

#[test]
fn d4_an_attempt_whose_keeper_cannot_be_read_is_over_once_nothing_of_it_is_left() {
    for (file, text) in damaged() {
        let dir = crate::testing::tempdir().unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        let looked = look(dir.path());
        assert_eq!(looked, Ok(Looked::Dead { surely: false }), "{text}");
        assert_eq!(try_claim(dir.path()).unwrap(), Claim::Lost, "{text}");
    }
}

#[test]
fn d4_an_attempt_whose_keeper_cannot_be_read_lives_while_it_or_a_task_does() {
    for (file, text) in damaged() {
        let dir = crate::testing::tempdir().unwrap();
        fs::write(dir.path().join(file), text).unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let mut task = std::process::Command::new("sleep")
            .arg("1000")
            .env("OUTPOST_ATTEMPT", name)
            .spawn()
            .unwrap();
        let gave_up = !shows(task.id(), name);
        let why = look(dir.path());
        task.kill().unwrap();
        task.wait().unwrap();
        assert!(!gave_up, "it never had its environment");
        let why = why.unwrap_err();
        assert!(why.contains("damaged"), "{why}");
        let keeper = listens(dir.path());
        assert_eq!(look(dir.path()), Ok(Looked::Alive), "{text}");
        drop(keeper);
    }
}

/// Waits until a process has the environment that it was given: it is none for a moment of its exec.
fn shows(pid: u32, attempt: &str) -> bool {
    let give_up = std::time::Instant::now() + Duration::from_secs(30);
    while std::time::Instant::now() < give_up {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(attempt) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn what_is_found_after_a_restart_says_what_the_keeper_would_have_said() {
    use outpost_proto::outcome::StartFailure;
    let report = |found| match found {
        Found::Finished(report) => Some((report.outcome, report.may_have_started)),
        Found::Running | Found::NeverStarted | Found::Gone { .. } => None,
    };
    let over = |said| report(found_as(Became::Over(said)));
    assert_eq!(
        over(outcome::failed(StartFailure::NotFound)),
        Some((Outcome::StartFailed(StartFailure::NotFound), false))
    );
    assert_eq!(
        over(KeeperSaid::NotStarted(NotStarted::LeaseOver)),
        Some((Outcome::Refused(Refusal::NoLease), false))
    );
    assert_eq!(found_as(Became::Unknown), Found::Running);
}

#[test]
fn c3_a_tree_that_the_kernel_ended_as_a_whole_is_over_whoever_looks() {
    let boot_id = outpost_agent_keeper::process::boot_id().unwrap();
    for (containment, surely) in [
        ("cgroup", true),
        ("pid_namespace", true),
        ("subreaper", false),
    ] {
        let dir = crate::testing::tempdir().unwrap();
        // This process began later; the host's first one may have begun so early.
        let line = format!(
            r#"{{"keeper":{{"version":2,"binary":"0.1.0","attempt":"{}","boot_id":"{boot_id}","keeper":{{"pid":{},"start_time":1}},"containment":"{containment}"}}}}"#,
            "0".repeat(32),
            std::process::id()
        );
        let sum = crc32fast::hash(line.as_bytes());
        let claim = format!("{{\"crc32\":\"{sum:08x}\",\"record\":{line}}}\n");
        fs::write(dir.path().join(CLAIM), claim).unwrap();
        let looked = look(dir.path());
        assert_eq!(looked, Ok(Looked::Dead { surely }), "{containment}");
        let found = found_as(became(looked.unwrap(), |_| KeeperSaid::Running));
        match found {
            Found::Finished(report) => assert_eq!(
                (surely, report.outcome, report.may_have_started),
                (true, Outcome::Killed(KillReason::Keeper), true)
            ),
            Found::Gone { claimed } => assert!(claimed && !surely),
            Found::Running | Found::NeverStarted => panic!("{found:?}"),
        }
    }
}

/// Where a keeper is looked for.
fn listens(dir: &Path) -> std::os::fd::OwnedFd {
    use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let listener = net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    let address = SocketAddrUnix::new(dir.join("keeper.sock")).unwrap();
    net::bind(&listener, &address).unwrap();
    net::listen(&listener, 1).unwrap();
    listener
}

/// A keeper's side of a connection, to be spoken for by the test.
fn pretended(dir: &Path) -> (KeeperClient, Packets) {
    let listener = listens(dir);
    let client = KeeperClient::connect(dir).unwrap();
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let accepted = rustix::net::accept_with(&listener, flags).unwrap();
    (client, Packets::from_fd(accepted))
}

fn finished(assign: &Assign) -> FromKeeper {
    FromKeeper::Finished(ExitRecord {
        version: PROTOCOL_VERSION,
        attempt: assign.attempt.to_string(),
        boot_id: String::new(),
        ended: Ended::Exited(0),
        cause: Cause::Own,
        started_boot_us: 1,
        duration_ms: 1,
        log_bytes: 0,
        log_dropped_bytes: 0,
        containment: None,
        text: String::new(),
    })
}

fn given_back(assign: &Assign) -> FromKeeper {
    let attempt = assign.attempt.to_string();
    FromKeeper::GivenBack { attempt }
}

/// Attempt 1 at hand, 2 and 3 waiting; what its runner hears when the keeper says this.
async fn heard(words: impl Fn(&[Assign]) -> Vec<FromKeeper>) -> Vec<(u128, KeeperSaid)> {
    let dir = crate::testing::tempdir().unwrap();
    let state = StateDir::create(&dir.path().join("state")).unwrap();
    let files = dir.path().join("catalogue");
    fs::create_dir(&files).unwrap();
    let catalogue = crate::catalogue::load(&files, "").unwrap();
    let (inbox, mut events) = mpsc::channel(16);
    let (client, keeper) = pretended(dir.path());
    let assigns = [1, 2, 3].map(|attempt| Assign {
        attempt: AttemptId(attempt),
        run: outpost_proto::ids::RunId(7),
        task: outpost_proto::ids::TaskIndex(0),
        fence: outpost_proto::ids::Fence(5),
        command_seq: outpost_proto::ids::CommandSeq(1),
        entry: "e".parse().unwrap(),
        catalogue_version: catalogue.version(),
        parameters: Default::default(),
        deadline_ms: None,
        task_name: "t".parse().unwrap(),
        workflow_name: "w".parse().unwrap(),
    });
    let line = Line::new(client).unwrap();
    let keepers = Keepers::default();
    for assign in &assigns {
        keepers
            .borrow_mut()
            .insert(assign.attempt, Rc::clone(&line));
    }
    let [first, others @ ..] = assigns.clone();
    others.into_iter().for_each(|assign| line.has(assign));
    let listener = Listener {
        assign: first,
        state,
        catalogue: Rc::new(RefCell::new(std::sync::Arc::new(catalogue))),
        inbox,
        keepers: Rc::clone(&keepers),
        idle: Idle::default(),
    };
    for word in words(&assigns) {
        keeper.send(&word, &[]).unwrap();
    }
    let mut said = Vec::new();
    tokio::task::LocalSet::new()
        .run_until(async {
            tokio::task::spawn_local(listener.run(Some(line)));
            while said.len() < 3 {
                let Some(Happened::Core(Event::Keeper {
                    attempt,
                    said: word,
                })) = events.recv().await
                else {
                    panic!("something else happened");
                };
                said.push((attempt.0, word));
            }
        })
        .await;
    assert!(keepers.borrow().is_empty());
    said
}

fn words(said: &[(u128, KeeperSaid)]) -> Vec<(u128, &'static str)> {
    let word = |said: &KeeperSaid| match said {
        KeeperSaid::Running => "running",
        KeeperSaid::GivenBack => "given back",
        KeeperSaid::NotStarted(_) => "not started",
        KeeperSaid::Finished(_) => "finished",
        KeeperSaid::Gone { claimed: false } => "never",
        KeeperSaid::Gone { claimed: true } => "gone",
    };
    said.iter()
        .map(|(attempt, said)| (*attempt, word(said)))
        .collect()
}

#[tokio::test]
async fn each_word_of_a_keeper_is_of_the_attempt_that_it_has_come_to() {
    let said = heard(|all| vec![finished(&all[0]), finished(&all[1]), finished(&all[2])]).await;
    assert_eq!(
        words(&said),
        [(1, "finished"), (2, "finished"), (3, "finished")]
    );
    // Given back while the one before it is not over, and when it was the next to begin.
    let said = heard(|all| vec![given_back(&all[1]), finished(&all[0]), finished(&all[2])]).await;
    assert_eq!(
        words(&said),
        [(2, "given back"), (1, "finished"), (3, "finished")]
    );
    let said = heard(|all| vec![finished(&all[0]), given_back(&all[1]), finished(&all[2])]).await;
    assert_eq!(
        words(&said),
        [(1, "finished"), (2, "given back"), (3, "finished")]
    );
    let said = heard(|all| vec![finished(&all[0]), given_back(&all[2]), finished(&all[1])]).await;
    assert_eq!(
        words(&said),
        [(1, "finished"), (3, "given back"), (2, "finished")]
    );
}

#[tokio::test]
async fn an_end_that_is_not_of_the_attempt_at_hand_is_believed_of_none() {
    let said = heard(|all| vec![finished(&all[1])]).await;
    let mut said = words(&said);
    said.sort_unstable();
    assert_eq!(said, [(1, "never"), (2, "never"), (3, "never")]);
}

#[tokio::test]
async fn what_a_keeper_that_stands_still_is_told_is_not_lost() {
    let dir = crate::testing::tempdir().unwrap();
    let (client, keeper) = pretended(dir.path());
    let line = Line::new(client).unwrap();
    let end = |attempt: &str| ToKeeper::End {
        attempt: attempt.to_owned(),
    };
    let heard = async {
        while line.unsaid.borrow().is_empty() {
            line.say(ToKeeper::StillConnected).unwrap();
            if line.keeper().send(ToKeeper::Query).is_err() {
                line.say(end("first")).unwrap();
            }
        }
        line.say(ToKeeper::StillConnected).unwrap();
        line.say(end("second")).unwrap();
        keeper.set_nonblocking(true).unwrap();
        let mut ends = Vec::new();
        while ends.len() < 2 {
            match keeper.recv::<ToKeeper>() {
                Ok(Some((ToKeeper::End { attempt }, _))) => ends.push(attempt),
                Ok(Some(_)) => {}
                Ok(None) => panic!("its runner is gone"),
                Err(PacketError::WouldBlock) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(ends, ["first", "second"]);
        assert!(line.unsaid.borrow().is_empty());
        line.say(end("third")).unwrap();
        assert!(
            matches!(keeper.recv(), Ok(Some((ToKeeper::End { attempt }, _))) if attempt == "third")
        );
        drop(keeper);
        // Another test's child may have the keeper's side open until its exec.
        let since = std::time::Instant::now();
        while line.say(ToKeeper::StillConnected).is_ok() {
            assert!(since.elapsed() < Duration::from_secs(60), "it is gone");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(line.say(end("fourth")).is_err());
    };
    tokio::task::LocalSet::new().run_until(heard).await;
}
