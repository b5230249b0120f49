//! A store on a small disk that fills up: new events are refused, acknowledgements go on, nothing accepted is missing, and
//! when space is back it works again without being opened anew.
//!
//! Needs to mount a tmpfs of 80 MB, so it needs root. Without that it passes over, except where `CI` is set.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use unpoll::{
    domain::{Data, Departure, Event, EventId, Limits, Outcome, Require, SystemClock, TenantId, Timestamp, Urgency},
    store::{
        Cursor, DeviceChange, DeviceKey, EnqueuedKind, Mailbox, NewEvent, NewSeat, Registry, Settle, Settled, StoreError, Transport,
        embedded::{Config, EmbeddedStore},
    },
};

/// A mounted tmpfs; unmounted when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=80m", "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        assert!(std::env::var_os("CI").is_none(), "a tmpfs could not be mounted: {mounted:?}");
        eprintln!("passed over: a tmpfs cannot be mounted here");
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes every free block.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path().join("filler");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for size in [1024 * 1024, 4096] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn open(disk: &SmallDisk) -> Arc<EmbeddedStore> {
    let config = Config {
        data_dir: disk.path().join("data"),
        ..Config::default()
    };
    EmbeddedStore::open(config, Limits::default(), SystemClock::shared()).unwrap().0
}

const DEVICES: usize = 64;

fn key(n: usize) -> DeviceKey {
    DeviceKey {
        tenant: TenantId(0),
        device: format!("box-{n}").parse().unwrap(),
    }
}

async fn add_devices(store: &EmbeddedStore) {
    for n in 0..DEVICES {
        store
            .put_device(&key(n), DeviceChange::default(), true, Timestamp(1))
            .await
            .unwrap();
    }
}

fn new_event(n: usize, bytes: usize) -> NewEvent {
    NewEvent {
        event: Event {
            tenant: TenantId(0),
            device: key(n % DEVICES).device,
            accepted_at: Timestamp(
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap()
                    .as_millis() as u64,
            ),
            deliver_at: None,
            ttl: Duration::from_secs(86_400),
            urgency: Urgency::Normal,
            collapse_key: None,
            require: Require::Acknowledged,
            // Not compressible, as encrypted payloads are not.
            json: Data(noise(n as u64, bytes).into()),
        },
        idempotency: None,
    }
}

fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + (state % 90) as u8)
        })
        .collect()
}

/// Enqueues until the store refuses; the ids that it accepted, each with its device.
async fn push_until_refused(store: &EmbeddedStore, most: usize) -> (Vec<(usize, EventId)>, Option<StoreError>) {
    let mut accepted = Vec::new();
    let mut n = 0;
    while n < most {
        let events = (n..n + 100).map(|n| new_event(n, 700)).collect();
        let mut refused = None;
        for (at, result) in (n..).zip(store.enqueue(events).await) {
            match result {
                Ok(done) => accepted.push((at % DEVICES, done.id)),
                Err(error) => refused = Some(error),
            }
        }
        if refused.is_some() {
            return (accepted, refused);
        }
        n += 100;
    }
    (accepted, None)
}

async fn settle(store: &EmbeddedStore, device: usize, id: EventId) -> Result<Settled, StoreError> {
    let settle = Settle {
        device: key(device),
        id,
        located: store.locate(TenantId(0), id).unwrap(),
        outcome: Outcome::Delivered,
        at: Timestamp(2),
        epoch: None,
        told: None,
    };
    store.settle(vec![settle]).await.remove(0)
}

/// Every accepted event waits, in order, and nothing else does.
async fn assert_all_wait(store: &EmbeddedStore, accepted: &[(usize, EventId)]) {
    for device in 0..DEVICES {
        let expected: Vec<EventId> = accepted.iter().filter(|(d, _)| *d == device).map(|(_, id)| *id).collect();
        let page = store.pending(&key(device), Cursor::default(), 10_000).await.unwrap();
        let mut found = page.events.iter().map(|event| event.id).filter(|id| expected.contains(id));
        assert!(expected.iter().all(|id| found.next() == Some(*id)), "device {device} misses events");
    }
}

async fn until_writable(store: &EmbeddedStore, disk: &SmallDisk) {
    let started = Instant::now();
    while !store.stats().writable {
        if started.elapsed() > Duration::from_secs(30) {
            let files = Command::new("du").arg("-ak").arg(disk.path()).output().unwrap().stdout;
            panic!("not writable again: {:?}\n{}", store.stats(), String::from_utf8_lossy(&files));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_by_others_refuses_events_and_takes_acknowledgements() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = open(&disk);
    add_devices(&store).await;
    let (mut accepted, refused) = push_until_refused(&store, 10_000).await;
    assert!(refused.is_none(), "an empty disk of 80 MB takes 10,000 events: {refused:?}");

    let filler = disk.fill();
    // Until the store notices, by its own look or by a failed write, events may still be taken; what fails is not promised.
    let started = Instant::now();
    loop {
        match store.enqueue(vec![new_event(0, 700)]).await.remove(0) {
            Ok(done) => accepted.push((0, done.id)),
            Err(StoreError::NoSpace) => break,
            Err(StoreError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
        assert!(started.elapsed() < Duration::from_secs(30), "a full disk is never noticed");
    }
    disk.fill();
    // A reading and acknowledging device notices nothing.
    let epoch = store
        .claim(
            &key(1),
            NewSeat {
                session: unpoll::domain::SessionId(1),
                node: "n".into(),
                transport: Transport::Xmpps,
                at: Timestamp(1),
                credential_generation: 0,
                fast: None,
            },
        )
        .await
        .unwrap()
        .epoch;
    let rest = accepted.split_off(2_000);
    for (device, id) in &accepted {
        assert!(matches!(
            settle(&store, *device, *id).await.unwrap(),
            Settled::Now { .. } | Settled::Before(_)
        ));
    }
    assert!(
        store.release(&key(1), epoch, Timestamp(3), Departure::Lost).await.unwrap(),
        "the seat outlives the reopening"
    );
    assert_all_wait(&store, &rest).await;
    assert!(!store.stats().writable);

    std::fs::remove_file(filler).unwrap();
    until_writable(&store, &disk).await;
    let done = store.enqueue(vec![new_event(5, 700)]).await.remove(0).unwrap();
    assert_eq!(done.kind, EnqueuedKind::New);
    let (more, refused) = push_until_refused(&store, 5_000).await;
    assert!(refused.is_none(), "{refused:?}");
    assert_all_wait(&store, &rest).await;
    store.close();
    let store = open(&disk);
    assert_all_wait(&store, &rest).await;
    assert_all_wait(&store, &more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fills_its_own_disk_empties_it_again() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = open(&disk);
    add_devices(&store).await;
    // What was settled stays on the disk for a day as states and receipts, so each round has less room.
    for round in 0..2 {
        // Between two looks at the disk the store is careful and may refuse early; it takes more after the next look.
        let mut accepted = Vec::new();
        while accepted.len() < 5_000 {
            until_writable(&store, &disk).await;
            let (more, refused) = push_until_refused(&store, 120_000).await;
            assert!(matches!(refused, Some(StoreError::NoSpace)), "round {round}: {refused:?}");
            accepted.extend(more);
        }
        assert_all_wait(&store, &accepted).await;
        for (device, id) in &accepted {
            assert!(matches!(settle(&store, *device, *id).await.unwrap(), Settled::Now { .. }));
        }
        assert_eq!(store.stats().queued, Some(0), "round {round}");
    }
    until_writable(&store, &disk).await;
}
