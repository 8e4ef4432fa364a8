//! Keys as text for people: `config show`, the samples, the tables of `docs/CONFIGURATION.md`.

use std::fmt::Write as _;

use super::{
    keys::{KeySpec, Role, TableSpec},
    resolve::{Resolved, Source},
    roles::for_each_role,
};

/// The resolved configuration as TOML, with the source of each value after it. Secrets are not shown.
pub fn show<R: Role>(resolved: &Resolved) -> String {
    let mut out = String::new();
    for (title, specs) in R::groups() {
        let _ = writeln!(out, "{}# {title}", if out.is_empty() { "" } else { "\n" });
        for spec in specs.iter().filter(|spec| shown(spec, resolved)) {
            let _ = match resolved.lookup(spec.name) {
                Some((_, source)) if spec.secret => writeln!(out, "# {} = <set>  # {source}", spec.name),
                Some((text, source)) => {
                    writeln!(out, "{} = {}  # {source}", spec.name, spec.toml(text))
                }
                None => writeln!(out, "# {} =  # not set", spec.name),
            };
        }
    }
    // Last: whatever stands after the head of a table belongs to it.
    for table in R::tables() {
        let _ = writeln!(out, "\n# {}", table.title);
        for (source, row) in resolved.tables(table.name) {
            let _ = writeln!(out, "[[{}]]  # {source}", table.name);
            for spec in &table.specs {
                if let Some((text, source)) = row.lookup(spec.name) {
                    let _ = writeln!(out, "{} = {}  # {source}", spec.name, spec.toml(text));
                }
            }
        }
    }
    out
}

/// A hidden key only shows where somebody set it.
fn shown(spec: &KeySpec, resolved: &Resolved) -> bool {
    !spec.hidden || resolved.lookup(spec.name).is_some_and(|(_, source)| *source != Source::Default)
}

/// Widest line of a sample.
const SAMPLE_COLUMNS: usize = 100;

/// The annotated sample of a role: every key at its default, commented.
pub fn sample<R: Role>() -> String {
    let mut out = String::new();
    comment(&mut out, R::ABOUT);
    let _ = writeln!(out, "#\n#   springhouse {} --config {0}.toml\n#", R::NAME);
    comment(
        &mut out,
        &format!(
            "Every key stands here, commented, at its default. An environment variable overrides this file, \
             a flag overrides both. `springhouse config check {}.toml` says what is wrong with a file, \
             `springhouse config show {0}` what is in force and from where.",
            R::NAME
        ),
    );
    comment(
        &mut out,
        "Sizes: \"512MiB\" (MB is a million bytes). Times: \"250ms\", \"10s\", \"5m\", \"1h\".",
    );
    for (title, specs) in R::groups() {
        let _ = writeln!(out, "\n# ----- {title} -----");
        for spec in specs.iter().filter(|spec| !spec.hidden) {
            out.push('\n');
            comment(&mut out, spec.summary());
            comment(&mut out, &paragraph(spec));
            comment(&mut out, &format!("Value: {}. Given as {}.", spec.allowed, ways(spec)));
            let _ = match (spec.default, example(spec)) {
                (Some(default), _) => writeln!(out, "#{} = {}", spec.name, spec.toml(default)),
                (None, example) => {
                    let note = if spec.required { "must be given" } else { "not set by default" };
                    writeln!(out, "#{} = {}  # {note}", spec.name, spec.toml(example))
                }
            };
        }
    }
    for table in R::tables() {
        sample_table(&mut out, &table);
    }
    out
}

/// An array of tables in a sample: what it is, its keys, and examples.
fn sample_table(out: &mut String, table: &TableSpec) {
    let _ = writeln!(out, "\n# ----- {} -----\n", table.title);
    for line in table.about.lines() {
        comment(out, line);
    }
    let _ = writeln!(out, "# These come last in the file: what follows [[{}]] belongs to it.\n#", table.name);
    for spec in &table.specs {
        let default = spec.default.map(|text| format!(" Default {}.", spec.toml(text))).unwrap_or_default();
        let text = format!(
            "{}: {} {} Value: {}.{default}",
            spec.name,
            spec.summary(),
            paragraph(spec),
            spec.allowed
        );
        comment(out, &text);
    }
    for example in table.examples {
        let _ = writeln!(out, "\n#[[{}]]", table.name);
        for (key, text) in *example {
            if let Some(spec) = table.specs.iter().find(|spec| spec.name == *key) {
                let _ = writeln!(out, "#{key} = {}", spec.toml(text));
            }
        }
    }
}

