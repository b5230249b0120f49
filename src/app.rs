//! Composition root: bind, run, drain. It knows every part; no part knows it.

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::Router;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tracing::{info, warn};

use crate::{
    admin, certificate,
    config::Config,
    crew::Crew,
    dispatch::{DispatchMetrics, Dispatcher, Inputs},
    domain::{Clock, DeviceId, Epoch, EventId, Scope, SystemClock, TenantId},
    gateway::{self, Gateway, Links},
    http, ingress, ledger, presence, receipts, registry,
    store::{self, Store, embedded::EmbeddedStore},
    telemetry,
};
