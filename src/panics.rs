//! What happens when Springhouse has a defect: one line, and no half-dead process.
//!
//! A panic in a task that nobody awaits (a lease, a discovery pass) would leave a process that looks
//! alive and does nothing. Every part of Springhouse comes back from kill -9 without loss, so a process
//! with a defect ends at once and its supervisor starts it again. The exception are threads whose panics
//! somebody catches, because what they run is not ours: they are known by their names.

use std::{
    borrow::Cow,
    io::{self, Write},
    panic::PanicHookInfo,
};

use crate::error::Exit;

/// Names of threads begin so where a panic is caught and becomes the failure of one call or query:
/// `hdfs-native` panics on names that are not UTF-8, for instance.
const CAUGHT_IN: [&str; 2] = ["hdfs", "sqlite"];

/// Makes every panic of this process one line on standard error, and the end of the process unless it
/// is caught.
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        let line = line(info);
        let thread = std::thread::current();
        let caught = CAUGHT_IN.iter().any(|prefix| thread.name().is_some_and(|n| n.starts_with(prefix)));
        if caught {
            tracing::error!("{line}");
            return;
        }
        // Not `eprintln`: it panics when nobody reads standard error any more.
        let _ = writeln!(io::stderr(), "springhouse: {line}");
        // Not `exit`: the handlers it runs may wait for the very thread that panics.
        end_now(Exit::Internal.code());
    }));
}

fn line(info: &PanicHookInfo<'_>) -> String {
    let message: Cow<'_, str> =
        match (info.payload().downcast_ref::<&str>(), info.payload().downcast_ref::<String>()) {
            (Some(text), _) => (*text).into(),
            (None, Some(text)) => text.as_str().into(),
            (None, None) => "no message".into(),
        };
    let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    format!("defect{place}: {}; please report this line", message.replace('\n', ", "))
}

/// Ends the process without running anything else of it.
#[allow(unsafe_code)]
pub fn end_now(code: u8) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}
