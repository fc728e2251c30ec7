//! The leak test as a site makes it: canaries that the orchestrator has run, and the mark they left nowhere else.

use std::path::Path;

use outpost_e2e::site::mode;
use outpost_e2e::wait::so;
use outpost_e2e::{Agent, Entry, World, eventually};
use serde_json::{Value, json};

use crate::capture::audited_while;

fn report(agent: &Agent, args: &[&str], code: i32) -> Value {
    let args = [&["leaktest", "--output", "json"][..], args].concat();
    let done = agent.command(&args);
    assert_eq!(done.code, Some(code), "{done:#?}");
    serde_json::from_str(&done.out).unwrap()
}

fn places(report: &Value) -> Vec<(&str, u64, u64)> {
    let places = report["places"].as_array().unwrap().iter();
    places
        .filter(|place| !place["looked"].is_null())
        .map(|place| {
            let number = |name: &str| place["looked"][name].as_u64().unwrap();
            (
                place["place"].as_str().unwrap(),
                number("bytes"),
                number("hits"),
            )
        })
        .collect()
}

/// Puts the canaries into the agent's catalogue and has the orchestrator run them.
fn instructed(world: &World, agent: &Agent) {
    let prepared = agent.command_with_catalogue(&["leaktest", "prepare"]);
    assert_eq!(prepared.code, Some(0), "{prepared:#?}");
    mode(&agent.site.catalogue().join("leaktest.sh"), 0o644);
    let _ = agent.command(&["reload"]).ok();
    let api = world.api();
    eventually("the canaries are known", || {
        so(api.agent(&agent.name)?["entries"].as_u64()? > 6)
    });
    let _ = api.apply(&prepared.out).ok();
    let run = api.trigger("leaktest", &json!({}));
    let _ = api.finished(&run);
}

#[test]
fn a_mark_that_canaries_left_everywhere_is_nowhere_but_in_their_own_logs() {
    let world = World::new();
    let agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    instructed(&world, &agent);
    let data = world.orchestrator.dir().to_string_lossy().into_owned();
    let report = report(&agent, &["--no-try", "--orchestrator-db", &data], 0);
    assert_eq!(report["verdict"], "nothing_found");
    assert_eq!(report["unseen"], json!([]), "every form is in the logs");
    let canaries = report["canaries"].as_array().unwrap();
    assert_eq!(canaries.len(), 6, "{canaries:#?}");
    assert!(canaries.iter().all(|canary| canary["how"] == "instructed"));
    let logged = |name: &str| {
        let canary = canaries.iter().find(|canary| canary["entry"] == name);
        canary.unwrap()["log"]["hits"].as_u64().unwrap()
    };
    assert!(logged("leaktest-spray") >= 12);
    for name in ["count", "fail", "signal", "timeout"] {
        assert!(logged(&format!("leaktest-{name}")) > 0, "{canaries:#?}");
    }
    let looked = places(&report);
    for place in ["ledger", "orchestrator's data"] {
        let found = looked.iter().find(|(name, ..)| *name == place).unwrap();
        assert!(found.1 > 500 && found.2 == 0, "{found:?}");
    }
}

/// What a shell makes of the mark, and how the search calls what it finds: `@T` is the mark with a place, `@A` and `@B`
/// are its two halves.
const DRESSES: [(&str, &str); 12] = [
    ("printf %s @T", "raw"),
    ("printf %s @T | base64 -w0", "base64"),
    ("printf x%s @T | base64 -w0", "base64-after1"),
    ("printf xy%s @T | base64 -w0", "base64-after2"),
    ("printf %s @T | od -An -v -tx1 | tr -d ' \\n'", "hex-lower"),
    (
        "printf %s @T | od -An -v -tx1 | tr -d ' \\n' | tr a-f A-F",
        "hex-upper",
    ),
    ("printf %s @T | gzip -nc", "gzip"),
    ("printf %s @T | gzip -nc | base64 -w0", "gzip-base64"),
    ("printf %s @T | base64 -w0 | gzip -nc", "gzip"),
    ("printf 'leakmark%s\\0\\22\\10%s' @A @B", "half"),
    ("printf %sleak @A | base64 -w0", "half"),
    ("printf %s @B | od -An -v -tx1 | tr -d ' \\n'", "half"),
];

fn mark_of(agent: &Agent) -> String {
    let remembered = std::fs::read(agent.state.join("leaktest.json")).unwrap();
    let prepared: Value = serde_json::from_slice(&remembered).unwrap();
    prepared["mark"].as_str().unwrap().to_owned()
}

#[test]
fn a_mark_that_is_where_it_must_not_be_is_found_and_told_how_it_was_hidden() {
    let world = World::new();
    let agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    instructed(&world, &agent);
    let mark = mark_of(&agent);
    let planted = world.dir().join("planted");
    let first = |path: &std::path::Path| {
        let path = path.to_string_lossy().into_owned();
        let report = report(&agent, &["--no-try", "--orchestrator-db", &path], 1);
        assert_eq!(report["verdict"], "found");
        let mut places = report["places"].as_array().unwrap().iter();
        let place = places.find(|place| place["place"] == "orchestrator's data");
        place.unwrap()["looked"]["first"][0].clone()
    };
    for (script, form) in DRESSES {
        let script = script
            .replace("@T", &format!("{mark}.output"))
            .replace("@A", &mark[8..16])
            .replace("@B", &mark[16..]);
        let script = format!("printf 'before: '; {script}; printf ' :behind'");
        let made = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .output();
        std::fs::write(&planted, made.unwrap().stdout).unwrap();
        let hit = first(&planted);
        assert_eq!(hit["form"], form, "{script}: {hit}");
        assert!(hit["offset"].as_u64() >= Some(8), "{script}: {hit}");
        if form != "half" && !script.contains("-w0 | gzip") {
            // The last group of base64 is cut by what follows it.
            let left_as = hit["left_as"].as_str().unwrap_or_default();
            assert!(
                left_as.len() > 2 && "output".starts_with(left_as),
                "{script}: {hit}"
            );
        }
    }
    // In the orchestrator's database itself, where somebody upstream wrote it down.
    let workflow = format!("name: {mark}\ntasks:\n  t: {{ entry: quick }}\n");
    let _ = world.api().apply(&workflow).ok();
    assert_eq!(first(world.orchestrator.dir())["form"], "raw");
}

