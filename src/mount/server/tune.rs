//! Settings that change while a mount runs: keys of the configuration, with the same checks.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use springhouse_fuse::{
    cache::Resize,
    error::{Error, ErrorKind, Result},
    fs::{FileSystem, FsSettings, Tuning},
    memory::{enough, room},
};

use super::super::api::{Changed, Settings};
use crate::config::{
    groups::CacheKeys,
    keys::{Group, KeySpec},
    value::{Size, Span, Value},
};

/// What can be changed, in the order of the documents.
const TUNABLE: [&str; 10] = [
    "memory",
    "memory_blocks",
    "memory_readahead",
    "memory_pins",
    "cache_size",
    "readahead_max",
    "freshness",
    "entry_lifetime",
    "attribute_lifetime",
    "negative_lifetime",
];

/// Any size and any time: the key's own range was checked before.
type AnySize = Size<0, { u64::MAX }>;
type AnySpan = Span<0, { u64::MAX }>;

/// What is in force, by key.
#[derive(Debug)]
pub(in crate::mount) struct Tuner {
    now: Mutex<FsSettings>,
    /// The bound that the parts with a fixed size were made for: it may be raised and come back.
    memory_bytes_min: u64,
}

impl Tuner {
    /// After a start with `settings`; the sizes are those that the cache was made with, which may be less
    /// than was wished.
    pub(in crate::mount) fn new(fs: &FileSystem) -> Self {
        let cache = fs.snapshot().cache;
        let mut now = fs.settings().clone();
        now.cache_bytes = cache.cache_bytes_max;
        now.prefetch_bytes = cache.readahead_bytes_max;
        now.pinned_bytes = cache.pinned_bytes_max;
        Self { memory_bytes_min: now.memory_bytes, now: Mutex::new(now) }
    }

    /// The bound of everything that the daemon holds.
    pub(in crate::mount) fn memory_bytes_max(&self) -> u64 {
        self.now.lock().memory_bytes
    }

    /// Every key that can be changed, with its value; empty: it follows another.
    pub(in crate::mount) fn settings(&self) -> Settings {
        values(&self.now.lock())
    }

    /// Changes what `wanted` names, all or nothing. Gives the old and the new values.
    pub(in crate::mount) fn change(
        &self,
        fs: &FileSystem,
        wanted: &Settings,
    ) -> Result<BTreeMap<String, Changed>> {
        let mut now = self.now.lock();
        let mut next = now.clone();
        for (key, text) in wanted {
            apply(&mut next, &spec(key)?, text)?;
        }
        self.check(&next)?;
        fs.resize(&Resize {
            cache_bytes: changed(now.cache_bytes, next.cache_bytes),
            readahead_bytes: changed(now.prefetch_bytes, next.prefetch_bytes),
            pinned_bytes: changed(now.pinned_bytes, next.pinned_bytes),
            readahead_bytes_max: changed(now.readahead_bytes_max, next.readahead_bytes_max),
            disk_bytes: next.disk.as_ref().map(|disk| disk.bytes_max),
        });
        fs.tune(Tuning::from(&next));
        let (old, new) = (values(&now), values(&next));
        *now = next;
        let pairs = old.into_iter().zip(new).filter(|((key, _), _)| wanted.contains_key(key));
        Ok(pairs.map(|((key, old), (_, new))| (key, Changed { old, new })).collect())
    }

    fn check(&self, next: &FsSettings) -> Result<()> {
        if next.memory_bytes < self.memory_bytes_min {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "memory: {} is less than the {} that the mount was started with; mount anew with less",
                    shown(next.memory_bytes),
                    shown(self.memory_bytes_min)
                ),
            ));
        }
        fits(next)
    }
}

fn changed(old: u64, new: u64) -> Option<u64> {
    (old != new).then_some(new)
}

