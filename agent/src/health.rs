//! The host's numbers, read from /proc and the file system when asked: what a heartbeat carries.

pub(crate) mod process;

use std::fs;
use std::path::{Path, PathBuf};

use outpost_proto::message::Health;

/// Below this an agent may be unable to record what it does: journal, ledger segment, and an exit record per attempt.
pub const LEAST_BYTES: u64 = 64 << 20;

/// Below this no new work is taken: what was begun has its space already, a new attempt's files and log have not.
const ROOM_BYTES: u64 = 16 << 20;

/// Samples the host; remembers the last sample, because processor time is a difference.
#[derive(Debug)]
pub struct Sampler {
    state_dir: PathBuf,
    last: Option<CpuTimes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

impl Sampler {
    /// `state_dir`: whose file system's space is reported.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            last: None,
        }
    }

    /// Whether the disk has room for more work. `had`: whether it had before; it must come back by more than it went.
    #[must_use]
    pub fn has_room(&self, had: bool) -> bool {
        let least = if had { ROOM_BYTES } else { ROOM_BYTES / 4 * 5 };
        let free = rustix::fs::statvfs(&self.state_dir)
            .map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        free.map_or(true, |free| free >= least)
    }

    /// The host's numbers now. What cannot be read is 0. Ledger, logs, certificate and refusals are others' to fill in.
    pub fn sample(&mut self) -> Health {
        let now = read("/proc/stat").as_deref().and_then(cpu_times);
        let cpu_percent = match (self.last, now) {
            (Some(before), Some(now)) => share(
                now.busy.saturating_sub(before.busy),
                now.total.saturating_sub(before.total),
            ),
            (_, _) => 0,
        };
        self.last = now.or(self.last);
        Health {
            cpu_percent,
            memory_percent: read("/proc/meminfo")
                .as_deref()
                .and_then(memory_percent)
                .unwrap_or(0),
            disk_percent: disk_percent(&self.state_dir).unwrap_or(0),
            load_percent: read("/proc/loadavg")
                .as_deref()
                .and_then(load_percent)
                .unwrap_or(0),
            pressure_percent: read("/proc/pressure/cpu")
                .as_deref()
                .and_then(pressure_percent)
                .unwrap_or(0),
            uptime_s: read("/proc/uptime")
                .as_deref()
                .and_then(uptime_s)
                .unwrap_or(0),
            ..Health::default()
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `part` of `whole` in percent, 0 to 100, rounded to the nearest.
fn share(part: u64, whole: u64) -> u8 {
    if whole == 0 {
        return 0;
    }
    let percent = (part.saturating_mul(100) + whole / 2) / whole;
    u8::try_from(percent.min(100)).unwrap_or(100)
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let times = line
        .split_whitespace()
        .take(8)
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()
        .ok()?;
    let idle = times.get(3)? + times.get(4)?;
    let total = times.iter().sum::<u64>();
    Some(CpuTimes {
        busy: total - idle,
        total,
    })
}

fn memory_percent(meminfo: &str) -> Option<u8> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let total = kib("MemTotal:")?;
    Some(share(total.saturating_sub(kib("MemAvailable:")?), total))
}

fn load_percent(loadavg: &str) -> Option<u16> {
    let (whole, hundredths) = loadavg.split_whitespace().next()?.split_once('.')?;
    let load = whole.parse::<u64>().ok()? * 100 + hundredths.parse::<u64>().ok()?;
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    Some(u16::try_from((load / processors).min(4095)).unwrap_or(4095))
}

fn pressure_percent(pressure: &str) -> Option<u8> {
    let some = pressure
        .lines()
        .find_map(|line| line.strip_prefix("some avg10="))?;
    let whole = some.split('.').next()?.parse::<u64>().ok()?;
    u8::try_from(whole.min(100)).ok()
}

fn uptime_s(uptime: &str) -> Option<u32> {
    uptime.split('.').next()?.parse().ok()
}

fn disk_percent(dir: &Path) -> Option<u8> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    // What an ordinary user can still write counts, as in df(1).
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    Some(share(used, used + stat.f_bavail))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn kernel_texts_become_percentages() {
        let before = cpu_times("cpu  100 0 100 700 100 0 0 0 0 0\n").unwrap();
        let after = cpu_times("cpu  150 0 150 750 150 0 0 0 0 0\n").unwrap();
        assert_eq!(
            share(after.busy - before.busy, after.total - before.total),
            50
        );
        assert_eq!(
            memory_percent("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"),
            Some(75)
        );
        assert_eq!(
            pressure_percent("some avg10=12.34 avg60=1.00\nfull avg10=0.00\n"),
            Some(12)
        );
        assert_eq!(uptime_s("123.45 67.8\n"), Some(123));
    }

    /// Processor time of this process.
    fn used() -> Duration {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::try_from(used).unwrap()
    }

    #[test]
    fn this_host_moves_under_load() {
        let mut sampler = Sampler::new(Path::new("/"));
        sampler.sample();
        let mut before = (Instant::now(), used());
        // Of the host's processors a container may have some, or some time of some.
        let stat = read("/proc/stat").unwrap();
        let host = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
        let own = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (loaded, least) = std::thread::scope(|scope| {
            for _ in 0..own {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop()
                    }
                });
            }
            // Until the kernel has counted it, however slowly this machine does.
            let mut seen = (0, 0);
            for _ in 0..200 {
                std::thread::sleep(Duration::from_millis(100));
                let loaded = sampler.sample().cpu_percent;
                let now = (Instant::now(), used());
                let all = (now.0 - before.0).as_micros() * host as u128;
                let least = (now.1 - before.1).as_micros() * 80 / all;
                (seen, before) = ((u128::from(loaded), least), now);
                if seen.0 >= least {
                    break;
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            seen
        });
        assert!(
            loaded >= least,
            "{loaded} %, and this process alone made {least} %"
        );
    }

    #[test]
    fn this_host_has_memory_disk_and_uptime() {
        let health = Sampler::new(Path::new("/")).sample();
        assert!(health.uptime_s > 0);
        let meminfo = read("/proc/meminfo").unwrap();
        let kib = |name: &str| {
            let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let (all, free) = (kib("MemTotal:"), kib("MemAvailable:"));
        let disk = rustix::fs::statvfs("/").unwrap();
        // A large host that is next to empty rounds to nothing.
        for (percent, all, free) in [
            (health.memory_percent, all, free),
            (health.disk_percent, disk.f_blocks, disk.f_bfree),
        ] {
            assert!(percent <= 100);
            assert!(percent > 0 || (all - free) * 100 <= all, "{free} of {all}");
        }
    }
}