/// A value for a key that has no default, as a reader might give it.
pub(crate) fn example(spec: &KeySpec) -> &'static str {
    match spec.name {
        "store" => "file:///srv/segments",
        "mount_point" => "/mnt/segments",
        "allow_other" => "true",
        "control_socket" => "/run/springhouse/mount.sock",
        "metrics_listen" => "127.0.0.1:6111",
        "log_file" => "/var/log/springhouse-mount.log",
        "data" => "/var/lib/springhouse",
        "cluster_secret" => "at-least-16-characters",
        "cluster_secret_file" => "/etc/springhouse/secret",
        "advertise" => "http://worker-1:6120",
        "query_threads" => "8",
        "worker_name" => "cold-1",
        "mounted_at" => "/mnt/segments",
        "hadoop_user" => "etl",
        "kerberos_principal" => "etl@EXAMPLE.ORG",
        "kerberos_keytab" => "/etc/springhouse/etl.keytab",
        "kerberos_cache" => "FILE:/run/springhouse/krb5cc",
        "hadoop_conf" => "/etc/hadoop/conf",
        "memory_blocks" => "256MiB",
        "memory_readahead" => "128MiB",
        "memory_pins" => "64MiB",
        "cache_dir" => "/var/cache/springhouse",
        "cache_size" => "10GiB",
        "entry_lifetime" | "attribute_lifetime" => "10s",
        "negative_lifetime" => "1s",
        "staging_dir" => "/var/lib/springhouse/staging",
        "identity" => "fixed",
        "replication" => "3",
        "quota" => "500GiB",
        "copy_bandwidth" => "50MiB",
        "zone" => "rack-7",
        "name" => "crawls",
        "prefix" => "crawl-2026-",
        "pattern" => "[0-9]{4}-(news|forum)",
        "older_than" => "1year",
        "copies_minimum" => "2",
        "copies_maximum" => "6",
        "ship_every" => "30s",
        "ship_pages" => "1000",
        "hdfs_block_size" => "128MiB",
        "trough_read" => "0.0.0.0:6444",
        "trough_write" => "0.0.0.0:6222",
        "trough_manager" => "0.0.0.0:6111",
        "trough_local" => "0.0.0.0:6112",
        "trough_host" => "trough.example.org",
        _ => "",
    }
}

/// The tables of all keys of a role, for `docs/CONFIGURATION.md`.
pub fn tables<R: Role>() -> String {
    let mut out = format!("### {}\n\n{}\n", R::NAME, R::ABOUT);
    for (title, specs) in R::groups() {
        let _ = write!(out, "\n**{title}**\n\n| key | default | what it is | value |\n|---|---|---|---|\n");
        for spec in specs.iter().filter(|spec| !spec.hidden) {
            table_row(&mut out, spec);
        }
    }
    for table in R::tables() {
        let about = table.about.replace('\n', " ");
        let head = "| key | default | what it is | value |\n|---|---|---|---|";
        let _ = writeln!(out, "\n**{}**, `[[{}]]`: {about}\n\n{head}", table.title, table.name);
        for spec in &table.specs {
            table_row(&mut out, spec);
        }
    }
    out
}

fn table_row(out: &mut String, spec: &KeySpec) {
    let default = match spec.default {
        Some(default) => format!("`{}`", spec.toml(default)),
        None if spec.required => "must be given".into(),
        None => "not set".into(),
    };
    let mut what = spec.summary().to_owned();
    let more = paragraph(spec);
    if !more.is_empty() {
        what = format!("{what} {more}");
    }
    let _ = writeln!(out, "| `{}` | {default} | {} | {} |", spec.name, cell(&what), cell(&spec.allowed));
}

/// The tables of all roles.
pub fn all_tables() -> String {
    for_each_role!(tables).join("\n")
}

fn paragraph(spec: &KeySpec) -> String {
    spec.details().collect::<Vec<_>>().join(" ")
}

fn ways(spec: &KeySpec) -> String {
    format!("{} or {}", spec.flag(), spec.env())
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// `text` as comment lines of at most [`SAMPLE_COLUMNS`].
fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.len() + 1 + word.len() > SAMPLE_COLUMNS {
            let _ = writeln!(out, "{line}");
            line = "#".into();
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        let _ = writeln!(out, "{line}");
    }
}
