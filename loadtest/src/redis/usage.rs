//! What the keys of a server take in memory.

use std::collections::BTreeMap;

use super::{RedisError, Server};

/// Keys asked about together.
const TOGETHER: usize = 1000;

/// Keys of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Kind {
    /// How many.
    pub keys: u64,
    /// What they take by MEMORY USAGE: name, value and their place in the table of keys.
    pub bytes: u64,
}

impl Server {
    /// Memory of all keys that begin with `prefix`, by kind: what stands between the prefix and the hash tag, or the tag without its
    /// numbers where nothing does. Walks over all keys.
    ///
    /// # Errors
    /// It does not answer.
    pub fn usage(&self, prefix: &str) -> Result<BTreeMap<String, Kind>, RedisError> {
        let mut connection = self.connection()?;
        let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
        let mut cursor = 0u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(TOGETHER);
            let (next, keys): (u64, Vec<String>) = scan.query(&mut connection)?;
            let mut usage = redis::pipe();
            for key in &keys {
                usage.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0);
            }
            // One that went meanwhile has none.
            let bytes: Vec<Option<u64>> = if keys.is_empty() {
                Vec::new()
            } else {
                usage.query(&mut connection)?
            };
            for (key, bytes) in keys.iter().zip(bytes) {
                let kind = kinds.entry(kind_of(key.strip_prefix(prefix).unwrap_or(key))).or_default();
                kind.keys += u64::from(bytes.is_some());
                kind.bytes += bytes.unwrap_or(0);
            }
            cursor = next;
            if cursor == 0 {
                return Ok(kinds);
            }
        }
    }
}

/// `q{17}0:box` is `q`, `{t:0}log` is `t log`.
pub(super) fn kind_of(key: &str) -> String {
    match key.split_once('{') {
        Some(("", rest)) => {
            let (tag, name) = rest.split_once('}').unwrap_or((rest, ""));
            let tag = tag.split(':').next().unwrap_or(tag);
            format!("{tag} {}", name.trim_end_matches(|c: char| c.is_ascii_digit()))
                .trim_end()
                .to_owned()
        }
        Some((kind, _)) => kind.to_owned(),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_no_numbers_of_devices() {
        for (key, expected) in [
            ("q{17}0:box", "q"),
            ("i{17}0", "i"),
            ("{t:0}log", "t log"),
            ("{m:491234}", "m"),
            ("{r}nodes", "r nodes"),
            ("other", "other"),
        ] {
            assert_eq!(kind_of(key), expected, "{key}");
        }
    }
}
