//! C1, C2: every named place in the code, one after the other: work is under way, somebody dies there, it is started
//! again, and the history of both sides holds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use outpost_chaos::field::Field;
use outpost_chaos::gather;
use outpost_chaos::places::Places;
use outpost_chaos::work::{Asked, entry};
use outpost_e2e::wait::{DEADLINE, so};
use outpost_e2e::{Proc, eventually, report};
use outpost_failpoint::{ALL, Point, Process};
use outpost_faults::history::Summary;
use outpost_faults::proxy::{End, Rules};

/// A task that waits until the test lets it go on.
const GATE: &str = "until [ -e \"$shared/go.$OUTPOST_RUN\" ]; do sleep 0.05; done\nalive\nover 0";
const WORKFLOW: &str =
    "name: one\ndefaults: {retries: 5, retry_delay: 1s}\ntasks:\n  wait: {entry: gate}\n";

/// Tasks as short as they come, more of them than slots: keepers are handed the next one ahead.
const BRIEF: &str = "alive\nover 0";
const WORKFLOW_OF_BRIEF: &str = "name: many\ndefaults: {retries: 5, retry_delay: 1s}\ntasks:\n  a: {entry: brief}\n  \
    b: {entry: brief}\n  c: {entry: brief}\n  d: {entry: brief}\n  e: {entry: brief}\n  f: {entry: brief}\n  \
    g: {entry: brief}\n  h: {entry: brief}\n";

/// When the wish is made: before a run is asked for, or while its task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    During,
}

struct Stage {
    field: Field,
    places: Places,
    asked: Asked,
}

impl Stage {
    fn new() -> Self {
        Self::with("all", &[])
    }

    /// `name` is no other stage's; all processes find `more` in their environment.
    fn with(name: &str, more: &[(&str, &str)]) -> Self {
        // Beside the world's directory, which is made with the processes that must know this one.
        let dir = format!("outpost-places-{name}-{}", std::process::id());
        let places = Places::at(&std::env::temp_dir().join(dir));
        let [(variable, dir)] = places.environment();
        let field = Field::with_environment(
            1,
            &[entry("gate", GATE), entry("brief", BRIEF)],
            &[&[(variable, dir.as_str())], more].concat(),
        );
        let _ = field.api.apply(WORKFLOW).ok();
        let _ = field.api.apply(WORKFLOW_OF_BRIEF).ok();
        Self {
            field,
            places,
            asked: Asked::default(),
        }
    }

    /// Asks until there is an answer, with whoever is dead started again meanwhile.
    fn trigger(&mut self, key: &str) -> String {
        self.trigger_of("one", key)
    }

    fn trigger_of(&mut self, workflow: &str, key: &str) -> String {
        let run = eventually("a run is acknowledged", || {
            self.start_the_dead();
            let reply = self.field.api.try_trigger_once(workflow, key)?;
            (reply.status < 300).then(|| outpost_e2e::api::text(&reply.body["run"]))
        });
        self.asked.acknowledged.push(run.clone());
        run
    }

    fn start_the_dead(&mut self) {
        if !self.field.world.orchestrator.is_running() {
            self.field.world.orchestrator.kill_and_restart();
        }
        if !self.field.agents[0].is_running() {
            self.restart_runner();
        }
    }

    /// Kills the runner, if it runs, and starts another one, which does not know how often that was done before: it
    /// would wait longer and longer.
    fn restart_runner(&mut self) {
        let agent = &mut self.field.agents[0];
        agent.kill_runner();
        let _ = std::fs::remove_file(agent.state.join("crashes"));
        agent.start();
    }

    fn running(&mut self, run: &str) {
        eventually("its task runs", || {
            self.start_the_dead();
            let tree = self.field.api.run(run)?;
            so(tree["tasks"][0]["state"] == "running")
        });
    }

    fn allow(&self, run: &str) {
        self.field.world.allow(&format!("go.{run}"));
    }

