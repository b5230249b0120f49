//! `unpoll check-config`: reads a settings file as `serve` would, without the environment.

use std::path::PathBuf;

use super::{Failure, Outcome, say};
use crate::config::Layers;

/// What to check.
#[derive(clap::Args)]
pub struct Arguments {
    /// The settings file, in TOML.
    file: PathBuf,
}

/// Says `ok`, or all that is wrong.
pub fn run(arguments: &Arguments) -> Outcome {
    let checked = Layers::new()
        .and_then(|mut layers| {
            layers.file(&arguments.file)?;
            layers.build()
        })
        .and_then(|config| config.validate());
    match checked {
        Ok(()) => say("ok"),
        Err(error) => Err(Failure::failed(error)),
    }
}
