//! Tests of a worker as a whole.
