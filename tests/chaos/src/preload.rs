//! Small shared objects that change what a process hears of its system, compiled with the machine's C compiler when a
//! test needs them: an fsync that fails once, and a wall clock that is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An fsync that fails: the file named in the environment is taken away by the call that fails because of it.
const FSYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) {
    const char *wish = getenv("OUTPOST_SHIM_FSYNC");
    if (wish == NULL || unlink(wish) != 0) return 0;
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

/// A wall clock that is off by the seconds in the file named in the environment; every other clock is right.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long offset(void) {
    char text[32];
    const char *path = getenv("OUTPOST_SHIM_CLOCK");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    if (got <= 0) return 0;
    text[got] = 0;
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) =
        (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, at);
    if (failed == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += offset();
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
    variable: &'static str,
}

impl Preload {
    /// An fsync that can be made to fail, below `dir`.
    ///
    /// # Panics
    /// When there is no C compiler, or it does not take the source.
    #[must_use]
    pub fn fsync(dir: &Path) -> Self {
        Self::compile(dir, "fsync", FSYNC, "OUTPOST_SHIM_FSYNC")
    }

    /// A wall clock that can be wrong, below `dir`.
    ///
    /// # Panics
    /// When there is no C compiler, or it does not take the source.
    #[must_use]
    pub fn clock(dir: &Path) -> Self {
        Self::compile(dir, "clock", CLOCK, "OUTPOST_SHIM_CLOCK")
    }

    /// The same object for another process, which is told by a file of its own.
    #[must_use]
    pub fn for_another(&self, name: &str) -> Self {
        Self {
            object: self.object.clone(),
            wish: self.wish.with_file_name(format!("{name}.wish")),
            variable: self.variable,
        }
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

    fn compile(dir: &Path, name: &str, source: &str, variable: &'static str) -> Self {
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
            variable,
        }
    }

    /// What a process must find in its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.object)),
            (self.variable.to_owned(), text(&self.wish)),
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
        let draft = self.wish.with_extension("draft");
        std::fs::write(&draft, seconds.to_string()).expect("our own directory");
        std::fs::rename(draft, &self.wish).expect("our own directory");
    }
}
