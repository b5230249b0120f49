use super::super::{Failure, Outcome};
/// boxes
pub async fn run() -> Outcome {
    Err(Failure::Failed("not yet".into()))
}
