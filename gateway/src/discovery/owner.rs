//! The owner marker: stops two registries from working on one store.
//!
//! `/.springhouse-owner` is created exclusively and never changed. A takeover creates
//! `/.springhouse-owner.2` (`.3`, …) just as exclusively: the highest number owns the store. So two
//! takeovers at once cannot both win, and the old owner finds out at its next start.

use serde::{Deserialize, Serialize};

use crate::store::{SegmentStore, StoreFailure};

const MARKER: &str = "/.springhouse-owner";
/// Takeovers of one store; a bound on the search.
const TAKEOVERS_MAX: u32 = 1_000;

/// Content of a marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Id of the owning registry.
    pub registry_id: String,
}

/// Whose the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Ours since before.
    Ours,
    /// Ours from now on.
    Taken,
    /// The store lets us write no marker; the reason. Nobody else's either.
    ReadOnly(String),
    /// Another registry's; the marker's path.
    Foreign {
        /// Path of the marker below the store's root.
        marker: String,
        /// Id in it, or what stands there instead.
        owner: String,
    },
}

/// Claims the store for `registry_id`; takes it from another registry only if `take_over`.
pub async fn claim(
    store: &dyn SegmentStore,
    registry_id: &str,
    take_over: bool,
) -> Result<Claim, StoreFailure> {
    let content = serde_json::to_vec(&Owner { registry_id: registry_id.to_owned() })
        .map_err(|e| StoreFailure::Other(e.to_string()))?;
    let mut current: Option<(String, String)> = None;
    for number in 1..=TAKEOVERS_MAX {
        let marker = if number == 1 { MARKER.to_owned() } else { format!("{MARKER}.{number}") };
        match read(store, &marker).await? {
            Some(owner) => {
                current = Some((marker, owner));
                continue;
            }
            None if current.as_ref().is_some_and(|(_, owner)| owner == registry_id) => {
                return Ok(Claim::Ours);
            }
            None => {}
        }
        if let Some((marker, owner)) = current.take_if(|_| !take_over) {
            return Ok(Claim::Foreign { marker, owner });
        }
        match store.create_exclusive(&marker, &content).await {
            Ok(()) => return Ok(Claim::Taken),
            // Somebody was faster. Not taken over again at once, or two of them would go on for ever.
            Err(StoreFailure::AlreadyExists(_)) => {
                let owner = read(store, &marker).await?.unwrap_or_default();
                return Ok(if owner == registry_id { Claim::Ours } else { Claim::Foreign { marker, owner } });
            }
            Err(StoreFailure::Denied(reason)) => return Ok(Claim::ReadOnly(reason)),
            Err(other) => return Err(other),
        }
    }
    Err(StoreFailure::Other(format!("{MARKER}: more than {TAKEOVERS_MAX} takeovers; delete the old markers")))
}

/// Id in a marker, or what stands there instead.
async fn read(store: &dyn SegmentStore, marker: &str) -> Result<Option<String>, StoreFailure> {
    match store.read_small(marker).await {
        Ok(bytes) if bytes.is_empty() => Ok(Some(
            "nobody, being empty: a gateway died, or the store was full, while it was written".into(),
        )),
        Ok(bytes) => Ok(Some(match serde_json::from_slice::<Owner>(&bytes) {
            Ok(owner) => owner.registry_id,
            Err(_) => format!("unreadable: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)])),
        })),
        Err(StoreFailure::NotFound(_)) => Ok(None),
        Err(other) => Err(other),
    }
}
