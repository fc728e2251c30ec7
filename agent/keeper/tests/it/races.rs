//! Keeper and new runner at the claim, each held or killed at each of its steps: the task starts at most once, and
//! whoever lost the claim does nothing. Starts are counted by what the task itself wrote.
#![cfg(debug_assertions)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use outpost_agent_keeper::adopt::{
    Claim, KeeperClient, KeeperState, SpawnerClient, end_tree, keeper_state, read_exit_record,
    try_claim,
};
use outpost_agent_keeper::failpoint::VARIABLE;
use outpost_agent_keeper::process::ProcessRef;
use outpost_agent_keeper::protocol::{Cause, Ended, FromKeeper, NotStarted, StartSpec};
use rustix::process::Signal;

use crate::site::*;

/// A keeper's steps before its claim is made.
pub(crate) const BEFORE: [&str; 3] = ["keeper-begun", "keeper-drafted", "keeper-leased"];
/// Its steps from the claim on.
pub(crate) const AFTER: [&str; 4] = [
    "keeper-claimed",
    "keeper-started",
    "keeper-ended",
    "keeper-recorded",
];
/// A runner's steps at the claim: with nothing, with a draft, with the name.
const RUNNER: [&str; 3] = ["runner-claiming", "runner-drafted", "runner-claimed"];

/// A site whose spawner and keepers can be held.
pub(crate) struct Stage {
    pub(crate) site: Site,
    places: PathBuf,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        let places = site.path("places");
        std::fs::create_dir(&places).unwrap();
        let mut command = exec().command("spawner");
        command.arg("--state").arg(site.dir.path());
        command.env(VARIABLE, &places);
        site.leash.pass(&mut command).unwrap();
        assert!(command.stderr(Stdio::null()).status().unwrap().success());
        Self { site, places }
    }

    pub(crate) fn want(&self, place: &str, wish: &str) {
        std::fs::write(self.places.join(place), wish).unwrap();
    }

    /// Waits until somebody stands there; who.
    pub(crate) fn reached(&self, place: &str) -> ProcessRef {
        let path = self.places.join(place).with_extension("reached");
        until(place, || {
            ProcessRef::of(read(&path).parse().ok()?).or(Some(ProcessRef {
                pid: 0,
                start_time: 0,
            }))
        })
    }

    /// The same of one who waits there.
    pub(crate) fn held(&self, place: &str) -> ProcessRef {
        let who = self.reached(place);
        assert!(who.is_alive());
        who
    }

    pub(crate) fn let_on(&self, place: &str) {
        std::fs::remove_file(self.places.join(place)).unwrap();
    }

    fn start(&self) -> (Box<StartSpec>, KeeperClient) {
        let spec = self.site.script("exit 7");
        let spawner = SpawnerClient::connect(self.site.dir.path()).unwrap();
        let keeper = spawner.start(spec.clone()).unwrap();
        (spec, keeper)
    }

    /// Another runner, in a process of its own, that makes the claim.
    pub(crate) fn claimer(&self, dir: &Path) -> Child {
        let mut command: Command = exec().command("claimer");
        command.arg(dir).env(VARIABLE, &self.places);
        command.stdout(Stdio::piped()).spawn().unwrap()
    }
}

pub(crate) fn answer(claimer: Child) -> Claim {
    let output = claimer.wait_with_output().unwrap();
    match output.stdout.trim_ascii() {
        b"Won" => Claim::Won,
        b"Lost" => Claim::Lost,
        other => panic!("{other:?}"),
    }
}

/// The keeper's last word; `None` when it had none.
pub(crate) fn word(keeper: &KeeperClient) -> Option<FromKeeper> {
    loop {
        match keeper.recv().ok().flatten()? {
            FromKeeper::Starting | FromKeeper::GivenBack { .. } | FromKeeper::Running { .. } => {}
            end @ (FromKeeper::NotStarted { .. } | FromKeeper::Finished(_)) => return Some(end),
        }
    }
}

#[test]
fn c1_a_keeper_held_before_its_claim_loses_to_a_runner_that_makes_it() {
    for place in BEFORE {
        let stage = Stage::new();
        stage.want(place, "pause");
        let (spec, keeper) = stage.start();
        stage.held(place);
        // To whoever looks there is no keeper: nothing of it has a name yet.
        assert_eq!(
            keeper_state(&spec.dir).unwrap_or(KeeperState::Never),
            KeeperState::Never
        );
        std::fs::create_dir_all(&spec.dir).unwrap();
        assert_eq!(answer(stage.claimer(&spec.dir)), Claim::Won, "{place}");
        stage.let_on(place);
        assert_eq!(not_started(last(&keeper)), NotStarted::ClaimLost, "{place}");
        assert_eq!(stage.site.starts(), 0, "{place}");
        assert!(read_exit_record(&spec.dir).unwrap().is_none(), "{place}");
    }
}

