//! Link as a process of its own under its whole sandbox, with a planted attacker: what it tries is refused.
//!
//! The attacker runs where link's own code runs, after link has confined itself, by way of the hook that link calls when
//! nothing is said. This test binary starts itself in that role before its own `main`, because the sandbox is of a process
//! that has one thread and nothing else to do.
#![expect(
    unsafe_code,
    reason = "an attacker makes system calls by their numbers"
)]

mod attempts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use outpost_agent_link::ipc::{FromLink, LinkSocket, socket_pair};
use outpost_agent_link::sandbox::{Account, Asked, Confinement, Level, Missing};
use outpost_agent_link::{LinkArgs, Timeouts, link_main};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::support::soon;
use attempts::{DEADLY, Part, SITE, attempts};

/// `IPC-FD DIAL-FD ACCOUNT KEY-DIR SITE RUNNER ATTEMPT`; the last is what is tried, or `all` that cannot be deadly.
const ROLE: &str = "OUTPOST_TEST_CONFINED";
/// Nobody's number, as good as any.
const LINK: Account = Account {
    uid: 60_917,
    gid: 60_917,
};

/// Runs before `main`, in a process with one thread.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = play;

static PART: OnceLock<Part> = OnceLock::new();

extern "C" fn play() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    let [ipc, dial, account, keys, site, runner, attempt] = words.as_slice() else {
        std::process::exit(99);
    };
    let number = |text: &str| text.parse().unwrap_or(-1);
    let part = Part {
        site: PathBuf::from(site),
        keys: PathBuf::from(keys),
        runner: runner.parse().unwrap_or(0),
        attempt: (*attempt).to_owned(),
    };
    let _ = PART.set(part);
    let args = LinkArgs {
        ipc_fd: number(ipc),
        dial_fd: number(dial),
        key_dir: PathBuf::from(keys),
        server_name: "orchestrator.site.test".into(),
        pin: None,
        keylog_fd: None,
        leash_fd: None,
        sandbox: Some(Asked {
            account: (*account == "own").then_some(LINK),
            strict: false,
        }),
        timeouts: Timeouts::default(),
        when_quiet: attack,
    };
    // As the runtime around `main` does.
    let ended = std::panic::catch_unwind(|| link_main(args));
    std::process::exit(ended.map_or(101, |code| i32::from(code != ExitCode::SUCCESS)));
}

/// What the attacker does with the whole of link in its hands.
fn attack() {
    let Some(part) = PART.get() else { return };
    let mut report = String::new();
    if part.attempt == "panic" {
        panic!("planted");
    }
    for (name, call) in attempts(part) {
        if name != part.attempt && (part.attempt != "all" || DEADLY.contains(&name)) {
            continue;
        }
        let returned = call();
        let errno = if returned < 0 {
            std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
        } else {
            0
        };
        let _ = writeln!(report, "{name} {errno}");
    }
    let _ = report.write_str("done 0\n");
    let _ = std::io::stdout().write_all(report.as_bytes());
    let _ = std::io::stdout().flush();
    std::process::exit(0);
}

