//! Tasks as strangers: what a task behind a wall reaches of the agent, of other tasks and of everybody's processes.
//!
//! The tests run as whoever runs them: Landlock asks neither for root nor lets it pass.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use outpost_agent_keeper::adopt::{KeeperClient, read_exit_record};
use outpost_agent_keeper::protocol::{
    Cause, Ended, FromKeeper, Packets, StartSpec, UserIds, Wall, Want,
};
use outpost_agent_keeper::wall::Separation;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

use crate::site::*;

/// A state directory with a key, another attempt's leftovers and a place for the task, and a place outside of it.
pub(crate) struct Walled {
    pub(crate) site: Site,
    outside: tempfile::TempDir,
    own: PathBuf,
}

impl Walled {
    pub(crate) fn new() -> Self {
        let site = Site::new();
        let own = site.path("work/own");
        for dir in ["keys", "work/other", "work/own"] {
            std::fs::create_dir_all(site.path(dir)).unwrap();
        }
        for file in ["keys/key", "work/other/left", "journal"] {
            std::fs::write(site.path(file), "canary").unwrap();
        }
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("policy")).unwrap();
        std::fs::write(outside.path().join("policy/entry"), "echo fine").unwrap();
        Self { site, outside, own }
    }

    fn wall(&self) -> Wall {
        Wall {
            closed: vec![self.site.dir.path().canonicalize().unwrap()],
            read_only: vec![self.outside().join("policy")],
            open: vec![self.own.canonicalize().unwrap()],
            kept: Vec::new(),
            unix_sockets: false,
            ipc: false,
        }
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.outside.path().canonicalize().unwrap()
    }

    pub(crate) fn spec(&self, script: &str) -> Box<StartSpec> {
        self.program(&["/bin/sh", "-c", script])
    }

    pub(crate) fn program(&self, argv: &[&str]) -> Box<StartSpec> {
        let mut spec = self.site.spec(argv);
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        spec.cwd.clone_from(&self.own);
        spec.env
            .push(("STATE".to_owned(), path(self.site.dir.path())));
        spec.env.push(("OUT".to_owned(), path(self.outside.path())));
        spec.env
            .push(("HERE".to_owned(), std::process::id().to_string()));
        spec.wall = Some(self.wall());
        spec
    }

    /// What a script says when it is through.
    fn says(&self, script: &str) -> String {
        let spec = self.spec(script);
        expect(self.site.run(&spec), Ended::Exited(0), Cause::Own);
        read(&spec.dir.join("log.0"))
    }
}

/// Each line is tried by itself; those that succeed are named.
pub(crate) fn tries(lines: &[&str]) -> String {
    let tries = lines.iter().enumerate().map(|(at, line)| {
        format!(
            "if ( {line} ) >/dev/null 2>&1; then echo \"done {at}: \"'{}'; fi\n",
            line.replace('\'', "\"")
        )
    });
    tries.chain(["echo end\n".to_owned()]).collect()
}

/// What an agent's own account could do without a wall; each is refused behind one.
const FORBIDDEN: &[&str] = &[
    "cat $STATE/keys/key",
    "ls $STATE",
    "ls $STATE/keys",
    "ls $STATE/work",
    "cat $STATE/work/other/left",
    "echo x > $STATE/journal",
    "echo x >> $STATE/journal",
    "touch $STATE/new",
    "mkdir $STATE/attempts/new",
    "rm $STATE/journal",
    "mv $STATE/journal $OUT/journal",
    "ln $STATE/journal $OUT/link",
    "mv $STATE $STATE.away",
    "rm -r $STATE/work/other",
    "cat /proc/$HERE/root$STATE/keys/key",
    "truncate -s 0 $STATE/journal",
    "ln -s $STATE here && cat here/keys/key",
    "cd ../other && cat left",
    "echo x >> $OUT/policy/entry",
    "touch $OUT/policy/more",
    "rm $OUT/policy/entry",
    "mv $OUT/policy $OUT/away",
];

#[test]
fn k16_the_agents_files_and_other_tasks_leftovers_are_closed() {
    let walled = Walled::new();
    assert_eq!(walled.says(&tries(FORBIDDEN)), "end\n");
    assert_eq!(read(&walled.site.path("keys/key")), "canary");
    assert_eq!(read(&walled.site.path("journal")), "canary");
    assert_eq!(read(&walled.site.path("work/other/left")), "canary");
}

#[test]
fn k16_without_a_wall_the_same_account_reaches_what_the_wall_closes() {
    let walled = Walled::new();
    let mut spec = walled.spec(&tries(FORBIDDEN.get(..3).unwrap()));
    spec.wall = None;
    expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")).lines().count(), 4);
}

