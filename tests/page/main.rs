//! The page of the admin listener in real Chromium.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod browser;
mod figures;
mod layout;
mod pictures;
mod stage;
mod states;
#[path = "../support/mod.rs"]
mod support;
