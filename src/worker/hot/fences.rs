//! Fences of segments that are not here any more.
//!
//! A record stays when its copy goes, because it says which tokens are old. It need not stay for ever: the
//! gateway's tokens only rise, over all segments. So records without a copy that nobody has touched for a
//! while are removed, and the highest fence among them holds for every segment that has no record. That
//! refuses a token too much only if it was on its way for as long.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use springhouse_gateway::api::hot::Token;

use super::{
    Hot,
    data::{remove, replace},
    segment::Segment,
};

/// A record without a copy stays for so long: longer than any request of the gateway is on its way.
pub(super) const KEEP: Duration = Duration::from_secs(6 * 3600);
/// How often they are looked through.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(600);

/// The highest fence of the records that were removed.
#[derive(Debug)]
pub(super) struct Fences {
    path: PathBuf,
    floor: AtomicU64,
}

impl Fences {
    /// Of the file at `path`, if there is one.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let floor = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                io::Error::other(format!(
                    "{}: {text:?} is no fencing token; remove the file if no gateway of an older registry runs",
                    path.display()
                ))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { path, floor: AtomicU64::new(floor) })
    }

    /// Whoever comes with a lower token for a segment that has no record may change nothing.
    pub(super) fn floor(&self) -> Token {
        self.floor.load(SeqCst)
    }

    /// Durably `fence` or more.
    fn raise(&self, fence: Token) -> io::Result<()> {
        if fence > self.floor() {
            replace(&self.path, format!("{fence}\n").as_bytes())?;
            self.floor.fetch_max(fence, SeqCst);
        }
        Ok(())
    }
}

impl Hot {
    /// Removes records without a copy that are older than `keep`; how many. Blocks.
    pub(super) fn prune(&self, keep: Duration) -> io::Result<usize> {
        let now = SystemTime::now();
        let is_old = |segment: &Segment| {
            let changed =
                fs::metadata(self.data.record(&segment.id)).and_then(|metadata| metadata.modified());
            // Without a file there is nothing to keep.
            changed.map_or(true, |changed| now.duration_since(changed).is_ok_and(|age| age >= keep))
        };
        let all: Vec<Arc<Segment>> = self.segments.read().values().cloned().collect();
        let old: Vec<(String, Token)> = all
            .into_iter()
            .filter(|segment| is_empty(segment) && is_old(segment))
            .map(|segment| (segment.id.as_str().to_owned(), segment.state.lock().record.fence))
            .collect();
        // First of all what takes their place.
        self.fences.raise(old.iter().map(|(_, fence)| *fence).max().unwrap_or(0))?;
        let mut removed = 0;
        for (id, _) in old {
            let mut segments = self.segments.write();
            // Nobody else has it, so nobody is about to write its record.
            let goes = segments.get(&id).is_some_and(|segment| {
                Arc::strong_count(segment) == 1
                    && is_empty(segment)
                    && segment.state.lock().record.fence <= self.fences.floor()
            });
            if goes && let Some(segment) = segments.remove(&id) {
                remove(&self.data.record(&segment.id))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Whether nothing of it is here, nor coming.
fn is_empty(segment: &Segment) -> bool {
    let state = segment.state.lock();
    let record = &state.record;
    record.copy.is_none()
        && record.incoming.is_none()
        && record.keeping.is_none()
        && state.open.is_none()
        && state.writer.is_none()
        && state.wanted.is_none()
        && state.fetching.is_none()
        && state.work.is_none()
        && state.refused.is_none()
        && !segment.is_in_use()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_survives_and_never_falls() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fence");
        let fences = Fences::open(path.clone()).expect("none yet");
        assert_eq!(fences.floor(), 0);
        fences.raise(7).expect("disk");
        fences.raise(3).expect("disk");
        assert_eq!((fences.floor(), Fences::open(path.clone()).expect("there").floor()), (7, 7));
        fs::write(&path, "torn").expect("written");
        assert!(Fences::open(path).is_err(), "a fence is not guessed");
    }
}
