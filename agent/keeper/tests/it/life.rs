//! A task's life from start to record, and who may speak to whom.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use outpost_agent_keeper::adopt::{
    Claim, KeeperClient, KeeperState, SpawnerClient, keeper_state, read_exit_record, try_claim,
};
use outpost_agent_keeper::protocol::{
    Cause, Ended, FromKeeper, FromSpawner, NotStarted, Packets, ToKeeper, ToSpawner,
};
use rustix::process::Signal;

use crate::site::*;

#[test]
fn a_task_runs_and_its_output_and_end_are_recorded() {
    let site = Site::new();
    let spec = site.script("echo out; echo err >&2; exit 37");
    let record = expect(site.run(&spec), Ended::Exited(37), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "out\nerr\n");
    assert_eq!((record.log_bytes, record.log_dropped_bytes), (8, 0));
    assert_eq!(record.attempt, spec.attempt);
    assert_eq!(read_exit_record(&spec.dir).unwrap(), Some(record));
    assert_eq!(site.starts(), 1);
    for name in ["log.0", "claim"] {
        let mode = std::fs::metadata(spec.dir.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
}

#[test]
fn success_and_death_by_a_signal_are_told_apart() {
    let site = Site::new();
    expect(
        site.run(&site.spec(&["/bin/true"])),
        Ended::Exited(0),
        Cause::Own,
    );
    expect(
        site.run(&site.script("kill -9 $$")),
        Ended::Signalled(9),
        Cause::Own,
    );
}

#[test]
fn a_keeper_whose_task_is_over_rests() {
    let site = Site::new();
    let spec = site.spec(&["/bin/true"]);
    let keeper = site.start(&spec);
    expect(last(&keeper), Ended::Exited(0), Cause::Own);
    let used = format!("/proc/{}/schedstat", keeper_of(&spec).keeper.pid);
    let used_ns = || -> u64 {
        let text = read(std::path::Path::new(&used));
        text.split(' ').next().unwrap().parse().unwrap()
    };
    // Rest can only be watched: longer than any moment at which something of the task would have been due. First it lets
    // go of what the task needed.
    until("it waits for something", || {
        let before = used_ns();
        std::thread::sleep(std::time::Duration::from_millis(300));
        (used_ns() - before < 5_000_000).then_some(())
    });
}

#[test]
fn what_cannot_be_executed_is_known_not_to_have_started() {
    let site = Site::new();
    let missing = site.spec(&["/nonexistent/program"]);
    assert_eq!(not_started(site.run(&missing)), NotStarted::NotFound);
    let record = read_exit_record(&missing.dir).unwrap().unwrap();
    assert_eq!(record.ended, Ended::NotStarted(NotStarted::NotFound));
    std::fs::write(site.path("plain"), "no program").unwrap();
    let plain = site.path("plain");
    assert_eq!(
        not_started(site.run(&site.spec(&[plain.to_str().unwrap()]))),
        NotStarted::Permission
    );
    let mut nowhere = site.spec(&["/bin/true"]);
    nowhere.cwd = "/nonexistent".into();
    assert_eq!(not_started(site.run(&nowhere)), NotStarted::Other);
}

#[test]
fn a_spec_that_is_not_valid_gets_no_keeper() {
    let site = Site::new();
    let mut spec = site.spec(&["/bin/true"]);
    spec.attempt = "../../../../etc/outpost/catalogue.d/xx".to_owned();
    let spawner = site.spawner();
    let keeper = spawner.start(spec).unwrap();
    let answer = spawner.recv().unwrap().unwrap();
    assert!(
        matches!(answer, FromSpawner::StartFailed { .. }),
        "{answer:?}"
    );
    assert!(
        keeper.recv().unwrap().is_none(),
        "the connection is at its end"
    );
}

#[test]
fn k6_only_the_standard_streams_are_open() {
    let site = Site::new();
    let spec = site.spec(&["/bin/ls", "-l", "/proc/self/fd"]);
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    let log = read(&spec.dir.join("log.0"));
    let open: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(_, to)| to)
        .collect();
    // Besides 0, 1 and 2 there is the directory that `ls` itself has opened.
    assert_eq!(open.len(), 4, "{log}");
    assert_eq!(open[0], "/dev/null");
    assert!(open[1].starts_with("pipe:") && open[1] == open[2], "{log}");
}

#[test]
fn k7_only_the_declared_environment_is_seen() {
    let site = Site::new();
    let mut spec = site.spec(&["/usr/bin/env"]);
    spec.env = vec![
        ("A".to_owned(), "1 2".to_owned()),
        ("B".to_owned(), String::new()),
    ];
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "A=1 2\nB=\n");
}

