//! Random operations against a model so simple that it is surely right.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{content, get, names, put};
use crate::{
    error::{
        ErrorKind::{
            self, AlreadyExists, InvalidArgument, IsADirectory, NotADirectory, NotEmpty, NotFound,
            Unsupported,
        },
        Result,
    },
    store::{CreateOptions, Store, StorePath},
};

/// One operation; paths are relative to the test's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Write a whole file of this length.
    Put {
        /// Where.
        path: String,
        /// How long.
        len: usize,
        /// Over an existing one.
        overwrite: bool,
        /// With its parents.
        create_parents: bool,
    },
    /// Read a range and compare it.
    Read {
        /// Where.
        path: String,
        /// From here.
        offset: u64,
        /// So many.
        len: usize,
    },
    /// List a directory and compare the names.
    List(String),
    /// Stat and compare kind and length.
    Stat(String),
    /// Make a directory and its parents.
    CreateDir(String),
    /// Make one directory.
    MakeDir(String),
    /// Go on writing a file.
    Append {
        /// Where.
        path: String,
        /// So many bytes.
        len: usize,
    },
    /// Set a file's length.
    Truncate {
        /// Where.
        path: String,
        /// To this.
        len: usize,
    },
    /// Rename, perhaps over.
    Rename {
        /// From.
        from: String,
        /// To.
        to: String,
        /// Over an existing one.
        overwrite: bool,
    },
    /// Delete, perhaps all below.
    Delete {
        /// What.
        path: String,
        /// With all below it.
        recursive: bool,
    },
}

impl Operation {
    /// The operation that these bits stand for: any bits are one, so that a generator of numbers, which
    /// can shrink them, is a generator of operations.
    pub fn from_bits(mut bits: u64) -> Self {
        let mut take = |n: u64| {
            let taken = bits % n;
            bits /= n;
            taken
        };
        let kind = take(11);
        let mut path = || {
            let depth = 1 + take(3);
            (0..depth).map(|_| ["a", "b", "ü c"][take(3) as usize]).collect::<Vec<_>>().join("/")
        };
        match kind {
            0 | 1 => Self::Put {
                path: path(),
                len: [0, 1, 100, 4096, 4097, 20_000][take(6) as usize],
                overwrite: take(2) == 1,
                create_parents: take(2) == 1,
            },
            2 => Self::Read { path: path(), offset: take(21_000), len: take(9_000) as usize },
            3 => Self::List(path()),
            4 => Self::Stat(path()),
            5 => Self::CreateDir(path()),
            6 => Self::Rename { from: path(), to: path(), overwrite: take(2) == 1 },
            7 => Self::MakeDir(path()),
            8 => Self::Append { path: path(), len: [0, 1, 5_000][take(3) as usize] },
            9 => Self::Truncate { path: path(), len: [0, 1, 100, 4_500][take(4) as usize] },
            _ => Self::Delete { path: path(), recursive: take(2) == 1 },
        }
    }
}

/// Paths to a file's bytes, or `None` for a directory. The root is not in it.
#[derive(Default)]
struct Model(BTreeMap<String, Option<Bytes>>);

/// What the model says, or the errors that would be right.
type Expected<T> = std::result::Result<T, &'static [ErrorKind]>;

impl Model {
    /// Whether the parents of `path` are there.
    fn parents(&self, path: &str) -> Expected<()> {
        for (at, _) in path.match_indices('/') {
            match self.0.get(&path[..at]) {
                Some(None) => {}
                // A store may look no further than that there is nothing.
                Some(Some(_)) => return Err(&[NotADirectory, NotFound]),
                None => return Err(&[NotFound]),
            }
        }
        Ok(())
    }

    fn get(&self, path: &str) -> Expected<&Option<Bytes>> {
        self.parents(path)?;
        self.0.get(path).ok_or(&[NotFound])
    }

    fn below<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a String> {
        let prefix = format!("{path}/");
        self.0.keys().filter(move |key| key.starts_with(&prefix))
    }

