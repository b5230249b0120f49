//! What an event, or whatever else a run counts, cost the nodes and Redis.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use loadtest::{
    Error,
    redis::{Calls, Command, Info},
};
use serde::Serialize;

use super::service::Service;

/// Microseconds of it for each of so many.
pub fn per(used: Duration, count: f64) -> f64 {
    used.as_secs_f64() * 1e6 / count.max(1.0)
}

#[derive(Serialize)]
pub struct NodesCpu {
    pub all_us: f64,
    pub each_us: Vec<f64>,
}

/// What an event cost Redis.
#[derive(Serialize)]
pub struct RedisCost {
    pub cpu_us_per_event: f64,
    pub aof_bytes_per_event: f64,
    pub input_bytes_per_event: f64,
    pub output_bytes_per_event: f64,
    pub replication_bytes_per_event: f64,
    /// Times that it read from a connection: the fewer, the more commands came together.
    pub reads_per_event: f64,
    /// By the name of the command, dearest first.
    pub commands: Vec<CommandCost>,
}

#[derive(Serialize)]
pub struct CommandCost {
    pub name: String,
    pub calls_per_event: f64,
    pub us_per_call: f64,
    /// Within a script, it counts for the script, too.
    pub us_per_event: f64,
}

impl RedisCost {
    /// Between these two moments, for so many events.
    pub fn between(from: &Info, to: &Info, events: f64) -> Self {
        let events = events.max(1.0);
        let grown = |field: &str| (to.number(field) - from.number(field)) / events;
        let commands = to.commands_since(from).into_iter();
        let mut commands: Vec<CommandCost> = commands
            .map(|(name, cost)| CommandCost {
                name,
                calls_per_event: cost.calls / events,
                us_per_call: cost.micros / cost.calls,
                us_per_event: cost.micros / events,
            })
            .collect();
        commands.sort_by(|a, b| b.us_per_event.total_cmp(&a.us_per_event));
        Self {
            cpu_us_per_event: per(to.cpu().saturating_sub(from.cpu()), events),
            aof_bytes_per_event: grown("aof_current_size"),
            input_bytes_per_event: grown("total_net_input_bytes"),
            output_bytes_per_event: grown("total_net_output_bytes"),
            replication_bytes_per_event: grown("total_net_repl_output_bytes"),
            reads_per_event: grown("total_reads_processed"),
            commands,
        }
    }

    /// Prints the commands that cost anything, a line each that begins so; `each` is what they are counted for.
    pub fn print_commands(&self, begin: &str, each: &str) {
        for command in self.commands.iter().filter(|command| command.us_per_event >= 0.05) {
            println!(
                "{begin}{:<14} {:>7.3} {each} × {:>6.2} µs = {:>6.2} µs",
                command.name, command.calls_per_event, command.us_per_call, command.us_per_event
            );
        }
    }
}

/// Calls of one script, or of one other command, as sampled.
#[derive(Serialize)]
pub struct Sampled {
    pub name: String,
    pub keys: BTreeSet<String>,
    pub calls_per_event: f64,
    pub median_us: u64,
}

impl Sampled {
    /// Of this sample; `commands` are all that ran meanwhile, because a sample may hold a part only.
    pub fn of(sample: BTreeMap<String, Calls>, commands: &BTreeMap<String, Command>, events: f64) -> Vec<Self> {
        let command_of = |name: &str| name.split(' ').next().unwrap_or(name).to_owned();
        let mut sampled: BTreeMap<String, usize> = BTreeMap::new();
        for (name, calls) in &sample {
            *sampled.entry(command_of(name)).or_default() += calls.micros.len();
        }
        let all = |name: &str| commands.get(&command_of(name)).map_or(0.0, |command| command.calls);
        let mut rows: Vec<Self> = sample
            .into_iter()
            .map(|(name, calls)| Self {
                calls_per_event: all(&name) / events.max(1.0) * calls.micros.len() as f64
                    / sampled.get(&command_of(&name)).map_or(1, |sampled| *sampled).max(1) as f64,
                median_us: calls.median(),
                keys: calls.keys,
                name,
            })
            .collect();
        rows.sort_by(|a, b| (b.calls_per_event * b.median_us as f64).total_cmp(&(a.calls_per_event * a.median_us as f64)));
        rows
    }

    /// Prints a line that begins so.
    pub fn print(&self, begin: &str) {
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        println!(
            "{begin}{:<17} {:>7.3} an event × {:>3} µs (median)  {}",
            self.name,
            self.calls_per_event,
            self.median_us,
            keys.join(", ")
        );
    }
}

/// Hints from node to node, for each event accepted in the whole run.
#[derive(Serialize)]
pub struct Hints {
    /// Straight to the node.
    pub direct_per_event: f64,
    /// Through Redis, because the node could not be reached.
    pub indirect_per_event: f64,
    pub received_per_event: f64,
    pub dropped: f64,
    /// Hints of one write.
    pub together: f64,
}

impl Hints {
    /// As the nodes count them.
    pub async fn read(service: &Service, events: u64) -> Result<Self, Error> {
        let events = events.max(1) as f64;
        let sent = service
            .sum("unpoll_cluster_hints_total{direction=\"sent\",kind=\"arrived\"")
            .await?;
        let indirect = service.sum("unpoll_cluster_fallback_total").await?;
        let batches = service.sum("unpoll_cluster_batches_total").await?;
        Ok(Self {
            direct_per_event: (sent - indirect) / events,
            indirect_per_event: indirect / events,
            received_per_event: service
                .sum("unpoll_cluster_hints_total{direction=\"received\",kind=\"arrived\"")
                .await?
                / events,
            dropped: service.sum("unpoll_cluster_hints_dropped_total").await?,
            together: (sent - indirect) / batches.max(1.0),
        })
    }
}
