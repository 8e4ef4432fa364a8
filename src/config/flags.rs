//! The keys of a role as flags of its subcommand.

use std::{marker::PhantomData, path::PathBuf};

use clap::{Arg, ArgMatches, Command, FromArgMatches, builder::ValueParser};

use super::{
    keys::{KeySpec, Role},
    resolve::{Given, Inputs, Problem, Resolved, Source, resolve},
};

/// Flags of a role's keys, as they stood on the command line; `--config` with them.
///
/// Values stay text here: they are parsed where those of the file and the environment are, so that all
/// get the same check and the same message.
#[derive(Debug, Clone)]
pub struct Flags<R> {
    config: Option<PathBuf>,
    given: Vec<Given>,
    role: PhantomData<R>,
}

impl<R: Role> Flags<R> {
    /// No flags, and perhaps a file.
    pub fn none(config: Option<PathBuf>) -> Self {
        Self { config, given: Vec::new(), role: PhantomData }
    }

    /// The positional `argument` (as in `<URL>`) as the value of `key`.
    pub fn give(&mut self, key: &'static str, text: Option<String>, argument: &str) {
        self.given.extend(text.map(|text| Given { key, text, source: Source::Flag(argument.to_owned()) }));
    }

    /// The configuration with defaults, file and environment.
    pub fn resolve(self) -> Result<(R, Resolved), Vec<Problem>> {
        resolve(&Inputs::of_process(self.config, self.given))
    }
}

impl<R: Role> clap::Args for Flags<R> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(ValueParser::path_buf())
            .help("Configuration file in TOML [env: SPRINGHOUSE_CONFIG]")
            .long_help(format!(
                "Configuration file in TOML; the annotated sample is config/{}.toml. Flags override \
                 environment variables, which override the file, which overrides the defaults. \
                 [env: SPRINGHOUSE_CONFIG]",
                R::NAME
            ));
        let mut command = command.arg(config);
        for (title, specs) in R::groups() {
            command = command.args(specs.iter().map(|spec| argument::<R>(spec, title)));
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument<R: Role>(spec: &KeySpec, title: &'static str) -> Arg {
    let default = spec.default.map(|text| format!(" [default: {text}]")).unwrap_or_default();
    let details: Vec<_> = spec.details().collect();
    let mut long = spec.summary().to_owned();
    if !details.is_empty() {
        long = format!("{long}\n{}", details.join(" "));
    }
    let argument = Arg::new(spec.name)
        .long(spec.long())
        .value_name(spec.placeholder)
        .help_heading(title)
        .hide(spec.hidden)
        .hide_short_help(!R::MAIN.contains(&spec.name))
        .help(format!("{}{default}", spec.summary().trim_end_matches('.')))
        .long_help(format!("{long}\nGive {}.{default} [env: {}]", spec.allowed, spec.env()));
    if spec.switch {
        argument.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        argument
    }
}

impl<R: Role> FromArgMatches for Flags<R> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = R::specs()
            .iter()
            .filter_map(|spec| {
                let text = matches.get_one::<String>(spec.name)?.clone();
                Some(Given { key: spec.name, text, source: Source::Flag(spec.flag()) })
            })
            .collect();
        Ok(Self { config: matches.get_one::<PathBuf>("config").cloned(), given, role: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
