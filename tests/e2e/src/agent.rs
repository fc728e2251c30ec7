//! An agent's processes: enrolled by the real command, started by `run`, found again from outside.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::Weak;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::api::Api;
use crate::binaries::Binary;
use crate::process::{Done, Leash, command, daemon, run, wait};
use crate::procs::{self, Proc};
use crate::site::{Entry, Site};
use crate::wait::{eventually, so};

/// One agent with its state directory and its site.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Its state directory.
    pub state: PathBuf,
    /// Its catalogue.
    pub site: Site,
    /// What runner, link and dial wrote to standard error.
    pub log: PathBuf,
    /// How many tasks run at once.
    pub slots: u16,
    /// The account it runs under, if not the caller's.
    pub user: Option<u32>,
    /// What its processes find in their environment besides the usual.
    pub env: Vec<(String, String)>,
    /// Another executable than the one that was built, such as a copy of it.
    pub program: Option<PathBuf>,
    pub(crate) leash: Weak<Leash>,
    pub(crate) child: Option<Child>,
}

impl Agent {
    /// Lets it dial another address than the one that it enrolled at, from its next start on.
    ///
    /// # Panics
    /// When it is not enrolled.
    pub fn dials(&self, address: &str) {
        let identity = self.state.join("identity.json");
        let settled = std::fs::read(&identity).expect("an agent that is enrolled");
        let mut settled: Value = serde_json::from_slice(&settled).expect("its identity");
        settled["orchestrator"] = Value::from(address);
        std::fs::write(&identity, settled.to_string()).expect("our own directory");
    }

