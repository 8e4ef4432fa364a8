//! Trough's HTTP: its ports, spoken as its clients expect them, byte for byte.
//!
//! Trough is the system that this one replaces, and its clients stay. Here is translation only: requests
//! become calls of a [`Backend`], answers become Trough's. Three ports, a router each: [`read_router`]
//! (6444), [`write_router`] (6222), [`manager_router`] (6111; Trough's workers answer the same calls on
//! 6112, for their leader).
//!
//! `own` (this gateway as the backend) → `read`, `write`, `manager` → `request` (which segment, which body),
//! `select` (what Trough lets through) → `answer` and `json` (how Trough writes). Where Trough's answer is empty or a page of HTML
//! without a reason, ours has the same status and says why.

mod answer;
mod backend;
pub mod json;
mod manager;
mod own;
mod read;
mod request;
mod select;
#[cfg(test)]
mod tests;
mod write;

use std::{sync::Arc, time::Duration};

use axum::Router;

use crate::{api::router, gateway::Core, writing::schemas::SCHEMA_BYTES_MAX};

pub use self::{
    backend::{Backend, Provisioned, SchemaError, SchemaPut},
    manager::manager_router,
    read::{read_router, rows_of},
    select::is_one_select,
    write::write_router,
};

/// For `Accept` and `content-type` between gateway and workers: rows as Trough writes them, errors of SQL
/// in SQLite's own words.
pub const ROWS_CONTENT_TYPE: &str = "application/x-trough-rows";

/// What the routers need to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host in the write urls that are given out, with a port if that is another than `write_port`; `None`:
    /// the one that the client named in its request.
    pub host: Option<String>,
    /// Port of [`write_router`], for those urls.
    pub write_port: u16,
    /// Most bytes of a request's body.
    pub body_bytes_max: usize,
    /// How long a request's body may take.
    pub body_time_max: Duration,
}

/// What this gateway is told about the ports.
#[derive(Debug, Clone)]
pub struct PortSettings {
    /// See [`Settings::host`].
    pub host: Option<String>,
    /// Where the write port is reached.
    pub write_port: u16,
}

/// The ports of this gateway.
#[derive(Debug, Clone)]
pub struct PortRouters {
    /// Trough's 6444.
    pub read: Router,
    /// Trough's 6222.
    pub write: Router,
    /// Trough's 6111.
    pub manager: Router,
}

impl PortRouters {
    pub(crate) fn new(core: Arc<Core>, told: PortSettings) -> Self {
        let backend: Arc<dyn Backend> = Arc::new(own::Own(core.clone()));
        let limits = &core.settings;
        let settings = |body_bytes_max| Settings {
            host: told.host.clone(),
            write_port: told.write_port,
            body_bytes_max,
            body_time_max: limits.deadline_max,
        };
        let counted = |name, router| router::counted(router, core.clone(), Some(name));
        Self {
            read: counted("trough read", read_router(backend.clone(), settings(limits.body_bytes_max))),
            write: counted("trough write", write_router(backend.clone(), settings(limits.write_bytes_max))),
            // JSON escapes: a schema may take more room on the wire than it has bytes.
            manager: counted("trough manager", manager_router(backend, settings(2 * SCHEMA_BYTES_MAX))),
        }
    }
}

/// What a router's handlers share.
#[derive(Clone)]
struct Ports {
    backend: Arc<dyn Backend>,
    settings: Arc<Settings>,
}