    fn over(&mut self, run: &str) {
        let mut last = String::new();
        let until = Instant::now() + DEADLINE;
        loop {
            self.start_the_dead();
            let tree = self.field.api.run(run).unwrap_or_default();
            let state = tree["state"].as_str();
            if state == Some("succeeded") {
                return;
            }
            let over = matches!(state, Some("failed" | "cancelled"));
            assert!(!over, "it can be tried again: {tree:#}");
            if state.is_some() {
                last = format!("{tree:#}");
            }
            assert!(
                Instant::now() < until,
                "it does not come to its end: {last}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A runner that knows no keeper asks the spawner for one.
    fn fresh_runner(&mut self) {
        self.restart_runner();
        self.field.agents[0].live(&self.field.api);
    }

    fn die_at(&mut self, point: &Point, moment: Moment) {
        let key = format!("{}-{moment:?}", point.name);
        match (point.process, moment) {
            (Process::ClaimingRunner, _) => return self.die_claiming(point, &key),
            (Process::RewritingRunner, _) => return self.die_rewriting(point, &key),
            (Process::Ahead, _) => return self.die_ahead(point, &key),
            // A runner that saw many links end waits before it starts another one.
            (
                Process::Link
                | Process::ConnectingLink
                | Process::RenewingLink
                | Process::Spawner
                | Process::Keeper,
                _,
            ) => self.fresh_runner(),
            (Process::Orchestrator | Process::Runner | Process::Restore, _) => {}
        }
        if moment == Moment::Before {
            self.wish(point);
        }
        let run = self.trigger(&key);
        if moment == Moment::During {
            self.running(&run);
            self.wish(point);
        }
        // What comes at the end of a task is reached only when it may end.
        self.allow(&run);
        let died = self.places.wait(point.name);
        eventually("it is dead", || so(Proc::of(died).is_none()));
        self.over(&run);
    }

    fn wish(&self, point: &Point) {
        self.places.kill_once(point.name);
        if point.process == Process::ConnectingLink {
            let proxy = &self.field.proxy;
            for connection in proxy.connections() {
                let _ = proxy.disturb(connection, Rules::ended(End::Rst));
            }
        }
    }

    /// Every run is over, nobody disturbs anything, and the history of both sides holds.
    fn end(mut self) {
        self.field.mend();
        assert!(gather::quiet(&self.field, Duration::from_secs(60)));
        let asked = std::mem::take(&mut self.asked);
        let summary = Summary::of(&gather::history(&self.field, asked));
        report::note(&summary);
        assert!(summary.holds(), "{summary}");
    }

    /// A runner that finds a journal that says that it is of an older format: it is written anew when it is opened.
    fn die_rewriting(&mut self, point: &Point, key: &str) {
        let run = self.trigger(key);
        self.running(&run);
        self.field.agents[0].kill_runner();
        let journal = self.field.agents[0].state.join("journal");
        let text = std::fs::read_to_string(&journal).unwrap();
        let (_, lines) = text.split_once('\n').unwrap();
        // CRC-32 of what follows it.
        let header = "d74d8fd6 {\"outpost_journal\":1}";
        std::fs::write(&journal, format!("{header}\n{lines}")).unwrap();
        self.places.kill_once(point.name);
        self.restart_runner();
        let died = self.places.wait(point.name);
        eventually("it is dead", || so(Proc::of(died).is_none()));
        self.allow(&run);
        self.over(&run);
    }

    /// Among short tasks: how many are handed over ahead depends on how long they take, so it goes on until somebody came by.
    fn die_ahead(&mut self, point: &Point, key: &str) {
        self.fresh_runner();
        self.places.kill_once(point.name);
        let until = Instant::now() + DEADLINE;
        for number in 0.. {
            let run = self.trigger_of("many", &format!("{key}-{number}"));
            self.over(&run);
            if let Some(died) = self.places.came(point.name) {
                eventually("it is dead", || so(Proc::of(died).is_none()));
                return;
            }
            assert!(
                Instant::now() < until,
                "nobody comes to {}: no attempt is handed over ahead",
                point.name
            );
        }
    }

    /// A keeper that dies before its claim, while no runner is there: the next runner claims.
    fn die_claiming(&mut self, point: &Point, key: &str) {
        self.fresh_runner();
        self.places.pause("keeper-leased");
        let run = self.trigger(key);
        let keeper = self.places.wait("keeper-leased");
        self.field.agents[0].kill_runner();
        Proc::of(keeper).iter().for_each(Proc::kill);
        self.places.go_on("keeper-leased");
        self.places.kill_once(point.name);
        self.allow(&run);
        self.restart_runner();
        let died = self.places.wait(point.name);
        eventually("it is dead", || so(Proc::of(died).is_none()));
        self.over(&run);
    }
}

/// Places that are passed before a task runs, and so not while one does.
fn has_moment(point: &Point, moment: Moment) -> bool {
    if matches!(point.process, Process::Restore | Process::RenewingLink) {
        // Nobody works while a database is restored, and certificates are renewed when their time comes: tests of
        // their own.
        return false;
    }
    let at_start = ["runner-prepared", "runner-asked"].contains(&point.name);
    let both = matches!(
        point.process,
        Process::Orchestrator | Process::Runner | Process::Link | Process::ConnectingLink
    ) && !at_start;
    moment == Moment::Before || both
}

#[test]
fn c1_c2_killed_at_every_named_place_nothing_is_lost_and_nothing_starts_twice() {
    let mut stage = Stage::new();
    for point in &ALL {
        for moment in [Moment::Before, Moment::During] {
            if has_moment(point, moment) {
                report::note(format_args!(
                    "{}, {moment:?}: {}",
                    point.name, point.between
                ));
                stage.die_at(point, moment);
            }
        }
    }
    stage.end();
}

#[test]
fn c1_a_link_killed_at_each_step_of_a_renewal_leaves_an_agent_that_is_known_and_works() {
    let short = [("OUTPOST_ORCHESTRATOR_AGENT_CERT_TTL", "20s")];
    let mut stage = Stage::with("renewing", &short);
    let renewing = ALL
        .iter()
        .filter(|point| point.process == Process::RenewingLink);
    for point in renewing {
        report::note(format_args!("{}: {}", point.name, point.between));
        stage.die_at(point, Moment::During);
        stage.field.agents[0].live(&stage.field.api);
    }
    stage.end();
}
