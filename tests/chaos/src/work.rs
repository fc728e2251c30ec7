//! What runs while everything breaks: entries that write down what they do, workflows over them, and a client that
//! asks for runs all the time and remembers what it was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use outpost_e2e::{Api, Entry, api};
use outpost_faults::chance::Chance;
use outpost_faults::history::{Run, site};
use serde_json::Value;

/// The one entry that its site calls `retry_safe`.
pub const RETRY_SAFE: &str = "safe";
/// Between two looks at what has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(700);
/// Before a request that was not answered is made again.
const ASK_AGAIN: Duration = Duration::from_millis(150);

/// The site's catalogue. Every task appends to `marks` in the directory that all tasks share.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let slow = |count: u32, seconds: &str| {
        let steps = format!("for step in $(seq {count}); do sleep {seconds}; alive; done");
        format!("{steps}\nover 0")
    };
    let flaky = "case $OUTPOST_ATTEMPT in *[0-7]) over 0;; *) over 7;; esac";
    vec![
        entry("quick", "over 0"),
        entry("work", &slow(4, "0.2")),
        entry("long", &slow(12, "0.5")),
        entry("flaky", flaky),
        entry(RETRY_SAFE, &slow(3, "0.2")).with("retry_safe = true"),
    ]
}

/// An entry whose script writes down its beginning, and whatever `body` says.
#[must_use]
pub fn entry(name: &str, body: &str) -> Entry {
    let script = format!("marks=$shared/marks\n{}{body}", site::SHELL);
    Entry::script(name, &script)
        .with("grace = \"1s\"")
        .with("timeout = \"120s\"")
}

/// Name, weight and text of each workflow.
pub const WORKFLOWS: [(&str, u64, &str); 5] = [
    ("single", 6, "name: single\ntasks:\n  one: {entry: quick}\n"),
    (
        "chain",
        4,
        "name: chain\ndefaults: {retries: 2, retry_delay: 1s}\ntasks:\n  first: {entry: quick}\n  second: {entry: work, needs: [first]}\n  third: {entry: safe, needs: [second]}\n",
    ),
    (
        "fan",
        3,
        "name: fan\ntasks:\n  out: {entry: quick}\n  a: {entry: work, needs: [out]}\n  b: {entry: safe, needs: [out]}\n  c: {entry: quick, needs: [out]}\n  in: {entry: quick, needs: [a, b, c]}\n",
    ),
    (
        "flaky",
        3,
        "name: flaky\ndefaults: {retries: 3, retry_delay: 1s}\ntasks:\n  one: {entry: flaky}\n  two: {entry: quick, needs: [one]}\n",
    ),
    (
        "long",
        2,
        "name: long\ndefaults: {retries: 1, retry_delay: 1s}\ntasks:\n  one: {entry: long}\n",
    ),
];

/// What a client was answered.
#[derive(Debug, Default)]
pub struct Asked {
    /// Runs it was told of.
    pub acknowledged: Vec<String>,
    /// Requests it gave up without an answer.
    pub unanswered: usize,
    /// Answers that are neither a run nor "later".
    pub refused: Vec<String>,
    /// Ends of attempts as they were shown the first time.
    pub seen: Vec<(String, String)>,
}

/// Asks for runs until it is told to stop.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Asked>,
    watching: JoinHandle<Vec<(String, String)>>,
}

impl Stream {
    /// Begins: one run of a drawn workflow `every` so often, each under a key of its own.
    ///
    /// # Panics
    /// When no thread can be had.
    #[must_use]
    pub fn start(client: &Api, seed: u64, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asking = {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            std::thread::spawn(move || ask(&client, seed, every, &stop))
        };
        let watching = {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            std::thread::spawn(move || watch(&client, &stop))
        };
        Self {
            stop,
            asking,
            watching,
        }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When one of its threads did.
    #[must_use]
    pub fn end(self) -> Asked {
        self.stop.store(true, Ordering::Relaxed);
        let mut asked = self.asking.join().expect("asking does not panic");
        asked.seen = self.watching.join().expect("watching does not panic");
        asked
    }
}

fn ask(client: &Api, seed: u64, every: Duration, stop: &AtomicBool) -> Asked {
    let mut chance = Chance::new(seed);
    let mut asked = Asked::default();
    let begun = Instant::now();
    for number in 0_u32.. {
        let due = begun + every * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let workflow = draw(&mut chance);
        let key = format!("chaos-{seed}-{number}");
        // Some clients do not ask again.
        let patient = chance.below(10) > 0;
        one(client, workflow, &key, patient, &mut asked);
    }
    asked
}

fn one(client: &Api, workflow: &str, key: &str, patient: bool, asked: &mut Asked) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match client.try_trigger_once(workflow, key) {
            Some(reply) if reply.status < 300 => {
                return asked.acknowledged.push(api::text(&reply.body["run"]));
            }
            // Nothing was done, and it is said so.
            Some(reply) if reply.status == 503 || reply.status == 429 => {}
            Some(reply) => {
                let said = format!("{workflow}: {} {}", reply.status, reply.body);
                return asked.refused.push(said);
            }
            None if !patient => return asked.unanswered += 1,
            None => {}
        }
        if Instant::now() > until {
            return asked.unanswered += 1;
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

fn draw(chance: &mut Chance) -> &'static str {
    let total = WORKFLOWS.iter().map(|(_, weight, _)| weight).sum();
    let mut place = chance.below(total);
    for (name, weight, _) in &WORKFLOWS {
        if place < *weight {
            return name;
        }
        place -= weight;
    }
    WORKFLOWS[0].0
}

/// Remembers every end that the API shows, so that one that changes later is noticed.
fn watch(client: &Api, stop: &AtomicBool) -> Vec<(String, String)> {
    let mut known = BTreeSet::new();
    let mut seen = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_AGAIN);
        let Some(page) = client.try_get("/api/v1/runs?limit=40") else {
            continue;
        };
        let items = page.body["items"].as_array().cloned().unwrap_or_default();
        for item in items {
            let over = item["state"] != "running" && item["state"] != "cancelling";
            let run = item["run"].as_str().unwrap_or_default().to_owned();
            if over && !known.contains(&run) {
                let tree = client.run(&run).unwrap_or(Value::Null);
                seen.extend(ends(&tree));
                known.insert(run);
            }
        }
    }
    seen.into_iter().collect()
}

fn ends(tree: &Value) -> Vec<(String, String)> {
    let run = Run::from_api(tree).unwrap_or_default();
    let attempts = run.tasks.into_iter().flat_map(|task| task.attempts);
    attempts
        .filter_map(|attempt| Some((attempt.attempt, attempt.outcome?)))
        .collect()
}