#[test]
fn a_task_behind_a_wall_does_its_work_as_before() {
    let walled = Walled::new();
    std::fs::create_dir(walled.outside.path().join("data")).unwrap();
    let said = walled.says(
        "echo 1 > own && mkdir d && mv own d/ && cat d/own && ls
         touch $OUT/data/new && cat $OUT/policy/entry && sh $OUT/policy/entry
         echo x > /dev/null && cat /proc/self/comm && ls /proc/self/fd > /dev/null && ls / > /dev/null 2>&1 || echo no
         ls /usr > /dev/null && cat /etc/passwd > /dev/null && echo whole",
    );
    assert_eq!(said, "1\nd\necho finefine\ncat\nno\nwhole\n");
    assert!(walled.outside.path().join("data/new").exists());
}

#[test]
fn what_comes_to_be_beside_the_way_is_open_to_the_next_task() {
    let walled = Walled::new();
    let way = tempfile::tempdir().unwrap();
    let way = way.path().canonicalize().unwrap();
    std::fs::create_dir(way.join("closed")).unwrap();
    let mut spec = walled.spec("cat $WAY/new/file; touch $WAY/made || echo no");
    spec.wall.as_mut().unwrap().closed.push(way.join("closed"));
    spec.env
        .push(("WAY".to_owned(), way.to_str().unwrap().to_owned()));
    std::fs::create_dir(way.join("new")).unwrap();
    std::fs::write(way.join("new/file"), "seen\n").unwrap();
    expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
    let log = read(&spec.dir.join("log.0"));
    assert!(log.starts_with("seen\n") && log.ends_with("no\n"), "{log}");
    assert!(!way.join("made").exists());
}

/// Whatever holds the tree together.
fn in_a_namespace(walled: &Walled, script: &str) -> Option<String> {
    let mut spec = walled.spec(script);
    spec.containment = Want::PidNamespace;
    let end = walled.site.run(&spec);
    let outpost_agent_keeper::protocol::FromKeeper::Finished(record) = end else {
        return None;
    };
    assert_eq!(record.ended, Ended::Exited(0));
    Some(read(&spec.dir.join("log.0")))
}

#[test]
fn a_wall_goes_with_every_containment() {
    let walled = Walled::new();
    let script = "cat $STATE/keys/key 2>/dev/null; cat /proc/self/comm; echo 1 > own; cat own";
    for want in [Want::Auto, Want::Subreaper] {
        let mut spec = walled.spec(script);
        spec.containment = want;
        expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
        assert_eq!(read(&spec.dir.join("log.0")), "cat\n1\n", "{want:?}");
    }
    // Where this host forbids them to this account, nothing is started.
    let said = in_a_namespace(&walled, script);
    assert!(said.is_none_or(|said| said == "cat\n1\n"));
}

/// Somebody of the same account, outside of every task.
#[derive(Debug)]
struct Bystander(Child);

