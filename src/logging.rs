//! The log: to standard error, so that standard output stays for answers.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

use crate::{
    config::{
        groups::{LogFormat, LogKeys},
        value::Value,
    },
    error::{Exit, Failure},
};

/// Which log lines are wanted: a level for all, or levels by module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    fn filter(text: &str) -> Result<EnvFilter, String> {
        EnvFilter::builder().parse(text).map_err(|error| format!("is no filter ({error})"))
    }
}

impl Value for LogFilter {
    const PLACEHOLDER: &'static str = "FILTER";

    fn parse(text: &str) -> Result<Self, String> {
        // The filter's parser panics on some other texts (tracing-subscriber 0.3.23).
        if text.is_empty() || !text.is_ascii() {
            return Err("is no filter".into());
        }
        // The filter's grammar takes any single word as a module's name: "inof" would silence everything.
        let level = ["off", "error", "warn", "info", "debug", "trace"];
        if let Some(word) = text.split(',').map(str::trim).find(|part| !part.contains(['=', '[']))
            && !level.contains(&word.to_ascii_lowercase().as_str())
        {
            return Err(format!("has no level {word:?}"));
        }
        Self::filter(text).map(|_| Self(text.into()))
    }
    fn text(&self) -> String {
        self.0.clone()
    }
    fn allowed() -> String {
        "off, error, warn, info, debug or trace, and MODULE=LEVEL after commas".into()
    }
}

/// Starts logging as `keys` say. Once in a process.
pub fn init(keys: &LogKeys) -> Result<(), Failure> {
    let bad = |reason: String| Failure::new(Exit::Usage, format!("log: {reason}"));
    let filter = LogFilter::filter(&keys.log.0).map_err(bad)?;
    // Whoever read standard error may be gone: no reason to panic, which the subscriber would do when it
    // tells standard error of it.
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let installed = match keys.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    installed.map_err(|error| bad(error.to_string()))?;
    let _ = IN_FORCE
        .set([("SPRINGHOUSE_LOG", keys.log.text()), ("SPRINGHOUSE_LOG_FORMAT", keys.log_format.text())]);
    Ok(())
}

static IN_FORCE: OnceLock<[(&str, String); 2]> = OnceLock::new();

/// The environment that makes a child process log as this one does; nothing before [`init`].
pub fn environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    IN_FORCE.get().into_iter().flatten().map(|(name, value)| (*name, value.as_str()))
}
