//! Named points where a test can end the process, hold it up or make a step fail.
//!
//! `SPRINGHOUSE_FAILPOINTS=promote.after_upload=abort;copy.write=3*error` sets what happens at which point:
//! `abort` ends the process as SIGKILL would, `sleep(MS)` waits, `pause(FILE)` makes FILE and waits until
//! somebody removes it, `error` makes the step fail where the point can ([`fails`]). `N*` before it lets the
//! point pass N - 1 times first. `SPRINGHOUSE_FAILPOINTS=@FILE` takes all that from FILE at every point that
//! is passed, so that it can change while the process runs; counts begin anew with each change. Without the
//! variable a point costs the reading of one word.
//!
//! They are always compiled in: what a test kills is the program that users run.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

/// The environment variable.
pub const VARIABLE: &str = "SPRINGHOUSE_FAILPOINTS";

/// Every point, by name; those of the gateway's process begin with `gateway.`, those of `springhouse registry`
/// with `import.` and `rebuild.`, the others are a hot worker's. A test compares this with the sources, and
/// others kill at each of them.
pub const POINTS: [&str; 49] = [
    "copy.after_rename",
    "copy.before_rename",
    "copy.saved",
    "copy.write",
    "drop.after_remove",
    "drop.before_remove",
    "gateway.commit.done",
    "gateway.commit.intent",
    "gateway.commit.renamed",
    "gateway.commit.uploaded",
    "gateway.delete.buried",
    "gateway.delete.dropped",
    "gateway.delete.noted",
    "gateway.delete.removed",
    "gateway.provision.granted",
    "gateway.provision.prepared",
    "gateway.provision.ready",
    "gateway.release.closed",
    "gateway.supersede.ended",
    "gateway.supersede.told",
    "gateway.write.answered",
    "import.after_swap",
    "import.batch",
    "import.before_swap",
    "keep.after_rename",
    "keep.before_rename",
    "optimize.after_copy",
    "optimize.after_upload",
    "promote.after_copy",
    "promote.after_record",
    "promote.after_upload",
    "promote.before_record",
    "promote.chunk",
    "provision.after_copy",
    "provision.after_fence",
    "provision.after_record",
    "rebuild.after_swap",
    "rebuild.before_swap",
    "recover.after_base",
    "recover.after_file",
    "recover.before_record",
    "release.after_record",
    "ship.after_rename",
    "ship.before_rename",
    "ship.chunk",
    "verify.read",
    "write.after_commit",
    "write.after_keys",
    "write.before_commit",
];

/// How often a pause looks whether it is over.
const PAUSE_LOOK: Duration = Duration::from_millis(5);

static SOURCE: OnceLock<Option<Source>> = OnceLock::new();

type Points = HashMap<String, Arc<Point>>;

/// Where it is said what happens.
#[derive(Debug)]
enum Source {
    Fixed(Points),
    /// With what the file said last.
    File(PathBuf, Mutex<(String, Points)>),
}

#[derive(Debug)]
struct Point {
    action: Action,
    /// Passes until it acts.
    left: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Abort,
    Sleep(Duration),
    Pause(PathBuf),
    Error,
}

/// The process passes the point `name`. Blocks only if the point was told to.
pub fn hit(name: &str) {
    fails(name);
}

/// [`hit`] where a thread must not be blocked.
pub async fn pass(name: &'static str) {
    if SOURCE.get_or_init(from_environment).is_some() {
        // It ends by a panic only if the process does.
        let _ = crate::blocking::run(move || hit(name)).await;
    } else {
        tell(name);
    }
}

#[cfg(any(test, feature = "testing"))]
static OBSERVER: OnceLock<fn(&str)> = OnceLock::new();

/// `observer` is told of every point that is passed: a simulation ends there what it runs.
#[cfg(any(test, feature = "testing"))]
pub fn observe(observer: fn(&str)) {
    let _ = OBSERVER.set(observer);
}

#[cfg(any(test, feature = "testing"))]
fn tell(name: &str) {
    if let Some(observer) = OBSERVER.get() {
        observer(name);
    }
}

#[cfg(not(any(test, feature = "testing")))]
fn tell(_: &str) {}

/// As [`hit`]; `true` if the step has to fail here.
pub fn fails(name: &str) -> bool {
    tell(name);
    let Some(source) = SOURCE.get_or_init(from_environment) else { return false };
    source.find(name).is_some_and(|point| point.pass())
}

impl Source {
    fn find(&self, name: &str) -> Option<Arc<Point>> {
        match self {
            Self::Fixed(points) => points.get(name).cloned(),
            Self::File(path, last) => {
                let text = fs::read_to_string(path).unwrap_or_default();
                let mut last = last.lock();
                if last.0 != text {
                    *last = (text.clone(), parse_or_abort(&text));
                }
                last.1.get(name).cloned()
            }
        }
    }
}

