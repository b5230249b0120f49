//! The log: lines on stderr, for people or for machines.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How the log looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `text` or `json` (one object a line). Default: `text`.
    pub format: Format,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,unpoll::xmpp=debug`. Default: `info`.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Text,
            level: "info".to_owned(),
        }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `[log] level` is no filter.
    #[error(
        "[log] level {level:?} is not valid: {error}; write error, warn, info, debug or trace, or directives such as info,unpoll::xmpp=debug"
    )]
    Level {
        /// What it says.
        level: String,
        /// What is wrong.
        error: tracing_subscriber::filter::ParseError,
    },
    /// The process logs already.
    #[error("the log was started twice")]
    Twice,
}

impl Config {
    /// The filter that `level` names.
    ///
    /// # Errors
    /// It names none.
    pub fn filter(&self) -> Result<EnvFilter, LogError> {
        EnvFilter::builder().parse(&self.level).map_err(|error| LogError::Level {
            level: self.level.clone(),
            error,
        })
    }
}

/// Starts logging to stderr, for the whole process.
///
/// # Errors
/// The level is not valid, or logging was started before.
pub fn init_logging(config: &Config) -> Result<(), LogError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(config.filter()?)
        .with_writer(std::io::stderr);
    let started = match config.format {
        Format::Text => {
            let in_color = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(in_color).with_target(false).try_init()
        }
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|_| LogError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_directives() {
        let check = |level: &str, expected: bool| {
            let config = Config {
                level: level.to_owned(),
                ..Config::default()
            };
            assert_eq!(config.filter().is_ok(), expected, "{level}");
        };
        check("info", true);
        check("warn,unpoll::xmpp=trace", true);
        check("unpoll=loud", false);
        check("unpoll::xmpp=debug=info", false);
    }

    #[test]
    fn settings_read_as_written() {
        let config: Config = serde_json::from_str(r#"{"format":"json"}"#).expect("settings");
        assert_eq!((config.format, config.level.as_str()), (Format::Json, "info"));
        assert!(serde_json::from_str::<Config>(r#"{"colour":true}"#).is_err());
    }
}
