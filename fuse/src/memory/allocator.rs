//! What the allocator keeps to itself.

/// Largest block that is served from the heap: bigger ones are mapped, and given back when freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 1 << 20;

/// Heaps; glibc's default of eight for each core keeps the peak of each thread's for ever.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Free bytes at the end of a heap above which they go back to the system.
#[cfg(target_env = "gnu")]
const TRIM_FROM_BYTES: libc::c_int = 4 << 20;

/// Tells glibc's allocator to give memory back. To be called first in `main`, before other threads are:
/// a heap made by then stays. Does nothing with another C library.
///
/// Setting a threshold also stops glibc from raising it by itself to the size of what was freed, after
/// which no buffer of readahead would ever be given back.
pub fn tame_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIM_FROM_BYTES),
    ] {
        // SAFETY: takes two integers and touches only the allocator's own settings, under its lock.
        #[allow(unsafe_code)]
        let done = unsafe { libc::mallopt(parameter, value) };
        if done == 0 {
            tracing::debug!(parameter, value, "the allocator does not take this setting");
        }
    }
}
