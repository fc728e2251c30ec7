//! Every example is run for real: its own catalogue and its own workflow, with the site's paths put into a directory of
//! the test, and what it leaves on disk is what its words promise. (`host-report` is run by `outpost demo`.)

use std::path::{Path, PathBuf};
use std::process::Command;

use outpost_e2e::api::{attempts_of, text};
use outpost_e2e::site::{TASK_USER, is_root, mode};
use outpost_e2e::{Agent, World};
use serde_json::{Value, json};

/// Where an entry's account belongs when the agent is root.
const USER: &str = "#user#";

/// An example at a site, applied and ready to run.
struct Example {
    name: &'static str,
    world: World,
    agent: Agent,
}

impl Example {
    /// Installs it. Each of `paths` is a variable of its catalogue and the place below the test's directory that it
    /// names instead.
    fn new(name: &'static str, paths: &[(&str, &str)]) -> Self {
        let world = World::new();
        let token = world.token_file(&world.api(), "site-1");
        let mut agent = world.enrolled("site-1", &token, &[]);
        install(name, agent.site.catalogue(), |line| {
            let own = paths.iter().fold(line, |line, (variable, place)| {
                with_value(&line, variable, &world.shared(place))
            });
            let paths = own.matches("= \"/").count();
            let ours = own.matches(&*world.shared("").to_string_lossy()).count();
            assert_eq!(paths, ours, "a path is still the example's: {own}");
            own
        });
        let _ = agent.command_with_catalogue(&["catalogue", "lint"]).ok();
        agent.start();
        agent.live(&world.api());
        let file = examples().join(format!("{name}.yaml"));
        let said = world
            .outpost(&["apply", "-f", &file.to_string_lossy()])
            .ok();
        assert!(said.contains("created"), "{said}");
        // What runs is what the test asks for, also when the schedule's next instant falls into it.
        let _ = world.outpost(&["pause", name]).ok();
        Self { name, world, agent }
    }

