//! Ending everything below a process by looking at `/proc`: the level that needs no privilege at all.
//!
//! A fork bomb can outrun a killer that goes one by one, so everything found is stopped first, until a look finds
//! nothing new, and only then killed. Callers repeat until waiting says that there is no child left.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{self, Environment, ProcessRef};

/// How many looks for new processes one call takes; the caller repeats anyway.
const LOOKS: usize = 32;
/// How often it is looked again while there is a process of which it cannot be told whose it is.
const UNTOLD: usize = 200;
/// Time between two of these looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// TERM to everything below the caller. Who cannot be seen gets none, and KILL after the grace as everybody.
pub(super) fn terminate() {
    for process in process::descendants(&[std::process::id()]).unwrap_or_default() {
        process.signal(Signal::TERM);
    }
}

/// Stops, then kills everything below `roots`, not the roots themselves, as far as it can be seen.
pub(super) fn kill_below(roots: &[u32]) {
    let mut stopped = BTreeSet::new();
    for _ in 0..LOOKS {
        let found = process::descendants(roots).unwrap_or_default();
        let new: Vec<ProcessRef> = found
            .into_iter()
            .filter(|process| !stopped.contains(process))
            .collect();
        if new.is_empty() {
            break;
        }
        for process in new {
            process.signal(Signal::STOP);
            stopped.insert(process);
        }
    }
    for process in stopped {
        process.signal(Signal::KILL);
    }
}

/// Every process whose environment at exec named this attempt, or those that are found first. Blocks for about a second at
/// most: on a host on which programs begin all the time another look is needed now and then.
///
/// # Errors
/// When the look failed, or none told of all: some may be missing.
pub(crate) fn marked(attempt: &str) -> io::Result<Vec<ProcessRef>> {
    let mut untold = 0;
    for _ in 0..UNTOLD {
        match look_for(attempt)? {
            (found, None) => return Ok(found),
            (found, Some(_)) if !found.is_empty() => return Ok(found),
            (_, Some(pid)) => untold = pid,
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(io::Error::new(
        io::ErrorKind::WouldBlock,
        format!("process {untold} begins another program, and whose it is cannot be seen yet"),
    ))
}

/// As [`marked`], as far as it can be seen now.
pub(super) fn marked_so_far(attempt: &str) -> Vec<ProcessRef> {
    look_for(attempt)
        .map(|(found, _)| found)
        .unwrap_or_default()
}

/// Those that are found, and one of which it cannot be told yet, if there is one.
fn look_for(attempt: &str) -> io::Result<(Vec<ProcessRef>, Option<u32>)> {
    let marker = format!("OUTPOST_ATTEMPT={attempt}");
    let own = std::process::id();
    let (mut found, mut unsure) = (Vec::new(), None);
    for stat in process::all()? {
        let pid = stat.process.pid;
        if stat.zombie || pid == own {
            continue;
        }
        match has_marker(pid, marker.as_bytes())? {
            Some(true) => found.push(stat.process),
            Some(false) => {}
            None => unsure = Some(pid),
        }
    }
    Ok((found, unsure))
}

/// `None`: it begins another program, and there is nothing to look at yet.
///
/// What was read counts if it is as long as the kernel says: a program that begins meanwhile cuts it off. Where it is shorter
/// twice in one program's life, the program took it away itself.
fn has_marker(pid: u32, marker: &[u8]) -> io::Result<Option<bool>> {
    let mut before = None;
    for _ in 0..LOOKS {
        let read = match environment(pid) {
            Ok(read) => read,
            // What this account may not look into it cannot have started, unless the task changed its user itself.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Some(false));
            }
            Err(error) if process::says_gone(&error) => return Ok(Some(false)),
            Err(error) => return Err(error),
        };
        if read.split(|byte| *byte == 0).any(|entry| entry == marker) {
            return Ok(Some(true));
        }
        let whole = match process::environment(pid)? {
            Environment::Of { begins, bytes } => {
                let now = Some((begins, read.len()));
                read.len() as u64 == bytes || before == now || {
                    before = now;
                    false
                }
            }
            Environment::NotYet => return Ok(None),
            Environment::Never => true,
        };
        if whole {
            return Ok(Some(false));
        }
    }
    Ok(None)
}

fn environment(pid: u32) -> io::Result<Vec<u8>> {
    let dir = format!("/proc/{pid}");
    match environment_in(Path::new(&dir)) {
        // The first thread may have ended: the others show it as well.
        Err(error) if process::says_gone(&error) => std::fs::read_dir(format!("{dir}/task"))?
            .filter_map(|thread| environment_in(&thread.ok()?.path()).ok())
            .next()
            .ok_or(error),
        read => read,
    }
}

fn environment_in(dir: &Path) -> io::Result<Vec<u8>> {
    let mut environment = Vec::new();
    let file = std::fs::File::open(dir.join("environ"))?;
    // The most that the kernel takes for one exec is far below this.
    file.take(8 << 20).read_to_end(&mut environment)?;
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends it, also when the test fails.
    struct Ends(std::process::Child);

    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// It begins one program after another, each under the same mark: in between it has no environment.
    #[test]
    fn a_process_that_begins_another_program_is_found_or_not_told_of() {
        let attempt = format!("between-{}", std::process::id());
        let child = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                r#"exec /bin/sh -c "$0" "$0""#,
                r#"exec /bin/sh -c "$0" "$0""#,
            ])
            .env("OUTPOST_ATTEMPT", &attempt)
            .spawn()
            .unwrap();
        let child = Ends(child);
        let of = ProcessRef::of(child.0.id()).unwrap();
        let (mut seen, mut untold, mut missed) = (0, 0, 0);
        while seen < 100 || (untold < 3 && seen < 5_000) {
            match look_for(&attempt).unwrap() {
                (found, _) if found.contains(&of) => seen += 1,
                (_, Some(_)) => untold += 1,
                (_, None) => missed += 1,
            }
        }
        assert!(marked(&attempt).unwrap().contains(&of));
        let so_far = (0..100).any(|_| marked_so_far(&attempt).contains(&of));
        assert_eq!(missed, 0, "{seen} times seen, {untold} times not told");
        assert!(so_far);
    }
}