/// Where canaries' logs are encrypted, who has no key cannot say that they hold the mark.
#[test]
fn what_cannot_be_searched_makes_the_test_void_and_is_told() {
    let world = World::new();
    let api = world.api();
    let token = world.token_file(&api, "site-1");
    let mut agent = world.enrolled("site-1", &token, &[Entry::script("quick", "true")]);
    let key = agent.state.with_file_name("site.key").display().to_string();
    let _ = agent.command(&["site-key", "new", "--out", &key]).ok();
    agent.env = vec![("OUTPOST_AGENT_SITE_KEY_FILE".to_owned(), key.clone())];
    agent.start();
    agent.live(&api);
    instructed(&world, &agent);
    let good = report(&agent, &["--no-try"], 0);
    assert_eq!(good["verdict"], "nothing_found");
    agent.env = Vec::new();
    let void = report(&agent, &["--no-try"], 3);
    assert_eq!(void["verdict"], "void");
    let told = void["canaries"][0]["log"]["not_searched"][0]
        .as_str()
        .unwrap();
    assert!(told.contains("--site-key-file"), "{told}");
    let with = ["--no-try", "--site-key-file", &key];
    assert_eq!(report(&agent, &with, 0)["verdict"], "nothing_found");

    let with_data = |path: &std::path::Path| {
        let path = path.to_string_lossy().into_owned();
        let args = [&with[..], &["--orchestrator-db", &path]].concat();
        report(&agent, &args, 3)
    };
    let void = with_data(&world.dir().join("none"));
    assert_eq!(void["verdict"], "void");
    let data = world.dir().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("dump"), "nothing").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", data.join("link")).unwrap();
    let void = with_data(&data).to_string();
    assert!(void.contains("links that lead elsewhere"), "{void}");
}

#[test]
fn a_search_that_does_not_find_the_mark_where_it_must_be_proves_nothing() {
    let world = World::new();
    let agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    let done = agent.command_with_catalogue(&["leaktest", "prepare"]);
    assert_eq!(done.code, Some(0), "{done:#?}");
    // None of the canaries has run.
    let report = report(&agent, &["--no-try"], 3);
    assert_eq!(report["verdict"], "void");
    assert_eq!(report["unseen"].as_array().unwrap().len(), 12);
}

#[test]
fn a_site_can_make_the_test_alone() {
    let world = World::new();
    let agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    let report = report(&agent, &[], 0);
    let canaries = report["canaries"].as_array().unwrap();
    let ended: Vec<(&str, &str)> = canaries
        .iter()
        .map(|canary| {
            (
                canary["entry"].as_str().unwrap(),
                canary["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(ended.len(), 6);
    assert!(
        ended.contains(&("leaktest-spray", "succeeded")),
        "{ended:?}"
    );
    assert!(
        ended.contains(&("leaktest-timeout", "timed_out")),
        "{ended:?}"
    );
    assert!(canaries.iter().all(|canary| canary["how"] == "tried"));
    assert_eq!(report["verdict"], "nothing_found");
}

#[test]
#[ignore = "needs: root"]
fn as_root_the_memory_of_link_is_looked_at_too() {
    let world = World::new();
    let agent = world.agent("site-1", &[Entry::script("quick", "true")]);
    instructed(&world, &agent);
    let report = report(&agent, &["--no-try"], 0);
    let looked = places(&report);
    let memory = looked.iter().find(|(name, ..)| *name == "memory of link");
    assert!(
        memory.is_some_and(|(_, bytes, hits)| *bytes > 1 << 20 && *hits == 0),
        "{report:#?}"
    );
}

#[test]
#[ignore = "needs: root, tshark"]
fn what_was_captured_is_searched_and_what_no_key_opens_makes_the_test_void() {
    let world = World::new();
    let (agent, capture, keylog) = audited_while(&world, |agent| instructed(&world, agent));
    let none = world.dir().join("none.log");
    std::fs::write(&none, "").unwrap();
    let capture = capture.to_string_lossy();
    let looked = |keylog: &Path, code: i32| {
        let keylog = keylog.to_string_lossy();
        let args = ["--no-try", "--capture", &capture, "--keylog", &keylog];
        let report = report(&agent, &args, code);
        let place = "captured upstream bytes";
        let looked = places(&report)
            .into_iter()
            .find(|(name, ..)| *name == place);
        let (_, bytes, hits) = looked.unwrap();
        (report["verdict"].as_str().unwrap().to_owned(), bytes, hits)
    };
    let (verdict, opened, hits) = looked(&keylog, 0);
    assert_eq!((verdict.as_str(), hits), ("nothing_found", 0));
    let (verdict, closed, _) = looked(&none, 3);
    assert_eq!(verdict, "void");
    assert!(
        opened > closed + 500,
        "{opened} bytes, {closed} without keys"
    );
}
