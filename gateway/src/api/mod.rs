//! The HTTP API: types, errors, handlers, and the client that workers and the command line use.

pub mod error;
pub mod types;
