//! A configuration file: flat TOML, then perhaps arrays of tables; with the line of every key. Of a few
//! prefixes a table may be made.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use toml_edit::{Document, Item, Table, TableLike, Value};

use super::{
    keys::{KeySpec, TableSpec},
    resolve::{Given, GivenTable, Problem, Source, advice, nearest},
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

/// What `text` gives to the keys and arrays of tables of `role`; what is wrong with it goes to `problems`.
pub(crate) fn parse(
    role: &str,
    specs: &[KeySpec],
    arrays: &[TableSpec],
    path: &Path,
    text: &str,
    problems: &mut Vec<Problem>,
) -> (Vec<Given>, Vec<GivenTable>) {
    let mut file = Parser { role, path, text, problems };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            file.wrong(offset, format!("is not TOML: {}", error.message().replace('\n', ", ")));
            return Default::default();
        }
    };
    let (mut given, mut tables) = (Vec::<Given>::new(), Vec::new());
    for (name, offset, item) in entries(document.as_table()) {
        let name = name.as_str();
        match (specs.iter().find(|spec| spec.name == name), scalar(item)) {
            (Some(spec), Some(_)) if given.iter().any(|given| given.key == spec.name) => {
                file.wrong(offset, format!("{name} stands here twice, once in a table; remove one"));
            }
            (Some(spec), Some(text)) => {
                given.push(Given { key: spec.name, text, source: file.source(offset) });
            }
            (Some(spec), None) => file.wrong(offset, not_scalar(spec)),
            (None, scalar) => match (arrays.iter().find(|array| array.name == name), item) {
                (Some(array), Item::ArrayOfTables(rows)) => {
                    for (index, row) in rows.iter().enumerate() {
                        tables.push(file.row(array, index, row, specs));
                    }
                }
                (Some(array), _) => file.wrong(
                    offset,
                    format!("{name} is an array of tables; begin each of them with [[{}]]", array.name),
                ),
                (None, _) if scalar.is_none() && (item.is_table_like() || item.is_array_of_tables()) => {
                    let places: String =
                        arrays.iter().map(|array| format!(", but for those of [[{}]]", array.name)).collect();
                    let what = format!(
                        "the table [{name}] means nothing: all keys stand at the top{places}; remove the line"
                    );
                    file.wrong(offset, what);
                }
                (None, _) => file.wrong(offset, unknown(role, specs, name)),
            },
        }
    }
    (given, tables)
}

/// A file that is being looked through.
struct Parser<'a> {
    role: &'a str,
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Parser<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|b| *b == b'\n').count()
    }

    fn source(&self, offset: usize) -> Source {
        Source::File(self.path.to_owned(), self.line(offset))
    }

    fn wrong(&mut self, offset: usize, what: String) {
        let line = self.line(offset);
        self.problems.push(Problem(format!("{}:{line}: {what}", self.path.display())));
    }

    /// One table of an array. `top`: the keys that stand before it.
    fn row(&mut self, array: &TableSpec, index: usize, row: &Table, top: &[KeySpec]) -> GivenTable {
        let start = row.span().map_or(0, |span| span.start);
        let mut given = Vec::new();
        for (name, item) in row {
            let offset = offset(row, name, item);
            let table = format!("{} {}", array.name, index + 1);
            match (array.specs.iter().find(|spec| spec.name == name), scalar(item)) {
                (Some(spec), Some(text)) => {
                    given.push(Given { key: spec.name, text, source: self.source(offset) });
                }
                (Some(spec), None) => self.wrong(offset, format!("{table}: {}", not_scalar(spec))),
                (None, _) if top.iter().any(|spec| spec.name == name) => {
                    let what = format!(
                        "{table}: {name} is a key of {}, and what stands after [[{}]] belongs to that; move it \
                         above the first of them",
                        self.role, array.name
                    );
                    self.wrong(offset, what);
                }
                (None, _) => {
                    let nearest = nearest(name, array.specs.iter().map(|spec| spec.name.to_owned()));
                    let names: Vec<_> = array.specs.iter().map(|spec| spec.name).collect();
                    let otherwise = format!("it may have {}", names.join(", "));
                    let what = format!("{table}: there is no key {name}; {}", advice(nearest, &otherwise));
                    self.wrong(offset, what);
                }
            }
        }
        GivenTable { array: array.name, source: self.source(start), given }
    }
}

fn offset(table: &dyn TableLike, name: &str, item: &Item) -> usize {
    let span = table.key(name).and_then(|key| key.span()).or_else(|| item.span());
    span.map_or(0, |span| span.start)
}

fn not_scalar(spec: &KeySpec) -> String {
    format!("{} is neither text, number nor true/false; give {}", spec.name, spec.allowed)
}

/// Keys and values of the file, those of [`TABLES`] under their whole names, with their offsets.
fn entries(table: &dyn TableLike) -> Vec<(String, usize, &Item)> {
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
