//! The machine: what it is, how busy it is, how fast it starts processes, and what it says of those that run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// What it is and how busy it is.
pub(crate) fn describe() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    vec![
        format!("processor   {model}, {processors} of them"),
        format!("kernel      {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("load        {}", load()),
        format!(
            "pressure    {}",
            read("/proc/pressure/cpu")
                .lines()
                .next()
                .unwrap_or("not told")
        ),
    ]
}

/// How busy it is.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.trim().to_owned()
}

/// Starts `/bin/true` so often on two threads; how many a second. The standard library uses `posix_spawn` for a command
/// as plain as this one.
pub(crate) fn spawn_limit(count: u32) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let threads = [(); 2].map(|()| std::thread::spawn(move || spawn(count / 2)));
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the limit panicked"))??;
    }
    Ok(f64::from(count / 2 * 2) / begun.elapsed().as_secs_f64())
}

fn spawn(count: u32) -> std::io::Result<()> {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit());
    for _ in 0..count {
        command.spawn()?.wait()?;
    }
    Ok(())
}

/// The same by `xargs`, two at a time: what a person would write.
pub(crate) fn xargs_limit(count: u32) -> anyhow::Result<f64> {
    let script = format!("seq {count} | xargs -P2 -n1 /bin/true");
    let begun = Instant::now();
    let status = Command::new("/bin/sh").args(["-c", &script]).status()?;
    ensure!(status.success(), "`{script}` failed");
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

/// Proportional memory of a process in KiB.
pub(crate) fn memory(pid: i32) -> anyhow::Result<f64> {
    let path = Path::new("/proc")
        .join(pid.to_string())
        .join("smaps_rollup");
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.context("no proportional memory is told")
}

/// Processor time that a process and its reaped children have used.
pub(crate) fn cpu(pid: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = tasks.into_iter().flatten().flatten().filter_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    let all: u64 = threads.sum();
    let own = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(0);
    Duration::from_nanos(all.max(own))
}

/// Bytes that went over the TCP connections to this port, both ways, TLS and all; `None` without `ss`.
pub(crate) fn wire(port: u16) -> Option<f64> {
    let filter = format!("dport = :{port}");
    let output = Command::new("ss")
        .args(["-tinH", "state", "established", &filter])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |name: &str| {
        let values = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix(name));
        values
            .filter_map(|value| value.parse::<f64>().ok())
            .sum::<f64>()
    };
    let sum = count("bytes_sent:") + count("bytes_received:");
    (sum > 0.0).then_some(sum)
}