impl Point {
    fn pass(&self) -> bool {
        let last_pass = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Relaxed, Relaxed, last_pass).is_ok_and(|before| before > 1) {
            return false;
        }
        match &self.action {
            // No destructor, no flush, no handler: what a power cut would leave of this process.
            Action::Abort => {
                let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
                std::process::abort()
            }
            Action::Sleep(time) => {
                std::thread::sleep(*time);
                false
            }
            Action::Pause(file) => {
                pause(file);
                false
            }
            Action::Error => true,
        }
    }
}

/// Whoever waits for `file` knows that the process is here; whoever removes it lets it go on.
fn pause(file: &Path) {
    if let Err(error) = fs::write(file, "") {
        tracing::error!(file = %file.display(), %error, "{VARIABLE}: no pause");
        std::process::abort()
    }
    while file.exists() {
        std::thread::sleep(PAUSE_LOOK);
    }
}

fn from_environment() -> Option<Source> {
    let text = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty())?;
    tracing::warn!("{VARIABLE}={text}: this process is made to fail");
    Some(match text.strip_prefix('@') {
        Some(file) => Source::File(file.into(), Mutex::default()),
        None => Source::Fixed(parse_or_abort(&text)),
    })
}

/// A test with a typing error must not pass.
fn parse_or_abort(text: &str) -> Points {
    match parse(text, |name| POINTS.contains(&name)) {
        Ok(points) => points,
        Err(what) => {
            tracing::error!("{VARIABLE}: {what}");
            std::process::abort()
        }
    }
}

fn parse(text: &str, is_known: impl Fn(&str) -> bool) -> Result<Points, String> {
    text.split(';')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let bad = || format!("{part:?} is not NAME=[N*]abort|error|sleep(MS)|pause(FILE)");
            let (name, what) = part.split_once('=').ok_or_else(bad)?;
            let name = name.trim();
            if !is_known(name) {
                return Err(format!("there is no point {name:?}"));
            }
            let (count, action) = match what.split_once('*') {
                Some((count, action)) => (count.trim().parse().map_err(|_| bad())?, action),
                None => (1, what),
            };
            let argument = |word: &str, text: &str| -> Option<String> {
                Some(text.strip_prefix(word)?.strip_prefix('(')?.strip_suffix(')')?.to_owned())
            };
            let action = match action.trim() {
                "abort" => Action::Abort,
                "error" => Action::Error,
                other => match (argument("sleep", other), argument("pause", other)) {
                    (Some(ms), _) => Action::Sleep(Duration::from_millis(ms.parse().map_err(|_| bad())?)),
                    (_, Some(file)) if !file.is_empty() => Action::Pause(file.into()),
                    _ => return Err(bad()),
                },
            };
            Ok((name.to_owned(), Arc::new(Point { action, left: AtomicU64::new(count) })))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_set_and_what_is_not() {
        let any = |text: &str| parse(text, |_| true);
        let points = any("a.b=abort; c=3*error;d=sleep(0);e=pause(/x/y)").expect("points");
        assert_eq!(points["a.b"].action, Action::Abort);
        assert_eq!(points["e"].action, Action::Pause("/x/y".into()));
        assert_eq!([(); 5].map(|()| points["c"].pass()), [false, false, true, true, true]);
        assert!(!points["d"].pass());
        for bad in ["a", "a=", "a=explode", "a=x*abort", "a=sleep(1", "a=pause()"] {
            assert!(any(bad).is_err(), "{bad}");
        }
        assert!(parse("nothing.is.here=abort", |name| POINTS.contains(&name)).is_err());
        assert!(!fails("copy.write"));
    }

    #[test]
    fn a_file_is_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("points");
        let source = Source::File(file.clone(), Mutex::default());
        assert!(source.find("copy.write").is_none(), "there is no file");
        fs::write(&file, "copy.write=2*error").expect("written");
        let passes = || source.find("copy.write").is_some_and(|point| point.pass());
        assert_eq!([passes(), passes(), passes()], [false, true, true]);
        fs::write(&file, "copy.saved=error").expect("written");
        assert!(!passes() && source.find("copy.saved").is_some());
    }

    #[test]
    fn a_pause_ends_when_its_file_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("here");
        let there = file.clone();
        let paused = std::thread::spawn(move || pause(&there));
        while fs::remove_file(&file).is_err() {
            std::thread::yield_now();
        }
        paused.join().expect("it goes on");
    }

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a directory of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_point_of_the_program_is_listed() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for dir in [own.join("src"), own.join("../src"), own.join("../fuse/src")] {
            sources(&dir, &mut files);
        }
        let mut found = BTreeSet::new();
        for file in files.iter().filter(|file| !file.ends_with("failpoint.rs")) {
            let text = fs::read_to_string(file).expect("a source");
            for call in text.split("failpoint::").skip(1) {
                let named = ["hit(", "fails(", "pass("].iter().find_map(|name| call.strip_prefix(name));
                let Some(rest) = named else { continue };
                let literal = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
                found.insert(
                    literal.unwrap_or_else(|| panic!("{}: a name, please", file.display())).to_owned(),
                );
            }
        }
        assert_eq!(found, POINTS.map(str::to_owned).into(), "keep POINTS as the sources are");
        assert!(POINTS.is_sorted());
    }
}
