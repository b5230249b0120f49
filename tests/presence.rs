//! Who comes and who goes: the feed of presence, and answers of several nodes that never go back.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use loadtest::redis;
use serde_json::{Value, json};
use support::{Backend, Device, Listening, SOON, Service, Settings, Told, wait_for, wait_for_presence};

const NEVER: Duration = Duration::from_millis(700);

struct Nodes {
    nodes: Vec<Service>,
    key: String,
    _redis: redis::Server,
}

impl Nodes {
    fn start(count: usize, settings: Settings) -> Self {
        let redis = redis::Server::start(&redis::Settings::default()).unwrap();
        let mut environment = Settings::default()
            .set("UNPOLL_REDIS_URL", &redis.url())
            .set("UNPOLL_REDIS_DURABILITY", "primary")
            .set("UNPOLL_REDIS_HEARTBEAT_MS", "500")
            .set("UNPOLL_REDIS_NODE_LOST_SECS", "3")
            .environment;
        environment.extend(settings.environment);
        let settings = Settings {
            environment,
            ..Settings::default()
        };
        let nodes: Vec<Service> = (0..count).map(|_| Service::start_with(settings.clone())).collect();
        let key = nodes[0].admin_key();
        Self { nodes, key, _redis: redis }
    }

    fn backend(&self, node: usize) -> Backend {
        Backend {
            address: self.nodes[node].http,
            key: self.key.clone(),
        }
    }

    fn name(&self, node: usize) -> String {
        self.nodes[node].ready["node"].as_str().unwrap().to_owned()
    }
}

/// Devices whose presence is told with that filter.
fn found_by_filter(backend: &Backend, filter: &str) -> Vec<String> {
    let page = backend.get(&format!("/v1/presence?filter={filter}")).expect(200).json();
    assert_eq!(page["next"], Value::Null, "{page}");
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| item["device"].as_str().unwrap().to_owned()).collect()
}

/// A row as the tests compare it: kind, device, node, reason.
fn seen(told: &Told) -> (String, String, String, String) {
    let text = |name: &str| told.data[name].as_str().unwrap_or("-").to_owned();
    (told.kind.clone(), text("device"), text("node"), text("reason"))
}

fn row(kind: &str, device: &str, node: &str, reason: &str) -> (String, String, String, String) {
    (kind.to_owned(), device.to_owned(), node.to_owned(), reason.to_owned())
}

/// The whole feed, as far as it goes now.
fn all(backend: &Backend, count: usize) -> Vec<Told> {
    let mut stream = Listening::open(backend, "?after=0", None);
    (0..count).map(|_| stream.expect()).collect()
}

#[test]
fn connects_hops_and_goodbyes_are_seen_in_one_order_at_every_node() {
    let nodes = Nodes::start(3, Settings::default());
    nodes.backend(0).add_device("box", "secret");
    nodes.backend(0).add_device("tv", "secret");
    let mut streams: Vec<Listening> = (0..3).map(|node| Listening::open(&nodes.backend(node), "", None)).collect();
    let mut devices = Vec::new();
    for node in &nodes.nodes {
        devices.push(Device::online(node, "box", "secret"));
    }
    let names: Vec<String> = (0..3).map(|node| nodes.name(node)).collect();
    // The list, asked anywhere.
    for node in 0..3 {
        let list = nodes.backend(node).get("/v1/presence?limit=1").expect(200).json();
        let items = list["items"].as_array().unwrap();
        assert_eq!((items.len(), &items[0]["device"]), (1, &json!("box")));
        assert_eq!((&items[0]["state"], &items[0]["node"]), (&json!("online"), &json!(names[2])));
        let next = format!("/v1/presence?cursor={}", list["next"].as_str().unwrap());
        let list = nodes.backend(node).get(&next).expect(200).json();
        assert_eq!(list["items"][0]["device"], "tv");
        assert_eq!((&list["items"][0]["state"], &list["next"]), (&json!("offline"), &Value::Null));
        // The same by filter, wherever the session is.
        let by_filter = |filter: &str| found_by_filter(&nodes.backend(node), filter);
        assert_eq!(by_filter("state%20%3D%20online"), ["box"]);
        assert_eq!(by_filter("NOT%20state%20%3D%20online%20AND%20id%20%3D%20t*"), ["tv"]);
        assert_eq!(by_filter("state%20%3D%20online%20AND%20id%20%3D%20tv"), Vec::<String>::new());
    }
    devices.pop().unwrap().close();
    let expected = [
        row("connected", "box", &names[0], "-"),
        row("disconnected", "box", &names[0], "conflict"),
        row("connected", "box", &names[1], "-"),
        row("disconnected", "box", &names[1], "conflict"),
        row("connected", "box", &names[2], "-"),
        row("disconnected", "box", &names[2], "stream"),
    ];
    let told: Vec<Vec<Told>> = streams.iter_mut().map(|stream| (0..6).map(|_| stream.expect()).collect()).collect();
    assert_eq!(told[0].iter().map(seen).collect::<Vec<_>>(), expected);
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
    let epochs: Vec<u64> = told[0].iter().map(|told| told.data["session_epoch"].as_u64().unwrap()).collect();
    assert!(
        epochs[0] == epochs[1] && epochs[2] == epochs[3] && epochs[4] == epochs[5],
        "{epochs:?}"
    );
    assert!(epochs.is_sorted() && epochs[0] < epochs[2] && epochs[2] < epochs[4], "{epochs:?}");
    assert_eq!(told[0][0].data["transport"], "xmpps");
    for stream in &mut streams {
        assert_eq!(stream.next(NEVER), None);
    }
}

