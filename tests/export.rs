//! Everything moves from one server to another, by the commands that an operator types.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use loadtest::redis;
use serde_json::{Value, json};
use support::{Backend, Device, Pushed, SOON, Service, Settings, wait_for, wait_for_presence};
use unpoll::domain::{EventIdKey, Located, Queue, TenantId};

const NEVER: Duration = Duration::from_millis(300);

fn on_redis(redis: &redis::Server) -> Settings {
    Settings::default()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary")
        .set("UNPOLL_REDIS_HEARTBEAT_MS", "300")
        .set("UNPOLL_REDIS_NODE_LOST_SECS", "3")
}

#[track_caller]
fn export(service: &Service, file: &Path) {
    let output = service.command().arg("export").arg("--output").arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn import(service: &Service, file: &Path) -> Output {
    service.command().arg("import").arg(file).output().unwrap()
}

/// The same from a pipe.
fn import_piped(service: &Service, lines: &[u8]) -> Output {
    let mut child = service
        .command()
        .arg("import")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    child.wait_with_output().unwrap()
}

/// What the command printed, when it ended with that code.
#[track_caller]
fn summary(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[track_caller]
fn failure(output: &Output, expected: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(expected), "{said}");
}

/// Posts with an idempotency key.
fn post_with_key(backend: &Backend, data: &Value) -> (u16, String) {
    let event = json!({ "target": { "device": "box" }, "type": "test", "data": data });
    let headers = [("content-type", "application/json"), ("idempotency-key", "k-1")];
    let answer = backend.request("POST", "/v1/events", &headers, event.to_string().as_bytes());
    (answer.status, answer.json()["id"].as_str().unwrap_or_default().to_owned())
}

/// What a server has been through before it moves.
struct Before {
    delivered: String,
    waiting: Vec<String>,
    key: String,
    last: Pushed,
}

fn live(service: &Service) -> Before {
    let backend = service.backend();
    backend.add_device("box", "secret");
    backend.add_device("other", "secret");
    let key = backend
        .send("POST", "/v1/keys", &json!({ "name": "backend", "scope": "push" }))
        .expect(201);
    let device = Device::online(service, "box", "secret");
    let delivered = backend.push("box", &json!({ "n": 0 }));
    let last = device.expect_event();
    device.acknowledge();
    wait_for("the receipt", SOON, || (backend.state(&delivered) == "delivered").then_some(()));
    device.close();
    wait_for_presence(&backend, "box", "offline");
    let first = backend.push("box", &json!({ "n": 1 }));
    let (status, second) = post_with_key(&backend, &json!({ "n": 2 }));
    assert_eq!(status, 202);
    let third = backend.push("box", &json!({ "n": 3 }));
    Before {
        delivered,
        waiting: vec![first, second, third],
        key: key.json()["key"].as_str().unwrap().to_owned(),
        last,
    }
}

/// All that was promised before the move holds after it.
fn goes_on(service: &Service, before: &Before) {
    let backend = service.backend();
    assert_eq!(backend.state(&before.delivered), "delivered");
    assert_eq!(post_with_key(&backend, &json!({ "n": 2 })), (200, before.waiting[1].clone()));
    assert_eq!(post_with_key(&backend, &json!({ "n": "other" })).0, 409);
    let of_backend = backend.with_key(&before.key);
    let fresh = of_backend.push("box", &json!({ "n": 4 }));

    let device = Device::online(service, "box", "secret");
    for id in before.waiting.iter().chain([&fresh]) {
        let event = device.expect_event();
        assert_eq!(event.id, *id);
        assert_ne!(event.lane, before.last.lane, "numbers count in a new lane");
    }
    device.acknowledge();
    assert!(device.event(NEVER).is_none(), "nothing comes twice");
    for id in before.waiting.iter().chain([&fresh]) {
        wait_for("the receipt", SOON, || (backend.state(id) == "delivered").then_some(()));
    }
    device.close();
    wait_for_presence(&backend, "box", "offline");
}

#[test]
fn a_server_moves_to_redis_and_back() {
    let old = Service::start();
    let mut before = live(&old);
    let file = old.dir().join("backup.ndjson");
    export(&old, &file);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let lines = fs::read_to_string(&file).unwrap();
    assert!(lines.starts_with("{\"export\":{") && lines.trim_end().lines().last().unwrap().starts_with("{\"end\":"));
    assert!(
        !lines.contains(&before.key) && !lines.contains("\"secret\""),
        "neither keys nor passwords are in it"
    );

    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let new = Service::start_with(on_redis(&redis));
    let answer = summary(&import(&new, &file), 0);
    assert_eq!((&answer["complete"], &answer["refused"]), (&json!(true), &json!(0)), "{answer}");
    assert_eq!(
        (&answer["stored"]["devices"], &answer["stored"]["deliveries"]),
        (&json!(2), &json!(4)),
        "{answer}"
    );
    let log = new.backend().get("/v1/audit").expect(200).json();
    let told: Vec<&str> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["resource"].as_str())
        .collect();
    let expected = [
        "/v1/devices/box",
        "/v1/devices/other",
        "/v1/keys",
        "/v1/export",
        "/v1/import",
        "/v1/import",
    ];
    assert_eq!(
        told, expected,
        "what the old server wrote down, and then the two steps of the import"
    );
    goes_on(&new, &before);
    failure(&import(&new, &file), "imported already");

    // While it serves, and back onto a disk.
    let device = Device::online(&new, "box", "secret");
    before.delivered.clone_from(&before.waiting[0]);
    device.close();
    wait_for_presence(&new.backend(), "box", "offline");
    before.waiting = vec![new.backend().push("box", &json!({ "n": 1 }))];
    let deleted = new.backend().delete("/v1/devices/other");
    assert!(matches!(deleted.status, 200 | 204), "{deleted:?}");
    let output = new.command().arg("export").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let back = Service::start();
    summary(&import_piped(&back, &output.stdout), 0);
    let backend = back.backend();
    assert_eq!(backend.state(&before.delivered), "delivered");
    assert_eq!(backend.get("/v1/devices/other").status, 410);
    let device = Device::online(&back, "box", "secret");
    assert_eq!(device.expect_event().id, before.waiting[0]);
    device.acknowledge();
    wait_for("the receipt", SOON, || {
        (backend.state(&before.waiting[0]) == "delivered").then_some(())
    });
    device.close();
}

