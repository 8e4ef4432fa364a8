//! Layers into one configuration: default < file < environment < flag. Every value keeps its source, and
//! every problem in every layer is found, not just the first.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    file,
    keys::{ENV_PREFIX, KeySpec, Role, TableSpec},
    roles,
    value::Value,
};

/// Names the configuration file when `--config` does not.
pub const CONFIG_ENV: &str = "SPRINGHOUSE_CONFIG";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A line of a file, counted from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag with its dashes, or an argument in angle brackets.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value as somebody gave it, before it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The key it is for.
    pub key: &'static str,
    /// What was given.
    pub text: String,
    /// By whom.
    pub source: Source,
}

/// One table of an array as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenTable {
    /// Which array.
    pub array: &'static str,
    /// Where it begins.
    pub source: Source,
    /// Its keys.
    pub given: Vec<Given>,
}

/// Something wrong with a configuration: where, what, and the remedy, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(pub String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that a configuration is made from. Taken from the process once, at its start.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `--config`, or else [`CONFIG_ENV`].
    pub file: Option<PathBuf>,
    /// All environment variables.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags that stood on the command line.
    pub flags: Vec<Given>,
}

impl Inputs {
    /// Of this process, with the flags that were parsed from its command line.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Given>) -> Self {
        let from_environment = || std::env::var_os(CONFIG_ENV).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self { file: file.or_else(from_environment), environment: std::env::vars_os().collect(), flags }
    }
}

/// The winning text of each key, canonical, with its source. Keys that nobody gave and that have no
/// default are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    values: BTreeMap<&'static str, (String, Source)>,
    /// The tables of each array in their order, and where each begins.
    tables: BTreeMap<&'static str, Vec<(Source, Resolved)>>,
}

impl Resolved {
    /// Text and source of `key`.
    pub fn lookup(&self, key: &str) -> Option<(&str, &Source)> {
        self.values.get(key).map(|(text, source)| (text.as_str(), source))
    }

    /// The tables of `array` in their order, and where each begins.
    pub fn tables(&self, array: &str) -> &[(Source, Resolved)] {
        self.tables.get(array).map(Vec::as_slice).unwrap_or_default()
    }

    /// The value of `key`.
    pub fn get<T: Value>(&self, key: &'static str) -> Result<T, Problem> {
        let absent = || Problem(format!("{key} is not set"));
        match self.values.get(key) {
            Some((text, source)) => {
                T::parse(text).map_err(|reason| Problem(format!("{source}: {key} {reason}")))
            }
            None => T::absent().ok_or_else(absent),
        }
    }
}

