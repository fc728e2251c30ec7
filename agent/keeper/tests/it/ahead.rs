//! Attempts that wait at a keeper for its present one: who may keep them from beginning, and that nothing else does.
#![cfg(debug_assertions)]

use outpost_agent_keeper::adopt::{
    Claim, KeeperClient, KeeperState, SpawnerClient, keeper_state, read_exit_record,
};
use outpost_agent_keeper::process::boot_time_us;
use outpost_agent_keeper::protocol::{Cause, Ended, FromKeeper, NotStarted, StartSpec, ToKeeper};

use crate::races::{AFTER, BEFORE, Stage, answer, word};
use crate::site::*;

/// A task that goes on until the file `go` is there.
fn until_go(site: &Site, code: u8) -> Box<StartSpec> {
    site.script(&format!(
        "until [ -e go ]; do sleep 0.01; done; exit {code}"
    ))
}

fn go(site: &Site) {
    std::fs::write(site.path("go"), "").unwrap();
}

fn give_back(keeper: &KeeperClient, spec: &StartSpec) {
    let attempt = spec.attempt.clone();
    keeper.send(ToKeeper::GiveBack { attempt }).unwrap();
}

fn end(keeper: &KeeperClient, spec: &StartSpec) {
    let attempt = spec.attempt.clone();
    keeper.send(ToKeeper::End { attempt }).unwrap();
}

/// The next word but that something runs.
fn next_word(keeper: &KeeperClient) -> FromKeeper {
    loop {
        match keeper.recv().unwrap().expect("the keeper ended") {
            FromKeeper::Starting | FromKeeper::Running { .. } => {}
            word => return word,
        }
    }
}

fn is_given_back(word: &FromKeeper, spec: &StartSpec) {
    let attempt = spec.attempt.clone();
    assert_eq!(*word, FromKeeper::GivenBack { attempt });
}

fn never_began(stage: &Stage, spec: &StartSpec) {
    std::fs::create_dir_all(&spec.dir).unwrap();
    assert_eq!(answer(stage.claimer(&spec.dir)), Claim::Won);
    assert!(read_exit_record(&spec.dir).unwrap().is_none());
}

#[test]
fn what_waits_begins_in_order_when_nothing_of_the_last_one_is_left() {
    let site = Site::new();
    // Its tree outlives its first process, and the second begins after it.
    let mut first = site.script(
        "(trap '' TERM; echo > deaf; sleep 0.2; echo over >> order) & \
         while [ ! -e deaf ]; do sleep 0.01; done; exit 3",
    );
    first.grace_ms = 60_000;
    let keeper = site.start(&first);
    let second = site.script("echo second >> order; exit 4");
    let third = site.script("echo third >> order; exit 5");
    let missing = site.spec(&["/nonexistent/program"]);
    for spec in [&second, &missing, &third] {
        keeper.next(spec).unwrap();
    }
    expect(next_word(&keeper), Ended::Exited(3), Cause::Own);
    expect(next_word(&keeper), Ended::Exited(4), Cause::Own);
    assert_eq!(not_started(next_word(&keeper)), NotStarted::NotFound);
    expect(next_word(&keeper), Ended::Exited(5), Cause::Own);
    assert_eq!(site.lines("order", 3), ["over", "second", "third"]);
    assert_eq!(keeper_of(&second).keeper, keeper_of(&third).keeper);
    for (spec, code) in [(&first, 3), (&second, 4), (&third, 5)] {
        let record = read_exit_record(&spec.dir).unwrap().unwrap();
        assert_eq!(
            (&record.attempt, record.ended),
            (&spec.attempt, Ended::Exited(code))
        );
    }
    assert_eq!(site.starts(), 3);
}

#[test]
fn what_is_given_back_never_begins_and_the_others_do() {
    let site = Site::new();
    let first = until_go(&site, 3);
    let keeper = site.start(&first);
    let [second, third] = [site.script("exit 4"), site.script("exit 5")];
    keeper.next(&second).unwrap();
    keeper.next(&third).unwrap();
    give_back(&keeper, &second);
    is_given_back(&next_word(&keeper), &second);
    // Once more, and of one that does not wait: no answer.
    give_back(&keeper, &second);
    give_back(&keeper, &first);
    go(&site);
    expect(next_word(&keeper), Ended::Exited(3), Cause::Own);
    expect(next_word(&keeper), Ended::Exited(5), Cause::Own);
    assert_eq!(keeper_state(&second.dir).unwrap(), KeeperState::Never);
    // It may be given to anybody, to this one too.
    keeper.next(&second).unwrap();
    expect(next_word(&keeper), Ended::Exited(4), Cause::Own);
    assert_eq!(site.starts(), 3);
}

