//! `kill -9` under load, again and again: nothing that was answered with 2xx is lost, and a device that follows the guide
//! applies nothing twice and nothing out of order within a lane.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use loadtest::{dice::Dice, redis};
use serde_json::{Value, json};
use support::{Backend, Device, Event, Kill, Listening, Pushed, Resumption, Service, Settings, Told, wait_for};

/// What `tests/all` runs; `tests/long` sets more.
const KILLS: usize = 20;
const RECEIPTS: usize = 2_000;
const CUTS: usize = 20;
const DEVICES: usize = 6;
const POSTERS: usize = 4;
const URGENCIES: [&str; 3] = ["low", "normal", "high"];

#[test]
fn nothing_accepted_is_lost_when_the_process_is_killed_twenty_times_under_load() {
    let kills = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().expect("KILLS is a number"));
    let service = Service::start();
    let backend = service.backend();
    for device in 0..DEVICES {
        backend.add_device(&format!("box-{device}"), "secret");
    }
    // Ports and data directory stay the same over restarts, so the load needs to know nothing of them.
    let service = Arc::new(RwLock::new(service));
    let (posting, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let accepted: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let answers = Arc::new(AtomicUsize::new(0));

    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| {
            let (backend, posting, accepted, answers) = (backend.clone(), posting.clone(), accepted.clone(), answers.clone());
            thread::spawn(move || post(poster, &backend, &posting, &accepted, &answers))
        })
        .collect();
    let pairs = {
        let (backend, posting) = (backend.clone(), posting.clone());
        thread::spawn(move || post_to_pairs(&backend, &posting))
    };
    let devices: Vec<_> = (0..DEVICES)
        .map(|device| {
            let (service, stop) = (service.clone(), stop.clone());
            thread::spawn(move || follow_the_guide(&format!("box-{device}"), &service, &stop))
        })
        .collect();

    for kill in 0..kills {
        // The load runs again before the next kill: some events were answered since the last one.
        let before = answers.load(Ordering::SeqCst);
        wait_for("the load goes on", Duration::from_secs(60), || {
            (answers.load(Ordering::SeqCst) >= before + 25).then_some(())
        });
        let mut running = service.write().unwrap();
        running.kill();
        running.run();
        drop(running);
        assert_eq!(backend.get("/v1/limits").status, 200, "healthy again after kill {kill}");
    }

    posting.store(false, Ordering::SeqCst);
    posters.into_iter().for_each(|poster| poster.join().unwrap());
    let mut accepted = accepted.lock().unwrap().clone();
    assert!(accepted.len() >= kills * 25);
    // Of an event to two devices each delivery is one more.
    let pairs = pairs.join().unwrap();
    assert!(!pairs.is_empty());
    for event in &pairs {
        let page = backend.get(&format!("/v1/events/{event}/deliveries")).expect(200).json();
        for item in page["items"].as_array().unwrap() {
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            accepted.insert(text("delivery"), text("device"));
        }
    }

    // Everything drains to its device: no event is pending for ever.
    let mut open: BTreeSet<&String> = accepted.keys().collect();
    wait_for("every accepted event is delivered", Duration::from_secs(120), || {
        open.retain(|event| backend.state(event) != "delivered");
        open.is_empty().then_some(())
    });
    stop.store(true, Ordering::SeqCst);
    let mut applied = BTreeMap::new();
    for (device, thread) in devices.into_iter().enumerate() {
        let log = thread.join().unwrap();
        check_one_device(&log);
        for event in log {
            let twice = applied.insert(event.id.clone(), format!("box-{device}"));
            assert!(twice.is_none(), "{} was applied twice", event.id);
        }
    }
    for (event, device) in &accepted {
        assert_eq!(applied.get(event), Some(device), "{event} was accepted for {device}");
    }
    // An event may be applied whose answer the kill swallowed; then it was stored, and its poster retried with its key.
    println!("{} accepted, {} applied, {kills} kills", accepted.len(), applied.len());
}

