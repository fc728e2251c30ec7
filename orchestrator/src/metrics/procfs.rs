//! What the kernel says of this process, under the names that every Prometheus client uses.

use std::fmt::Write as _;
use std::fs;

/// Adds what can be read; what cannot is left out.
pub(super) fn append(to: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; fields are counted behind it, the first one being the third.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let page = rustix::param::page_size() as u64;
    let cpu = field(14).zip(field(15)).map(|(user, system)| {
        let hundredths = (user + system) * 100 / ticks;
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    });
    let whole = |value: Option<u64>| value.map(|value| value.to_string());
    let rows = [
        (
            "cpu_seconds_total",
            "counter",
            "CPU time used, user and system",
            cpu,
        ),
        (
            "resident_memory_bytes",
            "gauge",
            "Resident memory",
            whole(field(24).map(|pages| pages * page)),
        ),
        (
            "virtual_memory_bytes",
            "gauge",
            "Virtual memory",
            whole(field(23)),
        ),
        ("threads", "gauge", "Threads", whole(field(20))),
        (
            "open_fds",
            "gauge",
            "Open file descriptors",
            whole(open_fds()),
        ),
        (
            "max_fds",
            "gauge",
            "The limit of open file descriptors",
            whole(max_fds()),
        ),
        (
            "start_time_seconds",
            "gauge",
            "When the process started, seconds since 1970",
            whole(started(field(22), ticks)),
        ),
    ];
    for (name, kind, help, value) in rows {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(
                to,
                "# HELP process_{name} {help}.\n# TYPE process_{name} {kind}\nprocess_{name} {value}\n"
            );
        }
    }
}

fn open_fds() -> Option<u64> {
    // One of them is the directory itself.
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(count).ok()?.checked_sub(1)
}

fn max_fds() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

fn started(since_boot: Option<u64>, ticks: u64) -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<u64>().ok()? + since_boot? / ticks)
}
