//! Keepers, spawners and leash holders that die.

use std::time::{Duration, Instant};

use outpost_agent_keeper::adopt::{
    Claim, EndTreeError, KeeperClient, KeeperRecord, KeeperState, SpawnerClient, end_tree,
    keeper_state, read_exit_record, try_claim,
};
use outpost_agent_keeper::process::ProcessRef;
use outpost_agent_keeper::protocol::{
    Cause, Ended, FromKeeper, FromSpawner, NotStarted, UserIds, Want,
};
use rustix::process::Signal;

use crate::site::*;

/// Two processes, one of which has left session and parent; both ignore TERM.
const PAIR: &str = r#"
trap "" TERM
(setsid sh -c 'trap "" TERM; echo $$ >> pids; while :; do sleep 1000; done' &)
until [ -s pids ]; do sleep 0.02; done
echo $$ >> pids
while :; do sleep 1000; done
"#;

fn kill(process: ProcessRef) {
    assert!(process.signal(Signal::KILL));
    until("its death", || (!process.is_alive()).then_some(()));
}

fn c3_a_killed_keeper_takes_its_tree_along(want: Want, with_spawner: bool) {
    let site = Site::new();
    let mut spec = site.script(PAIR);
    spec.containment = want;
    let keeper = site.start(&spec);
    running(&keeper);
    site.lines("pids", 2);
    let processes = working_in(&site);
    assert!(processes.len() >= 2, "{processes:?}");
    if !with_spawner {
        kill(ProcessRef::of(site.spawner_pid()).unwrap());
    }
    let KeeperState::Alive(record) = keeper_state(&spec.dir).unwrap() else {
        panic!("no keeper");
    };
    assert!(matches!(
        end_tree(&spec.dir),
        Err(EndTreeError::KeeperLives(_))
    ));
    let since = Instant::now();
    kill(record.keeper);
    if with_spawner {
        until("the tree's end", || all_dead(&processes).then_some(()));
    }
    end_tree(&spec.dir).unwrap();
    assert!(all_dead(&processes));
    assert!(
        since.elapsed() < Duration::from_secs(60),
        "took {:?}",
        since.elapsed()
    );
    // Its runner notices, finds no record and a claim that is not its own: it may have run.
    while let Ok(Some(state)) = keeper.recv() {
        assert!(!matches!(state, FromKeeper::Finished(_)));
    }
    assert!(read_exit_record(&spec.dir).unwrap().is_none());
    assert!(matches!(
        keeper_state(&spec.dir).unwrap(),
        KeeperState::Dead(_)
    ));
    assert_eq!(try_claim(&spec.dir).unwrap(), Claim::Lost);
    assert!(record.cgroup.is_none_or(|leaf| !leaf.exists()));
    assert_eq!(site.starts(), 1);
}

