//! What does not fit about one segment, from what registry, store and workers say. Pure.

use crate::{
    api::{
        hot::CopyState,
        types::CopyInfo,
        verify::{Check, Depth, FileVerified, Verified, VerifyAnswer},
    },
    heat::decide::date,
    registry::{
        packed::Facts,
        verify::{Finding, Severity},
    },
    segment::SegmentId,
    store::StoreEntry,
};

/// Everything that was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) segment: SegmentId,
    pub(super) path: String,
    pub(super) depth: Depth,
    /// What the registry names; `None`: it was provisioned, and never promoted.
    pub(super) named: Option<Facts>,
    /// That generation is younger than the grace that copies have to follow.
    pub(super) news: bool,
    /// Checksum that the registry keeps of that generation.
    pub(super) kept: Option<String>,
    /// What the store says of the path; `None`: nothing is there.
    pub(super) entry: Option<StoreEntry>,
    /// What a worker read there, and which.
    pub(super) read: Option<(String, FileVerified)>,
    pub(super) copies: Vec<SeenCopy>,
}

/// A copy as its worker reported it, and what came of looking at it.
#[derive(Debug)]
pub(super) struct SeenCopy {
    pub(super) info: CopyInfo,
    pub(super) outcome: Outcome,
}

/// What came of looking at a copy.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The worker looked.
    Looked(FileVerified),
    /// The worker has no such copy.
    Missing,
    /// It should have one, and cannot: why.
    Refused(String),
    /// It could not be asked, or did not answer: why.
    Silent(String),
}

/// Says what does not fit, with the remedy.
pub(super) fn judge(seen: Seen) -> VerifyAnswer {
    let mut judge = Judge { findings: Vec::new(), seen: &seen };
    let store = judge.store();
    let copies = judge.copies();
    let findings = judge.findings;
    VerifyAnswer {
        segment: seen.segment.to_string(),
        sound: findings.iter().all(|finding| finding.severity == Severity::Note),
        path: seen.path,
        depth: seen.depth,
        store,
        copies,
        findings,
    }
}

struct Judge<'s> {
    findings: Vec<Finding>,
    seen: &'s Seen,
}

/// One version of a file in words.
fn version(size: u64, mtime_ms: i64) -> String {
    format!("{size} bytes of {}", date(mtime_ms))
}

