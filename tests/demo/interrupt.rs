//! Ctrl-C: at any time, and nothing stays behind.

use std::{
    process,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

/// 128 and the number of SIGINT, as shells have it.
pub const EXIT_CODE: u8 = 130;

static ASKED: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

/// From now on SIGINT and SIGTERM ask the demo to end: what it started has to be stopped in order. The
/// second one ends it at once; then what it started dies with it.
pub fn listen() {
    thread::spawn(|| {
        crate::harness::block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            for first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if first {
                    *ASKED.lock().unwrap_or_else(PoisonError::into_inner) = true;
                    CHANGED.notify_all();
                }
            }
            process::exit(EXIT_CODE.into());
        });
    });
}

/// An error once the demo was asked to end.
pub fn check() -> Result<(), String> {
    if *ASKED.lock().unwrap_or_else(PoisonError::into_inner) { Err("stopped".into()) } else { Ok(()) }
}

/// Waits until it is.
pub fn wait() {
    let asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    drop(CHANGED.wait_while(asked, |asked| !*asked).unwrap_or_else(PoisonError::into_inner));
}
