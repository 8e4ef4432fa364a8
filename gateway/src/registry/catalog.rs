//! The catalog in memory: every directory with its segments. Pure; `state.rs` owns the one instance.

use std::{
    collections::{BTreeSet, HashMap},
    ops::{Bound, Range},
    sync::Arc,
};

use super::{
    packed::{Difference, Facts, Packed},
    rows::{DirState, ROW_SEGMENTS_MAX},
};
use crate::segment::SegmentId;

/// Segments that a row holds after a split: some room before the next one.
const ROW_SEGMENTS_SPLIT: usize = 800;

/// One directory of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// What discovery needs to know.
    pub state: DirState,
    /// Its segments.
    pub segments: Packed,
    /// Lower bounds of its second and later rows in the registry.
    pub bounds: Vec<Box<str>>,
}

impl Directory {
    /// Ranges of `segments` and lower bound of each row; rows without segments are left out.
    pub fn rows(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        let lowers = std::iter::once("").chain(self.bounds.iter().map(AsRef::as_ref));
        let uppers = self.bounds.iter().map(|bound| self.segments.lower_bound(bound));
        let mut start = 0;
        lowers
            .zip(uppers.chain(std::iter::once(self.segments.len())))
            .map(move |(lower, end)| (lower, std::mem::replace(&mut start, end)..end))
            .filter(|(_, range)| !range.is_empty())
    }

    /// Bytes that it takes, itself included.
    pub fn heap_bytes(&self) -> usize {
        let bounds = self.bounds.iter().map(|bound| bound.len()).sum::<usize>();
        size_of::<Self>()
            + self.segments.heap_bytes()
            + self.bounds.capacity() * size_of::<Box<str>>()
            + bounds
    }

    /// Bounds for `segments` that keep as many rows of `old_bounds` as they can: what did not change is
    /// not written again.
    pub fn bounds_for(segments: &Packed, old_bounds: &[Box<str>]) -> Vec<Box<str>> {
        // Rows emptied by deletions: begin anew, so that a shrunken directory is no heap of tiny rows.
        let sparse = segments.len() * 4 < old_bounds.len() * ROW_SEGMENTS_MAX;
        let old_bounds = if sparse { &[] } else { old_bounds };
        let lowers = std::iter::once(None).chain(old_bounds.iter().map(Some));
        let ends = old_bounds.iter().map(|bound| segments.lower_bound(bound)).chain([segments.len()]);
        let mut bounds: Vec<Box<str>> = Vec::new();
        let mut start = 0;
        for (lower, end) in lowers.zip(ends) {
            let count = end - start;
            if count > 0 {
                bounds.extend(lower.cloned());
                let pieces = if count > ROW_SEGMENTS_MAX { count.div_ceil(ROW_SEGMENTS_SPLIT) } else { 1 };
                bounds.extend((1..pieces).map(|piece| segments.id(start + count * piece / pieces).into()));
            }
            start = end;
        }
        bounds
    }
}

/// Where a segment lies and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Its directory.
    pub directory: Arc<str>,
    /// The rest.
    pub facts: Facts,
}

/// Answer to a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// In one directory.
    Found(Located),
    /// In several: their paths. An error for whoever asks, never a guess.
    Ambiguous(Vec<String>),
    /// Nowhere.
    Absent,
}

/// What a change did to the catalog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta {
    /// Segments new.
    pub added: u64,
    /// Segments with other facts.
    pub changed: u64,
    /// Segments gone.
    pub removed: u64,
    /// Directories gone.
    pub dirs_removed: u64,
}

impl std::ops::AddAssign for Delta {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
        self.dirs_removed += other.dirs_removed;
    }
}

/// All directories. A segment is looked up in the directory where the layout puts it, by hash, and there
/// by binary search; those that lie elsewhere are found through `misplaced`.
#[derive(Debug, Default)]
pub struct Catalog {
    directories: HashMap<Arc<str>, Arc<Directory>>,
    order: BTreeSet<Arc<str>>,
    misplaced: HashMap<Box<str>, Vec<Arc<str>>>,
    segments: u64,
    bad_names: u64,
}

impl Catalog {
    /// Puts a directory in the place of what was at `path`; `None` removes it.
    pub fn replace(&mut self, path: &Arc<str>, new: Option<Arc<Directory>>) -> Delta {
        let old = match &new {
            Some(new) => self.directories.insert(path.clone(), new.clone()),
            None => self.directories.remove(path),
        };
        let mut delta = Delta::default();
        match (&old, &new) {
            (None, Some(_)) => drop(self.order.insert(path.clone())),
            (Some(_), None) => {
                self.order.remove(path);
                delta.dirs_removed = 1;
            }
            _ => {}
        }
        let empty = Directory::default();
        let (was, is) = (old.as_deref().unwrap_or(&empty), new.as_deref().unwrap_or(&empty));
        self.bad_names = self.bad_names - u64::from(was.state.bad_names) + u64::from(is.state.bad_names);
        for difference in is.segments.differences(&was.segments) {
            match difference {
                Difference::Added(index) => {
                    delta.added += 1;
                    let id = is.segments.id(index);
                    if !is_canonical(path, id) {
                        self.misplaced.entry(id.into()).or_default().push(path.clone());
                    }
                }
                Difference::Removed(index) => {
                    delta.removed += 1;
                    let id = was.segments.id(index);
                    if !is_canonical(path, id)
                        && let Some(places) = self.misplaced.get_mut(id)
                    {
                        places.retain(|place| place != path);
                        if places.is_empty() {
                            self.misplaced.remove(id);
                        }
                    }
                }
                Difference::Changed(_) => delta.changed += 1,
            }
        }
        self.segments = self.segments + delta.added - delta.removed;
        delta
    }

