//! What a process need not hold while it waits: code that it has run, and tables that the loader has relocated.
//!
//! Used by every role that stays. Most of a waiting process's share of memory is neither heap nor stack but pages of
//! the executable: the loader writes relocated tables into pages of the process's own, and each page of code that is
//! touched brings fifteen neighbours along. Both can be had again from a file when they are needed.
#![expect(
    unsafe_code,
    reason = "mappings of the program itself are found and advised on"
)]

use std::ffi::{CStr, c_int, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::MemfdFlags;

/// Whether the relocated tables of this process, and of those forked from it, lie in a file.
static TABLES_IN_FILE: AtomicBool = AtomicBool::new(false);

/// A range of addresses, in whole pages.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: usize,
    len: usize,
}

/// What the loader mapped of the program and its libraries.
#[derive(Debug, Default)]
struct Mapped {
    /// Never written: code and constants.
    constant: Vec<Range>,
    /// The program's tables, written by the loader and protected since.
    tables: Option<Range>,
}

/// Called once at a role's start, single-threaded: its relocated tables move into a file that exists in memory only,
/// from which it maps what it touches, and a spawner's keepers with it. What fails here costs memory and nothing else.
pub fn share_tables() {
    let Some(tables) = mapped().tables else {
        return;
    };
    // SAFETY: the loader mapped this range readable and protected it; nothing writes to it any more.
    let bytes = unsafe { std::slice::from_raw_parts(tables.start as *const u8, tables.len) };
    let Ok(fd) = rustix::fs::memfd_create(c"outpost-tables", MemfdFlags::CLOEXEC) else {
        return;
    };
    let mut file = File::from(fd);
    if file.write_all(bytes).is_err() {
        return;
    }
    let fd: OwnedFd = file.into();
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let at = tables.start as *mut c_void;
    // SAFETY: the same bytes come to the same place, in one step.
    let mapped = unsafe { libc::mmap(at, tables.len, libc::PROT_READ, flags, fd.as_raw_fd(), 0) };
    TABLES_IN_FILE.store(mapped != libc::MAP_FAILED, Ordering::Relaxed);
}

/// Lets go of every page that can be had again from a file, and of what was allocated and given back; any thread may run
/// meanwhile. The next touch of each costs a microsecond.
pub fn let_go() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives pages of free memory back to the kernel, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0)
    };
    let mapped = mapped();
    let tables = mapped
        .tables
        .filter(|_| TABLES_IN_FILE.load(Ordering::Relaxed));
    for range in mapped.constant.into_iter().chain(tables) {
        // SAFETY: these pages are not written by anybody; the next touch reads the same bytes from their file.
        unsafe { libc::madvise(range.start as *mut c_void, range.len, libc::MADV_DONTNEED) };
    }
}

fn mapped() -> Mapped {
    let mut mapped = Mapped::default();
    // SAFETY: the callback gets back the pointer given here, to a local that outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut mapped).cast()) };
    mapped
}

/// Takes note of one loaded object; the program itself comes first and has no name.
unsafe extern "C" fn note(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    mapped: *mut c_void,
) -> c_int {
    // SAFETY: the loader gives valid structures, and the pointer is the one that `mapped` handed in.
    let (info, mapped) = unsafe { (&*info, &mut *mapped.cast::<Mapped>()) };
    // SAFETY: names are strings or null.
    let name = (!info.dlpi_name.is_null()).then(|| unsafe { CStr::from_ptr(info.dlpi_name) });
    let name = name.unwrap_or_default().to_bytes();
    // What the kernel itself maps lies in no file.
    if !name.is_empty() && !name.contains(&b'/') {
        return 0;
    }
    // SAFETY: the loader gives the place and the number of the headers.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for header in headers {
        let start = usize::try_from(info.dlpi_addr + header.p_vaddr).unwrap_or(0);
        let len = usize::try_from(header.p_memsz).unwrap_or(0);
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            mapped.constant.extend(pages(start, start + len));
        } else if header.p_type == libc::PT_GNU_RELRO && name.is_empty() {
            mapped.tables = pages(start, start + len);
        }
    }
    0
}

/// The pages that lie in a range as a whole, as the loader rounds; the first one begins a mapping.
fn pages(start: usize, end: usize) -> Option<Range> {
    let page = rustix::param::page_size();
    let (start, end) = (start / page * page, end / page * page);
    (end > start).then(|| Range {
        start,
        len: end - start,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_go_is_there_again_when_it_is_needed() {
        let mapped = mapped();
        assert!(
            mapped.tables.is_some() && mapped.constant.len() > 2,
            "{mapped:?}"
        );
        let before = format!("{:?}", std::io::ErrorKind::NotFound);
        let_go();
        assert_eq!(format!("{:?}", std::io::ErrorKind::NotFound), before);
    }
}
