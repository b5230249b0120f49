//! What `loadtest nodes` reports.

use std::collections::BTreeMap;

use loadtest::{
    Error,
    process::Machine,
    report::{self, Summary},
};
use serde::Serialize;

use super::{
    cost::{Hints, NodesCpu, RedisCost, Sampled},
    target::Protection,
};

/// How much the CPU of an event may rise from one node to several, in per cent.
const RISE_MAX: f64 = 15.0;

#[derive(Serialize)]
pub struct Report {
    pub asked: Asked,
    pub runs: Vec<Run>,
    /// The same number of nodes together: medians over the rounds.
    pub together: Vec<Together>,
    pub passed: bool,
    pub machine: Machine,
}

#[derive(Serialize)]
pub struct Asked {
    pub nodes: Vec<usize>,
    pub rounds: usize,
    pub devices: u64,
    pub transport: Protection,
    pub rate: f64,
    pub per_node: bool,
    pub posters: usize,
    pub seconds: u64,
    pub warmup: u64,
    pub bytes: usize,
    pub replicas: usize,
    pub pinned: bool,
}

/// One run.
#[derive(Serialize)]
pub struct Run {
    pub nodes: usize,
    /// What events were to be accepted at.
    pub durability: &'static str,
    pub seconds: f64,
    pub events_per_second: f64,
    pub events: Events,
    /// From when it was due to its answer.
    pub post: Summary,
    /// From when it was due to the device.
    pub post_to_device: Summary,
    /// CPU of the nodes for each event of the run.
    pub cpu: NodesCpu,
    pub redis: RedisCost,
    pub replicas_cpu_us_per_event: f64,
    pub driver_cpu_us_per_event: f64,
    /// All nodes together, with all devices connected and no events.
    pub rest_nodes_us_per_second: f64,
    pub rest_redis_us_per_second: f64,
    /// Single calls of Redis, where they were asked for.
    pub scripts: Vec<Sampled>,
    pub hints: Hints,
    pub sessions_up: u64,
    pub sessions_dropped: u64,
    pub reasons: Vec<String>,
    pub acknowledgements: u64,
    pub node_memory_bytes: Vec<u64>,
    pub stopped_cleanly: bool,
    pub passed: bool,
}

/// What became of the events, from the first to the last.
#[derive(Serialize)]
pub struct Events {
    pub accepted: u64,
    /// As the nodes count them at the level of durability that was asked for.
    pub accepted_at_level: u64,
    pub received: u64,
    pub settled: u64,
    pub lost: u64,
    pub repeats: u64,
    /// Due while too many waited for a poster.
    pub not_offered: u64,
    pub refused: BTreeMap<u16, u64>,
    pub refusal: Option<String>,
    pub failed: BTreeMap<String, u64>,
}

impl Events {
    /// Whether each was accepted at that level, received once, and settled.
    pub fn all_well(&self) -> bool {
        self.accepted > 0
            && self.accepted_at_level == self.accepted
            && self.lost == 0
            && self.settled == self.accepted
            && self.repeats == 0
            && self.not_offered == 0
            && self.refused.is_empty()
            && self.failed.is_empty()
    }
}

/// Runs with the same number of nodes.
#[derive(Serialize)]
pub struct Together {
    pub nodes: usize,
    pub cpu_us_per_event: f64,
    /// The same less what the nodes cost at rest.
    pub cpu_us_per_event_less_rest: f64,
    /// Against the first number of nodes.
    pub rise_percent: f64,
    pub redis_cpu_us_per_event: f64,
    pub post_p50_us: f64,
    pub post_p99_us: f64,
    pub device_p50_us: f64,
    pub device_p99_us: f64,
}

impl Report {
    /// Puts the runs together.
    pub fn new(asked: Asked, runs: Vec<Run>) -> Self {
        let mut together: Vec<Together> = Vec::new();
        for nodes in &asked.nodes {
            if together.iter().any(|before| before.nodes == *nodes) {
                continue;
            }
            let of = |value: fn(&Run) -> f64| median(runs.iter().filter(|run| run.nodes == *nodes).map(value).collect());
            let cpu = of(|run| run.cpu.all_us);
            let first = together.first().map_or(cpu, |first| first.cpu_us_per_event);
            together.push(Together {
                nodes: *nodes,
                cpu_us_per_event: cpu,
                cpu_us_per_event_less_rest: of(|run| run.cpu.all_us - run.rest_nodes_us_per_second / run.events_per_second.max(1.0)),
                rise_percent: (cpu / first - 1.0) * 100.0,
                redis_cpu_us_per_event: of(|run| run.redis.cpu_us_per_event),
                post_p50_us: of(|run| run.post.p50_us as f64),
                post_p99_us: of(|run| run.post.p99_us as f64),
                device_p50_us: of(|run| run.post_to_device.p50_us as f64),
                device_p99_us: of(|run| run.post_to_device.p99_us as f64),
            });
        }
        Self {
            passed: runs.iter().all(|run| run.passed),
            asked,
            runs,
            together,
            machine: Machine::here(),
        }
    }

