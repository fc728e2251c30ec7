//! P3: nobody takes the place of a task that may still run, until a person says that it is over; what its agent tells
//! later is kept beside (P2).

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::wait::so;
use outpost_e2e::{Entry, World, eventually};
use serde_json::json;

/// A task of which each attempt waits until the test lets it go on.
const EACH: &str = "until [ -e \"$shared/go.$OUTPOST_ATTEMPT\" ]; do sleep 0.05; done";
const ONE: &str =
    "name: one\ndefaults: {retries: 1, retry_delay: 1s}\ntasks:\n  wait: {entry: each}\n";
const QUICK: &str = "name: quick\ntasks:\n  now: {entry: quick}\n";

#[test]
fn p3_a_silent_task_has_no_successor_until_a_person_says_that_it_is_over_and_its_late_end_is_kept_beside()
 {
    let world = World::new();
    let api = world.api();
    let entries = [
        Entry::script("each", EACH),
        Entry::script("quick", "exit 0"),
    ];
    let mut first = world.agent("site-1", &entries);
    let _ = api.apply(ONE).ok();
    let _ = api.apply(QUICK).ok();
    let run = api.trigger("one", &json!({}));
    let attempt = api.attempt_in(&run, "wait", "running");
    let path = format!("/api/v1/attempts/{attempt}/assert-dead");
    let word = json!({ "reason": "the machine burnt down" });
    let denied = api.post(&path, &word);
    assert!(denied.status >= 400, "its agent is in touch: {denied:?}");
    first.kill_runner();

    // Somebody else is there, and works: nothing more goes to the one that is gone.
    let second = world.agent("site-2", &entries);
    eventually("its agent is seen to be away", || {
        so(api.agent("site-1")?["connected"] == false)
    });
    let _ = api.succeeded(&api.trigger("quick", &json!({})));
    let tree = api.run(&run).unwrap();
    assert_eq!(attempts_of(&tree, "wait").len(), 1, "{tree:#}");
    assert_eq!(attempts_of(&tree, "wait")[0]["state"], "running");

    eventually("a person's word is taken", || {
        (api.try_post(&path, &word)?.status < 300).then_some(())
    });
    let next = api.attempt_in(&run, "wait", "running");
    assert_ne!(next, attempt);
    world.allow(&format!("go.{next}"));
    let tree = api.succeeded(&run);
    let given_up = &attempts_of(&tree, "wait")[0];
    assert_eq!(given_up["state"], "lost", "{tree:#}");
    assert_eq!(given_up["may_have_started"], true, "{tree:#}");
    let kept = &given_up["asserted_dead"];
    assert_eq!(kept["reason"], "the machine burnt down", "{tree:#}");
    assert!(!text(&kept["by"]).is_empty() && !text(&kept["at"]).is_empty());

    world.allow(&format!("go.{attempt}"));
    first.start();
    let tree = eventually("its end is told after all", || {
        let tree = api.run(&run)?;
        let late = attempts_of(&tree, "wait")[0]["late"].is_string();
        late.then_some(tree)
    });
    let attempts = attempts_of(&tree, "wait");
    assert_eq!(attempts[0]["late"], "succeeded", "{tree:#}");
    assert_eq!(attempts[0]["state"], "lost", "it changes nothing: {tree:#}");
    assert_eq!(attempts.len(), 2, "{tree:#}");
    assert_eq!(world.starts_of("wait"), 2);
    drop(second);
}
