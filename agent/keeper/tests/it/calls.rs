//! What a task behind a wall can do to others of its account by means that Landlock has no rules about: named sockets,
//! limits and priorities of other processes, cgroups, and files that the account executes or obeys later.
//!
//! The tests run as whoever runs them: neither the filter nor Landlock lets root pass.
#![expect(unsafe_code, reason = "system calls are tried as they are")]

use std::ffi::OsString;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};

use outpost_agent_keeper::protocol::{Cause, Ended, StartSpec, Want};

use crate::site::*;
use crate::strangers::{Walled, tries};

/// Somebody of the same account, outside of every task.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000").stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> libc::pid_t {
        self.0.id().cast_signed()
    }

    /// Its limit of processor time.
    fn limit(&self) -> u64 {
        limit_of(self.pid()).unwrap()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn limit_of(pid: libc::pid_t) -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: only read from; the result goes to a live variable.
    let got = unsafe { libc::prlimit(pid, libc::RLIMIT_CPU, std::ptr::null(), &raw mut limit) };
    (got == 0).then_some(limit.rlim_cur)
}

/// Makes calls and says how each went: `role caller sockets|limits PID|places PID|objects|second-set|other-processor`.
pub(crate) fn caller(args: &[OsString]) -> ExitCode {
    match args[0].to_str() {
        Some("sockets") => sockets(),
        Some("limits") => limits(args[1].to_str().unwrap().parse().unwrap()),
        Some("places") => places(args[1].to_str().unwrap().parse().unwrap()),
        Some("objects") => objects(),
        Some("second-set") => second_set(),
        Some("other-processor") => other_processor(),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn say(what: &str, result: i64) {
    let error = std::io::Error::last_os_error().raw_os_error();
    let told = match error.filter(|_| result < 0) {
        None => "done".to_owned(),
        Some(libc::EAFNOSUPPORT) => "no such family".to_owned(),
        Some(libc::ENOSYS) => "no such call".to_owned(),
        Some(libc::EPERM) => "not permitted".to_owned(),
        Some(other) => other.to_string(),
    };
    println!("{what}: {told}");
}

/// The way of a call that makes one descriptor.
fn opened(what: &str, fd: i64) {
    say(what, fd);
    if let Ok(fd) = i32::try_from(fd)
        && fd >= 0
    {
        // SAFETY: made by the caller for nobody else.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

fn sockets() {
    for (name, kind) in [
        ("stream", libc::SOCK_STREAM),
        ("datagram", libc::SOCK_DGRAM),
        ("packets", libc::SOCK_SEQPACKET),
    ] {
        let kind = kind | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is involved.
        opened(name, unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into());
        let mut pair = [0; 2];
        // SAFETY: the pair has room for both.
        let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
        say(&format!("pair of {name}"), made.into());
    }
    // SAFETY: no memory is involved.
    opened(
        "internet",
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }.into(),
    );
    let mut parameters = [0_u8; 120];
    // SAFETY: the kernel's structure is of this size.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    opened("ring", ring);
}

fn limits(other: libc::pid_t) {
    let mut limit = libc::rlimit {
        rlim_cur: 1000,
        rlim_max: 2000,
    };
    // SAFETY: all pointers are to live variables, in this and the calls below.
    let set = |pid, limit: &libc::rlimit| unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_CPU,
            &raw const *limit,
            std::ptr::null_mut(),
        )
    };
    say("own limit", set(0, &limit).into());
    limit.rlim_cur = 900;
    say("other's limit", set(other, &limit).into());
    say("look at other's limit", limit_of(other).map_or(-1, |_| 0));
    let least = libc::sched_param { sched_priority: 0 };
    let idle = |pid| unsafe { libc::sched_setscheduler(pid, libc::SCHED_IDLE, &raw const least) };
    say("other's policy", idle(other).into());
    let least = unsafe { libc::sched_setparam(other, &raw const least) };
    say("other's parameters", least.into());
    // The kernel's structure begins with its size; all else zero is the usual policy.
    let mut usual = [0_u32; 12];
    usual[0] = 48;
    let usual = usual.as_ptr();
    say("other's attributes", unsafe {
        libc::syscall(libc::SYS_sched_setattr, other, usual, 0)
    });
    say("own policy", idle(0).into());
    // The least there is, so that nobody gets more by it. The C library's type for the first argument differs.
    let nice = |which: u32, who: libc::pid_t| unsafe {
        libc::syscall(libc::SYS_setpriority, which, who, 19)
    };
    say("other's priority", nice(0, other));
    say("everybody's priority", nice(2, 0));
    say("own priority", nice(0, 0));
    let rest = |which: u32, who: libc::pid_t| unsafe {
        libc::syscall(libc::SYS_ioprio_set, which, who, 3 << 13)
    };
    say("other's disk priority", rest(1, other));
    say("everybody's disk priority", rest(3, 0));
    say("own disk priority", rest(1, 0));
}

/// On which processors a process may run.
fn processors(pid: libc::pid_t) -> Vec<usize> {
    // SAFETY: all zero is an empty set; the kernel fills it, here and below.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let got = unsafe { libc::sched_getaffinity(pid, size_of_val(&set), &raw mut set) };
    assert_eq!(got, 0);
    let all = 0..usize::try_from(libc::CPU_SETSIZE).unwrap();
    // SAFETY: within the set.
    all.filter(|at| unsafe { libc::CPU_ISSET(*at, &set) })
        .collect()
}

fn places(other: libc::pid_t) {
    let first = processors(0)[0];
    // SAFETY: as above.
    let set = |pid| unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first, &mut set);
        libc::sched_setaffinity(pid, size_of_val(&set), &raw const set)
    };
    say("other's place", set(other).into());
    // As the C library does for threads.
    say(
        "own place by number",
        set(std::process::id().cast_signed()).into(),
    );
    say("own place", set(0).into());
    println!("own: {}", processors(0).len());
}