#[test]
fn arguments_are_passed_verbatim_and_the_process_is_set_up_as_told() {
    let site = Site::new();
    let spec = site.spec(&["/usr/bin/printf", "%s|", "$(id)", "a\nb", "*", ""]);
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "$(id)|a\nb|*||");
    let spec =
        site.script("umask; pwd -P; grep -E '^(NoNewPrivs|SigBlk|SigIgn):' /proc/self/status");
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    let log = read(&spec.dir.join("log.0"));
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "0077");
    assert_eq!(
        lines[1],
        site.dir.path().canonicalize().unwrap().to_str().unwrap()
    );
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("SigBlk:\t0000000000000000"), "{log}");
    assert!(log.contains("SigIgn:\t0000000000000000"), "{log}");
}

#[test]
fn without_a_lease_nothing_starts_and_nothing_is_claimed() {
    let site = Site::new();
    let mut spec = site.script("true");
    spec.lease_until_boot_us = outpost_agent_keeper::process::boot_time_us();
    assert_eq!(not_started(site.run(&spec)), NotStarted::LeaseOver);
    assert!(!spec.dir.join("claim").exists());
    assert_eq!(site.starts(), 0);
}

#[test]
fn who_makes_the_claim_first_decides() {
    let site = Site::new();
    let spec = site.script("true");
    assert_eq!(try_claim(&spec.dir).unwrap(), Claim::Won);
    assert_eq!(not_started(site.run(&spec)), NotStarted::ClaimLost);
    assert_eq!(site.starts(), 0);
    assert!(read_exit_record(&spec.dir).unwrap().is_none());

    let spec = site.script("true");
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(try_claim(&spec.dir).unwrap(), Claim::Lost);
    // The same attempt once more, when its first keeper has left.
    let first = keeper_of(&spec).keeper;
    until("the keeper's end", || (!first.is_alive()).then_some(()));
    assert_eq!(not_started(site.run(&spec)), NotStarted::ClaimLost);
    assert_eq!(site.starts(), 1);
}

#[test]
fn claims_made_at_the_same_time_have_one_winner() {
    let site = Site::new();
    for _ in 0..20 {
        let before = site.starts();
        let spec = site.script("true");
        let keeper = site.start(&spec);
        let ours = try_claim(&spec.dir).unwrap();
        match (ours, last(&keeper)) {
            (Claim::Won, end) => assert_eq!(not_started(end), NotStarted::ClaimLost),
            (Claim::Lost, end) => drop(expect(end, Ended::Exited(0), Cause::Own)),
        }
        let expected = usize::from(ours == Claim::Lost);
        assert_eq!(site.starts() - before, expected);
    }
}

#[test]
fn a_second_spawner_leaves_at_once_and_says_so() {
    let site = Site::new();
    let first = site.spawner_pid();
    let output = exec()
        .command("spawner")
        .arg("--state")
        .arg(site.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("another spawner"));
    assert_eq!(site.spawner_pid(), first);
}

#[test]
fn an_answer_on_the_wrong_version_or_no_json_ends_the_connection() {
    let site = Site::new();
    let _running = site.spawner();
    for nonsense in [&b"\xffnonsense"[..], b"\x01{\"unknown\":1}", b"\x01"] {
        let client = SpawnerClient::connect(site.dir.path()).unwrap();
        let fd: std::os::fd::OwnedFd = client.into();
        rustix::net::send(&fd, nonsense, rustix::net::SendFlags::NOSIGNAL).unwrap();
        let raw = Packets::from_fd(fd);
        assert!(raw.recv::<FromSpawner>().unwrap().is_none(), "{nonsense:?}");
    }
    assert!(site.spawner_pid() > 0, "the spawner goes on");
}

