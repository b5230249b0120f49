//! Starts the real binary on free ports with a store of its own, and talks to it from outside.
//!
//! Nothing here uses the service's own code: the tests are a second reading of its contracts. The devices are those of
//! `loadtest`; `Device` and `Wire` make them blocking, so that a test reads from top to bottom.

#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod certificates;
mod device;
mod http;
mod issuer;
mod poller;
mod service;
mod sse;
mod tenants;
mod wire;

pub use certificates::{Authority, Client, Issued, Secure, peer};
pub use device::{Device, Event};
pub use http::{Answer, Backend, answer};
pub use issuer::{Issuer, KeyServer};
pub use loadtest::{Acks, Error, Kill, Mechanism, Options, Resumption, Session, event::Pushed, xml::Element};
pub use poller::{Polled, Poller, basic};
pub use service::{Service, Settings, TestDir, terminate, unpoll, wait_for_presence};
pub use sse::{Listening, Told};
pub use tenants::stay_apart;
pub use wire::{STREAM_HEADER, Wire};

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Runs a step of a device to its end.
pub fn block_on<T>(step: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let start = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    RUNTIME.get_or_init(|| start().expect("a runtime")).block_on(step)
}

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