    /// Prints the report; the runs themselves only as JSON.
    pub fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return report::print_json(self);
        }
        let asked = &self.asked;
        println!(
            "asked     {} devices, {:?}, {:.0} events/s {}, {} bytes of data, {} posters, {} s after {} s, {} replica(s){}",
            asked.devices,
            asked.transport,
            asked.rate,
            if asked.per_node { "a node" } else { "over all nodes" },
            asked.bytes,
            asked.posters,
            asked.seconds,
            asked.warmup,
            asked.replicas,
            if asked.pinned {
                ", nodes on core 0, Redis and drivers on core 1"
            } else {
                ""
            }
        );
        println!("nodes  CPU an event  without rest    rise  Redis an event   POST p50 / p99 ms  to device p50 / p99 ms");
        let ms = |us: f64| us / 1000.0;
        for row in &self.together {
            println!(
                "{:>5}  {:>9.1} µs  {:>9.1} µs  {:>+5.1} %  {:>11.1} µs  {:>8.2} / {:>7.2}  {:>11.2} / {:>7.2}",
                row.nodes,
                row.cpu_us_per_event,
                row.cpu_us_per_event_less_rest,
                row.rise_percent,
                row.redis_cpu_us_per_event,
                ms(row.post_p50_us),
                ms(row.post_p99_us),
                ms(row.device_p50_us),
                ms(row.device_p99_us)
            );
        }
        let most = self.together.iter().map(|row| row.rise_percent).fold(0.0, f64::max);
        println!("rise      at most {most:.1} % (asked: at most {RISE_MAX} %)");
        println!("machine   {}", self.machine);
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    if values.len().is_multiple_of(2) {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    } else {
        at(middle)
    }
}

impl Run {
    /// Prints it for people.
    pub fn print(&self) {
        let (events, redis, hints) = (&self.events, &self.redis, &self.hints);
        println!("{} node(s), durability {}", self.nodes, self.durability);
        println!(
            "  got       {:.0} events/s over {:.1} s; in all {} accepted, {} received, {} settled, {} lost, {} repeats, {} not offered",
            self.events_per_second,
            self.seconds,
            events.accepted,
            events.received,
            events.settled,
            events.lost,
            events.repeats,
            events.not_offered
        );
        let each: Vec<String> = self.cpu.each_us.iter().map(|us| format!("{us:.1}")).collect();
        println!(
            "  cpu       {:.1} µs an event over all nodes ({}); at rest {:.0} µs a second",
            self.cpu.all_us,
            each.join(" + "),
            self.rest_nodes_us_per_second
        );
        println!("  post      {}", self.post);
        println!("  to device {}", self.post_to_device);
        println!(
            "  redis     {:.1} µs an event, replicas {:.1} µs; at rest {:.0} µs a second; driver {:.1} µs an event",
            redis.cpu_us_per_event, self.replicas_cpu_us_per_event, self.rest_redis_us_per_second, self.driver_cpu_us_per_event
        );
        println!(
            "            {:.0} bytes of AOF, {:.0} in, {:.0} out, {:.0} to replicas; {:.2} reads an event",
            redis.aof_bytes_per_event,
            redis.input_bytes_per_event,
            redis.output_bytes_per_event,
            redis.replication_bytes_per_event,
            redis.reads_per_event
        );
        redis.print_commands("            ", "an event");
        for sampled in self.scripts.iter().filter(|sampled| sampled.calls_per_event >= 0.01) {
            sampled.print("  sampled   ");
        }
        println!(
            "  hints     {:.3} an event direct ({:.1} a write), {:.3} through Redis, {:.3} received, {:.0} dropped",
            hints.direct_per_event, hints.together, hints.indirect_per_event, hints.received_per_event, hints.dropped
        );
        println!(
            "  sessions  {} up, {} dropped {:?}, {} acknowledgements; RssAnon {:?} MiB",
            self.sessions_up,
            self.sessions_dropped,
            self.reasons,
            self.acknowledgements,
            self.node_memory_bytes.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>()
        );
        if !events.refused.is_empty() || !events.failed.is_empty() {
            println!("  refused   {:?} {:?} {:?}", events.refused, events.refusal, events.failed);
        }
        println!("  {}", if self.passed { "passed" } else { "FAILED" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        for (values, expected) in [(vec![3.0, 1.0, 2.0], 2.0), (vec![1.0, 4.0, 2.0, 3.0], 2.5), (vec![], 0.0)] {
            assert_eq!(median(values), expected);
        }
    }
}
