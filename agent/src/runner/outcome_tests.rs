//! What becomes of an exit record, and of an outputs file that a task made hostile.

use std::time::Duration;

use outpost_agent_keeper::protocol::PROTOCOL_VERSION;

use super::*;

fn record(ended: Ended, cause: Cause) -> ExitRecord {
    ExitRecord {
        version: PROTOCOL_VERSION,
        attempt: "0".repeat(32),
        boot_id: "boot".to_owned(),
        ended,
        cause,
        started_boot_us: 1,
        duration_ms: u64::MAX,
        log_bytes: 0,
        log_dropped_bytes: 0,
        containment: None,
        text: String::new(),
    }
}

fn assign() -> Assign {
    use outpost_proto::ids::{AttemptId, CatalogueVersion, CommandSeq, Fence, RunId, TaskIndex};
    Assign {
        attempt: AttemptId(1),
        run: RunId(2),
        task: TaskIndex(0),
        fence: Fence(1),
        command_seq: CommandSeq(1),
        entry: "e".parse().unwrap(),
        catalogue_version: CatalogueVersion(1),
        parameters: Default::default(),
        deadline_ms: None,
        task_name: "t".parse().unwrap(),
        workflow_name: "w".parse().unwrap(),
    }
}

#[test]
fn the_table_from_record_to_outcome() {
    use protocol::NotStarted as N;
    let finished = |outcome| (outcome, true);
    let cases = [
        (Ended::Exited(0), Cause::Own, finished(Outcome::Succeeded)),
        (Ended::Exited(3), Cause::Own, finished(Outcome::Failed)),
        (Ended::Signalled(9), Cause::Own, finished(Outcome::Failed)),
        (
            Ended::Exited(0),
            Cause::TimedOut,
            finished(Outcome::TimedOut),
        ),
        (
            Ended::Exited(0),
            Cause::Cancelled,
            finished(Outcome::Cancelled),
        ),
        (
            Ended::Signalled(15),
            Cause::DeadMan,
            finished(Outcome::Killed(KillReason::Lease)),
        ),
        (
            Ended::Signalled(9),
            Cause::Oom,
            finished(Outcome::Killed(KillReason::Oom)),
        ),
        (
            Ended::Signalled(9),
            Cause::Leash,
            finished(Outcome::Interrupted(Interruption::AgentStateLost)),
        ),
    ];
    for (ended, cause, (outcome, may_have_started)) in cases {
        let said = said(
            &record(ended, cause),
            &assign(),
            None,
            Path::new("/nowhere"),
        );
        let KeeperSaid::Finished(report) = said else {
            panic!("{ended:?} {cause:?}: {said:?}")
        };
        assert_eq!(
            (report.outcome, report.may_have_started),
            (outcome, may_have_started),
            "{ended:?} {cause:?}"
        );
        assert_eq!(report.duration_ms, DURATION_MS, "what the wire carries");
        assert_eq!(
            (report.exit_code, report.count),
            (None, None),
            "not opted in"
        );
    }
    let refused = |why| {
        said(
            &record(Ended::NotStarted(why), Cause::Own),
            &assign(),
            None,
            Path::new("/"),
        )
    };
    assert_eq!(refused(N::NotFound), failed(StartFailure::NotFound));
    assert_eq!(refused(N::Permission), failed(StartFailure::Permission));
    assert_eq!(refused(N::Resources), failed(StartFailure::Resources));
    assert_eq!(refused(N::Other), failed(StartFailure::Other));
    assert_eq!(
        refused(N::LeaseOver),
        KeeperSaid::NotStarted(NotStarted::LeaseOver)
    );
    assert_eq!(not_started(N::ClaimLost), None);
}

/// `count` in a time that no pipe is allowed to stretch.
fn count_in_time(path: &Path) -> Option<u16> {
    let (tell, told) = std::sync::mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || tell.send(count(&path)));
    told.recv_timeout(Duration::from_secs(30))
        .expect("it must not wait")
}

#[test]
fn the_last_count_is_taken_and_only_a_number_that_the_wire_has() {
    let dir = crate::testing::tempdir().unwrap();
    let path = dir.path().join("t.env");
    for (text, expected) in [
        ("count=7\n", Some(7)),
        ("count=1\nother=2\ncount= 8 \n", Some(8)),
        ("count=65534", Some(65534)),
        ("count=65535", None),
        ("count=-1", None),
        ("xcount=1", None),
        ("", None),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(count_in_time(&path), expected, "{text:?}");
    }
    std::fs::write(&path, b"\xff\xfe\ncount=9\n").unwrap();
    assert_eq!(
        count_in_time(&path),
        Some(9),
        "other bytes beside it are no matter"
    );
}

#[test]
fn k11_a_pipe_a_link_and_a_directory_in_its_place_count_nothing() {
    let dir = crate::testing::tempdir().unwrap();
    let real = dir.path().join("real");
    std::fs::write(&real, "count=7\n").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert_eq!(count_in_time(&link), None);
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(count_in_time(&pipe), None);
    assert_eq!(count_in_time(dir.path()), None);
    assert_eq!(count_in_time(&dir.path().join("absent")), None);
}

#[test]
fn what_an_entry_does_not_report_stays_here_whatever_the_task_wrote() {
    let dir = crate::testing::tempdir().unwrap();
    let run = dir.path().canonicalize().unwrap();
    std::fs::create_dir(run.join("out")).unwrap();
    std::fs::write(run.join("out/t.env"), "count=7\n").unwrap();
    std::fs::create_dir(run.join("catalogue.d")).unwrap();
    let reported = |lines: &str| {
        let user = match rustix::process::geteuid().is_root() {
            true => "user = \"nobody\"\n",
            false => "",
        };
        let text = format!("[entry.e]\n{user}argv = [\"/bin/true\"]\n{lines}\n");
        std::fs::write(run.join("catalogue.d/a.toml"), text).unwrap();
        let catalogue = crate::catalogue::load(&run.join("catalogue.d"), "").unwrap();
        let entry = catalogue.entries().next();
        let ended = record(Ended::Exited(3), Cause::Own);
        let KeeperSaid::Finished(report) = said(&ended, &assign(), entry, &run) else {
            panic!("it ended");
        };
        (report.exit_code, report.count)
    };
    assert_eq!(reported(""), (None, None));
    assert_eq!(reported("report_exit_code = true"), (Some(3), None));
    assert_eq!(reported("report_count = true"), (None, Some(7)));
}

#[test]
fn k11_of_outputs_without_an_end_only_the_beginning_is_read() {
    let dir = crate::testing::tempdir().unwrap();
    let path = dir.path().join("t.env");
    let rest = "x".repeat(usize::try_from(OUTPUT_BYTES).unwrap());
    std::fs::write(&path, format!("count=1\n{rest}\ncount=2\n")).unwrap();
    assert_eq!(count_in_time(&path), Some(1));
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert_eq!(count_in_time(&path), Some(1));
}
