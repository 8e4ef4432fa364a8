//! The HTTP API: types, errors, handlers, and the client that workers and the command line use.

mod auth;
pub mod client;
mod client_writes;
mod copies;
pub mod error;
mod health;
pub mod hot;
pub mod optimize;
mod registry;
pub(crate) mod router;
mod schemas;
mod segments;
pub mod server;
pub mod ship;
#[cfg(test)]
pub(crate) mod tests;
pub mod tier_types;
mod tiers;
pub mod types;
mod unread;
pub mod verify;
pub mod work;
pub(crate) mod workers;
mod writes;