/// What the kernel keeps for an account. Nothing is made that stays: whatever is named is not there.
fn objects() {
    let none = 0x7fff_fff0;
    let name = c"outpost-test-none".as_ptr() as libc::c_long;
    let user = c"user".as_ptr() as libc::c_long;
    let calls: &[(&str, libc::c_long, [libc::c_long; 5])] = &[
        ("shmget", libc::SYS_shmget, [none, 1, 0, 0, 0]),
        ("shmat", libc::SYS_shmat, [none, 0, 0, 0, 0]),
        ("shmctl", libc::SYS_shmctl, [none, 0, 0, 0, 0]),
        ("semget", libc::SYS_semget, [none, 1, 0, 0, 0]),
        ("semop", libc::SYS_semop, [none, 0, 0, 0, 0]),
        ("semtimedop", libc::SYS_semtimedop, [none, 0, 0, 0, 0]),
        ("semctl", libc::SYS_semctl, [none, 0, 0, 0, 0]),
        ("msgget", libc::SYS_msgget, [none, 0, 0, 0, 0]),
        ("msgsnd", libc::SYS_msgsnd, [none, 0, 0, 0, 0]),
        ("msgrcv", libc::SYS_msgrcv, [none, 0, 0, 0, 0]),
        ("msgctl", libc::SYS_msgctl, [none, 0, 0, 0, 0]),
        ("mq_open", libc::SYS_mq_open, [name, 0, 0, 0, 0]),
        ("mq_unlink", libc::SYS_mq_unlink, [name, 0, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [user, name, 0, 0, none]),
        (
            "request_key",
            libc::SYS_request_key,
            [user, name, 0, none, 0],
        ),
        ("keyctl", libc::SYS_keyctl, [6, none, 0, 0, 0]),
    ];
    for (what, call, [a, b, c, d, e]) in calls {
        // SAFETY: no call has an address that it could write to.
        say(what, unsafe { libc::syscall(*call, *a, *b, *c, *d, *e) });
    }
}

/// The calls with short pointers have their own numbers.
fn second_set() {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(0x4000_0000 + 41, libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    opened("socket", fd);
}

/// As a program of 32 bits does it.
fn other_processor() {
    println!("before");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `getpid` of the 32-bit calls touches no memory.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20 => _, options(nostack));
    }
    println!("after");
}

