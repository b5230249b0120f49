//! Starts the real binary on free ports with a store of its own, and talks to it from outside.
//!
//! Nothing here uses the service's own code: the tests are a second reading of its contracts.

#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod device;
mod http;
mod service;
mod wire;
mod xml;

pub use device::{Applied, Device, Pushed};
pub use http::{Answer, Backend};
pub use service::{Service, Settings, TestDir, terminate, unpoll, wait_for_presence};
pub use wire::{STREAM_HEADER, Wire};
pub use xml::Element;

use std::time::{Duration, Instant};

/// How long a fact may take that ought to hold at once. Long, because the machine may be busy; waiting ends with the fact.
pub const SOON: Duration = Duration::from_secs(20);

/// Asks until `fact` answers, and gives its answer.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = fact() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {within:?} for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
