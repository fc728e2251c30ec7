//! The machine: what it is, how busy it is, and how fast it starts processes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What it is and how busy it was before anything was measured.
pub(crate) fn describe() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    vec![
        format!("processor   {model}, {processors} of them"),
        format!("kernel      {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("load        {}", read("/proc/loadavg").trim()),
        format!(
            "pressure    {}",
            read("/proc/pressure/cpu")
                .lines()
                .next()
                .unwrap_or("not told")
        ),
    ]
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

/// Resident and proportional memory of a process in MiB.
pub(crate) fn memory(pid: i32) -> Option<(f64, f64)> {
    let text = std::fs::read_to_string(
        Path::new("/proc")
            .join(pid.to_string())
            .join("smaps_rollup"),
    )
    .ok()?;
    let mib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib / 1024.0)
    };
    Some((mib("Rss:")?, mib("Pss:")?))
}
