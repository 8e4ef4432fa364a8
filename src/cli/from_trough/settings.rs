//! Trough's settings as they stand in its file.

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    /// A text, which may be a Python lambda.
    Text(String),
    /// A whole number.
    Number(i64),
    /// True or false; as Trough's YAML has them, `yes` and `off` too.
    Truth(bool),
    /// Texts.
    List(Vec<String>),
    /// `None`: as if it did not stand there.
    Nothing,
    /// What no setting of Trough is.
    Strange,
}

impl Setting {
    /// As text, for a person.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Truth(truth) => truth.to_string(),
            Self::List(list) => list.join(", "),
            Self::Nothing => "null".into(),
            Self::Strange => "something else".into(),
        }
    }
}

/// All of a file, in its order.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings(Vec<(String, usize, Setting)>);

impl Settings {
    /// Reads YAML.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let documents = MarkedYaml::load_from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
        let [document] = documents.as_slice() else {
            return if documents.is_empty() {
                Ok(Self::default())
            } else {
                Err("holds several YAML documents; Trough reads one".into())
            };
        };
        let mapping = match &document.data {
            YamlData::Mapping(mapping) => mapping,
            // Comments alone.
            YamlData::Value(Scalar::Null) => return Ok(Self::default()),
            _ => return Err("holds no settings: a line of them is NAME: value".into()),
        };
        let entries = mapping.iter().map(|(key, value)| {
            let name = match &key.data {
                YamlData::Value(Scalar::String(name)) => name.to_string(),
                other => format!("{other:?}"),
            };
            (name, key.span.start.line(), setting(value))
        });
        Ok(Self(entries.collect()))
    }

    /// The setting, unless it is not there or null.
    pub(super) fn get(&self, name: &str) -> Option<&Setting> {
        let found = self.0.iter().find(|(found, ..)| found == name).map(|(_, _, setting)| setting);
        found.filter(|setting| **setting != Setting::Nothing)
    }

    /// Names with their lines.
    pub(super) fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().map(|(name, line, _)| (*line, name.as_str()))
    }
}

fn setting(node: &MarkedYaml<'_>) -> Setting {
    match &node.data {
        YamlData::Value(Scalar::Null) => Setting::Nothing,
        YamlData::Value(Scalar::Boolean(truth)) => Setting::Truth(*truth),
        YamlData::Value(Scalar::Integer(number)) => Setting::Number(*number),
        // Trough's YAML is the older one: these are true and false there.
        YamlData::Value(Scalar::String(text)) => match &*text.to_ascii_lowercase() {
            "yes" | "on" => Setting::Truth(true),
            "no" | "off" => Setting::Truth(false),
            _ => Setting::Text(text.to_string()),
        },
        YamlData::Sequence(nodes) => Setting::List(nodes.iter().map(|node| setting(node).shown()).collect()),
        _ => Setting::Strange,
    }
}
