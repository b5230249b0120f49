//! The HTTP interface as a backend team meets it.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "http_api/audit.rs"]
mod audit;
#[path = "http_api/documents.rs"]
mod documents;
#[path = "http_api/problems.rs"]
mod problems;
mod support;

use std::time::Duration;

use loadtest::{redis, session::Managed};
use serde_json::{Value, json};
use support::{
    Acks, Answer, Backend, Device, Event, Kill, Listening, Options, Poller, Resumption, SOON, Service, Settings, wait_for,
    wait_for_presence,
};
use unpoll::{
    domain::{GroupPlace, Limits, Require, SystemClock, TenantId, Timestamp, Urgency},
    store::{Copied, Group, GroupRecord, Groups as _, Member, embedded},
};

fn service() -> (Service, Backend) {
    let service = Service::start();
    let backend = service.backend();
    (service, backend)
}

#[track_caller]
fn becomes(backend: &Backend, event: &str, state: &str) {
    wait_for(&format!("{event} is {state}"), support::SOON, || {
        (backend.state(event) == state).then_some(())
    });
}

#[test]
fn an_event_goes_from_a_post_to_its_acknowledgement() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    let posted = backend.post(&json!({
        "id": "rec-88121", "source": "/scheduler", "type": "com.example.recording.scheduled", "time": "2026-11-22T01:30:00Z",
        "data": { "program": "SH016916860000", "title": "Жалюзи & 電視 <tag> \u{1f4fa}" },
        "target": { "device": "BOX" }, "ttl": 600, "urgency": "high", "require": "received",
    }));
    let posted = posted.expect(202);
    let body = posted.json();
    let id = body["id"].as_str().unwrap().to_owned();
    assert_eq!(posted.header("location"), Some(format!("/v1/events/{id}").as_str()));
    assert_eq!(posted.header("push-durability"), Some("disk"));
    assert_eq!((&body["state"], &body["durability"]), (&json!("queued"), &json!("disk")));
    assert!(
        id.len() == 32 && id.bytes().all(|c| c.is_ascii_lowercase() || matches!(c, b'2'..=b'7')),
        "{id}"
    );

    let options = Device::options(&service, "box", "secret");
    let device = Device::connect(Options {
        sends_receipts: false,
        ..options
    })
    .unwrap();
    let event = device.expect_event();
    assert_eq!((&event.id, event.delayed.is_some(), event.wants_receipt), (&id, true, true));
    assert!(event.lane.starts_with("high.") && event.seq == 1, "{event:?}");
    let cloud_event = event.cloud_event();
    assert_eq!(cloud_event["specversion"], "1.0");
    assert_eq!(
        (&cloud_event["id"], &cloud_event["source"]),
        (&json!("rec-88121"), &json!("/scheduler"))
    );
    assert_eq!(cloud_event["data"]["title"], "Жалюзи & 電視 <tag> \u{1f4fa}");
    device.acknowledge();
    assert_ne!(backend.state(&id), "delivered", "the library has it; the application was asked for");
    device.received(&event);
    becomes(&backend, &id, "delivered");
    let fate = backend.get(&format!("/v1/events/{id}")).expect(200).json();
    assert_eq!(fate["id"], json!(id));
}

