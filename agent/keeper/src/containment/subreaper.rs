//! Ending everything below a process by looking at `/proc`: the level that needs no privilege at all.
//!
//! A fork bomb can outrun a killer that goes one by one, so everything found is stopped first, until a look finds
//! nothing new, and only then killed. Callers repeat until waiting says that there is no child left.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use rustix::process::Signal;

use crate::process::{self, Environment, ProcessRef};

/// How many looks for new processes one call takes; the caller repeats anyway.
const LOOKS: usize = 32;

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

/// Every process whose environment at exec named this attempt.
///
/// # Errors
/// When the look failed, or some cannot be told yet: some may be missing.
pub(crate) fn marked(attempt: &str) -> io::Result<Vec<ProcessRef>> {
    match look_for(attempt)? {
        (found, None) => Ok(found),
        (_, Some(pid)) => {
            let text =
                format!("process {pid} begins another program, and whose it is cannot be seen yet");
            Err(io::Error::new(io::ErrorKind::WouldBlock, text))
        }
    }
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

    /// It begins one program after another, each under the same mark: in between it has no environment.
    #[test]
    fn a_process_that_begins_another_program_is_found_or_not_told_of() {
        let attempt = format!("between-{}", std::process::id());
        let mut child = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                r#"exec /bin/sh -c "$0" "$0""#,
                r#"exec /bin/sh -c "$0" "$0""#,
            ])
            .env("OUTPOST_ATTEMPT", &attempt)
            .spawn()
            .unwrap();
        let of = ProcessRef::of(child.id()).unwrap();
        let (mut seen, mut untold, mut missed) = (0, 0, 0);
        while seen < 100 || (untold < 3 && seen < 5_000) {
            match marked(&attempt) {
                Ok(found) if found.contains(&of) => seen += 1,
                Ok(_) => missed += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => untold += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let so_far = (0..100).any(|_| marked_so_far(&attempt).contains(&of));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(missed, 0, "{seen} times seen, {untold} times not told");
        assert!(so_far);
    }
}
