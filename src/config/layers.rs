//! Defaults, file, environment and flags, laid over each other.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Deserialize;
use toml::{Table, Value};

use super::Config;

/// Names after `UNPOLL_` that are no settings: they belong to the commands that talk to a server.
const NOT_SETTINGS: [&str; 3] = ["UNPOLL_URL", "UNPOLL_KEY", "UNPOLL_PASSWORD"];

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(String),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {path}"),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

/// What is wrong with the settings. Each message names the setting and where its value comes from.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl ConfigError {
    fn one(message: String) -> Self {
        Self(vec![message])
    }
}

/// Settings on their way from their sources to a [`Config`].
pub struct Layers {
    defaults: Table,
    /// Dotted key to value, later layers over earlier ones.
    given: BTreeMap<String, (Value, Source)>,
    problems: Vec<String>,
}

impl Layers {
    /// The defaults alone.
    ///
    /// # Errors
    /// When a default cannot be written as TOML, which is a bug.
    pub fn new() -> Result<Self, ConfigError> {
        let defaults =
            Table::try_from(Config::default()).map_err(|error| ConfigError::one(format!("the defaults cannot be written: {error}")))?;
        Ok(Self {
            defaults,
            given: BTreeMap::new(),
            problems: Vec::new(),
        })
    }

    /// Lays a settings file over what is there.
    ///
    /// # Errors
    /// When the file cannot be read, or is not TOML. Unknown keys are told by [`Layers::build`].
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::one(format!(
                "the settings file {shown} cannot be read: {error}; correct the path after --config"
            ))
        })?;
        self.text(&text, &shown.to_string())
    }

    /// The same for text that was read already; `name` says in messages where it comes from.
    ///
    /// # Errors
    /// When the text is not TOML.
    pub fn text(&mut self, text: &str, name: &str) -> Result<(), ConfigError> {
        let table: Table = text
            .parse()
            .map_err(|error| ConfigError::one(format!("the settings file {name} is not TOML: {error}")))?;
        let mut found = Vec::new();
        leaves(&table, "", &mut found);
        for (key, value) in found {
            self.set(key, value, Source::File(name.to_owned()));
        }
        Ok(())
    }

    /// Lays the variables that start with `UNPOLL_` over what is there.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let names: BTreeMap<String, String> = self.keys().into_iter().map(|key| (variable(&key), key)).collect();
        for (name, text) in variables {
            if !name.starts_with("UNPOLL_") || NOT_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            match names.get(&name) {
                Some(key) => self.set_text(key.clone(), &text, Source::Environment(name)),
                None => {
                    let hint = nearest(&name, names.keys()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
                    self.problems.push(format!("the environment variable {name} is no setting{hint}"));
                }
            }
        }
    }

    /// Lays the value of a flag, such as `--http`, over what is there.
    pub fn flag(&mut self, flag: &str, key: &str, text: &str) {
        self.set_text(key.to_owned(), text, Source::Flag(flag.to_owned()));
    }

    /// The settings, checked for names, types and ranges; [`Config::validate`] checks how they fit together.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn build(mut self) -> Result<Config, ConfigError> {
        if self.problems.is_empty() {
            let mut table = self.defaults.clone();
            for (key, (value, _)) in &self.given {
                put(&mut table, key, value.clone());
            }
            match Config::deserialize(Value::Table(table)) {
                Ok(config) => return Ok(config),
                Err(error) => self.find_culprits(&error),
            }
        }
        Err(ConfigError(self.problems))
    }

    /// A value that deserializing refuses (a range, an address) is found by trying each alone.
    fn find_culprits(&mut self, whole: &toml::de::Error) {
        for (key, (value, source)) in &self.given {
            let mut table = self.defaults.clone();
            put(&mut table, key, value.clone());
            if let Err(error) = Config::deserialize(Value::Table(table)) {
                self.problems
                    .push(format!("{key} = {value}, from {source}, is not valid: {}", error.message()));
            }
        }
        if self.problems.is_empty() {
            self.problems.push(format!("the settings are not valid: {}", whole.message()));
        }
    }

    /// Every key there is, dotted.
    fn keys(&self) -> Vec<String> {
        let mut found = Vec::new();
        leaves(&self.defaults, "", &mut found);
        found.into_iter().map(|(key, _)| key).collect()
    }

    fn set(&mut self, key: String, value: Value, source: Source) {
        let Some(default) = get(&self.defaults, &key) else {
            let keys = self.keys();
            let hint = nearest(&key, keys.iter()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
            self.problems.push(format!("{key}, from {source}, is no setting{hint}"));
            return;
        };
        let value = match (default, value) {
            (Value::Float(_), Value::Integer(number)) => Value::Float(number as f64),
            (_, value) => value,
        };
        if default.same_type(&value) {
            self.given.insert(key, (value, source));
        } else {
            self.problems.push(format!(
                "{key} = {value}, from {source}, is of type {}; it must be of type {}",
                value.type_str(),
                default.type_str()
            ));
        }
    }

    /// The default's type says how to read the text.
    fn set_text(&mut self, key: String, text: &str, source: Source) {
        let value = match get(&self.defaults, &key) {
            Some(Value::String(_)) | None => Some(Value::String(text.to_owned())),
            Some(_) => format!("value = {text}")
                .parse::<Table>()
                .ok()
                .and_then(|mut table| table.remove("value")),
        };
        match value {
            Some(value) => self.set(key, value, source),
            None => {
                let wanted = get(&self.defaults, &key).map_or("string", Value::type_str);
                self.problems
                    .push(format!("{key} = {text:?}, from {source}, is not of type {wanted}"));
            }
        }
    }
}

/// The environment variable of a dotted key.
pub(super) fn variable(key: &str) -> String {
    format!("UNPOLL_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// All values under `table` with their dotted keys.
pub(super) fn leaves(table: &Table, prefix: &str, found: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Table(inner) => leaves(inner, &key, found),
            value => found.push((key, value.clone())),
        }
    }
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((head, rest)) => get(table.get(head)?.as_table()?, rest),
        None => table.get(key).filter(|value| !value.is_table()),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((head, rest)) => {
            if let Some(inner) = table.get_mut(head).and_then(Value::as_table_mut) {
                put(inner, rest, value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

/// The known name that a typo is closest to, if it is close.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(steps, _)| *steps <= 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, removals and changes from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((b, above), diagonal) in to.chars().zip(row.iter().skip(1)).zip(row.iter()) {
            let left = next.last().copied().unwrap_or(0);
            next.push((diagonal + usize::from(a != b)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
