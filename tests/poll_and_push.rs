//! A device that changes between polls and a session at any moment, under load, with its connections killed: it loses nothing and
//! applies nothing twice, by the one rule of the guides.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    collections::BTreeSet,
    io::Write,
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use support::{Backend, Device, Kill, Poller, Pushed, Resumption, Service, basic, wait_for};

const DEVICES: usize = 4;
const URGENCIES: [&str; 3] = ["low", "normal", "high"];
/// Changes of mind of each device.
const TURNS: usize = 60;

#[test]
fn a_box_that_changes_between_polls_and_a_session_loses_and_repeats_nothing() {
    let service = Arc::new(Service::start());
    let backend = service.backend();
    for device in 0..DEVICES {
        backend.add_device(&format!("box-{device}"), "secret");
    }
    let posting = Arc::new(AtomicBool::new(true));
    let posted: Arc<Mutex<Vec<Vec<String>>>> = Arc::new(Mutex::new(vec![Vec::new(); DEVICES]));
    let poster = {
        let (backend, posting, posted) = (backend.clone(), posting.clone(), posted.clone());
        thread::spawn(move || post(&backend, &posting, &posted))
    };
    let boxes: Vec<_> = (0..DEVICES)
        .map(|number| {
            let service = service.clone();
            thread::spawn(move || changes_its_mind(&service, number))
        })
        .collect();
    let applied: Vec<_> = boxes.into_iter().map(|one| one.join().unwrap()).collect();
    posting.store(false, Ordering::SeqCst);
    poster.join().unwrap();
    let posted = posted.lock().unwrap().clone();
    for (number, (device, posted)) in applied.into_iter().zip(posted).enumerate() {
        // Whatever is left comes with the last polls.
        let poller = Poller::new(&service, &format!("box-{number}"), "secret");
        drain(&device, &poller);
        let record = device.record();
        assert_eq!(
            record.out_of_order(),
            [],
            "an event came behind a later one of its lane: it was lost"
        );
        assert_eq!(record.applied_twice(), [], "one event under two numbers");
        let applied = record.applied();
        let ids: BTreeSet<&str> = applied.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids.len(), applied.len(), "each once");
        assert_eq!(ids, posted.iter().map(String::as_str).collect(), "all of them");
        assert!(posted.len() >= TURNS, "there was load: {}", posted.len());
        for event in &posted {
            wait_for("it is delivered", Duration::from_secs(60), || {
                (backend.state(event) == "delivered").then_some(())
            });
        }
    }
    let total: usize = posted_total(&service);
    let delivered = service.metric("unpoll_deliveries_total{reason=\"none\",state=\"delivered\"}");
    assert_eq!(delivered, Some(total as f64), "each is counted once");
}

fn posted_total(service: &Service) -> usize {
    service.metric("unpoll_events_accepted_total{durability=\"disk\"}").unwrap() as usize
}

fn post(backend: &Backend, posting: &AtomicBool, posted: &Mutex<Vec<Vec<String>>>) {
    let mut number = 0;
    while posting.load(Ordering::SeqCst) {
        number += 1;
        let device = number % DEVICES;
        let event = json!({
            "target": { "device": format!("box-{device}") }, "type": "load", "urgency": URGENCIES[number % 3],
            "require": if number % 5 == 0 { "received" } else { "acknowledged" }, "data": number,
        });
        let answer = backend.post(&event);
        if answer.status == 429 {
            // On a slow machine the queue fills; the boxes catch up.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        let answer = answer.expect(202);
        posted.lock().unwrap()[device].push(answer.json()["id"].as_str().unwrap().to_owned());
    }
}

/// A box with a mind of its own. What it applied, by either door, is in the one record.
fn changes_its_mind(service: &Service, number: usize) -> Device {
    let id = format!("box-{number}");
    let poller = Poller::new(service, &id, "secret");
    let mut device = Device::online(service, &id, "secret");
    let mut dice = Dice(0x9e37_79b9 + number as u64);
    let mut after = String::new();
    for _ in 0..TURNS {
        match dice.roll(10) {
            // Reads on, and acknowledges later or never.
            0..=1 => after = apply(&device, &poller.poll(&format!("after={after}"))),
            // Reads everything and acknowledges by id, while a session may be there.
            2..=3 => {
                let answer = poller.poll("");
                apply(&device, &answer);
                let ids = answer.ids();
                poller.acknowledge(&ids.iter().map(String::as_str).collect::<Vec<_>>());
            }
            4..=5 => {
                let answer = poller.poll("");
                after = apply(&device, &answer);
                poller.acks(&json!({ "upto": after })).expect(200);
            }
            // A poll whose answer never arrives.
            6 => half_a_poll(service, &id),
            7 => drop(poller.poll(&format!("after={after}&wait=1"))),
            8 => {
                device.kill(if dice.roll(2) == 0 { Kill::Reset } else { Kill::Close });
                let back = device.resume().or_else(|_| device.reconnect().map(|()| Resumption::Anew));
                back.expect("it comes back");
            }
            _ => {
                device.kill(Kill::Close);
                device.reconnect().expect("it comes back");
            }
        }
        receipts(&device);
    }
    // It ends as a box that polls.
    device.kill(Kill::Close);
    device
}

/// Events of the session that a box looks at before it changes its mind again. Under load there is always one more.
const LOOKED_AT: usize = 30;

/// Sends the receipts that the events of the session ask for.
fn receipts(device: &Device) {
    for _ in 0..LOOKED_AT {
        let Some(event) = device.event(Duration::from_millis(20)) else {
            return;
        };
        if event.wants_receipt && device.is_connected() {
            device.received(&event);
        }
    }
}

/// Applies an answer by the rule of the guides. Gives where it left off.
fn apply(device: &Device, answer: &support::Answer) -> String {
    for event in answer.events() {
        device.record().judge(&Pushed {
            id: event.id,
            lane: event.lane,
            seq: event.seq,
            ..Pushed::default()
        });
    }
    answer.next()
}

fn drain(device: &Device, poller: &Poller) {
    loop {
        let answer = poller.poll("").expect(200);
        let next = apply(device, &answer);
        if answer.events().is_empty() {
            return;
        }
        poller.acks(&json!({ "upto": next })).expect(200);
    }
}

/// A poll whose connection breaks before its answer is read.
fn half_a_poll(service: &Service, id: &str) {
    let mut socket = TcpStream::connect(service.http).unwrap();
    let credentials = basic(&format!("{id}@localhost"), "secret");
    let request = format!("GET /v1/devices/{id}/events HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
}

/// Dice that fall the same way every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
