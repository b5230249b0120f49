//! `tests/screenshots` runs this to make the pictures of docs/images anew.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    browser::{Browser, SIZES},
    support::{Backend, Device, Kill, Service, Settings},
};

/// How many devices, and for how long before the pictures with load are taken.
const DEVICES: usize = 60;
/// How many more poll all the while, as cohort control.
const CONTROL: usize = 30;
const LOAD: Duration = Duration::from_secs(330);

#[test]
#[ignore = "makes pictures, six minutes"]
fn pictures_of_the_page() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    fs::create_dir_all(&folder).unwrap();
    let empty = Service::start();
    let mut browser = Browser::open(&format!("http://{}/", empty.admin));
    take(&mut browser, &folder, "empty");
    drop(empty);

    let settings = Settings::default()
        .set("UNPOLL_LEDGER_POLL_INTERVAL_SECS", "10")
        .set("UNPOLL_XMPP_KEEPALIVE_SECS", "30");
    let service = Service::start_with(settings);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| live(&service, &over));
        scope.spawn(|| control(&service, &over));
        let _over = AtTheEnd(&over);
        let begin = Instant::now();
        let mut browser = Browser::open(&format!("http://{}/", service.admin));
        while begin.elapsed() < LOAD {
            std::thread::sleep(Duration::from_secs(1));
            browser.complaints();
        }
        take(&mut browser, &folder, "load");
    });
}

/// Ends the load, also when something goes wrong.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Devices come, get events, drop off and come back.
fn live(service: &Service, over: &AtomicBool) {
    let backend = service.backend();
    let id = |number: usize| format!("box-{number}");
    let mut devices: Vec<Device> = Vec::new();
    let (mut turn, mut down, mut chance) = (0, None, 42_u64);
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        if devices.len() < DEVICES && turn % 8 == 0 {
            backend.add_device(&id(devices.len()), "secret");
            devices.push(Device::online(service, &id(devices.len()), "secret"));
        }
        // A slow tide of events, with a burst now and then.
        let (pause, burst) = ([9, 7, 5, 7][(turn / 400) % 4], turn % 1_100 < 25);
        if !devices.is_empty() && (burst || turn % pause == 0) {
            push(&backend, &id((turn * 7) % devices.len()));
        }
        // Those that poll get theirs at times that have nothing to do with their polls.
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if (chance >> 33) % 30 == 0 && devices.len() == DEVICES {
            push(&backend, &format!("control-{}", (chance >> 40) as usize % CONTROL));
        }
        if turn % 60 == 0 && !devices.is_empty() {
            if let Some(back) = down.take() {
                let device: &mut Device = &mut devices[back];
                device.resume().expect("it comes back");
            }
            let at = turn % devices.len();
            devices[at].kill(Kill::Reset);
            down = Some(at);
        }
        if turn % 300 == 0 {
            backend.post(&json!({ "target": { "device": "not-added" }, "type": "t" }));
        }
        std::thread::sleep(Duration::from_millis(60));
    }
}

/// Devices that go on polling, each every 10 s and a little more or less, and now and then find an event.
fn control(service: &Service, over: &AtomicBool) {
    let backend = service.backend();
    let door = backend.with_key("");
    let id = |number: usize| format!("control-{number}");
    for number in 0..CONTROL {
        let body = json!({ "password": "secret", "cohort": "control" });
        backend.send("PUT", &format!("/v1/devices/{}", id(number)), &body).expect(201);
    }
    let begin = Instant::now();
    let spread = |number: usize, turn: usize| Duration::from_millis(((number * 37 + turn * 53) % 61 * 33) as u64);
    let mut due: Vec<Duration> = (0..CONTROL).map(|number| Duration::from_millis(333) * number as u32).collect();
    let mut turn = 0;
    while !over.load(Ordering::Relaxed) {
        let (number, at) = due.iter().copied().enumerate().min_by_key(|(_, at)| *at).unwrap();
        std::thread::sleep(at.saturating_sub(begin.elapsed()));
        turn += 1;
        let login = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{}@localhost:secret", id(number)));
        let login = format!("Basic {login}");
        let login = [("authorization", login.as_str())];
        let path = format!("/v1/devices/{}", id(number));
        let polled = door.request("GET", &format!("{path}/events"), &login, b"").expect(200).json();
        if polled["events"].as_array().is_some_and(|events| !events.is_empty()) {
            let ids: Vec<_> = polled["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["id"].clone())
                .collect();
            let headers = [login[0], ("content-type", "application/json")];
            let acks = json!({ "ids": ids }).to_string();
            door.request("POST", &format!("{path}/acks"), &headers, acks.as_bytes()).expect(200);
        }
        due[number] += Duration::from_secs(9) + spread(number, turn);
    }
}

fn push(backend: &Backend, device: &str) {
    backend.push(device, &json!({ "program": "SH016916860000" }));
}

/// Three sizes; the wall in the dark.
fn take(browser: &mut Browser, folder: &Path, name: &str) {
    browser.until_live();
    browser.until("!document.getElementById('day-table').hidden");
    std::thread::sleep(Duration::from_secs(4));
    for (size, width, height) in SIZES {
        browser.scheme(if size == "wall" { "dark" } else { "light" });
        browser.size(width, height);
        std::thread::sleep(Duration::from_millis(1_500));
        browser.shot(&folder.join(format!("page-{name}-{size}.png")));
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
