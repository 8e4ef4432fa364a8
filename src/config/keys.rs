//! Keys: each is defined once, with [`keys!`]. Flags, environment names, file keys, `config show`, the
//! samples and the tables in the documents all come from that definition.

use super::{
    resolve::{Problem, Resolved},
    value::Value,
};

/// What every key of every role has: the definition with its type erased.
#[derive(Debug, Clone)]
pub struct KeySpec {
    /// In a file: `cache_size`.
    pub name: &'static str,
    /// The lines of its documentation: one line that says what it is, then, after an empty line, when to
    /// change it.
    pub doc: &'static [&'static str],
    /// Stands for the value in help.
    pub placeholder: &'static str,
    /// What may be given.
    pub allowed: String,
    /// The value when nobody gives one.
    pub default: Option<&'static str>,
    /// Whether somebody must give one.
    pub required: bool,
    /// Whether TOML writes it without quotes.
    pub bare: bool,
    /// Whether a flag without a value means `true`.
    pub switch: bool,
    /// Whether it is never printed.
    pub secret: bool,
    /// Whether help, samples and documents leave it out.
    pub hidden: bool,
    /// The value's canonical text, or what is wrong with it.
    pub check: fn(&str) -> Result<String, String>,
}

impl KeySpec {
    /// The definition of a key of type `T`.
    pub fn of<T: Value>(
        name: &'static str,
        doc: &'static [&'static str],
        default: Option<&'static str>,
    ) -> Self {
        Self {
            name,
            doc,
            placeholder: T::PLACEHOLDER.trim_end_matches('|'),
            allowed: T::allowed(),
            default,
            required: default.is_none() && T::absent().is_none(),
            bare: T::BARE,
            switch: T::SWITCH,
            secret: T::SECRET,
            hidden: T::HIDDEN,
            check: |text| T::parse(text).map(|value| value.text()),
        }
    }

    /// The flag with its dashes: `--cache-size`.
    pub fn flag(&self) -> String {
        format!("--{}", self.long())
    }

    /// The flag without its dashes.
    pub fn long(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable: `SPRINGHOUSE_CACHE_SIZE`.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// What it is, in one line.
    pub fn summary(&self) -> &'static str {
        self.doc.first().map_or("", |line| line.trim())
    }

    /// When to change it and what else there is to know: lines, perhaps none.
    pub fn details(&self) -> impl Iterator<Item = &'static str> {
        self.doc.iter().skip(1).map(|line| line.trim()).skip_while(|line| line.is_empty())
    }

    /// `value` as TOML writes it.
    pub fn toml(&self, value: &str) -> String {
        if self.bare { value.to_owned() } else { toml_edit::Value::from(value).to_string() }
    }
}

/// Every environment variable of Springhouse begins so.
pub const ENV_PREFIX: &str = "SPRINGHOUSE_";

/// An array of tables in the file, `[[name]]`: keys that may be given any number of times, in an order that
/// counts. Only in a file: neither flags nor environment variables have an order.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// In a file: `rule`.
    pub name: &'static str,
    /// Heading in the documents.
    pub title: &'static str,
    /// What such a table is, for documents and samples: lines.
    pub about: &'static str,
    /// Keys of one table.
    pub specs: Vec<KeySpec>,
    /// A few tables as a reader might give them: keys, and values as text.
    pub examples: &'static [&'static [(&'static str, &'static str)]],
}

/// Some keys that belong together: a heading in the documents, a struct in the program.
pub trait Group: Sized {
    /// Heading of the group.
    const TITLE: &'static str;

    /// Its keys, in the order of the documents.
    fn specs() -> Vec<KeySpec>;

    /// The array of tables that it is made of, if it is.
    fn table() -> Option<TableSpec> {
        None
    }

    /// Its values.
    fn read(resolved: &Resolved) -> Result<Self, Problem>;

    /// Whether values that are good each by itself contradict each other. A group where they can has a
    /// method of its own of this name, which goes before this one.
    fn check(&self) -> Result<(), Problem> {
        Ok(())
    }