fn called(walled: &Walled, unix_sockets: bool, args: &[&str]) -> (Ended, String) {
    let program = std::env::current_exe().unwrap();
    let argv = [&[program.to_str().unwrap(), "role", "caller"], args].concat();
    let mut spec = walled.program(&argv);
    spec.wall.as_mut().unwrap().unix_sockets = unix_sockets;
    let end = finished(walled.site.run(&spec));
    (end.ended, read(&spec.dir.join("log.0")))
}

#[test]
fn k14_named_sockets_are_out_of_reach_and_pairs_and_the_network_are_not() {
    let walled = Walled::new();
    let (ended, said) = called(&walled, false, &["sockets"]);
    assert_eq!(ended, Ended::Exited(0));
    assert_eq!(
        said,
        "stream: no such family\npair of stream: done\ndatagram: no such family\npair of datagram: no such family\n\
         packets: no such family\npair of packets: done\ninternet: done\nring: no such call\n"
    );
    let (ended, said) = called(&walled, true, &["sockets"]);
    assert_eq!(ended, Ended::Exited(0));
    // Whether there are rings is for the host to say.
    let others = said.lines().filter(|line| !line.starts_with("ring"));
    assert!(
        others.clone().count() == 7 && others.clone().all(|line| line.ends_with(": done")),
        "{said}"
    );
}

#[test]
fn k13_limits_and_priorities_of_other_processes_stay_as_they_are() {
    let walled = Walled::new();
    let bystander = Bystander::new();
    let before = bystander.limit();
    let pid = bystander.pid().to_string();
    for unix_sockets in [false, true] {
        let (ended, said) = called(&walled, unix_sockets, &["limits", &pid]);
        assert_eq!(ended, Ended::Exited(0));
        assert_eq!(
            said,
            "own limit: done\nother's limit: not permitted\nlook at other's limit: done\n\
             other's policy: not permitted\nother's parameters: not permitted\nother's attributes: not permitted\n\
             own policy: done\n\
             other's priority: not permitted\neverybody's priority: not permitted\nown priority: done\n\
             other's disk priority: not permitted\neverybody's disk priority: not permitted\nown disk priority: done\n"
        );
    }
    assert_eq!(bystander.limit(), before);
}

#[test]
fn k13_on_which_processors_others_run_is_not_for_a_task_to_say() {
    let walled = Walled::new();
    let bystander = Bystander::new();
    let before = processors(bystander.pid());
    let (ended, said) = called(&walled, true, &["places", &bystander.pid().to_string()]);
    assert_eq!(ended, Ended::Exited(0));
    assert_eq!(
        said,
        "other's place: done\nown place by number: done\nown place: done\nown: 1\n"
    );
    assert_eq!(processors(bystander.pid()), before);
}

