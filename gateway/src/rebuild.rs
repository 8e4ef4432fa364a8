//! A registry from the store alone, after the old one was lost.
//!
//! The catalog is discovered. Which locks there are only the workers know: the gateway takes them up from
//! what they say, for a while after its start (`registry/ledger/adopt.rs`). What nobody else knows, schemas
//! and wishes, comes from an export, if there is one. Tokens go on above everything that was seen.

use std::{
    io::BufRead,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    api::hot::{TOKEN_COUNTER_BITS, Token},
    discovery::{Discovery, system_clock},
    metrics::Metrics,
    registry::{
        Adopting, Meta, Registry, RegistryError,
        import::{Former, ImportError, wishes},
        ledger::Entry,
        state::{Amendment, State},
    },
    store::{SegmentStore, StoreEntry, StoreFailure},
    upload::UploadName,
};

/// 2020-01-01, days since 1970.
const EPOCHS_BEGAN_DAY: i64 = 18_262;
const DAY_MS: i64 = 86_400_000;

/// How to rebuild.
#[derive(Debug, Clone, Copy)]
pub struct RebuildOptions {
    /// What is known of the registry that was there.
    pub former: Former,
    /// For so long after its start the gateway waits for workers.
    pub wait: Duration,
    /// Directories listed at the same time.
    pub parallelism: usize,
}

/// What was rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rebuilt {
    /// Its new identity.
    pub registry_id: String,
    /// Segments found.
    pub segments: u64,
    /// Directories found.
    pub directories: u64,
    /// Uploads of promotions that were found in the store.
    pub uploads: u64,
    /// The highest token that was seen anywhere.
    pub token_seen: Token,
    /// Rows taken from the export.
    pub wishes: u64,
}

/// Why nothing was rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The store was not listed to its end.
    #[error("the store could not be listed to its end: {0}")]
    Store(String),
    /// The registry cannot be written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The export cannot be read.
    #[error(transparent)]
    Export(#[from] ImportError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

/// The epoch from which a registry that lost its own goes on, unless a higher one was seen: more than a
/// gateway reaches that is started less than once a day. (Hours would be safer, and their tokens above
/// 2^53, which clients that read numbers as floats cannot compute with.)
pub(crate) fn epoch_after_loss(now_ms: i64) -> u64 {
    u64::try_from(now_ms / DAY_MS - EPOCHS_BEGAN_DAY).unwrap_or(0)
}

/// Makes `registry`, which is empty and in nobody's use, from `store`. `export`: an older export of the
/// lost one.
pub async fn rebuild(
    store: Arc<dyn SegmentStore>,
    registry: Arc<dyn Registry>,
    export: Option<Box<dyn BufRead + Send>>,
    options: RebuildOptions,
) -> Result<Rebuilt, RebuildError> {
    let clock = system_clock();
    let noting = Arc::new(Noting { store, token: AtomicU64::new(0), uploads: AtomicU64::new(0) });
    let (url, now_ms) = (noting.url(), clock());
    let opened = blocking(move || {
        let mut former = options.former;
        let mut taken = 0;
        if let Some(mut export) = export {
            let (rows, of_export) = wishes(&mut *export)?;
            taken = rows.len() as u64;
            registry.commit(rows)?;
            former.token = former.token.max(of_export.token);
            former.epoch = former.epoch.max(of_export.epoch);
        }
        let id: u128 = rand::random();
        let state = State::open(Box::new(registry), || Meta::new(format!("{id:032x}")))?;
        Ok::<_, RebuildError>((state, former, taken))
    });
    let (state, former, wishes) = opened.await?;
    let state = Arc::new(state);
    let metrics = Metrics::new().map_err(|e| RebuildError::Internal(format!("metrics: {e}")))?;
    let discovery = Arc::new(Discovery::new(
        noting.clone(),
        state.clone(),
        Arc::new(metrics),
        clock,
        options.parallelism,
    ));
    let report = discovery.run(true).await;
    if !report.complete || report.errors > 0 {
        let why = report.error_samples.first().cloned();
        return Err(RebuildError::Store(why.unwrap_or_else(|| "the pass ended early".to_owned())));
    }
    let token_seen = former.token.max(noting.token.load(Ordering::Relaxed));
    let epoch = epoch_after_loss(now_ms).max(former.epoch).max(token_seen >> TOKEN_COUNTER_BITS);
    let of_state = state.clone();
    blocking(move || {
        let entries = if token_seen > 0 { vec![Entry::Token(token_seen)] } else { Vec::new() };
        of_state.amend(|_, _| Ok::<_, RegistryError>(Amendment::ledger(entries, ())))?;
        let wait_ms = u64::try_from(options.wait.as_millis()).unwrap_or(u64::MAX);
        of_state.update_meta(|meta| {
            (meta.store_url, meta.epoch) = (Some(url), epoch);
            meta.adopting = Some(Adopting { known: 0, wait_ms });
        })
    })
    .await?;
    let catalog = state.catalog();
    Ok(Rebuilt {
        registry_id: state.meta().registry_id,
        segments: catalog.segment_count(),
        directories: catalog.directory_count(),
        uploads: noting.uploads.load(Ordering::Relaxed),
        token_seen,
        wishes,
    })
}

async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, RebuildError>
where
    RebuildError: From<E>,
{
    match crate::blocking::run(work).await {
        Ok(result) => Ok(result?),
        Err(panicked) => Err(RebuildError::Internal(panicked.to_string())),
    }
}

/// A store whose listings are looked through for uploads of promotions.
struct Noting {
    store: Arc<dyn SegmentStore>,
    token: AtomicU64,
    uploads: AtomicU64,
}

#[async_trait]
impl SegmentStore for Noting {
    fn url(&self) -> String {
        self.store.url()
    }

    async fn list(&self, dir: &str) -> Result<Vec<StoreEntry>, StoreFailure> {
        let entries = self.store.list(dir).await?;
        for name in entries.iter().filter_map(|entry| UploadName::parse(&entry.name)) {
            self.uploads.fetch_add(1, Ordering::Relaxed);
            self.token.fetch_max(name.highest(), Ordering::Relaxed);
        }
        Ok(entries)
    }

    async fn stat(&self, path: &str) -> Result<StoreEntry, StoreFailure> {
        self.store.stat(path).await
    }

    async fn read_small(&self, path: &str) -> Result<Vec<u8>, StoreFailure> {
        self.store.read_small(path).await
    }

    async fn create_exclusive(&self, path: &str, data: &[u8]) -> Result<(), StoreFailure> {
        self.store.create_exclusive(path, data).await
    }

    async fn rename_over(&self, from: &str, to: &str) -> Result<(), StoreFailure> {
        self.store.rename_over(from, to).await
    }

    async fn remove(&self, path: &str) -> Result<(), StoreFailure> {
        self.store.remove(path).await
    }
}