#[test]
fn cloud_events_arrive_with_their_attributes() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    let device = Device::online(&service, "box", "secret");
    let structured = json!({
        "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "box", "traceparent": "00-1-2-01",
        "pushttl": 60, "data": [1, 2, 3],
    });
    let headers = [("content-type", "application/cloudevents+json; charset=utf-8")];
    backend
        .request("POST", "/v1/events", &headers, structured.to_string().as_bytes())
        .expect(202);
    let got = device.expect_event().cloud_event();
    assert_eq!((&got["traceparent"], &got["data"]), (&json!("00-1-2-01"), &json!([1, 2, 3])));
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "2"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-pushdevice", "box"),
        ("ce-traceparent", "00-1-2-02"),
        ("ttl", "60"),
        ("urgency", "low"),
    ];
    backend.request("POST", "/v1/events", &headers, b"{\"a\":1}").expect(202);
    let event = device.expect_event();
    let got = event.cloud_event();
    assert!(event.lane.starts_with("low."), "{event:?}");
    assert_eq!(
        (&got["id"], &got["traceparent"], &got["data"]),
        (&json!("2"), &json!("00-1-2-02"), &json!({ "a": 1 }))
    );
    let headers: Vec<_> = headers
        .into_iter()
        .map(|header| if header.1 == "2" { ("ce-id", "3") } else { header })
        .collect();
    let headers: Vec<_> = headers
        .into_iter()
        .map(|header| {
            if header.0 == "content-type" {
                ("content-type", "image/png")
            } else {
                header
            }
        })
        .collect();
    backend.request("POST", "/v1/events", &headers, b"\x89PNG\x00").expect(202);
    let got = device.expect_event().cloud_event();
    assert_eq!(
        (&got["data_base64"], &got["datacontenttype"]),
        (&json!("iVBORwA="), &json!("image/png"))
    );
    // source + id is the key: the same event again is the same event.
    let again = backend.request(
        "POST",
        "/v1/events",
        &[("content-type", "application/cloudevents+json")],
        structured.to_string().as_bytes(),
    );
    again.expect(200);
    assert_eq!(device.event(Duration::from_millis(500)), None);
}

#[test]
fn an_event_waits_for_its_device_in_order_and_is_cancelled_replaced_and_expired() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    let post = |fields: Value| {
        let mut event = json!({ "target": { "device": "box" }, "type": "t" });
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        backend.post(&event).expect(202).json()["id"].as_str().unwrap().to_owned()
    };
    let first = post(json!({ "data": 1 }));
    let old = post(json!({ "data": 2, "collapse_key": "todo" }));
    let gone = post(json!({ "data": 3 }));
    let brief = post(json!({ "data": 4, "ttl": 1 }));
    let new = post(json!({ "data": 5, "collapse_key": "todo" }));
    assert_eq!(backend.state(&old), "replaced");
    let cancelled = backend.delete(&format!("/v1/events/{gone}")).expect(200).json();
    assert_eq!(cancelled, json!({ "cancelled": 1, "delivered": 0 }));
    let again = backend.delete(&format!("/v1/events/{gone}")).expect(200).json();
    assert_eq!(again["delivered"], 0, "idempotent: {again}");
    assert_eq!(backend.state(&gone), "cancelled");
    becomes(&backend, &brief, "expired");
    let device = Device::online(&service, "box", "secret");
    assert_eq!([device.expect_event().id, device.expect_event().id], [first.clone(), new.clone()]);
    device.acknowledge();
    becomes(&backend, &first, "delivered");
    becomes(&backend, &new, "delivered");
    assert_eq!(device.event(Duration::from_millis(500)), None);
    let late = backend.delete(&format!("/v1/events/{first}")).expect(200).json();
    assert_eq!(late, json!({ "cancelled": 0, "delivered": 1 }));
    let page = backend.get("/v1/devices/box/deliveries").expect(200).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 5, "the timeline shows all of them: {page}");
}

/// That many seconds from now, and as the interface reads it.
fn ahead(seconds: u64) -> (Timestamp, String) {
    let at = SystemClock::shared().now().plus(Duration::from_secs(seconds));
    (at, at.to_string())
}