#[test]
fn a_stream_goes_on_at_another_node_when_its_own_is_killed() {
    let mut nodes = Nodes::start(3, Settings::default());
    let devices: Vec<String> = (0..6).map(|number| format!("box{number}")).collect();
    for device in &devices {
        nodes.backend(0).add_device(device, "secret");
    }
    let over = Arc::new(AtomicBool::new(false));
    // They come and go at two nodes that live on.
    let coming_and_going: Vec<_> = devices
        .iter()
        .enumerate()
        .map(|(number, device)| {
            let options = Device::options(&nodes.nodes[2 * (number % 2)], device, "secret");
            let over = over.clone();
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    Device::connect(options.clone()).unwrap().close();
                }
            })
        })
        .collect();
    let mut stream = Listening::open(&nodes.backend(1), "", None);
    let mut got: Vec<Told> = (0..40).map(|_| stream.expect()).collect();
    nodes.nodes[1].kill();
    // What was on its way still counts, whole or not.
    while let Some(told) = stream.next(NEVER) {
        got.push(told);
    }
    let mut stream = Listening::open(&nodes.backend(2), "", Some(stream.last));
    got.extend((0..40).map(|_| stream.expect()));
    over.store(true, Ordering::Relaxed);
    coming_and_going.into_iter().for_each(|device| device.join().unwrap());
    while let Some(told) = stream.next(NEVER * 3) {
        got.push(told);
    }
    let (first, last) = (got[0].id, got.last().unwrap().id);
    let whole: Vec<Told> = {
        let mut whole = Listening::open(&nodes.backend(0), "?after=0", None);
        let mut told = Vec::new();
        while told.last().is_none_or(|told: &Told| told.id < last) {
            told.push(whole.expect());
        }
        told.into_iter().filter(|told| (first..=last).contains(&told.id)).collect()
    };
    assert_eq!(got.len(), whole.len());
    assert_eq!(got, whole, "nothing is lost, and nothing comes twice");
    // Each device by turns comes and goes.
    let mut of_device: BTreeMap<String, Vec<&Told>> = BTreeMap::new();
    for told in whole.iter().filter(|told| told.kind != "node-lost") {
        of_device
            .entry(told.data["device"].as_str().unwrap().to_owned())
            .or_default()
            .push(told);
    }
    for (device, told) in of_device {
        assert!(told.windows(2).all(|two| two[0].kind != two[1].kind), "{device}: {told:?}");
        assert!(told.is_sorted_by_key(|told| told.data["session_epoch"].as_u64()), "{device}");
    }
}

