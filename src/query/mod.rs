//! The query engine: sandboxed, bounded, streamed SQLite over one generation of a segment.