/// Events for later: nothing here depends on how long a step takes. What is looked at while it is scheduled is far ahead, and what
/// comes must not come early.
fn events_for_later_come_then_and_once(settings: Settings) {
    let mut service = Service::start_with(settings);
    let backend = service.backend();
    for device in ["box", "polls"] {
        backend.add_device(device, "secret");
    }
    let post = |key: &str, deliver_at: &str, fields: Value| {
        let mut event = json!({ "target": { "device": "box" }, "type": "t", "ttl": 600, "deliver_at": deliver_at });
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        backend.request("POST", "/v1/events", &headers, event.to_string().as_bytes())
    };
    let id = |answer: Answer| answer.json()["id"].as_str().unwrap().to_owned();

    // Scheduled: seen, replaced, cancelled, and asked for again.
    let (far, far_text) = ahead(3_600);
    let posted = post("a", &far_text, json!({ "collapse_key": "todo", "data": 1 })).expect(202);
    assert_eq!(posted.json()["state"], "scheduled");
    let old = id(posted);
    let fate = backend.get(&format!("/v1/events/{old}")).expect(200).json();
    let expires = far.plus(Duration::from_secs(600)).to_string();
    let read = ["state", "deliver_at", "expires_at", "replaced_by"].map(|name| fate[name].clone());
    assert_eq!(read, [json!("scheduled"), json!(far_text), json!(expires), json!(null)]);
    assert_eq!(fate["deliveries"]["scheduled"], 1);
    let page = backend
        .get(&format!("/v1/events/{old}/deliveries?state=scheduled"))
        .expect(200)
        .json();
    let delivery = &page["items"][0];
    assert_eq!((&delivery["attempt"], &delivery["seq"]), (&json!(0), &json!(null)));
    let again = post("a", &far_text, json!({ "collapse_key": "todo", "data": 1 })).expect(200);
    assert_eq!((again.json()["state"].clone(), id(again)), (json!("scheduled"), old.clone()));
    let (_, other) = ahead(7_200);
    post("a", &other, json!({ "collapse_key": "todo", "data": 1 })).expect(409);
    let new = id(post("b", &other, json!({ "collapse_key": "todo", "data": 2 })).expect(202));
    let fate = backend.get(&format!("/v1/events/{old}")).expect(200).json();
    assert_eq!((&fate["state"], &fate["replaced_by"]), (&json!("replaced"), &json!(new)));
    for _ in 0..2 {
        let cancelled = backend.delete(&format!("/v1/events/{new}")).expect(200).json();
        assert_eq!(cancelled, json!({ "cancelled": 1, "delivered": 0 }));
    }
    let structured = json!({
        "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "polls", "pushdeliverat": far_text, "data": 3,
    });
    let headers = [("content-type", "application/cloudevents+json")];
    let kept = backend.request("POST", "/v1/events", &headers, structured.to_string().as_bytes());
    assert_eq!(kept.expect(202).json()["state"], "scheduled");
    assert_eq!(service.metric("unpoll_events_scheduled_total"), Some(3.0));
    // A time that is over is now.
    let now = id(post("c", "2026-01-01T00:00:00+01:00", json!({ "data": 4 })).expect(202));
    assert_eq!(backend.state(&now), "queued");

    // It comes when it is due, though the service was killed meanwhile.
    let (due, due_text) = ahead(2);
    let first = id(post("d", &due_text, json!({ "data": 5 })).expect(202));
    let polled = id(post("e", &due_text, json!({ "target": { "device": "polls" }, "data": 6 })).expect(202));
    service.kill();
    service.run();
    let device = Device::online(&service, "box", "secret");
    assert_eq!(device.expect_event().id, now);
    let event = device.expect_event();
    assert!(SystemClock::shared().now() >= due, "it came early");
    assert_eq!((&event.id, event.attempt), (&first, Some(1)));
    device.acknowledge();
    becomes(&backend, &first, "delivered");
    let poller = Poller::new(&service, "polls", "secret");
    let answer = wait_for("the event that is due is polled", SOON, || {
        let answer = poller.poll("wait=5");
        (!answer.events().is_empty()).then_some(answer)
    });
    assert!(SystemClock::shared().now() >= due, "it came early");
    assert_eq!(answer.ids(), [polled], "what is scheduled is not shown");
    let again = post("d", &due_text, json!({ "data": 5 })).expect(200);
    assert_eq!((again.json()["state"].clone(), id(again)), (json!("delivered"), first));
    assert_eq!(device.event(Duration::from_millis(500)), None, "once");
}

#[test]
fn an_event_for_later_comes_then_and_once() {
    events_for_later_come_then_and_once(Settings::default());
}

