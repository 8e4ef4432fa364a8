//! Settings of the query engine: sizes in bytes, counts, durations. The root `config` fills them.

use std::time::Duration;

/// Limits of the engine. Memory of SQLite in the whole process stays below
/// [`QuerySettings::memory_bytes_max`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuerySettings {
    /// Threads that run SQLite, 1 to 256: as many queries run at once.
    pub threads: usize,
    /// Queries that may wait for a thread before new ones are refused as overloaded.
    pub queue_max: usize,
    /// Connections open at once, running or idle: each is one open file. At least `threads`.
    pub connections_max: usize,
    /// Idle connections kept for one generation of one file.
    pub connections_per_file_max: usize,
    /// Prepared statements kept with a connection.
    pub statements_per_connection_max: usize,
    /// SQLite's page cache of one connection, in bytes.
    pub page_cache_bytes: u64,
    /// What all idle connections together may hold (page cache, schema, statements), in bytes.
    pub idle_memory_bytes: u64,
    /// What one running query may add to SQLite's memory: sorts, temporary tables, values.
    pub query_memory_bytes: u64,
    /// Most rows of an answer.
    pub rows_max: u64,
    /// Most bytes of an answer as it goes over the wire.
    pub answer_bytes_max: u64,
    /// Longest time of a query with its time in the queue; also the default where a request names none.
    pub timeout_max: Duration,
    /// Limits of SQLite's language.
    pub sql: SqlLimits,
}

/// Limits given to `sqlite3_limit`; each can only lower SQLite's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlLimits {
    /// One string, blob or row, in bytes.
    pub value_bytes: u32,
    /// Text of a statement, in bytes.
    pub statement_bytes: u32,
    /// Columns of a table, a result, an `ORDER BY`.
    pub columns: u32,
    /// Depth of an expression.
    pub expression_depth: u32,
    /// Terms of a compound `SELECT`.
    pub compound_selects: u32,
    /// Instructions of a compiled statement.
    pub instructions: u32,
    /// Arguments of a function.
    pub function_arguments: u32,
    /// Pattern of `LIKE` and `GLOB`, in bytes: matching costs up to pattern times text.
    pub like_pattern_bytes: u32,
    /// Highest number of a parameter.
    pub parameters: u32,
    /// Tables, indexes, views and triggers of a segment.
    pub schema_objects: u32,
}

const MIB: u64 = 1 << 20;

impl Default for QuerySettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            threads: (2 * cores).clamp(4, 32),
            queue_max: 256,
            connections_max: 512,
            connections_per_file_max: 32,
            statements_per_connection_max: 16,
            page_cache_bytes: 2 * MIB,
            idle_memory_bytes: 256 * MIB,
            query_memory_bytes: 128 * MIB,
            rows_max: 1_000_000,
            answer_bytes_max: 256 * MIB,
            timeout_max: Duration::from_secs(30),
            sql: SqlLimits::default(),
        }
    }
}

impl Default for SqlLimits {
    fn default() -> Self {
        Self {
            value_bytes: 32 << 20,
            statement_bytes: 256 << 10,
            columns: 1000,
            expression_depth: 200,
            compound_selects: 100,
            instructions: 250_000,
            function_arguments: 100,
            like_pattern_bytes: 50,
            parameters: 10_000,
            schema_objects: 20_000,
        }
    }
}

impl QuerySettings {
    /// The most that SQLite may hold in this process: what runs, what is stuck beyond its deadline (at most
    /// as many queries again), and what is idle.
    pub fn memory_bytes_max(&self) -> u64 {
        (2 * self.threads as u64)
            .saturating_mul(self.query_memory_bytes)
            .saturating_add(self.idle_memory_bytes)
    }

    /// Why the engine cannot run so: the setting and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("threads", self.threads as u64, 1, 256),
            ("queue_max", self.queue_max as u64, 1, 1 << 20),
            ("connections_max", self.connections_max as u64, self.threads as u64, 1 << 20),
            ("connections_per_file_max", self.connections_per_file_max as u64, 0, 256),
            ("statements_per_connection_max", self.statements_per_connection_max as u64, 0, 1024),
            ("page_cache_bytes", self.page_cache_bytes, 64 << 10, self.query_memory_bytes / 2),
            ("idle_memory_bytes", self.idle_memory_bytes, 0, u64::MAX),
            ("query_memory_bytes", self.query_memory_bytes, MIB, 1 << 40),
            ("rows_max", self.rows_max, 1, u64::MAX),
            ("answer_bytes_max", self.answer_bytes_max, 1024, u64::MAX),
            ("timeout_max in ms", self.timeout_max.as_millis() as u64, 1, 86_400_000),
            ("value_bytes", self.sql.value_bytes.into(), 1024, self.query_memory_bytes.min(1_000_000_000)),
            ("statement_bytes", self.sql.statement_bytes.into(), 64, 1_000_000_000),
            ("columns", self.sql.columns.into(), 1, 2000),
            ("expression_depth", self.sql.expression_depth.into(), 1, 1000),
            ("compound_selects", self.sql.compound_selects.into(), 1, 500),
            ("instructions", self.sql.instructions.into(), 1000, 250_000_000),
            ("function_arguments", self.sql.function_arguments.into(), 1, 1000),
            ("like_pattern_bytes", self.sql.like_pattern_bytes.into(), 1, 50_000),
            ("parameters", self.sql.parameters.into(), 0, 32_766),
            ("schema_objects", self.sql.schema_objects.into(), 1, i32::MAX as u64),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("{name} is {value}: it must be from {low} to {high}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_range_and_a_bad_value_is_named() {
        assert_eq!(QuerySettings::default().check(), Ok(()));
        let bad = QuerySettings { threads: 0, ..QuerySettings::default() };
        assert!(bad.check().expect_err("0 threads").contains("threads is 0"));
    }
}
