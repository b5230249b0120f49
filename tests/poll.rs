//! A box that still polls, as its maker meets the door; and one that changes between polls and a session as it likes.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    io::Write,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Acks, Backend, Device, Options, Poller, SOON, Service, Settings, basic, wait_for, wait_for_presence};

fn scene(settings: Settings) -> (Service, Backend, Poller) {
    let service = Service::start_with(settings);
    let backend = service.backend();
    backend.add_device("box", "secret");
    let poller = Poller::new(&service, "box", "secret");
    (service, backend, poller)
}

fn waits(service: &Service, polls: u32) {
    wait_for("long polls wait", SOON, || {
        (service.metric("unpoll_polls_waiting") == Some(f64::from(polls))).then_some(())
    });
}

#[test]
fn an_event_goes_from_a_post_to_a_poll_to_its_acknowledgement() {
    let (service, backend, poller) = scene(Settings::default());
    let empty = poller.poll("").expect(200);
    assert_eq!((empty.events(), empty.json()["poll_after_seconds"].clone()), (vec![], json!(900)));
    assert_eq!(
        (empty.header("retry-after"), empty.header("content-type")),
        (Some("900"), Some("application/json"))
    );
    let text = json!({ "title": "Жалюзи & 電視 <tag> \u{1f4fa} \"\\", "lines": "a\nb" });
    let id = backend.push("box", &text);
    let shown = poller.poll("").expect(200).events();
    assert_eq!(
        (shown.len(), &shown[0].id, &shown[0].event["data"], shown[0].seq),
        (1, &id, &text, 1)
    );
    assert_eq!(shown[0].event["specversion"], "1.0");
    assert!(shown[0].lane.starts_with("normal."), "{shown:?}");
    assert_eq!(backend.state(&id), "queued", "a poll is no acknowledgement");
    assert_eq!(backend.presence("box"), "offline", "nor is it a session");
    let done = poller.acknowledge(&[&id]);
    assert_eq!(done, json!({ "acknowledged": 1, "ended_before": 0, "unknown": [] }));
    assert_eq!(backend.state(&id), "delivered");
    assert_eq!(poller.poll("").expect(200).events(), []);
    assert_eq!(
        service.metric("unpoll_deliveries_total{reason=\"none\",state=\"delivered\"}"),
        Some(1.0)
    );
    assert_eq!(
        service.metric("unpoll_delivery_latency_seconds_count{urgency=\"normal\"}"),
        Some(1.0)
    );
    // The password was checked once; then its HMAC was known.
    assert_eq!(service.metric("unpoll_poll_logins_total{result=\"checked\"}"), Some(1.0));
    assert_eq!(service.metric("unpoll_poll_logins_total{result=\"known\"}"), Some(3.0));
}

#[test]
fn a_long_poll_is_answered_as_its_event_arrives() {
    let (service, backend, poller) = scene(Settings::default());
    let start = poller.poll("").expect(200);
    let (polling, next) = (poller.clone(), start.next());
    let poll = thread::spawn(move || (polling.wait(&next, Duration::from_secs(60)), Instant::now()));
    waits(&service, 1);
    let posted = Instant::now();
    let id = backend.push("box", &json!(1));
    let (answer, answered) = poll.join().unwrap();
    assert_eq!((answer.ids(), answer.json()["poll_after_seconds"].clone()), (vec![id], json!(0)));
    let late = answered.duration_since(posted);
    assert!(
        late < Duration::from_secs(4),
        "{late:?} is no longer at once: it looks by itself every 5 s"
    );
}

