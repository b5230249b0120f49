//! What all parts say of their HTTP, as one document.

use crate::{
    config::Config,
    gateway,
    http::openapi::{self, Document},
    ingress, ledger, presence, receipts, registry, transfer, webhooks,
};

/// The OpenAPI document of a service with these settings.
pub fn document(config: &Config) -> Document {
    let limits = &config.limits;
    let parts = [
        ingress::operations(limits),
        receipts::operations(limits),
        webhooks::operations(limits),
        registry::operations(limits),
        presence::operations(limits),
        ledger::operations(),
        gateway::operations(&config.poll),
        transfer::operations(),
        openapi::operations(),
    ];
    Document::new(parts.into_iter().flatten().collect())
}
