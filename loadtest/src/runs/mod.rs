//! The runs: each prints what was asked for, what was got, and the machine.

mod board;
pub mod boxes;
pub mod connect;
mod cost;
pub mod fleet;
mod helper;
pub mod memory;
pub mod nodes;
mod nodes_report;
pub mod overload;
mod pacer;
pub mod poll;
mod poll_report;
pub mod push;
pub mod receivers;
mod service;
pub mod storm;
mod storm_report;
pub mod target;
pub mod wander;
mod watcher;

/// Core of a server that we started, with `--pin`.
pub const SERVER_CORE: usize = 0;
/// Core of the driver, with `--pin`.
pub const DRIVER_CORE: usize = 1;
