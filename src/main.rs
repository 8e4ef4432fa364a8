//! The `springhouse` command.

fn main() {}
