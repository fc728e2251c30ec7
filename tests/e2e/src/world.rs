//! One test's world: a directory, an orchestrator in it, and as many agents as it needs.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::agent::Agent;
use crate::api::Api;
use crate::binaries::Binary;
use crate::orchestrator::Orchestrator;
use crate::process::{Done, Leash, command, run};
use crate::site::{Entry, Site, mode};
use crate::wait::{DEADLINE, eventually, so};
use crate::{procs, report};

/// An orchestrator and what belongs to it; everything in it ends when it is dropped.
#[derive(Debug)]
pub struct World {
    /// The orchestrator.
    pub orchestrator: Orchestrator,
    leash: Option<Rc<Leash>>,
    dir: TempDir,
}

impl World {
    /// A directory that tasks of other accounts can reach, with a running orchestrator.
    ///
    /// # Panics
    /// When a binary is refused or the orchestrator does not start.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        Self::serving(&[])
    }

    /// The same with an orchestrator that is told more when it serves.
    ///
    /// # Panics
    /// When a binary is refused or the orchestrator does not start.
    #[must_use]
    #[track_caller]
    pub fn serving(more: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("outpost-e2e-")
            .tempdir()
            .expect("a temporary directory");
        mode(dir.path(), 0o755);
        let shared = dir.path().join("shared");
        std::fs::create_dir(&shared).expect("a directory below our own");
        mode(&shared, 0o777);
        let leash = Rc::new(Leash::new());
        let orchestrator = Orchestrator::start_new(dir.path(), own_address(), &leash, more);
        Self {
            orchestrator,
            leash: Some(leash),
            dir,
        }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory where it is once everything has ended.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    /// A file in the directory that all tasks can write to.
    #[must_use]
    pub fn shared(&self, name: &str) -> PathBuf {
        self.dir.path().join("shared").join(name)
    }

    /// Lets tasks that wait for this file go on.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn allow(&self, name: &str) {
        std::fs::write(self.shared(name), "").expect("our own directory");
    }

    /// The attempts that started, one for each time, as the tasks themselves wrote them down: attempt and task.
    #[must_use]
    pub fn starts(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.shared("starts")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(attempt, task)| (attempt.to_owned(), task.to_owned()))
            .collect()
    }

    /// How often tasks of this name were started.
    #[must_use]
    pub fn starts_of(&self, task: &str) -> usize {
        self.starts()
            .iter()
            .filter(|(_, name)| name == task)
            .count()
    }

    /// The administrator's client of the tenant `default`.
    #[must_use]
    pub fn api(&self) -> Api {
        self.orchestrator.admin()
    }

    /// Runs `outpost` as a client of this orchestrator.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn outpost(&self, args: &[&str]) -> Done {
        let token = self.orchestrator.dir().join("admin.token");
        let mut command = command(Binary::Cli.path());
        command.env("OUTPOST_SERVER", self.api().base());
        command.env("OUTPOST_TOKEN_FILE", token);
        command.args(args);
        run(command)
    }

    /// An agent of the tenant `default` with this catalogue: invited, enrolled, running and live.
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    #[track_caller]
    pub fn agent(&self, name: &str, entries: &[Entry]) -> Agent {
        self.agent_of(&self.api(), name, entries)
    }

    /// An agent of any tenant, whose administrator's client is given.
    ///
    /// # Panics
    /// When any of it fails.
    #[must_use]
    #[track_caller]
    pub fn agent_of(&self, api: &Api, name: &str, entries: &[Entry]) -> Agent {
        let token = self.token_file(api, name);
        let mut agent = self.enrolled(name, &token, entries);
        agent.start();
        agent.live(api);
        agent
    }

    /// Invites an agent through the API; the file with its token.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    #[track_caller]
    pub fn token_file(&self, api: &Api, name: &str) -> PathBuf {
        let body = serde_json::json!({ "agent": name });
        let reply = api.post("/api/v1/agents/invites", &body).ok();
        let file = tempfile::Builder::new()
            .prefix("token-")
            .tempfile_in(self.dir())
            .expect("a file below our own directory");
        std::fs::write(file.path(), crate::api::text(&reply["token"])).expect("our own file");
        file.keep().expect("our own file").1
    }

    /// An agent that is not enrolled yet.
    ///
    /// # Panics
    /// When its directories cannot be made.
    #[must_use]
    pub fn stranger(&self, name: &str, entries: &[Entry]) -> Agent {
        let home = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(self.dir())
            .expect("a directory below our own")
            .keep();
        mode(&home, 0o755);
        let site = Site::new(&home.join("catalogue"), &self.dir().join("shared"));
        site.write(entries);
        Agent {
            name: name.to_owned(),
            state: home.join("state"),
            site,
            log: home.join("agent.log"),
            slots: 4,
            user: None,
            env: Vec::new(),
            program: None,
            leash: self.leash.as_ref().map(Rc::downgrade).unwrap_or_default(),
            child: None,
        }
    }

    /// A second machine with a copy of a running agent's disk, which does not run yet. The agent stands still meanwhile:
    /// files that come and go would make a copy of no moment. Sockets and locks belong to processes, and are not copied.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    #[track_caller]
    pub fn copy_of(&self, agent: &Agent, entries: &[Entry]) -> Agent {
        let copy = self.stranger(&agent.name, entries);
        let parts = [agent.runner(), agent.link()];
        for part in &parts {
            part.signal(Signal::STOP);
            eventually("it stands still", || so(part.is_stopped()));
        }
        let mut copying = command(Path::new("cp"));
        copying.arg("-a").arg(&agent.state).arg(&copy.state);
        let _ = run(copying).ok();
        parts.iter().for_each(|part| part.signal(Signal::CONT));
        copy
    }

    /// An agent that is enrolled and does not run yet.
    ///
    /// # Panics
    /// When enrolment fails.
    #[must_use]
    #[track_caller]
    pub fn enrolled(&self, name: &str, token: &Path, entries: &[Entry]) -> Agent {
        let agent = self.stranger(name, entries);
        let _ = agent
            .command(&["enrol", "--token-file", &token.to_string_lossy()])
            .ok();
        agent
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            logs(self.dir.path())
                .iter()
                .for_each(|log| report::tail(log));
        }
        self.orchestrator.kill();
        // Nobody else holds it for longer than a start takes: its write end closes here.
        self.leash = None;
        let until = Instant::now() + DEADLINE;
        let mut left = procs::belonging_to(self.dir.path());
        while !left.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            left = procs::belonging_to(self.dir.path());
        }
        left.iter().for_each(procs::Proc::kill);
        assert!(
            failing || left.is_empty(),
            "the leash was let go {DEADLINE:?} ago, and these still ran: {left:#?}"
        );
    }
}

/// The logs below a world's directory: the orchestrator's, and each agent's and spawner's.
fn logs(dir: &Path) -> Vec<PathBuf> {
    let inside = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let near = inside(dir)
        .into_iter()
        .flat_map(|path| {
            let below = if path.is_dir() { inside(&path) } else { vec![] };
            let spawner = path.join("state/spawner.log");
            [vec![path, spawner], below].concat()
        })
        .filter(|path| path.is_file() && path.extension().is_some_and(|end| end == "log"));
    near.collect()
}

/// An address of the loopback network that no other test uses, so that a port that was given up can be taken again.
fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(128) + COUNT.fetch_add(1, Ordering::Relaxed) % 128;
    let octet = |shift: u32, most: u32| u8::try_from(1 + (number >> shift) % most).unwrap_or(1);
    Ipv4Addr::new(127, octet(14, 250), octet(7, 128), octet(0, 128))
}
