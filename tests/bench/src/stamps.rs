//! The task whose first instruction is timed, and the times that it writes.
//!
//! The program needs no loader where that can be built: starting a program of shared libraries takes the kernel and the
//! loader half a millisecond, which is nobody's time from call to start. What it writes is read from a pipe: whoever
//! looks at a file again and again takes the processor from what is measured.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use outpost_e2e::{World, site};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// How long a task may take to start.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
const SOURCE: &str = include_str!("bin/outpost-stamp.rs");
/// Everything it needs is in it.
const STATIC: [&str; 8] = [
    "--edition=2024",
    "-Copt-level=2",
    "-Cpanic=abort",
    "-Cstrip=symbols",
    "-Ctarget-feature=+crt-static",
    "--crate-name=stamp",
    "--crate-type=bin",
    "-o",
];

/// The task and the pipe it writes to.
#[derive(Debug)]
pub(crate) struct Stamps {
    program: PathBuf,
    path: PathBuf,
    pipe: File,
    text: Vec<u8>,
}

impl Stamps {
    /// Makes both where any account can use them.
    pub(crate) fn new(world: &World) -> anyhow::Result<Self> {
        let program = world.dir().join("stamp");
        if !compiled(world.dir(), &program) {
            let built = std::env::current_exe()?.with_file_name("outpost-stamp");
            std::fs::copy(&built, &program).with_context(|| {
                let build = "cargo build --release --workspace --bins";
                format!("copying the task {}; build it: {build}", built.display())
            })?;
        }
        site::mode(&program, 0o755);
        let path = world.shared("stamps");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        site::mode(&path, 0o666);
        // For writing too: it never ends then.
        let pipe = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self {
            program,
            path,
            pipe,
            text: Vec::new(),
        })
    }

    /// What the entry executes.
    pub(crate) fn argv(&self) -> [String; 2] {
        [&self.program, &self.path].map(|path| path.to_string_lossy().into_owned())
    }

    /// The next so many times, in microseconds since 1970.
    pub(crate) fn next(&mut self, count: usize) -> anyhow::Result<Vec<f64>> {
        while self.text.iter().filter(|byte| **byte == b'\n').count() < count {
            let ready = poll(
                &mut [PollFd::new(&self.pipe, PollFlags::IN)],
                Some(&PATIENCE),
            )?;
            ensure!(ready > 0, "a task did not start within 30 s");
            let mut more = [0; 4096];
            let read = self.pipe.read(&mut more)?;
            self.text.extend_from_slice(&more[..read]);
        }
        let text = std::mem::take(&mut self.text);
        let times = str::from_utf8(&text)?.lines().map(str::parse);
        let times = times.collect::<Result<Vec<f64>, _>>()?;
        ensure!(
            times.len() == count,
            "more tasks started than were asked for"
        );
        Ok(times)
    }
}

/// Whether it could be built without a loader.
fn compiled(dir: &Path, program: &Path) -> bool {
    let source = dir.join("stamp.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = std::fs::write(&source, SOURCE).and_then(|()| {
        Command::new(rustc)
            .args(STATIC)
            .arg(program)
            .arg(&source)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    });
    built.is_ok_and(|status| status.success())
}
