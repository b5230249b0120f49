//! The model test on the embedded engine: one node, on a disk that is RAM where there is one, since every step waits for it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use futures_util::poll;
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use super::{super::EmbeddedStore, config};
use crate::{
    domain::{Clock, ManualClock},
    store::{
        Arrival, Store,
        contract::{
            START,
            model::{self, During, World},
        },
    },
};

struct OneNode {
    store: Arc<EmbeddedStore>,
    arrivals: mpsc::Receiver<Arrival>,
    clock: Arc<ManualClock>,
    folder: TempDir,
}

fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl OneNode {
    fn new() -> Self {
        Self::open(folder(), ManualClock::at(START))
    }

    fn open(folder: TempDir, clock: Arc<ManualClock>) -> Self {
        let (store, arrivals) = EmbeddedStore::open(config(folder.path()), model::limits(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
        Self {
            store,
            arrivals,
            clock,
            folder,
        }
    }
}

/// Copies files as they are at this moment: what a process leaves that is killed now. The engine's files come last, as they hold more
/// than the mark says, never less.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut folders = Vec::new();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            folders.push(entry.file_name());
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    for folder in folders {
        copy(&from.join(&folder), &to.join(&folder));
    }
}

impl World for OneNode {
    const NODES: usize = 1;
    const SEATS_DIE_WITH_THEIR_NODE: bool = true;
    const HAS_SERVER: bool = false;

    fn store(&self, _: usize) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn name(&self, _: usize) -> Arc<str> {
        "n1".into()
    }

    fn clock(&self, _: usize) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    async fn arrivals(&mut self, _: usize, at_least: usize) -> Vec<Arrival> {
        let mut came = Vec::new();
        while came.len() < at_least {
            match timeout(Duration::from_secs(10), self.arrivals.recv()).await {
                Ok(Some(arrival)) => came.push(arrival),
                _ => return came,
            }
        }
        while let Ok(arrival) = self.arrivals.try_recv() {
            came.push(arrival);
        }
        came
    }

    async fn crash(&mut self, _: usize, during: During) {
        let mut during = during;
        if let Some(under_way) = &mut during {
            let _ = poll!(under_way);
        }
        let left = folder();
        copy(self.folder.path(), left.path());
        // Whoever asked died, too; only then may the process that was left be ended.
        drop(during);
        *self = Self::open(left, Arc::clone(&self.clock));
    }

    async fn kill_server(&mut self, during: During) {
        if let Some(under_way) = during {
            under_way.await;
        }
    }

    async fn flush_scripts(&mut self) {}

    async fn rest(&mut self) {}
}

#[tokio::test]
async fn the_store_agrees_with_its_model() {
    let name = "store::embedded::tests::model::the_store_agrees_with_its_model";
    model::agrees(name, 400, Duration::from_secs(30), async || OneNode::new()).await;
}

#[tokio::test]
async fn every_flaw_is_found() {
    model::finds_flaws(100, async || OneNode::new()).await;
}
