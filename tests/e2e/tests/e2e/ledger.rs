//! The ledger holds what left, shows when somebody touched it, and what the orchestrator signed for; and without it nothing
//! leaves.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use outpost_certs::ca::Authority;
use outpost_certs::token::JoinToken;
use outpost_e2e::api::{Api, attempts_of, text};
use outpost_e2e::process::Done;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use serde_json::{Value, json};

use crate::preload::{FAILING_SYNC, compiled};

/// A record, or a file, is not as it was written.
const DAMAGED: i32 = 3;
/// A receipt does not hold.
const NOT_SIGNED_FOR: i32 = 4;

fn world() -> (World, Agent, Api) {
    let world = World::new();
    let agent = world.agent(
        "site-1",
        &[Entry::script("quick", "echo said-at-the-site-only")],
    );
    let api = world.api();
    let _ = api
        .apply("name: one\ntasks:\n  a: {entry: quick}\n  b: {entry: quick, needs: [a]}\n")
        .ok();
    (world, agent, api)
}

fn verified(agent: &Agent) -> Value {
    let told = agent.command(&["ledger", "verify", "--output", "json"]);
    serde_json::from_str(&told.ok()).unwrap()
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("000001.led")
}

#[test]
fn the_ledger_verifies_names_every_outcome_and_tells_when_a_byte_of_it_changed() {
    let (_world, mut agent, api) = world();
    let run = api.trigger("one", &json!({}));
    let tree = api.succeeded(&run);
    let summary = verified(&agent);
    assert!(summary["frames"].as_u64().unwrap() >= 5, "{summary:#}");
    let words = agent.ledger_words();
    for task in ["a", "b"] {
        let attempt = text(&attempts_of(&tree, task)[0]["attempt"]);
        let told = words
            .iter()
            .filter(|(_, words)| words.contains(&format!("{attempt} is over: succeeded")));
        assert_eq!(told.count(), 1, "{words:#?}");
    }
    agent.kill_runner();
    let _ = agent.command(&["ledger", "verify"]).ok();
    let segment = first_segment(&agent.state.join("ledger"));
    let good = std::fs::read(&segment).unwrap();
    let needle = b"said-at-the-site-only";
    assert!(!good.windows(needle.len()).any(|window| window == needle));
    // D4: everywhere but in the last record, where a torn write may be.
    for at in (0..good.len() / 2).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&segment, &bad).unwrap();
        let error = agent.command(&["ledger", "verify"]).fails_with(DAMAGED);
        assert!(error.contains("tampered"), "byte {at}: {error}");
    }
}

#[test]
fn an_enrolment_is_in_the_ledger_to_the_byte_and_its_token_is_nowhere_at_the_site() {
    let world = World::new();
    let token = world.token_file(&world.api(), "site-1");
    let text_of_token = std::fs::read_to_string(&token).unwrap();
    let secret: JoinToken = text_of_token.trim().parse().unwrap();
    let agent = world.enrolled("site-1", &token, &[Entry::script("quick", "true")]);
    let words = agent.ledger_words();
    let (_, enrolment) = words.iter().find(|(kind, _)| kind == "identity").unwrap();
    assert!(enrolment.contains("a first certificate"), "{enrolment}");
    assert!(enrolment.contains("public key "), "{enrolment}");
    let shown = agent.command(&["ledger", "show", "--output", "json"]).ok();
    let call = shown
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|record| record["kind"] == "identity")
        .unwrap();
    assert_eq!(call["identity"]["method"], "enrol");
    let hash: String = secret
        .secret_hash()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(text(&call["hex"]).contains(&hash), "{call:#}");
    for file in files(&agent.state) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let found = bytes.windows(32).any(|window| window == secret.secret());
        assert!(!found, "the token's secret is in {}", file.display());
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => all.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
    all
}

/// Waits until the orchestrator has signed for a session with these tasks in it.
fn signed(agent: &Agent) -> Value {
    eventually("the orchestrator has signed for what it received", || {
        let summary = verified(agent);
        let sessions = summary["sessions"].as_array()?;
        let has = |session: &Value| session["signed_frames"].as_u64() > Some(3);
        sessions.iter().any(has).then_some(summary)
    })
}