#[test]
fn the_longest_packet_passes_and_a_longer_one_is_refused() {
    let (a, b) = Packets::pair().unwrap();
    let text = "x".repeat(256 * 1024 - 3);
    a.send(&text, &[a.as_fd()]).unwrap();
    let (back, fds) = b.recv::<String>().unwrap().unwrap();
    assert_eq!((back.len(), fds.len()), (text.len(), 1));
    assert!(a.send(&format!("{text}y"), &[]).is_err());
}

#[test]
#[ignore = "needs: root"]
fn k14_what_another_account_serves_in_the_spawners_place_hears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    open(dir.path());
    copy_of_this_program(&path("program"));
    open(&path("program"));
    let mut command = Command::new(path("program"));
    let listens = command.args(["role", "listener"]).arg(path("spawner.sock"));
    let mut listener = listens
        .uid(65534)
        .gid(65534)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until("its socket", || path("listening").exists().then_some(()));
    let error = SpawnerClient::connect(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is served by user 65534"), "{error}");
    listener.kill().unwrap();
    listener.wait().unwrap();
}

#[test]
fn k14_a_task_cannot_speak_to_keeper_and_spawner() {
    let site = Site::new();
    let program = std::env::current_exe().unwrap();
    for socket in ["spawner.sock", "attempts/ATTEMPT/keeper.sock"] {
        let mut spec = site.spec(&[program.to_str().unwrap(), "role", "peer"]);
        let socket = site.path(&socket.replace("ATTEMPT", &spec.attempt));
        // It has read the token: what it is a part of counts all the same.
        for argument in [socket.as_path(), site.dir.path()] {
            spec.argv.push(argument.to_str().unwrap().to_owned());
        }
        // The keeper's socket is there once its first runner is gone.
        drop(site.start(&spec));
        until("the end", || read_exit_record(&spec.dir).unwrap());
        assert_eq!(read(&spec.dir.join("log.0")), "refused\n");
    }
    let mut command = exec().command("peer");
    let reply = command.arg(site.path("spawner.sock")).arg(site.dir.path());
    let reply = reply.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&reply.stdout),
        "answered\n",
        "one that is no task is answered"
    );
}