#[test]
fn c1_a_keeper_held_after_its_claim_has_won_it() {
    for place in AFTER {
        let stage = Stage::new();
        stage.want(place, "pause");
        let (spec, keeper) = stage.start();
        let held = stage.held(place);
        assert_eq!(answer(stage.claimer(&spec.dir)), Claim::Lost, "{place}");
        let state = keeper_state(&spec.dir).unwrap();
        assert!(
            matches!(&state, KeeperState::Alive(record) if record.keeper == held),
            "{place}: {state:?}"
        );
        stage.let_on(place);
        expect(last(&keeper), Ended::Exited(7), Cause::Own);
        assert_eq!(stage.site.starts(), 1, "{place}");
    }
}

#[test]
fn c1_a_runner_held_at_each_step_of_its_claim_and_a_keeper_start_the_task_at_most_once() {
    for place in RUNNER {
        for keepers in BEFORE {
            let stage = Stage::new();
            stage.want(keepers, "pause");
            let (spec, keeper) = stage.start();
            stage.held(keepers);
            std::fs::create_dir_all(&spec.dir).unwrap();
            stage.want(place, "pause");
            let claimer = stage.claimer(&spec.dir);
            stage.held(place);
            // The keeper goes on while the runner stands still.
            stage.let_on(keepers);
            let end = last(&keeper);
            stage.let_on(place);
            let claim = answer(claimer);
            let at = format!("keeper at {keepers}, runner at {place}");
            if place != "runner-claimed" {
                assert_eq!(claim, Claim::Lost, "{at}");
                expect(end, Ended::Exited(7), Cause::Own);
                assert_eq!(stage.site.starts(), 1, "{at}");
            } else {
                assert_eq!(claim, Claim::Won, "{at}");
                assert_eq!(not_started(end), NotStarted::ClaimLost, "{at}");
                assert_eq!(stage.site.starts(), 0, "{at}");
            }
        }
    }
}

#[test]
fn c1_a_runner_killed_at_each_step_of_its_claim_leaves_an_attempt_that_starts_at_most_once() {
    for place in RUNNER {
        let stage = Stage::new();
        stage.want("keeper-leased", "pause");
        let (spec, keeper) = stage.start();
        stage.held("keeper-leased");
        stage.want(place, "kill");
        let mut claimer = stage.claimer(&spec.dir);
        assert!(!claimer.wait().unwrap().success());
        stage.let_on("keeper-leased");
        let end = last(&keeper);
        if place != "runner-claimed" {
            expect(end, Ended::Exited(7), Cause::Own);
            assert_eq!(stage.site.starts(), 1);
        } else {
            assert_eq!(not_started(end), NotStarted::ClaimLost, "{place}");
            assert_eq!(stage.site.starts(), 0, "{place}");
        }
        // Whoever comes next finds the name taken, by a keeper or by a runner, and the file says by whom.
        assert_eq!(try_claim(&spec.dir).unwrap(), Claim::Lost, "{place}");
    }
}

#[test]
fn c3_a_keeper_killed_at_each_step_leaves_an_attempt_that_starts_at_most_once_and_nothing_running()
{
    for place in BEFORE.into_iter().chain(AFTER) {
        let stage = Stage::new();
        stage.want(place, "kill");
        let (spec, keeper) = stage.start();
        stage.reached(place);
        let end = word(&keeper);
        assert!(end.is_none(), "{place}: {end:?}");
        std::fs::create_dir_all(&spec.dir).unwrap();
        let claimed = answer(stage.claimer(&spec.dir));
        let ended = read_exit_record(&spec.dir).unwrap();
        if BEFORE.contains(&place) {
            let starts = stage.site.starts();
            assert_eq!((claimed, starts), (Claim::Won, 0), "{place}");
            assert!(ended.is_none(), "{place}");
            continue;
        }
        assert_eq!(claimed, Claim::Lost, "{place}");
        assert_eq!(ended.is_some(), place == "keeper-recorded", "{place}");
        end_tree(&spec.dir).unwrap();
        let starts = stage.site.starts();
        assert!(starts <= 1, "{place}: {starts}");
        assert!(
            starts == 1 || ["keeper-claimed", "keeper-started"].contains(&place),
            "{place}"
        );
    }
}

#[test]
fn c1_a_stopped_keeper_is_waited_for_and_never_replaced() {
    for place in BEFORE.into_iter().chain(["keeper-claimed"]) {
        let stage = Stage::new();
        stage.want(place, "pause");
        let (spec, keeper) = stage.start();
        let held = stage.held(place);
        assert!(held.signal(Signal::STOP));
        stage.let_on(place);
        std::fs::create_dir_all(&spec.dir).unwrap();
        let claimed = answer(stage.claimer(&spec.dir));
        assert_eq!(stage.site.starts(), 0, "{place}");
        assert!(held.signal(Signal::CONT));
        match claimed {
            Claim::Won => assert_eq!(not_started(last(&keeper)), NotStarted::ClaimLost, "{place}"),
            Claim::Lost => drop(expect(last(&keeper), Ended::Exited(7), Cause::Own)),
        }
        assert_eq!(claimed == Claim::Won, BEFORE.contains(&place), "{place}");
        let expected = usize::from(claimed == Claim::Lost);
        assert_eq!(stage.site.starts(), expected, "{place}");
    }
}
