//! The orchestrator's process: made by `init`, started by `serve`, killed and started again on the same ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde_json::Value;

use crate::api::Api;
use crate::binaries::Binary;
use crate::process::{Done, Leash, command, daemon, run, wait};
use crate::procs::Proc;
use crate::wait::eventually;

/// One orchestrator with its directory.
#[derive(Debug)]
pub struct Orchestrator {
    dir: PathBuf,
    log: PathBuf,
    leash: Weak<Leash>,
    /// Where agents connect and where the API is; the kernel chose the ports at the first start.
    agents: SocketAddr,
    api: SocketAddr,
    child: Option<Child>,
    /// What else `serve` is told.
    more: Vec<String>,
    /// What it finds in its environment besides the usual.
    pub env: Vec<(String, String)>,
}

impl Orchestrator {
    /// Makes an orchestrator below `parent` and starts it at an address of its own; `more` is told to `serve`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_new(parent: &Path, address: Ipv4Addr, leash: &Rc<Leash>, more: &[&str]) -> Self {
        let dir = parent.join("orchestrator");
        let any = SocketAddr::from((address, 0));
        let mut new = Self {
            log: parent.join("orchestrator.log"),
            dir,
            leash: Rc::downgrade(leash),
            agents: any,
            api: any,
            child: None,
            more: more.iter().map(|&arg| arg.to_owned()).collect(),
            env: Vec::new(),
        };
        let _ = new.command(&["init"]).ok();
        new.start();
        new
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Where agents connect.
    #[must_use]
    pub fn agents_port(&self) -> SocketAddr {
        self.agents
    }

    /// Where the API is served.
    #[must_use]
    pub fn api_port(&self) -> SocketAddr {
        self.api
    }

    /// Runs a command of `outpost-orchestrator` on its directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Done {
        let mut command = command(Binary::Orchestrator.path());
        command.args(args).arg("--dir").arg(&self.dir);
        run(command)
    }

    /// The command that serves, without what says where.
    ///
    /// # Panics
    /// When the binary is refused.
    #[must_use]
    pub fn serve(&self) -> Command {
        let mut command = command(Binary::Orchestrator.path());
        command.arg("serve").arg("--dir").arg(&self.dir);
        // Tests look as often as they can; the limit has tests of its own.
        command.env("OUTPOST_ORCHESTRATOR_API_RATE", "0");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(leash) = self.leash.upgrade() {
            leash.pass(&mut command);
        }
        command
    }

    /// Starts it and waits until both its ports listen.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let ready = self.dir.join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let mut command = self.serve();
        command.arg("--agents").arg(self.agents.to_string());
        command.arg("--api").arg(self.api.to_string());
        command.arg("--ready-file").arg(&ready);
        command.args(&self.more);
        let mut child = daemon(command, &self.log);
        let said = eventually("the orchestrator is ready", || {
            if let Ok(Some(status)) = child.try_wait() {
                crate::report::tail(&self.log);
                panic!("the orchestrator ended at its start: {status}");
            }
            serde_json::from_slice::<Value>(&std::fs::read(&ready).ok()?).ok()
        });
        self.child = Some(child);
        let address = |key: &str| {
            let text = crate::api::text(&said[key]);
            let text = text.trim_start_matches("http://");
            text.parse().expect("an address and a port")
        };
        (self.agents, self.api) = (address("agents"), address("api"));
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it with SIGKILL and starts it again.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Whether it was started and did not end by itself.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process(&self) -> Proc {
        let child = self.child.as_ref().expect("it was started");
        Proc::of(i32::try_from(child.id()).unwrap_or(0)).expect("it runs")
    }

    /// Waits for its end; its status.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn ended_within(&mut self, limit: Duration) -> Option<i32> {
        let mut child = self.child.take().expect("it was started");
        wait(&mut child, limit).expect("it was to end")
    }

    /// The first administrator's client, of the tenant `default`.
    ///
    /// # Panics
    /// When `init` left no token.
    #[must_use]
    pub fn admin(&self) -> Api {
        let token = std::fs::read_to_string(self.dir.join("admin.token")).expect("init wrote it");
        Api::new(&format!("http://{}", self.api), token.trim())
    }

    /// A client with a new token of this tenant.
    ///
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn client(&self, tenant: &str, role: &str, ttl: &str) -> Api {
        let made = self.command(&[
            "token", "create", "--tenant", tenant, "--role", role, "--ttl", ttl, "--output", "json",
        ]);
        let made: Value = serde_json::from_str(&made.ok()).expect("JSON");
        self.admin().with_token(&crate::api::text(&made["token"]))
    }
}

impl Drop for Orchestrator {
    fn drop(&mut self) {
        self.kill();
    }
}
