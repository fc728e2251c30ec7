//! What is closed to tasks for the sake of secrets, and what becomes of attempts that wait for theirs.

use std::path::PathBuf;

use outpost_proto::ids::{CommandSeq, Fence, RunId, TaskIndex};

use super::*;

/// A site with an entry that is granted a secret as a file, which lies in memory.
struct Site {
    dir: tempfile::TempDir,
    memory: tempfile::TempDir,
    catalogue: Arc<Catalogue>,
}

impl Site {
    /// `None` on a host without such a file system.
    fn new() -> Option<Self> {
        let memory = tempfile::tempdir_in("/dev/shm").ok()?;
        let dir = crate::testing::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["catalogue.d", "state"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let user = if rustix::process::geteuid().is_root() {
            "user = \"nobody\"\n"
        } else {
            ""
        };
        let entry =
            format!("[entry.e]\n{user}argv = [\"/bin/true\"]\nsecret.a = {{ as = \"file\" }}\n");
        std::fs::write(path("catalogue.d/a.toml"), entry).unwrap();
        let sources = format!(
            "files_in = {:?}\n[secret.a]\nfile = {:?}\n",
            memory.path(),
            path("value")
        );
        std::fs::write(path("secrets.toml"), sources).unwrap();
        std::fs::write(path("value"), "canary\n").unwrap();
        let catalogue = crate::catalogue::load(&path("catalogue.d"), "").unwrap();
        Some(Self {
            dir,
            memory,
            catalogue: Arc::new(catalogue),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn place(&self) -> Place {
        Place::open(&self.path("state"), Some(self.memory.path())).unwrap()
    }

    fn assign(&self, attempt: u128) -> Assign {
        Assign {
            attempt: AttemptId(attempt),
            run: RunId(2),
            task: TaskIndex(0),
            fence: Fence(1),
            command_seq: CommandSeq(1),
            entry: "e".parse().unwrap(),
            catalogue_version: self.catalogue.version(),
            parameters: Vec::new(),
            deadline_ms: None,
            task_name: "t".parse().unwrap(),
            workflow_name: "w".parse().unwrap(),
        }
    }

    fn ask(&self, granting: &mut Granting, attempt: u128) {
        let assign = self.assign(attempt);
        let asked = granting.ask(&self.path("state"), &assign, 1, Arc::clone(&self.catalogue));
        asked.unwrap();
    }
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn k16_sources_and_other_tasks_files_are_closed_to_a_task_and_its_own_are_open() {
    let Some(site) = Site::new() else { return };
    let place = site.place();
    let own = place.attempt(AttemptId(1));
    let values = Bundle::seal([b"x".as_slice()]).unwrap();
    let mut spec: StartSpec = serde_json::from_value(serde_json::json!({
        "attempt": "0".repeat(32), "dir": "/", "argv": ["/bin/true"], "env": [], "cwd": "/",
        "grace_ms": 1, "lease_until_boot_us": 1, "log_max_bytes": 1, "log_files": 1, "umask": 0,
        "wall": { "closed": ["/state"], "kept": [] }
    }))
    .unwrap();
    spec.secrets = Some(Secrets {
        grants: Vec::new(),
        dir: Some(own.clone()),
        values,
    });
    enclose(&mut spec, &site.catalogue, Some(&place));
    let wall = spec.wall.unwrap();
    let real = |path: &Path| path.canonicalize().unwrap();
    let closed = [
        PathBuf::from("/state"),
        real(&site.path("value")),
        real(place.dir()),
    ];
    assert_eq!(wall.closed, closed);
    assert_eq!(wall.open, [own]);
}

#[test]
fn files_of_attempts_that_do_not_run_any_more_go() {
    let Some(site) = Site::new() else { return };
    let place = site.place();
    let put = |attempt: u128| {
        let dir = place.attempt(AttemptId(attempt));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("a"), "canary").unwrap();
        dir
    };
    let (gone, runs) = (put(1), put(2));
    let mut granting = Granting::new(mpsc::channel(1).0);
    let running = [AttemptId(2).to_string()].into();
    granting.sweep(&site.path("state"), &site.catalogue, &running);
    assert!(!gone.exists() && runs.exists());
    granting.over(AttemptId(2));
    assert!(!runs.exists());
}

#[test]
fn who_waits_for_its_secrets_gets_them_once_and_who_was_cancelled_does_not_begin() {
    let Some(site) = Site::new() else { return };
    local(async {
        let (inbox, mut happened) = mpsc::channel(4);
        let mut granting = Granting::new(inbox);
        site.ask(&mut granting, 1);
        let Some(Happened::Granted(granted)) = happened.recv().await else {
            panic!("they are there");
        };
        let secrets = granted.secrets.unwrap();
        assert_eq!(secrets.dir, Some(site.place().attempt(AttemptId(1))));
        assert!(granting.arrived(AttemptId(1)));
        assert!(!granting.arrived(AttemptId(1)), "once");
        assert!(!granting.cancel(AttemptId(1)), "it waits no more");

        site.ask(&mut granting, 2);
        assert!(granting.cancel(AttemptId(2)));
        assert!(!granting.arrived(AttemptId(2)), "nobody wants them");
        let mut cancelled = 0;
        for _ in 0..2 {
            match happened.recv().await {
                Some(Happened::Core(Event::Keeper { attempt, said })) => {
                    assert_eq!(attempt, AttemptId(2));
                    assert_eq!(said, KeeperSaid::NotStarted(NotStarted::Cancelled));
                    cancelled += 1;
                }
                Some(Happened::Granted(_)) => {}
                _ => panic!("nothing else happens"),
            }
        }
        assert_eq!(cancelled, 1);
    });
}
