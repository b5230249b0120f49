//! `require: processed`: what the device says became of an event, from its IQ to the backend that asks; and receipts, to the backend that
//! listens.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use serde_json::{Value, json};
use support::{Backend, Device, Listening, Poller, SOON, Service, Settings, Told, Wire, basic, terminate, wait_for, wait_for_presence};

fn push(backend: &Backend, data: &Value) -> String {
    let event = json!({ "target": { "device": "box" }, "type": "test", "data": data, "require": "processed" });
    backend.post(&event).expect(202).json()["id"].as_str().unwrap().to_owned()
}

/// The one delivery of an event.
fn delivery(backend: &Backend, id: &str) -> Value {
    backend.get(&format!("/v1/events/{id}/deliveries")).expect(200).json()["items"][0].clone()
}

fn tell(wire: &mut Wire, iq: &str, event: &str, said: &str) -> String {
    wire.send(&format!(
        "<iq type='set' id='{iq}' to='localhost'><outcome xmlns='urn:unpoll:event:1' event='{event}' {said}</iq>"
    ));
    wire.until(&format!("id='{iq}'")) + &wire.until(">")
}

fn online(service: &Service) -> Wire {
    let mut wire = Device::bound(service, "box", "secret");
    wire.send("<presence/>");
    wire.until("<presence");
    wire
}

fn scene() -> (Service, Backend) {
    let service = Service::start();
    let backend = service.backend();
    backend.add_device("box", "secret");
    (service, backend)
}

#[test]
fn a_backend_reads_what_its_device_said() {
    let (service, backend) = scene();
    let mut wire = online(&service);
    let check = |wire: &mut Wire, said: &str, expected: [Value; 5]| {
        let id = push(&backend, &json!(1));
        wire.until("</message>");
        assert!(tell(wire, "o1", &id, said).contains("type='result'"), "{said}");
        // The answer came, so it is durable: there is nothing to wait for.
        let delivery = delivery(&backend, &id);
        let read = ["state", "reason", "outcome", "code", "text"].map(|name| delivery[name].clone());
        assert_eq!(read, expected, "{said}: {delivery}");
        // Again: answered, and nothing changes.
        assert!(tell(wire, "o2", &id, "status='rejected'/>").contains("type='result'"));
        assert_eq!(self::delivery(&backend, &id), delivery);
        (id, delivery)
    };
    let done = "status='done'><json xmlns='urn:xmpp:json:0'>{\"applied\":42}</json></outcome>";
    let (_, delivery) = check(
        &mut wire,
        done,
        [json!("processed"), Value::Null, json!("done"), Value::Null, Value::Null],
    );
    assert_eq!(delivery["data"], json!({"applied": 42}));
    let failed = "status='failed' code='disk-full'><text>no room</text></outcome>";
    let expected = [
        json!("failed"),
        json!("device-failed"),
        json!("failed"),
        json!("disk-full"),
        json!("no room"),
    ];
    check(&mut wire, failed, expected);
    let expected = [
        json!("rejected"),
        json!("device-rejected"),
        json!("rejected"),
        json!("unreadable"),
        Value::Null,
    ];
    check(&mut wire, "status='rejected' code='unreadable'/>", expected);
    for (state, reason) in [("processed", "none"), ("failed", "device-failed"), ("rejected", "device-rejected")] {
        let series = format!("unpoll_deliveries_total{{reason=\"{reason}\",state=\"{state}\"}}");
        wait_for(&series, SOON, || (service.metric(&series) == Some(1.0)).then_some(()));
    }
    // Another device's event is none of its.
    backend.add_device("other", "secret");
    let foreign = backend.push("other", &json!(1));
    let answer = tell(&mut wire, "o3", &foreign, "status='done'/>") + &wire.until("</iq>");
    assert!(answer.contains("item-not-found"), "{answer}");
    assert_eq!(backend.state(&foreign), "queued");
}

#[test]
fn an_acknowledgement_or_a_receipt_alone_does_not_do() {
    let (service, backend) = scene();
    let mut wire = online(&service);
    let id = push(&backend, &json!(1));
    wire.until("</message>");
    wire.send("<a xmlns='urn:xmpp:sm:3' h='2'/>");
    wire.send(&format!(
        "<message to='localhost'><received xmlns='urn:xmpp:receipts' id='{id}'/></message>"
    ));
    wire.send("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>");
    wire.until("id='p'");
    let waiting = delivery(&backend, &id);
    assert_eq!(
        (&waiting["state"], &waiting["waits_for"]),
        (&json!("dispatched"), &json!("outcome"))
    );
    assert_eq!(waiting["session"]["transport"], "xmpps", "{waiting}");
    assert!(
        waiting["session"]["epoch"].is_u64() && waiting["session"]["node"].is_string(),
        "{waiting}"
    );
    // It goes away without a word: the next session gets it again.
    wire.send("</stream:stream>");
    let mut wire = online(&service);
    assert!(wire.until("</message>").contains(&id));
    assert!(tell(&mut wire, "o1", &id, "status='done'/>").contains("type='result'"));
    assert_eq!(backend.state(&id), "processed");
    // What needs no outcome may have one all the same: delivered, then processed.
    let id = backend.push("box", &json!(2));
    wire.until("</message>");
    wire.send("<a xmlns='urn:xmpp:sm:3' h='4'/>");
    wait_for("it is delivered", SOON, || (backend.state(&id) == "delivered").then_some(()));
    assert!(tell(&mut wire, "o2", &id, "status='done'/>").contains("type='result'"));
    assert_eq!(backend.state(&id), "processed");
}

