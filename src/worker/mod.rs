//! Workers: lease, HTTP, and the files they answer from.
