//! What a listing means, and which directories have to be listed again. Pure.

use std::sync::Arc;

use crate::{
    registry::{
        catalog::Directory,
        packed::{Difference, Facts, Packed},
        rows::DirState,
    },
    segment::{SEGMENT_SUFFIX, SegmentId},
    shipped::ShippedName,
    store::{Generation, StoreEntry},
    upload::UploadName,
};

/// A directory or file younger than this may still change without its time moving: times have a
/// granularity, and a file can grow within it.
const RECENT_MS: i64 = 5_000;
/// An empty file is being written, most likely: HDFS shows length 0 until the first block is full, and
/// closing it does not move the directory's time. An older one is just empty.
const EMPTY_FILE_MS: i64 = 3_600_000;
/// Times further in the future than this are nonsense, not a clock that runs ahead.
const FUTURE_MS: i64 = 86_400_000;

/// A subdirectory as its parent's listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subdirectory {
    /// Its path.
    pub path: Arc<str>,
    /// Its modification time and generation.
    pub seen: (i64, Generation),
}

/// What a listing of one directory means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judged {
    /// New state of the directory.
    pub state: DirState,
    /// All its segments.
    pub segments: Packed,
    /// Its subdirectories without hidden ones.
    pub subdirectories: Vec<Subdirectory>,
    /// Names like a segment's that are no segment id.
    pub bad_names: Vec<String>,
    /// Files of writes that were shipped.
    pub shipped: Vec<ShippedName>,
    /// Uploads of promotions, and what they look like.
    pub uploads: Vec<(UploadName, Facts)>,
}

/// Whether the directory, of which the catalog knows `old` and its parent now shows `seen`, has to be
/// listed.
pub(super) fn must_list(old: Option<&Directory>, seen: (i64, Generation), full: bool) -> bool {
    old.is_none_or(|old| full || old.state.has_subdirs || !old.state.quiet || old.state.seen != Some(seen))
}

/// Judges the listing `entries` of `path`. `seen`: what its parent showed BEFORE it was listed, so that a
/// change in between shows at the next pass. `now_ms`: taken before the listing as well. `first`: no pass
/// has ended yet, and all directories are new.
pub(super) fn judge(
    path: &str,
    seen: (i64, Generation),
    entries: Vec<StoreEntry>,
    old: Option<&Directory>,
    now_ms: i64,
    first: bool,
) -> Judged {
    let (mut segments, mut subdirectories, mut bad_names) = (Vec::new(), Vec::new(), Vec::new());
    let (mut shipped, mut uploads) = (Vec::new(), Vec::new());
    let mut quiet = !is_recent(seen.0, now_ms, RECENT_MS);
    for entry in entries {
        // Hidden: the owner marker, trash, and what tools keep for themselves.
        if entry.name.starts_with('.') {
            continue;
        }
        if entry.is_dir {
            let path = format!("{}/{}", path.trim_end_matches('/'), entry.name).into();
            subdirectories.push(Subdirectory { path, seen: (entry.mtime_ms, entry.generation) });
        } else if let Some(id) = SegmentId::from_file_name(&entry.name) {
            let window = if entry.len == 0 { EMPTY_FILE_MS } else { RECENT_MS };
            quiet &= !is_recent(entry.mtime_ms, now_ms, window);
            let facts = Facts { generation: entry.generation, size: entry.len, mtime_ms: entry.mtime_ms };
            segments.push((String::from(id), facts));
        } else if entry.name.ends_with(SEGMENT_SUFFIX) {
            bad_names.push(entry.name);
        } else if let Some(name) = ShippedName::parse(&entry.name) {
            shipped.push(name);
        } else if let Some(name) = UploadName::parse(&entry.name) {
            let facts = Facts { generation: entry.generation, size: entry.len, mtime_ms: entry.mtime_ms };
            uploads.push((name, facts));
        }
        // Anything else is no segment: journals, `NAME.sqlite._COPYING_` and the like.
    }
    let segments = Packed::from_unsorted(segments);
    // Ages compare two hosts' clocks. What changed just now is listed twice, whatever they say; but a
    // first pass would list the whole store twice.
    quiet &= first || old.is_some_and(|old| old.state.seen == Some(seen));
    // A file that differs from the last listing under the same name is perhaps still growing.
    if let Some(old) = old {
        quiet &= !segments.differences(&old.segments).any(|d| matches!(d, Difference::Changed(_)));
    }
    let state = DirState {
        seen: Some(seen),
        has_subdirs: !subdirectories.is_empty(),
        quiet,
        bad_names: u32::try_from(bad_names.len()).unwrap_or(u32::MAX),
    };
    Judged { state, segments, subdirectories, bad_names, shipped, uploads }
}