#[test]
fn a_later_runner_finds_spawner_and_keeper_and_the_newest_wins() {
    let site = Site::new();
    let spawner = site.spawner();
    let spec = site.script("until [ -e go ]; do sleep 0.02; done; exit 5");
    std::fs::write(site.path("spec.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
    let mut command = exec().command("runner");
    let mut runner = command
        .arg(site.dir.path())
        .arg(site.path("spec.json"))
        .spawn()
        .unwrap();
    site.lines("starts", 1);
    runner.kill().unwrap();
    runner.wait().unwrap();
    drop(spawner);

    let KeeperState::Alive(record) = keeper_state(&spec.dir).unwrap() else {
        panic!("the keeper died with its runner");
    };
    assert_eq!(record.attempt, spec.attempt);
    let second = until("the keeper's socket", || {
        KeeperClient::connect(&spec.dir).ok()
    });
    let task = running(&second);
    assert_eq!(Some(task), keeper_of(&spec).task);
    let third = KeeperClient::connect(&spec.dir).unwrap();
    assert_eq!(running(&third), task);
    assert!(
        second.recv().unwrap().is_none(),
        "the older connection is closed"
    );
    third.send(ToKeeper::Query).unwrap();
    assert_eq!(running(&third), task);
    std::fs::write(site.path("go"), "").unwrap();
    expect(last(&third), Ended::Exited(5), Cause::Own);
    // Who comes after the end is told the end while the keeper is there, and reads it afterwards.
    let fourth = KeeperClient::connect(&spec.dir).unwrap();
    assert!(matches!(last(&fourth), FromKeeper::Finished(_)));
    fourth.send(ToKeeper::Taken).unwrap();
    until("the keeper's end", || {
        (!record.keeper.is_alive()).then_some(())
    });
    assert!(read_exit_record(&spec.dir).unwrap().is_some());
    assert_eq!(site.starts(), 1);
}

#[test]
fn without_a_runner_the_end_is_recorded_and_the_keeper_leaves() {
    let site = Site::new();
    let spec = site.script("until [ -e go ]; do sleep 0.02; done");
    drop(site.start(&spec));
    site.lines("starts", 1);
    let record = keeper_of(&spec);
    std::fs::write(site.path("go"), "").unwrap();
    until("the keeper's end", || {
        (!record.keeper.is_alive()).then_some(())
    });
    assert_eq!(
        read_exit_record(&spec.dir).unwrap().unwrap().ended,
        Ended::Exited(0)
    );
    assert!(matches!(
        keeper_state(&spec.dir).unwrap(),
        KeeperState::Dead(_)
    ));
}

#[test]
fn every_flipped_bit_of_the_record_is_noticed() {
    let site = Site::new();
    let spec = site.spec(&["/bin/true"]);
    site.run(&spec);
    let path = spec.dir.join("claim");
    let good = std::fs::read(&path).unwrap();
    let lines = good.iter().rposition(|byte| *byte != b'\n').unwrap() + 2;
    // Every byte of the lines, and some of the empty space behind them.
    for at in (0..lines).chain((lines..good.len()).step_by(97)) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bad).unwrap();
        // A file that does not begin as a record is a runner's claim: it says nothing of an end.
        let read = read_exit_record(&spec.dir);
        let nothing = at == 0 && matches!(read, Ok(None));
        assert!(read.is_err() || nothing, "byte {at} of {}", good.len());
    }
    std::fs::write(&path, &good[..good.len() / 8]).unwrap();
    assert!(read_exit_record(&spec.dir).is_err());
}

#[test]
fn a_keeper_takes_one_attempt_after_the_other_and_nothing_of_one_is_seen_by_the_next() {
    let site = Site::new();
    let first = site.script("echo one; echo left > $PWD.left; sleep 0.01; exit 3");
    let keeper = site.start(&first);
    expect(last(&keeper), Ended::Exited(3), Cause::Own);
    let pid = keeper_of(&first).keeper;
    let missing = site.spec(&["/nonexistent/program"]);
    keeper.next(&missing).unwrap();
    assert_eq!(not_started(last(&keeper)), NotStarted::NotFound);
    let mut second = site.script("echo two; sleep 1000");
    // Longer than a busy machine keeps the shell from its first lines; so below.
    second.timeout_ms = Some(5_000);
    keeper.next(&second).unwrap();
    let task = running(&keeper);
    assert_eq!(
        (keeper_of(&second).task, keeper_of(&second).keeper),
        (Some(task), pid)
    );
    expect(last(&keeper), Ended::Signalled(15), Cause::TimedOut);
    // Each has its own log and its own end.
    assert_eq!(read(&first.dir.join("log.0")), "one\n");
    assert_eq!(read(&second.dir.join("log.0")), "two\n");
    for (spec, ended) in [(&first, Ended::Exited(3)), (&second, Ended::Signalled(15))] {
        assert_eq!(read_exit_record(&spec.dir).unwrap().unwrap().ended, ended);
    }
    // One whose claim somebody else has made is not started, and the keeper still goes on.
    let lost = site.script("true");
    std::fs::create_dir_all(&lost.dir).unwrap();
    assert_eq!(try_claim(&lost.dir).unwrap(), Claim::Won);
    keeper.next(&lost).unwrap();
    assert_eq!(not_started(last(&keeper)), NotStarted::ClaimLost);
    let fourth = site.script("exit 4");
    keeper.next(&fourth).unwrap();
    expect(last(&keeper), Ended::Exited(4), Cause::Own);
    assert_eq!(site.starts(), 3);
    drop(keeper);
    until("the keeper's end", || (!pid.is_alive()).then_some(()));
}