fn working_in(site: &Site) -> Vec<ProcessRef> {
    let dir = site.dir.path().canonicalize().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let here = entries
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir));
    here.filter_map(|entry| ProcessRef::of(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

#[test]
fn c3_a_killed_keeper_takes_its_tree_along_below_a_subreaper() {
    c3_a_killed_keeper_takes_its_tree_along(Want::Subreaper, true);
    c3_a_killed_keeper_takes_its_tree_along(Want::Subreaper, false);
}

#[test]
#[ignore = "needs: root"]
fn c3_a_killed_keeper_takes_its_tree_along_in_a_cgroup() {
    c3_a_killed_keeper_takes_its_tree_along(Want::Cgroup, true);
    c3_a_killed_keeper_takes_its_tree_along(Want::Cgroup, false);
}

#[test]
#[ignore = "needs: user and pid namespaces"]
fn c3_a_killed_keeper_takes_its_tree_along_in_a_pid_namespace() {
    c3_a_killed_keeper_takes_its_tree_along(Want::PidNamespace, true);
    c3_a_killed_keeper_takes_its_tree_along(Want::PidNamespace, false);
}

fn the_first_process_ends_with_its_keeper_though_nobody_looks(user: Option<UserIds>) {
    let site = Site::new();
    let mut spec = site.spec(&[
        "/bin/sh",
        "-c",
        "trap '' TERM; while :; do sleep 0.05; done",
    ]);
    spec.containment = Want::Subreaper;
    spec.user = user;
    spec.cwd = "/".into();
    let keeper = site.start(&spec);
    let task = running(&keeper);
    kill(ProcessRef::of(site.spawner_pid()).unwrap());
    kill(keeper_of(&spec).keeper);
    until("the end of the first process", || {
        (!task.is_alive()).then_some(())
    });
}

#[test]
fn the_first_process_ends_with_its_keeper() {
    the_first_process_ends_with_its_keeper_though_nobody_looks(None);
}

#[test]
#[ignore = "needs: root"]
fn the_first_process_of_another_user_ends_with_its_keeper() {
    // A change of user clears the signal of the parent's death.
    let nobody = UserIds {
        uid: 65534,
        gid: 65534,
        groups: Vec::new(),
    };
    the_first_process_ends_with_its_keeper_though_nobody_looks(Some(nobody));
}

#[test]
fn a_killed_spawner_costs_no_task_and_is_replaced() {
    let site = Site::new();
    let spec = site.script("until [ -e go ]; do sleep 0.02; done; exit 2");
    let keeper = site.start(&spec);
    let task = running(&keeper);
    let first = ProcessRef::of(site.spawner_pid()).unwrap();
    kill(first);
    assert!(SpawnerClient::connect(site.dir.path()).is_err());
    assert!(task.is_alive());
    let second = site.spawner_pid();
    assert_ne!(second, first.pid);
    expect(
        site.run(&site.spec(&["/bin/true"])),
        Ended::Exited(0),
        Cause::Own,
    );
    drop(keeper);
    let adopted = until("the keeper's socket", || {
        KeeperClient::connect(&spec.dir).ok()
    });
    assert_eq!(running(&adopted), task);
    std::fs::write(site.path("go"), "").unwrap();
    expect(last(&adopted), Ended::Exited(2), Cause::Own);
    assert_eq!(site.starts(), 1);
}

/// Sets how many descriptors a living process may have; answers how many it could have before.
fn limit_descriptors(process: ProcessRef, most: u64) -> u64 {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.pid).unwrap()).unwrap();
    let resource = rustix::process::Resource::Nofile;
    let limit = rustix::process::Rlimit {
        current: Some(most),
        maximum: rustix::process::getrlimit(resource).maximum,
    };
    let old = rustix::process::prlimit(Some(pid), resource, limit).unwrap();
    old.current.unwrap()
}

/// The number that the next descriptor of a process would have.
fn next_descriptor(process: ProcessRef) -> u64 {
    let is_free = |number: &u64| {
        let path = format!("/proc/{}/fd/{number}", process.pid);
        std::fs::symlink_metadata(path).is_err()
    };
    (0..).find(is_free).unwrap()
}

#[test]
fn a_spawner_that_cannot_look_does_not_take_a_dead_keepers_tree_for_gone() {
    let site = Site::new();
    let mut spec = site.script(PAIR);
    spec.containment = Want::Subreaper;
    let keeper = site.start(&spec);
    running(&keeper);
    site.lines("pids", 2);
    let processes = working_in(&site);
    // One that stays: the spawner closes those of before in the round in which it answers this one, and none after it.
    let client = site.spawner();
    let spawner = ProcessRef::of(pid_of(&client)).unwrap();
    let before = limit_descriptors(spawner, next_descriptor(spawner));
    let dead = keeper_of(&spec).keeper;
    kill(dead);
    // It took note of the death, and cannot open anything.
    until("the keeper's reaping", || {
        ProcessRef::of(dead.pid).is_none().then_some(())
    });
    assert!(processes.iter().any(|process| process.is_alive()));
    limit_descriptors(spawner, before);
    until("the tree's end", || all_dead(&processes).then_some(()));
    drop(client);
}

