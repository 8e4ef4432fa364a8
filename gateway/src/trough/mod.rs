//! Trough's HTTP: its ports, spoken as its clients expect them, byte for byte.
//!
//! Trough is the system that this one replaces, and its clients stay. Here is translation only: requests
//! become calls of a [`Backend`], answers become Trough's. Three ports, a router each: [`read_router`]
//! (6444), [`write_router`] (6222), [`manager_router`] (6111; Trough's workers answer the same calls on
//! 6112, for their leader).
//!
//! `request` (which segment, which body) and `select` (what Trough lets through) → `read`, `write`,
//! `manager` → `answer` and `json` (how Trough writes). Where Trough's answer is empty or a page of HTML
//! without a reason, ours has the same status and says why.

mod answer;
mod backend;
pub mod json;
mod manager;
mod read;
mod request;
mod select;
#[cfg(test)]
mod tests;
mod write;

use std::{sync::Arc, time::Duration};

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
    /// Host in the write urls that are given out; `None`: the one that the client named in its request.
    pub host: Option<String>,
    /// Port of [`write_router`], for those urls.
    pub write_port: u16,
    /// Most bytes of a request's body.
    pub body_bytes_max: usize,
    /// How long a request's body may take.
    pub body_time_max: Duration,
}

/// What a router's handlers share.
#[derive(Clone)]
struct Ports {
    backend: Arc<dyn Backend>,
    settings: Arc<Settings>,
}