#[test]
fn a_cut_or_damaged_export_is_refused_and_can_be_repeated() {
    let old = Service::start();
    let before = live(&old);
    let file = old.dir().join("backup.ndjson");
    export(&old, &file);
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let new = Service::start();

    // A file that is cut is not even begun.
    let cut = old.dir().join("cut.ndjson");
    fs::write(&cut, lines[..lines.len() - 2].join("\n")).unwrap();
    failure(&import(&new, &cut), "is cut");
    assert_eq!(new.backend().get("/v1/devices").expect(200).json()["items"], json!([]));

    // A line that is missing in the middle is missed at the end, and one that is damaged is named; their neighbours are stored.
    let at = lines.iter().position(|line| line.starts_with("{\"delivery\":")).unwrap();
    let mut damaged = lines.clone();
    let bad = damaged[at].replacen("\"urgency\":\"normal\"", "\"urgency\":\"loud\"", 1);
    damaged[at] = &bad;
    let answer = summary(&import_piped(&new, damaged.join("\n").as_bytes()), 1);
    assert_eq!((&answer["complete"], &answer["refused"]), (&json!(false), &json!(1)), "{answer}");
    assert_eq!(
        (&answer["problems"][0]["line"], &answer["problems"][0]["field"]),
        (&json!(at + 1), &json!("delivery.urgency")),
        "{answer}"
    );
    assert_eq!(answer["stored"]["devices"], json!(2), "{answer}");

    // One that is cut on the way, too; then all of it.
    let other = Service::start();
    let answer = summary(&import_piped(&other, lines[..lines.len() - 1].join("\n").as_bytes()), 1);
    assert!(answer["problems"][0]["detail"].as_str().unwrap().contains("is cut"), "{answer}");
    let mut short = lines.clone();
    short.remove(at);
    let answer = summary(&import_piped(&other, short.join("\n").as_bytes()), 1);
    assert!(
        answer["problems"][0]["detail"].as_str().unwrap().contains("lines are missing"),
        "{answer}"
    );
    let answer = summary(&import(&other, &file), 0);
    assert_eq!(
        (&answer["complete"], &answer["present"]["devices"]),
        (&json!(true), &json!(2)),
        "{answer}"
    );
    goes_on(&other, &before);

    // Told to, it takes what there is.
    let third = Service::start();
    let output = third.command().args(["import", "--partial"]).arg(&cut).output().unwrap();
    assert_eq!(summary(&output, 0)["complete"], json!(true));
}

