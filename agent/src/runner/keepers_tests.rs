//! What files say of an attempt whose keeper is gone, or never was.

use std::fs;

use super::*;

#[test]
fn c1_a_crash_before_the_directory_was_made_is_an_attempt_that_never_started() {
    let state = tempfile::tempdir().unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(look(dir.path()), Ok(Looked::NeverStarted));
    assert_eq!(look(dir.path()), Ok(Looked::NeverStarted));
}

#[test]
fn a_keepers_claim_without_a_keeper_may_have_run() {
    let dir = tempfile::tempdir().unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CLAIM), "keeper").unwrap();
    fs::write(dir.path().join("exit.json"), "{\"crc32\":\"00000000\"").unwrap();
    assert_eq!(look(dir.path()), Ok(Looked::Dead { surely: false }));
}

#[test]
fn a_damaged_keeper_record_leaves_it_undecided() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("keeper.json"), "{").unwrap();
    let why = look(dir.path()).unwrap_err();
    assert!(
        why.contains("keeper.json") && why.contains("damaged"),
        "{why}"
    );
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
        let dir = tempfile::tempdir().unwrap();
        // No process has this start time.
        let line = format!(
            r#"{{"keeper":{{"version":2,"binary":"0.1.0","attempt":"{}","boot_id":"{boot_id}","keeper":{{"pid":1,"start_time":1}},"containment":"{containment}"}}}}"#,
            "0".repeat(32)
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
