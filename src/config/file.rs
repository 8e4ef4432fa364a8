//! A configuration file: flat TOML, with the line of every key. Of a few prefixes a table may be made.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use toml_edit::{Document, Item, TableLike, Value};

use super::{
    keys::KeySpec,
    resolve::{Given, Problem, Source, advice, nearest},
    roles,
};

/// Largest file that is read, in bytes: a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Tables that a file may have: `[trough]` with `read` is `trough_read`.
const TABLES: [&str; 1] = ["trough"];

/// The text of a configuration file.
pub(crate) fn read(path: &Path) -> Result<String, Problem> {
    let problem = |reason: &str| Problem(format!("configuration file {}: {reason}", path.display()));
    let unreadable = |error: io::Error| problem(&format!("{error}; correct the path"));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(problem("is a directory; name a file in it"));
    }
    let mut bytes = Vec::new();
    // What is no ordinary file (a pipe) has no length to look at.
    let mut file = File::open(path).map_err(unreadable)?.take(FILE_BYTES_MAX + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(problem("has more than 1 MiB, which is no configuration; correct the path"));
    }
    String::from_utf8(bytes).map_err(|_| problem("is not TOML: it is not UTF-8 text"))
}

/// What `text` gives to the keys of `role`; what is wrong with it goes to `problems`.
pub(crate) fn parse(
    role: &str,
    specs: &[KeySpec],
    path: &Path,
    text: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Given> {
    let line_at = |offset: usize| 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count();
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(1, |span| line_at(span.start));
            let message = error.message().replace('\n', ", ");
            problems.push(Problem(format!("{}:{line}: is not TOML: {message}", path.display())));
            return Vec::new();
        }
    };
    let mut given: Vec<Given> = Vec::new();
    for (name, offset, item) in entries(document.as_table()) {
        let (name, line) = (name.as_str(), line_at(offset));
        let mut wrong = |what: String| problems.push(Problem(format!("{}:{line}: {what}", path.display())));
        match (specs.iter().find(|spec| spec.name == name), scalar(item)) {
            (Some(spec), Some(_)) if given.iter().any(|given| given.key == spec.name) => {
                wrong(format!("{name} stands here twice, once in a table; remove one"));
            }
            (Some(spec), Some(text)) => {
                given.push(Given { key: spec.name, text, source: Source::File(path.to_owned(), line) })
            }
            (Some(spec), None) => {
                wrong(format!("{name} is neither text, number nor true/false; give {}", spec.allowed));
            }
            (None, None) if item.is_table_like() || item.is_array_of_tables() => {
                wrong(format!(
                    "the table [{name}] means nothing: all keys stand at the top; remove the line"
                ));
            }
            (None, _) => wrong(unknown(role, specs, name)),
        }
    }
    given
}

/// Keys and values of the file, those of [`TABLES`] under their whole names, with their offsets.
fn entries(table: &dyn TableLike) -> Vec<(String, usize, &Item)> {
    let offset = |table: &dyn TableLike, name: &str, item: &Item| {
        let span = table.key(name).and_then(|key| key.span()).or_else(|| item.span());
        span.map_or(0, |span| span.start)
    };
    let mut entries = Vec::new();
    for (name, item) in table.iter() {
        match item.as_table_like().filter(|_| TABLES.contains(&name)) {
            Some(members) => entries.extend(
                members
                    .iter()
                    .map(|(member, item)| (format!("{name}_{member}"), offset(members, member, item), item)),
            ),
            None => entries.push((name.to_owned(), offset(table, name, item), item)),
        }
    }
    entries
}

fn unknown(role: &str, specs: &[KeySpec], name: &str) -> String {
    let owners = roles::with_key(name);
    if owners.is_empty() {
        let nearest = nearest(name, specs.iter().map(|spec| spec.name.to_owned()));
        let otherwise = format!("`springhouse config show {role}` lists the keys");
        format!("{role} has no key {name}; {}", advice(nearest, &otherwise))
    } else {
        format!("{name} is a key of {}, not of {role}; remove it here", owners.join(" and "))
    }
}

/// The text of a scalar as a flag would give it.
fn scalar(item: &Item) -> Option<String> {
    match item.as_value()? {
        Value::String(text) => Some(text.value().clone()),
        Value::Integer(number) => Some(number.value().to_string()),
        Value::Float(number) => Some(number.value().to_string()),
        Value::Boolean(truth) => Some(truth.value().to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::InlineTable(_) => None,
    }
}