    fn create_dir(&mut self, path: &str) -> Expected<()> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            match self.0.get(&path[..end]) {
                Some(None) => {}
                Some(Some(_)) if end == path.len() => return Err(&[AlreadyExists]),
                Some(Some(_)) => return Err(&[NotADirectory]),
                None => {
                    self.0.insert(path[..end].into(), None);
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &str, data: &Bytes, options: CreateOptions) -> Expected<()> {
        if options.create_parents
            && let Some((parent, _)) = path.rsplit_once('/')
        {
            self.create_dir(parent).map_err(|_| &[NotADirectory][..])?;
        }
        self.parents(path)?;
        match self.0.get(path) {
            Some(_) if !options.overwrite => Err(&[AlreadyExists]),
            Some(None) => Err(&[IsADirectory]),
            _ => {
                self.0.insert(path.into(), Some(data.clone()));
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str, overwrite: bool) -> Expected<()> {
        if to.starts_with(&format!("{from}/")) {
            return Err(&[InvalidArgument]);
        }
        // Where both paths are wrong, a store may tell of either.
        let source = match self.get(from) {
            Err(_) if self.parents(to).is_err() => return Err(&[NotFound, NotADirectory]),
            source => source?.clone(),
        };
        if from == to {
            return if overwrite { Ok(()) } else { Err(&[AlreadyExists]) };
        }
        self.parents(to)?;
        match self.0.get(to) {
            Some(_) if !overwrite => return Err(&[AlreadyExists]),
            // Its own parent: of no use to anybody, and told in several ways.
            Some(None) if from.starts_with(&format!("{to}/")) => return Err(&[NotEmpty, IsADirectory]),
            Some(None) if source.is_some() => return Err(&[IsADirectory]),
            Some(Some(_)) if source.is_none() => return Err(&[NotADirectory]),
            Some(None) if self.below(to).next().is_some() => return Err(&[NotEmpty]),
            _ => {}
        }
        let moved: Vec<String> = self.below(from).cloned().chain([from.to_owned()]).collect();
        for old in moved {
            if let Some(node) = self.0.remove(&old) {
                self.0.insert(format!("{to}{}", &old[from.len()..]), node);
            }
        }
        Ok(())
    }

    fn delete(&mut self, path: &str, recursive: bool) -> Expected<()> {
        self.get(path)?;
        let below: Vec<String> = self.below(path).cloned().collect();
        if !below.is_empty() && !recursive {
            return Err(&[NotEmpty]);
        }
        self.0.remove(path);
        below.iter().for_each(|path| {
            self.0.remove(path);
        });
        Ok(())
    }

    fn make_dir(&mut self, path: &str) -> Expected<()> {
        self.parents(path).map_err(|_| &[NotFound, NotADirectory][..])?;
        if self.0.contains_key(path) {
            return Err(&[AlreadyExists]);
        }
        self.0.insert(path.into(), None);
        Ok(())
    }

    /// Changes the bytes of a file; gives how many there were.
    fn edit(&mut self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Expected<u64> {
        let mut bytes = self.file(path)?.to_vec();
        let before = bytes.len() as u64;
        change(&mut bytes);
        self.0.insert(path.into(), Some(bytes.into()));
        Ok(before)
    }

    fn list(&self, path: &str) -> Expected<Vec<String>> {
        if self.get(path)?.is_some() {
            return Err(&[NotADirectory]);
        }
        let names = self.below(path).map(|below| &below[path.len() + 1..]);
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn file(&self, path: &str) -> Expected<&Bytes> {
        self.get(path)?.as_ref().ok_or(&[IsADirectory])
    }
}

#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(operation: &Operation, found: Result<T>, expected: Expected<T>) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{operation:?}"),
        (Err(error), Err(kinds)) => {
            assert!(
                kinds.contains(&error.kind()),
                "{operation:?}: {:?}, not {kinds:?}: {error}",
                error.kind()
            );
        }
        (Ok(_), Err(kinds)) => panic!("{operation:?} went well instead of failing by {kinds:?}"),
        (Err(error), Ok(_)) => panic!("{operation:?} failed: {error}"),
    }
}

/// Appends `data`; tells where the file ended before.
async fn append(store: &dyn Store, path: &StorePath, data: Bytes) -> Result<u64> {
    let (mut writer, end) = store.append(path).await?;
    writer.write(data).await?;
    writer.close().await?;
    Ok(end)
}

/// Runs `operations` below `dir`, which must not exist, and compares each answer with the model's.
pub async fn check_operations(store: &dyn Store, dir: &StorePath, operations: &[Operation]) {
    store.create_dir(dir).await.expect("make the test's directory");
    let at = |path: &str| super::sub(dir, path);
    let mut model = Model::default();
    for (number, operation) in operations.iter().enumerate() {
        match operation {
            Operation::Put { path, len, overwrite, create_parents } => {
                let options = CreateOptions {
                    overwrite: *overwrite,
                    create_parents: *create_parents,
                    ..CreateOptions::default()
                };
                let data = content(number as u64, *len);
                let found = put(store, &at(path), data.clone(), options).await;
                same(operation, found, model.put(path, &data, options));
            }
            Operation::Read { path, offset, len } => {
                let found = match store.open(&at(path), None).await {
                    Ok(reader) => reader.read_at(*offset, *len).await,
                    Err(error) => Err(error),
                };
                let expected = model.file(path).map(|bytes| {
                    let start = usize::try_from(*offset).expect("small").min(bytes.len());
                    bytes.slice(start..start.saturating_add(*len).min(bytes.len()))
                });
                same(operation, found, expected);
            }
            Operation::List(path) => same(operation, names(store, &at(path)).await, model.list(path)),
            Operation::Stat(path) => {
                let found = store.stat(&at(path)).await.map(|found| (found.is_dir(), found.len));
                let len = |node: &Option<Bytes>| node.as_ref().map_or(0, |bytes| bytes.len() as u64);
                same(operation, found, model.get(path).map(|node| (node.is_none(), len(node))));
            }
            Operation::CreateDir(path) => {
                same(operation, store.create_dir(&at(path)).await, model.create_dir(path));
            }
            Operation::MakeDir(path) => {
                same(operation, store.make_dir(&at(path), None).await, model.make_dir(path));
            }
            Operation::Append { path, len } => {
                let data = content(number as u64, *len);
                let found = append(store, &at(path), data.clone()).await;
                same(operation, found, model.edit(path, |bytes| bytes.extend_from_slice(&data)));
            }
            Operation::Truncate { path, len } => {
                match store.truncate(&at(path), *len as u64).await {
                    // Not every store can, except to nothing; it must leave the file as it was.
                    Err(error) if error.kind() == Unsupported && *len > 0 => {}
                    found => {
                        let expected = model.edit(path, |bytes| bytes.resize(*len, 0));
                        same(operation, found, expected.map(drop));
                    }
                }
            }
            Operation::Rename { from, to, overwrite } => {
                let found = store.rename(&at(from), &at(to), *overwrite).await;
                same(operation, found, model.rename(from, to, *overwrite));
            }
            Operation::Delete { path, recursive } => {
                let found = store.delete(&at(path), *recursive).await;
                same(operation, found, model.delete(path, *recursive));
            }
        }
    }
    for (path, node) in &model.0 {
        if let Some(bytes) = node {
            assert_eq!(get(store, &at(path)).await.expect("read"), bytes, "{path} at the end");
        }
    }
    store.delete(dir, true).await.expect("remove the test's directory");
}
