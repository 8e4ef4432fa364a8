//! Two functions of Archive-It's that Trough gives to every connection, as its Python has them.
//!
//! `seedcrawledstatus(status)`: what a crawler's status means. `buildredirectarray(url, status, hop_path, json)`:
//! the JSON array `json` with one redirect put at the place that the length of `hop_path` says. Whatever
//! raises an exception in Python fails with the words that its SQLite has for that.

use rusqlite::{
    Connection, Error, Result,
    functions::{Context, FunctionFlags},
    types::ValueRef,
};
use serde_json::value::RawValue;
use springhouse_gateway::trough::json::put_string;

/// Longest hop path in characters: the array is not SQLite's memory.
const HOPS_MAX: usize = 10_000;

/// Adds the functions to a connection.
pub(super) fn install(connection: &Connection) -> Result<()> {
    // Innocuous: they may stand in a schema.
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function(c"seedcrawledstatus", 1, flags, |call| status(call.get_raw(0)))?;
    connection.create_scalar_function(c"buildredirectarray", 4, flags, redirects)
}

fn raised() -> Error {
    Error::UserFunctionError("user-defined function raised exception".into())
}

/// What a status means.
fn status(value: ValueRef<'_>) -> Result<String> {
    let code = match value {
        ValueRef::Null => return Ok("Not crawled (None)".into()),
        ValueRef::Integer(code) => code,
        // As a cast: Python has no bound, and no crawler such a status.
        ValueRef::Real(code) if code.is_finite() && code.abs() < 1e18 => code as i64,
        ValueRef::Real(_) => return Err(raised()),
        ValueRef::Text(digits) | ValueRef::Blob(digits) => {
            let digits = std::str::from_utf8(digits).map_err(|_| raised())?;
            digits.trim().parse().map_err(|_| raised())?
        }
    };
    Ok(match code {
        300..400 => "Redirected".into(),
        400.. => format!("Crawled (HTTP error {code})"),
        1.. => "Crawled".into(),
        0 | -5003 | -5004 => "Not crawled (queued)".into(),
        -9998 => "Not crawled (blocked by robots)".into(),
        _ => format!("Not crawled ({code})"),
    })
}

fn redirects(call: &Context<'_>) -> Result<String> {
    let hops = match call.get_raw(2) {
        ValueRef::Text(path) => std::str::from_utf8(path).map_err(|_| raised())?.chars().count(),
        ValueRef::Blob(path) => path.len(),
        _ => return Err(raised()),
    };
    if hops > HOPS_MAX {
        return Err(Error::UserFunctionError(
            format!("a hop path has at most {HOPS_MAX} characters, this one has {hops}").into(),
        ));
    }
    let mut array: Vec<String> = match call.get_raw(3) {
        ValueRef::Null | ValueRef::Integer(0) | ValueRef::Text([]) | ValueRef::Blob([]) => Vec::new(),
        ValueRef::Real(0.0) => Vec::new(),
        ValueRef::Text(json) | ValueRef::Blob(json) => {
            let elements: Vec<&RawValue> = serde_json::from_slice(json).map_err(|_| raised())?;
            // Left as they are: it is this function that made them.
            elements.into_iter().map(|element| element.get().to_owned()).collect()
        }
        ValueRef::Integer(_) | ValueRef::Real(_) => return Err(raised()),
    };
    let url = match call.get_raw(0) {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => string(std::str::from_utf8(text).map_err(|_| raised())?),
        ValueRef::Blob(_) => return Err(raised()),
    };
    let redirect = format!("{{\"seed\": {url}, \"status\": {}}}", string(&status(call.get_raw(1))?));
    if hops > array.len() {
        array.resize(hops, "null".into());
    }
    // The place before the first is the last one, as everywhere in Python.
    let at = hops.checked_sub(1).or(array.len().checked_sub(1)).ok_or_else(raised)?;
    array[at] = redirect;
    Ok(format!("[{}]", array.join(", ")))
}

/// As Python's `json` writes it: like ujson, but for one character.
fn string(text: &str) -> String {
    let mut json = Vec::with_capacity(text.len() + 2);
    put_string(&mut json, text, false);
    String::from_utf8_lossy(&json).replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(connection: &Connection, expression: &str) -> Result<String, String> {
        connection
            .query_row(&format!("select {expression}"), [], |row| row.get(0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn as_in_python() {
        crate::query::init().expect("SQLite fits");
        let connection = Connection::open_in_memory().expect("a database");
        install(&connection).expect("functions");
        for (expression, expected) in [
            ("seedcrawledstatus(200)", "Crawled"),
            ("seedcrawledstatus(' 302 ')", "Redirected"),
            ("seedcrawledstatus(399.9)", "Redirected"),
            ("seedcrawledstatus(404)", "Crawled (HTTP error 404)"),
            ("seedcrawledstatus(0)", "Not crawled (queued)"),
            ("seedcrawledstatus(-5003)", "Not crawled (queued)"),
            ("seedcrawledstatus(-9998)", "Not crawled (blocked by robots)"),
            ("seedcrawledstatus(-7)", "Not crawled (-7)"),
            ("seedcrawledstatus(null)", "Not crawled (None)"),
            (
                "buildredirectarray('http://a/', 301, 'R', null)",
                r#"[{"seed": "http://a/", "status": "Redirected"}]"#,
            ),
            (
                "buildredirectarray('ä' || char(127), 200, 'RRR', '[1, {\"b\": 2, \"a\": 1}]')",
                r#"[1, {"b": 2, "a": 1}, {"seed": "\u00e4\u007f", "status": "Crawled"}]"#,
            ),
            (
                "buildredirectarray(null, null, 'RR', '')",
                r#"[null, {"seed": null, "status": "Not crawled (None)"}]"#,
            ),
            (
                "buildredirectarray(1, 0, '', '[7, 8]')",
                r#"[7, {"seed": 1, "status": "Not crawled (queued)"}]"#,
            ),
        ] {
            assert_eq!(ask(&connection, expression).as_deref(), Ok(expected), "{expression}");
        }
        for expression in [
            "seedcrawledstatus('many')",
            "seedcrawledstatus(9e999)",
            "buildredirectarray('a', 1, null, null)",
            "buildredirectarray('a', 1, '', null)",
            "buildredirectarray('a', 1, 'R', '{}')",
            "buildredirectarray('a', 1, 'R', 'no JSON')",
            "buildredirectarray('a', 1, 'R', 5)",
            "buildredirectarray(x'00', 1, 'R', null)",
        ] {
            let error = ask(&connection, expression).expect_err(expression);
            assert_eq!(error, "user-defined function raised exception", "{expression}");
        }
        let long = ask(&connection, "buildredirectarray('a', 1, hex(zeroblob(5001)), null)");
        assert!(long.expect_err("too long").contains("at most 10000"));
    }
}
