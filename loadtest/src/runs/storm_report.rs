//! What a storm run prints.

use std::collections::BTreeMap;

use loadtest::{
    Error,
    process::Machine,
    report::{self, Summary},
};
use serde::Serialize;

use super::{
    storm::{How, Jitter},
    target::{Protection, Way},
    watcher::Quiet,
};

#[derive(Serialize)]
pub struct Report {
    pub asked: Asked,
    /// Until all were back.
    pub seconds: Option<f64>,
    pub up: u64,
    pub resumed: u64,
    pub back: Summary,
    pub login: Summary,
    pub tries_failed: BTreeMap<String, u64>,
    pub cpu_us_per_return: f64,
    pub server_cpu_seconds: f64,
    pub driver_cpu_seconds: f64,
    pub memory_before_bytes: u64,
    pub memory_most_bytes: u64,
    pub memory_after_bytes: u64,
    pub refused_busy: Option<f64>,
    pub quiet: Option<Quiet>,
    pub passed: bool,
    pub machine: Machine,
}

#[derive(Serialize)]
pub struct Asked {
    pub devices: u64,
    pub transport: Protection,
    pub login: Way,
    pub tickets: bool,
    pub drivers: u64,
    pub how: How,
    pub jitter: Jitter,
    pub pause_secs: u64,
    pub resume: bool,
    pub admission: bool,
    pub pinned: bool,
}

impl Report {
    /// Prints it for people, or for programs.
    pub fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return report::print_json(self);
        }
        let asked = &self.asked;
        println!(
            "asked     {} boxes of {} process(es), {:?}{}, {:?}, {:?}, jitter {:?} ({} s){}{}{}",
            asked.devices,
            asked.drivers,
            asked.transport,
            if asked.tickets { " with tickets" } else { "" },
            asked.login,
            asked.how,
            asked.jitter,
            asked.pause_secs,
            if asked.resume { ", resuming" } else { "" },
            if asked.admission { "" } else { ", without admission" },
            report::placement(asked.pinned)
        );
        match self.seconds {
            Some(seconds) => println!("back      all in {seconds:.1} s, {} resumed", self.resumed),
            None => println!("back      NOT ALL: {} are up, {} resumed", self.up, self.resumed),
        }
        println!("  after   {}", self.back);
        println!("  login   {}", self.login);
        println!("  failed  {:?}, refused as busy {:?}", self.tries_failed, self.refused_busy);
        println!(
            "server    {:.1} s of CPU (the boxes {:.1} s), {:.0} µs a box; {:.1} MiB before, {:.1} at most, {:.1} after",
            self.server_cpu_seconds,
            self.driver_cpu_seconds,
            self.cpu_us_per_return,
            mib(self.memory_before_bytes),
            mib(self.memory_most_bytes),
            mib(self.memory_after_bytes)
        );
        if let Some(quiet) = &self.quiet {
            println!(
                "quiet     {} sessions, {} events posted, {} applied, {} dropped",
                quiet.sessions, quiet.posted, quiet.applied, quiet.dropped
            );
            println!("  calm    {}", quiet.calm);
            println!("  storm   {}", quiet.storm);
        }
        println!("machine   {}", self.machine);
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