#[test]
fn an_import_needs_a_new_server_of_one_node_and_the_right_key() {
    let old = Service::start();
    live(&old);
    let file = old.dir().join("backup.ndjson");
    export(&old, &file);
    failure(&import(&old, &file), "the store has devices");
    let headers = [("content-type", "application/x-ndjson")];
    let header = fs::read_to_string(&file).unwrap().lines().next().unwrap().to_owned();
    let admin = old
        .backend()
        .send("POST", "/v1/keys", &json!({ "name": "a", "scope": "admin" }))
        .expect(201);
    let admin = old.backend().with_key(admin.json()["key"].as_str().unwrap());
    assert_eq!(admin.get("/v1/export").expect(403).slug(), "forbidden");
    let import_as = |backend: &Backend, lines: &str| backend.request("POST", "/v1/import", &headers, lines.as_bytes());
    assert_eq!(import_as(&admin, &header).expect(403).slug(), "forbidden");

    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let first = Service::start_with(on_redis(&redis));
    let backend = first.backend();
    let elsewhere = header.replacen("\"domain\":\"localhost\"", "\"domain\":\"push.example\"", 1);
    let refused = import_as(&backend, &elsewhere).expect(409);
    assert!(refused.body.contains("push.example"), "{refused:?}");
    let newer = header.replacen("\"format\":2", "\"format\":3", 1);
    assert_eq!(import_as(&backend, &newer).expect(409).slug(), "conflict");
    assert_eq!(import_as(&backend, "{\"end\":{}}").expect(400).slug(), "invalid-field");
    assert_eq!(import_as(&backend, "").expect(400).slug(), "invalid-field");
    {
        let _second = Service::start_with(on_redis(&redis));
        failure(&import(&first, &file), "other nodes share this store");
    }
    // The other node was killed and is lost in a while.
    wait_for("an import by the only node", SOON, || {
        import(&first, &file).status.success().then_some(())
    });
    assert_eq!(backend.get("/v1/devices/box").status, 200);
    // Who joins now is of the same generation, and opens the same ids.
    let second = Service::start_with(on_redis(&redis));
    let second = backend.at(second.http);
    let id = backend.push("box", &json!({ "n": 9 }));
    assert_eq!(second.state(&id), "queued");
}

#[test]
fn what_was_accepted_before_an_export_is_in_it_whatever_happens_meanwhile() {
    let old = Service::start();
    let backend = old.backend();
    let devices: Vec<Device> = ["a", "b", "c"]
        .iter()
        .map(|id| {
            backend.add_device(id, "secret");
            Device::online(&old, id, "secret")
        })
        .collect();
    backend.add_device("away", "secret");
    let (accepted, stop): (Mutex<Vec<String>>, AtomicBool) = (Mutex::default(), AtomicBool::new(false));
    let file = old.dir().join("backup.ndjson");
    let before = std::thread::scope(|scope| {
        for device in ["a", "b", "c", "away"] {
            let (backend, accepted, stop) = (backend.clone(), &accepted, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let id = backend.push(device, &json!({ "for": device }));
                    accepted.lock().unwrap().push(id);
                }
            });
        }
        let grown = |by: usize| {
            let from = accepted.lock().unwrap().len();
            wait_for("the load goes on", SOON, || {
                (accepted.lock().unwrap().len() >= from + by).then_some(())
            });
        };
        grown(400);
        let before = accepted.lock().unwrap().clone();
        export(&old, &file);
        grown(50);
        stop.store(true, Ordering::Relaxed);
        before
    });
    devices.into_iter().for_each(Device::close);

    let new = Service::start();
    summary(&import(&new, &file), 0);
    let (old, new) = (old.backend(), new.backend());
    let (mut delivered, mut waits) = (0, 0);
    for id in &before {
        match (new.state(id).as_str(), old.state(id).as_str()) {
            ("delivered", "delivered") => delivered += 1,
            // What was delivered after it was read comes again, with its id.
            ("queued", _) => waits += 1,
            other => panic!("{id}: {other:?}"),
        }
    }
    assert!(delivered > 0 && waits > 0, "{delivered} {waits}");
}

