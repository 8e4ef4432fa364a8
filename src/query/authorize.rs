//! What SQL from outside may do: read. Everything else is refused by name.

use rusqlite::ffi;

/// PRAGMAs that only describe the segment. FTS5 itself prepares `data_version`; the others are what
/// `pragma_table_info(…)` and its like stand for.
const PRAGMAS: [&str; 7] =
    ["data_version", "index_info", "index_list", "index_xinfo", "table_info", "table_list", "table_xinfo"];

/// PRAGMAs that tell the segment's size; with an argument they would set something in the connection.
const ASKED_BY_QUERIES: [&str; 2] = ["page_count", "page_size"];

/// Functions that neither reach outside the segment nor change anything. Sorted; a test checks that every
/// function of the built-in SQLite is either here or refused on purpose.
#[rustfmt::skip]
pub(super) const FUNCTIONS: &[&str] = &[
    "->", "->>", "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "avg", "bm25", "buildredirectarray", "ceil",
    "ceiling", "changes", "char", "coalesce", "concat", "concat_ws", "cos", "cosh", "count", "cume_dist",
    "current_date", "current_time", "current_timestamp", "date", "datetime", "degrees", "dense_rank", "exp",
    "first_value", "floor", "format", "fts5_get_locale", "fts5_insttoken", "fts5_locale",
    "fts5_source_id", "glob", "group_concat", "hex", "highlight", "if", "ifnull", "iif", "instr", "json",
    "json_array", "json_array_insert", "json_array_length", "json_error_position", "json_extract",
    "json_group_array", "json_group_object", "json_insert", "json_object", "json_patch", "json_pretty",
    "json_quote", "json_remove", "json_replace", "json_set", "json_type", "json_valid", "jsonb",
    "jsonb_array", "jsonb_array_insert", "jsonb_extract", "jsonb_group_array", "jsonb_group_object",
    "jsonb_insert", "jsonb_object", "jsonb_patch", "jsonb_remove", "jsonb_replace", "jsonb_set",
    "julianday", "lag", "last_insert_rowid", "last_value", "lead", "length", "like", "likelihood", "likely",
    "ln", "log", "log10", "log2", "lower", "ltrim", "match", "matchinfo", "max", "median", "min", "mod",
    "nth_value", "ntile", "nullif", "octet_length", "offsets", "percent_rank", "percentile",
    "percentile_cont", "percentile_disc", "pi", "pow", "power", "printf", "quote", "radians", "random",
    "randomblob", "rank", "regexp", "replace", "round", "row_number", "rtreedepth", "rtreenode", "rtrim",
    "seedcrawledstatus", "sign",
    "sin", "sinh", "snippet", "soundex", "sqlite_source_id", "sqlite_version", "sqrt", "strftime",
    "string_agg", "substr", "substring", "subtype", "sum", "tan", "tanh", "time", "timediff",
    "total", "total_changes", "trim", "trunc", "typeof", "unhex", "unicode", "unistr", "unistr_quote",
    "unixepoch", "unlikely", "upper", "zeroblob",
];

/// Tables whose names end so are an R*Tree's own: the module compiles its writing statements when such
/// a table is first read. Compiling is all that can happen: the top statement must be read-only, and
/// so is the file.
const RTREE_TABLES: [&str; 3] = ["_node", "_rowid", "_parent"];

/// Whether an action is allowed, or what to call it when it is not. `first` and `second` are the
/// arguments of SQLite's authorizer callback.
pub(super) fn decide(action: i32, first: &str, second: &str) -> Result<(), String> {
    let refused = |what: &str| Err(format!("{what} is not allowed: a query only reads its segment"));
    match action {
        ffi::SQLITE_SELECT | ffi::SQLITE_READ | ffi::SQLITE_RECURSIVE => Ok(()),
        ffi::SQLITE_FUNCTION => {
            let name = second.to_ascii_lowercase();
            match FUNCTIONS.binary_search(&name.as_str()) {
                Ok(_) => Ok(()),
                Err(_) => Err(format!("function {second}() is not allowed")),
            }
        }
        ffi::SQLITE_PRAGMA => {
            let named = |list: &[&str]| list.iter().any(|allowed| first.eq_ignore_ascii_case(allowed));
            if named(&PRAGMAS) || (named(&ASKED_BY_QUERIES) && second.is_empty()) {
                Ok(())
            } else {
                Err(format!("PRAGMA {first} is not allowed; these are: {}", PRAGMAS.join(", ")))
            }
        }
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE
            if RTREE_TABLES.iter().any(|ending| first.ends_with(ending)) =>
        {
            Ok(())
        }
        // What CREATE, ALTER and DROP ask first.
        ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE
            if first.eq_ignore_ascii_case("sqlite_master") =>
        {
            refused("a change of the schema")
        }
        ffi::SQLITE_INSERT => refused("INSERT"),
        ffi::SQLITE_UPDATE => refused("UPDATE"),
        ffi::SQLITE_DELETE => refused("DELETE"),
        ffi::SQLITE_ATTACH => refused("ATTACH (or VACUUM)"),
        ffi::SQLITE_DETACH => refused("DETACH"),
        ffi::SQLITE_TRANSACTION => refused("a transaction"),
        ffi::SQLITE_SAVEPOINT => refused("SAVEPOINT"),
        ffi::SQLITE_ANALYZE => refused("ANALYZE"),
        ffi::SQLITE_REINDEX => refused("REINDEX"),
        ffi::SQLITE_ALTER_TABLE => refused("ALTER TABLE"),
        ffi::SQLITE_CREATE_INDEX
        | ffi::SQLITE_CREATE_TABLE
        | ffi::SQLITE_CREATE_TEMP_INDEX
        | ffi::SQLITE_CREATE_TEMP_TABLE
        | ffi::SQLITE_CREATE_TEMP_TRIGGER
        | ffi::SQLITE_CREATE_TEMP_VIEW
        | ffi::SQLITE_CREATE_TRIGGER
        | ffi::SQLITE_CREATE_VIEW
        | ffi::SQLITE_CREATE_VTABLE => refused("CREATE"),
        ffi::SQLITE_DROP_INDEX
        | ffi::SQLITE_DROP_TABLE
        | ffi::SQLITE_DROP_TEMP_INDEX
        | ffi::SQLITE_DROP_TEMP_TABLE
        | ffi::SQLITE_DROP_TEMP_TRIGGER
        | ffi::SQLITE_DROP_TEMP_VIEW
        | ffi::SQLITE_DROP_TRIGGER
        | ffi::SQLITE_DROP_VIEW
        | ffi::SQLITE_DROP_VTABLE => refused("DROP"),
        other => refused(&format!("this (action {other} of SQLite)")),
    }
}