#[test]
fn an_event_for_later_comes_then_and_once_on_redis() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let settings = Settings::default()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary")
        .set("UNPOLL_REDIS_HEARTBEAT_MS", "300")
        .set("UNPOLL_REDIS_NODE_LOST_SECS", "3");
    events_for_later_come_then_and_once(settings);
}

#[test]
fn devices_are_kept_listed_changed_and_removed() {
    let (_service, backend) = service();
    let body = json!({ "user": "ann", "attributes": { "model": "stb-7" }, "cohort": "push", "credentials": [{ "type": "password", "value": "secret" }] });
    let put = backend.send("PUT", "/v1/devices/TSN-746", &body);
    assert!(matches!(put.status, 200 | 201), "{put:?}");
    let shown = backend.get("/v1/devices/tsn-746").expect(200);
    assert!(
        !shown.body.contains("secret") && !shown.body.contains("stored_key"),
        "credentials are never echoed: {}",
        shown.body
    );
    let shown = shown.json();
    assert_eq!((&shown["id"], &shown["user"]), (&json!("tsn-746"), &json!("ann")));
    assert_eq!(shown["attributes"]["model"], "stb-7");
    let patched = backend.send("PATCH", "/v1/devices/tsn-746", &json!({ "attributes": { "model": "stb-8" } }));
    assert!(matches!(patched.status, 200 | 204), "{patched:?}");
    assert_eq!(backend.get("/v1/devices/tsn-746").json()["attributes"]["model"], "stb-8");

    let lines: String = (0..250)
        .map(|n| format!("{{\"id\":\"bulk-{n:03}\",\"password\":\"p{n}\"}}\n"))
        .collect();
    let bulk = backend.request("POST", "/v1/devices", &[("content-type", "application/x-ndjson")], lines.as_bytes());
    bulk.expect(200);
    let (mut found, mut path) = (0, "/v1/devices?limit=100".to_owned());
    loop {
        let page = backend.get(&path).expect(200).json();
        found += page["items"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/devices?limit=100&cursor={next}");
    }
    assert_eq!(found, 251);

    assert!(matches!(backend.delete("/v1/devices/tsn-746").status, 200 | 204));
    assert_eq!(backend.get("/v1/devices/tsn-746").status, 410);
    assert_eq!(backend.get("/v1/devices/never-added").status, 404);
}

#[test]
fn a_device_has_at_most_two_passwords_and_a_removed_one_cannot_log_in() {
    let (service, backend) = service();
    let credential = |value: &str| json!({ "type": "password", "value": value });
    let put = |values: &[&str]| {
        let credentials: Vec<Value> = values.iter().map(|value| credential(value)).collect();
        backend.send("PUT", "/v1/devices/box", &json!({ "credentials": credentials }))
    };
    assert!(matches!(put(&["old", "new"]).status, 200 | 201));
    Device::online(&service, "box", "old").close();
    Device::online(&service, "box", "new").close();
    assert!(matches!(put(&["a", "b", "c"]).status, 400 | 409));
    let online = Device::online(&service, "box", "new");
    assert!(matches!(put(&["new"]).status, 200 | 201));
    drop(online);
    let login = Device::connect(Device::options(&service, "box", "old"));
    assert_eq!(
        login.err().and_then(|error| error.refusal().map(str::to_owned)).as_deref(),
        Some("not-authorized")
    );
    Device::online(&service, "box", "new");
}

#[test]
fn presence_follows_the_device() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    let shown = || backend.get("/v1/devices/box/presence").expect(200).json();
    assert_eq!(backend.presence("box"), "offline");
    let device = Device::online(&service, "box", "secret");
    wait_for_presence(&backend, "box", "online");
    let first = shown();
    for field in ["session_epoch", "connected_at", "last_seen_at", "node", "transport"] {
        assert!(!first[field].is_null(), "no {field} in {first}");
    }
    let mut broken = device; // the session waits for resumption
    broken.kill(Kill::Close);
    wait_for_presence(&backend, "box", "away");
    let device = Device::online(&service, "box", "secret");
    wait_for_presence(&backend, "box", "online");
    let second = shown();
    assert!(
        second["session_epoch"].as_u64() > first["session_epoch"].as_u64(),
        "{first} {second}"
    );
    device.close();
    wait_for_presence(&backend, "box", "offline");
}

