//! Subcommands: each turns its arguments into a resolved configuration once, and runs.