    /// A directory of the site, which tasks can write to.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.world.shared(name);
        std::fs::create_dir_all(&dir).unwrap();
        mode(&dir, 0o777);
        dir
    }

    fn write(&self, place: &str, content: &str) -> PathBuf {
        let path = self.world.shared(place);
        std::fs::write(&path, content).unwrap();
        mode(&path, 0o644);
        path
    }

    /// Runs it to its end; the run's tree.
    fn run(&self, params: &Value) -> Value {
        let api = self.world.api();
        api.finished(&api.trigger(self.name, params))
    }

    fn succeeds(&self, params: &Value) -> Value {
        let tree = self.run(params);
        assert_eq!(tree["state"], "succeeded", "{tree:#}");
        tree
    }

    fn fails(&self, params: &Value) -> Value {
        let tree = self.run(params);
        assert_eq!(tree["state"], "failed", "{tree:#}");
        tree
    }

    /// What the site keeps of the last attempt of a task.
    fn output(&self, tree: &Value, task: &str) -> String {
        let attempts = attempts_of(tree, task);
        let last = attempts.last().expect("it was tried");
        self.agent.output(&text(&last["attempt"]))
    }

    /// What a task left for those after it.
    fn said(&self, tree: &Value, task: &str) -> String {
        let run = self.agent.state.join("runs").join(text(&tree["run"]));
        std::fs::read_to_string(run.join("out").join(format!("{task}.env"))).unwrap()
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// Copies an example's catalogue, as its own words say to: with an account for each entry where the agent is root.
fn install(name: &str, catalogue: &Path, own: impl Fn(String) -> String) {
    let from = examples().join(name).join("catalogue.d");
    let scripts = catalogue.join("scripts");
    std::fs::create_dir(&scripts).unwrap();
    mode(&scripts, 0o755);
    for script in std::fs::read_dir(from.join("scripts")).unwrap() {
        let script = script.unwrap();
        let copy = scripts.join(script.file_name());
        std::fs::copy(script.path(), &copy).unwrap();
        mode(&copy, 0o644);
    }
    let toml = std::fs::read_to_string(from.join(format!("{name}.toml"))).unwrap();
    let lines = toml.lines().map(|line| {
        let account = is_root() && line.trim() == USER;
        let line = if account {
            format!("user = \"{TASK_USER}\"")
        } else {
            line.to_owned()
        };
        own(line) + "\n"
    });
    let file = catalogue.join("site.toml");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    mode(&file, 0o644);
}

/// The line with another value for a variable of `env = { … }`, if it sets it.
fn with_value(line: &str, variable: &str, value: &Path) -> String {
    let Some((before, rest)) = line.split_once(&format!("{variable} = \"")) else {
        return line.to_owned();
    };
    let (_, after) = rest.split_once('"').expect("a text ends");
    format!("{before}{variable} = \"{}\"{after}", value.display())
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>();
    names.sort();
    names
}

#[test]
fn csv_pipeline_sums_up_by_country_and_refuses_an_input_that_is_mostly_wrong() {
    let paths = [("ORDERS", "orders.csv"), ("REPORTS", "reports")];
    let example = Example::new("csv-pipeline", &paths);
    let reports = example.dir("reports");
    let good = "1,DE,10.50\n2,FR,3\n3,DE,0.25\n4,fr,9.99\n5,FR,4.1\n6,NL,100.00\n";
    let _ = example.write("orders.csv", &format!("id,country,amount\n{good}"));

    let tree = example.fails(&json!({}));
    let why = example.output(&tree, "clean");
    assert!(why.contains("1 of 6 rows were rejected"), "{why}");
    assert_eq!(names(&reports), Vec::<String>::new());

    let tree = example.succeeds(&json!({ "max_rejected_percent": 20 }));
    let report = reports.join(format!("by-country.{}.csv", text(&tree["run"])));
    assert_eq!(
        std::fs::read_to_string(report).unwrap(),
        "country,orders,total\nNL,1,100.00\nDE,2,10.75\nFR,2,7.10\n"
    );
    assert_eq!(names(&reports).len(), 1, "no half report is left");
    assert!(example.said(&tree, "clean").contains("rejected=1\n"));
}

#[test]
fn file_integrity_accepts_first_then_names_what_changed_until_it_is_accepted() {
    let paths = [("WATCHED", "watched"), ("ACCEPTED", "accepted/state")];
    let example = Example::new("file-integrity", &paths);
    let (watched, accepted) = (example.dir("watched"), example.dir("accepted"));
    let _ = example.write("watched/kept", "as ever");
    let changing = example.write("watched/changing", "before");

    let tree = example.succeeds(&json!({}));
    assert!(
        example
            .output(&tree, "compare")
            .contains("accepted: 2 files")
    );
    assert!(accepted.join("state").is_file());
    let tree = example.succeeds(&json!({}));
    assert!(example.output(&tree, "compare").contains("nothing changed"));

    let _ = example.write("watched/changing", "after");
    let added = example.write("watched/added", "new");
    let tree = example.fails(&json!({}));
    let attempts = attempts_of(&tree, "compare");
    assert_eq!(attempts.len(), 1, "a difference is no reason to look again");
    assert_eq!(attempts[0]["exit_code"], 1, "{tree:#}");
    let log = example.output(&tree, "compare");
    for file in [&changing, &added] {
        assert!(log.contains(&*file.to_string_lossy()), "{log}");
    }
    let kept = watched.join("kept").to_string_lossy().into_owned();
    assert!(!log.contains(&kept), "{log}");

    let _ = example.succeeds(&json!({ "accept": true }));
    let tree = example.succeeds(&json!({}));
    assert!(example.output(&tree, "compare").contains("nothing changed"));
}

#[test]
fn fan_out_counts_each_region_and_adds_them_up() {
    let example = Example::new("fan-out", &[("READINGS", "readings")]);
    let _ = example.dir("readings");
    for (region, readings) in [("north", 3), ("south", 0), ("east", 11)] {
        let _ = example.write(&format!("readings/{region}.log"), &"1.5\n".repeat(readings));
    }
    let tree = example.succeeds(&json!({}));
    assert_eq!(tree["tasks"].as_array().unwrap().len(), 5, "{tree:#}");
    assert_eq!(example.said(&tree, "count-east"), "region=east\ncount=11\n");
    assert_eq!(example.said(&tree, "count-west"), "region=west\ncount=0\n");
    assert_eq!(example.said(&tree, "total"), "total=14\n");
}

#[test]
#[ignore = "needs: sqlite3"]
fn nightly_backup_leaves_a_copy_that_was_read_back_and_as_many_as_asked_for() {
    let paths = [("DATABASE", "app/app.db"), ("BACKUPS", "backups")];
    let example = Example::new("nightly-backup", &paths);
    let (app, backups) = (example.dir("app"), example.dir("backups"));
    let database = app.join("app.db");
    let _ = sqlite(
        &database,
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, amount INTEGER); INSERT INTO orders (amount) VALUES (7), (35);",
    );
    mode(&database, 0o644);
    for year in [2023, 2024, 2025] {
        let old = format!("{year}0101T013000Z.run.db");
        let _ = example.write(&format!("backups/{old}"), "");
        let _ = example.write(&format!("backups/{old}.sha256"), "");
    }

    let tree = example.succeeds(&json!({ "keep": 2 }));
    let said = example.said(&tree, "dump");
    let dump = PathBuf::from(said.trim().strip_prefix("dump=").unwrap());
    assert_eq!(sqlite(&dump, "SELECT sum(amount) FROM orders"), "42\n");
    let own = dump.file_name().unwrap().to_string_lossy().into_owned();
    let kept = "20250101T013000Z.run.db".to_owned();
    let sums = [format!("{kept}.sha256"), format!("{own}.sha256")];
    let [kept_sum, own_sum] = sums;
    assert_eq!(
        names(&backups),
        [kept, kept_sum, own.clone(), own_sum.clone()]
    );
    let sum = std::fs::read_to_string(backups.join(own_sum)).unwrap();
    assert!(sum.ends_with(&format!("  {own}\n")), "{sum}");
    let log = example.output(&tree, "verify");
    assert!(log.contains("verified: "), "{log}");
}

/// What the program `sqlite3` answers.
fn sqlite(database: &Path, words: &str) -> String {
    let mut command = Command::new("sqlite3");
    let done = command.arg(database).arg(words).output();
    let done = done.expect("sqlite3 is installed");
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}