/// Posts event after event, each until it is accepted, wherever backends are led to now. Gives the ids in order.
fn post_until(stop: &AtomicBool, target: &Mutex<Backend>, poster: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{poster}-{}", ids.len());
        let event = json!({ "target": { "device": "box" }, "type": "test", "data": key }).to_string();
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let id = wait_for("the event is accepted", SOON * 3, || {
            let backend = target.lock().unwrap().clone();
            let answer = backend.try_request("POST", "/v1/events", &headers, event.as_bytes()).ok()?;
            let accepted = matches!(answer.status, 200 | 202);
            assert!(accepted || answer.status == 503, "{answer:?}");
            accepted.then(|| answer.json()["id"].as_str().unwrap().to_owned())
        });
        ids.push(id);
    }
    ids
}

/// Applies what comes until the connection ends, until `enough`, or for a minute.
fn apply(device: &Device, applied: &Mutex<Vec<String>>, enough: impl Fn(&[String]) -> bool) {
    let until = Instant::now() + SOON * 3;
    while device.is_connected() && Instant::now() < until && !enough(&applied.lock().unwrap()) {
        if let Some(event) = device.event(NEVER) {
            let mut applied = applied.lock().unwrap();
            if !applied.contains(&event.id) {
                applied.push(event.id);
            }
        }
    }
}