#[test]
#[ignore = "needs: root"]
fn root_gives_a_task_its_user_and_turns_that_user_away_from_the_sockets() {
    let site = Site::new();
    for dir in [site.dir.path(), &site.path("attempts")] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let user = outpost_agent_keeper::protocol::UserIds {
        uid: 65534,
        gid: 65534,
        groups: vec![65533],
    };
    let mut spec = site.spec(&[
        "/bin/sh",
        "-c",
        "id -u; id -g; id -G; grep Cap /proc/self/status",
    ]);
    spec.user = Some(user.clone());
    spec.cwd = "/".into();
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    let log = read(&spec.dir.join("log.0"));
    assert!(log.starts_with("65534\n65534\n65534 65533\n"), "{log}");
    assert!(
        log.contains("CapEff:\t0000000000000000") && log.contains("CapPrm:\t0000000000000000"),
        "{log}"
    );

    // The modes of socket and token keep others out; without them, the peer's uid does.
    let sock = site.path("spawner.sock");
    for path in [&sock, &site.path("keepers.token")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    }
    let copy = site.path("peer");
    copy_of_this_program(&copy);
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&copy);
    let reply = command
        .args(["role", "peer"])
        .args([sock.as_path(), site.dir.path()])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&reply.stdout),
        "refused\n",
        "{reply:?}"
    );
    let own = Packets::from_fd(SpawnerClient::connect(site.dir.path()).unwrap().into());
    own.send(&ToSpawner::Status, &[]).unwrap();
    assert!(own.recv::<FromSpawner>().unwrap().is_some());
}

#[test]
fn a_stopped_runner_stops_no_deadline() {
    let site = Site::new();
    let _spawner = site.spawner();
    let mut spec = site.script("sleep 1000");
    spec.timeout_ms = Some(5_000);
    std::fs::write(site.path("spec.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
    let mut command = exec().command("runner");
    let mut runner = command
        .arg(site.dir.path())
        .arg(site.path("spec.json"))
        .spawn()
        .unwrap();
    site.lines("starts", 1);
    let process = outpost_agent_keeper::process::ProcessRef::of(runner.id()).unwrap();
    assert!(process.signal(Signal::STOP));
    let record = until("the record", || read_exit_record(&spec.dir).unwrap());
    assert_eq!(
        (record.ended, record.cause),
        (Ended::Signalled(15), Cause::TimedOut)
    );
    runner.kill().unwrap();
    runner.wait().unwrap();
}

#[test]
fn an_idle_spawner_leaves_and_one_with_a_keeper_stays() {
    let site = Site::new();
    let idle = |ms: &str| {
        let mut command = exec().command("spawner");
        site.leash.pass(&mut command).unwrap();
        command
            .arg("--state")
            .arg(site.dir.path())
            .args(["--idle-ms", ms]);
        assert!(command.output().unwrap().status.success());
    };
    idle("50");
    until("its end", || {
        // Who looks keeps it: not sooner than it may leave.
        std::thread::sleep(std::time::Duration::from_millis(200));
        SpawnerClient::connect(site.dir.path())
            .is_err()
            .then_some(())
    });
    idle("200");
    let client = site.spawner();
    let first = pid_of(&client);
    let spec = site.script("sleep 0.7");
    let keeper = client.start(spec).unwrap();
    drop(client);
    expect(last(&keeper), Ended::Exited(0), Cause::Own);
    let process = outpost_agent_keeper::process::ProcessRef::of(first);
    assert!(process.is_some_and(|process| process.is_alive()));
    drop(keeper);
    assert_eq!(site.starts(), 1);
}

#[test]
fn a_keeper_is_small() {
    let site = Site::new();
    let spec = site.script("until [ -e go ]; do sleep 0.02; done");
    let keeper = site.start(&spec);
    running(&keeper);
    let memory = read(format!("/proc/{}/smaps_rollup", keeper_of(&spec).keeper.pid).as_ref());
    // What one more keeper costs; the rest is shared with the spawner and with every other keeper.
    let private = memory.lines().filter(|line| line.starts_with("Private_"));
    let sizes = private.map(|line| {
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    });
    assert!(sizes.sum::<u64>() <= 300, "{memory}");
}
