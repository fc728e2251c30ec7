//! What one process uses, from /proc/self: for metrics.

use std::fs;

use outpost_agent_keeper::process::boot_time_us;
use rustix::param::{clock_ticks_per_second, page_size};

/// What a process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time, user and system, in microseconds.
    pub(crate) cpu_us: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) open_fds: u64,
    /// `u64::MAX` without a limit.
    pub(crate) max_fds: u64,
    /// When it began, in microseconds since 1970.
    pub(crate) started_us: u64,
}

impl Usage {
    /// Of this process; `None` where /proc does not tell.
    pub(crate) fn own() -> Option<Self> {
        let now_us = crate::runner::wall_us();
        let (cpu_us, virtual_bytes, resident_pages, started_boot_us) =
            of_stat(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let booted_us = now_us.saturating_sub(boot_time_us());
        Some(Self {
            cpu_us,
            resident_bytes: resident_pages * page_size() as u64,
            virtual_bytes,
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .current
                .unwrap_or(u64::MAX),
            started_us: booted_us + started_boot_us,
        })
    }
}

/// Fields 14 and 15, 23, 24 and 22 of /proc/PID/stat (proc(5)): processor time, virtual bytes, resident pages, start.
fn of_stat(stat: &str) -> Option<(u64, u64, u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields = rest.split_whitespace().collect::<Vec<_>>();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let tick_us = 1_000_000 / clock_ticks_per_second().max(1);
    let cpu = field(14)? + field(15)?;
    Some((cpu * tick_us, field(23)?, field(24)?, field(22)? * tick_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_descriptors_and_began_before_now() {
        let usage = Usage::own().unwrap();
        assert!(usage.resident_bytes > 1 << 20 && usage.virtual_bytes >= usage.resident_bytes);
        assert!(usage.open_fds >= 3 && usage.open_fds < usage.max_fds);
        assert!(usage.started_us < crate::runner::wall_us());
    }
}
