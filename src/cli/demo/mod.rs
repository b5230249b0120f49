//! demo
use super::{Failure, Outcome};
pub mod boxes;
/// Args.
#[derive(clap::Args)]
pub struct Arguments {}
/// Run.
pub async fn run(_a: Arguments) -> Outcome {
    Err(Failure::Failed("not yet".into()))
}
