//! A data directory of 80 MB, filled to the brim: a clear refusal, deliveries go on, and it recovers without a restart.
//!
//! Needs the right to mount a tmpfs (root). Elsewhere the test says so and fails: it must run where `tests/all` runs.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;
use support::{Device, Service, Settings, TestDir, wait_for};

/// A small filesystem of its own, unmounted at the end.
struct SmallDisk {
    dir: TestDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let dir = TestDir::new();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=80m", "unpoll-test"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test mounts a tmpfs, so it must run as root");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Fills what is free with one file.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        let done = unmounted.is_ok_and(|status| status.success());
        assert!(
            done || std::thread::panicking(),
            "the tmpfs stays mounted at {}",
            self.path().display()
        );
    }
}

#[test]
fn a_full_disk_refuses_clearly_delivers_what_it_has_and_recovers_without_a_restart() {
    let disk = SmallDisk::mount();
    let mut service = Service::start_with(Settings {
        data_dir: Some(disk.path().join("data")),
        // A full disk is what an operator must act on, so the log has an ERROR.
        expects_errors: true,
        ..Settings::default()
    });
    let backend = service.backend();
    backend.add_device("box", "secret");
    let event = |n: u32| json!({ "target": { "device": "box" }, "type": "t", "data": { "n": n, "text": "x".repeat(2_000) } });
    let mut accepted = Vec::new();
    let mut post = |n: u32| {
        let answer = backend.post(&event(n));
        if answer.status == 202 {
            accepted.push(answer.json()["id"].as_str().unwrap().to_owned());
        }
        answer
    };
    for n in 0..100 {
        assert_eq!(post(n).status, 202);
    }

    // Full: sooner or later every post is a 503 that says why and when to come back.
    let filler = disk.fill();
    let refusal = wait_for("a full disk refuses", Duration::from_secs(60), || {
        let answer = post(1_000);
        (answer.status != 202).then_some(answer)
    });
    assert_eq!((refusal.status, refusal.slug().as_str()), (503, "no-space"), "{refusal:?}");
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
    for n in 0..20 {
        let answer = post(2_000 + n);
        assert!(matches!(answer.status, 202 | 503), "{answer:?}");
    }

    // Deliveries and acknowledgements go on while it is full.
    let device = Device::online(&service, "box", "secret");
    let mut arrived = Vec::new();
    while arrived.len() < accepted.len() {
        arrived.push(device.expect_event().id);
    }
    assert_eq!(arrived, accepted, "all that was accepted arrives, in order");
    for id in &accepted {
        wait_for("it is delivered although the disk is full", support::SOON, || {
            (backend.state(id) == "delivered").then_some(())
        });
    }

    // Space again: it works without a restart.
    let process = service.id();
    fs::remove_file(filler).unwrap();
    let late = wait_for("it takes events again", Duration::from_secs(60), || {
        let answer = backend.post(&event(3_000));
        (answer.status == 202).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    });
    assert_eq!(service.id(), process);
    assert_eq!(device.expect_event().id, late);

    // And nothing was lost on the way: a restart reads back the same.
    wait_for("the last is delivered", support::SOON, || {
        (backend.state(&late) == "delivered").then_some(())
    });
    service.kill();
    service.run();
    for id in accepted.iter().chain([&late]) {
        assert_eq!(backend.state(id), "delivered");
    }
    assert_eq!(
        Device::online(&service, "box", "secret").event(Duration::from_secs(1)),
        None,
        "nothing comes twice"
    );
}
