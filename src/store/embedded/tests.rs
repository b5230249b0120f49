//! Tests of the embedded store: the contract, and what is its alone.

mod known_keys;
mod model;
mod opening;
mod young;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{Config, EmbeddedStore};
use crate::{
    domain::{Clock, Durability, ManualClock},
    store::{
        Arrival, Store, Webhooks,
        contract::{self, Bench, START},
        transfer::Transfer,
    },
};

/// An embedded store in a folder that goes with it.
pub(in crate::store) struct Embedded {
    pub(super) store: Arc<EmbeddedStore>,
    pub(super) clock: Arc<ManualClock>,
    arrivals: mpsc::Receiver<Arrival>,
    pub(super) folder: TempDir,
}

pub(super) fn config(folder: &std::path::Path) -> Config {
    Config {
        data_dir: folder.to_path_buf(),
        // The disk of a test machine may be fuller than a server's should be.
        free_space_min_percent: 0,
        ballast_bytes: 1024 * 1024,
        // Some events: what is young grows old within a test.
        young_bytes: 600,
        sweep_rows: 3,
        ..Config::default()
    }
}

impl Embedded {
    pub(in crate::store) fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap(), ManualClock::at(START))
    }

    fn open(folder: TempDir, clock: Arc<ManualClock>) -> Self {
        let config = config(folder.path());
        let (store, arrivals) = EmbeddedStore::open(config, contract::limits(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        Self {
            store,
            clock,
            arrivals,
            folder,
        }
    }
}

impl Bench for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn transfer(&self) -> Arc<dyn Transfer> {
        Arc::clone(&self.store) as Arc<dyn Transfer>
    }

    fn webhooks(&self) -> Arc<dyn Webhooks> {
        Arc::clone(&self.store) as Arc<dyn Webhooks>
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    fn arrivals(&mut self) -> &mut mpsc::Receiver<Arrival> {
        &mut self.arrivals
    }

    fn durability(&self) -> Durability {
        Durability::Disk
    }

    async fn reopen(self) -> Self {
        self.store.close();
        Self::open(self.folder, self.clock)
    }
}

contract::run_contract!(Embedded::new());
contract::run_transfer!(Embedded::new(), Embedded::new());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_known_while_another_thread_ends_it() {
    let bench = Embedded::new();
    let store: Arc<dyn crate::store::Store> = bench.store.clone();
    contract::add(&*store, "box").await;
    for _ in 0..2_000 {
        let id = contract::push(&*store, contract::event("box", "{}", START)).await.unwrap().id;
        let ended = Arc::new(AtomicBool::new(false));
        let (reader, over) = (Arc::clone(&store), Arc::clone(&ended));
        let looking = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert!(
                    reader.delivery(contract::TENANT, id).await.unwrap().is_some(),
                    "it is unknown while it ends"
                );
            }
        });
        contract::end(&*store, "box", id, crate::domain::Outcome::Delivered, START).await;
        ended.store(true, Ordering::Relaxed);
        looking.await.unwrap();
    }
}
