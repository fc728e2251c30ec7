//! Small shared objects that change what a process hears of its system, compiled with the machine's C compiler when a
//! test needs them: an fsync that fails once, and a wall clock that is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a process looks that was told nothing by its environment.
pub const WISHES: &str = "/etc/outpost-chaos";

/// An fsync that fails: the file named in the environment is taken away by the call that fails because of it.
const FSYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) {
    const char *wish = getenv("OUTPOST_SHIM_FSYNC");
    if (unlink(wish == NULL ? "/etc/outpost-chaos/fsync" : wish) != 0) return 0;
    errno = EIO;
    return 1;
}
int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails() ? -1 : real(fd);
}
int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return fails() ? -1 : real(fd);
}
"#;

/// A wall clock that is off by the seconds in the file named in the environment; every other clock is right. The file is
/// mapped once, when a process begins, so that one which may open nothing any more follows it too.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile int64_t *offset;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("OUTPOST_SHIM_CLOCK");
    int fd = open(path == NULL ? "/etc/outpost-chaos/clock" : path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) offset = page;
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, at);
    int wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (failed == 0 && wall && offset != NULL) at->tv_sec += *offset;
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at != NULL) *at = now.tv_sec;
    return now.tv_sec;
}
"#;

/// A compiled shared object, and the file by which it is told what to do.
#[derive(Debug)]
pub struct Preload {
    object: PathBuf,
    wish: PathBuf,
    shim: Shim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shim {
    Fsync,
    Clock,
}

impl Shim {
    /// Its name, its source, and how a process is told of its file.
    fn text(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Fsync => ("fsync", FSYNC, "OUTPOST_SHIM_FSYNC"),
            Self::Clock => ("clock", CLOCK, "OUTPOST_SHIM_CLOCK"),
        }
    }
}

impl Preload {
    /// An fsync that can be made to fail, below `dir`.
    ///
    /// # Panics
    /// When there is no C compiler, or it does not take the source.
    #[must_use]
    pub fn fsync(dir: &Path) -> Self {
        Self::compile(dir, Shim::Fsync)
    }

    /// A wall clock that can be wrong, below `dir`.
    ///
    /// # Panics
    /// When there is no C compiler, or it does not take the source.
    #[must_use]
    pub fn clock(dir: &Path) -> Self {
        let clock = Self::compile(dir, Shim::Clock);
        clock.begin()
    }

    /// The same object for other processes, which are told by a file in this directory.
    ///
    /// # Panics
    /// When nothing can be written there.
    #[must_use]
    pub fn told_in(&self, wishes: &Path) -> Self {
        std::fs::create_dir_all(wishes).expect("a directory of our own");
        outpost_e2e::site::mode(wishes, 0o755);
        let other = Self {
            object: self.object.clone(),
            wish: wishes.join(self.shim.text().0),
            shim: self.shim,
        };
        other.begin()
    }

    /// A process that begins must find what it is to map.
    fn begin(self) -> Self {
        if self.shim == Shim::Clock {
            std::fs::write(&self.wish, [0; 8]).expect("our own directory");
        }
        self
    }

    /// The shared object.
    #[must_use]
    pub fn object(&self) -> &Path {
        &self.object
    }

    /// Whether there is a C compiler.
    #[must_use]
    pub fn can_compile() -> bool {
        let mut compiler = Command::new("cc");
        compiler
            .arg("--version")
            .stdout(std::process::Stdio::null());
        compiler.status().is_ok_and(|status| status.success())
    }

    fn compile(dir: &Path, shim: Shim) -> Self {
        let (name, source, _) = shim.text();
        let (file, object) = (
            dir.join(format!("{name}.c")),
            dir.join(format!("{name}.so")),
        );
        std::fs::write(&file, source).expect("our own directory");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(&object)
            .arg(&file)
            .arg("-ldl");
        let done = outpost_e2e::process::run(compiler);
        let _ = done.ok();
        Self {
            object,
            wish: dir.join(format!("{name}.wish")),
            shim,
        }
    }

    /// What a process must find in its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.object)),
            (self.shim.text().2.to_owned(), text(&self.wish)),
        ]
    }

    /// The next fsync fails; only that.
    ///
    /// # Panics
    /// When the wish cannot be written.
    pub fn fail_once(&self) {
        std::fs::write(&self.wish, "").expect("our own directory");
    }

    /// What a process must find in its environment that several of them are for.
    #[must_use]
    pub fn together(all: &[&Self]) -> Vec<(String, String)> {
        let objects = all.iter().map(|one| one.object.to_string_lossy());
        let objects = objects.collect::<Vec<_>>().join(":");
        let wishes = all.iter().flat_map(|one| one.environment());
        let wishes = wishes.filter(|(name, _)| name != "LD_PRELOAD");
        std::iter::once(("LD_PRELOAD".to_owned(), objects))
            .chain(wishes)
            .collect()
    }

    /// Takes a wish back; whether nobody had taken it before.
    #[must_use]
    pub fn take_back(&self) -> bool {
        std::fs::remove_file(&self.wish).is_ok()
    }

    /// Whether a wish was taken.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self.wish.exists()
    }

    /// The wall clock is off by so many seconds from now on.
    ///
    /// # Panics
    /// When the wish cannot be written.
    pub fn step(&self, seconds: i64) {
        let file = std::fs::File::options().write(true).open(&self.wish);
        // In place: the processes have it mapped.
        let file = file.expect("a file of our own");
        std::os::unix::fs::FileExt::write_all_at(&file, &seconds.to_ne_bytes(), 0)
            .expect("a file of our own");
    }
}