#[test]
fn a_newer_connection_takes_the_seat_and_the_older_hears_conflict() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    let mut older = Device::online(&service, "box", "secret");
    let newer = Device::online(&service, "box", "secret");
    assert_eq!(older.ended().stream_condition(), Some("conflict"));
    let id = backend.push("box", &json!("for the newer"));
    assert_eq!(newer.expect_event().id, id);
    becomes(&backend, &id, "delivered");
    assert_eq!(older.resume().unwrap(), Resumption::Anew, "its session ended with the conflict");
}

#[test]
fn a_broken_connection_resumes_and_gets_what_it_missed_once() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    let options = Device::options(&service, "box", "secret");
    let mut device = Device::connect(Options {
        acks: Acks::Never,
        ..options
    })
    .unwrap();
    let first = backend.push("box", &json!(1));
    assert_eq!(device.expect_event().id, first);
    device.acknowledge();
    becomes(&backend, &first, "delivered");
    let second = backend.push("box", &json!(2));
    assert_eq!(
        device.expect_event().id,
        second,
        "it arrived, and its acknowledgement never leaves the device"
    );
    device.kill(Kill::Close);
    wait_for_presence(&backend, "box", "away");
    let third = backend.push("box", &json!(3));
    assert_eq!(device.resume().unwrap(), Resumption::Resumed);
    becomes(&backend, &second, "delivered");
    assert_eq!(device.expect_event().id, third);
    device.acknowledge();
    becomes(&backend, &third, "delivered");
    assert_eq!(device.record().repeats(), 0, "h told that the second was handled");
}

#[test]
fn nobody_resumes_a_session_of_another() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    backend.add_device("thief", "secret");
    let device = Device::online(&service, "box", "secret");
    let managed = device.managed();
    assert!(!Device::steals(Device::options(&service, "thief", "secret"), managed.clone()).unwrap());
    let id = backend.push("box", &json!("still its own"));
    assert_eq!(device.expect_event().id, id);
    let unknown = Managed {
        id: Some("0".repeat(32)),
        ..managed
    };
    assert!(!Device::steals(Device::options(&service, "box", "secret"), unknown).unwrap());
}

#[test]
fn an_event_of_ttl_zero_is_now_or_never() {
    let (service, backend) = service();
    backend.add_device("box", "secret");
    let post = || {
        backend
            .post(&json!({ "target": { "device": "box" }, "type": "t", "data": 1, "ttl": 0 }))
            .expect(202)
    };
    let answer = post();
    assert_eq!(answer.header("push-durability"), Some("none"));
    let device = Device::online(&service, "box", "secret");
    assert_eq!(device.event(Duration::from_secs(1)), None, "nobody was there");
    wait_for_presence(&backend, "box", "online");
    let id = post().json()["id"].as_str().unwrap().to_owned();
    assert_eq!(device.expect_event().id, id);
}

