//! For tests of other packages: a gateway over another registry and clock, and messages that are lost.

use std::sync::Arc;

use crate::{Gateway, Settings, StartError, store::SegmentStore};
pub use crate::{
    blocking::turns::{Turns, set as give_turns},
    crash::Crash,
    discovery::Clock,
    registry::memory::MemoryRegistry,
};

/// What a message to a worker in this process came to, as an extension of an answer that is none.
#[derive(Debug, Clone)]
pub enum Lost {
    /// There was no connection.
    Unreachable(String),
    /// It broke before the head of the answer.
    Broken(String),
}

impl Gateway {
    /// [`Gateway::start`] with a registry in memory, which outlives it, and another clock.
    pub async fn start_in_memory(
        settings: Settings,
        store: Arc<dyn SegmentStore>,
        registry: MemoryRegistry,
        clock: Clock,
    ) -> Result<Self, StartError> {
        Self::start_with(settings, store, move || Ok(Box::new(registry)), clock).await
    }
}