/// A site's directories as the agent makes them, and a link in its sandbox.
struct Planted {
    around: tempfile::TempDir,
    socket: LinkSocket,
    child: Child,
    confinement: Confinement,
    _dial: OwnedFd,
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Planted {
    async fn start(attempt: &str, cap: Option<&str>) -> Self {
        let around = tempfile::tempdir().unwrap();
        for name in SITE {
            let file = around.path().join(name);
            std::fs::write(&file, "the site's own").unwrap();
            mode(&file, 0o600);
        }
        mode(around.path(), 0o711);
        let keys = around.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        mode(&keys, 0o700);
        let account = if is_root() {
            std::os::unix::fs::chown(&keys, Some(LINK.uid), Some(LINK.gid)).unwrap();
            "own"
        } else {
            "shared"
        };
        let (runner, link) = socket_pair().unwrap();
        let (dial, link_dial) = socket_pair().unwrap();
        for inherited in [&link, &link_dial] {
            fcntl_setfd(inherited, FdFlags::empty()).unwrap();
        }
        let role = format!(
            "{} {} {account} {} {} {} {attempt}",
            link.as_raw_fd(),
            link_dial.as_raw_fd(),
            keys.display(),
            around.path().display(),
            std::process::id()
        );
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env_clear().env(ROLE, role);
        if let Some(cap) = cap {
            command.env(outpost_agent_link::sandbox::CAP_VARIABLE, cap);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((link, link_dial));
        let socket = LinkSocket::new(runner).unwrap();
        let said = soon("Confined", socket.recv()).await.unwrap();
        let Some(FromLink::Confined(confinement)) = said else {
            panic!("{said:?}")
        };
        Self {
            around,
            socket,
            child,
            confinement,
            _dial: dial,
        }
    }

    /// How it ended, what it said, and what was said about it.
    async fn end(self) -> (std::process::ExitStatus, String, String) {
        let Self {
            around,
            socket,
            child,
            ..
        } = self;
        let waited = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let output = tokio::time::timeout(Duration::from_secs(60), waited)
            .await
            .unwrap()
            .unwrap();
        drop((socket, around));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status, text(output.stdout), text(output.stderr))
    }

    /// What the kernel says of each of its threads.
    fn threads(&self) -> Vec<BTreeMap<String, String>> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let status = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.unwrap().path().join("status")).unwrap()
        };
        let fields = |text: String| {
            let lines = text.lines().filter_map(|line| line.split_once(":\t"));
            lines
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        tasks.map(status).map(fields).collect()
    }
}

async fn refusals(cap: Option<&str>) -> BTreeMap<String, Vec<i32>> {
    let (status, said, heard) = Planted::start("all", cap).await.end().await;
    assert!(status.success(), "{status} {said} {heard}");
    let mut all = BTreeMap::<String, Vec<i32>>::new();
    for line in said.lines() {
        let (name, errno) = line.rsplit_once(' ').unwrap();
        let errnos = all.entry(name.to_owned()).or_default();
        errnos.push(errno.parse().unwrap());
    }
    all.remove("done").unwrap();
    all
}

#[tokio::test]
async fn whatever_a_planted_attacker_tries_is_refused() {
    let all = refusals(None).await;
    for (name, errnos) in &all {
        for errno in errnos {
            assert!(
                [libc::EPERM, libc::EACCES].contains(errno),
                "`{name}` was answered with {errno}: {all:#?}"
            );
        }
    }
    let part = Part {
        site: PathBuf::new(),
        keys: PathBuf::new(),
        runner: 1,
        attempt: String::new(),
    };
    let tried = attempts(&part).into_iter().map(|(name, _)| name);
    let tried = tried.filter(|name| !DEADLY.contains(name));
    for name in tried {
        assert!(all.contains_key(name), "`{name}` was not tried");
    }
    assert!(all.len() > 40, "{all:#?}");
}

/// The test can fail: without the sandbox most of this works.
#[tokio::test]
async fn without_a_sandbox_the_same_attacker_gets_far() {
    let keys = tempfile::tempdir().unwrap();
    let part = Part {
        site: keys.path().to_owned(),
        keys: keys.path().to_owned(),
        runner: std::process::id(),
        attempt: String::new(),
    };
    let harmless = [
        "read the list of accounts",
        "list the site",
        "write in the site",
        "socket inet",
        "socket unix",
    ];
    let all = attempts(&part).into_iter();
    for (name, call) in all.filter(|(name, _)| harmless.contains(name)) {
        let first_kind = call();
        if name != "socket inet" && name != "socket unix" {
            assert!(first_kind >= 0, "{name}");
        }
    }
}