#[test]
fn k16_memory_queues_and_keys_of_the_account_are_out_of_reach_unless_the_entry_says_otherwise() {
    let walled = Walled::new();
    let program = std::env::current_exe().unwrap();
    let argv = [program.to_str().unwrap(), "role", "caller", "objects"];
    let said = |ipc: Option<bool>| {
        let mut spec = walled.program(&argv);
        match ipc {
            Some(ipc) => spec.wall.as_mut().unwrap().ipc = ipc,
            None => spec.wall = None,
        }
        expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
        read(&spec.dir.join("log.0"))
    };
    let refused = said(Some(false));
    let all = refused.lines().count();
    assert_eq!(all, 16);
    assert!(
        refused.lines().all(|line| line.ends_with(": no such call")),
        "{refused}"
    );
    // What of it there is at all is for the host to say.
    let free = said(None);
    assert_eq!(said(Some(true)), free);
    assert_ne!(free, refused);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn k14_calls_with_other_numbers_are_no_way_around() {
    let walled = Walled::new();
    let (ended, said) = called(&walled, false, &["second-set"]);
    assert_eq!(
        (ended, said.as_str()),
        (Ended::Exited(0), "socket: no such call\n")
    );
    let (ended, said) = called(&walled, false, &["other-processor"]);
    assert!(!said.contains("after"), "{said}");
    // A kernel without those calls ends it in its own way.
    let by = [libc::SIGSYS, libc::SIGSEGV].map(Ended::Signalled);
    assert!(by.contains(&ended), "{ended:?}");
}

#[test]
fn a_task_without_named_sockets_looks_names_up_and_logs_as_before() {
    let walled = Walled::new();
    let spec = walled.spec(
        "getent hosts localhost > /dev/null && getent passwd root > /dev/null && id -u > /dev/null && echo names
         logger hello 2> /dev/null; echo logged
         sort /etc/passwd | head -n 1 | wc -l",
    );
    expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "names\nlogged\n1\n");
}

/// A home with what is executed later, the agent's own directory in it, and a place that is declared.
fn at_home(walled: &Walled, script: &str) -> Box<StartSpec> {
    let home = walled.outside().join("home");
    for dir in [
        ".ssh",
        ".config/systemd/user",
        "state/keys",
        "declared",
        "bin",
    ] {
        std::fs::create_dir_all(home.join(dir)).unwrap();
    }
    for file in [
        ".bashrc",
        ".ssh/authorized_keys",
        "state/keys/key",
        "bin/tool",
        "declared/old",
    ] {
        std::fs::write(home.join(file), "echo as it was\n").unwrap();
    }
    let mut spec = walled.spec(script);
    let wall = spec.wall.as_mut().unwrap();
    wall.closed.push(home.join("state"));
    wall.open.push(home.join("declared"));
    wall.kept.push(home);
    spec
}

#[test]
fn k16_what_the_account_executes_later_stays_as_it_is_and_declared_places_are_open() {
    let walled = Walled::new();
    let forbidden = tries(&[
        "echo x >> $OUT/home/.bashrc",
        "echo x > $OUT/home/.ssh/authorized_keys",
        "rm $OUT/home/.bashrc",
        "mv $OUT/home/bin/tool $OUT/home/bin/other",
        "touch $OUT/home/.profile",
        "touch $OUT/home/.config/systemd/user/x.service",
        "ln -s /bin/true $OUT/home/bin/new",
        "mkdir $OUT/home/.config/new",
        "mv $OUT/home $OUT/away",
        "truncate -s 0 $OUT/home/.bashrc",
        "cat $OUT/home/state/keys/key",
        "ls $OUT/home/state",
        "ls $OUT/home",
        "ln $OUT/home/.bashrc $OUT/home/declared/bashrc && echo x >> $OUT/home/declared/bashrc",
        "mv $OUT/home/declared/old $OUT/home/bin/old",
    ]);
    let allowed = "cat $OUT/home/.bashrc && ls $OUT/home/.ssh && sh $OUT/home/bin/tool
        echo new > $OUT/home/declared/new && rm $OUT/home/declared/old && ls $OUT/home/declared";
    let spec = at_home(&walled, &format!("{forbidden}{allowed}"));
    expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(
        read(&spec.dir.join("log.0")),
        "end\necho as it was\nauthorized_keys\nas it was\nnew\n"
    );
    // What a keeper remembers of one wall is not taken for another's.
    let mut spec = at_home(&walled, "echo x >> $OUT/home/.bashrc && echo changed");
    spec.wall.as_mut().unwrap().kept.clear();
    expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "changed\n");
}

