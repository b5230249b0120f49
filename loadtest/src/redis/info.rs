//! What a server says of itself, read at one moment.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::{RedisError, Server};

/// All sections of INFO.
#[derive(Debug, Clone, Default)]
pub struct Info(HashMap<String, String>);

/// What one command cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Command {
    /// How often it ran.
    pub calls: f64,
    /// How long it ran, microseconds; within a script, it counts for the script, too.
    pub micros: f64,
}

impl Info {
    /// Asks a server.
    ///
    /// # Errors
    /// It does not answer.
    pub fn of(server: &Server) -> Result<Self, RedisError> {
        Ok(Self::read(&server.query::<String>(&["INFO", "all"])?))
    }

    fn read(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.trim().split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A field that is a number; 0 where it is none.
    pub fn number(&self, field: &str) -> f64 {
        self.0.get(field).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    /// User and system time of the server, without that of the children that rewrite its files.
    pub fn cpu(&self) -> Duration {
        Duration::from_secs_f64(self.number("used_cpu_user").max(0.0) + self.number("used_cpu_sys").max(0.0))
    }

    /// Memory in use but for what belongs to connections, to the append-only file's buffer and to replication.
    pub fn memory(&self) -> f64 {
        let apart = [
            "mem_clients_normal",
            "mem_clients_slaves",
            "mem_aof_buffer",
            "mem_replication_backlog",
        ];
        self.number("used_memory") - apart.iter().map(|field| self.number(field)).sum::<f64>()
    }

    /// What each command cost since the server started.
    pub fn commands(&self) -> BTreeMap<String, Command> {
        let of = |value: &str, name: &str| {
            let parts = value.split(',').filter_map(|part| part.split_once('='));
            parts
                .filter(|(part, _)| *part == name)
                .find_map(|(_, number)| number.parse().ok())
                .unwrap_or(0.0)
        };
        let commands = self
            .0
            .iter()
            .filter_map(|(field, value)| Some((field.strip_prefix("cmdstat_")?, value)));
        commands
            .map(|(name, value)| {
                let (calls, micros) = (of(value, "calls"), of(value, "usec"));
                (name.to_owned(), Command { calls, micros })
            })
            .collect()
    }

    /// What each command cost since `before`; those that did not run are left out.
    pub fn commands_since(&self, before: &Self) -> BTreeMap<String, Command> {
        let before = before.commands();
        let mut commands = self.commands();
        for (name, command) in &mut commands {
            let was = before.get(name).copied().unwrap_or_default();
            command.calls -= was.calls;
            command.micros -= was.micros;
        }
        commands.retain(|_, command| command.calls > 0.0);
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_times_and_commands_are_read() {
        let before = Info::read("# CPU\r\nused_cpu_sys:0.5\r\nused_cpu_user:1.25\r\ncmdstat_get:calls=2,usec=5,usec_per_call=2.50\r\n");
        let after = Info::read(
            "used_memory:5000\r\nmem_clients_normal:1000\r\nmem_aof_buffer:500\r\ncmdstat_get:calls=2,usec=5,usec_per_call=2.50\r\n\
             cmdstat_config|get:calls=3,usec=9,usec_per_call=3.00,rejected_calls=0,failed_calls=0\r\n",
        );
        assert_eq!(before.cpu(), Duration::from_millis(1750));
        assert_eq!(after.memory(), 3500.0);
        let commands = after.commands_since(&before);
        assert_eq!(commands.len(), 1, "{commands:?}");
        assert_eq!(commands["config|get"], Command { calls: 3.0, micros: 9.0 });
    }
}