#[test]
fn an_end_by_name_ends_that_one_only() {
    let site = Site::new();
    let first = site.script("sleep 1000");
    let keeper = site.start(&first);
    running(&keeper);
    site.lines("starts", 1);
    let [second, third] = [site.script("exit 4"), until_go(&site, 5)];
    keeper.next(&second).unwrap();
    keeper.next(&third).unwrap();
    end(&keeper, &second);
    is_given_back(&next_word(&keeper), &second);
    end(&keeper, &first);
    expect(next_word(&keeper), Ended::Signalled(15), Cause::Cancelled);
    running(&keeper);
    // Late words about those that are over are not about this one.
    end(&keeper, &first);
    end(&keeper, &second);
    go(&site);
    expect(next_word(&keeper), Ended::Exited(5), Cause::Own);
    assert_eq!(site.starts(), 2);
}

#[test]
fn a_lease_that_ends_while_it_waits_gives_it_back() {
    let site = Site::new();
    let first = until_go(&site, 3);
    let keeper = site.start(&first);
    let mut second = site.script("exit 4");
    second.lease_until_boot_us = boot_time_us();
    let third = site.script("exit 5");
    keeper.next(&second).unwrap();
    keeper.next(&third).unwrap();
    go(&site);
    expect(next_word(&keeper), Ended::Exited(3), Cause::Own);
    is_given_back(&next_word(&keeper), &second);
    expect(next_word(&keeper), Ended::Exited(5), Cause::Own);
    assert_eq!(site.starts(), 2);
}

#[test]
fn without_its_runner_nothing_that_waits_begins_and_the_task_goes_on() {
    let stage = Stage::new();
    let site = &stage.site;
    let first = until_go(site, 3);
    let spawner = SpawnerClient::connect(site.dir.path()).unwrap();
    let keeper = spawner.start(first.clone()).unwrap();
    running(&keeper);
    let second = site.script("exit 4");
    keeper.next(&second).unwrap();
    drop(keeper);
    let again = until("the keeper's socket", || {
        KeeperClient::connect(&first.dir).ok()
    });
    go(site);
    expect(last(&again), Ended::Exited(3), Cause::Own);
    // It takes another one from its new runner, and by then would have begun the one that waited.
    let third = site.script("exit 5");
    again.next(&third).unwrap();
    expect(next_word(&again), Ended::Exited(5), Cause::Own);
    never_began(&stage, &second);
    assert_eq!(site.starts(), 2);
}

#[test]
fn more_than_a_keeper_lets_wait_ends_the_connection_and_its_task_goes_on() {
    let site = Site::new();
    let first = until_go(&site, 3);
    let keeper = site.start(&first);
    running(&keeper);
    let other = site.script("true");
    while keeper.next(&other).is_ok() {}
    let again = until("the keeper's socket", || {
        KeeperClient::connect(&first.dir).ok()
    });
    go(&site);
    expect(last(&again), Ended::Exited(3), Cause::Own);
    assert_eq!(keeper_state(&other.dir).unwrap(), KeeperState::Never);
    assert_eq!(site.starts(), 1);
}