/// PRAGMAs of a writer that tell something, or keep something in the file that is its own matter. None
/// changes how this or another connection works.
const WRITE_PRAGMAS: [&str; 15] = [
    "application_id",
    "auto_vacuum",
    "encoding",
    "foreign_key_check",
    "foreign_key_list",
    "freelist_count",
    "incremental_vacuum",
    "integrity_check",
    "page_count",
    "page_size",
    "quick_check",
    "schema_version",
    "table_info",
    "table_xinfo",
    "user_version",
];

/// Those of them that may only be asked: setting the version of the schema would make others misread it.
const ASKED_ONLY: [&str; 3] = ["freelist_count", "page_count", "schema_version"];

/// Functions of ALTER TABLE, which only SQLite's own code can call.
const INTERNAL: [&str; 5] = ["sqlite_rename_", "sqlite_drop_", "sqlite_add_", "sqlite_find_", "sqlite_fail"];

/// [`decide`] for SQL that writes: rows and schema of the segment may be changed. Its transaction is
/// ours, and nothing may outlast it in the connection.
pub(super) fn decide_write(action: i32, first: &str, second: &str) -> Result<(), String> {
    let refused = |what: &str| Err(format!("{what} is not allowed"));
    let temporary = || {
        Err("something temporary is not allowed: a request leaves nothing behind but in the segment".into())
    };
    match action {
        ffi::SQLITE_PRAGMA => {
            let named = |list: &[&str]| list.iter().any(|allowed| first.eq_ignore_ascii_case(allowed));
            if (named(&WRITE_PRAGMAS) && (second.is_empty() || !named(&ASKED_ONLY))) || named(&PRAGMAS) {
                Ok(())
            } else {
                Err(format!("PRAGMA {first} is not allowed; these are: {}", WRITE_PRAGMAS.join(", ")))
            }
        }
        // What creating something temporary asks first.
        ffi::SQLITE_INSERT if first.eq_ignore_ascii_case("sqlite_temp_master") => temporary(),
        ffi::SQLITE_FUNCTION if INTERNAL.iter().any(|start| second.starts_with(start)) => Ok(()),
        ffi::SQLITE_INSERT
        | ffi::SQLITE_UPDATE
        | ffi::SQLITE_DELETE
        | ffi::SQLITE_ANALYZE
        | ffi::SQLITE_REINDEX
        | ffi::SQLITE_ALTER_TABLE
        | ffi::SQLITE_CREATE_INDEX
        | ffi::SQLITE_CREATE_TABLE
        | ffi::SQLITE_CREATE_TRIGGER
        | ffi::SQLITE_CREATE_VIEW
        | ffi::SQLITE_CREATE_VTABLE
        | ffi::SQLITE_DROP_INDEX
        | ffi::SQLITE_DROP_TABLE
        | ffi::SQLITE_DROP_TRIGGER
        | ffi::SQLITE_DROP_VIEW
        | ffi::SQLITE_DROP_VTABLE => Ok(()),
        ffi::SQLITE_TRANSACTION | ffi::SQLITE_SAVEPOINT => {
            Err("a transaction of its own is not allowed: each request is one".into())
        }
        ffi::SQLITE_CREATE_TEMP_INDEX
        | ffi::SQLITE_CREATE_TEMP_TABLE
        | ffi::SQLITE_CREATE_TEMP_TRIGGER
        | ffi::SQLITE_CREATE_TEMP_VIEW
        | ffi::SQLITE_DROP_TEMP_INDEX
        | ffi::SQLITE_DROP_TEMP_TABLE
        | ffi::SQLITE_DROP_TEMP_TRIGGER
        | ffi::SQLITE_DROP_TEMP_VIEW => temporary(),
        ffi::SQLITE_ATTACH => refused("ATTACH (or VACUUM)"),
        ffi::SQLITE_DETACH => refused("DETACH"),
        ffi::SQLITE_SELECT | ffi::SQLITE_READ | ffi::SQLITE_RECURSIVE | ffi::SQLITE_FUNCTION => {
            decide(action, first, second)
        }
        other => refused(&format!("this (action {other} of SQLite)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_for_binary_search() {
        let mut sorted = FUNCTIONS.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, FUNCTIONS);
    }
}