    /// Finds a segment.
    pub fn lookup(&self, id: &SegmentId) -> Lookup {
        let text = id.as_str();
        let canonical =
            self.directories.get_key_value(id.canonical_dir().as_str()).and_then(|(path, dir)| {
                dir.segments.get(text).map(|facts| Located { directory: path.clone(), facts })
            });
        // Nearly always empty: then a lookup costs one hash.
        let elsewhere = if self.misplaced.is_empty() {
            &[][..]
        } else {
            self.misplaced.get(text).map(Vec::as_slice).unwrap_or_default()
        };
        match (canonical, elsewhere) {
            (Some(located), []) => Lookup::Found(located),
            (None, []) => Lookup::Absent,
            (None, [place]) => match self.directories.get(place).and_then(|dir| dir.segments.get(text)) {
                Some(facts) => Lookup::Found(Located { directory: place.clone(), facts }),
                None => Lookup::Absent,
            },
            (canonical, places) => {
                let mut paths: Vec<String> = canonical
                    .iter()
                    .map(|located| &located.directory)
                    .chain(places)
                    .map(|dir| id.path_in(dir))
                    .collect();
                paths.sort();
                Lookup::Ambiguous(paths)
            }
        }
    }

    /// Up to `limit` segments whose id starts with `prefix`, in order of (directory, id), after the given
    /// place; and whether there are more.
    pub fn page(
        &self,
        prefix: &str,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> (Vec<(Arc<str>, String, Facts)>, bool) {
        let mut page = Vec::new();
        let from = after.map_or(Bound::Unbounded, |(directory, _)| Bound::Included(directory));
        for path in self.order.range::<str, _>((from, Bound::Unbounded)) {
            let Some(directory) = self.directories.get(path) else { continue };
            let segments = &directory.segments;
            let mut index = segments.lower_bound(prefix);
            if let Some((after_directory, after_id)) = after
                && **path == *after_directory
            {
                index = index.max(segments.find(after_id).map_or_else(|at| at, |at| at + 1));
            }
            while index < segments.len() && segments.id(index).starts_with(prefix) {
                if page.len() == limit {
                    return (page, true);
                }
                page.push((path.clone(), segments.id(index).to_owned(), segments.facts(index)));
                index += 1;
            }
        }
        (page, false)
    }

    /// One directory.
    pub fn directory(&self, path: &str) -> Option<&Arc<Directory>> {
        self.directories.get(path)
    }

    /// Paths of all directories below `path`, not itself, in order.
    pub fn below<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Arc<str>> {
        let start = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        let range = self.order.range::<str, _>((Bound::Excluded(start.as_str()), Bound::Unbounded));
        range.take_while(move |below| below.starts_with(&start))
    }

    /// All directories in order of their paths.
    pub fn directories(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Directory>)> {
        self.order.iter().filter_map(|path| self.directories.get_key_value(path))
    }

    /// Number of segments.
    pub fn segment_count(&self) -> u64 {
        self.segments
    }

    /// Number of directories.
    pub fn directory_count(&self) -> u64 {
        self.directories.len() as u64
    }

    /// Number of files called `*.sqlite` whose name is no segment id.
    pub fn bad_names(&self) -> u64 {
        self.bad_names
    }

    /// Bytes on the heap, about: what the maps keep in reserve is not counted.
    pub fn heap_bytes(&self) -> usize {
        // An `Arc`'s counts, and what a map keeps of a path: the pointer, twice in `order`'s nodes.
        const ARC: usize = 2 * size_of::<usize>();
        const NAME: usize = size_of::<Arc<str>>();
        let directories = self.directories.iter().map(|(path, directory)| {
            ARC + path.len() + 3 * NAME + size_of::<Arc<Directory>>() + ARC + directory.heap_bytes()
        });
        let misplaced = self
            .misplaced
            .iter()
            .map(|(id, places)| id.len() + size_of::<(Box<str>, Vec<Arc<str>>)>() + places.capacity() * NAME);
        directories.sum::<usize>() + misplaced.sum::<usize>()
    }

    /// Ids that lie outside the directory where the layout puts them, perhaps besides lying there.
    pub fn misplaced(&self) -> impl Iterator<Item = SegmentId> {
        self.misplaced.keys().filter_map(|id| SegmentId::parse(id).ok())
    }

    /// Number of ids that lie outside the directory where the layout puts them.
    pub fn misplaced_count(&self) -> u64 {
        self.misplaced.len() as u64
    }
}

/// Whether `directory` is where the layout puts `id`; without making the path.
fn is_canonical(directory: &str, id: &str) -> bool {
    directory.strip_prefix('/') == id.get(..id.len().saturating_sub(3))
}