#[tokio::test]
async fn whoever_makes_a_call_that_link_never_makes_is_ended() {
    let mut planted = Vec::new();
    for name in DEADLY {
        planted.push((name, Planted::start(name, None).await));
    }
    for (name, planted) in planted {
        let (status, said, _) = planted.end().await;
        assert_eq!(
            status.signal(),
            Some(libc::SIGSYS),
            "{name}: {status} {said}"
        );
    }
}

#[tokio::test]
async fn every_thread_is_confined_before_anybody_is_heard() {
    let planted = Planted::start("nothing", None).await;
    assert_eq!(
        planted.confinement.level(),
        Level::Strict,
        "{:?}",
        planted.confinement
    );
    let threads = planted.threads();
    assert_eq!(threads.len(), 1);
    let empty = "0000000000000000";
    for thread in &threads {
        assert_eq!((&*thread["Seccomp"], &*thread["NoNewPrivs"]), ("2", "1"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(thread[set], empty, "{set}");
        }
        if is_root() {
            assert_eq!(thread["CapBnd"], empty);
            assert_eq!(thread["Uid"], "60917\t60917\t60917\t60917");
            assert_eq!(thread["Gid"], "60917\t60917\t60917\t60917");
            assert_eq!(thread["Groups"].trim(), "");
        }
    }
    let (status, ..) = planted.end().await;
    assert!(status.success());
}

#[tokio::test]
async fn the_level_is_what_the_kernel_gives() {
    let planted = Planted::start("nothing", None).await;
    let newest = planted.confinement.landlock_abi;
    drop(planted.end().await);
    for (cap, abi, level, missing) in [
        (
            "nothing",
            0,
            Level::None,
            &[
                Missing::Landlock,
                Missing::TcpRules,
                Missing::SystemCalls,
                Missing::Verified,
            ][..],
        ),
        (
            "no-landlock",
            0,
            Level::Partial,
            &[Missing::Landlock, Missing::TcpRules],
        ),
        ("1", 1, Level::Partial, &[Missing::TcpRules]),
        ("4", 4, Level::Strict, &[]),
        ("6", 6, Level::Strict, &[]),
        ("7", 7, Level::Strict, &[]),
    ] {
        let planted = Planted::start("nothing", Some(cap)).await;
        let reached = &planted.confinement;
        assert_eq!(
            (reached.landlock_abi, reached.level(), reached.missing()),
            (abi.min(newest), level, missing),
            "{cap} of {newest}"
        );
        drop(planted.end().await);
    }
}

/// Each wall by itself: with an older Landlock the attacker gets no further, because system calls are filtered; without
/// any, root's files are still another account's.
#[tokio::test]
async fn an_older_landlock_lets_the_attacker_no_further() {
    for cap in ["1", "4", "6", "7"] {
        let all = refusals(Some(cap)).await;
        let answered = all.iter().find(|(_, errnos)| errnos.contains(&0));
        assert_eq!(answered, None, "ABI {cap}");
    }
}

#[tokio::test]
#[ignore = "needs: root"]
async fn without_landlock_the_account_and_the_filter_still_hold() {
    let all = refusals(Some("no-landlock")).await;
    for name in [
        "logs",
        "secrets",
        "ledger",
        "journal",
        "list the site",
        "read the runner's memory",
        "write in the site",
        "socket inet",
        "end the runner",
        "fork",
    ] {
        assert!(!all[name].contains(&0), "{name}: {all:#?}");
    }
    // That is what Landlock adds.
    assert_eq!(all["read the list of accounts"], [0]);
    for written in ["/tmp/outpost-planted", "/dev/shm/outpost-planted"] {
        std::fs::remove_file(written).unwrap();
    }
}

#[tokio::test]
async fn c8_a_panic_in_link_ends_it_cleanly() {
    let planted = Planted::start("panic", None).await;
    let began = Instant::now();
    let (status, _, heard) = planted.end().await;
    assert_eq!(status.code(), Some(101), "{status} {heard}");
    assert!(heard.contains("planted"), "{heard}");
    assert!(began.elapsed() < Duration::from_secs(60), "it hung");
}
