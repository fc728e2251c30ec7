//! The simulation as a test: seeds that hold, what is left of seeds that did not, bugs that it must find, and that it is
//! the same every time.

#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use outpost_sim::{Hasty, Options, Played, Script, bugbank, play, run, shrink};

fn tests_sim() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn assert_holds(script: &Script) -> Played {
    let played = play(script, Options::default());
    if let Some((sentence, what)) = &played.broken {
        let options = Options {
            keep_lines: 30,
            ..Options::default()
        };
        let lines = play(script, options).lines.join("\n");
        let seed = script.seed;
        panic!("{lines}\nbroken: {sentence}\n  {what}\nseed {seed}, see `cargo sim --help`");
    }
    played
}

/// A kind of fault, or an answer to one, that never occurs would prove nothing: each must occur in these seeds.
#[test]
fn every_invariant_holds_on_sixty_seeds_in_which_everything_goes_wrong() {
    let mut seen = BTreeSet::new();
    for seed in 1..=60 {
        seen.extend(assert_holds(&Script::of(seed)).counts.into_keys());
    }
    for what in [
        "fault: black hole upward",
        "fault: frames of an old connection arrive late",
        "fault: frames of an old connection arrive again",
        "fault: some sites cut off one by one",
        "fault: acknowledgements lost",
        "fault: agent's disk full",
        "fault: agent's clock wrong",
        "fault: host suspended",
        "fault: orchestrator's disk full",
        "fault: host lost power",
        "frame of a connection its agent gave up",
        "frame of an old connection came again",
        "frame that no honest agent sends",
        "agent crash in commit",
        "agent crash in mid-speech",
        "agent removed",
        "attempt given up",
        "running task adopted",
        "orchestrator crash in commit",
        "orchestrator crash in mid-speech",
        "keeper did not start its task",
        "assignment refused by its site",
        "certificate renewed",
        "stream made beside one that works",
        "scheduled run",
        "strict site told of attempts",
        "run made to run again",
        "fault: wall clock set",
        "stale owner's commit refused",
        "tenant taken over by another replica",
        "replica that is not the owner turned an agent away",
        "state directory copied",
        "host put back to a snapshot",
        "two holders found out",
        "which holder stays decided",
        "holder switched off",
        "attempt said to be over",
        "attempt said to be over that may not be",
    ] {
        assert!(seen.contains(what), "never happened: {what}");
    }
}

fn regressions() -> Vec<(PathBuf, Script)> {
    let directory = tests_sim().join("regressions");
    let files = std::fs::read_dir(directory).expect("the regressions");
    let paths = files.map(|file| file.expect("a file").path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|is| is == "json"))
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a script");
        let script = serde_json::from_str(&text).expect("a script");
        (path, script)
    };
    paths.into_iter().map(read).collect()
}

/// Each was left of a seed that broke an invariant, by a bug that was found or one that the bug bank put back.
#[test]
fn what_is_left_of_seeds_that_broke_an_invariant_holds() {
    let regressions = regressions();
    assert!(!regressions.is_empty());
    for (path, script) in regressions {
        let played = play(&script, Options::default());
        assert_eq!(played.broken, None, "{}", path.display());
    }
}

#[test]
fn every_bug_of_the_bank_can_still_be_put_back() {
    let workspace = tests_sim().join("../..");
    let patches = bugbank::patches(&workspace).expect("the bugs");
    assert!(patches.len() >= 12, "{}", patches.len());
    for patch in patches {
        bugbank::fits(&workspace, &patch).expect("a patch that applies");
    }
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another() {
    for seed in [3, 17, 1040] {
        let all = Options {
            keep_lines: usize::MAX,
            ..Options::default()
        };
        let (one, two) = (run(seed, all), run(seed, all));
        let differs = one
            .lines
            .iter()
            .zip(&two.lines)
            .find(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(one, two, "seed {seed}");
        let plain = run(seed, Options::default());
        assert_eq!(one.hash, plain.hash, "keeping lines changes nothing");
    }
    let hash = |seed| run(seed, Options::default()).hash;
    assert_ne!(hash(3), hash(17));
}

/// Whoever speaks before the commit is found out within a few seeds.
fn found(hasty: Hasty, sentences: &[&str]) -> u64 {
    let options = Options {
        keep_lines: 0,
        hasty,
    };
    let found = (1..=20).find_map(|seed| Some((seed, run(seed, options).broken?)));
    let (seed, (sentence, what)) = found.expect("speaking before the commit was not noticed");
    assert!(sentences.contains(&sentence), "{sentence}: {what}");
    seed
}

#[test]
fn an_agent_that_speaks_before_its_commit_is_found_out() {
    found(
        Hasty::Agents,
        &["every frame sent has an earlier ledger record"],
    );
}

#[test]
fn an_orchestrator_that_speaks_before_its_commit_is_found_out_and_the_seed_made_smaller() {
    let sentences = [
        "what was acknowledged is in the store",
        "an honest agent raises no alarm",
        "an honest orchestrator raises no alarm",
        "only what is durably assigned to this agent, and not over, starts",
    ];
    let seed = found(Hasty::Orchestrator, &sentences);
    let options = Options {
        keep_lines: 0,
        hasty: Hasty::Orchestrator,
    };
    let whole = play(&Script::of(seed), options);
    let small = shrink(&Script::of(seed), options).expect("it breaks");
    let left = small.faults.as_ref().map_or(0, Vec::len);
    assert!(
        left < whole.faults.len(),
        "{left} of {}",
        whole.faults.len()
    );
    let again = play(&small, options).broken.map(|(sentence, _)| sentence);
    assert_eq!(again, whole.broken.map(|(sentence, _)| sentence));
}