#[test]
fn the_orchestrator_signs_for_exactly_the_frames_that_the_ledger_holds_and_an_export_shows_it_elsewhere()
 {
    let (mut world, mut agent, api) = world();
    let _ = api.succeeded(&api.trigger("one", &json!({})));
    let summary = signed(&agent);
    assert_eq!(summary["receipts"]["unknown"], 0, "{summary:#}");
    assert_eq!(summary["findings"], json!([]), "{summary:#}");
    // A graceful end of the orchestrator is signed for to the last frame.
    world
        .orchestrator
        .process()
        .signal(rustix::process::Signal::TERM);
    let _ = world.orchestrator.ended_within(Duration::from_secs(30));
    let complete = eventually("the whole session is signed for", || {
        let summary = verified(&agent);
        let sessions = summary["sessions"].as_array()?;
        let whole = |s: &Value| s["frames"] == s["signed_frames"] && s["frames"].as_u64() > Some(3);
        sessions.iter().any(whole).then_some(summary)
    });
    assert!(complete["receipts"]["hold"].as_u64() >= Some(1));
    let words = agent.ledger_words();
    assert!(
        words.iter().any(|(kind, _)| kind == "receipt"),
        "{words:#?}"
    );
    agent.kill_runner();
    assert!(
        !agent.logged().contains("does not hold"),
        "{}",
        agent.logged()
    );

    let export = world.dir().join("export");
    let to = export.to_string_lossy().into_owned();
    let _ = agent.command(&["ledger", "export", &to]).ok();
    // Elsewhere: another state directory, which is none at all.
    let elsewhere = world.stranger("auditor", &[]);
    let told = elsewhere.command(&["ledger", "verify", "--from", &to, "--output", "json"]);
    let told: Value = serde_json::from_str(&told.ok()).unwrap();
    assert_eq!(
        (&told["head"], &told["verified"]),
        (&complete["head"], &json!(true))
    );
    let words = elsewhere.command(&["ledger", "verify", "--from", &to]).ok();
    assert!(
        words.contains("proven by the orchestrator's signatures"),
        "{words}"
    );
    each_kind_of_damage_is_named(&elsewhere, &export);
}

/// Offset and length of each record.
fn records(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        all.push((at, 25 + length + 32));
        at += 25 + length + 32;
    }
    all
}

fn each_kind_of_damage_is_named(auditor: &Agent, export: &Path) {
    let segment = first_segment(export);
    let good = std::fs::read(&segment).unwrap();
    let verify = || -> Done {
        let from = export.to_string_lossy();
        auditor.command(&["ledger", "verify", "--from", &from, "--output", "json"])
    };
    let all = records(&good);
    let record = |n: usize| &good[all[n].0..all[n].0 + all[n].1];
    let mut flipped = good.clone();
    flipped[all[4].0 + 27] ^= 1;
    let swapped = [&good[..all[4].0], record(5), record(4), &good[all[6].0..]].concat();
    let without = [&good[..all[4].0], &good[all[5].0..]].concat();
    let cut = good[..good.len() - 7].to_vec();
    for (bytes, kind) in [
        (flipped, "tampered"),
        (swapped, "reordered"),
        (without, "removed"),
        (cut, "truncated"),
    ] {
        std::fs::write(&segment, bytes).unwrap();
        let done = verify();
        assert_eq!(done.code, Some(DAMAGED), "{kind}: {done:?}");
        let told: Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(
            (&told["kind"], &told["verified"]),
            (&json!(kind), &json!(false))
        );
        assert!(text(&told["path"]).ends_with("000001.led"), "{told:#}");
        if kind != "truncated" {
            assert_eq!(told["offset"], json!(all[4].0), "{told:#}");
        }
    }
    std::fs::remove_file(&segment).unwrap();
    let done = verify();
    assert_eq!(done.code, Some(DAMAGED), "{done:?}");
    assert!(done.out.contains("missing_segment"), "{done:?}");
    // Without the list of files, as a copy of the directory: records are whole, and fewer than were signed for.
    let frames = |n: &usize| good[all[*n].0 + 4] == 1;
    let middle = (0..all.len()).filter(frames).nth(2).unwrap();
    std::fs::write(&segment, &good[..all[middle].0]).unwrap();
    std::fs::remove_file(export.join("manifest.json")).unwrap();
    let done = verify();
    assert_eq!(done.code, Some(NOT_SIGNED_FOR), "{done:?}");
    assert!(done.out.contains("the orchestrator signed for"), "{done:?}");
}