#[test]
fn a_move_by_the_guide_loses_nothing() {
    let mut old = Service::start();
    old.backend().add_device("box", "secret");
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let new = Service::start_with(on_redis(&redis));
    let (target, stop, applied) = (Mutex::new(old.backend()), AtomicBool::new(false), Mutex::default());
    let device = Device::online(&old, "box", "secret");
    let ids: Vec<Vec<String>> = std::thread::scope(|scope| {
        let posters: Vec<_> = (0..2).map(|poster| (poster, &target, &stop)).collect();
        let posters: Vec<_> = posters
            .into_iter()
            .map(|(poster, target, stop)| scope.spawn(move || post_until(stop, target, poster)))
            .collect();
        let reader = scope.spawn(|| apply(&device, &applied, |_| false));
        let applied_more = |by: usize| {
            let from = applied.lock().unwrap().len();
            wait_for("more is applied", SOON, || {
                (applied.lock().unwrap().len() >= from + by).then_some(())
            });
        };
        applied_more(100);

        // The guide, step 2: where nobody finds it.
        assert_eq!(old.stop(), Some(0));
        reader.join().unwrap();
        let nowhere = "127.0.0.1:0".parse().unwrap();
        (old.http, old.https, old.admin, old.xmpp, old.xmpps) = (nowhere, nowhere, nowhere, nowhere, nowhere);
        old.run();
        // Steps 3 to 5.
        let file = old.dir().join("move.ndjson");
        export(&old, &file);
        assert_eq!(summary(&import(&new, &file), 0)["complete"], json!(true));
        assert_eq!(new.metric("unpoll_queue_depth"), old.metric("unpoll_queue_depth"));
        old.stop();
        let key = target.lock().unwrap().key.clone();
        *target.lock().unwrap() = new.backend().with_key(&key);
        let device = Device::online(&new, "box", "secret");
        std::thread::scope(|inner| {
            let reader = inner.spawn(|| apply(&device, &applied, |_| stop.load(Ordering::Relaxed)));
            applied_more(100);
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        let ids: Vec<Vec<String>> = posters.into_iter().map(|poster| poster.join().unwrap()).collect();
        let total: usize = ids.iter().map(Vec::len).sum();
        apply(&device, &applied, |applied| applied.len() >= total);
        device.close();
        ids
    });
    let applied = applied.into_inner().unwrap();
    assert_eq!(
        applied.len(),
        ids.iter().map(Vec::len).sum::<usize>(),
        "nothing is lost, and nothing is stored twice"
    );
    for ids in &ids {
        let in_order: Vec<&String> = applied.iter().filter(|id| ids.contains(id)).collect();
        assert_eq!(in_order, ids.iter().collect::<Vec<_>>(), "in the order of acceptance");
    }
}

/// Kibibytes of a line of /proc/PID/status.
fn memory(service: &Service, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let line = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// By how much a step raises the memory of the service at most, in KiB.
fn peak(service: &Service, step: impl FnOnce()) -> u64 {
    let before = memory(service, "VmRSS");
    fs::write(format!("/proc/{}/clear_refs", service.id()), "5").unwrap();
    step();
    memory(service, "VmHWM").saturating_sub(before)
}

/// A hundred devices with a thousand events each: 100,000 events, 100 MB.
fn write_many(header: &str, file: &Path) {
    let parsed: Value = serde_json::from_str(header).unwrap();
    let key = data_encoding::HEXLOWER
        .decode(parsed["export"]["id_key"].as_str().unwrap().as_bytes())
        .unwrap();
    let key = EventIdKey::new(&key.try_into().unwrap());
    let mut out = std::io::BufWriter::new(File::create(file).unwrap());
    writeln!(out, "{header}").unwrap();
    let filling = "x".repeat(700);
    let at = "2026-11-01T00:00:00.000Z";
    for ordinal in 1..=100_u32 {
        let device = format!("box-{ordinal}");
        let row = json!({"device": {
            "tenant": 0, "id": device, "ordinal": ordinal, "cohort": "push", "credential_generation": 0,
            "created_at": at, "updated_at": at, "number": 1000, "seqs": [0, 0, 1000, 0], "epoch": 0,
        }});
        writeln!(out, "{row}").unwrap();
        let bucket = unpoll::store::DeviceKey {
            tenant: TenantId(0),
            device: device.parse().unwrap(),
        }
        .bucket();
        for number in 1..=1_000 {
            let place = Located {
                tenant: TenantId(0),
                bucket,
                ordinal,
                queue: Some(Queue::Rest),
                number,
            };
            let row = json!({"delivery": {
                "id": key.seal(place).to_string(), "device": device, "accepted_at": at, "expires_at": "2999-01-01T00:00:00.000Z",
                "urgency": "normal", "require": "acknowledged", "seq": number, "attempt": 1,
                "waits": {"data": {"specversion": "1.0", "id": number.to_string(), "source": "/t", "type": "t", "data": {"x": filling}}},
            }});
            writeln!(out, "{row}").unwrap();
        }
    }
    writeln!(out, "{}", json!({"end": {"devices": 100, "deliveries": 100_000}})).unwrap();
}

#[test]
fn a_hundred_thousand_events_move_in_bounded_memory() {
    let source = Service::start();
    let small = source.dir().join("small.ndjson");
    export(&source, &small);
    let file = source.dir().join("many.ndjson");
    write_many(fs::read_to_string(&small).unwrap().lines().next().unwrap(), &file);
    let bytes = fs::metadata(&file).unwrap().len();
    assert!(bytes > 90_000_000, "{bytes}");

    let service = Service::start();
    let imported = peak(&service, || {
        let answer = summary(&import(&service, &file), 0);
        assert_eq!(answer["stored"]["deliveries"], json!(100_000), "{answer}");
    });
    assert_eq!(service.metric("unpoll_queue_depth"), Some(100_000.0));

    let mut read = 0;
    let exported = peak(&service, || {
        let mut child = service.command().arg("export").stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let mut piece = vec![0; 1024 * 1024];
        loop {
            let count = pipe.read(&mut piece).unwrap();
            if count == 0 {
                break;
            }
            read += count as u64;
        }
        assert!(child.wait().unwrap().success());
    });
    println!("{bytes} bytes: import {imported} KiB more at its peak, export {exported} KiB");
    assert!(read > 90_000_000, "{read}");
    // The engine's own tables and blocks in memory are within these, too.
    assert!(imported < 200 * 1024, "{imported} KiB");
    assert!(exported < 64 * 1024, "{exported} KiB");
}
