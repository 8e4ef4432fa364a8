//! Configuration: defaults, file, environment, flags; and where each value came from.
//!
//! A key is defined once, in [`groups`]; [`roles`] says which role has it. [`resolve`] lays the layers
//! over each other and checks every value in one way, whatever layer it came from; [`settings`] makes of
//! the result what the parts of the program take. Nothing behind that reads a file, the environment or
//! a flag again.
//!
//! Own code instead of a layering crate, because those guess types from an environment variable's text
//! (a secret `007` becomes a number), stop at the first mistake, and do not know the line of a key.

pub mod file;
pub mod flags;
pub mod groups;
pub mod keys;
mod places;
pub mod render;
pub mod resolve;
pub mod roles;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod tiers;
pub mod trough;
pub mod value;

pub use self::{
    flags::Flags,
    keys::Role,
    resolve::{Problem, Resolved, Source},
};