#[test]
fn nothing_new_is_304_and_what_waits_never_is() {
    let (_service, backend, poller) = scene(Settings::default());
    let id = backend.push("box", &json!(1));
    let first = poller.poll("").expect(200);
    let (next, etag) = (first.next(), first.header("etag").unwrap().to_owned());
    let unchanged = poller.poll_knowing(&format!("after={next}"), &etag).expect(304);
    assert_eq!(
        (unchanged.header("etag"), unchanged.header("retry-after")),
        (Some(etag.as_str()), Some("900"))
    );
    assert_eq!(unchanged.body, "");
    assert_eq!(poller.poll_knowing("", &etag).expect(200).ids(), [id], "it is not acknowledged");
    let more = backend.push("box", &json!(2));
    let second = poller.poll_knowing(&format!("after={next}"), &etag).expect(200);
    assert_eq!(second.ids(), [more]);
    assert_ne!(second.header("etag"), Some(etag.as_str()));
    poller.acks(&json!({ "upto": second.next() })).expect(200);
    // Polls without a cursor have an entity tag of their own.
    let empty = poller.poll("").expect(200);
    poller.poll_knowing("", empty.header("etag").unwrap()).expect(304);
}

#[test]
fn pages_are_read_on_and_acknowledged_up_to_where_they_were_shown() {
    let (_service, backend, poller) = scene(Settings::default().set("UNPOLL_POLL_PAGE_MAX_EVENTS", "4"));
    let mut ids: Vec<String> = (0..9).map(|number| backend.push("box", &json!(number))).collect();
    let urgent = json!({ "target": { "device": "box" }, "type": "t", "data": "first", "urgency": "high" });
    ids.insert(0, backend.post(&urgent).expect(202).json()["id"].as_str().unwrap().to_owned());
    let (mut shown, mut after) = (Vec::new(), String::new());
    loop {
        let page = poller.poll(&format!("after={after}")).expect(200);
        shown.extend(page.ids());
        after = page.next();
        if page.json()["poll_after_seconds"] != 0 {
            break;
        }
    }
    assert_eq!(shown, ids, "high goes first, then the rest by acceptance");
    let unseen = backend.push("box", &json!("unseen"));
    let done = poller.acks(&json!({ "upto": after })).expect(200).json();
    assert_eq!(done["acknowledged"], 10);
    assert_eq!(poller.poll("").expect(200).ids(), [unseen]);
}

/// What became of an event, without what differs between any two.
fn fate(backend: &Backend, event: &str) -> Value {
    let mut delivery = backend.get(&format!("/v1/events/{event}/deliveries")).expect(200).json()["items"][0].clone();
    let fields = delivery.as_object_mut().unwrap();
    for other in [
        "event",
        "delivery",
        "device",
        "accepted_at",
        "expires_at",
        "at",
        "seq",
        "session_epoch",
    ] {
        assert!(fields.remove(other).is_some(), "{other}");
    }
    let replaced = fields.insert("replaced_by".into(), Value::Null);
    fields.insert("is_replaced".into(), json!(replaced.is_some_and(|by| !by.is_null())));
    delivery
}

/// What happens between an event's arrival at its device and its acknowledgement; given the device and the event.
type Between<'a> = &'a dyn Fn(&str, &str);

