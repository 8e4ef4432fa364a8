//! Named points where a test can end the process, delay it or make a step fail.
//!
//! `SPRINGHOUSE_FAILPOINTS=promote.after_upload=abort;copy.chunk=3*sleep(100)` sets what happens at which
//! point: `abort` ends the process as SIGKILL would, `sleep(MS)` waits, `error` makes the step fail where
//! the point can ([`fails`]). `N*` before it lets the point pass N - 1 times first. Without the variable a
//! point costs the reading of one word.
//!
//! They are always compiled in: what a test kills is the program that users run.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The environment variable.
pub const VARIABLE: &str = "SPRINGHOUSE_FAILPOINTS";

static POINTS: OnceLock<Option<HashMap<String, Point>>> = OnceLock::new();

#[derive(Debug)]
struct Point {
    action: Action,
    /// Passes until it acts.
    left: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Sleep(Duration),
    Error,
}

/// The process passes the point `name`. Blocks only if the point was told to.
pub fn hit(name: &str) {
    fails(name);
}

/// As [`hit`]; `true` if the step has to fail here.
pub fn fails(name: &str) -> bool {
    #[cfg(test)]
    crate::simulation::passes(name);
    let Some(points) = POINTS.get_or_init(from_environment) else { return false };
    points.get(name).is_some_and(Point::pass)
}

impl Point {
    fn pass(&self) -> bool {
        let last_pass = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Relaxed, Relaxed, last_pass).is_ok_and(|before| before > 1) {
            return false;
        }
        match self.action {
            // No destructor, no flush, no handler: what a power cut would leave of this process.
            Action::Abort => {
                let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
                std::process::abort()
            }
            Action::Sleep(time) => {
                std::thread::sleep(time);
                false
            }
            Action::Error => true,
        }
    }
}

fn from_environment() -> Option<HashMap<String, Point>> {
    let text = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty())?;
    match parse(&text) {
        Ok(points) => {
            tracing::warn!("{VARIABLE}={text}: this process is made to fail");
            Some(points)
        }
        // A test with a typing error must not pass.
        Err(what) => {
            tracing::error!("{VARIABLE}: {what}");
            std::process::abort()
        }
    }
}

fn parse(text: &str) -> Result<HashMap<String, Point>, String> {
    text.split(';')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let bad = || format!("{part:?} is not NAME=[N*]abort|error|sleep(MS)");
            let (name, what) = part.split_once('=').ok_or_else(bad)?;
            let (count, action) = match what.split_once('*') {
                Some((count, action)) => (count.trim().parse().map_err(|_| bad())?, action),
                None => (1, what),
            };
            let action = match action.trim() {
                "abort" => Action::Abort,
                "error" => Action::Error,
                other => {
                    let ms = other.strip_prefix("sleep(").and_then(|rest| rest.strip_suffix(')'));
                    let ms = ms.and_then(|ms| ms.parse().ok()).ok_or_else(bad)?;
                    Action::Sleep(Duration::from_millis(ms))
                }
            };
            Ok((name.trim().to_owned(), Point { action, left: AtomicU64::new(count) }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_and_what_is_not() {
        let points = parse("a.b=abort; c=3*error;d=sleep(0)").expect("points");
        assert_eq!(points["a.b"].action, Action::Abort);
        assert_eq!([(); 5].map(|()| points["c"].pass()), [false, false, true, true, true]);
        assert!(!points["d"].pass());
        for bad in ["a", "a=", "a=explode", "a=x*abort", "a=sleep(1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(!fails("nothing.is.set.here"));
    }
}