#[test]
fn keys_have_scopes_and_end_when_revoked() {
    let (_service, backend) = service();
    backend.add_device("box", "secret");
    let made = backend.send("POST", "/v1/keys", &json!({ "name": "scheduler", "scope": "push" }));
    assert!(matches!(made.status, 200 | 201), "{made:?}");
    let made = made.json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let scheduler = backend.with_key(key);
    let event = scheduler.push("box", &json!(1));
    scheduler.get(&format!("/v1/events/{event}")).expect(200);
    scheduler.send("PUT", "/v1/devices/other", &json!({ "password": "p" })).expect(403);
    // Beside the routes of `tests/routes`: what needs `read`, and what even `admin` may not.
    let read = [
        "/v1/presence",
        "/v1/presence/stream",
        "/v1/devices/box/presence",
        "/v1/reports/polling-avoided",
    ];
    for path in read {
        assert_eq!(scheduler.get(path).expect(403).slug(), "forbidden", "{path}");
    }
    let admin = backend
        .send("POST", "/v1/keys", &json!({ "name": "a", "scope": "admin" }))
        .expect(201)
        .json();
    let admin = backend.with_key(admin["key"].as_str().unwrap());
    admin.get("/v1/presence").expect(200);
    admin.get("/v1/reports/polling-avoided").expect(200);
    admin.get("/v1/export").expect(403);
    admin
        .request("POST", "/v1/import", &[("content-type", "application/x-ndjson")], b"")
        .expect(403);
    let listed = backend.get("/v1/keys").expect(200).body;
    assert!(listed.contains("scheduler") && !listed.contains(key), "{listed}");
    assert!(matches!(backend.delete(&format!("/v1/keys/{id}")).status, 200 | 204));
    scheduler.get(&format!("/v1/events/{event}")).expect(401);
}

#[test]
fn limits_are_published_and_the_operations_side_answers() {
    let (service, backend) = service();
    let limits = backend.get("/v1/limits").expect(200).json();
    let text = limits.to_string();
    for figure in ["65536", "2000", "86400", "2419200"] {
        assert!(text.contains(figure), "no {figure} in {text}");
    }
    let devices = &limits["devices"];
    assert_eq!(
        (&devices["keepalive_max_secs"], &devices["flood_stanzas_burst"]),
        (&json!(1800), &json!(2000))
    );
    let admin = Backend {
        address: service.admin,
        key: String::new(),
    };
    admin.get("/healthz").expect(200);
    admin.get("/readyz").expect(200);
    let metrics = admin.get("/metrics").expect(200);
    assert!(
        metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")),
        "{metrics:?}"
    );
    assert!(
        metrics
            .body
            .lines()
            .filter(|line| !line.starts_with('#'))
            .all(|line| line.starts_with("unpoll_") || line.starts_with("process_"))
    );
    assert!(!metrics.body.contains("device="), "no label holds a device");
}

/// The embedded engine, and Redis, which ends after its service.
fn engines() -> [(Service, Option<redis::Server>); 2] {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let on_redis = Settings::default()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary");
    [(Service::start(), None), (Service::start_with(on_redis), Some(redis))]
}

#[test]
fn many_events_of_one_request_reach_each_device_in_their_order_on_either_engine() {
    const DEVICES: usize = 5;
    for (service, _redis) in engines() {
        let backend = service.backend();
        let name = |n: usize| format!("box-{}", n % DEVICES);
        (0..DEVICES).for_each(|n| backend.add_device(&name(n), "secret"));
        let devices: Vec<Device> = (0..DEVICES).map(|n| Device::online(&service, &name(n), "secret")).collect();
        let lines: Vec<String> = (0..400)
            .map(|n| match n % 20 {
                19 => "nonsense".to_owned(),
                7 => json!({
                    "specversion": "1.0", "id": n.to_string(), "source": "/s", "type": "t", "subject": name(n), "data": n,
                })
                .to_string(),
                _ => json!({ "target": { "device": name(n) }, "data": n }).to_string(),
            })
            .collect();
        let kind = [("content-type", "application/x-ndjson"), ("idempotency-key", "all")];
        let post = || {
            backend
                .request("POST", "/v1/events?results=all", &kind, lines.join("\n").as_bytes())
                .expect(200)
        };
        let told: Vec<Value> = post().body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&told[400]["summary"]["accepted"], &told[400]["summary"]["refused"]),
            (&json!(380), &json!(20))
        );
        for n in (0..400).filter(|n| n % 20 != 19) {
            let event = devices[n % DEVICES].expect_event();
            assert_eq!((json!(event.id), event.data()), (told[n]["id"].clone(), json!(n)));
        }
        devices.iter().for_each(Device::acknowledge);
        // Sent again as a whole, it changes nothing.
        let again: Vec<Value> = post().body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&again[400]["summary"]["repeated"], &again[0]["id"]), (&json!(380), &told[0]["id"]));

        let batch: Vec<Value> = (0..20)
            .map(|n| json!({ "specversion": "1.0", "id": format!("b{n}"), "source": "/s", "type": "t", "pushdevice": "box-0", "data": n }))
            .collect();
        let kind = [("content-type", "application/cloudevents-batch+json")];
        let told = backend
            .request("POST", "/v1/events", &kind, json!(batch).to_string().as_bytes())
            .expect(200)
            .json();
        assert_eq!(told["accepted"], 20, "{told}");
        for n in 0..20 {
            assert_eq!(devices[0].expect_event().data(), json!(n));
        }
        drop(devices);
    }
}

