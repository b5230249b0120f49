//! Two tenants with the same device ids, which see nothing of one another.

use std::sync::Arc;

use loadtest::{Options, Security, Trust, sasl::Password};
use serde_json::{Value, json};

use super::{Backend, Device, Event, Listening, Poller, SOON, Service, wait_for};

const DOMAIN: &str = "tv.example";

/// A device of the tenant that is added.
fn box_of_tv(service: &Service, password: &str) -> Options {
    let trust = Trust::ca_file(&service.ca()).expect("ca.pem");
    Options::new(
        service.xmpps,
        Security::Tls(trust),
        DOMAIN,
        "box",
        Arc::new(Password::new(password)),
    )
}

#[track_caller]
fn refused(backend: &Backend, method: &str, path: &str, body: &Value, status: u16, slug: &str) {
    let answer = backend.send(method, path, body).expect(status);
    assert_eq!(answer.slug(), slug, "{method} {path}");
}

fn ids(backend: &Backend, path: &str, field: &str) -> Vec<String> {
    let items = backend.get(path).expect(200).json();
    let items = items["items"].as_array().unwrap().iter();
    items.map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

/// Adds a tenant at the node `one` and uses it at `other`, while both serve, then goes through every route with the key of the one and
/// of the other tenant. `nodes`: how many there are.
pub fn stay_apart(one: &Service, other: &Service, operator: &str, nodes: u64) {
    let home = Backend {
        address: one.http,
        key: operator.to_owned(),
    };
    home.add_device("box", "secret-of-home");
    let tenant = home.send("PUT", "/v1/tenants/tv", &json!({ "domain": DOMAIN })).expect(201).json();
    assert_eq!((&tenant["domain"], &tenant["certificate"]), (&json!(DOMAIN), &json!(true)));
    let key = json!({ "name": "first", "scope": "admin", "tenant": "tv" });
    let key = home.send("POST", "/v1/keys", &key).expect(201).json();
    let tv = Backend {
        address: other.http,
        key: key["key"].as_str().unwrap().to_owned(),
    };
    wait_for("the other node knows the key", SOON, || {
        (tv.get("/v1/devices").status == 200).then_some(())
    });

    // The device of the one is unknown to the other.
    assert_eq!(ids(&tv, "/v1/devices", "id"), [""; 0]);
    let event = json!({ "target": { "device": "box" }, "type": "t", "data": 1 });
    refused(&tv, "POST", "/v1/events", &event, 404, "unknown-device");
    for path in ["/v1/devices/box", "/v1/devices/box/presence", "/v1/devices/box/deliveries"] {
        refused(&tv, "GET", path, &Value::Null, 404, "unknown-device");
    }
    refused(&tv, "PATCH", "/v1/devices/box", &json!({}), 404, "unknown-device");
    refused(&tv, "DELETE", "/v1/devices/box", &Value::Null, 404, "unknown-device");

    // The same id in both, each at its domain, with its certificate and its password.
    tv.add_device("box", "secret-of-tv");
    let at_home = Device::online(one, "box", "secret-of-home");
    let at_tv = wait_for("a device at the new domain", SOON, || {
        Device::connect(box_of_tv(other, "secret-of-tv")).ok()
    });
    assert!(Device::connect(box_of_tv(other, "secret-of-home")).is_err());
    let ping = "<iq type='get' id='p' to='tv.example'><ping xmlns='urn:xmpp:ping'/></iq>";
    // Its own presence may come first.
    let mut answers = (0..3).map(|_| at_tv.answer_to(ping));
    let pong = answers.find(|answer| answer.name == "iq").expect("an answer");
    assert_eq!(pong.attribute("from"), Some(DOMAIN));

    // The same keys in both are two events.
    let post = |backend: &Backend, data: &str| {
        let body = json!({ "target": { "device": "box" }, "type": "t", "data": data, "collapse_key": "c" }).to_string();
        let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
        let answer = backend.request("POST", "/v1/events", &headers, body.as_bytes()).expect(202).json();
        answer["id"].as_str().unwrap().to_owned()
    };
    let (of_home, of_tv) = (post(&home, "for home"), post(&tv, "for tv"));
    let (got_home, got_tv) = (at_home.expect_event(), at_tv.expect_event());
    assert_eq!((&got_home.id, got_home.data()), (&of_home, json!("for home")));
    assert_eq!((&got_tv.id, got_tv.data()), (&of_tv, json!("for tv")));
    for (backend, own, foreign) in [(&home, &of_home, &of_tv), (&tv, &of_tv, &of_home)] {
        wait_for("delivered", SOON, || (backend.state(own) == "delivered").then_some(()));
        for (method, end) in [("GET", ""), ("GET", "/deliveries"), ("DELETE", "")] {
            let path = format!("/v1/events/{foreign}{end}");
            refused(backend, method, &path, &Value::Null, 404, "unknown-event");
        }
        assert_eq!(ids(backend, "/v1/devices/box/deliveries", "event"), [own.as_str()]);
        assert_eq!(ids(backend, "/v1/devices", "id"), ["box"]);
        assert_eq!(backend.get("/v1/presence").expect(200).json()["items"].as_array().unwrap().len(), 1);
        let presence = backend.get("/v1/devices/box/presence").expect(200).json();
        assert_eq!(presence["state"], "online");
        let told = Listening::open(backend, "?after=0", None).expect();
        assert_eq!(
            (&told.kind[..], &told.data["session_epoch"]),
            ("connected", &presence["session_epoch"])
        );
    }

    // A user of the same name has other devices, and a group is its tenant's.
    let mut groups = Vec::new();
    for (backend, device) in [(&home, &at_home), (&tv, &at_tv)] {
        backend.send("PATCH", "/v1/devices/box", &json!({ "user": "ann" })).expect(200);
        let body = json!({ "target": { "user": "ann" }, "type": "t", "data": backend.key }).to_string();
        let headers = [("content-type", "application/json"), ("idempotency-key", "g")];
        let posted = backend.request("POST", "/v1/events", &headers, body.as_bytes()).expect(202).json();
        assert_eq!(device.expect_event().data(), json!(backend.key));
        groups.push(posted["id"].as_str().unwrap().to_owned());
    }
    for (backend, foreign) in [(&home, &groups[1]), (&tv, &groups[0])] {
        for (method, end) in [("GET", ""), ("GET", "/deliveries"), ("DELETE", "")] {
            let path = format!("/v1/events/{foreign}{end}");
            refused(backend, method, &path, &Value::Null, 404, "unknown-event");
        }
    }

    // The door for polls.
    let poll = |user: &str, password: &str| Poller::logged_in_as(other, "box", user, password).poll("").status;
    assert_eq!(poll("box@tv.example", "secret-of-home"), 401);
    assert_eq!(poll("box@localhost", "secret-of-tv"), 401);
    assert_eq!(poll("box@nowhere.example", "secret-of-tv"), 401);
    assert_eq!(poll("box@tv.example", "secret-of-tv"), 200);

    // What is of the whole service, and the keys of others.
    let key_of_home = home.get("/v1/keys").expect(200).json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    refused(&tv, "DELETE", &format!("/v1/keys/{key_of_home}"), &Value::Null, 404, "unknown-key");
    assert_eq!(ids(&tv, "/v1/keys", "name"), ["first"]);
    assert!(!ids(&home, "/v1/keys", "name").contains(&"first".to_owned()));
    for path in ["/v1/tenants", "/v1/tenants/default", "/v1/export", "/v1/reports/polling-avoided"] {
        refused(&tv, "GET", path, &Value::Null, 403, "forbidden");
    }
    refused(
        &tv,
        "PUT",
        "/v1/tenants/mine",
        &json!({ "domain": "mine.example" }),
        403,
        "forbidden",
    );
    refused(&tv, "DELETE", "/v1/tenants/tv", &Value::Null, 403, "forbidden");
    refused(&tv, "POST", "/v1/import", &Value::Null, 403, "forbidden");
    for (scope, tenant) in [("operator", Value::Null), ("push", json!("default"))] {
        let mut body = json!({ "name": "k", "scope": scope });
        if !tenant.is_null() {
            body["tenant"] = tenant;
        }
        refused(&tv, "POST", "/v1/keys", &body, 403, "forbidden");
    }

    // Limits hold on all nodes without a restart, and each node gives its share.
    let limits = json!({ "limits": { "deliveries_per_second": 20, "burst": 40 } });
    home.send("PUT", "/v1/tenants/tv", &limits).expect(200);
    let policy = format!("\"tenant\";q={};w=2;unpoll-unit=\"deliveries\"", 40 / nodes);
    wait_for("the other node knows the limit", SOON, || {
        let answer = tv.send("POST", "/v1/events?validate_only=true", &event).expect(200);
        (answer.header("ratelimit-policy") == Some(&policy)).then_some(())
    });
    let answer = home.send("POST", "/v1/events?validate_only=true", &event).expect(200);
    assert_eq!(answer.header("ratelimit-policy"), None);

    // What is removed in the one stays in the other, which goes only when it is empty.
    home.delete("/v1/devices/box").expect(204);
    refused(&home, "GET", "/v1/devices/box", &Value::Null, 410, "removed-device");
    assert_eq!(tv.get("/v1/devices/box/presence").expect(200).json()["state"], "online");
    tv.push("box", &json!(2));
    assert_eq!(at_tv.expect_event().data(), json!(2));
    refused(&home, "DELETE", "/v1/tenants/tv", &Value::Null, 409, "conflict");
    tv.delete("/v1/devices/box").expect(204);
    home.delete("/v1/tenants/tv").expect(204);
    wait_for("the key of a tenant that is gone is worthless", SOON, || {
        (tv.get("/v1/devices").status == 401).then_some(())
    });
    assert!(Device::connect(box_of_tv(other, "secret-of-tv")).is_err());
    // Who comes after it under the same name finds nothing.
    home.send("PUT", "/v1/tenants/tv", &json!({ "domain": DOMAIN })).expect(201);
    let key = home.send("POST", "/v1/keys", &json!({ "name": "second", "scope": "admin", "tenant": "tv" }));
    let next = Backend {
        address: one.http,
        key: key.expect(201).json()["key"].as_str().unwrap().to_owned(),
    };
    refused(&next, "GET", "/v1/devices/box", &Value::Null, 404, "unknown-device");
    refused(&next, "GET", &format!("/v1/events/{of_tv}"), &Value::Null, 404, "unknown-event");
}