#[test]
fn what_fails_for_now_comes_again_over_a_kill_with_the_same_id_and_one_attempt_more() {
    let (mut service, backend) = scene();
    let mut wire = online(&service);
    let first = push(&backend, &json!("first"));
    assert!(wire.until("</message>").contains("attempt='1'"));
    assert!(tell(&mut wire, "o1", &first, "status='failed' retry='1' code='busy'/>").contains("type='result'"));
    service.kill();
    service.run();
    let second = push(&backend, &json!("second"));
    let mut wire = online(&service);
    let mut seen = String::new();
    while seen.matches("</message>").count() < 2 {
        seen += &wire.until("</message>");
    }
    let place = |id: &str| seen.find(&format!("<event xmlns='urn:unpoll:event:1' id='{id}'")).unwrap();
    assert!(seen[place(&first)..].contains("attempt='2'"), "{seen}");
    let waiting = delivery(&backend, &first);
    assert_eq!(
        (&waiting["attempt"], &waiting["outcome"], &waiting["code"]),
        (&json!(2), &json!("failed"), &json!("busy"))
    );
    for (iq, id) in [("o2", &first), ("o3", &second)] {
        assert!(tell(&mut wire, iq, id, "status='done'/>").contains("type='result'"));
        assert_eq!(backend.state(id), "processed");
    }
    // Into the same session, too, behind what came meanwhile.
    let third = push(&backend, &json!("third"));
    let shown = wire.until("</message>");
    let seq = |text: &str| -> u64 { text.split("seq='").nth(1).unwrap().split('\'').next().unwrap().parse().unwrap() };
    assert!(tell(&mut wire, "o4", &third, "status='failed' retry='0'/>").contains("type='result'"));
    let again = wire.until("</message>");
    assert!(again.contains(&third) && seq(&again) > seq(&shown), "{again}");
    assert!(tell(&mut wire, "o5", &third, "status='done'/>").contains("type='result'"));
    assert_eq!(service.metric("unpoll_events_put_off_total"), Some(1.0));
}