/// Each story once with a device that has the event on its screen by XMPP, and once by a poll, before it acknowledges.
#[test]
fn an_acknowledgement_has_the_same_fate_by_either_door() {
    let (service, backend, poller) = scene(Settings::default());
    backend.add_device("pushed", "secret");
    let options = Device::options(&service, "pushed", "secret");
    let device = Device::connect(Options {
        acks: Acks::Never,
        sends_receipts: false,
        ..options
    })
    .unwrap();
    let post = |device: &str, fields: &Value| {
        let mut event = json!({ "target": { "device": device }, "type": "t", "data": 1 });
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        backend.post(&event).expect(202).json()["id"].as_str().unwrap().to_owned()
    };
    let key = json!({ "collapse_key": "k" });
    let nothing = |_: &str, _: &str| {};
    let replace = |device: &str, _: &str| drop(post(device, &key));
    let cancel = |_: &str, event: &str| drop(backend.delete(&format!("/v1/events/{event}")).expect(200));
    let stories: [(&str, Value, Between<'_>); 4] = [
        ("delivered", json!({ "urgency": "high" }), &nothing),
        ("delivered", json!({ "require": "received" }), &nothing),
        ("cancelled", json!({}), &cancel),
        ("replaced", key.clone(), &replace),
    ];
    for (state, fields, between) in stories {
        let by_push = post("pushed", &fields);
        let pushed = std::iter::from_fn(|| Some(device.expect_event()))
            .find(|event| event.id == by_push)
            .unwrap();
        between("pushed", &by_push);
        if pushed.wants_receipt {
            device.received(&pushed);
        }
        device.acknowledge();
        let by_poll = post("box", &fields);
        assert!(poller.poll("").expect(200).ids().contains(&by_poll));
        between("box", &by_poll);
        let done = poller.acknowledge(&[&by_poll]);
        assert_eq!(done["ended_before"], u8::from(state != "delivered"));
        let expected = wait_for("the acknowledgement by XMPP is settled", SOON, || {
            let fate = fate(&backend, &by_push);
            (fate["state"] == state && (state == "delivered" || fate["outcome"] == "late-ack")).then_some(fate)
        });
        assert_eq!(fate(&backend, &by_poll), expected, "{state}");
        let left = poller.poll("").expect(200);
        poller.acks(&json!({ "upto": left.next() })).expect(200);
    }
    let timeline = |device: &str| backend.get(&format!("/v1/devices/{device}/deliveries")).expect(200).json()["items"].clone();
    assert_eq!(
        timeline("box").as_array().unwrap().len(),
        timeline("pushed").as_array().unwrap().len()
    );
}

#[test]
fn an_expired_event_is_shown_by_no_poll() {
    let (_service, backend, poller) = scene(Settings::default());
    let event = json!({ "target": { "device": "box" }, "type": "t", "ttl": 1 });
    let id = backend.post(&event).expect(202).json()["id"].as_str().unwrap().to_owned();
    let now_or_never = json!({ "target": { "device": "box" }, "type": "t", "ttl": 0 });
    let never = backend.post(&now_or_never).expect(202).json()["id"].as_str().unwrap().to_owned();
    wait_for("it expires", SOON, || (backend.state(&id) == "expired").then_some(()));
    assert_eq!(poller.poll("").expect(200).events(), []);
    assert_eq!(
        poller.acknowledge(&[&never])["unknown"],
        json!([never]),
        "a poll has no session to pass it to"
    );
}

#[test]
fn an_event_on_its_way_to_a_session_can_be_taken_by_a_poll() {
    let (service, backend, poller) = scene(Settings::default());
    let options = Device::options(&service, "box", "secret");
    let device = Device::connect(Options {
        acks: Acks::Never,
        ..options
    })
    .unwrap();
    let ids: Vec<String> = (0..3).map(|number| backend.push("box", &json!(number))).collect();
    ids.iter().for_each(|id| assert_eq!(&device.expect_event().id, id));
    assert_eq!(backend.state(&ids[0]), "dispatched");
    assert_eq!(poller.poll("").expect(200).ids(), ids, "what nobody acknowledged is shown");
    assert_eq!(poller.acknowledge(&[&ids[0], &ids[1]])["acknowledged"], 2);
    assert_eq!(
        (backend.state(&ids[0]), backend.state(&ids[2])),
        ("delivered".into(), "dispatched".into())
    );
    device.acknowledge();
    wait_for("the last is delivered", SOON, || {
        (backend.state(&ids[2]) == "delivered").then_some(())
    });
    assert_eq!(
        service.metric("unpoll_deliveries_total{reason=\"none\",state=\"delivered\"}"),
        Some(3.0)
    );
    assert_eq!(backend.push("box", &json!(4)), device.expect_event().id, "the session goes on");
}

#[test]
fn a_cursor_holds_over_a_restart_of_the_service() {
    let (mut service, backend, poller) = scene(Settings::default());
    backend.push("box", &json!(1));
    let first = poller.poll("").expect(200);
    service.kill();
    service.run();
    let id = backend.push("box", &json!(2));
    assert_eq!(poller.poll(&format!("after={}", first.next())).expect(200).ids(), [id.as_str()]);
    assert_eq!(poller.acks(&json!({ "upto": first.next() })).expect(200).json()["acknowledged"], 1);
    assert_eq!(poller.poll("").expect(200).ids(), [id]);
    // A store that was lost starts a new life: nothing is hidden by what was read in the last.
    drop(service);
    let (_service, backend, poller) = scene(Settings::default());
    let id = backend.push("box", &json!(3));
    assert_eq!(poller.poll(&format!("after={}", first.next())).expect(200).ids(), [id]);
    assert_eq!(poller.acks(&json!({ "upto": first.next() })).expect(200).json()["acknowledged"], 0);
}

#[test]
fn only_the_device_itself_is_let_in() {
    let (service, backend, poller) = scene(Settings::default());
    backend.add_device("other", "secret");
    let check = |poller: &Poller, status, slug: &str| {
        for answer in [poller.poll(""), poller.acks(&json!({ "ids": [] }))] {
            assert_eq!((answer.status, answer.slug().as_str()), (status, slug));
        }
    };
    poller.poll("").expect(200);
    let wrong = Poller::new(&service, "box", "Secret");
    check(&wrong, 401, "wrong-credentials");
    assert_eq!(
        wrong.poll("").header("www-authenticate"),
        Some("Basic realm=\"unpoll\", charset=\"UTF-8\"")
    );
    check(&Poller::new(&service, "nobody", "secret"), 401, "wrong-credentials");
    check(
        &Poller::logged_in_as(&service, "box", "box@elsewhere.example", "secret"),
        401,
        "wrong-credentials",
    );
    check(&Poller::logged_in_as(&service, "box", "other", "secret"), 403, "other-device");
    Poller::logged_in_as(&service, "box", "box", "secret").poll("").expect(200);
    // A key opens none of these paths, and a password none of the others.
    let events = "/v1/devices/box/events";
    assert_eq!(backend.get(events).slug(), "wrong-credentials");
    let password = basic("box@localhost", "secret");
    let nobody = backend.with_key("");
    let device = nobody.request("GET", "/v1/devices/box", &[("authorization", &password)], b"");
    assert_eq!((device.status, device.slug().as_str()), (401, "unauthenticated"));
    for (method, path) in [("PUT", events), ("GET", "/v1/devices/box/acks"), ("OPTIONS", events)] {
        let refused = nobody.request(method, path, &[("authorization", &password)], b"");
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (405, "method-not-allowed"),
            "{method} {path}"
        );
    }
    // A changed password ends the old one at once, though it was known; a removed device is nobody.
    backend
        .send("PUT", "/v1/devices/box", &json!({ "password": "changed" }))
        .expect(200);
    check(&poller, 401, "wrong-credentials");
    let changed = Poller::new(&service, "box", "changed");
    changed.poll("").expect(200);
    backend.delete("/v1/devices/box").expect(204);
    check(&changed, 401, "wrong-credentials");
    assert_eq!(service.metric("unpoll_refusals_total{slug=\"other-device\"}"), Some(2.0));
}

