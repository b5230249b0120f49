//! What a poll run says.

use std::collections::BTreeMap;

use loadtest::{
    Error, Traffic,
    process::Machine,
    report::{self, Summary},
};
use serde::Serialize;

use super::poll::Way;

#[derive(Serialize)]
pub struct Report {
    pub asked: Asked,
    /// TLS version, cipher, key agreement.
    pub protection: String,
    pub turns: Vec<Turn>,
    /// Passwords that the server checked anew (PBKDF2) while it was measured, if it can be asked.
    pub passwords_checked: Option<f64>,
    pub server_stopped_cleanly: bool,
    pub passed: bool,
    pub machine: Machine,
}

#[derive(Serialize)]
pub struct Asked {
    pub boxes: u64,
    pub at_once: u64,
    pub polls: u64,
    pub cookie: usize,
    pub pinned: bool,
}

/// One way of polling.
#[derive(Serialize)]
pub struct Turn {
    pub way: Way,
    pub asked: u64,
    /// Polls that were answered.
    pub polls: u64,
    /// Of those, polls with another answer, or over another kind of connection, than this way of polling has.
    pub wrong: u64,
    pub statuses: BTreeMap<u16, u64>,
    pub failed: BTreeMap<String, u64>,
    /// Polls over a connection that resumed a TLS session.
    pub resumed: u64,
    pub seconds: f64,
    pub polls_per_second: f64,
    pub cpu_us_per_poll: f64,
    pub driver_cpu_us_per_poll: f64,
    pub time: Summary,
    pub each: Shares,
    pub traffic: Traffic,
}

/// What one poll carries, on average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// Bytes at the socket, from the box.
    pub sent: f64,
    /// To the box.
    pub received: f64,
    /// Packets, both ways, by the packet model.
    pub packets: f64,
    /// Bytes from the box with headers of TCP and IP.
    pub sent_with_headers: f64,
    /// To the box.
    pub received_with_headers: f64,
}

impl Shares {
    /// Of so many polls.
    pub fn of(traffic: &Traffic, polls: f64) -> Self {
        let wire = traffic.on_the_wire();
        let each = |total: u64| total as f64 / polls;
        Self {
            sent: each(traffic.sent.bytes),
            received: each(traffic.received.bytes),
            packets: each(wire.packets_sent + wire.packets_received),
            sent_with_headers: each(wire.bytes_sent),
            received_with_headers: each(wire.bytes_received),
        }
    }
}

impl Way {
    fn words(self) -> &'static str {
        match self {
            Self::Cold => "new connection, full TLS handshake",
            Self::Resumed => "new connection, TLS session resumed",
            Self::Kept => "kept connection, 200 without events",
            Self::Unchanged => "kept connection, 304",
        }
    }

    /// Bytes with headers and packets of the model in which the polls of the ledger's baselines are declared.
    fn modelled(self) -> Option<(u64, u64)> {
        match self {
            Self::Cold => Some((4213, 16)),
            Self::Resumed => Some((2792, 16)),
            Self::Kept => None,
            Self::Unchanged => Some((833, 3)),
        }
    }
}

impl Turn {
    /// Whether all went as this way of polling goes.
    pub fn passed(&self) -> bool {
        self.polls == self.asked && self.wrong == 0 && self.failed.is_empty()
    }
}

impl Report {
    pub fn print(&self, json: bool) -> Result<(), Error> {
        if json {
            return report::print_json(self);
        }
        let asked = &self.asked;
        println!(
            "asked     {} boxes, {} at once, {} polls each way{}{}",
            asked.boxes,
            asked.at_once,
            asked.polls,
            if asked.cookie > 0 {
                format!(", a cookie of {} bytes", asked.cookie)
            } else {
                String::new()
            },
            report::placement(asked.pinned)
        );
        println!("tls       {}", self.protection);
        match self.passwords_checked {
            Some(checked) => println!(
                "passwords all boxes had polled once before, so the server knew them; it checked {checked} anew (PBKDF2) while it was measured"
            ),
            None => println!("passwords all boxes had polled once before, so that PBKDF2 is left out; not confirmed by the server"),
        }
        for turn in &self.turns {
            turn.print();
        }
        println!("machine   {}", self.machine);
        println!("{}", if self.passed { "passed" } else { "FAILED" });
        Ok(())
    }
}

impl Turn {
    fn print(&self) {
        println!("{}", self.way.words());
        println!(
            "  got     {} of {} polls in {:.1} s: {:.0}/s; {} not as asked for; {} connections, {} resumed",
            self.polls, self.asked, self.seconds, self.polls_per_second, self.wrong, self.traffic.connections, self.resumed
        );
        println!(
            "  cpu     {:.1} µs of the server's a poll, user and system; the driver's {:.1} µs",
            self.cpu_us_per_poll, self.driver_cpu_us_per_poll
        );
        println!("  time    {}", self.time);
        let each = &self.each;
        println!("  bytes   {:.0} from the box, {:.0} to it, at the socket", each.sent, each.received);
        let modelled = self.way.modelled().map_or(String::new(), |(bytes, packets)| {
            format!("; the declared baselines have {bytes} bytes, {packets} packets")
        });
        println!(
            "  wire    {:.1} packets, {:.0} + {:.0} = {:.0} bytes with headers{modelled}",
            each.packets,
            each.sent_with_headers,
            each.received_with_headers,
            each.sent_with_headers + each.received_with_headers
        );
        if !self.failed.is_empty() || self.wrong > 0 {
            println!("  failed  {:?} {:?}", self.statuses, self.failed);
        }
    }
}