    /// Runs a command of `outpost-agent` on its state directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Done {
        let mut command = self.binary();
        command.args(args).arg("--state").arg(&self.state);
        run(command)
    }

    fn binary(&self) -> Command {
        let built = || Binary::Agent.path();
        let mut command = command(self.program.as_deref().unwrap_or_else(built));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// The same with the catalogue named.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn command_with_catalogue(&self, args: &[&str]) -> Done {
        let catalogue = self.site.catalogue().to_string_lossy().into_owned();
        let args = args.iter().copied().chain(["--catalogue", &catalogue]);
        self.command(&args.collect::<Vec<_>>())
    }

    /// Starts the runner.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = self.binary();
        command.arg("run").arg("--state").arg(&self.state);
        command.arg("--catalogue").arg(self.site.catalogue());
        command.arg("--slots").arg(self.slots.to_string());
        if let Some(leash) = self.leash.upgrade() {
            leash.pass(&mut command);
        }
        self.child = Some(daemon(command, &self.log));
    }

    /// Starts it as one that only observes, and waits for its session.
    ///
    /// # Panics
    /// When it runs already, or never gets one.
    #[track_caller]
    pub fn observe(&mut self, api: &Api) {
        self.env
            .push(("OUTPOST_AGENT_OBSERVE".to_owned(), "true".to_owned()));
        self.start();
        self.live(api);
    }

    /// Waits until the agent is in a session that both sides know of, and the orchestrator knows its catalogue. One side
    /// alone may for a moment mean the session of a runner, or of an orchestrator, that was killed.
    ///
    /// # Panics
    /// When it never does.
    #[track_caller]
    pub fn live(&self, api: &Api) {
        eventually(&format!("agent {} is live", self.name), || {
            let agent = api.agent(&self.name)?;
            let is_there = agent["presence"] == "live" && agent["connected"] == true;
            so(is_there && agent["entries"].as_u64()? > 0)?;
            so(self.status()?["view"]["session"] == "ready")
        });
    }

    /// Gives it other entries in place of those that it has, and waits until the orchestrator takes a workflow of them:
    /// the agent knows its catalogue a moment sooner.
    ///
    /// # Panics
    /// When it does not take the catalogue, or the orchestrator never takes the workflow.
    #[track_caller]
    pub fn offers(&self, api: &Api, entries: &[Entry], workflow: &str) {
        self.site.write(entries);
        let _ = self.command(&["reload"]).ok();
        eventually("the new entries are known upstream", || {
            so(api.apply(workflow).status < 300)
        });
    }

    /// Ends the runner with SIGKILL. Link notices; spawner, keepers and tasks go on.
    pub fn kill_runner(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends the runner SIGTERM and waits for its end; its status.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn terminate_within(&mut self, limit: Duration) -> Option<i32> {
        self.runner().signal(Signal::TERM);
        let mut child = self.child.take().expect("it was started");
        wait(&mut child, limit).expect("the runner was to end")
    }

    /// Whether it was started and did not end by itself.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until the runner has ended by itself; its status, `None` when a signal ended it.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn ended_within(&mut self, limit: Duration) -> Option<i32> {
        let mut child = self.child.take().expect("it was started");
        wait(&mut child, limit).expect("the runner was to end")
    }

    /// The runner.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn runner(&self) -> Proc {
        let child = self.child.as_ref().expect("it was started");
        Proc::of(i32::try_from(child.id()).unwrap_or(0)).expect("the runner runs")
    }

    /// The link of the runner, once there is one.
    ///
    /// # Panics
    /// When there is none in time.
    #[must_use]
    #[track_caller]
    pub fn link(&self) -> Proc {
        eventually("there is a link", || self.find_link())
    }

    /// The link of the runner, if there is one.
    #[must_use]
    pub fn find_link(&self) -> Option<Proc> {
        let runner = i32::try_from(self.child.as_ref()?.id()).ok()?;
        procs::all()
            .into_iter()
            .find(|process| process.parent == runner && process.is_role("link"))
    }

    /// The keepers that keep something now, in no order.
    #[must_use]
    pub fn find_keepers(&self) -> Vec<Proc> {
        procs::attempts(&self.state)
            .iter()
            .filter_map(|dir| match procs::keeper_and_task(dir) {
                (Some(keeper), Some(_)) => Some(keeper),
                _ => None,
            })
            .collect()
    }

    /// The spawner, once there is one.
    ///
    /// # Panics
    /// When there is none in time.
    #[must_use]
    #[track_caller]
    pub fn spawner(&self) -> Proc {
        eventually("there is a spawner", || self.find_spawner())
    }

    /// The spawner, if there is one: keepers are its forks and look like it, but for their parents and their records.
    #[must_use]
    pub fn find_spawner(&self) -> Option<Proc> {
        let state = self.state.to_string_lossy().into_owned();
        let alike = procs::all()
            .into_iter()
            .filter(|process| process.is_role("spawner") && process.args.contains(&state))
            .collect::<Vec<_>>();
        let keepers = procs::attempts(&self.state)
            .iter()
            .filter_map(|dir| procs::keeper_and_task(dir).0)
            .map(|keeper| keeper.pid)
            .collect::<Vec<_>>();
        alike
            .iter()
            .find(|process| {
                let forked = alike.iter().any(|other| other.pid == process.parent);
                !forked && !keepers.contains(&process.pid)
            })
            .cloned()
    }

    /// The keeper and the task of an attempt, once both live.
    ///
    /// # Panics
    /// When they do not in time.
    #[must_use]
    #[track_caller]
    pub fn keeper_and_task(&self, attempt: &str) -> (Proc, Proc) {
        let dir = self.attempt_dir(attempt);
        eventually("the attempt has a keeper and a task", || {
            let (keeper, task) = procs::keeper_and_task(&dir);
            Some((keeper?, task?))
        })
    }

    /// An attempt's directory.
    #[must_use]
    pub fn attempt_dir(&self, attempt: &str) -> PathBuf {
        self.state.join("attempts").join(attempt)
    }

    /// Every process of this agent and its tasks.
    #[must_use]
    pub fn processes(&self) -> Vec<Proc> {
        procs::belonging_to(&self.state)
    }

    /// The running agent's own status.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let done = self.command(&["status", "--output", "json"]);
        serde_json::from_str(&done.out).ok()
    }

    /// The ledger in words: kind and sentence of each message.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn ledger_words(&self) -> Vec<(String, String)> {
        let said = self
            .command(&["ledger", "explain", "--output", "json"])
            .ok();
        said.lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line).expect("one JSON value in a line");
                (
                    crate::api::text(&line["kind"]),
                    crate::api::text(&line["words"]),
                )
            })
            .collect()
    }

    /// What the agent's processes logged.
    #[must_use]
    pub fn logged(&self) -> String {
        read(&self.log)
    }

    /// All that is kept of an attempt's output.
    #[must_use]
    #[track_caller]
    pub fn output(&self, attempt: &str) -> String {
        self.command(&["logs", attempt]).ok()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill_runner();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
