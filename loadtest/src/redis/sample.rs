//! Single calls of a server, taken from its SLOWLOG: INFO knows the time of all scripts together only.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{RedisError, Server};

/// Calls of one sample; the newest are kept.
const CALLS_MAX: usize = 10_000;

/// Calls of the same script, or of the same command.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Calls {
    /// Times in microseconds, shortest first.
    pub micros: Vec<u64>,
    /// Kinds of the keys that a script was given, as in [`Server::usage`].
    pub keys: BTreeSet<String>,
}

impl Calls {
    /// The time that half of the calls did not need: one that lost its core for a while does not move it.
    pub fn median(&self) -> u64 {
        self.micros.get(self.micros.len() / 2).copied().unwrap_or(0)
    }
}

impl Server {
    /// From now on calls are kept, which makes each a little dearer.
    ///
    /// # Errors
    /// It does not answer.
    pub fn begin_sample(&self) -> Result<(), RedisError> {
        self.query::<()>(&["CONFIG", "SET", "slowlog-max-len", &CALLS_MAX.to_string()])?;
        self.query::<()>(&["SLOWLOG", "RESET"])?;
        self.query::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"])
    }

    /// The calls since [`Server::begin_sample`], by command; scripts by the first digits of their hash. `prefix` is what keys begin with.
    ///
    /// # Errors
    /// It does not answer.
    pub fn end_sample(&self, prefix: &str) -> Result<BTreeMap<String, Calls>, RedisError> {
        self.query::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"])?;
        let mut connection = self.connection()?;
        // Thousands of calls with their arguments are a long answer.
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let rows: Vec<Vec<redis::Value>> = redis::cmd("SLOWLOG").arg("GET").arg("-1").query(&mut connection)?;
        let mut calls: BTreeMap<String, Calls> = BTreeMap::new();
        for row in rows {
            // An id, a time, microseconds, the words of the command; then the client, of no interest.
            let row = redis::Value::Array(row.into_iter().take(4).collect());
            let row: (i64, i64, u64, Vec<Vec<u8>>) = redis::from_redis_value(row).map_err(redis::RedisError::from)?;
            let (_, _, micros, words) = row;
            let words: Vec<String> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            let [command, rest @ ..] = words.as_slice() else { continue };
            let mut name = command.to_lowercase();
            let script = (name == "fcall").then(|| rest.first()).flatten();
            if let Some(function) = script {
                name = format!("fcall {function}");
            }
            let entry = calls.entry(name).or_default();
            entry.micros.push(micros);
            if script.is_some() {
                let keys = rest.iter().filter_map(|word| word.strip_prefix(prefix));
                entry.keys.extend(keys.map(super::usage::kind_of));
            }
        }
        calls.values_mut().for_each(|calls| calls.micros.sort_unstable());
        Ok(calls)
    }
}
