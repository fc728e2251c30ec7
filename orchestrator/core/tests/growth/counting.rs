//! An allocator that counts: how often memory was asked for, and how much is held. One thread's numbers, so that what
//! others do at the same time does not count.

#![expect(
    unsafe_code,
    reason = "a global allocator is an unsafe trait; each call is handed on unchanged"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// Hands on to the system's allocator.
pub(crate) struct Counting;

fn count(asked: u64, bytes: i64) {
    // At a thread's end its numbers are gone before its last memory is given back.
    let _ = ASKED.try_with(|cell| cell.set(cell.get() + asked));
    let _ = HELD.try_with(|cell| cell.set(cell.get() + bytes));
}

fn size(layout: Layout) -> i64 {
    i64::try_from(layout.size()).unwrap_or(i64::MAX)
}

// SAFETY: every call goes to the system's allocator with the arguments it was made with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, size(layout));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -size(layout));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How often this thread asked for memory so far.
pub(crate) fn asked() -> u64 {
    ASKED.with(Cell::get)
}

/// Bytes that this thread asked for and did not give back.
pub(crate) fn held() -> i64 {
    HELD.with(Cell::get)
}