#[test]
fn long_polls_are_bounded_and_end_at_once_when_the_service_stops() {
    let settings = Settings::default()
        .set("UNPOLL_POLL_WAITS_MAX", "2")
        .set("UNPOLL_POLL_WAITS_PER_DEVICE_MAX", "1");
    let (mut service, backend, poller) = scene(settings);
    for other in ["two", "three"] {
        backend.add_device(other, "secret");
    }
    let (two, three) = (Poller::new(&service, "two", "secret"), Poller::new(&service, "three", "secret"));
    let polls: Vec<_> = [poller.clone(), two]
        .into_iter()
        .map(|poller| thread::spawn(move || poller.wait("", Duration::from_secs(60))))
        .collect();
    waits(&service, 2);
    for beyond in [&poller, &three] {
        let refused = beyond.wait("", Duration::from_secs(60)).expect(429);
        assert_eq!((refused.slug().as_str(), refused.header("retry-after")), ("overloaded", Some("10")));
        assert_eq!(beyond.poll("").expect(200).events(), [], "a short poll waits for nobody");
    }
    let began = Instant::now();
    assert_eq!(service.stop(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for poll in polls {
        let answer = poll.join().unwrap().expect(200);
        assert_eq!((answer.events(), answer.header("retry-after")), (vec![], Some("5")));
    }
}

/// The program of the guide: TLS, unicode, pages; killed, and the service killed under it; then the same box by push and back.
#[test]
fn the_python_box_of_the_guide_applies_each_event_once() {
    let (mut service, backend, _) = scene(Settings::default().set("UNPOLL_POLL_POLL_AFTER_SECS", "1"));
    let journal = service.dir().join("events.jsonl");
    let mut ids = vec![backend.push("box", &json!({ "title": "Жалюзи & 電視 \u{1f4fa}" }))];
    let mut python = Python::start(&service, &journal, "0");
    delivered(&backend, &ids);
    drop(python);
    ids.extend((0..150).map(|number| backend.push("box", &json!(number))));
    python = Python::start(&service, &journal, "60");
    delivered(&backend, &ids);
    service.kill();
    service.run();
    ids.extend((0..3).map(|number| backend.push("box", &json!({ "after": number }))));
    // The port of HTTPS is another one now.
    drop(python);
    python = Python::start(&service, &journal, "60");
    delivered(&backend, &ids);
    backend.delete("/v1/devices/box").expect(204);
    let status = wait_for("a box that is no more gives up", SOON, || python.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let text = std::fs::read_to_string(&journal).unwrap();
    let applied: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let applied_ids: Vec<&str> = applied.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(applied_ids, ids.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(applied[0]["event"]["data"]["title"], "Жалюзи & 電視 \u{1f4fa}");
}

/// The program, until it is dropped.
struct Python(Child);

impl Python {
    fn start(service: &Service, journal: &Path, wait: &str) -> Self {
        let https = service.ready["https"].as_str().unwrap().replace("127.0.0.1", "localhost");
        let child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/poll.py"))
            .args(["box@localhost", &format!("https://{https}")])
            .arg(journal)
            .arg(wait)
            .env("UNPOLL_PASSWORD", "secret")
            .env("SSL_CERT_FILE", service.ca())
            .env("no_proxy", "*")
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("python3"))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn delivered(backend: &Backend, ids: &[String]) {
    for id in ids {
        wait_for("the event is delivered", SOON, || (backend.state(id) == "delivered").then_some(()));
    }
}

#[test]
fn a_box_that_goes_away_leaves_no_wait_behind() {
    let (service, _, _) = scene(Settings::default());
    let mut socket = TcpStream::connect(service.http).unwrap();
    let password = basic("box", "secret");
    write!(
        socket,
        "GET /v1/devices/box/events?wait=60 HTTP/1.1\r\nhost: x\r\nauthorization: {password}\r\n\r\n"
    )
    .unwrap();
    waits(&service, 1);
    drop(socket);
    waits(&service, 0);
}

#[test]
fn curl_polls_over_https() {
    let (service, backend, _) = scene(Settings::default());
    let id = backend.push("box", &json!({ "by": "curl" }));
    let port = service.ready["https"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let curl = |path: &str, more: &[&str]| {
        let url = format!("https://localhost:{port}/v1/devices/box/{path}");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert"])
            .arg(service.ca())
            .args(["--user", "box@localhost:secret", &url])
            .args(more)
            .output()
            .expect("curl");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let answer = curl("events?wait=10", &[]);
    assert_eq!(
        (&answer["events"][0]["id"], &answer["events"][0]["event"]["data"]["by"]),
        (&json!(id), &json!("curl"))
    );
    let upto = json!({ "upto": answer["next"] }).to_string();
    assert_eq!(curl("acks", &["--data", &upto])["acknowledged"], 1);
    wait_for_presence(&backend, "box", "offline");
}
