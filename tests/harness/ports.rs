//! TCP ports that nobody uses.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range that the kernel gives to outgoing connections, so that only another listener can
/// take a port between our look at it and the daemon's bind.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A free port of 127.0.0.1. No port is given twice by this process.
pub fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run at the same time start far from each other.
    let start = (std::process::id().wrapping_mul(7_919) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}