#[test]
fn a_stopped_spawner_holds_nobody_up_and_starts_what_was_asked_once_it_goes_on() {
    let site = Site::new();
    let stopped = ProcessRef::of(site.spawner_pid()).unwrap();
    assert!(stopped.signal(Signal::STOP));
    let since = Instant::now();
    let spawner = site.spawner();
    let spec = site.script("exit 4");
    let keeper = spawner.start(spec.clone()).unwrap();
    assert!(since.elapsed() < SOON, "took {:?}", since.elapsed());
    assert_eq!(site.starts(), 0);
    assert!(stopped.signal(Signal::CONT));
    expect(last(&keeper), Ended::Exited(4), Cause::Own);
    assert_eq!(site.starts(), 1);
}

#[test]
fn an_attempt_started_again_through_a_new_spawner_harms_neither_keeper_nor_task() {
    let site = Site::new();
    let spec = site.script("until [ -e go ]; do sleep 0.02; done; exit 2");
    let keeper = site.start(&spec);
    let task = running(&keeper);
    kill(ProcessRef::of(site.spawner_pid()).unwrap());
    let again = site.start(&spec);
    assert_eq!(not_started(last(&again)), NotStarted::ClaimLost);
    drop(again);
    // The new spawner has seen the second keeper's end once it holds none.
    let spawner = site.spawner();
    until("the second keeper's end", || {
        spawner.ask_status().unwrap();
        let status = spawner.recv().unwrap().unwrap();
        matches!(status, FromSpawner::Status { keepers: 0, .. }).then_some(())
    });
    assert!(task.is_alive());
    std::fs::write(site.path("go"), "").unwrap();
    expect(last(&keeper), Ended::Exited(2), Cause::Own);
    assert_eq!(site.starts(), 1);
}

#[test]
fn the_end_of_the_leash_ends_everything_without_grace() {
    let site = Site::new();
    let mut spec = site.script(PAIR);
    spec.grace_ms = 600_000;
    spec.timeout_ms = Some(600_000);
    let keeper = site.start(&spec);
    running(&keeper);
    site.lines("pids", 2);
    let spawner = ProcessRef::of(site.spawner_pid()).unwrap();
    let record = keeper_of(&spec);
    let mut processes = working_in(&site);
    processes.extend([spawner, record.keeper]);
    site.let_go();
    // Sooner than the grace, by far.
    until("everybody's end", || all_dead(&processes).then_some(()));
    let record = read_exit_record(&spec.dir).unwrap().unwrap();
    assert_eq!(record.cause, Cause::Leash);
}

#[test]
fn a_record_of_another_boot_or_a_reused_id_is_not_taken_for_a_keeper() {
    let site = Site::new();
    let spec = site.script("sleep 1000");
    let keeper = site.start(&spec);
    running(&keeper);
    let good = keeper_of(&spec);
    // As an older build's keeper writes it: the same record in a file of its own.
    std::fs::write(spec.dir.join("claim"), "keeper").unwrap();
    let write = |record: &KeeperRecord| {
        let bytes = serde_json::to_vec(record).unwrap();
        std::fs::write(spec.dir.join("keeper.json"), bytes).unwrap();
    };
    write(&good);
    assert_eq!(
        keeper_state(&spec.dir).unwrap(),
        KeeperState::Alive(good.clone())
    );
    let mut other = good.clone();
    other.boot_id = "00000000-0000-0000-0000-000000000000".to_owned();
    write(&other);
    assert_eq!(
        keeper_state(&spec.dir).unwrap(),
        KeeperState::EarlierBoot(other)
    );
    end_tree(&spec.dir).unwrap();
    let mut other = good.clone();
    other.keeper.start_time += 1;
    write(&other);
    assert_eq!(keeper_state(&spec.dir).unwrap(), KeeperState::Dead(other));
    assert!(good.keeper.is_alive());
}
