//! Shared objects that change what a process hears of its system, compiled with the machine's C compiler.

use std::path::{Path, PathBuf};

/// Syncs fail with EIO while the file exists that `FAIL` names.
pub(crate) const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

static int failing(void) { return access(FAIL, F_OK) == 0; }

int fdatasync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (failing()) { errno = EIO; return -1; }
    return next(fd);
}

int fsync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (failing()) { errno = EIO; return -1; }
    return next(fd);
}
"#;

/// The same of the file of receipts only, whatever its name is while it is made.
pub(crate) const FAILING_RECEIPTS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int failing(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "/receipts.") && access(FAIL, F_OK) == 0;
}

int fdatasync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (failing(fd)) { errno = EIO; return -1; }
    return next(fd);
}
"#;

/// The wall clock is off by as many seconds as the first eight bytes of the file `OFFSET` say. The file is mapped once,
/// when a process begins, so that one which may open nothing any more follows it too.
pub(crate) const WRONG_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;

__attribute__((constructor)) static void begin(void) {
    int fd = open(OFFSET, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int said = next(clock, now);
    if (said == 0 && clock == CLOCK_REALTIME && offset) now->tv_sec += *offset;
    return said;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *into) {
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    if (into) *into = precise.tv_sec;
    return precise.tv_sec;
}
"#;

/// Compiles a source in which `name` stands for a path.
pub(crate) fn compiled(dir: &Path, source: &str, name: &str, path: &Path) -> PathBuf {
    let (code, object) = (
        dir.join(format!("{name}.c")),
        dir.join(format!("{name}.so")),
    );
    std::fs::write(&code, source).unwrap();
    let mut cc = std::process::Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&object);
    cc.arg(format!("-D{name}=\"{}\"", path.display()));
    cc.arg(&code).arg("-ldl");
    let output = cc.output().expect("a C compiler");
    assert!(output.status.success(), "{output:?}");
    object
}