impl Bystander {
    fn new(counts: &Path) -> Self {
        let script =
            "trap 'echo hit >> \"$0\"' WINCH; echo up >> \"$0\"; while :; do sleep 0.02; done";
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(counts);
        let secret = ("BYSTANDERS_SECRET", "canary");
        Self(
            command
                .envs([secret])
                // A terminal tells its own group when its size changes.
                .process_group(0)
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Bystander {
    /// One that does nothing, under the account of tests that need one.
    fn asleep() -> Self {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").env("BYSTANDERS_SECRET", "canary");
        if let Some(account) = account() {
            command.uid(account.uid).gid(account.gid);
        }
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An account that nobody else uses, where this process can take on another: root may look at what others may not.
const ACCOUNT: u32 = 61_713;

fn account() -> Option<UserIds> {
    let ids = UserIds {
        uid: ACCOUNT,
        gid: ACCOUNT,
        groups: Vec::new(),
    };
    rustix::process::geteuid().is_root().then_some(ids)
}

/// This program where every account can execute it.
fn program_for_all(dir: &Path) -> PathBuf {
    let program = dir.join("program");
    copy_of_this_program(&program);
    for path in [dir, &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

#[test]
fn k8_memory_environment_and_descriptors_of_other_processes_are_out_of_reach() {
    let walled = Walled::new();
    let shared = tempfile::tempdir().unwrap();
    let program = program_for_all(shared.path());
    let bystander = Bystander::asleep();
    let by = bystander.0.id().to_string();
    let forbidden = tries(&[
        "cat /proc/$BY/environ | grep -q canary",
        "cat /proc/$BY/maps | grep -q .",
        "cat /proc/$BY/fd/0",
        "readlink /proc/$BY/exe",
        "readlink /proc/$BY/cwd",
        "ls /proc/$BY/root/usr",
        "cat /proc/$PPID/environ | grep -q .",
        "readlink /proc/$PPID/fd/0",
        "cat /proc/$HERE/environ | grep -q .",
    ]);
    let run = |wall: bool, argv: &[&str]| {
        let mut spec = walled.program(argv);
        spec.env.push(("BY".to_owned(), by.clone()));
        spec.user = account();
        spec.cwd = "/".into();
        spec.wall = spec.wall.filter(|_| wall);
        expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
        read(&spec.dir.join("log.0"))
    };
    let script = ["/bin/sh", "-c", forbidden.as_str()];
    let tracer = [program.to_str().unwrap(), "role", "tracer", by.as_str()];
    assert_eq!(run(true, &script), "end\n");
    assert_eq!(run(true, &tracer), "trace refused\nread refused\n");
    let free = run(false, &script);
    assert!(
        free.lines().count() > 6,
        "all of it is possible without: {free}"
    );
}

#[test]
fn k13_a_signal_to_everybody_stays_in_the_task() {
    if !matches!(Separation::probe(), Separation::Whole(_)) {
        let at = Separation::probe();
        panic!("this kernel does not keep signals in ({at:?}): the test needs Linux 6.12");
    }
    let walled = Walled::new();
    let counts = walled.outside.path().join("counts");
    let bystander = Bystander::new(&counts);
    until("the bystander", || {
        read(&counts).contains("up").then_some(())
    });
    // A signal that nobody minds, so that a wall that does not hold costs no stranger its life.
    let said = walled.says(&format!(
        "trap 'echo own' WINCH; kill -s WINCH -1
         kill -s WINCH {} || echo refused; kill -s WINCH $PPID || echo refused
         sh -c 'kill -s WINCH {0}' || echo refused; kill -s WINCH $$",
        bystander.0.id()
    ));
    let refused = said.lines().filter(|line| *line == "refused").count();
    assert_eq!(refused, 3, "{said}");
    assert!(said.ends_with("own\n"), "{said}");
    assert_eq!(read(&counts), "up\n", "nothing reached the bystander");
}

#[test]
#[ignore = "needs: root"]
fn k13_a_kill_to_everybody_of_the_account_costs_only_the_task() {
    let walled = Walled::new();
    let program = program_for_all(walled.outside.path());
    let own = Some(ACCOUNT);
    for dir in ["", "attempts", "work", "work/own"] {
        std::os::unix::fs::chown(walled.site.path(dir), own, own).unwrap();
    }
    let mut spawner = Command::new(&program);
    spawner
        .args(["role", "spawner", "--state"])
        .arg(walled.site.dir.path());
    walled.site.leash.pass(&mut spawner).unwrap();
    let spawned = spawner.uid(ACCOUNT).gid(ACCOUNT).output().unwrap();
    assert!(spawned.status.success(), "{spawned:?}");
    let mut bystander = Bystander::asleep();
    let mut spec = walled.spec("sleep 1000 & kill -KILL -1; sleep 1000");
    std::os::unix::fs::chown(&spec.dir, own, own).unwrap();
    spec.timeout_ms = Some(2_000);
    let told = walled.site.path("spec.json");
    std::fs::write(&told, serde_json::to_vec(&spec).unwrap()).unwrap();
    std::os::unix::fs::chown(&told, own, own).unwrap();
    let mut runner = Command::new(&program);
    runner.args(["role", "runner"]).arg(walled.site.dir.path());
    let runner = runner.arg(&told).uid(ACCOUNT).gid(ACCOUNT);
    let mut runner = Bystander(runner.stdin(Stdio::null()).spawn().unwrap());
    let record = until("the end", || read_exit_record(&spec.dir).unwrap());
    // The kernel spares the sender: the task itself goes on until its keeper, which lives, ends it.
    assert_eq!(record.cause, Cause::TimedOut, "{record:?}");
    for other in [&mut bystander, &mut runner] {
        assert!(matches!(other.0.try_wait(), Ok(None)), "{other:?} is dead");
    }
    let keeper = keeper_of(&spec).keeper;
    assert!(keeper.is_alive(), "its runner has not taken the end yet");
}

#[test]
fn k14_a_task_cannot_speak_to_another_tasks_keeper() {
    let site = Site::new();
    let other = site.script("until [ -e go ]; do sleep 0.02; done; exit 5");
    // The keeper's socket is there once its first runner is gone.
    drop(site.start(&other));
    let socket = other.dir.join("keeper.sock");
    until("the keeper's socket", || socket.exists().then_some(()));
    let program = std::env::current_exe().unwrap();
    let argv = [
        program.to_str().unwrap(),
        "role",
        "peer",
        socket.to_str().unwrap(),
        site.dir.path().to_str().unwrap(),
    ];
    let spec = site.spec(&argv);
    expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "refused\n");
    std::fs::write(site.path("go"), "").unwrap();
    let record = until("the end", || read_exit_record(&other.dir).unwrap());
    assert_eq!(record.ended, Ended::Exited(5));
}

#[test]
fn k14_a_task_of_an_earlier_spawner_cannot_speak_to_the_next_one() {
    let site = Site::new();
    let program = std::env::current_exe().unwrap();
    let script = "echo started >> starts; until [ -e go ]; do sleep 0.02; done; exec \"$0\" role peer \"$1\" .";
    let socket = site.path("spawner.sock");
    let argv = [
        "/bin/sh",
        "-c",
        script,
        program.to_str().unwrap(),
        socket.to_str().unwrap(),
    ];
    let spec = site.spec(&argv);
    let keeper = site.start(&spec);
    site.lines("starts", 1);
    let old = site.spawner_pid();
    let process = outpost_agent_keeper::process::ProcessRef::of(old).unwrap();
    assert!(process.signal(rustix::process::Signal::KILL));
    until("its end", || (!process.is_alive()).then_some(()));
    assert_ne!(site.spawner_pid(), old);
    std::fs::write(site.path("go"), "").unwrap();
    expect(last(&keeper), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "refused\n");
}

/// Somebody of the agent's account who is below no keeper and asks at a socket.
fn asks_at(socket: &Path, shows_token_of: Option<&Path>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.args(["role", "peer"]).arg(socket);
    let asked = command.args(shows_token_of).output().unwrap();
    String::from_utf8(asked.stdout).unwrap()
}

#[test]
fn k14_who_shows_no_token_speaks_to_neither_spawner_nor_keeper_whoever_started_it() {
    let site = Site::new();
    let spec = site.script("until [ -e go ]; do sleep 0.02; done; exit 5");
    let client = site.start(&spec);
    site.lines("starts", 1);
    let spawner = site.path("spawner.sock");
    assert_eq!(asks_at(&spawner, None), "refused\n");
    assert_eq!(asks_at(&spawner, Some(site.dir.path())), "answered\n");
    drop(client);
    // The keeper's socket is there once its first runner is gone.
    let socket = spec.dir.join("keeper.sock");
    assert_eq!(asks_at(&socket, None), "refused\n");
    assert_eq!(asks_at(&socket, Some(site.dir.path())), "answered\n");
    let later = KeeperClient::connect(&spec.dir).unwrap();
    running(&later);
    // It does not take the place of a runner that has.
    assert_eq!(asks_at(&socket, None), "refused\n");
    std::fs::write(site.path("go"), "").unwrap();
    expect(last(&later), Ended::Exited(5), Cause::Own);
}

#[test]
fn k14_who_comes_next_does_not_take_the_place_of_one_that_has_shown_the_token() {
    let site = Site::new();
    let spec = site.script("until [ -e go ]; do sleep 0.02; done; exit 5");
    let client = site.start(&spec);
    running(&client);
    drop(client);
    let keeper = keeper_of(&spec).keeper;
    let address = SocketAddrUnix::new(spec.dir.join("keeper.sock")).unwrap();
    let connected = || {
        let fd = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let connected = net::connect(&fd, &address);
        connected.is_ok().then_some(fd)
    };
    let descriptors = || {
        let dir = format!("/proc/{}/fd", keeper.pid);
        std::fs::read_dir(dir).unwrap().count()
    };
    let mut before = 0;
    let first = until("the keeper's socket", || {
        before = descriptors();
        connected()
    });
    until("it is let in", || (descriptors() > before).then_some(()));
    assert!(keeper.signal(rustix::process::Signal::STOP));
    let token = read(&site.path("keepers.token"));
    let shown = format!("\u{4}{{\"token\":\"{token}\"}}");
    net::send(&first, shown.as_bytes(), net::SendFlags::NOSIGNAL).unwrap();
    let next = connected().unwrap();
    assert!(keeper.signal(rustix::process::Signal::CONT));
    let first = Packets::from_fd(first);
    assert!(first.recv::<FromKeeper>().unwrap().is_some());
    drop(next);
    std::fs::write(site.path("go"), "").unwrap();
    until("the end", || read_exit_record(&spec.dir).unwrap());
}

#[test]
fn k14_who_connects_and_says_nothing_keeps_nobody_out() {
    let site = Site::new();
    let spawner = site.spawner();
    let socket = site.path("spawner.sock");
    let address = SocketAddrUnix::new(&socket).unwrap();
    let silent = [(); 40].map(|()| {
        let fd = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        net::connect(&fd, &address).unwrap();
        fd
    });
    assert_eq!(asks_at(&socket, Some(site.dir.path())), "answered\n");
    drop((silent, spawner));
}

#[test]
fn k14_abstract_sockets_of_others_are_out_of_reach_and_named_ones_tell_who_connects() {
    let walled = Walled::new();
    // Abstract names are the network namespace's, which processes of other pid namespaces may share.
    let name = format!("outpost-test-{}", walled.site.dir.path().display());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
            &name,
        )
        .unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let path = walled.outside.path().join("named");
    let named = UnixListener::bind(&path).unwrap();
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    let argv = [program, "role", "dialler", &name, path.to_str().unwrap()];
    // A task that may have sockets reaches what has a path, which Landlock has no rules about: who listens there looks
    // who it is.
    for (unix_sockets, said) in [
        (true, "abstract refused\nnamed done\n"),
        (false, "abstract refused\nnamed refused\n"),
    ] {
        let mut spec = walled.program(&argv);
        spec.wall.as_mut().unwrap().unix_sockets = unix_sockets;
        expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
        assert_eq!(read(&spec.dir.join("log.0")), said);
    }
    drop((named, UnixStream::connect_addr(&address).unwrap()));
}

#[test]
fn k9_hostile_values_arrive_as_one_argument_and_one_variable_each() {
    let site = Site::new();
    let long = "x".repeat(64 * 1024);
    let hostile = [
        "",
        "-rf",
        "--",
        "a\nb\r\n",
        "$(id) `id` ; id | id & id > /x",
        "'\"\\ \t*?[a]~#{}",
        "\u{202e}\u{fe}\u{1b}[31m",
        long.as_str(),
    ];
    for value in hostile {
        let mut spec = site.spec(&["/usr/bin/printf", "%s|%s", value, "end"]);
        spec.env.push(("VALUE".to_owned(), value.to_owned()));
        expect(site.run(&spec), Ended::Exited(0), Cause::Own);
        assert_eq!(read(&spec.dir.join("log.0")), format!("{value}|end"));
        spec = site.spec(&["/bin/sh", "-c", "printf '%s|' \"$VALUE\""]);
        spec.env.push(("VALUE".to_owned(), value.to_owned()));
        expect(site.run(&spec), Ended::Exited(0), Cause::Own);
        assert_eq!(read(&spec.dir.join("log.0")), format!("{value}|"));
    }
    for put in [
        |spec: &mut StartSpec| spec.argv.push("a\0b".to_owned()),
        |spec: &mut StartSpec| spec.env.push(("A".to_owned(), "a\0b".to_owned())),
        |spec: &mut StartSpec| spec.env.push(("A=B".to_owned(), String::new())),
    ] {
        let mut spec = site.spec(&["/bin/true"]);
        put(&mut spec);
        assert!(spec.check().is_err(), "{spec:?}");
    }
}

#[test]
fn k10_only_ids_of_the_fixed_form_reach_the_file_system() {
    let site = Site::new();
    let good = site.spec(&["/bin/true"]);
    assert_eq!(good.check(), Ok(()));
    let upper = good.attempt.replace('0', "A");
    let longer = format!("{}0", good.attempt);
    for bad in [
        "",
        "..",
        "../../etc/passwd",
        &upper,
        &longer,
        "0123456789abcdef0123456789abcde/",
    ] {
        let mut spec = good.clone();
        bad.clone_into(&mut spec.attempt);
        assert!(spec.check().is_err(), "{bad:?}");
    }
}

#[test]
fn k4_zeros_without_a_line_end_are_capped_and_counted() {
    let site = Site::new();
    let mut spec = site.spec(&["/usr/bin/head", "-c", "200M", "/dev/zero"]);
    spec.log_max_bytes = 64 * 1024;
    let record = expect(site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(record.log_bytes, 200 << 20);
    assert!(record.log_dropped_bytes >= (200 << 20) - 64 * 1024);
    let files = std::fs::read_dir(&spec.dir).unwrap().flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log."));
    let kept: u64 = logs.map(|log| log.metadata().unwrap().len()).sum();
    assert!(kept <= 64 * 1024, "{kept}");
}
