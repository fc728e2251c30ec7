//! Fetching from a program of the site's: what it prints is the value. Blocks until it has ended or its time is up; then
//! it and everything in its process group are ended. Nothing that it writes to standard error is kept.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::Value;
use crate::catalogue::check_command;

/// A program that runs; dropping it ends its process group.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    /// Ends what it started too. Before it is waited for: until then nobody else can have its number.
    fn end_group(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_group();
        let _ = self.child.wait();
    }
}

/// Runs it. What it prints when it ends with another status than 0 is not looked at.
pub(super) fn run(
    argv: &[String],
    env: &BTreeMap<String, String>,
    timeout: Duration,
) -> Result<Value, String> {
    let [program, arguments @ ..] = argv else {
        return Err("it has no program".to_owned());
    };
    let own = rustix::process::geteuid().as_raw();
    check_command(argv, own)?;
    let until = Instant::now() + timeout;
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let child = spawned.map_err(|error| format!("it cannot be run: {error}"))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut running = Running { child, group };
    let value = output(&mut running.child, until).map_err(|error| {
        if error.kind() == std::io::ErrorKind::FileTooLarge {
            "it printed more than 64 KiB".to_owned()
        } else if error.kind() == std::io::ErrorKind::TimedOut {
            late(timeout)
        } else {
            format!("what it printed cannot be read: {error}")
        }
    })?;
    if !wait_until(&running, until) {
        return Err(late(timeout));
    }
    running.end_group();
    let ended = running.child.try_wait();
    match ended.map_err(|error| error.to_string())? {
        Some(status) if status.success() => Ok(value),
        Some(status) => Err(format!("it failed: {}", told(status))),
        None => Err(late(timeout)),
    }
}

fn late(timeout: Duration) -> String {
    format!("it took longer than {} s", timeout.as_secs())
}

fn told(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "it did not say how".to_owned(),
    }
}

/// Everything that it prints.
fn output(child: &mut Child, until: Instant) -> std::io::Result<Value> {
    let mut output = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    Value::read(|into| {
        if is_ready(output.as_fd(), until)? {
            output.read(into)
        } else {
            Err(std::io::ErrorKind::TimedOut.into())
        }
    })
}

/// Whether it has ended by then.
fn wait_until(running: &Running, until: Instant) -> bool {
    let Some(pid) = running.group else {
        return false;
    };
    let ended = pidfd_open(pid, PidfdFlags::empty());
    ended.is_ok_and(|ended| is_ready(ended.as_fd(), until).unwrap_or(false))
}

/// Whether there is something to read before that moment.
fn is_ready(fd: std::os::fd::BorrowedFd<'_>, until: Instant) -> std::io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            Some(&left),
        ) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: Duration) -> Result<Value, String> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&argv, &BTreeMap::new(), timeout)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_it_prints_is_the_value_and_its_environment_is_empty() {
        assert_eq!(sh("echo one", LONG).unwrap().bytes(), b"one\n");
        let argv = ["/usr/bin/env".to_owned()];
        assert_eq!(run(&argv, &BTreeMap::new(), LONG).unwrap().bytes(), b"");
        let env = BTreeMap::from([("A".to_owned(), "b".to_owned())]);
        assert_eq!(run(&argv, &env, LONG).unwrap().bytes(), b"A=b\n");
    }

    #[test]
    fn it_reads_nothing_stands_at_the_root_and_what_it_writes_to_standard_error_is_thrown_away() {
        let seen = sh("readlink /proc/$$/fd/0; readlink /proc/$$/fd/2; pwd", LONG);
        assert_eq!(seen.unwrap().bytes(), b"/dev/null\n/dev/null\n/\n");
    }

    #[test]
    fn its_failure_names_the_status_and_nothing_it_printed() {
        let why = sh("echo canary; echo canary >&2; exit 3", LONG).unwrap_err();
        assert!(
            why.contains("exit status 3") && !why.contains("canary"),
            "{why}"
        );
        let why = sh("kill -9 $$", LONG).unwrap_err();
        assert!(why.contains("signal 9"), "{why}");
        let why = run(&["/no/such".to_owned()], &BTreeMap::new(), LONG).unwrap_err();
        assert!(why.contains("/no"), "{why}");
        assert!(sh("yes", LONG).unwrap_err().contains("more than 64 KiB"));
    }

    #[test]
    fn one_that_takes_too_long_is_ended_with_all_it_started() {
        let dir = crate::testing::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let said = || std::fs::read_to_string(&pids).unwrap_or_default();
        for (script, started) in [
            ("sleep 600 & echo $! >> P; sleep 600", 1),
            ("exec >&-; sleep 600 & echo $! >> P; sleep 600", 2),
        ] {
            let script = script.replace('P', &pids.display().to_string());
            let mut timeout = Duration::from_millis(500);
            // A machine with much to do may not even have begun it by then.
            while said().lines().count() < started {
                let why = sh(&script, timeout).unwrap_err();
                assert!(why.contains("longer than"), "{why}");
                timeout *= 2;
                assert!(timeout < LONG, "it never began");
            }
        }
        said().lines().for_each(goes);
    }

    /// Waits until there is no such process any more.
    fn goes(pid: &str) {
        let is_gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        let give_up = Instant::now() + LONG;
        while !is_gone() {
            assert!(Instant::now() < give_up, "{pid} lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_it_left_running_ends_with_it_also_when_all_went_well() {
        let value = sh("sleep 600 > /dev/null & echo $!", LONG).unwrap();
        goes(std::str::from_utf8(value.bytes()).unwrap().trim());
    }

    /// Others may have changed it since the sources were read.
    #[test]
    fn it_is_looked_at_each_time_before_it_runs() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = crate::testing::tempdir().unwrap();
        let script = dir.path().join("fetch");
        std::fs::write(&script, "#!/bin/sh\necho canary\n").unwrap();
        let path = script.display().to_string();
        let (by_name, by_shell) = ([path.clone()], ["/bin/sh".to_owned(), path]);
        let fetch = |argv: &[String], mode: u32| {
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(mode)).unwrap();
            run(argv, &BTreeMap::new(), LONG)
        };
        assert_eq!(fetch(&by_shell, 0o755).unwrap().bytes(), b"canary\n");
        for argv in [by_name.as_slice(), &by_shell] {
            let why = fetch(argv, 0o757).unwrap_err();
            assert!(why.contains("written by others"), "{argv:?}: {why}");
        }
        let why = fetch(&by_name, 0o755).unwrap_err();
        assert!(why.contains("is a script"), "{why}");
    }
}