#[test]
fn a_dead_node_is_told_once_and_then_its_devices_at_a_pace_though_the_one_who_tells_dies_too() {
    let pace = Settings::default()
        .set("UNPOLL_PRESENCE_LOST_SEATS_PER_SECOND", "10")
        .set("UNPOLL_REDIS_NODE_LOST_SECS", "6");
    let mut nodes = Nodes::start(3, pace);
    let devices: Vec<String> = (0..50).map(|number| format!("box{number:02}")).collect();
    for device in &devices {
        nodes.backend(0).add_device(device, "secret");
    }
    let _there: Vec<Device> = devices
        .iter()
        .map(|device| Device::online(&nodes.nodes[1], device, "secret"))
        .collect();
    let dead = nodes.name(1);
    let connected = all(&nodes.backend(0), 50);
    assert!(connected.iter().all(|told| told.kind == "connected" && told.data["node"] == *dead));
    let before = connected.last().unwrap().id;
    nodes.nodes[1].kill();
    // Eight are elsewhere before anybody knows that their node is dead.
    let (hopped, stayed) = devices.split_at(8);
    let _here: Vec<Device> = hopped
        .iter()
        .map(|device| Device::online(&nodes.nodes[2], device, "secret"))
        .collect();

    let ended = |node: &Service| node.metric("unpoll_presence_lost_seats_total").unwrap_or(0.0);
    let one = wait_for("somebody to end the seats", SOON, || {
        [0, 2].into_iter().find(|node| ended(&nodes.nodes[*node]) >= 5.0)
    });
    assert!(ended(&nodes.nodes[one]) < 42.0, "it takes its time");
    let second = nodes.name(one);
    nodes.nodes[one].kill();
    let other = 2 - one;
    let lost_later = if other == 0 { 8 } else { 0 };
    let told = wait_for("the whole feed", SOON * 2, || {
        let told = drain(&nodes.backend(other), before);
        let lost = told.iter().filter(|told| told.data["reason"] == "node-lost").count();
        let nodes_lost = told.iter().filter(|told| told.kind == "node-lost").count();
        (nodes_lost == 2 && lost >= 42 + lost_later).then_some(told)
    });
    for node in [&dead, &second] {
        let times = told
            .iter()
            .filter(|told| told.kind == "node-lost" && told.data["node"] == **node)
            .count();
        assert_eq!(times, 1, "{node} is told as lost");
    }
    let begins = told.iter().position(|told| told.kind == "node-lost").unwrap();
    assert_eq!(told[begins].data["node"], *dead);
    let lost: Vec<&Told> = told
        .iter()
        .filter(|told| told.data["reason"] == "node-lost" && told.data["node"] == *dead)
        .collect();
    let of: BTreeSet<&str> = lost.iter().map(|told| told.data["device"].as_str().unwrap()).collect();
    assert_eq!((lost.len(), of.len()), (42, 42), "each once");
    assert_eq!(of, stayed.iter().map(String::as_str).collect());
    assert!(lost.iter().all(|row| row.id > told[begins].id));
    for device in hopped {
        let told: Vec<_> = told.iter().filter(|told| told.data["device"] == **device).map(seen).collect();
        assert_eq!(
            told[..2],
            [
                row("disconnected", device, &dead, "conflict"),
                row("connected", device, &nodes.name(2), "-")
            ]
        );
    }
    // Ten a second.
    let time = |told: &Told| told.data["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let took = time(lost.last().unwrap()).duration_since(time(lost[0]));
    assert!(took.as_secs_f64() >= 3.5, "{took:?}");
}

/// What the feed tells behind a position, as far as it goes now.
fn drain(backend: &Backend, after: u64) -> Vec<Told> {
    let mut stream = Listening::open(backend, &format!("?after={after}"), None);
    let mut told = Vec::new();
    while let Some(one) = stream.next(Duration::from_millis(400)) {
        told.push(one);
    }
    told
}

#[test]
fn a_node_that_was_only_cut_off_has_its_devices_again() {
    let nodes = Nodes::start(2, Settings::default());
    nodes.backend(0).add_device("box", "secret");
    let device = Device::online(&nodes.nodes[1], "box", "secret");
    let mut stream = Listening::open(&nodes.backend(0), "?after=0", None);
    let name = nodes.name(1);
    let first = stream.expect();
    assert_eq!(seen(&first), row("connected", "box", &name, "-"));
    nodes.nodes[1].signal(rustix::process::Signal::STOP);
    assert_eq!(seen(&stream.expect()), row("node-lost", "-", &name, "-"));
    assert_eq!(seen(&stream.expect()), row("disconnected", "box", &name, "node-lost"));
    assert_eq!(nodes.backend(0).presence("box"), "offline");
    nodes.nodes[1].signal(rustix::process::Signal::CONT);
    let back = stream.expect();
    assert_eq!(seen(&back), row("connected", "box", &name, "-"));
    assert_eq!(back.data["session_epoch"], first.data["session_epoch"], "it is the same session");
    wait_for_presence(&nodes.backend(0), "box", "online");
    let id = nodes.backend(0).push("box", &json!({ "n": 1 }));
    assert_eq!(device.expect_event().id, id);
    device.close();
    assert_eq!(seen(&stream.expect()), row("disconnected", "box", &name, "stream"));
}

#[test]
fn presence_never_goes_back_whoever_is_asked() {
    let nodes = Nodes::start(3, Settings::default());
    nodes.backend(0).add_device("box", "secret");
    let over = Arc::new(AtomicBool::new(false));
    let hops = {
        let options: Vec<_> = nodes.nodes.iter().map(|node| Device::options(node, "box", "secret")).collect();
        let over = over.clone();
        std::thread::spawn(move || {
            let (mut before, mut hops) = (None, 0);
            while !over.load(Ordering::Relaxed) {
                // Slowed when it hops too often: that is what a cloned identity looks like.
                let device = Device::connect(options[hops % 3].clone()).unwrap();
                if hops % 4 == 3 {
                    device.close();
                } else {
                    // The older connection is cut by the newer one.
                    drop(before.replace(device));
                }
                hops += 1;
            }
            hops
        })
    };
    let until = Instant::now() + Duration::from_secs(6);
    let (mut last, mut states, mut answers) = ((0, String::new()), BTreeSet::new(), 0);
    while Instant::now() < until {
        for node in 0..3 {
            // One after the other: each is asked when the one before has answered. By turns alone and in the list.
            let presence = if answers % 2 == 0 {
                nodes.backend(node).get("/v1/devices/box/presence").expect(200).json()
            } else {
                nodes.backend(node).get("/v1/presence").expect(200).json()["items"][0].clone()
            };
            let now = (
                presence["session_epoch"].as_u64().unwrap_or(0),
                presence["state"].as_str().unwrap().to_owned(),
            );
            assert!(now.0 >= last.0, "{now:?} of node {node} after {last:?}");
            states.insert(now.1.clone());
            last = now;
            answers += 1;
        }
    }
    over.store(true, Ordering::Relaxed);
    let hops = hops.join().unwrap();
    assert!(
        hops >= 4 && answers > 50 && states.contains("online"),
        "{hops} hops, {answers} answers, {states:?}"
    );
}

#[test]
fn the_only_node_tells_of_the_sessions_that_it_had_when_it_was_killed() {
    let mut service = Service::start_with(Settings::default().set("UNPOLL_PRESENCE_LOST_SEATS_PER_SECOND", "10"));
    let backend = service.backend();
    let devices: Vec<String> = (0..12).map(|number| format!("box{number:02}")).collect();
    for device in &devices {
        backend.add_device(device, "secret");
    }
    let mut there: Vec<Device> = devices.iter().map(|device| Device::online(&service, device, "secret")).collect();
    there.remove(0).close();
    let told = all(&backend, 13);
    assert_eq!(seen(&told[12]), row("disconnected", "box00", "n1", "stream"));
    let last = told[12].id;
    service.kill();
    service.run();
    let back = Device::online(&service, "box11", "secret");
    assert_eq!(found_by_filter(&backend, "state%20%3D%20online"), ["box11"]);
    assert_eq!(found_by_filter(&backend, "state%20!%3D%20online").len(), 11);
    assert_eq!(
        backend.get("/v1/presence?filter=state%20%3D%20asleep").expect(400).slug(),
        "invalid-filter"
    );
    let mut stream = Listening::open(&backend, "", Some(last));
    // One node-lost, ten that stay away, and the one that is back: told, and gone from what is ended.
    let told: Vec<Told> = (0..13).map(|_| stream.expect()).collect();
    assert_eq!(seen(&told[0]), row("node-lost", "-", "n1", "-"));
    let lost: BTreeSet<&str> = told
        .iter()
        .filter(|told| told.data["reason"] == "node-lost")
        .map(|told| told.data["device"].as_str().unwrap())
        .collect();
    let back_at = told.iter().position(|told| told.kind == "connected").unwrap();
    assert_eq!(told[back_at].data["device"], "box11");
    // The eleventh may have been told before it was back.
    assert_eq!(told[back_at - 1].data["device"].as_str().is_some(), back_at > 1);
    assert!(
        lost.len() >= 10 && devices[1..11].iter().all(|device| lost.contains(device.as_str())),
        "{lost:?}"
    );
    let time = |told: &Told| told.data["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(stream.next(NEVER), None);
    assert!(time(told.last().unwrap()).duration_since(time(&told[0])).as_secs_f64() >= 0.7);
    // In good order nobody is lost.
    assert_eq!(service.stop(), Some(0));
    assert!(stream.ends());
    service.run();
    let told = drain(&backend, told.last().unwrap().id);
    assert_eq!(
        told.iter().map(seen).collect::<Vec<_>>(),
        [row("disconnected", "box11", "n1", "shutdown")]
    );
    drop(back);
}

#[test]
fn a_cursor_that_is_too_old_is_told_of_a_gap_and_streams_have_a_bound() {
    let mut service = Service::start_with(
        Settings::default()
            .set("UNPOLL_LIMITS_PRESENCE_CHANGES_MAX", "5")
            .set("UNPOLL_DISPATCH_SWEEP_SECS", "1")
            .set("UNPOLL_PRESENCE_STREAMS_MAX", "2"),
    );
    let backend = service.backend();
    backend.add_device("box", "secret");
    let mut slow = Listening::open(&backend, "", None);
    for _ in 0..5 {
        Device::online(&service, "box", "secret").close();
    }
    let told: Vec<Told> = (0..10).map(|_| slow.expect()).collect();
    // Once the sweeper was there, five are left.
    let gap = wait_for("the gap", SOON, || {
        let mut stream = Listening::try_open(&backend, "", Some(told[0].id)).ok()?;
        let first = stream.expect();
        (first.kind == "gap").then(|| (first, stream.expect()))
    });
    assert_eq!(gap.0.data, json!({ "after": told[0].id, "from": told[5].id }));
    assert_eq!(gap.1, told[5]);
    // The cursor of a client that sends one by itself comes before the one of the address.
    let mut stream = wait_for("room", SOON, || Listening::try_open(&backend, "?after=0", Some(told[8].id)).ok());
    assert_eq!(stream.expect(), told[9]);
    // One of another life of the store.
    drop(stream);
    let mut stream = wait_for("room", SOON, || {
        Listening::try_open(&backend, &format!("?after={}", u64::MAX), None).ok()
    });
    let first = stream.expect();
    assert_eq!((first.kind.as_str(), first.id), ("gap", told[9].id));

    let full = Listening::try_open(&backend, "", None).err().unwrap();
    assert_eq!((full.status, full.slug()), (503, "too-many-streams".to_owned()));
    assert!(full.header("retry-after").is_some());
    drop(stream);
    let _again = wait_for("room", SOON, || Listening::try_open(&backend, "", None).ok());

    for (query, slug) in [
        ("?after=x", "invalid-parameter"),
        ("?after=-1", "invalid-parameter"),
        ("?colour=red", "invalid-parameter"),
    ] {
        assert_eq!(Listening::try_open(&backend, query, None).err().unwrap().slug(), slug, "{query}");
    }
    assert_eq!(
        backend.request("GET", "/v1/presence/stream", &[("last-event-id", "x")], b"").slug(),
        "invalid-field"
    );
    let key = backend
        .send("POST", "/v1/keys", &json!({"name": "p", "scope": "push"}))
        .expect(201)
        .json();
    let poster = backend.with_key(key["key"].as_str().unwrap());
    assert_eq!(poster.get("/v1/presence/stream").expect(403).slug(), "forbidden");
    assert_eq!(poster.get("/v1/presence").expect(403).slug(), "forbidden");
    assert!(service.metric("unpoll_presence_gaps_total").unwrap() >= 2.0);
    assert_eq!(service.metric("unpoll_presence_streams"), Some(2.0));
    assert_eq!(service.stop(), Some(0));
    assert!(slow.ends(), "a stop ends it");
}