#[test]
fn c1_a_runner_that_claims_what_waits_keeps_it_from_beginning() {
    for place in [
        "keeper-following",
        "keeper-begun",
        "keeper-drafted",
        "keeper-leased",
    ] {
        let stage = Stage::new();
        let site = &stage.site;
        let (first, second, third) = (
            until_go(site, 3),
            site.script("exit 4"),
            site.script("exit 5"),
        );
        let spawner = SpawnerClient::connect(site.dir.path()).unwrap();
        let keeper = spawner.start(first).unwrap();
        running(&keeper);
        stage.want(place, "pause");
        keeper.next(&second).unwrap();
        keeper.next(&third).unwrap();
        go(site);
        expect(next_word(&keeper), Ended::Exited(3), Cause::Own);
        stage.held(place);
        std::fs::create_dir_all(&second.dir).unwrap();
        assert_eq!(answer(stage.claimer(&second.dir)), Claim::Won, "{place}");
        stage.let_on(place);
        assert_eq!(
            not_started(next_word(&keeper)),
            NotStarted::ClaimLost,
            "{place}"
        );
        expect(next_word(&keeper), Ended::Exited(5), Cause::Own);
        assert_eq!(site.starts(), 2, "{place}");
    }
}

#[test]
fn c1_a_word_that_is_there_before_the_next_begins_is_heeded() {
    let stage = Stage::new();
    let site = &stage.site;
    let (first, second) = (until_go(site, 3), site.script("exit 4"));
    let spawner = SpawnerClient::connect(site.dir.path()).unwrap();
    let keeper = spawner.start(first).unwrap();
    running(&keeper);
    stage.want("keeper-following", "pause");
    keeper.next(&second).unwrap();
    go(site);
    expect(next_word(&keeper), Ended::Exited(3), Cause::Own);
    stage.held("keeper-following");
    // Behind more than it takes at a time.
    for _ in 0..20 {
        keeper.send(ToKeeper::StillConnected).unwrap();
    }
    give_back(&keeper, &second);
    stage.let_on("keeper-following");
    is_given_back(&next_word(&keeper), &second);
    never_began(&stage, &second);
    assert_eq!(site.starts(), 1);
}

#[test]
fn c3_a_keeper_killed_at_each_step_begins_each_at_most_once_and_what_waits_can_be_claimed() {
    let places = BEFORE.into_iter().chain(AFTER).chain(["keeper-following"]);
    for place in places {
        let stage = Stage::new();
        let site = &stage.site;
        let (first, second, third) = (
            until_go(site, 3),
            site.script("exit 4"),
            site.script("exit 5"),
        );
        let spawner = SpawnerClient::connect(site.dir.path()).unwrap();
        let keeper = spawner.start(first.clone()).unwrap();
        running(&keeper);
        keeper.next(&second).unwrap();
        keeper.next(&third).unwrap();
        // Of the three, the first reaches its end's places and the second those of its beginning.
        stage.want(place, "kill");
        go(site);
        stage.reached(place);
        let ends = ["keeper-ended", "keeper-recorded"].contains(&place);
        let heard = word(&keeper);
        assert_eq!(heard.is_some(), !ends, "{place}: {heard:?}");
        assert!(word(&keeper).is_none(), "{place}");
        let recorded = read_exit_record(&first.dir).unwrap().is_some();
        assert_eq!(recorded, place != "keeper-ended", "{place}");
        std::fs::create_dir_all(&second.dir).unwrap();
        let claimed = answer(stage.claimer(&second.dir));
        let began = ["keeper-claimed", "keeper-started"].contains(&place);
        assert_eq!(claimed == Claim::Lost, began, "{place}");
        never_began(&stage, &third);
        let starts = site.starts();
        assert!(
            (1..=1 + usize::from(began)).contains(&starts),
            "{place}: {starts}"
        );
    }
}

#[test]
fn c1_a_stopped_keeper_begins_nothing_that_was_claimed_meanwhile() {
    let stage = Stage::new();
    let site = &stage.site;
    let (first, second) = (until_go(site, 3), site.script("exit 4"));
    let spawner = SpawnerClient::connect(site.dir.path()).unwrap();
    let keeper = spawner.start(first.clone()).unwrap();
    running(&keeper);
    keeper.next(&second).unwrap();
    let process = keeper_of(&first).keeper;
    assert!(process.signal(rustix::process::Signal::STOP));
    go(site);
    std::fs::create_dir_all(&second.dir).unwrap();
    assert_eq!(answer(stage.claimer(&second.dir)), Claim::Won);
    assert!(process.signal(rustix::process::Signal::CONT));
    expect(next_word(&keeper), Ended::Exited(3), Cause::Own);
    assert_eq!(not_started(next_word(&keeper)), NotStarted::ClaimLost);
    assert_eq!(site.starts(), 1);
}