fn spec(key: &str) -> Result<KeySpec> {
    let all = CacheKeys::specs();
    let known = all.iter().any(|spec| spec.name == key);
    match all.into_iter().find(|spec| spec.name == key && TUNABLE.contains(&spec.name)) {
        Some(spec) => Ok(spec),
        None => {
            let why = match known || crate::config::roles::with_key(key).contains(&"mount") {
                true => "cannot be changed while the mount runs: mount anew with it",
                false => "is no key",
            };
            let message = format!("{key} {why}; what can be changed is {}", TUNABLE.join(", "));
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}

fn apply(to: &mut FsSettings, spec: &KeySpec, text: &str) -> Result<()> {
    let wrong = |what: String| Error::new(ErrorKind::InvalidArgument, what);
    let lifetime = spec.name.ends_with("_lifetime");
    if lifetime && text.is_empty() {
        // As nobody had given it: it follows the freshness.
        return set_lifetime(to, spec.name, None);
    }
    let text = (spec.check)(text)
        .map_err(|reason| wrong(format!("{}: {text:?} {reason}; give {}", spec.name, spec.allowed)))?;
    let odd = |reason| wrong(format!("{}: {text} {reason}", spec.name));
    let size = || AnySize::parse(&text).map(AnySize::bytes).map_err(odd);
    let span = || AnySpan::parse(&text).map(AnySpan::duration).map_err(odd);
    match spec.name {
        "memory" => to.memory_bytes = size()?,
        "memory_blocks" => to.cache_bytes = size()?,
        "memory_readahead" => to.prefetch_bytes = size()?,
        "memory_pins" => to.pinned_bytes = size()?,
        "readahead_max" => to.readahead_bytes_max = size()?,
        "freshness" => to.freshness = span()?,
        "cache_size" => match &mut to.disk {
            Some(disk) => disk.bytes_max = size()?,
            None => {
                let message = "cache_size: this mount has no cache on disk; mount anew with cache_dir";
                return Err(wrong(message.into()));
            }
        },
        name => return set_lifetime(to, name, Some(span()?)),
    }
    Ok(())
}

fn set_lifetime(to: &mut FsSettings, name: &str, lifetime: Option<Duration>) -> Result<()> {
    match name {
        "entry_lifetime" => to.entry_lifetime = lifetime,
        "attribute_lifetime" => to.attribute_lifetime = lifetime,
        "negative_lifetime" => to.negative_lifetime = lifetime,
        _ => {
            let message = format!("{name} cannot be changed while the mount runs");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    Ok(())
}

/// Whether the parts fit into the bound of the process, beside what it needs for other things.
fn fits(next: &FsSettings) -> Result<()> {
    let parts = [next.cache_bytes, next.prefetch_bytes, next.pinned_bytes];
    let wished = parts.into_iter().fold(0, u64::saturating_add);
    let room = room(next.memory_bytes)?;
    if wished <= room {
        return Ok(());
    }
    let more =
        enough(wished).map_or_else(String::new, |bytes| format!("memory={} is enough, or ", text(bytes)));
    Err(Error::new(
        ErrorKind::NoSpace,
        format!(
            "memory_blocks, memory_readahead and memory_pins would be {} together, and {} of memory ({}) are \
             left for them; {more}make one of them smaller",
            shown(wished),
            shown(room),
            shown(next.memory_bytes)
        ),
    ))
}

fn shown(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// As a configuration file writes it.
fn text(bytes: u64) -> String {
    AnySize::parse(&bytes.to_string()).map(|size| size.text()).unwrap_or_default()
}

fn values(of: &FsSettings) -> Settings {
    let size = text;
    let span = |span: Duration| {
        AnySpan::parse(&format!("{}ms", span.as_millis())).map(|span| span.text()).unwrap_or_default()
    };
    let value = |key: &str| match key {
        "memory" => size(of.memory_bytes),
        "memory_blocks" => size(of.cache_bytes),
        "memory_readahead" => size(of.prefetch_bytes),
        "memory_pins" => size(of.pinned_bytes),
        "cache_size" => of.disk.as_ref().map(|disk| size(disk.bytes_max)).unwrap_or_default(),
        "readahead_max" => size(of.readahead_bytes_max),
        "freshness" => span(of.freshness),
        "entry_lifetime" => of.entry_lifetime.map(span).unwrap_or_default(),
        "attribute_lifetime" => of.attribute_lifetime.map(span).unwrap_or_default(),
        _ => of.negative_lifetime.map(span).unwrap_or_default(),
    };
    TUNABLE.iter().map(|key| ((*key).to_owned(), value(key))).collect()
}

#[cfg(test)]
mod tests {
    use springhouse_fuse::fs::DiskSettings;

    use super::*;

    fn applied(key: &str, text: &str) -> Result<FsSettings> {
        let mut to = FsSettings::default();
        let tuner = Tuner { memory_bytes_min: to.memory_bytes, now: Mutex::new(to.clone()) };
        apply(&mut to, &spec(key)?, text)?;
        tuner.check(&to)?;
        Ok(to)
    }

    #[test]
    fn keys_are_checked_as_in_a_file() {
        assert_eq!(applied("freshness", "5s").expect("good").freshness, Duration::from_secs(5));
        assert_eq!(applied("entry_lifetime", "0").expect("good").entry_lifetime, Some(Duration::ZERO));
        assert_eq!(applied("entry_lifetime", "").expect("good").entry_lifetime, None);
        assert_eq!(applied("memory", "1GiB").expect("good").memory_bytes, 1 << 30);
        assert_eq!(applied("memory_blocks", "0").expect("good").cache_bytes, 0);
        for (key, text, reason) in [
            ("freshness", "10", "has no unit"),
            ("freshness", "2h", "too large; give a time from 0s to 1h"),
            ("readahead_max", "1GiB", "too large"),
            ("cache_size", "1GiB", "mount anew with cache_dir"),
            ("memory_blocks", "600MiB", "of memory (512.0 MiB) are left for them; memory="),
            ("memory", "256MiB", "less than the 512.0 MiB that the mount was started with"),
            ("cache_dir", "/x", "cannot be changed while the mount runs"),
            ("read_only", "true", "cannot be changed while the mount runs"),
            ("nonsense", "1", "is no key; what can be changed is memory, memory_blocks, "),
        ] {
            let error = applied(key, text).expect_err(key);
            assert!(error.message().contains(reason), "{key}={text}: {error}");
        }
    }

    /// The remedy that is named is one.
    #[test]
    fn more_memory_makes_room() {
        let error = applied("memory_blocks", "1GiB").expect_err("too much");
        let remedy = error.message().split("; memory=").nth(1).and_then(|rest| rest.split(' ').next());
        let mut next = FsSettings::default();
        for (key, text) in [("memory_blocks", "1GiB"), ("memory", remedy.expect("a remedy"))] {
            apply(&mut next, &spec(key).expect("tunable"), text).expect("good");
        }
        fits(&next).expect("there is room");
        assert!(next.memory_bytes < 2 << 30, "{error}");
    }

    #[test]
    fn every_value_can_be_given_back() {
        let of = FsSettings {
            disk: Some(DiskSettings { dir: "/c".into(), bytes_max: 77 << 20 }),
            freshness: Duration::from_millis(1500),
            attribute_lifetime: Some(Duration::from_secs(90)),
            cache_bytes: 123_456_789,
            pinned_bytes: 0,
            ..FsSettings::default()
        };
        let mut again = FsSettings { disk: of.disk.clone(), ..FsSettings::default() };
        for (key, text) in values(&of) {
            apply(&mut again, &spec(&key).expect("tunable"), &text).expect("its own text");
        }
        assert_eq!(again, of);
    }
}