#[test]
fn keys_end_rotate_keep_to_their_scope_and_show_their_last_use_on_either_engine() {
    for (mut service, _redis) in engines() {
        let backend = service.backend();
        backend.add_device("box", "secret");
        let make = |body: Value| {
            let made = backend.send("POST", "/v1/keys", &body).expect(201).json();
            let id = made["id"].as_str().unwrap().to_owned();
            (id, backend.with_key(made["key"].as_str().unwrap()))
        };
        let (id, push) = make(json!({"name": "scheduler", "scope": "push"}));
        push.push("box", &json!(1));
        assert_eq!(push.get("/v1/keys").expect(403).slug(), "forbidden");
        assert_eq!(push.send("PUT", "/v1/devices/new", &json!({})).expect(403).slug(), "forbidden");
        let (unused, read) = make(json!({"name": "audit", "scope": "read"}));
        let (_, brief) = make(json!({"name": "brief", "scope": "read", "expires_in_secs": 1}));
        wait_for("the key has ended", SOON, || {
            let answer = brief.get("/v1/devices");
            (answer.status == 401 && answer.slug() == "expired-key").then_some(())
        });
        // Two secrets live; a third would end one that somebody has.
        let path = format!("/v1/keys/{id}:rotate");
        let rotated = backend.send("POST", &path, &json!({"grace_secs": 600})).expect(200).json();
        let second = backend.with_key(rotated["key"].as_str().unwrap());
        for secret in [&push, &second] {
            secret.push("box", &json!(2));
        }
        backend.send("POST", &path, &json!({"grace_secs": 600})).expect(409);
        let last = |backend: &Backend, id: &str| -> Value {
            let listed = backend.get("/v1/keys").expect(200).json();
            let items = listed["items"].as_array().unwrap();
            items.iter().find(|item| item["id"] == id).unwrap()["last_used_at"].clone()
        };
        let used = last(&backend, &id);
        assert!(used.as_str() > rotated["created_at"].as_str(), "{used}");
        assert_eq!(last(&backend, &unused), json!(null));
        // A stop writes what was gathered.
        assert_eq!(service.stop(), Some(0));
        service.run();
        assert_eq!((last(&backend, &id), last(&backend, &unused)), (used, json!(null)));
        let third = backend.send("POST", &path, &json!({"grace_secs": 0})).expect(200).json();
        for secret in [&push, &second] {
            secret.get("/v1/limits").expect(401);
        }
        backend.with_key(third["key"].as_str().unwrap()).push("box", &json!(3));
        read.get("/v1/devices").expect(200);
        backend.delete(&format!("/v1/keys/{unused}")).expect(204);
        read.get("/v1/devices").expect(401);
    }
}

#[test]
fn tenants_see_nothing_of_one_another() {
    let (service, backend) = service();
    support::stay_apart(&service, &service, &backend.key, 1);
}

