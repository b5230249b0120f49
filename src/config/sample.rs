//! A settings file with every setting at its default, each under its documentation.

use std::fmt::Write;

use toml::{Table, Value};

use super::{Config, layers};

/// Where the documentation of each section stands: the section ("" is the top), the source, and the struct in it.
const DOCUMENTED: [(&str, &str, &str); 23] = [
    ("", include_str!("../config.rs"), "Config"),
    ("http", include_str!("../http/mod.rs"), "Config"),
    ("https", include_str!("../config.rs"), "Listen"),
    ("admin", include_str!("../config.rs"), "Listen"),
    ("xmpp", include_str!("../gateway/config.rs"), "Config"),
    ("poll", include_str!("../gateway/poll/config.rs"), "Config"),
    ("store", include_str!("../store/embedded/mod.rs"), "Config"),
    ("redis", include_str!("../store/redis/config.rs"), "Config"),
    ("cluster", include_str!("../cluster/config.rs"), "Config"),
    ("tls", include_str!("../tls/config.rs"), "Config"),
    ("tokens", include_str!("../tokens/config.rs"), "Config"),
    ("jwt", include_str!("../tokens/backend.rs"), "BackendConfig"),
    ("limits", include_str!("../domain/limits.rs"), "Limits"),
    ("ingress", include_str!("../ingress/mod.rs"), "Config"),
    ("rates", include_str!("../ingress/rates.rs"), "Config"),
    ("shed", include_str!("../http/shed.rs"), "Config"),
    ("presence", include_str!("../presence/config.rs"), "Config"),
    ("receipts", include_str!("../receipts/config.rs"), "Config"),
    ("webhooks", include_str!("../webhooks/config.rs"), "Config"),
    ("registry", include_str!("../registry/mod.rs"), "Config"),
    ("dispatch", include_str!("../dispatch/config.rs"), "Config"),
    ("ledger", include_str!("../ledger/config.rs"), "Config"),
    ("log", include_str!("../telemetry/log.rs"), "Config"),
];

impl Config {
    /// The sample: TOML with every setting, commented out, under its documentation.
    pub fn sample() -> String {
        let Ok(defaults) = Table::try_from(Self::default()) else {
            return String::new();
        };
        let mut text = String::from("# Every setting of unpoll with its default. Each can be set by a variable of the environment, too.\n");
        let (tables, top): (Vec<_>, Vec<_>) = defaults.iter().partition(|(_, value)| value.is_table());
        for (key, value) in top {
            setting(&mut text, "", key, value);
        }
        for (section, value) in tables {
            let about = doc("", section).map_or_else(String::new, |doc| format!("# {doc}\n"));
            let _ = write!(text, "\n{about}[{section}]\n");
            for (key, value) in value.as_table().into_iter().flatten() {
                setting(&mut text, section, key, value);
            }
        }
        text
    }
}

fn setting(text: &mut String, section: &str, key: &str, value: &Value) {
    let dotted = if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    };
    let about = doc(section, key).unwrap_or_default();
    let _ = write!(
        text,
        "\n# {about}\n# Environment: {}\n# {key} = {value}\n",
        layers::variable(&dotted)
    );
}

/// The doc comment of a field, in one line.
fn doc(section: &str, field: &str) -> Option<String> {
    let (_, source, name) = DOCUMENTED.iter().find(|(documented, ..)| *documented == section)?;
    let (_, body) = source.split_once(&format!("pub struct {name} {{"))?;
    let mut lines = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            lines.push(text.trim());
        } else if line.starts_with(&format!("pub {field}:")) {
            return Some(lines.join(" "));
        } else if line == "}" {
            return None;
        } else if !line.starts_with("#[") {
            lines.clear();
        }
    }
    None
}
