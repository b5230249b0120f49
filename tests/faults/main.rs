//! Several node processes, real Redis servers, devices in another process, and what goes wrong between them.
//!
//! The devices are those of `loadtest`. The store is read by the service's own code where no API shows it: the log of receipts.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod accounts;
mod claims;
mod cluster;
mod crowd;
mod cut_off;
mod durability;
mod full;
mod hints;
mod kills;
mod posts;
mod run;
mod stage;
#[path = "../support/mod.rs"]
mod support;