#[test]
fn the_exit_status_of_a_command_is_the_outcome() {
    let (service, backend) = scene();
    let mut listening = service
        .command()
        .args(["listen", "--device", "box", "--password-stdin", "--server"])
        .arg(service.xmpps.to_string())
        .arg("--ca")
        .arg(service.ca())
        .args([
            "--exec",
            "read -r line; case $line in *good*) exit 0;; *later*) exit 75;; *) exit 3;; esac",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    listening.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    wait_for_presence(&backend, "box", "online");
    for (data, state, outcome, code) in [
        ("good", "processed", "done", Value::Null),
        ("bad", "failed", "failed", json!("3")),
        ("later", "queued", "failed", json!("75")),
    ] {
        let id = push(&backend, &json!(data));
        lines.next().unwrap().unwrap();
        let told = wait_for(&format!("{data} has an outcome"), SOON, || {
            let delivery = delivery(&backend, &id);
            delivery["outcome"].is_string().then_some(delivery)
        });
        let read = (&told["state"], &told["outcome"], &told["code"]);
        assert_eq!(read, (&json!(state), &json!(outcome), &code), "{told}");
    }
    terminate(&listening);
    assert_eq!(listening.wait().unwrap().code(), Some(0));
}

#[test]
fn a_device_that_polls_says_it_at_the_poll_door() {
    let (service, backend) = scene();
    let ids = [push(&backend, &json!(1)), push(&backend, &json!(2)), push(&backend, &json!(3))];
    let device = service.backend().with_key("");
    let authorization = basic("box@localhost", "secret");
    let acks = |body: Value| {
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        device.request("POST", "/v1/devices/box/acks", &headers, body.to_string().as_bytes())
    };
    let wanted = acks(json!({ "ids": [ids[0]] })).expect(200).json();
    assert_eq!((&wanted["acknowledged"], &wanted["outcome_wanted"]), (&json!(0), &json!([ids[0]])));
    let told = json!({ "outcomes": [
        { "id": ids[0], "status": "done", "data": { "applied": 42 } },
        { "id": ids[1], "status": "failed", "retry": 3600, "code": "busy" },
        { "id": ids[2], "status": "rejected", "text": "what is that?" },
        { "id": "nonsense", "status": "done" },
    ]});
    let answer = acks(told).expect(200).json();
    let read = ["acknowledged", "put_off", "unknown"].map(|name| answer[name].clone());
    assert_eq!(read, [json!(2), json!(1), json!(["nonsense"])], "{answer}");
    let states: Vec<String> = ids.iter().map(|id| backend.state(id)).collect();
    assert_eq!(states, ["processed", "queued", "rejected"]);
    assert_eq!(delivery(&backend, &ids[0])["data"], json!({"applied": 42}));
    assert_eq!(delivery(&backend, &ids[2])["text"], json!("what is that?"));
    for (body, field) in [
        (json!({ "outcomes": [{ "id": ids[1] }] }), "outcomes[0].status"),
        (
            json!({ "outcomes": [{ "id": ids[1], "status": "done", "retry": 5 }] }),
            "outcomes[0].retry",
        ),
        (json!({ "outcomes": [{ "status": "done" }] }), "outcomes[0].id"),
        (json!({ "outcomes": [], "ids": [] }), "outcomes"),
    ] {
        let refused = acks(body.clone());
        let refused = refused.expect(400);
        assert!(refused.json().to_string().contains(field), "{body}: {}", refused.json());
    }
}

fn push_to(backend: &Backend, device: &str, require: &str) -> String {
    let event = json!({ "target": { "device": device }, "type": "test", "data": 1, "require": require });
    backend.post(&event).expect(202).json()["id"].as_str().unwrap().to_owned()
}

/// What a receipt tells: event, device, state, outcome.
fn told(stream: &mut Listening) -> (String, String, String, Value) {
    let told = stream.expect();
    assert_eq!(told.kind, "receipt", "{told:?}");
    let text = |name: &str| told.data[name].as_str().unwrap().to_owned();
    (text("event"), text("device"), text("state"), told.data["outcome"].clone())
}

fn expected(event: &str, device: &str, state: &str, outcome: Value) -> (String, String, String, Value) {
    (event.to_owned(), device.to_owned(), state.to_owned(), outcome)
}

#[test]
fn each_requirement_has_its_receipt_at_each_door() {
    let (service, backend) = scene();
    backend.add_device("tv", "secret");
    let mut stream = Listening::receipts(&backend, "", None);
    let early = push_to(&backend, "box", "acknowledged");
    let waiting = delivery(&backend, &early);
    assert_eq!((&waiting["waits_for"], &waiting["session"]), (&json!("device"), &Value::Null));
    let device = Device::online(&service, "box", "secret");
    device.expect_event();
    device.acknowledge();
    assert_eq!(told(&mut stream), expected(&early, "box", "delivered", Value::Null));
    assert_eq!(delivery(&backend, &early)["waits_for"], Value::Null);
    let outcome = |event: &str, said: &str| {
        let iq = format!("<iq type='set' id='o' to='localhost'><outcome xmlns='urn:unpoll:event:1' event='{event}' {said}/></iq>");
        device.answer_to(&iq)
    };

    let event = push_to(&backend, "box", "acknowledged");
    device.expect_event();
    device.acknowledge();
    assert_eq!(told(&mut stream), expected(&event, "box", "delivered", Value::Null));
    // What it says afterwards may move it once.
    outcome(&event, "status='done'");
    assert_eq!(told(&mut stream), expected(&event, "box", "processed", json!("done")));

    let event = push_to(&backend, "box", "received");
    let pushed = device.expect_event();
    device.received(&pushed);
    assert_eq!(told(&mut stream), expected(&event, "box", "delivered", Value::Null));

    let event = push_to(&backend, "box", "processed");
    device.expect_event();
    device.acknowledge();
    outcome(&event, "status='rejected' code='unreadable'");
    // The acknowledgement alone made none.
    assert_eq!(told(&mut stream), expected(&event, "box", "rejected", json!("rejected")));

    let poller = Poller::new(&service, "tv", "secret");
    for require in ["acknowledged", "received"] {
        let event = push_to(&backend, "tv", require);
        poller.acknowledge(&[&event]);
        assert_eq!(told(&mut stream), expected(&event, "tv", "delivered", Value::Null));
    }
    let event = push_to(&backend, "tv", "processed");
    poller.acknowledge(&[&event]);
    let outcome = json!({ "id": event, "status": "failed", "code": "disk-full" });
    poller.acks(&json!({ "outcomes": [outcome] })).expect(200);
    assert_eq!(told(&mut stream), expected(&event, "tv", "failed", json!("failed")));
}

/// Receipts of events that are taken back at once.
fn make_receipts(backend: &Backend, stream: &mut Listening, count: usize) -> Vec<Told> {
    let one = |_| {
        let event = backend.push("box", &json!(1));
        backend.delete(&format!("/v1/events/{event}")).expect(200);
        let told = stream.expect();
        assert_eq!((&told.data["event"], &told.data["state"]), (&json!(event), &json!("cancelled")));
        told
    };
    (0..count).map(one).collect()
}

#[test]
fn receipts_are_filtered_and_resumed_a_gap_is_told_of_and_streams_have_a_bound() {
    let mut service = Service::start_with(
        Settings::default()
            .set("UNPOLL_LIMITS_RECEIPTS_MAX", "5")
            .set("UNPOLL_DISPATCH_SWEEP_SECS", "1")
            .set("UNPOLL_RECEIPTS_STREAMS_MAX_PER_TENANT", "2"),
    );
    let backend = service.backend();
    backend.add_device("box", "secret");
    let open = |query: &str, last: Option<&str>| {
        let path = format!("/v1/receipts{query}");
        wait_for("room", SOON, || Listening::try_at(&backend, &path, last).unwrap().ok())
    };
    let mut slow = open("", None);
    let told = make_receipts(&backend, &mut slow, 10);
    // One that wants none of them is told how far it is, so that it need not read them again.
    let mut filtered = open("?state=failed,expired&device=box", Some(&told[6].cursor));
    assert_eq!(filtered.cursor, told[6].cursor);
    let place = filtered.expect();
    assert_eq!((place.kind.as_str(), place.cursor), ("", told[9].cursor.clone()));
    drop(filtered);
    let event = told[8].data["event"].as_str().unwrap();
    let query = format!("?event={event}&state=cancelled&last_event_id={}", told[6].cursor);
    assert_eq!(open(&query, None).expect(), told[8]);
    // The header is the newer one.
    assert_eq!(open(&query, Some(&told[7].cursor)).expect(), told[8]);
    // Once the sweeper was there, five are left.
    let mut gap = wait_for("the gap", SOON, || {
        let mut stream = open("", Some(&told[0].cursor));
        let first = stream.expect();
        // All that is too much goes in one round, but that one may have come half way.
        (first.kind == "gap" && first.cursor == told[4].cursor).then_some((first, stream))
    });
    let missing = json!({ "after": told[0].cursor, "from": told[1].cursor, "to": told[4].cursor, "reason": "dropped" });
    assert_eq!((&gap.0.data, &gap.0.cursor), (&missing, &told[4].cursor));
    assert_eq!(gap.1.expect(), told[5]);
    drop(gap);
    assert_eq!(open("?from=oldest", None).expect(), told[5]);
    // A cursor of another store, and one that this store lost.
    let (position, generation) = told[9].cursor.split_once('.').unwrap();
    let other = format!("{position}.1");
    let mut stream = open("", Some(&other));
    let first = stream.expect();
    assert_eq!(
        first.data,
        json!({ "after": other, "from": null, "to": null, "reason": "other-store" })
    );
    assert_eq!(stream.expect(), told[5], "all that is kept");
    drop(stream);
    let ahead = format!("90.{generation}");
    let mut stream = open("", Some(&ahead));
    let first = stream.expect();
    assert_eq!((&first.data["reason"], &first.cursor), (&json!("lost"), &told[9].cursor));
    let more = make_receipts(&backend, &mut slow, 1);
    assert_eq!(stream.expect(), more[0], "nothing is skipped");

    let full = Listening::try_at(&backend, "/v1/receipts", None).unwrap().err().unwrap();
    assert_eq!((full.status, full.slug()), (429, "too-many-consumers".to_owned()));
    assert!(full.header("retry-after").is_some());
    drop(stream);

    for query in [
        "from=x",
        "state=lost",
        "event=x",
        "device=*",
        "last_event_id=7",
        "last_event_id=07.1",
        "colour=red",
    ] {
        assert_eq!(
            backend.get(&format!("/v1/receipts?{query}")).expect(400).slug(),
            "invalid-parameter",
            "{query}"
        );
    }
    let headers = [("last-event-id", "x")];
    assert_eq!(
        backend.request("GET", "/v1/receipts", &headers, b"").expect(400).slug(),
        "invalid-field"
    );
    assert_eq!(service.metric("unpoll_receipt_gaps_total{reason=\"lost\"}"), Some(1.0));
    assert_eq!(service.metric("unpoll_receipt_gaps_total{reason=\"other-store\"}"), Some(1.0));
    assert_eq!(service.stop(), Some(0));
    assert!(slow.ends(), "a stop ends it");
}
