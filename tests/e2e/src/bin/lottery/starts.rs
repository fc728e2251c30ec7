//! Counts how often each entry's script was opened, as the kernel tells it: a start of a task is its interpreter
//! opening its script once. Nothing of the code under test takes part in the count.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

type Opens = Arc<Mutex<BTreeMap<String, u64>>>;

/// Watches the scripts of one demo.
pub(crate) struct Starts {
    opens: Opens,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Starts {
    /// Begins to count opens of the files in `scripts`, which are written already.
    pub(crate) fn watch(scripts: &Path) -> anyhow::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Closings are asked for so that two openings in a row are not merged into one event.
        let flags = WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE;
        inotify::add_watch(&inotify, scripts, flags)?;
        let (opens, stop) = (Opens::default(), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (opens, stop) = (Arc::clone(&opens), Arc::clone(&stop));
            move || count(&inotify, &opens, &stop)
        });
        Ok(Self {
            opens,
            stop,
            thread,
        })
    }

    /// Ends; how often each file was opened.
    pub(crate) fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        let opens = self.opens.lock().unwrap_or_else(PoisonError::into_inner);
        opens.clone()
    }
}

fn count(inotify: &OwnedFd, opens: &Opens, stop: &AtomicBool) {
    let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
    loop {
        // Looked at before the queue: what came before the stop is then surely read.
        let last = stop.load(Ordering::Relaxed);
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_string_lossy());
            if let (true, Some(name)) = (event.events().contains(inotify::ReadFlags::OPEN), name) {
                let mut opens = opens.lock().unwrap_or_else(PoisonError::into_inner);
                *opens.entry(name.into_owned()).or_default() += 1;
            }
        }
        if last {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Entry by the script it runs, as the catalogue says.
pub(crate) fn scripts(catalogue: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(catalogue.join("host-report.toml"))?;
    let parsed: serde_json::Value = toml::from_str(&text)?;
    let entries = parsed["entry"].as_object().into_iter().flatten();
    let script = |(name, entry): (&String, &serde_json::Value)| {
        let path = entry["argv"][1].as_str()?;
        Some((path.rsplit('/').next()?.to_owned(), name.clone()))
    };
    Ok(entries.filter_map(script).collect())
}

/// How many attempts of each entry a keeper claimed: each of them may be started once.
pub(crate) fn claimed(state: &Path) -> BTreeMap<String, u64> {
    let mut claimed = BTreeMap::new();
    for dir in outpost_e2e::procs::attempts(state) {
        // A runner's claim is one word; a keeper's first line says what it was made for.
        let claim = std::fs::read_to_string(dir.join("claim")).unwrap_or_default();
        let first = claim.lines().next().unwrap_or_default();
        let line: serde_json::Value = serde_json::from_str(first).unwrap_or_default();
        if let Some(entry) = line["record"]["keeper"]["about"]["entry"].as_str() {
            *claimed.entry(entry.to_owned()).or_default() += 1;
        }
    }
    claimed
}

/// Entries whose scripts were opened more often than there were attempts to open them.
pub(crate) fn too_many(
    opens: &BTreeMap<String, u64>,
    scripts: &BTreeMap<String, String>,
    claimed: &BTreeMap<String, u64>,
) -> BTreeSet<String> {
    let over = scripts.iter().filter(|(script, entry)| {
        let starts = opens.get(*script).copied().unwrap_or(0);
        starts > claimed.get(*entry).copied().unwrap_or(0)
    });
    over.map(|(_, entry)| entry.clone()).collect()
}
