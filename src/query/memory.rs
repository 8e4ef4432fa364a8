//! SQLite's memory, counted for each thread.
//!
//! A query runs on one thread from its first to its last allocation, so an allocator that counts by
//! thread knows exactly what that query holds, and can refuse the one allocation that passes its limit:
//! SQLite then ends that statement with `SQLITE_NOMEM`, which it is tested for, and its neighbours do
//! not notice. For the same reason it is where a stopped query ends that is busy inside one function
//! call after the other: SQLite asks the progress handler only where its program jumps back.
//!
//! Rejected: `hard_heap_limit` counts the whole process, so a heavy query fails its neighbours, and it
//! needs SQLite's memory statistics, a mutex around every allocation (switched off here). A high-water
//! check in the progress handler comes too late: one instruction can ask for a gigabyte. Temporary
//! files instead of memory would need a disk with a quota on every worker.

#![allow(unsafe_code)] // An allocator is raw memory by definition; nothing else is in this file.

use std::{
    cell::{Cell, RefCell},
    ffi::{c_int, c_void},
    sync::{Arc, OnceLock},
};

use rusqlite::ffi;

use super::control::Control;

/// An allocation of so many bytes or more asks whether its query was stopped: whoever works on values of
/// this size takes longer for that than the question does.
const BIG_BYTES: c_int = 64 << 10;

thread_local! {
    /// Bytes that this thread allocated less those it freed since the scope was entered. Frees of
    /// memory from before the scope make it smaller, so a full page cache may be recycled freely.
    static HELD: Cell<i64> = const { Cell::new(0) };
    static LIMIT: Cell<i64> = const { Cell::new(i64::MAX) };
    /// Of the query that this thread works for.
    static CONTROL: RefCell<Option<Arc<Control>>> = const { RefCell::new(None) };
}

/// Puts the counting allocator under SQLite. Must come before any other use of SQLite in the process;
/// later calls do nothing.
///
/// # Errors
/// A line that says that SQLite was in use already.
pub(super) fn install() -> Result<(), String> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        let methods = ffi::sqlite3_mem_methods {
            xMalloc: Some(allocate),
            xFree: Some(free),
            xRealloc: Some(reallocate),
            xSize: Some(size),
            xRoundup: Some(round_up),
            xInit: Some(initialize),
            xShutdown: Some(shut_down),
            pAppData: std::ptr::null_mut(),
        };
        // SAFETY: sqlite3_config copies the table; the functions keep SQLite's allocator contract. It
        // refuses with MISUSE, and changes nothing, when SQLite is initialised already.
        let status = unsafe {
            match ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const methods) {
                ffi::SQLITE_OK => ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int),
                status => status,
            }
        };
        match status {
            ffi::SQLITE_OK => Ok(()),
            status => Err(format!(
                "cannot bound SQLite's memory (error {status}): SQLite was used before query::init() in this process"
            )),
        }
    })
    .clone()
}

/// While it lives, SQLite calls of this thread may together add `limit` bytes and no more, and nothing
/// big once their query was stopped.
#[derive(Debug)]
pub(super) struct Scope(std::marker::PhantomData<*const ()>); // Not Send: it is about this thread.

impl Scope {
    pub(super) fn enter(limit: u64, control: &Arc<Control>) -> Self {
        CONTROL.set(Some(Arc::clone(control)));
        HELD.set(0);
        LIMIT.set(i64::try_from(limit).unwrap_or(i64::MAX));
        Self(std::marker::PhantomData)
    }

    /// Bytes added since the scope was entered; negative when more was freed.
    pub(super) fn held(&self) -> i64 {
        HELD.get()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        LIMIT.set(i64::MAX);
        CONTROL.set(None);
    }
}

/// Whether the query that this thread works for was stopped.
pub(super) fn stopped() -> bool {
    let asked = CONTROL.try_with(|control| {
        control.try_borrow().is_ok_and(|control| control.as_ref().is_some_and(|c| c.stop().is_some()))
    });
    asked.unwrap_or(false) // the thread is ending
}

/// Runs `work` without counting it: for freeing what other queries had allocated.
pub(super) fn uncounted(work: impl FnOnce()) {
    let held = HELD.get();
    work();
    HELD.set(held);
}

fn may(bytes: c_int, more: i64) -> bool {
    if bytes <= 0 || bytes >= BIG_BYTES && stopped() {
        return false;
    }
    HELD.get().saturating_add(more) <= LIMIT.get()
}

fn count(change: i64) {
    HELD.set(HELD.get().saturating_add(change));
}

unsafe extern "C" fn allocate(bytes: c_int) -> *mut c_void {
    if !may(bytes, i64::from(bytes)) {
        return std::ptr::null_mut();
    }
    // SAFETY: malloc of a positive size; malloc_usable_size of what it returned.
    unsafe {
        let block = libc::malloc(bytes as usize);
        if !block.is_null() {
            count(libc::malloc_usable_size(block) as i64);
        }
        block
    }
}

unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: SQLite frees only what `allocate` or `reallocate` returned, once; NULL has size 0.
    unsafe {
        count(-(libc::malloc_usable_size(block) as i64));
        libc::free(block);
    }
}

unsafe extern "C" fn reallocate(block: *mut c_void, bytes: c_int) -> *mut c_void {
    // SAFETY: as for `free`; on failure realloc leaves the block, and so does the count.
    unsafe {
        let before = libc::malloc_usable_size(block) as i64;
        if !may(bytes, i64::from(bytes) - before) {
            return std::ptr::null_mut();
        }
        let moved = libc::realloc(block, bytes as usize);
        if !moved.is_null() {
            count(libc::malloc_usable_size(moved) as i64 - before);
        }
        moved
    }
}

unsafe extern "C" fn size(block: *mut c_void) -> c_int {
    // SAFETY: a block of ours or NULL. SQLite never asks for 2 GiB or more at once.
    unsafe { c_int::try_from(libc::malloc_usable_size(block)).unwrap_or(c_int::MAX) }
}

unsafe extern "C" fn round_up(bytes: c_int) -> c_int {
    bytes.saturating_add(7) & !7
}

unsafe extern "C" fn initialize(_: *mut c_void) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn shut_down(_: *mut c_void) {}