/// An agent that is to enrol where nobody but this test listens.
fn enrolling(world: &World, listener: &TcpListener) -> (Agent, String) {
    let authority = Authority::create("test.example", SystemTime::now()).unwrap();
    let url = listener.local_addr().unwrap().to_string();
    let (tenant, agent) = ("acme".parse().unwrap(), "site-1".parse().unwrap());
    let pin = authority.root_pin();
    let token = JoinToken::new(&url, tenant, agent, "test.example", pin).unwrap();
    let file = world.dir().join("token");
    std::fs::write(&file, token.expose().as_str()).unwrap();
    let agent = world.stranger("site-1", &[]);
    (agent, file.to_string_lossy().into_owned())
}

fn somebody_came(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    let mut came = false;
    while listener.accept().is_ok() {
        came = true;
    }
    came
}

#[test]
fn d3_without_a_ledger_that_can_be_synced_nothing_leaves_not_even_an_enrolment() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut agent, token) = enrolling(&world, &listener);
    let enrol = |agent: &Agent| agent.command(&["enrol", "--token-file", &token]);
    let fail = world.dir().join("fail");
    let object = compiled(world.dir(), FAILING_SYNC, "FAIL", &fail);
    // The state directory is there already: what fails is the ledger.
    let waits = std::thread::spawn({
        let listener = listener.try_clone().unwrap();
        move || drop(listener.accept())
    });
    let error = enrol(&agent).fails_with(1);
    waits.join().unwrap();
    assert!(
        !error.contains("ledger"),
        "with a ledger it connects: {error}"
    );
    assert!(!somebody_came(&listener));

    std::fs::write(&fail, "").unwrap();
    agent.env = vec![("LD_PRELOAD".to_owned(), object.display().to_string())];
    let error = enrol(&agent).fails_with(1);
    assert!(error.contains("syncing"), "{error}");
    assert!(!somebody_came(&listener), "nothing may leave: {error}");
    agent.env = Vec::new();
    let ledger = agent.state.join("ledger");
    std::fs::remove_dir_all(&ledger).unwrap();
    std::fs::write(&ledger, "no directory").unwrap();
    let error = enrol(&agent).fails_with(1);
    assert!(error.contains("ledger"), "{error}");
    assert!(!somebody_came(&listener), "nothing may leave: {error}");
}

#[test]
fn d4_an_agent_does_not_go_on_with_a_ledger_that_was_touched_and_nothing_leaves() {
    let (world, mut agent, api) = world();
    let _ = api.succeeded(&api.trigger("one", &json!({})));
    agent.kill_runner();
    let sessions = || {
        let log = std::fs::read_to_string(world.orchestrator.log()).unwrap();
        log.matches("session begins").count()
    };
    assert_eq!(sessions(), 1);
    let segment = first_segment(&agent.state.join("ledger"));
    let good = std::fs::read(&segment).unwrap();
    let all = records(&good);
    let without = [&good[..all[2].0], &good[all[3].0..]].concat();
    std::fs::write(&segment, without).unwrap();
    agent.start();
    assert_eq!(agent.ended_within(Duration::from_secs(30)), Some(1));
    let logged = agent.logged();
    assert!(logged.contains("the ledger is damaged"), "{logged}");
    assert_eq!(sessions(), 1, "nothing was said");
    std::fs::write(&segment, good).unwrap();
    agent.start();
    eventually("it goes on with what it wrote", || so(sessions() == 2));
}
