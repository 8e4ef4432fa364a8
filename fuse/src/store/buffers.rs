//! Large buffers for reads, used again.
//!
//! The allocator gives large ones back to the system when they are freed (`memory::tame_allocator`), so
//! each would cost a page fault for every 4 KiB, and the kernel the clearing of all of it: a third of the
//! daemon's time in a sequential read.

use std::{fmt, mem, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller ones come from the allocator's heap, and cost nothing like that.
const KEPT_FROM_BYTES: usize = 256 << 10;

/// Idle bytes kept at most: what a few sequential readers free before they need it again. Part of the
/// base in the division of memory.
const IDLE_BYTES_MAX: usize = 12 << 20;

/// Where buffers come from and go back to. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Buffers").field(&self.0.lock().len()).finish()
    }
}

/// A buffer with room for what was asked for, and the bytes that were put into it.
pub(super) struct Buffer {
    /// Its length is its room; what lies beyond `used` is of an earlier use.
    room: Vec<u8>,
    used: usize,
    home: Option<Buffers>,
}

impl Buffers {
    /// An empty one with room for `len` bytes.
    pub(super) fn take(&self, len: usize) -> Buffer {
        if len < KEPT_FROM_BYTES {
            return Buffer { room: vec![0; len], used: 0, home: None };
        }
        let size = len.next_power_of_two();
        let mut idle = self.0.lock();
        let found = idle.iter().rposition(|buffer| buffer.len() == size);
        let room = found.map(|at| idle.swap_remove(at));
        drop(idle);
        Buffer { room: room.unwrap_or_else(|| vec![0; size]), used: 0, home: Some(self.clone()) }
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut idle = self.0.lock();
        idle.push(buffer);
        // The oldest goes: sizes that nobody asks for any more.
        let mut gone = Vec::new();
        while idle.iter().map(Vec::len).sum::<usize>() > IDLE_BYTES_MAX {
            gone.push(idle.remove(0));
        }
        drop(idle);
    }
}

impl Buffer {
    /// Appends `bytes`, for which there must be room.
    pub(super) fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        self.room[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    /// The first `len` bytes, to be written over; they count as put in.
    pub(super) fn fill(&mut self, len: usize) -> &mut [u8] {
        self.used = len;
        &mut self.room[..len]
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Its bytes; it goes back when the last part of them is dropped.
    pub(super) fn freeze(mut self) -> Bytes {
        if self.home.is_some() {
            return Bytes::from_owner(self);
        }
        let mut bytes = mem::take(&mut self.room);
        bytes.truncate(self.used);
        bytes.into()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.room[..self.used]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(mem::take(&mut self.room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(buffers: &Buffers) -> Vec<usize> {
        buffers.0.lock().iter().map(Vec::len).collect()
    }

    #[test]
    fn large_ones_are_used_again_and_show_nothing_of_before() {
        let buffers = Buffers::default();
        let mut first = buffers.take(1_000_000);
        first.extend_from_slice(&[7; 1_000_000]);
        let place = first.room.as_ptr();
        let bytes = first.freeze();
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(idle(&buffers), [0_usize; 0], "a part is still in use");
        assert_eq!(part, [7; 10].as_slice());
        drop(part);
        assert_eq!(idle(&buffers), [1 << 20]);
        let mut second = buffers.take(600_000);
        assert_eq!((second.room.as_ptr(), second.len(), second.is_empty()), (place, 0, true));
        second.extend_from_slice(b"new");
        assert_eq!(second.as_ref(), b"new");
        assert_eq!(second.freeze(), b"new".as_slice());
        assert_eq!(idle(&buffers), [1 << 20]);
    }

    #[test]
    fn small_ones_and_too_many_are_not_kept() {
        let buffers = Buffers::default();
        let mut small = buffers.take(5);
        small.fill(3).copy_from_slice(b"abc");
        assert_eq!(small.freeze(), b"abc".as_slice());
        assert_eq!(idle(&buffers), [0_usize; 0]);
        let many: Vec<Buffer> = (0..9).map(|_| buffers.take(4 << 20)).collect();
        drop(many);
        assert_eq!(idle(&buffers), [4 << 20; 3]);
        drop(buffers.take(16 << 20));
        assert_eq!(idle(&buffers), [0_usize; 0], "larger than all that is kept");
    }
}
