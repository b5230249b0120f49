//! Moving everything from one store to another, and backing it up: `GET /v1/export`, `POST /v1/import`.
//!
//! Both are streams of lines, so that neither side holds more than a few mebibytes, however large the store is. What an export
//! consists of, and what an import owes, is in `store::transfer`.

mod export;
mod group;
mod import;
mod openapi;
mod outcome;

use std::sync::Arc;

use axum::{Router, routing::get, routing::post};
use tokio::sync::Semaphore;

pub use openapi::operations;

use crate::store::transfer::Transfer;

/// Exports at once; one more is answered 429.
const EXPORTS: usize = 2;

/// What both stand on. Cheap to clone.
#[derive(Clone)]
pub struct TransferState(Arc<Parts>);

struct Parts {
    store: Arc<dyn Transfer>,
    exports: Arc<Semaphore>,
    /// One at a time.
    import: Semaphore,
}

impl TransferState {
    /// Over the store that is exported and imported into.
    pub fn new(store: Arc<dyn Transfer>) -> Self {
        Self(Arc::new(Parts {
            store,
            exports: Arc::new(Semaphore::new(EXPORTS)),
            import: Semaphore::new(1),
        }))
    }
}

/// `/v1/export` and `/v1/import`, to be mounted behind the gate.
pub fn routes(state: TransferState) -> Router {
    Router::new()
        .route("/v1/export", get(export::get))
        .route("/v1/import", post(import::post))
        .with_state(state)
}

/// A request for which there is no room now.
fn busy() -> crate::domain::Refusal {
    crate::domain::Refusal::Overloaded {
        retry_after: std::time::Duration::from_secs(60),
    }
}