#[test]
fn what_was_told_of_a_request_with_many_events_is_there_after_a_kill_in_the_middle_of_it() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let on_redis = Settings::default()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary");
    for mut service in [Service::start(), Service::start_with(on_redis)] {
        let backend = service.backend();
        (0..DEVICES).for_each(|device| backend.add_device(&format!("box-{device}"), "secret"));
        let mut socket = TcpStream::connect(backend.address).unwrap();
        let head = format!(
            "POST /v1/events?results=all HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nContent-Type: application/x-ndjson\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            backend.key
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut sending = socket.try_clone().unwrap();
        let sender = thread::spawn(move || {
            for number in 0.. {
                let event = json!({ "target": { "device": format!("box-{}", number % DEVICES) }, "type": "load", "data": number });
                let line = format!("{event}\n");
                // Until the kill.
                if sending.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).is_err() {
                    return;
                }
            }
        });
        let (mut answer, mut piece) = (Vec::new(), [0; 16 * 1024]);
        let ids = |answer: &[u8]| String::from_utf8_lossy(answer).matches(r#""status":202"#).count();
        while ids(&answer) < 300 {
            let read = socket.read(&mut piece).unwrap();
            assert!(read > 0, "it ended early: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        service.kill();
        // What was told last may be in the socket still.
        while let Ok(read @ 1..) = socket.read(&mut piece) {
            answer.extend_from_slice(&piece[..read]);
        }
        drop(socket);
        sender.join().unwrap();
        service.run();
        let answer = String::from_utf8(answer).unwrap();
        let told = answer.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told: BTreeSet<String> = told.filter_map(|item| Some(item.get("id")?.as_str()?.to_owned())).collect();
        assert!(told.len() >= 300, "{} ids", told.len());
        let mut stored = BTreeSet::new();
        for device in 0..DEVICES {
            let mut path = format!("/v1/devices/box-{device}/deliveries?limit=1000");
            loop {
                let page = backend.get(&path).expect(200).json();
                stored.extend(
                    page["items"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|item| item["event"].as_str().unwrap().to_owned()),
                );
                let Some(next) = page["next"].as_str() else { break };
                path = format!("/v1/devices/box-{device}/deliveries?limit=1000&cursor={next}");
            }
        }
        let lost: Vec<_> = told.difference(&stored).collect();
        assert!(lost.is_empty(), "{} of {} are not there: {lost:?}", lost.len(), told.len());
    }
}

#[test]
fn a_consumer_of_receipts_that_is_cut_again_and_again_sees_each_once() {
    sees_each_receipt_once("embedded", vec![Service::start()]);
}

#[test]
fn a_consumer_that_is_cut_and_goes_on_at_any_node_sees_each_receipt_once() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let settings = Settings::default()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary");
    let nodes = (0..2).map(|_| Service::start_with(settings.clone())).collect();
    sees_each_receipt_once("Redis, two nodes", nodes);
}

/// Events are posted and delivered, two times a node is killed, and a consumer of receipts that remembers nothing but its last id is cut at
/// random.
fn sees_each_receipt_once(engine: &str, nodes: Vec<Service>) {
    let number = |name: &str, otherwise| std::env::var(name).map_or(otherwise, |number| number.parse().expect("a number"));
    let (wanted, cuts) = (number("RECEIPTS", RECEIPTS), number("CUTS", CUTS));
    let backends: Vec<Backend> = nodes.iter().map(|node| nodes[0].backend().at(node.http)).collect();
    for device in 0..DEVICES {
        backends[0].add_device(&format!("box-{device}"), "secret");
    }
    let nodes: Vec<_> = nodes.into_iter().map(|node| Arc::new(RwLock::new(node))).collect();
    let (posting, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let accepted: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let (answers, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let consumer = {
        let (backends, stop, seen) = (backends.clone(), stop.clone(), seen.clone());
        // More often than is asked for, because how often is chance.
        let most = (wanted * 3 / cuts / 2) as u64;
        thread::spawn(move || consume(&backends, most, &stop, &seen))
    };
    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| {
            let backend = backends[poster % backends.len()].clone();
            let (posting, accepted, answers) = (posting.clone(), accepted.clone(), answers.clone());
            thread::spawn(move || post(poster, &backend, &posting, &accepted, &answers))
        })
        .collect();
    let devices: Vec<_> = (0..DEVICES)
        .map(|device| {
            let (node, stop) = (nodes[device % nodes.len()].clone(), stop.clone());
            thread::spawn(move || follow_the_guide(&format!("box-{device}"), &node, &stop))
        })
        .collect();

    let posted = |count: usize| {
        wait_for("the load goes on", Duration::from_secs(900), || {
            (answers.load(Ordering::SeqCst) >= count).then_some(())
        });
    };
    for kill in 0..2 {
        posted(wanted * (kill + 1) / 3);
        let mut running = nodes[kill % nodes.len()].write().unwrap();
        running.kill();
        running.run();
    }
    posted(wanted);
    posting.store(false, Ordering::SeqCst);
    posters.into_iter().for_each(|poster| poster.join().unwrap());
    let accepted = accepted.lock().unwrap().clone();
    wait_for("a receipt of every event", Duration::from_secs(120), || {
        (seen.lock().unwrap().len() >= accepted.len()).then_some(())
    });
    stop.store(true, Ordering::SeqCst);
    let cut = consumer.join().unwrap();
    devices.into_iter().for_each(|device| drop(device.join().unwrap()));

    let seen = seen.lock().unwrap();
    assert!(cut >= cuts, "{cut}");
    assert!(
        seen.is_sorted_by(|one, other| one.id < other.id),
        "a cursor came twice, or out of order"
    );
    let text = |told: &Told, name: &str| told.data[name].as_str().unwrap().to_owned();
    let events: BTreeMap<String, String> = seen.iter().map(|told| (text(told, "event"), text(told, "device"))).collect();
    assert_eq!(events, accepted);
    assert_eq!(seen.len(), accepted.len(), "each event has one receipt");
    assert!(
        seen.iter()
            .all(|told| told.data["state"] == "delivered" && told.data["session_epoch"].is_u64())
    );
    // Whoever reads them at once reads the same, under the same cursors.
    let mut whole = Listening::receipts(&backends[0], "?from=oldest", None);
    for told in seen.iter() {
        assert_eq!(&whole.expect(), told);
    }
    println!(
        "\n{} accepted, each receipt seen once by cursor, {cut} cuts, 2 kills, {engine}",
        accepted.len()
    );
}

/// Reads receipts, at any of the nodes, until it is cut at random, and goes on behind the last one. Answers how often it was cut.
fn consume(backends: &[Backend], most: u64, stop: &AtomicBool, seen: &Mutex<Vec<Told>>) -> usize {
    let mut dice = Dice::new(u64::from(std::process::id()));
    let (mut cuts, mut last) = (0, None::<String>);
    while !stop.load(Ordering::SeqCst) {
        let backend = &backends[dice.below(backends.len() as u64) as usize];
        let path = if last.is_some() {
            "/v1/receipts"
        } else {
            "/v1/receipts?from=oldest"
        };
        let mut stream = match Listening::try_at(backend, path, last.as_deref()) {
            Ok(Ok(stream)) => stream,
            Ok(Err(answer)) => {
                assert!(matches!(answer.status, 429 | 503), "{answer:?}");
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            // Killed.
            Err(_) => {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        let mut left = 1 + dice.below(most);
        while left > 0 {
            let Some(told) = stream.next(Duration::from_millis(500)) else {
                break;
            };
            last = Some(told.cursor.clone());
            if told.kind == "receipt" {
                seen.lock().unwrap().push(told);
            } else {
                assert_eq!(told.kind, "", "{told:?}");
            }
            left -= 1;
        }
        cuts += usize::from(left == 0);
    }
    cuts
}

/// Posts without pause; on failure retries the same event with the same key, as the backend guide says.
fn post(poster: usize, backend: &Backend, posting: &AtomicBool, accepted: &Mutex<BTreeMap<String, String>>, answers: &AtomicUsize) {
    let mut number = 0;
    while posting.load(Ordering::SeqCst) {
        number += 1;
        let device = format!("box-{}", number % DEVICES);
        let event = json!({
            "target": { "device": device }, "type": "load", "urgency": URGENCIES[number % 3],
            "data": { "poster": poster, "number": number },
        });
        let id = until_taken(backend, &format!("{poster}-{number}"), &event);
        accepted.lock().unwrap().insert(id, device);
        answers.fetch_add(1, Ordering::SeqCst);
    }
}

/// The same with events to two devices each. Answers their ids.
fn post_to_pairs(backend: &Backend, posting: &AtomicBool) -> Vec<String> {
    let mut accepted = Vec::new();
    while posting.load(Ordering::SeqCst) {
        let number = accepted.len() + 1;
        let pair = [number, number + 1].map(|number| format!("box-{}", number % DEVICES));
        let event = json!({
            "target": { "devices": pair }, "type": "load", "urgency": URGENCIES[number % 3],
            "data": { "poster": POSTERS, "number": number },
        });
        accepted.push(until_taken(backend, &format!("pair-{number}"), &event));
    }
    accepted
}

/// Posts an event until it is accepted; answers its id.
fn until_taken(backend: &Backend, key: &str, event: &Value) -> String {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let body = event.to_string();
    loop {
        match backend.try_request("POST", "/v1/events", &headers, body.as_bytes()) {
            Ok(answer) if matches!(answer.status, 200 | 202) => return answer.json()["id"].as_str().expect("an id").to_owned(),
            Ok(answer) => assert!(matches!(answer.status, 429 | 503), "{answer:?}"),
            // Killed before it answered: stored or not, the key makes the retry harmless.
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Connects, applies, and comes back whenever the connection ends, resuming where it can. Gives each event applied, in order.
fn follow_the_guide(id: &str, service: &RwLock<Service>, stop: &AtomicBool) -> Vec<Pushed> {
    let mut device = Device::online(&service.read().unwrap(), id, "secret");
    let mut applied = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        applied.extend(device.event(Duration::from_millis(100)));
        if !device.is_connected() {
            // The lock keeps the login from meeting a kill half way; deliveries do meet it.
            let _running = service.read().unwrap();
            device.kill(Kill::Close);
            device
                .resume()
                .or_else(|_| device.reconnect().map(|()| Resumption::Anew))
                .expect("it comes back");
        }
    }
    applied.extend(std::iter::from_fn(|| device.event(Duration::from_millis(100))));
    assert_eq!(device.record().out_of_order(), [], "out of order within a lane");
    assert_eq!(device.record().applied_twice(), [], "the same event under two numbers");
    applied
}

/// Each poster's events for this device came in the order in which it posted them, within each lane.
fn check_one_device(applied: &[Pushed]) {
    let mut last: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for event in applied {
        let data = event.data();
        let number = data["number"].as_u64().unwrap();
        let before = last.insert((event.lane.clone(), data["poster"].as_u64().unwrap()), number);
        assert!(
            before.is_none_or(|before| before < number),
            "out of order in {}: {before:?} then {number}",
            event.lane
        );
    }
}
