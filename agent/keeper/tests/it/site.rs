//! A state directory with a spawner on a leash, and what tests ask of it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outpost_agent_keeper::adopt::{KeeperClient, KeeperRecord, SpawnerClient, read_keeper_record};
use outpost_agent_keeper::exec::{Leash, SelfExec};
use outpost_agent_keeper::process::{ProcessRef, boot_time_us};
use outpost_agent_keeper::protocol::{
    Cause, Ended, ExitRecord, FromKeeper, FromSpawner, NotStarted, StartSpec, Want,
};

/// Far above what anything here takes on a machine that has a lot else to do.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) leash: Leash,
    holder: std::cell::Cell<Option<OwnedFd>>,
}

pub(crate) fn exec() -> SelfExec {
    SelfExec {
        exe: std::env::current_exe().unwrap(),
        prefix: Vec::new(),
    }
}

/// An attempt id that no other test of this process or a parallel one uses.
fn attempt() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{:016x}{:08x}{next:08x}",
        boot_time_us(),
        std::process::id()
    )
}

impl Site {
    pub(crate) fn new() -> Self {
        let (leash, holder) = Leash::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        // Whatever mask this account makes its directories with: others do not write there.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), mode).unwrap();
        std::fs::create_dir(dir.path().join("attempts")).unwrap();
        Self {
            dir,
            leash,
            holder: std::cell::Cell::new(Some(holder)),
        }
    }

