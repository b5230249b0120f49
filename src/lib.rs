//! unpoll: a push-notification service that replaces polling.
//!
//! A backend posts an event over HTTP (`ingress`); it is made durable (`store`); the session that holds the device's seat
//! is told (`dispatch`) and writes it as an XMPP message (`gateway`, `xmpp`); the device's acknowledgement settles it and
//! goes back to the backend (`receipts`); the `ledger` counts the polls that this avoided. `domain` is the vocabulary of
//! all parts, `app` puts them together. Imports point down the flow; `tests/architecture.rs` holds them to it.

pub mod ingress;
pub mod store;

pub mod dispatch;
pub mod presence;
pub mod registry;
pub mod transfer;

pub mod gateway;
pub mod xmpp;

pub mod ledger;
pub mod receipts;
pub mod webhooks;

pub mod admin;
pub mod telemetry;

pub mod certificate;
pub mod config;
pub mod crew;
pub mod http;
pub mod proxy;
pub mod tls;
pub mod tokens;

pub mod app;
pub mod cli;
pub mod cluster;
pub mod domain;