/// Resolves the configuration of a role, or says everything that is wrong with it.
pub fn resolve<R: Role>(inputs: &Inputs) -> Result<(R, Resolved), Vec<Problem>> {
    let (specs, arrays) = (R::specs(), R::tables());
    let mut problems = Vec::new();
    let (mut layers, mut tables) = (Vec::new(), Vec::new());
    if let Some(path) = &inputs.file {
        match file::read(path) {
            Ok(text) => {
                (layers, tables) = file::parse(R::NAME, &specs, &arrays, path, &text, &mut problems);
            }
            Err(problem) => problems.push(problem),
        }
    }
    layers.extend(environment(&specs, &inputs.environment, &mut problems));
    layers.extend(inputs.flags.iter().cloned());

    let mut resolved = merge(&specs, layers, &mut problems);
    resolved.tables = merge_tables(&arrays, tables, &mut problems);
    for spec in specs.iter().filter(|spec| spec.required && resolved.lookup(spec.name).is_none()) {
        // A bad value was reported already: "not set" would send the reader the wrong way.
        if problems.is_empty() {
            problems.push(missing(spec));
        }
    }
    if problems.is_empty() {
        problems = R::contradictions(&resolved);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    R::read(&resolved).map(|role| (role, resolved)).map_err(|problem| vec![problem])
}

/// Checks one file alone, without environment and flags; what is missing may come from those.
pub fn check_file<R: Role>(path: &Path) -> Vec<Problem> {
    let (specs, arrays) = (R::specs(), R::tables());
    let mut problems = Vec::new();
    match file::read(path) {
        Ok(text) => {
            let (given, tables) = file::parse(R::NAME, &specs, &arrays, path, &text, &mut problems);
            let mut resolved = merge(&specs, given, &mut problems);
            resolved.tables = merge_tables(&arrays, tables, &mut problems);
            if problems.is_empty() {
                problems = R::contradictions(&resolved);
            }
        }
        Err(problem) => problems.push(problem),
    }
    problems
}

/// The last value given for a key wins, so `given` is in the order of the layers. Losing values are
/// checked as well: they would win on a day when the other layer is absent.
fn merge(specs: &[KeySpec], given: Vec<Given>, problems: &mut Vec<Problem>) -> Resolved {
    merge_within("", specs, given, problems)
}

/// The same for keys that do not stand at the top; `within` says where, in messages.
fn merge_within(within: &str, specs: &[KeySpec], given: Vec<Given>, problems: &mut Vec<Problem>) -> Resolved {
    let mut resolved = Resolved::default();
    for spec in specs {
        if let Some(default) = spec.default {
            resolved.values.insert(spec.name, (default.to_owned(), Source::Default));
        }
    }
    for Given { key, text, source } in given {
        let Some(spec) = specs.iter().find(|spec| spec.name == key) else { continue };
        match (spec.check)(&text) {
            Ok(canonical) => {
                resolved.values.insert(spec.name, (canonical, source));
            }
            Err(reason) => problems.push(bad_value(within, spec, &text, &reason, &source)),
        }
    }
    resolved
}

/// Every table by itself: there is one layer, the file.
fn merge_tables(
    arrays: &[TableSpec],
    tables: Vec<GivenTable>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'static str, Vec<(Source, Resolved)>> {
    let mut merged: BTreeMap<_, Vec<(Source, Resolved)>> = BTreeMap::new();
    for GivenTable { array, source, given } in tables {
        let Some(spec) = arrays.iter().find(|spec| spec.name == array) else { continue };
        let rows = merged.entry(array).or_default();
        let name = given.iter().find(|given| given.key == "name").map(|given| given.text.as_str());
        let within = format!("{}: ", table_name(array, rows.len(), name));
        rows.push((source, merge_within(&within, &spec.specs, given, problems)));
    }
    merged
}

/// A table for people: `rule 2 ("crawls")`.
pub(crate) fn table_name(array: &str, index: usize, name: Option<&str>) -> String {
    let name = name.map(|name| format!(" ({name:?})")).unwrap_or_default();
    format!("{array} {}{name}", index + 1)
}

fn bad_value(within: &str, spec: &KeySpec, text: &str, reason: &str, source: &Source) -> Problem {
    let shown = if spec.secret { "its value".to_owned() } else { format!("{text:?}") };
    Problem(format!("{source}: {within}{}: {shown} {reason}; give {}", spec.name, spec.allowed))
}

fn missing(spec: &KeySpec) -> Problem {
    Problem(format!(
        "{} is not set: {}; give {}, {}=… or the key `{}` in the file of --config",
        spec.name,
        spec.summary().trim_end_matches('.'),
        spec.flag(),
        spec.env(),
        spec.name
    ))
}

fn environment(
    specs: &[KeySpec],
    variables: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|n| n.starts_with(ENV_PREFIX)) else { continue };
        if name == CONFIG_ENV || name == crate::failpoint::VARIABLE || is_service_link(name) {
            continue;
        }
        if let Some(spec) = specs.iter().find(|spec| spec.env() == name) {
            match value.to_str() {
                Some(text) => given.push(Given {
                    key: spec.name,
                    text: text.to_owned(),
                    source: Source::Environment(name.to_owned()),
                }),
                None => problems.push(Problem(format!("environment {name}: is not UTF-8"))),
            }
        } else if !roles::is_key_of_any_role(name) {
            // One environment may serve several roles, so another role's key is no mistake.
            let nearest = nearest(
                name,
                roles::all_names().map(|key| format!("{ENV_PREFIX}{}", key.to_ascii_uppercase())),
            );
            problems.push(Problem(format!(
                "environment {name}: no role has such a key; {}",
                advice(nearest, "unset it")
            )));
        }
    }
    given
}

/// Kubernetes puts `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT_6110_TCP_ADDR` and their like into every pod,
/// and a service may well be called "springhouse-…".
fn is_service_link(name: &str) -> bool {
    let after = |marker| name.split_once(marker).map(|(_, rest): (&str, &str)| rest);
    after("_SERVICE_HOST").is_some_and(str::is_empty)
        || after("_SERVICE_PORT").is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        || after("_PORT").is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix('_').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// The candidate most like `text`, if it is like it at all.
pub(crate) fn nearest(text: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(text, &candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

pub(crate) fn advice(nearest: Option<String>, otherwise: &str) -> String {
    nearest.map_or_else(|| otherwise.to_owned(), |name| format!("did you mean {name}?"))
}