#[test]
fn a_place_that_is_kept_and_holds_nothing_closed_can_be_listed() {
    let walled = Walled::new();
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    std::fs::create_dir_all(place.join("above/kept")).unwrap();
    let mut spec = walled
        .spec("ls $PLACE/above; touch $PLACE/above/kept/x || touch $PLACE/above/x || echo kept");
    spec.env
        .push(("PLACE".to_owned(), place.to_str().unwrap().to_owned()));
    spec.wall
        .as_mut()
        .unwrap()
        .kept
        .push(place.join("above/kept"));
    expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
    let log = read(&spec.dir.join("log.0"));
    assert!(
        log.starts_with("kept\n") && log.ends_with("kept\n") && log.contains("denied"),
        "{log}"
    );
}

#[test]
fn k16_a_file_that_is_kept_is_executed_and_not_changed() {
    let walled = Walled::new();
    let place = tempfile::tempdir().unwrap();
    let program = place.path().canonicalize().unwrap().join("program");
    std::fs::write(&program, "echo as it was\n").unwrap();
    let mut spec = walled.spec(
        "for change in 'echo x >> $PROGRAM' 'rm $PROGRAM' 'mv $PROGRAM $PROGRAM.away' 'truncate -s 0 $PROGRAM'; do
           (eval \"$change\") 2> /dev/null && echo \"$change\"
         done
         sh $PROGRAM",
    );
    let named = program.to_str().unwrap().to_owned();
    spec.env.push(("PROGRAM".to_owned(), named));
    spec.wall.as_mut().unwrap().kept.push(program.clone());
    expect(walled.site.run(&spec), Ended::Exited(0), Cause::Own);
    assert_eq!(read(&spec.dir.join("log.0")), "as it was\n");
    assert_eq!(read(&program), "echo as it was\n");
}

#[test]
fn k16_a_way_that_can_be_passed_and_not_listed_leads_to_nothing_closed() {
    let walled = Walled::new();
    let way = tempfile::tempdir().unwrap();
    let way = way.path().canonicalize().unwrap().join("way");
    std::fs::create_dir_all(way.join("closed")).unwrap();
    std::fs::write(way.join("closed/file"), "canary").unwrap();
    let mode = |mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&way, mode).unwrap();
    };
    mode(0o311);
    let mut spec = walled.spec("cat $WAY/closed/file || echo closed");
    spec.env
        .push(("WAY".to_owned(), way.to_str().unwrap().to_owned()));
    spec.wall.as_mut().unwrap().closed.push(way.join("closed"));
    let end = walled.site.run(&spec);
    mode(0o711);
    expect(end, Ended::Exited(0), Cause::Own);
    let log = read(&spec.dir.join("log.0"));
    assert!(
        log.ends_with("closed\n") && !log.contains("canary"),
        "{log}"
    );
}

#[test]
#[ignore = "needs: root"]
fn k3_a_task_behind_a_wall_cannot_leave_its_cgroup_nor_touch_others() {
    let walled = Walled::new();
    let tree = outpost_agent_keeper::containment::cgroup_tree().unwrap();
    let script = "own=$TREE$(sed -n 's/^0:://p' /proc/self/cgroup)
        echo 0 > $TREE/cgroup.procs && echo left
        echo 0 > ${own%/*}/cgroup.procs && echo left
        echo 1 > $own/cgroup.freeze && echo frozen
        mkdir $own/below && echo made
        cat $own/cgroup.procs > /dev/null && echo looked";
    for (kept, said) in [(true, "looked\n"), (false, "left")] {
        let mut spec = walled.spec(script);
        spec.env
            .push(("TREE".to_owned(), tree.to_str().unwrap().to_owned()));
        spec.containment = Want::Cgroup;
        spec.timeout_ms = Some(30_000);
        if kept {
            spec.wall.as_mut().unwrap().kept.push(tree.clone());
        }
        let _ = finished(walled.site.run(&spec));
        let log = read(&spec.dir.join("log.0"));
        let lines = log.lines().filter(|line| !line.contains("cannot"));
        let lines = lines.map(|line| format!("{line}\n")).collect::<String>();
        assert!(lines.starts_with(said) && (!kept || lines == said), "{log}");
    }
}