fn is_recent(mtime_ms: i64, now_ms: i64, window_ms: i64) -> bool {
    (now_ms.saturating_sub(window_ms)..=now_ms.saturating_add(FUTURE_MS)).contains(&mtime_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const OLD: i64 = NOW - 10_000_000;

    fn entry(name: &str, is_dir: bool, len: u64, mtime_ms: i64) -> StoreEntry {
        let generation = Generation(u128::from(len).to_be_bytes());
        StoreEntry { name: name.into(), is_dir, len, mtime_ms, generation }
    }

    fn judged(entries: Vec<StoreEntry>, old: Option<&Directory>) -> Judged {
        judge("/a", (OLD, Generation([0; 16])), entries, old, NOW, true)
    }

    #[test]
    fn names() {
        let result = judged(
            vec![
                entry("1.sqlite", false, 1, OLD),
                entry(".hidden.sqlite", false, 1, OLD),
                entry("1.sqlite._COPYING_.7", false, 1, NOW),
                entry("1.sqlite-journal", false, 1, NOW),
                entry("b ad.sqlite", false, 1, NOW),
                entry("dir.sqlite", true, 0, NOW),
                entry(".Trash", true, 0, NOW),
            ],
            None,
        );
        assert_eq!(result.segments.iter().map(|(id, _)| id).collect::<Vec<_>>(), ["1"]);
        assert_eq!(result.bad_names, ["b ad.sqlite"]);
        assert_eq!(result.subdirectories.iter().map(|d| &*d.path).collect::<Vec<_>>(), ["/a/dir.sqlite"]);
        assert!(result.state.quiet && result.state.has_subdirs && result.state.bad_names == 1);
    }

    #[test]
    fn quiet_is_when_nothing_can_change_unseen() {
        let quiet = |entries, old: Option<&Directory>| judged(entries, old).state.quiet;
        assert!(quiet(vec![entry("1.sqlite", false, 1, OLD)], None));
        assert!(!quiet(vec![entry("1.sqlite", false, 1, NOW - 4_000)], None), "a young file");
        assert!(!quiet(vec![entry("1.sqlite", false, 1, NOW + 60_000)], None), "the store's clock is ahead");
        assert!(quiet(vec![entry("1.sqlite", false, 1, NOW * 2)], None), "a nonsense time");
        assert!(!quiet(vec![entry("1.sqlite", false, 0, NOW - 60_000)], None), "an empty file");
        assert!(quiet(vec![entry("1.sqlite", false, 0, OLD)], None), "an old empty file");
        let segments = judged(vec![entry("1.sqlite", false, 1, OLD)], None).segments;
        let old = Directory { segments, ..Directory::default() };
        assert!(!quiet(vec![entry("1.sqlite", false, 2, OLD)], Some(&old)), "it grew");
        assert!(quiet(vec![entry("1.sqlite", false, 1, OLD)], Some(&old)));
        let young = judge("/a", (NOW - 10, Generation([0; 16])), vec![], None, NOW, true);
        assert!(!young.state.quiet, "a young directory");
        // A store whose clock is behind ours: everything in it looks old.
        let changed = (OLD + 1, Generation([1; 16]));
        let later = |old: &Directory| judge("/a", changed, vec![], Some(old), NOW, false);
        let once = later(&old);
        assert!(!once.state.quiet, "changed since the last listing");
        let known = Directory { state: once.state, ..Directory::default() };
        assert!(later(&known).state.quiet, "listed twice the same");
        assert!(!judge("/a", changed, vec![], None, NOW, false).state.quiet, "a new directory");
    }

    #[test]
    fn only_an_unchanged_quiet_leaf_is_left_alone() {
        let seen = (OLD, Generation([1; 16]));
        let quiet = Directory {
            state: DirState { seen: Some(seen), has_subdirs: false, quiet: true, bad_names: 0 },
            ..Directory::default()
        };
        assert!(!must_list(Some(&quiet), seen, false));
        assert!(must_list(Some(&quiet), seen, true));
        assert!(must_list(None, seen, false));
        assert!(must_list(Some(&quiet), (OLD + 1, seen.1), false));
        assert!(must_list(Some(&quiet), (OLD, Generation([2; 16])), false));
        for change in [
            |s: &mut DirState| s.seen = None,
            |s: &mut DirState| s.has_subdirs = true,
            |s: &mut DirState| s.quiet = false,
        ] {
            let mut directory = quiet.clone();
            change(&mut directory.state);
            assert!(must_list(Some(&directory), seen, false));
        }
    }
}