    /// Ends the leash.
    pub(crate) fn let_go(&self) {
        self.holder.take();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spawner(&self) -> SpawnerClient {
        SpawnerClient::connect_or_start(self.dir.path(), &exec(), Some(&self.leash)).unwrap()
    }

    /// The process id of the living spawner.
    pub(crate) fn spawner_pid(&self) -> u32 {
        pid_of(&self.spawner())
    }

    /// A spec with a directory of its own: `argv` with some minutes of everything.
    pub(crate) fn spec(&self, argv: &[&str]) -> Box<StartSpec> {
        let attempt = attempt();
        let dir = self.path("attempts").join(&attempt);
        std::fs::create_dir(&dir).unwrap();
        Box::new(StartSpec {
            env: vec![
                ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
                ("OUTPOST_ATTEMPT".to_owned(), attempt.clone()),
            ],
            attempt,
            dir,
            about: None,
            make_cwd: false,
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            cwd: self.dir.path().to_owned(),
            user: None,
            timeout_ms: Some(300_000),
            grace_ms: 300,
            stop_after_ms: None,
            lease_until_boot_us: boot_time_us() + 300_000_000,
            log_max_bytes: 1 << 20,
            log_files: 4,
            seal: None,
            containment: Want::Auto,
            umask: 0o077,
            no_new_privs: true,
            wall: None,
            secrets: None,
        })
    }

    /// A shell script that first says that it started: one line in `starts`.
    pub(crate) fn script(&self, text: &str) -> Box<StartSpec> {
        let counted = format!("echo started >> starts\n{text}");
        self.spec(&["/bin/sh", "-c", &counted])
    }

    /// A script that goes on until [`Self::run_told`] has heard that it runs.
    pub(crate) fn script_to_tell_of(&self, text: &str, code: u8) -> Box<StartSpec> {
        self.script(&format!(
            "{text}; until [ -e told.$OUTPOST_ATTEMPT ]; do sleep 0.01; done; exit {code}"
        ))
    }

    /// Runs such a script. A task that is told of has a line of its own in the claim, and a shorter one may have none.
    pub(crate) fn run_told(&self, spec: &StartSpec) -> FromKeeper {
        let keeper = self.start(spec);
        running(&keeper);
        std::fs::write(self.path(&format!("told.{}", spec.attempt)), "").unwrap();
        last(&keeper)
    }

    pub(crate) fn start(&self, spec: &StartSpec) -> KeeperClient {
        let spawner = self.spawner();
        let keeper = spawner.start(Box::new(spec.clone())).unwrap();
        match spawner.recv().unwrap().unwrap() {
            FromSpawner::Started { attempt, .. } => assert_eq!(attempt, spec.attempt),
            other => panic!("{other:?}"),
        }
        keeper
    }

    pub(crate) fn run(&self, spec: &StartSpec) -> FromKeeper {
        last(&self.start(spec))
    }

    /// How often scripts were started, by their own account.
    pub(crate) fn starts(&self) -> usize {
        read(&self.path("starts")).lines().count()
    }

    /// Waits for a file with at least `lines` whole lines and returns them.
    pub(crate) fn lines(&self, name: &str, lines: usize) -> Vec<String> {
        let path = self.path(name);
        until(&format!("{lines} lines in {name}"), || {
            let text = read(&path);
            let found: Vec<String> = text.lines().map(str::to_owned).collect();
            (text.ends_with('\n') && found.len() >= lines).then_some(found)
        })
    }

    /// The processes whose ids a script wrote into `pids`.
    pub(crate) fn processes(&self, count: usize) -> Vec<ProcessRef> {
        let lines = self.lines("pids", count);
        lines
            .iter()
            .map(|pid| ProcessRef::of(pid.parse().unwrap()).unwrap())
            .collect()
    }
}

impl Drop for Site {
    /// Everything ends with the leash, and the spawner clears its cgroup away.
    fn drop(&mut self) {
        let served = self.path("spawner.sock").exists();
        // One that was killed is replaced, for the clearing away.
        let spawner = served
            .then(|| SpawnerClient::connect_or_start(self.dir.path(), &exec(), Some(&self.leash)));
        self.let_go();
        if let Some(Ok(spawner)) = spawner {
            while let Ok(Some(_)) = spawner.recv() {}
        }
    }
}

/// The process id of a spawner that is connected to.
pub(crate) fn pid_of(client: &SpawnerClient) -> u32 {
    client.ask_status().unwrap();
    match client.recv().unwrap().unwrap() {
        FromSpawner::Status { pid, .. } => pid,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(since.elapsed() < SOON, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn all_dead(processes: &[ProcessRef]) -> bool {
    !processes.iter().any(|process| process.is_alive())
}

/// The keeper's final state.
pub(crate) fn last(keeper: &KeeperClient) -> FromKeeper {
    loop {
        match keeper
            .recv()
            .unwrap()
            .expect("the keeper ended without a final state")
        {
            FromKeeper::Starting | FromKeeper::GivenBack { .. } | FromKeeper::Running { .. } => {}
            end @ (FromKeeper::NotStarted { .. } | FromKeeper::Finished(_)) => return end,
        }
    }
}

pub(crate) fn running(keeper: &KeeperClient) -> ProcessRef {
    loop {
        match keeper.recv().unwrap().expect("the keeper ended") {
            FromKeeper::Starting => {}
            FromKeeper::Running { pid, start_time } => return ProcessRef { pid, start_time },
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn finished(end: FromKeeper) -> ExitRecord {
    match end {
        FromKeeper::Finished(record) => record,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn not_started(end: FromKeeper) -> NotStarted {
    match end {
        FromKeeper::NotStarted { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn expect(end: FromKeeper, ended: Ended, cause: Cause) -> ExitRecord {
    let record = finished(end);
    assert_eq!((record.ended, record.cause), (ended, cause), "{record:?}");
    record
}

/// The keeper's own record.
pub(crate) fn keeper_of(spec: &StartSpec) -> KeeperRecord {
    read_keeper_record(&spec.dir)
        .unwrap()
        .expect("no keeper was here")
}

/// This program under another path. Copied by a process of its own: a descriptor of ours that is written with would be
/// held for a moment by whatever another test forks in the middle of it, and the copy be busy.
pub(crate) fn copy_of_this_program(to: &Path) {
    let mut cp = Command::new("cp");
    let copied = cp.arg(std::env::current_exe().unwrap()).arg(to).status();
    assert!(copied.unwrap().success());
}