impl Judge<'_> {
    fn add(&mut self, severity: Severity, kind: impl Into<String>, text: String, remedy: impl Into<String>) {
        let (kind, subject, remedy) = (kind.into(), self.seen.segment.to_string(), remedy.into());
        self.findings.push(Finding { severity, kind, subject, text, remedy });
    }

    fn store(&mut self) -> Option<Verified> {
        let Seen { path, segment, named, kept, entry, read, .. } = self.seen;
        let named = named.as_ref()?;
        let Some(entry) = entry else {
            let remedy = match self.sound_copy() {
                Some(worker) => format!(
                    "worker {worker} has a sound copy in its data directory, hot/segments/…/{segment}.sqlite: put \
                     that file at {path} before the copy is given up"
                ),
                None => format!(
                    "put the file back, from a backup or the trash; or `springhouse segment delete {segment}`, \
                     if it is meant to be gone"
                ),
            };
            let text = format!(
                "the registry names {}, and the store has nothing at {path}",
                version(named.size, named.mtime_ms)
            );
            self.add(Severity::Error, "not_in_store", text, remedy);
            return None;
        };
        if (entry.generation, entry.len) != (named.generation, named.size) {
            let text = format!(
                "the store has {}, the registry names {}: somebody else has replaced or changed {path}",
                version(entry.len, entry.mtime_ms),
                version(named.size, named.mtime_ms),
            );
            let remedy = "nothing, if that was meant: the next discovery takes it up (POST /v1/discovery does at once)";
            self.add(Severity::Warning, "generation_behind", text, remedy);
        }
        let (worker, found) = read.as_ref()?;
        // What the registry kept is of the generation that it names, and so is what copies of it kept.
        let same = entry.generation == named.generation;
        let kept = kept.clone().filter(|_| same).or_else(|| self.kept_by_copies(found));
        for flaw in &found.flaws {
            let text = format!("{path} in the store {}", flaw.text);
            self.add(Severity::Error, format!("store_{}", flaw.check.as_str()), text, self.restore());
        }
        if let (Some(kept), Some(read)) = (&kept, &found.checksum)
            && kept != read
        {
            let text = format!(
                "the bytes of {path} in the store have the checksum {read}, and {kept} was kept of this generation"
            );
            self.add(Severity::Error, "store_checksum", text, self.restore());
        }
        Some(Verified { kept, ..verified(worker, None, found) })
    }

    /// Checksum that workers wrote down when they copied this generation.
    fn kept_by_copies(&self, found: &FileVerified) -> Option<String> {
        self.looked()
            .find(|(_, copy)| copy.generation == found.generation)
            .and_then(|(_, copy)| copy.kept.clone())
    }

    fn looked(&self) -> impl Iterator<Item = (&CopyInfo, &FileVerified)> {
        self.seen.copies.iter().filter_map(|copy| match &copy.outcome {
            Outcome::Looked(found) => Some((&copy.info, found)),
            _ => None,
        })
    }

    /// A worker that has the generation that the registry names, every byte as it was written down.
    fn sound_copy(&self) -> Option<&str> {
        let named = self.seen.named.as_ref()?.generation.to_string();
        let sound = |found: &FileVerified| {
            found.flaws.is_empty()
                && found.generation.as_ref() == Some(&named)
                && found.checksum.is_some()
                && found.checksum == found.kept
                && self.seen.kept.as_ref().is_none_or(|kept| Some(kept) == found.checksum.as_ref())
        };
        self.looked().find(|(_, found)| sound(found)).map(|(info, _)| info.worker.as_str())
    }

    /// What to do about bytes in the store that are not right.
    fn restore(&self) -> String {
        match self.sound_copy() {
            Some(worker) => format!(
                "worker {worker} has a sound copy: `springhouse segment provision {0}`, then `springhouse segment \
                 promote {0} --release` puts it into the store, if {worker} is given the lock",
                self.seen.segment
            ),
            None => "put a good file in its place, from a backup; in HDFS `hdfs fsck PATH -files -blocks \
                     -locations` tells which replicas are to blame"
                .into(),
        }
    }

    fn copies(&mut self) -> Vec<Verified> {
        let mut all = Vec::new();
        for copy in &self.seen.copies {
            match &copy.outcome {
                Outcome::Looked(found) => {
                    self.copy(&copy.info, found);
                    all.push(verified(&copy.info.worker, Some(copy.info.state), found));
                }
                Outcome::Missing => self.add(
                    Severity::Error,
                    "copy_missing",
                    format!("worker {} says it has a copy, and has none", copy.info.worker),
                    format!("restart worker {}: it then tells anew what it has", copy.info.worker),
                ),
                Outcome::Refused(why) => self.add(
                    Severity::Warning,
                    "copy_refused",
                    format!("worker {} should have a copy, and cannot: {why}", copy.info.worker),
                    "see to the reason: it tries again by itself; others answer meanwhile",
                ),
                Outcome::Silent(why) => self.add(
                    Severity::Warning,
                    "copy_unverified",
                    format!("the copy on worker {} could not be looked at: {why}", copy.info.worker),
                    "see to that worker, and verify again; others answer meanwhile",
                ),
            }
        }
        all
    }

    /// The copy is of another generation than the registry names: no wonder while it follows a new one.
    fn behind(&mut self, info: &CopyInfo) {
        let worker = &info.worker;
        let other = format!("the copy on worker {worker} is of another generation than the registry names");
        let follows = "nothing: it is replaced, and no query is answered from it meanwhile";
        let (severity, text, remedy) = match (&info.reason, info.state) {
            (None, CopyState::Stale) => {
                (Severity::Note, format!("{other}, which it is about to fetch"), follows)
            }
            _ if self.seen.news => (Severity::Note, format!("{other}, which is new"), follows),
            (Some(why), _) => (
                Severity::Warning,
                format!("{other}, which it cannot fetch: {why}"),
                "see to the reason: it tries again by itself, and no query is answered from it meanwhile",
            ),
            (None, _) => (
                Severity::Warning,
                format!("{other}, and has been for longer than `copies_grace`"),
                "restart that worker, if it stays: it then tells anew what it has; no query is answered from it",
            ),
        };
        self.add(severity, "copy_behind", text, remedy);
    }

    fn copy(&mut self, info: &CopyInfo, found: &FileVerified) {
        let worker = &info.worker;
        if info.generation != found.generation {
            let text = format!("worker {worker} reported another generation than its copy has");
            self.add(Severity::Error, "copy_generation", text, format!("restart worker {worker}"));
        }
        let named = self.seen.named.as_ref().map(|named| named.generation.to_string());
        if info.token.is_none() && named.is_some() && found.generation != named {
            self.behind(info);
        }
        for flaw in &found.flaws {
            let text = format!("the copy on worker {worker} {}", flaw.text);
            let remedy = match (found.taken_out, info.token, flaw.check) {
                (true, ..) => {
                    "nothing: it is not used any more, and is fetched from the store anew".to_owned()
                }
                (false, Some(_), _) => format!(
                    "its writes cannot be promoted as they are: `springhouse segment release {0} --force` keeps \
                     the file aside on {worker}, and what the store has goes on",
                    self.seen.segment
                ),
                (false, None, Check::Integrity | Check::Header) if found.kept.is_some() => {
                    "it is what came from the store: see what is said of that".to_owned()
                }
                _ => format!("see to the disk of worker {worker}, and restart it: it then reads its copies"),
            };
            self.add(Severity::Error, format!("copy_{}", flaw.check.as_str()), text, remedy);
        }
        // Of bytes that are as they were written down: else it was said already.
        let read = self.seen.read.as_ref().filter(|(_, read)| read.generation == found.generation);
        if let (Some((_, read)), Some(kept)) = (read, &found.kept)
            && found.flaws.is_empty()
            && self.seen.kept.as_ref().is_some_and(|promoted| promoted != kept)
            && read.checksum.as_ref() != Some(kept)
        {
            let text = format!(
                "the copy on worker {worker} has the checksum {kept}, and that of this generation is another"
            );
            let remedy = format!(
                "`springhouse segment lower {0}`, then `raise {0}`: it is copied anew",
                self.seen.segment
            );
            self.add(Severity::Error, "copy_differs", text, remedy);
        }
    }
}

fn verified(worker: &str, state: Option<CopyState>, found: &FileVerified) -> Verified {
    Verified {
        worker: worker.to_owned(),
        state,
        generation: found.generation.clone(),
        size: found.size,
        checksum: found.checksum.clone(),
        kept: found.kept.clone(),
        checked: found.checked,
    }
}

#[cfg(test)]
mod tests;