#[test]
fn an_event_to_a_user_reaches_each_device_and_its_receipts_name_it() {
    let redis = redis::Server::start(&redis::Settings::default()).unwrap();
    let on_redis = Settings::default()
        .set("UNPOLL_REDIS_URL", &redis.url())
        .set("UNPOLL_REDIS_DURABILITY", "primary");
    for (mut service, durability) in [(Service::start(), "disk"), (Service::start_with(on_redis), "primary")] {
        let backend = service.backend();
        for device in ["tv", "radio", "other"] {
            backend.add_device(device, "secret");
        }
        for device in ["tv", "radio"] {
            backend
                .send("PATCH", &format!("/v1/devices/{device}"), &json!({"user": "ann"}))
                .expect(200);
        }
        let (tv, other) = (
            Device::online(&service, "tv", "secret"),
            Device::online(&service, "other", "secret"),
        );
        let mut stream = Listening::receipts(&backend, "?from=oldest", None);
        let event = json!({"target": {"user": "ann"}, "type": "t", "data": 1, "collapse_key": "k"});
        let id = backend.post(&event).expect(202).json()["id"].as_str().unwrap().to_owned();
        let got = tv.expect_event();
        assert_ne!(got.id, id, "its delivery has an id of its own");
        tv.acknowledge();
        let told = stream.expect();
        assert_eq!(
            (
                &told.data["event"],
                &told.data["delivery"],
                &told.data["device"],
                &told.data["state"]
            ),
            (&json!(id), &json!(got.id), &json!("tv"), &json!("delivered"))
        );
        // What waits survives a kill, and the whole is known as before.
        service.kill();
        service.run();
        let fate = backend.get(&format!("/v1/events/{id}")).expect(200).json();
        assert_eq!(
            (&fate["state"], &fate["deliveries"]["delivered"], &fate["deliveries"]["queued"]),
            (&json!("queued"), &json!(1), &json!(1))
        );
        let repeat = backend
            .post(&json!({"target": {"devices": ["tv", "radio", "other"]}, "type": "t"}))
            .expect(202);
        assert_eq!(repeat.header("push-durability"), Some(durability));
        let radio = Device::online(&service, "radio", "secret");
        let first = radio.expect_event();
        radio.expect_event();
        radio.acknowledge();
        becomes(&backend, &id, "delivered");
        becomes(&backend, &first.id, "delivered");
        let mut again = Listening::receipts(&backend, &format!("?from=oldest&event={id}"), None);
        let devices: Vec<Value> = (0..2).map(|_| again.expect().data["device"].clone()).collect();
        assert_eq!(devices, [json!("tv"), json!("radio")]);
        drop(other);
    }
}

#[tokio::test]
async fn an_event_to_several_devices_whose_node_died_is_completed() {
    let mut service = Service::start_with(Settings::default().set("UNPOLL_DISPATCH_GROUP_PATIENCE_SECS", "1"));
    let backend = service.backend();
    for device in ["tv", "radio"] {
        backend.add_device(device, "secret");
    }
    service.kill();
    // As a node leaves it that dies behind the record, before the first copy.
    let members = ["radio", "tv"].map(|device| Member {
        device: device.parse().unwrap(),
        copy: Copied::Not,
    });
    let group = Group {
        place: GroupPlace {
            tenant: TenantId(0),
            bucket: 7,
            number: 8,
        },
        record: GroupRecord {
            target: [0; 6],
            user: None,
            accepted_at: SystemClock::shared().now(),
            deliver_at: None,
            ttl_ms: 600_000,
            urgency: Urgency::Normal,
            require: Require::Acknowledged,
            collapse_key: None,
            idempotency: None,
            durability: None,
            members: members.into(),
            json: Some(r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":7}"#.into()),
        },
    };
    let config = embedded::Config {
        data_dir: service.data_dir(),
        ..embedded::Config::default()
    };
    let (store, _arrivals) = embedded::EmbeddedStore::open(config, Limits::default(), SystemClock::shared()).unwrap();
    store.begin_group(&group, None).await.unwrap();
    let id = store.group_id(group.place).to_string();
    store.close();
    tokio::task::spawn_blocking(move || {
        service.run();
        for name in ["tv", "radio"] {
            let device = Device::online(&service, name, "secret");
            assert_eq!(device.expect_event().data(), json!(7));
            device.acknowledge();
        }
        becomes(&backend, &id, "delivered");
        assert_eq!(service.metric("unpoll_groups_completed_total"), Some(1.0));
    })
    .await
    .unwrap();
}