    /// The same where all of the configuration has to be seen, and all that is wrong is told.
    fn check_within(&self, _: &Resolved) -> Vec<Problem> {
        Vec::new()
    }
}

/// A program that has a configuration file.
pub trait Role: Sized {
    /// `mount`, `worker`, `gateway` or `serve`.
    const NAME: &'static str;
    /// What the role is, for the head of its sample: a few lines.
    const ABOUT: &'static str;
    /// The keys that a newcomer meets: those that `-h` shows; `--help` shows all.
    const MAIN: &'static [&'static str];

    /// Groups with their headings, in the order of the documents.
    fn groups() -> Vec<(&'static str, Vec<KeySpec>)>;

    /// Its values.
    fn read(resolved: &Resolved) -> Result<Self, Problem>;

    /// What contradicts what; groups that lack a required key are left out.
    fn contradictions(resolved: &Resolved) -> Vec<Problem>;

    /// Its arrays of tables.
    fn tables() -> Vec<TableSpec>;

    /// All keys that stand at the top.
    fn specs() -> Vec<KeySpec> {
        Self::groups().into_iter().flat_map(|(_, specs)| specs).collect()
    }
}

/// Defines a [`Group`]. A key without a default is required unless its type is an `Option`.
macro_rules! keys {
    (
        $title:literal
        $(#[$meta:meta])*
        pub struct $group:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty $(= $default:literal)?, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $group { $( $(#[doc = $doc])+ pub $key: $type, )+ }

        impl $crate::config::keys::Group for $group {
            const TITLE: &'static str = $title;

            fn specs() -> Vec<$crate::config::keys::KeySpec> {
                vec![$(
                    $crate::config::keys::KeySpec::of::<$type>(
                        stringify!($key),
                        &[$($doc),+],
                        $crate::config::keys::keys!(@default $($default)?),
                    ),
                )+]
            }

            fn read(
                resolved: &$crate::config::resolve::Resolved,
            ) -> Result<Self, $crate::config::resolve::Problem> {
                Ok(Self { $( $key: resolved.get(stringify!($key))?, )+ })
            }
        }
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}

/// Defines a [`Role`] from groups.
macro_rules! role {
    (
        $name:literal, $about:literal, [$($main:ident),*]
        $(#[$meta:meta])*
        pub struct $role:ident { $( $(#[$fmeta:meta])* $field:ident: $group:ty, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $role { $( $(#[$fmeta])* pub $field: $group, )+ }

        impl $crate::config::keys::Role for $role {
            const NAME: &'static str = $name;
            const ABOUT: &'static str = $about;
            const MAIN: &'static [&'static str] = &[$(stringify!($main)),*];

            fn groups() -> Vec<(&'static str, Vec<$crate::config::keys::KeySpec>)> {
                use $crate::config::keys::Group;
                let groups = [$( (<$group>::TITLE, <$group>::specs()), )+];
                groups.into_iter().filter(|(_, specs)| !specs.is_empty()).collect()
            }

            fn tables() -> Vec<$crate::config::keys::TableSpec> {
                use $crate::config::keys::Group;
                [$( <$group>::table(), )+].into_iter().flatten().collect()
            }

            fn read(
                resolved: &$crate::config::resolve::Resolved,
            ) -> Result<Self, $crate::config::resolve::Problem> {
                use $crate::config::keys::Group;
                Ok(Self { $( $field: <$group>::read(resolved)?, )+ })
            }

            fn contradictions(
                resolved: &$crate::config::resolve::Resolved,
            ) -> Vec<$crate::config::resolve::Problem> {
                use $crate::config::keys::Group;
                let mut problems = Vec::new();
                $( if let Ok(group) = <$group>::read(resolved) {
                    problems.extend(group.check().err());
                    problems.extend(group.check_within(resolved));
                } )+
                problems
            }
        }
    };
}

pub(crate) use {keys, role};
